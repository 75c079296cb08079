"""The picture from beside, moved back: the warp against torch's, its gradients, and what the loss says."""

from __future__ import annotations

import pytest
import torch

from losses.binocular import baseline_of, beside, binocular_loss, draw_shift, row_warp
from scene import Camera

HEIGHT, WIDTH = 17, 33
CAMERA = Camera(
    torch.eye(4), torch.tensor([[30.0, 0, WIDTH / 2], [0, 30.0, HEIGHT / 2], [0, 0, 1]]), WIDTH, HEIGHT
)


def _random(seed, *shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_rows_are_moved_as_torchs_sampler_moves_them():
    image = _random(0, HEIGHT, WIDTH, 3)
    disparity = _random(1, HEIGHT, WIDTH, low=-40, high=40)
    out, inside = row_warp(image, disparity)
    x = torch.arange(WIDTH) + 0.5 - disparity
    y = (torch.arange(HEIGHT)[:, None] + 0.5).expand(HEIGHT, WIDTH)
    grid = torch.stack([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], -1)[None]
    theirs = torch.nn.functional.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False)
    theirs = theirs[0].permute(1, 2, 0)
    assert torch.equal(inside, ((x >= 0.5) & (x <= WIDTH - 0.5)).float())
    assert 0.2 < float(inside.mean()) < 0.8
    # their positions go through [-1, 1] and back: some parts in a million of the width
    torch.testing.assert_close(out, theirs * inside[..., None], atol=2e-5, rtol=0)
    twin, twin_inside = row_warp(image.double(), disparity.double())
    torch.testing.assert_close(out, twin.float(), atol=1e-5, rtol=0)
    assert torch.equal(inside, twin_inside.float())


def test_both_gradients_are_the_twins():
    grad = _random(3, HEIGHT, WIDTH, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        image = _random(0, HEIGHT, WIDTH, 3).to(dtype).requires_grad_(True)
        disparity = _random(1, HEIGHT, WIDTH, low=-9, high=9).to(dtype).requires_grad_(True)
        row_warp(image, disparity)[0].backward(grad.to(dtype))
        found.append((image.grad.float(), disparity.grad.float()))
    for ours, theirs in zip(*found, strict=True):
        assert float(ours.abs().sum()) > 0
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_what_is_not_a_number_is_outside_and_one_column_is_enough():
    disparity = torch.zeros(3, 4)
    disparity[0, 1], disparity[1, 2] = torch.nan, torch.inf
    out, inside = row_warp(torch.ones(3, 4, 3), disparity)
    assert inside.sum() == 10 and bool(out.isfinite().all()) and float(out.sum()) == 30
    out, inside = row_warp(torch.ones(3, 1, 3), torch.zeros(3, 1))
    assert bool((out == 1).all()) and bool((inside == 1).all())


def test_bits_do_not_depend_on_the_number_of_threads():
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        image = _random(0, 200, 300, 3).requires_grad_(True)
        disparity = _random(1, 200, 300, low=-30, high=30).requires_grad_(True)
        out, _ = row_warp(image, disparity)
        out.backward(_random(2, 200, 300, 3))
        found.append((out.detach(), image.grad, disparity.grad))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def _wall(camera, depth):
    """What a camera sees of a wall [H, W, 3] at a depth that gets brighter to the right, evenly."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / 30 * depth - float(camera.viewmat[0, 3])
    return (0.5 + 0.4 * x)[None, :, None].expand(HEIGHT, WIDTH, 3).contiguous()


@pytest.mark.parametrize("baseline", [-0.3, 0.2])
def test_it_is_least_at_the_true_depth_and_its_gradient_leads_there(baseline):
    true, target = 4.0, _wall(CAMERA, 4.0)
    seen = _wall(beside(CAMERA, baseline), true)
    losses = {}
    for depth in (3.7, 3.9, 4.0, 4.1, 4.3):
        leaf = torch.full((HEIGHT, WIDTH), depth, requires_grad=True)
        loss = binocular_loss(seen, leaf, torch.ones(HEIGHT, WIDTH), CAMERA, baseline, target, None)
        loss.backward()
        losses[depth] = loss.item()
        if depth != 4.0:
            assert (leaf.grad.sum() > 0) == (depth > true)
    assert losses[4.0] < 1e-5 < min(losses[3.9], losses[4.1])
    assert losses[3.9] < losses[3.7] and losses[4.1] < losses[4.3]


def test_masked_pixels_and_those_of_no_depth_do_not_count():
    target = _wall(CAMERA, 4.0)
    seen = _wall(beside(CAMERA, 0.2), 4.0)
    depth, alpha = torch.full((HEIGHT, WIDTH), 4.0), torch.ones(HEIGHT, WIDTH)
    wrong = target.clone()
    wrong[:, :5] = 9.0
    weight = torch.ones(HEIGHT, WIDTH)
    weight[:, :5] = 0.0
    assert binocular_loss(seen, depth, alpha, CAMERA, 0.2, wrong, weight).item() < 0.01
    assert binocular_loss(seen, depth * weight, alpha, CAMERA, 0.2, wrong, None).item() < 0.01
    assert binocular_loss(seen, depth, alpha * weight, CAMERA, 0.2, wrong, None).item() < 0.01
    assert binocular_loss(seen, depth, alpha, CAMERA, 0.2, wrong, None).item() > 0.1
    assert binocular_loss(seen, depth * 0, alpha, CAMERA, 0.2, target, None) is None
    assert binocular_loss(seen, depth, alpha, CAMERA, 99.0, target, None) is None


def test_the_baseline_moves_the_middle_of_the_scene_by_a_share_of_the_width():
    generator = torch.Generator().manual_seed(0)
    depth = torch.full((HEIGHT, WIDTH), 4.0)
    depth[0] = 0.0
    shifts = [draw_shift(0.1, generator) for _ in range(200)]
    shares = [baseline_of(shift, CAMERA, depth) * 30 / 4 / WIDTH for shift in shifts]
    assert shares == pytest.approx(shifts)  # 30 / 4: focal length over depth
    assert max(shares) <= 0.1 and min(shares) >= -0.1 and max(shares) - min(shares) > 0.18
    assert baseline_of(0.1, CAMERA, depth * 0) == 0.0
