"""The steps of a training that somebody watched, to look back at; a bounded memory of them."""

from __future__ import annotations

from viewer.splats import Splats

BYTES = 96 << 20


class History:
    """Keeps what was shown. Without more room, the step is forgotten whose neighbours are nearest."""

    def __init__(self, room: int = BYTES) -> None:
        self._room = room
        self._kept: list[tuple[int, Splats]] = []

    def __len__(self) -> int:
        """Number of steps kept."""
        return len(self._kept)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last iteration kept; (0, 0) for none."""
        return (self._kept[0][0], self._kept[-1][0]) if self._kept else (0, 0)

    def add(self, iteration: int, splats: Splats) -> None:
        """Keeps a step; one of the same iteration is replaced, and an earlier one begins anew."""
        if self._kept and iteration < self._kept[-1][0]:  # another model is being trained
            self._kept.clear()
        if self._kept and iteration == self._kept[-1][0]:
            self._kept.pop()
        self._kept.append((iteration, splats))
        while sum(kept.nbytes for _, kept in self._kept) > self._room and len(self._kept) > 2:
            gaps = [after[0] - before[0] for before, after in zip(self._kept, self._kept[2:], strict=False)]
            del self._kept[1 + gaps.index(min(gaps))]  # never the first or the last

    def nearest(self, iteration: int) -> tuple[int, Splats] | None:
        """The step nearest to an iteration."""
        return min(self._kept, key=lambda step: abs(step[0] - iteration), default=None)
