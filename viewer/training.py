"""`--viewer`: the training as it goes, in a browser. It costs nothing while nobody looks, and never stops it.

    with open_viewer(...) as viewer:
        for iteration in ...:
            ...
            viewer.step(iteration, gaussians)

Between two iterations the training's own thread copies or renders what is due, for at most `SHARE` of the
time; other threads bring it to the browsers. Nothing here writes to the Gaussians or draws random numbers, so
that a training gives the same bits whether or not somebody looks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from torch import Tensor
from tqdm import tqdm

from gaussian_model import Gaussians
from scene import Scene, title_of
from viewer.board import Board
from viewer.faults import Faults
from viewer.frame import Frame
from viewer.painter import Style
from viewer.panel import Steps
from viewer.server import url_of, where
from viewer.session import Moment, Session
from viewer.setting import Setting
from viewer.stands import stands_of

SHARE = 0.1  # of the time, at most, goes into the viewer while somebody looks
GONE_S = 20.0  # after which a training that was paused goes on, if nobody looks: a page may be reloading
STUCK_S = 60.0  # after which a courier that does not come back is taken for dead
_SIDE = 640  # pixels; larger side of a rendered picture at first
_EVERY = 10
_LAST_S = 1.0  # how long the last step waits for the courier to come back
_log = logging.getLogger(__name__)


class Stop(Protocol):
    """Says whether the program has been asked to stop; `engine.StopRequest` is one."""

    @property
    def requested(self) -> bool:
        """It has."""
        ...


class NoViewer:
    """Shows nothing: what training has where no viewer is wanted, or where none could be opened."""

    paused_seconds = 0.0

    def step(
        self,
        iteration: int,
        gaussians: Gaussians,
        figures: Mapping[str, float] | None = None,
        *,
        of: int = 0,
        phase: str = "",
    ) -> None:
        """Does nothing."""

    def __enter__(self) -> NoViewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Viewer(NoViewer):
    """Shows a training; see `open_viewer`.

    Attributes:
        paused_seconds: how long it has stood still because somebody wanted it to.
        url: for a browser.
    """

    def __init__(
        self,
        scene: Scene,
        address: tuple[str, int],
        style: Style,
        background: Tensor,
        iterations: int,
        stop: Stop,
    ) -> None:
        self._iterations, self._stop, self.paused_seconds = iterations, stop, 0.0
        red, green, blue = background.tolist()
        self._board = Board(every=_EVERY, side=_SIDE, background=(red, green, blue))
        self._faults = Faults(self._board.close, "training goes on")
        setting = Setting(
            address,
            f"Fewsplat: {title_of(scene.source)}",
            Frame.around([view.camera for view in scene.train], scene.points.xyz),
            stands_of(scene),
            self._board,
            Steps((), training=True),
            self._faults,
        )
        self._session = Session(setting, style)
        self._free_at = self._counted = 0.0
        self.url = url_of(address[0], self._session.page.port)

    def step(
        self,
        iteration: int,
        gaussians: Gaussians,
        figures: Mapping[str, float] | None = None,
        *,
        of: int = 0,
        phase: str = "",
    ) -> None:
        """Shows what is due after an iteration, and waits while somebody has paused the training.

        Returns at once where nobody looks. Whatever goes wrong is a warning; only what the program was asked
        to stop by (Ctrl-C twice, SIGTERM) comes out.

        Args:
            iteration: the one just completed.
            gaussians: the model after it; read, never kept.
            figures: names and values for the status line.
            of: the last iteration, where it is not the run's.
            phase: what is being trained, where it is not the run's own model.
        """
        if not self._board.watched:
            return
        try:
            moment = Moment(gaussians, iteration, of or self._iterations, figures or {}, phase)
            if self._board.paused:
                self._wait(moment)
            elif iteration >= moment.of:  # the end: nothing will be shown after it
                self._session.courier.rest(_LAST_S)
                self._session.serve(moment, eager=True)
            elif time.perf_counter() >= self._free_at:
                self._serve(moment)
        except Exception as error:
            self._faults.note(error)

    def _serve(self, moment: Moment) -> None:
        """Does what is due, then leaves the time to training for as long as the share demands."""
        began = time.perf_counter()
        if self._session.serve(moment, eager=False):
            ended = time.perf_counter()
            # the courier works on a core that training has threads on too; what it takes now counts next time
            cost, self._counted = ended - began - self._counted, self._session.courier.seconds
            cost += self._counted
            self._free_at = ended + cost * (1 / SHARE - 1)

    def _wait(self, moment: Moment) -> None:
        """Stands still until the training is resumed, everybody has gone, or the program has to stop."""
        board, began = self._board, time.perf_counter()
        seen, errands = began, began
        try:
            while board.paused and not self._stop.requested:
                self._session.serve(moment, eager=True)
                now = time.perf_counter()
                seen = now if board.looks else seen
                errands = errands if self._session.courier.busy else now
                if now - seen > GONE_S:
                    self._go_on("nobody looks any more")
                elif now - errands > STUCK_S:
                    self._faults.note(TimeoutError(f"no answer for {STUCK_S:.0f} s"))
                    self._go_on("the viewer does not answer")
                board.wait(0.05)
        finally:
            self.paused_seconds += time.perf_counter() - began

    def _go_on(self, why: str) -> None:
        _log.warning("viewer: the training was paused, and %s: it goes on", why)
        self._board.tell(paused=False)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        last = "**the training is over**" if error is None else "**the training was stopped**"
        try:
            self._session.close(f"{last}  \nits result opens with `scripts/view`")
        except Exception as fault:
            self._faults.note(fault)


def open_viewer(
    wanted: bool,
    scene: Scene,
    *,
    host: str,
    port: int,
    style: Style,
    background: Tensor,
    iterations: int,
    stop: Stop,
) -> NoViewer:
    """A viewer of a training; one that shows nothing where none is wanted, or (a warning) none can be had.

    Args:
        wanted: whether to open one.
        scene: its cameras and photographs are shown.
        host: "localhost", or an address of this machine.
        port: the first one to try.
        style: how the program renders.
        background: [3] colour behind the Gaussians at first.
        iterations: the run's last.
        stop: asked while the training is paused.
    """
    if not wanted:
        return NoViewer()
    try:
        viewer = Viewer(scene, (host, port), style, background, iterations, stop)
    except Exception as error:
        _log.warning("%s; training goes on without a viewer", error)
        return NoViewer()
    tqdm.write(where(viewer.url, port), file=sys.stderr)
    return viewer
