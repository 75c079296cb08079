"""Dropout, opacity decay and limits on shape: by their formulas, and off by default."""

from __future__ import annotations

import math

import pytest
import torch

from errors import UserError
from gaussian_model import (
    Gaussians,
    ModelConfig,
    RegulariseConfig,
    dropout_factors,
    dropped_sh_degree,
    hold_in_shape,
)
from scene import Camera, Points


def _gaussians(count: int = 40, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    points = Points(
        torch.rand(count, 3, generator=g) + torch.tensor([0, 0, 2.0]), torch.rand(count, 3, generator=g)
    )
    gaussians = Gaussians.from_points(points, ModelConfig(init_opacity=0.3))
    with torch.no_grad():
        gaussians.params["scales"].add_(torch.randn(count, 3, generator=g))
    return gaussians


def test_dropout_leaves_out_the_share_that_is_due_and_keeps_the_mean() -> None:
    config = RegulariseConfig(dropout=0.4)
    for progress in (0.25, 1.0):
        factors = dropout_factors(config, 200_000, progress, torch.Generator().manual_seed(0))
        assert factors is not None
        rate = 0.4 * progress
        # 200,000 draws: three standard deviations of a share are 0.0033, of the mean below 0.006
        assert float((factors == 0).float().mean()) == pytest.approx(rate, abs=0.0033)
        assert float(factors.mean()) == pytest.approx(1.0, abs=0.006)
        assert factors.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])


def test_without_dropout_nothing_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert dropout_factors(RegulariseConfig(), 10, 1.0, generator) is None
    assert dropout_factors(RegulariseConfig(dropout=0.2), 10, 0.0, generator) is None
    assert torch.equal(generator.get_state(), before)


def test_what_is_dropped_is_not_rendered_and_gets_no_gradient() -> None:
    gaussians = _gaussians()
    camera = Camera(torch.eye(4), torch.tensor([[40.0, 0, 20], [0, 40.0, 16], [0, 0, 1]]), 40, 32)
    factors = torch.ones(len(gaussians))
    factors[::2] = 0.0
    picture = gaussians.render(camera, opacity_factors=factors, backend="cpu").color
    picture.sum().backward()
    rest = Gaussians({key: value.detach()[1::2] for key, value in gaussians.params.items()})
    torch.testing.assert_close(picture, rest.render(camera, backend="cpu").color, atol=1e-6, rtol=0)
    gradient = gaussians.params["sh0"].grad
    assert gradient is not None
    assert not bool(gradient[::2].any()) and bool(gradient[1::2].any())


def test_more_than_opaque_there_is_not() -> None:
    gaussians = _gaussians()
    camera = Camera(torch.eye(4), torch.tensor([[40.0, 0, 20], [0, 40.0, 16], [0, 0, 1]]), 40, 32)
    many = gaussians.render(camera, opacity_factors=torch.full((40,), 1e6), backend="cpu")
    with torch.no_grad():
        gaussians.params["opacities"].fill_(1e4)
    torch.testing.assert_close(many.color, gaussians.render(camera, backend="cpu").color)


def test_opacities_decay_by_the_factor() -> None:
    gaussians = _gaussians()
    before = gaussians.linear_opacities().detach().clone()
    hold_in_shape(gaussians, RegulariseConfig(opacity_decay=0.9), 1.0, 1.0)
    torch.testing.assert_close(gaussians.linear_opacities().detach(), 0.9 * before)


def test_a_pass_fades_opacities_as_much_however_many_views_it_has() -> None:
    for views in (1, 3, 12):
        gaussians = _gaussians()
        before = gaussians.linear_opacities().detach().clone()
        for _ in range(views):
            hold_in_shape(gaussians, RegulariseConfig(opacity_decay_pass=0.9), 1.0, 1 / views)
        # Twelve roundings through the logit, each a few ulp of opacities that are near 1.
        torch.testing.assert_close(gaussians.linear_opacities().detach(), 0.9 * before, rtol=1e-5, atol=1e-6)


def test_no_axis_is_longer_than_the_limit_and_no_needle_is_left() -> None:
    gaussians = _gaussians(500)
    before = gaussians.linear_scales().detach().clone()
    hold_in_shape(gaussians, RegulariseConfig(max_scale=0.05), 2.0, 1.0)
    torch.testing.assert_close(gaussians.linear_scales().detach(), before.clamp_max(0.1))
    gaussians = _gaussians(500)
    hold_in_shape(gaussians, RegulariseConfig(max_ratio=2.0), 2.0, 1.0)
    after = gaussians.linear_scales().detach()
    ordered, old = after.sort(dim=1).values, before.sort(dim=1).values
    assert float((ordered[:, 2] / ordered[:, 1]).max()) == pytest.approx(2.0, rel=1e-5)
    torch.testing.assert_close(ordered[:, :2], old[:, :2])  # only the longest axis gives way
    changed = (after != before).any(1)
    assert 0.1 < float(changed.float().mean()) < 0.9
    assert torch.equal(changed, old[:, 2] > old[:, 1] * 2.0 * (1 + 1e-6))


def test_by_default_nothing_changes() -> None:
    gaussians = _gaussians()
    before = {key: value.detach().clone() for key, value in gaussians.params.items()}
    hold_in_shape(gaussians, RegulariseConfig(), 1.0, 1.0)
    assert all(torch.equal(value, before[key]) for key, value in gaussians.params.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"dropout": 1.0}, {"dropout": -0.1}, {"opacity_decay": 0.0}, {"opacity_decay": 1.1},
        {"opacity_decay_pass": 0.0}, {"opacity_decay_pass": math.nan},
        {"max_scale": -1.0}, {"max_ratio": 0.5}, {"dropout": math.nan}, {"max_ratio": math.nan},
    ],
)  # fmt: skip
def test_values_without_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        RegulariseConfig(**wrong)


def test_sh_dropout_lowers_the_degree_as_often_as_it_says() -> None:
    config, generator = RegulariseConfig(sh_dropout=0.3), torch.Generator().manual_seed(0)
    drawn = torch.tensor([dropped_sh_degree(config, 3, generator) for _ in range(20_000)])
    # 20,000 draws: three standard deviations of a share of 0.7 are 0.0098, of 0.1 0.0064
    assert float((drawn == 3).float().mean()) == pytest.approx(0.7, abs=0.0098)
    for lower in range(3):
        assert float((drawn == lower).float().mean()) == pytest.approx(0.1, abs=0.0064)


def test_without_sh_dropout_nothing_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert dropped_sh_degree(RegulariseConfig(), 3, generator) == 3
    assert dropped_sh_degree(RegulariseConfig(sh_dropout=1.0), 0, generator) == 0
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_of_sh_dropout_without_meaning_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="sh_dropout"):
        RegulariseConfig(sh_dropout=share)
