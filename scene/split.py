"""Which images train, which are held out, and what may be known of the scene from the former alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scene.config import SceneConfig
from scene.frames import Frame
from scene.scene_error import SceneError

OUTLIER_FACTOR = 3.0
"""A camera this many times farther out than the extent of all others is taken for a wrong pose."""

MIN_OBSERVATIONS = 2
"""Training views that must see a point: fewer cannot have placed it."""


def split_frames(
    frames: Sequence[Frame], config: SceneConfig, source: str
) -> tuple[list[Frame], list[Frame]]:
    """The training and test frames.

    With `eval`, frames that the scene itself holds out are the test frames; where it holds out none,
    every `test_every`-th by name (0, n, 2n, ...). With `n_views`, the training frames are thinned to
    `round(linspace(0, T - 1, n))` of the T that are left.

    Args:
        frames: Sorted by name.
        config: `eval`, `test_every` and `n_views` are used.
        source: The scene, for messages.

    Raises:
        SceneError: If no training frame is left or there are fewer than `n_views`.
    """
    test: list[Frame] = []
    train = list(frames)
    if config.eval:
        given = any(frame.held_out for frame in frames)
        held = [bool(f.held_out) if given else i % config.test_every == 0 for i, f in enumerate(frames)]
        test = [frame for frame, out in zip(frames, held, strict=True) if out]
        train = [frame for frame, out in zip(frames, held, strict=True) if not out]
    if not train:
        raise SceneError(
            f"{source}: no training view is left of {len(frames)} image(s) ({len(test)} held out); "
            "train without --eval or add images"
        )
    if config.n_views > len(train):
        raise SceneError(
            f"{source}: n_views: expected at most {len(train)}, the number of training views, "
            f"got {config.n_views}; ask for fewer"
        )
    if config.n_views:
        picked = np.round(np.linspace(0, len(train) - 1, config.n_views)).astype(int)
        train = [train[i] for i in picked]
    return train, test


def visible_points(
    observations: dict[str, NDArray[np.int64]], train: Sequence[Frame], points: int
) -> NDArray[np.bool_]:
    """Which of the points at least two training views observe, [P].

    Args:
        observations: For each image name the points that it sees, each once.
        train: The training frames.
        points: P.
    """
    seen = np.zeros(points, np.int64)
    for frame in train:
        seen[observations[frame.name]] += 1
    return seen >= MIN_OBSERVATIONS


def scene_extent(centers: NDArray[np.float64], xyz: NDArray[np.float32]) -> float:
    """Radius of the training cameras: 1.1 x the largest distance from their mean.

    One camera that lies more than `OUTLIER_FACTOR` times farther out than the rest reach is left out,
    if at least three remain. Cameras that all stand in one place have no radius; a tenth of the median
    distance to the points stands in for it (the baseline of a usual stereo pair), or 1 without points.

    Args:
        centers: [C, 3], world.
        xyz: [P, 3], world.

    Returns:
        World units, > 0.
    """
    radius = _radius(centers)
    if len(centers) >= 4:
        farthest = int(np.linalg.norm(centers - np.median(centers, axis=0), axis=1).argmax())
        others = np.delete(centers, farthest, axis=0)
        distance = float(np.linalg.norm(centers[farthest] - others.mean(axis=0)))
        if 1.1 * distance > OUTLIER_FACTOR * _radius(others) > 0:
            radius = _radius(others)
    away = np.linalg.norm(xyz - centers.mean(axis=0), axis=1) if len(xyz) else np.ones(1)
    scale = float(np.median(away))
    if radius > 1e-6 * scale:
        return radius
    return 0.1 * scale if len(xyz) and scale > 0 else 1.0


def _radius(centers: NDArray[np.float64]) -> float:
    return 1.1 * float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())
