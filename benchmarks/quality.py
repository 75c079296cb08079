"""Held-out quality of presets and options over scenes, view counts and seeds; the command behind it.

Every cell is a training of its own (a process), written down when it is done, so that a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from atomic import write_bytes
from benchmarks.measure import machine, table
from benchmarks.quality_cells import Cell, find_cells
from benchmarks.quality_figures import differences, figures, markdown, means_of, rows_of, side_by_side
from benchmarks.quality_sheets import keep_pictures, write_sheets
from engine import end_with_parent
from errors import UserError


@dataclass
class Options:
    """Train scenes with presets and compare held-out views: PSNR, SSIM, LPIPS, Gaussians, seconds.

    What is done already is not done again: the same command goes on where it was stopped.
    """

    scenes: Annotated[list[str], tyro.conf.Positional]
    """Scenes, or folders of scenes; SCENE:6 for a scene with its own number of training views."""
    views: list[int] = field(default_factory=lambda: [3])
    """Numbers of training views (--n_views) of the others; 0 = all."""
    presets: list[str] = field(default_factory=lambda: ["sparse_view", "full_capture"])
    """Presets, or YAML files."""
    variants: list[str] = field(default_factory=list)
    """Options to try with each preset, besides none: NAME=OPTIONS, as "soft=--regularise.dropout 0.1", or
    @FILE with one a line."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds; figures are means, with half the range between them."""
    train: str = ""
    """Options of train.py for all trainings, after an equals sign: --train="--iterations 2000"."""
    sheet_views: int = 4
    """Test views in a scene's contact sheet; 0 = no sheets."""
    keep: bool = False
    """Keep the trainings' folders, not only their figures and pictures."""
    output: Path = Path("output/quality")
    """Folder of results.json, table.md and the contact sheets."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options; None = the process's arguments."""
    return tyro.cli(Options, args=arguments, prog="scripts/benchmark_quality", use_underscores=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, then prints and writes tables and sheets; returns the exit code."""
    options = parse(arguments)
    if options.sheet_views < 0:
        raise UserError(f"--sheet_views: expected at least 0, got {options.sheet_views}")
    cells = find_cells(
        options.scenes, options.views, options.presets, options.variants, options.seeds, options.train
    )
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: {options.output}: expected a folder ({error.strerror}): name another"
        ) from error
    record = options.output / "results.json"
    known: dict[str, Any] = _read(record)
    failed = []
    labels = list(dict.fromkeys(cell.label for cell in cells))
    order = sorted(cells, key=lambda cell: (labels.index(cell.label), options.seeds.index(cell.seed)))
    with tqdm(order, desc="trainings", unit="training", disable=None) as bar:
        for cell in bar:
            bar.set_postfix_str(cell.name)
            done = known.get(cell.name)
            folder = options.output / "runs" / cell.name
            words = cell.command(Path("RUN"))[1:]
            if (
                done is not None
                and "error" not in done
                and (done["command"], done.get("preset")) == (words, cell.digest)
            ):
                continue
            known[cell.name] = {"command": words, "preset": cell.digest, **_train(cell, folder, options)}
            if "error" in known[cell.name]:
                failed.append(cell.name)
            content = {"machine": machine(), "cells": known}
            write_bytes(record, (json.dumps(content, indent=1) + "\n").encode())
    found = figures(cells, known)
    rows, means = rows_of(found), means_of(found)
    tables = [rows, side_by_side(found), *differences(found), means]
    text = "\n\n".join(map(markdown, tables)) + "\n"
    write_bytes(options.output / "table.md", text.encode())
    print(table(rows), table(means), sep="\n\n")
    if options.sheet_views:
        seed, output = options.seeds[0], options.output
        for sheet in write_sheets(cells, known, output, seed=seed, views=options.sheet_views):
            print(f"sheet: {sheet}")
    print(f"written: {record}, {options.output / 'table.md'}")
    for name in failed:
        print(f"failed: {name}: {known[name]['error']}", file=sys.stderr)
    return 1 if failed else 0


def _train(cell: Cell, folder: Path, options: Options) -> dict[str, Any]:
    """Figures of one training, or its error; its pictures go beside the results."""
    start = time.perf_counter()
    done = subprocess.run(
        cell.command(folder), capture_output=True, text=True, check=False, preexec_fn=end_with_parent
    )
    if done.returncode != 0:
        lines = [line.strip(" │") for line in done.stderr.splitlines() if any(c.isalnum() for c in line)]
        told = [line for line in lines if "--help" not in line]  # which follows an option that is unknown
        return {"error": told[-1] if told else f"exit code {done.returncode}"}
    summary = json.loads((folder / "summary.json").read_text())
    if not (folder / "results.json").is_file():
        return {"error": "no test views"}
    results = json.loads((folder / "results.json").read_text())
    scores = next(iter(results.values()))
    per_view = json.loads((folder / "per_view.json").read_text())
    found = {
        "psnr": scores["PSNR"],
        "ssim": scores["SSIM"],
        "lpips": scores.get("LPIPS"),
        "gaussians": summary["gaussians"],
        "seconds": round(time.perf_counter() - start, 1),
        "iterations": summary["iterations"],
        "per_view": next(iter(per_view.values())),
    }
    if options.sheet_views and cell.seed == options.seeds[0]:
        keep_pictures(folder, options.output / "pictures" / cell.name)
    if not options.keep:
        shutil.rmtree(folder)
    return found


def _read(path: Path) -> dict[str, Any]:
    """The cells of an earlier run; none where there is no readable file."""
    try:
        cells = dict(json.loads(path.read_text())["cells"])
        for name, cell in cells.items():
            if not isinstance(cell, dict) or not ("error" in cell or _is_whole(cell)):
                raise ValueError(f"{name}: {str(cell)[:40]}")
            cell.setdefault("command", [])
        return cells
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: expected this benchmark's results ({error}): move it away") from error


def _is_whole(cell: dict[str, Any]) -> bool:
    """Whether a result has all figures, and these are numbers."""
    figures = [cell.get(name) for name in ("psnr", "ssim", "gaussians", "seconds")]
    if isinstance(cell.get("lpips", 0.0), (int, float)):
        figures.append(cell.get("lpips", 0.0))
    if not isinstance(cell.get("per_view"), dict):
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in figures)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the training ends too
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
