"""Children that train under faults, how they ended, and what they left: the same bits, whole files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import checkpoint_path, latest_checkpoint, load_checkpoint
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 600.0
"""A child that takes longer hangs."""


@dataclass(frozen=True)
class Ended:
    """How a child ended; the code is negative where a signal ended it, and None where it hung."""

    code: int | None
    stderr: str
    seconds: float


def run(
    arguments: Sequence[str | Path],
    *,
    fault: Mapping[str, Any] | None = None,
    kill_after: float | None = None,
    signals: Sequence[tuple[float, int]] = (),
    when: Callable[[], bool] | None = None,
    address_space_mib: int = 0,
    group: Path | None = None,
    user: int | None = None,
    cwd: Path | None = None,
    patience: float = PATIENCE_S,
) -> Ended:
    """Runs a script of the program's folder, or `-m MODULE`.

    Args:
        arguments: the script and its options.
        fault: brought upon it from inside, see `fault_child`.
        kill_after: seconds after which it is killed with SIGKILL.
        signals: (seconds after the one before, signal) to send.
        when: the clock of `kill_after` and `signals` begins once this is true.
        address_space_mib: what it may have of it; 0 = as much as there is.
        group: the control group that it runs in, see `fault_groups`.
        user: the number of the user to be (needs root).
        cwd: the working directory.
        patience: seconds after which it is taken to hang.
    """
    first = str(arguments[0])
    direct = [first] if first == "-m" else [str(ROOT / first)]
    command = [sys.executable, *direct, *map(str, arguments[1:])]
    if fault is not None:
        command = [sys.executable, "-m", "stress.fault_child", json.dumps(fault), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"

    if address_space_mib:
        command = ["sh", "-c", 'ulimit -v "$0"; exec "$@"', str(address_space_mib * 1024), *command]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs"), *command]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        child = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=told,
            env=environment,
            cwd=cwd or ROOT,
            user=user,
        )
        try:
            while when is not None and child.poll() is None and not when():
                time.sleep(0.002)
            for seconds, number in [*signals, *([(kill_after, signal.SIGKILL)] if kill_after else [])]:
                _wait(child, seconds)
                if child.poll() is None:
                    child.send_signal(number)
            code = _wait(child, patience)
        finally:
            child.kill()
            child.wait()
        told.seek(0)
        words = told.read().decode(errors="replace")
    return Ended(code, words, time.perf_counter() - began)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def state_of(output: Path, iteration: int) -> dict[str, Any]:
    """What a checkpoint holds, but for the configuration (which names the folder)."""
    content = load_checkpoint(checkpoint_path(output / "checkpoints", iteration))
    return {key: value for key, value in content.items() if key not in ("path", "config")}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The places in which two trees of tensors and primitives have other bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
        return [] if same else [f"{where} has other bits"]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [line for key in a for line in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [line for i in range(len(a)) for line in differences(a[i], b[i], f"{where}[{i}]")]
    return [] if type(a) is type(b) and a == b else [f"{where} differs"]


def unlike(output: Path, whole: Path, iterations: int) -> list[str]:
    """What a run has other than an uninterrupted one: state, Gaussians, figures, files of either kind."""
    try:
        found = differences(state_of(output, iterations), state_of(whole, iterations), "checkpoint")[:5]
    except UserError as error:
        return [str(error)]
    for name in (f"point_cloud/iteration_{iterations}/point_cloud.ply", "results.json", "per_view.json"):
        theirs = whole / name
        ours = output / name
        if theirs.is_file() and (not ours.is_file() or ours.read_bytes() != theirs.read_bytes()):
            found.append(f"{name} is {'another' if ours.is_file() else 'missing'}")
    found += [
        f"{name} is missing" for name in ("summary.json", "report.html") if not (output / name).is_file()
    ]
    left = [str(path.relative_to(output)) for path in output.rglob(".*") if path.name != ".run.lock"]
    return found + [f"left behind: {name}" for name in left]


def damage_done(output: Path) -> list[str]:
    """What is wrong with the checkpoints of a run that a fault has ended: each has to load, and be finite."""
    found = []
    for path in sorted((output / "checkpoints").glob("iteration_*.pt")):
        try:
            content = load_checkpoint(path)
        except UserError as error:
            found.append(str(error))
            continue
        bad = [key for key, value in content["gaussians"].items() if not bool(value.isfinite().all())]
        found += [f"{path.name}: {key} is not finite" for key in bad]
    return found


def going_on(output: Path) -> list[str]:
    """The option with which a run that has ended too soon is called again."""
    return ["--resume"] if latest_checkpoint(output / "checkpoints") is not None else ["--overwrite"]


def misses(ended: Ended, code: int | Sequence[int], words: Sequence[str] = ()) -> list[str]:
    """What is not as expected of an ending: the code, what stderr has to say, and no traceback."""
    codes = [code] if isinstance(code, int) else list(code)
    found = [] if ended.code in codes else [f"exit code {ended.code}, expected {codes}"]
    found += [f"stderr does not say {word!r}" for word in words if word not in ended.stderr]
    found += ["a traceback"] if "Traceback" in ended.stderr else []
    if found:
        found.append("stderr ends: " + " | ".join(ended.stderr.strip().splitlines()[-4:])[-600:])
    return found
