"""The parsers of scenes: COLMAP models, transforms.json, images, masks and photographs.

Scenes are loaded whole, down to pixels, as training does. No name in a model may lead out of its folder, nor
may a file that is named after an image.
"""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch

from scene import SceneConfig, load_scene, read_cameras_json
from scene.decode import read_image, read_mask
from scene.poses import ROTATION_TOLERANCE
from scene.synthetic import write_synthetic_scene
from scene.view import View
from stress.fuzz_containers import in_png
from stress.fuzz_headers import in_ply, in_tiff
from stress.fuzz_mutations import Mutator, damaged, regrown, reworded
from stress.fuzz_parser import Parser, Seed, contents, expect

WIDTH, HEIGHT, VIEWS = 24, 18, 3
_LONGEST_NAME = 255  # bytes of a file name on every common disk
_INSIDE: dict[str, Mutator] = {".png": in_png, ".tif": in_tiff}
_MODEL = ("cameras", "images", "points3D", "rigs", "frames")


@cache
def small_scene(work: Path) -> dict[str, bytes]:
    """A COLMAP scene of three tiny images with a few points."""
    folder = work / "scene"
    write_synthetic_scene(folder, n_views=VIEWS, width=WIDTH, height=HEIGHT, points=24)
    return {name: content for name, content in contents(folder).items() if not name.startswith("depth/")}


def check_camera(camera: Any) -> None:
    """A camera as the rest of the program expects one: finite, a rotation, a size."""
    K, viewmat = camera.K.double(), camera.viewmat.double()
    expect(K.isfinite().all() and viewmat.isfinite().all(), "a camera that is not finite")
    expect(K[0, 0] > 0 and K[1, 1] > 0, "a focal length that is not above 0")
    expect(camera.width >= 1 and camera.height >= 1, "a camera without pixels")
    rotation = viewmat[:3, :3]
    apart = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
    expect(
        apart < ROTATION_TOLERANCE + 1e-4 and rotation.det() > 0,
        f"a pose that is no rotation (off by {apart:.2g})",
    )


def check_output_name(stem: str) -> None:
    """A file named after an image stays in the folder that it is written to, and can be written."""
    file = f"{stem}.png"
    expect("/" not in file and "\\" not in file and "\0" not in file, f"output name {stem!r} leads elsewhere")
    length = len(file.encode("utf-8", "surrogatepass"))
    expect(stem not in ("", ".", "..") and length <= _LONGEST_NAME, f"output name of {length} bytes")


def _read_scene(folder: Path) -> None:
    scene = load_scene(folder / "scene", SceneConfig(skip_missing=True), quiet=True)
    expect(scene.train, "a scene without training views")
    for view in (*scene.train, *scene.test):
        _check_view(view)
    points = scene.points
    expect(points.xyz.isfinite().all(), "points that are not finite")
    expect(((points.rgb >= 0) & (points.rgb <= 1)).all(), "colours beyond 0 to 1")
    expect(0 < scene.extent < float("inf"), f"extent {scene.extent}")
    scene.fingerprint()


def _check_view(view: View) -> None:
    check_camera(view.camera)
    check_output_name(view.stem)
    image, weight = view.image(), view.weight()
    expect(((image >= 0) & (image <= 1)).all(), "pixels beyond 0 to 1")
    expect(weight is None or ((weight >= 0) & (weight <= 1)).all(), "weights beyond 0 to 1")


def _colmap(work: Path, suffix: str) -> list[Seed]:
    files = small_scene(work)
    models: list[dict[str, bytes]] = []
    for name in ("PINHOLE", "OPENCV", "SIMPLE_RADIAL", "OPENCV_FISHEYE", "FULL_OPENCV"):
        target = work / f"{name}{suffix}"
        target.mkdir(parents=True)
        reconstruction = pycolmap.Reconstruction(str(work / "scene" / "sparse" / "0"))
        camera = reconstruction.cameras[1]
        params = {"fx": 30.0, "fy": 30.0, "f": 30.0, "cx": WIDTH / 2, "cy": HEIGHT / 2, "k1": 0.02, "k": 0.02}
        camera.model = pycolmap.CameraModelId.__members__[name]
        camera.params = [params.get(key.strip(), 0.0) for key in camera.params_info.split(",")]
        (reconstruction.write_binary if suffix == ".bin" else reconstruction.write_text)(str(target))
        models.append(contents(target))
    models.append({name: data for name, data in models[0].items() if name.split(".")[0] not in _MODEL[3:]})
    mutator = damaged if suffix == ".bin" else reworded()
    images = {f"scene/{name}": data for name, data in files.items() if name.startswith("images/")}
    return [
        Seed(
            {**images, **{f"scene/sparse/0/{name}": data for name, data in model.items()}},
            {f"scene/sparse/0/{name}": mutator for name in model},
        )
        for model in models
    ]


def _transforms(work: Path) -> list[Seed]:
    files = small_scene(work)
    images = {name: data for name, data in files.items() if name.startswith("images/")}
    pose = np.diag([1.0, 1.0, 1.0, 1.0])
    frames: list[dict[str, Any]] = []
    for index, name in enumerate(images):
        pose[0, 3] = index
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    head = {"w": WIDTH, "h": HEIGHT, "fl_x": 30.0, "fl_y": 30.0, "cx": 12.0, "cy": 9.0}
    plain = {**head, "camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}
    bent = {**head, "k1": 0.05, "k2": 0.01, "p1": 0.001, "p2": 0.0, "frames": frames}
    own = {"frames": [{**frame, **head, "mask_path": "masks/view_000.png"} for frame in frames]}
    wide = {**head, "camera_model": "OPENCV_FISHEYE", "k1": 0.01, "frames": frames}
    angles: dict[str, Any] = {
        "camera_angle_x": 0.7,
        "frames": [{**f, "file_path": f["file_path"][:-4]} for f in frames],
    }
    mask = cv2.imencode(".png", np.full((HEIGHT, WIDTH), 255, np.uint8))[1].tobytes()
    points = (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
        b"0 0 1 9 8 7\n1 1 2 3 4 5\n"
    )
    base = {**images, "masks/view_000.png": mask, "points.ply": points}
    seeds = []
    for content in (plain, bent, own, wide, angles):
        names, parts = ["transforms.json"], [content]
        if content is angles:  # in two files, as Blender's scenes are
            names = ["transforms_train.json", "transforms_test.json"]
            parts = [{**angles, "frames": angles["frames"][half::2]} for half in (0, 1)]
        scene = dict(base)
        for name, part in zip(names, parts, strict=True):
            scene[name] = json.dumps(part).encode()
        aims: dict[str, Any] = {f"scene/{name}": regrown for name in names}
        if content is plain:
            aims["scene/points.ply"] = in_ply
        seeds.append(Seed({f"scene/{name}": data for name, data in scene.items()}, aims))
    return seeds


def _cameras_json(work: Path) -> list[Seed]:
    rotation = np.eye(3).tolist()
    entries = [
        {
            "id": index,
            "img_name": f"view_{index:03d}.png",
            "width": WIDTH,
            "height": HEIGHT,
            "position": [0.5 * index, 0.0, 1.0],
            "rotation": rotation,
            "fy": 30.0,
            "fx": 30.0,
            **({"cx": 12.0, "cy": 9.0} if index else {}),
        }
        for index in range(3)
    ]
    return [Seed({"cameras.json": json.dumps(entries).encode()}, {"cameras.json": regrown})]


def _read_cameras(folder: Path) -> None:
    for named in read_cameras_json(folder / "cameras.json"):
        check_camera(named.camera)


def _images(work: Path) -> list[Seed]:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    alpha = rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    kinds = [(end, colour) for end in (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm")]
    kinds += [(".jp2", cv2.resize(colour, (96, 64)))]  # its coder needs some size
    kinds += [(".png", alpha), (".png", deep), (".tif", deep), (".png", colour[..., 0]), (".tif", alpha)]
    kinds += [(".exr", colour.astype(np.float32)), (".hdr", colour.astype(np.float32))]
    seeds = []
    for end, pixels in kinds:
        try:
            done, data = cv2.imencode(end, pixels)
        except cv2.error:  # a format that this OpenCV was built without
            continue
        if done:
            how = _INSIDE.get(end, damaged)
            refused = pixels.dtype == np.float32
            seeds.append(Seed({f"image{end}": data.tobytes()}, {f"image{end}": how}, refused))
    return seeds


def _read_image(folder: Path) -> None:
    (path,) = folder.iterdir()
    colour, alpha = read_image(path)
    expect(colour.dtype == np.uint8 and colour.ndim == 3 and colour.shape[2] == 3, f"colour {colour.shape}")
    expect(alpha is None or (alpha.dtype == np.uint8 and alpha.shape == colour.shape[:2]), "alpha")
    mask = read_mask(path)
    expect(mask.dtype == np.uint8 and mask.shape == colour.shape[:2], f"mask {mask.shape}")


def _photographs(work: Path) -> list[Seed]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    seeds = []
    for end in (".jpg", ".png", ".webp", ".tif", ".bmp"):
        image, data = Image.fromarray(pixels), io.BytesIO()
        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Maker", "Model"
        exif.get_ifd(0x8769).update({0x920A: 35.0, 0xA405: 50})
        options = {} if end == ".bmp" else {"exif": exif.tobytes()}
        image.save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(end[1:], end[1:].upper()), **options)
        seeds.append(Seed({f"photo{end}": data.getvalue()}, {f"photo{end}": _INSIDE.get(end, damaged)}))
    return seeds


def _read_photograph(folder: Path) -> None:
    from photos.collect import copy_upright

    (path,) = folder.iterdir()
    with tempfile.TemporaryDirectory(dir=folder.parent) as target:
        (photo,) = copy_upright([path], Path(target))
        expect(photo.width >= 1 and photo.height >= 1, "a photograph without pixels")
        expect([one.name for one in Path(target).iterdir()] == [photo.name], "other files than the copy")


def _videos(work: Path) -> list[Seed]:
    rng = np.random.default_rng(0)
    seeds = []
    for end, code in ((".mp4", "mp4v"), (".avi", "MJPG")):  # Matroska's numbers are random
        path = work / f"video{end}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (64, 48))
        for _ in range(6):
            writer.write(cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)))
        writer.release()
        if path.is_file() and path.stat().st_size > 1_000:  # its ffmpeg may lack a coder
            seeds.append(Seed({path.name: path.read_bytes()}, {path.name: damaged}))
    return seeds


def _read_video(folder: Path) -> None:
    from photos.video import pick_frames

    (path,) = folder.iterdir()
    with tempfile.TemporaryDirectory(dir=folder.parent) as target:
        frames = pick_frames(path, Path(target), 3, quiet=True)
        expect(2 <= len(frames) <= 3 and all(frame.is_file() for frame in frames), f"{len(frames)} frames")


PARSERS = (
    Parser(
        "colmap_bin",
        "COLMAP scenes: cameras, images, points3D, rigs, frames .bin",
        lambda w: _colmap(w, ".bin"),
        _read_scene,
    ),
    Parser(
        "colmap_txt",
        "COLMAP scenes: cameras, images, points3D, rigs, frames .txt",
        lambda w: _colmap(w, ".txt"),
        _read_scene,
    ),
    Parser("transforms", "transforms.json scenes, their points", _transforms, _read_scene),
    Parser("cameras_json", "cameras.json", _cameras_json, _read_cameras),
    Parser("images", "images and masks: PNG, JPEG, TIFF, WebP, BMP, PPM, JPEG 2000", _images, _read_image),
    Parser("photographs", "photographs with EXIF, for structure from motion", _photographs, _read_photograph),
    Parser("videos", "videos, for structure from motion: MP4, AVI", _videos, _read_video),
)
