"""Pictures by the program's own rasterizer: what training sees, from where a browser's camera is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation import colorize_depth, psnr, to_8bit
from gaussian_model import Gaussians
from scene import Camera
from viewer.board import Look, Mode
from viewer.frame import Frame
from viewer.stands import Stand

MOVING_S = 0.06  # a picture for a camera that moves must not take longer; it is smaller then
_SMALLEST = 96  # pixels, larger side
_BESIDE = 360  # larger side of a photograph in the panel, which is about 300 pixels wide

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Style:
    """How the program renders its Gaussians."""

    antialiased: bool
    backend: str


class Painter:
    """Renders, and learns how long that takes. Nothing is changed by it, and no random number is drawn."""

    def __init__(self, style: Style, frame: Frame) -> None:
        self._style, self._frame = style, frame
        self._pixels_per_s = 2e6  # corrected by every picture

    def size(self, look: Look, side: int, moving: bool) -> tuple[int, int]:
        """Width and height for a look: the larger one is `side`, or less while a camera moves."""
        aspect = look.pose.aspect
        wide, high = min(1.0, aspect), min(1.0, 1.0 / aspect)  # of the larger side
        side = min(side, max(look.width, look.height))
        if moving:
            side = min(side, int((self._pixels_per_s * MOVING_S / (wide * high)) ** 0.5))
        side = max(side, _SMALLEST)
        return max(1, round(side * wide)), max(1, round(side * high))

    @torch.no_grad()
    def picture(
        self, gaussians: Gaussians, look: Look, size: tuple[int, int], mode: Mode, background: Tensor
    ) -> Pixels:
        """What a browser's camera sees: [H, W, 3], in colour, or its depth in colour."""
        began = time.perf_counter()
        camera = self._frame.camera(look.pose, *size)
        if mode == "depth":
            render = self._render(gaussians, camera, background, depth=True)
            pixels = colorize_depth(render.depth[0], render.alpha[0])
        else:
            render = self._render(gaussians, camera, background)
            pixels = to_8bit(render.color[0]).cpu().numpy()
        speed = size[0] * size[1] / max(time.perf_counter() - began, 1e-6)
        self._pixels_per_s += 0.3 * (speed - self._pixels_per_s)
        return pixels

    @torch.no_grad()
    def comparison(self, gaussians: Gaussians, stand: Stand, background: Tensor) -> tuple[Pixels, str]:
        """A photograph above its rendering: [2H, W, 3]; and how far they are apart, in words."""
        assert stand.photograph is not None
        camera, photograph = stand.camera, stand.photograph.cpu()
        scale = min(1.0, _BESIDE / max(camera.width, camera.height))
        camera = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
        small = cv2.resize(photograph.numpy(), (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        render = to_8bit(self._render(gaussians, camera, background).color[0]).cpu()
        apart = psnr(render / 255.0, torch.from_numpy(small) / 255.0)
        words = f"{stand.name}: photograph, rendering; PSNR {apart:.1f} dB at {camera.width}x{camera.height}"
        return np.vstack([small, render.numpy()]), words

    def _render(self, gaussians, camera: Camera, background: Tensor, depth: bool = False):  # noqa: ANN001, ANN202
        return gaussians.render(
            camera,
            background=background.to(gaussians.device),
            depth="ED" if depth else None,
            antialiased=self._style.antialiased,
            backend=self._style.backend,
        )
