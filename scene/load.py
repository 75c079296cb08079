"""`load_scene`: the way from a folder to a `Scene`.

Reads the model first and images last, so that every mistake that needs no pixels is told at once.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import torch

from scene.colmap import explain_missing, find_model, read_colmap
from scene.config import SceneConfig
from scene.frames import Frame, SceneModel
from scene.images import load_views
from scene.matching import FileIndex
from scene.scene_error import SceneError
from scene.split import scene_extent, split_frames, visible_points
from scene.transforms import find_transforms, read_transforms
from scene.view import Points, Scene, View

_log = logging.getLogger(__name__)

_LISTED = 5  # names in a message


def load_scene(source: Path, config: SceneConfig, *, quiet: bool = False) -> Scene:
    """Reads a COLMAP, nerfstudio, instant-ngp or Blender scene.

    Args:
        source: The scene's folder: `sparse/` and `images/`, or `transforms*.json`.
        config: What to read of it and how.
        quiet: No progress bar.

    Returns:
        Undistorted views sorted by name, points and extent, all on the CPU.

    Raises:
        SceneError: If the folder is no such scene, or something in it is missing or damaged.
    """
    source, began = Path(source), time.perf_counter()
    config.check()
    if not source.is_dir():
        what = "is a file, not a folder" if source.exists() else "no such folder"
        raise SceneError(f"{source}: {what}; give the folder that holds the scene")
    model, resolution = _read_model(source, config)
    present = _present(model, config)
    train, test = split_frames(present, config, str(source))
    points = _points(model, train, config, source)
    alpha = config.alpha_mode
    if alpha == "auto":
        alpha = "background" if model.alpha_is_background else "mask"
    views = load_views([*train, *test], resolution, alpha, quiet=quiet)
    centers = np.stack([-frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3] for frame in train])
    _check_weights(train, views[: len(train)], config.alpha_mode)
    _log.debug("%s: %d images read in %.2f s", source, len(views), time.perf_counter() - began)
    return Scene(
        train=tuple(views[: len(train)]),
        test=tuple(views[len(train) :]),
        points=points,
        extent=scene_extent(centers, points.xyz.numpy()),
        source=source,
    )


def is_scene(source: Path) -> bool:
    """Whether a folder holds a model, or files of one; damaged and incomplete ones count."""
    return bool(find_model(source) or explain_missing(source) or find_transforms(source))


def _read_model(source: Path, config: SceneConfig) -> tuple[SceneModel, int]:
    """The scene without pixels, and the resolution that is still to be applied to its images."""
    masks = _masks(source, config)
    found = find_model(source)
    if found is not None:
        images, resolution = _images_folder(source, config)
        model = read_colmap(*found, images, masks)
    elif files := find_transforms(source):
        resolution = config.resolution
        reduced = f"images_{resolution}"
        use_reduced = not config.images and resolution in (2, 4, 8) and (source / reduced).is_dir()
        if use_reduced:
            resolution = 1
        if config.images and not (source / config.images).is_dir():
            raise SceneError(f"{source / config.images}: no such images folder; check --images")

        def redirect(folder: str) -> str:
            return config.images or (reduced if use_reduced and folder == "images" else folder)

        model = read_transforms(source, files, config, masks, redirect)
    else:
        raise SceneError(
            f"{source}: no COLMAP model{explain_missing(source)}: looked for cameras, images and points3D "
            "(.bin or .txt) in sparse/0, sparse/N, sparse and the folder itself, and for transforms.json or "
            "transforms_train.json; make one from the photographs by scripts/convert or COLMAP (or pycolmap)"
        )
    _check_masks(model, masks)
    return model, resolution


def _images_folder(source: Path, config: SceneConfig) -> tuple[Path, int]:
    """The images folder and the resolution still to apply: 1 where `images_N` holds reduced images."""
    if config.images:
        folder = source / config.images
        if not folder.is_dir():
            raise SceneError(f"{folder}: no such images folder; check --images")
        return folder, config.resolution
    if config.resolution in (2, 4, 8) and (reduced := source / f"images_{config.resolution}").is_dir():
        return reduced, 1
    folder = source / "images"
    if not folder.is_dir():
        others = sorted(path.name for path in source.glob("images*") if path.is_dir())
        others += [name for name in ("input", "rgb") if (source / name).is_dir()]
        hint = (
            f"found {', '.join(others)}: choose with --images"
            if others
            else "put the photographs there or use --images"
        )
        raise SceneError(f"{folder}: no such images folder; {hint}")
    return folder, config.resolution


def _masks(source: Path, config: SceneConfig) -> FileIndex | None:
    if config.masks:
        if not (source / config.masks).is_dir():
            raise SceneError(f"{source / config.masks}: no such masks folder; check --masks")
        return FileIndex(source / config.masks)
    return FileIndex(source / "masks") if (source / "masks").is_dir() else None


def _check_masks(model: SceneModel, masks: FileIndex | None) -> None:
    """Refuses a masks folder that fits nothing; says how many images it leaves without one."""
    if masks is None:
        return
    without = [frame.name for frame in model.frames if frame.mask is None]
    if len(without) == len(model.frames):
        raise SceneError(
            f"{masks.folder}: none of its {len(masks)} masks is named after an image "
            f"(such as {without[0]}.png); rename the masks or move the folder away"
        )
    if without:
        _log.warning("%s: no mask for %s; all their pixels count", masks.folder, _some(without))


def _present(model: SceneModel, config: SceneConfig) -> list[Frame]:
    """The frames that have an image file."""
    missing = [frame.name for frame in model.frames if frame.image is None]
    if not missing:
        return list(model.frames)
    if not config.skip_missing:
        raise SceneError(
            f"{model.images_at}: {len(missing)} of {len(model.frames)} images of the model are missing: "
            f"{_some(missing)}; add them or leave them out with --skip_missing"
        )
    if len(missing) == len(model.frames):
        raise SceneError(
            f"{model.images_at}: all {len(missing)} images of the model are missing: {_some(missing)}; "
            "check the folder, --skip_missing cannot help"
        )
    _log.warning("%s: leaving out %d missing images: %s", model.images_at, len(missing), _some(missing))
    return [frame for frame in model.frames if frame.image is not None]


def _points(model: SceneModel, train: list[Frame], config: SceneConfig, source: Path) -> Points:
    """The model's points, without those that only images outside `train` know of."""
    keep = np.ones(len(model.xyz), bool)
    if len(train) < len(model.frames):
        if model.observations is not None:
            keep = visible_points(model.observations, train, len(model.xyz))
        elif config.n_views and len(keep):
            keep[:] = False
            _log.warning(
                "%s: its points do not say which images see them, so none can be used with --n_views", source
            )
        elif len(keep):
            _log.warning(
                "%s: its points do not say which images see them; keeping all %d, also what only "
                "other images may have shown",
                source,
                len(keep),
            )
    if not keep.any():
        _log.warning(
            "%s: no point is seen by two of the %d training views; starting without points",
            source,
            len(train),
        )
    rgb = torch.from_numpy(model.rgb[keep]).float() / 255.0
    seen = None
    if model.observations is not None:
        seen = torch.zeros(len(keep), len(train), dtype=torch.bool)
        for column, frame in enumerate(train):
            seen[torch.from_numpy(model.observations[frame.name]), column] = True
        seen = seen[torch.from_numpy(keep)]
    return Points(torch.from_numpy(model.xyz[keep]), rgb, seen)


def _check_weights(frames: list[Frame], views: list[View], alpha_mode: str) -> None:
    """Refuses training views of which no pixel counts; names those of which none does where some do.

    Args:
        frames: The training frames.
        views: Theirs, in the same order.
        alpha_mode: As `SceneConfig.alpha_mode`.
    """
    black = [view.name for view in views if view.mask is not None and not bool(view.mask.any())]
    if len(black) == len(views):
        folders = [str(frame.mask.parent) for frame in frames if frame.mask is not None]
        images = [str(frame.image.parent) for frame in frames if frame.image is not None]
        by_alpha = f"make the images opaque or use --alpha_mode background (now {alpha_mode})"
        where, what, action = (
            (folders, "masks", "invert them if they mean the opposite, or move the folder away")
            if folders
            else (images, "images' alpha channels", by_alpha)
        )
        raise SceneError(
            f"{os.path.commonpath(where)}: the {what} leave no pixel to train on in any of the {len(views)} "
            f"training views; white means use, black means ignore: {action}"
        )
    if black:
        _log.warning("the mask leaves no pixel of %s; white means use, black means ignore", _some(black))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
