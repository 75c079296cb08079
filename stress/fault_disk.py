"""The disk is full, from some moment on: just before a file of each kind is opened, and half way through it.

On a small file system in memory where one may be mounted, which is filled to its last byte at the moment;
and everywhere by a limit on the size of files, which makes the same calls fail. Then there is space again,
and the training goes on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stress.fault_bench import Bench
from stress.fault_mounts import small_disk
from stress.fault_runs import damage_done, misses, run

FULL = 4
MIB = 48
"""Of the small file system: three times what a training here writes."""


def disk(bench: Bench) -> None:
    """All cases of a full disk."""
    kinds = {kind: numbers for kind, numbers in bench.twin().kinds().items() if kind[:3] != "os."}
    for kind, numbers in bench.pick(sorted(kinds.items()), 2):
        for at in sorted({numbers[0], numbers[-1]} if not bench.short else {numbers[-1]}):
            fill_while_training(bench, kind, at, mounted=True)
            if not bench.short:
                fill_while_training(bench, kind, at, mounted=False)
    for name, arguments in (
        ("export", ("-m", "exporting", "RUN", "--to", "html", "spz", "splat", "ply", "compressed_ply")),
        ("pictures", ("render.py", "-m", "RUN", "--skip_train")),
        (
            "video",
            ("render.py", "-m", "RUN", "--skip_train", "--skip_test", "--video", "auto", "--n_frames", "8"),
        ),
        ("report", ("render.py", "-m", "RUN", "--skip_train", "--report")),
    ):
        fill_afterwards(bench, name, arguments)


def _fault(mounted: bool, at: int, output: Path, ballast: Path) -> dict[str, object]:
    if mounted:
        return {"fault": "fill", "at": at, "under": str(output), "ballast": str(ballast)}
    return {"fault": "small_files", "at": at, "under": str(output)}


def fill_while_training(bench: Bench, kind: str, at: int, mounted: bool) -> None:
    """From a moment on there is no space; then there is again.

    Args:
        bench: where.
        kind: of the moment, in words.
        at: its number.
        mounted: fill a small file system (True) or limit the size of files.
    """
    place = bench.folder("disk")
    with small_disk(place, MIB) as there:
        if mounted and not there:
            with bench.case("disk", f"full before {kind}") as row:
                row.skipped = "no file system can be mounted here (needs root on Linux)"
            return
        how = "full" if mounted else "files limited"
        with bench.case("disk", f"{how} from moment {at} on: {kind}") as row:
            output, ballast = place / "run", place / "ballast"
            ended = run(bench.options(output), fault=_fault(mounted, at, output, ballast))
            row.lost += misses(ended, FULL, ["the disk is full", "free some space"])
            row.lost += damage_done(output)
            ballast.unlink(missing_ok=True)
            row.lost += bench.finished(output)[1]


def fill_afterwards(bench: Bench, name: str, arguments: tuple[str, ...]) -> None:
    """A command that reads a finished run and writes into its folder."""
    place, log = bench.folder("disk"), bench.folder("moments")
    with small_disk(place, MIB) as mounted:
        output, ballast = place / "run", place / "ballast"
        shutil.copytree(bench.twin().output, output)
        before = _content(output)
        command = [str(output) if word == "RUN" else word for word in arguments]
        log.touch()
        whole = run(command, fault={"fault": "none", "under": str(output), "log": str(log)})
        with bench.case("disk", f"{name} with space") as row:
            row.lost += misses(whole, 0)
        written = [i for i, line in enumerate(log.read_text().splitlines(), 1) if line.startswith("open ")]
        for at in sorted({written[0], written[-1]} if written else ()):
            shutil.rmtree(output)
            shutil.copytree(bench.twin().output, output)
            with bench.case("disk", f"{name}, full from moment {at} on") as row:
                ended = run(command, fault=_fault(mounted, at, output, ballast))
                row.lost += misses(ended, FULL, ["the disk is full"])
                row.lost += [f"{path} has changed" for path in _changed(before, _content(output))]
                row.lost += damage_done(output)
                left = [p.name for p in output.rglob(".*") if p.name != ".run.lock"]
                row.lost += [f"left behind: {leftover}" for leftover in left]
                ballast.unlink(missing_ok=True)
                row.lost += misses(run(command), 0)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Files that are not what they were; those that the command itself replaces may be."""
    replaced = ("results.json", "per_view.json", "report.html", ".run.lock")
    return [name for name, content in before.items() if name not in replaced and after.get(name) != content]
