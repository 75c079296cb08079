"""Charts show the values that they are given, at the right places.

Not checked here: how they look, for which somebody has to look.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from reporting.chart import MOST_POINTS, Chart, Line, Mark, draw, smooth
from tests.reporting.reading import matched


def drawn(*lines, **options):
    found = draw(Chart("Loss", lines, **options))
    assert found is not None
    return found


def places(svg, tone=0):
    """Points of a path in its box of 1000 x 1000, y down."""
    path = matched(rf'class="line tone-{tone}[^"]*" data-points="(\d+)" d="M([^"]*)"', svg)
    points = [tuple(map(float, pair.split())) for pair in path[2].split("L")]
    assert len(points) == int(path[1])
    return points


def line(y, x=None, **options):
    x = np.arange(1.0, len(y) + 1) if x is None else np.asarray(x, float)
    return Line("total", x, np.asarray(y, float), **options)


def test_every_point_lies_where_its_value_is():
    found = drawn(line([0.0, 5.0, 10.0], x=[0, 50, 100]))
    assert places(found.svg) == [(0, 1000), (500, 500), (1000, 0)]
    values = json.loads(found.values)
    assert values["x"] == [0, 100] and values["lines"][0]["y"] == [0, 5, 10]
    assert found.legend == (("total", 0, False, "10"),)


def test_a_logarithmic_chart_puts_equal_ratios_at_equal_distances():
    (_, a), (_, b), (_, c) = places(drawn(line([1.0, 10.0, 100.0]), scale="log").svg)
    assert a - b == pytest.approx(b - c, abs=0.2)  # places are written with one digit


def test_auto_takes_a_log_axis_for_values_that_differ_much_and_are_positive():
    def ticks(y):
        svg = drawn(line(y), scale="auto", from_zero=True).svg
        return re.findall(r'class="tick y"[^>]*>([^<]*)<', svg)

    assert "0" in ticks([0.1, 1.0]) and "0" not in ticks([0.001, 1.0]) and "0" in ticks([-0.001, 1.0])


def test_many_points_become_few_that_keep_the_ends_and_the_mean():
    y = np.random.default_rng(0).normal(size=10_000)
    found = json.loads(drawn(line(y)).values)["lines"][0]
    assert len(found["y"]) == MOST_POINTS == len(found["x"])
    assert found["y"][0] == pytest.approx(y[0], rel=1e-5) and found["y"][-1] == pytest.approx(y[-1], rel=1e-5)
    assert (found["x"][0], found["x"][-1]) == (1, 10_000)
    # groups differ by at most one in size of about 25: their mean is that of all to that part of it
    assert np.mean(found["y"][1:-1]) == pytest.approx(y.mean(), abs=0.01)


def test_values_that_are_no_numbers_are_left_out():
    found = json.loads(drawn(line([1.0, np.nan, np.inf, 4.0])).values)["lines"][0]
    assert found["x"] == [1, 4] and found["y"] == [1, 4]


def test_nothing_is_drawn_of_nothing():
    assert draw(Chart("Loss", [])) is None
    assert draw(Chart("Loss", [line([]), line([np.nan])])) is None


def test_a_noisy_line_is_drawn_pale_and_smooth():
    y = np.arange(100) % 2
    svg = drawn(line(y, noisy=True)).svg
    assert svg.count('data-points="100"') == 2 and svg.count("pale") == 1
    heights = [b for _, b in places(svg.replace("line tone-0 pale", "pale"))]
    assert max(heights[5:-5]) - min(heights[5:-5]) < 500  # half of the noise's own height


@pytest.mark.parametrize("count", [1, 2, 3, 50, 400])
def test_smoothing_keeps_straight_lines(count):
    ramp = np.linspace(3.0, 7.0, count)
    assert smooth(ramp) == pytest.approx(ramp, abs=1e-9)  # sums of floats


def test_one_point_is_a_chart_too():
    found = drawn(line([5.0], x=[40], dots=True), span=(0.0, 40.0))
    assert 'cx="100.00%"' in found.svg and "from 5 to 5" in found.svg


def test_marks_lie_on_the_axis_and_those_beyond_it_are_left_out():
    marks = [Mark("full-size images", 50), Mark("resumed", 500), Mark("added", 10, 30), Mark("late", 95)]
    svg = drawn(line([1.0, 2.0], x=[0, 100]), marks=marks).svg
    assert svg.count('class="event"') == 2 and svg.count('class="band"') == 1
    assert 'x="10.00%" width="20.00%"' in svg and "resumed" not in svg
    assert 'class="told late"' in svg  # written to the left, so that it stays within


def test_a_distribution_is_an_area_down_to_zero():
    area = Line("iteration 40", np.array([0.0, 0.5, 1.0]), np.array([30.0, 70.0, 0.0]), area=True)
    found = drawn(area, from_zero=True, span=(0.0, 1.0))
    path = matched(r'class="area[^"]*" data-points="3" d="([^"]*)"', found.svg)[1]
    assert path.startswith("M0.0 1000.0H0.0V") and path.endswith("V1000.0")
    assert found.legend[0][3] == ""  # its last value says nothing


def test_names_cannot_become_markup():
    hostile = '"><script>alert(1)</script>'
    named = Line(hostile, np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert "<script" not in drawn(named, marks=[Mark(hostile, 1.5)], x_name=hostile, unit=hostile).svg
