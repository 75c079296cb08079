"""Compressed `.ply`: PlayCanvas's layout, which SuperSplat and most web viewers read.

Gaussians stand along a space-filling curve in chunks of 256. A chunk holds the bounds of its positions,
log scales and colours as float32; within them a Gaussian takes 16 bytes: position and log scale in
11 + 10 + 11 bits each, colour and opacity in 8 bits each, and of the quaternion (w x y z) the three smaller
parts in 10 bits each and which is the largest in 2. SH coefficients follow as bytes over [-4, 4].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from exporting.splats import Floats, Splats, morton_order
from gaussian_model.spherical_harmonics import C0

MAX_DEGREE = 3
CHUNK = 256
_MAX_LOG_SCALE = 20.0  # what readers take for the bounds of log scales
_BOUNDS = (
    *(f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"),
    *(f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"),
    *(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"),
)
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def encode(splats: Splats) -> bytes:
    """The file's bytes."""
    splats = splats.up_to_degree(min(splats.degree, MAX_DEGREE)).rows(morton_order(splats.means))
    n, rest = len(splats), 3 * splats.shN.shape[1]
    bounds, vertices = [], np.empty((n, 4), dtype="<u4")
    colours = splats.sh0 * np.float32(C0) + np.float32(0.5)
    scales = splats.log_scales.clip(-_MAX_LOG_SCALE, _MAX_LOG_SCALE)
    for column, values in ((0, splats.means), (2, scales), (3, colours)):
        low, high = _bounds(values)
        bounds += [low, high]
        within = _within(values, low, high)
        if column == 3:
            vertices[:, 3] = _joined([*within.T, splats.opacities], (8, 8, 8, 8))
        else:
            vertices[:, column] = _joined([*within.T], (11, 10, 11))
    vertices[:, 1] = _smallest_three(splats.quats)

    header = ["ply", "format binary_little_endian 1.0", "comment Fewsplat"]
    header += [f"element chunk {math.ceil(n / CHUNK)}", *(f"property float {name}" for name in _BOUNDS)]
    header += [f"element vertex {n}", *(f"property uint {name}" for name in _PACKED)]
    if rest:
        header += [f"element sh {n}", *(f"property uchar f_rest_{i}" for i in range(rest))]
    parts = ["\n".join([*header, "end_header", ""]).encode("ascii")]
    parts += [np.concatenate(bounds, axis=1).astype("<f4").tobytes(), vertices.tobytes()]
    if rest:  # channel-major, as in the uncompressed .ply; read as (byte + 0.5) / 32 - 4
        by_channel = splats.shN.transpose(0, 2, 1).reshape(n, rest)
        parts.append(np.clip(np.floor((by_channel + 4.0) * 32.0), 0, 255).astype(np.uint8).tobytes())
    return b"".join(parts)


def _bounds(values: Floats) -> tuple[Floats, Floats]:
    """Smallest and largest [chunks, 3] of each chunk of values [n, 3]."""
    starts = np.arange(0, len(values), CHUNK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _within(values: Floats, low: Floats, high: Floats) -> NDArray[np.float64]:
    """Where values [n, 3] lie between the bounds of their chunks, in [0, 1]; 0 where these are equal."""
    chunk = np.arange(len(values)) // CHUNK
    from_, size = low.astype(np.float64)[chunk], (high.astype(np.float64) - low)[chunk]
    return np.where(size > 0, (values - from_) / np.where(size > 0, size, 1.0), 0.0)


def _joined(parts: list[np.ndarray], bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """Numbers in [0, 1], rounded to so many bits each, side by side in 32; the first is the highest."""
    out = np.zeros(len(parts[0]), dtype=np.uint32)
    for part, width in zip(parts, bits, strict=True):
        top = (1 << width) - 1
        out = (out << np.uint32(width)) | np.clip(np.round(part * float(top)), 0, top).astype(np.uint32)
    return out


def _smallest_three(quats: Floats) -> NDArray[np.uint32]:
    """Unit quaternions [n, 4] in 32 bits: index of the largest part, then the others over +-sqrt(1/2)."""
    n = np.arange(len(quats))
    largest = np.abs(quats).argmax(axis=1)
    quats = quats * np.where(quats[n, largest] < 0, -1.0, 1.0)[:, None]
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    smaller = quats[n[:, None], others] * math.sqrt(0.5) + 0.5
    return (largest.astype(np.uint32) << np.uint32(30)) | _joined([*smaller.T], (10, 10, 10))
