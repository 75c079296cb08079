"""Puts trained blocks together: each keeps the Gaussians whose mean lies in its own cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atomic import write_bytes
from configs import Config, load_saved_config, save_config
from engine import OutputFolder, load_finished, replaced_output
from errors import UserError
from fleet.block_scenes import PLACE, Partition
from fleet.folder import NOT_OURS, FleetFolder
from fleet.partition import Cell, Plane
from gaussian_model import Gaussians, save_ply
from scene import NamedCamera, SceneConfig, read_cameras_json, write_cameras_json


def crop(gaussians: Gaussians, plane: Plane, cell: Cell) -> Gaussians:
    """Those whose mean lies in a cell, in their order."""
    state = gaussians.state_dict()
    kept = torch.from_numpy(cell.holds(plane.spots(state["means"].cpu().numpy())))
    return Gaussians({key: value[kept.to(value.device)] for key, value in state.items()})


def joined(parts: Iterable[Gaussians]) -> Gaussians:
    """All Gaussians of some models with equal SH degree, one after the other."""
    states = [part.state_dict() for part in parts]
    return Gaussians({key: torch.cat([state[key] for state in states]) for key in states[0]})


def write_merged(
    scene: Path,
    output: OutputFolder,
    partition: Partition,
    runs: FleetFolder,
    *,
    held_out: bool,
    said: str,
    record: Path,
) -> tuple[int, Gaussians]:
    """Crops and joins the blocks' newest Gaussians, and writes a run's folder that holds them.

    Args:
        scene: the whole scene.
        output: gets point_cloud/iteration_N, cameras.json and config.yaml; another merged model and what
            was rendered and measured of it are removed.
        partition: the cells.
        runs: the blocks' runs.
        held_out: whether the scene's test views were kept from all blocks.
        said: stands for the options that the blocks were trained with.
        record: JSON file that gets these, and what each block has contributed and cost.

    Returns:
        N, and the Gaussians.

    Raises:
        UserError: a block is not there, they are of different lengths or SH degrees, or `output` holds a
            training.
    """
    check_no_training(output)
    parts, counts, iterations = [], {}, {}
    for cell in partition.cells:
        iterations[cell.name], whole = load_finished(runs.run(cell.name))
        part = crop(whole, partition.plane, cell)
        parts.append(part)
        outcome = runs.outcome(cell.name)
        counts[cell.name] = {
            "trained": len(whole),
            "kept": len(part),
            "cameras": partition.sizes[cell.name][0],
            "seconds": outcome and outcome.seconds,
            "peak_memory_gib": outcome and outcome.peak_memory_gib,
        }
    for what, values in (
        ("iterations", set(iterations.values())),
        ("SH degrees", {part.max_sh_degree for part in parts}),
    ):
        if len(values) > 1:
            raise UserError(
                f"{runs.path}: expected blocks of equal {what}, got {sorted(values)}: train all of them with "
                "the same options"
            )
    (iteration,) = set(iterations.values())
    merged = joined(parts)
    names = [cell.name for cell in partition.cells]
    cameras = cameras_of(runs, names)
    config = config_of(runs, names[0], scene, output.path, held_out=held_out)
    content = {
        "scene": str(scene),
        "iteration": iteration,
        "gaussians": len(merged),
        "partition": partition.digest,
        "options": said,
        "blocks": counts,
    }
    if output.point_cloud(iteration).is_file() and _says(record, content):
        return iteration, merged  # what was rendered and measured of it is still true
    with replaced_output(output.path, keep=(PLACE,)):  # and with it what was measured on an earlier model
        record.unlink(missing_ok=True)
        write_cameras_json(output.cameras, cameras)
        save_config(output.config, config)
        save_ply(output.point_cloud(iteration), merged)
        write_bytes(record, (json.dumps(content, indent=1) + "\n").encode())
    return iteration, merged


def check_no_training(output: OutputFolder) -> None:
    """Refuses a folder in which a training's files are, which a merged model would replace.

    Raises:
        UserError: they are.
    """
    if output.holds_training():
        raise UserError(f"{output.path}: holds a run of train.py: choose another -o, or move that run away")


def _says(record: Path, content: dict[str, Any]) -> bool:
    """Whether a record holds all of this."""
    try:
        known = json.loads(record.read_bytes())
        return all(known[key] == value for key, value in content.items())
    except NOT_OURS:
        return False


def cameras_of(runs: FleetFolder, names: Sequence[str]) -> list[NamedCamera]:
    """The training cameras of all blocks, each once, by name."""
    found = {named.name: named for name in names for named in read_cameras_json(runs.run(name).cameras)}
    return [found[name] for name in sorted(found)]


def config_of(runs: FleetFolder, name: str, scene: Path, output: Path, *, held_out: bool) -> Config:
    """The configuration of a block, as it would be of a run on the whole scene."""
    config = load_saved_config(runs.run(name).path)
    views: SceneConfig = replace(config.scene, eval=held_out)
    return replace(config, source_path=scene, model_path=output, scene=views, resume=False, overwrite=False)
