"""Figures of one evaluation, per view and in the mean, and the two JSON files that hold them.

The layout is that of the 3DGS family, so that its metric readers work: `results.json` maps a method
("ours_7000") to its means, `per_view.json` to metric -> picture -> value. One more key, `conventions`,
says how the figures were taken.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomic import write_bytes
from evaluation.metrics import MAX_PSNR

METRICS = ("SSIM", "PSNR", "LPIPS")


@dataclass(frozen=True)
class Scores:
    """Figures of one view; NaN where no pixel counts.

    Attributes:
        psnr: dB.
        ssim: Similarity, 1 = equal.
        lpips: Distance, 0 = equal; None if not computed.
        pixels: How many pixels counted (the sum of the weights).
    """

    psnr: float
    ssim: float
    lpips: float | None
    pixels: float

    def named(self) -> dict[str, float | None]:
        """The figures under the names that the JSON uses; None for what is not known."""
        values = {"SSIM": self.ssim, "PSNR": self.psnr, "LPIPS": self.lpips}
        return {key: None if value is None or math.isnan(value) else value for key, value in values.items()}


@dataclass(frozen=True)
class Report:
    """Figures of an evaluation.

    Attributes:
        per_view: Scores by picture stem, in the order of evaluation.
        masked: Names of views of which only a part counted.
        lpips_reason: Why there is no LPIPS; empty if there is.
    """

    per_view: dict[str, Scores] = field(default_factory=dict)
    masked: tuple[str, ...] = ()
    lpips_reason: str = "not asked for"

    @property
    def mean(self) -> Scores:
        """Means over views; views where no pixel counted are left out."""
        known = [scores for scores in self.per_view.values() if not math.isnan(scores.psnr)]
        if not known:
            return Scores(math.nan, math.nan, None, 0.0)
        lpips = [scores.lpips for scores in known if scores.lpips is not None]
        return Scores(
            psnr=sum(scores.psnr for scores in known) / len(known),
            ssim=sum(scores.ssim for scores in known) / len(known),
            lpips=sum(lpips) / len(lpips) if lpips else None,
            pixels=sum(scores.pixels for scores in known),
        )

    def conventions(self) -> dict[str, str]:
        """How the figures were taken, in words."""
        lpips = "VGG, inputs in [0, 1], torchmetrics; pixels outside a mask show the true image"
        return {
            "images": "8 bits per channel: clamped to [0, 1] and rounded; sRGB values as stored",
            "PSNR": "dB; squared error pooled over the pixels and channels of a view, "
            f"{MAX_PSNR:g} for equal images",
            "SSIM": "11x11 Gaussian window, sigma 1.5, zero padding, C1 = 0.01^2, C2 = 0.03^2, "
            "mean over pixels and channels",
            "LPIPS": f"not computed: {self.lpips_reason}" if self.lpips_reason else lpips,
            "mean": "over views",
            "masks": f"PSNR and SSIM pool over unmasked pixels in {len(self.masked)} of "
            f"{len(self.per_view)} views",
        }

    def table(self, title: str, *, views: bool = False) -> str:
        """Lines for people: a header, one row per view if asked for, and the mean."""
        mean = self.mean
        rows = list(self.per_view.items()) if views else []
        rows.append((f"{title} (mean of {len(self.per_view)})", mean))
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':{width}}  {'PSNR':>6}  {'SSIM':>6}  {'LPIPS':>6}"]
        for name, scores in rows:
            lpips = "-" if scores.lpips is None else f"{scores.lpips:.4f}"
            lines.append(f"{name:{width}}  {scores.psnr:6.2f}  {scores.ssim:6.4f}  {lpips:>6}")
        if self.lpips_reason:
            lines.append(f"LPIPS not computed: {self.lpips_reason}")
        return "\n".join(lines)


def write_report(folder: Path, report: Report, iteration: int) -> None:
    """Adds a report to `results.json` and `per_view.json`, replacing both files atomically.

    Entries of other iterations stay. A file that is no such JSON is replaced.

    Args:
        folder: Receives the two files; made if missing.
        report: The figures.
        iteration: Names the entry: "ours_ITERATION".

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: scores.named() for name, scores in report.per_view.items()}
    per_view = {metric: {name: value[metric] for name, value in values.items()} for metric in METRICS}
    for name, entry in (("results.json", report.mean.named()), ("per_view.json", per_view)):
        content = _read(folder / name)
        content[f"ours_{iteration}"] = entry
        before = content.pop("conventions", {})
        content["conventions"] = (before if isinstance(before, dict) else {}) | report.conventions()
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_bytes(folder / name, text.encode())


def _read(path: Path) -> dict[str, Any]:
    """What the file holds, numbers that JSON does not know (NaN, infinity) as null; empty if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_null, parse_float=_finite)
        json.dumps(content, indent=2)  # what is nested too deep to be written again is no report
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _null(name: str) -> None:
    return None


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None
