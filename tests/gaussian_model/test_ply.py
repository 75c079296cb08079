"""Round trips, foreign readers and writers, and every way in which a file can be wrong."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
from gsplat.exporter import export_splats
from plyfile import PlyData, PlyElement

from gaussian_model import KEYS, Gaussians, PlyError, load_ply, save_ply
from tests.gaussian_model.models import random_gaussians


def rewrite(
    source: Path, target: Path, *, drop=(), text=False, byte_order="<", dtype="f4", order=None
) -> Path:
    """Writes a file's vertices again, with other fields, types or encoding."""
    data = PlyData.read(str(source))["vertex"].data
    names = [n for n in (order or data.dtype.names) if n not in drop]
    out = np.empty(len(data), dtype=[(n, dtype) for n in names])
    for name in names:
        out[name] = data[name] if name in data.dtype.names else 1.0
    PlyData([PlyElement.describe(out, "vertex")], text=text, byte_order=byte_order).write(str(target))
    return target


def assert_equal(a: Gaussians, b: Gaussians) -> None:
    for key in KEYS:
        assert torch.equal(a.params[key], b.params[key]), key


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 70_000])  # the last is more than is written at once
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, degree, count):
    if count > 1 and degree not in (0, 1):
        count = 100
    gaussians = random_gaussians(count, degree)
    save_ply(tmp_path / "new" / "a.ply", gaussians)
    assert_equal(load_ply(tmp_path / "new" / "a.ply"), gaussians)
    assert os.listdir(tmp_path / "new") == ["a.ply"]


def test_fields_are_in_the_order_of_3dgs_and_colours_channel_major(tmp_path):
    gaussians = random_gaussians(5, degree=3)
    save_ply(tmp_path / "a.ply", gaussians)
    ply = PlyData.read(str(tmp_path / "a.ply"))
    assert ply.byte_order == "<" and not ply.text
    vertex = ply["vertex"]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(45)] + ["opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    assert [p.name for p in vertex.properties] == names
    assert all(p.val_dtype == "f4" for p in vertex.properties)
    rest = gaussians.params["shN"].detach().numpy()
    for channel in range(3):
        for basis in range(15):
            np.testing.assert_array_equal(vertex[f"f_rest_{15 * channel + basis}"], rest[:, basis, channel])
    np.testing.assert_array_equal(vertex["opacity"], gaussians.params["opacities"].detach().numpy())
    np.testing.assert_array_equal(vertex["rot_0"], gaussians.params["quats"].detach().numpy()[:, 0])


@pytest.mark.parametrize("degree", [0, 3])
def test_an_independent_reader_reads_equal_values(tmp_path, degree):
    gaussians = random_gaussians(50, degree)
    save_ply(tmp_path / "a.ply", gaussians)
    data = gsply.plyread(tmp_path / "a.ply")
    state = {key: value.numpy() for key, value in gaussians.state_dict().items()}
    np.testing.assert_array_equal(data.means, state["means"])
    np.testing.assert_array_equal(data.quats, state["quats"])
    np.testing.assert_array_equal(data.scales, state["scales"])
    np.testing.assert_array_equal(data.opacities, state["opacities"])
    np.testing.assert_array_equal(data.sh0, state["sh0"][:, 0])
    if degree:
        np.testing.assert_array_equal(data.shN, state["shN"])


@pytest.mark.parametrize("degree", [0, 2])
def test_a_file_of_gsplats_exporter_reads_with_equal_values(tmp_path, degree):
    gaussians = random_gaussians(30, degree)
    export_splats(
        **{key: value.detach() for key, value in gaussians.params.items()},
        format="ply",
        save_to=str(tmp_path / "a.ply"),
    )
    assert_equal(load_ply(tmp_path / "a.ply"), gaussians)


@pytest.mark.parametrize(
    "options",
    [
        {"text": True},
        {"byte_order": ">"},
        {"dtype": "f8"},
        {"drop": ("nx", "ny", "nz")},
        {"text": True, "dtype": "f8"},
    ],
    ids=str,
)
def test_other_encodings_types_and_missing_normals_read_the_same(tmp_path, options):
    gaussians = random_gaussians(20, degree=1)
    save_ply(tmp_path / "a.ply", gaussians)
    # Text is written with 17 digits of the f32: exact.
    assert_equal(load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", **options)), gaussians)


def test_properties_in_any_order_and_foreign_ones_beside_them(tmp_path):
    gaussians = random_gaussians(20, degree=1)
    save_ply(tmp_path / "a.ply", gaussians)
    names = list(PlyData.read(str(tmp_path / "a.ply"))["vertex"].data.dtype.names)[::-1]
    names[3:3] = ["red", "confidence"]
    assert_equal(load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", order=names)), gaussians)


def test_no_f_rest_is_degree_zero(tmp_path):
    save_ply(tmp_path / "a.ply", random_gaussians(4, degree=1))
    rest = tuple(f"f_rest_{i}" for i in range(9))
    assert load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", drop=rest)).max_sh_degree == 0


def test_a_write_that_fails_leaves_the_earlier_file_and_no_litter(tmp_path, monkeypatch):
    before = random_gaussians(5)
    save_ply(tmp_path / "a.ply", before)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_ply(tmp_path / "a.ply", random_gaussians(9))
    assert os.listdir(tmp_path) == ["a.ply"]
    assert_equal(load_ply(tmp_path / "a.ply"), before)


def test_every_cut_of_a_file_is_an_error(tmp_path):
    save_ply(tmp_path / "a.ply", random_gaussians(3, degree=0))
    whole = (tmp_path / "a.ply").read_bytes()
    cut = tmp_path / "cut.ply"
    for length in [*range(0, 60, 7), *range(60, len(whole), 29), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(PlyError, match=r"cut\.ply: (not a|its header|cut short|no element)"):
            load_ply(cut)


@pytest.mark.parametrize("text", [False, True])
def test_a_header_that_promises_too_much_is_cut_short_not_out_of_memory(tmp_path, text):
    save_ply(tmp_path / "a.ply", random_gaussians(3, degree=0))
    path = rewrite(tmp_path / "a.ply", tmp_path / "b.ply", text=text)
    path.write_bytes(path.read_bytes().replace(b"element vertex 3", b"element vertex 99999999999999"))
    with pytest.raises(PlyError, match="cut short"):
        load_ply(path)


def test_damaged_bytes_never_raise_anything_but_a_ply_error(tmp_path, generator):
    save_ply(tmp_path / "a.ply", random_gaussians(3, degree=0))
    whole = bytearray((tmp_path / "a.ply").read_bytes())
    header = whole.index(b"end_header")
    for _ in range(200):
        damaged = bytearray(whole)
        for position in torch.randint(header, (3,), generator=generator).tolist():
            damaged[position] = int(torch.randint(256, (), generator=generator))
        (tmp_path / "b.ply").write_bytes(damaged)
        try:
            load_ply(tmp_path / "b.ply")
        except PlyError as error:
            assert "\n" not in str(error)


def test_what_is_no_gaussian_file_is_said(tmp_path):
    with pytest.raises(PlyError, match="no such file"):
        load_ply(tmp_path / "none.ply")
    (tmp_path / "image.ply").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(PlyError, match=r"not a \.ply file"):
        load_ply(tmp_path / "image.ply")
    cloud = np.zeros(4, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1")])
    PlyData([PlyElement.describe(cloud, "vertex")]).write(str(tmp_path / "cloud.ply"))
    with pytest.raises(PlyError, match="a plain point cloud"):
        load_ply(tmp_path / "cloud.ply")
    PlyData([PlyElement.describe(cloud, "face")]).write(str(tmp_path / "mesh.ply"))
    with pytest.raises(PlyError, match="no element 'vertex'"):
        load_ply(tmp_path / "mesh.ply")


def test_missing_fields_are_named(tmp_path):
    save_ply(tmp_path / "a.ply", random_gaussians(4, degree=1))
    with pytest.raises(PlyError, match="opacity, scale_2 is missing"):
        load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", drop=("opacity", "scale_2")))
    with pytest.raises(PlyError, match="f_rest_3 is missing"):
        load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", drop=("f_rest_3",)))
    with pytest.raises(PlyError, match="got 8"):
        load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", drop=("f_rest_8",)))
    last = ("f_rest_6", "f_rest_7", "f_rest_8")
    with pytest.raises(PlyError, match="got 6"):
        load_ply(rewrite(tmp_path / "a.ply", tmp_path / "b.ply", drop=last))


def test_a_list_where_a_number_belongs_is_said(tmp_path):
    save_ply(tmp_path / "a.ply", random_gaussians(2, degree=0))
    data = PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    kinds = [(n, object if n == "opacity" else "f4") for n in data.dtype.names]
    out = np.empty(2, dtype=kinds)
    for name in data.dtype.names:
        out[name] = [np.ones(2, "f4")] * 2 if name == "opacity" else data[name]
    PlyData([PlyElement.describe(out, "vertex", val_types={"opacity": "f4"})]).write(str(tmp_path / "b.ply"))
    with pytest.raises(PlyError, match="got a list"):
        load_ply(tmp_path / "b.ply")


def test_a_few_non_finite_gaussians_are_dropped_and_many_are_an_error(tmp_path, caplog):
    gaussians = random_gaussians(1000, degree=1)
    gaussians.params["means"].data[3, 1] = float("nan")
    gaussians.params["shN"].data[5, 0, 2] = float("inf")
    save_ply(tmp_path / "a.ply", gaussians)
    with caplog.at_level(logging.WARNING):
        loaded = load_ply(tmp_path / "a.ply")
    assert len(loaded) == 998 and "dropped 2 of 1000" in caplog.text
    assert all(value.isfinite().all() for value in loaded.params.values())
    gaussians.params["quats"].data[:10] = float("nan")
    save_ply(tmp_path / "a.ply", gaussians)
    with pytest.raises(PlyError, match="10 of 1000"):
        load_ply(tmp_path / "a.ply")


def test_infinite_logits_and_logarithms_mean_opaque_and_flat(tmp_path):
    gaussians = random_gaussians(4, degree=0)
    gaussians.params["opacities"].data[:] = float("inf")
    gaussians.params["scales"].data[:, 2] = -float("inf")
    save_ply(tmp_path / "a.ply", gaussians)
    loaded = load_ply(tmp_path / "a.ply")
    assert (loaded.linear_opacities() == 1.0).all()
    assert (loaded.linear_scales()[:, 2] < 1e-12).all() and loaded.params["scales"].isfinite().all()
