"""Reads PlayCanvas's compressed .ply (SuperSplat, splat-transform, and this program's own exports).

Chunks of 256 Gaussians hold the bounds of positions, log scales and, in newer files, colours; within them a
Gaussian takes four words of 32 bits. SH coefficients, where there are any, are bytes in an element of their
own. What comes out is the columns of a plain 3DGS file, as exact as the words are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gaussian_model.spherical_harmonics import C0

CHUNK = 256
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_AXES = ("x", "y", "z")
_SCALE_AXES = ("scale_x", "scale_y", "scale_z")
_CHANNELS = ("r", "g", "b")
_LARGEST_SCALE = 20.0  # bounds of log scales beyond it are cut, as every reader does

Floats = NDArray[np.float64]


class PackedError(ValueError):
    """A compressed file of a layout that is not known; the message says what is missing."""


def is_packed(names: set[str]) -> bool:
    """Whether an element `vertex` of these properties is a compressed one."""
    return any(name.startswith("packed_") for name in names)


def unpacked(elements: Mapping[str, np.ndarray]) -> dict[str, NDArray[np.float32]]:
    """The columns x y z, f_dc_*, f_rest_*, opacity (logit), scale_* (log), rot_* (wxyz), each [N].

    Args:
        elements: the file's, as structured arrays: vertex, chunk, and sh where there is one.

    Raises:
        PackedError: an element or a property is missing, or their lengths do not go together.
    """
    vertex, sh = elements["vertex"], elements.get("sh")
    missing = [name for name in WORDS if name not in _names(vertex)]
    if "chunk" not in elements:
        missing.append("the element chunk")
    if missing:
        raise PackedError(f"{', '.join(missing)} missing")
    chunk, count = elements["chunk"], len(vertex)
    if len(chunk) != math.ceil(count / CHUNK):
        raise PackedError(
            f"{len(chunk)} chunks for {count} Gaussians, expected one for every {CHUNK}: "
            f"{math.ceil(count / CHUNK)}"
        )
    words = {name: vertex[name].astype(np.uint32) for name in WORDS}
    place = _spread(chunk, words["packed_position"], _AXES)
    scale = _spread(chunk, words["packed_scale"], _SCALE_AXES, limit=_LARGEST_SCALE)
    colour = _fields(words["packed_color"], (8, 8, 8, 8))
    if "min_r" in _names(chunk):
        low, high = _bounds(chunk, _CHANNELS, count)
        colour[:, :3] = low + colour[:, :3] * (high - low)
    with np.errstate(divide="ignore"):  # fully transparent and opaque: infinite logits
        opacity = np.log(colour[:, 3]) - np.log1p(-colour[:, 3])
    columns = {
        **dict(zip(_AXES, place.T, strict=True)),
        **{f"f_dc_{i}": (colour[:, i] - 0.5) / C0 for i in range(3)},
        "opacity": opacity,
        **{f"scale_{i}": scale[:, i] for i in range(3)},
        **{f"rot_{i}": part for i, part in enumerate(_rotations(words["packed_rotation"]).T)},
    }
    if sh is not None and _names(sh):  # gsplat writes the element without properties at degree 0
        if len(sh) != count:
            raise PackedError(f"{len(sh)} rows of SH coefficients for {count} Gaussians")
        columns |= {name: _coefficients(sh[name]) for name in sorted(_names(sh))}
    return {name: value.astype(np.float32) for name, value in columns.items()}


def _names(element: np.ndarray) -> set[str]:
    return set(element.dtype.names or ())


def _fields(words: NDArray[np.uint32], bits: tuple[int, ...]) -> Floats:
    """Numbers in [0, 1] out of words, the highest bits first: [N, len(bits)]."""
    out, shift = np.empty((len(words), len(bits))), 32
    for i, width in enumerate(bits):
        shift -= width
        top = (1 << width) - 1
        out[:, i] = ((words >> np.uint32(shift)) & np.uint32(top)) / top
    return out


def _bounds(chunk: np.ndarray, names: tuple[str, ...], count: int) -> tuple[Floats, Floats]:
    """Each Gaussian's chunk's least and largest values, [N, 3] each.

    Raises:
        PackedError: one is missing.
    """
    row, ends = np.arange(count) // CHUNK, []
    for end in ("min", "max"):
        missing = [f"{end}_{name}" for name in names if f"{end}_{name}" not in _names(chunk)]
        if missing:
            raise PackedError(f"{', '.join(missing)} of the chunks missing")
        ends.append(np.stack([chunk[f"{end}_{name}"].astype(np.float64)[row] for name in names], axis=1))
    return ends[0], ends[1]


def _spread(
    chunk: np.ndarray, words: NDArray[np.uint32], names: tuple[str, ...], limit: float = math.inf
) -> Floats:
    """Values [N, 3] between the bounds of their chunks, which are cut to +-limit."""
    low, high = (end.clip(-limit, limit) for end in _bounds(chunk, names, len(words)))
    share = _fields(words, (11, 10, 11))
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite bounds: said with the file
        return low * (1.0 - share) + high * share


def _rotations(words: NDArray[np.uint32]) -> Floats:
    """Unit quaternions [N, 4]: which part is the largest (it is positive), and the three others."""
    largest = (words >> np.uint32(30)).astype(np.int64)
    others = (_fields(words << np.uint32(2), (10, 10, 10)) - 0.5) * math.sqrt(2.0)
    rest = np.sqrt(np.maximum(0.0, 1.0 - (others**2).sum(1)))
    out, row = np.empty((len(words), 4)), np.arange(len(words))
    out[row, largest] = rest
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    out[row[:, None], places] = others
    return out


def _coefficients(stored: np.ndarray) -> Floats:
    """SH coefficients of bytes: the middles of 256 steps over [-4, 4]; the first and last are its ends."""
    steps = (stored.astype(np.float64) + 0.5) / 256.0
    steps = np.where(stored == 0, 0.0, np.where(stored == 255, 1.0, steps))
    return (steps - 0.5) * 8.0
