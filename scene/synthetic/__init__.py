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

from scene.synthetic import still_life
from scene.synthetic.lighting import bake
from scene.synthetic.model import write_model
from scene.synthetic.photograph import Station, photograph, stations

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
    """Writes a COLMAP scene with images, a sparse model and depth maps.

    Pixels are written losslessly. The cameras go around about a third of a circle at changing heights
    and look at the middle of a table. Views that are neighbours in the list are neighbours in space;
    every 8th (0, 8, ...), which `--eval` holds out, stands between others.

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
    # one generator each, so that the number of views or pixels changes nothing else
    for_world, for_light, for_cameras, for_points = np.random.default_rng(seed).spawn(4)
    world, window = still_life.build(for_world), still_life.window()
    maps = bake(world, window, for_light, detail=float(np.clip(width / 450, 0.2, 1.5)))
    cameras = stations(n_views, width, height, for_cameras)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy releases the GIL
        taken = pool.map(lambda camera: photograph(world, maps, window, camera), cameras)
        bar = tqdm(taken, total=n_views, desc="synthetic scene", unit="view", disable=None)
        images, depths = (list(part) for part in zip(*bar, strict=True))
    for camera, image, depth in zip(cameras, images, depths, strict=True):
        cv2.imwrite(str(folder / "images" / camera.name), image[..., ::-1])
        np.save(folder / "depth" / f"{Path(camera.name).stem}.npy", depth)
    write_model(folder / "sparse" / "0", world, cameras, images, depths, points, for_points)
