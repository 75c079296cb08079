"""The same bits for any number of threads, and for an interrupted and an uninterrupted run."""

from __future__ import annotations

import pytest
import torch

from gaussian_model import (
    DensifyConfig,
    GaussianAdam,
    Gaussians,
    McmcConfig,
    OptimConfig,
    build_densifier,
)
from gaussian_model.densify.geometry import sample_rows
from gaussian_model.parameters import linear_opacities, linear_scales, log_scales, logit_opacities
from tests.gaussian_model.models import assert_same_bits, meta, random_gaussians, snapshot, step_at_random

STRATEGIES = ["default", "mcmc", "none"]


class Run:
    """A training run without pictures: random gradients, everything else real."""

    def __init__(self, strategy: str, *, count: int, degree: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.gaussians = random_gaussians(count, degree)
        self.optimizer = GaussianAdam(self.gaussians, OptimConfig(), 1.0)
        config = DensifyConfig(
            strategy=strategy,  # type: ignore[arg-type]
            start=2,
            stop=40,
            every=3,
            reset_every=10,
            grad_threshold=1.5e-3,
            max_gaussians=120 if count < 1000 else 0,
            mcmc=McmcConfig(noise_lr=100.0),
        )
        self.densifier = build_densifier(config, 1.0, self.generator)
        self.iteration = 0

    def go(self, iterations: int) -> None:
        for _ in range(iterations):
            self.iteration += 1
            step_at_random(self.gaussians, self.optimizer, self.generator)
            self.densifier.collect(meta(len(self.gaussians), 1, self.generator))
            self.densifier.refine(self.iteration, self.gaussians, self.optimizer)

    def saved(self) -> dict:
        state = {
            "gaussians": self.gaussians.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "densifier": self.densifier.state_dict(),
            "generator": self.generator.get_state(),
            "iteration": self.iteration,
        }
        return {k: _copied(v) for k, v in state.items()}

    def load(self, state: dict) -> None:
        self.gaussians.load_state_dict(state["gaussians"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.densifier.load_state_dict(state["densifier"])
        self.generator.set_state(state["generator"])
        self.iteration = state["iteration"]

    def bits(self) -> dict[str, torch.Tensor]:
        return {
            **snapshot(self.gaussians, self.optimizer),
            **{f"statistics.{k}": v.clone() for k, v in self.densifier.statistics.items()},
            "generator": self.generator.get_state(),
        }


def _copied(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return value


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("at", [7, 20, 41])
def test_a_split_run_equals_a_straight_run(strategy, at):
    straight, first = Run(strategy, count=60), Run(strategy, count=60)
    straight.go(45)
    first.go(at)
    second = Run(strategy, count=10)  # another number: the saved one must come back
    second.load(first.saved())
    second.go(45 - at)
    if strategy != "none":
        assert len(straight.gaussians) != 60, "the case changes the number"
    assert_same_bits(second.bits(), straight.bits())


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_a_run_has_the_same_bits_for_any_number_of_threads(set_threads, strategy):
    # Above torch's grain of 32768 elements, and odd, so that threads really share out the work.
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        run = Run(strategy, count=100_003, degree=0)
        run.go(3)
        results.append(run.bits())
    assert len(results[0]["means"]) > 100_003, "the case grows"
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_crossing_to_linear_values_and_back_has_the_same_bits_for_any_number_of_threads(set_threads):
    x = torch.randn(100_003, generator=torch.Generator().manual_seed(0)) * 3.0
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        leaf = x.clone().requires_grad_()
        opacities, scales = linear_opacities(leaf), linear_scales(leaf)
        (opacities * x + scales).backward(x)
        stored = (logit_opacities(opacities.detach()), log_scales(scales.detach()))
        assert leaf.grad is not None
        results.append(torch.stack([opacities.detach(), scales.detach(), leaf.grad, *stored]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_draws_have_the_same_bits_for_any_number_of_threads(set_threads):
    weights = torch.rand(200_003, generator=torch.Generator().manual_seed(0))
    results = []
    for count in (1, 2):
        set_threads(count)
        results.append(sample_rows(weights, 50_001, torch.Generator().manual_seed(1)))
    assert torch.equal(results[0], results[1])


def test_initial_values_have_the_same_bits_for_any_number_of_threads(set_threads):
    from gaussian_model import ModelConfig
    from scene import Points

    g = torch.Generator().manual_seed(0)
    points = Points(xyz=torch.randn(40_001, 3, generator=g), rgb=torch.rand(40_001, 3, generator=g))
    results = []
    for count in (1, 2):
        set_threads(count)
        results.append(Gaussians.from_points(points, ModelConfig(sh_degree=0)).state_dict())
    assert_same_bits(results[0], results[1])
