"""Runs trainings side by side on one machine, again where that may help, and notes what became of each."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO

from engine import Stopped
from errors import UserError
from fleet.folder import ELSEWHERE, FleetFolder, Outcome
from fleet.processes import (
    cores,
    may_pass,
    reason,
    start,
    surroundings,
    threads_of,
    train_command,
    visible_gpus,
)
from fleet.scenes import Job

LOOK_EVERY_S = 0.05
"""How often the processes are looked after; a training takes minutes."""


@dataclass(frozen=True)
class Plan:
    """How trainings are run.

    Attributes:
        jobs: how many at a time.
        retries: further attempts after an end that may pass.
        pause: seconds before the first of these; twice as many before each next one.
        threads: of each; 0 = the machine's cores, shared out.
        first_slot: number of the first slot among all on this machine, which decides about its GPU.
    """

    jobs: int = 1
    retries: int = 2
    pause: float = 5.0
    threads: int = 0
    first_slot: int = 0


class Signals:
    """Counts Ctrl-C and SIGTERM while a block runs; in the main thread only."""

    def __init__(self) -> None:
        self.count = 0
        self.number: int = signal.SIGINT

    def leave(self) -> None:
        """Ends the call with the signal's exit code.

        Raises:
            Stopped: always.
        """
        raise Stopped(self.number)

    @contextlib.contextmanager
    def heard(self) -> Iterator[Signals]:
        """The block."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.count, self.number = self.count + 1, number
        if self.count == 1:
            print(
                "\nstopping: trainings save a checkpoint after their iteration (again to stop at once)",
                file=sys.stderr,
                flush=True,
            )


@dataclass
class _Waiting:
    job: Job
    failures: int = 0
    not_before: float = 0.0


@dataclass
class _Running:
    waiting: _Waiting
    outcome: Outcome
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    log_from: int
    began: float = field(default_factory=time.monotonic)


def run_jobs(
    jobs: Sequence[Job],
    folder: FleetFolder,
    plan: Plan,
    ended: Callable[[Job, Outcome], None] = lambda *_: None,
    signals: Signals | None = None,
) -> None:
    """Trains what is not done; returns when nothing is left to do, or nothing runs after a signal.

    Args:
        jobs: the scenes.
        folder: where everything goes.
        plan: how.
        ended: told of each scene that is done, was done before, or has failed for good.
        signals: Ctrl-C and SIGTERM, which are passed on to the trainings.

    Raises:
        OSError: an outcome could not be written; the trainings have been told to end.
    """
    signals = signals or Signals()
    queue = deque(_Waiting(job) for job in jobs)
    slots: list[_Running | None] = [None] * plan.jobs
    passed_on = 0
    gpus = visible_gpus()
    try:
        while (queue and not signals.count) or any(slots):
            if signals.count > passed_on:
                passed_on = signals.count
                for running in filter(None, slots):
                    _send(running.process, signal.SIGTERM if passed_on < 3 else signal.SIGKILL)
            for slot, one in enumerate(slots):
                if one is not None and one.process.poll() is not None:
                    slots[slot] = None
                    _take_end(one, folder, plan, queue, ended, stopping=bool(signals.count))
                if slots[slot] is None and not signals.count:
                    slots[slot] = _begin_next(queue, folder, plan, slot, gpus, ended)
            if any(slots) or (queue and not signals.count):
                time.sleep(LOOK_EVERY_S)
    finally:
        _end_all([one for one in slots if one is not None])


def _begin_next(
    queue: deque[_Waiting],
    folder: FleetFolder,
    plan: Plan,
    slot: int,
    gpus: Sequence[str],
    ended: Callable[[Job, Outcome], None],
) -> _Running | None:
    """Starts the first of the queue whose time has come; what is done or hopeless is told and passed over."""
    now = time.monotonic()
    while (ready := next((one for one in queue if one.not_before <= now), None)) is not None:
        queue.remove(ready)
        job = ready.job
        try:
            known = folder.outcome(job.name)
        except UserError as error:  # its record stays for the user to look at
            ended(job, Outcome("failed", error=str(error), exit_code=error.exit_code))
            continue
        try:
            digest = job.digest()
        except OSError as error:
            outcome = known or Outcome()  # where the scene comes back, its training goes on
            if not folder.is_kept(job):
                why = f"{error.filename}: {error.strerror}"
                outcome = replace(outcome, status="failed", error=why, exit_code=2)
                folder.write(job, outcome)
            ended(job, outcome)
            continue
        if known is not None and folder.is_done(job, digest):
            ended(job, known)
            continue
        run = folder.run(job.name)
        if run.is_in_use():
            ended(job, replace(known or Outcome(), status="running", error=ELSEWHERE))
            continue
        if known is None and run.holds_run():
            foreign = f"{run.path} holds a run of somebody else's: move it away, or choose another -o"
            ended(job, Outcome("failed", error=foreign, exit_code=2))
            continue
        same = known is not None and known.digest == digest
        going_on = known is not None and same and folder.can_go_on(job.name, known)
        outcome = known if known is not None and same else Outcome(digest=digest, said=job.said)
        if not going_on:
            outcome = replace(outcome, replaces=folder.begun(job.name))
        threads = plan.threads or threads_of(slot, plan.jobs, cores())
        words = ["-s", str(job.scene), "-m", str(run.path), "--threads", str(threads)]
        if going_on:
            words.append("--resume")  # with its own options
        else:
            words += [*job.options, *(["--overwrite"] if known is not None else [])]
        attempts = outcome.attempts + 1
        outcome = replace(outcome, status="running", attempts=attempts, error="", exit_code=None)
        folder.write(job, outcome)
        gpu = gpus[(plan.first_slot + slot) % len(gpus)] if len(gpus) > 1 else None
        return _start(ready, outcome, train_command(words), folder.log(job.name), surroundings(threads, gpu))
    return None


def _start(
    waiting: _Waiting, outcome: Outcome, command: Sequence[str], path: Path, environment: dict[str, str]
) -> _Running:
    log = open(path, "ab")
    try:
        log.write(f"== attempt {outcome.attempts}: {shlex.join(command)}\n".encode(errors="surrogateescape"))
        log.flush()
        log_from = log.tell()
        return _Running(waiting, outcome, start(command, log, environment), log, log_from)
    except BaseException:
        log.close()
        raise


def _take_end(
    one: _Running,
    folder: FleetFolder,
    plan: Plan,
    queue: deque[_Waiting],
    ended: Callable[[Job, Outcome], None],
    *,
    stopping: bool,
) -> None:
    """Notes how a training has ended; puts it at the end of the queue where another attempt may help."""
    one.log.close()
    job, code = one.waiting.job, one.process.returncode
    seconds = round(one.outcome.seconds + time.monotonic() - one.began, 1)
    outcome = replace(one.outcome, seconds=seconds, exit_code=code)
    if code == 0:
        outcome = folder.measured(job.name, replace(outcome, status="done"))
        folder.write(job, outcome)
        ended(job, outcome)
        return
    if code == 2 and folder.run(job.name).is_in_use():  # both have begun at the same moment
        ended(job, replace(outcome, status="running", error=ELSEWHERE))
        return
    outcome = replace(outcome, error=reason(folder.log(job.name), one.log_from, code))
    if stopping:  # neither done nor failed: the next call goes on
        folder.write(job, outcome)
        return
    if may_pass(code) and one.waiting.failures < plan.retries:
        folder.write(job, outcome)
        failures = one.waiting.failures + 1
        pause = plan.pause * 2 ** (failures - 1)
        queue.append(_Waiting(job, failures, time.monotonic() + pause))
        return
    outcome = replace(outcome, status="failed")
    folder.write(job, outcome)
    ended(job, outcome)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _end_all(left: Sequence[_Running]) -> None:
    """Ends trainings that an error has left: they save a checkpoint first."""
    for one in left:
        _send(one.process, signal.SIGTERM)
    for one in left:
        one.process.wait()
        one.log.close()
