"""Photographs are found where people put them, and come out upright and readable."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from photos.collect import copy_upright, find_photos, has_photos, without_copies

ORIENTATION, FOCAL, EXIF = 0x0112, 0x920A, 0x8769


def _picture(path: Path, orientation: int = 1, focal: float = 0.0, size: tuple[int, int] = (32, 24)) -> Path:
    """Left half red, right half blue, the uppermost rows white."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = 255
    pixels[:, size[0] // 2 :, 2] = 255
    pixels[:6] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    if focal:
        exif.get_ifd(EXIF)[FOCAL] = focal
    image.save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("below", [".", "images", "input"])
def test_photographs_are_found_in_the_folder_or_in_images_or_input(tmp_path, below):
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    for name in ("b.jpg", "a.PNG", ".hidden.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert [path.name for path in find_photos(tmp_path)] == ["a.PNG", "b.jpg"]
    assert has_photos(tmp_path)


def test_too_few_photographs_are_an_error_that_says_where_it_looked(tmp_path):
    assert not has_photos(tmp_path)
    with pytest.raises(UserError, match=r"expected photographs \(.*\.heic.*images or input folder, got none"):
        find_photos(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="expected at least 2 photographs, got 1"):
        find_photos(tmp_path)


def test_photographs_a_level_below_are_pointed_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="got some in sub: name that folder"):
        find_photos(tmp_path)


def test_an_upright_photograph_is_linked_not_copied(tmp_path):
    path = _picture(tmp_path / "a.jpg")
    (tmp_path / "out").mkdir()
    (photo,) = copy_upright([path], tmp_path / "out")
    assert (photo.name, photo.width, photo.height) == ("a.jpg", 32, 24)
    assert os.path.samefile(path, tmp_path / "out" / "a.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_photograph_on_its_side_is_turned(tmp_path, suffix):
    path = _picture(tmp_path / f"a{suffix}", orientation=6, focal=4.2)  # the camera was held upright
    (tmp_path / "out").mkdir()
    (photo,) = copy_upright([path], tmp_path / "out")
    assert (photo.width, photo.height) == (24, 32)
    with Image.open(tmp_path / "out" / f"a{suffix}") as image:
        pixels, exif = np.asarray(image).astype(int), image.getexif()
    assert exif.get(ORIENTATION, 1) == 1 and exif.get_ifd(EXIF)[FOCAL] == pytest.approx(4.2)
    assert pixels[4, 4, 0] > 200 > 60 > pixels[4, 4, 2], "what was left is above"
    assert pixels[-4, 4, 2] > 200 > 60 > pixels[-4, 4, 0]
    assert pixels[10, -3].min() > 200, "what was above is right"


def test_other_kinds_become_readable_ones_and_equal_names_stay_apart(tmp_path):
    paths = [_picture(tmp_path / name) for name in ("a.jpg", "a.png", "a.bmp", "b.webp", "c.tif")]
    (tmp_path / "out").mkdir()
    photos = copy_upright(paths, tmp_path / "out")
    assert [photo.name for photo in photos] == ["a.jpg", "a.png", "a_bmp.png", "b.jpg", "c.png"]
    for photo in photos:
        with Image.open(tmp_path / "out" / photo.name) as image:
            assert image.size == (32, 24)


def test_size_and_focal_length_tell_lenses_apart(tmp_path):
    paths = [
        _picture(tmp_path / "a.jpg", focal=4.2),
        _picture(tmp_path / "b.jpg", focal=4.2),
        _picture(tmp_path / "c.jpg", focal=9.0),
        _picture(tmp_path / "d.jpg", focal=4.2, size=(24, 32)),
    ]
    (tmp_path / "out").mkdir()
    a, b, c, d = (photo.lens for photo in copy_upright(paths, tmp_path / "out"))
    assert a == b and len({a, c, d}) == 3


HUGE = b"BM" + struct.pack("<3I", 54, 0, 54) + struct.pack("<3I2H6I", 40, 60_000, 60_000, 1, 24, *[0] * 6)
"""A bitmap of 54 bytes that promises ten gigabytes of pixels."""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jpg", b"no picture", r"a\.jpg: not a readable photograph"),
        ("a.heic", b"no picture", r"a\.heic: not a readable photograph.*pillow-heif"),
        ("a.jpg", None, r"a\.jpg: the picture is cut short or damaged"),
        ("a.bmp", HUGE, r"a\.bmp: not a readable photograph .*decompression bomb"),
    ],
)
def test_a_damaged_photograph_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        content = _picture(tmp_path / "whole.jpg", size=(320, 240)).read_bytes()[:2000]
    path.write_bytes(content)
    (tmp_path / "out").mkdir()
    whole = _picture(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=message) as caught:
        copy_upright([path, whole, path], tmp_path / "out")
    assert str(caught.value).count(f"{name}: ") == 2, "all bad ones are named, not only the first"


def test_of_the_same_file_twice_one_is_taken(tmp_path, caplog):
    a, c = _picture(tmp_path / "a.jpg"), _picture(tmp_path / "c.png")
    b = tmp_path / "b.jpg"
    b.write_bytes(a.read_bytes())
    assert without_copies([a, b, c]) == [a, c]
    assert [record.getMessage() for record in caplog.records] == [f"{b}: the same file as a.jpg: left out"]
    with pytest.raises(UserError, match="its 2 photographs are the same one"):
        without_copies([a, b])


def test_pictures_that_nothing_here_reads_are_named(tmp_path, caplog):
    for name in ("a.jpg", "b.PNG"):
        _picture(tmp_path / name)
    for name in ("moving.gif", "RAW_1.NEF", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_photos(tmp_path)] == ["a.jpg", "b.PNG"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith("are read: RAW_1.NEF, moving.gif") and "heic, heif, jpeg, jpg, png" in said
