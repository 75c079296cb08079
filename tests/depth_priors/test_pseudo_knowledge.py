"""What is found out about pseudo views before training, and networks that look at renderings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import depth_priors.network as networks
from depth_priors import DepthConfig, MapCache, PseudoWish, SceneStereo
from depth_priors.midas import build, estimate
from depth_priors.pseudo import Estimator, know_pseudo_views
from errors import UserError
from scene import Scene

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture(scope="module")
def scene(near_views):
    views, points, _ = near_views
    return Scene(tuple(views), (), points, 1.0, Path())


@pytest.fixture(scope="module")
def stereo(scene):
    return SceneStereo(scene, MapCache(None), quiet=True)


def _network(run, name="midas:small"):
    return networks.Network(name, "weights.pt", "key", lambda device: run)


def _know(scene, stereo, wish, config=None):
    return know_pseudo_views(scene, config or DepthConfig(), wish, stereo, quiet=True)


def test_nothing_is_computed_that_nobody_asks_for(scene):
    untouched = SceneStereo(scene, MapCache(None), quiet=True)
    known = _know(scene, untouched, PseudoWish(count=5))
    assert len(known.cameras) == 5 and not known.warped and not known.priors and known.estimate is None
    assert not untouched.done and known.line.startswith("pseudo views: 5 (")


def test_cameras_depend_on_the_seed_alone(scene, stereo):
    a, b, c = (_know(scene, stereo, PseudoWish(count=4, seed=seed)).cameras for seed in (1, 1, 2))
    assert all(torch.equal(x.viewmat, y.viewmat) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0].viewmat, c[0].viewmat)


def test_without_a_network_depth_comes_from_stereo_and_photographs_are_warped(scene, stereo):
    known = _know(scene, stereo, PseudoWish(count=3, cameras="interpolated", warped=True, depth="auto"))
    assert len(known.warped) == len(known.priors) == 3
    assert "warped photographs and depth by mvs" in known.line
    for view, prior in zip(known.warped, known.priors, strict=True):
        assert view.mask is not None
        share = float((view.mask > 0).float().mean())
        assert 0.3 < share < 1.0 and float(prior.confidence.mean()) == pytest.approx(share)
        # the room's surfaces are 2 to 8 away
        depth = prior.depth()[prior.confidence > 0]
        assert float(depth.min()) > 0.5 and float(depth.max()) < 20.0


def test_a_network_on_disk_is_asked_instead(scene, stereo, monkeypatch):
    monkeypatch.setattr("depth_priors.pseudo.find_network", lambda config: _network(lambda x: x.mean(-1)))
    known = _know(scene, stereo, PseudoWish(count=2, depth="auto"))
    assert known.estimate is not None and not known.priors and "depth by midas:small" in known.line
    assert _know(scene, stereo, PseudoWish(count=2, depth="mvs")).estimate is None


def test_a_network_that_is_not_there_is_an_error_where_it_is_asked_for(scene, stereo):
    with pytest.raises(UserError, match=r"pseudo\.depth_from network"):
        _know(scene, stereo, PseudoWish(depth="network"))
    with pytest.raises(UserError, match="depth_prior none"):
        _know(scene, stereo, PseudoWish(depth="network"), DepthConfig(depth_prior="none"))


def test_where_stereo_is_impossible_that_is_said(scene):
    alone = Scene(scene.train[:1], (), scene.points, 1.0, Path())
    with pytest.raises(UserError, match=r"pseudo\.warped"):
        _know(alone, SceneStereo(alone, MapCache(None), quiet=True), PseudoWish(count=2, warped=True))


def test_without_network_and_stereo_depth_is_left_out_unless_it_was_named(scene, caplog):
    alone = Scene(scene.train[:1], (), scene.points, 1.0, Path())
    blind = SceneStereo(alone, MapCache(None), quiet=True)
    known = _know(alone, blind, PseudoWish(count=3, depth="auto"), DepthConfig(depth_prior="none"))
    assert "--pseudo.depth has no effect" in caplog.text and known.line.endswith("depth unknown")
    assert len(known.cameras) == 3 and not known.priors and known.estimate is None
    with pytest.raises(UserError, match=r"--pseudo\.depth_from mvs: stereo finds too little"):
        _know(alone, blind, PseudoWish(count=3, depth="mvs"))


def test_cameras_that_show_nothing_new_are_told(scene, caplog):
    _know(scene, SceneStereo(scene, MapCache(None), quiet=True), PseudoWish(count=3))
    assert not caplog.text
    one_place = Scene((scene.train[0],) * 3, (), scene.points, 1.0, Path())
    _know(one_place, SceneStereo(one_place, MapCache(None), quiet=True), PseudoWish(count=3))
    assert "all stand at one place" in caplog.text


def test_the_network_computes_on_one_thread_and_its_gradient_too():
    seen = []

    def run(picture):
        seen.append(torch.get_num_threads())
        return _Watch.apply(picture, seen).square().mean(-1)

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        picture = torch.rand(20, 30, 3, requires_grad=True)
        prior = Estimator(_network(run), gradient=True)(picture)
        assert prior is not None
        prior.value.sum().backward()
        assert seen == [1, 1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert picture.grad is not None
    torch.testing.assert_close(picture.grad, 2.0 * picture.detach() / 3.0)
    assert (prior.kind, prior.frame) == ("inverse", "affine")


class _Watch(torch.autograd.Function):
    """The identity, which notes how many threads its gradient is computed on."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.seen.append(torch.get_num_threads())
        return gradient, None


def test_without_gradient_the_picture_gets_none():
    picture = torch.rand(20, 30, 3, requires_grad=True)
    prior = Estimator(_network(lambda x: x.mean(-1)), gradient=False)(picture)
    assert prior is not None and not prior.value.requires_grad
    onnx = Estimator(_network(lambda x: x.mean(-1), "onnx:model.onnx"), gradient=True)(picture)
    assert onnx is not None and not onnx.value.requires_grad


def test_a_network_that_says_nothing_gives_no_prior_and_nan_is_unknown():
    picture = torch.rand(20, 30, 3)
    assert Estimator(_network(lambda x: torch.full_like(x[..., 0], 2.0)), gradient=True)(picture) is None
    assert (
        Estimator(_network(lambda x: torch.full_like(x[..., 0], torch.nan)), gradient=True)(picture) is None
    )

    def run(x):
        value = x.mean(-1) - 0.5  # also below 0
        value[3, 4] = torch.inf
        return value

    prior = Estimator(_network(run), gradient=True)(picture)
    assert prior is not None and bool(prior.value.isfinite().all()) and float(prior.value.min()) == 0.0
    assert float(prior.confidence[3, 4]) == 0.0 and float(prior.confidence.mean()) > 0.99


def test_a_frozen_midas_passes_a_gradient_and_keeps_its_weights():
    torch.manual_seed(0)
    model = build("small")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = networks.Network(
        "midas:small", "random", "key", lambda device: lambda image: estimate(model, "small", image)
    )
    picture = torch.rand(64, 96, 3, requires_grad=True)
    prior = Estimator(network, gradient=True)(picture)
    if prior is None:
        pytest.fail("random weights gave one depth for all")
    prior.value.sum().backward()
    assert picture.grad is not None and bool(picture.grad.isfinite().all()) and bool(picture.grad.any())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
