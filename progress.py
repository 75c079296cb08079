"""How far a long stage has come: a bar on a terminal, elsewhere a line every half minute.

Training has a bar of its own, with its figures (`engine.Tracker`).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

LINE_EVERY_S = 30.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


def terminal_width() -> dict[str, Any]:
    """Options of tqdm: follow the terminal's width, or 80 columns where a terminal says that it has none."""
    known = shutil.get_terminal_size((0, 0)).columns > 0
    return {"dynamic_ncols": True} if known else {"ncols": 80}


class Bar(Generic[T]):
    """Counts what is done; to be iterated over, or a context in which `update` is called.

    Args:
        items: to go through; None where `update` counts.
        desc: name of the stage.
        total: how many there are; of `items` their length, if they have one.
        unit: what is counted, in the singular.
        quiet: neither bar nor lines.
        announced: where there are lines, one says that the stage begins.

    Attributes:
        done: how many, so far.
    """

    def __init__(
        self,
        items: Iterable[T] | None = None,
        *,
        desc: str,
        total: int | None = None,
        unit: str = "it",
        quiet: bool = False,
        announced: bool = False,
    ) -> None:
        self._items: Iterable[T] = () if items is None else items
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        self._desc, self._total, self.done = desc, total, 0
        self._bar = tqdm(
            total=total,
            desc=desc,
            unit=unit,
            leave=False,
            disable=True if quiet else None,
            **terminal_width(),
        )
        self._speaks = bool(self._bar.disable) and not quiet  # there is no terminal
        self._begun = time.monotonic()
        self._next = self._begun + LINE_EVERY_S
        if announced and self._speaks:
            _log.info("%s%s", desc, "" if total is None else f": {total:,} to do")

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> Bar[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._speaks or now < self._next or self.done == self._total:
            return
        self._next = now + LINE_EVERY_S
        of = left = ""
        if self._total and 0 < self.done < self._total:
            seconds = (now - self._begun) * (self._total - self.done) / self.done
            of, left = f" of {self._total:,}", f", {tqdm.format_interval(seconds)} left"
        _log.info("%s: %s%s%s", self._desc, f"{self.done:,}", of, left)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()
