"""The one exception that means "the user can mend this".

Every room raises a subclass of it for bad input; the commands print its message as one line and
exit with code 2. Anything else that escapes is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import re

_LONGEST = 3_000  # characters of a message; its beginning says what is wrong, its end what to do
_LONG_WORD = re.compile(r"[^\s/]{400,}")  # no part of a path is that long; a damaged file's number may be


class UserError(Exception):
    """A mistake in what the user gave: a path, a file's content, an option.

    The message is one line that names the file or argument, says what was expected and what came,
    and ends with what to do next.
    """

    exit_code = 2
    moment = 0
    """Where several processes of a training have one each, the one with the lowest is told."""

    def __str__(self) -> str:
        """The message, without the middle of what is too long to be read."""
        message = _LONG_WORD.sub(lambda found: f"{found[0][:60]}...{found[0][-20:]}", super().__str__())
        return message if len(message) <= _LONGEST else f"{message[: _LONGEST - 600]} ... {message[-500:]}"


class SaidElsewhere(UserError):
    """Another process of the same training has said what is wrong: this one ends without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("said by another process")
        self.exit_code = exit_code
