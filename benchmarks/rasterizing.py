"""One image, forward and backward: by scene and threads, and how the cost grows."""

from __future__ import annotations

import statistics
from typing import Any

import torch

import native
from benchmarks.inputs import Inputs, generate_inputs
from benchmarks.measure import Stopwatch, Timing, raster_counts, repeat, seconds_of
from rasterizer import rasterization

WARM_UP = 3
BURST = 5  # images in a row with one number of threads


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


def measure_image(inputs: Inputs, threads: list[int], repetitions: int) -> list[dict[str, Any]]:
    """Times of one image, whole and by kernel, a row for each number of threads.

    The numbers take turns every few images, so that a machine whose speed changes changes it for all;
    `speed_up` is the median, over these rounds, of the first number's time over this one's.
    """
    work = OneImage(inputs)
    watches = [(Stopwatch(), Stopwatch()) for _ in threads]
    wall: list[list[float]] = [[] for _ in threads]
    cpu: list[list[float]] = [[] for _ in threads]
    rounds: list[list[float]] = [[] for _ in threads]
    for first in range(0, repetitions, BURST):
        for i, (number, (stages, kernels)) in enumerate(zip(threads, watches, strict=True)):
            native.set_threads(number)
            work.stopwatch = Stopwatch()
            for _ in range(1 if first else WARM_UP):
                work()
            work.stopwatch = stages
            with kernels.kernels():
                now, used = seconds_of(work, min(BURST, repetitions - first))
            wall[i] += now
            cpu[i] += used
            rounds[i].append(statistics.median(now))
    overlaps, pairs = raster_counts(work.handle.address)
    rows = []
    for i, (number, (stages, kernels)) in enumerate(zip(threads, watches, strict=True)):
        whole, used_in_all, parts = Timing.of(wall[i]), Timing.of(cpu[i]), stages.timings()
        gains = [a / b for a, b in zip(rounds[0], rounds[i], strict=True)]
        rows.append(
            {
                "scene": inputs.name,
                "gaussians": len(inputs),
                "pixels": f"{inputs.width}x{inputs.height}",
                "threads": number,
                "overlaps": overlaps,
                "evaluations_per_pixel": round(16 * pairs / (inputs.width * inputs.height), 1),
                "forward": parts["forward"],
                "backward": parts["backward"],
                "both": whole,
                "cpu": used_in_all,
                "busy": f"{100 * used_in_all.median / (number * whole.median):.0f} %",
                "speed_up": round(statistics.median(gains), 2),
                "kernels": kernels.timings(),
            }
        )
    return rows


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
                    "threads": threads,
                    "overlaps": overlaps,
                    "both": wall,
                    "cpu": cpu,
                    "us_per_overlap": round(1e3 * wall.median / max(overlaps, 1), 3),
                }
            )
    return rows
