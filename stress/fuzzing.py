"""Damaged files for every parser that reads what a user gives: a clean error or a valid load, nothing else.

    scripts/stress fuzz --inputs 100000 --jobs 4
    scripts/stress fuzz --parsers colmap_bin --seed 0 --only 1234     # one input again, kept and explained

Inputs are made from valid files by a seed and a number, and read in processes of their own, so that a crash
or a hang is known and costs one input. Failures lie in output/stress/fuzz, figures in fuzz.json beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from atomic import write_bytes
from errors import UserError
from stress.fuzz_child import CPU_SECONDS, PROGRESS, WALL_SECONDS

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    *("colmap_bin", "colmap_txt", "transforms", "cameras_json", "images", "photographs"),
    *("depth", "confidence", "confidence_map", "depth_params", "depth_cache", "points_ply", "gaussians_ply"),
    *("checkpoint", "config", "events", "report", "results", "export"),
)
"""As in stress.fuzz_parsers, which is not imported here: it takes seconds, and the children do."""
_BLOCK = 5_000  # inputs of a process, so that what leaks does not add up
_SHOWN_OF_A_KIND = 3


@dataclass(frozen=True)
class Options:
    """What the fuzzer can be told."""

    inputs: int = 100_000
    """Damaged files for each parser."""
    parsers: tuple[str, ...] = ()
    """Which ones (default: all)."""
    seed: int = 0
    """Decides every input, with its number."""
    jobs: int = 1
    """Processes at a time."""
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("output/stress")
    """Receives fuzz.json, and failures in fuzz/PARSER/NUMBER."""
    only: int | None = None
    """Read this one input of each parser, keep its files and say what came of it."""


@dataclass
class Figures:
    """What came of one parser's inputs.

    Attributes:
        inputs: how many were read.
        valid: of these loaded.
        clean: refused by a message for the user.
        failures: anything else.
        worst_seconds: CPU seconds of the slowest.
        worst_mib: largest growth of resident memory while one was read.
        wall_seconds: for all of them, with making the inputs.
        kinds: failures by their kind.
    """

    inputs: int = 0
    valid: int = 0
    clean: int = 0
    failures: int = 0
    worst_seconds: float = 0.0
    worst_mib: float = 0.0
    wall_seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, valid: int, clean: int, failed: int, seconds: float, mib: float) -> None:
        """Counts a block of inputs."""
        self.inputs += valid + clean + failed
        self.valid, self.clean, self.failures = self.valid + valid, self.clean + clean, self.failures + failed
        self.worst_seconds = max(self.worst_seconds, seconds)
        self.worst_mib = max(self.worst_mib, mib)


Job = tuple[str, int, int]
"""Parser, first input, the one after the last."""


def main(arguments: Sequence[str]) -> int:
    """Fuzzes as the command line asks; 1 where anything but a clean error or a valid load came."""
    options = tyro.cli(Options, args=arguments, use_underscores=True, description=__doc__)
    unknown = [name for name in options.parsers if name not in NAMES]
    if unknown:
        raise UserError(f"--parsers: {unknown[0]}: expected some of {', '.join(NAMES)}: name them")
    if options.inputs < 1 or options.jobs < 1:
        raise UserError(f"--inputs {options.inputs}, --jobs {options.jobs}: expected at least 1: give more")
    names = options.parsers or NAMES
    first, last = (0, options.inputs) if options.only is None else (options.only, options.only + 1)
    blocks = in_blocks([(name, first, last) for name in names])
    figures = fuzz(blocks, options.seed, options.output, jobs=options.jobs, say=print)
    write_figures(options.output / "fuzz.json", figures, options)
    if options.only is not None:
        for name in names:
            what = options.output / "fuzz" / name / str(options.only) / "what.txt"
            print(f"{name} {options.only}: {what.read_text('utf-8') if what.is_file() else 'no failure'}")
    return 1 if any(one.failures for one in figures.values()) else 0


def in_blocks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs cut and gathered so that each block has at most 5,000 inputs."""
    blocks: list[list[Job]] = [[]]
    room = _BLOCK
    for name, first, last in jobs:
        at = first
        while at < last:
            if not room:
                blocks.append([])
                room = _BLOCK
            end = min(last, at + room)
            blocks[-1].append((name, at, end))
            at, room = end, room - (end - at)
    return blocks


def fuzz(
    blocks: Sequence[list[Job]],
    seed: int,
    output: Path,
    *,
    jobs: int = 1,
    say: Any = None,
    module: str = "stress.fuzz_parsers",
    cpu_seconds: float = CPU_SECONDS,
) -> dict[str, Figures]:
    """Reads blocks of inputs, each in a process of its own.

    Args:
        blocks: each a list of jobs that one process does in order.
        seed: decides the inputs.
        output: failures are saved in `fuzz` below it.
        jobs: processes at a time.
        say: called with a line for each failure (the first few of a kind), and for each finished block.
        module: its `parser_named` gives the parsers.
        cpu_seconds: what takes longer has hung.
    """
    fixed = {"seed": seed, "output": str(output.absolute() / "fuzz")}
    fixed |= {"module": module, "cpu_seconds": cpu_seconds}
    runner = _Runner(fixed, say or (lambda line: None))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(runner.block, blocks))
        except BaseException:  # also Ctrl-C: the processes would go on
            runner.stop()
            raise
    order = list(dict.fromkeys(name for block in blocks for name, _, _ in block))
    return {name: runner.figures[name] for name in order}


def write_figures(path: Path, figures: dict[str, Figures], options: Options) -> None:
    """Writes what came of it; the file is replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "seed": options.seed,
        "limits": {"cpu_seconds": CPU_SECONDS, "wall_seconds": WALL_SECONDS, "growth_mib": 1024},
        "parsers": {name: vars(one) for name, one in figures.items()},
    }
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


class _Runner:
    def __init__(self, fixed: dict[str, Any], say: Any) -> None:
        self.figures: dict[str, Figures] = {}
        self._fixed, self._output, self._say = fixed, Path(fixed["output"]), say
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Ends all processes and begins no other."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def block(self, jobs: list[Job]) -> None:
        """Does jobs to their end, in as many processes as it takes."""
        while jobs and not self._stopped:
            with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
                jobs = self._process(jobs, Path(scratch))

    def _process(self, jobs: list[Job], scratch: Path) -> list[Job]:
        """Runs one process; returns what it has left undone."""
        progress = scratch / "progress"
        progress.write_bytes(PROGRESS.pack(-1, -1, *[0.0] * 6))
        began = time.perf_counter()
        process = _start(self._job(jobs, scratch), scratch)
        assert process.stdout is not None, "asked for in _start"
        self._running.add(process)
        for line in process.stdout:
            told = json.loads(line)
            if "ready" in told:
                began = time.perf_counter()
                continue
            if "why" in told:
                self._tell(told["parser"], told["number"], told["why"])
                continue
            name = jobs[told["done"]][0]
            self._of(name).add(told["valid"], told["clean"], told["failed"], told["s"], told["mib"])
            now = time.perf_counter()
            self._of(name).wall_seconds += now - began
            began = now
            self._line(name)
        code = process.wait()
        self._running.discard(process)
        if code == 0 or self._stopped:
            return []
        words = (scratch / "stderr").read_text("utf-8", errors="replace")[-3_000:]
        index, number, _, valid, clean, failed, seconds, mib = PROGRESS.unpack(progress.read_bytes())
        if code > 0 or index < 0:
            raise RuntimeError(f"the fuzzing process could not work (exit code {code}):\n{words}")
        name, _, last = jobs[index]
        figures = self._of(name)
        figures.wall_seconds += time.perf_counter() - began
        figures.add(int(valid), int(clean), int(failed) + 1, seconds, mib)
        why = _ending(-code, self._fixed["cpu_seconds"])
        with tempfile.TemporaryDirectory(prefix="fuzz-") as other:
            job = self._job([(name, number, number + 1)], Path(other)) | {"keep": True}
            _start(job, Path(other)).wait()
        (self._output / name / str(number)).mkdir(parents=True, exist_ok=True)
        (self._output / name / str(number) / "what.txt").write_text(f"{why}\n\n{words}", "utf-8")
        self._tell(name, number, why)
        rest = [(name, number + 1, last)] if number + 1 < last else []
        return rest + jobs[index + 1 :]

    def _job(self, jobs: Sequence[Job], scratch: Path) -> dict[str, Any]:
        places = {name: str(scratch / name) for name in ("scratch", "progress")}
        return {**self._fixed, **places, "jobs": jobs}

    def _of(self, name: str) -> Figures:
        return self.figures.setdefault(name, Figures())

    def _tell(self, name: str, number: int, why: str) -> None:
        self._of(name).kinds[why] += 1
        if self._of(name).kinds[why] <= _SHOWN_OF_A_KIND:
            self._say(f"FAILED {name} {number}: {why}")

    def _line(self, name: str) -> None:
        one = self._of(name)
        self._say(
            f"{name:15} {one.inputs:>8,} inputs: {one.valid:,} valid, {one.clean:,} clean errors, "
            f"{one.failures:,} failures; worst {one.worst_seconds:.2f} s, {one.worst_mib:.0f} MiB; "
            f"{one.wall_seconds:.0f} s"
        )


def _start(job: dict[str, Any], scratch: Path) -> subprocess.Popen[str]:
    (scratch / "job.json").write_text(json.dumps(job), "utf-8")
    if not (scratch / "progress").exists():
        (scratch / "progress").write_bytes(PROGRESS.pack(-1, -1, *[0.0] * 6))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "GLOG_minloglevel": "3",
    }  # fmt: skip
    with open(scratch / "stderr", "w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "stress.fuzz_child", str(scratch / "job.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip


def _ending(number: int, cpu_seconds: float) -> str:
    """What a signal that ended a process says of the input."""
    if number == signal.SIGPROF:
        return f"hung: more than {cpu_seconds:g} s of work"
    if number == signal.SIGALRM:
        return f"hung: more than {WALL_SECONDS:g} s"
    return f"crashed: {signal.Signals(number).name}"
