"""The pictures that training has logged: how a view took shape, and what was known of the training views."""

from __future__ import annotations

from dataclasses import dataclass

from reporting import pictures
from reporting.events import Events, stems_of
from reporting.pictures import Embedded
from reporting.run import Run, spread

MOST_STAGES = 6
BUDGET = 6_000_000
"""Letters of the training views' pictures, within which each of them is shown; else some of them."""
_KINDS = (  # tag, caption, how it is shown
    ("train/{}/true", "Photograph", "photo"),
    ("train/{}/rendered", "Render", "photo"),
    ("prior/{}/depth", "Depth prior", "depth"),
    ("train/{}/depth", "Rendered depth", "depth"),
    ("prior/{}/confidence", "Prior's confidence", "grey"),
    ("confidence/{}/image", "Weight of pixels", "grey"),
)


@dataclass(frozen=True)
class Stage:
    """One view at one iteration."""

    iteration: int
    render: Embedded


@dataclass(frozen=True)
class TrainingView:
    """A training view and what was known of it before training."""

    stem: str
    pictures: tuple[tuple[str, Embedded | None], ...]
    """Captions, the same for all views, and pictures where there are any."""


def stages(run: Run) -> tuple[str, tuple[Stage, ...]]:
    """Returns a view's name, and its pictures from the first to the last evaluation; none of fewer than two.

    It is a test view where there is one, else a training view.
    """
    events = run.events
    for split in ("test", "train"):
        for stem in stems_of(events, f"{split}/", "/rendered"):
            tag = f"{split}/{stem}/rendered"
            steps = sorted(events.pictures[tag])
            chosen = [steps[i] for i in spread(len(steps), MOST_STAGES)]
            read = [(step, events.picture(tag, step)) for step in chosen]
            found = tuple(
                Stage(step, pictures.photo(picture, pictures.SMALL))
                for step, picture in read
                if picture is not None
            )
            if len(found) > 1:
                return stem if split == "test" else f"{stem}, a training view,", found
    return "", ()


def training_views(run: Run) -> tuple[tuple[TrainingView, ...], int]:
    """Returns the training views of which the events hold pictures, and how many more there are.

    All of them while they fit into `BUDGET`; of more, as many as fit, spread evenly.
    """
    events = run.events
    found = {stem for tag, _, _ in _KINDS for stem in stems_of(events, *tag.split("{}"))}
    stems = sorted(found)
    rows = []
    if stems:
        first = _row(events, stems[0])
        letters = sum(len(picture.data) for picture in first.values() if picture is not None)
        stems_shown = [stems[i] for i in spread(len(stems), max(1, BUDGET // max(letters, 1)))]
        rows = [(stem, _row(events, stem)) for stem in stems_shown]
        rows = [(stem, row) for stem, row in rows if any(row.values())]
    captions = [caption for _, caption, _ in _KINDS if any(row[caption] for _, row in rows)]
    views = tuple(TrainingView(stem, tuple((c, row[c]) for c in captions)) for stem, row in rows)
    return views, len(stems) - len(views)


def _row(events: Events, stem: str) -> dict[str, Embedded | None]:
    """A view's pictures by their captions."""
    return {caption: _shown(events, tag.format(stem), kind) for tag, caption, kind in _KINDS}


def _shown(events: Events, tag: str, kind: str) -> Embedded | None:
    """The newest picture of a tag; None if there is none or it is damaged."""
    steps = events.pictures.get(tag)
    picture = events.picture(tag, max(steps)) if steps else None
    if picture is None:
        return None
    if kind == "photo":
        return pictures.photo(picture, pictures.SMALL)
    if kind == "depth":
        return pictures.colour_map(pictures.depth_colours(picture), pictures.SMALL)
    return pictures.grey_map(picture, pictures.SMALL)
