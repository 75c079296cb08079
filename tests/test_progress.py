"""A long stage on a terminal and elsewhere. Not checked here: the bar itself, which is tqdm's."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

import progress
from photos.prepare import _show
from progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def _walk(clock, count=100, seconds=1.0, **options):
    bar = Bar(range(count), desc="stereo", **options)
    for _ in bar:
        clock[0] += seconds
    return bar


def test_without_a_terminal_there_is_a_line_every_half_minute_with_the_time_left(said, clock):
    assert _walk(clock).done == 100
    assert said.messages == [
        "stereo: 30 of 100, 01:10 left",
        "stereo: 60 of 100, 00:40 left",
        "stereo: 90 of 100, 00:10 left",
    ]


def test_what_is_done_soon_says_nothing(said, clock):
    _walk(clock, seconds=0.1)
    _walk(clock, count=1, seconds=1000.0)  # the end is told by what comes out
    assert said.messages == []


def test_quiet_is_quiet(said, clock, capsys):
    assert _walk(clock, quiet=True).done == 100
    assert said.messages == [] and capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_and_no_line(said, clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _walk(clock)
    assert "stereo" in terminal.getvalue() and said.messages == []


def test_a_number_that_nobody_knows_is_left_out(said, clock):
    with Bar[None](desc="video") as bar:
        clock[0] += 31
        bar.update(5)
    assert said.messages == ["video: 5"]


def test_an_error_within_takes_the_bar_away_and_goes_on(clock):
    bar = Bar([1, 2], desc="stereo")
    with pytest.raises(ValueError, match="within"):
        for _ in bar:
            raise ValueError("within")
    assert bar.done == 0


def test_stages_of_structure_from_motion_are_told(said, clock):
    def stream():
        for stage, total in (("features", 3), ("matching", 40)):
            for done in range(1, total + 1):
                clock[0] += 2
                yield f'{{"stage": "{stage}", "done": {done}, "total": {total}}}\n'
        yield "something that a library prints\n"

    _show(stream(), quiet=False)
    assert said.messages == [
        "structure from motion, features: 3 to do",
        "structure from motion, matching: 40 to do",
        "structure from motion, matching: 16 of 40, 00:45 left",
        "structure from motion, matching: 31 of 40, 00:17 left",
    ]


def test_another_attempt_at_a_stage_is_told_as_one(said, clock):
    def stream():
        for _ in range(3):
            for done in (2, 3, 5):
                clock[0] += 31
                yield f'{{"stage": "poses", "done": {done}, "total": 5}}\n'

    _show(stream(), quiet=False)
    named = [
        message.partition(":")[0].removeprefix("structure from motion, poses") for message in said.messages
    ]
    assert named == ["", "", ", attempt 2", ", attempt 3"]  # the first one is announced


def test_a_terminal_without_a_width_has_a_bar_too(said, clock, monkeypatch):
    """As some containers' have: tqdm draws nothing on a width of 0."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda fallback: os.terminal_size((0, 0)))
    _walk(clock)
    assert "stereo" in terminal.getvalue() and said.messages == []
