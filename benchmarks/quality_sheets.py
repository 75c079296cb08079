"""Contact sheets of scripts/benchmark_quality: test views of a scene, as each preset shows them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atomic import atomic_write
from benchmarks.quality_cells import ROOT, Cell

SHEET_HEIGHT = 240
"""Pixels of a picture's height in a contact sheet."""
_LETTERS = 14  # pixels


def keep_pictures(folder: Path, target: Path) -> None:
    """Renders the test views and keeps truth, picture and depth."""
    command = [sys.executable, str(ROOT / "render.py"), "-m", str(folder), "--skip_train"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return
    made = max(folder.glob("test/ours_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)


def write_sheets(
    cells: Sequence[Cell], known: dict[str, Any], output: Path, *, seed: int, views: int
) -> list[Path]:
    """A contact sheet for each scene and view count: truth, then picture and depth of each preset.

    Args:
        cells: all trainings.
        known: their figures, by name.
        output: where their pictures are, and the sheets go.
        seed: the one that is shown.
        views: test views in a sheet, spread evenly; at least 1.
    """
    written: list[Path] = []
    for scene, count in dict.fromkeys((cell.scene, cell.views) for cell in cells):
        shown = [
            cell for cell in cells
            if (cell.scene, cell.views, cell.seed) == (scene, count, seed)
            and (output / "pictures" / cell.name / "gt").is_dir()
        ]  # fmt: skip
        if not shown:
            continue
        folders = [output / "pictures" / cell.name for cell in shown]
        names = sorted(path.name for path in (folders[0] / "gt").iterdir())
        picked = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, views).round().astype(int))]
        truth = [_labelled(folders[0] / "gt" / name, f"truth {Path(name).stem}") for name in picked]
        widths = [picture.shape[1] for picture in truth]
        rows = [np.hstack(truth)]
        for cell, folder in zip(shown, folders, strict=True):
            scores = known[cell.name].get("per_view", {}).get("PSNR", {})
            for part in ("renders", "depth"):
                texts = [
                    _caption(cell, name, scores) if part == "renders" else f"{cell.label}: depth, own scale"
                    for name in picked
                ]
                pictures = zip(picked, texts, widths, strict=True)
                rows.append(np.hstack([_labelled(folder / part / n, text, w) for n, text, w in pictures]))
        path = output / f"{scene.name}_{count or 'all'}.jpg"
        ok, data = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])
        if ok:
            with atomic_write(path) as file:
                file.write(data.tobytes())
            written.append(path)
    return written


def _caption(cell: Cell, name: str, scores: dict[str, float]) -> str:
    score = scores.get(Path(name).stem)
    return cell.label if score is None else f"{cell.label}: {score:.2f} dB"


def _labelled(path: Path, text: str, width: int = 0) -> NDArray[np.uint8]:
    """A picture at the sheet's height with a caption in it; black where there is none. Width 0: as it is."""
    data = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.zeros(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        image = np.zeros((SHEET_HEIGHT, SHEET_HEIGHT * 4 // 3, 3), np.uint8)
    width = width or max(1, round(image.shape[1] * SHEET_HEIGHT / image.shape[0]))
    small = Image.fromarray(cv2.resize(image, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA))
    font = ImageFont.load_default(_LETTERS)
    ImageDraw.Draw(small).text((6, 4), text, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(small, np.uint8)
