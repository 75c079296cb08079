"""Which prior a run takes, and why."""

from __future__ import annotations

import logging
from pathlib import Path

from depth_priors.alignment import align
from depth_priors.cache import MapCache
from depth_priors.config import DepthConfig
from depth_priors.files import file_priors
from depth_priors.network import find_network, network_priors
from depth_priors.prior import DepthPrior
from depth_priors.sfm import sfm_prior
from depth_priors.stereo_once import SceneStereo
from scene import Scene

_log = logging.getLogger(__name__)

Priors = list[DepthPrior | None]


def depth_priors(
    scene: Scene, config: DepthConfig, stereo: SceneStereo, cache: MapCache, *, quiet: bool = False
) -> tuple[Priors, str]:
    """The priors that `config.depth_prior` asks for, or the next best ones, on the CPU.

    Returns:
        One for each training view, None where there is none; and a line that says which and why.

    Raises:
        UserError: what the user has named cannot be had, or a file is unusable.
    """
    asked = config.depth_prior
    why = f"depth_prior {asked}"
    if asked == "none":
        return [None] * len(scene.train), f"depth prior: none ({why})"
    if asked == "files" or (asked == "auto" and config.depth_dir):
        why = why if asked == "files" else "--depth_dir is given"
        found = file_priors(scene.train, scene.source, config)
        return _told(*_aligned(scene, found, config, stereo), f"files ({why})", len(scene.train))
    if asked == "auto" or asked.startswith(("midas:", "onnx:")):
        network = find_network(config)
        if network is not None:
            why = why if asked != "auto" else f"its weights are on disk, {network.origin}"
            found = network_priors(scene.train, network, cache, quiet=quiet)
            return _told(*_aligned(scene, found, config, stereo), f"{network.name} ({why})", len(scene.train))
        why = "no --depth_dir and no MiDaS weights on disk"
    if asked in ("auto", "mvs"):
        found = stereo.completed
        if any(prior is not None for prior in found):
            return _told(found, "", f"mvs ({why})", len(scene.train))
        why = f"{why}; stereo is impossible here"
    found = _sfm(scene, stereo)
    if any(prior is not None for prior in found):
        return _told(found, "", f"sfm ({why})", len(scene.train))
    _log.warning("depth prior: none: %s, and no view sees enough points of structure from motion", why)
    return found, f"depth prior: none ({why}; too few points)"


def _sfm(scene: Scene, stereo: SceneStereo) -> Priors:
    return [
        sfm_prior(view, around.points) for view, around in zip(scene.train, stereo.surroundings, strict=True)
    ]


def _aligned(scene: Scene, priors: Priors, config: DepthConfig, stereo: SceneStereo) -> tuple[Priors, str]:
    """Priors of unknown scale in world units where a fit can be made, and how many there are of each."""
    unknown = [i for i, prior in enumerate(priors) if prior is not None and prior.frame != "world"]
    if not unknown or not config.depth_align:
        return priors, ""
    sparse = _sfm(scene, stereo)
    result = list(priors)
    failed = []
    for i in unknown:
        prior = priors[i]
        assert prior is not None, "unknown lists priors only"
        for reference in (stereo.priors[i], sparse[i]):
            fitted = None if reference is None else align(prior, reference)
            if fitted is not None:
                result[i] = fitted
                break
        else:
            failed.append(scene.train[i].name)
    if failed:
        _log.warning(
            "depth prior: no scale above 0 fits %s and %d more views to stereo or points: left as they are",
            failed[0],
            len(failed) - 1,
        )
    return result, f", {len(unknown) - len(failed)} fitted to the scene's units"


def _told(priors: Priors, more: str, which: str, views: int) -> tuple[Priors, str]:
    given = sum(prior is not None for prior in priors)
    return priors, f"depth prior: {which}, {given} of {views} views{more}"


def map_cache(config: DepthConfig, default: Path) -> MapCache:
    """Where `config` wants computed maps to be kept; `default` is a folder for caches."""
    if config.depth_cache.lower() == "none":
        return MapCache(None)
    return MapCache(Path(config.depth_cache).expanduser() if config.depth_cache else default / "depth")
