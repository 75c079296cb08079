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

import train
from errors import UserError


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
        row = {
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
        command = ["train.py", "-s", str(source), "-m", f"{folder}/run", "--eval", *options]
        command += ["--test_iterations", *map(str, points)]
        with (
            mock.patch.object(train, "show", show),
            mock.patch.object(train, "learn", begin),
            mock.patch.object(sys, "argv", command),
        ):
            train.main()
    return rows


def measure_peer(command: str, source: Path, iterations: int) -> dict[str, Any]:
    """Wall-clock of another trainer's command, in which {scene} and {iterations} are replaced."""
    values = {"{scene}": str(source), "{iterations}": str(iterations)}
    words = shlex.split(command)
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    start = time.perf_counter()
    try:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"--peer: cannot run {words[0]}: {error.strerror}; give its path") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"--peer: {shlex.join(words)} ended with exit code {error.returncode}") from error
    seconds = time.perf_counter() - start
    return {
        "command": shlex.join(words),
        "seconds": round(seconds, 1),
        "ms_per_iteration": round(1e3 * seconds / iterations, 1),
    }
