"""Training on several views per iteration: what a step is made of, exactness, resuming.

Not checked here: what larger batches bring on real photographs (docs/performance.md).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

import train
from engine import load_checkpoint
from errors import UserError
from gaussian_model import ModelConfig, load_ply
from losses import LossConfig, Objective
from scene import SceneConfig, load_scene

RUN = ["--eval", "--config", "quick", "--quiet", "--pyramid.factor", "1"]


def _train(patch: pytest.MonkeyPatch, scene: Path, output: Path, *options: str) -> dict:
    patch.setattr(sys, "argv", ["train.py", "-s", str(scene), "-m", str(output), *RUN, *options])
    train.main()
    return load_checkpoint(max((output / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime))


def test_a_step_uses_the_sum_of_the_gradients_of_its_views(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        *("--iterations", "1", "--batch_size", "8", "--init", "sfm"),
        *("--densify.strategy", "none", "--optim.sh_degree_interval", "100"),
        *("--regularise.dropout", "0", "--model.background", "black"),
    )
    saved = _train(monkeypatch, small_scene, tmp_path / "out", *options)
    assert saved["sampler"]["stack"] == []  # all eight training views, each once

    gaussians = load_ply(tmp_path / "out" / "input.ply")  # what the run started from
    background = ModelConfig().evaluation_background(torch.zeros(3))
    for view in load_scene(small_scene, SceneConfig(eval=True)).train:
        render = gaussians.render(view.camera, background=background, sh_degree=0, depth=None, backend="cpu")
        terms = Objective(LossConfig())(
            render, view.image(background), view.weight(),
            linear_scales=gaussians.linear_scales, linear_opacities=gaussians.linear_opacities,
        )  # fmt: skip
        torch.stack(list(terms.values())).sum().backward()
    for index, group in enumerate(saved["optimizer"]["param_groups"]):
        ours = gaussians.params[group["name"]].grad
        if ours is None:  # view-dependent colour, which is not yet active
            assert group["name"] == "shN" and index not in saved["optimizer"]["state"]
            continue
        moment = saved["optimizer"]["state"][index]["exp_avg"] / 0.1  # one step from 0, beta1 0.9
        # the order of the views, and colours and sizes that went through the .ply, change the rounding
        assert torch.allclose(moment, ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max())), group["name"]


def test_the_threshold_of_densification_means_the_same_for_any_batch(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--iterations", "1", "--init", "sfm", "--densify.start", "0", "--densify.grad_threshold", "1")
    one, all_of_them = (
        _train(monkeypatch, small_scene, tmp_path / size, *options, "--batch_size", size)["densifier"]
        for size in ("1", "8")
    )
    once, often = (state["statistics"]["count"] for state in (one, all_of_them))
    assert int(once.max()) == 1 and int(often.max()) == 8
    mean, means = (
        float(state["statistics"]["gradient"].sum() / state["statistics"]["count"].sum())
        for state in (one, all_of_them)
    )
    # the mean over a Gaussian's views, of one view and of eight views of the same scene: within a factor
    # that eight views of one small scene differ by; a mean over the batch would be eight times smaller
    assert 0.5 < means / mean < 2


def test_batches_give_the_same_bits_for_any_number_of_threads_and_after_a_resume(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        *("--iterations", "12", "--batch_size", "3", "--checkpoint_every", "5"),
        *("--densify.start", "2", "--densify.every", "3", "--model.background", "random"),
    )
    one = _train(monkeypatch, small_scene, tmp_path / "a", *options, "--threads", "1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "checkpoints" / "iteration_12.pt").unlink()  # as if it had died after 10
    resumed = _train(monkeypatch, small_scene, tmp_path / "b", *options, "--resume")
    three = _train(monkeypatch, small_scene, tmp_path / "c", *options, "--threads", "3")
    for other in (resumed, three):
        assert one["sampler"] == other["sampler"]
        for key, value in one["gaussians"].items():
            assert torch.equal(value, other["gaussians"][key]), key


def test_a_batch_without_views_is_refused(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        _train(monkeypatch, small_scene, tmp_path / "out", "--batch_size", "0")
    assert not (tmp_path / "out").exists()
