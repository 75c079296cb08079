"""Trains a folder of many scenes; the command behind scripts/train_many.

    scripts/train_many scenes -o output/all --train="--eval --config quick" --jobs 2

Every scene is trained by a process of its own. What is done is not done again: the same command goes on where
it was stopped, and trains anew what has changed.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm
from tyro.conf import FlagCreatePairsOff, Positional, arg

from engine import run_command
from errors import UserError
from fleet.folder import FleetFolder, Outcome
from fleet.options import absolute, meaning, split_options
from fleet.processes import cores
from fleet.ray_cluster import run_on_ray
from fleet.running import Plan, Signals, run_jobs
from fleet.scenes import Job, find_jobs, share
from fleet.slurm import Array, write_array
from replicas import place_of

Flag = FlagCreatePairsOff[bool]
_TABLE_EVERY_S = 5.0
_TABLE_SHARE = 0.05  # of the time may go into writing tables: one of a million scenes takes seconds


@dataclass(frozen=True)
class Options:
    """Train many scenes, each by a process of its own; the same command goes on where it was stopped."""

    scenes: Annotated[list[str], Positional, arg(metavar="SCENES")]
    """Scenes, folders of scenes, videos, or @FILE with one of these a line. Whatever train.py takes by -s."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FOLDER")]
    """Gets a folder for each scene, logs/ and fleet.json."""
    train: Annotated[str, arg(metavar="OPTIONS")] = ""
    """Options of train.py for all scenes, after an equals sign: --train="--eval --config quick"."""
    jobs: int = 0
    """Trainings at a time. 0 = one; with ray as many as the cluster has room for, with slurm no limit."""
    threads: int = 0
    """CPU threads of each training; 0 = the machine's cores, shared out among --jobs (ray, slurm: 1)."""
    retries: int = 2
    """Further attempts after an end that may pass: out of memory, a full disk, a signal."""
    pause: float = 5.0
    """Seconds before the first of these; twice as many before each next one."""
    launcher: Literal["local", "torchrun", "ray", "slurm"] = "local"
    """Who starts the trainings: this process; this process, which is one of those that torchrun has started,
    for its share of the scenes; Ray, on the cluster of RAY_ADDRESS or else this machine; or a Slurm job
    array, whose script is written and left to you to submit."""
    sbatch: Annotated[str, arg(metavar="OPTIONS")] = ""
    """Options of sbatch for the array, after an equals sign: --sbatch="--time=04:00:00 --mem=8G"."""
    only: Annotated[int | None, arg(metavar="INDEX")] = None
    """Train the share of one of --tasks tasks, counted from 0: every so-manieth scene, from this one on."""
    tasks: int = 0
    """How many tasks share the scenes; 0 = one a scene, at most 1,000 in a Slurm array (its usual limit)."""
    status: Flag = False
    """Train nothing: say what became of each scene, and write fleet.json."""
    quiet: Flag = False
    """No progress bar."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options; None = the process's arguments."""
    return tyro.cli(
        Options, args=arguments, prog="scripts/train_many", description=__doc__, use_underscores=True
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing; returns 1 where a scene has failed."""
    return run(parse(arguments))


def run(options: Options) -> int:
    """See `main`."""
    _check(options)
    words = split_options(options.train)
    folder = FleetFolder(absolute(options.output))
    of_a_list = options.only is not None  # its other tasks have begun: a scene that has gone fails alone
    jobs = find_jobs(
        options.scenes,
        words,
        meaning(words),
        folder.path,
        gone=lambda scene, name: of_a_list or folder.knows(scene, name),
    )
    folder.make()
    if options.status:
        return say_status(jobs, folder)
    if options.launcher == "slurm" and options.only is None:
        array = Array(options.train, options.sbatch, options.jobs, options.tasks, options.threads)
        script = write_array(jobs, folder, replace(array, retries=options.retries))
        print(f"written: {script}\nsubmit it by: sbatch {shlex.quote(str(script))}")
        return 0
    place = place_of()
    if options.launcher == "torchrun":
        options = replace(options, only=place.rank, tasks=place.size)
    mine = jobs if options.only is None else share(jobs, options.only, options.tasks or len(jobs))
    plan = Plan(
        jobs=options.jobs or 1,
        retries=options.retries,
        pause=options.pause,
        threads=options.threads,
    )
    if options.launcher == "torchrun":
        slots = plan.jobs * place.local_size
        threads = options.threads or max(1, cores() // slots)
        plan = replace(plan, threads=threads, first_slot=plan.jobs * place.local_rank)
    if not mine and options.launcher != "torchrun":
        raise UserError(f"--only {options.only}: expected less than the {len(jobs)} scenes: change it")
    whole = options.only is None
    with folder.held(alone=whole), Signals().heard() as signals:
        failed = train_all(mine, folder, plan, options, signals, table=whole)
        if signals.count:
            print("stopped: the same command goes on from here", file=sys.stderr)
            signals.leave()
    # torchrun ends all processes where one has failed, and others may still be training
    return 1 if failed and options.launcher != "torchrun" else 0


def train_all(
    jobs: Sequence[Job],
    folder: FleetFolder,
    plan: Plan,
    options: Options,
    signals: Signals,
    *,
    table: bool,
) -> list[str]:
    """Trains, with a line for each scene as it ends; returns the names of those that are not done."""
    outcomes: dict[str, Outcome] = {}
    before = {job.name: folder.outcome_or_why_not(job.name) for job in jobs}
    next_table = time.monotonic() + _TABLE_EVERY_S
    with tqdm(total=len(jobs), desc="scenes", unit="scene", disable=True if options.quiet else None) as bar:

        def ended(job: Job, outcome: Outcome) -> None:
            nonlocal next_table
            outcomes[job.name] = outcome
            tqdm.write(outcome.line(job.name, folder.log(job.name)), file=sys.stdout)
            sys.stdout.flush()
            bar.update()
            if table and (began := time.monotonic()) > next_table:
                folder.write_table(jobs, {**before, **outcomes})
                now = time.monotonic()
                next_table = now + max(_TABLE_EVERY_S, (now - began) / _TABLE_SHARE)

        launch: Callable[..., None] = run_on_ray if options.launcher == "ray" else run_jobs
        if options.launcher == "ray":
            plan = replace(plan, jobs=options.jobs)
        try:
            launch(jobs, folder, plan, ended, signals)
        finally:
            if table:  # also of what was stopped halfway
                left = {
                    job.name: folder.outcome_or_why_not(job.name) for job in jobs if job.name not in outcomes
                }
                folder.write_table(jobs, {**left, **outcomes})
    failed = [name for name, outcome in outcomes.items() if outcome.status != "done"]
    print(_sum(outcomes, before, folder if table else None))
    return failed


def say_status(jobs: Sequence[Job], folder: FleetFolder) -> int:
    """A line for each scene, and fleet.json; returns 1 unless all are done as they are now."""
    done = 0
    outcomes: dict[str, Outcome] = {}
    for job in jobs:
        outcome = outcomes[job.name] = folder.outcome_or_why_not(job.name) or Outcome()
        if outcome.status == "done" and not _is_current(folder, job):
            print(f"{job.name}: has changed since it was trained")
            continue
        print(outcome.line(job.name, folder.log(job.name)))
        done += outcome.status == "done"
    folder.write_table(jobs, outcomes)
    print(f"{done} of {len(jobs)} scenes are done; table: {folder.table}")
    return 0 if done == len(jobs) else 1


def _is_current(folder: FleetFolder, job: Job) -> bool:
    try:
        return folder.is_done(job, job.digest())
    except OSError:
        return folder.is_kept(job)


def _sum(
    outcomes: dict[str, Outcome], before: Mapping[str, Outcome | None], folder: FleetFolder | None
) -> str:
    """The last line."""
    done = {name: outcome for name, outcome in outcomes.items() if outcome.status == "done"}
    words = [f"{len(done)} scene{'' if len(done) == 1 else 's'} done"]
    if already := sum(before[name] == outcome for name, outcome in done.items()):
        words[0] += f" ({already} before)"
    if failed := sum(outcome.status == "failed" for outcome in outcomes.values()):
        words.append(f"{failed} failed")
    if elsewhere := len(outcomes) - len(done) - failed:
        words.append(f"{elsewhere} being trained by another call")
    psnr = [outcome.psnr for outcome in done.values() if outcome.psnr is not None]
    if psnr:
        words.append(f"mean PSNR {sum(psnr) / len(psnr):.2f} dB")
    if folder is not None:
        words.append(f"table: {folder.table}")
    return "; ".join(words)


def _check(options: Options) -> None:
    """Refuses numbers with no meaning.

    Raises:
        UserError: names the option.
    """
    for name in ("jobs", "threads", "retries", "pause", "tasks"):
        value = getattr(options, name)
        if not 0 <= value < 1e6:
            raise UserError(f"--{name}: expected at least 0, got {value}: change it")
    if options.only is not None and options.only < 0:
        raise UserError(f"--only: expected a number from 0, got {options.only}: change it")
    if options.only is not None and options.tasks and options.only >= options.tasks:
        raise UserError(f"--only {options.only}: expected less than --tasks {options.tasks}: change one")
    if options.only is not None and options.launcher in ("ray", "torchrun"):
        raise UserError(f"--only: {options.launcher} shares the scenes out itself: leave one of them out")
    if options.sbatch and options.launcher != "slurm":
        raise UserError("--sbatch: it has no effect without --launcher slurm: add that, or leave it out")


if __name__ == "__main__":
    run_command(main)
