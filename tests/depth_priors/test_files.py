"""Depth maps from files: every format, its meaning and size, and what is wrong with them."""

from __future__ import annotations

import json
import struct
import unicodedata
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pycolmap
import pytest
import torch

from depth_priors import DepthConfig
from depth_priors.confidence import file_confidence
from depth_priors.depth_file import read_depth
from depth_priors.files import file_priors, find_by_stem
from errors import UserError
from scene import Camera, View
from scene.warp import Undistortion

WIDTH, HEIGHT = 12, 8


def _view(name="a.jpg", width=WIDTH, height=HEIGHT):
    K = torch.tensor([[10.0, 0, width / 2], [0, 10.0, height / 2], [0, 0, 1]])
    camera = Camera(torch.eye(4), K, width, height)
    return View(name, camera, torch.zeros(height, width, 3, dtype=torch.uint8))


def _ramp():
    """Depth from 1 to 2, another number at every pixel."""
    return np.linspace(1, 2, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)


def _config(folder, **options):
    return DepthConfig(depth_prior="files", depth_dir=str(folder), **options)


def _one(folder, **options):
    (prior,) = file_priors([_view()], folder, _config(folder, **options))
    return prior


def _write_png(path, value, bits=16):
    kind = np.uint16 if bits == 16 else np.uint8
    assert cv2.imwrite(str(path), np.rint(value * np.iinfo(kind).max).astype(kind))


def _write_pfm(path, value):
    path.write_bytes(b"Pf\n%d %d\n-1.0\n" % value.shape[::-1] + value[::-1].astype("<f4").tobytes())


def _write_colmap(path, value):
    height, width = value.shape
    path.write_bytes(b"%d&%d&1&" % (width, height) + value.astype("<f4").tobytes())


@pytest.mark.parametrize(
    ("name", "write", "kind", "frame", "tolerance"),
    [
        ("a.png", lambda p, v: _write_png(p, v / 2), "inverse", "affine", 2**-16),  # half a step of 16 bits
        ("a.png", lambda p, v: _write_png(p, v / 2, 8), "inverse", "affine", 2**-8),
        ("a.pfm", _write_pfm, "inverse", "affine", 0),
        ("a.npy", np.save, "depth", "scale", 0),
        ("a.npy", lambda p, v: np.save(p, v[None, ..., None].astype(np.float64)), "depth", "scale", 0),
        ("a.npz", np.savez, "depth", "scale", 0),
        ("a.npz", lambda p, v: np.savez(p, inverse=v), "inverse", "scale", 0),
        ("a.tif", lambda p, v: cv2.imwrite(str(p), v), "depth", "scale", 0),
        ("a.jpg.geometric.bin", _write_colmap, "depth", "world", 0),
        ("a.geometric.bin", _write_colmap, "depth", "world", 0),
    ],
)
def test_every_format_gives_its_numbers_and_says_what_they_are(tmp_path, name, write, kind, frame, tolerance):
    write(tmp_path / name, _ramp())
    prior = _one(tmp_path)
    scale = 0.5 if name.endswith(".png") else 1.0
    assert (prior.kind, prior.frame, prior.source) == (kind, frame, "files")
    np.testing.assert_allclose(prior.value.numpy(), scale * _ramp(), atol=tolerance)
    assert bool((prior.confidence == 1).all())


def test_the_user_may_say_what_the_numbers_are(tmp_path):
    np.save(tmp_path / "a.npy", _ramp())
    prior = _one(tmp_path, depth_kind="inverse", depth_frame="world")
    assert (prior.kind, prior.frame) == ("inverse", "world")


def test_confidence_in_an_npz_is_taken_and_what_is_no_depth_has_none(tmp_path):
    depth, conf = _ramp(), np.full((HEIGHT, WIDTH), 0.5, np.float32)
    depth[0, :4] = [np.nan, np.inf, 0.0, -1.0]
    conf[1, 0] = np.nan
    np.savez(tmp_path / "a.npz", depth=depth, conf=conf)
    prior = _one(tmp_path)
    assert bool((prior.value[0, :4] == 0).all()) and bool((prior.confidence[0, :4] == 0).all())
    assert prior.confidence[1, 0] == 0 and bool((prior.confidence[2:] == 0.5).all())
    assert bool(prior.value.isfinite().all())


def test_scale_and_offset_of_3dgs_bring_a_png_into_world_units(tmp_path, caplog):
    _write_png(tmp_path / "a.png", _ramp() / 2)
    parameters = tmp_path / "depth_params.json"
    parameters.write_text(json.dumps({"a": {"scale": 3.0, "offset": 0.25, "med_scale": 1}, "med_scale": 3.0}))
    prior = _one(tmp_path)
    assert (prior.kind, prior.frame) == ("inverse", "world")
    np.testing.assert_allclose(prior.value.numpy(), 3 * _ramp() / 2 + 0.25, atol=3 * 2**-16)
    parameters.write_text(json.dumps({"a": {"scale": 0.0, "offset": 0.0}}))  # what 3DGS writes if it failed
    assert _one(tmp_path) is None and "no scale above 0" in caplog.text
    for wrong in ("[1]", "{", '{"a": {"scale": "x", "offset": 0}}', '{"a": {"scale": NaN, "offset": 0}}'):
        parameters.write_text(wrong)
        with pytest.raises(UserError, match=r"depth_params\.json: expected"):
            _one(tmp_path)
    parameters.unlink()
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "depth_params.json").write_text('{"a": {"scale": 2.0, "offset": 0}}')
    assert _one(tmp_path).frame == "world"


@pytest.mark.parametrize("factor", [2, 0.5])
def test_another_size_of_the_same_shape_is_resized_without_mixing_in_what_is_unknown(tmp_path, factor):
    size = (round(WIDTH * factor), round(HEIGHT * factor))
    depth = np.full(size[::-1], 4.0, np.float32)
    depth[: size[1] // 2] = 0.0  # unknown
    np.save(tmp_path / "a.npy", depth)
    prior = _one(tmp_path)
    assert prior.value.shape == (HEIGHT, WIDTH)
    known = prior.confidence > 0
    assert bool(known[HEIGHT // 2 + 1 :].all()) and not bool(known[: HEIGHT // 2 - 1].any())
    assert torch.allclose(prior.value[known], torch.tensor(4.0), rtol=1e-5)  # not pulled to the zeros
    assert bool((prior.value[~known] == 0).all())


def test_a_map_of_the_photograph_fits_it_at_any_training_size(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((378, 504), np.float32))
    for width, height in ((252, 189), (126, 94), (63, 47), (168, 126), (100, 75)):  # sides rounded each alone
        (prior,) = file_priors([_view(width=width, height=height)], tmp_path, _config(tmp_path))
        assert prior is not None and prior.value.shape == (height, width)
    with pytest.raises(UserError, match="126x98"):
        file_priors([_view(width=126, height=98)], tmp_path, _config(tmp_path))


def test_a_map_of_another_shape_is_refused(tmp_path):
    for shape in ((WIDTH, HEIGHT), (HEIGHT, WIDTH + 4)):
        np.save(tmp_path / "a.npy", np.ones(shape, np.float32))
        with pytest.raises(UserError, match=r"a\.npy: expected .*12x8"):
            _one(tmp_path)
    np.save(tmp_path / "a.npy", np.ones((1, 1), np.float32))
    with pytest.raises(UserError, match=r"a\.npy: expected .*64x48.*got 1x1"):
        file_priors([_view(width=64, height=48)], tmp_path, _config(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"no picture"),
        ("a.npy", b"\x93NUMPY"),
        ("a.npz", b"PK\x03\x04 cut"),
        ("a.pfm", b"Pf\n"),
        ("a.tif", b"II*\x00"),
        ("a.geometric.bin", b"12&8&1&short"),
        ("a.geometric.bin", b"99999999999&8&1&"),
        ("a.geometric.bin", b"no ampersand at all"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        _one(tmp_path)


def _large_piece(data: bytes) -> bytes:
    """A PNG whose picture says that it takes 1.1 GB: OpenCV makes room for that before it reads."""
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", 0x4000_01CD) + data[at + 4 :]


def test_a_png_whose_piece_is_larger_than_the_file_is_cut_short(tmp_path, monkeypatch):
    good = cv2.imencode(".png", np.full((HEIGHT, WIDTH), 9, np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(_large_piece(good))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"a\.png: cannot read the map \(it is cut short\)"):
        _one(tmp_path)


def test_arrays_that_are_no_map_are_refused_and_nothing_is_unpickled(tmp_path):
    for array in (
        np.ones((HEIGHT, WIDTH, 5)),
        np.zeros((0, 0)),
        np.array(["text"]),
        np.array([{"a": 1}], dtype=object),
        np.ones((HEIGHT, WIDTH), complex),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(UserError, match=r"a\.npy"):
            _one(tmp_path)
    np.savez(tmp_path / "a.npz", first=_ramp(), second=_ramp())
    with pytest.raises(UserError, match=r"a\.npz: expected one array named depth"):
        read_depth(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", depth=_ramp(), conf=np.ones((2, 2)))
    with pytest.raises(UserError, match=r"confidence: expected the depth's size 12x8, got 2x2"):
        read_depth(tmp_path / "a.npz")
    colour = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "b.png"), colour)
    with pytest.raises(UserError, match=r"b\.png.*a picture in colour"):
        read_depth(tmp_path / "b.png")
    cv2.imwrite(str(tmp_path / "b.png"), np.repeat(colour[..., :1], 3, 2))  # grey saved as colour
    assert read_depth(tmp_path / "b.png").value.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_a_map_without_any_depth_leaves_its_view_without_a_prior_and_says_so(tmp_path, caplog, fill):
    np.save(tmp_path / "a.npy", np.full((HEIGHT, WIDTH), fill, np.float32))
    assert _one(tmp_path) is None
    assert "a.npy: no number above 0" in caplog.text


def test_maps_are_found_by_name_or_stem_with_or_without_subfolders(tmp_path, caplog):
    names = ["one/a.jpg", "two/b.JPG", "c.png", "d.jpg"]
    for file in ("one/a.npy", "b.jpg.npy", "C.npy"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        np.save(tmp_path / file, _ramp())
    found = find_by_stem(tmp_path, names, (".npy",), "--depth_dir")
    assert [path and path.relative_to(tmp_path).as_posix() for path in found] == [
        "one/a.npy", "b.jpg.npy", "C.npy", None,
    ]  # fmt: skip
    priors = file_priors([_view(name) for name in names], tmp_path, _config(tmp_path))
    assert [prior is None for prior in priors] == [False, False, False, True]
    assert "d.jpg: no depth map" in caplog.text


def test_a_folder_in_which_nothing_fits_names_both_sides(tmp_path):
    np.save(tmp_path / "other.npy", _ramp())
    with pytest.raises(UserError, match=r"no file fits.*a\.jpg.*other\.npy"):
        _one(tmp_path)
    with pytest.raises(UserError, match=r"missing.*no such folder|expected a folder"):
        file_priors([_view()], tmp_path, _config(tmp_path / "missing"))


def test_two_images_never_share_a_map(tmp_path):
    np.save(tmp_path / "a.npy", _ramp())
    with pytest.raises(UserError, match=r"fits both one/a\.jpg and two/a\.jpg"):
        find_by_stem(tmp_path, ["one/a.jpg", "two/a.jpg"], (".npy",), "--depth_dir")


def test_names_that_differ_in_unicode_composition_only_are_the_same(tmp_path):
    name = "b\u00fcro.jpg"  # one letter, as cameras and COLMAP write it; macOS keeps two
    parts = unicodedata.normalize("NFD", "b\u00fcro.npy")
    assert parts != "b\u00fcro.npy"
    np.save(tmp_path / parts, _ramp())
    (found,) = find_by_stem(tmp_path, [name], (".npy",), "--depth_dir")
    assert found is not None and found.name == parts


def _bent(width, height):
    """A view whose photograph a barrel lens bent, and where its pixels [H, W] lie in the photograph."""
    focal, bend = 0.8 * width, -0.15
    lens = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=width, height=height, params=[focal, width / 2, height / 2, bend]
    )
    K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
    view = replace(_view(width=width, height=height), undistortion=Undistortion(lens, K))
    x = (np.arange(width) + 0.5 - width / 2) / K[0, 0]
    y = (np.arange(height) + 0.5 - height / 2) / K[1, 1]
    squared = x[None, :] ** 2 + y[:, None] ** 2
    return view, focal * x[None, :] * (1 + bend * squared) + width / 2


@pytest.mark.parametrize("factor", [1, 2])
def test_a_map_of_a_photograph_that_was_undistorted_is_undistorted_likewise(tmp_path, factor):
    width, height = 60, 40
    view, column = _bent(width, height)
    ramp = (
        np.arange(factor * width, dtype=np.float32) + 0.5
    ) / factor  # the column, in the photograph's pixels
    np.save(tmp_path / "a.npy", np.broadcast_to(1 + ramp, (factor * height, factor * width)))
    (prior,) = file_priors([view], tmp_path, _config(tmp_path))
    assert prior is not None and prior.value.shape == (height, width)
    # linear in the column, so bilinear sampling is exact but for OpenCV's positions in 1/32 pixel; outermost
    # pixels average with the border's copies
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(prior.value.numpy()[inner], 1 + column[inner], atol=0.04)
    assert abs(column[2, 2] - 2.5) > 0.3  # the lens does move pixels

    np.save(tmp_path / "a.npy", np.broadcast_to(ramp / width, (factor * height, factor * width)))
    config = DepthConfig(confidence="files", confidence_dir=str(tmp_path))
    (confidence,) = file_confidence([view], config)
    assert confidence is not None
    np.testing.assert_allclose(confidence.numpy()[inner], column[inner] / width, atol=0.04 / width)


def test_colmaps_depth_is_refused_where_the_photographs_are_not_the_ones_it_undistorted(tmp_path):
    view, _ = _bent(60, 40)
    _write_colmap(tmp_path / "a.jpg.geometric.bin", np.ones((40, 60), np.float32))
    with pytest.raises(
        UserError, match=r"a\.jpg\.geometric\.bin: expected photographs that COLMAP.*-s DENSE"
    ):
        file_priors([view], tmp_path, _config(tmp_path))


def test_the_name_that_is_spelled_the_same_comes_first(tmp_path):
    for file in ("a.npy", "A.npy"):
        np.save(tmp_path / file, _ramp())
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell a.npy from A.npy")
    found = find_by_stem(tmp_path, ["a.jpg", "A.jpg"], (".npy",), "--depth_dir")
    assert [path and path.name for path in found] == ["a.npy", "A.npy"]
    np.save(tmp_path / "Bc.npy", _ramp())
    np.save(tmp_path / "bC.npy", _ramp())
    with pytest.raises(UserError, match=r"bc\.jpg could be Bc or bC"):
        find_by_stem(tmp_path, ["bc.jpg"], (".npy",), "--depth_dir")


def test_maps_in_linked_folders_are_found(tmp_path):
    (tmp_path / "real").mkdir()
    np.save(tmp_path / "real" / "a.npy", _ramp())
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "sub").symlink_to(tmp_path / "real", target_is_directory=True)
    (found,) = find_by_stem(tmp_path / "maps", ["sub/a.jpg"], (".npy",), "--depth_dir")
    assert found is not None and found.name == "a.npy"


def test_3dgs_scales_are_found_by_the_name_with_its_subfolder(tmp_path, caplog):
    views = [_view("one/a.jpg"), _view("two/a.jpg"), _view("two/B.jpg")]
    for place in ("one/a.png", "two/a.png", "two/B.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        _write_png(tmp_path / place, _ramp() / 2)

    def scales(content):
        (tmp_path / "depth_params.json").write_text(json.dumps(content))
        priors = file_priors(views, tmp_path, _config(tmp_path))
        return [
            round(float((prior.value.numpy() / (_ramp() / 2))[0, 0])) if prior else None for prior in priors
        ]

    entry = {"scale": 3.0, "offset": 0.0}
    two = {"scale": 5.0, "offset": 0.0}
    assert scales({"one/a": entry, "two/a": two, "two/B": two}) == [3, 5, 5]
    assert scales({"one/a": entry, "two/a": two, "b": two}) == [3, 5, 5]
    with pytest.raises(UserError, match=r"'a' could be one/a\.jpg or two/a\.jpg"):
        scales({"a": entry})
    assert "names none" not in caplog.text
    assert scales({"c": entry}) == [1, 1, 1]
    assert "depth_params.json: it names none of the photographs (one/a)" in caplog.text


def test_damaged_maps_are_one_error_whatever_the_damage(tmp_path):
    np.save(tmp_path / "a.npy", _ramp())
    np.savez_compressed(tmp_path / "b.npz", depth=_ramp())
    for name, end in (("a.npy", 128), ("b.npz", None)):
        path = tmp_path / name
        content = path.read_bytes()
        for at in range(len(content[:end])):
            for bit in (1, 5, 7):
                path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
                try:
                    assert read_depth(path).value.ndim == 2
                except UserError as error:
                    assert name in str(error)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 99999999), }"
    giant = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n" + b"0" * 64
    (tmp_path / "a.npy").write_bytes(giant)
    with pytest.raises(UserError, match=r"a\.npy: cannot read the map"):
        read_depth(tmp_path / "a.npy")
    np.savez(tmp_path / "c.npz", depth=_ramp())
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    with pytest.raises(UserError, match=r"c\.npy.*\.npz"):
        read_depth(tmp_path / "c.npy")
    (tmp_path / "depth_params.json").write_text('{"a": {"scale": 1%s, "offset": 0}}' % ("0" * 400))
    np.save(tmp_path / "a.npy", _ramp())
    with pytest.raises(UserError, match=r"depth_params\.json"):
        _one(tmp_path)


def test_a_number_out_of_all_proportion_counts_as_unknown(tmp_path):
    depth = _ramp()
    depth[2, 3] = 1e30
    np.save(tmp_path / "a.npy", depth)
    prior = _one(tmp_path)
    assert float(prior.confidence[2, 3]) == 0 and float(prior.value.max()) <= 2
    assert int((prior.confidence == 0).sum()) == 1


def test_numbers_that_float32_cannot_turn_over_count_as_unknown(tmp_path, caplog):
    depth = _ramp()
    depth[2, 3] = 1e-42  # a depth by which one over it is infinite
    np.save(tmp_path / "a.npy", depth)
    prior = _one(tmp_path)
    assert prior.inverse().isfinite().all() and int((prior.confidence == 0).sum()) == 1
    (tmp_path / "a.npy").unlink()
    cv2.imwrite(str(tmp_path / "a.png"), (1000 * _ramp()).astype(np.uint16))
    (tmp_path / "depth_params.json").write_text('{"a": {"scale": 1e300, "offset": 0}}')
    prior = _one(tmp_path)
    assert prior is None or (prior.value.isfinite().all() and not prior.confidence.any())


def test_an_archive_of_something_else_than_arrays_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("depth", b"no array")
    with pytest.raises(UserError, match=r"a\.npz: cannot read the map \('depth' in it is no array\)"):
        read_depth(tmp_path / "a.npz")


def test_a_map_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("depth.npy", "w") as member:  # 1.1 GiB of zeros in a megabyte
            for _ in range(1100):
                member.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"a\.npz: cannot read the map \(it unpacks to 1\.1 GiB"):
        read_depth(tmp_path / "a.npz")
    png = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes())
    png[16:24] = struct.pack(">2I", 40_000, 40_000)
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(UserError, match=r"a\.png: cannot read the map \(promises 40000x40000 pixels"):
        read_depth(tmp_path / "a.png")
