"""Words that name a file of words: @FILE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from errors import UserError


def expand_at_files(words: Sequence[str]) -> list[str]:
    """`words`, the lines of files (@FILE) in their place, but for empty ones and those that begin with #.

    Raises:
        UserError: a file cannot be read.
    """
    found: list[str] = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        path = Path(word[1:]).expanduser()
        try:
            lines = path.read_text("utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise UserError(f"{word}: cannot read {path} ({error.strerror}): check the path") from error
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found
