"""A run in figures and sentences: the tiles at the head of its page, and what is worth knowing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from reporting.curves import over_fit
from reporting.run import Run, number, numbers, text
from reporting.ticks import duration
from scene.view import output_stem

_SLOW_GAP = 8.0  # dB between training and test views from which it is worth a word of its own
_HEADER_BYTES = 2048


@dataclass(frozen=True)
class Tile:
    """A key figure."""

    name: str
    value: str
    unit: str
    words: str


def date(run: Run) -> str:
    """Returns when the run ended, in words; empty if nothing says so."""
    if run.events.sessions:
        seconds = run.events.sessions[-1][1]
    else:
        dated = [run.folder / name for name in ("summary.json", "results.json", "config.yaml")]
        seconds = next((path.stat().st_mtime for path in dated if path.is_file()), 0.0)
    try:
        when = datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, OSError, ValueError):
        return ""
    return f"{when.day} {when:%B %Y, %H:%M}" if seconds else ""


def about(run: Run) -> list[str]:
    """Returns what kind of run it is: preset, length, views."""
    parts = []
    preset = text(run.options, "config") or text(run.summary, "preset")
    if preset:
        parts.append(f"preset {preset}")
    if run.reached:
        of = f" of {run.iterations:,}" if run.iterations and run.reached < run.iterations else ""
        parts.append(f"iteration {run.reached:,}{of}")
    views = [(number(run.summary, f"{split}_views"), split) for split in ("train", "test")]
    names = {"train": "training", "test": "test"}
    counted = " and ".join(f"{int(n)} {names[split]}" for n, split in views if n)
    if counted:
        parts.append(f"{counted} views")
    return parts


def tiles(run: Run) -> list[Tile]:
    """Returns the key figures that are known."""
    return [*_quality(run), *_size(run), *_time(run), *_machine(run)]


def worth_knowing(run: Run) -> list[str]:
    """Returns warnings and peculiarities of the run, in sentences."""
    return [*_skipped(run), *_oddities(run), *run.notes]


def _quality(run: Run) -> list[Tile]:
    newest = max(run.means, default=-1)
    means = run.means.get(newest, {})
    views = number(run.summary, "test_views")
    of = f"mean of {int(views)} test view{'' if views == 1 else 's'}" if views else "mean of the test views"
    if newest < run.reached:
        of += f", at iteration {newest:,}"
    psnr, ssim = means.get("PSNR"), means.get("SSIM")
    if not means:
        psnr, ssim = (run.events.last(f"metrics/{name}_test") for name in ("psnr", "ssim"))
        of = "test views, at the last evaluation"
    if psnr is None:
        psnr, ssim = (run.events.last(f"metrics/{name}_train") for name in ("psnr", "ssim"))
        of = "of training views: no test views were held out"
    found = []
    if psnr is not None:
        found.append(Tile("PSNR", f"{psnr:.2f}", "dB", of))
    if ssim is not None:
        found.append(Tile("SSIM", f"{ssim:.3f}", "", "likeness of structure; 1 = equal"))
    if "LPIPS" in means:
        found.append(Tile("LPIPS", f"{means['LPIPS']:.3f}", "", "difference to a network's eye; 0 = equal"))
    return found


def _size(run: Run) -> list[Tile]:
    count = number(run.summary, "gaussians")
    count = run.events.last("gaussians/count") if count is None else count
    if count is None:
        return []
    began = _vertices(run)
    return [Tile("Gaussians", f"{int(count):,}", "", f"{began:,} at the start" if began else "")]


def _time(run: Run) -> list[Tile]:
    seconds = number(run.summary, "seconds_of_this_process")
    iterations = number(run.summary, "iterations_of_this_process")
    teachers = number(run.summary, "seconds_of_teachers") or 0.0
    found = []
    sessions = run.events.sessions
    all_of_them = sum(end - start for start, end in sessions)
    if seconds is not None:
        words = f"{int(iterations):,} iterations, with evaluations" if iterations else ""
        if teachers:
            words += f"; {duration(teachers)} of it for teachers"
        if len(sessions) > 1:
            words += f"; the last of {len(sessions)} processes, about {duration(all_of_them)} in all"
        found.append(_tile_of_time(seconds, words))
    elif all_of_them > 0:
        found.append(_tile_of_time(all_of_them, "between the first and the last entry of the log"))
    speed = None
    if seconds is not None and iterations and seconds > teachers:
        speed = iterations / (seconds - teachers)
    curve = run.events.curve("speed/it_per_s")[1]
    curve = curve[np.isfinite(curve)]
    if speed is not None:
        words = f"{np.median(curve):.1f} without evaluations (median)" if len(curve) else ""
        found.append(Tile("Speed", f"{speed:.1f}", "it/s", words))
    elif len(curve):
        found.append(Tile("Speed", f"{np.median(curve):.1f}", "it/s", "median, without evaluations"))
    return found


def _tile_of_time(seconds: float, words: str) -> Tile:
    whole = round(seconds)
    if whole < 60:
        value, unit = duration(seconds).split(" ")
    elif whole < 3600:
        value, unit = f"{whole // 60}:{whole % 60:02}", "min"
    else:
        value, unit = f"{whole // 3600}:{whole % 3600 // 60:02}", "h"
    return Tile("Time", value, unit, words)


def _machine(run: Run) -> list[Tile]:
    memory = number(run.summary, "peak_memory_gib")
    memory = run.events.last("memory/peak_gib") if memory is None else memory
    gpu = run.events.last("memory/gpu_peak_gib")
    found = []
    if memory is not None:
        words = f"main memory; {gpu:.2f} GiB on the GPU" if gpu is not None else "main memory"
        found.append(Tile("Peak memory", f"{memory:.2f}", "GiB", words))
    backend, threads = text(run.summary, "backend"), number(run.summary, "threads")
    if backend:
        words = f"{int(threads)} CPU thread{'' if threads == 1 else 's'}" if threads is not None else ""
        found.append(Tile("Rasterizer", backend, "", words))
    return found


def _skipped(run: Run) -> list[str]:
    """Terms of the loss that could not be computed now and then."""
    skipped = run.summary.get("skipped_terms_of_this_process")
    counts = numbers(skipped) if isinstance(skipped, dict) else {}
    if "skipped_terms_of_this_process" not in run.summary:  # a run that has not ended
        logged = {tag: run.events.last(tag) for tag in run.events.scalars if tag.startswith("skipped/")}
        counts = {tag.removeprefix("skipped/"): value for tag, value in logged.items() if value}
    iterations = number(run.summary, "iterations_of_this_process") or run.reached
    return [
        f"The term {name} was left out {int(count):,} time{'' if count == 1 else 's'} in {int(iterations):,} "
        "iterations: the view had no prior, too few known pixels, all of one depth, or a prior without the "
        "scale that this loss needs."
        for name, count in counts.items()
        if count > 0
    ]


def _oddities(run: Run) -> list[str]:
    found = []
    steps, loss = run.events.curve("loss/total")
    bad = steps[~np.isfinite(loss)]
    if len(bad):
        found.append(f"The loss was no finite number near iteration {int(bad[0]):,}: its curve has gaps.")
    test, train = (run.events.last(f"metrics/psnr_{split}") for split in ("test", "train"))
    if test is not None and train is not None and train - test >= _SLOW_GAP:
        found.append(over_fit(run))
    bound, count = number(run.options, "densify.max_gaussians"), number(run.summary, "gaussians")
    if bound and count is not None and count >= 0.98 * bound:
        found.append(f"The number of Gaussians reached its bound (--densify.max_gaussians {int(bound):,}).")
    lpips = run.conventions.get("LPIPS", "")
    if lpips.startswith("not computed"):
        found.append(f"LPIPS was {lpips}.")
    masks = re.search(r"in (\d+) of (\d+) views", run.conventions.get("masks", ""))
    if masks and int(masks[1]):
        found.append(
            f"{masks[1]} of {masks[2]} test views have masks: PSNR and SSIM count what these leave, while "
            "the error maps show all pixels."
        )
    if run.events.resumed:
        at = ", ".join(f"{max(0, step - 1):,}" for step in run.events.resumed)
        found.append(f"The run was resumed after iteration {at}; its summary is that of the last process.")
    if run.summary == {} and run.events.scalars and not any(run.folder.glob("summary.json")):
        found.append(
            "The run has no summary.json: it has not ended yet, or was stopped (--resume goes on from its "
            "last checkpoint)."
        )
    without = _without_prior(run)
    if without:
        found.append(f"No depth prior for: {', '.join(without)}.")
    return found


def _without_prior(run: Run) -> list[str]:
    """Training views that have no depth prior where others have one."""
    views = number(run.summary, "train_views")
    tags = run.events.pictures
    if not views or not any(tag.startswith("prior/") for tag in tags):
        return []
    names = run.cameras[: int(views)]
    return [name for name in names if name and f"prior/{output_stem(name)}/depth" not in tags]


def _vertices(run: Run) -> int | None:
    """The number of points in input.ply."""
    try:
        with open(run.folder / "input.ply", "rb") as file:
            match = re.search(rb"element vertex (\d{1,12})\s", file.read(_HEADER_BYTES))
    except OSError:
        return None
    return int(match[1]) if match else None
