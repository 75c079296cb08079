"""A training whose processes each hold a part of the Gaussians (--sharded): its state in parts, and whole.

gsplat renders each process's views of all processes' Gaussians, and brings gradients back to where these
live (Zhao et al., On Scaling Up 3D Gaussian Splatting Training, 2024). So there are no copies to keep alike:
a process optimises and densifies its own rows alone, with its own random numbers. What is evaluated and
written is the whole model, collected by process 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from configs import Config
from engine import CameToNothing, TrainingState
from errors import UserError
from gaussian_model import DensifyConfig, GaussianAdam, Gaussians, build_densifier
from rasterizer import BackendError, gsplat_backend
from replicas import Place, Team, own_rows, own_share, whole_rows
from scene import Scene


def check_place(config: Config, backend: str, place: Place) -> None:
    """Refuses --sharded where it cannot run.

    Raises:
        BackendError: without gsplat.
        UserError: in one process.
    """
    if not config.sharded:
        return
    if backend != "gsplat":
        reason = gsplat_backend.why_unavailable() if config.backend == "auto" else None
        raise BackendError(
            f"--sharded: expected the backend gsplat on NVIDIA GPUs, got {backend}"
            f"{f' ({reason})' if reason else ''}: leave --sharded out; processes on CPUs share the views "
            "of a batch, each with all Gaussians"
        )
    if place.size == 1:
        raise UserError(
            "--sharded: expected several processes to share the Gaussians, got one: start by torchrun "
            "--nproc-per-node=GPUS train.py, or leave --sharded out"
        )


def check_views(config: Config, scene: Scene, place: Place) -> None:
    """Refuses batches and views that gsplat cannot render between processes.

    Raises:
        UserError: the batch cannot be shared out evenly, or the training views have several sizes.
    """
    if not config.sharded:
        return
    rounds, left = divmod(config.batch_size, place.size)
    if left:
        raise UserError(
            f"--batch_size {config.batch_size}: expected a multiple of the {place.size} processes, which all "
            f"render equally many views with --sharded: give {rounds * place.size} or "
            f"{(rounds + 1) * place.size}, or start another number of processes"
        )
    sizes = Counter((view.camera.width, view.camera.height) for view in scene.train)
    if len(sizes) > 1:
        found = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(3))
        raise UserError(
            f"--sharded: expected training views of one size, which gsplat takes all processes' views to "
            f"have, got {found}{', ...' if len(sizes) > 3 else ''}: bring the photographs to one size, or "
            "leave --sharded out"
        )


def own_part(
    config: Config, scene: Scene, whole: TrainingState, device: torch.device, team: Team
) -> TrainingState:
    """This process's part of a training, on its device.

    Args:
        config: of the whole training.
        scene: its training cameras, points and extent are read.
        whole: on the CPU, alike in all processes; its sampler and shared generator are taken over.
        device: where the part shall be.
        team: all processes.

    Raises:
        UserError: there are fewer Gaussians than processes.
    """
    with team.agreed():
        if len(whole.gaussians) < team.size:
            raise UserError(
                f"--sharded: expected a Gaussian for every process at least, got {len(whole.gaussians)} for "
                f"{team.size} processes: start fewer, or leave --sharded out"
            )
    asked = config.densify
    densify = replace(
        asked,
        max_gaussians=max(1, own_share(asked.max_gaussians, team.place)) if asked.max_gaussians else 0,
        mcmc=replace(asked.mcmc, cap_max=max(1, own_share(asked.mcmc.cap_max, team.place))),
    )
    rows = own_rows(_rows_of(whole), team.place)
    part = _of_rows(config, densify, scene, whole, rows, torch.Generator(), device)
    return count(part, team)


def whole_state(config: Config, scene: Scene, part: TrainingState, team: Team) -> TrainingState:
    """The whole training on process 0's CPU, to evaluate and to save; a part without rows in the others.

    A collective.
    """
    rows = whole_rows(_rows_of(part), team)
    densify = replace(config.densify, prune_near=0.0)  # it refines nothing, so it need not know the cameras
    whole = _of_rows(config, densify, scene, part, rows, part.generator, torch.device("cpu"))
    return replace(whole, counts=())


def count(part: TrainingState, team: Team) -> TrainingState:
    """Tells `part` how many Gaussians every process has, and returns it; a collective.

    Raises:
        CameToNothing: one has none left.
    """
    part.counts = tuple(row[0] for row in team.numbers([len(part.gaussians)]))
    with team.agreed():
        if 0 in part.counts:
            raise CameToNothing(
                f"iteration {part.iteration}: process {part.counts.index(0)} has no Gaussians left, all have "
                "been pruned: start anew with a lower --densify.prune_opacity or lower learning rates"
            )
    return part


def _rows_of(state: TrainingState) -> dict[str, Any]:
    return {
        "gaussians": state.gaussians.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "densifier": state.densifier.state_dict(),
    }


def _of_rows(
    config: Config,
    densify: DensifyConfig,
    scene: Scene,
    state: TrainingState,
    rows: Mapping[str, Any],
    local: torch.Generator,
    device: torch.device,
) -> TrainingState:
    """`state` with other Gaussians, and what belongs to these."""
    gaussians = Gaussians.from_tensors(rows["gaussians"]).to(device)
    optimizer = GaussianAdam(gaussians, config.optim, scene.extent)
    fused = optimizer.param_groups[0]["fused"]  # which depends on the device
    groups = [{**group, "fused": fused} for group in rows["optimizer"]["param_groups"]]
    optimizer.load_state_dict({"state": rows["optimizer"]["state"], "param_groups": groups})
    cameras = [view.camera for view in scene.train]
    densifier = build_densifier(densify, scene.extent, local, cameras=cameras, points=scene.points.xyz)
    densifier.load_state_dict(rows["densifier"])
    return replace(state, gaussians=gaussians, optimizer=optimizer, densifier=densifier, local=local)
