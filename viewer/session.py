"""What there is to do for who looks, one thing at a time: splats, pictures, words.

The program's thread calls `serve` when it has a moment (between two iterations, or all the time where a
finished model is shown). Whatever reads Gaussians or renders is done there, as neither the rasterizer's
memory nor the parameters are for two threads at once; the courier takes what comes out to the browsers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from gaussian_model import Gaussians
from scene.geometry import Vector
from viewer.board import Board
from viewer.courier import Courier
from viewer.page import Page
from viewer.painter import Painter, Style
from viewer.setting import Setting
from viewer.splats import LIMIT, take_splats

REST_S = 0.25  # a camera that has not moved for so long is at rest
_WORDS_S = 0.5  # between two statuses
_RECOLOUR_S = 0.3  # between two sets of colours for a camera that moves
_TURNED = np.cos(np.radians(2.0))  # of a place's direction from the centre: colours are taken anew

Step = tuple[str, int]  # a phase and an iteration


@dataclass(frozen=True)
class Moment:
    """The model at an iteration, and what is known of it.

    Attributes:
        gaussians: N of them; read only within `serve`.
        iteration: theirs.
        of: the last iteration; 0 where nothing goes on.
        figures: names and values for the status.
        phase: what is being trained, where it is not the run's own model.
    """

    gaussians: Gaussians
    iteration: int
    of: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    phase: str = ""


class Session:
    """Opens a page and serves it.

    Args:
        setting: what it shows, to whom.
        style: how the program renders.

    Raises:
        ViewerError, TimeoutError: the page cannot be opened.
    """

    def __init__(self, setting: Setting, style: Style) -> None:
        self.board, self._frame, self._stands = setting.board, setting.frame, setting.stands
        self.page = Page(setting)
        self.courier = Courier(setting.faults)
        self.courier.take(self.page.furnish)
        self._painter = Painter(style, setting.frame)
        self._shown: Step | None = None  # the splats at the browsers
        self._place: Vector | None = None  # where their colours were taken from
        self._coloured = 0.0  # when
        self._said = 0.0
        self._words = ""
        self._pictures: dict[int, tuple[object, Step]] = {}  # per browser, what its last picture shows
        self._compared: tuple[object, Step] | None = None

    def serve(self, moment: Moment, eager: bool) -> bool:
        """Does the next thing that is due, if any; says whether it did.

        Args:
            moment: the model now.
            eager: show every iteration, not only every so many.
        """
        if self.courier.busy:
            return False
        done = self._say(moment)
        if self.board.mode == "splats":
            done = self._splats(moment, eager) or done
        else:
            done = self._picture(moment, eager) or done
        return self._comparison(moment, eager) or done

    def close(self, last_words: str) -> None:
        """Says a last word and closes the page; takes some seconds at most."""
        self.board.close()
        self.courier.take(lambda: self.page.say(last_words))
        self.courier.finish(2.0)
        self.page.close()

    def _say(self, moment: Moment) -> bool:
        now = time.perf_counter()
        words = status(moment, self.board)
        if words == self._words or now - self._said < _WORDS_S:
            return False
        self._words, self._said = words, now
        progress = moment.iteration / moment.of if moment.of else None
        self.courier.take(lambda: self.page.say(words, progress))
        return True

    def _splats(self, moment: Moment, eager: bool) -> bool:
        place, now = self._eye(), time.perf_counter()
        at = (moment.phase, moment.iteration)
        if not (
            self._is_new(self._shown, at, eager)
            or (self._turned(place) and now - self._coloured > _RECOLOUR_S)
        ):
            return False
        self._shown, self._place, self._coloured = at, place, now
        splats = take_splats(moment.gaussians, self._frame, self._frame.to_world(place))
        self.courier.take(lambda: self.page.show_splats(splats, moment.iteration))
        return True

    def _picture(self, moment: Moment, eager: bool) -> bool:
        """One picture, for the browser that has waited longest."""
        board, now, at = self.board, time.perf_counter(), (moment.phase, moment.iteration)
        drawn = {browser: made for browser, made in self._pictures.items() if browser in board.looks}
        newcomers = [browser for browser in board.looks if browser not in drawn]
        for browser in (*newcomers, *drawn):
            look = board.looks.get(browser)
            if look is None:
                continue
            size = self._painter.size(look, board.side, now - look.since < REST_S)
            wish = (look.number, size, board.mode, board.background)
            if (
                browser in drawn
                and drawn[browser][0] == wish
                and not self._is_new(drawn[browser][1], at, eager)
            ):
                continue
            drawn.pop(browser, None)
            self._pictures = {**drawn, browser: (wish, at)}  # the last in the line
            background = torch.tensor(board.background)
            pixels = self._painter.picture(moment.gaussians, look, size, board.mode, background)
            self.courier.take(partial(self.page.show_picture, browser, pixels))
            return True
        self._pictures = drawn
        return False

    def _comparison(self, moment: Moment, eager: bool) -> bool:
        board, at = self.board, (moment.phase, moment.iteration)
        if not board.compare or board.chosen is None:
            self._compared = None
            return False
        stand = self._stands[board.chosen]
        if stand.photograph is None:
            return False
        wish = (board.chosen, board.background)
        if (
            self._compared is not None
            and self._compared[0] == wish
            and not self._is_new(self._compared[1], at, eager)
        ):
            return False
        self._compared = (wish, at)
        pixels, words = self._painter.comparison(moment.gaussians, stand, torch.tensor(board.background))
        self.courier.take(lambda: self.page.show_comparison(pixels, words))
        return True

    def _is_new(self, shown: Step | None, at: Step, eager: bool) -> bool:
        """Whether a model is to be shown after the one that was: so many iterations on, or another one."""
        if shown is None or shown[0] != at[0]:
            return True
        return shown != at and (eager or abs(at[1] - shown[1]) >= self.board.every)

    def _eye(self) -> Vector:
        """Where colours are taken from, viewer units: the place of who moved last."""
        leader = self.board.leader
        look = self.board.looks.get(leader) if leader is not None else None
        return self.page.start.position if look is None else look.pose.position

    def _turned(self, place: Vector) -> bool:
        """Whether the splats' colours are of another place."""
        if self._place is None:
            return True
        near, far = sorted((float(np.linalg.norm(place)), float(np.linalg.norm(self._place))))
        if near == 0.0 or far > 1.1 * near:
            return not np.array_equal(place, self._place)
        return bool(place @ self._place < _TURNED * near * far)


def status(moment: Moment, board: Board) -> str:
    """A few lines of markdown about a model."""
    total = len(moment.gaussians)
    lines = [f"**{moment.phase}**"] if moment.phase else []
    of = f" of {moment.of:,}" if moment.of else ""
    paused = ", paused" if board.paused else ""
    lines.append(f"**iteration {moment.iteration:,}**{of}{paused}")
    shown = f", of which {LIMIT:,} are shown" if total > LIMIT and board.mode == "splats" else ""
    lines.append(f"{total:,} Gaussians{shown}")
    figures = [f"{name} {value:.4g}" for name, value in moment.figures.items()]
    if figures:
        lines.append(", ".join(figures))
    if board.step is not None and moment.of:
        lines.append(f"*looking back at iteration {board.step:,}*")
    return "  \n".join(lines)
