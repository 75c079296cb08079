"""The stereo of a scene, done once for all who ask: dense points, prior, alignment, confidence."""

from __future__ import annotations

from dataclasses import astuple
from functools import cached_property

import torch
from tqdm import tqdm

from depth_priors import mvs, stereo
from depth_priors.cache import VERSION, MapCache, digest
from depth_priors.neighbours import Surroundings, look_around
from depth_priors.prior import DepthPrior
from depth_priors.stereo import work_steps
from scene import Scene


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

    @property
    def done(self) -> bool:
        """Whether `priors` has been asked for."""
        return "priors" in self.__dict__

    @cached_property
    def priors(self) -> list[DepthPrior | None]:
        """Depth where other views agree, see `mvs.stereo_priors`; None where stereo is impossible."""
        views = self.scene.train
        key = self._key()
        shapes = [{name: tuple(view.pixels.shape[:2]) for name in ("value", "confidence")} for view in views]
        kept = [self.cache.load(f"mvs-{key}-{i}", shape) for i, shape in enumerate(shapes)]
        if all(kept):  # a view that stereo says nothing about has maps of zeros
            found = [DepthPrior(m["value"], "inverse", "world", m["confidence"], "mvs") for m in kept if m]
            return [prior if (prior.confidence > 0).any() else None for prior in found]

        def step() -> None:
            bar.update()

        with tqdm(
            total=work_steps(views), desc="stereo", unit="pass", leave=False,
            disable=True if self.quiet else None,
        ) as bar:  # fmt: skip
            priors = mvs.stereo_priors(views, self.surroundings, progress=step)
        for i, (prior, shape) in enumerate(zip(priors, shapes, strict=True)):
            nothing = torch.zeros(shape["value"])
            maps = (prior.value, prior.confidence) if prior else (nothing, nothing)
            self.cache.store(f"mvs-{key}-{i}", dict(zip(("value", "confidence"), maps, strict=True)))
        return priors

    def _key(self) -> str:
        """Stands for everything that the result depends on: each view's depends on all views."""
        parts: list[object] = ["mvs", VERSION, *_constants(mvs), *_constants(stereo)]
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
