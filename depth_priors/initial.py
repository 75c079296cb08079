"""The points that training starts from, and why those."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from tqdm import tqdm

from depth_priors.config import DepthConfig
from depth_priors.mvs import NEIGHBOURS, stereo_priors
from depth_priors.neighbours import look_around
from depth_priors.point_file import read_points
from depth_priors.points import dense_points
from depth_priors.stereo import work_steps
from scene import Points, Scene

_log = logging.getLogger(__name__)


def initial_points(scene: Scene, config: DepthConfig, *, quiet: bool = False) -> tuple[Points, str]:
    """The points that `config.init` asks for, or the next best ones.

    Args:
        scene: its training views and points.
        config: see `DepthConfig`.
        quiet: no progress bar.

    Returns:
        Points (none where random ones are to be drawn), and a line that says what they are and why.

    Raises:
        UserError: a file of points that is missing or unreadable, or an option with no meaning.
    """
    config.check()
    asked = config.init
    if asked.lower().endswith(".ply"):
        points = read_points(Path(asked).expanduser())
        return points, f"init: {len(points):,} points of {asked}"
    if asked == "random":
        return _none(), "init: random points (init random)"
    if asked == "mvs" or len(scene.points) == 0:
        dense = _stereo_points(scene, config, quiet)
        if len(dense):
            why = "init mvs" if asked == "mvs" else f"init {asked}, and the scene has none"
            both = Points(torch.cat([dense.xyz, scene.points.xyz]), torch.cat([dense.rgb, scene.points.rgb]))
            return (
                both,
                f"init: {len(dense):,} points by stereo and {len(scene.points):,} of the scene ({why})",
            )
        if len(scene.points):
            _log.warning("init: stereo found no points; starting from the scene's own")
    if len(scene.points):
        return scene.points, f"init: {len(scene.points):,} points of the scene (init {asked})"
    return _none(), "init: random points (the scene has none, and stereo found none)"


def _none() -> Points:
    return Points(torch.zeros(0, 3), torch.zeros(0, 3))


def _stereo_points(scene: Scene, config: DepthConfig, quiet: bool) -> Points:
    surroundings = look_around(scene.train, scene.points, NEIGHBOURS)
    with tqdm(total=work_steps(scene.train), desc="stereo", unit="pass", leave=False, disable=quiet) as bar:

        def progress() -> None:
            bar.update()

        priors, _ = stereo_priors(scene.train, surroundings, progress=progress)
    return dense_points(scene.train, priors, spacing=config.init_spacing)
