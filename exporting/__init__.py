"""Gaussians as files for sharing: a web page, .spz, .splat, compressed and plain .ply.

Reads what a run has left, or any 3DGS .ply; writes whole files or none. Does not train, and does not show:
the page's viewer is viser's, all other files are for programs elsewhere. Called by scripts/export.
"""

from __future__ import annotations

from exporting.formats import DESCRIBED, FORMATS, Format, FormatName
from exporting.selection import select
from exporting.source import Source, load_source
from exporting.splats import Splats

__all__ = [
    "DESCRIBED",
    "FORMATS",
    "Format",
    "FormatName",
    "Source",
    "Splats",
    "load_source",
    "select",
]
