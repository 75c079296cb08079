"""The pictures of a run's test views, with their errors and depth.

They come from `test/ours_N` where render.py has been, else from the events, which hold the first few views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reporting import pictures
from reporting.events import Events, stems_of
from reporting.pictures import Embedded, Picture
from reporting.run import Figures, Run, read_per_view, spread

MOST_VIEWS = 12
"""Test views that are shown: the worst, the best, and others spread evenly."""
BUDGET = 6_000_000
"""Letters of the test views' pictures, after which no further view is shown."""
_ERROR_LETTERS = 2  # an error's picture takes up to so many times the render's: noise, in every colour
_ENDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the scale of errors
_WITHIN = 0.99  # share of the pixels whose error lies within the scale


@dataclass(frozen=True)
class TestView:
    """A test view beside its photograph."""

    stem: str
    figures: dict[str, float]
    """Metric -> value; PSNR, SSIM and LPIPS where they are known."""
    mark: str
    """"best", "worst" or empty."""
    truth: Embedded | None
    render: Embedded
    error: Embedded | None
    depth: Embedded | None


@dataclass(frozen=True)
class TestViews:
    """What is shown of the test views.

    Attributes:
        iteration: of the model that rendered them.
        shown: in the order of their names.
        source: where the pictures are from, and which there are, in sentences.
        error_end: the error at the end of the scale, as a share of the full range.
        notes: what is odd about them, in sentences.
        table: figures of all views, by name.
    """

    iteration: int
    shown: tuple[TestView, ...]
    source: str
    error_end: float
    notes: tuple[str, ...]
    table: Figures


@dataclass
class _Source:
    """Where pictures of views come from: `read(stem, kind)`, kinds "render", "truth", "depth"."""

    iteration: int
    stems: list[str]
    read: Callable[[str, str], Picture | None]
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class _Loaded:
    """A view's pictures, of which the error has no colours yet: their scale is that of all views."""

    stem: str
    truth: Embedded | None
    render: Embedded
    error: NDArray[np.float32] | None
    depth: Embedded | None
    psnr: float | None
    """Measured on the pictures as they are."""


def test_views(run: Run) -> TestViews | None:
    """Returns the test views of the newest iteration with pictures; None if there are no pictures."""
    source = _newest([*_folders(run), *_logged(run.events)])
    if source is None:
        return None
    notes = source.notes
    figures = run.per_view.get(source.iteration, {})
    order = _most_telling(source.stems, figures)
    loaded: list[_Loaded] = []
    damaged = letters = 0
    for stem in order:
        if len(loaded) == MOST_VIEWS or (loaded and letters > BUDGET):
            break
        view = _load(source, stem)
        if view is None:
            damaged += 1
            continue
        loaded.append(view)
        letters += _letters(view)
    if not loaded:
        return None
    if damaged:
        notes.append(f"{damaged} picture{'s are' if damaged > 1 else ' is'} damaged and left out.")
    figures = _figures(run, source, loaded, figures)
    end = _scale_end(view.error for view in loaded)
    marks = _marks(figures)
    shown = tuple(
        _embed(view, figures.get(view.stem, {}), marks.get(view.stem, ""), end)
        for view in sorted(loaded, key=lambda view: view.stem)
    )
    words = _which(source, [view.stem for view in shown], figures)
    return TestViews(source.iteration, shown, words, end, tuple(notes), figures)


def _which(source: _Source, shown: Sequence[str], figures: Figures) -> str:
    """Where the pictures are from and which there are, in sentences."""
    if source.folder is not None:
        words = f"From test/{source.folder.name}, as render.py wrote them."
    else:
        words = "From the TensorBoard events, which hold the first few views."
    count = len({*source.stems, *figures})
    if len(source.stems) > len(shown) and source.folder is not None:
        words += (
            f" Shown are {len(shown):,} of {count:,}: the worst, the best, and others spread evenly; "
            f"{count - len(shown):,} are left out."
        )
    elif count > len(shown):
        words += f" Shown are {len(shown):,} of {count:,}; render.py makes pictures of all."
    worst = next((stem for stem, mark in _marks(figures).items() if mark == "worst"), "")
    if worst and worst not in shown:
        words += f" The worst is not among them: {worst}, {figures[worst]['PSNR']:.2f} dB."
    return words


def _folders(run: Run) -> list[_Source]:
    """What render.py has written, a source for each iteration."""
    found = []
    for folder in sorted(run.folder.glob("test/ours_*")):
        digits = folder.name.removeprefix("ours_")
        stems = sorted(path.stem for path in folder.glob("renders/*.png"))
        if digits.isdecimal() and len(digits) < 13 and stems:
            kinds = {"render": "renders", "truth": "gt", "depth": "depth"}

            def read(
                stem: str, kind: str, folder: Path = folder, kinds: dict[str, str] = kinds
            ) -> Picture | None:
                return pictures.read_picture(folder / kinds[kind] / f"{stem}.png")

            found.append(_Source(int(digits), stems, read, folder))
    return found


def _logged(events: Events) -> list[_Source]:
    """What training has logged at its newest evaluation."""
    stems = stems_of(events, "test/", "/rendered")
    steps = [max(events.pictures[f"test/{stem}/rendered"]) for stem in stems]
    if not steps:
        return []
    newest = max(steps)
    kinds = {"render": "rendered", "truth": "true", "depth": "depth"}

    def read(stem: str, kind: str) -> Picture | None:
        picture = events.picture(f"test/{stem}/{kinds[kind]}", newest)
        return pictures.depth_colours(picture) if kind == "depth" and picture is not None else picture

    return [_Source(newest, [s for s, step in zip(stems, steps, strict=True) if step == newest], read)]


def _newest(sources: Sequence[_Source]) -> _Source | None:
    """The newest iteration's; of two, the folder, which holds all views."""
    return max(sources, key=lambda source: (source.iteration, source.folder is not None), default=None)


def _most_telling(stems: Sequence[str], figures: Figures) -> list[str]:
    """All stems, first those to show: the worst, the best, then evenly spread ones."""
    ranked = sorted((s for s in stems if "PSNR" in figures.get(s, {})), key=lambda s: figures[s]["PSNR"])
    even = [stems[i] for i in spread(len(stems), MOST_VIEWS)]
    return list(dict.fromkeys([*ranked[:1], *ranked[-1:], *even, *stems]))


def _load(source: _Source, stem: str) -> _Loaded | None:
    """Reads a view's pictures; None if its render is damaged."""
    render, truth = source.read(stem, "render"), source.read(stem, "truth")
    depth = source.read(stem, "depth")
    if render is None:
        return None
    measured, error = None, None
    if truth is not None and truth.shape == render.shape:
        measured, error = pictures.psnr(render, truth), pictures.error(render, truth)
    return _Loaded(
        stem,
        None if truth is None else pictures.photo(truth),
        pictures.photo(render),
        error,
        None if depth is None else pictures.colour_map(depth),
        measured,
    )


def _letters(view: _Loaded) -> int:
    """What a view's pictures will take in the page; of its error, which has no colours yet, roughly."""
    embedded = sum(len(shot.data) for shot in (view.truth, view.render, view.depth) if shot)
    return embedded + (0 if view.error is None else _ERROR_LETTERS * len(view.render.data))


def _figures(run: Run, source: _Source, loaded: Sequence[_Loaded], own: Figures) -> Figures:
    """The figures of the pictures that are shown.

    render.py keeps figures of renderings with other settings (-r, -w, --ply) beside their pictures. Both sets
    may be there; those that fit the pictures better, by PSNR, are theirs.
    """
    measured = {view.stem: view.psnr for view in loaded if view.psnr is not None}
    other: Figures = {}
    if source.folder is not None:
        other = read_per_view(source.folder / "per_view.json", []).get(source.iteration, {})
    if _misfit(other, measured) < _misfit(own, measured):
        source.notes.append(
            "The pictures of test views were rendered with other settings than the run's own (such as "
            "render.py -r, -w or --ply); the figures beside them are of these pictures."
        )
        own = other
    missing = {stem: value for stem, value in measured.items() if "PSNR" not in own.get(stem, {})}
    if missing:
        source.notes.append("PSNR of views without recorded figures was measured on these pictures.")
        own = {**own, **{stem: {**own.get(stem, {}), "PSNR": value} for stem, value in missing.items()}}
    return own


def _misfit(figures: Figures, measured: dict[str, float]) -> float:
    """Mean difference in dB of recorded and measured PSNR; infinite where nothing can be compared."""
    pairs = [(figures[s]["PSNR"], v) for s, v in measured.items() if "PSNR" in figures.get(s, {})]
    return sum(abs(a - b) for a, b in pairs) / len(pairs) if pairs else float("inf")


def _marks(figures: Figures) -> dict[str, str]:
    """Which view is best and which worst, if there are two that differ."""
    ranked = sorted((s for s in figures if "PSNR" in figures[s]), key=lambda s: figures[s]["PSNR"])
    if len(ranked) < 2 or figures[ranked[0]]["PSNR"] == figures[ranked[-1]]["PSNR"]:
        return {}
    return {ranked[0]: "worst", ranked[-1]: "best"}


def _scale_end(errors: Iterable[NDArray[np.float32] | None]) -> float:
    """The round error within which nearly all pixels of all views lie."""
    shown = [error.ravel() for error in errors if error is not None]
    if not shown:
        return _ENDS[-1]
    high = float(np.quantile(np.concatenate(shown), _WITHIN))
    return next(end for end in _ENDS if high <= end or end == _ENDS[-1])


def _embed(view: _Loaded, figures: dict[str, float], mark: str, end: float) -> TestView:
    error = None if view.error is None else pictures.colour_map(pictures.error_colours(view.error / end))
    return TestView(view.stem, figures, mark, view.truth, view.render, error, view.depth)
