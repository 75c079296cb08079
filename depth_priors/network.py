"""Depth networks over all training views, one image a thread, and what their variation says.

Each image is computed on one thread, so that its bits do not depend on how many there are; several images
at a time use the rest. Results are kept between runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from depth_priors.cache import VERSION, MapCache, digest
from depth_priors.config import DepthConfig
from depth_priors.midas import MODELS, estimate
from depth_priors.midas_weights import FOLDER, download_weights, find_weights, load_network, weights_digest
from depth_priors.one_thread import threads_kept
from depth_priors.onnx_model import OnnxModel
from depth_priors.prior import DepthPrior
from errors import UserError
from progress import Bar
from scene import View

_log = logging.getLogger(__name__)

NOISE = 0.02
"""Standard deviation of the noise that is added to images in [0, 1]."""
BRIGHTNESS, CONTRAST = 0.1, 1.2
"""What is added to an image, and by what its deviations from its mean are multiplied."""
PERCENTILE = 95.0
"""Of the variances of a picture: from there on, nothing is trusted."""


@dataclass(frozen=True)
class Network:
    """A depth network that is ready to run."""

    name: str
    """Such as midas:small."""
    origin: str
    """Its file, for the log."""
    key: str
    """Stands for the file's content and the way images are prepared."""
    load: Callable[[torch.device], Callable[[Tensor], Tensor]]
    """Makes, on a device, what turns an image [H, W, 3] in [0, 1] there into inverse depth [H, W], affine."""


def find_network(config: DepthConfig) -> Network | None:
    """The network that the options name, or for `auto` the first MiDaS whose weights are on disk.

    Raises:
        UserError: what the user has named cannot be had.
    """
    chosen = config.depth_prior
    if chosen.startswith("onnx:"):
        model_file = Path(chosen.removeprefix("onnx:")).expanduser()
        onnx = OnnxModel(model_file)  # fails here, before anything is written
        return Network(chosen, str(model_file), weights_digest(model_file), lambda device: onnx)
    named = chosen.removeprefix("midas:") if chosen.startswith("midas:") else ""
    explicit = Path(config.depth_weights).expanduser() if config.depth_weights else None
    for name, model in MODELS.items():
        if named and name != named:
            continue
        if (
            not named
            and explicit is not None
            and not (any((explicit / file).is_file() for file in model.files) or explicit.name in model.files)
        ):
            continue
        path = find_weights(name, explicit)
        if path is None and config.depth_download and named:
            path = download_weights(name)
        if path is not None:
            return _midas(name, path, config)
    if named:
        model = MODELS[named]
        raise UserError(
            f"--depth_prior {chosen}: no weights ({' or '.join(model.files)}) in ${FOLDER} or torch hub's "
            f"cache: add --depth_download, or get {model.url} and give its path with --depth_weights"
        )
    if explicit is not None and not explicit.exists():
        raise UserError(
            f"--depth_weights: {explicit}: expected a file of weights or a folder with one, found nothing: "
            "check the path"
        )
    if explicit is not None:
        raise UserError(
            f"--depth_weights: {explicit}: its name is none of MiDaS's: say which model it is with "
            "--depth_prior midas:NAME"
        )
    return None


def _midas(name: str, path: Path, config: DepthConfig) -> Network:
    resize = config.midas_resize

    def load(device: torch.device) -> Callable[[Tensor], Tensor]:
        network = load_network(name, path).to(device)
        return lambda image: estimate(network, name, image, resize)

    return Network(f"midas:{name}", str(path), f"{MODELS[name].sha256} {resize}", load)


def network_priors(
    views: Sequence[View], network: Network, cache: MapCache, *, quiet: bool = False
) -> list[DepthPrior | None]:
    """Inverse depth of each view, affine; confidence 1 where a pixel is usable."""

    def compute(run: Callable[[Tensor], Tensor], view: View) -> Tensor:
        return run(view.image())

    maps = _over_views(views, network, cache, "depth", compute, quiet)
    priors: list[DepthPrior | None] = []
    for view, given in zip(views, maps, strict=True):
        priors.append(affine_prior(given, network.name))
        if priors[-1] is None:
            _log.warning("%s: %s says nothing about it: no prior", view.name, network.name)
    return priors


def affine_prior(answer: Tensor, source: str) -> DepthPrior | None:
    """The prior that a network's inverse depth [H, W] makes; None where it is constant or not finite.

    Differentiable in `answer`.
    """
    known = answer.detach().isfinite()
    if not bool(known.any()) or bool(answer.detach()[known].min() == answer.detach()[known].max()):
        return None
    lowest = answer.detach()[known].min().clamp_max(0.0)
    found = answer - lowest  # affine: its zero means nothing, but 0 stands for "not known" from here on
    sure = known & (found.detach() > 0)
    return DepthPrior(torch.where(sure, found, 0.0), "inverse", "affine", sure.float(), source)


def augmented_confidence(
    views: Sequence[View], network: Network, cache: MapCache, *, quiet: bool = False
) -> list[Tensor]:
    """[H, W] in [0, 1] for each view: 1 where a network says the same of four changed images.

    Source document 003, step 4: flipped, grey, noisy, brighter with more contrast. Each map is brought to
    median 0 and mean absolute deviation 1, as its scale and shift are unknown; the variance of the five,
    divided by its 95th percentile, is the uncertainty.
    """
    return _over_views(views, network, cache, "confidence", _agreement, quiet)


def _agreement(run: Callable[[Tensor], Tensor], view: View) -> Tensor:
    maps = [_standardised(undo(run(change(view.image())))) for change, undo in _CHANGES]
    variance = torch.stack(maps).var(0, unbiased=False)
    known = variance.isfinite()
    if not known.any():
        _log.warning("%s: the network says nothing about it: every pixel counts 1", view.name)
        return torch.ones_like(variance)
    limit = float(np.percentile(variance[known].numpy(), PERCENTILE))
    return torch.where(known, 1.0 - variance / max(limit, 1e-12), 0.0).clamp(0.0, 1.0)


def _standardised(value: Tensor) -> Tensor:
    """At median 0 and mean absolute deviation 1, of what is finite; the rest is NaN."""
    finite = value.isfinite()
    if not finite.any():
        return torch.full_like(value, torch.nan)
    shifted = torch.where(finite, value - value[finite].median(), torch.nan)
    return shifted / shifted[finite].abs().mean().clamp_min(1e-12)


def _grey(image: Tensor) -> Tensor:
    grey = cv2.cvtColor(image.numpy(), cv2.COLOR_RGB2GRAY)
    return torch.from_numpy(grey)[..., None].expand(-1, -1, 3).contiguous()


def _noisy(image: Tensor) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + NOISE * noise).clamp(0.0, 1.0)


def _vivid(image: Tensor) -> Tensor:
    mean = image.mean((0, 1))
    return ((image - mean) * CONTRAST + mean + BRIGHTNESS).clamp(0.0, 1.0)


def _same(x: Tensor) -> Tensor:
    return x


def _mirrored(x: Tensor) -> Tensor:
    return x.flip(1).contiguous()


_CHANGES: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    (_same, _same),
    (_mirrored, _mirrored),
    (_grey, _same),
    (_noisy, _same),
    (_vivid, _same),
)


def _over_views(
    views: Sequence[View],
    network: Network,
    cache: MapCache,
    what: str,
    compute: Callable[[Callable[[Tensor], Tensor], View], Tensor],
    quiet: bool,
) -> list[Tensor]:
    """A map [H, W] of each view: from the cache, else computed and kept."""
    keys = [
        f"{what}-{digest((what, VERSION, network.name, network.key, _CONSTANTS, view.pixels, view.alpha))}"
        for view in views
    ]
    shapes = [{what: tuple(view.pixels.shape[:2])} for view in views]
    kept = [cache.load(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    missing = [i for i, maps in enumerate(kept) if maps is None]
    found = {i: maps[what] for i, maps in enumerate(kept) if maps is not None}
    if missing:
        run = network.load(torch.device("cpu"))

        def one(i: int) -> Tensor:
            torch.set_num_threads(1)  # of this worker
            return compute(run, views[i]).contiguous()

        with (
            threads_kept() as threads,
            ThreadPoolExecutor(max(1, min(threads, len(missing)))) as pool,
            Bar[None](total=len(missing), desc=f"{network.name} {what}", unit="view", quiet=quiet) as bar,
        ):
            for i, value in zip(missing, pool.map(one, missing), strict=True):
                found[i] = value
                cache.store(keys[i], {what: value})
                bar.update()
    return [found[i] for i in range(len(views))]


_CONSTANTS = (NOISE, BRIGHTNESS, CONTRAST, PERCENTILE)
