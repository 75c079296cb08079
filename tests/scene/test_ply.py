"""Headers of .ply files that would take minutes to read."""

from __future__ import annotations

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from depth_priors.point_file import read_points
from errors import UserError
from gaussian_model import load_ply
from scene import read_ply

LONG = {
    "a line": b"ply\nformat ascii 1.0\ncomment " + b"x" * 300_000 + b"\nend_header\n",
    "elements": b"ply\nformat ascii 1.0\n" + b"element vertex 0\n" * 50_000 + b"end_header\n",
    "no end": b"ply\n" * 100_000,
}


@pytest.mark.parametrize("content", LONG.values(), ids=LONG)
@pytest.mark.parametrize("read", [load_ply, read_points])
def test_a_header_without_end_is_refused_at_once(tmp_path, content, read):
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.ply.* does not end within 256 KiB"):
        read(path)


def test_a_large_file_with_a_header_like_any_is_read(tmp_path):
    vertex = np.zeros(100_000, [("x", "f4"), ("y", "f4")])
    vertex["y"] = np.arange(100_000)
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    assert (tmp_path / "a.ply").stat().st_size > 1 << 18
    assert np.array_equal(read_ply(tmp_path / "a.ply")["vertex"].data, vertex)
