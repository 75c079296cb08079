"""Faults brought upon the real trainer, and what is lost by them: nothing.

    scripts/stress faults                       # all of it, on a small synthetic scene
    scripts/stress faults --only kills --kills 200 --seed 7
    scripts/stress faults --scene scenes/garden --iterations 2000 --options="-r 8"

Trainings are killed, signalled, run out of disk and of memory, write where they must not, and lose their
photographs; each is then called again and has to end with the bits of one that was left alone.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from atomic import write_bytes
from errors import UserError
from scene.synthetic import write_synthetic_scene
from stress.fault_bench import KINDS, Bench
from stress.fault_disk import disk
from stress.fault_images import images
from stress.fault_kills import kill
from stress.fault_memory import memory
from stress.fault_paths import paths
from stress.fault_signals import signals

Group = Literal["kills", "disk", "memory", "signals", "paths", "images"]
GROUPS: tuple[Group, ...] = ("kills", "disk", "memory", "signals", "paths", "images")


@dataclass
class Options:
    """Brings faults upon trainings. Exit code 1 where anything was lost."""

    only: list[Group] = field(default_factory=lambda: list(GROUPS))
    """Which kinds of faults."""
    kills: int = 50
    """How often trainings of each kind are killed."""
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    """Kinds of trainings to kill: plain, teachers, mcmc."""
    iterations: int = 240
    """Length of a training."""
    seed: int = 0
    """Decides all random moments."""
    scene: Path | None = None
    """A real scene (default: a synthetic one of 10 views)."""
    options: str = ""
    """More options of train.py, after an equals sign: --options="-r 8"."""
    short: bool = False
    """A few cases of each kind only."""
    output: Path = Path("output/stress")
    """Folder of faults.json."""


def main(arguments: list[str]) -> int:
    """Brings the faults; returns 1 where anything was lost."""
    options = tyro.cli(Options, args=arguments, prog="scripts/stress faults", description=__doc__)
    unknown = [kind for kind in options.kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"--kinds {unknown[0]}: expected some of {', '.join(KINDS)}")
    if not options.only or not options.kinds:
        raise UserError(
            f"--only, --kinds: expected some of {', '.join(GROUPS)} and of {', '.join(KINDS)}: name one"
        )
    if options.iterations < 60 or options.kills < 0:
        raise UserError("--iterations, --kills: expected at least 60 and 0")
    if options.scene is not None and not options.scene.is_dir():
        raise UserError(f"--scene: {options.scene}: no such folder: check the path")
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        work = Path(folder)
        work.chmod(0o755)  # another user reads the scene
        scene = options.scene.resolve() if options.scene else work / "scene"
        if options.scene is None:
            write_synthetic_scene(scene, n_views=10, width=80, height=60, points=800)
        bench = Bench(
            scene,
            work,
            options.iterations,
            random.Random(options.seed),
            short=options.short,
            extra=shlex.split(options.options),
        )
        with tqdm(desc="faults", unit="case", disable=None) as bench.bar:
            for group in options.only:
                if group == "kills":
                    for kind in options.kinds:
                        kill(bench, kind, options.kills)
                else:
                    {"disk": disk, "memory": memory, "signals": signals, "paths": paths, "images": images}[
                        group
                    ](bench)
    lost = [f"{row.group}: {row.name}: {line}" for row in bench.rows for line in row.lost]
    skipped = sum(bool(row.skipped) for row in bench.rows)
    figures = {
        "faults": sum(row.times for row in bench.rows if not row.skipped),
        "cases": len(bench.rows),
        "skipped": skipped,
        "lost": lost,
        "seconds": round(time.perf_counter() - began),
        "seed": options.seed,
        "iterations": options.iterations,
        "root": os.name == "posix" and os.geteuid() == 0,
        "rows": [asdict(row) for row in bench.rows],
    }
    write_bytes(options.output / "faults.json", (json.dumps(figures, indent=2) + "\n").encode())
    words = f"lost: {len(lost)}" if lost else "nothing was lost"
    print(f"{figures['faults']} faults in {len(bench.rows)} cases ({skipped} skipped): {words}")
    print(f"figures: {options.output / 'faults.json'}")
    return 1 if lost else 0
