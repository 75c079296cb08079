"""Output folders that cannot be written to or are something else, and names that parsers trip over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from stress.fault_bench import Bench
from stress.fault_mounts import read_only
from stress.fault_runs import misses, run, unlike

NAMES = (
    "mit Leerzeichen und Ümläuten",
    "写真 🌿",
    "-leading-dash",
    'quo\'te "and" [brackets] *',
    "new\nline",
)


def paths(bench: Bench) -> None:
    """All cases of strange paths."""
    for name in bench.pick(NAMES, 1):
        strange_name(bench, name)
    _read_only(bench)
    for name, make, words in OBSTACLES:
        with bench.case("paths", f"-m is {name}") as row:
            output = bench.folder("obstacle")
            row.lost += misses(run(bench.options(make(output))), 2, ["error: ", *words])
            left = [str(path) for path in output.rglob("*.pt")] if output.is_dir() else []
            row.lost += [f"written: {path}" for path in left]
    if bench.short:
        return
    with bench.case("paths", "-s is a symlink loop") as row:
        loop = _loop(bench.folder("loop"))
        row.lost += misses(run(bench.options(bench.folder(), scene=loop)), 2, ["error: "])
    with bench.case("paths", "images/ is a symlink loop") as row:
        scene = bench.folder("scene")
        scene.mkdir()
        (scene / "sparse").symlink_to(bench.scene / "sparse")
        _loop(scene / "images")
        row.lost += misses(run(bench.options(bench.folder(), scene=scene)), 2, ["error: "])
    with bench.case("paths", "-m is a link to a folder") as row:
        target, link = bench.folder("target"), bench.folder("link")
        target.mkdir()
        link.symlink_to(target)
        row.lost += misses(run(bench.options(link)), 0) or unlike(link, bench.twin().output, bench.iterations)


def strange_name(bench: Bench, name: str) -> None:
    """A scene and an output of this name, relative to the working directory, as users give them."""
    with bench.case("paths", f"a scene and an output called {name!r}") as row:
        place = bench.folder("names")
        place.mkdir()
        (place / f"{name} scene").symlink_to(bench.scene)
        source, output = f"./{name} scene", f"./{name}"
        options = [
            {str(bench.scene): source, "OUT": output}.get(str(word), word)
            for word in bench.options(Path("OUT"))
        ]
        row.lost += misses(run(options, cwd=place), 0)
        row.lost += unlike(place / name, bench.twin().output, bench.iterations)
        row.lost += misses(run(["train.py", "-m", output, "--resume"], cwd=place), 0)
        row.lost += misses(run(["render.py", "-m", output, "--skip_train", "--report"], cwd=place), 0)
        row.lost += misses(run(["-m", "exporting", output], cwd=place), 0)
        if name.startswith("-"):  # without ./ it has to be joined to its option
            joined = ["train.py", f"-m={name}", "--resume"]
            row.lost += misses(run(joined, cwd=place), (0, 2))


def _read_only(bench: Bench) -> None:
    whole = bench.twin().output
    place = bench.folder("read_only")
    place.mkdir()
    with (
        read_only(place) as there,
        bench.case("paths", "-m cannot be written to (a new folder in it)") as row,
    ):
        if not there:
            row.skipped = "no read-only file system can be had here, and root is stopped by no permission"
        else:
            row.lost += misses(run(bench.options(place / "run")), 2, ["error: ", "cannot write there"])
    with read_only(whole) as there, bench.case("paths", "a finished run that cannot be written to", 4) as row:
        if not there:
            row.skipped = "no read-only file system can be had here, and root is stopped by no permission"
            return
        again: list[str | Path] = [
            "train.py",
            "-m",
            whole,
            "--resume",
            "--iterations",
            str(bench.iterations + 10),
        ]
        commands: tuple[list[str | Path], ...] = (
            again,
            ["render.py", "-m", whole, "--skip_train"],
            ["render.py", "-m", whole, "--skip_train", "--skip_test", "--video", "auto", "--n_frames", "4"],
            ["-m", "exporting", whole],
        )
        for command in commands:
            row.lost += misses(run(command), 2, ["error: "])


def _file(path: Path) -> Path:
    path.write_text("a file\n")
    return path


def _below_a_file(path: Path) -> Path:
    return _file(path) / "run"


def _loop(path: Path) -> Path:
    other = path.with_name(f"{path.name}_other")
    path.symlink_to(other)
    other.symlink_to(path)
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere") / "at all")
    return path


def _part_is_a_file(path: Path) -> Path:
    path.mkdir()
    (path / "checkpoints").write_text("a file\n")
    return path


def _device(path: Path) -> Path:
    return Path(os.devnull)


OBSTACLES: tuple[tuple[str, Callable[[Path], Path], tuple[str, ...]], ...] = (
    ("a file", _file, ("got a file",)),
    ("below a file", _below_a_file, ()),
    ("a symlink loop", _loop, ()),
    ("a dangling link", _dangling, ()),
    ("a folder in which checkpoints is a file", _part_is_a_file, ("checkpoints",)),
    ("a device", _device, ()),
)
