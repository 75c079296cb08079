"""What a command says while it works, on stderr: levels, colours, and nothing that libraries mutter.

Rooms write to python's `logging`. A command shows it as one line each, above a progress bar where there is
one. What libraries log, and python's warnings of theirs, is for who mends programs: shown with `debug` only,
errors of theirs excepted.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Literal, TextIO

from tqdm import tqdm

LogLevel = Literal["debug", "info", "warning", "error"]

_ROOT = Path(__file__).resolve().parent.parent
_COLOURS = {"error": "31", "warning": "33", "debug": "2"}  # red, yellow, faint


def hear(level: LogLevel = "info") -> None:
    """Shows what is logged from this level on; may be called again with another level."""
    _LINES.least = _number(level)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.addHandler(_LINES)  # where it is there already, nothing
    root.setLevel(logging.DEBUG if level == "debug" else logging.INFO)


def heard(level: LogLevel) -> bool:
    """Whether what is said at this level is shown."""
    return _number(level) >= _LINES.least


def say(text: str, kind: Literal["", "error", "warning", "debug"] = "") -> None:
    """Writes a line (or several) to stderr, above a progress bar; `error: ...` where it is one."""
    if kind:
        text = f"{coloured(f'{kind}:', kind, sys.stderr)} {text}"
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def coloured(text: str, kind: str, stream: TextIO) -> str:
    """The text in the kind's colour, on terminals only, and not where NO_COLOR or TERM=dumb forbids it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain or kind not in _COLOURS else f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"


def _number(level: LogLevel) -> int:
    return int(getattr(logging, level.upper()))


class _Lines(logging.Handler):
    """One line for each record; with the level `debug` also where errors came from."""

    least = logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        whole, ours = self.least == logging.DEBUG, _is_ours(record.name)
        if record.levelno < (self.least if ours or whole else max(self.least, logging.ERROR)):
            return
        try:
            say(_text(record, ours, whole), _kind(record.levelno))
        except Exception:
            self.handleError(record)


_LINES = _Lines()


def _is_ours(name: str) -> bool:
    top = name.partition(".")[0]
    return top == "__main__" or (_ROOT / top).is_dir() or (_ROOT / f"{top}.py").is_file()


def _kind(number: int) -> Literal["", "error", "warning", "debug"]:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "" if number >= logging.INFO else "debug"


def _text(record: logging.LogRecord, ours: bool, whole: bool) -> str:
    text = record.getMessage().rstrip()
    text = text if ours else f"{record.name}: {text}"
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return text
    if whole:
        return "\n".join([text, "".join(traceback.format_exception(error)).rstrip()])
    return f"{text} {type(error).__name__}: {' '.join(str(error).split())}"
