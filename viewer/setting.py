"""What a page is opened with, whether it shows a training or a finished model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viewer.board import Board
from viewer.faults import Faults
from viewer.frame import Frame
from viewer.panel import Steps
from viewer.stands import Stand


@dataclass(frozen=True, eq=False)
class Setting:
    """What is looked at, from where, and who hears of it.

    Attributes:
        address: host and port.
        title: above the controls.
        frame: the viewer's units.
        stands: the photographs' cameras.
        board: gets the wishes of who comes.
        steps: the iterations that one can look at.
        faults: hears of errors.
    """

    address: tuple[str, int]
    title: str
    frame: Frame
    stands: Sequence[Stand]
    board: Board
    steps: Steps
    faults: Faults
