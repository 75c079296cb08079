"""Sharp frames of a video, picked evenly over its length."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is said by us

import cv2
import numpy as np
from numpy.typing import NDArray

from errors import UserError
from progress import Bar

LOOKED_AT = 12
"""Frames of each window whose sharpness is compared, at most."""
_WIDTH = 480
"""Pixels: sharpness is measured on pictures of this width, so that sensor noise does not count as detail."""
_QUALITY = 95


def pick_frames(video: Path, folder: Path, count: int, *, quiet: bool = False) -> list[Path]:
    """Writes the sharpest frame of each of `count` equal windows of a video as JPEG.

    Args:
        video: any file that OpenCV's ffmpeg reads; a phone's rotation is applied.
        folder: exists and is empty.
        count: frames wanted; a shorter video gives fewer.
        quiet: no progress bar.

    Returns:
        The files, in the order of the video.

    Raises:
        UserError: it is no video, or has fewer than two frames.
    """
    _refuse_text(video)
    capture = cv2.VideoCapture(str(video))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not capture.isOpened():
            raise UserError(f"{video}: not a readable video: convert it to .mp4 (H.264), or give photographs")
        if total <= 0:  # some containers do not say
            total = _count(video)
        best = _sharpest(capture, total, min(count, total), quiet)
    finally:
        capture.release()
    if len(best) < 2:
        raise UserError(f"{video}: expected a video of at least 2 frames, got {len(best)}: is it whole?")
    written = []
    for number, frame in sorted(best.items()):
        path = folder / f"frame_{number:06}.jpg"
        ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        assert ok, "OpenCV encodes every picture as JPEG"
        path.write_bytes(data.tobytes())
        written.append(path)
    return written


def sharpness(frame: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a picture [H, W, 3] at 480 pixels width: small where it is blurred."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    if grey.shape[1] > _WIDTH:
        height = max(1, round(grey.shape[0] * _WIDTH / grey.shape[1]))
        grey = cv2.resize(grey, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _sharpest(capture: cv2.VideoCapture, total: int, count: int, quiet: bool) -> dict[int, NDArray[np.uint8]]:
    """Frame number and picture of each window's sharpest frame."""
    best: dict[int, tuple[float, int, NDArray[np.uint8]]] = {}
    step = max(1, total // max(1, count * LOOKED_AT))
    with Bar[None](total=total, desc="video", unit="frame", quiet=quiet) as bar:
        number = 0
        while capture.grab():
            if number % step == 0:
                ok, frame = capture.retrieve()
                if not ok:
                    break
                if frame is not None:  # OpenCV reads a damaged frame without pixels, and goes on
                    window = min(number * count // total, count - 1)
                    score = sharpness(np.asarray(frame, np.uint8))
                    if window not in best or score > best[window][0]:
                        best[window] = (score, number, np.asarray(frame, np.uint8))
            number += 1
            bar.update()
    return {number: frame for _, number, frame in best.values()}


def _refuse_text(video: Path) -> None:
    """A list of other files, as ffmpeg follows them whatever the name's ending, is no video.

    Raises:
        UserError: it begins as text does, or cannot be read.
    """
    try:
        with video.open("rb") as file:
            begin = file.read(16).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{video}: cannot be read ({error.strerror}): check the path") from error
    film = begin.startswith((b"RIFF", b"YUV4MPEG2"))  # kinds of video whose first bytes may all be letters
    if begin and not film and all(32 <= byte <= 126 or byte in b"\t\n\r" for byte in begin):
        raise UserError(f"{video}: begins as text, not as a video: give the video itself, or photographs")


def _count(video: Path) -> int:
    capture, count = cv2.VideoCapture(str(video)), 0
    while capture.grab():
        count += 1
    capture.release()
    return count
