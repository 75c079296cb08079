"""The scenes of a fleet: where they are, what they are called, and what tells that one has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs import expand_at_files
from errors import UserError
from photos.collect import VIDEOS, has_photos
from scene import MADE, files_below, is_scene, title_of

RESERVED = frozenset(("logs", "slurm", "fleet.json"))
"""Names in the output folder that are no scene's."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of its folder and its log.
        scene: what train.py gets by -s.
        options: of train.py besides.
        said: stands for the options and for what the preset among them says.
        output: the fleet's folder, which may lie in the scene and is none of it.
    """

    name: str
    scene: Path
    options: tuple[str, ...] = ()
    said: str = ""
    output: Path | None = None

    def digest(self) -> str:
        """Changes where the options, the preset or the scene's files do.

        Raises:
            OSError: the scene has gone.
        """
        # not its path: a folder of scenes may move
        words = f"{self.said}\n{fingerprint(self.scene, self.output)}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def find_jobs(
    given: Sequence[str],
    options: Sequence[str] = (),
    said: str = "",
    output: Path | None = None,
    *,
    gone: Callable[[Path, str], bool] = lambda scene, name: False,
) -> list[Job]:
    """A job for each scene.

    Args:
        given: scenes, folders of scenes, videos, or @FILE with one of these a line (# begins a remark).
        options: of train.py, for all.
        said: see `Job`.
        output: likewise.
        gone: whether the scene of this path and name may have gone, and gets a job all the same.

    Raises:
        UserError: there is none, something is no scene, two would have one name, or one would be trained
            into its own folder.
    """
    scenes = [scene for one in expand_at_files(given, paths=True) for scene in _scenes_at(one, gone)]
    jobs: dict[str, Job] = {}
    for scene in scenes:
        name = _name(scene)
        if name in RESERVED or name.startswith("."):
            raise UserError(f"{scene}: a scene cannot be called {name} here: rename its folder")
        if name in jobs and jobs[name].scene != scene:
            raise UserError(
                f"{jobs[name].scene} and {scene}: expected scenes of different names: rename one, or train "
                "them in two calls with two output folders"
            )
        if output is not None and scene.resolve() in (output.resolve(), (output / name).resolve()):
            raise UserError(
                f"{output}: expected an output folder that is neither {scene} nor the folder that this scene "
                "is in: choose another -o"
            )
        jobs[name] = Job(name, scene, tuple(options), said, output)
    if not jobs:
        raise UserError("expected a scene, or a folder of scenes: name one")
    return list(jobs.values())


def share(jobs: Sequence[Job], index: int, tasks: int) -> list[Job]:
    """Those that task `index` of so many trains: every `tasks`-th from its own number on."""
    return list(jobs[index::tasks])


def fingerprint(scene: Path, output: Path | None = None) -> str:
    """Of the names, sizes and times of all files of a scene; but for what training keeps, also in `output`.

    Times, because reading the photographs of thousands of scenes would take longer than many a training.

    Raises:
        OSError: the scene has gone.
    """
    found = scene.stat()
    if scene.is_file():
        return f"{found.st_size} {found.st_mtime_ns}"
    digest = hashlib.sha256()
    ours = {f"{MADE}/"}
    if output is not None:
        ours |= {
            f"{os.path.relpath(output, scene)}/",
            f"{os.path.relpath(output.resolve(), scene.resolve())}/",
        }
    for place, path in files_below(scene):
        if place.startswith((".", *ours)) or "/." in place:
            continue
        found = path.stat() if path.exists() else path.lstat()  # of what a link leads to, if to anything
        line = f"{place}\0{found.st_size}\0{found.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _name(scene: Path) -> str:
    """What a scene's folder in the output is called."""
    is_video = scene.is_file() or (not scene.exists() and scene.suffix.lower() in VIDEOS)
    return scene.stem if is_video else title_of(scene)


def _scenes_at(given: str, gone: Callable[[Path, str], bool]) -> list[Path]:
    """The scene at a path, or those in the folder there."""
    path = Path(given).expanduser().absolute()
    if _is_one(path) or (not path.exists() and gone(path, _name(path))):
        return [path]
    if not path.is_dir():
        raise UserError(f"{given}: no such folder: name scenes or folders of scenes")
    found = [one for one in sorted(path.iterdir()) if not one.name.startswith(".") and _is_one(one)]
    if not found:
        raise UserError(
            f"{given}: expected a scene (images, sparse/0), photographs, or a folder of such, got neither: "
            "name another folder"
        )
    return found


def _is_one(path: Path) -> bool:
    """Whether train.py could take it by -s."""
    if path.is_file():
        return path.suffix.lower() in VIDEOS
    return path.is_dir() and (is_scene(path) or has_photos(path))
