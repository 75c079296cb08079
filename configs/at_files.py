"""Words that name a file of words: @FILE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from errors import UserError


def expand_at_files(words: Sequence[str], *, paths: bool = False) -> list[str]:
    """`words`, the lines of files (@FILE) in their place, but for empty ones and those that begin with #.

    Args:
        words: what the user gave.
        paths: the lines are paths, which need not be UTF-8.

    Raises:
        UserError: a file cannot be read, or is not UTF-8.
    """
    found: list[str] = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        path = Path(word[1:]).expanduser()
        try:
            # A line ends where a file's lines do; splitlines also ends them at U+2028, which names may hold.
            lines = path.read_text("utf-8", errors="surrogateescape" if paths else "strict").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{word}: cannot read {path} ({reason}): check the path") from error
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found
