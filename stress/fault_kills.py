"""kill -9 at random moments of a training; it goes on each time, and ends with the bits of one left alone.

Half of the moments are times, anywhere between the start of python and the last line of the report; the other
half are works on files (see fault_child), so that the seams of writing are hit too. The seed decides both.
"""

from __future__ import annotations

from collections import Counter

from engine import latest_checkpoint
from stress.fault_bench import Bench
from stress.fault_runs import damage_done, going_on, run, unlike


def kill(bench: Bench, kind: str, kills: int) -> None:
    """Kills trainings of a kind so many times; one that ends between kills is compared, and another begun."""
    twin = bench.twin(kind)
    kinds = list(twin.kinds().values())  # events are written more often than all else
    with bench.case("kills", kind, kills) as row:
        done, rounds = 0, 0
        places: Counter[str] = Counter()
        while done < kills:
            output, killed = bench.folder(f"killed_{kind}"), 0
            while True:
                options = bench.options(output, kind)
                options += going_on(output) if output.exists() else []
                if done == kills:
                    ended = run(options)
                elif bench.chance.random() < 0.5:
                    at = bench.chance.choice(bench.chance.choice(kinds))
                    ended = run(options, fault={"fault": "kill", "at": at, "under": str(output)})
                else:
                    ended = run(options, kill_after=bench.chance.uniform(0.05, twin.seconds))
                if ended.code != -9:
                    break
                done, killed = done + 1, killed + 1
                last = latest_checkpoint(output / "checkpoints")
                places[last.stem if last else "before the first checkpoint"] += 1
                row.lost += damage_done(output)
                if bench.bar is not None:
                    bench.bar.set_postfix_str(f"{kind}: {done} of {kills} kills", refresh=True)
            rounds += 1
            if ended.code != 0:
                row.lost.append(f"after {killed} kills: exit code {ended.code}: {ended.stderr[-800:]}")
                break
            row.lost += [
                f"after {killed} kills: {line}" for line in unlike(output, twin.output, bench.iterations)
            ]
        row.times = done
        row.facts = {
            "runs": rounds,
            "killed_after": dict(sorted(places.items())),
            "moments": len(twin.moments),
        }
