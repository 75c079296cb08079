"""One image file to uint8 arrays: grey, palette, 16-bit and alpha included, cut files refused.

EXIF orientation is not applied: the pixels are left as the file stores them, as COLMAP saw them.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene.scene_error import SceneError

Pixels = NDArray[np.uint8]

MOST_PIXELS = 1 << 28
"""Of one image: 268 million, more than any camera takes. A file that promises more is meant ill."""
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Kinds of a JPEG's marker that begins a frame, with its size (ITU T.81, table B.1)."""
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD9), 0xFF))
"""Kinds without a segment; the other ones say how long theirs is."""
_MOST_SEGMENTS = 10_000
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_image(path: Path) -> tuple[Pixels, Pixels | None]:
    """Decodes an image.

    Returns:
        Colour [H, W, 3] (RGB) and alpha [H, W], which is None where the file has none or is opaque.

    Raises:
        SceneError: If the file is missing, cut short, no image, or of floats.
    """
    array = _decode(path)
    if array.ndim == 2:
        array = array[..., None]
    channels = array.shape[2]
    if channels == 1:
        return np.ascontiguousarray(np.repeat(array, 3, axis=2)), None
    if channels == 3:
        return cv2.cvtColor(array, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), None
    if channels != 4:
        raise SceneError(f"{path}: expected 1, 3 or 4 channels, got {channels}; convert it to JPEG or PNG")
    alpha = np.ascontiguousarray(array[..., 3])
    colour = cv2.cvtColor(array, cv2.COLOR_BGRA2RGB).astype(np.uint8, copy=False)
    return colour, None if bool((alpha == 255).all()) else alpha


def read_mask(path: Path) -> Pixels:
    """Decodes a mask to [H, W] uint8, 255 = use. Colour counts by its brightest channel.

    Masks of zeros and ones (a common export) are read as zeros and 255.

    Raises:
        SceneError: As `read_image`.
    """
    array = _decode(path)
    if array.ndim == 3:
        array = array[..., :3].max(axis=2) if array.shape[2] >= 3 else array[..., 0]
    mask = np.ascontiguousarray(array)
    return mask * np.uint8(255) if int(mask.max()) == 1 else mask


def _decode(path: Path) -> Pixels:
    if path.exists() and not path.is_file():  # a pipe may never end, nor does /dev/zero
        raise SceneError(f"{path}: expected an image file, got a folder, a pipe or a device; check the path")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if not data:
        raise SceneError(f"{path}: the image file is empty; copy it again")
    if promise := too_many_pixels(data):
        raise SceneError(f"{path}: {promise}; copy it again, or scale it down")
    if cut_short(data):
        raise SceneError(f"{path}: the image file is cut short; copy it again")
    try:
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: {error.err}") from error
        raise SceneError(f"{path}: not a readable image ({error.err}); convert it to JPEG or PNG") from error
    if array is None or array.size == 0:
        raise SceneError(f"{path}: not a readable image; copy it again or convert it to JPEG or PNG")
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257, rounded
    if array.dtype != np.uint8:
        raise SceneError(f"{path}: expected 8 or 16 bits per channel, got {array.dtype}; convert it to PNG")
    return np.asarray(array, dtype=np.uint8)


def too_many_pixels(data: bytes) -> str:
    """What is wrong with the size that a PNG, JPEG or BMP promises, before any of it is unpacked; or nothing.

    A few megabytes of these can hold gigabytes of one colour, or promise them.
    """
    try:
        width, height = _promised(data)
    except (
        struct.error,
        ValueError,
        IndexError,
    ):  # too short: its decoder will refuse it
        return ""
    return f"promises {width}x{height} pixels, which no camera takes" if width * height > MOST_PIXELS else ""


def _promised(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a PNG, JPEG or BMP; of others 0.

    Raises:
        struct.error, ValueError, IndexError: the header is cut short.
    """
    if data.startswith(_PNG):
        width, height = struct.unpack_from(">2I", data, 16)
    elif data.startswith(b"BM"):
        old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header, with smaller numbers
        width, height = struct.unpack_from("<2H" if old else "<2i", data, 18)
    elif data.startswith(b"\xff\xd8"):
        height, width = struct.unpack_from(">2H", data, _frame_of(data) + 4)
    else:
        width = height = 0
    return abs(width), abs(height)


def _frame_of(data: bytes) -> int:
    """Where a JPEG's marker says which kind of frame it has."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = data.index(b"\xff", at) + 1
        kind = data[at]
        if kind in _FRAMES:
            return at
        if kind not in _BARE:
            at += 1 + struct.unpack_from(">H", data, at + 1)[0]
    raise ValueError("no frame")


def cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. Decoders fill the missing part with grey and say nothing.

    OpenCV also takes the room that a PNG's piece says it needs before it looks whether there is so much.
    """
    if data.startswith(_PNG):
        return _png_cut_short(data)
    return data.startswith(b"\xff\xd8") and _jpeg_cut_short(data)


def _png_cut_short(data: bytes) -> bool:
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at > len(data)
    return True


def _jpeg_cut_short(data: bytes) -> bool:
    """Walks the segments to the end-of-image marker, so that a thumbnail's marker does not count."""
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker = data[found.start() + 1]
        at = found.end()
        if marker == 0xD9:
            return False
        if marker == 0x01:
            continue
        if at + 2 > len(data):
            return True
        at += int.from_bytes(data[at : at + 2], "big")
    return True
