"""Checkpoints with the real model, optimizer, densifiers and sampler in place of the fakes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from engine import CheckpointError, TrainingState, checkpoint_path, load_checkpoint, restore, save_checkpoint
from gaussian_model import KEYS, DensifyConfig, GaussianAdam, Gaussians, OptimConfig, build_densifier
from scene import ViewSampler
from tests.engine.fakes import tree_equal

N, VIEWS, EXTENT = 40, 6, 2.0


def real_state(strategy, seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (8, 3)}
    tensors = {key: 0.3 * torch.randn(n, *shapes[key], generator=generator) for key in KEYS}
    gaussians = Gaussians.from_tensors(tensors)
    config = dataclasses.replace(
        DensifyConfig(), strategy=strategy, start=2, stop=100, every=3, reset_every=7, grad_threshold=1e-6,
        prune_opacity=0.4, reset_opacity=0.45, clone_scale=0.4,
    )  # fmt: skip
    return TrainingState(
        gaussians=gaussians,
        optimizer=GaussianAdam(gaussians, OptimConfig(), EXTENT),
        densifier=build_densifier(config, EXTENT, generator),
        sampler=ViewSampler(VIEWS, generator),
        generator=generator,
    )


def train(state, iterations):
    """Iterations with every part but the rasterizer, whose meta is made up."""
    for _ in range(iterations):
        state.iteration += 1
        view = state.sampler.next()
        n = len(state.gaussians)
        loss = sum(((value - view) ** 2).mean() for value in state.gaussians.params.values())
        state.optimizer.zero_grad()
        loss.backward()
        means2d = torch.zeros(1, n, 2, requires_grad=True)
        means2d.grad = torch.rand(1, n, 2, generator=state.generator)
        means2d.absgrad = means2d.grad.abs()  # type: ignore[attr-defined]  # set so by rasterizers
        info = {
            "means2d": means2d, "radii": torch.ones(1, n, 2, dtype=torch.int32), "width": 8, "height": 8,
            "n_cameras": 1, "gaussian_ids": None,
        }  # fmt: skip
        state.densifier.collect(info)
        state.optimizer.step()
        state.densifier.refine(state.iteration, state.gaussians, state.optimizer)


def everything(state):
    return [state.gaussians.state_dict(), state.optimizer.state_dict(), state.densifier.state_dict(),
            state.sampler.state_dict(), state.generator.get_state(), state.iteration]  # fmt: skip


@pytest.mark.parametrize("strategy", ["default", "mcmc", "none"])
def test_ten_iterations_and_ten_after_a_restart_are_the_same_bits_as_twenty(strategy, tmp_path):
    whole = real_state(strategy)
    train(whole, 10)
    path = checkpoint_path(tmp_path, 10)
    save_checkpoint(path, whole, {})
    train(whole, 10)

    resumed = real_state(strategy, seed=5, n=11)  # another size and other values: all must come from the file
    restore(resumed, load_checkpoint(path))
    if strategy != "none":
        assert len(resumed.gaussians) != N, "nothing was densified: the test showed less than it should"
    train(resumed, 10)
    assert tree_equal(everything(resumed), everything(whole))


def test_another_strategy_or_number_of_views_is_refused(tmp_path):
    path = checkpoint_path(tmp_path, 0)
    save_checkpoint(path, real_state("default"), {})
    with pytest.raises(CheckpointError, match="densifier: does not fit"):
        restore(real_state("mcmc"), load_checkpoint(path))
    fewer = real_state("default")
    fewer.sampler = ViewSampler(VIEWS - 1, fewer.generator)
    with pytest.raises(CheckpointError, match="sampler: does not fit"):
        restore(fewer, load_checkpoint(path))


def _group(**changes):
    return lambda c: c["optimizer"]["param_groups"][0].update(changes)


def _moments(**changes):
    return lambda c: c["optimizer"]["state"][0].update(changes)


def _of_means(make):
    return lambda c: c["optimizer"]["state"][0].update(exp_avg=make(c["gaussians"]["means"]))


ODD = {
    "a group without rates": (
        lambda c: c["optimizer"]["param_groups"][0].pop("betas"),
        "means: betas is missing",
    ),
    "a rate that is none": (_group(lr="fast"), "means: lr: expected one like"),
    "an infinite rate": (_group(eps=math.inf), "means: eps: expected one like"),
    "betas of one number": (_group(betas=[0.9]), "means: betas: expected one like"),
    "parameters by name": (_group(params=["means"]), "means: params: expected whole numbers"),
    "groups in a tensor": (lambda c: c["optimizer"].update(param_groups=torch.ones(6)), "optimizer: "),
    "moments in a list": (lambda c: c["optimizer"].update(state=[]), "optimizer: not a state of one"),
    "a generator of other bytes": (
        lambda c: c["random"].update(generator=torch.full_like(c["random"]["generator"], 200)),
        r"random: does not fit this run \([^\n]*$",
    ),
    "half of the moments": (
        lambda c: c["optimizer"]["state"][0].pop("exp_avg_sq"),
        "means: expected exp_avg,",
    ),
    "moments as text": (_moments(exp_avg="x"), "means: exp_avg: expected a tensor, got str"),
    "a lone moment": (_moments(exp_avg=torch.zeros(())), r"means: exp_avg: expected \[\d+, 3\], got \[\]"),
    "moments in double": (
        _of_means(lambda means: torch.zeros(len(means), 3).double()),
        "means: exp_avg: expected a dense float32",
    ),
    "moments without memory": (
        _of_means(lambda means: torch.zeros(1, 1).expand(len(means), 3)),
        "means: exp_avg: expected a dense",
    ),
    "updates without end": (_moments(step=torch.tensor(math.nan)), "means: step: expected finite numbers"),
    "sparse Gaussians": (
        lambda c: c["gaussians"].update(quats=torch.zeros(N, 4).to_sparse()),
        "gaussians: quats",
    ),
    "Gaussians elsewhere": (
        lambda c: c["gaussians"].update(quats=torch.zeros(N, 4, device="meta")),
        "gaussians: quats: expected a dense",
    ),
    "Gaussians of whole numbers": (
        lambda c: c["gaussians"].update(means=torch.zeros(N, 3, dtype=torch.int64)),
        "gaussians: means",
    ),
    "iterations below 0": (lambda c: c.update(iteration=-1), "iteration: expected"),
    "a switch of iterations": (lambda c: c.update(iteration=True), "iteration: expected"),
    "another statistic": (
        lambda c: c["densifier"]["statistics"].update(x=torch.zeros(N)),
        "densifier: does not",
    ),
    "statistics of two lengths": (
        lambda c: c["densifier"]["statistics"].update(count=torch.zeros(3)),
        "densifier: does not",
    ),
    "half of the statistics": (lambda c: c["densifier"]["statistics"].pop("count"), "densifier: does not"),
    "a stack of no numbers": (lambda c: c["sampler"].update(stack=[2**70, math.inf]), "sampler: does not"),
}
"""What a file may hold whose sums are right: how it is changed, and what is said of it."""


@pytest.mark.parametrize("case", ODD)
def test_a_value_of_another_kind_is_named_before_the_run_takes_it(tmp_path, case):
    change, message = ODD[case]
    path, state = checkpoint_path(tmp_path, 7), real_state("default")
    train(state, 7)
    save_checkpoint(path, state, {})
    content = torch.load(path, weights_only=True)
    assert content["densifier"]["statistics"], "there is something to change"
    change(content)
    torch.save(content, path)
    other = real_state("default", seed=1)
    before = everything(other)
    with pytest.raises(CheckpointError, match=rf"iteration_7\.pt: .*{message}"):
        restore(other, load_checkpoint(path))
    assert tree_equal(everything(other), before)
