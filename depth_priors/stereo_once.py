"""The stereo of a scene, done once for all who ask: dense points, prior, alignment, confidence."""

from __future__ import annotations

import logging
from dataclasses import astuple
from functools import cached_property

import torch

import native
from depth_priors import completion, mvs, stereo
from depth_priors.cache import VERSION, MapCache, digest
from depth_priors.neighbours import Surroundings, look_around
from depth_priors.prior import DepthPrior
from depth_priors.sfm import sfm_prior
from depth_priors.stereo import work_steps
from progress import Bar
from scene import Scene

_log = logging.getLogger(__name__)


class SceneStereo:
    """Stereo between a scene's training views, when it is first needed.

    Args:
        scene: its training views and points.
        cache: keeps the maps between runs.
        quiet: no progress bar.
    """

    def __init__(self, scene: Scene, cache: MapCache, *, quiet: bool = False) -> None:
        self.scene, self.cache, self.quiet = scene, cache, quiet

    @cached_property
    def surroundings(self) -> list[Surroundings]:
        """Of each training view."""
        return look_around(self.scene.train, self.scene.points, mvs.NEIGHBOURS)

    @cached_property
    def sparse(self) -> list[DepthPrior | None]:
        """Depth at the points that each view sees, see `sfm_prior`; no stereo is needed for it."""
        return [
            sfm_prior(view, around.points)
            for view, around in zip(self.scene.train, self.surroundings, strict=True)
        ]

    @property
    def done(self) -> bool:
        """Whether `priors` has been asked for."""
        return "priors" in self.__dict__

    @cached_property
    def priors(self) -> list[DepthPrior | None]:
        """Depth where other views agree, see `mvs.stereo_priors`; None where stereo is impossible."""
        kept = self._load("mvs")
        if kept is not None:
            for view, prior in zip(self.scene.train, kept, strict=True):
                if prior is None:
                    _log.warning("%s: stereo: it says too little about this view", view.name)
            return kept

        def step() -> None:
            bar.update()

        views = self.scene.train
        native.library()  # compiled the first time, which would mislead the bar
        with Bar[None](total=work_steps(views), desc="stereo", unit="pass", quiet=self.quiet) as bar:
            priors = mvs.stereo_priors(views, self.surroundings, progress=step)
        self._store("mvs", priors)
        return priors

    @cached_property
    def completed(self) -> list[DepthPrior | None]:
        """`priors` everywhere in the pictures, see `mvs.completed`."""
        kept = self._load("filled")
        if kept is not None:
            return kept
        parts = zip(self.scene.train, self.surroundings, self.priors, strict=True)
        bar = Bar(parts, total=len(self.priors), desc="filling", unit="view", quiet=self.quiet)
        filled = [
            None if prior is None else mvs.completed(view, around.points, prior)
            for view, around, prior in bar
        ]
        self._store("filled", filled)
        return filled

    def _load(self, what: str) -> list[DepthPrior | None] | None:
        """Maps kept from another run, of all views; a view that stereo says nothing about has zeros."""
        found: list[DepthPrior | None] = []
        for i, view in enumerate(self.scene.train):
            size = tuple(view.pixels.shape[:2])
            maps = self.cache.load(f"{what}-{self._key}-{i}", {"value": size, "confidence": size})
            if maps is None:
                return None
            prior = DepthPrior(maps["value"], "inverse", "world", maps["confidence"], "mvs")
            found.append(prior if (prior.confidence > 0).any() else None)
        return found

    def _store(self, what: str, priors: list[DepthPrior | None]) -> None:
        for i, (view, prior) in enumerate(zip(self.scene.train, priors, strict=True)):
            nothing = torch.zeros(view.pixels.shape[:2])
            value, confidence = (prior.value, prior.confidence) if prior else (nothing, nothing)
            self.cache.store(f"{what}-{self._key}-{i}", {"value": value, "confidence": confidence})

    @cached_property
    def _key(self) -> str:
        """Stands for everything that the result depends on: each view's depends on all views."""
        parts: list[object] = ["mvs", VERSION, *_constants(mvs), *_constants(stereo), *_constants(completion)]
        for view, around in zip(self.scene.train, self.surroundings, strict=True):
            camera = view.camera
            parts += [view.pixels, view.mask, view.alpha, camera.viewmat, camera.K, *astuple(around)]
        return digest(parts)


def _constants(module: object) -> list[tuple[str, object]]:
    """A module's numbers, by name."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float, tuple))
    )
