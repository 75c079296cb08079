"""What all kinds of faults share: a scene, trainings with their uninterrupted twins, and a record."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from errors import UserError
from stress.fault_runs import Ended, going_on, run, unlike

KINDS: dict[str, tuple[str, ...]] = {
    "plain": ("--config", "quick"),
    "teachers": (
        *("--config", "quick", "--pseudo.taught", "1", "--pseudo.teachers", "2", "--pseudo.count", "4"),
        *("--pseudo.teacher_iterations", "40"),
    ),
    "mcmc": ("--config", "mcmc", "--densify.mcmc.cap_max", "1500", "--optim.sh_degree_interval", "40"),
}


@dataclass
class Row:
    """One case: what was done to how many runs, and what was wrong afterwards (nothing, one hopes)."""

    group: str
    name: str
    times: int
    lost: list[str]
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""


@dataclass(frozen=True)
class Twin:
    """An uninterrupted run."""

    output: Path
    seconds: float
    moments: tuple[str, ...]
    """What it did with files, in order; see `fault_child`."""

    def kinds(self) -> dict[str, list[int]]:
        """Numbers of the moments (from 1) by kind: digits and what is random in names left out."""
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self.moments, 1):
            event, _, path = line.partition(" ")
            path = re.sub(r"\d+", "N", re.sub(r"events\.out\..*", "events", path))
            found.setdefault(path if event == "open" else f"{event} {path}", []).append(number)
        return found


@dataclass
class Bench:
    """A place to do harm in.

    Attributes:
        scene: what is trained on.
        work: an empty folder of its own.
        iterations: of each training.
        chance: decides all moments.
        short: only a few cases of each kind.
    """

    scene: Path
    work: Path
    iterations: int
    chance: random.Random
    short: bool = False
    extra: Sequence[str] = ()
    rows: list[Row] = field(default_factory=list)
    bar: Any = None
    _twins: dict[str, Twin] = field(default_factory=dict)
    _count: int = 0

    def folder(self, name: str = "run") -> Path:
        """A path that nothing is at yet."""
        self._count += 1
        return self.work / f"{name}_{self._count}"

    def options(self, output: Path, kind: str = "plain", scene: Path | None = None) -> list[str | Path]:
        """The command line of a training."""
        every = max(1, self.iterations // 6)
        return [
            "train.py",
            "-s",
            scene or self.scene,
            "-m",
            output,
            *KINDS[kind],
            *("--eval", "--init", "sfm", "--iterations", str(self.iterations), "--threads", "1"),
            *("--checkpoint_every", str(every), "--save_iterations", str(self.iterations // 2)),
            *("--log_level", "info", *self.extra),
        ]

    def twin(self, kind: str = "plain") -> Twin:
        """The uninterrupted run of a kind, trained once.

        Raises:
            UserError: it does not train.
        """
        if kind not in self._twins:
            output, log = self.folder(f"whole_{kind}"), self.folder(f"moments_{kind}")
            log.touch()
            plan = {"fault": "none", "under": str(output), "log": str(log)}
            ended = run(self.options(output, kind), fault=plan)
            if ended.code != 0:
                raise UserError(f"the {kind} training fails without a fault:\n{ended.stderr[-2000:]}")
            self._twins[kind] = Twin(output, ended.seconds, tuple(log.read_text().splitlines()))
        return self._twins[kind]

    def finished(
        self, output: Path, kind: str = "plain", scene: Path | None = None
    ) -> tuple[Ended, list[str]]:
        """Goes on with a run after a fault: how that ended, and what it has other than its twin."""
        ended = run([*self.options(output, kind, scene), *going_on(output)])
        if ended.code != 0:
            said = " | ".join(ended.stderr.strip().splitlines()[-4:])
            return ended, [f"going on ends with exit code {ended.code}: {said}"]
        return ended, unlike(output, self.twin(kind).output, self.iterations)

    @contextmanager
    def case(self, group: str, name: str, times: int = 1) -> Iterator[Row]:
        """A block that fills in a row, which is printed when it ends."""
        row, began = Row(group, name, times, [], 0.0), time.perf_counter()
        try:
            yield row
        finally:
            row.seconds = round(time.perf_counter() - began, 1)
        self.rows.append(row)
        state = "skipped" if row.skipped else "LOST" if row.lost else "ok"
        why = f": {row.skipped}" if row.skipped else ""
        tqdm.write(f"{state:8}{group:9}{name}  ({row.times}x, {row.seconds:.0f} s){why}")
        for line in row.lost:
            tqdm.write(f"        {line}")
        if self.bar is not None:
            self.bar.update()

    def pick(self, items: Sequence[Any], few: int) -> list[Any]:
        """All of them, or where it has to be short the first `few` of a random order."""
        return list(items) if not self.short else self.chance.sample(list(items), min(few, len(items)))
