"""The Gaussians that a run has left in its output folder."""

from __future__ import annotations

import re

from engine.checkpoint import CheckpointError, checkpoint_path, load_checkpoint
from engine.output import OutputFolder
from errors import UserError
from gaussian_model import Gaussians, load_ply

_PLACES = ("point_cloud/iteration_*/point_cloud.ply", "checkpoints/iteration_*.pt")


def saved_iterations(folder: OutputFolder) -> tuple[int, ...]:
    """The iterations whose Gaussians are in a run's folder, as .ply or in a checkpoint, ascending."""
    found = set()
    for pattern in _PLACES:
        names = (str(path.relative_to(folder.path)) for path in folder.path.glob(pattern))
        found |= {int(number) for name in names for number in re.findall(r"iteration_(\d+)", name)}
    return tuple(sorted(found))


def load_iteration(folder: OutputFolder, iteration: int) -> Gaussians:
    """Reads the Gaussians of one of `saved_iterations`: its .ply, or where there is none its checkpoint.

    Raises:
        UserError: the file is damaged.
    """
    ply = folder.point_cloud(iteration)
    if ply.is_file():
        return load_ply(ply)
    path = checkpoint_path(folder.checkpoints, iteration)
    payload = load_checkpoint(path)
    try:
        return Gaussians.from_tensors(payload["gaussians"])
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: gaussians: {error}: use another checkpoint.") from error


def load_finished(folder: OutputFolder, iteration: int = -1) -> tuple[int, Gaussians]:
    """Reads a run's Gaussians and their iteration.

    Args:
        folder: any folder of the 3DGS layout, also another trainer's.
        iteration: which of the saved ones; -1 is the newest.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    saved = saved_iterations(folder)
    if not saved or (iteration >= 0 and iteration not in saved):
        have = ", ".join(map(str, saved)) or "none"
        wanted = "any iteration" if iteration < 0 else f"iteration {iteration}"
        raise UserError(
            f"{folder.path}: expected Gaussians of {wanted}, got those of iterations: {have}; "
            "choose one by --iteration, or train first"
        )
    chosen = iteration if iteration >= 0 else saved[-1]
    return chosen, load_iteration(folder, chosen)
