"""Runs of older formats go on: a real one of format 1, and made-up steps between made-up formats."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

import pytest
import torch

import train
from configs.migrations import FORMAT as CONFIG_FORMAT
from engine import (
    CheckpointError,
    checkpoint,
    checkpoint_path,
    load_checkpoint,
    migrations,
    restore,
    save_checkpoint,
)
from tests.engine.fakes import make_state, tree_equal
from versions import VERSION

DATA = Path(__file__).parent / "data"
SUMS = {
    "means": 3.3555692264344543,
    "quats": 29.664827319560573,
    "scales": -39.86740696430206,
    "opacities": -61.780370473861694,
    "sh0": -12.11255001462996,
    "shN": -0.08590426388400374,
}


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """The run of format 1, at iteration 7 of 20."""
    output = tmp_path / "out"
    (output / "checkpoints").mkdir(parents=True)
    packed = (DATA / "format_1" / "iteration_7.pt.gz").read_bytes()
    (output / "checkpoints" / "iteration_7.pt").write_bytes(gzip.decompress(packed))
    shutil.copy(DATA / "format_1" / "config.yaml", output)
    return output


def test_every_older_format_has_a_step_to_the_next_and_a_run_in_the_data():
    assert sorted(migrations.STEPS) == list(range(1, migrations.FORMAT))
    for number in range(1, migrations.FORMAT + 1):
        assert list((DATA / f"format_{number}").glob("iteration_*.pt.gz")), number


def test_a_checkpoint_of_format_1_is_read_with_the_values_that_were_written(old_run):
    content = load_checkpoint(old_run / "checkpoints" / "iteration_7.pt")
    assert content["iteration"] == 7 and content["format"] == migrations.FORMAT
    sums = {key: float(value.double().sum()) for key, value in content["gaussians"].items()}
    # As they were when it was written; sums in double of 30 to 270 float32 are good to 1e-12.
    assert sums == pytest.approx(SUMS, rel=1e-9)
    assert {key: tuple(value.shape) for key, value in content["gaussians"].items()} == {
        "means": (30, 3), "quats": (30, 4), "scales": (30, 3), "opacities": (30,), "sh0": (30, 1, 3),
        "shN": (30, 3, 3),
    }  # fmt: skip
    assert float(content["optimizer"]["state"][0]["step"]) == 7
    assert set(content["densifier"]["statistics"]) == {"gradient", "count"}


def test_a_run_of_format_1_is_trained_to_its_end(old_run, small_scene, monkeypatch):
    command = ["train.py", "-s", str(small_scene), "-m", str(old_run), "--resume", "--quiet"]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    content = load_checkpoint(old_run / "checkpoints" / "iteration_20.pt")
    assert content["iteration"] == 20 and content["program"] == VERSION
    assert float(content["optimizer"]["state"][0]["step"]) == 20  # it went on: 13 steps after the 7
    assert f"format: {CONFIG_FORMAT}" in (old_run / "config.yaml").read_text()


# --- made-up formats ---


def written(folder, state, change):
    """A checkpoint of format 1 whose content `change` has made what format 1 is to have been."""
    path = checkpoint_path(folder, state.iteration)
    save_checkpoint(path, state, {})
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_steps_are_taken_in_order_up_to_the_present_format(tmp_path, monkeypatch):
    state = make_state(seed=3)

    def as_it_was(content):
        content["model"] = content.pop("gaussians")  # format 1 called it so
        content["iteration"] = str(content["iteration"])  # and 1 and 2 had text here

    path = written(tmp_path, state, as_it_was)
    with pytest.raises(CheckpointError, match=r"no 'gaussians'|iteration"):
        load_checkpoint(path)
    seen = []

    def one(content):
        seen.append(content["format"])
        content["gaussians"] = content.pop("model")
        return content

    def two(content):
        seen.append(content["format"])
        return content | {"iteration": int(content["iteration"])}

    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    monkeypatch.setattr(checkpoint, "STEPS", {1: one, 2: two})
    content = load_checkpoint(path)
    assert seen == [1, 2] and content["format"] == 3
    resumed = make_state(n=3, seed=9)
    restore(resumed, content)
    assert tree_equal(resumed.gaussians.state_dict(), state.gaussians.state_dict())


def test_one_of_the_middle_takes_the_later_steps_only(tmp_path, monkeypatch):
    path = written(tmp_path, make_state(), lambda content: content.update(format=2))

    def never(content):
        raise AssertionError("the step from 1 is not for a file of format 2")

    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    monkeypatch.setattr(checkpoint, "STEPS", {1: never, 2: lambda content: content})
    assert load_checkpoint(path)["format"] == 3


def test_content_that_is_not_what_its_number_promises_is_said_to_be_damaged(tmp_path, monkeypatch):
    path = written(tmp_path, make_state(), lambda content: None)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    monkeypatch.setattr(checkpoint, "STEPS", {1: lambda content: {**content, "x": content["absent"]}})
    with pytest.raises(CheckpointError, match=r"damaged: not what a checkpoint of format 1 holds \(KeyError"):
        load_checkpoint(path)


def test_the_version_is_that_of_the_changelog():
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{VERSION}]" in text
    assert f"| checkpoints | {migrations.FORMAT} |" in text and f"| config.yaml | {CONFIG_FORMAT} |" in text
