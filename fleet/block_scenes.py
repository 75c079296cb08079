"""Writes blocks as COLMAP scenes of their own: a small model each, and links to the scene's photographs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from atomic import write_bytes
from errors import UserError
from fleet.folder import NOT_OURS
from fleet.partition import Block, Cell, Plane, assign, cut, ground_plane
from fleet.scenes import fingerprint
from scene import MADE, SceneConfig
from scene.colmap import find_model, read_colmap
from scene.colmap_check import check_model
from scene.split import split_frames, visible_points
from scene.undistort import pinhole_for

FORMAT = 1
PLACE = "blocks"
"""The folder in OUTPUT that holds all but the merged model."""
_BLOCK = re.compile(r"block_\d+_\d+")
_NAME = re.compile(r"\w+")  # of a cell
LEAST_CAMERAS = 3
"""Of a block: fewer do not make a scene."""


@dataclass(frozen=True)
class Wish:
    """How a scene is to be cut.

    Attributes:
        a: strips along the cameras' longest axis.
        b: blocks in each strip.
        overlap: see `assign`.
        visible: see `assign`.
        held_out: whether every `test_every`-th image is left out of all blocks.
        test_every: see `SceneConfig`.
        images: see `SceneConfig`.
        skip_missing: see `SceneConfig`.
    """

    a: int
    b: int
    overlap: float
    visible: float
    held_out: bool
    test_every: int
    images: str
    skip_missing: bool


@dataclass(frozen=True, eq=False)
class Partition:
    """A scene that has been cut: what is needed to put it together again."""

    plane: Plane
    cells: tuple[Cell, ...]
    digest: str
    train_views: int
    points: int
    sizes: dict[str, tuple[int, int]]
    """Cameras and points of each block."""


def write_partition(scene: Path, place: Path, wish: Wish) -> Partition:
    """Cuts a scene into PLACE/scenes/BLOCK and PLACE/partition.json; one that is there already is kept.

    Raises:
        UserError: there is no COLMAP model, or a block would have too few cameras.
    """
    digest = _digest(scene, place, wish)
    record, scenes = place / "partition.json", place / "scenes"
    if record.is_file() and (known := read_partition(place)).digest == digest:
        for cell in known.cells:  # the scene may have moved
            _link(scene, scenes / cell.name, place, wish.images)
        return known
    source = _Source.read(scene, wish)
    plane = ground_plane(source.centres)
    cameras, points = plane.spots(source.centres), plane.spots(source.xyz)
    cells = cut(cameras, wish.a, wish.b)
    blocks = assign(cells, cameras, points, source.seen, overlap=wish.overlap, visible=wish.visible)
    for block in blocks:
        own = int(block.cell.holds(cameras).sum())
        if own < 1 or len(block.cameras) < LEAST_CAMERAS:
            raise UserError(
                f"--blocks {wish.a}x{wish.b}: {block.cell.name} would have {len(block.cameras)} training "
                f"cameras, {own} of them in its cell: expected at least {LEAST_CAMERAS}: ask for fewer blocks"
            )
    earlier = _earlier_blocks(scenes)
    record.unlink(missing_ok=True)  # from here on it would not be true
    for folder in earlier:
        shutil.rmtree(folder)
    for block in blocks:
        folder = scenes / block.cell.name
        (folder / "sparse" / "0").mkdir(parents=True)
        source.write(block, folder / "sparse" / "0")
        _link(scene, folder, place, wish.images)
    sizes = {block.cell.name: (len(block.cameras), len(block.points)) for block in blocks}
    made = Partition(plane, tuple(cells), digest, len(source.centres), len(source.xyz), sizes)
    write_bytes(record, (json.dumps(_plain(made, scene, wish), indent=1) + "\n").encode())
    return made


def _earlier_blocks(scenes: Path) -> list[Path]:
    """The folders of an earlier partition.

    Raises:
        UserError: there is something else.
    """
    if scenes.is_symlink():
        raise UserError(f"{scenes}: expected a folder, got a link to one: remove it, or choose another -o")
    found = sorted(scenes.iterdir()) if scenes.is_dir() else []
    for path in found:
        if not _is_block(path):
            raise UserError(
                f"{path}: expected nothing in this folder but blocks of an earlier call, which are replaced: "
                "move it away, or choose another -o"
            )
    return found


def _is_block(path: Path) -> bool:
    """Whether it is what `write_partition` makes: a model and links, whole or in part."""
    if path.is_symlink() or not path.is_dir() or not _BLOCK.fullmatch(path.name):
        return False
    return all(
        one.is_symlink() or one.name in ("sparse", MADE) or one.name.startswith(".") for one in path.iterdir()
    )


def read_partition(place: Path) -> Partition:
    """Reads PLACE/partition.json.

    Raises:
        UserError: there is none, or it is none of ours.
    """
    path = place / "partition.json"
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError("another format")
        plane = Plane(np.array(content["origin"], np.float64), np.array(content["axes"], np.float64))
        if plane.origin.shape != (3,) or plane.axes.shape != (2, 3):
            raise ValueError("its plane is none")
        if not (np.isfinite(plane.origin).all() and np.isfinite(plane.axes).all()):
            raise ValueError("its plane is not finite")
        cells = tuple(_cell(**cell) for cell in content["cells"])
        sizes = {name: (int(size[0]), int(size[1])) for name, size in content["sizes"].items()}
        for cell in cells:
            if cell.name not in sizes:
                raise ValueError(f"no size of {cell.name!r}")
        numbers = int(content["train_views"]), int(content["points"])
        return Partition(plane, cells, str(content["digest"]), *numbers, sizes)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: cut the scene first (--stage partition)") from error
    except NOT_OURS as error:
        raise UserError(f"{path}: expected a scene's partition ({error}): delete it to cut anew") from error


def _cell(name: str, low: Sequence[float | None], high: Sequence[float | None]) -> Cell:
    if not _NAME.fullmatch(name):  # it becomes a folder's
        raise ValueError(f"a cell {name!r}")
    u, v = (-np.inf if value is None else float(value) for value in low)
    x, y = (np.inf if value is None else float(value) for value in high)
    return Cell(name, (u, v), (x, y))


def _plain(made: Partition, scene: Path, wish: Wish) -> dict[str, Any]:
    def finite(values: Sequence[float]) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]  # JSON knows no infinity

    return {
        "format": FORMAT,
        "scene": str(scene),
        "wish": asdict(wish),
        "digest": made.digest,
        "train_views": made.train_views,
        "points": made.points,
        "origin": made.plane.origin.tolist(),
        "axes": made.plane.axes.tolist(),
        "cells": [
            {"name": cell.name, "low": finite(cell.low), "high": finite(cell.high)} for cell in made.cells
        ],
        "sizes": made.sizes,
    }


def check_partition(partition: Partition, scene: Path, place: Path, wish: Wish) -> None:
    """Refuses a partition that was made of another scene, or with other options than are given now.

    Raises:
        UserError: it was.
    """
    if partition.digest != _digest(scene, place, wish):
        raise UserError(
            f"{place}: was cut from another scene, or with other --eval, --blocks, --overlap or the like: "
            "give the same options to each --stage, or begin anew with --stage partition"
        )


def _digest(scene: Path, place: Path, wish: Wish) -> str:
    try:
        words = f"{FORMAT} {wish} {fingerprint(scene, place.parent)}"
    except OSError as error:
        raise UserError(f"{scene}: cannot be read ({error.strerror}): check the path") from error
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _link(scene: Path, folder: Path, place: Path, images: str) -> None:
    """Gives a block the scene's folders of photographs, masks and depth: links, relative to the block.

    Not the folder that the blocks lie in, should it be one of the scene's. `images` is the photographs', if
    it is said.
    """
    inside = place.resolve().parents
    wanted = Path(images).parts[:1]
    for path in sorted(scene.iterdir()):
        if path.name in (MADE, "sparse") or path.name.startswith(".") or path.resolve() in inside:
            continue
        if path.name.startswith("sparse") and path.name not in wanted:
            continue
        if path.is_dir():
            link, target = folder / path.name, os.path.relpath(path.resolve(), folder.resolve())
            if link.is_symlink() and os.readlink(link) != target:
                link.unlink()
            if not link.is_symlink() and folder.is_dir():
                link.symlink_to(target)


@dataclass(frozen=True, eq=False)
class _Source:
    """The scene's training cameras and the points that these have placed."""

    model: pycolmap.Reconstruction
    names: dict[int, str]
    image_ids: list[int]
    """Of the training views, in the order of their names."""
    centres: NDArray[np.float64]
    """[C, 3], of the same."""
    point_ids: list[int]
    xyz: NDArray[np.float64]
    """[P, 3]."""
    seen: list[NDArray[np.int64]]
    """Rows of `xyz` for each camera."""

    @classmethod
    def read(cls, scene: Path, wish: Wish) -> _Source:
        found = find_model(scene)
        if found is None:
            raise UserError(
                f"{scene}: expected a COLMAP model (sparse/0), whose points say which images see them: make "
                "one by scripts/convert or COLMAP"
            )
        checked = read_colmap(*found, scene / (wish.images or "images"), None)
        if checked.observations is None:
            raise UserError(
                f"{found[0]}: its points do not say which images see them, which decides about blocks: "
                "triangulate them by COLMAP"
            )
        missing = [frame.name for frame in checked.frames if frame.image is None]
        if missing and not wish.skip_missing:
            raise UserError(
                f"{scene}: {len(missing)} images of the model are missing, such as {missing[0]}: add them, "
                "or leave them out by --train=--skip_missing"
            )
        for lens in {frame.lens.key: frame.lens for frame in checked.frames}.values():
            if lens.camera is not None:
                pinhole_for(lens.camera, lens.label)  # refuses what train.py would refuse in every block
        config = SceneConfig(eval=wish.held_out, test_every=wish.test_every)
        present = [frame for frame in checked.frames if frame.image is not None]
        train, _ = split_frames(present, config, str(scene))
        keep = np.ones(len(checked.xyz), bool)
        if len(train) < len(checked.frames):  # as the scene's own loader: what only others saw is not known
            keep = visible_points(checked.observations, train, len(checked.xyz))
        rows = np.cumsum(keep) - 1
        seen = [rows[some[keep[some]]] for some in (checked.observations[frame.name] for frame in train)]
        folder, suffix = found
        model = pycolmap.Reconstruction()
        (model.read_binary if suffix == ".bin" else model.read_text)(str(folder))
        names = check_model(folder, suffix)
        id_of = {names[image_id]: image_id for image_id in model.reg_image_ids()}
        ids = np.array(sorted(model.points3D), dtype=np.int64)  # the order that read_colmap has
        return cls(
            model,
            names,
            [id_of[frame.name] for frame in train],
            np.stack([-frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3] for frame in train]),
            ids[keep].tolist(),
            checked.xyz[keep].astype(np.float64),
            seen,
        )

    def write(self, block: Block, folder: Path) -> None:
        """A model with a block's images and points, ids of images and cameras as in the scene's."""
        made = pycolmap.Reconstruction()
        images = [self.image_ids[row] for row in block.cameras]
        wanted = set(images)
        for camera_id in sorted({self.model.images[image_id].camera_id for image_id in images}):
            made.add_camera_with_trivial_rig(self.model.cameras[camera_id])
        tracks: list[tuple[int, list[tuple[int, int]]]] = []
        spots: dict[int, list[NDArray[np.float64]]] = {image_id: [] for image_id in images}
        found = {image_id: self.model.images[image_id].points2D for image_id in images}
        for row in block.points:
            point_id, elements = self.point_ids[row], []
            for element in self.model.points3D[point_id].track.elements:
                if element.image_id in wanted:
                    mine = spots[element.image_id]
                    elements.append((element.image_id, len(mine)))
                    mine.append(found[element.image_id][element.point2D_idx].xy)
            tracks.append((point_id, elements))
        for image_id in images:
            old = self.model.images[image_id]
            keypoints = np.array(spots[image_id], np.float64).reshape(-1, 2)
            image = pycolmap.Image(
                name=self.names[image_id],
                keypoints=keypoints,
                camera_id=old.camera_id,
                image_id=image_id,
            )
            made.add_image_with_trivial_frame(image, old.cam_from_world())
        for point_id, elements in tracks:
            track = pycolmap.Track()
            for image_id, index in elements:
                track.add_element(image_id, index)
            point = self.model.points3D[point_id]
            made.add_point3D(point.xyz, track, point.color)
        made.write_binary(str(folder))
