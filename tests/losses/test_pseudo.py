"""Pseudo views: when they count, at which size, and what their terms are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from depth_priors import DepthPrior, PseudoKnowledge
from errors import UserError
from losses import LossConfig, Objective, PseudoConfig, PseudoTargets, l1_and_ssim
from losses.depth import depth_loss
from losses.pseudo import PseudoTarget
from rasterizer import RenderOutput
from scene import Camera, PyramidConfig, View

WIDTH, HEIGHT = 64, 48
CPU = torch.device("cpu")


def _camera(shift: float = 0.0) -> Camera:
    viewmat = torch.eye(4)
    viewmat[0, 3] = shift
    return Camera(viewmat, torch.tensor([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]), WIDTH, HEIGHT)


def _view(seed: int, share: float = 1.0) -> View:
    """A random picture of which a share is known."""
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=g, dtype=torch.uint8)
    mask = (torch.rand(HEIGHT, WIDTH, generator=g) < share).to(torch.uint8) * 255
    return View(f"{seed}", _camera(float(seed)), pixels, None, None if share == 1.0 else mask)


def _prior(seed: int) -> DepthPrior:
    value = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.1
    return DepthPrior(value, "inverse", "world", torch.ones(HEIGHT, WIDTH), "test")


def _render(seed: int = 9) -> RenderOutput:
    g = torch.Generator().manual_seed(seed)
    color = torch.rand(1, HEIGHT, WIDTH, 3, generator=g).requires_grad_()
    depth = (torch.rand(1, HEIGHT, WIDTH, generator=g) + 1.0).requires_grad_()
    return RenderOutput(color, depth, torch.ones(1, HEIGHT, WIDTH), {})


def _target(**known: Any) -> PseudoTarget:
    parts: dict[str, Any] = {"share": 0.5, "warped": None, "taught": None, "prior": None, "estimate": None}
    return PseudoTarget(_camera(), **(parts | known))


def test_they_count_within_their_iterations_and_rise_as_document_003_says() -> None:
    config = PseudoConfig(depth=0.5, start=2000, until=9500, every=10, ramp=500)
    for iteration in range(1, 10_001):
        expected = 0.0
        if iteration % 10 == 0 and 2000 < iteration < 9500:
            expected = min((iteration - 2000) / 500.0, 1.0)
        assert config.share(iteration) == expected, iteration
    assert PseudoConfig(start=0).share(5) == 0.0, "no weight, no pseudo view"
    assert PseudoConfig(taught=1.0).share(1) == 1.0


def test_whether_any_counts_within_a_run_is_known_without_walking_through_it() -> None:
    for weight, start, until, every in itertools.product((0.0, 1.0), (0, 3, 7), (0, 1, 4, 9, 20), (1, 2, 5)):
        config = PseudoConfig(taught=weight, start=start, until=until, every=every, ramp=2)
        for length in range(1, 25):
            walked = any(config.share(iteration) > 0.0 for iteration in range(1, length + 1))
            assert config.counts_within(length) == walked, (config, length)


def test_a_random_one_is_drawn_at_the_iterations_size_and_none_where_none_is_due() -> None:
    config = PseudoConfig(warped=1.0, depth=0.1, start=4)
    views = tuple(_view(seed, 0.5) for seed in range(3))
    known = PseudoKnowledge(tuple(view.camera for view in views), views, tuple(_prior(s) for s in range(3)))
    targets = PseudoTargets(config, known, views, PyramidConfig(factor=2.0, until=8), CPU)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert targets.draw(4, generator) is None and torch.equal(generator.get_state(), before)
    seen = set()
    for iteration, size in ((5, (45, 34)), (9, (WIDTH, HEIGHT))):
        for _ in range(20):
            target = targets.draw(iteration, generator)
            assert target is not None and target.warped is not None and target.taught is not None
            assert target.prior is not None and target.prior.value.shape == (size[1], size[0])
            for camera in (target.camera, target.warped.camera, target.taught.camera):
                assert (camera.width, camera.height) == size
                assert torch.equal(camera.viewmat, target.camera.viewmat)
                torch.testing.assert_close(camera.K, target.camera.K)
            seen.add(float(target.camera.viewmat[0, 3]))
    assert seen == {0.0, 1.0, 2.0}
    nothing = PseudoTargets(config, PseudoKnowledge(), [], PyramidConfig(), CPU)
    assert nothing.draw(9, generator) is None
    cameras_only = PseudoTargets(config, PseudoKnowledge(known.cameras), [], PyramidConfig(), CPU)
    assert cameras_only.draw(9, generator) is None, "nothing is known there: it is not rendered"


def test_terms_are_the_weighted_losses() -> None:
    config = PseudoConfig(depth=0.4, warped=2.0, taught=3.0, depth_loss="g2")
    objective = Objective(LossConfig(lambda_dssim=0.3), 1, config)
    render, warped, taught, prior = _render(), _view(1, 0.7), _view(2), _prior(3)
    terms = objective.pseudo(render, _target(warped=warped, taught=taught, prior=prior))
    assert set(terms) == {"warped_l1", "warped_dssim", "taught_l1", "taught_dssim", "pseudo_depth"}
    for name, weight, view in (("warped", 2.0, warped), ("taught", 3.0, taught)):
        l1, similarity = l1_and_ssim(render.color[0], view.image(), view.weight())
        torch.testing.assert_close(terms[f"{name}_l1"], 0.5 * weight * 0.7 * l1)
        torch.testing.assert_close(terms[f"{name}_dssim"], 0.5 * weight * 0.3 * (1 - similarity))
    expected = depth_loss("g2", render.depth[0], render.alpha[0], prior)
    assert expected is not None
    torch.testing.assert_close(terms["pseudo_depth"], 0.5 * 0.4 * expected)
    torch.stack(list(terms.values())).sum().backward()
    assert render.color.grad is not None and render.depth.grad is not None
    assert bool(render.color.grad.any()) and bool(render.depth.grad.any())


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    render, target = _render(), _target(warped=_view(1), taught=_view(2), prior=_prior(3))
    assert set(Objective(LossConfig(), 1, PseudoConfig(depth=0.1)).pseudo(render, target)) == {"pseudo_depth"}
    only = Objective(LossConfig(), 1, PseudoConfig(taught=1.0)).pseudo(render, target)
    assert set(only) == {"taught_l1", "taught_dssim"}


def test_what_cannot_be_said_is_left_out_and_counted() -> None:
    objective = Objective(LossConfig(), 1, PseudoConfig(depth=0.1, warped=1.0))
    unknown = DepthPrior(
        torch.zeros(HEIGHT, WIDTH), "inverse", "world", torch.zeros(HEIGHT, WIDTH), "nothing"
    )
    hidden = View("x", _camera(), _view(1).pixels, None, torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))
    assert objective.pseudo(_render(), _target(warped=hidden, prior=unknown)) == {}
    assert objective.pseudo(_render(), _target(warped=hidden, estimate=lambda picture: None)) == {}
    assert dict(objective.skipped) == {"warped": 2, "pseudo_depth": 2}


def test_a_pseudo_view_that_is_due_and_of_which_nothing_is_known_is_counted() -> None:
    objective = Objective(LossConfig(), 10, PseudoConfig(depth=0.5, taught=1.0, start=4, every=2))
    for iteration in range(1, 11):
        objective.pseudo_unknown(iteration)
    assert objective.skipped == {"pseudo_depth": 3, "taught": 3}  # iterations 6, 8, 10


def test_a_network_is_asked_about_the_rendered_picture_and_gradients_flow_through_it() -> None:
    def estimate(picture: torch.Tensor) -> DepthPrior:
        value = picture.square().mean(-1)
        return DepthPrior(value, "inverse", "affine", torch.ones_like(value), "network")

    render = _render()
    objective = Objective(LossConfig(), 1, PseudoConfig(depth=1.0))
    terms = objective.pseudo(render, _target(share=1.0, estimate=estimate))
    M, d = render.color.detach()[0].square().mean(-1).flatten(), render.depth.detach()[0].flatten()
    r = [torch.corrcoef(torch.stack([d, x]))[0, 1] for x in (-M, 1.0 / (M + 200.0))]
    torch.testing.assert_close(terms["pseudo_depth"].detach(), 1.0 - max(r), atol=1e-4, rtol=0)
    terms["pseudo_depth"].backward()
    assert render.color.grad is not None and bool(render.color.grad.any())


@pytest.mark.parametrize(
    "options",
    [{"start": -1}, {"until": -1}, {"ramp": -1}, {"count": 0}, {"every": 0}, {"teachers": 0},
     {"reach": 0.5}, {"reach": 4.0}, {"depth": -0.1},
     {"warped": float("nan")}, {"taught": -1.0}, {"depth_loss": "none"}],
)  # fmt: skip
def test_options_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        PseudoConfig(**options)
