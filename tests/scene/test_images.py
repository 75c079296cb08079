"""Pixels: formats, alpha, masks, sizes, and files that are damaged."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from scene import SceneConfig, SceneError, load_scene
from scene.decode import read_image, read_mask
from scene.images import target_size


def _weight(view):
    weight = view.weight()
    assert weight is not None
    return weight


def _colour(height=48, width=64):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_colour_is_rgb_and_unchanged(tmp_path):
    image = _colour()
    PilImage.fromarray(image).save(tmp_path / "a.png")
    pixels, alpha = read_image(tmp_path / "a.png")
    assert (pixels == image).all() and alpha is None


def test_grayscale_becomes_three_equal_channels(tmp_path):
    grey = _colour()[..., 0]
    PilImage.fromarray(grey).save(tmp_path / "a.png")
    pixels, alpha = read_image(tmp_path / "a.png")
    assert pixels.shape == (48, 64, 3) and (pixels == grey[..., None]).all() and alpha is None


def test_sixteen_bits_round_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257, 385, 386, 32767, 65535]], np.uint16).repeat(4, axis=0)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([values] * 3))
    pixels, _ = read_image(tmp_path / "a.png")
    # 257 steps of 16 bits are one of 8
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 127, 255]
    cv2.imwrite(str(tmp_path / "grey.png"), values)
    assert (read_image(tmp_path / "grey.png")[0] == pixels).all()


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_grey_and_palette_images_with_alpha_keep_it(tmp_path, mode):
    rgba = np.dstack([np.full((48, 64, 3), 90, np.uint8), np.full((48, 64), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    image = PilImage.fromarray(rgba)
    if mode == "PA":
        palette = image.convert("RGB").quantize(4)
        palette.info["transparency"] = 3
        rgb = palette.convert("RGBA")
        rgb.putalpha(image.getchannel("A"))
        image = rgb
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    pixels, alpha = read_image(tmp_path / "a.png")
    assert alpha is not None and (alpha[:10] == 0).all() and (alpha[10:] == 255).all()
    assert (np.abs(pixels[10:].astype(int) - 90) <= 1).all()  # luma of equal channels, rounded


def test_a_palette_image_is_read_in_colour(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = (200, 10, 60)
    PilImage.fromarray(image).quantize(2).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png")[0] == image).all()


def test_an_opaque_alpha_channel_counts_as_none(tmp_path):
    PilImage.fromarray(np.dstack([_colour(), np.full((48, 64), 255, np.uint8)])).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[1] is None


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_not_applied(tmp_path, orientation):
    image = PilImage.fromarray(np.repeat(np.repeat(_colour(6, 8), 8, 0), 8, 1))
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image.save(tmp_path / "plain.jpg", quality=95)
    assert (read_image(tmp_path / "turned.jpg")[0] == read_image(tmp_path / "plain.jpg")[0]).all()


@pytest.mark.parametrize("kind", ["jpg", "progressive.jpg", "png", "webp", "tif", "bmp"])
def test_a_cut_image_file_is_refused_by_name(tmp_path, kind):
    image = PilImage.fromarray(cv2.resize(_colour(), (200, 150)))
    path = tmp_path / f"photo.{kind}"
    exif = PilImage.Exif()
    exif[0x010E] = "x" * 300
    options: dict[str, Any] = (
        {"progressive": "progressive" in kind, "exif": exif} if kind.endswith("jpg") else {}
    )
    image.save(path, **options)
    data = path.read_bytes()
    assert read_image(path)[0].shape == (150, 200, 3)
    for share in (0.0, 0.001, 0.3, 0.7, 0.97):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SceneError, match="photo"):
            read_image(path)
    for cut in (1, 2, 9):
        path.write_bytes(data[:-cut])
        if kind.endswith(("jpg", "png")):  # the formats of photographs are checked to the last byte
            with pytest.raises(SceneError, match="cut short"):
                read_image(path)


def test_a_cut_photograph_with_a_whole_thumbnail_is_refused(tmp_path):
    thumbnail = io.BytesIO()
    PilImage.fromarray(_colour(16, 16)).save(thumbnail, "jpeg")
    plain = io.BytesIO()
    PilImage.fromarray(_colour(150, 200)).save(plain, "jpeg")
    payload = b"Exif\0\0" + thumbnail.getvalue()
    segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    whole = plain.getvalue()[:2] + segment + plain.getvalue()[2:]
    (tmp_path / "a.jpg").write_bytes(whole + b"trailing data of a motion photo")
    assert read_image(tmp_path / "a.jpg")[0].shape == (150, 200, 3)
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SceneError, match="cut short"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", [".jpg", ".bmp", "progressive"])
def test_other_files_that_promise_so_many_pixels_are_refused_too(tmp_path, kind):
    picture = io.BytesIO()
    name = {".bmp": "BMP"}.get(kind, "JPEG")
    more = {"progressive": True, "exif": b"Exif\0\0\xff\xc0" + b"x" * 300} if kind == "progressive" else {}
    PilImage.fromarray(_colour(4, 6)).save(picture, name, **more)
    data = bytearray(picture.getvalue())
    place, packing = (18, "<2i") if kind == ".bmp" else (_size_in_jpeg(data), ">2H")
    assert sorted(struct.unpack_from(packing, data, place)) == [4, 6]
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(tmp_path / "a.png")[0].shape == (4, 6, 3)
    struct.pack_into(packing, data, place, 20_000, 20_000)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SceneError, match=r"a\.png: promises 20000x20000 pixels"):
        read_image(tmp_path / "a.png")


def _size_in_jpeg(data: bytearray) -> int:
    """Where a small JPEG without a thumbnail says how large it is: after the last of its frame's markers."""
    return max(data.rfind(b"\xff\xc0\0\x11"), data.rfind(b"\xff\xc2\0\x11")) + 5


@pytest.mark.parametrize("end", [b"", b"\xff", b"\xff" * 100_000, b"\xff\xe1\xff", b"\xff\xc0\0"])
def test_a_jpeg_without_a_frame_is_no_image(tmp_path, end):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + end)
    with pytest.raises(SceneError, match=r"a\.jpg: (the image file is cut short|not a readable image)"):
        read_image(tmp_path / "a.jpg")


def test_a_png_that_promises_more_pixels_than_any_camera_takes_is_refused(tmp_path):
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">2I", 20_000, 20_000)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SceneError, match=r"a\.png: promises 20000x20000 pixels"):
        read_image(tmp_path / "a.png")


def test_memory_that_does_not_suffice_is_not_the_pictures_fault(tmp_path, monkeypatch):
    """Exit code 3, after which smaller images help, and not 2."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    real = cv2.imdecode

    def starved(*arguments):
        error = cv2.error("Failed to allocate 144000000 bytes")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 144000000 bytes"
        raise error

    monkeypatch.setattr(cv2, "imdecode", starved)
    with pytest.raises(MemoryError, match=r"a\.png: Failed to allocate"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(cv2, "imdecode", real)
    read_image(tmp_path / "a.png")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no such devices here")
def test_what_never_ends_is_no_image(tmp_path):
    """A pipe that nobody writes to would be waited for, a device read until memory ends."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "c.png").mkdir()
    for name in "abc":
        for read in (read_image, read_mask):
            with pytest.raises(SceneError, match=rf"{name}\.png: expected an image file, got a folder"):
                read(tmp_path / f"{name}.png")


def test_text_and_float_images_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(SceneError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "f.tif"), np.zeros((4, 4, 3), np.float32))
    with pytest.raises(SceneError, match="8 or 16 bits"):
        read_image(tmp_path / "f.tif")


def test_masks_of_zeros_and_ones_are_spread_to_255(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[:10] = 1
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    assert (read_mask(tmp_path / "m.png") == mask * 255).all()


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((1600, 1067), -1, (1600, 1067)),
        ((3200, 2133), -1, (1600, 1066)),
        ((4032, 3024), -1, (1600, 1200)),
        ((505, 379), 2, (252, 190)),
        ((640, 480), 8, (80, 60)),
        ((640, 480), 320, (320, 240)),
        ((640, 480), 5000, (640, 480)),
    ],
)
def test_target_sizes(size, resolution, expected):
    width, height = size
    assert target_size(width, height, resolution) == expected


@pytest.mark.parametrize("resolution", [2, 4, 32])
def test_intrinsics_shrink_with_the_image_per_axis(make_scene, resolution):
    source = make_scene(2, size=(66, 49))
    view = load_scene(source, SceneConfig(resolution=resolution)).train[0]
    width, height = view.camera.width, view.camera.height
    assert (width, height) == target_size(66, 49, resolution)
    expected = [[50 * width / 66, 0, 31 * width / 66], [0, 52 * height / 49, 25 * height / 49], [0, 0, 1]]
    torch.testing.assert_close(view.camera.K, torch.tensor(expected))  # float32 rounding


def test_downscaling_averages_the_area(make_scene):
    source = make_scene(2)
    image = np.zeros((48, 64, 3), np.uint8)
    image[::2, ::2] = 200  # one pixel in four: any subsampling would give 0 or 200
    cv2.imwrite(str(source / "images/img_00.png"), image)
    assert (load_scene(source, SceneConfig(resolution=2)).train[0].pixels == 50).all()


def test_a_reduced_folder_is_used_and_its_intrinsics_follow_its_size(make_scene):
    source = make_scene(2)
    for i in range(2):
        (source / "images_4").mkdir(exist_ok=True)
        cv2.imwrite(str(source / f"images_4/img_{i:02d}.png"), np.full((12, 16, 3), 7, np.uint8))
    view = load_scene(source, SceneConfig(resolution=4)).train[0]
    assert (view.pixels == 7).all() and (view.camera.width, view.camera.height) == (16, 12)
    assert view.camera.K[0, 0] == 50 / 4 and view.camera.K[1, 2] == 25 / 4
    named = load_scene(source, SceneConfig(images="images_4")).train[0]
    assert torch.equal(named.camera.K, view.camera.K)
    assert (
        load_scene(source, SceneConfig(resolution=2)).train[0].camera.width == 32
    )  # no images_2: shrunk here


def test_an_image_of_another_shape_than_its_camera_is_refused_naming_both(make_scene):
    source = make_scene(2)
    cv2.imwrite(str(source / "images/img_01.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(SceneError, match=r"img_01\.png.*64x64.*camera 1.*64x48"):
        load_scene(source, SceneConfig())
    cv2.imwrite(str(source / "images/img_01.png"), np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(SceneError, match="turned by 90 degrees"):
        load_scene(source, SceneConfig())


def test_all_images_that_are_bad_are_named_at_once(make_scene):
    source = make_scene(9)
    for i in (1, 4):
        (source / f"images/img_{i:02d}.png").write_bytes(b"")
    with pytest.raises(SceneError) as caught:
        load_scene(source, SceneConfig())
    assert [line.count("is empty") for line in str(caught.value).splitlines()] == [1, 1]
    for i in range(2, 9):
        (source / f"images/img_{i:02d}.png").write_bytes(b"")
    with pytest.raises(SceneError, match=r"\nand 3 more images$"):  # of 8, after 5
        load_scene(source, SceneConfig())


@pytest.mark.parametrize(
    ("camera", "image"),
    [
        ((752, 500), (1, 1)),
        ((752, 500), (2, 1)),
        ((752, 500), (15, 9)),
        ((500, 500), (1, 1)),
        ((64, 48), (1, 2)),
    ],
)
def test_an_image_of_a_few_pixels_is_refused_naming_both_sizes(make_scene, camera, image):
    source = make_scene(2, size=camera)
    cv2.imwrite(str(source / "images/img_01.png"), np.zeros((image[1], image[0], 3), np.uint8))
    sizes = rf"img_01\.png.*{image[0]}x{image[1]}.*{camera[0]}x{camera[1]}"
    with pytest.raises(SceneError, match=sizes):
        load_scene(source, SceneConfig())


def test_a_reduced_image_may_be_off_by_the_pixel_that_rounding_costs(make_scene, caplog):
    source = make_scene(2, size=(200, 135))
    for i in range(2):  # 135 / 8 is 16.875: some programs round it down
        cv2.imwrite(str(source / f"images/img_{i:02d}.png"), np.zeros((16, 25, 3), np.uint8))
    assert load_scene(source, SceneConfig()).train[0].camera.height == 16
    assert "sizes" not in caplog.text


def test_images_of_one_camera_in_different_sizes_are_used_with_a_warning(make_scene, caplog):
    source = make_scene(3)
    cv2.imwrite(str(source / "images/img_02.png"), np.zeros((24, 32, 3), np.uint8))
    scene = load_scene(source, SceneConfig())
    assert [view.camera.width for view in scene.train] == [64, 64, 32]
    warning = next(record for record in caplog.records if record.levelname == "WARNING")
    assert "camera 1" in warning.message and "2 of 64x48, 1 of 32x24" in warning.message


def _with_alpha(source):
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3] = 100
    rgba[:, :32, 3] = 255
    rgba[:, 32:, :3] = 250  # hidden colour that must not bleed
    cv2.imwrite(str(source / "images/img_00.png"), rgba)


def test_alpha_of_a_colmap_scene_is_a_mask(make_scene):
    source = make_scene(2)
    _with_alpha(source)
    view = load_scene(source, SceneConfig()).train[0]
    assert view.alpha is None and _weight(view)[:, :32].eq(1).all() and _weight(view)[:, 32:].eq(0).all()
    assert load_scene(source, SceneConfig()).train[1].weight() is None


@pytest.mark.parametrize("resolution", [1, 32])
def test_alpha_as_background_composites_without_bleeding(make_scene, resolution):
    source = make_scene(2)
    _with_alpha(source)
    view = load_scene(source, SceneConfig(alpha_mode="background", resolution=resolution)).train[0]
    assert view.mask is None and view.image().shape == (view.camera.height, view.camera.width, 3)
    half = view.camera.width // 2
    white = view.image(torch.ones(3))
    assert white[:, half:].eq(1).all() and view.image()[:, half:].eq(0).all()
    torch.testing.assert_close(white[:, :half], torch.full_like(white[:, :half], 100 / 255))


def test_a_soft_alpha_edge_keeps_its_colour_when_shrunk(make_scene):
    source = make_scene(2)
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = 255, 0
    rgba[:, :31, :3], rgba[:, :31, 3] = 100, 255  # the edge falls inside a reduced pixel
    cv2.imwrite(str(source / "images/img_00.png"), rgba)
    view = load_scene(source, SceneConfig(alpha_mode="background", resolution=2)).train[0]
    assert (
        view.alpha is not None and int(view.alpha[0, 15]) in (127, 128) and (view.pixels[:, 15] == 100).all()
    )  # half of 255


@pytest.mark.parametrize("name", ["img_00.png.png", "img_00.png", "IMG_00.PNG", "img_00.jpg"])
def test_masks_are_found_by_name_and_multiply_alpha(make_scene, name):
    source = make_scene(2)
    _with_alpha(source)
    mask = np.zeros((48, 64), np.uint8)
    mask[:24] = 255
    (source / "masks").mkdir()
    cv2.imwrite(str(source / "masks" / name), mask)
    view = load_scene(source, SceneConfig()).train[0]
    assert _weight(view)[:20, :32].min() > 0.95 and _weight(view)[:, 32:].eq(0).all()  # JPEG is not exact
    assert _weight(view)[28:].max() < 0.05


def test_a_smaller_mask_is_enlarged_to_its_image(make_scene):
    source = make_scene(2)
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :16] = 255
    (source / "m").mkdir()
    for i in range(2):
        cv2.imwrite(str(source / f"m/img_{i:02d}.png"), mask)
    view = load_scene(source, SceneConfig(masks="m")).train[0]
    assert view.mask is not None
    assert view.mask[:, :32].eq(255).all() and view.mask[:, 32:].eq(0).all()
    cv2.imwrite(str(source / "m/img_00.png"), np.full((24, 24), 9, np.uint8))
    with pytest.raises(SceneError, match="mask is 24x24"):
        load_scene(source, SceneConfig(masks="m"))


def test_a_masks_folder_that_fits_nothing_is_an_error_and_one_that_fits_some_a_warning(make_scene, caplog):
    source = make_scene(2)
    (source / "masks").mkdir()
    cv2.imwrite(str(source / "masks/other.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(SceneError, match="none of its 1 masks"):
        load_scene(source, SceneConfig())
    cv2.imwrite(str(source / "masks/img_01.png"), np.zeros((48, 64), np.uint8))
    load_scene(source, SceneConfig())
    assert "no mask for img_00.png" in caplog.text and "leaves no pixel of img_01.png" in caplog.text


def _black_masks(source, count):
    (source / "masks").mkdir(exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(source / f"masks/img_{i:02d}.png.png"), np.zeros((48, 64), np.uint8))


def test_masks_that_are_black_in_every_training_view_are_refused_with_a_remedy(make_scene):
    source = make_scene(9)
    _black_masks(source, 9)
    with pytest.raises(
        SceneError, match=r"masks: the masks leave no pixel.*9 training views.*white means use"
    ):
        load_scene(source, SceneConfig())
    # white masks of held-out views alone (0 and 8) train nothing either
    for i in (0, 8):
        cv2.imwrite(str(source / f"masks/img_{i:02d}.png.png"), np.full((48, 64), 255, np.uint8))
    with pytest.raises(SceneError, match=r"7 training views.*invert them"):
        load_scene(source, SceneConfig(eval=True))


def test_one_black_mask_among_others_is_a_warning(make_scene, caplog):
    source = make_scene(3)
    _black_masks(source, 1)
    assert len(load_scene(source, SceneConfig()).train) == 3
    assert "leaves no pixel of img_00.png" in caplog.text


def test_alpha_that_hides_every_image_is_refused_and_may_be_the_background(make_scene):
    source = make_scene(2)
    for i in range(2):
        cv2.imwrite(str(source / f"images/img_{i:02d}.png"), np.zeros((48, 64, 4), np.uint8))
    with pytest.raises(SceneError, match=r"images: the images' alpha.*--alpha_mode background"):
        load_scene(source, SceneConfig())
    assert len(load_scene(source, SceneConfig(alpha_mode="background")).train) == 2
