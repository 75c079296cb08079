"""Real processes: what they agree on, and one training by several of them.

Not tested here: NCCL and more than one machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import load_checkpoint
from tests.replicas.processes import PATIENCE_S, ROOT, end, run, start, wait_for_checkpoint

HERE = Path(__file__).resolve().parent
OPTIONS = [
    *("--eval", "--config", "quick", "--iterations", "36", "--init", "sfm", "--quiet", "--threads", "1"),
    *("--densify.start", "5", "--densify.every", "10", "--densify.stop", "30"),
    *("--optim.sh_degree_interval", "9", "--model.background", "random", "--regularise.sh_dropout", "0.3"),
    *("--pyramid.factor", "2", "--pyramid.until", "15", "--loss.binocular", "0.3"),
    *("--loss.binocular_from", "8"),
]


def argv(scene: Path, output: Path, *more: str) -> list[str]:
    return [str(ROOT / "train.py"), "-s", str(scene), "-m", str(output), *OPTIONS, *more]


def last(output: Path) -> dict[str, Any]:
    return load_checkpoint(output / "checkpoints" / "iteration_36.pt")


def assert_same(a: Any, b: Any, where: str = "") -> int:
    """Same bits everywhere but in the configuration; returns how many tensors there are."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
        return 1
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return sum(
            assert_same(a[key], b[key], f"{where}.{key}") for key in a if key not in ("config", "path")
        )
    if isinstance(a, (list, tuple)):
        return sum(assert_same(x, y, where) for x, y in zip(a, b, strict=True))
    assert a == b, where
    return 0


@pytest.mark.parametrize("count", [2, 3])
def test_processes_agree_and_notice_what_differs_and_who_has_gone(count):
    ended = run(count, [str(HERE / "talk.py")])
    for rank, (code, out, err) in enumerate(ended):
        if rank == 1:
            assert code == 9
        else:
            assert (code, out) == (0, "all is well\n"), err


@pytest.mark.parametrize(
    ("name", "more", "counts"),
    [
        ("default", ("--batch_size", "3", "--densify.max_gaussians", "2500"), (2, 3)),
        ("absgrad", ("--batch_size", "2", "--densify.absgrad", "--densify.prune_screen_size", "0.3"), (2,)),
        ("mcmc", ("--batch_size", "5", "--densify.strategy", "mcmc", "--densify.mcmc.cap_max", "1500"), (2,)),
        (
            "teachers",
            ("--batch_size", "2", "--pseudo.taught", "1", "--pseudo.teachers", "2", "--pseudo.count", "4",
             "--pseudo.teacher_iterations", "12"),
            (2,),
        ),
    ],
)  # fmt: skip
def test_several_processes_give_the_bits_of_one_with_the_same_batch(
    small_scene, tmp_path, name, more, counts
):
    (alone,) = run(1, argv(small_scene, tmp_path / "one", *more))
    assert alone[0] == 0, alone[2]
    truth = last(tmp_path / "one")
    assert len(truth["gaussians"]["means"]) > 600, "Gaussians have come to the 583 points"
    for count in counts:
        output = tmp_path / f"{count}"
        for code, _, err in run(count, argv(small_scene, output, *more)):
            assert code == 0, err
        tensors = assert_same(last(output), truth)
        assert tensors >= 6 + 3 * 6, "parameters, moments and steps"  # and statistics, random states
        written = {str(path.relative_to(output)).partition(".tfevents")[0] for path in output.rglob("*")}
        assert written == {
            str(path.relative_to(tmp_path / "one")).partition(".tfevents")[0]
            for path in (tmp_path / "one").rglob("*")
        }
        assert len(list(output.glob("events.out.tfevents.*"))) == 1, "one process writes curves"


def test_torchrun_starts_it_and_every_process_gets_a_view(small_scene, tmp_path):
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [
        str(torchrun),
        "--nproc-per-node=2",
        *argv(small_scene, tmp_path / "out", "--log_level", "info"),
    ]
    command.remove("--quiet")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "2 processes share 2 views a step: 36 iterations show 72 photographs" in done.stderr
    assert (
        done.stderr.count("8 training and 2 test views") == 1 and done.stdout.count("test (mean of 2)") == 1
    )
    assert last(tmp_path / "out")["config"]["batch_size"] == 2


INTERRUPTED = ("--batch_size", "2", "--checkpoint_every", "3")


@pytest.fixture(scope="module")
def uninterrupted(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process ends with."""
    output = tmp_path_factory.mktemp("alone") / "out"
    (alone,) = run(1, argv(small_scene, output, *INTERRUPTED))
    assert alone[0] == 0, alone[2]
    return last(output)


@pytest.mark.parametrize("victim", [0, 1])
def test_where_a_process_dies_the_others_end_and_resuming_loses_nothing(
    small_scene, tmp_path, uninterrupted, victim
):
    output = tmp_path / "two"
    processes = start(2, argv(small_scene, output, *INTERRUPTED))
    wait_for_checkpoint(output)
    processes[victim].kill()
    ended = end(processes)
    assert ended[victim][0] == -signal.SIGKILL
    code, _, err = ended[1 - victim]
    if code != 0:  # else it had done all of its work before the other died
        assert code == 5 and "another process of this training has ended" in err and "Traceback" not in err
    for code, _, err in run(2, argv(small_scene, output, *INTERRUPTED, "--resume")):
        assert code == 0, err
    assert_same(last(output), uninterrupted)


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(small_scene, tmp_path, uninterrupted):
    output = tmp_path / "two"
    processes = start(2, argv(small_scene, output, *INTERRUPTED))
    wait_for_checkpoint(output)
    os.kill(processes[1].pid, signal.SIGTERM)
    ended = end(processes)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "checkpoint" in ended[0][2]
    for code, _, err in run(2, argv(small_scene, output, *INTERRUPTED, "--resume")):
        assert code == 0, err
    assert_same(last(output), uninterrupted)


def test_a_mistake_is_said_once_and_ends_all_with_its_code(small_scene, tmp_path):
    output = tmp_path / "out"
    cases = [
        (argv(tmp_path / "nowhere", output), "nowhere"),
        (argv(small_scene, output, "--no_such_option"), "no_such_option"),
        (
            argv(small_scene, output, "--batch_size", "1"),
            "--batch_size 1: expected at least a view per process",
        ),
    ]
    damaged = shutil.copytree(small_scene, tmp_path / "damaged")
    next((damaged / "images").iterdir()).write_bytes(b"")
    cases.append((argv(damaged, output), "image file is empty"))
    for words, message in cases:
        ended = run(2, words)
        assert [code for code, _, _ in ended] == [2, 2], ended
        said = [err for _, _, err in ended]
        assert message in said[0] and not said[1].strip(), said
    assert not output.exists()
