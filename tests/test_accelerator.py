"""Training, rendering and resuming with everything on a GPU that is not there: no CPU tensor sneaks in.

The GPU is `tests.accelerator`'s, and gsplat's place is taken by our CPU backend on copies of its tensors. Not
checked here: values (a GPU rounds differently), gsplat itself, and what CUDA has no kernel for.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rasterizer
import render
import train
from depth_priors import DepthPrior
from engine import load_checkpoint
from losses.binocular import binocular_loss, row_warp
from losses.depth import depth_loss, names
from losses.image import l1_and_ssim, mean_squared_error
from rasterizer import gsplat_backend
from scene import Camera
from tests.accelerator import Accelerator, Rasterizer


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """The block in which the GPU is there, and gsplat on it."""

    def on_the_gpu(*args: Any, **kwargs: Any) -> Any:
        given = [*args[:7], kwargs.pop("backgrounds")]
        assert all(tensor.is_cuda for tensor in given), "gsplat wants all its tensors on the GPU"

        def run(*tensors: Any) -> Any:
            *first, backgrounds = tensors
            viewmats, Ks = (tensor.detach() for tensor in first[5:])
            call: Any = rasterizer.rasterization
            return call(*first[:5], viewmats, Ks, *args[7:], backgrounds=backgrounds, backend="cpu", **kwargs)

        colors, alphas = Rasterizer.apply(found, run, *given)
        return colors, alphas, run.meta  # type: ignore[attr-defined]

    monkeypatch.setattr(gsplat_backend, "why_unavailable", lambda: None)
    monkeypatch.setattr(gsplat_backend, "why_not_compiled", lambda: None)
    monkeypatch.setattr(gsplat_backend, "rasterization", on_the_gpu)
    found = Accelerator()
    with found:
        yield found


# --- the GPU that is not there finds what it is for ---


def test_tensors_of_two_devices_meet_nowhere_but_where_cuda_lets_them(accelerator: Accelerator) -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert there.is_cuda and there.device.type == "cuda" and not here.is_cuda
    for wrong in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
        lambda: here[torch.zeros(1, dtype=torch.int64, device="cuda")],
        lambda: torch.where(there > 0, here, 0.0),
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="on the same device"):
            wrong()
    for conversion in (there.numpy, there.__array__, there.data_ptr):
        with pytest.raises(TypeError, match="cannot convert"):
            conversion()
    for right in (
        there * torch.tensor(2.0),
        there[torch.zeros(1, dtype=torch.int64)],
        here.to("cuda"),
        here.to(there),
        torch.zeros_like(there),
        there.new_tensor([1.0]),
    ):
        assert right.is_cuda
    assert not there.cpu().is_cuda and not torch.zeros(2).is_cuda
    assert accelerator.operations > 0


def test_gradients_go_from_device_to_device_and_mixtures_in_a_backward_pass_are_found(
    accelerator: Accelerator,
) -> None:
    x = torch.ones(3, device="cuda", requires_grad=True)
    (x.cpu() * 2).sum().backward()
    assert x.grad is not None and x.grad.is_cuda and x.grad.tolist() == [2.0] * 3

    class Sneaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value * 2

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * torch.full((3,), 2.0)

    with pytest.raises(RuntimeError, match="on the same device"):
        Sneaky.apply(x).sum().backward()


# --- whole runs ---

RUN = (
    *("--eval", "--config", "quick", "--iterations", "8", "--checkpoint_every", "3", "--init", "sfm"),
    *("--densify.start", "1", "--densify.every", "3", "--densify.stop", "8", "--log_every", "1", "--quiet"),
    *("--optim.sh_degree_interval", "2", "--test_iterations", "4", "--save_iterations", "5"),
    *("--keep_checkpoints", "0", "--backend", "gsplat"),
)
RUNS = {
    "default": (
        *("--densify.reset_every", "5", "--densify.absgrad", "--densify.prune_screen_size", "0.4"),
        *("--densify.max_gaussians", "260", "--densify.revised_opacity", "--densify.grad_threshold", "1e-5"),
        *("--model.background", "random", "--pyramid.factor", "1.2", "--pyramid.until", "4"),
    ),
    "mcmc": ("--densify.strategy", "mcmc", "--model.background", "mean"),
    "few views": (
        *("--regularise.dropout", "0.2", "--regularise.sh_dropout", "0.5", "--regularise.max_ratio", "4"),
        *("--regularise.opacity_decay", "0.99", "--regularise.max_scale", "0.5", "--densify.unpool", "0.01"),
        *("--densify.prune_near", "0.5", "--densify.reset_every", "0", "--loss.binocular", "0.3"),
        *("--batch_size", "2", "--optim.batch_rule", "sqrt", "--loss.opacity_reg", "0.01"),
        *("--loss.scale_reg", "0.01", "--model.antialiased"),
    ),
    "depth": ("--depth_loss", "g2", "--depth_prior", "sfm", "--confidence", "none"),
    "taught": ("--pseudo.taught", "1", "--pseudo.teachers", "2", "--pseudo.count", "3"),
}


@pytest.fixture(scope="module")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scene.synthetic import write_synthetic_scene

    folder = tmp_path_factory.mktemp("scenes") / "tiny"
    write_synthetic_scene(folder, n_views=10, width=40, height=32, points=200)
    return folder


def _train(patch: pytest.MonkeyPatch, scene: Path, output: Path, *options: str) -> None:
    patch.setattr(sys, "argv", ["train.py", "-s", str(scene), "-m", str(output), *options])
    train.main()


@pytest.mark.slow
@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_its_resumption_and_its_rendering_keep_every_tensor_where_it_belongs(
    name: str, accelerator: Accelerator, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = (*RUN, *RUNS[name])
    _train(monkeypatch, tiny_scene, whole, *options)
    assert accelerator.operations > 1000, "little was done on the accelerator: the test shows nothing"
    shutil.copytree(whole, stopped)
    for iteration in (6, 8):  # as if it had died after 3, just before a refinement
        (stopped / "checkpoints" / f"iteration_{iteration}.pt").unlink()
    _train(monkeypatch, tiny_scene, stopped, "--resume", "--backend", "gsplat")
    a, b = (load_checkpoint(run / "checkpoints" / "iteration_8.pt")["gaussians"] for run in (whole, stopped))
    assert all(torch.equal(a[key], b[key]) for key in a)
    if name in ("default", "mcmc"):
        assert len(a["means"]) != 200, "nothing was densified: the test shows less than it should"
    render.main(["-m", str(whole), "--backend", "gsplat", "--video", "auto", "--n_frames", "2", "--quiet"])
    assert list(whole.glob("video/ours_8/*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["cpu", "gsplat"])
def test_a_run_goes_on_on_the_other_device(
    first: str, accelerator: Accelerator, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, other = tmp_path / "out", {"cpu": "gsplat", "gsplat": "cpu"}[first]
    _train(monkeypatch, tiny_scene, output, *RUN, *RUNS["default"], "--backend", first)
    for iteration in (6, 8):
        (output / "checkpoints" / f"iteration_{iteration}.pt").unlink()
    _train(monkeypatch, tiny_scene, output, "--resume", "--backend", other)
    assert (output / "checkpoints" / "iteration_8.pt").is_file()


# --- the losses ---


def _maps(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kind", ["inverse", "depth"])
@pytest.mark.parametrize("frame", ["affine", "scale", "world"])
def test_every_depth_loss_works_on_it_and_agrees_with_the_cpu(
    accelerator: Accelerator, name: Any, kind: Any, frame: Any
) -> None:
    if kind == "depth" and frame == "affine":
        frame = "world"
    found = []
    for device in ("cpu", "cuda"):
        depth = _maps(40, 48).to(device).requires_grad_()
        prior = DepthPrior(_maps(40, 48, seed=2), kind, frame, torch.ones(40, 48), "test").to(device)
        loss = depth_loss(name, depth, torch.ones(40, 48, device=device), prior, patch=16)
        if loss is not None:
            loss.backward()
            assert depth.grad is not None and depth.grad.is_cuda == loss.is_cuda == (device == "cuda")
            found.append((float(loss.detach()), depth.grad.cpu()))
    if found:
        (a, grad_a), (b, grad_b) = found
        assert a == pytest.approx(b, rel=1e-4)  # float32 sums of 2,000 terms in two orders
        torch.testing.assert_close(grad_a, grad_b, rtol=1e-3, atol=1e-6)


def test_the_image_losses_work_on_it_and_agree_with_the_cpu(accelerator: Accelerator) -> None:
    camera = Camera(torch.eye(4), torch.tensor([[40.0, 0, 24], [0, 40, 20], [0, 0, 1]]), 48, 40)
    found: dict[str, list[float]] = {"cpu": [], "cuda": []}
    for device, values in found.items():
        image, target = _maps(40, 48, 3).to(device).requires_grad_(), _maps(40, 48, 3).flip(0).to(device)
        weight, depth = _maps(40, 48).to(device), (_maps(40, 48) + 1).to(device).requires_grad_()
        for w in (None, weight):
            l1, ssim = l1_and_ssim(image, target, w)
            (l1 - ssim).backward()
            values += [float(l1), float(ssim), float(mean_squared_error(image.detach(), target, w))]
            loss = binocular_loss(image, depth, torch.ones_like(depth), camera.to(device), 0.05, target, w)
            assert loss is not None
            loss.backward()
            values.append(float(loss))
        moved, inside = row_warp(image, depth)
        values += [float(moved.sum()), float(inside.sum())]
        assert image.grad is not None and depth.grad is not None
        values += [float(image.grad.abs().sum()), float(depth.grad.abs().sum())]
    # Sums of 6,000 float32 terms in two orders.
    assert found["cpu"] == pytest.approx(found["cuda"], rel=1e-3)
