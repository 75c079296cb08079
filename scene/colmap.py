"""COLMAP models: finding the right one in a folder and reading it with pycolmap.

Which images exist, how they are split and what their pixels are is decided elsewhere.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from scene.colmap_check import MODEL_FILES, check_model, count_images
from scene.frames import Frame, Lens, SceneModel, check_names
from scene.matching import FileIndex, check_name
from scene.poses import QUATERNION_TOLERANCE, clean_pose
from scene.scene_error import SceneError

_log = logging.getLogger(__name__)


def find_model(source: Path) -> tuple[Path, str] | None:
    """The folder and suffix (".bin" or ".txt") of the model to use; None if there is none.

    Looks in `sparse/N`, `sparse` and `source` itself. Of several `sparse/N` the one with the most
    registered images is taken (COLMAP numbers disconnected parts of a capture in the order in which
    it found them), the lowest number where they are equal.
    """
    sparse = source / "sparse"
    folders = sparse.iterdir() if sparse.is_dir() else iter(())
    numbered = sorted((folder for folder in folders if folder.name.isdecimal()), key=lambda f: int(f.name))
    found = [(folder, suffix) for folder in numbered if (suffix := _suffix(folder)) is not None]
    if found:
        sizes = [count_images(*model) for model in found]
        best = found[sizes.index(max(sizes))]
        if len(found) > 1:
            _log.warning(
                "%s: %d models; using %s with %d images", sparse, len(found), best[0].name, max(sizes)
            )
        return best
    for folder in (sparse, source):
        if (suffix := _suffix(folder)) is not None:
            return folder, suffix
    return None


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{stem}{suffix}").is_file() for stem in MODEL_FILES):
            return suffix
    return None


def explain_missing(source: Path) -> str:
    """Which model files were found incomplete, for the message that there is no model; may be ""."""
    sparse = source / "sparse"
    for folder in (sparse / "0", sparse, source):
        for suffix in (".bin", ".txt"):
            files = [f"{stem}{suffix}" for stem in MODEL_FILES]
            missing = [file for file in files if not (folder / file).is_file()]
            if 0 < len(missing) < len(MODEL_FILES):
                return f" ({folder} lacks {', '.join(missing)})"
    return ""


def read_colmap(folder: Path, suffix: str, images: Path, masks: FileIndex | None) -> SceneModel:
    """Reads a model and finds its image files.

    Args:
        folder: Holds the model, from `find_model`.
        suffix: ".bin" or ".txt".
        images: Folder that the image names are relative to.
        masks: Index of the masks, if there are any.

    Raises:
        SceneError: For a damaged model, a hostile name, a pose that is no rotation, no images.
    """
    names = check_model(folder, suffix)
    reconstruction = pycolmap.Reconstruction()
    try:
        (reconstruction.read_binary if suffix == ".bin" else reconstruction.read_text)(str(folder))
        registered = list(reconstruction.reg_image_ids())  # this and poses look up what frames name
        poses = [reconstruction.images[image_id].cam_from_world() for image_id in registered]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise SceneError(
            f"{folder}: its files contradict each other ({reason}); copy or export the model again"
        ) from error
    where = str(folder / f"images{suffix}")
    index = FileIndex(images)
    lenses = {key: _lens(key, camera, folder) for key, camera in reconstruction.cameras.items()}
    frames: list[Frame] = []
    frame_of_id: dict[int, str] = {}
    for image_id, pose in zip(registered, poses, strict=True):
        image = reconstruction.images[image_id]
        name = names[image_id]
        check_name(name, where)
        viewmat = np.eye(4)
        norm = math.hypot(*pose.rotation.quat)
        if not abs(norm - 1.0) <= QUATERNION_TOLERANCE:  # 0 reads as the identity
            raise SceneError(
                f"{folder}: image {name}: expected a rotation, got a quaternion of norm {norm:.3g} from "
                f"frames{suffix} and rigs{suffix}; copy or export the model again"
            )
        viewmat[:3, :] = pose.matrix()
        viewmat = clean_pose(viewmat, f"{where}: image {name}")
        mask = None if masks is None else masks.find_mask(name)
        frames.append(Frame(name, lenses[image.camera_id], viewmat, index.find(name), mask))
        frame_of_id[image_id] = name
    if not frames:
        raise SceneError(f"{where}: the model has no registered image; run COLMAP's mapper again")
    check_names(frames, where)
    frames.sort(key=lambda frame: frame.name)
    xyz, rgb, observations = _points(reconstruction, frame_of_id)
    return SceneModel(tuple(frames), xyz, rgb, observations, str(images), alpha_is_background=False)


def _lens(camera_id: int, camera: pycolmap.Camera, folder: Path) -> Lens:
    model = camera.model.name
    label = f"{folder}: camera {camera_id} ({model}, {camera.width}x{camera.height})"
    if model == "EQUIRECTANGULAR":
        raise SceneError(f"{label}: a panorama has no pinhole view; cut it into perspective images first")
    return Lens(camera_id, label, camera)


def _points(
    reconstruction: pycolmap.Reconstruction, frame_of_id: dict[int, str]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[str, NDArray[np.int64]] | None]:
    """Positions, colours and, for each image name, the rows of the points whose track has it."""
    rows: dict[str, list[int]] = {name: [] for name in frame_of_id.values()}
    points = reconstruction.points3D
    ids = sorted(points)  # pycolmap's order is a hash table's
    xyz = np.empty((len(ids), 3), np.float32)
    rgb = np.empty((len(ids), 3), np.uint8)
    tracked = False
    for row, point_id in enumerate(ids):
        point = points[point_id]
        xyz[row], rgb[row] = point.xyz, point.color
        for image_id in {element.image_id for element in point.track.elements}:
            tracked = True
            if image_id in frame_of_id:
                rows[frame_of_id[image_id]].append(row)
    if not tracked:
        return xyz, rgb, None
    return xyz, rgb, {name: np.array(seen, dtype=np.int64) for name, seen in rows.items()}
