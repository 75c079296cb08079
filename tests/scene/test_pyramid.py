"""Coarse-to-fine images: the schedule of sizes, and that a smaller view shows the same scene."""

from __future__ import annotations

import pytest
import torch

from scene import Camera, ImagePyramid, PyramidConfig, SceneError, View


def _view(
    width: int = 256, height: int = 192, alpha: torch.Tensor | None = None, mask: torch.Tensor | None = None
) -> View:
    K = torch.tensor([[200.0, 0, 120.0], [0, 210.0, 100.0], [0, 0, 1]])
    row = torch.linspace(0, 255, width).round().to(torch.uint8)
    pixels = row[None, :, None].expand(height, width, 3).clone()
    return View("a.png", Camera(torch.eye(4), K, width, height), pixels, alpha, mask)


def test_sizes_rise_in_steps_of_the_root_of_two_to_the_full_size():
    config = PyramidConfig(factor=4.0, until=400)
    reductions = [config.reduction(iteration) for iteration in range(1, 500)]
    assert reductions[0] == 4.0 and set(reductions[400:]) == {1.0}
    assert reductions == sorted(reductions, reverse=True)
    assert sorted(set(reductions)) == pytest.approx([1.0, 2**0.5, 2.0, 2**1.5, 4.0])
    counts = [reductions[:400].count(value) for value in sorted(set(reductions))[1:]]
    assert max(counts) - min(counts) <= 2  # every size but the first and the last step lasts equally long


def test_no_pyramid_gives_the_views_themselves():
    views = [_view()]
    for config in (PyramidConfig(), PyramidConfig(factor=4.0, until=0), PyramidConfig(factor=1.0, until=100)):
        assert ImagePyramid(views, config).view(0, 1) is views[0]


def test_a_smaller_view_shows_the_same_rays_and_the_mean_of_the_pixels():
    view = _view()
    small = ImagePyramid([view], PyramidConfig(factor=4.0, until=10)).view(0, 1)
    assert (small.camera.width, small.camera.height) == (64, 48)
    assert torch.allclose(small.camera.K[:2], view.camera.K[:2] / 4)
    blocks = view.image().view(48, 4, 64, 4, 3).mean((1, 3))
    # both images are rounded to 8 bits, the full one before it is averaged
    assert (small.image() - blocks).abs().max() <= 0.5 / 255 + 1e-6


def test_alpha_and_mask_shrink_with_the_image():
    half = torch.zeros(192, 256, dtype=torch.uint8)
    half[:, :128] = 255
    small = ImagePyramid([_view(alpha=half, mask=half)], PyramidConfig(factor=2.0, until=10)).view(0, 1)
    weight = small.weight()
    assert weight is not None and weight.shape == (96, 128)
    assert weight[:, :64].eq(1).all() and weight[:, 64:].eq(0).all()
    behind = small.image(torch.tensor([1.0, 0.0, 0.5]))[:, 64:]
    assert torch.allclose(behind, torch.tensor([1.0, 0.0, 0.5]).expand_as(behind))


def test_a_size_is_made_once_and_dropped_when_it_is_past():
    pyramid = ImagePyramid([_view(), _view()], PyramidConfig(factor=4.0, until=8))
    first = pyramid.view(0, 1)
    assert pyramid.view(0, 2) is first and pyramid.view(1, 1) is not first
    assert pyramid.view(0, 5).camera.width == 128
    assert pyramid.view(0, 1) is not first  # made again: nothing of a past size is kept
    assert pyramid.view(0, 9) is pyramid.views[0]


def test_no_side_falls_below_what_ssim_needs():
    small = ImagePyramid([_view(256, 192)], PyramidConfig(factor=64.0, until=10)).view(0, 1)
    assert min(small.camera.width, small.camera.height) == 32
    tiny = _view(40, 20)
    assert ImagePyramid([tiny], PyramidConfig(factor=4.0, until=10)).view(0, 1).camera.height == 20


@pytest.mark.parametrize("factor", [0.5, 65.0, float("nan")])
def test_factors_with_no_meaning_are_refused_by_name(factor: float):
    with pytest.raises(SceneError, match="factor"):
        PyramidConfig(factor=factor)
    with pytest.raises(SceneError, match="until"):
        PyramidConfig(until=-1)
