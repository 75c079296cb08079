"""Pictures for the page: shrunk, coloured, and embedded as text.

JPEG, which everything shows; without colour subsampling where colours are a scale. Both scales come from
OpenCV: inferno for errors (even to the eye, dark is none), turbo for depth, as render.py colours it.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from evaluation import MAX_PSNR
from reporting.events import decoded

Picture = NDArray[np.uint8]
"""[H, W, 3] RGB."""

WIDTH = 640
"""Largest width in pixels of an embedded picture."""
SMALL = 400
"""The same for pictures shown small."""
_PHOTO_QUALITY, _MAP_QUALITY = 84, 86  # JPEG; below 80 blocks show, which one would take for the model's
_FLOOR = 0.1  # grey that TensorBoard's depth gives to the farthest thing; black is nothing


@dataclass(frozen=True)
class Embedded:
    """A picture within the page."""

    data: Markup
    """A data URI."""
    width: int
    height: int


def read_picture(path: Path) -> Picture | None:
    """Reads a picture file; None if it is missing or damaged."""
    try:
        return decoded(path.read_bytes())
    except OSError:
        return None


def shrunk(picture: NDArray, width: int = WIDTH) -> NDArray:
    """Makes a picture [H, W, ...] at most `width` pixels wide (and at most twice as high), by area means."""
    height_now, width_now = picture.shape[:2]
    share = min(1.0, width / width_now, 2 * width / height_now)
    if share == 1.0:
        return picture
    size = (max(1, round(width_now * share)), max(1, round(height_now * share)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def photo(picture: Picture, width: int = WIDTH) -> Embedded:
    """Embeds a photograph or a render."""
    return _embedded(shrunk(picture, width), ".jpg", _PHOTO_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)


def colour_map(picture: Picture, width: int = WIDTH) -> Embedded:
    """Embeds a map whose colours are a scale."""
    return _embedded(shrunk(picture, width), ".jpg", _MAP_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


def grey_map(picture: Picture, width: int = WIDTH) -> Embedded:
    """Embeds a map of shares, exactly: where a map is flat with hard edges JPEG rings, and PNG is small."""
    return _embedded(shrunk(picture, width)[..., 0], ".png")


def error(render: Picture, truth: Picture, width: int = WIDTH) -> NDArray[np.float32]:
    """Mean absolute difference of the three colours as a share of the full range, shrunk: [H, W]."""
    difference = cv2.absdiff(render, truth).astype(np.float32)
    return (shrunk(difference, width).mean(-1) / 255.0).astype(np.float32, copy=False)


def psnr(render: Picture, truth: Picture) -> float:
    """PSNR in dB, as evaluation.psnr has it for a view without weights; on bytes a hundred times as fast."""
    mean = cv2.norm(render, truth, cv2.NORM_L2) ** 2 / render.size / 255.0**2
    return MAX_PSNR if mean <= 10 ** (-MAX_PSNR / 10) else -10.0 * math.log10(mean)


def error_colours(share: NDArray[np.float32]) -> Picture:
    """Colours [H, W, 3] of errors [H, W] as shares of the end of the scale."""
    return _coloured(share, cv2.COLORMAP_INFERNO)


def depth_colours(grey: Picture) -> Picture:
    """Colours [H, W, 3] of depth that TensorBoard has in grey: red near, blue far, black nothing."""
    level = grey[..., 0].astype(np.float32) / 255.0
    colours = _coloured((level - _FLOOR) / (1 - _FLOOR), cv2.COLORMAP_TURBO)
    colours[level < _FLOOR / 2] = 0
    return colours


def error_scale() -> Embedded:
    """The colours of errors from none to the end of the scale, left to right."""
    return _embedded(error_colours(_ramp()), ".png")


def depth_scale() -> Embedded:
    """The colours of depth from far to near, left to right."""
    return _embedded(_coloured(_ramp(), cv2.COLORMAP_TURBO), ".png")


def _ramp() -> NDArray[np.float32]:
    return np.linspace(0, 1, 128, dtype=np.float32)[None].repeat(2, 0)


def _coloured(share: NDArray, scale: int) -> Picture:
    grey = (np.nan_to_num(share).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(grey, scale), cv2.COLOR_BGR2RGB), np.uint8)


def _embedded(picture: NDArray, suffix: str, quality: int = 0, sampling: int = 0) -> Embedded:
    options: list[int] = []
    if suffix == ".jpg":
        options += [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        options += [cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    pixels = np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture)
    done, content = cv2.imencode(suffix, pixels, options)
    assert done, f"{suffix}: cannot encode {pixels.shape} {pixels.dtype}"
    kind = "jpeg" if suffix == ".jpg" else "png"
    data = Markup(f"data:image/{kind};base64," + base64.b64encode(content.tobytes()).decode())
    return Embedded(data, pixels.shape[1], pixels.shape[0])
