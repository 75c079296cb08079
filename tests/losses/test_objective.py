"""The objective: which terms there are, how they are weighted, and that they sum to the image loss."""

from __future__ import annotations

import pytest
import torch

from losses import LossConfig, Objective, l1_and_ssim
from rasterizer import RenderOutput


def _render(image: torch.Tensor) -> RenderOutput:
    flat = torch.zeros(1, *image.shape[:2])
    return RenderOutput(color=image[None], depth=flat, alpha=flat, info={})


def test_terms_are_the_weighted_l1_and_dssim() -> None:
    a, b = torch.rand(2, 12, 13, 3)
    terms = Objective(LossConfig(lambda_dssim=0.3))(
        _render(a), b, None, linear_scales=_unasked, linear_opacities=_unasked
    )
    l1, similarity = l1_and_ssim(a, b)
    assert set(terms) == {"l1", "dssim"}
    assert float(terms["l1"]) == pytest.approx(0.7 * float(l1), rel=1e-6)
    assert float(terms["dssim"]) == pytest.approx(0.3 * (1 - float(similarity)), rel=1e-6)


def test_a_view_of_which_no_pixel_counts_is_counted() -> None:
    a, b = torch.rand(2, 12, 13, 3)
    objective = Objective(LossConfig())
    terms = objective(_render(a), b, torch.zeros(12, 13), linear_scales=_unasked, linear_opacities=_unasked)
    assert [float(value) for value in terms.values()] == [0.0, 0.0]
    assert objective.skipped == {"l1": 1, "dssim": 1}


def test_regularisers_are_means_times_their_weight_and_pull_downwards() -> None:
    a, b = torch.rand(2, 12, 13, 3)
    scales, opacities = torch.rand(5, 3, requires_grad=True), torch.rand(5, requires_grad=True)
    terms = Objective(LossConfig(opacity_reg=0.01, scale_reg=0.02))(
        _render(a), b, None, linear_scales=lambda: scales, linear_opacities=lambda: opacities
    )
    (terms["opacity_reg"] + terms["scale_reg"]).backward()
    assert float(terms["opacity_reg"].detach()) == pytest.approx(0.01 * float(opacities.detach().mean()))
    torch.testing.assert_close(opacities.grad, torch.full((5,), 0.01 / 5))
    torch.testing.assert_close(scales.grad, torch.full((5, 3), 0.02 / 15))


def test_regularisers_of_an_empty_model_are_left_out() -> None:
    a, b = torch.rand(2, 12, 13, 3)
    terms = Objective(LossConfig(opacity_reg=0.01))(
        _render(a), b, None, linear_scales=_unasked, linear_opacities=lambda: torch.zeros(0)
    )
    assert "opacity_reg" not in terms


def _unasked() -> torch.Tensor:
    raise AssertionError("a term that is off must not ask for the Gaussians' values")
