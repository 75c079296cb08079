"""Property tests of the row edit: the only way in which the set of Gaussians changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussian_model import KEYS, GaussianAdam, OptimConfig, RowEdit, apply_edit
from tests.gaussian_model.models import (
    assert_same_bits,
    random_gaussians,
    snapshot,
    step_at_random,
    stepped_optimizer,
)

MOMENTS = ("exp_avg", "exp_avg_sq")


@st.composite
def edits(draw: st.DrawFn) -> tuple[int, list[int], list[bool]]:
    count = draw(st.integers(0, 8))
    rows = draw(st.lists(st.integers(0, count - 1), max_size=14)) if count else []
    return count, rows, draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))


@settings(max_examples=60, deadline=None)
@given(edits(), st.booleans(), st.booleans())
def test_survivors_keep_every_bit_and_fresh_rows_begin_anew(case, give_values, overwrite):
    count, rows, flags = case
    source, fresh = torch.tensor(rows, dtype=torch.int64), torch.tensor(flags, dtype=torch.bool)
    gaussians = random_gaussians(count)
    optimizer = stepped_optimizer(gaussians)
    statistics = {"a": torch.rand(count) + 1.0, "b": torch.rand(count, 2) + 1.0}
    before = snapshot(gaussians, optimizer)
    old_statistics = dict(statistics)
    values = {"means": torch.full((int(fresh.sum()), 3), 7.0)} if give_values else {}
    every_other = torch.arange(0, len(rows), 2)
    overwritten = {"opacities": (every_other, torch.full((len(every_other),), -9.0))} if overwrite else {}

    apply_edit(gaussians, optimizer, statistics, RowEdit(source, fresh, values, overwritten))

    after = snapshot(gaussians, optimizer)
    assert len(gaussians) == len(rows)
    for key in KEYS:
        kept = ~fresh
        touched = torch.zeros_like(fresh)
        if key in overwritten:
            touched[every_other] = True
            assert torch.equal(after[key][every_other], overwritten[key][1])
        plain = kept & ~touched
        assert torch.equal(after[key][plain], before[key][source][plain])
        if key in values:
            assert torch.equal(after[key][fresh], values[key])
        else:
            assert torch.equal(after[key][fresh & ~touched], before[key][source][fresh & ~touched])
        for moment in MOMENTS:
            name = f"{key}.{moment}"
            assert torch.equal(after[name][plain], before[name][source][plain])
            assert not after[name][fresh | touched].any()
        assert after[f"{key}.step"] == before[f"{key}.step"]
    for name, old in old_statistics.items():
        assert torch.equal(statistics[name][~fresh], old[source][~fresh])
        assert not statistics[name][fresh].any()


@settings(max_examples=20, deadline=None)
@given(edits())
def test_training_goes_on_after_an_edit(case):
    count, rows, flags = case
    gaussians = random_gaussians(count)
    optimizer = stepped_optimizer(gaussians)
    apply_edit(
        gaussians, optimizer, {}, RowEdit(torch.tensor(rows, dtype=torch.int64), torch.tensor(flags) > 0)
    )
    assert tuple(gaussians.params) == KEYS
    for group in optimizer.param_groups:
        parameter = gaussians.params[group["name"]]
        assert group["params"][0] is parameter and len(group["params"]) == 1
        assert parameter.is_leaf and parameter.requires_grad and parameter.grad is None
    assert set(optimizer.state) == set(gaussians.params.values())
    before = snapshot(gaussians, optimizer)
    step_at_random(gaussians, optimizer, torch.Generator().manual_seed(2))
    if rows:
        assert not torch.equal(snapshot(gaussians, optimizer)["means"], before["means"])


def test_an_edit_of_nothing_changes_no_bit():
    gaussians = random_gaussians(5)
    optimizer = stepped_optimizer(gaussians)
    before = snapshot(gaussians, optimizer)
    apply_edit(gaussians, optimizer, {}, RowEdit.keeping(torch.ones(5, dtype=torch.bool)))
    assert_same_bits(snapshot(gaussians, optimizer), before)


def test_an_edit_before_the_first_step_needs_no_moments():
    gaussians = random_gaussians(5)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    apply_edit(gaussians, optimizer, {}, RowEdit.keeping(torch.arange(5) < 2))
    assert len(gaussians) == 2 and optimizer.param_groups[0]["params"][0] is gaussians.params["means"]
    assert not optimizer.state


def test_overwriting_one_parameter_leaves_the_others_alone():
    gaussians = random_gaussians(4)
    optimizer = stepped_optimizer(gaussians)
    before = snapshot(gaussians, optimizer)
    apply_edit(gaussians, optimizer, {}, RowEdit.overwriting("opacities", torch.zeros(4)))
    after = snapshot(gaussians, optimizer)
    for name, value in after.items():
        if not name.startswith("opacities"):
            assert torch.equal(value, before[name])
    assert not after["opacities"].any() and not after["opacities.exp_avg"].any()


def test_a_frozen_parameter_stays_frozen():
    gaussians = random_gaussians(3)
    gaussians.params["means"].requires_grad_(False)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    apply_edit(gaussians, optimizer, {}, RowEdit.keeping(torch.arange(3) < 2))
    assert not gaussians.params["means"].requires_grad


def test_an_edit_that_does_not_fit_is_refused_before_anything_changes():
    gaussians = random_gaussians(4)
    optimizer = stepped_optimizer(gaussians)
    before = snapshot(gaussians, optimizer)
    rows, fresh = torch.arange(4), torch.ones(4, dtype=torch.bool)
    bad: list[tuple[RowEdit, dict]] = [
        (RowEdit(rows, fresh, {"means": torch.zeros(3, 3)}), {}),
        (RowEdit(rows, fresh, {"nothing": torch.zeros(4)}), {}),
        (RowEdit(rows, fresh[:3]), {}),
        (RowEdit(rows.float(), fresh), {}),
        (RowEdit(rows, fresh, overwrite={"quats": (rows, torch.zeros(4, 3))}), {}),
        (RowEdit(rows, fresh), {"a": torch.zeros(3)}),
    ]
    for edit, statistics in bad:
        with pytest.raises(ValueError, match=r"expected|no such"):
            apply_edit(gaussians, optimizer, statistics, edit)
    assert_same_bits(snapshot(gaussians, optimizer), before)
