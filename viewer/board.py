"""What the people at the browsers want, as plain values that two sides share.

The server's threads write, the program's thread reads between two iterations; neither waits for the other.
Every value is replaced as a whole, which python does in one step.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

from viewer.frame import Pose

Mode = Literal["splats", "rendered", "depth"]


@dataclass(frozen=True)
class Look:
    """Where a browser's camera is.

    Attributes:
        pose: in viewer units.
        width: of the browser's picture, pixels.
        height: likewise.
        number: another one for every movement.
        since: time.perf_counter() when it came to be here.
    """

    pose: Pose
    width: int
    height: int
    number: int
    since: float


class Board:
    """The wishes.

    Attributes:
        watched: somebody is there, or training waits for somebody who has gone: there is work to do.
        looks: a look per browser, by its number.
        leader: the browser that moved last; colours are taken from its place. None before any has come.
        mode: what to show: splats drawn by the browser, or pictures rendered here.
        paused: training is to wait.
        every: iterations between two pictures of the training.
        side: larger side of a rendered picture, pixels.
        background: colour behind the Gaussians, each in [0, 1].
        chosen: the photograph's camera that somebody went to; None before.
        compare: show it beside its rendering.
        step: the iteration to look at; None = the newest.
        closed: it is over: nobody counts as watching any more.
    """

    def __init__(self, *, every: int, side: int, background: tuple[float, float, float]) -> None:
        self.watched = False
        self.looks: dict[int, Look] = {}
        self.leader: int | None = None
        self.mode: Mode = "splats"
        self.paused = False
        self.every, self.side, self.background = every, side, background
        self.chosen: int | None = None
        self.compare = False
        self.step: int | None = None
        self.closed = False
        self._moves = 0
        self._changed = threading.Condition()

    def tell(self, **wishes: object) -> None:
        """Sets attributes by name and wakes who waits."""
        with self._changed:
            for name, value in wishes.items():
                assert hasattr(self, name), name
                setattr(self, name, value)
            self._note()

    def come(self, browser: int, pose: Pose, width: int, height: int) -> None:
        """A browser has come, or its camera has moved."""
        with self._changed:
            self._moves += 1
            look = Look(pose, width, height, self._moves, time.perf_counter())
            self.looks = {**self.looks, browser: look}
            self.leader = browser
            self._note()

    def go(self, browser: int) -> None:
        """A browser has gone."""
        with self._changed:
            self.looks = {number: look for number, look in self.looks.items() if number != browser}
            if self.leader == browser:
                self.leader = max(self.looks, default=None)
            self._note()

    def close(self) -> None:
        """Ends it: training that waits goes on, and nothing more is made."""
        self.tell(closed=True, paused=False)

    def wait(self, seconds: float) -> None:
        """Waits for a wish, at most so long."""
        with self._changed:
            self._changed.wait(seconds)

    def _note(self) -> None:
        self.watched = not self.closed and (bool(self.looks) or self.paused)
        self._changed.notify_all()
