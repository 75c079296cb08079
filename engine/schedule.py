"""Small questions that the loop asks each iteration. Iterations count from 1."""

from __future__ import annotations

from collections.abc import Collection


def is_due(iteration: int, at: Collection[int] = (), every: int = 0, last: int | None = None) -> bool:
    """Says whether something happens after this iteration.

    Args:
        iteration: the iteration just completed, from 1.
        at: iterations named one by one.
        every: also every so many iterations; 0 = never.
        last: also after this one (the run's last), if given.
    """
    return iteration in at or (every > 0 and iteration % every == 0) or iteration == last
