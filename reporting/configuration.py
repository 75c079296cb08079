"""The options of a run beside those of its preset: first what somebody chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs import OF_THE_CALL, preset_behind, to_plain
from reporting.run import Run, flat, number, text


@dataclass(frozen=True)
class Option:
    """An option of the run."""

    name: str
    value: str
    preset: str
    """What the preset has; empty if it has none."""
    changed: bool


@dataclass(frozen=True)
class Options:
    """All of them, changed ones first, and what they are compared with, in words."""

    rows: tuple[Option, ...]
    compared_with: str

    @property
    def changed(self) -> tuple[Option, ...]:
        """Those that differ from the preset."""
        return tuple(row for row in self.rows if row.changed)


def compare(run: Run) -> Options:
    """Compares config.yaml with the preset that it names, as that is today, scaled to the run's length."""
    base, words = _base(run)
    rows = []
    for name, value in run.options.items():
        known = name in base and name not in OF_THE_CALL
        preset = shown(base[name]) if known else ""
        rows.append(Option(name, shown(value), preset, known and shown(value) != preset))
    return Options(tuple(sorted(rows, key=lambda row: not row.changed)), words)


def shown(value: Any) -> str:
    """A value as one types it; a dash for an empty text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if value not in ("", None) else "-"


def _base(run: Run) -> tuple[dict[str, Any], str]:
    """The preset's values by dotted name, and what they are, in words."""
    name, views, length = text(run.options, "config"), number(run.summary, "train_views"), run.iterations
    preset = preset_behind(name, None if views is None else int(views), length)
    words = f"the preset {name}" if name and preset.there else "the program's defaults"
    if not preset.there:
        words += f" (the preset {name} is not there any more)"
    elif length and preset.scaled:
        words += f", its schedules scaled to {length:,} iterations"
    return dict(flat(to_plain(preset.options))), words
