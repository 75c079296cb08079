"""The depth losses against their formulas in numpy, their gradients, and where they have nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depth_priors import DepthPrior
from losses import LossConfig, Objective
from losses.correlation import correlation
from losses.depth import FEWEST, depth_loss, names
from rasterizer import RenderOutput

SHAPE = (24, 32)


def _random(seed, low=0.0, high=1.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(SHAPE, generator=g, dtype=torch.float64)).to(dtype)


def _prior(value, kind="inverse", frame="world", confidence=None):
    return DepthPrior(value, kind, frame, torch.ones(SHAPE) if confidence is None else confidence, "test")


def _weighted_r(x, y, w):
    x, y, w = (np.asarray(v, np.float64).ravel() for v in (x, y, w))
    cov = np.cov(x, y, aweights=w)
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])


def test_the_correlation_is_numpys_with_weights():
    x, y, w = _random(0, 1, 3), _random(1, 2, 9), _random(2)
    w[:4] = 0.0
    y = y + 2 * x
    # float32 sums of 768 numbers
    assert correlation(x, y, w).item() == pytest.approx(_weighted_r(x, y, w), abs=1e-5)
    assert correlation(x, x, w).item() == pytest.approx(1, abs=1e-6)
    assert correlation(x, -x, w).item() == pytest.approx(-1, abs=1e-6)


def test_what_has_no_weight_may_be_anything():
    x, y, w = _random(0), _random(1), _random(2, 0.1, 1)
    w[:4] = 0.0
    expected = correlation(x, y, w)
    x, y = x.clone(), y.clone()
    x[0], y[1], x[2] = float("nan"), float("inf"), -1e30
    x.requires_grad_(True)
    found = correlation(x, y, w)
    assert torch.equal(found, expected)
    found.backward()
    assert bool(x.grad.isfinite().all()) and bool((x.grad[:4] == 0).all()) and float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("factor", [1e-25, 1e-15, 1e12, 1e25])
def test_the_correlation_and_its_gradient_know_no_units(factor):
    x, y, w = _random(0, 1, 3).requires_grad_(True), _random(1, 2, 9), _random(2, 0.1, 1)
    small = (factor * x.detach()).requires_grad_(True)
    expected, found = ([correlation(a, y, w), correlation(y, a, w)] for a in (x, small))
    assert None not in expected and None not in found
    for one, other in zip(expected, found, strict=True):
        assert other.item() == pytest.approx(one.item(), abs=1e-5)  # both are float32 sums
    torch.stack(expected).sum().backward()
    torch.stack(found).sum().backward()
    assert torch.allclose(small.grad * factor, x.grad, rtol=1e-3, atol=1e-8)  # of rounded maps


def test_its_gradient_is_right():
    x, y, w = (_random(i, 0.5, 2, torch.float64)[:5, :6] for i in range(3))
    x.requires_grad_(True)
    y.requires_grad_(True)

    def r(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found = correlation(a, b, w)
        assert found is not None
        return found

    assert torch.autograd.gradcheck(r, (x, y), atol=1e-8)


def test_the_loss_takes_the_smaller_branch_for_an_affine_inverse_depth():
    depth, alpha = _random(0, 1, 4), torch.ones(SHAPE)
    midas = 300 / depth + 20 * _random(3)
    expected = min(1 - _weighted_r(depth, -midas, alpha), 1 - _weighted_r(depth, 1 / (midas + 200), alpha))
    assert depth_loss("pearson", depth, alpha, _prior(midas, frame="affine")).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_the_other_branch_is_left_where_one_is_constant():
    depth, alpha = _random(0, 1, 4), torch.ones(SHAPE)
    small = 0.01 / depth + 1e-4 * _random(3)  # 1 / (M + 200) is one number in float32
    found = depth_loss("pearson", depth, alpha, _prior(small, frame="affine"))
    assert found.item() == pytest.approx(1 - _weighted_r(depth, -small, alpha), abs=1e-4)


@pytest.mark.parametrize("frame", ["world", "scale"])
@pytest.mark.parametrize("kind", ["inverse", "depth"])
def test_a_prior_in_units_is_compared_as_depth(kind, frame):
    depth = _random(0, 1, 4)
    true = depth + 0.3 * _random(1)
    alpha, confidence = _random(2), _random(3)
    prior = _prior(1 / true if kind == "inverse" else true, kind, frame, confidence)
    expected = 1 - _weighted_r(depth, true, alpha * confidence)
    assert depth_loss("pearson", depth, alpha, prior).item() == pytest.approx(expected, abs=2e-5)
    perfect = _prior(1 / depth if kind == "inverse" else depth, kind, frame)
    assert depth_loss("pearson", depth, alpha, perfect).item() == pytest.approx(0, abs=1e-6)


def test_it_says_nothing_where_there_is_nothing_to_say():
    depth, ones = _random(0, 1, 4), torch.ones(SHAPE)
    few = torch.zeros(SHAPE)
    few.view(-1)[: FEWEST - 1] = 1.0
    assert depth_loss("pearson", depth, ones, _prior(depth, "depth", confidence=few)) is None
    assert depth_loss("pearson", depth, ones, _prior(torch.full(SHAPE, 2.0))) is None  # a constant prior
    assert depth_loss("pearson", torch.full(SHAPE, 2.0), ones, _prior(depth)) is None  # a flat render
    assert depth_loss("pearson", depth, torch.zeros(SHAPE), _prior(depth)) is None  # nothing rendered
    assert depth_loss("pearson", depth, ones, _prior(torch.zeros(SHAPE))) is None  # nothing known


def _output(depth):
    color = torch.rand(1, *SHAPE, 3, generator=torch.Generator().manual_seed(5))
    return RenderOutput(color=color, depth=depth[None], alpha=torch.ones(1, *SHAPE), info={})


def _terms(objective, prior, iteration=1):
    return objective(
        _output(_random(0, 1, 4)), torch.zeros(*SHAPE, 3), None, prior=prior, iteration=iteration,
        linear_scales=lambda: torch.ones(1, 3), linear_opacities=lambda: torch.ones(1),
    )  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_the_objective_weighs_it_names_it_and_counts_where_it_was_left_out(name):
    config = LossConfig(depth_loss=name, depth_weight=0.25, depth_patch=16)
    objective = Objective(config)
    prior = _prior(_random(1, 1, 4), "depth")
    plain = depth_loss(name, _random(0, 1, 4), torch.ones(SHAPE), prior, patch=16)
    assert plain.item() > 0.01
    assert _terms(objective, prior)[f"depth_{name}"].item() == pytest.approx(0.25 * plain.item())
    assert objective.skipped == {}
    for times, missing in enumerate((None, _prior(torch.zeros(SHAPE))), 1):  # no prior, or one of nothing
        assert f"depth_{name}" not in _terms(objective, missing)
        assert objective.skipped == {f"depth_{name}": times}
    assert set(_terms(Objective(LossConfig()), prior)) == {"l1", "dssim"}


def test_the_weight_goes_down_log_linearly_or_at_one_iteration():
    prior = _prior(_random(1, 1, 4), "depth")
    plain = depth_loss("adepth", _random(0, 1, 4), torch.ones(SHAPE), prior).item()

    def weights(iterations, **options):
        config = LossConfig(depth_loss="adepth", depth_weight=1.0, **options)
        objective = Objective(config, 100)
        return [_terms(objective, prior, i).get("depth_adepth", plain * 0) / plain for i in iterations]

    assert weights([1, 100]) == pytest.approx([1, 1])
    assert weights([50, 100], depth_weight_final=0.01) == pytest.approx([0.1, 0.01], rel=1e-5)
    steps = weights([1, 39, 40, 100], depth_weight_final=0.02, depth_final_from=40)
    assert steps == pytest.approx([1, 1, 0.02, 0.02], rel=1e-5)
    assert weights([39, 40], depth_weight_final=0.0, depth_final_from=40) == pytest.approx([1, 0])
    assert weights([25, 100], depth_weight_final=0.0) == pytest.approx([0.75, 0]), "no logarithm: linearly"
    rising = LossConfig(depth_loss="adepth", depth_weight=0.0, depth_weight_final=0.4)
    assert rising.depth_weight_at(0.5, 50) == pytest.approx(0.2)


def _formulas(d, g, m):
    """Source document 000's losses as it writes them, for one image; also ssi, silog and inverse_l1."""
    d, g, m = (np.asarray(x, np.float64) for x in (d, g, m))
    unit = (m * g).sum() / m.sum()
    d, g = d / unit, g / unit

    def mean(x):
        return (x * m).sum() / m.sum()

    def standardised(x):
        return (x - mean(x)) / (mean(np.abs(x - mean(x))) + 1e-6)

    e = standardised(d) - standardised(g)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    scales = []
    for s in (1, 2, 4, 8):
        h, w = d.shape[0] // s, d.shape[1] // s

        def pool(x, h=h, w=w, s=s):
            return x[: h * s, : w * s].reshape(h, s, w, s).mean((1, 3))

        p, valid = np.pad(pool(e), 1), pool(m) > 0.5
        gx, gy = (
            sum(k[i, j] * p[i : i + h, j : j + w] for i in range(3) for j in range(3))
            for k in (kernel, kernel.T)
        )
        scales.append(((np.abs(gx) + np.abs(gy)) * valid).sum() / (valid.sum() + 1e-6))
    found = {"adepth": mean(np.abs(d - g)), "rdepth": mean(np.abs(e)), "rgrad": np.mean(scales)}
    found["g2"] = found["adepth"] + found["rdepth"] + 0.5 * found["rgrad"]
    root = np.sqrt(m.ravel())
    a = np.stack([d.ravel(), np.ones(d.size)], 1)
    s, t = np.linalg.lstsq(a * root[:, None], g.ravel() * root, rcond=None)[0]
    found["ssi"] = mean(np.abs(s * d + t - g))
    log = np.log(d) - np.log(g)
    found["silog"] = np.sqrt(mean(log**2) - 0.85 * mean(log) ** 2)
    found["ssi_silog_grad"] = found["ssi"] + found["silog"] + 0.4 * found["rgrad"]
    found["inverse_l1"] = mean(np.abs(1 / d - 1 / g))
    return found


@pytest.mark.parametrize("name", sorted(set(names()) - {"pearson", "pearson_patch"}))
def test_a_loss_is_its_formula_where_everything_is_known(name):
    depth, true = _random(0, 1, 4), _random(1, 2, 3)
    expected = _formulas(depth, true, np.ones(SHAPE))[name]
    found = depth_loss(name, depth, torch.ones(SHAPE), _prior(true, "depth"))
    assert found.item() == pytest.approx(expected, rel=2e-5)  # float32 sums over 768 pixels
    inverse = depth_loss(name, depth, torch.ones(SHAPE), _prior(1 / true))
    assert inverse.item() == pytest.approx(expected, rel=2e-5)
    scaled = depth_loss(name, 7 * depth, torch.ones(SHAPE), _prior(7 * true, "depth"))
    assert scaled.item() == pytest.approx(expected, rel=2e-5)  # the scene's unit does not matter


def test_silog_knows_no_factor_where_the_prior_has_none_and_nothing_where_it_is_shifted():
    depth, true = _random(0, 1, 4), _random(1, 2, 3)
    log = np.log(depth.double().numpy()) - np.log(true.double().numpy())
    for factor in (0.01, 1.0, 100.0):
        scaled = (factor * depth).requires_grad_()
        found = depth_loss("silog", scaled, torch.ones(SHAPE), _prior(true, "depth", "scale"))
        assert found.item() == pytest.approx(log.std(), rel=1e-4)  # float32 logarithms and sums
        found.backward()
        assert abs(float((scaled.grad * scaled).detach().sum())) < 1e-5, "no pull on the scene's size"
    for kind in ("depth", "inverse"):
        assert depth_loss("silog", depth, torch.ones(SHAPE), _prior(true, kind, "affine")) is None


@pytest.mark.parametrize(
    "name", sorted(set(names()) - {"pearson", "pearson_patch", "rgrad", "g2", "ssi_silog_grad"})
)
def test_a_loss_takes_weights(name):
    depth, true = _random(0, 1, 4), _random(1, 2, 3)
    alpha, confidence = _random(2), _random(3)
    confidence[:5] = 0.0
    expected = _formulas(depth, true, alpha * confidence)[name]
    found = depth_loss(name, depth, alpha, _prior(true, "depth", confidence=confidence))
    assert found.item() == pytest.approx(expected, rel=5e-5)


def test_gradients_at_several_scales_are_of_known_pixels_only():
    true = _random(1, 2, 3)
    depth = true * 1.5 + 0.25  # the same after standardising, where both are known
    known = torch.ones(SHAPE)
    known[:, 16:] = 0.0
    prior = _prior(torch.where(known > 0, true, 99.0), "depth", confidence=known)
    assert depth_loss("rgrad", depth, torch.ones(SHAPE), prior).item() < 1e-5
    bump = depth.clone()
    bump[10, 14] += 1.0  # two columns from what is unknown: its right neighbour's response does not count
    inside = depth_loss("rgrad", bump, torch.ones(SHAPE), prior).item()
    assert inside > 1e-3


def _patch_formula(x, y, side):
    losses = []
    for i in range(0, SHAPE[0] - side + 1, side):
        for j in range(0, SHAPE[1] - side + 1, side):
            a, b = (np.asarray(v, np.float64)[i : i + side, j : j + side].ravel() for v in (x, y))
            losses.append(1 - np.corrcoef(a, b)[0, 1])
    return np.mean(losses)


def test_patches_are_compared_one_by_one():
    depth, true = _random(0, 1, 4), _random(1, 2, 3)
    found = depth_loss("pearson_patch", depth, torch.ones(SHAPE), _prior(true, "depth"), patch=8)
    assert found.item() == pytest.approx(_patch_formula(depth, true, 8), rel=1e-4)
    shifted = true.clone()
    shifted[:8, :8] += 5.0  # invisible within the patch, not in the picture
    assert (
        depth_loss("pearson_patch", shifted, torch.ones(SHAPE), _prior(true, "depth"), patch=8).item() < 1e-5
    )
    assert depth_loss("pearson", shifted, torch.ones(SHAPE), _prior(true, "depth")).item() > 0.1


def test_patches_that_are_mostly_unknown_or_flat_do_not_count():
    depth, true = _random(0, 1, 4), _random(1, 2, 3)
    confidence = torch.ones(SHAPE)
    confidence[:8, :5] = 0.0  # 40 of the first patch's 64 pixels
    flat = true.clone()
    flat[8:16, :8] = 2.0
    found = depth_loss(
        "pearson_patch", depth, torch.ones(SHAPE), _prior(flat, "depth", confidence=confidence), patch=8
    )
    left = [(i, j) for i in (0, 8, 16) for j in (0, 8, 16, 24) if (i, j) not in ((0, 0), (8, 0))]
    cuts = [(slice(i, i + 8), slice(j, j + 8)) for i, j in left]
    expected = np.mean([1 - np.corrcoef(depth[cut].ravel(), true[cut].ravel())[0, 1] for cut in cuts])
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", names())
def test_the_gradient_of_every_loss_is_right(name):
    depth = _random(0, 1, 4, torch.float64)
    true, alpha = _random(1, 2, 3), _random(2, 0.2, 1)
    confidence = _random(3, 0.2, 1)
    confidence[3, :9] = 0.0
    depth.requires_grad_(True)
    prior = _prior(true, "depth", confidence=confidence)

    def loss(d: torch.Tensor) -> torch.Tensor:
        value = depth_loss(name, d, alpha, prior, patch=8)
        assert value is not None
        return value

    (gradient,) = torch.autograd.grad(loss(depth), depth)
    assert bool((gradient[3, :9] == 0).all()) and float(gradient.abs().sum()) > 0
    step, g = 1e-6, torch.Generator().manual_seed(7)
    for _ in range(5):  # along random directions; the weights are float32, as the prior's are
        direction = torch.randn(SHAPE, generator=g, dtype=torch.float64)
        with torch.no_grad():
            up, down = loss(depth + step * direction), loss(depth - step * direction)
        slope = float((gradient * direction).sum())
        assert float(up - down) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", names())
def test_no_loss_is_ever_nan(name):
    ones, constant = torch.ones(SHAPE), torch.full(SHAPE, 2.0)
    lone = torch.zeros(SHAPE)
    lone[5, 5] = 1.0
    broken = _random(0, 1, 4)
    broken[:3], broken[3:5] = 0.0, float("nan")  # nothing is rendered there
    endless = _random(1, 1, 4)
    endless[2:4] = float("inf")
    cases = [
        (constant, ones, _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1, 4), ones, _prior(constant, "depth")),
        (constant, ones, _prior(constant, "depth")),
        (_random(0, 1, 4), torch.zeros(SHAPE), _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1, 4), ones, _prior(_random(1, 1, 4), "depth", confidence=torch.zeros(SHAPE))),
        (_random(0, 1, 4), ones, _prior(_random(1, 1, 4), "depth", confidence=lone)),
        (_random(0, 1, 4), ones, _prior(_random(1, 1, 4), "depth", "scale")),
        (_random(0, 1, 4), ones, _prior(500 * _random(1, 1, 4), "inverse", "affine")),
        (torch.zeros(SHAPE), ones, _prior(_random(1, 1, 4), "depth")),
        (broken, torch.where(broken > 0, 1.0, 0.0), _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1e-30, 1e-20), ones, _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1e10, 1e15), ones, _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1e25, 1e30), ones, _prior(_random(1, 1, 4), "depth")),
        (_random(0, 1, 4), ones, _prior(endless, "depth")),
        (_random(0, 1, 4), ones, _prior(endless, "inverse", "affine")),
        (endless, ones, _prior(_random(1, 1, 4), "depth")),
    ]
    for bad in ("nan", "inf", "-inf"):
        spoilt = torch.ones(SHAPE)
        spoilt[4, 2:7] = float(bad)
        cases += [
            (_random(0, 1, 4), ones, _prior(_random(1, 1, 4), kind, frame, confidence=spoilt))
            for kind, frame in (("depth", "world"), ("depth", "scale"), ("inverse", "affine"))
        ]
        cases.append((_random(0, 1, 4), spoilt, _prior(_random(1, 1, 4), "depth")))
    for number, (depth, alpha, prior) in enumerate(cases):
        leaf = depth.clone().requires_grad_(True)
        loss = depth_loss(name, leaf, alpha, prior, patch=8)
        if loss is not None:
            loss.backward()
            assert bool(loss.isfinite()) and bool(leaf.grad.isfinite().all()), (number, loss)


@pytest.mark.parametrize("name", names())
def test_what_a_prior_without_scale_can_say(name):
    depth, ones = _random(0, 1, 4), torch.ones(SHAPE)
    affine = depth_loss(name, depth, ones, _prior(300 / depth + 20, "inverse", "affine"), patch=8)
    scaled = depth_loss(name, depth, ones, _prior(5 * depth, "depth", "scale"), patch=8)
    blind = {"pearson", "pearson_patch", "rdepth", "rgrad", "ssi"}
    assert (affine is not None) == (name in blind)
    assert (scaled is not None) == (name not in ("adepth", "g2", "inverse_l1"))
    if name in ("rdepth", "rgrad", "ssi"):  # the same but for scale and shift
        assert affine.item() < 1e-4 and scaled.item() < 1e-4


@pytest.mark.parametrize("shape", [(377, 503), (400, 400)])
@pytest.mark.parametrize("name", names())
def test_bits_of_every_loss_do_not_depend_on_the_number_of_threads(name, shape):
    g = torch.Generator().manual_seed(0)
    depth, true, confidence, alpha = (0.1 + torch.rand(shape, generator=g) for _ in range(4))
    prior = DepthPrior(true, "depth", "world", confidence, "test")
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = depth.clone().requires_grad_(True)
        # of the square picture one patch, whose sums torch would divide among its threads
        loss = depth_loss(name, leaf, alpha, prior, patch=400 if shape[0] == shape[1] else 64)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1])


def test_its_bits_do_not_depend_on_the_number_of_threads():
    shape = (378, 504)
    g = torch.Generator().manual_seed(0)
    x, y, w = (torch.rand(shape, generator=g) for _ in range(3))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_(True)
        r = correlation(leaf, y, w)
        r.backward()
        found.append((r.detach(), leaf.grad))
    for r, gradient in found[1:]:
        assert torch.equal(r, found[0][0]) and torch.equal(gradient, found[0][1])
