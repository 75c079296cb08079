"""From a camera path to a video, and to numbered pictures if wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.metrics import to_8bit
from evaluation.pictures import colorize_depth, depth_limits, save_png
from evaluation.video import Video
from progress import Bar
from rasterizer.contract import RenderOutput
from scene import Camera

_INERTIA = 0.9  # share of the last frame's depth limits in the next one's: colours must not flicker


@torch.no_grad()
def film(
    cameras: Sequence[Camera],
    render: Callable[[Camera], RenderOutput],
    path: Path,
    *,
    fps: int = 30,
    depth: bool = False,
    frames: Path | None = None,
    quiet: bool = False,
) -> None:
    """Renders a path into an H.264 file.

    Args:
        cameras: One per frame, all of one size.
        render: Gives a camera's picture (C = 1).
        path: Of the mp4 file, which appears when it is complete.
        fps: Frames per second.
        depth: Shows depth in colour to the right of the picture.
        frames: If given, a folder for `00000.png` ...: the same frames, losslessly.
        quiet: No progress bar.

    Raises:
        VideoError: If there is no encoder or it fails.
        OSError: If a file cannot be written.
    """
    if frames is not None:
        frames.mkdir(parents=True, exist_ok=True)
    limits: tuple[float, float] | None = None
    with Video(path, fps) as video:
        bar = Bar(cameras, desc=path.name, unit="frame", quiet=quiet)
        for number, camera in enumerate(bar):
            output = render(camera)
            frame: NDArray[np.uint8] = to_8bit(output.color[0]).cpu().numpy()
            if depth:
                now = depth_limits(output.depth[0], output.alpha[0])
                limits = _follow(limits, now)
                right = colorize_depth(output.depth[0], output.alpha[0], limits=limits)
                frame = np.concatenate([frame, right], axis=1)
            video.add(frame)
            if frames is not None:
                save_png(frames / f"{number:05d}.png", frame)


def _follow(old: tuple[float, float] | None, new: tuple[float, float] | None) -> tuple[float, float] | None:
    if old is None or new is None:
        return new or old
    return (old[0] * _INERTIA + new[0] * (1 - _INERTIA), old[1] * _INERTIA + new[1] * (1 - _INERTIA))
