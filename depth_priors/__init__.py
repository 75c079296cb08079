"""Depth priors: what is known of the scene's depth before any Gaussian moves.

cache = map_cache(config, cache_folder())
stereo = SceneStereo(scene, cache)
points, line = initial_points(scene, config, stereo)
priors, line = depth_priors(scene, config, stereo, cache)
confidence, line = confidence_maps(scene.train, config, stereo, cache)
"""

from __future__ import annotations

from depth_priors.cache import MapCache
from depth_priors.confidence import confidence_maps
from depth_priors.config import DepthConfig
from depth_priors.initial import initial_points
from depth_priors.mvs import stereo_priors
from depth_priors.neighbours import Surroundings, look_around
from depth_priors.points import dense_points
from depth_priors.prior import DepthPrior, resized
from depth_priors.provide import depth_priors, map_cache
from depth_priors.stereo import StereoMap, stereo_maps, work_steps
from depth_priors.stereo_once import SceneStereo

__all__ = [
    "DepthConfig",
    "DepthPrior",
    "MapCache",
    "SceneStereo",
    "StereoMap",
    "Surroundings",
    "confidence_maps",
    "dense_points",
    "depth_priors",
    "initial_points",
    "look_around",
    "map_cache",
    "resized",
    "stereo_maps",
    "stereo_priors",
    "work_steps",
]
