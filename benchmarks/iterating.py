"""A whole training iteration by stage, as train.py runs it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, get_args

import torch

import native
from benchmarks.inputs import Inputs, generate_inputs
from benchmarks.measure import Stopwatch, Timing
from depth_priors import DepthPrior
from gaussian_model import (
    DensifyConfig,
    GaussianAdam,
    Gaussians,
    ModelConfig,
    OptimConfig,
    build_densifier,
    load_ply,
    set_learning_rates,
)
from learning import batch_psnr
from losses import DepthLoss, LossConfig, Objective
from scene import Camera, SceneConfig, View, load_scene

WARM_UP = 3


class TrainingIteration:
    """Image, render, loss, backward, statistics, Adam: the stages of train.py, each one timed.

    Not in it: the choice of the view, and the log (some 0.1 ms).
    """

    def __init__(
        self,
        gaussians: Gaussians,
        extent: float,
        loss: LossConfig | None = None,
        prior: DepthPrior | None = None,
    ) -> None:
        """Trains `gaussians` of a scene of some extent; with a prior, depth is rendered as well."""
        self.gaussians = gaussians
        self.optim = OptimConfig()
        self.optimizer = GaussianAdam(gaussians, self.optim, extent)
        self.objective = Objective(loss or LossConfig())
        self.prior = prior
        self.config = DensifyConfig()
        self.densifier = build_densifier(self.config, extent, torch.Generator())
        self.background = torch.zeros(3)
        self.stages = Stopwatch()

    def __call__(self, view: View) -> None:
        """Trains on one view."""
        gaussians, timed = self.gaussians, self.stages.time
        with timed("all"):
            with timed("image"):
                set_learning_rates(self.optimizer, self.optim, 1.0, 1, 1000)
                image, weight = view.image(self.background), view.weight()
            with timed("forward"):
                depth = None if self.prior is None else ModelConfig().depth_mode
                render = gaussians.render(view.camera, background=self.background, depth=depth, backend="cpu")
            render.info["means2d"].retain_grad()
            with timed("loss"):
                terms = self.objective(
                    render, image, weight, prior=self.prior, linear_scales=gaussians.linear_scales,
                    linear_opacities=gaussians.linear_opacities,
                )  # fmt: skip
            with timed("backward"):
                torch.stack(list(terms.values())).sum().backward()
            with timed("statistics"):
                self.densifier.collect(render.info)
                batch_psnr(render.color.squeeze(0), image, weight)
            with timed("adam"):
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)

    def time_refinement(self) -> Timing:
        """Clones, splits and prunes by the statistics so far, once: it changes the model."""
        start = time.perf_counter()
        self.densifier.refine(self.config.start + self.config.every, self.gaussians, self.optimizer)
        return Timing.of([time.perf_counter() - start])


def resample(gaussians: Gaussians, count: int, seed: int = 0) -> Gaussians:
    """`count` Gaussians of the same scene: a random subset, or copies that have moved by their own size.

    Sizes are scaled so that the sum of the areas stays.
    """
    g = torch.Generator().manual_seed(seed)
    n = len(gaussians)
    values = {key: value.detach() for key, value in gaussians.params.items()}
    rows = torch.randperm(n, generator=g)[:count].sort().values if count <= n else torch.arange(count) % n
    chosen = {key: value[rows].clone() for key, value in values.items()}
    if count > n:
        copies = (torch.arange(count) >= n)[:, None]
        chosen["means"] += copies * torch.randn(count, 3, generator=g) * chosen["scales"].exp()
    chosen["scales"] += 0.5 * torch.log(torch.tensor(n / count))
    return Gaussians.from_tensors(chosen)


def as_gaussians(inputs: Inputs, degree: int = 3) -> Gaussians:
    """The generated Gaussians as a model of some SH degree."""
    return Gaussians.from_tensors(
        {
            "means": inputs.means,
            "quats": inputs.quats,
            "scales": inputs.scales.log(),
            "opacities": torch.logit(inputs.opacities),
            "sh0": inputs.colors[:, None],
            "shN": torch.zeros(len(inputs), (degree + 1) ** 2 - 1, 3),
        }
    )


def as_view(inputs: Inputs) -> View:
    """A photograph of noise by the generated camera."""
    camera = Camera(inputs.viewmats[0], inputs.Ks[0], inputs.width, inputs.height)
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (inputs.height, inputs.width, 3), generator=g, dtype=torch.uint8)
    return View("noise.png", camera, pixels)


def measure_iteration(
    source: Path, model: Path, views: int, count: int, threads: int, repetitions: int
) -> dict[str, Any]:
    """Stages of an iteration of `count` Gaussians (resampled from `model`) on a scene's training views."""
    native.set_threads(threads)
    scene = load_scene(source, SceneConfig(eval=True, n_views=views))
    iteration = TrainingIteration(resample(load_ply(model), count), scene.extent)
    kernels = Stopwatch()
    with kernels.kernels():
        for index in range(repetitions + WARM_UP):
            if index == WARM_UP:
                iteration.stages.seconds.clear()
                kernels.seconds.clear()
            iteration(scene.train[index % len(scene.train)])
    camera = scene.train[0].camera
    all_of_it = iteration.stages.seconds["all"]
    within = sum(sum(values) for values in kernels.seconds.values())
    densify = iteration.time_refinement()
    return {
        "scene": source.name,
        "views": len(scene.train),
        "gaussians": count,
        "pixels": f"{camera.width}x{camera.height}",
        "threads": threads,
        **iteration.stages.timings(),
        "outside_kernels": f"{100 * (1 - within / sum(all_of_it)):.1f} %",
        "one_refinement": densify,
        "kernels": kernels.timings(repetitions),
    }


def measure_fixed_cost(threads: int, repetitions: int) -> dict[str, Any]:
    """An iteration with nothing to do (8 Gaussians, 16x16 pixels): Python, autograd, waking threads."""
    native.set_threads(threads)
    inputs = generate_inputs(8, 16, 16)
    iteration = TrainingIteration(as_gaussians(inputs), 1.0)
    view = as_view(inputs)
    for _ in range(repetitions + 10 * WARM_UP):
        iteration(view)
    timing = Timing.of(iteration.stages.seconds["all"][10 * WARM_UP :])
    return {"gaussians": 8, "pixels": "16x16", "threads": threads, "all": timing}


def measure_losses(count: int, threads: int, repetitions: int) -> list[dict[str, Any]]:
    """What each loss on depth adds to an iteration of generated Gaussians, at 504x378.

    The prior is what they are rendered as at first, with noise of 5 %, as inverse depth in world units. The
    losses take turns, so that a slow moment of the machine meets all of them.
    """
    native.set_threads(threads)
    inputs = generate_inputs(count, 504, 378)
    view = as_view(inputs)
    with torch.no_grad():
        seen = as_gaussians(inputs).render(view.camera, background=torch.zeros(3), depth="ED", backend="cpu")
    noise = torch.randn(378, 504, generator=torch.Generator().manual_seed(0))
    known = seen.alpha[0] > 0.5
    inverse = torch.where(known, (1.0 + 0.05 * noise) / seen.depth[0].clamp_min(1e-3), 0.0)
    prior = DepthPrior(inverse.contiguous(), "inverse", "world", known.float(), "generated")
    chosen: dict[str, TrainingIteration] = {}
    for name in get_args(DepthLoss):
        told = None if name == "none" else prior
        chosen[name] = TrainingIteration(as_gaussians(inputs), 1.0, LossConfig(depth_loss=name), told)
    for round_ in range(repetitions + WARM_UP):
        for iteration in chosen.values():
            if round_ == WARM_UP:
                iteration.stages.seconds.clear()
            iteration(view)
    assert not any(iteration.objective.skipped for iteration in chosen.values()), (
        "a loss left out costs nothing"
    )
    without = chosen["none"].stages.timings()["all"].median
    return [
        {
            "depth_loss": name,
            "gaussians": count,
            "pixels": "504x378",
            "threads": threads,
            **{stage: timings[stage] for stage in ("forward", "loss", "backward", "all")},
            "more": f"{timings['all'].median - without:+.1f}",
        }
        for name, iteration in chosen.items()
        for timings in [iteration.stages.timings()]
    ]
