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
    best = dict.fromkeys(found["features"], 0)
    for one, other, inliers in found["pairs"]:
        best[one], best[other] = max(best[one], inliers), max(best[other], inliers)
    lone = [name for name in missing if best[name] < 2 * FEW_MATCHES and name not in poor]
    if lone:
        reasons.append(
            f"{listed(lone)}: too few points in common with any other photograph: take more in between, so "
            "that neighbours overlap by more than half and look from less than 20 degrees apart."
        )
    if not reasons:
        reasons.append(
            "They have points in common, but no position explains them: do things move, mirror or repeat "
            "there? Leave such photographs out, or take more from places in between."
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
