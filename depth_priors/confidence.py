"""Confidence maps for the image loss: how much each pixel of a photograph counts.

From files, from how little a depth network's answer varies (source document 003, step 4), or from whether
other views agree (the built-in stereo).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from depth_priors.cache import MapCache
from depth_priors.config import DepthConfig
from depth_priors.depth_file import read_map
from depth_priors.files import check_shape, find_by_stem
from depth_priors.network import augmented_confidence, find_network
from depth_priors.prior import resample
from depth_priors.stereo_once import SceneStereo
from errors import UserError
from scene import View

_log = logging.getLogger(__name__)

SUFFIXES = (".npz", ".npy", ".png", ".tif", ".tiff")
UNSEEN = 0.1
"""mvs: confidence of a pixel that no other view confirms; it still shows a surface to this view."""


def confidence_maps(
    views: Sequence[View],
    config: DepthConfig,
    stereo: SceneStereo,
    cache: MapCache,
    *,
    quiet: bool = False,
) -> tuple[list[Tensor | None], str]:
    """[H, W] in [0, 1] for each view, None where every pixel counts; and a line that says where from.

    Raises:
        UserError: what is asked for cannot be had.
    """
    chosen, why = config.confidence, ""
    if chosen == "auto":
        chosen, why = _best(config), " (confidence auto)"
    if chosen == "files":
        maps = file_confidence(views, config)
        given = sum(one is not None for one in maps)
        return maps, f"confidence: files, {given} of {len(views)} views ({config.confidence_dir}){why}"
    if chosen == "augment":
        network = find_network(config)
        if network is None:
            raise UserError(
                "--confidence augment: expected a depth network, found none on disk: name one with "
                "--depth_prior midas:NAME (--depth_download fetches it) or onnx:PATH, or take "
                "--confidence mvs, which needs none"
            )
        return list(augmented_confidence(views, network, cache, quiet=quiet)), (
            f"confidence: variation of {network.name} over changed images{why}"
        )
    if chosen == "mvs":
        priors = stereo.priors
        given = sum(prior is not None for prior in priors)
        if given == 0:
            _log.warning(
                "--confidence %s: stereo is impossible here: every pixel counts 1", config.confidence
            )
        return [None if p is None else p.confidence.clamp(min=UNSEEN) for p in priors], (
            f"confidence: agreement of views, {given} of {len(views)} views{why}"
        )
    return [None] * len(views), ""


def _best(config: DepthConfig) -> Literal["files", "augment", "mvs"]:
    """What --confidence auto stands for."""
    if config.confidence_dir:
        return "files"
    return "augment" if config.may_ask_network and find_network(config) is not None else "mvs"


def file_confidence(views: Sequence[View], config: DepthConfig) -> list[Tensor | None]:
    """The maps in `config.confidence_dir`; None, with a warning, for a view without one.

    Raises:
        UserError: no such folder, nothing in it fits, a file that is unreadable or of another shape, or no
            confidence anywhere.
    """
    folder = Path(config.confidence_dir).expanduser()
    names = [view.name for view in views]
    if config.confidence_map:
        paths = _mapped(folder, Path(config.confidence_map).expanduser(), names)
    else:
        paths = find_by_stem(folder, names, SUFFIXES, "--confidence_dir")
    maps: list[Tensor | None] = []
    for view, path in zip(views, paths, strict=True):
        if path is None:
            _log.warning("%s: no confidence map in %s: every pixel counts 1", view.name, folder)
        maps.append(None if path is None else _read(view, path))
    if all(value is not None and not value.any() for value in maps):
        raise UserError(
            f"--confidence_dir: {folder}: every map is 0 everywhere, so that no pixel would train: expected "
            "some confidence above 0: make the maps anew, or leave --confidence out"
        )
    return maps


def _mapped(folder: Path, mapping: Path, names: Sequence[str]) -> list[Path | None]:
    """The files that a mapping file gives for the images' names.

    Raises:
        UserError: it is no such file, names none of the images, or a file that is not there or elsewhere.
    """
    try:
        content = json.loads(mapping.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--confidence_map: {mapping}: expected a JSON file ({error}): mend it") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UserError(f'--confidence_map: {mapping}: expected {{"image name": "file", ...}}: write it so')
    if not set(content) & set(names):
        raise UserError(
            f"--confidence_map: {mapping}: it names no image: the images are {', '.join(names[:3])} ..., "
            f"the file has {', '.join(list(content)[:3]) or 'nothing'}"
        )
    paths: list[Path | None] = []
    for name in names:
        path = folder / content[name] if name in content else None
        if "\0" in content.get(name, ""):
            raise UserError(
                f"--confidence_map: {mapping}: {name}: expected a file name, got a null character"
            )
        try:
            inside = path is None or path.resolve().is_relative_to(folder.resolve())
            there = path is None or path.is_file()
        except (OSError, ValueError) as error:  # too long, or half a character
            raise UserError(
                f"--confidence_map: {mapping}: {name}: expected a file name, got {content[name][:60]!r} "
                f"({error}): mend the map"
            ) from error
        if not inside:
            raise UserError(f"--confidence_map: {mapping}: {content[name]} is not in {folder}: move it")
        if not there:
            raise UserError(f"--confidence_map: {mapping}: {path}: no such file (for {name}): mend the map")
        paths.append(path)
    return paths


def _read(view: View, path: Path) -> Tensor:
    value = read_map(path)
    check_shape(view, path, value.shape)
    bad = ~np.isfinite(value)
    if bad.any():
        _log.warning("%s: %d numbers are not finite: they count 0", path, int(bad.sum()))
        value = np.where(bad, 0, value).astype(np.float32)
    if value.min() < 0 or value.max() > 1:
        raise UserError(
            f"{path}: expected confidence from 0 to 1, got {value.min():g} to {value.max():g}: scale the map"
        )
    if value.max() == 0:
        _log.warning("%s: confidence is 0 everywhere: %s does not train colours", path, view.name)
    if view.undistortion is not None:
        value = view.undistortion(value)
    value = resample(value, view.camera.width, view.camera.height)
    return torch.from_numpy(np.ascontiguousarray(value)).clamp(0.0, 1.0)
