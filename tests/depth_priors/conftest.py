"""Views of the synthetic scene, whose true depth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene import Points, SceneConfig, load_scene
from scene.synthetic import write_synthetic_scene

NEAR = (10, 11, 12)


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """A folder of 20 views of 256x192 pixels."""
    folder = tmp_path_factory.mktemp("stereo") / "room"
    write_synthetic_scene(folder, n_views=20, width=256, height=192, points=2000)
    return folder


@pytest.fixture(scope="session")
def near_views(room):
    """Three views next to each other, the points that two of them saw, and their true depth [H, W]."""
    scene = load_scene(room, SceneConfig())
    views = [scene.train[i] for i in NEAR]
    assert scene.points.seen is not None
    seen = scene.points.seen[:, list(NEAR)]
    keep = seen.sum(1) >= 2
    points = Points(scene.points.xyz[keep], scene.points.rgb[keep], seen[keep])
    truth = [torch.from_numpy(np.load(room / "depth" / f"{view.stem}.npy")) for view in views]
    return views, points, truth
