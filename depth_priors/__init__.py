"""Depth priors: what is known of the scene's depth before any Gaussian moves."""

from __future__ import annotations

from depth_priors.config import DepthConfig
from depth_priors.initial import initial_points
from depth_priors.mvs import stereo_priors
from depth_priors.neighbours import Surroundings, look_around
from depth_priors.points import dense_points
from depth_priors.prior import DepthPrior
from depth_priors.stereo import StereoMap, stereo_maps, work_steps

__all__ = [
    "DepthConfig",
    "DepthPrior",
    "StereoMap",
    "Surroundings",
    "dense_points",
    "initial_points",
    "look_around",
    "stereo_maps",
    "stereo_priors",
    "work_steps",
]
