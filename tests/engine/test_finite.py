"""Numbers that are not finite end a training: which ones are seen, what is said, and that none is ever saved.

Not checked here: a GPU, where loss terms are read later; what the rasterizers make of such numbers
(tests/rasterizer/test_poisoned.py).
"""

from __future__ import annotations

import math
import sys

import pytest
import torch

import train
from engine import Guard, NotFinite, checkpoint_path, latest_checkpoint, load_checkpoint, save_checkpoint
from errors import UserError
from losses import Objective
from tests.engine.test_real_state import real_state
from tests.engine.test_real_state import train as iterate

SHORT = ("--config", "quick", "--init", "sfm", "--iterations", "40", "--quiet", "--checkpoint_every", "10")


def terms(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_finite_terms_are_not_kept_on_a_cpu_and_the_first_other_one_is_named():
    guard, state = Guard(), real_state("default")
    guard.terms(3, "a.png", terms(l1=0.1, dssim=0.2))
    assert not guard.alarmed
    guard.check(state)
    guard.terms(4, "b.png", terms(l1=0.1, dssim=math.inf, depth=math.nan))
    guard.terms(5, "c.png", terms(l1=math.nan, dssim=0.0))
    assert guard.alarmed
    with pytest.raises(
        NotFinite, match=r"iteration 4, view b.png: the loss term dssim is inf.*lower"
    ) as error:
        guard.check(state)
    assert error.value.exit_code == 6
    guard.check(state)  # it is said once


def test_of_several_processes_the_one_with_the_first_term_speaks():
    """A term spoils the parameters of its iteration in all processes, and the terms of later iterations."""
    moments = []
    for at, spoilt in ((4, False), (5, False), (5, True)):
        guard, state = Guard(), real_state("default")
        state.iteration = 5
        if spoilt:
            with torch.no_grad():
                state.gaussians.params["means"][0] = math.nan
        else:
            guard.terms(at, "a.png", terms(l1=math.nan))
        with pytest.raises(NotFinite) as error:
            guard.check(state)
        moments.append(error.value.moment)
    assert moments == sorted(set(moments)) and moments[0] > UserError.moment


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["means", "shN", "opacities"])
def test_a_parameter_is_named_with_its_gaussians_and_its_rate(key, value):
    state = real_state("default")
    with torch.no_grad():
        state.gaussians.params[key][[2, 5]] = value
    with pytest.raises(NotFinite, match=rf"parameter {key} is not finite in 2 of 40 .*--optim.{key}_lr"):
        Guard().check(state)


def test_with_a_parameter_the_largest_term_is_named():
    guard, state = Guard(), real_state("default")
    guard.terms(1, "a.png", terms(l1=9.0, scale=1.0))
    guard.terms(2, "b.png", terms(l1=0.1, scale=3e29))
    with torch.no_grad():
        state.gaussians.params["scales"][1] = math.inf
    with pytest.raises(NotFinite, match=r"Gaussians \(largest .* b\.png: scale 3e\+29\): start anew"):
        guard.check(state)


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
def test_an_average_of_the_optimizer_is_named(name):
    state = real_state("default")
    iterate(state, 2)
    Guard().check(state)
    state.optimizer.state[state.gaussians.params["scales"]][name][7, 1] = math.nan
    with pytest.raises(NotFinite, match=r"gradient's mean of scales is not finite in 1 of "):
        Guard().check(state)


def test_numbers_whose_sum_is_too_large_are_still_finite():
    state = real_state("default")
    with torch.no_grad():
        state.gaussians.params["means"].fill_(3e38)
    Guard().check(state)


def test_a_checkpoint_that_is_not_finite_is_never_written(tmp_path):
    state = real_state("default")
    iterate(state, 2)
    save_checkpoint(checkpoint_path(tmp_path, 2), state, {})
    iterate(state, 1)
    with torch.no_grad():
        state.gaussians.params["quats"][0, 0] = math.nan
    with pytest.raises(NotFinite):
        save_checkpoint(checkpoint_path(tmp_path, 3), state, {})
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_2.pt"]


def run(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, argv)])
    train.main()


def kept(output):
    last = latest_checkpoint(output / "checkpoints")
    assert last is not None
    content = load_checkpoint(last)
    assert all(bool(value.isfinite().all()) for value in content["gaussians"].values())
    return content["iteration"]


def test_a_loss_term_that_becomes_nan_ends_the_run_at_once_and_the_checkpoint_before_stays(
    small_scene, tmp_path, monkeypatch
):
    whole = Objective.__call__

    def poisoned(self, *arguments, iteration, **options):
        found = whole(self, *arguments, iteration=iteration, **options)
        return found | ({"dssim": found["dssim"] * math.nan} if iteration == 27 else {})

    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(NotFinite, match=r"iteration 27, view view_\d+\.png: the loss term dssim is nan"):
        run(monkeypatch, "-s", small_scene, "-m", tmp_path / "out", *SHORT)
    assert kept(tmp_path / "out") == 20


def test_a_gradient_that_is_nan_while_the_loss_is_not_is_found_before_anything_is_saved(
    small_scene, tmp_path, monkeypatch
):
    step = train.GaussianAdam.step

    def poisoned(self):
        means = self.param_groups[0]["params"][0]
        if self.state[means].get("step", 0) == 23:
            means.grad[3] = math.nan
        return step(self)

    monkeypatch.setattr(train.GaussianAdam, "step", poisoned)
    with pytest.raises(NotFinite, match=r"iteration 30: the parameter means is not finite in \d+ of"):
        run(monkeypatch, "-s", small_scene, "-m", tmp_path / "out", *SHORT)
    assert kept(tmp_path / "out") == 20


def test_teachers_are_watched_too(small_scene, tmp_path, monkeypatch):
    whole = Objective.__call__

    def poisoned(self, *arguments, **options):
        found = whole(self, *arguments, **options)
        return found | {"l1": found["l1"] * math.inf}

    monkeypatch.setattr(Objective, "__call__", poisoned)
    taught = ("--pseudo.taught", "1", "--pseudo.teachers", "2", "--pseudo.count", "4")
    with pytest.raises(NotFinite, match=r"iteration 1, .* l1 is inf"):
        run(monkeypatch, "-s", small_scene, "-m", tmp_path / "out", *SHORT, *taught)
    assert kept(tmp_path / "out") == 0


@pytest.mark.parametrize("name", ["means", "scales", "sh0", "opacities", "quats"])
def test_a_rate_of_1e38_ends_with_a_word_or_with_finite_numbers(small_scene, tmp_path, monkeypatch, name):
    try:
        run(monkeypatch, "-s", small_scene, "-m", tmp_path / "out", *SHORT, f"--optim.{name}_lr", "1e38")
    except NotFinite as error:
        assert f"--optim.{name}_lr" in str(error) or "loss term" in str(error)
    for path in (tmp_path / "out" / "checkpoints").glob("*.pt"):
        assert all(bool(v.isfinite().all()) for v in load_checkpoint(path)["gaussians"].values())
