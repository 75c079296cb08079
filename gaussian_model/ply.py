"""Gaussians as .ply files in the layout of 3DGS, which viewers and other trainers share.

Properties in order: x y z, nx ny nz (zero), f_dc_0..2, f_rest_* (channel-major: all red
coefficients, then green, then blue), opacity (logit), scale_0..2 (log), rot_0..3 (wxyz). Written are
f32, little endian; read is any order, type and encoding, PlayCanvas's compressed files (packed_ply.py) and
variants of other trainers (ply_variants.py); what else a file holds is ignored.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElementParseError, PlyHeaderParseError, PlyParseError

from atomic import atomic_write
from errors import UserError
from gaussian_model.gaussians import Gaussians
from gaussian_model.packed_ply import PackedError, is_packed, unpacked
from gaussian_model.ply_variants import Columns, complete
from gaussian_model.spherical_harmonics import degree_of
from scene import read_ply

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1 << 16
_TOLERATED = 0.01  # part of the rows that may be dropped as non-finite
_CEILING = 30.0  # finite stand-in for an infinite logit or logarithm: sigmoid(30) rounds to 1 in f32
_FIELDS = (
    *("x", "y", "z"),
    *(f"f_dc_{i}" for i in range(3)),
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)
_EXTRA = {"filter_3D"}
_AGAIN = "export the Gaussians again as an uncompressed 3DGS .ply"
_OTHERS = {  # how other files begin that hold Gaussians
    b"PK\x03": "a zip archive (a .sog?)",
    b"\x1f\x8b\x08": "gzip data (an .spz?)",
    b"NGS": "an .spz",
    b"glT": "a binary glTF (.glb)",
}


class PlyError(UserError):
    """A .ply file that holds no usable Gaussians."""


def save_ply(path: Path, gaussians: Gaussians) -> None:
    """Write a file that is whole or not there at all.

    It is written beside `path`, flushed to the disk and renamed, so that a crash or a full disk leaves
    an earlier file intact.

    Args:
        path: replaced if it exists; its folder is made where missing.
        gaussians: N may be 0. Values are written as they are stored.

    Raises:
        OSError: the disk is full or not writable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.cpu() for key, value in gaussians.state_dict().items()}
    rest = 3 * state["shN"].shape[1]
    names = (
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]

    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        for first in range(0, len(gaussians), _ROWS_AT_ONCE):
            part = {key: value[first : first + _ROWS_AT_ONCE] for key, value in state.items()}
            rows = len(part["means"])
            columns = [
                part["means"],
                torch.zeros(rows, 3),
                part["sh0"].reshape(rows, 3),
                part["shN"].transpose(1, 2).reshape(rows, rest),
                part["opacities"].unsqueeze(-1),
                part["scales"],
                part["quats"],
            ]
            file.write(torch.cat(columns, dim=1).numpy().astype("<f4").tobytes())


def load_ply(path: Path) -> Gaussians:
    """Read Gaussians that this or another trainer wrote.

    Args:
        path: ascii or binary, any order and type of properties, or compressed as PlayCanvas does. Normals are
            not needed; without f_rest the SH degree is 0. Infinite opacities and scales (opaque, flat) are
            brought to finite ones. What other trainers mean otherwise is brought to 3DGS's meaning, see
            `ply_variants`.

    Returns:
        Gaussians on the CPU, f32. Rows with another non-finite value are dropped with a warning.

    Raises:
        PlyError: names what is wrong: no file, no ply, cut short, a plain point cloud, missing fields, an
            unknown kind of compression, an SH count of no degree, or 1 % and more non-finite rows.
    """
    path = Path(path)
    columns = _read_columns(path)
    names = set(columns)
    missing = [name for name in _FIELDS if name not in names]
    if missing:
        if {"x", "y", "z"} <= names and not any(n.startswith(("f_dc", "scale_", "rot_")) for n in names):
            raise PlyError(
                f"{path}: a plain point cloud, not Gaussians (no f_dc, opacity, scale, rot): "
                "name a point_cloud.ply that a Gaussian splatting trainer wrote"
            )
        raise PlyError(f"{path}: expected Gaussians, but {', '.join(missing)} is missing: {_AGAIN}")
    rest = _rest_names(path, names)
    count = len(columns["x"])

    def together(*wanted: str) -> np.ndarray:
        stacked = np.empty((count, len(wanted)), dtype=np.float32)
        for index, name in enumerate(wanted):
            stacked[:, index] = columns[name]
        return stacked

    tensors = {
        "means": together("x", "y", "z"),
        "quats": together(*(f"rot_{i}" for i in range(4))),
        "scales": _finite_ends(together(*(f"scale_{i}" for i in range(3)))),
        "opacities": _finite_ends(together("opacity"))[:, 0],
        "sh0": together(*(f"f_dc_{i}" for i in range(3)))[:, None, :],
        "shN": together(*rest).reshape(count, 3, len(rest) // 3).transpose(0, 2, 1),
    }
    return Gaussians(_drop_non_finite(path, {key: torch.from_numpy(v.copy()) for key, v in tensors.items()}))


def _read_columns(path: Path) -> Columns:
    """The properties of the Gaussians by name, as in a plain 3DGS file, f32, [N] each.

    Raises:
        PlyError: says what the file is instead.
    """
    ply = _read(path)
    elements = {element.name: element for element in ply.elements}
    if "vertex" not in elements:
        raise PlyError(f"{path}: no element 'vertex': name a 3DGS .ply")
    vertex = elements["vertex"].data
    names = set(vertex.dtype.names or ())
    try:
        with np.errstate(over="ignore"):  # a double beyond f32 becomes infinite, and is counted later
            if is_packed(names):
                columns = unpacked({name: element.data for name, element in elements.items()})
                log.info("%s: compressed: its Gaussians are rounded to 128 bits each", path)
            else:
                wanted = [name for name in names if name in _FIELDS or name.startswith("f_rest_")]
                wanted += names & _EXTRA
                columns = {name: vertex[name].astype(np.float32, copy=False) for name in wanted}
    except PackedError as error:
        raise PlyError(
            f"{path}: a compressed .ply of an unknown layout ({error}): convert it to a plain one, e.g. `npx "
            "@playcanvas/splat-transform in.ply out.ply`, or export it from SuperSplat uncompressed"
        ) from error
    except (TypeError, ValueError) as error:  # a list property among those we need
        raise PlyError(f"{path}: expected one number per property, got a list: {_AGAIN}") from error
    return complete(path, columns, [*ply.comments, *elements["vertex"].comments])


def _read(path: Path) -> PlyData:
    """The whole file, or a PlyError that says what it is instead."""
    if not path.is_file():
        raise PlyError(f"{path}: no such file: name a 3DGS .ply")
    with path.open("rb") as file:
        start = file.read(3)
    if start != b"ply":
        known = _OTHERS.get(start)
        if known is not None:
            raise PlyError(
                f"{path}: not a .ply file but {known}: convert it first, e.g. `npx "
                f"@playcanvas/splat-transform {path.name} out.ply`"
            )
        raise PlyError(f"{path}: not a .ply file (it does not begin with 'ply'): name a 3DGS .ply")
    try:
        return read_ply(path)
    except PlyHeaderParseError as error:
        raise PlyError(f"{path}: its header cannot be read ({_one_line(error)}): {_AGAIN}") from error
    except PlyElementParseError as error:
        raise PlyError(f"{path}: cut short or damaged ({_one_line(error)}): {_AGAIN}") from error
    except (PlyParseError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise PlyError(f"{path}: cut short or damaged ({_one_line(error)}): {_AGAIN}") from error


def _rest_names(path: Path, names: set[str]) -> list[str]:
    """f_rest_0.. in order, whose number must be that of an SH degree."""
    count = sum(name.startswith("f_rest_") for name in names)
    ordered = [f"f_rest_{i}" for i in range(count)]
    absent = [name for name in ordered if name not in names]
    if absent:
        raise PlyError(f"{path}: {count} f_rest fields, but {absent[0]} is missing: {_AGAIN}")
    if count % 3 or degree_of(1 + count // 3) is None:
        raise PlyError(
            f"{path}: expected 0, 9, 24, 45 or 72 f_rest fields (SH degree 0 to 4), got {count}: {_AGAIN}"
        )
    return ordered


def _finite_ends(values: np.ndarray) -> np.ndarray:
    """Infinite logits and logarithms (opaque, transparent, flat) as large finite ones; NaN stays."""
    return np.where(np.isinf(values), np.copysign(np.float32(_CEILING), values), values)


def _drop_non_finite(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the rows that hold a non-finite value; an error where these are too many."""
    rows = len(tensors["means"])
    finite = torch.ones(rows, dtype=torch.bool)
    for value in tensors.values():
        finite &= value.isfinite().reshape(rows, math.prod(value.shape[1:])).all(dim=1)
    bad = rows - int(finite.sum())
    if bad == 0:
        return tensors
    if bad >= _TOLERATED * rows:
        raise PlyError(
            f"{path}: {bad} of {rows} Gaussians hold NaN or infinite values: the training that wrote it had "
            "failed, or the file is damaged: take an earlier iteration"
        )
    log.warning("%s: dropped %d of %d Gaussians with NaN or infinite values", path, bad, rows)
    return {key: value[finite] for key, value in tensors.items()}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
