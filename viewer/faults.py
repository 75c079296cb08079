"""What goes wrong in the viewer is a warning, and after some of them the viewer's end: never training's."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_log = logging.getLogger(__name__)

TOLERATED = 5  # faults after which the viewer is given up
Result = TypeVar("Result")


class Faults:
    """Counts faults and says them.

    Args:
        give_up: called once, after `TOLERATED` of them; must not raise.
        consequence: how the warning ends.
    """

    def __init__(self, give_up: Callable[[], None], consequence: str) -> None:
        self._give_up, self._consequence = give_up, consequence
        self._lock = threading.Lock()
        self.count = self._mentioned = 0

    def note(self, error: BaseException) -> None:
        """Warns of an error."""
        with self._lock:
            self.count += 1
            count = self.count
        if count > TOLERATED:
            return
        over = "; it is closed now" if count == TOLERATED else ""
        what = " ".join(str(error).split()) or "no more is known"
        _log.warning("viewer: %s: %s%s; %s", type(error).__name__, what, over, self._consequence)
        _log.debug("viewer", exc_info=error)
        if over:
            self._give_up()

    def mention(self, error: BaseException) -> None:
        """Warns of what a browser did wrong, a few times; nothing is given up for that."""
        with self._lock:
            self._mentioned += 1
            if self._mentioned > TOLERATED:
                return
        _log.warning("viewer: %s: %s", type(error).__name__, " ".join(str(error).split()))

    def guarded(self, function: Callable[..., Any]) -> Callable[..., None]:
        """The function, with errors noted instead of raised."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> None:
            try:
                function(*arguments, **named)
            except Exception as error:
                self.note(error)

        return call


def in_time(make: Callable[[], Result], seconds: float, what: str) -> Result:
    """What `make` returns, made in a thread of its own, so that nothing waits longer than so many seconds.

    Raises:
        TimeoutError: it takes longer; the thread is left alone.
        Exception: whatever `make` raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(make())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="viewer", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"{what} took more than {seconds:.0f} s")
    return results[0]
