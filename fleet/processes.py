"""One training as a process: its command, its surroundings, its end, and what it says went wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from engine import end_with_parent
from replicas import usable_cores

ROOT = Path(__file__).resolve().parent.parent
_READ = 64 << 10  # bytes of a log's end in which the reason is looked for
_OF_A_TEAM = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
_OF_TORCHRUN = ("MASTER_", "TORCHELASTIC_", "ROLE_", "GROUP_")

MAY_PASS = {
    3: "out of memory",
    4: "the disk was full",
    5: "another process of the training had ended",
    128 + signal.SIGINT: "stopped by Ctrl-C",
    128 + signal.SIGTERM: "stopped by a SIGTERM",
}
"""Exit codes of train.py (engine/command.py) after which another attempt may help, as after any signal."""


def may_pass(code: int) -> bool:
    """Whether another attempt makes sense: not after a user's mistake (2) or a fault of the program (1)."""
    return code < 0 or code in MAY_PASS


def cores() -> int:
    """CPU cores that this process may use."""
    count = usable_cores()
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")  # not every cluster binds a task to what it was given
    return min(count, int(given)) if given.isdecimal() and int(given) > 0 else count


def threads_of(slot: int, slots: int, total: int) -> int:
    """CPU threads for the training in a slot: all cores shared out, at least 1 each."""
    return max(1, total // slots + (1 if slot < total % slots else 0))


def visible_gpus() -> list[str]:
    """The GPUs' names for CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def surroundings(threads: int, gpu: str | None) -> dict[str, str]:
    """The environment of a training: without that of the group that started it, with its share of threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_A_TEAM and not name.startswith(_OF_TORCHRUN)
    }
    kept["OMP_NUM_THREADS"] = str(threads)  # of libraries; the kernels get --threads
    if gpu is not None:
        kept["CUDA_VISIBLE_DEVICES"] = gpu
    return kept


def train_command(words: Sequence[str]) -> list[str]:
    """Of train.py."""
    return [sys.executable, str(ROOT / "train.py"), *words]


def start(command: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a training that does not hear the terminal's Ctrl-C, and ends where this process is killed.

    It would hear a second one otherwise, when this process passes the first one on.
    """
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call
    )


def reason(log: Path, begun_at: int, code: int) -> str:
    """Why a training has failed, in a line.

    Args:
        log: its log.
        begun_at: where in the log this attempt begins, in bytes.
        code: its exit code; negative for a signal.
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    text = ""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begun_at, size - _READ))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip(" │╭╰─\r") for line in text.splitlines()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if not told and "Traceback" in text:  # its last line says what it was
        told = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    if not told and code not in MAY_PASS:
        told = [line for line in lines if any(c.isalnum() for c in line) and "--help" not in line]
    return told[-1] if told else MAY_PASS.get(code, f"exit code {code}")
