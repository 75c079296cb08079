"""A short, fixed set of what scripts/stress endurance does, and that its own eyes are open.

Not checked here: ten thousand iterations of each hostile case and thirty thousand of a real scene
(scripts/stress endurance).
"""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch

from engine import load_checkpoint
from gaussian_model import load_ply
from stress.endurance import NOT_FINITE, Options, cases_of, endure, not_kept, wrong
from stress.fault_runs import Ended

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = cases_of(Options(iterations=40, hostile_iterations=40), tmp_path_factory.mktemp("endurance"))
    assert len({case.name for case in made}) == len(made)
    return {case.name: case for case in made}


def test_hostile_settings_and_photographs_are_all_there(cases):
    asked = ("rate 1e30", "1 view", "1 Gaussian", "4000 pixels", "all black", "long")
    assert [word for word in asked if not any(word in name for name in cases)] == []
    assert {case.iterations for case in cases.values()} == {40}, "none of them is shorter than asked"


@pytest.mark.parametrize("name", ["1 Gaussian", "all black, depth loss"])
def test_hostile_trainings_are_finite_to_the_end(cases, tmp_path, name):
    row = endure(cases[name], tmp_path / "run", threads=1)
    assert (row["lost"], row["exit_code"], row["last_checkpoint"]) == ([], 0, 40)


@pytest.mark.parametrize(
    ("name", "words"),
    [("loss weights 1e30", r"largest loss term of the last view, \S+: (scale|opacity)\S* \d"),
     ("sh0 rate 1e30", r"the loss term \w+ is (nan|inf)")],
)  # fmt: skip
def test_a_training_that_comes_to_nothing_names_the_term(cases, tmp_path, name, words):
    row = endure(cases[name], tmp_path / "run", threads=1)
    assert row["lost"] == [] and row["exit_code"] == NOT_FINITE
    assert re.search(words, row["ended_by"]), row["ended_by"]


def test_the_last_checkpoint_before_a_nan_has_to_be_kept(cases):
    case = cases["all rates 10"]  # of 40 iterations, with a checkpoint each 10
    for named, last, kept in ((10, 0, True), (11, 10, True), (11, 0, False), (35, 20, False), (35, 30, True)):
        ended = Ended(NOT_FINITE, f"error: iteration {named}: the parameter means is not finite", 1.0)
        assert (not_kept(ended, case, last) == []) == kept
    assert not_kept(Ended(NOT_FINITE, "error: what?", 1.0), case, 40) != []
    assert not_kept(Ended(0, "", 1.0), case, 40) == []


def test_the_harness_sees_nan_in_files_and_bad_endings(cases, tmp_path, monkeypatch):
    output = tmp_path / "run"
    assert endure(cases["1 view"], output, threads=1)["lost"] == []
    fine = Ended(0, "", 1.0)
    assert wrong(fine, output) == []
    assert wrong(Ended(1, "Traceback (most recent call last)", 1.0), output) != []
    assert wrong(Ended(NOT_FINITE, "error: iteration 7: something is wrong", 1.0), output) == [
        "the error names nothing"
    ]
    params = load_ply(output / "point_cloud" / "iteration_40" / "point_cloud.ply").params
    with torch.no_grad():
        params["means"][0, 0] = math.nan
    monkeypatch.setattr("stress.endurance.load_ply", lambda path: SimpleNamespace(params=params))
    content = load_checkpoint(output / "checkpoints" / "iteration_40.pt")
    content["optimizer"]["state"][0]["exp_avg"][3] = math.inf
    monkeypatch.setattr("stress.endurance.load_checkpoint", lambda path: content)
    found = wrong(fine, output)
    assert any(line.endswith(": means") for line in found), found
    assert any("exp_avg" in line for line in found), found
