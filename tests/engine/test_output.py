"""One run per output folder: what may be replaced, what never is, and who may work in it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import OutputError, OutputFolder, checkpoint_path, claim_output, save_checkpoint
from tests.engine.fakes import make_state

ROOT = Path(__file__).resolve().parents[2]


def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run, with something of the user's in it."""
    folder = tmp_path / "run"
    with claim_output(folder) as output:
        for iteration in (1, 2):
            save_checkpoint(checkpoint_path(output.checkpoints, iteration), make_state(), {})
        for path in (
            output.config, output.cameras, output.input_ply, output.point_cloud(2), folder / "results.json",
            folder / "summary.json",
            folder / "per_view.json", folder / "events.out.tfevents.1.host",
            output.renders("test", 2) / "renders" / "a.png", output.renders("train", 2) / "depth" / "a.npy",
            folder / "video" / "ours_2" / "spiral.mp4",
            folder / "video" / "ours_2" / ".spiral.4194305.tmp.mp4",
        ):  # fmt: skip
            write(path)
    write(folder / "notes.txt", "mine")
    write(folder / "point_cloud" / "iteration_2" / "edited.ply", "mine")
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    with claim_output(tmp_path / "a" / "b") as output:
        assert output.path.is_dir()


def test_an_existing_folder_without_a_run_is_used_and_nothing_in_it_changes(tmp_path):
    write(tmp_path / "notes.txt", "mine")
    with claim_output(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_second_run_in_a_folder_is_refused_with_the_three_ways_out(run):
    before = files(run)
    with pytest.raises(OutputError, match=r"holds another run.*--resume.*--overwrite.*another -m"):
        with claim_output(run):
            pass
    assert files(run) == before


def test_overwriting_removes_what_runs_write_and_nothing_else(run, caplog):
    with claim_output(run, overwrite=True):
        pass
    assert files(run) == [".run.lock", "notes.txt", "point_cloud/iteration_2/edited.ply"]
    assert "notes.txt" in caplog.text
    assert not (run / "test").exists() and not (run / "checkpoints").exists()


def test_overwriting_removes_what_was_exported_under_the_runs_name(run):
    named = [
        write(run / "export" / f"{run.name}{e}")
        for e in (".html", ".spz", ".splat", ".compressed.ply", ".ply")
    ]
    other = write(run / "export" / "other.spz")
    with claim_output(run, overwrite=True):
        pass
    assert not any(path.exists() for path in named) and other.is_file()
    other.unlink()
    with claim_output(run, overwrite=True):
        pass
    assert not (run / "export").exists()


def test_overwriting_refuses_a_folder_that_no_run_of_ours_made(tmp_path):
    write(tmp_path / "config.yaml", "name: another tool\n")
    write(tmp_path / "checkpoints" / "iteration_5.pt")
    before = files(tmp_path)
    with pytest.raises(OutputError, match="only replaces runs of this program"):
        with claim_output(tmp_path, overwrite=True):
            pass
    assert files(tmp_path) == before


def test_overwriting_an_empty_or_missing_folder_just_starts(tmp_path):
    with claim_output(tmp_path / "new", overwrite=True) as output:
        assert output.path.is_dir()


def test_overwriting_leaves_what_is_behind_a_link(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    kept = write(elsewhere / "ours_7" / "renders" / "a.png")
    (run / "test" / "ours_2" / "renders" / "a.png").unlink()
    for folder in ("test/ours_2/renders", "test/ours_2", "test"):
        (run / folder).rmdir()
    (run / "test").symlink_to(elsewhere)
    with claim_output(run, overwrite=True):
        pass
    assert kept.is_file() and (run / "test").is_symlink()


@pytest.mark.parametrize("name", ["checkpoints", "point_cloud", "point_cloud/iteration_2"])
def test_overwriting_is_refused_where_the_old_model_would_stay_behind_a_link(run, tmp_path, name):
    """It would be taken for the new run's: --resume would go on from it, render.py would show it."""
    elsewhere = tmp_path / "big disk"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = files(tmp_path)
    with pytest.raises(OutputError, match="behind a link to another place, where --overwrite"):
        with claim_output(run, overwrite=True):
            pass
    assert files(tmp_path) == before
    for path in [path for path in elsewhere.rglob("*") if path.is_file()]:
        path.unlink()
    with claim_output(run, overwrite=True):
        assert (run / name).is_symlink() or name == "point_cloud/iteration_2"


def test_a_folder_is_in_use_while_a_run_works_there(tmp_path):
    output = OutputFolder(tmp_path / "run")
    assert not output.is_in_use() and not output.path.exists()
    with claim_output(output.path):
        assert output.is_in_use()
    assert not output.is_in_use()


def test_resuming_needs_a_usable_checkpoint_and_says_what_to_do(run, tmp_path):
    with claim_output(run, resume=True):
        pass
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    for folder in (run, tmp_path / "nowhere"):
        with pytest.raises(OutputError, match=r"no usable checkpoint.*--overwrite"):
            OutputFolder(folder).check(resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_resume_and_overwrite_exclude_each_other(run):
    with pytest.raises(OutputError, match="choose one"):
        OutputFolder(run).check(resume=True, overwrite=True)


def test_a_file_is_no_output_folder(tmp_path):
    path = write(tmp_path / "file")
    with pytest.raises(OutputError, match="got a file"):
        OutputFolder(path).check()
    with pytest.raises(OutputError, match="cannot write there"):
        with claim_output(path / "below"):
            pass


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*args, **options):  # root, who may run this, is refused by no real folder
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="new: cannot write there"):
        with claim_output(tmp_path / "new"):
            pass


def test_leftovers_of_a_killed_save_go_on_the_next_run(run):
    killed, alive = 4194305, os.getppid()  # beyond the greatest number of a process on Linux
    names = ("checkpoints/.iteration_3.pt", ".config.yaml", "point_cloud/iteration_3/.point_cloud.ply",
             "test/ours_3/renders/.00000.png", "video/ours_3/.ellipse")  # fmt: skip
    for name in names:
        write(run / f"{name}.{killed}.tmp")
    write(run / f"video/ours_3/.ellipse.{killed}.tmp.mp4")
    write(run / f"test/ours_3/.results.json.{alive}.tmp")
    with claim_output(run, resume=True):
        assert [name for name in files(run) if ".tmp" in name] == [f"test/ours_3/.results.json.{alive}.tmp"]


def test_a_lock_that_is_a_link_to_another_place_is_refused_and_that_place_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OutputError, match=r"\.run\.lock: expected a file .* got a link"):
        with claim_output(tmp_path / "run"):
            pass
    assert (tmp_path / "mine.txt").read_text() == "dear"


def test_two_runs_cannot_share_a_folder_and_a_killed_one_blocks_nobody(tmp_path):
    program = (
        "import pathlib, sys, time\nsys.path.insert(0, sys.argv[2])\nfrom engine import claim_output\n"
        "with claim_output(pathlib.Path(sys.argv[1])):\n    print('claimed', flush=1)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(ROOT)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "claimed\n"
        with pytest.raises(OutputError, match=f"another run is working there .process {child.pid}"):
            with claim_output(tmp_path):
                pass
    finally:
        child.kill()
        child.wait()
    with claim_output(tmp_path):  # the lock file is still there, its lock is not
        assert (tmp_path / ".run.lock").is_file()
