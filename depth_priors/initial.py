"""The points that training starts from, and why those."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from depth_priors.config import DepthConfig
from depth_priors.point_file import read_points
from depth_priors.points import dense_points
from depth_priors.stereo_once import SceneStereo
from scene import Points, Scene

_log = logging.getLogger(__name__)


def initial_points(scene: Scene, config: DepthConfig, stereo: SceneStereo) -> tuple[Points, str]:
    """The points that `config.init` asks for, or the next best ones.

    Args:
        scene: its training views and points.
        config: see `DepthConfig`.
        stereo: the scene's, asked only where dense points are wanted.

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
        return Points.none(), "init: random points (init random)"
    if asked == "mvs" or len(scene.points) == 0:
        dense = dense_points(scene.train, stereo.priors, spacing=config.init_spacing)
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
    _log.warning("init: the scene has no points, and stereo found none: starting from random ones")
    return Points.none(), "init: random points (the scene has none, and stereo found none)"
