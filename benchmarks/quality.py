"""Held-out quality of presets and options over scenes, view counts and seeds; the command behind it.

Every cell is a training of its own (a process), written down when it is done, so that a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from atomic import atomic_write
from benchmarks.measure import machine, table
from configs import load_preset, to_plain
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SHEET_HEIGHT = 240
"""Pixels of a picture's height in a contact sheet."""
COLUMNS = {"psnr": 2, "ssim": 4, "lpips": 4, "gaussians": 0, "seconds": 0}
"""Figures of a training, and their decimals in the table."""
_SCORES = (("psnr", 2), ("ssim", 3))
PARTS = ("images", "sparse", "transforms.json", "transforms_train.json")
"""One of these makes a folder a scene."""

Figures = dict[tuple[str, int, str], dict[str, list[float]]]
"""By scene, view count, and preset with variant: each column's values, one a seed."""


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
    """Options to try with each preset, besides none: NAME=OPTIONS, as "soft=--regularise.dropout 0.1"."""
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


@dataclass(frozen=True)
class Cell:
    """One training."""

    scene: Path
    views: int
    preset: str
    variant: str
    options: tuple[str, ...]
    seed: int
    digest: str = ""
    """Of what the preset says, so that one that has changed is trained anew."""

    @property
    def label(self) -> str:
        """Preset and variant."""
        name = Path(self.preset).stem
        return f"{name}, {self.variant}" if self.variant else name

    @property
    def name(self) -> str:
        """Of its folder."""
        words = (self.scene.name, str(self.views or "all"), self.label.replace(", ", "-"), str(self.seed))
        return "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in word) for word in words)

    def command(self, folder: Path) -> list[str]:
        """Of train.py."""
        views = ("--n_views", str(self.views)) if self.views else ()
        return [
            *(sys.executable, str(ROOT / "train.py"), "-s", str(self.scene), "-m", str(folder), "--eval"),
            *(*views, "--config", self.preset, "--seed", str(self.seed), "--overwrite", "--quiet"),
            *self.options,
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, then prints and writes tables and sheets; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="scripts/benchmark_quality", use_underscores=True)
    cells = _cells(options)
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
            _write(record, {"machine": machine(), "cells": known})
    figures = _figures(cells, known)
    rows, means = _rows(figures), _means(figures)
    _write_text(
        options.output / "table.md", "\n\n".join(map(_markdown, (rows, _side_by_side(figures), means))) + "\n"
    )
    print(table(rows), table(means), sep="\n\n")
    for sheet in _sheets(cells, known, options):
        print(f"sheet: {sheet}")
    print(f"written: {record}, {options.output / 'table.md'}")
    for name in failed:
        print(f"failed: {name}: {known[name]['error']}", file=sys.stderr)
    return 1 if failed else 0


def _cells(options: Options) -> list[Cell]:
    """All trainings, scene by scene; they are done preset by preset, and seed by seed within.

    Raises:
        UserError: no scene, or an option with no meaning.
    """
    scenes: list[tuple[Path, list[int]]] = []
    for given in options.scenes:
        name, colon, number = given.rpartition(":")
        own = bool(colon) and number.isdecimal()
        path = Path(name if own else given).expanduser().absolute()
        if not path.is_dir():
            raise UserError(f"{given}: no such folder: name scenes or folders of scenes")
        inside = [one for one in sorted(path.iterdir()) if one.is_dir() and _is_scene(one)]
        counts = [int(number)] if own else options.views
        scenes += [(one, counts) for one in ([path] if _is_scene(path) else inside)]
        if not _is_scene(path) and not inside:
            raise UserError(
                f"{given}: expected a scene (images, sparse/0) or a folder of scenes, found neither"
            )
    if not (options.views and options.presets and options.seeds) or min(options.views) < 0:
        raise UserError("--views, --presets, --seeds: expected at least one each, views from 0: name some")
    variants: list[tuple[str, tuple[str, ...]]] = [("", ())]
    for variant in options.variants:
        name, equals, words = variant.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--variants: expected NAME=OPTIONS, got {variant!r}")
        variants.append((name.strip(), _split(words, "--variants")))
    if not scenes:
        raise UserError("expected a scene, or a folder of scenes: name one")
    if options.sheet_views < 0:
        raise UserError(f"--sheet_views: expected at least 0, got {options.sheet_views}")
    common, digests = _split(options.train, "--train"), {name: _digest(name) for name in options.presets}
    cells = [
        Cell(scene, views, preset, name, (*common, *words), seed, digests[preset])
        for scene, counts in scenes
        for views in counts
        for preset in options.presets
        for name, words in variants
        for seed in options.seeds
    ]
    name, times = Counter(cell.name for cell in cells).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{times} trainings would have the name {name}: expected scenes, views, presets, variants and "
            "seeds of different names: rename or leave out one"
        )
    return cells


def _split(words: str, option: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(words))
    except ValueError as error:
        raise UserError(f"{option}: {words!r}: {error}: mend the quotes") from error


def _digest(preset: str) -> str:
    """Stands for all that a preset says.

    Raises:
        UserError: there is no such preset, or it is no good.
    """
    said = [to_plain(load_preset(preset, few_views=few)) for few in (False, True)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_scene(folder: Path) -> bool:
    return any((folder / part).exists() for part in PARTS)


def _train(cell: Cell, folder: Path, options: Options) -> dict[str, Any]:
    """Figures of one training, or its error; its pictures go beside the results."""
    start = time.perf_counter()
    done = subprocess.run(cell.command(folder), capture_output=True, text=True, check=False)
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
        _keep_pictures(folder, options.output / "pictures" / cell.name)
    if not options.keep:
        shutil.rmtree(folder)
    return found


def _keep_pictures(folder: Path, target: Path) -> None:
    """Renders the test views and keeps truth, picture and depth."""
    command = [sys.executable, str(ROOT / "render.py"), "-m", str(folder), "--skip_train"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return
    made = max(folder.glob("test/ours_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)


def _figures(cells: Sequence[Cell], known: dict[str, Any]) -> Figures:
    """What the seeds that worked gave, by scene, view count, and preset with variant."""
    found: Figures = {}
    for cell in cells:
        values = found.setdefault((cell.scene.name, cell.views, cell.label), {name: [] for name in COLUMNS})
        for name in COLUMNS:
            if (value := known.get(cell.name, {}).get(name)) is not None:
                values[name].append(value)
    return found


def _rows(figures: Figures) -> list[dict[str, Any]]:
    """One row for each scene, view count, preset and variant."""
    return [
        {"scene": scene, "views": views or "all", "preset": label, "seeds": len(values["psnr"])}
        | {name: _mean(values[name], digits) for name, digits in COLUMNS.items()}
        for (scene, views, label), values in figures.items()
    ]


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    spread = (max(values) - min(values)) / 2
    text = f"{statistics.fmean(values):,.{digits}f}"
    return f"{text} ± {spread:.{digits}f}" if len(values) > 1 and digits else text


def _means(figures: Figures) -> list[dict[str, Any]]:
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


def _side_by_side(figures: Figures) -> list[dict[str, Any]]:
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
        rows.append(row | {"mean": " / ".join(means) if len(known) == len(places) else "-"})
    return rows


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sheets(cells: Sequence[Cell], known: dict[str, Any], options: Options) -> list[Path]:
    """A contact sheet for each scene and view count: truth, then picture and depth of each preset."""
    written: list[Path] = []
    if not options.sheet_views:
        return written
    for scene, views in dict.fromkeys((cell.scene, cell.views) for cell in cells):
        shown = [
            cell for cell in cells
            if (cell.scene, cell.views, cell.seed) == (scene, views, options.seeds[0])
            and (options.output / "pictures" / cell.name / "gt").is_dir()
        ]  # fmt: skip
        if not shown:
            continue
        folders = [options.output / "pictures" / cell.name for cell in shown]
        names = sorted(path.name for path in (folders[0] / "gt").iterdir())
        picked = [
            names[i]
            for i in np.unique(np.linspace(0, len(names) - 1, options.sheet_views).round().astype(int))
        ]
        truth = [_labelled(folders[0] / "gt" / name, f"truth {Path(name).stem}") for name in picked]
        widths = [picture.shape[1] for picture in truth]
        rows = [np.hstack(truth)]
        for cell, folder in zip(shown, folders, strict=True):
            scores = known[cell.name].get("per_view", {}).get("PSNR", {})
            for part in ("renders", "depth"):
                texts = [_caption(cell, name, scores) if part == "renders" else "" for name in picked]
                pictures = zip(picked, texts, widths, strict=True)
                rows.append(np.hstack([_labelled(folder / part / n, text, w) for n, text, w in pictures]))
        path = options.output / f"{scene.name}_{views or 'all'}.jpg"
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
    small = cv2.resize(image, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(small, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return np.asarray(small, np.uint8)


def _read(path: Path) -> dict[str, Any]:
    """The cells of an earlier run; none where there is no readable file."""
    try:
        cells = dict(json.loads(path.read_text())["cells"])
        for name, cell in cells.items():
            if not isinstance(cell, dict) or not ("error" in cell or isinstance(cell.get("psnr"), float)):
                raise ValueError(f"{name}: {str(cell)[:40]}")
            cell.setdefault("command", [])
        return cells
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected this benchmark's results ({error}): move it away") from error


def _write(path: Path, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


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
