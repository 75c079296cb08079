from __future__ import annotations

import pytest
import torch

from errors import UserError
from gaussian_model import KEYS, Gaussians, ModelConfig
from gaussian_model.parameters import linear_opacities, log_scales, logit_opacities, sigmoid
from tests.gaussian_model.models import random_gaussians, snapshot, stepped_optimizer


def test_parameters_are_leaves_in_the_one_order():
    gaussians = random_gaussians(5, degree=2)
    assert tuple(gaussians.params) == KEYS
    assert len(gaussians) == 5 and gaussians.max_sh_degree == 2
    assert all(p.is_leaf and p.requires_grad for p in gaussians.params.values())


def test_stored_and_linear_values_cross_there_and_back():
    linear = torch.tensor([1e-6, 0.005, 0.1, 0.5, 0.999])
    # One rounding each in logit and sigmoid; near 1 the logit's slope is 1000, hence 1000 eps.
    torch.testing.assert_close(linear_opacities(logit_opacities(linear)), linear, rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(log_scales(linear).exp(), linear, rtol=2e-6, atol=0)  # |log| <= 14, 14 eps


def test_the_ends_of_the_opacity_range_stay_finite():
    stored = logit_opacities(torch.tensor([0.0, 1.0]))
    assert stored.isfinite().all()
    assert log_scales(torch.zeros(3)).isfinite().all()


def test_sigmoid_equals_torchs_to_rounding_with_gradient_even_where_it_saturates():
    x = torch.cat([torch.linspace(-20, 20, 1001), torch.tensor([-200.0, 200.0])]).requires_grad_()
    y = x.detach().clone().requires_grad_()
    sigmoid(x).sum().backward()
    y.sigmoid().sum().backward()
    # 4 eps relative: exp, sum, reciprocal, each correct to about 1 ulp.
    torch.testing.assert_close(sigmoid(x), y.sigmoid(), rtol=5e-7, atol=0)
    assert x.grad is not None and y.grad is not None
    # 1 - y cancels near 1, on both sides: eps absolute.
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=2e-7)
    double = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigmoid, (double,))


def test_state_goes_round_and_keeps_the_parameter_objects_that_an_optimizer_owns():
    source, target = random_gaussians(7, seed=1), random_gaussians(3, seed=2)
    before = dict(target.params)
    target.load_state_dict(source.state_dict())
    assert len(target) == 7
    for key in KEYS:
        assert target.params[key] is before[key]
        assert torch.equal(target.params[key], source.params[key])
        assert target.params[key].data_ptr() != source.params[key].data_ptr()
    (target.linear_scales().sum() + target.linear_opacities().sum()).backward()
    assert target.params["scales"].grad is not None


def test_wrong_keys_and_shapes_are_named():
    good = dict(random_gaussians(4).state_dict())
    with pytest.raises(ValueError, match="keys"):
        Gaussians({k: v for k, v in good.items() if k != "sh0"})
    with pytest.raises(ValueError, match=r"scales: expected \[4, 3\], got \[4, 1\]"):
        Gaussians({**good, "scales": good["scales"][:, :1]})
    with pytest.raises(ValueError, match="shN"):
        Gaussians({**good, "shN": torch.zeros(4, 5, 3)})
    with pytest.raises(ValueError, match="opacities"):
        random_gaussians(4).load_state_dict({**good, "opacities": torch.zeros(3)})


def test_to_the_same_device_is_no_copy():
    gaussians = random_gaussians(2)
    assert gaussians.to("cpu") is gaussians


def test_snapshot_helper_sees_every_moment():
    gaussians = random_gaussians(2)
    names = snapshot(gaussians, stepped_optimizer(gaussians))
    assert {f"{k}.exp_avg" for k in KEYS} | {f"{k}.exp_avg_sq" for k in KEYS} <= names.keys()


@pytest.mark.parametrize(
    "bad", [{"sh_degree": 5}, {"init_opacity": 1.0}, {"init_scale": 0.0}, {"random_points": 0}]
)
def test_a_model_config_without_meaning_is_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        ModelConfig(**bad)


@pytest.mark.parametrize(
    ("background", "trained", "finished"),
    [("black", 0.0, 0.0), ("white", 1.0, 1.0), ("random", None, 0.0), ("mean", None, 0.3)],
)
def test_what_lies_behind_the_gaussians(background, trained, finished):
    config, generator = ModelConfig(background=background), torch.Generator().manual_seed(0)
    before = generator.get_state()
    seen = torch.stack([config.training_background(generator) for _ in range(3)])
    if trained is None:
        assert len(seen.unique()) == 9 and 0.0 <= float(seen.min()) and float(seen.max()) < 1.0
    else:
        assert torch.equal(seen, torch.full((3, 3), trained)) and torch.equal(generator.get_state(), before)
    assert torch.equal(config.evaluation_background(torch.full((3,), 0.3)), torch.full((3,), finished))
