"""H.264 videos, encoded while frames arrive, so that length costs no memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from errors import UserError


class VideoError(UserError):
    """A video could not be encoded."""


class Video:
    """An mp4 file in the making; it appears under its name only when complete.

        with Video(path, fps=30) as video:
            for frame in frames:          # [H, W, 3] uint8, all of one size
                video.add(frame)

    The pixel format is yuv420p, which every player knows and which wants even sizes: an odd last row
    or column is cropped.
    """

    def __init__(self, path: Path, fps: int = 30) -> None:
        """Opens nothing yet: the first frame tells the size.

        Args:
            path: Of the mp4 file; its folder is made.
            fps: Frames per second, at least 1.
        """
        self.path = path
        self.fps = fps
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
        self._encoder: Generator[None, bytes | None, None] | None = None
        self._size = (0, 0)

    def __enter__(self) -> Video:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Encodes a frame [H, W, 3] RGB.

        Raises:
            VideoError: If there is no encoder, or it stopped (a full disk).
            ValueError: If the frame's size is not that of the first, or less than 2x2.
        """
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        if self._encoder is None:
            if not height or not width:
                raise ValueError(f"frame: expected at least 2x2 pixels, got {list(frame.shape)}")
            self._size = (width, height)
            self._encoder = self._open()
        if (width, height) != self._size:
            raise ValueError(f"frame: expected {self._size}, got {(width, height)}")
        try:
            self._encoder.send(np.ascontiguousarray(frame[:height, :width]).tobytes())
        except (OSError, StopIteration) as error:
            raise VideoError(f"{self.path}: the encoder stopped ({error}); is the disk full?") from error

    def _open(self) -> Generator[None, bytes | None, None]:
        try:
            import imageio_ffmpeg

            encoder: Generator[None, bytes | None, None] = imageio_ffmpeg.write_frames(
                str(self._temporary),
                self._size,
                fps=self.fps,
                codec="libx264",
                pix_fmt_in="rgb24",
                pix_fmt_out="yuv420p",
                macro_block_size=2,
                quality=None,
                output_params=["-crf", "18", "-movflags", "+faststart"],
            )
            encoder.send(None)
        except (ImportError, RuntimeError, OSError) as error:
            raise VideoError(
                f"{self.path}: no ffmpeg for H.264 ({error}); pip install imageio-ffmpeg, or use --frames"
            ) from error
        return encoder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._encoder is not None:
                if kind is None:
                    self._encoder.close()
                else:
                    with contextlib.suppress(Exception):  # the first error is the one to report
                        self._encoder.close()
            if kind is None and self._encoder is not None:
                if not self._temporary.is_file() or not self._temporary.stat().st_size:
                    raise VideoError(f"{self.path}: the video encoder wrote nothing; is the disk full?")
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
