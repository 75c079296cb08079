"""Photographs that change, are cut short or vanish: before a training, during it, before it goes on.

Images are read once, at the start: what happens to their files later changes nothing in a run that has begun.
A run that goes on reads them again, and says what is missing or has changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stress.fault_bench import Bench
from stress.fault_child import damage
from stress.fault_runs import damage_done, misses, run, unlike

HOWS = ("vanish", "truncate", "empty", "change")


def images(bench: Bench) -> None:
    """All cases of harmed photographs."""
    for how in bench.pick(HOWS, 1):
        harm_while_training(bench, how)
    for how in HOWS:
        harm_before_going_on(bench, how)
    for how in bench.pick(("vanish", "truncate", "empty"), 1):
        with bench.case("images", f"{how} before the start") as row:
            scene, victim = _copy(bench)
            damage(victim, how)
            output = bench.folder()
            row.lost += misses(run(bench.options(output, scene=scene)), 2, [victim.name])
            row.lost += ["an output folder was made"] if output.exists() else []
    if bench.short:
        return
    with bench.case("images", "all vanish before going on") as row:
        scene, victim = _copy(bench)
        output = _half(bench, scene)
        shutil.rmtree(victim.parent)
        row.lost += misses(run([*bench.options(output, scene=scene), "--resume"]), 2, ["error: "])
        row.lost += damage_done(output)
    with bench.case("images", "the model's images.bin is cut while training") as row:
        scene, _ = _copy(bench)
        row.lost += _hit_while_training(bench, scene, scene / "sparse/0/images.bin", "truncate")


def _copy(bench: Bench) -> tuple[Path, Path]:
    """A scene of its own, and one of its training photographs."""
    scene = bench.folder("scene")
    shutil.copytree(bench.scene, scene)
    return scene, sorted((scene / "images").iterdir())[3]


def _hit_while_training(bench: Bench, scene: Path, victim: Path, how: str) -> list[str]:
    output = bench.folder("images")
    plan = {"fault": "damage", "victim": str(victim), "how": how, "at": 1, "under": str(output)}
    ended = run(bench.options(output, scene=scene), fault={**plan, "match": "*/events.out*"})
    return misses(ended, 0) + unlike(output, bench.twin().output, bench.iterations)


def harm_while_training(bench: Bench, how: str) -> None:
    """A photograph is harmed once the training has begun: nothing changes."""
    with bench.case("images", f"{how} while training") as row:
        scene, victim = _copy(bench)
        row.lost += _hit_while_training(bench, scene, victim, how)


def _half(bench: Bench, scene: Path) -> Path:
    """A run that was killed half way."""
    output = bench.folder("images")
    plan = {"fault": "kill", "at": 3, "under": str(output), "match": "*/checkpoints/*"}
    run(bench.options(output, scene=scene), fault=plan)
    return output


def harm_before_going_on(bench: Bench, how: str) -> None:
    """A photograph is harmed between a kill and the run that goes on, which says so."""
    with bench.case("images", f"{how} before going on") as row:
        scene, victim = _copy(bench)
        output = _half(bench, scene)
        kept = victim.read_bytes()
        damage(victim, how)
        ended = run([*bench.options(output, scene=scene), "--resume"])
        row.lost += misses(
            ended, 0 if how == "change" else 2, [victim.stem if how == "change" else victim.name]
        )
        row.lost += damage_done(output)
        if how != "change":  # and with the photograph back in its place all is well
            victim.write_bytes(kept)
            row.lost += bench.finished(output, scene=scene)[1]
