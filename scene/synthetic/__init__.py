"""A synthetic COLMAP scene that needs no data: a still life, ray cast, with true depth beside it.

Nothing here is splatted, so that a trainer is tested on pictures that it did not itself define.
`write_synthetic_scene` writes the folder; equal arguments give equal files.

    python -c "from scene.synthetic import write_synthetic_scene as w; w('output/room')"
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from . import still_life
from .lighting import bake
from .model import write_model
from .photograph import Station, photograph, stations

__all__ = ["Station", "write_synthetic_scene"]


def write_synthetic_scene(
    folder: str | Path,
    *,
    n_views: int = 20,
    width: int = 384,
    height: int = 288,
    seed: int = 0,
    points: int = 3000,
) -> None:
    """Writes a COLMAP scene with images, a sparse model and depth maps; a test scene for any splatting trainer.

    Pixels are written losslessly. The cameras go around about a third of a circle at changing heights and look at the middle of a
    table. Two views that are neighbours in the list are neighbours in space; the first stands
    within the arc, so that holding out every 8th (0, 8, ...) extrapolates nowhere.

    Args:
        folder: Receives `images/view_000.png` ..., `sparse/0/{cameras,images,points3D}.bin` and
            `depth/view_000.npy` ... ([H, W] float32 camera-space z in metres, 0 where nothing is seen).
        n_views: Number of pictures, at least 2.
        width: Picture width in pixels.
        height: Picture height in pixels.
        seed: Decides textures, small placements, cameras and points.
        points: Number of 3D points wanted; fewer if too few surface points are seen twice.

    Raises:
        ValueError: If there are fewer than 2 views or a side is shorter than 8 pixels.
    """
    if n_views < 2 or min(width, height) < 8:
        raise ValueError(f"n_views >= 2 and sides >= 8 pixels expected, got {n_views} of {width}x{height}")
    folder = Path(folder)
    for part in ("images", "depth", "sparse/0"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    world, window = still_life.build(rng), still_life.window()
    maps = bake(world, window, rng, detail=float(np.clip(width / 450, 0.25, 1.5)))
    cameras = stations(n_views, width, height, rng)
    images, depths = [], []
    bar = tqdm(total=n_views, desc="synthetic scene", unit="view", disable=None)
    with bar, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy releases the GIL
        for camera, (image, depth) in zip(
            cameras, pool.map(lambda c: photograph(world, maps, window, c), cameras), strict=True
        ):
            images.append(image)
            depths.append(depth)
            bar.update()
    for camera, image, depth in zip(cameras, images, depths, strict=True):
        cv2.imwrite(str(folder / "images" / camera.name), image[..., ::-1])
        np.save(folder / "depth" / f"{Path(camera.name).stem}.npy", depth)
    write_model(folder / "sparse" / "0", world, cameras, images, depths, points, rng)
