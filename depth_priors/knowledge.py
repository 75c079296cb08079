"""All that is known of the training views before training, in one call."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from depth_priors.confidence import confidence_maps
from depth_priors.config import DepthConfig
from depth_priors.initial import initial_points
from depth_priors.prior import DepthPrior
from depth_priors.provide import depth_priors, map_cache
from depth_priors.pseudo import PseudoKnowledge, PseudoWish, know_pseudo_views
from depth_priors.stereo_once import SceneStereo
from scene import Points, Scene, View, weighted_view

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Knowledge:
    """What training starts with, on the CPU; V training views in the scene's order."""

    views: tuple[View, ...]
    """V views, their confidence in their masks."""
    priors: tuple[DepthPrior | None, ...]
    """V priors for the depth loss; all None where it is off."""
    shown: tuple[DepthPrior | None, ...]
    """V priors worth looking at: those, or what stereo found where it was done for another purpose."""
    confidences: tuple[Tensor | None, ...]
    """V maps [H, W] in [0, 1]; None where every pixel counts."""
    points: Points
    """To start from; empty where random ones are to be drawn."""
    pseudo: PseudoKnowledge
    """Of pseudo views; empty where none are wanted."""
    lines: tuple[str, ...]
    """What all this is and where it comes from, for the user."""

    def to(self, device: torch.device) -> Knowledge:
        """The same with what every iteration uses, views and priors, on `device`."""
        return dataclasses.replace(
            self,
            views=tuple(view.to(device) for view in self.views),
            priors=tuple(None if prior is None else prior.to(device) for prior in self.priors),
        )


def learn(
    scene: Scene,
    config: DepthConfig,
    *,
    depth_loss: bool,
    starts: bool,
    cache_folder: Path,
    pseudo: PseudoWish | None = None,
    quiet: bool = False,
) -> Knowledge:
    """Finds, reads or computes what the options ask for. Nothing is written but the cache.

    Args:
        scene: its training views and points.
        config: the options.
        depth_loss: whether a loss asks for priors.
        starts: whether points to start from are looked for; a resumed run has its Gaussians.
        cache_folder: where caches are, unless the options name a folder.
        pseudo: what is wanted of pseudo views; None = there are none.
        quiet: no progress bars.

    Raises:
        UserError: what is asked for cannot be had, or a file is unusable.
    """
    began = time.perf_counter()
    cache = map_cache(config, cache_folder)
    stereo = SceneStereo(scene, cache, quiet=quiet)
    confidences, about_confidence = confidence_maps(scene.train, config, stereo, cache, quiet=quiet)
    priors: list[DepthPrior | None] = [None] * len(scene.train)
    points = scene.points
    about_priors = about_points = ""
    if depth_loss:
        priors, about_priors = depth_priors(scene, config, stereo, cache, quiet=quiet)
    elif config.depth_dir or (
        config.depth_prior not in ("auto", "none") and not _asks_network(config, pseudo)
    ):
        _log.warning("a depth prior is given and not used: add --depth_loss pearson")
    if starts:
        points, about_points = initial_points(scene, config, stereo)
    pseudo_views = PseudoKnowledge()
    if pseudo is not None:
        pseudo_views = know_pseudo_views(scene, config, pseudo, stereo, quiet=quiet)
    _log.debug("priors, confidence and points: %.2f s", time.perf_counter() - began)
    return Knowledge(
        tuple(weighted_view(view, c) for view, c in zip(scene.train, confidences, strict=True)),
        tuple(priors),
        tuple(priors if depth_loss or not stereo.done else stereo.priors),
        tuple(confidences),
        points,
        pseudo_views,
        tuple(line for line in (about_confidence, about_priors, about_points, pseudo_views.line) if line),
    )


def _asks_network(config: DepthConfig, pseudo: PseudoWish | None) -> bool:
    """Whether something besides the depth loss asks what --depth_prior names."""
    return config.confidence in ("augment", "auto") or (
        pseudo is not None and pseudo.depth in ("auto", "network")
    )
