"""train.py with pseudo views and teachers: exact, resumable, shown, and cleared with the run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import render
import train
from engine import load_checkpoint
from errors import UserError
from gaussian_model import load_ply
from losses import PseudoTargets
from tests.test_depth_training import _events

RUN = (
    *("--eval", "--config", "quick", "--iterations", "20", "--checkpoint_every", "10", "--init", "sfm"),
    *("--densify.start", "2", "--densify.every", "4", "--pyramid.factor", "2", "--pyramid.until", "10"),
    *("--log_every", "1", "--quiet"),
)
TAUGHT = (*("--pseudo.count", "5", "--pseudo.start", "3", "--pseudo.taught", "1", "--pseudo.teachers", "2"),)
ALL = (
    *TAUGHT,
    "--pseudo.depth",
    "0.5",
    "--pseudo.warped",
    "0.5",
    "--pseudo.ramp",
    "5",
    "--pseudo.every",
    "2",
)

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture
def scene(stereo_scene: Path) -> Path:
    return stereo_scene


@pytest.fixture
def run(scene: Path, monkeypatch: pytest.MonkeyPatch):
    def _run(output: Path, *options: str, last: int = 20) -> dict:
        words = ["-s", str(scene), "-m", str(output), *RUN, "--depth_cache", "none", *options]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        train.main()
        return load_checkpoint(output / "checkpoints" / f"iteration_{last}.pt")

    return _run


def _same(a: dict, b: dict) -> bool:
    return all(
        value.shape == b["gaussians"][key].shape and torch.equal(value, b["gaussians"][key])
        for key, value in a["gaussians"].items()
    )


def test_pseudo_views_are_exact_and_shown(run, tmp_path: Path) -> None:
    one = run(tmp_path / "a", *ALL, "--threads", "1")
    three = run(tmp_path / "b", *ALL, "--threads", "3")
    assert _same(one, three)
    scalars, _ = _events(tmp_path / "a")
    names = {"pseudo_depth", "warped_l1", "warped_dssim", "taught_l1", "taught_dssim"}
    assert {f"loss/{name}" for name in names} <= scalars
    plain = run(tmp_path / "plain")
    assert not _same(one, plain)
    assert not any("pseudo" in tag or "taught" in tag for tag in _events(tmp_path / "plain")[0])
    assert not (tmp_path / "plain" / "teachers").exists()


def test_a_resumed_run_takes_the_teachers_that_are_there(run, tmp_path: Path) -> None:
    options = (*TAUGHT, "--init", "mvs", "--keep_checkpoints", "0")
    whole = run(tmp_path / "a", *options)
    paths = [tmp_path / "a" / "teachers" / f"teacher_{k}.ply" for k in range(2)]
    first, second = (load_ply(path) for path in paths)
    assert not torch.equal(first.params["sh0"][:50], second.params["sh0"][:50]), "they differ in their seeds"
    gone: list[str]
    for k, gone in enumerate(([], ["checkpoints/iteration_10.pt"], ["teachers/teacher_1.ply"])):
        again = tmp_path / f"again{k}"
        shutil.copytree(tmp_path / "a", again)
        for name in ("checkpoints/iteration_20.pt", *gone):
            (again / name).unlink()
        if gone and gone[0].startswith("checkpoints"):  # killed among the teachers
            assert [path.name for path in (again / "checkpoints").iterdir()] == ["iteration_0.pt"]
            (again / "teachers" / "teacher_1.ply").unlink()
        kept = (again / "teachers" / "teacher_0.ply").stat().st_mtime_ns
        assert _same(whole, run(again, *options, "--resume")), gone
        assert (again / "teachers" / "teacher_0.ply").stat().st_mtime_ns == kept, "it is not trained again"


def test_a_damaged_or_foreign_teacher_is_trained_anew(run, tmp_path: Path, monkeypatch, capsys) -> None:
    whole = run(tmp_path / "a", *TAUGHT)
    (tmp_path / "a" / "checkpoints" / "iteration_20.pt").unlink()
    teachers = tmp_path / "a" / "teachers"
    content = (teachers / "teacher_0.ply").read_bytes()
    (teachers / "teacher_0.ply").write_bytes(content[:-40] + bytes(40))
    shutil.copy(tmp_path / "a" / "input.ply", teachers / "teacher_1.ply")
    assert _same(whole, run(tmp_path / "a", *TAUGHT, "--no_quiet", "--resume"))
    assert capsys.readouterr().err.count("has been damaged or changed: trained anew") == 2
    assert (teachers / "teacher_0.ply").read_bytes() == content

    (tmp_path / "b" / "teachers").mkdir(parents=True)
    shutil.copy(teachers / "teacher_0.ply", tmp_path / "b" / "teachers")
    with pytest.raises(UserError, match="--overwrite"):
        run(tmp_path / "b", *TAUGHT)


def test_teachers_leave_the_runs_own_random_numbers_alone(run, tmp_path: Path, monkeypatch) -> None:
    """A run whose teachers are never asked is the plain run."""
    plain = run(tmp_path / "a", "--iterations", "14", last=14)
    monkeypatch.setattr(PseudoTargets, "draw", lambda *_: None)
    taught = run(tmp_path / "b", *TAUGHT, "--iterations", "14", last=14)
    assert (tmp_path / "b" / "teachers" / "teacher_1.ply").is_file()
    assert _same(plain, taught)


def test_a_run_too_short_for_its_pseudo_views_trains_no_teachers(run, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("pseudo:\n  taught: 1.0\n  every: 50\n")
    run(tmp_path / "a", "--config", str(preset))
    assert not (tmp_path / "a" / "teachers").exists()


def test_points_that_have_gone_are_named_where_missing_teachers_need_them(run, tmp_path: Path) -> None:
    run(tmp_path / "first")
    points = tmp_path / "points.ply"
    shutil.copy(tmp_path / "first" / "input.ply", points)
    init = ("--init", str(points))
    run(tmp_path / "a", *TAUGHT, *init)
    points.unlink()
    (tmp_path / "a" / "checkpoints" / "iteration_20.pt").unlink()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run(tmp_path / "a", *TAUGHT, *init, "--resume")  # all teachers are there
    (tmp_path / "b" / "teachers" / "teacher_1.ply").unlink()
    with pytest.raises(UserError, match=r"points\.ply: no such file: the run was stopped among its teachers"):
        run(tmp_path / "b", *TAUGHT, *init, "--resume")


def test_a_run_without_gaussians_ends_with_a_word(run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"iteration \d+: no Gaussians are left.*prune_opacity"):
        run(tmp_path / "a", "--densify.prune_opacity", "0.9999", "--densify.reset_opacity", "0.99995")
    assert (tmp_path / "a" / "config.yaml").is_file()


def test_overwriting_a_run_removes_its_teachers(run, tmp_path: Path) -> None:
    run(tmp_path / "a", *TAUGHT)
    run(tmp_path / "a", "--overwrite")
    assert not (tmp_path / "a" / "teachers").exists()


def test_unpooling_and_the_rest_train_and_are_exact(run, tmp_path: Path) -> None:
    options = ("--densify.unpool", "0.02", "--densify.prune_near", "0.5", "--regularise.sh_dropout", "0.5")
    one = run(tmp_path / "a", *options, "--threads", "1")
    assert _same(one, run(tmp_path / "b", *options, "--threads", "3"))
    plain = run(tmp_path / "c")
    assert len(one["gaussians"]["means"]) > len(plain["gaussians"]["means"])


def test_what_cannot_be_had_is_said_before_anything_is_written(run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a network"):
        run(tmp_path / "a", "--pseudo.depth", "1", "--pseudo.depth_from", "network")
    assert not (tmp_path / "a").exists()


def test_rendering_a_run_shows_it_before_the_same_mean_colour(run, tmp_path: Path) -> None:
    run(tmp_path / "a", "--model.background", "mean")
    measured = json.loads((tmp_path / "a" / "per_view.json").read_text())
    render.main(["-m", str(tmp_path / "a"), "--skip_train"])
    assert json.loads((tmp_path / "a" / "per_view.json").read_text()) == measured
    shutil.rmtree(tmp_path / "a" / "test")
    render.main(["-m", str(tmp_path / "a"), "--skip_train", "-w"])  # another one gives other figures
    stem = next((tmp_path / "a" / "test").iterdir())
    assert json.loads((stem / "per_view.json").read_text()) != measured
