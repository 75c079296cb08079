"""What other trainers' .ply files say beyond 3DGS's layout, and what is made of it.

- filter_3D: Mip-Splatting's smoothing in space; applied, so that the Gaussians are what it renders.
- no scale_2: surfels of 2DGS; taken as Gaussians of no thickness.
- comments of Brush, Postshot and SuperSplat on how the Gaussians are meant to be rendered: passed on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)
_MODE = re.compile(r"\s*(?:splatrendermode:\s*(\w+)|antialiased[ :]+(1|0|true|false))\s*", re.IGNORECASE)
_SURFELS = {"x", "y", "z", "f_dc_0", "opacity", "scale_0", "scale_1", "rot_0"}  # what tells them
FLAT = -30.0
"""Logarithm of a thickness that is none to a renderer."""

Columns = dict[str, NDArray[np.float32]]


def complete(path: Path, columns: Columns, comments: Sequence[str]) -> Columns:
    """The columns of plain 3DGS from those of a file, each [N]; says what is not as it seems.

    Args:
        path: the file's, for what is said.
        columns: as read, by property; opacity is a logit, scales are logarithms.
        comments: of its header.
    """
    surfels = _SURFELS <= set(columns) and "scale_2" not in columns
    if surfels:
        columns = {**columns, "scale_2": np.full_like(columns["scale_0"], FLAT)}
        _log.warning(
            "%s: surfels of 2D Gaussian splatting (no scale_2), taken as Gaussians of no thickness: pictures "
            "are near those of their trainer, not equal", path,
        )  # fmt: skip
    mode = _mode(comments)
    filtered = "filter_3D" in columns and {"opacity", "scale_0", "scale_1", "scale_2"} <= set(columns)
    if filtered:
        columns = _smoothed(columns)
        _log.info("%s: Mip-Splatting's filter_3D is applied to scales and opacities", path)
    if mode == "mip" or filtered:
        _log.warning(
            "%s: made for antialiased rendering (Mip-Splatting): without it, which is the default here, "
            "small and far Gaussians look thicker than their trainer meant", path,
        )  # fmt: skip
    elif mode == "2dgs" and not surfels:
        _log.warning("%s: made for 2D Gaussian splatting: pictures are near those, not equal", path)
    return columns


def _mode(comments: Sequence[str]) -> str:
    """How the Gaussians are meant to be rendered: default, mip or 2dgs; the last comment counts."""
    mode = "default"
    for comment in comments:
        if found := _MODE.fullmatch(comment):
            mode = found[1].lower() if found[1] else "mip" if found[2].lower() in ("1", "true") else "default"
    return mode


def _smoothed(columns: Columns) -> Columns:
    """Scales widened by the filter, and opacities lowered by as much as volume grows.

    The covariance S + f^2 I has the roots s_i^2 + f^2, and the opacity falls by the root of the quotient of
    the determinants (Mip-Splatting, Yu et al. 2024, equation 9).
    """
    names = ("scale_0", "scale_1", "scale_2")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        logs = np.stack([columns[name] for name in names]).astype(np.float64)
        wider = 0.5 * np.logaddexp(2.0 * logs, 2.0 * np.log(np.abs(columns["filter_3D"].astype(np.float64))))
        log_factor = (logs - wider).sum(axis=0)
        logit = columns["opacity"].astype(np.float64)
        log_opacity = log_factor - np.logaddexp(0.0, -logit)
        lowered = log_opacity - np.log(-np.expm1(log_opacity))
    new = {name: row.astype(np.float32) for name, row in zip(names, wider, strict=True)}
    return {**columns, **new, "opacity": lowered.astype(np.float32)}
