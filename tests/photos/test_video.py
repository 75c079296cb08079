"""Frames of a video: the sharp ones, evenly over its length."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from errors import UserError
from photos.video import pick_frames, sharpness


def _write(path: Path, frames: int, blurred: set[int]) -> Path:
    """A film of noise that differs from frame to frame; `blurred` ones are."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (160, 120))
    for number in range(frames):
        noise = np.random.default_rng(number).integers(0, 256, (15, 20, 3), np.uint8)
        frame = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_NEAREST)
        writer.write(cv2.GaussianBlur(frame, (0, 0), 6) if number in blurred else frame)
    writer.release()
    return path


def test_each_window_gives_its_sharpest_frame(tmp_path):
    sharp = {3, 14, 22, 31}  # one in each ten
    video = _write(tmp_path / "walk.mp4", 40, set(range(40)) - sharp)
    (tmp_path / "out").mkdir()
    found = pick_frames(video, tmp_path / "out", 4, quiet=True)
    assert [int(path.stem.removeprefix("frame_")) for path in found] == sorted(sharp)
    assert all(np.asarray(cv2.imread(str(path))).shape == (120, 160, 3) for path in found)


def test_a_short_video_gives_all_its_frames(tmp_path):
    video = _write(tmp_path / "short.mp4", 5, set())
    (tmp_path / "out").mkdir()
    assert len(pick_frames(video, tmp_path / "out", 20, quiet=True)) == 5


def test_a_frame_without_pixels_is_passed_over(tmp_path, monkeypatch):
    class Capture:  # no subclass: OpenCV's classes crash as bases
        def __init__(self, path, opened=cv2.VideoCapture):
            self._whole = opened(path)

        def __getattr__(self, name):
            return getattr(self._whole, name)

        def retrieve(self):
            ok, frame = self._whole.retrieve()
            return ok, frame if self._whole.get(cv2.CAP_PROP_POS_FRAMES) != 2 else None

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    video = _write(tmp_path / "damaged.mp4", 5, set())
    (tmp_path / "out").mkdir()
    found = pick_frames(video, tmp_path / "out", 20, quiet=True)
    assert [path.name for path in found] == [f"frame_{i:06}.jpg" for i in (0, 2, 3, 4)]


def test_blur_lowers_sharpness():
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    assert sharpness(picture) > 10 * sharpness(np.asarray(cv2.GaussianBlur(picture, (0, 0), 3), np.uint8))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_of_other_files_is_not_followed(tmp_path, mark):
    _write(tmp_path / "other.avi", 12, set())
    text = f"ffconcat version 1.0\nfile '{tmp_path}/other.avi'\n"
    (tmp_path / "list.mp4").write_bytes(mark + text.encode())
    (tmp_path / "frames").mkdir()
    with pytest.raises(UserError, match=r"list\.mp4: begins as text"):
        pick_frames(tmp_path / "list.mp4", tmp_path / "frames", 4)


@pytest.mark.parametrize("content", [b"", b"\0no video at all" * 100, bytes(range(128, 228)) * 20])
def test_what_is_no_video_is_named(tmp_path, content, capfd):
    (tmp_path / "a.mp4").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"a\.mp4: not a readable video"):
        pick_frames(tmp_path / "a.mp4", tmp_path / "out", 4, quiet=True)
    assert capfd.readouterr().err == "", "what ffmpeg says belongs to nobody"
