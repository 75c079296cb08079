"""A Slurm job array for a fleet: a script of a few lines, and the list of scenes that its tasks share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atomic import write_bytes
from errors import UserError
from fleet.folder import FleetFolder
from fleet.processes import ROOT
from fleet.scenes import Job

MAX_TASKS = 1000
"""Tasks of an array unless said: Slurm's MaxArraySize is 1001 where nobody has changed it."""
_OURS = ("array", "output", "signal", "requeue", "open-mode")


@dataclass(frozen=True)
class Array:
    """What the script says.

    Attributes:
        train: options of train.py, as the user gave them.
        sbatch: options of sbatch, as the user gave them.
        at_once: tasks that run at a time; 0 = no limit.
        tasks: how many share the scenes; 0 = one a scene, at most `MAX_TASKS`.
        threads: CPU threads of a training; 0 = 1.
        retries: within a task.
    """

    train: str = ""
    sbatch: str = ""
    at_once: int = 0
    tasks: int = 0
    threads: int = 0
    retries: int = 2


def write_array(jobs: Sequence[Job], folder: FleetFolder, array: Array) -> Path:
    """Writes OUTPUT/slurm/{train.sbatch,scenes.txt}; returns the former's path.

    Raises:
        UserError: an option of sbatch that is for this script to say, or a path that no such list can hold.
    """
    place = folder.path / "slurm"
    place.mkdir(exist_ok=True)
    scenes, script = place / "scenes.txt", place / "train.sbatch"
    lines = [str(job.scene) for job in jobs]
    for line in [*lines, str(folder.path)]:
        if line != line.strip() or any(ord(c) < 32 for c in line):
            raise UserError(f"{line!r}: expected a path without line ends and spaces around it: rename it")
    if any(c in '"\\' for c in str(folder.path)):
        raise UserError(
            f'{folder.path}: expected a path without " and \\, which mean something else to sbatch: choose '
            "another -o"
        )
    logs = str(folder.path / "logs").replace("%", "%%")  # sbatch puts numbers in the place of other signs
    write_bytes(scenes, ("\n".join(lines) + "\n").encode(errors="surrogateescape"))
    tasks = min(array.tasks or MAX_TASKS, len(jobs))
    threads = array.threads or 1
    limit = f"%{array.at_once}" if array.at_once else ""
    said = [
        "--job-name=fewsplat",
        f"--array=0-{tasks - 1}{limit}",
        f"--cpus-per-task={threads}",
        f"--output={_quoted(f'{logs}/slurm_%A_%a.txt')}",
        "--open-mode=append",
        "--signal=B:TERM@120",
        "--requeue",
        *_split(array.sbatch),
    ]
    command = [
        *(sys.executable, "-m", "fleet.many", f"@{scenes}", "-o", str(folder.path)),
        *("--tasks", str(tasks), "--threads", str(threads), "--retries", str(array.retries), "--quiet"),
        *([f"--train={array.train}"] if array.train else []),
    ]
    text = "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {word}" for word in said),
            f"# {tasks} tasks share the scenes in {scenes.name}: task k has k, k + {tasks}, ..., from 0 on.",
            "# What is done is not done again: submit it once more for what has failed. Two minutes before",
            "# its time is up a task saves a checkpoint, and goes on from there when it is submitted again.",
            "set -euo pipefail",
            f"cd {shlex.quote(str(Path.cwd()))}",
            f"export PYTHONPATH={shlex.quote(str(ROOT))} OMP_WAIT_POLICY=PASSIVE",
            f'exec {shlex.join(command)} --only "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )
    write_bytes(script, text.encode(errors="surrogateescape"))
    script.chmod(0o755)
    return script


def _split(words: str) -> list[str]:
    """Options of sbatch, one a line of the script."""
    try:
        found = shlex.split(words)
    except ValueError as error:
        raise UserError(f"--sbatch: {words!r}: {error}: mend the quotes") from error
    for word in found:
        if any(ord(c) < 32 for c in word):
            raise UserError(f"--sbatch: {word!r}: expected no line ends: leave them out")
        if not re.match(r"--[a-z]", word):
            raise UserError(f"--sbatch: {word}: expected options like --time=04:00:00, with an equals sign")
        if word[2:].partition("=")[0] in _OURS:
            raise UserError(f"--sbatch: {word}: the script says that itself: leave it out")
    return [f"{name}={_quoted(value)}" if equals else name for name, equals, value in map(_parts, found)]


def _parts(word: str) -> tuple[str, str, str]:
    return word.partition("=")


def _quoted(value: object) -> str:
    """For a line of #SBATCH, whose words end at spaces unless quoted."""
    text = str(value)
    return f'"{text}"' if any(c in text for c in " '") else text
