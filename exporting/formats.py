"""The formats: what their files are called, where they open, how much colour they hold, who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from exporting import compressed_ply, splat, spz

FormatName = Literal["html", "spz", "splat", "compressed_ply", "ply"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        ending: of its files.
        max_degree: highest SH degree that its files, or what reads them, can have.
        opens_in: programs, for people.
    """

    ending: str
    max_degree: int
    opens_in: str


DESCRIBED: dict[FormatName, Format] = {
    "html": Format(".html", 0, "any browser, offline (one colour a Gaussian)"),
    "spz": Format(".spz", spz.MAX_DEGREE, "SuperSplat, Spark, GaussianSplats3D, Scaniverse"),
    "splat": Format(
        ".splat", splat.MAX_DEGREE, "antimatter15/splat and most web viewers (no view dependence)"
    ),
    "compressed_ply": Format(
        ".compressed.ply", compressed_ply.MAX_DEGREE, "SuperSplat, PlayCanvas, Spark, GaussianSplats3D"
    ),
    "ply": Format(".ply", 3, "every program for 3D Gaussians"),
}
