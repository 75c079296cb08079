"""Everything that a run's folder says of it, read so that a missing or damaged part costs only itself.

Values are checked where they are used (`number`, `text`): a file of an older version may lack a key, and one
that somebody has edited may hold anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.values import read_yaml
from errors import UserError
from reporting.events import PATTERN, Events, read_events
from reporting.report_error import ReportError
from scene import title_of

Figures = dict[str, dict[str, float]]
"""Picture's stem -> metric -> value."""
_OURS = re.compile(r"ours_(\d{1,12})")
_SIGNS = (
    *("config.yaml", "summary.json", "results.json", "per_view.json", PATTERN),
    *("point_cloud/iteration_*/point_cloud.ply", "test/ours_*/renders/*.png", "train/ours_*/renders/*.png"),
)


@dataclass(frozen=True)
class Run:
    """A run's own account.

    Attributes:
        folder: where it lies.
        options: dotted name -> plain value, as config.yaml has them; empty if there is none.
        summary: summary.json, or empty.
        means: iteration -> metric -> mean over the test views.
        per_view: iteration -> figures of each test view.
        conventions: how the figures were taken, in words.
        cameras: names of the images that have cameras; first those trained on.
        events: what it logged.
        notes: what is missing or damaged, in sentences.
    """

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    means: dict[int, dict[str, float]] = field(default_factory=dict)
    per_view: dict[int, Figures] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()
    events: Events = field(default_factory=Events)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The scene's name, or the folder's where the scene is not known."""
        return title_of(Path(text(self.options, "source_path"))) or self.folder.resolve().name

    @property
    def iterations(self) -> int | None:
        """The length that was asked for."""
        found = number(self.options, "iterations") or number(self.summary, "iterations")
        return None if found is None else int(found)

    @property
    def reached(self) -> int:
        """The newest iteration of which anything is known."""
        steps = [step for points in self.events.scalars.values() for step in points]
        return max([0, *steps, *self.means, *self.per_view])


def read_run(folder: Path) -> Run:
    """Reads what is known of a run.

    Raises:
        ReportError: there is no such folder, or nothing in it that a run or render.py has written.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: expected the output folder of a run, got no folder: check -m.")
    if not any(next(folder.glob(sign), None) for sign in _SIGNS):
        raise ReportError(
            f"{folder}: expected the output folder of a run, got one without its files (config.yaml, events, "
            "results.json, ...): check -m, or train first."
        )
    notes: list[str] = []
    results = _json(folder / "results.json", notes)
    conventions = results.pop("conventions", {})
    events = read_events(folder)
    return Run(
        folder=folder,
        options=_options(folder / "config.yaml", notes),
        summary=_json(folder / "summary.json", notes),
        means={iteration: numbers(entry) for iteration, entry in _by_iteration(results)},
        per_view=read_per_view(folder / "per_view.json", notes),
        conventions={
            key: value
            for key, value in (conventions.items() if isinstance(conventions, dict) else ())
            if isinstance(value, str)
        },
        cameras=_cameras(folder / "cameras.json", notes),
        events=events,
        notes=(*notes, *events.notes),
    )


def read_per_view(path: Path, notes: list[str]) -> dict[int, Figures]:
    """Reads a per_view.json: iteration -> figures of each view. What is wrong is added to `notes`."""
    found: dict[int, Figures] = {}
    for iteration, metrics in _by_iteration(_json(path, notes)):
        figures = found.setdefault(iteration, {})
        for metric, views in metrics.items():
            for stem, value in numbers(views if isinstance(views, dict) else {}).items():
                figures.setdefault(stem, {})[metric] = value
    return found


def number(values: Mapping[str, Any], key: str) -> float | None:
    """Returns a finite number at `key`; None for everything else."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's whole numbers have no bound
        return None


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the entries that are finite numbers."""
    found = {key: number(values, key) for key in values}
    return {key: value for key, value in found.items() if value is not None}


def text(values: Mapping[str, Any], key: str) -> str:
    """Returns a text at `key`; empty for everything else."""
    value = values.get(key)
    return value if isinstance(value, str) else ""


def spread(count: int, most: int) -> list[int]:
    """Returns at most `most` of `count` indices, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _by_iteration(content: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The entries "ours_N" by N."""
    found = ((_OURS.fullmatch(key), entry) for key, entry in content.items())
    return [(int(match[1]), entry) for match, entry in found if match and isinstance(entry, dict)]


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON file's mapping; empty, and noted, if it is damaged. Its absence is for the page to judge."""
    content = _parsed(path, notes)
    if content is None or isinstance(content, dict):
        return content or {}
    notes.append(f"{path.name} holds no figures (expected a mapping): it is left out.")
    return {}


def _parsed(path: Path, notes: list[str]) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        notes.append(f"{path.name} could not be read ({error.strerror}): what it says is left out.")
    except (ValueError, RecursionError):
        notes.append(f"{path.name} is damaged (no JSON): what it says is left out.")
    return None


def _cameras(path: Path, notes: list[str]) -> tuple[str, ...]:
    content = _parsed(path, notes)
    entries = content if isinstance(content, list) else []
    return tuple(text(entry, "img_name") for entry in entries if isinstance(entry, dict))


def _options(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = read_yaml(path)
    except (UserError, RecursionError):
        notes.append("config.yaml is damaged (no YAML): the options of the run are not known.")
        return {}
    for name in ("format", "program"):  # not options
        content.pop(name, None)
    return dict(flat(content))


def flat(values: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested sections as dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
