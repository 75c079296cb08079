"""The photographs' cameras in the scene: pyramids with the photograph on their base, and the way to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scene import Camera, NamedCamera, Scene
from scene.geometry import Array
from viewer.board import Board
from viewer.faults import Faults
from viewer.frame import RADIUS, Frame, Pose
from viewer.overview import best_look, in_the_way

if TYPE_CHECKING:
    import viser

MOST = 400  # pyramids; of more cameras, so many spread evenly
PHOTOGRAPHS = 60  # of them with their photograph: some 5 kB each for the browser
THUMBNAIL = 192  # larger side, pixels
COLOURS = {"train": (255, 168, 56), "test": (96, 178, 255)}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Stand:
    """A camera to show and to go to.

    Attributes:
        name: of its photograph.
        camera: in the world.
        kind: what the photograph is used for.
        photograph: [H, W, 3] uint8; None where it is not at hand.
    """

    name: str
    camera: Camera
    kind: Literal["train", "test"]
    photograph: Tensor | None


def stands_of(scene: Scene) -> list[Stand]:
    """The cameras of a scene: those trained on, then those held out."""
    return [
        *(Stand(view.name, view.camera, "train", view.pixels) for view in scene.train),
        *(Stand(view.name, view.camera, "test", view.pixels) for view in scene.test),
    ]


def stands_on_record(cameras: Sequence[NamedCamera]) -> list[Stand]:
    """The cameras of a run whose scene is gone."""
    return [Stand(named.name, named.camera, "train", None) for named in cameras]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def thumbnail(photograph: Tensor, side: int = THUMBNAIL) -> Pixels:
    """A photograph [H, W, 3] uint8 at a larger side of at most `side` pixels."""
    pixels = photograph.cpu().numpy()
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def standing_at(pose: Pose, frame: Frame, window_aspect: float) -> tuple[Array, Array, float]:
    """How a browser's camera sees what a photograph's camera sees.

    Args:
        pose: the photograph's, in viewer units.
        frame: says which way is up.
        window_aspect: width over height of the browser's picture, into which the photograph has to fit.

    Returns:
        What to look at [3], straight ahead at the distance of the centre, so that one orbits around that;
        the up direction [3], nearest to the scene's of those that give exactly this roll; and the vertical
        field of view in radians.
    """
    right, down, forward = pose.axes.T
    ahead = max(float(-pose.position @ forward), 0.25 * RADIUS)
    up = frame.up - (frame.up @ right) * right
    if up @ -down < 0.1:  # held sideways or overhead
        up = -down
    half = np.tan(pose.fov / 2) * max(1.0, pose.aspect / window_aspect)
    return pose.position + ahead * forward, up / np.linalg.norm(up), float(2 * np.arctan(half))


class Stands:
    """Shows them.

    Args:
        server: where.
        stands: all of them; `MOST` get a pyramid.
        frame: the viewer's units.
        board: hears which one somebody went to.
        faults: hears of errors in what a click does.
    """

    def __init__(
        self, server: viser.ViserServer, stands: Sequence[Stand], frame: Frame, board: Board, faults: Faults
    ) -> None:
        self.all = list(stands)
        self.went: Callable[[], None] = lambda: None  # called when somebody has gone to one
        self._server, self._frame, self._board, self._faults = server, frame, board, faults
        self._poses = [frame.pose(stand.camera) for stand in stands]
        self._shown = spread(len(stands), MOST)
        self._places = np.array([self._poses[i].position for i in self._shown]).reshape(-1, 3)
        self.size = self._fitting_size()
        self._visible, self._near = True, np.zeros(len(self._shown), bool)
        self._handles: list[viser.CameraFrustumHandle] = []
        self._built = False
        self._thumbnails: dict[int, Pixels] = {}

    def first_look(self) -> Pose:
        """Where a browser's camera begins: where photographs hide little."""
        if not self.all:
            return self._frame.first_look(None)
        trained = [stand.camera for stand in self.all if stand.kind == "train"]
        cameras = trained or [stand.camera for stand in self.all]
        return best_look(self._frame, cameras, [self._poses[i] for i in self._shown], self.size)

    def build(self) -> None:
        """Puts them into the scene; some milliseconds for each photograph."""
        with_photograph = [i for i in self._shown if self.all[i].photograph is not None]
        for k in spread(len(with_photograph), PHOTOGRAPHS) if with_photograph else []:
            photograph = self.all[with_photograph[k]].photograph
            assert photograph is not None
            self._thumbnails[with_photograph[k]] = thumbnail(photograph)
        for index in self._shown:
            stand, pose = self.all[index], self._poses[index]
            handle = self._server.scene.add_camera_frustum(
                f"/cameras/{index:05}",
                fov=pose.fov,
                aspect=pose.aspect,
                scale=self.size,
                thickness=1.5,
                thickness_units="screen",
                color=COLOURS[stand.kind],
                image=self._thumbnails.get(index),
                jpeg_quality=80,
                wxyz=pose.wxyz,
                position=pose.position,
                visible=self._visible,
                cast_shadow=False,
                receive_shadow=False,
            )
            handle.on_click(self._faults.guarded(lambda event, i=index: self.go(event.client, i)))
            self._handles.append(handle)
        self._built = True
        self.step_aside()  # for who has come meanwhile

    def show(self, visible: bool) -> None:
        """Shows or hides all."""
        self._visible = visible
        for handle, near in zip(self._handles, self._near, strict=True):
            handle.visible = visible and not near

    def show_photographs(self, visible: bool) -> None:
        """Puts the photographs on, or takes them off."""
        for handle, index in zip(self._handles, self._shown, strict=True):
            handle.image = self._thumbnails.get(index) if visible else None

    def resize(self, size: float) -> None:
        """Sets the height of the pyramids, viewer units."""
        self.size = size
        for handle in self._handles:
            handle.scale = size

    def step_aside(self) -> None:
        """Hides those at which somebody stands: a photograph right before one's eyes hides all else."""
        if not self._built:
            return
        near = np.zeros(len(self._shown), bool)
        for look in self._board.looks.values():
            near |= in_the_way(self._places, look.pose.position, self.size)
        for k in np.flatnonzero(near != self._near):
            self._handles[k].visible = self._visible and not bool(near[k])
        self._near = near

    def go(self, client: Any, index: int) -> None:
        """Brings a browser's camera (of all browsers, where `client` is None) to a photograph's."""
        pose = self._poses[index]
        for browser in [client] if client is not None else self._server.get_clients().values():
            camera = browser.camera
            at, up, fov = standing_at(pose, self._frame, camera.aspect)
            _place(browser, pose.position, at, up, fov)
        self._board.tell(chosen=index)
        self.went()

    def overview(self, client: Any, pose: Pose) -> None:
        """Brings a browser's camera to a pose, looking at the centre."""
        for browser in [client] if client is not None else self._server.get_clients().values():
            _place(browser, pose.position, np.zeros(3), self._frame.up, pose.fov)

    def face(self, client: Any, up: Array) -> None:
        """Brings a browser's camera before the centre, with another direction up."""
        pose = replace(self._frame, up=up).first_look(None)
        _place(client, pose.position, np.zeros(3), up, pose.fov)

    def _fitting_size(self) -> float:
        """Large enough to see the photographs from afar, and less than the way to the next camera."""
        if len(self._places) < 2:
            return 0.06 * RADIUS
        # to the nearest neighbour, of at most 100 of them
        some = self._places[spread(len(self._places), 100)]
        away = np.linalg.norm(some[:, None] - some[None], axis=-1) + np.diag(np.full(len(some), np.inf))
        return float(np.clip(0.6 * np.median(away.min(1)), 0.02 * RADIUS, 0.06 * RADIUS))


def _place(browser: Any, position: Array, at: Array, up: Array, fov: float) -> None:
    with browser.atomic():
        browser.camera.up_direction = up
        browser.camera.position = position
        browser.camera.look_at = at
        browser.camera.fov = fov
