"""Whether the GPU's rasterizer agrees with the CPU's on this machine, and how much faster it is.

    scripts/gpu_check

Run once on a machine with an NVIDIA GPU. The same Gaussians are rendered by gsplat and by our C++ kernels, in
every way that training uses; pictures and gradients must agree up to rounding. Exit code 0: they do; 1: they
do not, or a run on the GPU fails; 2: there is nothing to compare.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.inputs import Inputs, generate_inputs
from engine import LogLevel, hear, run_command
from errors import UserError
from rasterizer import available_backends, rasterization, resolve_backend

Backend = Literal["gsplat", "cpu", "reference"]
PARAMETERS = ("means", "quats", "scales", "opacities", "colors")

STRAY_PIXELS = 2e-3
"""Share of pixels that may differ by more than `PIXEL`: where a Gaussian's alpha lies at 1/255, or a pixel's
transmittance at 1e-4, rounding decides whether it counts."""
PIXEL = 2.0 / 255.0
"""Difference of a channel in [0, 1] that one Gaussian at the threshold can make, and rounding cannot."""
MEAN = 2e-4
"""Mean difference of a channel: a twentieth of a grey level. Sums of a hundred Gaussians are good to 1e-5."""
GRADIENT = 2e-2
"""Norm of the difference of a gradient, by the norm of the gradient: the stray pixels' share of it."""


@dataclass(frozen=True)
class Options:
    """Compare the GPU's rasterizer with the CPU's."""

    candidate: Backend = "gsplat"
    """The backend that is judged."""
    judge: Backend = "cpu"
    """The one it is compared with."""
    gaussians: tuple[int, ...] = (100, 5_000, 100_000)
    """How many, one comparison each."""
    width: int = 640
    """Pixels."""
    height: int = 480
    """Pixels."""
    repetitions: int = 10
    """Timed renderings, of which the median counts."""
    log_level: LogLevel = "info"
    """What is said on the way; debug: also what libraries say, and where an error came from."""


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: the inputs and the way of rendering.
        worst: what is farthest beyond its bound, in words.
        ratio: difference by bound of that; at most 1 where the two agree.
    """

    what: str
    worst: str
    ratio: float


def main() -> int:
    """Compares, times, and prints a verdict; 1 where they differ."""
    options = tyro.cli(Options, prog="scripts/gpu_check", use_underscores=True, description=__doc__)
    hear(options.log_level)
    if options.candidate == options.judge:
        raise UserError(f"--judge {options.judge}: is what is judged: name another one")
    if min(*options.gaussians, options.width, options.height, options.repetitions) < 1:
        raise UserError("--gaussians, --width, --height, --repetitions: expected at least 1: give more")
    for backend in (options.candidate, options.judge):
        resolve_backend(backend)  # says why it cannot run here
    print(
        f"{options.candidate} against {options.judge} (here: {', '.join(available_backends())}), {_machine()}"
    )
    findings = []
    for count in options.gaussians:
        inputs = generate_inputs(count, options.width, options.height)
        for way in ways():
            finding = compare(inputs, way, options.candidate, options.judge)
            findings.append(finding)
            print(f"{_mark(finding)} {finding.what}: {finding.worst}", flush=True)
        ours, theirs = (seconds(inputs, b, options.repetitions) for b in (options.candidate, options.judge))
        print(
            f"     {count:,} Gaussians at {options.width}x{options.height}, forward and backward: "
            f"{options.candidate} {1e3 * ours:.2f} ms, {options.judge} {1e3 * theirs:.2f} ms: "
            f"{theirs / ours:.1f} times as fast"
        )
    wrong = [finding for finding in findings if finding.ratio > 1.0]
    if wrong:
        print(f"DIFFERENT in {len(wrong)} of {len(findings)} comparisons; worst: {_worst(wrong)}")
        return 1
    print(f"AGREE in all {len(findings)} comparisons; nearest to its bound: {_worst(findings)}")
    return 0


def ways() -> Iterator[dict[str, Any]]:
    """The ways of rendering that training uses."""
    for mode, degree in itertools.product(("classic", "antialiased"), (None, 3)):
        yield {"rasterize_mode": mode, "sh_degree": degree, "render_mode": "RGB+ED"}
    yield {"sh_degree": 1, "render_mode": "RGB+D", "packed": False}
    yield {"render_mode": "RGB", "absgrad": True}


def compare(inputs: Inputs, way: dict[str, Any], candidate: Backend, judge: Backend) -> Finding:
    """Renders by both, backpropagates the same random weights, and measures what differs."""
    first, second = (_results(inputs, way, backend) for backend in (candidate, judge))
    found: list[tuple[float, str]] = []
    for name, (a, b) in {name: (first[name], second[name]) for name in first}.items():
        if not bool(a.isfinite().all()):
            found.append((float("inf"), f"{name} is not finite"))
        elif name in ("colour", "alpha", "depth"):
            scale = float(b.abs().max().clamp_min(1.0))  # depth is in world units
            difference = (a - b).abs() / scale
            stray = float((difference > PIXEL).float().mean())
            found.append((stray / STRAY_PIXELS, f"{name}: {100 * stray:.3f} % of the pixels differ visibly"))
            mean = float(difference.mean())
            found.append((mean / MEAN, f"{name}: mean difference {mean:.1e}"))
        else:
            error = float((a - b).norm() / b.norm().clamp_min(1e-12))
            found.append((error / GRADIENT, f"gradient of {name}: relative difference {error:.1e}"))
    ratio, worst = max(found)
    words = ", ".join(f"{key} {value}" for key, value in way.items() if value not in (False, None))
    return Finding(f"{len(inputs):,} Gaussians, {words}", worst, ratio)


def seconds(inputs: Inputs, backend: Backend, repetitions: int) -> float:
    """Median duration of a rendering and its gradients."""
    durations = []
    for _ in range(repetitions + 1):
        _wait(backend)
        began = time.perf_counter()
        _results(inputs, {"render_mode": "RGB+ED", "sh_degree": 3}, backend, copy_back=False)
        _wait(backend)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations[1:])  # the first one compiles, or makes room


def _results(
    inputs: Inputs, way: dict[str, Any], backend: Backend, *, copy_back: bool = True
) -> dict[str, Tensor]:
    """Picture and gradients, on the CPU."""
    device = torch.device("cuda" if backend == "gsplat" else "cpu")
    generator = torch.Generator().manual_seed(1)
    colors = inputs.colors
    if way.get("sh_degree") is not None:
        colors = 0.3 * torch.randn(len(inputs), 16, 3, generator=generator)
    values = {name: getattr(inputs, name) for name in PARAMETERS} | {"colors": colors}
    leaves = {name: value.to(device, copy=True).requires_grad_() for name, value in values.items()}
    background = torch.tensor([[0.2, 0.4, 0.6]], device=device)
    means, quats, scales, opacities, colors = leaves.values()
    picture, alpha, meta = rasterization(
        means, quats, scales, opacities, colors, inputs.viewmats.to(device), inputs.Ks.to(device),
        inputs.width, inputs.height, backgrounds=background, backend=backend, **way,
    )  # fmt: skip
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    weights = torch.randn(picture.shape, generator=generator).to(device)
    ((picture * weights).sum() + (alpha * weights[..., :1]).sum()).backward()
    if not copy_back:
        return {}
    found = {"colour": picture[..., :3], "alpha": alpha}
    if picture.shape[-1] > 3:
        found["depth"] = picture[..., 3:]
    found |= {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    if way.get("absgrad"):
        found["means2d, absolute"] = meta["means2d"].absgrad
    return {name: value.detach().cpu() for name, value in found.items()}


def _wait(backend: Backend) -> None:
    if backend == "gsplat":
        torch.cuda.synchronize()


def _mark(finding: Finding) -> str:
    return "ok  " if finding.ratio <= 1.0 else "BAD "


def _worst(findings: list[Finding]) -> str:
    worst = max(findings, key=lambda finding: finding.ratio)
    return f"{worst.what}: {worst.worst} ({worst.ratio:.2f} of what is allowed)"


def _machine() -> str:
    if not torch.cuda.is_available():
        return f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    return f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    run_command(main)
