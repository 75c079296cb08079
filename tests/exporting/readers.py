"""Programs of others that read the exported formats, each behind one function: path -> Splats.

What a program reads is written by it as a plain .ply, which our own reader takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import gsply
import numpy as np
import pytest

from exporting import Splats
from gaussian_model import load_ply


def with_gsply(path: Path, scratch: Path) -> Splats:
    """Compressed .ply and .spz; knows nothing of .spz's axes, which are turned back here."""
    if path.suffix == ".spz":
        data = gsply.read_spz(path)
    else:
        data = gsply.plyread(path)
    gsply.plywrite(scratch / "gsply.ply", data)
    return _turned(_loaded(scratch / "gsply.ply"), path)


def with_gaussforge(path: Path, scratch: Path) -> Splats:
    """All three; .spz by Niantic's library, with the axes as they lie in the file."""
    gaussforge = pytest.importorskip("gaussforge")
    kind = "compressed.ply" if path.suffix == ".ply" else path.suffix[1:]
    done = gaussforge.GaussForge().convert(path.read_bytes(), kind, "ply")
    assert "error" not in done, done
    (scratch / "gaussforge.ply").write_bytes(bytes(done["data"]))
    return _turned(_loaded(scratch / "gaussforge.ply"), path)


def with_splat_transform(path: Path, scratch: Path) -> Splats:
    """PlayCanvas's converter, which SuperSplat reads by; turns .spz's axes itself."""
    program = os.environ.get("SPLAT_TRANSFORM") or shutil.which("splat-transform")
    if program is None:
        pytest.skip(
            "no splat-transform on the path (npm install -g @playcanvas/splat-transform; or $SPLAT_TRANSFORM)"
        )
    target = scratch / "splat_transform.ply"
    done = subprocess.run(
        [program, "-w", str(path), str(target)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return _loaded(target)


def matched(read: Splats, written: Splats) -> Splats:
    """What was read, in the order in which it was written: formats have orders of their own."""
    from scipy.spatial import cKDTree

    assert len(read) == len(written)
    nearest = cKDTree(read.means).query(written.means)[1]
    assert len(np.unique(nearest)) == len(written), "the test's Gaussians stand too close to be told apart"
    return read.rows(nearest)


def turn_between(a: Splats, b: Splats) -> float:
    """The largest angle between two rotations of a Gaussian, radians."""
    cosines = np.abs((a.quats.astype(np.float64) * b.quats).sum(axis=1))
    return float(2.0 * np.arccos(np.clip(cosines, 0.0, 1.0)).max())


def _loaded(path: Path) -> Splats:
    return Splats.of(load_ply(path))


def _turned(splats: Splats, path: Path) -> Splats:
    """From right, up, back to right, down, front where the file is an .spz: half a turn about x."""
    if path.suffix != ".spz":
        return splats
    odd = np.array([name.count("y") % 2 ^ name.count("z") % 2 for name in _POLYNOMIALS], dtype=bool)
    signs = np.where(odd, -1.0, 1.0)[: splats.shN.shape[1], None]
    return Splats(
        (splats.means * np.array([1, -1, -1])).astype(np.float32),
        (splats.quats * np.array([1, 1, -1, -1])).astype(np.float32),
        splats.log_scales,
        splats.opacities,
        splats.sh0,
        (splats.shN * signs).astype(np.float32),
    )


# a monomial of each real spherical harmonic, degree 1 to 3, in the 3DGS family's order
_POLYNOMIALS = (
    *("y", "z", "x"),
    *("xy", "yz", "zz", "xz", "xx"),
    *("xxy", "xyz", "zzy", "zzz", "zzx", "zxx", "xxx"),
)
