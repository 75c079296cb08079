"""Shows a finished model in a browser: its Gaussians, the photographs' cameras, renderings and depth.

    scripts/view output/garden
    scripts/view theirs.ply --port 9000

An output folder of train.py, or of another 3DGS trainer, or a bare .ply.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Options:
    """What can be shown, and where."""

    output: Annotated[Positional[Path], arg(metavar="OUTPUT|FILE.ply")]
    """The output folder of a run, or Gaussians as a .ply."""
    iteration: int = -1
    """Which of the run's saved Gaussians to begin with; -1 = the newest."""
    port: int = 8080
    """The first port to try; the next free one is taken."""
    host: str = "localhost"
    """Who may look: localhost = this machine only, 0.0.0.0 = everybody who reaches it over the network."""
    source_path: Annotated[Path | None, arg(aliases=("-s",), metavar="FOLDER")] = None
    """The scene, if it is not where it was in training (or is not known, for a bare .ply)."""
    backend: Literal["auto", "gsplat", "cpu", "reference"] = "auto"
    """Rasterizer of the pictures that the program renders."""
    threads: int = 0
    """CPU threads; 0 = all cores."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is said on the way; debug: also what libraries say, and where an error came from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows what the command line asks for, until Ctrl-C."""
    options = tyro.cli(
        Options, args=arguments, use_underscores=True, prog="scripts/view", description=__doc__
    )
    import torch

    from engine import hear
    from native import set_threads
    from rasterizer import resolve_backend
    from viewer.finished import Exhibition, find, view
    from viewer.painter import Style

    hear(options.log_level)
    backend = resolve_backend(options.backend)
    set_threads(options.threads or torch.get_num_threads())
    finished = find(options.output, options.source_path)
    style = Style(finished.antialiased, backend)
    exhibition = Exhibition(finished, options.iteration, options.host, options.port, style)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    try:
        print(exhibition.line, flush=True)
        view(exhibition)
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    from begin import begin

    begin()
    from engine import run_command

    run_command(main)
