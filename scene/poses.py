"""Checks on camera poses, and the turn from OpenGL's camera axes to OpenCV's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene.scene_error import SceneError

ROTATION_TOLERANCE = 1e-2
"""Largest entry of |R R^T - 1|. Files that round to three digits stay below it; a scaled or sheared
matrix, a transposed 4x4 or random bytes do not."""

QUATERNION_TOLERANCE = 0.1
"""Of a quaternion's norm from 1: one that is written with a single digit stays below it, zeros do not."""

MAX_COORDINATE = 1e15
"""World units. Beyond it squared distances leave float32's range; no capture is that large."""


def check_rotation(rotation: NDArray[np.float64], label: str) -> None:
    """Refuses what is not a rotation.

    Args:
        rotation: [3, 3].
        label: File and key, for the message.

    Raises:
        SceneError: If it is not finite, not orthonormal or mirrors.
    """
    if not np.isfinite(rotation).all():
        raise SceneError(
            f"{label}: expected a finite pose, got NaN or infinity; repair or re-export the scene"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not error <= ROTATION_TOLERANCE:
        raise SceneError(
            f"{label}: expected a rotation, got a matrix that is off by {error:.3g} (scale, shear or "
            "a wrong order of numbers); repair or re-export the scene"
        )
    if np.linalg.det(rotation) < 0:
        raise SceneError(
            f"{label}: expected a rotation, got a mirror image (determinant -1); re-export the scene"
        )


def clean_pose(pose: NDArray[np.float64], label: str) -> NDArray[np.float64]:
    """The rigid matrix [4, 4] with its rotation made exact (the nearest one).

    Raises:
        SceneError: As `check_rotation`, and for a translation that is not finite.
    """
    check_rotation(pose[:3, :3], label)
    if not (np.abs(pose[:3, 3]) < MAX_COORDINATE).all():
        raise SceneError(
            f"{label}: expected a finite position, got {pose[:3, 3].tolist()}; re-export the scene"
        )
    u, _, vt = np.linalg.svd(pose[:3, :3])
    clean = np.eye(4)
    clean[:3, :3] = u @ vt
    clean[:3, 3] = pose[:3, 3]
    return clean


def viewmat_from_opengl(camera_to_world: NDArray[np.float64], label: str) -> NDArray[np.float64]:
    """World-to-camera with OpenCV axes from camera-to-world with OpenGL axes (y up, z backward).

    Args:
        camera_to_world: [4, 4].
        label: File and key, for messages.

    Raises:
        SceneError: As `clean_pose`.
    """
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = camera_to_world[:3, :3] * np.array([1.0, -1.0, -1.0])
    world_from_camera[:3, 3] = camera_to_world[:3, 3]
    clean = clean_pose(world_from_camera, label)
    viewmat = np.eye(4)
    viewmat[:3, :3] = clean[:3, :3].T
    viewmat[:3, 3] = -clean[:3, :3].T @ clean[:3, 3]
    return viewmat
