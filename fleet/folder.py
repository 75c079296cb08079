"""The output folder of a fleet: a run's folder and a log for each scene, and what became of each.

    OUTPUT/SCENE/            what train.py writes
    OUTPUT/logs/SCENE.log    what it said
    OUTPUT/logs/SCENE.json   what became of it: the truth that a later call goes by
    OUTPUT/fleet.json        all of these in one table, for people and programs

A file for each scene, because that is what many machines can write at once without talking to each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from atomic import file_digest, write_bytes
from engine import DISK_FULL, OutputFolder, latest_checkpoint, not_through_a_link
from errors import UserError
from fleet.scenes import Job

FORMAT = 1
ELSEWHERE = "another call is training it"
"""The error of a scene that has none."""
NOT_OURS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a JSON file of ours raises where somebody has changed it."""
_LOCK = ".fleet.lock"
Status = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a scene so far.

    Attributes:
        status: "running" is also what a call that was killed leaves behind.
        digest: of the scene and the options that it was trained with.
        attempts: processes that were started for it.
        seconds: all of them, of wall time.
        error: the last one's, in a line.
        exit_code: the last one's; negative for a signal.
        psnr: of held-out views, dB; None where there are none.
        ssim: theirs.
        gaussians: how many.
        peak_memory_gib: of the last process.
        replaces: what `FleetFolder.begun` said when this training was to begin: while it still says so, the
            folder holds what was there before, with another digest.
        said: `Job.said` of the training.
    """

    status: Status = "waiting"
    digest: str = ""
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    exit_code: int | None = None
    psnr: float | None = None
    ssim: float | None = None
    gaussians: int | None = None
    peak_memory_gib: float | None = None
    replaces: str = ""
    said: str = ""

    def line(self, name: str, log: Path) -> str:
        """For the user."""
        if self.status == "failed":
            times = f" after {self.attempts} attempts" if self.attempts > 1 else ""
            return f"{name}: failed{times}: {self.error} (log: {log})"
        if self.status != "done":
            return f"{name}: {self.error if self.error == ELSEWHERE else self.status}"
        words = []
        if self.psnr is not None and self.ssim is not None:
            words.append(f"{self.psnr:.2f} dB, SSIM {self.ssim:.4f}")
        if self.gaussians is not None:
            words.append(f"{self.gaussians:,} Gaussians")
        words.append(f"{self.seconds:.0f} s")
        if self.peak_memory_gib is not None:
            words.append(f"{self.peak_memory_gib:.2f} GiB")
        return f"{name}: {', '.join(words)}"


@dataclass(frozen=True)
class FleetFolder:
    """The places in it."""

    path: Path

    def run(self, name: str) -> OutputFolder:
        """The folder that train.py gets by -m."""
        return OutputFolder(self.path / name)

    def begun(self, name: str) -> str:
        """Tells one run in a scene's folder from the next, by what it has written; empty where there is none.

        Of the content, because a copy of the folder has other times. A run writes its configuration once it
        has removed the one before, whose configuration goes first, and before its first checkpoint.
        """
        run = self.run(name)
        return _mark(run, latest_checkpoint(run.checkpoints))

    def can_go_on(self, name: str, known: Outcome) -> bool:
        """Whether the scene's folder holds a checkpoint of the run that `known` tells of."""
        run = self.run(name)
        last = latest_checkpoint(run.checkpoints)
        return last is not None and _mark(run, last) not in ("", known.replaces)

    def log(self, name: str) -> Path:
        """What a scene's trainings said."""
        return self.path / "logs" / f"{name}.log"

    @property
    def table(self) -> Path:
        """All scenes' outcomes."""
        return self.path / "fleet.json"

    def make(self) -> None:
        """Makes it, where it is not there.

        Raises:
            UserError: it cannot be made.
        """
        try:
            (self.path / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise UserError(
                f"{self.path}: expected a folder to write to ({error.strerror}): choose another -o"
            ) from error

    def knows(self, scene: Path, name: str) -> bool:
        """Whether something is noted about the scene at this path."""
        try:
            return bool(json.loads(self._record(name).read_bytes())["scene"] == str(scene))
        except NOT_OURS:
            return False

    def outcome(self, name: str) -> Outcome | None:
        """What became of a scene; None where nothing has.

        Raises:
            UserError: the file is none of ours.
        """
        path = self._record(name)
        try:
            content = dict(json.loads(path.read_bytes()))
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            content.pop("scene")
            found = Outcome(**content)
            _check(found)
            return found
        except FileNotFoundError:
            return None
        except NOT_OURS as error:
            raise UserError(
                f"{path}: expected what became of a scene ({error}): move it away to train that anew"
            ) from error

    def outcome_or_why_not(self, name: str) -> Outcome | None:
        """As `outcome`; a file that is none of ours is a failure of its scene, and of no other."""
        try:
            return self.outcome(name)
        except UserError as error:
            return Outcome("failed", error=str(error), exit_code=error.exit_code)

    def write(self, job: Job, outcome: Outcome) -> None:
        """Notes what became of a scene.

        Raises:
            OSError: the disk is full or not writable.
        """
        write_bytes(self._record(job.name), _json({"format": FORMAT, **_entry(job, outcome)}))

    def write_table(self, jobs: Sequence[Job], outcomes: Mapping[str, Outcome | None]) -> None:
        """Writes fleet.json; a scene of which nothing is known is waiting."""
        entries = {job.name: _entry(job, outcomes.get(job.name) or Outcome()) for job in jobs}
        write_bytes(self.table, _json({"format": FORMAT, "scenes": entries}))

    def is_done(self, job: Job, digest: str) -> bool:
        """Whether a scene need not be trained: it was, as it is now, with these options."""
        outcome = self.outcome(job.name)
        run = self.run(job.name)
        return (
            outcome is not None
            and (outcome.status, outcome.digest) == ("done", digest)
            and next(run.path.glob("point_cloud/iteration_*/point_cloud.ply"), None) is not None
        )

    def is_kept(self, job: Job) -> bool:
        """Whether a scene that has gone was trained to its end with these options, and its model is there."""
        outcome = self.outcome_or_why_not(job.name)
        if job.scene.exists() or outcome is None or outcome.said != job.said:
            return False
        return self.is_done(job, outcome.digest)

    def measured(self, name: str, outcome: Outcome) -> Outcome:
        """The outcome with the figures that a finished run has written."""
        run = self.run(name).path
        with contextlib.suppress(*NOT_OURS):
            summary = json.loads((run / "summary.json").read_bytes())
            found = replace(
                outcome,
                gaussians=int(summary["gaussians"]),
                peak_memory_gib=float(summary["peak_memory_gib"]),
            )
            _check(found)
            outcome = found
            if summary["test_views"]:
                results = json.loads((run / "results.json").read_bytes())
                scores = results[f"ours_{summary['iterations']}"]
                found = replace(outcome, psnr=float(scores["PSNR"]), ssim=float(scores["SSIM"]))
                _check(found)
                outcome = found
        return outcome

    @contextlib.contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        """A block in which no other call works here; with `alone` unset, others that do not want it so may.

        Raises:
            UserError: another one does.
        """
        try:
            lock = open(self.path / _LOCK, "ab", opener=not_through_a_link)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise UserError(
                f"{self.path / _LOCK}: expected a file of this program that can be written "
                f"({error.strerror}): remove it, or choose another -o"
            ) from error
        with lock:
            try:
                import fcntl

                fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except ImportError:  # not a POSIX system: no lock
                pass
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another call is training there: wait for it, or choose another -o"
                ) from None
            except OSError:  # a network file system without locks; train.py looks after each run's folder
                pass
            yield

    def _record(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.json"


def _mark(run: OutputFolder, last: Path | None) -> str:
    """See `FleetFolder.begun`; `last` is the run's newest good checkpoint."""
    try:
        words = f"{file_digest(run.config)} {last and last.name} {last and file_digest(last)}"
    except OSError:
        return ""
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _entry(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {"scene": str(job.scene), **asdict(outcome)}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _check(outcome: Outcome) -> None:
    """Refuses values of other types than ours.

    Raises:
        ValueError: names one.
    """
    if outcome.status not in ("waiting", "running", "done", "failed"):
        raise ValueError(f"status {outcome.status!r}")
    for name in ("psnr", "ssim", "gaussians", "peak_memory_gib", "exit_code"):
        value = getattr(outcome, name)
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(f"{name} {value!r}")
    for name in ("digest", "error", "replaces", "said"):
        if not isinstance(getattr(outcome, name), str):
            raise ValueError(f"{name} is no text")
    if not (isinstance(outcome.attempts, int) and isinstance(outcome.seconds, (int, float))):
        raise ValueError("attempts or seconds is no number")
    if not math.isfinite(outcome.seconds):
        raise ValueError(f"seconds {outcome.seconds}")
