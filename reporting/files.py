"""The files of a run that one may want to open, and the commands that go on with it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote

from reporting.run import Run
from reporting.ticks import file_size

_FILES = (  # pattern, what it is
    ("point_cloud/iteration_*/point_cloud.ply", "the Gaussians; any viewer of the 3DGS family opens them"),
    ("video/ours_*/*.mp4", "a flight along new views"),
    ("checkpoints/iteration_*.pt", "everything that --resume needs"),
    ("teachers/teacher_*.ply", "a model that was trained first, to teach this one"),
    ("input.ply", "the points that training started from"),
    ("cameras.json", "the cameras, for viewers"),
    ("config.yaml", "every option"),
    ("results.json", "mean figures of the test views"),
    ("per_view.json", "figures of each test view"),
    ("summary.json", "time, memory, number of Gaussians"),
    ("export/*", "for sharing: a page that shows the scene, other programs' formats"),
    ("events.out.tfevents.*", "TensorBoard: curves and pictures"),
)
_PICTURES = (("test", "test views"), ("train", "training views"))
_MOST_OF_A_KIND = 6


@dataclass(frozen=True)
class File:
    """A file, or a folder of pictures, of the run."""

    path: str
    """Relative to the run's folder."""
    link: str
    size: str
    words: str


def files(run: Run) -> list[File]:
    """Returns the run's files that one may want to open, newest of a kind first."""
    found = []
    for pattern, words in _FILES:
        paths = sorted(run.folder.glob(pattern), key=lambda path: _digits(str(path)), reverse=True)
        for path in paths[:_MOST_OF_A_KIND]:
            if path.is_file():
                name = path.relative_to(run.folder).as_posix()
                found.append(File(name, quote(name), file_size(path.stat().st_size), words))
    for split, words in _PICTURES:
        for folder in sorted(run.folder.glob(f"{split}/ours_*"), key=lambda path: _digits(str(path)))[-1:]:
            count = sum(1 for _ in folder.glob("renders/*.png"))
            name = folder.relative_to(run.folder).as_posix()
            if count:
                found.append(
                    File(f"{name}/", quote(f"{name}/"), f"{count:,} views", f"pictures of the {words}")
                )
    return found


def commands(run: Run) -> list[tuple[str, str]]:
    """Returns what one may do next: words and the command."""
    folder = shlex.quote(str(run.folder.absolute()))
    length = max(run.iterations or 0, run.reached)
    found = [
        (
            "Pictures of all views, their figures, and a flight as a video",
            f"python render.py -m {folder} --video auto",
        ),
        ("Walk through it in the browser", f"scripts/view {folder}"),
        ("A page that shows it offline, and an .spz, to share", f"scripts/export {folder}"),
    ]
    if next(run.folder.glob("checkpoints/iteration_*.pt"), None) is not None:
        if run.iterations and run.reached < run.iterations:
            found.append(("Go on to the end", f"python train.py -m {folder} --resume"))
        else:
            more = f"python train.py -m {folder} --resume --iterations {2 * length}"
            found.append(("Train on, for twice as long", more))
    if run.events.scalars:
        found.append(("The curves, while a run goes on or beside others", f"tensorboard --logdir {folder}"))
    return found


def _digits(name: str) -> list[int]:
    return [int(digits[:12]) for digits in re.findall(r"\d+", name)]
