"""A training that only counts, and a viewer that looks at it."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import torch

from gaussian_model import Gaussians
from scene import Scene
from tests.viewer.fake_browser import PATIENCE_S
from viewer.painter import Style
from viewer.training import NoViewer, Viewer, open_viewer

NEVER = SimpleNamespace(requested=False)


def open_free(scene: Scene, stop: Any = NEVER, port: int | None = None) -> Viewer:
    viewer = open_viewer(
        True,
        scene,
        host="localhost",
        port=free_port() if port is None else port,
        style=Style(antialiased=False, backend="cpu"),
        background=torch.zeros(3),
        iterations=1000,
        stop=stop,
    )
    assert isinstance(viewer, Viewer)
    return viewer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def port_of(viewer: Viewer) -> int:
    return viewer._session.page.port


class Loop:
    """A training that only counts, in a thread of its own."""

    def __init__(self, viewer: NoViewer, gaussians: Gaussians) -> None:
        self.iteration, self.gaussians = 0, gaussians
        self._viewer, self._ends = viewer, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            self.iteration += 1
            self._viewer.step(self.iteration, self.gaussians, {"loss": 0.5})
            time.sleep(0.002)

    def goes_on(self) -> bool:
        """Whether ten more iterations are done before patience ends."""
        until, last = time.monotonic() + PATIENCE_S, self.iteration + 10
        while time.monotonic() < until and self.iteration < last:
            time.sleep(0.01)
        return self.iteration >= last

    def stands(self) -> bool:
        """Whether it comes to a stand; nothing happens for a fifth of a second then."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            before = self.iteration
            time.sleep(0.2)
            if self.iteration == before:
                return True
        return False

    def end(self) -> None:
        self._ends = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
