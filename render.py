"""Renders a trained scene: test and train views with figures, depth maps, novel-view videos.

    python render.py -m output/garden --video auto
    python render.py -m output/other --ply their.ply -s scenes/garden --eval

Reads what train.py wrote, or the .ply of any 3DGS trainer. What comes out lies in the output folder:
`test/ours_N/{renders,gt,depth}`, `results.json`, `per_view.json`, `video/ours_N/*.mp4`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from begin import begin

begin()

import torch
import tyro
from tyro.conf import FlagCreatePairsOff, arg

from configs import Config, load_saved_config
from engine import LogLevel, OutputFolder, device_for, hear, load_finished, run_command
from errors import UserError
from evaluation import evaluate, film, load_perceptual, write_report
from gaussian_model import Gaussians, load_ply
from native import set_threads
from rasterizer import RenderOutput, resolve_backend
from reporting import write_page
from scene import Camera, Scene, load_scene, read_cameras_json
from scene.paths import camera_path

Flag = FlagCreatePairsOff[bool]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What render.py can be told. What is not given is as it was in training."""

    model_path: Annotated[Path, arg(aliases=("-m",), metavar="FOLDER")]
    """The output folder of a run; results go there too."""
    source_path: Annotated[Path | None, arg(aliases=("-s",), metavar="FOLDER")] = None
    """The scene, if it is not where it was in training."""
    ply: Annotated[Path | None, arg(metavar="FILE")] = None
    """Gaussians to render instead of the run's own: any 3DGS .ply."""
    iteration: int = -1
    """Which of the run's saved Gaussians; -1 = the newest."""
    skip_train: Flag = False
    """Leave out the training views."""
    skip_test: Flag = False
    """Leave out the test views."""
    video: Literal["auto", "spiral", "ellipse", "interpolated", "none"] = "none"
    """New views: spiral, ellipse, or a flight through the training cameras; auto: by how these stand."""
    n_frames: int = 120
    """Length of the video."""
    fps: int = 30
    """Frames per second."""
    depth_video: Flag = False
    """Depth in colour to the right of the picture."""
    frames: Flag = False
    """Keep the video's frames as PNG files too."""
    report: Flag = False
    """Write report.html, the story of the run on one page, with the pictures that are rendered now."""
    eval: Flag = False
    """Hold out test views, even if the run did not (or is not known, with --ply)."""
    resolution: Annotated[int | None, arg(aliases=("-r",))] = None
    """Image size, as in training."""
    white_background: Annotated[Flag, arg(aliases=("-w",))] = False
    """White behind the Gaussians."""
    backend: Literal["auto", "gsplat", "cpu", "reference"] | None = None
    """Rasterizer."""
    threads: int | None = None
    """CPU threads; 0 = all cores."""
    quiet: Flag = False
    """No progress bars."""
    log_level: LogLevel = "info"
    """What is said on the way; debug: also what libraries say, and where an error came from."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options; None = the process's arguments."""
    return tyro.cli(Options, args=arguments, use_underscores=True, description=__doc__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Renders what the command line asks for."""
    options = parse(arguments)
    hear(options.log_level)
    if options.skip_train and options.skip_test and options.video == "none" and not options.report:
        raise UserError(
            "--skip_train and --skip_test without --video or --report leave nothing to do: drop one of them"
        )
    if options.n_frames < 1 or options.fps < 1:
        raise UserError(f"--n_frames {options.n_frames}, --fps {options.fps}: expected at least 1; give more")
    config = resolve_config(options)
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    set_threads(threads)
    backend = resolve_backend(config.backend)
    iteration, gaussians = load_gaussians(options)
    if not len(gaussians):
        raise UserError(f"{options.ply or options.model_path}: expected Gaussians to render, got none")
    gaussians = gaussians.to(device_for(backend))
    scene = load_views(options, config)
    mean = torch.zeros(3) if scene is None else scene.mean_colour
    background = config.model.evaluation_background(mean).to(gaussians.device)

    def render(camera: Camera) -> RenderOutput:
        return gaussians.render(
            camera, background=background, antialiased=config.model.antialiased, backend=backend
        )

    folder = OutputFolder(options.model_path)
    print(f"{len(gaussians):,} Gaussians of iteration {iteration}")
    if scene is not None and not (options.skip_train and options.skip_test):
        perceptual = load_perceptual(gaussians.device)
        if options.skip_train and not scene.test:
            _log.warning("no test views (--eval holds some out), and --skip_train leaves out the others")
        for split, views in (("test", scene.test), ("train", scene.train)):
            if not views or (options.skip_test if split == "test" else options.skip_train):
                continue
            pictures = folder.renders(split, iteration)
            report = evaluate(
                views,
                lambda view: render(view.camera),
                background=background,
                perceptual=perceptual,
                folder=pictures,
                progress="" if options.quiet else split,
            )
            # the family's metric tools expect the test figures at the top
            own = split == "test" and not departs_from_training(options)
            write_report(options.model_path if own else pictures, report, iteration)
            print(report.table(split, views=len(views) <= 24), f"{split} pictures: {pictures}", sep="\n")
    if options.video != "none":
        make_video(options, scene, gaussians, render, iteration)
    if options.report:
        print(f"report: {write_page(options.model_path)}")


def departs_from_training(options: Options) -> bool:
    """Whether options change what is measured, so that the run's own figures must stay."""
    has_run = OutputFolder(options.model_path).config.is_file()
    changed = options.ply is not None or options.resolution is not None or options.white_background
    return has_run and changed


def resolve_config(options: Options) -> Config:
    """The run's configuration with the options given here put over it; defaults for a bare .ply."""
    if options.ply is not None and not OutputFolder(options.model_path).config.is_file():
        config = Config()
    else:
        config = load_saved_config(options.model_path)
    given = {key: value for key, value in vars(options).items() if value is not None and value is not False}
    scene = {key: given[key] for key in ("eval", "resolution") if key in given}
    top = {key: given[key] for key in ("source_path", "backend", "threads") if key in given}
    model: dict[str, Any] = {"background": "white"} if options.white_background else {}
    return dataclasses.replace(
        config,
        scene=dataclasses.replace(config.scene, **scene),
        model=dataclasses.replace(config.model, **model),
        **top,
    )


def load_gaussians(options: Options) -> tuple[int, Gaussians]:
    """The Gaussians asked for and their iteration: a given .ply, else the run's .ply, else its checkpoint.

    Raises:
        UserError: If there are none, or a file is damaged.
    """
    if options.ply is not None:
        named = re.search(r"iteration_(\d+)", str(options.ply))
        iteration = options.iteration if options.iteration >= 0 else int(named[1]) if named else 0
        return iteration, load_ply(options.ply)
    return load_finished(OutputFolder(options.model_path), options.iteration)


def load_views(options: Options, config: Config) -> Scene | None:
    """The scene; None, said aloud, if it is gone but its cameras are on record."""
    source, cameras = config.source_path, OutputFolder(options.model_path).cameras
    if options.source_path is None and options.ply is not None and source == Path():
        raise UserError(f"--ply {options.ply}: no cameras to render it from; give their scene by -s")
    if options.source_path is None and not source.is_dir() and cameras.is_file():
        _log.warning("the scene is gone (%s): no figures, only new views along %s", source, cameras)
        return None
    return load_scene(source, config.scene, quiet=options.quiet)


def make_video(
    options: Options,
    scene: Scene | None,
    gaussians: Gaussians,
    render: Callable[[Camera], RenderOutput],
    iteration: int,
) -> None:
    """Films a path around the training cameras, or those on record."""
    folder = OutputFolder(options.model_path)
    cameras = (
        [view.camera for view in scene.train]
        if scene is not None
        else [named.camera for named in read_cameras_json(folder.cameras)]
    )
    if not cameras:
        raise UserError(f"{folder.cameras}: expected cameras, got none; give their scene by -s")
    with torch.no_grad():
        points = gaussians.params["means"][gaussians.linear_opacities() > 0.5]
    assert options.video != "none"
    kind, path = camera_path(options.video, cameras, options.n_frames, points=points)
    target = folder.path / "video" / f"ours_{iteration}" / f"{kind}.mp4"
    frames = target.with_suffix("") if options.frames else None
    film(path, render, target, fps=options.fps, depth=options.depth_video, frames=frames, quiet=options.quiet)
    print(f"video: {target}")


if __name__ == "__main__":
    run_command(main)
