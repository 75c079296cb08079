"""Confidence maps for the image loss: from files, a network's variation, or stereo."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from depth_priors import DepthConfig, MapCache, SceneStereo, confidence_maps
from depth_priors import network as networks
from errors import UserError
from scene import Scene

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture
def scene(near_views):
    views, points, _ = near_views
    return Scene(tuple(views), (), points, 1.0, Path("nowhere"))


def _fake_network(monkeypatch, run, name="midas:small"):
    """A network whose answer is `run(image)`."""
    network = networks.Network(name, "weights.pt", "key", lambda device: run)
    monkeypatch.setattr("depth_priors.confidence.find_network", lambda config: network)


def _confidence(scene, cache=None, **options):
    cache = cache or MapCache(None)
    stereo = SceneStereo(scene, cache, quiet=True)
    return confidence_maps(scene.train, DepthConfig(**options), stereo, cache, quiet=True)


def test_no_confidence_is_asked_for_by_default(scene):
    assert _confidence(scene) == ([None, None, None], "")


def test_confidence_from_geometry_is_one_where_views_agree_and_low_elsewhere(scene):
    maps, line = _confidence(scene, confidence="mvs")
    assert "agreement of views, 3 of 3" in line
    for one in maps:
        assert float(one.min()) == pytest.approx(0.1) and float(one.max()) == 1.0


def test_confidence_from_files_is_matched_by_stem_scaled_and_resized(scene, tmp_path, caplog):
    names = [view.stem for view in scene.train]
    cv2.imwrite(str(tmp_path / f"{names[0]}.png"), np.full((192, 256), 128, np.uint8))
    np.savez(tmp_path / f"{names[1]}.npz", confidence=np.full((96, 128), 0.25))
    maps, line = _confidence(scene, confidence="files", confidence_dir=str(tmp_path))
    assert torch.allclose(maps[0], torch.tensor(128 / 255)) and maps[1].shape == (192, 256)
    assert torch.allclose(maps[1], torch.tensor(0.25)) and maps[2] is None
    assert f"{scene.train[2].name}: no confidence map" in caplog.text and "2 of 3" in line


def test_confidence_files_may_be_named_otherwise_by_a_mapping(scene, tmp_path):
    np.save(tmp_path / "x1.npy", np.full((192, 256), 0.5))
    mapping = tmp_path / "map.json"
    options = {"confidence": "files", "confidence_dir": str(tmp_path), "confidence_map": str(mapping)}
    mapping.write_text(json.dumps({scene.train[1].name: "x1.npy"}))
    maps, _ = _confidence(scene, **options)
    assert maps[0] is None and torch.allclose(maps[1], torch.tensor(0.5))
    for content, words in (
        ("{", "expected a JSON file"),
        ("[1]", "expected .*image name"),
        ('{"other.jpg": "x1.npy"}', "names no image"),
        (json.dumps({scene.train[0].name: "gone.npy"}), "no such file"),
        (json.dumps({scene.train[0].name: "../x1.npy"}), "is not in"),
        (json.dumps({scene.train[0].name: "a\0b.npy"}), "null character"),
        (json.dumps({scene.train[0].name: "x" * 9000}), "expected a file name"),
        (json.dumps({scene.train[0].name: "\ud800.npy"}), "expected a file name"),
    ):
        mapping.write_text(content)
        with pytest.raises(UserError, match=words):
            _confidence(scene, **options)


def test_confidence_that_is_no_confidence_is_refused(scene, tmp_path, caplog):
    path = tmp_path / f"{scene.train[0].stem}.npy"
    options = {"confidence": "files", "confidence_dir": str(tmp_path)}
    for value, words in ((1.5, "from 0 to 1"), (-0.1, "from 0 to 1")):
        np.save(path, np.full((192, 256), value))
        with pytest.raises(UserError, match=words):
            _confidence(scene, **options)
    np.save(path, np.ones((192, 100)))
    with pytest.raises(UserError, match="256x192"):
        _confidence(scene, **options)
    holes = np.ones((192, 256))
    holes[0, 0] = np.nan
    np.save(path, holes)
    maps, _ = _confidence(scene, **options)
    assert maps[0][0, 0] == 0 and maps[0][0, 1] == 1 and "1 numbers are not finite" in caplog.text
    np.save(path, np.zeros((192, 256)))
    _confidence(scene, **options)
    assert "does not train colours" in caplog.text
    path.unlink()
    np.save(tmp_path / "other.npy", np.ones((192, 256)))
    with pytest.raises(UserError, match="no file fits"):
        _confidence(scene, **options)


def test_confidence_by_augmentation_is_low_where_a_network_wavers(scene, monkeypatch, tmp_path):
    def wavers(image):  # its left half follows the picture's brightness, its right half is a fixed ramp
        ramp = torch.linspace(1, 2, 256).expand(192, 256)
        at_left = image.mean(-1) * 3
        return torch.where(torch.arange(256) < 128, at_left, ramp)

    _fake_network(monkeypatch, wavers)
    cache = MapCache(tmp_path)
    maps, line = _confidence(scene, cache, confidence="augment")
    assert "variation of midas:small" in line
    for one in maps:
        assert float(one.min()) >= 0 and float(one.max()) <= 1 and one.shape == (192, 256)
    half = torch.arange(1.0, 129.0)
    steady = torch.cat([half, half.flip(0)]).expand(192, 256)  # mirroring does not change it
    _fake_network(monkeypatch, lambda image: steady, "midas:steady")
    sure, _ = _confidence(scene, confidence="augment")
    assert all(bool((one == 1).all()) for one in sure)
    assert all(float(one.mean()) < 0.99 for one in maps)


def test_augmentation_without_a_network_says_what_to_do(scene):
    with pytest.raises(UserError, match=r"expected a depth network.*--confidence mvs"):
        _confidence(scene, confidence="augment")


def test_a_pixel_of_which_a_network_says_nan_is_unsure_and_the_others_are_not(scene, monkeypatch):
    def run(image):
        found = image.mean(-1).square()
        found[5, 7] = torch.nan
        found[90, 3] = torch.inf
        return found

    _fake_network(monkeypatch, run)
    maps, _ = confidence_maps(
        scene.train, DepthConfig(confidence="augment"), SceneStereo(scene, MapCache(None)), MapCache(None),
        quiet=True,
    )  # fmt: skip
    for one in maps:
        assert (
            one is not None
            and bool(one.isfinite().all())
            and float(one[5, 7]) == 0
            and float(one[90, 3]) == 0
        )
        assert float(one.mean()) > 0.5


def test_auto_takes_files_then_a_network_then_stereo(scene, tmp_path, monkeypatch):
    np.save(tmp_path / f"{scene.train[0].stem}.npy", np.full((192, 256), 0.5))
    assert "agreement of views, 3 of 3 views (confidence auto)" in _confidence(scene, confidence="auto")[1]
    _fake_network(monkeypatch, lambda image: image.mean(-1) + 1)
    assert "variation of midas:small" in _confidence(scene, confidence="auto")[1]
    stereo = _confidence(scene, confidence="auto", depth_prior="mvs")[1]
    assert "agreement" in stereo, "who names stereo for depth does not want the network"
    maps, line = _confidence(scene, confidence="auto", confidence_dir=str(tmp_path))
    assert "files, 1 of 3" in line and torch.allclose(maps[0], torch.tensor(0.5))
    with pytest.raises(UserError, match="confidence_dir FOLDER"):
        DepthConfig(confidence="auto", confidence_map="map.json").check()
