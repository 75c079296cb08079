"""Coloured points from a .ply file: COLMAP's fused.ply, any scanner's, or the Gaussians of a 3DGS trainer."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyParseError

from errors import UserError
from scene import Points, read_ply

_log = logging.getLogger(__name__)

_SH_C0 = 0.28209479177387814  # of the constant spherical harmonic, by which 3DGS stores colours


def read_points(path: Path) -> Points:
    """Positions and colours of a file's vertices; rows that are not finite are dropped with a warning.

    Colours are `red green blue` (0 to 255, or 0 to 1 if they are floats), or 3DGS's `f_dc_0..2`.

    Raises:
        UserError: it cannot be read, is no .ply, or has no vertices, positions or colours.
    """
    try:
        vertices = read_ply(path)["vertex"].data
    except (PlyParseError, KeyError, ValueError, OSError, OverflowError, MemoryError, TypeError) as error:
        raise UserError(f"--init: {path}: expected a .ply file with vertices: {error}") from error
    fields = set(vertices.dtype.names or ())
    colours = next(
        (c for c in (("red", "green", "blue"), ("f_dc_0", "f_dc_1", "f_dc_2")) if fields >= set(c)), None
    )
    if not fields >= {"x", "y", "z"} or colours is None:
        raise UserError(
            f"--init: {path}: expected vertices with x y z and red green blue (or f_dc_0..2), "
            f"got {', '.join(sorted(fields)) or 'nothing'}"
        )
    lists = [name for name in (*"xyz", *colours) if vertices.dtype[name].kind not in "fiu"]
    if lists:
        raise UserError(
            f"--init: {path}: {lists[0]}: expected one number a vertex, got lists: export it anew"
        )
    xyz = np.stack([np.asarray(vertices[name], np.float64) for name in "xyz"], -1)
    rgb = np.stack([np.asarray(vertices[name], np.float64) for name in colours], -1)
    if colours[0] == "f_dc_0":
        rgb = rgb * _SH_C0 + 0.5
    elif vertices.dtype["red"].kind in "iu":
        rgb = rgb / np.iinfo(vertices.dtype["red"]).max
    elif np.nanmax(rgb, initial=0.0) > 2.0:
        _log.warning("%s: its colours are floats above 1: taken for 0 to 255", path)
        rgb = rgb / 255.0
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
        xyz = xyz.astype(np.float32)
    finite: NDArray[np.bool_] = np.isfinite(np.concatenate([xyz, rgb], 1)).all(1)
    if not finite.all():
        _log.warning("%s: dropped %d of %d points that are not finite", path, (~finite).sum(), len(finite))
    if not finite.any():
        raise UserError(
            f"--init: {path}: it holds no usable point; give another file, or auto, sfm, mvs or random"
        )
    return Points(
        torch.from_numpy(xyz[finite]).float(), torch.from_numpy(rgb[finite]).float().clamp(0.0, 1.0)
    )
