"""Fitting priors of unknown scale and shift to the scene's units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depth_priors import DepthPrior
from depth_priors.alignment import FEWEST, align

SHAPE = (30, 40)


def _true_inverse(seed=0):
    g = np.random.default_rng(seed)
    return torch.from_numpy(g.uniform(0.1, 1.0, SHAPE).astype(np.float32))


def _prior(value, kind="inverse", frame="affine", confidence=None):
    value = value.float().contiguous()
    return DepthPrior(value, kind, frame, torch.ones(SHAPE) if confidence is None else confidence, "test")


def _reference(inverse, share=1.0, seed=1):
    known = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < share
    return DepthPrior(torch.where(known, inverse, 0.0), "inverse", "world", known.float(), "mvs")


def _fitted(prior, reference):
    found = align(prior, reference)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "frame"), [("inverse", "affine"), ("inverse", "scale"), ("depth", "scale"), ("depth", "affine")]
)
def test_exact_priors_of_every_kind_come_out_exact(kind, frame):
    true = _true_inverse()
    value = true if kind == "inverse" else 1 / true
    changed = 7.0 * value + (0.5 if frame == "affine" else 0.0)
    found = _fitted(_prior(changed, kind, frame), _reference(true, 0.1))
    assert (found.kind, found.frame) == ("inverse", "world")
    # float32 values of 7 digits, a shift of half their size
    np.testing.assert_allclose(found.value.numpy(), true.numpy(), rtol=2e-5)


def test_a_fifth_of_wrong_pixels_and_noise_hardly_move_the_fit():
    true = _true_inverse()
    g = torch.Generator().manual_seed(2)
    noisy = true + 0.01 * torch.randn(SHAPE, generator=g)
    wrong = torch.rand(SHAPE, generator=g) < 0.2
    reference = _reference(torch.where(wrong, torch.rand(SHAPE, generator=g) + 0.05, noisy))
    found = _fitted(_prior(3.0 * true + 2.0), reference)
    # the noise of 960 pixels gives the line an error near 0.01 / sqrt(960) * 2 = 0.0006
    assert (found.value - true).abs().max() < 0.01


def test_a_fit_that_would_turn_near_and_far_around_is_refused():
    true = _true_inverse()
    assert align(_prior(5.0 - true), _reference(true)) is None


def test_too_few_pixels_and_a_constant_prior_are_refused():
    true = _true_inverse()
    few = torch.zeros(SHAPE)
    few[0, : FEWEST - 1] = 1.0
    assert align(_prior(true), DepthPrior(true * few, "inverse", "world", few, "mvs")) is None
    assert align(_prior(torch.full(SHAPE, 2.0)), _reference(true)) is None
    assert align(_prior(true), _reference(true, 0.0)) is None


def test_pixels_without_confidence_neither_count_nor_get_a_value():
    true = _true_inverse()
    confidence = torch.ones(SHAPE)
    confidence[:10] = 0.0
    value = 2.0 * true + 1.0
    value[:10] = 99.0
    found = _fitted(_prior(value, confidence=confidence), _reference(true))
    np.testing.assert_allclose(found.value[10:].numpy(), true[10:].numpy(), rtol=2e-5)
    assert bool((found.value[:10] == 0).all()) and bool((found.confidence[:10] == 0).all())


def test_what_would_lie_behind_infinity_is_left_out():
    true = _true_inverse()
    value = 2.0 * true + 1.0
    value[0, 0] = 0.5  # its fitted inverse depth is below 0: (0.5 - 1) / 2
    found = _fitted(_prior(value), _reference(true))
    assert found.value[0, 0] == 0 and found.confidence[0, 0] == 0


def test_a_prior_in_world_units_is_left_as_it_is():
    prior = _prior(_true_inverse(), frame="world")
    assert align(prior, _reference(_true_inverse(3))) is prior
