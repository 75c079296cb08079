"""Starts the processes of one training as torchrun does, by their environment, without its seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0  # far more than anything here takes, for machines that are busy with something else


def start(count: int, argv: Sequence[str]) -> list[subprocess.Popen[str]]:
    """`python ARGV` as each of so many processes of one machine, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, *argv],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def end(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, when all have ended; whatever happens, none is left."""
    try:
        told = [process.communicate(timeout=PATIENCE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(processes, told, strict=True)]


def run(count: int, argv: Sequence[str]) -> list[tuple[int, str, str]]:
    """`start` and `end`."""
    return end(start(count, argv))


def wait_for_checkpoint(output: Path) -> None:
    """Returns when a run has written its first checkpoint, or after the usual patience."""
    until = time.monotonic() + PATIENCE_S
    while not list(output.glob("checkpoints/iteration_*.pt")) and time.monotonic() < until:
        time.sleep(0.01)
