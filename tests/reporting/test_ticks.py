"""Axes have round ticks that hold the values, and numbers read as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.ticks import duration, file_size, linear_axis, log_axis, plain, round_step, short

FLOATS = st.floats(-1e12, 1e12, allow_nan=False)


@given(FLOATS, FLOATS, st.booleans())
def test_a_linear_axis_holds_its_values_and_few_even_ticks(a, b, tight):
    low, high = min(a, b), max(a, b)
    axis = linear_axis(low, high, tight=tight)
    slack = 1e-6 * (axis.high - axis.low)  # of deciding whether a value lies on a tick
    assert axis.low - slack <= low <= high <= axis.high + slack
    assert 1 <= len(axis.ticks) <= 8  # five parts, and one more at either end
    steps = [b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 27_606, (0, 10_000, 20_000, 30_000)),
        (0.05, 0.14, (0.04, 0.06, 0.08, 0.1, 0.12, 0.14)),
        (23.0, 28.1, (22, 24, 26, 28, 30)),
        (-3.2, 0.1, (-4, -3, -2, -1, 0, 1)),
    ],
)
def test_ticks_are_round(low, high, ticks):
    axis = linear_axis(low, high)
    assert axis.ticks == ticks and (axis.low, axis.high) == (ticks[0], ticks[-1])


def test_the_axis_of_iterations_ends_with_the_last_one():
    axis = linear_axis(0, 430, tight=True)
    assert (axis.low, axis.high, axis.ticks) == (0, 430, (0, 100, 200, 300, 400))


def test_equal_values_get_an_axis_around_them():
    for value in (0.0, 5.0, -3.0):
        axis = linear_axis(value, value)
        assert axis.low < value < axis.high and len(axis.ticks) >= 2


@given(st.floats(1e-12, 1e12), st.floats(1, 1e9))
def test_a_log_axis_holds_its_values_and_at_least_one_tick(low, ratio):
    axis = log_axis(low, low * ratio)
    assert axis.low < low <= low * ratio < axis.high
    assert 1 <= len(axis.ticks) <= 9
    assert all(-1e-5 <= axis.place(tick) <= 1 + 1e-5 for tick in axis.ticks)  # a tick may lie on an end
    assert axis.place(axis.low) == pytest.approx(0) and axis.place(axis.high) == pytest.approx(1)


def test_a_log_axis_has_ticks_between_few_powers_of_ten():
    assert log_axis(2e-4, 1.0).ticks == (1e-3, 1e-2, 1e-1, 1.0)
    assert log_axis(0.07, 0.3).ticks == (0.07, 0.08, 0.09, 0.1, 0.2, 0.3)
    assert log_axis(5.0, 5.0).ticks == (4.5, 4.75, 5.0, 5.25, 5.5)
    assert math.isnan(log_axis(1, 10).place(0.0))  # no logarithm: not drawn, and no error


@given(st.floats(1e-9, 1e9), st.integers(2, 10))
def test_a_step_makes_no_more_parts_than_wanted(span, wanted):
    assert span / round_step(span, wanted) <= wanted * (1 + 1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.05, "0.05"), (2.5e-4, "2.5e-4"), (1e-5, "1e-5"), (2000, "2,000"), (25_000, "25k")),
        *((1_200_000, "1.2M"), (-2.5, "-2.5"), (3e9, "3G"), (1e20, "1e+20")),
    ],
)
def test_labels_are_short(value, text):
    assert short(value) == text


def test_values_times_and_sizes_read_as_people_write_them():
    assert [plain(v) for v in (27606.0, 0.077785, 1234.5, 2.073e-4)] == [
        "27,606",
        "0.07779",
        "1,234",
        "2.073e-4",
    ]
    assert [duration(s) for s in (1.23, 48.4, 750, 11_100)] == ["1.2 s", "48 s", "12 min 30 s", "3 h 05 min"]
    assert [file_size(n) for n in (812, 2234, 19_577_551, 156_151_109)] == [
        *("812 B", "2.2 KB", "19.6 MB", "156 MB"),
    ]
