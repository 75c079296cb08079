"""What the call of the rasterizer hands over, and one real pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gaussian_model.render as render_room
from gaussian_model import Gaussians, ModelConfig
from scene import Points
from tests.gaussian_model.models import look_at, random_gaussians

CAMERA = look_at(np.array([0.0, 0.0, -4.0]), np.zeros(3))


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """The arguments of every call of a rasterizer that returns recognisable images."""
    made: list[dict] = []

    def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options: Any):
        made.append(
            {
                "scales": scales,
                "opacities": opacities,
                "colors": colors,
                "viewmats": viewmats,
                "Ks": Ks,
                **options,
            }
        )
        channels = {"RGB": 3, "RGB+ED": 4, "RGB+D": 4}[options["render_mode"]]
        images = torch.arange(channels).float().expand(len(viewmats), height, width, channels)
        return images, torch.full((len(viewmats), height, width, 1), 0.5), {"width": width}

    monkeypatch.setattr(render_room, "rasterization", rasterization)
    return made


def test_colour_and_depth_come_out_of_one_pass(calls):
    gaussians = random_gaussians(6, degree=2)
    output = gaussians.render(CAMERA)
    assert len(calls) == 1
    assert output.color.shape == (1, 24, 32, 3) and output.color[0, 0, 0].tolist() == [0, 1, 2]
    assert output.depth.shape == (1, 24, 32) and (output.depth == 3).all()
    assert output.alpha.shape == (1, 24, 32) and output.info["width"] == 32
    call = calls[0]
    assert call["render_mode"] == "RGB+ED" and call["packed"] is False and call["backgrounds"] is None
    assert call["rasterize_mode"] == "classic" and call["backend"] == "auto" and call["absgrad"] is False
    assert torch.equal(call["scales"], gaussians.params["scales"].exp())
    assert torch.equal(call["opacities"], gaussians.linear_opacities())


def test_options_are_handed_on(calls):
    gaussians = random_gaussians(6)
    background = torch.tensor([0.1, 0.2, 0.3])
    gaussians.render(
        [CAMERA, CAMERA],
        background=background,
        depth="D",
        absgrad=True,
        antialiased=True,
        backend="reference",
    )
    call = calls[0]
    assert call["viewmats"].shape == (2, 4, 4) and call["Ks"].shape == (2, 3, 3)
    assert torch.equal(call["backgrounds"], background.repeat(2, 1))
    assert call["render_mode"] == "RGB+D" and call["rasterize_mode"] == "antialiased"
    assert call["absgrad"] is True and call["backend"] == "reference"


def test_no_depth_asked_is_zero_depth(calls):
    output = random_gaussians(2).render(CAMERA, depth=None)
    assert calls[0]["render_mode"] == "RGB"
    assert output.depth.shape == (1, 24, 32) and not output.depth.any()


def test_the_coefficients_are_handed_on_as_they_are(calls):
    gaussians = random_gaussians(6, degree=3)
    for degree in (1, 2, 3, None):
        gaussians.render(CAMERA, sh_degree=degree)
        first, rest = calls[-1]["colors"]
        assert first is gaussians.params["sh0"] and rest is gaussians.params["shN"]
        assert calls[-1]["sh_degree"] == (3 if degree is None else degree)
    gaussians.render(CAMERA, sh_degree=0)
    assert calls[-1]["colors"] is gaussians.params["sh0"] and calls[-1]["sh_degree"] == 0


def test_what_cannot_be_rendered_is_said(calls):
    gaussians = random_gaussians(2, degree=1)
    with pytest.raises(ValueError, match="at least one"):
        gaussians.render([])
    with pytest.raises(ValueError, match="one size"):
        gaussians.render([CAMERA, CAMERA.resized(16, 12)])
    with pytest.raises(ValueError, match="sh_degree: expected 0 to 1, got 2"):
        gaussians.render(CAMERA, sh_degree=2)
    assert not calls


def one_gaussian(depth: float) -> Gaussians:
    points = Points(xyz=torch.tensor([[0.0, 0.0, depth - 4.0]]), rgb=torch.tensor([[1.0, 0.5, 0.0]]))
    return Gaussians.from_points(points, ModelConfig(sh_degree=1, init_opacity=0.9), extent=2.0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_gaussian_shows_its_colour_its_depth_and_the_background_around(backend):
    gaussians = one_gaussian(4.0)
    background = torch.tensor([0.0, 0.0, 1.0])
    output = gaussians.render(CAMERA, background=background, backend=backend)
    centre, corner = output.color[0, 12, 16], output.color[0, 0, 0]
    alpha = output.alpha[0, 12, 16]
    assert 0.8 < alpha.item() < 0.9  # opacity 0.9, half a pixel off the centre
    expected = torch.tensor([1.0, 0.5, 0.0]) * alpha + background * (1 - alpha)
    torch.testing.assert_close(centre, expected, rtol=0, atol=1e-5)  # SH and exp in f32
    assert torch.equal(corner, background) and output.alpha[0, 0, 0] == 0 and output.depth[0, 0, 0] == 0
    assert output.depth[0, 12, 16].item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_reach_every_parameter_and_the_densify_statistic(backend):
    gaussians = one_gaussian(4.0)
    output = gaussians.render(CAMERA, absgrad=True, backend=backend)
    output.info["means2d"].retain_grad()
    target = torch.linspace(0, 1, 32).expand(1, 24, 32)
    (((output.color.sum(-1) - target) ** 2).mean() + output.depth.square().mean()).backward()
    for key in ("means", "scales", "opacities", "sh0", "shN"):
        gradient = gaussians.params[key].grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), key
    assert output.info["means2d"].grad.any() and output.info["means2d"].absgrad.any()
    assert (output.info["radii"] > 0).all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_at_degree_zero_the_higher_bands_get_no_gradient_at_all(backend):
    gaussians = one_gaussian(4.0)
    gaussians.render(CAMERA, sh_degree=0, backend=backend).color.sum().backward()
    assert gaussians.params["shN"].grad is None and gaussians.params["sh0"].grad is not None
