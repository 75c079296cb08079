"""What one iteration of training is: which views chance chooses, what is compared, and the step taken.

`train.py` says what happens around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from configs import Config
from depth_priors import Knowledge, ResizedPriors
from engine import CameToNothing, Guard, Tracker, TrainingState, is_due
from gaussian_model import (
    active_sh_degree,
    dropout_factors,
    dropped_sh_degree,
    hold_in_shape,
    set_learning_rates,
)
from losses import (
    Objective,
    PseudoTarget,
    PseudoTargets,
    baseline_of,
    beside,
    draw_shift,
    mean_squared_error,
)
from replicas import ALONE, ShardSums, Sums, Team, connected, reseed
from scene import ImagePyramid, Scene, View
from sharding import count


@dataclass
class Lessons:
    """What the Gaussians learn from."""

    views: ImagePyramid
    priors: ResizedPriors
    pseudo: PseudoTargets
    objective: Objective
    guard: Guard = field(default_factory=Guard)

    @classmethod
    def of(
        cls, config: Config, knowledge: Knowledge, taught: Sequence[View], device: torch.device
    ) -> Lessons:
        """All of it on `device`, where the knowledge is already.

        `taught` are the teachers' pictures of the pseudo views, or none.
        """
        return cls(
            ImagePyramid(knowledge.views, config.pyramid),
            ResizedPriors(knowledge.priors),
            PseudoTargets(config.pseudo, knowledge.pseudo, taught, config.pyramid, device),
            Objective(config.loss, config.iterations, config.pseudo),
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """What chance has decided for one view of a batch."""

    chosen: int
    background: Tensor
    sh_degree: int
    opacity_factors: Tensor | None
    shift: float
    """Of the binocular view, in picture widths."""
    pseudo: PseudoTarget | None


def draw(config: Config, state: TrainingState, lessons: Lessons, iteration: int) -> Draw:
    """Draws everything random of a view: in all processes for all views, so that these stay alike."""
    gaussians, generator = state.gaussians, state.generator
    degree = active_sh_degree(config.optim, iteration, gaussians.max_sh_degree)
    binocular, progress = config.loss.binocular_at(iteration), iteration / config.iterations
    return Draw(
        chosen=state.sampler.next(),
        background=config.model.training_background(generator).to(gaussians.device),
        sh_degree=dropped_sh_degree(config.regularise, degree, generator),
        opacity_factors=dropout_factors(config.regularise, len(gaussians), progress, state.local),
        shift=draw_shift(config.loss.binocular_shift, generator) if binocular else 0.0,
        pseudo=lessons.pseudo.draw(iteration, generator),
    )


def learn_once(
    config: Config,
    scene: Scene,
    state: TrainingState,
    lessons: Lessons,
    iteration: int,
    backend: str,
    tracker: Tracker | None = None,
    team: Team = ALONE,
) -> View:
    """One iteration: density control, gradients of the views of a batch, a step. Returns the last view."""
    gaussians, optimizer, densifier = state.gaussians, state.optimizer, state.densifier
    if config.sharded:
        reseed(state.local, config.seed, iteration, team.place)
    if iteration > 1:  # here, so that what is shown and saved is not a model just cut up or reset
        densifier.refine(iteration - 1, gaussians, optimizer)
        if config.sharded:
            count(state, team)
        if len(gaussians) == 0:
            raise CameToNothing(
                f"iteration {iteration - 1}: no Gaussians are left, all have been pruned: start anew with a "
                "lower --densify.prune_opacity or lower learning rates"
            )
    set_learning_rates(optimizer, config.optim, scene.extent, iteration, config.iterations, config.batch_size)
    draws = [draw(config, state, lessons, iteration) for _ in range(config.batch_size)]
    flat = max(drawn.sh_degree for drawn in draws) == 0
    if config.sharded:
        sums: Sums | ShardSums = ShardSums(team, densifier)
    else:
        sums = Sums(team, gaussians, densifier, without=frozenset({"shN"} if flat else ()))
    for drawn in team.share(draws):  # gradients add up: to Adam, a sum is as good as a mean
        info = None
        if drawn is not None:
            with connected():
                info = look(config, scene, state, lessons, iteration, drawn, backend, tracker)
        sums.add(info)
    sums.finish()
    skipped = lessons.objective.skipped
    if tracker is not None and is_due(iteration, every=config.log_every, last=config.iterations):
        tracker.write(iteration, {f"skipped/{name}": float(n) for name, n in skipped.items()})
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    hold_in_shape(gaussians, config.regularise, scene.extent, config.batch_size / len(scene.train))
    state.iteration = iteration
    if (lessons.guard.alarmed and team.size == 1) or is_checked(config, iteration):
        with team.agreed():
            lessons.guard.check(state)
    return lessons.views.view(draws[-1].chosen, iteration)


def is_checked(config: Config, iteration: int) -> bool:
    """Whether all numbers are looked at now: when figures are read, and before files and refinements."""
    files = {*config.save_iterations, *config.checkpoint_iterations}
    rests = (config.log_every, config.checkpoint_every, config.densify.every)
    return any(is_due(iteration, files, every, config.iterations) for every in rests)


def look(
    config: Config,
    scene: Scene,
    state: TrainingState,
    lessons: Lessons,
    iteration: int,
    drawn: Draw,
    backend: str,
    tracker: Tracker | None,
) -> dict[str, Any]:
    """Renders one view, compares it, and leaves its gradients. Returns what the rasterizer says of it."""
    gaussians, objective, device = state.gaussians, lessons.objective, state.gaussians.device
    view = lessons.views.view(drawn.chosen, iteration)
    prior = lessons.priors.get(drawn.chosen, view.camera.width, view.camera.height)
    image = view.image(drawn.background)
    rendered = partial(
        gaussians.render,
        sh_degree=drawn.sh_degree,
        opacity_factors=drawn.opacity_factors,
        antialiased=config.model.antialiased,
        distributed=config.sharded,
        backend=backend,
    )
    binocular = config.loss.binocular_at(iteration)
    render = rendered(
        view.camera,
        background=drawn.background,
        depth=config.model.depth_mode if binocular or prior is not None else None,
        absgrad=state.densifier.wants_absgrad,
    )
    render.info["means2d"].retain_grad()
    terms = objective(
        render,
        image,
        view.weight(),
        iteration=iteration,
        prior=prior,
        linear_scales=lambda: gaussians.linear_scales() * state.weight,
        linear_opacities=lambda: gaussians.linear_opacities() * state.weight,
    )
    if binocular:
        baseline = baseline_of(drawn.shift, view.camera, render.depth[0])
        seen = rendered(beside(view.camera, baseline), background=drawn.background, depth=None).color[0]
        terms |= objective.beside(render, seen, view.camera, baseline, image, view.weight())
    if drawn.pseudo is not None:
        depth = config.model.depth_mode if config.pseudo.depth > 0 else None
        behind = config.model.evaluation_background(scene.mean_colour).to(device)
        terms |= objective.pseudo(rendered(drawn.pseudo.camera, background=behind, depth=depth), drawn.pseudo)
    else:
        objective.pseudo_unknown(iteration)
    lessons.guard.terms(iteration, view.name, terms)
    torch.stack(list(terms.values())).sum().backward()
    if tracker is not None:
        tracker.losses(iteration, terms)
        psnr = batch_psnr(render.color.squeeze(0), image, view.weight())
        tracker.scalars(iteration, {"metrics/psnr_batch": psnr})
    return render.info


@torch.no_grad()
def batch_psnr(image: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """PSNR in dB of one training render [H, W, 3], not rounded to 8 bits: for the bar and its curve."""
    return -10 * torch.log10(mean_squared_error(image.detach(), target, weight).clamp_min(1e-10))
