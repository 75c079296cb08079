"""A strict look at COLMAP's model files before pycolmap reads them.

pycolmap trusts counts and ids: a cut or random file can make it allocate without bound, loop for
hours or return half a model. Here every binary file is walked to its last byte and every text line
counted, with no allocation that the file's own size does not justify.

Format: https://colmap.github.io/format.html (binary: little endian, fixed records, counted lists).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from scene.poses import MAX_COORDINATE, QUATERNION_TOLERANCE
from scene.scene_error import SceneError

MODEL_FILES = ("cameras", "images", "points3D")
"""Every model has these; COLMAP 3.12 and later add rigs and frames, both or neither."""
RIG_FILES = ("rigs", "frames")

_MAX_SIDE = 100_000  # pixels; no sensor is wider, and random bytes nearly always are


def check_model(folder: Path, suffix: str) -> dict[int, str]:
    """Walks every file of a model.

    Args:
        folder: Holds cameras, images, points3D and perhaps rigs and frames.
        suffix: ".bin" or ".txt".

    Returns:
        Image names by image id (pycolmap's text reader cuts names at a space).

    Raises:
        SceneError: If a file is unreadable, cut short, garbage, or names cameras or images twice.
    """
    walkers = _BINARY if suffix == ".bin" else _TEXT
    names: dict[int, str] = {}
    for stem in (*MODEL_FILES, *(s for s in RIG_FILES if (folder / f"{s}{suffix}").is_file())):
        path = folder / f"{stem}{suffix}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SceneError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        try:
            found = walkers[stem](data)
        except _BadModel as problem:
            raise _bad(path, str(problem)) from None
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            what = "ends too early" if suffix == ".bin" else f"is not in COLMAP's format ({error})"
            raise _bad(path, what) from None
        if stem == "images":
            names = found
    return names


def count_images(folder: Path, suffix: str) -> int:
    """Registered images by the file's header (binary) or its lines (text); 0 if unreadable."""
    path = folder / f"images{suffix}"
    try:
        if suffix == ".bin":
            with path.open("rb") as file:
                head = file.read(8)
            return int(struct.unpack("<Q", head)[0]) if len(head) == 8 else 0
        return len(_image_lines(path.read_bytes()))
    except (OSError, UnicodeDecodeError):
        return 0


class _BadModel(Exception):
    """What is wrong with a file; the caller adds its path."""


def _bad(path: Path, what: str) -> SceneError:
    return SceneError(f"{path}: {what}; the file is cut short or damaged, copy or export the model again")


def _count(data: bytes, smallest: int) -> int:
    (count,) = struct.unpack_from("<Q", data, 0)
    if count * smallest > len(data) - 8:
        raise _BadModel(f"announces {count} entries, which its {len(data)} bytes cannot hold")
    return int(count)


def _finish(data: bytes, at: int) -> None:
    if at > len(data):
        raise _BadModel("ends too early")
    if at < len(data):
        raise _BadModel(f"has {len(data) - at} bytes after its last entry")


def _check_camera(model: str, width: int, height: int, params: tuple[float, ...]) -> None:
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise _BadModel(f"holds a camera of {width}x{height} pixels")
    if not all(map(math.isfinite, params)):
        raise _BadModel(f"holds a {model} camera with NaN or infinite parameters")


def _check_pose(name: str, pose: Sequence[float]) -> None:
    """Refuses seven numbers (qw qx qy qz, tx ty tz) that are no pose; pycolmap takes any."""
    if not all(map(math.isfinite, pose)):
        raise _BadModel(f"holds image {name[:80]!r} with a pose that is NaN or infinite")
    norm = math.hypot(*pose[:4])
    if not abs(norm - 1.0) <= QUATERNION_TOLERANCE:
        values = " ".join(f"{value:g}" for value in pose[:4])
        raise _BadModel(
            f"holds image {name[:80]!r} with the quaternion {values}, which is no rotation (norm {norm:.3g})"
        )


def _num_params(model: str) -> int:
    members = pycolmap.CameraModelId.__members__
    if model not in members or model == "INVALID":
        raise _BadModel(
            f"names the camera model {model[:40]!r}, which pycolmap {pycolmap.__version__} does not know"
        )
    return len(_params_info(members[model]).split(","))


def _params_info(model: pycolmap.CameraModelId) -> str:
    create = getattr(pycolmap.Camera, "create_from_model_id", None) or pycolmap.Camera.create
    return str(create(1, model, 1.0, 1, 1).params_info)


def _unique(ids: list[int], what: str) -> None:
    if len(set(ids)) != len(ids):
        raise _BadModel(f"gives the same {what} twice")


def _cameras_bin(data: bytes) -> dict[int, str]:
    models = {int(m): name for name, m in pycolmap.CameraModelId.__members__.items()}
    at, ids = 8, []
    for _ in range(_count(data, 24)):
        camera_id, model_id, width, height = struct.unpack_from("<IiQQ", data, at)
        model = models.get(model_id, f"number {model_id}")
        count = _num_params(model)
        _check_camera(model, width, height, struct.unpack_from(f"<{count}d", data, at + 24))
        at += 24 + 8 * count
        ids.append(camera_id)
    _finish(data, at)
    _unique(ids, "camera id")
    return {}


def _images_bin(data: bytes) -> dict[int, str]:
    at, names = 8, {}
    count = _count(data, 73)
    for _ in range(count):
        image_id, *pose, _camera = struct.unpack_from("<I7dI", data, at)
        start = at + 64
        end = data.find(b"\0", start, start + 4096)
        if end < 0:
            raise _BadModel("ends too early or holds an image name without an end")
        names[image_id] = _decoded(data[start:end])
        _check_pose(names[image_id], pose)
        (points,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9 + 24 * points
        if at > len(data):
            raise _BadModel("ends too early")
    _finish(data, at)
    if len(names) != count:
        raise _BadModel("gives the same image id twice")
    return names


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise _BadModel(f"holds an image name that is not UTF-8: {name[:40]!r}") from None


def _points_bin(data: bytes) -> dict[int, str]:
    unpack, size, at, ids = struct.Struct("<Q3d3Bd").unpack_from, len(data), 8, []
    length = struct.Struct("<Q").unpack_from
    for _ in range(_count(data, 51)):
        point_id, x, y, z, *_colour = unpack(data, at)
        if not (abs(x) < MAX_COORDINATE and abs(y) < MAX_COORDINATE and abs(z) < MAX_COORDINATE):
            raise _BadModel(f"holds point {point_id} at {x:g} {y:g} {z:g}, which is no place")
        ids.append(point_id)
        at += 51 + 8 * length(data, at + 43)[0]
        if at > size:
            raise _BadModel("ends too early")
    _finish(data, at)
    _unique(ids, "point id")
    return {}


def _rigs_bin(data: bytes) -> dict[int, str]:
    at = 8
    for _ in range(_count(data, 8)):
        (sensors,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + (8 if sensors else 0)
        for _ in range(max(sensors - 1, 0)):
            has_pose = struct.unpack_from("<iIB", data, at)[2]
            at += 9 + (56 if has_pose else 0)
    _finish(data, at)
    return {}


def _frames_bin(data: bytes) -> dict[int, str]:
    at = 8
    for _ in range(_count(data, 68)):
        (members,) = struct.unpack_from("<I", data, at + 64)
        at += 68 + 16 * members
        if at > len(data):
            raise _BadModel("ends too early")
    _finish(data, at)
    return {}


def _lines(data: bytes) -> list[str]:
    """Lines without comments, stripped; empty ones kept (an image without points has one)."""
    return [line.strip() for line in data.decode("utf-8").splitlines() if not line.lstrip().startswith("#")]


def _cameras_txt(data: bytes) -> dict[int, str]:
    ids = []
    for line in filter(None, _lines(data)):
        camera_id, model, width, height, *params = line.split()
        if len(params) != (expected := _num_params(model)):
            raise _BadModel(f"gives a {model} camera {len(params)} parameters instead of {expected}")
        _check_camera(model, int(width), int(height), tuple(map(float, params)))
        ids.append(int(camera_id))
    _unique(ids, "camera id")
    return {}


def _image_lines(data: bytes) -> list[tuple[str, str]]:
    """(pose line, points line) of each image; a missing last points line reads as empty."""
    pairs, pending = [], None
    for line in _lines(data):
        if pending is None:
            pending = line or None
        else:
            pairs.append((pending, line))
            pending = None
    return pairs if pending is None else [*pairs, (pending, "")]


def _images_txt(data: bytes) -> dict[int, str]:
    names: dict[int, str] = {}
    pairs = _image_lines(data)
    for head, points in pairs:
        fields = head.split(maxsplit=9)
        if len(fields) != 10:
            raise _BadModel(f"has a line of {len(fields)} values where an image needs 10 ({head[:60]!r})")
        _check_pose(fields[9], [float(value) for value in fields[1:8]])
        int(fields[8])
        if len(points.split()) % 3:
            raise _BadModel(f"has a line of points of {fields[9]!r} that is no list of X Y ID")
        names[int(fields[0])] = fields[9]
    if len(names) != len(pairs):
        raise _BadModel("gives the same image id twice")
    return names


def _points_txt(data: bytes) -> dict[int, str]:
    ids = []
    for line in filter(None, _lines(data)):
        fields = line.split()
        if len(fields) < 8 or len(fields) % 2:
            raise _BadModel(f"has a line of {len(fields)} values, which is no point ({line[:60]!r})")
        if not all(abs(float(value)) < MAX_COORDINATE for value in fields[1:4]):
            raise _BadModel(f"holds point {fields[0]} at {' '.join(fields[1:4])[:60]}, which is no place")
        ids.append(int(fields[0]))
    _unique(ids, "point id")
    return {}


def _any_txt(data: bytes) -> dict[int, str]:
    _lines(data)
    return {}


_BINARY = {
    "cameras": _cameras_bin,
    "images": _images_bin,
    "points3D": _points_bin,
    "rigs": _rigs_bin,
    "frames": _frames_bin,
}
_TEXT = {
    "cameras": _cameras_txt,
    "images": _images_txt,
    "points3D": _points_txt,
    "rigs": _any_txt,
    "frames": _any_txt,
}
