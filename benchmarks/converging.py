"""Held-out PSNR over training time on a real scene, and another trainer's time on the same one."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import train
from benchmarks.measure import Timing
from errors import UserError

PEER_ROUNDS = 3


def measure_convergence(source: Path, options: list[str], points: list[int]) -> list[dict[str, Any]]:
    """Trains with train.py's options and records PSNR and training seconds.

    The clock starts when the scene is loaded and stands while views are evaluated.

    Args:
        source: the scene.
        options: of train.py (`--config quick --n_views 3`).
        points: iterations to evaluate after, besides the last.
    """
    rows: list[dict[str, Any]] = []
    evaluating = 0.0
    start = 0.0
    original, original_learn = train.show, train.learn

    def begin(*arguments: Any, **options: Any) -> Any:
        nonlocal start
        start = time.perf_counter()
        return original_learn(*arguments, **options)

    def show(*arguments: Any) -> Any:
        nonlocal evaluating
        now = time.perf_counter()
        report = original(*arguments)
        gaussians, iteration = arguments[2], arguments[5]
        config, scene = arguments[0], arguments[1]
        camera = scene.train[0].camera
        row = {
            "scene": source.name,
            "views": len(scene.train),
            "pixels": f"{camera.width}x{camera.height}",
            "threads": torch.get_num_threads(),
            "preset": config.config,
            "iteration": iteration,
            "gaussians": len(gaussians),
            "seconds": round(now - start - evaluating, 1),
        }
        if report.per_view:
            row |= {"psnr": round(report.mean.psnr, 3), "ssim": round(report.mean.ssim, 4)}
        rows.append(row)
        evaluating += time.perf_counter() - now
        return report

    with tempfile.TemporaryDirectory() as folder:
        if any(word.startswith(("--test_iterations", "--threads")) for word in options):
            raise UserError(
                "--train: give --points and --threads to the benchmark itself, not within --train"
            )
        command = ["train.py", "-s", str(source), "-m", f"{folder}/run", "--eval", *options]
        command += ["--threads", str(torch.get_num_threads())]
        command += ["--test_iterations", *map(str, points)]
        with (
            mock.patch.object(train, "show", show),
            mock.patch.object(train, "learn", begin),
            mock.patch.object(sys, "argv", command),
        ):
            train.main()
    missing = [point for point in points if point not in {row["iteration"] for row in rows}]
    if missing:
        raise UserError(f"--points: {missing[0]} lies beyond the run's end at {rows[-1]['iteration']}")
    return rows


def measure_peer(command: str, source: Path, options: list[str], iterations: int) -> list[dict[str, Any]]:
    """Time per iteration of another trainer and of this one, as whole commands, in turns.

    Each is run for n and for 2 n iterations; the difference over n is the time of an iteration, without
    start-up, loading and saving. Both rows come from the same rounds, so that their ratio means something.

    Args:
        command: the other trainer's, in which {scene} and {iterations} are replaced.
        source: the scene.
        options: of train.py.
        iterations: n.

    Raises:
        UserError: the command cannot be run, fails, or holds other braces.
    """
    left = command.replace("{scene}", "").replace("{iterations}", "")
    if "{" in left or "}" in left:
        raise UserError("--peer: expected no braces but {scene} and {iterations} in the command")
    seconds: dict[str, list[tuple[float, float]]] = {"peer": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, str(Path(train.__file__)), "-s", "{scene}", "-m", f"{folder}/run", "--quiet"]
        ours += ["--overwrite", "--iterations", "{iterations}", *options]
        commands = {"peer": shlex.split(command), "ours": ours}
        for _ in range(PEER_ROUNDS):
            for who, words in commands.items():
                short, long = (_seconds(words, source, n) for n in (iterations, 2 * iterations))
                seconds[who].append((short, long))
    rows: list[dict[str, Any]] = []
    for who, times in seconds.items():
        each = Timing.of([max(long - short, 0.0) / iterations for short, long in times])
        rows.append(
            {
                "who": who,
                "scene": source.name,
                "iterations": f"{iterations} and {2 * iterations}",
                "seconds_of_the_shorter": round(Timing.of([short for short, _ in times]).median / 1e3, 1),
                "ms_per_iteration": each,
                "command": shlex.join(commands[who]),
            }
        )
    ratio = rows[0]["ms_per_iteration"].median / max(rows[1]["ms_per_iteration"].median, 1e-9)
    rows[0]["times_ours"], rows[1]["times_ours"] = f"{ratio:.2f}", "1"
    return rows


def _seconds(words: list[str], source: Path, iterations: int) -> float:
    values = {"{scene}": str(source), "{iterations}": str(iterations)}
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    start = time.perf_counter()
    try:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"--peer: cannot run {words[0]}: {error.strerror}; give its path") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"--peer: {shlex.join(words)} ended with exit code {error.returncode}") from error
    return time.perf_counter() - start
