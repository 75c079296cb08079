"""The page that browsers see: a server, the scene in it and the controls. Everything here talks to viser.

Only the courier's thread and the server's own ones come here: the program's thread never waits for them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewer.frame import Pose
from viewer.history import History
from viewer.panel import Panel
from viewer.server import close_server, open_server
from viewer.setting import Setting
from viewer.splats import Splats
from viewer.stands import Stands

if TYPE_CHECKING:
    import viser

_LAST_WORDS_S = 0.1  # the server collects messages for a sixtieth of a second

Pixels = NDArray[np.uint8]


class Page:
    """Opens the page; browsers may come from then on.

    Args:
        setting: what it shows, to whom.

    Raises:
        ViewerError, TimeoutError: it cannot be opened.
    """

    def __init__(self, setting: Setting) -> None:
        frame, stands, board, steps = setting.frame, setting.stands, setting.board, setting.steps
        self._board, self._steps, self._faults = board, steps, setting.faults
        faults = setting.faults
        self._server = server = open_server(*setting.address, setting.title, faults)
        self._lock = threading.Lock()
        self._history = History()
        self._splats: viser.GaussianSplatHandle | None = None
        self._stands = Stands(server, stands, frame, board, faults)
        first = self._stands.first_look()
        server.scene.set_up_direction(frame.up)
        start = server.initial_camera
        start.position, start.look_at, start.up, start.fov = first.position, np.zeros(3), frame.up, first.fov
        self.start = first
        self._panel = Panel(server, board, self._stands, first, steps, self.refresh, self._look_back, faults)
        self._paint(server)  # until a browser gets its own
        server.on_client_connect(faults.guarded(self._welcome))
        server.on_client_disconnect(faults.guarded(lambda client: board.go(client.client_id)))

    @property
    def port(self) -> int:
        """Where it is, which may be another port than the one asked for."""
        return self._server.get_port()

    def furnish(self) -> None:
        """Puts the cameras into the scene."""
        self._stands.build()

    def show_splats(self, splats: Splats, iteration: int) -> None:
        """Shows the Gaussians of an iteration; where somebody looks back, it is kept for later."""
        with self._lock:
            if self._steps.training:
                self._history.add(iteration, splats)
            if self._board.step is None or not self._steps.training:
                self._draw(splats)
        if self._steps.training:
            self._panel.span(*self._history.span)

    def show_picture(self, browser: int, pixels: Pixels) -> None:
        """Shows a rendered picture [H, W, 3] to one browser, in place of the splats."""
        client = self._server.get_clients().get(browser)
        with self._lock:
            if client is not None and self._board.mode != "splats":
                client.scene.set_background_image(pixels, format="jpeg", jpeg_quality=90)

    def show_comparison(self, pixels: Pixels, words: str) -> None:
        """Shows a photograph and its rendering in the panel."""
        self._panel.show_comparison(pixels, words)

    def say(self, status: str, progress: float | None = None) -> None:
        """Shows a status (markdown), and how much of the training is done, in [0, 1]."""
        for gone in self._board.looks.keys() - self._server.get_clients().keys():
            self._board.go(gone)
        self._panel.say(status, progress)

    def refresh(self) -> None:
        """Brings the scene to the mode and the background wished for, and the controls to the board."""
        with self._lock:
            for client in self._server.get_clients().values():
                self._paint(client)
            if self._splats is not None:
                self._splats.visible = self._board.mode == "splats"
        self._panel.follow()

    def close(self) -> None:
        """Closes it, once the last words are on their way."""
        self._server.flush()
        time.sleep(_LAST_WORDS_S)
        close_server(self._server)

    def _draw(self, splats: Splats) -> None:
        if len(splats) == 0:  # viser's shader has no picture of nothing
            if self._splats is not None:
                self._splats.remove()
                self._splats = None
            return
        colours, opacities = splats.colours[:, :3], splats.colours[:, 3:]
        arrays = splats.centers, splats.covariances(), colours, opacities
        if self._splats is None:
            self._splats = self._server.scene.add_gaussian_splats(
                "/splats", *arrays, visible=self._board.mode == "splats"
            )
        else:
            self._splats.set_gaussians(*arrays)

    def _paint(self, client: Any) -> None:
        """Puts the plain background behind a browser's splats, in one line with the pictures it gets."""
        plain = np.full((2, 2, 3), [round(255 * c) for c in self._board.background], np.uint8)
        client.scene.set_background_image(plain, format="png")

    def _welcome(self, client: Any) -> None:
        def note(camera: Any) -> None:
            if client.client_id not in self._server.get_clients():
                return  # it has just gone
            if min(camera.image_width, camera.image_height) < 1:
                return  # a window without a picture
            pose = Pose(
                np.array(camera.position, np.float64),
                np.array(camera.wxyz, np.float64),
                float(camera.fov),
                float(camera.aspect),
            )
            self._board.come(client.client_id, pose, camera.image_width, camera.image_height)
            self._stands.step_aside()

        async def moved(camera: Any) -> None:  # in the server's own thread, hence in order
            self._faults.guarded(note)(camera)

        self._paint(client)
        client.camera.on_update(moved)
        note(client.camera)

    def _look_back(self) -> None:
        """Shows the step that the board names: the last one, where there have been several wishes."""
        if not self._steps.training:
            return  # the program reads that iteration
        if self._board.step is not None:
            self._panel.to_splats()
        with self._lock:
            iteration = self._board.step
            kept = self._history.nearest(self._history.span[1] if iteration is None else iteration)
            if kept is not None:
                self._draw(kept[1])
