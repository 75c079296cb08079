"""The controls beside the picture: what each does is a wish on the board, or a word to the cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewer.board import Board
from viewer.faults import Faults
from viewer.frame import Pose
from viewer.stands import Stands

if TYPE_CHECKING:
    import viser

SIDES = (128, 1920)  # larger side of a rendered picture, pixels
EVERY = (1, 500)  # iterations between two pictures of the training
SHOWN = {  # what the list says, and what it means
    "splats (drawn by the browser)": "splats",
    "rendered by the program": "rendered",
    "depth": "depth",
}


@dataclass(frozen=True)
class Steps:
    """The steps that one can look at: all saved ones of a finished run, or those of a training so far.

    Attributes:
        iterations: known from the start; empty for a training.
        training: it is going on: it can be paused, and is shown as it goes.
    """

    iterations: tuple[int, ...]
    training: bool


class Panel:
    """Builds the controls and keeps those that say something.

    Args:
        server: where.
        board: gets the wishes.
        stands: the cameras.
        overview: the pose to come back to.
        steps: what one can look at.
        refresh: called when the mode or the background has changed.
        look_back: called when somebody has wished for another step; the board says for which one.
        faults: hears of errors in what a control does.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        board: Board,
        stands: Stands,
        overview: Pose,
        steps: Steps,
        refresh: Callable[[], None],
        look_back: Callable[[], None],
        faults: Faults,
    ) -> None:
        self._server, self._board, self._stands, self._steps = server, board, stands, steps
        self._guarded = faults.guarded
        gui = server.gui
        gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, brand_color=(255, 168, 56)
        )
        self._status = gui.add_markdown("")
        self._progress = gui.add_progress_bar(0.0, visible=steps.training)
        if steps.training:
            self._build_pause()
        self._build_steps(look_back)
        self._build_picture(refresh, look_back)
        if stands.all:
            self._build_cameras(overview)
        else:
            self._build_up()

    def say(self, status: str, progress: float | None = None) -> None:
        """Shows a status (markdown), and how much of the training is done, in [0, 1]."""
        self._status.content = status
        if progress is not None:
            self._progress.value = 100.0 * min(max(progress, 0.0), 1.0)  # type: ignore[misc]

    def span(self, first: int, last: int) -> None:
        """Says which iterations can be looked at; the slider follows the newest, unless one looks back.

        It moves in the server's own thread, as what somebody wishes for arrives there: neither can come
        between a wish and its reading.
        """
        if last > first:
            self._server.get_event_loop().call_soon_threadsafe(self._guarded(self._reach), first, last)

    def _reach(self, first: int, last: int) -> None:
        self._step.min, self._step.max = first, last
        self._step.disabled = False
        if self._board.step is None:
            self._step.value = last  # type: ignore[misc]

    def to_splats(self) -> None:
        """Has the browser draw, as earlier steps are known in no other form."""
        self._mode.value = next(iter(SHOWN))  # type: ignore[misc]

    def follow(self) -> None:
        """Puts the controls to the state of the board, where the program itself has changed it."""
        if self._steps.training:
            self._draw_pause()

    def show_comparison(self, pixels: NDArray[np.uint8], words: str) -> None:
        """Shows a picture [H, W, 3] in the panel, and words below it."""
        self._comparison.image = pixels
        self._comparison.visible = self._words.visible = self._board.compare
        self._words.content = words

    def _build_pause(self) -> None:
        self._pause = self._server.gui.add_button("Pause training")
        self._pause.on_click(self._guarded(lambda event: self._toggle_pause()))

    def _toggle_pause(self) -> None:
        self._board.tell(paused=not self._board.paused)
        self._draw_pause()

    def _draw_pause(self) -> None:
        from viser import Icon

        self._pause.label = "Resume training" if self._board.paused else "Pause training"
        self._pause.icon = Icon.PLAYER_PLAY if self._board.paused else Icon.PLAYER_PAUSE

    def _build_steps(self, look_back: Callable[[], None]) -> None:
        gui, board, saved = self._server.gui, self._board, self._steps.iterations
        hint = (
            "look back at earlier steps, as far as they were shown; at its right end, the newest"
            if self._steps.training
            else "which of the run's saved iterations to show"
        )
        low, high = (min(saved), max(saved)) if len(saved) > 1 else (0, 1)
        self._step = gui.add_slider(
            "step", low, high, 1, board.step if len(saved) > 1 and board.step is not None else high,
            marks=tuple(saved) if 1 < len(saved) <= 6 else None,
            disabled=len(saved) < 2, visible=self._steps.training or len(saved) > 1, hint=hint,
        )  # fmt: skip

        def wish() -> None:
            newest = self._steps.training and self._step.value >= self._step.max
            board.tell(step=None if newest else int(self._step.value))

        @self._step.on_update
        async def _(event: Any) -> None:  # in the server's own thread, hence in order; see `span`
            if event.client_id is not None:  # else it only follows the training
                self._guarded(wish)()
                self._server.get_event_loop().run_in_executor(None, self._guarded(look_back))

        if self._steps.training:
            every = gui.add_slider(
                "refresh every", EVERY[0], EVERY[1], 1, board.every,
                hint="iterations between two pictures of the training; more, where these would slow it down",
            )  # fmt: skip
            every.on_update(self._guarded(lambda event: board.tell(every=int(every.value))))

    def _build_picture(self, refresh: Callable[[], None], look_back: Callable[[], None]) -> None:
        gui, board = self._server.gui, self._board
        with gui.add_folder("Picture"):
            self._mode = gui.add_dropdown(
                "show", tuple(SHOWN),
                hint="the browser is fluent and simplifies a little; the program shows what training sees",
            )  # fmt: skip
            colour = gui.add_rgb("background", tuple(round(255 * c) for c in board.background))  # type: ignore[arg-type]
            side = gui.add_slider(
                "resolution", *SIDES, 16, board.side, hint="larger side of a rendered picture, pixels"
            )

        def change(event: Any) -> None:
            board.tell(mode=SHOWN[self._mode.value], background=tuple(c / 255.0 for c in colour.value))
            if self._steps.training and board.mode != "splats" and board.step is not None:
                board.tell(step=None)  # what is rendered is the newest
                look_back()
            refresh()

        self._mode.on_update(self._guarded(change))
        colour.on_update(self._guarded(change))
        side.on_update(self._guarded(lambda event: board.tell(side=int(side.value))))

    def _build_up(self) -> None:
        """Without cameras nothing tells which way is up."""
        server, ways = self._server, ("-y", "+y", "-z", "+z", "-x", "+x")
        up = server.gui.add_dropdown("up", ways, hint="which direction of the model is up")

        def turn(event: Any) -> None:
            for client in server.get_clients().values():
                direction = np.zeros(3)
                direction["xyz".index(up.value[1])] = 1.0 if up.value[0] == "+" else -1.0
                self._stands.face(client, direction)

        up.on_update(self._guarded(turn))

    def _build_cameras(self, overview: Pose) -> None:
        gui, board, stands = self._server.gui, self._board, self._stands
        names = [
            f"{i + 1}  {stand.name}" + ("  (test)" if stand.kind == "test" else "")
            for i, stand in enumerate(stands.all)
        ]
        some_photograph = any(stand.photograph is not None for stand in stands.all)
        with gui.add_folder("Cameras"):
            where = gui.add_dropdown("go to", ("overview", *names), hint="or click a camera in the picture")
            steps = gui.add_button_group("", ("previous", "next"))
            shown = gui.add_checkbox("visible", True, hint="orange: trained on; blue: held out")
            photographs = gui.add_checkbox("photographs", some_photograph, visible=some_photograph)
            size = gui.add_slider("size", 0.1, 5.0, 0.1, 1.0, hint="of the cameras; 1 is what fits the scene")
            compare = gui.add_checkbox(
                "compare", board.compare, visible=some_photograph,
                hint="the chosen camera's photograph above what the Gaussians show from there",
            )  # fmt: skip
            blank = np.zeros((2, 2, 3), np.uint8)
            self._comparison = gui.add_image(blank, visible=False, format="jpeg", jpeg_quality=90)
            self._words = gui.add_markdown("", visible=False)
        usual = stands.size

        def go(client: Any, index: int | None) -> None:
            if index is None:
                stands.overview(client, overview)
            else:
                stands.go(client, index % len(names))

        def chosen() -> None:  # by a click in the picture too
            if board.chosen is not None and where.value != names[board.chosen]:
                where.value = names[board.chosen]  # type: ignore[misc]

        def choose(event: Any) -> None:
            if event.client_id is not None:
                go(event.client, None if where.value == "overview" else names.index(where.value))

        def pass_on(event: Any) -> None:
            by = 1 if steps.value == "next" else -1
            here = board.chosen if board.chosen is not None else (-1 if by > 0 else 0)
            go(event.client, here + by)

        def toggle(event: Any) -> None:
            board.tell(compare=compare.value)
            self._comparison.visible = self._words.visible = False  # shown again with the next picture

        where.on_update(self._guarded(choose))
        steps.on_click(self._guarded(pass_on))
        shown.on_update(self._guarded(lambda event: stands.show(shown.value)))
        photographs.on_update(self._guarded(lambda event: stands.show_photographs(photographs.value)))
        size.on_update(self._guarded(lambda event: stands.resize(usual * size.value)))
        compare.on_update(self._guarded(toggle))
        stands.went = chosen
