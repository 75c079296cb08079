"""Depth priors: what is known of the scene's depth before any Gaussian moves.

knowledge = learn(scene, config, depth_loss=True, starts=True, cache_folder=folder)
knowledge.priors, knowledge.views, knowledge.points
"""

from __future__ import annotations

from depth_priors.cache import MapCache
from depth_priors.confidence import confidence_maps
from depth_priors.config import DepthConfig
from depth_priors.initial import initial_points
from depth_priors.knowledge import Knowledge, learn
from depth_priors.mvs import stereo_priors
from depth_priors.neighbours import Surroundings, look_around
from depth_priors.points import dense_points
from depth_priors.prior import DepthPrior, ResizedPriors, resized
from depth_priors.provide import depth_priors, map_cache
from depth_priors.pseudo import PseudoKnowledge, PseudoWish
from depth_priors.stereo import StereoMap, stereo_maps, work_steps
from depth_priors.stereo_once import SceneStereo

__all__ = [
    "DepthConfig",
    "DepthPrior",
    "Knowledge",
    "MapCache",
    "PseudoKnowledge",
    "PseudoWish",
    "ResizedPriors",
    "SceneStereo",
    "StereoMap",
    "Surroundings",
    "confidence_maps",
    "dense_points",
    "depth_priors",
    "initial_points",
    "learn",
    "look_around",
    "map_cache",
    "resized",
    "stereo_maps",
    "stereo_priors",
    "work_steps",
]
