"""scripts/train_many: every scene once, again where that may help, and the truth about each.

Most trainings here are pretended (fake_train.py); real ones are in test_real.py.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine import Stopped
from errors import UserError
from fleet import processes, running
from fleet.folder import FleetFolder, Outcome
from fleet.many import main
from fleet.processes import may_pass, threads_of
from fleet.running import Signals
from fleet.scenes import Job, find_jobs
from tests.fleet.conftest import FAKE, run, table

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # far more than anything here takes, for machines that are busy with something else


def test_every_scene_has_a_line_a_log_and_its_figures(scenes, pretended, tmp_path, capfd):
    scenes.add("garden")
    scenes.add("red room")
    output = tmp_path / "out"
    assert run(scenes, output, "--train=--eval --config quick", "--jobs", "2") == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line.partition(":")[0] for line in lines[:2]) == ["garden", "red room"]
    assert any(line.startswith("garden: 26.00 dB, SSIM 0.5000, 1,234 Gaussians, ") for line in lines)
    assert all(line.endswith(" s, 0.50 GiB") for line in lines[:2])
    assert lines[2] == f"2 scenes done; mean PSNR 27.00 dB; table: {output / 'fleet.json'}"
    assert table(output)["red room"]["psnr"] == 28.0 and table(output)["garden"]["status"] == "done"
    for told in scenes.told():
        assert told["words"][-3:] == ["--eval", "--config", "quick"] and "--overwrite" not in told["words"]
    log = (output / "logs" / "red room.log").read_text()
    assert log.startswith("== attempt 1: ") and "'" in log, "a command that can be pasted"


def test_what_is_done_is_not_done_again_and_what_has_changed_is(scenes, pretended, tmp_path, capfd):
    garden, _ = scenes.add("garden"), scenes.add("room")
    output = tmp_path / "out"
    assert run(scenes, output) == 0 and run(scenes, output) == 0
    assert len(scenes.told()) == 2
    assert "2 scenes done (2 before)" in capfd.readouterr().out
    (garden / "images" / "b.jpg").write_bytes(b"one more")
    assert run(scenes, output, "--status") == 1
    assert "garden: has changed since it was trained" in capfd.readouterr().out
    assert run(scenes, output) == 0
    assert [told["scene"] for told in scenes.told()[2:]] == ["garden"]
    assert scenes.told()[2]["words"][-1] == "--overwrite"
    assert run(scenes, output, "--train=-r 2") == 0
    assert len(scenes.told()) == 5, "other options are for all scenes"
    (output / "room" / "point_cloud" / "iteration_9" / "point_cloud.ply").unlink()
    assert run(scenes, output, "--train=-r 2") == 0
    assert [told["scene"] for told in scenes.told()[5:]] == ["room"]


def test_a_preset_file_that_has_changed_is_noticed(scenes, pretended, tmp_path):
    scenes.add("room")
    preset = tmp_path / "mine.yaml"
    for text in ("begins_with: quick\n", "begins_with: quick\n", "begins_with: quick\nseed: 3\n"):
        preset.write_text(text)
        assert run(scenes, tmp_path / "out", f"--train=--config {preset}") == 0
    assert len(scenes.told()) == 2


def test_ends_that_may_pass_are_tried_again_and_others_are_not(scenes, pretended, tmp_path, capfd):
    fates = {"memory": "3 ok", "disk": "4 4 ok", "lost": "5", "killed": "kill ok", "mistake": "2 ok"}
    fates |= {"fault": "1 ok", "hopeless": "3 3 3 ok"}
    for name, fate in fates.items():
        scenes.add(name, fate)
    output = tmp_path / "out"
    assert run(scenes, output, "--jobs", "2") == 1
    found = {name: (entry["status"], entry["attempts"]) for name, entry in table(output).items()}
    assert found == {
        "memory": ("done", 2),
        "disk": ("done", 3),
        "lost": ("done", 2),
        "killed": ("done", 2),
        "mistake": ("failed", 1),
        "fault": ("failed", 1),
        "hopeless": ("failed", 3),
    }
    lines = capfd.readouterr().out.splitlines()
    said = {line.partition(":")[0]: line for line in lines}
    log = output / "logs" / "hopeless.log"
    assert said["hopeless"] == f"hopeless: failed after 3 attempts: it ended by 3 (log: {log})"
    assert ": failed: it ended by 2 (log: " in said["mistake"]
    assert ": failed: ValueError: a fault of the program (log: " in said["fault"]
    assert "4 scenes done; 3 failed; " in lines[-1]
    again = [told["words"] for told in scenes.told() if told["scene"] in ("memory", "killed")]
    flags = {
        words[words.index("-s") + 1].rpartition("/")[2]: words[-1] for words in again if "--" in words[-1]
    }
    assert flags == {"memory": "--overwrite", "killed": "--resume"}, "it goes on where there is a checkpoint"
    assert run(scenes, output) == 0, "another call tries those that have failed once more"


def test_a_line_says_what_the_signal_was():
    assert processes.reason(Path("none"), 0, -9).startswith("killed by SIGKILL, as the system does")
    assert processes.reason(Path("none"), 0, -11) == "killed by SIGSEGV"
    assert processes.reason(Path("none"), 0, 3) == "out of memory"
    assert [code for code in range(-15, 150) if may_pass(code)] == [*range(-15, 0), 3, 4, 5, 130, 143]


def test_threads_and_gpus_are_shared_out(scenes, pretended, tmp_path, monkeypatch):
    assert [threads_of(slot, 3, 8) for slot in range(3)] == [3, 3, 2] and threads_of(4, 5, 2) == 1
    monkeypatch.setattr(running, "cores", lambda: 5)
    monkeypatch.setattr(running, "visible_gpus", lambda: ["0", "GPU-f00"])
    for name in ("a", "b"):
        scenes.add(name)
    assert run(scenes, tmp_path / "out", "--jobs", "2") == 0
    told = {one["scene"]: one for one in scenes.told()}
    for name, threads, gpu in (("a", "3", "0"), ("b", "2", "GPU-f00")):
        words = told[name]["words"]
        assert words[words.index("--threads") + 1] == threads
        assert told[name]["env"]["OMP_NUM_THREADS"] == threads
        assert told[name]["env"]["CUDA_VISIBLE_DEVICES"] == gpu


def test_processes_of_torchrun_share_the_scenes(scenes, pretended, tmp_path, monkeypatch, capfd):
    for name in "abcde":
        scenes.add(name, "2" if name == "c" else "")
    for name, value in (("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    shares = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        before = len(scenes.told())
        assert run(scenes, tmp_path / "out", "--launcher", "torchrun") == 0, "it would end the others"
        shares.append([told["scene"] for told in scenes.told()[before:]])
    assert shares == [["a", "c", "e"], ["b", "d"]]
    assert all(told["env"]["RANK"] is None and told["env"]["WORLD_SIZE"] is None for told in scenes.told())
    assert not (tmp_path / "out" / "fleet.json").exists(), "two would write one table"
    assert run(scenes, tmp_path / "out", "--status") == 1
    out = capfd.readouterr().out
    assert "c: failed: it ended by 2" in out and "4 of 5 scenes are done" in out
    assert table(tmp_path / "out")["d"]["status"] == "done"


def test_somebody_elses_run_stays(scenes, pretended, tmp_path, capfd):
    scenes.add("room")
    theirs = tmp_path / "out" / "room" / "config.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    for _ in range(2):
        assert run(scenes, tmp_path / "out") == 1
        assert "holds a run of somebody else's" in capfd.readouterr().out
    assert theirs.read_text() == "theirs" and not scenes.told()


def test_two_calls_in_one_folder_are_refused_but_for_tasks(scenes, pretended, tmp_path):
    scenes.add("room")
    folder = FleetFolder(tmp_path / "out")
    folder.make()
    with folder.held(alone=False):
        with pytest.raises(UserError, match="another call is training there"):
            run(scenes, tmp_path / "out")
        assert run(scenes, tmp_path / "out", "--only", "0") == 0


def test_a_lock_that_leads_elsewhere_is_refused(scenes, pretended, tmp_path):
    scenes.add("room")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".fleet.lock").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"\.fleet\.lock: expected a file of this program"):
        run(scenes, tmp_path / "out")
    assert not elsewhere.exists()


def test_an_output_folder_in_its_scene_changes_nothing_about_the_scene(scenes, pretended, capfd):
    scene = scenes.add("room")
    for _ in range(2):
        assert main([str(scene), "-o", str(scene / "runs"), "--quiet"]) == 0
    assert len(scenes.told()) == 1 and "1 scene done (1 before)" in capfd.readouterr().out


def test_a_signal_is_passed_on_and_nothing_more_is_started(scenes, pretended, tmp_path, monkeypatch, capfd):
    scene = scenes.add("room", "wait")
    scenes.add("room2")
    signals = Signals()
    monkeypatch.setattr("fleet.many.Signals", lambda: signals)

    def sleep(seconds: float) -> None:
        if (scene / ".waiting").is_file() and not signals.count:
            signals._take(signal.SIGTERM, None)

    monkeypatch.setattr(running.time, "sleep", sleep)
    with pytest.raises(Stopped) as stopped:
        run(scenes, tmp_path / "out")
    assert stopped.value.exit_code == 143
    assert (scene / ".ended").is_file(), "it could save a checkpoint"
    assert "the same command goes on from here" in capfd.readouterr().err
    entry = table(tmp_path / "out")
    assert (entry["room"]["status"], entry["room2"]["status"]) == ("running", "waiting")


DRIVER = """
import sys
from fleet import running
running.train_command = lambda words: [sys.executable, "-S", {fake!r}, *words]
from engine import run_command
from fleet.many import main
run_command(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_trainings_end_with_the_command(scenes, tmp_path, number):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends a process whose parent is killed")
    scene = scenes.add("room", "wait")
    words = [str(scenes.folder), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(fake=str(FAKE)), *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _wait_for(scene / ".waiting")
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
    _wait_for(scene / ".ended")
    if number == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from here" in err, err
        assert "Traceback" not in err


def _wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def test_a_scene_that_vanishes_fails_alone(scenes, pretended, tmp_path, monkeypatch):
    gone = scenes.add("a")
    scenes.add("b")

    def find_and_lose(*given: Any, **more: Any) -> list[Job]:
        found = find_jobs(*given, **more)
        shutil.rmtree(gone)
        return found

    monkeypatch.setattr("fleet.many.find_jobs", find_and_lose)
    assert run(scenes, tmp_path / "out") == 1
    found = table(tmp_path / "out")
    assert found["a"]["status"] == "failed" and "No such file" in found["a"]["error"]
    assert found["b"]["status"] == "done"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone", "-o", "out"], "gone: no such folder"),
        (["empty", "-o", "out"], "empty: expected a scene"),
        (["@gone.txt", "-o", "out"], r"cannot read gone\.txt"),
        (["SCENES", "-o", "file"], "file: expected a folder"),
        (["SCENES", "-o", "out", "--train=-m elsewhere"], "--train: -m: that is for this command itself"),
        (["SCENES", "-o", "out", "--train=-selsewhere"], "--train: -selsewhere: that is for the scenes"),
        (["SCENES", "-o", "out", "--train=-melsewhere"], "--train: -melsewhere: that is for this command"),
        (["SCENES", "-o", "out", "--train=--model-path=x"], "--train: --model-path=x: that is for this"),
        (["SCENES", "-o", "out", "--train=--no-overwrite"], "--train: .*no-overwrite"),
        (["SCENES", "-o", "out", "--train=--threads 2"], "--train: --threads: .*of this command"),
        (["SCENES", "-o", "out", "--train='--eval"], "No closing quotation"),
        (["SCENES", "-o", "out", "--train=--nosuch 3"], "--train: .*nosuch"),
        (["SCENES", "-o", "out", "--train=--config quik"], "--train: .*did you mean quick"),
        (["SCENES", "-o", "out", "--train=--help"], "train.py --help"),
        (["SCENES", "-o", "out", "--jobs", "-1"], "--jobs: expected at least 0"),
        (["SCENES", "-o", "out", "--only", "1"], "--only 1: expected less than the 1 scenes"),
        (["SCENES", "-o", "out", "--only", "2", "--tasks", "2"], "expected less than --tasks 2"),
        (["SCENES", "-o", "out", "--only", "0", "--launcher", "ray"], "shares the scenes out itself"),
        (["SCENES", "-o", "out", "--sbatch=--mem=1G"], "no effect without --launcher slurm"),
        (["SCENES", "-o", "out", "--launcher", "slurm", "--sbatch=-p gpu"], "options like --time"),
        (
            ["SCENES", "-o", "out", "--launcher", "slurm", "--sbatch=--comment='a\nb'"],
            "expected no line ends",
        ),
        (["SCENES", "-o", "out", "--launcher", "slurm", "--sbatch=--array=1"], "says that itself"),
    ],
)
def test_mistakes_are_told_before_anything_starts(scenes, tmp_path, monkeypatch, words, message):
    scenes.add("room")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        main([word.replace("SCENES", str(scenes.folder)) for word in words])
    assert not scenes.told()


def test_a_slurm_script_holds_odd_names(scenes, pretended, tmp_path):
    """Signs that other programs take for the end of a line, and those that sbatch puts numbers for."""
    made = [scenes.add(name) for name in ("a\u2028b", "c\u0085d", "50%j")]
    output = tmp_path / "done at 100%A"
    assert run(scenes, output, "--launcher", "slurm") == 0
    jobs = find_jobs([f"@{output / 'slurm' / 'scenes.txt'}"])
    assert {job.scene for job in jobs} == set(made)
    script = (output / "slurm" / "train.sbatch").read_text()
    assert f'#SBATCH --output="{tmp_path}/done at 100%%A/logs/slurm_%A_%a.txt"' in script.split("\n")
    for sign in '"\\':
        with pytest.raises(UserError, match="mean something else to sbatch"):
            run(scenes, tmp_path / f"a{sign}b", "--launcher", "slurm")


def test_a_damaged_record_fails_its_scene_and_no_other(scenes, pretended, tmp_path, capfd):
    scenes.add("garden")
    scenes.add("room")
    output = tmp_path / "out"
    assert run(scenes, output) == 0
    record = output / "logs" / "room.json"
    good = json.loads(record.read_text())
    bad = [{**good, "psnr": "high"}, {**good, "status": "lost"}, {**good, "format": 9}, {**good, "more": 1}]
    bad += [{**good, "digest": 3}, {**good, "attempts": None}, {**good, "seconds": math.inf}]
    huge = [{**good, "gaussians": 10**400}, {**good, "seconds": 10**400}]
    for text in ("[]", "{", "[" * 100_000, *map(json.dumps, [*bad, *huge])):
        record.write_text(text)
        capfd.readouterr()
        for words in ((), ("--status",)):
            assert run(scenes, output, *words) == 1
            said = capfd.readouterr().out
            assert f"room: failed: {record}: expected what became of a scene" in said, said
            assert "\ngarden: 26.00 dB" in f"\n{said}"
        assert record.read_text() == text, "it is the user's to move away"
    assert len(scenes.told()) == 2
    record.unlink()
    assert run(scenes, output) == 1, "a run that nobody knows of is not overwritten"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "[" * 100_000),
        ("summary.json", '{"gaussians": Infinity, "peak_memory_gib": 1, "test_views": 0}'),
        ("summary.json", '{"gaussians": 7, "peak_memory_gib": NaN, "test_views": 0}'),
        ("results.json", '{"ours_10": {"PSNR": NaN, "SSIM": 0.5}}'),
        ("results.json", '{"ours_10": [1, 2]}'),
    ],
)
def test_figures_of_a_run_that_are_none_are_left_out(tmp_path, name, content):
    good = '{"gaussians": 7, "peak_memory_gib": 0.5, "test_views": 1, "iterations": 10}'
    fleet = FleetFolder(tmp_path)
    (tmp_path / "room").mkdir()
    for file, text in (("summary.json", good), (name, content)):
        (tmp_path / "room" / file).write_text(text)
    found = fleet.measured("room", Outcome("done"))
    assert (found.psnr, found.ssim) == (None, None)
    assert found.gaussians == (7 if name == "results.json" else None)


def test_a_line_for_what_has_no_test_views():
    line = Outcome("done", seconds=61.4, gaussians=5, peak_memory_gib=1.0).line("room", Path("log"))
    assert line == "room: 5 Gaussians, 61 s, 1.00 GiB"
