"""Held-out views of a merged model, beside those of a model that was trained in one piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atomic import write_bytes
from configs import Config, load_saved_config
from engine import OutputFolder, device_for, load_finished
from errors import UserError
from evaluation import Report, evaluate, load_perceptual, write_report
from fleet.folder import NOT_OURS
from gaussian_model import Gaussians
from rasterizer import RenderOutput, resolve_backend
from scene import Scene, View, load_scene


@dataclass(frozen=True)
class Row:
    """One model's figures."""

    name: str
    report: Report
    gaussians: int
    seconds: float | None
    peak_memory_gib: float | None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.report.mean.named(),
            "gaussians": self.gaussians,
            "seconds": self.seconds,
            "peak_memory_gib": self.peak_memory_gib,
        }


def judge(output: OutputFolder, against: Path | None, record: Path, *, quiet: bool) -> list[Row]:
    """Measures the merged model, and another run on the same views.

    Args:
        output: the merged model's folder; gets results.json and per_view.json.
        against: the folder of a run on the whole scene; None = there is none.
        record: JSON file with the figures of all of it; what each block has cost is read from it.
        quiet: no progress bars.

    Raises:
        UserError: no view is held out, or a model is not there.
    """
    config = load_saved_config(output.path)
    if not config.scene.eval:
        raise UserError(f"{output.path}: no view was held out, so there is nothing to measure: use --eval")
    others = [] if against is None else [_other(against, config)]
    scene = load_scene(config.source_path, config.scene, quiet=quiet)
    iteration, gaussians = load_finished(output)
    content = json.loads(record.read_bytes())
    costs = content["blocks"].values()
    seconds = [cost["seconds"] for cost in costs if cost["seconds"] is not None]
    memory = [cost["peak_memory_gib"] for cost in costs if cost["peak_memory_gib"] is not None]
    report = measure(scene, gaussians, config, quiet=quiet)
    write_report(output.path, report, iteration)
    rows = [Row("blocks", report, len(gaussians), sum(seconds), max(memory, default=None))]
    for folder, other in others:
        _, found = load_finished(OutputFolder(folder))
        rows.append(Row(str(folder), measure(scene, found, other, quiet=quiet), len(found), *_costs(folder)))
    content["figures"] = {row.name: row.plain() for row in rows}
    write_bytes(record, (json.dumps(content, indent=1) + "\n").encode())
    return rows


def measure(scene: Scene, gaussians: Gaussians, config: Config, *, quiet: bool) -> Report:
    """Figures of the scene's test views, drawn as the model's own configuration says."""
    backend = resolve_backend(config.backend)
    there = gaussians.to(device_for(backend))
    background = config.model.evaluation_background(scene.mean_colour).to(there.device)

    def render(view: View) -> RenderOutput:
        with torch.no_grad():
            return there.render(
                view.camera, background=background, antialiased=config.model.antialiased, backend=backend
            )

    return evaluate(
        scene.test,
        render,
        background=background,
        perceptual=load_perceptual(there.device),
        progress="" if quiet else "test",
    )


def table(rows: Sequence[Row]) -> str:
    """For people; seconds are the sum over blocks, memory is the largest block's."""
    width = max(len(row.name) for row in rows)
    lines = [
        f"{'':{width}}  {'PSNR':>6}  {'SSIM':>6}  {'LPIPS':>6}  {'Gaussians':>11}  {'seconds':>8}  {'GiB':>5}"
    ]
    for row in rows:
        mean = row.report.mean
        lpips = "-" if mean.lpips is None else f"{mean.lpips:.4f}"
        seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
        memory = "-" if row.peak_memory_gib is None else f"{row.peak_memory_gib:.2f}"
        lines.append(
            f"{row.name:{width}}  {mean.psnr:6.2f}  {mean.ssim:6.4f}  {lpips:>6}  {row.gaussians:>11,}  "
            f"{seconds:>8}  {memory:>5}"
        )
    return "\n".join(lines)


def _other(folder: Path, config: Config) -> tuple[Path, Config]:
    """A run to compare with, which must not have learned from the views that are measured."""
    other = load_saved_config(folder)
    same = (other.scene.eval, other.scene.test_every, other.scene.images) == (
        config.scene.eval,
        config.scene.test_every,
        config.scene.images,
    )
    if not same or other.source_path.resolve() != config.source_path.resolve():
        raise UserError(
            f"--against {folder}: expected a run on {config.source_path} with the same views held out "
            "(--eval): it may have been trained on what is measured here"
        )
    return folder, other


def _costs(folder: Path) -> tuple[float | None, float | None]:
    """Seconds and memory of a run; None where it was resumed, whose summary knows its last process only."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        whole = summary["iterations_of_this_process"] == summary["iterations"]
        return (
            float(summary["seconds_of_this_process"]) if whole else None,
            float(summary["peak_memory_gib"]),
        )
    except NOT_OURS:
        return None, None
