"""The few facts about spherical harmonics (SH) that the model's parameters need.

Evaluating SH belongs to the rasterizer; here is only the count of coefficients and the constant
band, which is how a plain colour is written as a coefficient.
"""

from __future__ import annotations

import math

from torch import Tensor

C0 = 0.28209479177387814
"""Value of the constant basis function, 1 / (2 sqrt(pi)). Colour = C0 * coefficient + 0.5 (3DGS)."""

MAX_DEGREE = 4
"""The highest degree that the rasterizers evaluate."""


def basis_count(degree: int) -> int:
    """Number K of SH basis functions up to and including `degree`."""
    return (degree + 1) ** 2


def degree_of(bases: int) -> int | None:
    """The degree that has exactly `bases` basis functions, or None where there is none up to MAX_DEGREE."""
    degree = math.isqrt(bases) - 1 if bases > 0 else -1
    return degree if 0 <= degree <= MAX_DEGREE and basis_count(degree) == bases else None


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Coefficient of the constant band for a colour in [0, 1]; any shape."""
    return (rgb - 0.5) / C0


def sh_to_rgb(coefficient: Tensor) -> Tensor:
    """Colour of a constant-band coefficient, not clamped; any shape."""
    return coefficient * C0 + 0.5
