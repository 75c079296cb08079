"""What commands say: levels, colours on terminals only, and not what libraries mutter."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from engine import hear, words

ROOT = Path(__file__).resolve().parents[2]
OURS, THEIRS = logging.getLogger("scene.load"), logging.getLogger("somebody.elses")


def _all_levels() -> None:
    for level in ("debug", "info", "warning", "error"):
        getattr(OURS, level)("our %s", level)
        getattr(THEIRS, level)("their %s", level)
    warnings.warn("an old name", DeprecationWarning, stacklevel=1)


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("info", ["our info", "warning: our warning", "error: our error"]),
        ("warning", ["warning: our warning", "error: our error"]),
        ("error", ["error: our error"]),
    ],
)
def test_each_level_shows_ours_from_it_on_and_errors_of_libraries(capsys, level, expected):
    hear("debug")
    hear(level)  # the last one counts, and nothing is said twice
    _all_levels()
    assert capsys.readouterr().err.splitlines() == [*expected, "error: somebody.elses: their error"]


@pytest.mark.filterwarnings("always")
def test_debug_shows_everything(capsys):
    hear("debug")
    _all_levels()
    said = capsys.readouterr().err
    for words_ in ("debug: our debug", "debug: somebody.elses: their debug", "an old name"):
        assert words_ in said
    assert words.heard("debug")


def test_where_an_error_came_from_is_for_debug_only(capsys):
    for level in ("info", "debug"):
        hear(level)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            OURS.warning("a report could not be written:", exc_info=True)
    brief, *whole = capsys.readouterr().err.splitlines()
    assert brief == "warning: a report could not be written: ValueError: two lines"
    assert whole[0] == "warning: a report could not be written:" and "Traceback" in whole[1]


def test_a_line_goes_above_a_bar_and_leaves_it_whole(capsys):
    from tqdm import tqdm

    hear()
    with tqdm(total=2, file=sys.stderr, ascii=True, ncols=40) as bar:
        bar.update()
        bar.refresh()
        OURS.warning("something")
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "warning: something" in [line.strip() for line in said], said


PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from engine import words; words.say('x', 'error')"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals(environment, coloured):
    keep = {key: value for key, value in os.environ.items() if key not in ("TERM", "NO_COLOR")}
    command = [sys.executable, "-c", PROGRAM, str(ROOT)]
    master, slave = pty.openpty()
    subprocess.run(command, stderr=slave, env=keep | environment, check=True)
    os.close(slave)
    on_terminal = os.read(master, 1000).decode()
    os.close(master)
    assert on_terminal.strip() == ("\x1b[31merror:\x1b[0m x" if coloured else "error: x")
    piped = subprocess.run(command, capture_output=True, text=True, env=keep | environment, check=True)
    assert piped.stderr == "error: x\n"
