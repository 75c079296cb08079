"""What structure from motion found, in words: a line when it worked, advice when it did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FEW_FEATURES = 300
"""Features below which a photograph is blurred or shows blank surfaces."""
FEW_MATCHES = 15
"""Points in common below which two photographs say nothing of each other (COLMAP's bound)."""
TURNED = 0.002
"""What turns of the camera leave unexplained, in longer sides of the picture, if it moved: at least this. A
pixel in 500; matches are better than that."""
LISTED = 6


def summary(found: Mapping[str, Any], seconds: float) -> str:
    """One line about a model."""
    camera = found["cameras"][0]
    shared = "one camera" if len(found["cameras"]) == 1 else f"{len(found['cameras'])} cameras"
    told = "EXIF" if found["prior_focal"] else "found from the photographs"
    return (
        f"structure from motion: {len(found['registered'])} of {len(found['features'])} photographs placed, "
        f"{found['points']:,} points, reprojection error {found['error']:.2f} px; {shared}, focal length "
        f"{camera['params'][0]:,.0f} px at {camera['width']}x{camera['height']} ({told}); {seconds:.0f} s"
    )


def guessed_lens(found: Mapping[str, Any]) -> str:
    """A warning where nothing tells the focal length; "" else."""
    if len(found["registered"]) > 2 or found["prior_focal"]:
        return ""
    return (
        "two photographs do not tell the focal length, and no EXIF data does: it may be far off, and depth "
        "with it: take a third photograph, or keep the EXIF data"
    )


def left_out(found: Mapping[str, Any]) -> str:
    """Which photographs could not be placed, and why that may be; "" where all could."""
    placed = set(found["registered"])
    missing = [name for name in found["features"] if name not in placed]
    if not missing:
        return ""
    return (
        f"{len(missing)} of {len(found['features'])} photographs could not be placed: {listed(missing)}. "
        f"{_why(found, missing)}"
    )


def _why(found: Mapping[str, Any], missing: Sequence[str]) -> str:
    """The likeliest reasons, the most certain first, each with what to do."""
    reasons: list[str] = []
    poor = [name for name in missing if found["features"][name] < FEW_FEATURES]
    if poor:
        reasons.append(f"{listed(poor)}: hardly any detail (blurred, dark or blank?): take sharper ones.")
    best, with_placed = dict.fromkeys(found["features"], 0), dict.fromkeys(found["features"], 0)
    for one, other, inliers in found["pairs"]:
        for name, neighbour in ((one, other), (other, one)):
            best[name] = max(best[name], inliers)
            if neighbour in found["registered"]:
                with_placed[name] = max(with_placed[name], inliers)
    rest = [name for name in missing if name not in poor]
    lone = [name for name in rest if best[name] < 2 * FEW_MATCHES]
    if lone:
        reasons.append(
            f"{listed(lone)}: too few points in common with any other photograph: take more in between, so "
            "that neighbours overlap by more than half and look from less than 20 degrees apart."
        )
    rest = [name for name in rest if name not in lone]
    apart = [name for name in rest if found["registered"] and with_placed[name] < 2 * FEW_MATCHES]
    if apart:
        reasons.append(
            f"{listed(apart)}: points in common with each other, but too few with those that were placed: if "
            "they show another place, give them a folder of their own; else take more photographs in between."
        )
    rest = [name for name in rest if name not in apart]
    if rest:
        reasons.append(
            f"{listed(rest)}: points in common with others, but no position explains them: do things move, "
            "mirror or repeat there? Leave such photographs out, or take more from places in between."
        )
    return " ".join(reasons)


def only_turned(found: Mapping[str, Any]) -> str:
    """A warning where the camera hardly moved; "" else."""
    left = found["unexplained_by_turns"]
    if left is None or left >= TURNED:
        return ""
    return (
        "it looks as if the camera had only turned on the spot (or seen things far away only): depth needs "
        "steps sideways between photographs, of about a tenth of the distance to what they show"
    )


def listed(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
