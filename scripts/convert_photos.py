"""The command behind scripts/convert: photographs or a video to a COLMAP scene.

    scripts/convert PHOTOS -o SCENE

All of it lies in `photos.prepare`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from engine import LogLevel, hear, run_command
from photos.prepare import SfmConfig, convert, place_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Finds out where photographs were taken from (structure from motion by pycolmap).

    What comes out is a COLMAP scene: upright photographs in images/, cameras and points in sparse/0/.
    train.py -s PHOTOS does the same by itself; this command is for another place, or other settings.
    """

    source: Positional[Path]
    """A folder of photographs (or one with them in images/ or input/), or a video."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="FOLDER")] = None
    """The scene to make; without it `colmap` in the photographs' folder, or VIDEO_colmap."""
    sfm: Annotated[SfmConfig, OmitArgPrefixes] = field(default_factory=SfmConfig)
    """How."""
    threads: int = 0
    """CPU threads; 0 = all cores."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress bars, no words but warnings."""
    log_level: LogLevel = "info"
    """What is said on the way; debug: also what libraries say, and where an error came from."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options; None = the process's arguments."""
    return tyro.cli(Options, args=arguments, prog="scripts/convert", use_underscores=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts what the command line names."""
    options = parse(arguments)
    hear(options.log_level)
    source = options.source.expanduser().absolute()
    target = options.output.expanduser().absolute() if options.output else place_of(source)
    threads = options.threads or os.cpu_count() or 1
    made = convert(source, target, options.sfm, threads=threads, quiet=options.quiet)
    for warning in made.warnings:
        _log.warning("%s", warning)
    if not options.quiet:
        print(*made.lines, sep="\n")


if __name__ == "__main__":
    run_command(main)
