"""A short, fixed set of what scripts/stress faults does, and that its own eyes are open.

Not checked here: what tests/engine and tests/test_training.py show of single parts; many random moments, real
small disks, every kind of file (scripts/stress faults).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from errors import UserError
from stress import faults
from stress.fault_bench import Bench
from stress.fault_child import damage
from stress.fault_disk import fill_while_training
from stress.fault_groups import limited_group
from stress.fault_images import harm_before_going_on
from stress.fault_kills import kill
from stress.fault_memory import in_group
from stress.fault_paths import NAMES, strange_name
from stress.fault_runs import ROOT, Ended, damage_done, differences, misses, run, unlike
from stress.fault_signals import signal_twice

ITERATIONS = 60  # six checkpoints, with a .ply in the middle


@pytest.fixture(scope="module")
def bench(small_scene, tmp_path_factory):
    return Bench(small_scene, tmp_path_factory.mktemp("faults"), ITERATIONS, random.Random(5), short=True)


@pytest.fixture
def row(bench):
    """The row of the case that the test brings about, complete."""
    count = len(bench.rows)
    yield lambda: bench.rows[count:]
    assert len(bench.rows) > count


def test_a_training_killed_at_random_moments_ends_with_the_bits_of_one_left_alone(bench, row):
    kill(bench, "plain", 3)
    (found,) = row()
    assert found.lost == [] and found.times == 3 and sum(found.facts["killed_after"].values()) == 3


def test_a_disk_that_fills_up_during_a_checkpoint_costs_nothing(bench, row):
    kinds = bench.twin().kinds()
    (checkpoints,) = (numbers for kind, numbers in kinds.items() if kind.startswith("checkpoints/.iteration"))
    assert len(checkpoints) == 6
    fill_while_training(bench, "checkpoint", checkpoints[2], mounted=False)
    assert [found.lost for found in row()] == [[]]


def test_an_export_to_a_full_disk_says_so_and_leaves_no_half_a_file(bench):
    output = bench.folder("exported")
    shutil.copytree(bench.twin().output, output)
    plan = {"fault": "small_files", "at": 1, "under": str(output)}
    ended = run(["-m", "exporting", output], fault=plan)
    assert misses(ended, 4, ["the disk is full"]) == []
    assert not any(path.is_file() for path in output.glob("export/*"))


def test_memory_that_runs_out_is_said_with_the_size_of_the_run(bench):
    output = bench.folder("memory")
    plan = {"fault": "memory", "mib": 8, "at": 1, "under": str(output), "match": "*/events.out*"}
    growing = ("--densify.grad_threshold", "1e-7", "--densify.start", "10", "--densify.every", "5")
    size = ("--densify.max_gaussians", "0", "--pyramid.factor", "1", "--iterations", "600")
    ended = run([*bench.options(output), *growing, *size], fault=plan)
    assert misses(ended, 3, ["out of memory with", "Gaussians at 80x60", "--densify.max_gaussians"]) == []
    assert damage_done(output) == []


def test_the_limit_of_a_control_group_is_heeded_and_said_with_the_size_of_the_run(bench, row):
    with limited_group(700) as group, bench.case("memory", "a control group") as found:
        if group is None:
            pytest.skip("no control group with a limit can be made here (that takes root)")
        in_group(bench, group, found)
    assert [found.lost for found in row()] == [[]]


def test_a_second_signal_ends_a_training_at_once(bench, row):
    signal_twice(bench, signal.SIGINT, 0.0)
    assert [found.lost for found in row()] == [[]]


def test_names_that_parsers_trip_over_are_paths_like_others(bench, row):
    strange_name(bench, NAMES[1])
    assert [found.lost for found in row()] == [[]]


def test_a_photograph_that_has_changed_is_named_when_the_run_goes_on(bench, row):
    harm_before_going_on(bench, "change")
    assert [found.lost for found in row()] == [[]]


def test_the_harness_sees_what_is_lost(bench):
    output = bench.folder("lost")
    shutil.copytree(bench.twin().output, output)
    assert unlike(output, bench.twin().output, ITERATIONS) == [] == damage_done(output)
    (output / "results.json").write_text("{}")
    (output / "report.html").unlink()
    (output / "teachers").mkdir()
    (output / "teachers" / ".teacher_0.ply.1.tmp").write_text("")
    assert len(unlike(output, bench.twin().output, ITERATIONS)) == 3
    damage(output / "checkpoints" / f"iteration_{ITERATIONS}.pt", "truncate")
    assert len(damage_done(output)) == 1
    assert "damaged" in unlike(output, bench.twin().output, ITERATIONS)[0]


def test_endings_are_judged_by_code_words_and_traceback():
    assert misses(Ended(4, "error: full", 1.0), 4, ["full"]) == []
    assert len(misses(Ended(None, "Traceback (most recent call last)", 1.0), (0, 3), ["full"])) == 4


def test_trees_are_compared_to_the_last_bit_and_type():
    tree = {"a": [torch.zeros(2), 1], "b": "x"}
    assert differences(tree, {"a": [torch.zeros(2), 1], "b": "x"}) == []
    assert differences(tree, {"a": [torch.tensor([0.0, 1e-45]), 1], "b": "x"}) == [".a[0] has other bits"]
    assert differences(tree, {"a": [torch.zeros(2), 1.0], "b": "x"}) == [".a[1] differs"]
    assert differences(tree, {"a": [torch.zeros(2, dtype=torch.int32), 1]}) == [" differs"]


@pytest.mark.parametrize("words", [["--only"], ["--kinds"], ["--only", "kills", "--kinds", "nosuch"]])
def test_a_harness_that_would_do_nothing_leaves_its_last_figures(tmp_path, words):
    with pytest.raises(UserError, match=r"--(only|kinds).*: expected some of"):
        faults.main([*words, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_harness_that_is_told_to_stop_ends_its_children_and_leaves_no_folder(tmp_path):
    command = [sys.executable, "-m", "stress", "faults", "--short", "--only", "paths"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    output = tmp_path / "figures"
    with subprocess.Popen(
        [*command, "--output", str(output)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as harness:
        until = time.monotonic() + 120  # what loads takes seconds, on a busy machine a minute
        while not list(tmp_path.glob("faults_*/moments_*")) and time.monotonic() < until:
            time.sleep(0.02)
        assert harness.poll() is None, "its first training has begun"
        harness.terminate()
        _, said = harness.communicate(timeout=60)
    assert harness.returncode == 143 and "Aborted" not in said
    assert not list(tmp_path.glob("faults_*")) and not list(output.iterdir())
