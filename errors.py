"""The one exception that means "the user can mend this".

Every room raises a subclass of it for bad input; the commands print its message as one line and
exit with code 2. Anything else that escapes is a fault of the program and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: a path, a file's content, an option.

    The message is one line that names the file or argument, says what was expected and what came,
    and ends with what to do next.
    """

    exit_code = 2


class SaidElsewhere(UserError):
    """Another process of the same training has said what is wrong: this one ends without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("said by another process")
        self.exit_code = exit_code
