"""Scenes: COLMAP and JSON models, images and masks, the split, cameras.

This room reads folders and hands out undistorted `View`s, `Points` and an extent. It knows nothing
of Gaussians, rendering or losses, and imports no other room.
"""

from __future__ import annotations

from scene.camera import Camera
from scene.cameras_json import NamedCamera, read_cameras_json, write_cameras_json
from scene.config import SceneConfig
from scene.focus import focus_depth
from scene.load import is_scene, load_scene
from scene.matching import files_below, name_key
from scene.ply import read_ply
from scene.projection import image_points, project, world_points
from scene.pseudo import PseudoCameras, PseudoKind
from scene.pyramid import ImagePyramid, PyramidConfig
from scene.sampler import ViewSampler
from scene.scene_error import SceneError
from scene.title import MADE, title_of
from scene.view import Points, Scene, View, weighted_view

__all__ = [
    "MADE",
    "Camera",
    "ImagePyramid",
    "NamedCamera",
    "Points",
    "PseudoCameras",
    "PseudoKind",
    "PyramidConfig",
    "Scene",
    "SceneConfig",
    "SceneError",
    "View",
    "ViewSampler",
    "files_below",
    "focus_depth",
    "image_points",
    "is_scene",
    "load_scene",
    "name_key",
    "project",
    "read_cameras_json",
    "read_ply",
    "title_of",
    "weighted_view",
    "world_points",
    "write_cameras_json",
]
