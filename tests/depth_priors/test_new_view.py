"""Photographs warped into new cameras: against the synthetic scene's true pictures and depth."""

from __future__ import annotations

import numpy as np
import torch

from depth_priors import DepthPrior
from depth_priors.new_view import NewViews
from scene import Camera, View


def _exact(depth: torch.Tensor) -> DepthPrior:
    """True depth as a prior that is sure everywhere."""
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-6), 0.0).float()
    return DepthPrior(inverse, "inverse", "world", (depth > 0).float(), "truth")


def _known(view: View) -> torch.Tensor:
    assert view.mask is not None
    return view.mask > 0


def test_between_two_photographs_picture_and_depth_are_nearly_the_true_ones(near_views) -> None:
    views, _, truth = near_views
    new = NewViews([views[0], views[2]], [_exact(truth[0]), _exact(truth[2])])
    view, prior = new(views[1].camera, "between")
    known = _known(view)
    assert torch.equal(known, prior.confidence > 0) and torch.equal(known, prior.value > 0)
    # what is known: all but the borders and what both neighbours have hidden
    assert float(known.float().mean()) > 0.85
    error = (prior.depth()[known] / truth[1][known] - 1.0).abs()
    # surfaces are resampled from points one pixel apart; at their edges the other side is taken
    assert float((error < 0.02).float().mean()) > 0.98
    difference = (view.image() - views[1].image())[known]
    psnr = -10.0 * torch.log10(difference.square().mean())
    # two resamplings of 256x192 pixels with texture up to the pixel: 30 dB measured without the edges
    assert float(psnr) > 26.0
    assert float(view.pixels[~known].float().mean()) > 20.0, "colours fade out, they do not end at black"
    _, uncoloured = new(views[1].camera, "between", coloured=False)
    assert torch.equal(uncoloured.value, prior.value)


def test_from_a_training_camera_the_photograph_comes_back(near_views) -> None:
    views, _, truth = near_views
    view, prior = NewViews(views, [_exact(depth) for depth in truth])(views[0].camera, "same")
    known = _known(view)
    assert float(known.float().mean()) > 0.85  # all but rims of what is near, and thin things
    wrong = (view.pixels.int() - views[0].pixels.int()).abs().amax(-1)[known]
    # a pixel's own depth brings it back to its own middle: one level of rounding; where the median of 3x3
    # moves depth the pixel moves along its ray, which this camera does not see
    assert float((wrong <= 1).float().mean()) > 0.98
    error = (prior.depth()[known] / truth[0][known] - 1.0).abs()
    assert float((error < 0.02).float().mean()) > 0.98


def _flat(z: float, colour: int, x: float = 0.0, size: int = 64) -> tuple[View, DepthPrior]:
    """A photograph of a wall of one colour."""
    viewmat = torch.eye(4)
    viewmat[0, 3] = -x
    K = torch.tensor([[64.0, 0, size / 2], [0, 64.0, size / 2], [0, 0, 1]])
    view = View(
        f"{x}.png",
        Camera(viewmat, K, size, size),
        torch.full((size, size, 3), colour, dtype=torch.uint8),
    )
    return view, DepthPrior(
        torch.full((size, size), 1.0 / z), "inverse", "world", torch.ones(size, size), "wall"
    )


def test_what_is_near_hides_what_is_far_without_gaps() -> None:
    far_view, far = _flat(
        8.0, 40, x=3.5
    )  # shows the wall behind the right half of the post, but not the post
    near_view, near = _flat(2.0, 200)
    only_middle = torch.zeros(64, 64)
    only_middle[20:44, 20:44] = 1.0
    near = DepthPrior(near.value * only_middle, "inverse", "world", only_middle, "post")
    # the near square seen from half the distance is twice as coarse as the pixels: it has gaps to see through
    close = Camera(torch.eye(4), near_view.camera.K, 64, 64)
    close.viewmat[2, 3] = -1.0
    view, prior = NewViews([far_view, near_view], [far, near])(close, "close")
    depth = prior.depth().numpy()
    inner = np.s_[12:52, 12:52]  # 24 pixels at half the distance: 48, from 8 to 56
    seen = depth[inner][depth[inner] > 0]
    np.testing.assert_allclose(seen, 1.0, rtol=0.02)
    assert (depth[inner] > 0).mean() > 0.9
    assert int(view.pixels.numpy()[inner][depth[inner] > 0].min()) > 150


def test_where_nothing_is_known_the_mask_is_empty() -> None:
    view, prior = _flat(4.0, 100)
    away = Camera(torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])), view.camera.K, 64, 64)
    found, depth = NewViews([view], [prior])(away, "away")
    assert not _known(found).any() and not depth.confidence.any() and not depth.value.any()
    nothing = NewViews([view], [None])
    assert len(nothing) == 0
    assert not _known(nothing(view.camera, "same")[0]).any()
