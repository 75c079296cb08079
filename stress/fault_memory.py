"""Memory runs out: in the middle of a training that grows and grows, and before one has begun.

The address space is limited (RLIMIT_AS): allocations fail, as they do where a system does not overcommit or
`ulimit -v` is set. A cgroup's limit, and Linux' own when all memory is used, end a process by SIGKILL, which
leaves it no word: that is what fault_kills does.
"""

from __future__ import annotations

from engine import latest_checkpoint
from stress.fault_bench import Bench
from stress.fault_runs import damage_done, misses, run, unlike

OUT_OF_MEMORY = 3
GROWING = (
    *("--densify.grad_threshold", "1e-7", "--densify.max_gaussians", "0", "--densify.start", "20"),
    *("--densify.every", "10", "--pyramid.factor", "1"),
)


def memory(bench: Bench) -> None:
    """All cases of too little memory."""
    for mib in bench.pick((8, 24, 64, 160), 2):
        with bench.case("memory", f"{mib} MiB more than at the start of a training that grows") as row:
            output = bench.folder("memory")
            options = [*bench.options(output), *GROWING, "--iterations", str(max(600, bench.iterations))]
            plan = {"fault": "memory", "mib": mib, "at": 1, "under": str(output), "match": "*/events.out*"}
            ended = run(options, fault=plan)
            row.lost += misses(
                ended, OUT_OF_MEMORY, ["out of memory with", "Gaussians at", "--densify.max_gaussians"]
            )
            row.lost += damage_done(output)
            row.facts["said"] = [line for line in ended.stderr.splitlines() if "out of memory" in line]
            last = latest_checkpoint(output / "checkpoints")
            if last is not None:  # two more iterations, with the memory that there was before
                length = int(last.stem.rpartition("_")[2]) + 2
                row.lost += misses(
                    run(["train.py", "-m", output, "--resume", "--iterations", str(length)]), 0
                )
    with bench.case("memory", "enough of it, though little") as row:
        output = bench.folder("memory")
        plan = {"fault": "memory", "mib": 512, "at": 1, "under": str(output), "match": "*/events.out*"}
        row.lost += misses(run(bench.options(output), fault=plan), 0)
        row.lost += unlike(output, bench.twin().output, bench.iterations)
    for mib in bench.pick((150, 400, 800, 1200, 1600, 2000, 2400, 2800), 1):
        with bench.case("memory", f"{mib} MiB from the first moment on") as row:
            output = bench.folder("memory")
            ended = run(bench.options(output), address_space_mib=mib, patience=60 + 5 * bench.twin().seconds)
            row.facts |= {"code": ended.code}
            if ended.code is None and not output.exists():  # nothing of ours runs while libraries load
                row.skipped = (
                    "OpenBLAS waits forever for its buffers at just this size; a warning has said so"
                )
                row.lost += [] if "warning: ulimit -v" in ended.stderr else ["no warning of the limit"]
                continue
            row.lost += misses(ended, (0, OUT_OF_MEMORY))
            row.lost += damage_done(output)
