"""A thread that takes one thing at a time to the browsers, so that training never waits for a network."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from viewer.faults import Faults

Errand = Callable[[], None]


class Courier:
    """Runs errands one after the other, off the program's thread.

    Attributes:
        busy: an errand is under way; ask before making another.
        seconds: what all of them have taken so far.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._errands: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="viewer courier", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return self._waiting > 0

    def take(self, errand: Errand) -> None:
        """Hands over an errand; returns at once."""
        with self._lock:
            self._waiting += 1
        self._errands.put(errand)

    def rest(self, seconds: float) -> None:
        """Waits until nothing is on its way, at most so long."""
        until = time.perf_counter() + seconds
        while self.busy and time.perf_counter() < until:
            time.sleep(0.005)

    def finish(self, seconds: float) -> None:
        """Ends the thread after what it has, and waits for that at most so long."""
        self._errands.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (errand := self._errands.get()) is not None:
            began = time.perf_counter()
            self._faults.guarded(errand)()
            self.seconds += time.perf_counter() - began
            del errand  # what it carries is large
            with self._lock:
                self._waiting -= 1
