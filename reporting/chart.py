"""Line charts as SVG that fits any width: what grows with the page is the plot, never its letters.

Places are percentages of the plot, and lines lie in a box of 1000 by 1000 units that is stretched over it
(strokes keep their width). Colours are classes (`tone-0` ...) that the page's style sheet resolves, light or
dark. The values ride along as JSON, for the page's script to read under the pointer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reporting.ticks import Axis, linear_axis, log_axis, plain, short

MOST_POINTS = 400
"""Points drawn of one line; of more, each is the mean of some."""
_SMOOTHED_FROM = 30  # points from which a noisy line gets a smooth one
_WINDOW = 50  # the smooth line's window is one such part of the whole
_LOG_FROM = 30.0  # ratio of largest and least value from which a log axis tells more
_BOX = 1000.0
_LETTER = 0.02  # share of the width that a letter of a mark's label needs on a phone

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A named curve.

    Attributes:
        name: for the legend.
        x: [P] ascending.
        y: [P]; values that are not finite are left out.
        tone: number of its colour.
        noisy: drawn pale, with a smooth line over it.
        dots: each point is marked: few, exact values.
        dashed: to tell it apart without colours.
        area: filled down to the axis, in steps: a distribution.
    """

    name: str
    x: Values
    y: Values
    tone: int = 0
    noisy: bool = False
    dots: bool = False
    dashed: bool = False
    area: bool = False


@dataclass(frozen=True)
class Mark:
    """Something that happened at `x`, or from `x` to `until`."""

    label: str
    x: float
    until: float | None = None


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title: its heading.
        lines: at least one with a finite value, else nothing is drawn.
        unit: of y.
        x_name: what x counts.
        words: a sentence below the heading.
        scale: "linear", "log", or "auto": log where values differ much and are positive.
        from_zero: the axis begins at 0.
        span: x from, to; None: of the lines.
        marks: what happened when.
        labelled: whether marks are named; else they are only lines.
        decimals: of the last values in the legend; None: four digits.
    """

    title: str
    lines: Sequence[Line]
    unit: str = ""
    x_name: str = "iteration"
    words: str = ""
    scale: str = "linear"
    from_zero: bool = False
    span: tuple[float, float] | None = None
    marks: Sequence[Mark] = field(default=())
    labelled: bool = True
    decimals: int | None = None


@dataclass(frozen=True)
class Drawing:
    """A chart for the page."""

    title: str
    words: str
    unit: str
    svg: Markup
    values: str
    """JSON for the pointer: {"x": [low, high], "xName", "unit", "lines": [{"name", "tone", "x", "y"}]}."""
    legend: tuple[tuple[str, int, bool, str], ...]
    """Name, tone, whether dashed, and last value of each line."""


def draw(chart: Chart) -> Drawing | None:
    """Draws a chart; None if there is nothing to draw."""
    lines = [line for line in (_finite(line) for line in chart.lines) if len(line.x)]
    if not lines:
        return None
    lines = [line if line.area else _thinned(line) for line in lines]
    x_axis, y_axis = _axes(chart, lines)
    marks, labels = _marks(chart, x_axis)
    parts = [_grid(x_axis, y_axis, chart), *marks]
    parts.append(Markup('<svg class="box" viewBox="0 0 1000 1000" preserveAspectRatio="none">'))
    parts += [_path(line, x_axis, y_axis) for line in lines]
    parts.append(Markup("</svg>"))
    parts += [_dot(line, i, x_axis, y_axis) for line in lines if line.dots for i in range(len(line.x))]
    parts += labels
    spoken = f"{chart.title}. " + "; ".join(_spoken(line, chart.unit) for line in lines) + "."
    svg = Markup('<svg class="axes" role="img" aria-label="{}">{}</svg>').format(
        spoken, Markup("").join(parts)
    )
    values = {
        "x": [x_axis.low, x_axis.high],
        "xName": chart.x_name,
        "unit": chart.unit,
        "lines": [
            {"name": line.name, "tone": line.tone, "x": _rounded(line.x), "y": _rounded(line.y)}
            for line in lines
        ],
    }
    legend = tuple((line.name, line.tone, line.dashed, _last(line, chart.decimals)) for line in lines)
    return Drawing(chart.title, chart.words, chart.unit, svg, json.dumps(values), legend)


def smooth(values: Values) -> Values:
    """Twice the centred mean [P] over a fiftieth of all values [P], straight lines at the ends.

    The lines are fitted, so that the last value, which is as noisy as any, does not pull the end to itself.
    """
    half = max(1, len(values) // (2 * _WINDOW))
    width = 2 * half + 1
    if len(values) < width:
        return values
    index = np.arange(width)
    for _ in range(2):
        inner = np.convolve(values, np.full(width, 1 / width), "valid")
        first, last = np.polyfit(index, values[:width], 1), np.polyfit(index, values[-width:], 1)
        ends = np.polyval(first, index[:half]), np.polyval(last, index[-half:])
        values = np.concatenate([ends[0], inner, ends[1]])
    return values


def _finite(line: Line) -> Line:
    good = np.isfinite(line.x) & np.isfinite(line.y)
    return _with(line, line.x[good], line.y[good])


def _thinned(line: Line) -> Line:
    """At most `MOST_POINTS` points; the first and the last stay as they are."""
    count = len(line.x)
    if count <= MOST_POINTS:
        return line
    groups = np.array_split(np.arange(1, count - 1), MOST_POINTS - 2)
    x = [line.x[0], *(line.x[group[-1]] for group in groups), line.x[-1]]
    y = [line.y[0], *(line.y[group].mean() for group in groups), line.y[-1]]
    return _with(line, np.array(x), np.array(y))


def _with(line: Line, x: Values, y: Values) -> Line:
    return Line(line.name, x, y, line.tone, line.noisy, line.dots, line.dashed, line.area)


def _axes(chart: Chart, lines: Sequence[Line]) -> tuple[Axis, Axis]:
    xs, ys = (np.concatenate([getattr(line, name) for line in lines]) for name in "xy")
    low, high = float(ys.min()), float(ys.max())
    low_x, high_x = chart.span or (float(xs.min()), float(xs.max()))
    x_axis = linear_axis(min(low_x, float(xs.min())), max(high_x, float(xs.max())), tight=True)
    wants_log = chart.scale == "log" or (chart.scale == "auto" and low > 0 and high / low >= _LOG_FROM)
    if wants_log and low > 0:
        return x_axis, log_axis(low, high)
    return x_axis, linear_axis(min(low, 0.0) if chart.from_zero else low, high)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _grid(x_axis: Axis, y_axis: Axis, chart: Chart) -> Markup:
    parts = []
    for tick in y_axis.ticks:
        height = _percent(1 - y_axis.place(tick))
        parts.append(Markup('<line class="rule" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(height))
        parts.append(
            Markup('<text class="tick y" x="0" y="{}" dx="-8" dy="4">{}</text>').format(height, short(tick))
        )
    for tick in x_axis.ticks:
        place = _percent(x_axis.place(tick))
        parts.append(Markup('<line class="notch" x1="{0}" x2="{0}" y1="100%" y2="100%"/>').format(place))
        parts.append(
            Markup('<text class="tick x" x="{}" y="100%" dy="19">{}</text>').format(place, short(tick))
        )
    parts.append(Markup('<text class="name" x="100%" y="100%" dy="37">{}</text>').format(chart.x_name))
    return Markup("").join(parts)


def _marks(chart: Chart, x_axis: Axis) -> tuple[list[Markup], list[Markup]]:
    """Bands and dashed lines, and their labels; those that would collide go one line lower."""
    parts: list[Markup] = []
    labels: list[Markup] = []
    rows: list[float] = []
    for mark in sorted(chart.marks, key=lambda mark: mark.x):
        start = x_axis.place(min(max(mark.x, x_axis.low), x_axis.high))
        if mark.until is not None:
            end = x_axis.place(min(max(mark.until, x_axis.low), x_axis.high))
            if end <= start:
                continue
            parts.append(
                Markup('<rect class="band" x="{}" width="{}" y="0" height="100%"/>').format(
                    _percent(start), _percent(end - start)
                )
            )
        elif not x_axis.low <= mark.x <= x_axis.high:
            continue
        else:
            parts.append(
                Markup('<line class="event" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(_percent(start))
            )
        if chart.labelled:
            room = _LETTER * len(mark.label)
            late = start > 1 - room
            begin = start - room if late else start
            row = next((i for i, taken in enumerate(rows) if begin >= taken), len(rows))
            rows[row : row + 1] = [begin + room]
            labels.append(
                Markup('<text class="told{}" x="{}" y="0" dx="{}" dy="{}">{}</text>').format(
                    " late" if late else "", _percent(start), -5 if late else 5, 12 + 14 * row, mark.label
                )
            )
    return parts, labels


def _path(line: Line, x_axis: Axis, y_axis: Axis) -> Markup:
    if line.area:
        return _area(line, x_axis, y_axis)
    classes = f"line tone-{line.tone}" + (" dashed" if line.dashed else "")
    if not line.noisy or len(line.x) < _SMOOTHED_FROM:
        return _stroke(classes, line.x, line.y, x_axis, y_axis)
    pale = _stroke(f"{classes} pale", line.x, line.y, x_axis, y_axis)
    return pale + _stroke(classes, line.x, smooth(line.y), x_axis, y_axis)


def _stroke(classes: str, x: Values, y: Values, x_axis: Axis, y_axis: Axis) -> Markup:
    places = [
        f"{_BOX * x_axis.place(a):.1f} {_BOX * (1 - y_axis.place(b)):.1f}" for a, b in zip(x, y, strict=True)
    ]
    return Markup('<path class="{}" data-points="{}" d="M{}"/>').format(
        classes, len(places), "L".join(places)
    )


def _area(line: Line, x_axis: Axis, y_axis: Axis) -> Markup:
    """Steps: x [P] are edges, y [P] the heights to the right of each; the last one's is 0."""
    base = _BOX * (1 - y_axis.place(max(0.0, y_axis.low)))
    path = f"M{_BOX * x_axis.place(line.x[0]):.1f} {base:.1f}"
    for a, b in zip(line.x, line.y, strict=True):
        path += f"H{_BOX * x_axis.place(a):.1f}V{_BOX * (1 - y_axis.place(b)):.1f}"
    classes = f"area tone-{line.tone}" + (" dashed" if line.dashed else "")
    return Markup('<path class="{}" data-points="{}" d="{}V{}"/>').format(
        classes, len(line.x), path, f"{base:.1f}"
    )


def _dot(line: Line, index: int, x_axis: Axis, y_axis: Axis) -> Markup:
    return Markup('<circle class="dot tone-{}" cx="{}" cy="{}" r="3.2"/>').format(
        line.tone,
        _percent(x_axis.place(line.x[index])),
        _percent(1 - y_axis.place(line.y[index])),
    )


def _last(line: Line, decimals: int | None) -> str:
    if line.area:
        return ""
    last = float(line.y[-1])
    return plain(last) if decimals is None else f"{last:.{decimals}f}"


def _spoken(line: Line, unit: str) -> str:
    if line.area:
        return f"{line.name}: most near {plain(float(line.x[int(line.y.argmax())]))}"
    first, last = plain(float(line.y[0])), plain(float(line.y[-1]))
    return f"{line.name}: from {first} to {last} {unit}".strip()


def _rounded(values: Values) -> list[float]:
    """Six digits: more than a chart shows, a third of the letters."""
    return [float(f"{value:.6g}") for value in values]
