"""`.spz`: Niantic's format, about a tenth of the .ply's size; written from its public description.

A gzip stream: a header of 16 bytes, then one block for each quantity: positions (24-bit fixed point),
opacities, colours, log scales (a byte each), rotations, SH coefficients. Axes are right, up, back, where
the .ply of 3DGS has right, down, front: y and z, and what is odd in them, change their sign.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from errors import UserError
from exporting.splats import Floats, Splats, morton_order

MAX_DEGREE = 3  # of versions 2 and 3
Version = Literal[2, 3]
_MAGIC = 0x5053474E  # "NGSP"
_ANTIALIASED = 1  # flag
_COLOUR_SCALE = 0.15  # bytes hold 0.5 + 0.15 of the coefficient, so that they reach beyond [0, 1]
_LARGEST = 2**23 - 1
_GZIP_LEVEL = 6  # 9 takes six times as long and saves 2 %
_MAX_FRACTION_BITS = 20
_WITHIN = 0.999  # part of the Gaussians whose distance decides the unit of positions
_SH_BITS = (5, 4, 4)  # kept of each coefficient's byte, by degree; the zeros compress
# the coefficients' signs under (x, y, z) -> (x, -y, -z): whether each polynomial is odd in y and z together
_SH_SIGNS = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], dtype=np.float32)


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and how many Gaussians stood too far away to be in it."""

    content: bytes
    too_far: int


def encode(splats: Splats, *, antialiased: bool = False, version: Version = 3) -> Encoded:
    """Encodes as version 3, or as version 2 with coarser rotations for readers of before 2025.

    Args:
        splats: N Gaussians.
        antialiased: they were trained with a compensated screen filter; viewers should draw them so.
        version: of the format.

    Raises:
        UserError: positions beyond the format's range.
    """
    splats = splats.up_to_degree(min(splats.degree, MAX_DEGREE))
    bits = _fraction_bits(splats.means)
    fits = np.abs(splats.means).max(axis=1) <= _LARGEST / 2.0**bits
    if np.mean(fits) < 0.99:
        raise UserError(
            f"spz: positions reach {np.abs(splats.means).max():.3g}, and the format ends at "
            f"{_LARGEST / 2**bits:.3g}: export another format, or train on a scene in a larger unit"
        )
    splats = splats.rows(np.flatnonzero(fits)[morton_order(splats.means[fits])])
    positions = splats.means * np.array([1.0, -1.0, -1.0])
    quats = splats.quats * np.array([1.0, 1.0, -1.0, -1.0])
    coefficients = splats.shN * _SH_SIGNS[: splats.shN.shape[1], None]
    flags = _ANTIALIASED if antialiased else 0
    blocks = [
        struct.pack("<IIIBBBB", _MAGIC, version, len(splats), splats.degree, bits, flags, 0),
        _three_bytes(np.round(positions * 2.0**bits).astype(np.int32)),
        _byte(splats.opacities * 255.0),
        _byte((splats.sh0 * _COLOUR_SCALE + 0.5) * 255.0),
        _byte((splats.log_scales + 10.0) * 16.0),
        _smallest_three(quats) if version == 3 else _first_three(quats),
        _sh_bytes(coefficients),
    ]
    return Encoded(gzip.compress(b"".join(blocks), _GZIP_LEVEL, mtime=0), int(np.sum(~fits)))


def _fraction_bits(means: Floats) -> int:
    """The finest power of two that positions can be counted in, so that all but a few stray ones fit."""
    reach = float(np.quantile(np.abs(means).max(axis=1), _WITHIN, method="higher"))
    room = math.floor(math.log2(_LARGEST / reach)) if reach > 0 else _MAX_FRACTION_BITS
    return max(1, min(_MAX_FRACTION_BITS, room))


def _three_bytes(values: NDArray[np.int32]) -> bytes:
    """The lower three bytes of each, little endian."""
    return np.ascontiguousarray(values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]).tobytes()


def _byte(values: np.ndarray) -> bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()


def _first_three(quats: NDArray[np.float64]) -> bytes:
    """X y z as bytes over [-1, 1], with w >= 0 left to be found from the length."""
    return _byte((quats[:, 1:] * np.where(quats[:, :1] < 0, -1.0, 1.0) + 1.0) * 127.5)


def _smallest_three(quats: NDArray[np.float64]) -> bytes:
    """Index of the largest part of x y z w, then the others: a sign and 9 bits over sqrt(1/2) each."""
    xyzw = np.roll(quats, -1, axis=1)
    n = np.arange(len(xyzw))
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.where(xyzw[n, largest] < 0, -1.0, 1.0)[:, None]
    size = np.clip(np.round(np.abs(xyzw) * math.sqrt(2.0) * 511.0), 0, 511).astype(np.uint32)
    part = (xyzw < 0).astype(np.uint32) << np.uint32(9) | size
    packed = largest.astype(np.uint32)
    for axis in range(4):
        packed = np.where(largest == axis, packed, packed << np.uint32(10) | part[:, axis])
    return packed.astype("<u4").tobytes()


def _sh_bytes(coefficients: Floats) -> bytes:
    """Bytes around 128 over [-1, 1], rounded to the bits that are kept; the channels of one stay together."""
    steps = np.concatenate(
        [np.full(2 * degree + 1, 1 << (8 - bits)) for degree, bits in enumerate(_SH_BITS, start=1)]
    )[: coefficients.shape[1], None]
    return np.clip(np.round(coefficients * 128.0 / steps) * steps + 128.0, 0, 255).astype(np.uint8).tobytes()
