"""The plots of scripts/benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STAGES = ("image", "forward", "loss", "backward", "statistics", "adam")


def plot_scaling(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds over (Gaussian, tile) overlaps, and over the number of Gaussians and pixels."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    by_count = [row for row in rows if row["along"] == "gaussians"]
    by_width = [row for row in rows if row["along"] == "width"]
    pixels = [float(w) * float(h) for w, h in (row["pixels"].split("x") for row in by_width)]
    for ax, label, x, group in (
        (axes[0], "Gaussians (504x378)", [row["gaussians"] for row in by_count], by_count),
        (axes[1], "pixels (50,000 Gaussians)", pixels, by_width),
        (axes[2], "(Gaussian, tile) overlaps", [row["overlaps"] for row in rows], rows),
    ):
        y = [row["both"].median for row in group]
        ax.loglog(x, y, "o" if group is rows else "o-")
        ax.loglog(x, [y[0] * v / x[0] for v in x], ":", color="grey", label="linear")
        ax.set(xlabel=label, ylabel="forward + backward, ms")
        ax.legend()
    _save(figure, path)


def plot_iteration(rows: list[dict[str, Any]], path: Path) -> None:
    """Stages of an iteration as stacked bars."""
    figure, ax = plt.subplots(figsize=(7, 4))
    names = [f"{row['gaussians']:,}\n{row['threads']} thr." for row in rows]
    base = [0.0] * len(rows)
    for stage in STAGES:
        values = [row[stage].median for row in rows]
        ax.bar(names, values, bottom=base, label=stage)
        base = [b + v for b, v in zip(base, values, strict=True)]
    ax.set(ylabel="ms", title=f"One training iteration, {rows[0]['scene']}, {rows[0]['pixels']}")
    ax.legend()
    _save(figure, path)


def plot_convergence(rows: list[dict[str, Any]], path: Path) -> None:
    """Held-out PSNR over training seconds."""
    figure, ax = plt.subplots(figsize=(6, 4))
    scored = [row for row in rows if "psnr" in row]
    ax.plot([row["seconds"] for row in scored], [row["psnr"] for row in scored], "o-")
    ax.set(xlabel="training seconds", ylabel="held-out PSNR, dB")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
