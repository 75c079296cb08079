"""Headers of .ply files: those that would take minutes to read, and comments in any encoding."""

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


@pytest.mark.parametrize("word", ["größe", "C:\\写真"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_comments_may_say_anything(tmp_path, word, encoding):
    vertex = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    vertex["y"] = np.arange(3)
    path = tmp_path / "a.ply"
    PlyData([PlyElement.describe(vertex, "vertex")], comments=["WORD"], obj_info=["WORD"]).write(str(path))
    path.write_bytes(path.read_bytes().replace(b"WORD", word.encode(encoding)))
    assert np.array_equal(read_ply(path)["vertex"].data, vertex)
    path.write_bytes(path.read_bytes().replace(b"property float y", "property float ÿ".encode()))
    with pytest.raises(UnicodeDecodeError):
        read_ply(path)
