"""`cameras.json`: the camera list that viewers of the 3DGS family read beside a .ply.

Each entry has id, img_name, width, height, position (camera centre), rotation (camera-to-world,
rows), fy and fx. The family's format has no principal point; `cx` and `cy` are added here, which
its readers ignore, and default to the centre when another program wrote the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomic import write_bytes
from scene.camera import Camera
from scene.json_values import Values, read_json
from scene.poses import check_rotation
from scene.scene_error import SceneError
from scene.view import View


@dataclass(frozen=True, eq=False)
class NamedCamera:
    """A camera and the image name that it had when it was written."""

    name: str
    camera: Camera


def write_cameras_json(path: Path, views: Sequence[View | NamedCamera]) -> None:
    """Writes `views` in order; ids count from 0. The file is replaced in one step.

    Raises:
        OSError: If it cannot be written.
    """
    entries: list[dict[str, Any]] = []
    for index, view in enumerate(views):
        camera = view.camera.to("cpu")
        K = camera.K.double()
        entries.append(
            {
                "id": index,
                "img_name": view.name,
                "width": camera.width,
                "height": camera.height,
                "position": camera.center.double().tolist(),
                "rotation": camera.viewmat[:3, :3].T.double().tolist(),
                "fy": float(K[1, 1]),
                "fx": float(K[0, 0]),
                "cx": float(K[0, 2]),
                "cy": float(K[1, 2]),
            }
        )
    write_bytes(path, json.dumps(entries, indent=1).encode())


def read_cameras_json(path: Path) -> list[NamedCamera]:
    """Reads what this or another program of the family wrote.

    Raises:
        SceneError: If the file is missing, is not JSON, or an entry is wrong; names file and key.
    """
    content = read_json(path)
    if not isinstance(content, list):
        got = type(content).__name__
        raise SceneError(f"{path}: expected a list of cameras, got {got}; write it again")
    return [_named_camera(Values(entry, f"{path}: [{index}]")) for index, entry in enumerate(content)]


def _named_camera(entry: Values) -> NamedCamera:
    width, height = entry.size("width"), entry.size("height")
    rotation = entry.matrix("rotation", (3, 3))
    check_rotation(rotation, entry.label("rotation"))
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ entry.matrix("position", (3,))
    K = np.eye(3)
    K[0, 0], K[1, 1] = entry.positive("fx"), entry.positive("fy")
    K[0, 2], K[1, 2] = entry.number("cx", width / 2), entry.number("cy", height / 2)
    camera = Camera(torch.from_numpy(viewmat).float(), torch.from_numpy(K).float(), width, height)
    held = bool(camera.viewmat.isfinite().all() and camera.K.isfinite().all())
    if not held or not bool((camera.K.diagonal() > 0).all()):
        raise SceneError(
            f"{entry.label('position')}, fx, fy, cx, cy: expected numbers that float32 holds; write it again"
        )
    return NamedCamera(entry.text("img_name", ""), camera)
