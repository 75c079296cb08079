"""What is exported: the Gaussians of a run or a .ply, and what is known about them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from configs import Config, ConfigError, load_saved_config
from engine import OutputFolder, load_finished
from errors import UserError
from gaussian_model import Gaussians, load_ply
from scene import NamedCamera, load_scene, read_cameras_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """Gaussians, where they come from, and how they are meant to be seen.

    Attributes:
        gaussians: as they were saved.
        title: what they are, for people: the run and its iteration, or the file.
        name: of exported files, without ending.
        folder: where exported files go if nobody says.
        cameras: of the run; none if they are not on record.
        run: the options that they were trained with, if these are on record.
    """

    gaussians: Gaussians
    title: str
    name: str
    folder: Path
    cameras: list[NamedCamera]
    run: Config | None = None

    @property
    def antialiased(self) -> bool:
        """Whether they were trained with a compensated screen filter."""
        return self.run is not None and self.run.model.antialiased

    @cached_property
    def background(self) -> Tensor:
        """The colour [3] that the finished Gaussians are meant to be seen before."""
        if self.run is None:
            return torch.zeros(3)
        mean = torch.zeros(3)
        if self.run.model.background == "mean":
            try:
                mean = load_scene(self.run.source_path, self.run.scene, quiet=True).mean_colour
            except UserError as error:
                _log.warning(
                    "%s The background is black, not the photographs' mean colour; choose one by "
                    "--background.",
                    error,
                )
        return self.run.model.evaluation_background(mean)


def load_source(path: Path, iteration: int = -1) -> Source:
    """Reads an output folder of the 3DGS layout, or a .ply; the run around a .ply is recognised.

    Args:
        path: folder or file.
        iteration: which of a run's Gaussians; -1 is the newest.

    Raises:
        UserError: neither of them, no Gaussians, an iteration that is not there, a damaged file.
    """
    if path.is_dir():
        folder = OutputFolder(path)
        number, gaussians = load_finished(folder, iteration)
        name = path.resolve().name or "scene"
        return _in_run(folder, gaussians, f"{name}, iteration {number}", name, path / "export")
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder: expected the output folder of a run, or a 3DGS .ply"
        )
    if iteration >= 0:
        raise UserError(
            f"--iteration {iteration}: {path} is one file; leave the option out, or name a run's folder"
        )
    run = path.resolve().parent
    if run.parent.name == "point_cloud":  # RUN/point_cloud/iteration_N/point_cloud.ply
        run = run.parent.parent
    return _in_run(OutputFolder(run), load_ply(path), path.name, path.stem, path.parent / "export")


def _in_run(folder: OutputFolder, gaussians: Gaussians, title: str, name: str, target: Path) -> Source:
    cameras = read_cameras_json(folder.cameras) if folder.cameras.is_file() else []
    run = None
    if folder.config.is_file():  # else another trainer's
        try:
            run = load_saved_config(folder.path)
        except ConfigError as error:
            _log.warning("%s Taken as trained before black, not antialiased.", error)
    return Source(gaussians, title, name, target, cameras, run)
