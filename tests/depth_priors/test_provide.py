"""Which prior and which confidence a run gets, from where, and what is kept between runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from depth_priors import (
    DepthConfig,
    MapCache,
    ResizedPriors,
    SceneStereo,
    depth_priors,
    learn,
    map_cache,
    resized,
)
from depth_priors import network as networks
from depth_priors.cache import digest
from errors import UserError
from scene import Points, Scene

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture
def scene(near_views):
    views, points, _ = near_views
    return Scene(tuple(views), (), points, 1.0, Path("nowhere"))


def _chosen(scene, cache=None, **options):
    cache = cache or MapCache(None)
    return depth_priors(
        scene, DepthConfig(**options), SceneStereo(scene, cache, quiet=True), cache, quiet=True
    )


def _stereo(scene, cache=None):
    """The scene's stereo priors, of which every view has one."""
    priors = SceneStereo(scene, cache or MapCache(None), quiet=True).priors
    assert all(prior is not None for prior in priors)
    return [prior for prior in priors if prior is not None]


def _fake_network(monkeypatch, run, name="midas:small"):
    """A network whose answer is `run(image)`."""
    network = networks.Network(name, "weights.pt", "key", lambda device: run)
    for module in ("depth_priors.provide", "depth_priors.confidence"):
        monkeypatch.setattr(f"{module}.find_network", lambda config: network)


def test_auto_is_the_built_in_stereo_where_there_is_nothing_else(scene, near_views):
    _, _, truth = near_views
    priors, line = _chosen(scene)
    assert line.startswith("depth prior: mvs (no --depth_dir and no MiDaS weights on disk), 3 of 3 views")
    for prior, true in zip(priors, truth, strict=True):
        assert (prior.kind, prior.frame) == ("inverse", "world")
        assert bool((prior.confidence > 0).all())  # completed
        sure = prior.confidence == 1.0
        assert ((1 / prior.value - true).abs() / true)[sure].median() < 0.01


def test_completion_leaves_what_stereo_knows_and_makes_the_rest_faint(scene):
    stereo = SceneStereo(scene, MapCache(None), quiet=True)
    priors, _ = depth_priors(scene, DepthConfig(depth_prior="mvs"), stereo, MapCache(None))
    for known, whole in zip(stereo.priors, priors, strict=True):
        assert known is not None and whole is not None
        sure = known.confidence > 0
        assert torch.equal(whole.value[sure], known.value[sure])
        assert torch.equal(whole.confidence[sure], known.confidence[sure])
        # filled in, and points of structure from motion
        assert whole.confidence[~sure].unique().tolist() == [pytest.approx(0.1), 0.5]


def test_auto_takes_files_first_and_fits_them_to_the_scene(scene, near_views, tmp_path):
    _, _, truth = near_views
    for view, true in zip(scene.train, truth, strict=True):
        np.save(tmp_path / f"{view.stem}.npy", 3.0 * true.numpy())  # another unit
    priors, line = _chosen(scene, depth_dir=str(tmp_path))
    assert "files (--depth_dir is given), 3 of 3 views, 3 fitted" in line
    for prior, true in zip(priors, truth, strict=True):
        assert prior.frame == "world"
        # to the accuracy of the stereo's median
        assert torch.allclose(1 / prior.value, true, rtol=0.01)
    raw, line = _chosen(scene, depth_dir=str(tmp_path), depth_align=False)
    assert {prior.frame for prior in raw} == {"scale"} and "fitted" not in line


def test_a_network_on_disk_comes_before_stereo_and_is_fitted(scene, near_views, monkeypatch, caplog):
    _, _, truth = near_views
    answers = {view.pixels.sum().item(): 1 / true for view, true in zip(scene.train, truth, strict=True)}
    _fake_network(monkeypatch, lambda image: 500 * answers[(image * 255).round().sum().item()] + 40)
    priors, line = _chosen(scene)
    assert "midas:small (its weights are on disk, weights.pt), 3 of 3 views, 3 fitted" in line
    for prior, true in zip(priors, truth, strict=True):
        assert torch.allclose(1 / prior.value, true, rtol=0.02)
    _fake_network(monkeypatch, lambda image: 100 - answers[(image * 255).round().sum().item()])
    priors, line = _chosen(scene)
    assert priors == [None] * 3 and "0 of 3 views, 0 fitted" in line
    assert "contradict the scene's stereo" in caplog.text and "--depth_kind" in caplog.text


def test_where_stereo_is_impossible_the_points_are_taken_and_then_nothing(near_views, caplog):
    views, points, _ = near_views
    own = Points(points.xyz, points.rgb, points.seen[:, :1])
    alone = Scene(tuple(views[:1]), (), own, 1.0, Path())
    priors, line = _chosen(alone, depth_prior="mvs")
    assert "sfm (depth_prior mvs; stereo is impossible here), 1 of 1 view" in line
    assert 12 <= int((priors[0].value > 0).sum()) <= len(points)
    twins = Scene((views[0], replace(views[0], name="twin.png")), (), own_twice(points), 1.0, Path())
    priors, line = _chosen(twins)
    assert "sfm (no --depth_dir" in line and "2 of 2 views" in line and priors[0] is not None
    bare = Scene(tuple(views[:1]), (), Points(torch.zeros(0, 3), torch.zeros(0, 3)), 1.0, Path())
    priors, line = _chosen(bare)
    assert priors == [None] and "depth prior: none" in line and "none:" in caplog.text


def own_twice(points):
    """The points that a view sees, seen by two views."""
    return Points(points.xyz, points.rgb, points.seen[:, :1].expand(-1, 2))


def test_none_asks_for_nothing(scene):
    priors, line = _chosen(scene, depth_prior="none")
    assert priors == [None] * 3 and "none" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth_prior": "midas:small"}, r"no weights \(midas_v21_small_256\.pt.*--depth_download"),
        ({"depth_prior": "midas:dpt_hybrid", "depth_weights": "gone.pt"}, r"--depth_weights: gone\.pt"),
        ({"depth_prior": "auto", "depth_weights": "gone.pt"}, r"--depth_weights: gone\.pt.*found nothing"),
        ({"depth_prior": "auto", "depth_weights": __file__}, "say which model it is"),
        ({"depth_prior": "files", "depth_dir": "gone"}, "gone"),
    ],
)
def test_what_is_asked_for_and_missing_is_an_error(scene, options, words):
    with pytest.raises(UserError, match=words):
        _chosen(scene, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth_prior": "midas"}, "expected one of auto, files, midas:dpt_hybrid"),
        ({"depth_prior": "onnx:"}, "expected one of"),
        ({"depth_prior": "files"}, "--depth_dir FOLDER"),
        ({"depth_prior": "mvs", "depth_dir": "."}, "leave one out"),
        ({"depth_download": True}, "midas:NAME"),
        ({"depth_dir": "/nowhere/at/all"}, "no such folder"),
        ({"depth_prior": "mvs", "depth_weights": "a.pt"}, "read for --depth_prior midas"),
        ({"confidence": "files"}, "--confidence_dir FOLDER"),
        ({"confidence_dir": "."}, "--confidence files"),
        ({"confidence_map": "map.json"}, "--confidence files"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        DepthConfig(**options).check()


def test_stereo_is_kept_between_runs_and_a_damaged_map_is_computed_anew(scene, tmp_path, caplog, monkeypatch):
    cache = MapCache(tmp_path)
    first = _stereo(scene, cache)
    files = sorted(tmp_path.glob("mvs-*.npz"))
    assert len(files) == 3 and not list(tmp_path.glob(".*"))
    monkeypatch.setattr("depth_priors.mvs.stereo_maps", lambda *a, **k: pytest.fail("computed again"))
    again = _stereo(scene, cache)
    monkeypatch.undo()
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.value, b.value) and torch.equal(a.confidence, b.confidence)
    content = files[1].read_bytes()
    for damaged in (content[:100], b"", content[:200] + b"\xff" * 40 + content[240:]):
        files[1].write_bytes(damaged)
        caplog.clear()
        mended = _stereo(scene, cache)
        assert torch.equal(mended[1].value, first[1].value) and "computed anew" in caplog.text
        assert files[1].read_bytes() == content


def test_filled_depth_is_kept_too(scene, tmp_path, monkeypatch):
    first = SceneStereo(scene, MapCache(tmp_path), quiet=True).completed
    monkeypatch.setattr("depth_priors.mvs.stereo_maps", lambda *a, **k: pytest.fail("computed again"))
    monkeypatch.setattr("depth_priors.mvs.complete", lambda *a, **k: pytest.fail("filled again"))
    again = SceneStereo(scene, MapCache(tmp_path), quiet=True).completed
    for a, b in zip(first, again, strict=True):
        assert a is not None and b is not None
        assert torch.equal(a.value, b.value) and torch.equal(a.confidence, b.confidence)
        assert (a.confidence > 0).all()


def test_priors_of_another_size_are_made_once(scene):
    priors = SceneStereo(scene, MapCache(None), quiet=True).priors
    full = priors[0]
    assert full is not None
    sizes = ResizedPriors([full, None])
    assert sizes.get(0, 256, 192) is full and sizes.get(1, 256, 192) is None
    half = sizes.get(0, 128, 96)
    assert half is not None and sizes.get(0, 128, 96) is half
    assert torch.equal(half.value, resized(full, 128, 96).value)
    again = sizes.get(0, 256, 192)  # from the full one, not from the half
    assert again is not None and torch.equal(again.value, full.value)


def test_other_photographs_poses_and_points_are_other_entries_in_the_cache(scene, tmp_path):
    def key(changed):
        return SceneStereo(changed, MapCache(None))._key

    views, points = list(scene.train), scene.points
    other = views[0].pixels.clone()
    other[5, 5] += 1
    moved = views[1].camera.viewmat.clone()
    moved[0, 3] += 1e-3
    turned = replace(views[1], camera=replace(views[1].camera, viewmat=moved))
    variants = [
        scene,
        replace(scene, train=(replace(views[0], pixels=other), *views[1:])),
        replace(scene, train=(views[0], turned, views[2])),
        replace(scene, points=Points(points.xyz * 1.01, points.rgb, points.seen)),
    ]  # fmt: skip
    assert len({key(variant) for variant in variants}) == len(variants)
    assert key(scene) == key(Scene(tuple(views), (), points, 2.0, Path("elsewhere")))
    assert digest(["a", "b"]) != digest(["ab", ""])


def test_a_cache_that_cannot_be_written_is_said_once_and_does_not_stop_the_run(scene, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    priors = SceneStereo(scene, MapCache(blocked / "cache"), quiet=True).priors
    assert priors[0] is not None and caplog.text.count("cannot keep depth maps") == 1
    assert map_cache(DepthConfig(depth_cache="none"), tmp_path).folder is None
    assert map_cache(DepthConfig(), tmp_path).folder == tmp_path / "depth"
    assert map_cache(DepthConfig(depth_cache="here"), tmp_path).folder == Path("here")


def test_a_network_runs_once_a_view_with_one_thread_and_its_maps_are_kept(scene, tmp_path, monkeypatch):
    threads = []

    def run(image):
        threads.append(torch.get_num_threads())
        return image.mean(-1) + 1

    _fake_network(monkeypatch, run)
    first, _ = _chosen(scene, MapCache(tmp_path), depth_align=False)
    assert threads == [1, 1, 1] and torch.get_num_threads() == 2
    again, _ = _chosen(scene, MapCache(tmp_path), depth_align=False)
    assert len(threads) == 3 and all(torch.equal(a.value, b.value) for a, b in zip(first, again, strict=True))


def test_resizing_keeps_the_mean_of_what_is_known(scene):
    prior = _stereo(scene)[0]
    half = resized(prior, 128, 96)
    assert half.value.shape == (96, 128) and resized(prior, 256, 192) is prior
    sums = (prior.value * prior.confidence).sum(), 4 * (half.value * half.confidence).sum()
    assert torch.isclose(*sums, rtol=1e-4)


@pytest.mark.parametrize("what", ["inverse depth", "noise", "constant"])
def test_files_that_contradict_the_scene_are_left_out_and_said(scene, near_views, tmp_path, caplog, what):
    _, _, truth = near_views
    generator = np.random.default_rng(0)
    for view, true in zip(scene.train, truth, strict=True):
        maps = {
            "inverse depth": 1 / true.numpy(),  # .npy is taken for depth
            "noise": generator.uniform(1, 2, true.shape).astype(np.float32),
            "constant": np.full(true.shape, 2.0, np.float32),
        }
        np.save(tmp_path / f"{view.stem}.npy", maps[what])
    priors, line = _chosen(scene, depth_dir=str(tmp_path))
    assert priors == [None] * 3 and "0 of 3 views, 0 fitted" in line
    assert "contradict" in caplog.text and "--depth_kind" in caplog.text
    raw, _ = _chosen(scene, depth_dir=str(tmp_path), depth_align=False)
    assert all(prior is not None for prior in raw)
    if what == "inverse depth":
        priors, _ = _chosen(scene, depth_dir=str(tmp_path), depth_kind="inverse")
        for prior, true in zip(priors, truth, strict=True):
            assert torch.allclose(1 / prior.value, true, rtol=0.01)


def test_maps_in_other_units_than_the_scene_are_doubted(scene, near_views, tmp_path, caplog):
    for view, true in zip(scene.train, near_views[2], strict=True):
        np.save(tmp_path / f"{view.stem}.npy", true.numpy())
    _chosen(scene, depth_dir=str(tmp_path), depth_frame="world")
    assert "in the scene's units?" not in caplog.text
    for view, true in zip(scene.train, near_views[2], strict=True):
        np.save(tmp_path / f"{view.stem}.npy", 0.5 * true.numpy())
    _chosen(scene, depth_dir=str(tmp_path), depth_frame="world")
    assert "0.5 times" in caplog.text and "--depth_frame scale" in caplog.text


@pytest.mark.parametrize("source", ["files", "sfm", "mvs", "network"])
def test_no_prior_speaks_of_masked_or_transparent_pixels(scene, near_views, tmp_path, monkeypatch, source):
    hidden = torch.full((192, 256), 255, dtype=torch.uint8)
    hidden[:, :128] = 0
    views = (replace(scene.train[0], mask=hidden), replace(scene.train[1], alpha=hidden), scene.train[2])
    hiding = replace(scene, train=views)
    options = {"depth_prior": source}
    if source == "files":
        for view, true in zip(views, near_views[2], strict=True):
            np.save(tmp_path / f"{view.stem}.npy", true.numpy())
        options = {"depth_dir": str(tmp_path)}
    elif source == "network":
        _fake_network(monkeypatch, lambda image: image.mean(-1) + 1)
        options = {"depth_align": False}
    priors, _ = _chosen(hiding, **options)
    for prior in priors[:2]:
        assert float(prior.confidence[:, :128].max()) == 0 and float(prior.value[:, :128].max()) == 0
        assert float(prior.confidence[:, 128:].max()) > 0
    assert float(priors[2].confidence[:, :128].max()) > 0


def test_a_network_that_says_nothing_gives_way_or_is_an_error(scene, monkeypatch, caplog):
    for run in (torch.zeros_like, lambda x: torch.full_like(x, torch.nan)):
        _fake_network(monkeypatch, lambda image, run=run: run(image[..., 0]))
        caplog.clear()
        _, line = _chosen(scene)
        assert "mvs (midas:small failed), 3 of 3" in line and "says nothing" in caplog.text
        with pytest.raises(UserError, match="says nothing about any view"):
            _chosen(scene, depth_prior="midas:small")


def test_an_affine_networks_negative_numbers_count(scene, monkeypatch):
    _fake_network(monkeypatch, lambda image: image.mean(-1) - 0.5)
    priors, _ = _chosen(scene, depth_align=False)
    value = priors[0].value + float(scene.train[0].image().mean(-1).min()) - 0.5
    known = priors[0].confidence > 0
    assert known.float().mean() > 0.999  # all but the lowest, which is 0
    torch.testing.assert_close(value[known], (scene.train[0].image().mean(-1) - 0.5)[known])


def test_any_flipped_bit_in_a_cached_map_is_found_or_harmless(scene, tmp_path):
    cache = MapCache(tmp_path)
    shape: dict[str, tuple[int, ...]] = {"value": (8, 8)}
    cache.store("one", {"value": torch.arange(64.0).reshape(8, 8)})
    path = tmp_path / "one.npz"
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in (0, 3, 7):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            found = cache.load("one", shape)
            assert found is None or torch.equal(found["value"], torch.arange(64.0).reshape(8, 8)), (at, bit)


def test_a_network_that_gives_the_confidence_is_used(scene, tmp_path, monkeypatch, caplog):
    _fake_network(monkeypatch, lambda image: image.mean(-1) + 1)
    cases: list[tuple[dict[str, Any], bool]] = [({}, False), ({"confidence": "augment"}, True)]
    for options, used in cases:
        caplog.clear()
        config = DepthConfig(depth_cache="none", depth_prior="midas:small", **options)
        learn(scene, config, depth_loss=False, starts=False, cache_folder=tmp_path, quiet=True)
        assert ("not used" in caplog.text) != used, options


def test_what_stereo_cannot_say_is_said_from_the_cache_too(near_views, tmp_path, caplog):
    views, points, _ = near_views
    own = Points(points.xyz, points.rgb, points.seen[:, :1])
    alone = Scene(tuple(views[:1]), (), own, 1.0, Path())
    for _ in range(2):
        caplog.clear()
        assert SceneStereo(alone, MapCache(tmp_path), quiet=True).priors == [None]
        assert f"{views[0].name}: stereo:" in caplog.text
