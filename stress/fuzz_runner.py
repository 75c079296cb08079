"""The processes that read damaged files: started, listened to, and followed by another where one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stress.fuzz_child import CPU_SECONDS, PROGRESS, WALL_SECONDS
from stress.fuzz_figures import Figures

ROOT = Path(__file__).resolve().parent.parent
Job = tuple[str, int, int]
"""Parser, first input, the one after the last."""
_JOB = 500  # inputs; what is counted at once
_BLOCK = 20_000  # inputs of a process, so that what leaks does not add up
_SHOWN_OF_A_KIND = 3
_ROOM = 256 << 20  # bytes; what is read is a few KiB, what libraries say of it some MiB


def in_blocks(jobs: Sequence[Job], processes: int = 1) -> list[list[Job]]:
    """Jobs cut to at most 500 inputs, gathered to blocks of at most 20,000, for each process two or more."""
    total = sum(last - first for _, first, last in jobs)
    most = min(_BLOCK, max(_JOB, -(-total // (2 * processes)))) if processes > 1 else _BLOCK
    blocks: list[list[Job]] = [[]]
    room = most
    for name, first, last in jobs:
        for at in range(first, last, _JOB):
            end = min(last, at + _JOB)
            if end - at > room:
                blocks.append([])
                room = most
            blocks[-1].append((name, at, end))
            room -= end - at
    return blocks


def fuzz(
    blocks: Sequence[list[Job]],
    seed: int,
    output: Path,
    *,
    jobs: int = 1,
    say: Callable[[str], Any] | None = None,
    done: Callable[[str, Figures], Any] | None = None,
    module: str = "stress.fuzz_parsers",
    cpu_seconds: float = CPU_SECONDS,
    keep: bool = False,
) -> dict[str, Figures]:
    """Reads blocks of inputs, each in a process of its own.

    Args:
        blocks: each a list of jobs that one process does in order.
        seed: decides the inputs.
        output: failures are saved in `fuzz` below it.
        jobs: processes at a time.
        say: called with a line for each failure (the first few of a kind).
        done: called with a parser's name and what came of its inputs, some hundred at a time; by one thread
            at a time.
        module: its `parser_named` gives the parsers.
        cpu_seconds: what takes longer has hung.
        keep: save all inputs, not only those that fail.
    """
    fixed = {"seed": seed, "output": str(output.absolute() / "fuzz")}
    fixed |= {"module": module, "cpu_seconds": cpu_seconds, "keep": keep}
    runner = _Runner(fixed, say or (lambda line: None), done or (lambda name, figures: None))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(runner.block, blocks))
        except BaseException:  # also Ctrl-C: the processes would go on
            runner.stop()
            raise
    order = list(dict.fromkeys(name for block in blocks for name, _, _ in block))
    return {name: runner.figures[name] for name in order}


def _ends(words: str) -> str:
    """A text without its middle, should it be long: where a traceback begins, and what the error was."""
    return words if len(words) < 6_000 else f"{words[:3_000]}\n...\n{words[-3_000:]}"


class _Runner:
    def __init__(
        self, fixed: dict[str, Any], say: Callable[[str], Any], done: Callable[[str, Figures], Any]
    ) -> None:
        self.figures: dict[str, Figures] = {}
        self._fixed, self._output, self._say, self._done = fixed, Path(fixed["output"]), say, done
        self._running: set[subprocess.Popen[str]] = set()
        self._shown = Counter[str]()
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Ends all processes and begins no other."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def block(self, jobs: list[Job]) -> None:
        """Does jobs to their end, in as many processes as it takes."""
        while jobs and not self._stopped:
            with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_disk()) as scratch:
                jobs = self._process(jobs, Path(scratch))

    def _process(self, jobs: list[Job], scratch: Path) -> list[Job]:
        """Runs one process; returns what it has left undone."""
        process = self._start(jobs, scratch)
        assert process.stdout is not None, "asked for in _start"
        finished = 0
        for line in process.stdout:
            if not line.endswith("\n"):  # it has died meanwhile
                break
            told = json.loads(line)
            finished = told["job"] + 1
            self._add(jobs[told["job"]][0], Figures.from_json(told["figures"]), told["failed"])
        code = process.wait()
        self._running.discard(process)
        if code == 0 or self._stopped or finished == len(jobs):
            return []
        words = _ends((scratch / "stderr").read_text("utf-8", errors="replace"))
        index, number = PROGRESS.unpack((scratch / "progress").read_bytes())
        if code > 0 or index < finished:
            raise RuntimeError(f"the fuzzing process could not work (exit code {code}):\n{words}")
        name, first, last = jobs[index]
        self._died(name, number, _ending(-code, self._fixed["cpu_seconds"]), words)
        rest = [(name, first, number), (name, number + 1, last)]  # the first ones' figures died with it
        return [job for job in rest if job[1] < job[2]] + jobs[index + 1 :]

    def _died(self, name: str, number: int, why: str, words: str) -> None:
        """Counts and keeps the input that a process died of."""
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_disk()) as other:
            process = self._start([(name, number, number + 1)], Path(other), read=False)
            process.wait()
            self._running.discard(process)
        (self._output / name / str(number)).mkdir(parents=True, exist_ok=True)
        (self._output / name / str(number) / "what.txt").write_text(f"{why}\n\n{words}", "utf-8")
        self._add(name, Figures(done={number}, kinds=Counter([why])), [(number, why)])

    def _add(self, name: str, figures: Figures, failed: Sequence[tuple[int, str]]) -> None:
        with self._lock:
            self.figures.setdefault(name, Figures()).add(figures)
            for number, why in failed:
                self._shown[f"{name} {why}"] += 1
                if self._shown[f"{name} {why}"] <= _SHOWN_OF_A_KIND:
                    self._say(f"FAILED {name} {number}: {why}")
            self._done(name, figures)

    def _start(self, jobs: Sequence[Job], scratch: Path, *, read: bool = True) -> subprocess.Popen[str]:
        places = {name: str(scratch / name) for name in ("scratch", "progress")}
        job = {**self._fixed, **places, "jobs": jobs, "read": read}
        (scratch / "job.json").write_text(json.dumps(job), "utf-8")
        (scratch / "progress").write_bytes(PROGRESS.pack(-1, -1))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "",
            "GLOG_minloglevel": "3",
        }  # fmt: skip
        with open(scratch / "stderr", "w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "stress.fuzz_child", str(scratch / "job.json")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
                env=environment,
            )  # fmt: skip
        self._running.add(process)
        if self._stopped:  # meanwhile
            process.kill()
        return process


def _memory_disk() -> str | None:
    """A folder in memory, where a file costs a tenth of what it does on a disk; None where there is none."""
    folder = "/dev/shm"
    there = os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
    return folder if there and shutil.disk_usage(folder).free > _ROOM else None


def _ending(number: int, cpu_seconds: float) -> str:
    """What a signal that ended a process says of the input."""
    if number == signal.SIGPROF:
        return f"hung: more than {cpu_seconds:g} s of work"
    if number == signal.SIGALRM:
        return f"hung: more than {WALL_SECONDS:g} s"
    return f"crashed: {signal.Signals(number).name}"
