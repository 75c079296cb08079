"""transforms.json scenes: nerfstudio and instant-ngp (one file) and Blender (train and test files).

Camera axes are turned from OpenGL's to OpenCV's; distortion becomes one of COLMAP's camera models.
World coordinates are kept as the file has them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from numpy.typing import NDArray

from scene.config import SceneConfig
from scene.frames import Frame, Lens, SceneModel, check_names
from scene.json_values import Values, read_json
from scene.matching import FileIndex, check_name
from scene.ply import read_ply
from scene.poses import MAX_COORDINATE, viewmat_from_opengl
from scene.scene_error import SceneError

_log = logging.getLogger(__name__)

NARROWEST = 1e-6
"""Radians: what is narrower is no lens, and its focal length no number."""
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
_RADIAL = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")

ImageFolder = Callable[[str], str]


def find_transforms(source: Path) -> list[tuple[Path, bool | None]]:
    """The files of a JSON scene, each with whether its frames are held out; empty if there are none."""
    if (train := source / "transforms_train.json").is_file():
        test = source / "transforms_test.json"
        return [(train, False), *([(test, True)] if test.is_file() else [])]
    single = source / "transforms.json"
    return [(single, None)] if single.is_file() else []


def read_transforms(
    source: Path,
    files: list[tuple[Path, bool | None]],
    config: SceneConfig,
    masks: FileIndex | None,
    image_folder: ImageFolder,
) -> SceneModel:
    """Reads the files of a JSON scene.

    Args:
        source: The scene's folder; paths in the files are relative to it.
        files: From `find_transforms`. Held-out files are read even without `eval`: then they train.
        config: `images` replaces the folder of the file names.
        masks: Index of a masks folder, if there is one; frames may also name their masks.
        image_folder: Maps a folder named by a frame to the one to read ("images" -> "images_4").

    Raises:
        SceneError: For wrong JSON, keys, poses, names or points; names the file and the key.
    """
    folders = _Folders(source, image_folder)
    frames: list[Frame] = []
    points = (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    for path, held_out in files:
        header = Values(read_json(path), str(path))
        entries = header.get("frames")
        if not isinstance(entries, list) or not entries:
            raise SceneError(f"{path}: frames: expected a list with at least one frame; re-export the scene")
        for index, content in enumerate(entries):
            entry = Values(content, f"{path}: frames[{index}]", header)
            frames.append(_frame(entry, path, folders, masks, held_out))
        if "ply_file_path" in header:
            points = _read_ply(source, header.text("ply_file_path"), str(path))
    check_names(frames, str(files[0][0]))
    frames.sort(key=lambda frame: frame.name)
    return SceneModel(tuple(frames), *points, None, str(source), alpha_is_background=True)


class _Folders:
    """Indexes of the folders that frames name, made when first asked for."""

    def __init__(self, source: Path, image_folder: ImageFolder) -> None:
        self._source = source
        self._image_folder = image_folder
        self._indexes: dict[str, FileIndex | None] = {}

    def find(self, name: str, redirect: bool = True) -> Path | None:
        """The file that a frame names, with or without its extension; None if there is none."""
        plain = PurePosixPath(name.replace("\\", "/"))
        parent = plain.parent.as_posix()
        if redirect:
            parent = self._image_folder(parent)
        if parent not in self._indexes:
            folder = self._source / parent
            self._indexes[parent] = FileIndex(folder) if folder.is_dir() else None
        index = self._indexes[parent]
        return None if index is None else index.find(plain.name)


def _frame(
    entry: Values, path: Path, folders: _Folders, masks: FileIndex | None, held_out: bool | None
) -> Frame:
    name = entry.text("file_path")
    check_name(name, entry.label("file_path"))
    name = PurePosixPath(name.replace("\\", "/")).as_posix()  # drops "./"
    pose = viewmat_from_opengl(_pose(entry), entry.label("transform_matrix"))
    image = folders.find(name)
    mask = None
    if "mask_path" in entry:
        mask_name = entry.text("mask_path")
        check_name(mask_name, entry.label("mask_path"))
        mask = folders.find(mask_name, redirect=False)
        if mask is None:
            raise SceneError(f"{entry.label('mask_path')}: no file {mask_name!r}; add it or remove the key")
    elif masks is not None:
        mask = masks.find_mask(name) or masks.find_mask(PurePosixPath(name).name)
    return Frame(name, _lens(entry, path), pose, image, mask, held_out)


def _pose(entry: Values) -> NDArray[np.float64]:
    rows = entry.get("transform_matrix")
    if isinstance(rows, list) and len(rows) == 3:  # some exporters leave out the last row
        return np.vstack([entry.matrix("transform_matrix", (3, 4)), [0.0, 0.0, 0.0, 1.0]])
    pose = entry.matrix("transform_matrix", (4, 4))
    if not np.allclose(pose[3], [0.0, 0.0, 0.0, 1.0], atol=1e-6):
        raise SceneError(
            f"{entry.label('transform_matrix')}: expected a last row of 0 0 0 1, got {pose[3].tolist()}; "
            "the matrix may be transposed"
        )
    return pose


def _lens(entry: Values, path: Path) -> Lens:
    model = entry.text("camera_model", "OPENCV_FISHEYE" if _is_fisheye(entry) else "OPENCV")
    if model not in (*_PINHOLES, *_RADIAL, *_FISHEYE):
        known = ", ".join((*_PINHOLES, *_RADIAL, *_FISHEYE))
        raise SceneError(
            f"{entry.label('camera_model')}: expected one of {known}, got {model!r}; undistort it first"
        )
    keys = ("k1", "k2", "k3", "k4", "p1", "p2")
    k1, k2, k3, k4, p1, p2 = (0.0 if model in _PINHOLES else entry.number(key, 0.0) for key in keys)
    distorted = any((k1, k2, k3, k4, p1, p2)) or model in _FISHEYE
    if "fl_x" not in entry:
        angle_y = _angle(entry, "camera_angle_y") if "camera_angle_y" in entry else None
        angles = (_angle(entry, "camera_angle_x"), angle_y)
        if distorted:
            raise SceneError(
                f"{entry.label('fl_x')}: missing, and distortion needs it; re-export with fl_x, w and h"
            )
        return Lens(("angles", *angles), f"{path} (field of view)", None, angles)
    width, height = entry.size("w"), entry.size("h")
    fx = entry.positive("fl_x")
    fy = entry.positive("fl_y") if "fl_y" in entry else fx
    pinhole = (fx, fy, entry.number("cx", width / 2), entry.number("cy", height / 2))
    params: tuple[float, ...] = pinhole
    if not distorted:
        model = "PINHOLE"
    elif model in _FISHEYE:
        model, params = "OPENCV_FISHEYE", (*pinhole, k1, k2, k3, k4)
    else:
        if k4:
            raise SceneError(
                f"{entry.label('k4')}: expected 0 for a {model} camera, got {k4:g}; undistort it first"
            )
        model, params = "FULL_OPENCV", (*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    camera = pycolmap.Camera(model=model, width=width, height=height, params=list(params), camera_id=1)
    return Lens((model, width, height, *params), f"{path}: camera ({model}, {width}x{height})", camera)


def _is_fisheye(entry: Values) -> bool:
    return "is_fisheye" in entry and entry.get("is_fisheye") is True


def _angle(entry: Values, key: str) -> float:
    value = entry.positive(key)
    if not NARROWEST <= value < math.pi:
        raise SceneError(
            f"{entry.label(key)}: expected an angle from {NARROWEST:g} to below pi radians, got {value:g}; "
            "re-export it"
        )
    return value


def _read_ply(source: Path, name: str, where: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The points that a nerfstudio file names: x y z and, if there, red green blue (0 to 255)."""
    check_name(name, f"{where}: ply_file_path")
    path = source / name
    if not path.is_file():
        _log.warning("%s: ply_file_path: no file %s; starting without points", where, path)
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    try:
        vertex = read_ply(path)["vertex"].data
        xyz = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
        names = vertex.dtype.names or ()
        colours = ("red", "green", "blue")
        rgb = np.full((len(xyz), 3), 128, np.uint8)
        if all(colour in names for colour in colours):
            rgb = np.stack([vertex[colour] for colour in colours], axis=1).astype(np.uint8)
    except Exception as error:  # plyfile and numpy raise a dozen kinds at damaged bytes
        raise SceneError(
            f"{path}: not a readable point cloud ({error}); re-export it or remove ply_file_path"
        ) from error
    if not (np.abs(xyz) < MAX_COORDINATE).all():
        raise SceneError(f"{path}: expected finite positions, got NaN or infinity; re-export it")
    return xyz, rgb
