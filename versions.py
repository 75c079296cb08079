"""The program's version, and how a file of an older format is brought to the present one.

Checkpoints and config.yaml carry a number. Where a format changes its meaning, the number goes up by one, and
a function that makes the new content of the old goes into that format's table of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from errors import UserError

VERSION = "0.1.0"
"""As in CHANGELOG.md; files name the version that wrote them."""

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes content of format n + 1 of that of format n; it may change what it is given."""


def brought_up(
    content: dict[str, Any],
    *,
    path: Path,
    what: str,
    present: int,
    steps: Mapping[int, Step],
    error: type[UserError],
) -> dict[str, Any]:
    """Returns the content in the present format, which its key `format` then names.

    Args:
        content: as read; `format` is its number, `program` the version that wrote it, if it says so.
        path: the file, for messages.
        what: what it is, for messages: "checkpoint".
        present: the number of the present format.
        steps: for each older number the step from it to the next.
        error: what to raise.

    Raises:
        UserError: of the class `error`: there is no number, it is a newer one, or the content is not what its
            number promises.
    """
    found = content.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise error(
            f"{path}: expected a {what} with a format number, got {_in_a_line(repr(found))}: not one of this "
            "program."
        )
    if found > present:
        program = content.get("program")
        by = f"Fewsplat {program}" if isinstance(program, str) else "a newer version of this program"
        reads = f"format {present}" if present == 1 else f"formats 1 to {present}"
        raise error(
            f"{path}: written by {by} ({what} format {found}), and this is Fewsplat {VERSION}, which reads "
            f"{reads}: update the program, or start anew with --overwrite."
        )
    for number in range(found, present):
        try:
            content = {**steps[number](content), "format": number + 1}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
            why = f"{type(problem).__name__}: {_in_a_line(str(problem))}"
            raise error(
                f"{path}: damaged: not what a {what} of format {number} holds ({why}): use another one, or "
                "start anew with --overwrite."
            ) from problem
    return content


def _in_a_line(words: str) -> str:
    """The beginning of a text, without line ends: a damaged file's value may be a large tensor."""
    words = " ".join(words.split())
    return words if len(words) <= 80 else f"{words[:80]}..."
