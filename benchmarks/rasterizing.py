"""One image, forward and backward: by scene and threads, and how the cost grows."""

from __future__ import annotations

from typing import Any

import torch

import native
from benchmarks.inputs import Inputs, generate_inputs
from benchmarks.measure import Stopwatch, raster_counts, repeat
from rasterizer import rasterization

WARM_UP = 3


class OneImage:
    """Renders colour and depth with absgrad, and pulls a fixed random gradient back to everything."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        given = (inputs.means, inputs.quats, inputs.scales, inputs.opacities, inputs.colors)
        self.leaves = [tensor.clone().requires_grad_(True) for tensor in given]
        g = torch.Generator().manual_seed(1)
        self.gradient = torch.randn(1, inputs.height, inputs.width, 4, generator=g)
        self.stopwatch = Stopwatch()
        self.handle: Any = None

    def __call__(self) -> None:
        """One image."""
        x = self.inputs
        means, quats, scales, opacities, colors = self.leaves
        with self.stopwatch.time("forward"):
            image, _, meta = rasterization(
                means, quats, scales, opacities, colors, x.viewmats, x.Ks, x.width, x.height,
                render_mode="RGB+D", absgrad=True, packed=False, backend="cpu",
            )  # fmt: skip
        meta["means2d"].retain_grad()
        self.handle = image.grad_fn.handles[0]  # type: ignore[union-attr]  # of rasterizer.cpu's function
        with self.stopwatch.time("backward"):
            torch.autograd.backward(image, self.gradient)
        for leaf in self.leaves:
            leaf.grad = None


def measure_image(inputs: Inputs, threads: int, repetitions: int) -> dict[str, Any]:
    """Times of one image, whole and by kernel."""
    native.set_threads(threads)
    work = OneImage(inputs)
    for _ in range(WARM_UP):
        work()
    overlaps, pairs = raster_counts(work.handle.address)
    work.stopwatch.seconds.clear()
    kernels = Stopwatch()
    with kernels.kernels():
        wall, cpu = repeat(work, repetitions, warm_up=0)
    parts = work.stopwatch.timings()
    return {
        "scene": inputs.name,
        "gaussians": len(inputs),
        "pixels": f"{inputs.width}x{inputs.height}",
        "threads": threads,
        "overlaps": overlaps,
        "evaluations_per_pixel": round(16 * pairs / (inputs.width * inputs.height), 1),
        "forward": parts["forward"],
        "backward": parts["backward"],
        "both": wall,
        "cpu": cpu,
        "busy": f"{100 * cpu.median / (threads * wall.median):.0f} %",
        "kernels": kernels.timings(),
    }


def measure_scaling(
    threads: int, counts: list[int], widths: list[int], repetitions: int
) -> list[dict[str, Any]]:
    """Cost over the number of Gaussians at 504x378, and over the width at 50,000 Gaussians."""
    native.set_threads(threads)
    rows = []
    for along, cases in (("gaussians", [(n, 504) for n in counts]), ("width", [(50_000, w) for w in widths])):
        for count, width in cases:
            inputs = generate_inputs(count, width, round(width * 0.75))
            work = OneImage(inputs)
            wall, cpu = repeat(work, repetitions, warm_up=1)
            overlaps, _ = raster_counts(work.handle.address)
            rows.append(
                {
                    "along": along,
                    "gaussians": count,
                    "pixels": f"{inputs.width}x{inputs.height}",
                    "overlaps": overlaps,
                    "both": wall,
                    "cpu": cpu,
                    "us_per_overlap": round(1e3 * wall.median / max(overlaps, 1), 3),
                }
            )
    return rows
