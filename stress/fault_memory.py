"""Memory runs out: in the middle of a training that grows and grows, and before one has begun.

The address space is limited (RLIMIT_AS): allocations fail, as they do where a system does not overcommit or
`ulimit -v` is set. Or the process runs in a control group, whose limit it heeds by itself. Linux' own end of
a process when all memory is used is SIGKILL, which leaves it no word: that is what fault_kills does.
"""

from __future__ import annotations

from pathlib import Path

from engine import latest_checkpoint
from stress.fault_bench import Bench, Row
from stress.fault_groups import limited_group
from stress.fault_runs import Ended, damage_done, misses, run, unlike

OUT_OF_MEMORY = 3
GROWING = (
    *("--densify.grad_threshold", "1e-7", "--densify.max_gaussians", "0", "--densify.start", "20"),
    *("--densify.every", "10", "--pyramid.factor", "1"),
)
SAID = ("out of memory with", "Gaussians at", "--densify.max_gaussians")


def in_group(bench: Bench, group: Path | None, row: Row) -> None:
    """A training that grows until a control group has no more for it."""
    if group is None:
        row.skipped = "no control group with a limit can be made here (that takes root)"
        return
    output = bench.folder("memory")
    # So many that any of these limits is met: the model alone takes 1.4 KB a Gaussian.
    ended = run([*bench.options(output), *GROWING, "--iterations", "20000"], group=group)
    if not _goes_on(ended, output, row):
        row.lost.append("no checkpoint is left")


def _goes_on(ended: Ended, output: Path, row: Row) -> bool:
    """Judges the end of a training that grew, and goes on for two iterations; False without a checkpoint."""
    row.lost += misses(ended, OUT_OF_MEMORY, SAID)
    row.lost += damage_done(output)
    row.facts["said"] = [line for line in ended.stderr.splitlines() if "out of memory" in line]
    last = latest_checkpoint(output / "checkpoints")
    if last is None:
        return False
    length = int(last.stem.rpartition("_")[2]) + 2
    row.lost += misses(run(["train.py", "-m", output, "--resume", "--iterations", str(length)]), 0)
    return True


def memory(bench: Bench) -> None:
    """All cases of too little memory."""
    for mib in bench.pick((600, 700, 900, 1200), 1):
        with (
            limited_group(mib) as group,
            bench.case("memory", f"a control group of {mib} MiB, and a training that grows") as row,
        ):
            in_group(bench, group, row)
    for mib in bench.pick((8, 24, 64, 160), 2):
        with bench.case("memory", f"{mib} MiB more than at the start of a training that grows") as row:
            output = bench.folder("memory")
            options = [*bench.options(output), *GROWING, "--iterations", str(max(600, bench.iterations))]
            plan = {"fault": "memory", "mib": mib, "at": 1, "under": str(output), "match": "*/events.out*"}
            ended = run(options, fault=plan)
            _goes_on(ended, output, row)  # with the memory that there was before
    with bench.case("memory", "enough of it, though little") as row:
        output = bench.folder("memory")
        plan = {"fault": "memory", "mib": 512, "at": 1, "under": str(output), "match": "*/events.out*"}
        row.lost += misses(run(bench.options(output), fault=plan), 0)
        row.lost += unlike(output, bench.twin().output, bench.iterations)
    for mib in bench.pick((150, 400, 800, 1200, 1600, 2000, 2400, 2800, 3200, 3400, 3600), 1):
        with bench.case("memory", f"{mib} MiB from the first moment on") as row:
            output = bench.folder("memory")
            ended = run(bench.options(output), address_space_mib=mib, patience=200 + 5 * bench.twin().seconds)
            row.facts |= {"code": ended.code}
            row.lost += misses(ended, (0, OUT_OF_MEMORY))
            row.lost += damage_done(output)
