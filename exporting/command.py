"""The command line of scripts/export."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional, arg

from atomic import write_bytes
from engine import DISK_FULL, LogLevel, device_for, hear
from errors import UserError
from exporting import compressed_ply, page, splat, spz
from exporting.colours import fit_colours, mean_colours
from exporting.formats import DESCRIBED, FormatName
from exporting.selection import select
from exporting.source import Source, load_source
from exporting.splats import Floats, Splats
from exporting.viewpoint import Viewpoint, best_camera, camera_viewpoint, guessed_viewpoint, named_camera
from gaussian_model import Gaussians, save_ply
from native import set_threads
from rasterizer import available_backends

_log = logging.getLogger(__name__)
_FIT_STEPS = 300
_FLAT: frozenset[FormatName] = frozenset({"html", "splat"})  # no view dependence


@dataclass(frozen=True)
class Options:
    """Write a run's Gaussians, or a .ply, for sharing."""

    source: Annotated[Positional[Path], arg(metavar="OUTPUT|PLY")]
    """The output folder of a run (also another trainer's of the 3DGS layout), or any 3DGS .ply."""
    to: tuple[FormatName, ...] = ("html", "spz")
    """Formats: html (a page that shows the scene by itself), spz, splat, compressed_ply, ply."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None
    """Where the files go; files of the same name are replaced. Default: the folder export in the run's,
    or beside the .ply."""
    iteration: int = -1
    """Which of the run's saved Gaussians; -1 = the newest."""
    max_gaussians: int = 0
    """Keep at most so many: those with the largest opacity times area; 0 = all."""
    min_opacity: float = 0.004
    """Leave out what is fainter; renderers draw nothing below 1/255."""
    sh_degree: int | None = None
    """Cut colours to this SH degree, 0 (no view dependence) to 4; the formats and most viewers end at 3."""
    view: str | None = None
    """html: open at the camera of this image. Default: the one that looks most squarely at the scene."""
    background: Literal["black", "white"] | None = None
    """html: colour behind the Gaussians. Default: as in training."""
    fit_steps: int | None = None
    """html, splat: steps that fit the colours, which cannot change with the view there, to those that do; 0 =
    their mean over the cameras. Default: 300."""
    spz_version: Literal[2, 3] | None = None
    """spz: 2, which every reader knows, or 3 with finer rotations, for readers since 2025. Default: 2."""
    threads: int = 0
    """CPU threads; 0 = all cores."""
    quiet: bool = False
    """No progress bar."""
    log_level: LogLevel = "info"
    """What is said on the way; debug: also what libraries say, and where an error came from."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line.

    Raises:
        UserError: a number without meaning, or an option in vain.
    """
    options = tyro.cli(
        Options, args=arguments, prog="scripts/export", use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    _check(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports what the command line asks for."""
    options = parse(arguments)
    hear(options.log_level)
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    set_threads(threads)
    source = load_source(options.source, options.iteration)
    kept = select(
        source.gaussians,
        min_opacity=options.min_opacity,
        max_gaussians=options.max_gaussians,
    )
    left_out = len(source.gaussians) - len(kept)
    formats = list(dict.fromkeys(options.to))
    folder = options.output or source.folder
    targets = {name: folder / f"{source.name}{DESCRIBED[name].ending}" for name in formats}
    for target in targets.values():
        if target.exists() and options.source.exists() and target.samefile(options.source):
            raise UserError(f"{target}: is what is to be exported: choose another folder by -o")
    width = max(len(str(target)) for target in targets.values())
    splats = Splats.of(kept)
    # a camera that is not there is said before the work
    view = _viewpoint(splats, source, options) if "html" in formats else None
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    counted = f"{len(kept):,} Gaussian{'' if len(kept) == 1 else 's'}"
    print(f"{source.title}: {counted}" + (f" ({left_out:,} left out)" if left_out else ""))
    print(f"{'file':{width}}  {'size':>9}  opens in", flush=True)
    splats = splats if options.sh_degree is None else splats.up_to_degree(options.sh_degree)
    flat = _flat_colours(source, kept, options) if _FLAT & set(formats) else None
    for name, target in targets.items():
        _write(name, target, source, kept, splats, flat, view, options)
        size = target.stat().st_size
        print(f"{target!s:{width}}  {_readable(size):>9}  {DESCRIBED[name].opens_in}", flush=True)


def _check(options: Options) -> None:
    """Refuses numbers without meaning and options in vain.

    Raises:
        UserError: names the option.
    """
    if not options.to:
        raise UserError(f"--to: expected formats, got none; name some of {', '.join(DESCRIBED)}")
    if options.sh_degree is not None and not 0 <= options.sh_degree <= 4:
        raise UserError(f"--sh_degree {options.sh_degree}: expected 0 to 4")
    if not 0.0 <= options.min_opacity <= 1.0:
        raise UserError(f"--min_opacity {options.min_opacity:g}: expected 0 to 1")
    for option in ("max_gaussians", "fit_steps", "threads"):
        if (getattr(options, option) or 0) < 0:
            raise UserError(f"--{option} {getattr(options, option)}: expected 0 or more")
    for option, name in (
        ("view", "html"), ("background", "html"), ("spz_version", "spz"),
    ):  # fmt: skip
        if getattr(options, option) is not None and name not in options.to:
            raise UserError(f"--{option} is of no use without {name}: leave it out, or add {name} to --to")
    if options.fit_steps is not None and not _FLAT & set(options.to):
        raise UserError("--fit_steps is of no use without html or splat: leave it out, or add one to --to")
    if options.sh_degree is not None and _FLAT >= set(options.to):
        raise UserError(
            "--sh_degree is of no use to html and splat, which have no view dependence: leave it out"
        )


def _write(
    name: FormatName,
    target: Path,
    source: Source,
    kept: Gaussians,
    splats: Splats,
    colours: Floats | None,
    view: Viewpoint | None,
    options: Options,
) -> None:
    """Writes one file, whole or not at all."""
    too_far = 0
    if name == "html":
        assert colours is not None and view is not None
        background = _background(source, options).numpy()
        paged = page.encode(splats, colours, view, title=source.name, background=background)
        content, too_far = paged.content, paged.too_far
    elif name == "spz":
        packed = spz.encode(splats, antialiased=source.antialiased, version=options.spz_version or 2)
        content, too_far = packed.content, packed.too_far
    elif name == "splat":
        assert colours is not None
        content = splat.encode(splats, colours)
    elif name == "compressed_ply":
        content = compressed_ply.encode(splats)
    else:
        degree = DESCRIBED[name].max_degree if options.sh_degree is None else options.sh_degree
        with _writing(target):
            save_ply(target, select(kept, sh_degree=degree))
        return
    if too_far:
        _log.warning("%s: %s Gaussians stand too far away for the format: left out", name, f"{too_far:,}")
    with _writing(target):
        write_bytes(target, content)


def _flat_colours(source: Source, kept: Gaussians, options: Options) -> Floats:
    """Colours [N, 3] of what is kept, for the formats without view dependence."""
    cameras = [named.camera for named in source.cameras]
    colours = mean_colours(kept, cameras, quiet=options.quiet)
    steps = _FIT_STEPS if options.fit_steps is None else options.fit_steps
    if cameras and steps and (kept.max_sh_degree > 0 or options.max_gaussians):
        backend = available_backends()[0]
        if backend == "reference":
            _log.warning("colours are not fitted: that takes a C++ compiler or a GPU")
            return colours.numpy()
        device = device_for(backend)
        colours = fit_colours(
            colours,
            kept.to(device),
            source.gaussians.to(device),
            cameras,
            steps=steps,
            background=_background(source, options),
            antialiased=source.antialiased,
            backend=backend,
            quiet=options.quiet,
        )
    return colours.numpy()


def _background(source: Source, options: Options) -> Tensor:
    """The colour [3] behind the Gaussians."""
    if options.background is None:
        return source.background
    return torch.full((3,), float(options.background == "white"))


def _viewpoint(splats: Splats, source: Source, options: Options) -> Viewpoint:
    """Where the page opens.

    Raises:
        UserError: --view names no camera of the run.
    """
    cameras = [named.camera for named in source.cameras]
    if options.view is not None:
        chosen = named_camera(source.cameras, options.view)
        if chosen is None:
            have = ", ".join(named.name for named in source.cameras[:5]) or "no cameras at all"
            raise UserError(
                f"--view {options.view}: expected the name of one of the run's images ({have}, ...)"
            )
        return camera_viewpoint(chosen, cameras, splats)
    if not cameras:
        return guessed_viewpoint(splats)
    return camera_viewpoint(best_camera(cameras, splats), cameras, splats)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns a place that cannot be written to into the user's mistake; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            if error.filename is None:
                error.filename = str(path)
            raise
        raise UserError(
            f"{path}: cannot write there ({error.strerror}): choose another folder by -o"
        ) from error


def _readable(size: int) -> str:
    """A file's size for people: kB and MB are thousands and millions."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
