"""scripts/train_many called again: what it takes for its own of that which it finds.

All trainings here are pretended (fake_train.py).
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from engine import OutputFolder, claim_output
from errors import UserError
from fleet.folder import FleetFolder, Outcome
from fleet.many import main
from fleet.scenes import find_jobs
from tests.fleet.conftest import run, table


@pytest.mark.parametrize(
    ("fate", "after"), [("early-2", "failed"), ("early-143 " * 3, "failed"), ("early-4 " * 3, "failed")]
)
def test_a_run_from_before_is_not_taken_for_one_that_has_not_begun(scenes, pretended, tmp_path, fate, after):
    """The new training ends before it has removed the old run, whose checkpoint is none of its own."""
    scene = scenes.add("room", "kill")
    output = tmp_path / "out"
    assert run(scenes, output) == 0
    (scene / ".fate").write_text(f"x x {fate} ok")
    for _ in range(2):  # also where it is asked for twice
        assert run(scenes, output, "--train=-r 2") == 1 and table(output)["room"]["status"] == after
        assert run(scenes, output, "--train=-r 2", "--status") == 1
        (scene / ".fate").write_text(f"{'x ' * len(scenes.told())}{fate} ok")
    assert (output / "room" / "checkpoints" / "iteration_1.pt").is_file(), "a mistake harms no earlier run"
    (scene / ".fate").write_text(f"{'x ' * len(scenes.told())} kill ok")
    assert run(scenes, output, "--train=-r 2") == 0
    ends = [told["words"][-1] for told in scenes.told()]
    assert ends[-2:] == ["--overwrite", "--resume"] and ends.count("--resume") == 2, ends


def test_a_stopped_training_goes_on_only_from_its_own_checkpoint(scenes, pretended, tmp_path):
    """A call that is killed leaves a record that says running, and a folder that may be the old one's."""
    scenes.add("room", "kill")
    output = tmp_path / "out"
    assert run(scenes, output) == 0
    folder = FleetFolder(output)
    (job,) = find_jobs([str(scenes.folder)], ["-r", "2"], "other", output)
    known = Outcome("running", job.digest(), replaces=folder.begun("room"))
    config = (output / "room" / "config.yaml").read_bytes()
    assert not folder.can_go_on("room", known)
    (output / "room" / "config.yaml").unlink()
    assert not folder.can_go_on("room", known), "it died while the old run was being removed"
    (output / "room" / "config.yaml").write_text("of the new one")
    assert folder.can_go_on("room", known)
    (output / "room" / "config.yaml").write_bytes(config)
    for path in (output / "room").rglob("*"):
        os.utime(path, (1, 1))  # as in a copy
    assert not folder.can_go_on("room", known), "what is there decides, not its times"
    (output / "room" / "checkpoints" / "iteration_1.pt").write_text("of the new one")
    assert folder.can_go_on("room", known)
    (output / "room" / "checkpoints" / "iteration_1.pt").unlink()
    assert not folder.can_go_on("room", known)


def test_a_scene_that_another_call_is_training_is_left_to_it(scenes, pretended, tmp_path, capfd, monkeypatch):
    scenes.add("room")
    output = tmp_path / "out"
    record = output / "logs" / "room.json"
    with claim_output(output / "room"):
        for call in (("--only", "0"), ()):
            assert run(scenes, output, *call) == 1
            said = capfd.readouterr().out
            assert "room: another call is training it" in said and "1 being trained by another call" in said
            assert "failed" not in said
        assert not scenes.told() and not record.exists()
    scenes.add(
        "late", "2"
    )  # begun at the same moment: the folder is found free, and taken when train.py asks
    monkeypatch.setattr(OutputFolder, "is_in_use", lambda self: bool(scenes.told()))
    assert main([str(scenes.folder / "late"), "-o", str(output), "--quiet"]) == 1
    assert json.loads((output / "logs" / "late.json").read_text())["status"] == "running"


def test_scenes_that_have_gone_do_not_stop_the_others(scenes, pretended, tmp_path, capfd):
    for name in "abc":
        scenes.add(name, "2" if name == "c" else "")
    listed = tmp_path / "scenes.txt"
    listed.write_text("".join(f"{scenes.folder / name}\n" for name in "abc"))
    output = tmp_path / "out"
    words = [f"@{listed}", "-o", str(output), "--quiet", "--pause", "0"]
    assert main(words) == 1
    shutil.rmtree(scenes.folder / "a")
    shutil.rmtree(scenes.folder / "c")
    for call in ((), ("--status",), ("--only", "0", "--tasks", "2")):
        capfd.readouterr()
        assert main([*words, *call]) == 1
        said = capfd.readouterr().out
        assert "a: 21.00 dB" in said and "c: failed" in said, said
    assert table(output)["a"]["status"] == "done" and "c: No such file" in table(output)["c"]["error"]
    for status in ([], ["--status"]):
        assert main([*words, "--train=-r 2", *status]) == 1
        assert "a: 21.00 dB" not in capfd.readouterr().out, "its model is of other options"
    with pytest.raises(UserError, match="no such folder"):
        main([str(tmp_path / "mistyped" / "a"), *words[1:]])
    listed.write_text(listed.read_text() + f"{scenes.folder / 'never'}\n")
    with pytest.raises(UserError, match="never: no such folder"):
        main(words)
    assert main([*words, "--only", "3", "--tasks", "4"]) == 1, "a task of an array goes by its list"
    assert "never: failed: " in capfd.readouterr().out


@pytest.mark.parametrize("words", ["{scene} -o {scene}", "{folder} -o {folder}", "{scene} -o {folder}"])
def test_a_scene_is_not_trained_into_its_own_folder(scenes, pretended, words):
    scene = scenes.add("room")
    given = words.format(scene=scene, folder=scenes.folder).split(" -o ")
    with pytest.raises(UserError, match="expected an output folder that is neither"):
        main([given[0], "-o", given[1], "--quiet"])
    assert not scenes.told()


def test_a_scene_that_comes_back_goes_on(scenes, pretended, tmp_path, capfd):
    """A disk that was away for a moment costs no work."""
    scene = scenes.add("room", "kill ok")
    words = [str(scene), "-o", str(tmp_path / "out"), "--quiet", "--retries", "0"]
    assert main(words) == 1
    scene.rename(tmp_path / "away")
    assert main(words) == 1
    assert "room: failed: " in (said := capfd.readouterr().out) and "No such file" in said
    (tmp_path / "away").rename(scene)
    assert main(words) == 0
    assert [told["words"][-1] for told in scenes.told()][1:] == ["--resume"]


def test_a_lock_that_is_a_pipe_is_not_waited_for(scenes, pretended, tmp_path):
    scene = scenes.add("room")
    assert run(scenes, tmp_path / "out") == 0
    (tmp_path / "out" / "room" / ".run.lock").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "out" / "room" / ".run.lock")
    (scene / "images" / "a.jpg").write_bytes(b"another")
    assert run(scenes, tmp_path / "out") == 0
    with pytest.raises(
        UserError, match=r"\.run\.lock: expected a file of this program, got a folder or a pipe"
    ):
        with claim_output(tmp_path / "out" / "room", overwrite=True):
            pass
