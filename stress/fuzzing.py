"""Damaged files for every parser that reads what a user gives: a clean error or a valid load, nothing else.

    scripts/stress fuzz --inputs 100000 --jobs 2       # stopped and called again, it goes on
    scripts/stress fuzz --parsers colmap_bin --seed 0 --only 1234     # one input again, kept and explained

Inputs are made from valid files by a seed and a number, and read in processes of their own, so that a crash
or a hang is known and costs one input. Failures lie in output/stress/fuzz, figures in fuzz.json beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from errors import UserError
from stress.fuzz_figures import Figures, makers, read_figures, write_figures
from stress.fuzz_runner import Job, fuzz, in_blocks

MODULES = {
    "fuzz_scenes": (
        *("colmap_bin", "colmap_txt", "transforms", "cameras_json", "images"),
        *("photographs", "videos"),
    ),
    "fuzz_maps": (
        *("depth", "confidence", "confidence_map", "depth_params", "depth_cache"),
        *("points_ply", "gaussians_ply"),
    ),
    "fuzz_states": ("checkpoint", "config"),
    "fuzz_runs": ("events", "report", "results", "export"),
    "fuzz_fleets": ("outcome", "partition"),
}
"""As in stress.fuzz_parsers, which is not imported here: it takes seconds, and the children do."""
NAMES = tuple(name for names in MODULES.values() for name in names)
_SAVED_EVERY = 30.0  # seconds
_TOLD_EVERY = 20_000  # inputs


@dataclass(frozen=True)
class Options:
    """What the fuzzer can be told."""

    inputs: int = 100_000
    """Damaged files for each parser, with those that fuzz.json counts already."""
    parsers: tuple[str, ...] = ()
    """Which ones (default: all)."""
    seed: int = 0
    """Decides every input, with its number."""
    jobs: int = 1
    """Processes at a time."""
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("output/stress")
    """Receives fuzz.json, and failures in fuzz/PARSER/NUMBER."""
    again: bool = False
    """Forget what fuzz.json counts of these parsers: after the program has changed."""
    only: int | None = None
    """Read this one input of each parser, keep its files and say what came of it; counted nowhere."""


def main(arguments: Sequence[str]) -> int:
    """Fuzzes as the command line asks; 1 where anything but a clean error or a valid load came."""
    options = tyro.cli(
        Options, args=arguments, prog="scripts/stress fuzz", use_underscores=True, description=__doc__
    )
    unknown = [name for name in options.parsers if name not in NAMES]
    if unknown:
        raise UserError(f"--parsers: {unknown[0]}: expected some of {', '.join(NAMES)}: name them")
    if options.inputs < 1 or options.jobs < 1:
        raise UserError(f"--inputs {options.inputs}, --jobs {options.jobs}: expected at least 1: give more")
    names = options.parsers or NAMES
    if options.only is not None:
        return _read_one(names, options.only, options)
    account = _Account(options, names)
    jobs = [job for name in names for job in missing(name, account.of(name), options.inputs)]
    blocks = in_blocks(jobs, options.jobs)
    print(table({})[0], flush=True)
    try:
        fuzz(blocks, options.seed, options.output, jobs=options.jobs, say=print, done=account.add)
    finally:
        account.save()
    print("\n".join(table({name: account.of(name) for name in names})))
    return 1 if any(account.of(name).failures for name in names) else 0


def missing(name: str, figures: Figures, inputs: int) -> list[Job]:
    """The inputs below a number that were not read yet."""
    jobs: list[Job] = []
    first = 0
    for stop in sorted(number for number in (*figures.done, inputs) if number <= inputs):
        if stop > first:
            jobs.append((name, first, stop))
        first = stop + 1
    return jobs


def table(figures: Mapping[str, Figures]) -> list[str]:
    """What came of each parser's inputs, in lines for people.

    Columns: inputs, the share that loaded, failures, different messages, the share of refusals that the
    commonest one makes, lines of the program that were run of all lines in the functions that were entered,
    CPU time of an input (on average, and at most), growth of memory at most.
    """
    lines = [
        f"{'parser':15}{'inputs':>9}{'valid':>7}{'failed':>8}{'messages':>10}{'commonest':>11}"
        f"{'lines':>13}{'ms':>7}{'worst s':>9}{'MiB':>6}"
    ]
    for name, one in figures.items():
        n = max(1, one.inputs)
        commonest = max(one.refusals.values(), default=0) / max(1, one.clean)
        reached, entered = (sum(map(len, lines.values())) for lines in (one.reached, one.entered))
        lines.append(
            f"{name:15}{one.inputs:>9,}{one.valid / n:>7.0%}{one.failures:>8,}{len(one.refusals):>10,}"
            f"{commonest:>11.0%}{f'{reached} of {entered}':>13}{1e3 * one.cpu_seconds / n:>7.2f}"
            f"{one.worst_seconds:>9.2f}{one.worst_mib:>6.0f}"
        )
    return lines


class _Account:
    """Figures of all parsers, of this call and of those before it, kept in fuzz.json."""

    def __init__(self, options: Options, names: Sequence[str]) -> None:
        self._path, self._seed, self._inputs = options.output / "fuzz.json", options.seed, options.inputs
        self._sums = {name: makers(module) for module, names in MODULES.items() for name in names}
        self._figures, notes = read_figures(self._path, options.seed, self._sums)
        if notes:
            print("\n".join(notes))
        if options.again:
            for name in names:
                self._figures.pop(name, None)
        self._saved = time.monotonic()

    def of(self, name: str) -> Figures:
        """One parser's."""
        return self._figures.setdefault(name, Figures())

    def add(self, name: str, figures: Figures) -> None:
        """Adds what came of some more inputs; says now and then what came so far."""
        one = self.of(name)
        before = one.inputs
        one.add(figures)
        if time.monotonic() - self._saved > _SAVED_EVERY:
            self.save()
        if one.inputs >= self._inputs or one.inputs // _TOLD_EVERY > before // _TOLD_EVERY:
            print(table({name: one})[1], flush=True)

    def save(self) -> None:
        """Writes the file."""
        begun = {name: self._figures[name] for name in NAMES if self.of(name).inputs}
        write_figures(self._path, begun, self._seed, self._sums)
        self._saved = time.monotonic()


def _read_one(names: Sequence[str], number: int, options: Options) -> int:
    blocks = [[(name, number, number + 1) for name in names]]
    figures = fuzz(blocks, options.seed, options.output, keep=True)
    for name in names:
        folder = options.output / "fuzz" / name / str(number)
        print(f"{folder}: {(folder / 'what.txt').read_text('utf-8')}")
    return 1 if any(one.failures for one in figures.values()) else 0
