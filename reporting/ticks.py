"""Round numbers for the axes of charts, and numbers as people write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_MARGIN = 1.12  # factor left free at both ends of a logarithmic axis
_FEWEST, _MOST = 3, 7  # ticks of a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """A range of values and where its ticks are, all within the range.

    Attributes:
        low: value at the beginning.
        high: value at the end; above `low`.
        ticks: values that get a line and a label.
        log: whether lengths are logarithms; then all are positive.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Returns where a value lies, 0 at `low`, 1 at `high`; not a number for a logarithm of none."""
        if self.log:
            if value <= 0:
                return math.nan
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def round_step(span: float, wanted: int) -> float:
    """Returns the step of 1, 2, 2.5 or 5 times a power of ten that makes at most `wanted` parts of `span`."""
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step for step in _STEPS if step * power >= rough * (1 - 1e-9)) * power


def linear_axis(low: float, high: float, *, wanted: int = 5, tight: bool = False) -> Axis:
    """Returns an axis that holds `low` to `high`.

    Args:
        low: least value to show.
        high: largest value to show.
        wanted: most parts between ticks.
        tight: ends at the values themselves, not at the next ticks: for iterations.
    """
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        spread = 0.1 * abs(high) or 1.0
        low, high = low - spread, high + spread
    step = round_step(high - low, wanted)
    first = math.ceil(low / step - 1e-6) if tight else math.floor(low / step + 1e-6)
    last = math.floor(high / step + 1e-6) if tight else math.ceil(high / step - 1e-6)
    ticks = tuple(_clean(index * step, step) for index in range(first, last + 1))
    return Axis(low, high, ticks) if tight else Axis(ticks[0], ticks[-1], ticks)


def log_axis(low: float, high: float) -> Axis:
    """Returns a logarithmic axis a little beyond the positive values `low` to `high`.

    Its ticks are at powers of ten, and between them where these are few.
    """
    low, high = low / _LOG_MARGIN, high * _LOG_MARGIN
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        marks = [float(f"{digit}e{decade}") for decade in range(first, last + 1) for digit in digits]
        ticks = [mark for mark in marks if low <= mark <= high]
        if len(ticks) >= _FEWEST:
            break
    else:
        ticks = list(linear_axis(low, high, tight=True).ticks)
    stride = -(-len(ticks) // _MOST)
    return Axis(low, high, tuple(ticks[::stride]), log=True)


def _clean(value: float, step: float) -> float:
    """Rounds away what the multiplication of a step has left (0.30000000000000004)."""
    return round(value, 2 - math.floor(math.log10(step))) + 0.0  # no -0.0


def short(value: float) -> str:
    """A tick's label: 25k, 0.05, 1e-5."""
    size = abs(value)
    if size >= 1e15:
        return f"{value:.3g}"
    for bound, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= bound:
            return f"{value / unit:g}{letter}"
    if 0 < size < 1e-3:
        digits, _, power = f"{value:.6e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,g}"


def plain(value: float) -> str:
    """A value in a sentence: four digits, thousands apart."""
    if value == round(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return short(float(f"{value:.4g}"))


def duration(seconds: float) -> str:
    """A time: 48 s, 12 min 30 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def file_size(count: int) -> str:
    """Bytes: 812 B, 2.2 KB, 19.6 MB."""
    size, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
