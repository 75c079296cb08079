"""`scripts/view`: a finished model in a browser, with the photographs' cameras to go to.

Takes the output folder of a run (of this program, or of another 3DGS trainer with the same layout) or a bare
.ply. The scene's photographs are shown where it is still there, else the cameras on record alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from configs import Config, load_saved_config
from engine import OutputFolder, device_for, load_iteration, saved_iterations
from errors import UserError
from gaussian_model import Gaussians, load_ply
from scene import SceneError, load_scene, read_cameras_json
from viewer.board import Board
from viewer.faults import Faults
from viewer.frame import Frame
from viewer.painter import Style
from viewer.panel import Steps
from viewer.server import ViewerError, url_of, where
from viewer.session import Moment, Session
from viewer.setting import Setting
from viewer.stands import Stand, stands_of, stands_on_record

_SIDE = 1024  # pixels; larger side of a rendered picture at first
_IDLE_S = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Finished:
    """What is on disk.

    Attributes:
        title: its name.
        iterations: of the Gaussians that are saved, ascending; of a bare .ply, one.
        load: reads those of an iteration.
        stands: the photographs' cameras; none for a bare .ply.
        background: colour behind the Gaussians, each in [0, 1].
        antialiased: how they were trained.
    """

    title: str
    iterations: tuple[int, ...]
    load: Callable[[int], Gaussians]
    stands: list[Stand]
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False


def find(path: Path, source: Path | None = None) -> Finished:
    """What there is to show at `path`.

    Args:
        path: an output folder, or a .ply.
        source: the scene, where it is not where it was in training.

    Raises:
        UserError: there is nothing, or what there is cannot be read.
    """
    if path.is_file():
        if path.suffix.lower() != ".ply":
            raise UserError(
                f"{path}: expected the output folder of a run or a .ply, got another file: name one"
            )
        named = re.search(r"iteration_(\d+)", str(path.absolute()))
        stands = [] if source is None else _stands(source, Config(), None)[0]
        return Finished(path.stem, (int(named[1]) if named else 0,), lambda _: load_ply(path), stands)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or file: name the output folder of a run, or a .ply")
    folder = OutputFolder(path)
    iterations = saved_iterations(folder)
    if not iterations:
        raise UserError(
            f"{path}: expected Gaussians in point_cloud/iteration_N/point_cloud.ply, got none: name the "
            "output folder of a run, or a .ply"
        )
    if folder.config.is_file():
        config = load_saved_config(path)
    else:
        config = Config()
        _log.warning("%s: none, so not a run of this program; the background is black", folder.config)
    if source is not None:
        config = replace(config, source_path=source)
    stands, mean = _stands(config.source_path, config, folder.cameras)
    background = config.model.evaluation_background(mean).tolist()
    return Finished(
        path.resolve().name,
        iterations,
        lambda iteration: load_iteration(folder, iteration),
        stands,
        (background[0], background[1], background[2]),
        config.model.antialiased,
    )


class Exhibition:
    """Shows a finished model; whoever opens it calls `serve` again and again.

    Args:
        finished: what to show.
        iteration: which of its iterations at first; -1 is the newest.
        host: "localhost", or an address of this machine.
        port: the first one to try.
        style: how the program renders.

    Attributes:
        board: the wishes of who looks.
        gaussians: those that are shown.
        line: says where the viewer is.

    Raises:
        UserError: that iteration is not there, its file is damaged, or the viewer cannot be opened.
    """

    def __init__(self, finished: Finished, iteration: int, host: str, port: int, style: Style) -> None:
        if iteration >= 0 and iteration not in finished.iterations:
            have = ", ".join(map(str, finished.iterations))
            raise UserError(
                f"--iteration {iteration}: expected one of those saved, {have}: choose one of them"
            )
        self._finished, self._device = finished, device_for(style.backend)
        self._at = finished.iterations[-1] if iteration < 0 else iteration
        self.gaussians = finished.load(self._at).to(self._device)
        if not len(self.gaussians):
            _log.warning("%s: iteration %d has no Gaussians: only cameras are seen", finished.title, self._at)
        self.board = Board(every=1, side=_SIDE, background=finished.background)
        self.board.step = self._at
        self._faults = Faults(self.board.close, "the viewer goes on")
        self.frame = Frame.around([stand.camera for stand in finished.stands], _well_seen(self.gaussians))
        steps = Steps(finished.iterations, training=False)
        title = f"Fewsplat: {finished.title}"
        try:
            setting = Setting(
                (host, port), title, self.frame, finished.stands, self.board, steps, self._faults
            )
            self._session = Session(setting, style)
        except TimeoutError as error:
            raise ViewerError(f"the viewer does not open ({error}): try another port") from error
        self.port = self._session.page.port
        self.line = f"{where(url_of(host, self.port), port)} (Ctrl-C ends it)"

    def serve(self) -> bool:
        """Does the next thing that is due, if any; says whether it did."""
        if not self.board.watched:
            return False
        try:
            self._change()
            return self._session.serve(Moment(self.gaussians, self._at), eager=True)
        except Exception as error:
            self._faults.note(error)
            return False

    def close(self) -> None:
        """Closes it; takes some seconds at most."""
        self._session.close("**the viewer was closed**")

    def _change(self) -> None:
        """Reads the Gaussians of another iteration, where one is wished for."""
        wish = self._at if self.board.step is None else self.board.step
        wanted = min(self._finished.iterations, key=lambda iteration: abs(iteration - wish))
        if wanted != self._at:
            try:
                self.gaussians, self._at = self._finished.load(wanted).to(self._device), wanted
            except UserError:
                self.board.tell(step=self._at)  # a damaged file is not tried again
                raise


def view(exhibition: Exhibition) -> None:
    """Serves it until the program is interrupted, and closes it.

    Raises:
        KeyboardInterrupt: that is how it ends.
        UserError: too much went wrong.
    """
    try:
        while not exhibition.board.closed:
            if not exhibition.serve():
                exhibition.board.wait(_IDLE_S)
    finally:
        exhibition.close()
    raise UserError("the viewer was given up after the warnings above: start it again")


def _stands(source: Path, config: Config, on_record: Path | None) -> tuple[list[Stand], Tensor]:
    """The cameras, with the photographs of the scene if it is still there; and the photographs' mean colour.

    Raises:
        SceneError: neither the scene nor a record of its cameras can be read.
    """
    recorded = on_record is not None and on_record.is_file()
    if source != Path() and (source.is_dir() or not recorded):
        try:
            scene = load_scene(source, config.scene)
            return stands_of(scene), scene.mean_colour
        except SceneError as error:
            if not recorded:
                raise
            _log.warning("%s; the cameras on record are shown without photographs", error)
    elif recorded and source != Path():
        _log.warning("the scene is gone (%s): its cameras are shown without photographs", source)
    if not recorded or on_record is None:
        return [], torch.zeros(3)
    return stands_on_record(read_cameras_json(on_record)), torch.zeros(3)


def _well_seen(gaussians: Gaussians) -> Tensor:
    """Places [P, 3] of the opaque Gaussians, which say where things are; of all, where few are opaque."""
    means, opacities = gaussians.params["means"].detach(), gaussians.linear_opacities().detach()
    seen = means[opacities > 0.5]
    return seen if len(seen) >= 0.01 * len(means) else means
