"""Depth in colour, and videos that appear whole or not at all."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from evaluation import Video, VideoError, colorize_depth, depth_limits, film
from rasterizer.contract import RenderOutput
from scene import Camera


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while True:
        more, frame = capture.read()
        if not more:
            return np.stack(frames)[..., ::-1] if frames else np.empty(0)
        frames.append(np.asarray(frame))


def test_near_is_red_far_is_blue_and_nothing_is_black():
    depth = torch.linspace(1, 4, 100).expand(10, 100).clone()
    depth[0, :50] = 0
    depth[1, 0] = float("nan")
    depth[2, 0] = float("inf")
    alpha = torch.ones(10, 100)
    alpha[5, 40] = 0.2
    color = colorize_depth(depth, alpha).astype(int)
    assert color.shape == (10, 100, 3)
    assert (
        not color[0, :50].any() and not color[1, 0].any() and not color[2, 0].any() and not color[5, 40].any()
    )
    assert color[6, 3, 0] > 2 * color[6, 3, 2]  # near: red over blue
    assert color[6, 95, 2] > color[6, 95, 0]  # far: blue over red
    assert color[6].any(1).all()


def test_a_few_outliers_do_not_take_the_whole_scale():
    depth = torch.linspace(1, 2, 10_000).reshape(100, 100)
    depth[0, 0], depth[0, 1] = 1e-4, 1e6
    limits = depth_limits(depth)
    assert limits is not None
    near, far = limits
    assert 0.99 < near < 1.05 and 1.95 < far < 2.01


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_flat_and_empty_depth_have_a_colour_too(value):
    color = colorize_depth(torch.full((3, 4), value))
    assert color.shape == (3, 4, 3) and color.any() == (value > 0)


def test_a_video_has_its_frames_in_order_and_even_sizes(tmp_path):
    path = tmp_path / "new" / "clip.mp4"
    with Video(path, fps=10) as video:
        for k in range(6):
            video.add(np.full((35, 51, 3), 40 * k, np.uint8))
        assert not path.exists()
    frames = frames_of(path)
    assert frames.shape == (6, 34, 50, 3)
    # H.264 in limited-range yuv keeps flat grey within a few levels
    np.testing.assert_allclose(frames.mean((1, 2, 3)), 40 * np.arange(6), atol=6)
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_video_leaves_the_old_one_and_no_litter(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), Video(path) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="frame"), Video(tmp_path / "clip.mp4") as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
        video.add(np.zeros((18, 16, 3), np.uint8))


def test_a_missing_encoder_is_the_users_to_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(VideoError, match="ffmpeg"), Video(tmp_path / "clip.mp4") as video:
        video.add(np.zeros((16, 16, 3), np.uint8))


def test_film_puts_depth_beside_the_picture_and_keeps_frames(tmp_path):
    camera = Camera(torch.eye(4), torch.eye(3), 32, 24)
    depth = torch.linspace(1, 2, 32).expand(1, 24, 32)

    def render(camera):
        return RenderOutput(torch.full((1, 24, 32, 3), 0.5), depth, torch.ones(1, 24, 32), {})

    film([camera] * 3, render, tmp_path / "a.mp4", depth=True, frames=tmp_path / "a")
    assert frames_of(tmp_path / "a.mp4").shape == (3, 24, 64, 3)
    pictures = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert pictures == ["00000.png", "00001.png", "00002.png"]
    first = np.asarray(cv2.imread(str(tmp_path / "a" / "00000.png")))
    assert (first[:, :32] == 128).all() and first[:, 32:].std() > 20
