"""Depth priors from a folder of maps, one per photograph: any network's, a scanner's, COLMAP's.

A map belongs to the photograph of its name or stem (`a/b.jpg`: `a/b.png`, `b.jpg.geometric.bin`). 3DGS's
`depth_params.json`, in that folder or beside the scene's COLMAP model, gives scale and offset per stem.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from depth_priors.config import DepthConfig
from depth_priors.depth_file import COLMAP_SUFFIXES, LEAST, SUFFIXES, read_depth
from depth_priors.prior import DepthPrior, moved, resized
from errors import UserError
from scene import View, files_below, name_key
from scene.view import strip_suffix

_log = logging.getLogger(__name__)

PARAMETERS = "depth_params.json"
LEAST_SIZE = 16.0
"""A map of fewer pixels than the photograph divided by this, per side, is taken for a mistake."""


def file_priors(views: Sequence[View], source: Path, config: DepthConfig) -> list[DepthPrior | None]:
    """The priors in `config.depth_dir`; None, with a warning, for a view without a usable file.

    Args:
        views: the training views.
        source: the scene's folder, where depth_params.json may be.
        config: its folder, and what the numbers mean where the user has said so.

    Raises:
        UserError: no such folder, nothing in it belongs to a view, or a file is unreadable or of another
            shape than its photograph.
    """
    folder = Path(config.depth_dir).expanduser()
    found = find_by_stem(folder, [view.name for view in views], SUFFIXES, "--depth_dir")
    scales = _read_scales([folder / PARAMETERS, source / "sparse" / "0" / PARAMETERS])
    known = [_scale_of(view.name, scales, views) for view in views]
    if scales and not any(known):
        _log.warning(
            "%s: it names none of the photographs (%s): not used", PARAMETERS, strip_suffix(views[0].name)
        )
    priors: list[DepthPrior | None] = []
    for view, path, scale in zip(views, found, known, strict=True):
        prior = None if path is None else _read(view, path, config, scale)
        if path is None:
            _log.warning("%s: no depth map in %s: trained without one", view.name, folder)
        elif prior is None:
            _log.warning("%s: no number above 0 in the depth map: %s trains without one", path, view.name)
        priors.append(prior)
    return priors


def find_by_stem(
    folder: Path, names: Sequence[str], suffixes: Sequence[str], option: str
) -> list[Path | None]:
    """The file that belongs to each image name: below `folder` at its place, else by its last part alone.

    Args:
        folder: searched with its subfolders.
        names: images' names, with subfolders.
        suffixes: endings that count, the preferred one first.
        option: for messages.

    Raises:
        UserError: no such folder, no file belongs to any image, or two images would share one.
    """
    if not folder.is_dir():
        raise UserError(f"{option}: {folder}: expected a folder of maps, found none: check the path")
    files = _Files(folder, suffixes)
    matched = [files.find(name, option) for name in names]
    if not any(matched):
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "nothing"
        raise UserError(
            f"{option}: {folder}: no file fits an image: the images are {', '.join(list(names)[:3])} ..., "
            f"the folder holds {there}: name a map as its image (IMAGE.png, IMAGE.npy)"
        )
    owners: dict[Path, str] = {}
    for name, path in zip(names, matched, strict=True):
        if path is not None and owners.setdefault(path, name) != name:
            raise UserError(
                f"{option}: {path} fits both {owners[path]} and {name}: put maps in the images' subfolders"
            )
    return matched


class _Files:
    """The files of a folder by their names without one of some endings."""

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        self._exact: defaultdict[str, dict[int, Path]] = defaultdict(dict)
        self._alike: defaultdict[str, set[str]] = defaultdict(set)
        for relative, file in files_below(folder):
            rank = next((i for i, s in enumerate(suffixes) if relative.lower().endswith(s)), None)
            if rank is None:
                continue
            stem = relative[: -len(suffixes[rank])]
            for known in {stem, strip_suffix(stem)}:
                self._exact[known].setdefault(rank, file)
                self._alike[name_key(known)].add(known)

    def find(self, name: str, option: str) -> Path | None:
        """The file of an image: at its place, else by its last part; spelled the same, else alike.

        Raises:
            UserError: several are spelled alike, none the same.
        """
        plain = name.replace("\\", "/")
        last = PurePosixPath(plain).name
        bare = strip_suffix(plain)
        for key in (plain, bare, last, strip_suffix(last), bare.replace("/", "__")):
            alike = sorted(self._alike.get(name_key(key), ()))
            if key not in self._exact and len(alike) > 1:
                raise UserError(f"{option}: {name} could be {alike[0]} or {alike[1]}: keep only one of them")
            if alike:
                ranked = self._exact[key if key in self._exact else alike[0]]
                return ranked[min(ranked)]
        return None


@dataclass(frozen=True)
class _Scale:
    scale: float
    offset: float


def _scale_of(name: str, scales: dict[str, _Scale], views: Sequence[View]) -> _Scale | None:
    """A view's entry: by its name without the extension, else by the last part of that, where it is its own.

    Raises:
        UserError: two photographs share the last part.
    """
    whole = name_key(strip_suffix(name))
    if whole in scales:
        return scales[whole]
    last = whole.rpartition("/")[2]
    if last not in scales:
        return None
    same = [view.name for view in views if name_key(strip_suffix(view.name)).rpartition("/")[2] == last]
    if len(same) > 1:
        raise UserError(
            f"{PARAMETERS}: {last!r} could be {same[0]} or {same[1]}: write the names with their subfolders"
        )
    return scales[last]


def _read(view: View, path: Path, config: DepthConfig, known: _Scale | None) -> DepthPrior | None:
    file = read_depth(path)
    if not (file.confidence > 0).any():
        return None
    kind = file.kind if config.depth_kind == "auto" else config.depth_kind
    frame = file.frame if config.depth_frame == "auto" else config.depth_frame
    value = file.value
    if known is not None and kind == "inverse" and frame == "affine":
        if known.scale <= 0:
            _log.warning("%s: %s has no scale above 0: it trains without a prior", view.name, PARAMETERS)
            return None
        with np.errstate(over="ignore"):  # what float32 cannot hold counts as unknown
            value = np.where(file.confidence > 0, value * known.scale + known.offset, 0).astype(np.float32)
        value = np.where(np.isfinite(value) & (value >= LEAST), value, 0).astype(np.float32)
        frame = "world"
    check_shape(view, path, value.shape)
    confidence = np.where(value > 0, file.confidence, 0).astype(np.float32)
    prior = DepthPrior(torch.from_numpy(value), kind, frame, torch.from_numpy(confidence), "files")
    if view.undistortion is not None:
        if path.name.lower().endswith(COLMAP_SUFFIXES):
            raise UserError(
                f"{path}: expected photographs that COLMAP has undistorted, as this depth map belongs to "
                f"those, got {view.name} of a lens with distortion: train on COLMAP's dense folder (-s DENSE)"
            )
        prior = moved(prior, view.undistortion)
    return resized(prior, view.camera.width, view.camera.height)


def check_shape(view: View, path: Path, shape: tuple[int, ...]) -> None:
    """Refuses a map whose sides have another ratio than the photograph's, beyond rounding, or a tiny one."""
    (height, width), camera = shape, view.camera
    by_width, by_height = camera.height * width / camera.width, camera.width * height / camera.height
    rounding = 1.5 * max(1.0, width / camera.width, height / camera.height)  # of the smaller of the two
    other_shape = abs(by_width - height) > rounding and abs(by_height - width) > rounding
    if other_shape or LEAST_SIZE * width < camera.width:
        raise UserError(
            f"{path}: expected a map of {camera.width}x{camera.height} or of that shape in another size "
            f"(for {view.name}), got {width}x{height}: make it from the photograph that is trained on"
        )


def _read_scales(candidates: Sequence[Path]) -> dict[str, _Scale]:
    """Scale and offset by stem from the first file that is there.

    Raises:
        UserError: it is no such file.
    """
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        scales = {
            name_key(str(stem)): _Scale(float(entry["scale"]), float(entry["offset"]))
            for stem, entry in content.items()
            if isinstance(entry, dict)
        }
        if not all(math.isfinite(value.scale) and math.isfinite(value.offset) for value in scales.values()):
            raise ValueError("a number is not finite")
    except (
        OSError,
        ArithmeticError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path}: expected {{image stem: {{scale, offset}}}} as 3DGS writes it ({error}): "
            "mend or remove it"
        ) from error
    return scales
