"""Which prior a run takes, and why."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch

from depth_priors.alignment import align, comparable, known_to_both
from depth_priors.cache import MapCache
from depth_priors.config import DepthConfig
from depth_priors.files import file_priors
from depth_priors.network import find_network, network_priors
from depth_priors.prior import DepthPrior
from depth_priors.stereo import usable_pixels
from depth_priors.stereo_once import SceneStereo
from errors import UserError
from scene import Scene, View

_log = logging.getLogger(__name__)

WRONG_UNITS = 0.2
"""Median difference of the logarithms of depth from which on maps in world units are doubted."""

Priors = list[DepthPrior | None]


def depth_priors(
    scene: Scene, config: DepthConfig, stereo: SceneStereo, cache: MapCache, *, quiet: bool = False
) -> tuple[Priors, str]:
    """The priors that `config.depth_prior` asks for, or the next best ones, on the CPU.

    They know nothing of pixels that are masked or transparent.

    Returns:
        One for each training view, None where there is none; and a line that says which and why.

    Raises:
        UserError: what the user has named cannot be had, or a file is unusable.
    """
    priors, line = _choose(scene, config, stereo, cache, quiet)
    return [_masked(view, prior) for view, prior in zip(scene.train, priors, strict=True)], line


def _choose(
    scene: Scene, config: DepthConfig, stereo: SceneStereo, cache: MapCache, quiet: bool
) -> tuple[Priors, str]:
    asked = config.depth_prior
    why = f"depth_prior {asked}"
    if asked == "none":
        return [None] * len(scene.train), f"depth prior: none ({why})"
    if asked == "files" or (asked == "auto" and config.depth_dir):
        why = why if asked == "files" else "--depth_dir is given"
        found = file_priors(scene.train, scene.source, config)
        if all(prior is None for prior in found):
            raise UserError(
                f"--depth_dir: {config.depth_dir}: none of its maps has a number above 0: make them anew"
            )
        _check_units(scene, found, stereo)
        return _told(*_aligned(scene, found, config, stereo), f"files ({why})", len(scene.train))
    if config.may_ask_network:
        network = find_network(config)
        if network is not None:
            why = why if asked != "auto" else f"its weights are on disk, {network.origin}"
            found = network_priors(scene.train, network, cache, quiet=quiet)
            if any(prior is not None for prior in found):
                return _told(
                    *_aligned(scene, found, config, stereo), f"{network.name} ({why})", len(scene.train)
                )
            if asked != "auto":
                raise UserError(
                    f"--depth_prior {asked}: it says nothing about any view (all of its numbers are equal or "
                    "not finite): is it a network for depth?"
                )
        why = "no --depth_dir and no MiDaS weights on disk" if network is None else f"{network.name} failed"
    if asked in ("auto", "mvs"):
        found = stereo.completed
        if any(prior is not None for prior in found):
            return _told(found, "", f"mvs ({why})", len(scene.train))
        why = f"{why}; stereo is impossible here"
    found = stereo.sparse
    if any(prior is not None for prior in found):
        return _told(found, "", f"sfm ({why})", len(scene.train))
    _log.warning("depth prior: none: %s, and no view sees enough points of structure from motion", why)
    return found, f"depth prior: none ({why}; too few points)"


def _masked(view: View, prior: DepthPrior | None) -> DepthPrior | None:
    used = usable_pixels(view)
    if prior is None or used is None:
        return prior
    return dataclasses.replace(
        prior, value=torch.where(used, prior.value, 0.0), confidence=torch.where(used, prior.confidence, 0.0)
    )


def _check_units(scene: Scene, priors: Priors, stereo: SceneStereo) -> None:
    """Warns where maps that are said to be in world units are far from the scene's points."""
    off = []
    for view, prior, sparse in zip(scene.train, priors, stereo.sparse, strict=True):
        if prior is None or sparse is None or prior.frame != "world" or not comparable(prior, sparse):
            continue
        both = known_to_both(prior, sparse)
        ratio = prior.inverse()[both] / sparse.inverse()[both]
        if float((ratio.log().abs()).median()) > WRONG_UNITS:
            off.append((view.name, 1.0 / float(ratio.median())))
    if off:
        _log.warning(
            "depth prior: %s and %d more: its depth is %.3g times that of the scene's points: are the maps "
            "in the scene's units? --depth_frame scale fits them",
            off[0][0],
            len(off) - 1,
            off[0][1],
        )


def _aligned(scene: Scene, priors: Priors, config: DepthConfig, stereo: SceneStereo) -> tuple[Priors, str]:
    """Priors of unknown scale in world units where a fit can be made, and how many there are of each."""
    unknown = [i for i, prior in enumerate(priors) if prior is not None and prior.frame != "world"]
    if not unknown or not config.depth_align:
        return priors, ""
    sparse = stereo.sparse
    result = list(priors)
    wrong, fitted = [], 0
    for i in unknown:
        prior = priors[i]
        assert prior is not None, "unknown lists priors only"
        reference = next(
            (r for r in (stereo.priors[i], sparse[i]) if r is not None and comparable(prior, r)), None
        )
        if reference is None:  # nothing to hold it to: it stays as it is
            continue
        result[i] = align(prior, reference)
        fitted += result[i] is not None
        if result[i] is None:
            wrong.append(scene.train[i].name)
    if wrong:
        _log.warning(
            "depth prior: %s and %d more contradict the scene's stereo or points and are left out: near and "
            "far the other way around (--depth_kind), or of other photographs? --no_depth_align takes them "
            "as they are",
            wrong[0],
            len(wrong) - 1,
        )
    return result, f", {fitted} fitted to the scene's units"


def _told(priors: Priors, more: str, which: str, views: int) -> tuple[Priors, str]:
    given = sum(prior is not None for prior in priors)
    return priors, f"depth prior: {which}, {given} of {views} view{'' if views == 1 else 's'}{more}"


def map_cache(config: DepthConfig, default: Path) -> MapCache:
    """Where `config` wants computed maps to be kept; `default` is a folder for caches."""
    if config.depth_cache.lower() == "none":
        return MapCache(None)
    return MapCache(Path(config.depth_cache).expanduser() if config.depth_cache else default / "depth")
