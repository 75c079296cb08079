"""Frames to views: decode, undistort, resize, in parallel, keeping uint8 only.

Pixels, alpha, mask and intrinsics go through every step together.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from tqdm import tqdm

from scene.camera import Camera
from scene.config import AUTO_WIDTH, DIVISORS
from scene.decode import Pixels, read_image, read_mask
from scene.frames import Frame
from scene.scene_error import SceneError
from scene.undistort import WarpCache
from scene.view import View
from scene.warp import Undistortion

_log = logging.getLogger(__name__)

AlphaMeaning = Literal["mask", "background"]

ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratio between image and camera that rounding of sizes may cause."""

MIN_ROUNDED_SIDE = 16
"""Pixels. Below it the pixel that rounding may cost is more than 1/16 of a side and says nothing."""

MAX_REDUCTION = 64
"""Times that an image may be smaller than its camera, or larger: reduced copies go down to an eighth."""

_THREADS = 8  # decoders at work hold full-size images; more would cost memory, not time
_LISTED = 5  # sizes or images in a message


def target_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Size in pixels after downscaling; images are never enlarged.

    Args:
        width: Pixels on disk.
        height: Pixels on disk.
        resolution: As `SceneConfig.resolution`.
    """
    if resolution == -1:
        factor = max(1.0, width / AUTO_WIDTH)
    elif resolution in DIVISORS:
        factor = float(resolution)
    else:
        factor = max(1.0, width / resolution)
    return max(1, round(width / factor)), max(1, round(height / factor))


def load_views(
    frames: Sequence[Frame], resolution: int, alpha: AlphaMeaning, *, quiet: bool = False
) -> list[View]:
    """Reads the frames' images, in order, with a progress bar.

    Args:
        frames: Each with an image file.
        resolution: As `SceneConfig.resolution`.
        alpha: What an alpha channel means.
        quiet: No progress bar.

    Raises:
        SceneError: For images that cannot be read or do not fit their camera; the first few are named.
    """
    cache = WarpCache(frame.lens for frame in frames)
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        results = pool.map(lambda frame: _view_or_why(frame, cache, resolution, alpha), frames)
        found = list(
            tqdm(
                results,
                total=len(frames),
                desc="images",
                unit="image",
                leave=False,
                disable=True if quiet else None,
            )
        )
    finally:
        pool.shutdown(cancel_futures=True)
    if bad := list(dict.fromkeys(str(why) for why in found if isinstance(why, SceneError))):
        more = f"\nand {len(bad) - _LISTED} more images" if len(bad) > _LISTED else ""
        raise SceneError("\n".join(bad[:_LISTED]) + more)
    views = [view for view in found if isinstance(view, View)]
    for label, sizes in cache.mixed_sizes():
        counts = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sizes.most_common(_LISTED))
        _log.warning("%s: its images come in %d sizes: %s; check the folder", label, len(sizes), counts)
    return views


def _view_or_why(frame: Frame, cache: WarpCache, resolution: int, alpha: AlphaMeaning) -> View | SceneError:
    """The view, or why there is none."""
    try:
        return load_view(frame, cache, resolution, alpha)
    except SceneError as error:
        return error


def load_view(frame: Frame, cache: WarpCache, resolution: int, alpha_means: AlphaMeaning) -> View:
    """Reads one frame's image and mask.

    Raises:
        SceneError: As `load_views`.
    """
    if frame.image is None:
        raise SceneError(f"{frame.name}: the image is missing; add it or use --skip_missing")
    pixels, alpha = read_image(frame.image)
    mask = None if frame.mask is None else _fitting_mask(frame, pixels)
    if alpha is not None and alpha_means == "mask":
        mask = alpha if mask is None else _times(mask, alpha)
        alpha = None
    height, width = pixels.shape[:2]
    camera, K, resample = cache.pinhole(frame.lens, width, height)
    _check_size(frame, (width, height), (camera.width, camera.height))
    if resample:
        warp = cache.warp(frame.lens, camera, K, width, height)

        def undistort(image: Any, interpolation: int) -> Any:
            return cv2.remap(image, warp.map_x, warp.map_y, interpolation, borderMode=cv2.BORDER_REPLICATE)

        pixels, alpha = _resample(pixels, alpha, lambda image: undistort(image, cv2.INTER_CUBIC))
        mask = None if mask is None else undistort(mask, cv2.INTER_LINEAR)
        if warp.valid is not None:
            mask = np.where(warp.valid, 255 if mask is None else mask, 0).astype(np.uint8)
    size = target_size(width, height, resolution)
    if size != (width, height):
        pixels, alpha = _resample(pixels, alpha, lambda image: _shrink(image, size))
        mask = None if mask is None else _shrink(mask, size)
    scale = np.array([[size[0] / camera.width], [size[1] / camera.height], [1.0]])
    return View(
        name=frame.name,
        camera=Camera(torch.from_numpy(frame.viewmat).float(), torch.from_numpy(K * scale).float(), *size),
        pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
        alpha=_tensor(alpha),
        mask=_tensor(mask),
        undistortion=Undistortion(camera, K) if resample else None,
    )


def shrink_view(view: View, width: int, height: int) -> View:
    """The view on a smaller pixel grid, by averaging over areas; on the view's device."""
    device = view.pixels.device
    pixels, alpha = _resample(
        view.pixels.cpu().numpy(),
        None if view.alpha is None else view.alpha.cpu().numpy(),
        lambda image: _shrink(image, (width, height)),
    )
    mask = None if view.mask is None else _shrink(view.mask.cpu().numpy(), (width, height))
    small = replace(
        view,
        camera=view.camera.resized(width, height),
        pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
        alpha=_tensor(alpha),
        mask=_tensor(mask),
    )
    return small.to(device)


def _tensor(channel: Pixels | None) -> torch.Tensor | None:
    """The channel as a tensor; None where it is 255 everywhere and so says nothing."""
    if channel is None or bool((channel == 255).all()):
        return None
    return torch.from_numpy(np.ascontiguousarray(channel))


def _shrink(image: Any, size: tuple[int, int]) -> Any:
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _times(a: Pixels, b: Pixels) -> Pixels:
    return np.rint(a.astype(np.float32) * b.astype(np.float32) / 255.0).astype(np.uint8)


def _fitting_mask(frame: Frame, pixels: Pixels) -> Pixels:
    """The frame's mask at its image's size."""
    if frame.mask is None:
        raise AssertionError("asked for the mask of a frame without one")
    mask = read_mask(frame.mask)
    height, width = pixels.shape[:2]
    if mask.shape == (height, width):
        return mask
    if not _same_view((mask.shape[1], mask.shape[0]), (width, height)):
        raise SceneError(
            f"{frame.mask}: the mask is {mask.shape[1]}x{mask.shape[0]} but its image {frame.image} is "
            f"{width}x{height}; make the mask from that image"
        )
    if mask.shape[1] >= width:
        return np.asarray(_shrink(mask, (width, height)), dtype=np.uint8)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _same_view(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size can be the other one reduced.

    Their aspects agree to 1 %, or to the pixel by which rounding the smaller one can be off.
    """
    (small_w, small_h), (w, h) = sorted((a, b))
    if w > MAX_REDUCTION * small_w:
        return False
    off = abs(small_h - small_w * h / w)
    rounded = off <= 1.0 and min(small_w, small_h) >= MIN_ROUNDED_SIDE
    return off <= ASPECT_TOLERANCE * small_h or rounded


def _check_size(frame: Frame, image: tuple[int, int], camera: tuple[int, int]) -> None:
    if _same_view(image, camera):
        return
    hint = "use the images that the model was made from"
    if _same_view((image[1], image[0]), camera):
        hint = "the two are turned by 90 degrees: save the image upright, without an EXIF orientation"
    raise SceneError(
        f"{frame.image}: the image is {image[0]}x{image[1]} but {frame.lens.label} "
        f"is {camera[0]}x{camera[1]}; {hint}"
    )


def _resample(
    pixels: Pixels, alpha: Pixels | None, move: Callable[[Any], Any]
) -> tuple[Pixels, Pixels | None]:
    """Moves colour and alpha; colour is premultiplied meanwhile, so that hidden colour does not bleed."""
    if alpha is None:
        return np.asarray(move(pixels), dtype=np.uint8), None
    share = alpha.astype(np.float32) / 255.0
    moved = move(np.dstack([pixels.astype(np.float32) * share[..., None], share]))
    new_share = np.clip(moved[..., 3:], 0.0, 1.0)
    colour = moved[..., :3] / np.maximum(new_share, 1.0 / 510.0)  # below half a level of alpha nothing shows
    return (
        np.clip(np.rint(colour), 0, 255).astype(np.uint8),
        np.rint(new_share[..., 0] * 255.0).astype(np.uint8),
    )
