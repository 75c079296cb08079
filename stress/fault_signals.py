"""Ctrl-C and SIGTERM at random moments: the first saves and ends the training, the second ends it at once."""

from __future__ import annotations

import signal
from pathlib import Path

from stress.fault_bench import Bench
from stress.fault_runs import damage_done, misses, run

NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


def signals(bench: Bench) -> None:
    """All cases of signals."""
    twin = bench.twin()
    for number in NAMES:
        for _ in range(1 if bench.short else 6):
            signal_after(bench, number, bench.chance.uniform(0.05, twin.seconds))
        for numbers in bench.pick(list(twin.kinds().values()), 1):
            signal_at_a_file(bench, number, bench.chance.choice(numbers))
        for pause in (0.0,) if bench.short else (0.0, 0.005, 0.05):
            signal_twice(bench, number, pause)
    if not bench.short:
        for number in NAMES:
            signal_after(
                bench, number, bench.chance.uniform(0.3, 0.9) * bench.twin("teachers").seconds, "teachers"
            )


def _codes(number: int) -> tuple[int, ...]:
    """What shells call 128 + number; before python has its handlers the system ends the process itself."""
    return (128 + number, -number)


def signal_after(bench: Bench, number: int, after: float, kind: str = "plain") -> None:
    """A signal after so many seconds."""
    with bench.case("signals", f"{NAMES[number]} after {after:.1f} s of {kind}") as row:
        output = bench.folder("signal")
        ended = run(bench.options(output, kind), signals=[(after, number)])
        row.facts["code"] = ended.code
        row.lost += misses(ended, (*_codes(number), 0))  # 0: it was done already
        row.lost += damage_done(output)
        row.lost += bench.finished(output, kind)[1]


def signal_at_a_file(bench: Bench, number: int, at: int) -> None:
    """A signal at a work on a file."""
    event = bench.twin().moments[at - 1]
    with bench.case("signals", f"{NAMES[number]} at moment {at}: {event}") as row:
        output = bench.folder("signal")
        plan = {"fault": "signal", "number": int(number), "at": at, "under": str(output)}
        ended = run(bench.options(output), fault=plan)
        row.facts["code"] = ended.code
        row.lost += misses(ended, (*_codes(number), 0))
        row.lost += damage_done(output)
        row.lost += bench.finished(output)[1]


def signal_twice(bench: Bench, number: int, pause: float) -> None:
    """The second signal comes while the first is being honoured."""
    with bench.case("signals", f"{NAMES[number]} twice, {pause:g} s between", 2) as row:
        output = bench.folder("signal")

        def under_way() -> bool:
            return any(Path(output).glob("checkpoints/*.pt"))

        options = [*bench.options(output), "--iterations", "100000"]
        ended = run(options, when=under_way, signals=[(0.01, number), (pause, number)])
        row.facts["code"] = ended.code
        row.lost += misses(ended, 128 + number)
        row.lost += ["it ended twice"] if ended.stderr.count("\nstopped") > 1 else []
        row.lost += damage_done(output)
