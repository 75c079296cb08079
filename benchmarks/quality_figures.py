"""Tables of scripts/benchmark_quality: each scene, presets side by side, and means over scenes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.quality_cells import Cell

COLUMNS = {"psnr": 2, "ssim": 4, "lpips": 4, "gaussians": 0, "seconds": 0}
"""Figures of a training, and their decimals in the table."""
_SCORES = (("psnr", 2), ("ssim", 3))

Figures = dict[tuple[str, int, str], dict[str, list[float]]]
"""By scene, view count, and preset with variant: each column's values, one a seed."""


def figures(cells: Sequence[Cell], known: dict[str, Any]) -> Figures:
    """What the seeds that worked gave, by scene, view count, and preset with variant."""
    found: Figures = {}
    for cell in cells:
        values = found.setdefault((cell.scene.name, cell.views, cell.label), {name: [] for name in COLUMNS})
        for name in COLUMNS:
            if (value := known.get(cell.name, {}).get(name)) is not None:
                values[name].append(value)
    return found


def rows_of(figures: Figures) -> list[dict[str, Any]]:
    """One row for each scene, view count, preset and variant."""
    return [
        {"scene": scene, "views": views or "all", "preset": label, "seeds": len(values["psnr"])}
        | {name: _mean(values[name], digits) for name, digits in COLUMNS.items()}
        for (scene, views, label), values in figures.items()
    ]


def _mean(values: list[float], digits: int, sign: str = "") -> str:
    if not values:
        return "-"
    spread = (max(values) - min(values)) / 2
    text = f"{statistics.fmean(values):{sign},.{digits}f}"
    return f"{text} ± {spread:.{digits}f}" if len(values) > 1 and digits else text


def means_of(figures: Figures) -> list[dict[str, Any]]:
    """For each preset and variant the means over all scenes and view counts, of means over the seeds."""
    means = []
    for label in dict.fromkeys(key[2] for key in figures):
        of = [values for key, values in figures.items() if key[2] == label and values["psnr"]]
        row: dict[str, Any] = {"mean of": f"{len(of)} rows", "preset": label}
        for name in ("psnr", "ssim", "seconds"):
            row[name] = _mean(_scene_means([values[name] for values in of]), COLUMNS[name])
        means.append(row)
    return means


def _scene_means(of: list[list[float]]) -> list[float]:
    """Means over scenes, one for each seed; one of all where some seeds are missing for some scenes."""
    if len({len(values) for values in of}) == 1:
        return [statistics.fmean(seed) for seed in zip(*of, strict=True)]
    return [statistics.fmean(statistics.fmean(values) for values in of)] if of else []


def side_by_side(figures: Figures) -> list[dict[str, Any]]:
    """PSNR / SSIM: a row for each preset and variant, a column for each scene, and their mean."""
    places = list(dict.fromkeys(key[:2] for key in figures))
    rows = []
    for label in dict.fromkeys(key[2] for key in figures):
        row: dict[str, Any] = {"PSNR / SSIM": label}
        of = {place: figures.get((*place, label), {}) for place in places}
        for (scene, views), values in of.items():
            texts = [_mean(values.get(name, []), digits) for name, digits in _SCORES]
            row[f"{scene}, {views or 'all'}"] = " / ".join(texts)
        known = [values for values in of.values() if values.get("psnr")]
        means = [_mean(_scene_means([v[name] for v in known]), digits) for name, digits in _SCORES]
        if 0 < len(known) < len(places):  # a mean of other scenes is not for comparing
            means.append(f"(of {len(known)})")
        rows.append(row | {"mean": " / ".join(means) if known else "-"})
    return rows


def differences(figures: Figures) -> list[list[dict[str, Any]]]:
    """What variants gain on their preset, seed by seed: the mean over scenes, and each scene's PSNR.

    A table for each preset that has variants. Scenes count of which both have equally many seeds.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    places = list(dict.fromkeys(key[:2] for key in figures))
    for label in dict.fromkeys(key[2] for key in figures):
        preset, comma, variant = label.partition(", ")
        gains: dict[tuple[str, int], dict[str, list[float]]] = {}
        for place in places if comma else ():
            before, after = (figures.get((*place, which), {}) for which in (preset, label))
            if before.get("psnr") and len(before["psnr"]) == len(after.get("psnr", [])):
                gains[place] = {
                    name: [b - a for a, b in zip(before[name], after[name], strict=True)]
                    for name, _ in _SCORES
                }
        if not gains:
            continue
        row: dict[str, Any] = {f"change of {preset}": variant}
        for (name, digits), head in zip(_SCORES, ("dB", "SSIM"), strict=True):
            row[head] = _mean(_scene_means([gain[name] for gain in gains.values()]), digits, "+")
        for scene, views in places:
            gain = gains.get((scene, views), {}).get("psnr", [])
            row[f"{scene}, {views or 'all'}"] = f"{statistics.fmean(gain):+.2f}" if gain else "-"
        tables.setdefault(preset, []).append(row)
    return list(tables.values())


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown; at least one row."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
