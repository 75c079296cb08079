"""How much of a scene's depth the built-in stereo finds, how right it is, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

import native
from depth_priors import DepthPrior, Surroundings, look_around, stereo_priors
from depth_priors.mvs import NEIGHBOURS, completed
from evaluation import colorize_depth, depth_limits
from scene import Points, Scene, SceneConfig, View, load_scene, project


def measure_stereo(source: Path, views: int, near: bool, threads: int, picture: Path) -> dict[str, Any]:
    """Coverage, errors and seconds of stereo on a scene's training views (`--eval`, `--n_views`).

    Every other point of structure from motion is kept from the stereo and then compared with the confident
    depth at the pixels where the views saw it; and every confident pixel with the true depth, where the scene
    has it (`depth/NAME.npy`, as the synthetic scene has).

    Args:
        source: the scene.
        views: how many views; 0 = all.
        near: that many neighbouring ones of all images, instead of ones spread over the training images.
        threads: of the CPU.
        picture: gets the middle view's photograph, true depth if there is one, prior and confidence.
    """
    native.set_threads(threads)
    scene = (
        _neighbouring(source, views) if near else load_scene(source, SceneConfig(eval=True, n_views=views))
    )
    given, held = _halves(scene.points)
    native.library()  # compiled before the clock starts
    start = time.perf_counter()
    surroundings = look_around(scene.train, given, NEIGHBOURS)
    priors = stereo_priors(scene.train, surroundings)
    seconds = (time.perf_counter() - start) / len(scene.train)
    _draw(source, scene.train, priors, surroundings, picture)
    any_agrees, two_agree, at_points, at_pixels = [], [], [], []
    for index, (view, prior) in enumerate(zip(scene.train, priors, strict=True)):
        size = view.camera.width * view.camera.height
        if prior is None:
            any_agrees.append(0.0)
            two_agree.append(0.0)
            continue
        confident = prior.confidence >= 0.5
        any_agrees.append(confident.sum().item() / size)
        two_agree.append((prior.confidence == 1.0).sum().item() / size)
        seen = held.xyz if held.seen is None else held.xyz[held.seen[:, index]]
        at_points.append(_errors_at_points(view, 1.0 / prior.value, confident, seen))
        true = _truth(source, view)
        if true is not None:
            at_pixels.append(((1.0 / prior.value - true).abs() / true)[confident & (true > 0)])
    points = torch.cat(at_points) if at_points else torch.zeros(0)
    row: dict[str, Any] = {
        "scene": source.name,
        "views": len(scene.train),
        "pixels": f"{scene.train[0].camera.width}x{scene.train[0].camera.height}",
        "threads": threads,
        "s_per_view": round(seconds, 2),
        "confident": _percent(float(np.mean(any_agrees))),
        "two_agree": _percent(float(np.mean(two_agree))),
        "held_points": len(points),
        "median_error": _percent(points.median().item() if len(points) else float("nan"), 2),
        "within_5": _percent(_share(points, 0.05)),
    }
    if at_pixels:
        pixels = torch.cat(at_pixels)
        row["truth_within_1"] = _percent(_share(pixels, 0.01))
        row["truth_within_5"] = _percent(_share(pixels, 0.05))
    return row


def _neighbouring(source: Path, views: int) -> Scene:
    """A scene of `views` images that follow each other in the middle of all, and the points that two see."""
    scene = load_scene(source, SceneConfig())
    first = max(0, (len(scene.train) - views) // 2)
    chosen = slice(first, first + views if views else None)
    points = scene.points
    if points.seen is not None:
        seen = points.seen[:, chosen]
        keep = seen.sum(1) >= 2
        points = Points(points.xyz[keep], points.rgb[keep], seen[keep])
    return replace(scene, train=scene.train[chosen], points=points)


def _draw(
    source: Path,
    views: Sequence[View],
    priors: Sequence[DepthPrior | None],
    surroundings: Sequence[Surroundings],
    path: Path,
) -> None:
    """Photograph, true depth, completed prior and confidence of the middle view that has a prior."""
    found = [i for i, prior in enumerate(priors) if prior is not None]
    if not found:
        return
    i = found[len(found) // 2]
    view, prior = views[i], priors[i]
    assert prior is not None, "found lists priors only"
    whole = 1.0 / completed(view, surroundings[i].points, prior).value
    true = _truth(source, view)
    limits = depth_limits(whole if true is None else true)
    parts = [view.pixels.numpy()]
    if true is not None:
        parts.append(colorize_depth(true, limits=limits))
    parts.append(colorize_depth(whole, limits=limits))
    parts.append((prior.confidence.clamp(0, 1) * 255).round().byte()[..., None].expand(-1, -1, 3).numpy())
    cv2.imwrite(str(path), cv2.cvtColor(np.hstack(parts), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _truth(source: Path, view: View) -> Tensor | None:
    path = source / "depth" / f"{view.stem}.npy"
    return torch.from_numpy(np.load(path)) if path.is_file() else None


def _halves(points: Points) -> tuple[Points, Points]:
    """Even rows, to be given to the stereo, and odd rows, to be held back."""
    parts = []
    for first in (0, 1):
        seen = None if points.seen is None else points.seen[first::2]
        parts.append(Points(points.xyz[first::2], points.rgb[first::2], seen))
    return parts[0], parts[1]


def _errors_at_points(view: View, depth: Tensor, confident: Tensor, xyz: Tensor) -> Tensor:
    """Relative errors [n] of a depth map at the points [P, 3] that lie on its confident pixels."""
    at = project(view.camera, xyz.numpy())
    z = torch.from_numpy(at.z).float()
    compared = torch.from_numpy(at.inside) & confident[at.y, at.x]
    return ((depth[at.y, at.x] - z).abs() / z)[compared]


def _share(errors: Tensor, bound: float) -> float:
    return (errors < bound).float().mean().item() if len(errors) else float("nan")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
