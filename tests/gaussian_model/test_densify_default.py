"""The default density control against a plain numpy statement of its rules, and its schedule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from errors import UserError
from gaussian_model import DefaultDensifier, DensifyConfig, NoDensifier, build_densifier
from gaussian_model.rotation import rotate
from tests.gaussian_model.models import meta, random_gaussians, snapshot, stepped_optimizer

EXTENT = 2.0


def densifier_of(**options: Any) -> DefaultDensifier:
    return DefaultDensifier(DensifyConfig(**options), EXTENT, torch.Generator().manual_seed(7))


def numpy_statistic(infos: list[dict], *, absolute: bool) -> np.ndarray:
    """Mean over the cameras that see a Gaussian of the norm of its gradient in device units."""
    total = np.zeros(infos[0]["radii"].shape[1])
    seen = np.zeros_like(total)
    for info in infos:
        gradient = (info["means2d"].absgrad if absolute else info["means2d"].grad).double().numpy()
        for camera in range(gradient.shape[0]):
            for row in range(gradient.shape[1]):
                if (info["radii"][camera, row] > 0).all():
                    x = gradient[camera, row, 0] * info["width"] / 2 * info["n_cameras"]
                    y = gradient[camera, row, 1] * info["height"] / 2 * info["n_cameras"]
                    total[row] += np.hypot(x, y)
                    seen[row] += 1
    return total / np.maximum(seen, 1)


@pytest.mark.parametrize("absolute", [False, True])
def test_the_statistic_is_the_mean_gradient_over_the_cameras_that_see_a_gaussian(generator, absolute):
    densifier = densifier_of(absgrad=absolute)
    infos = [meta(40, cameras, generator) for cameras in (1, 3, 2)]
    for info in infos:
        info["radii"][:, 3] = 0  # one Gaussian that nobody sees
        densifier.collect(info)
    gradient, count = densifier.statistics["gradient"], densifier.statistics["count"]
    seen = sum((info["radii"] > 0).all(-1).sum(0) for info in infos)
    assert torch.equal(count, seen.float()) and (count == 0).any() and (count > 1).any()
    expected = numpy_statistic(infos, absolute=absolute)
    # f32 sums of at most 6 terms against double: 10 eps.
    np.testing.assert_allclose((gradient / count.clamp_min(1)).numpy(), expected, rtol=1e-6)


def test_a_loss_that_does_not_depend_on_the_gaussians_counts_as_zero_gradient(generator):
    info = meta(5, 1, generator)
    info["means2d"].grad = None
    densifier = densifier_of()
    densifier.collect(info)
    assert not densifier.statistics["gradient"].any() and densifier.statistics["count"].any()


def test_a_forgotten_retain_grad_is_an_error_not_a_zero(generator):
    info = meta(5, 1, generator)
    info["means2d"] = torch.zeros(1, 5, 2, requires_grad=True) * 1.0
    with pytest.raises(RuntimeError, match="retain_grad"):
        densifier_of().collect(info)


def test_a_forgotten_absgrad_is_an_error_not_a_zero(generator):
    info = meta(5, 1, generator)
    del info["means2d"].absgrad
    with pytest.raises(RuntimeError, match="absgrad"):
        densifier_of(absgrad=True).collect(info)


def numpy_refinement(state: dict, statistic: np.ndarray, config: DensifyConfig, *, after_reset: bool) -> dict:
    """What 3DGS does, row by row: grow by gradient, then prune what came out."""
    opacity = 1 / (1 + np.exp(-state["opacities"].numpy()))
    scale = np.exp(state["scales"].numpy())
    kept, cloned, split, pruned = [], [], [], []
    for row in range(len(opacity)):
        grows = statistic[row] > config.threshold
        large = scale[row].max() > config.clone_scale * EXTENT
        size = scale[row].max() / (1.6 if grows and large else 1.0)
        if opacity[row] < config.prune_opacity or (after_reset and size > config.prune_scale * EXTENT):
            pruned.append(row)
            continue
        if grows and large:
            split.append(row)
        else:
            kept.append(row)
            if grows:
                cloned.append(row)
    return {"kept": kept, "cloned": cloned, "split": split, "pruned": pruned}


@pytest.mark.parametrize("iteration", [600, 3100])
def test_refinement_does_what_a_plain_restatement_says(generator, iteration):
    config = DensifyConfig(grad_threshold=1e-3)
    gaussians = random_gaussians(400)
    optimizer = stepped_optimizer(gaussians)
    densifier = DefaultDensifier(config, EXTENT, torch.Generator().manual_seed(7))
    infos = [meta(400, 2, generator) for _ in range(3)]
    for info in infos:
        densifier.collect(info)
    before = snapshot(gaussians, optimizer)
    expected = numpy_refinement(
        before, numpy_statistic(infos, absolute=False), config, after_reset=iteration > 3000
    )
    assert all(len(rows) > 5 for rows in expected.values()), "the case exercises every branch"

    report = densifier.refine(iteration, gaussians, optimizer)

    assert report is not None and not report.reset
    kept, cloned, split = expected["kept"], expected["cloned"], expected["split"]
    assert (report.cloned, report.split, report.pruned) == (len(cloned), len(split), len(expected["pruned"]))
    assert report.total == len(gaussians) == len(kept) + len(cloned) + 2 * len(split)
    after = snapshot(gaussians, optimizer)
    a, b = len(kept), len(kept) + len(cloned)
    for key in gaussians.params:
        assert torch.equal(after[key][:a], before[key][kept])
        assert torch.equal(after[f"{key}.exp_avg"][:a], before[f"{key}.exp_avg"][kept])
        assert torch.equal(after[key][a:b], before[key][cloned])
        assert not after[f"{key}.exp_avg_sq"][a:].any()
        if key not in ("means", "scales"):
            assert torch.equal(after[key][b:], before[key][split + split])
    # log(exp(x)/1.6) against x - log(1.6): |x| < 8, some eps of 8.
    torch.testing.assert_close(
        after["scales"][b:], before["scales"][split + split] - np.log(1.6), rtol=1e-6, atol=2e-6
    )
    # The parts are means + R (scale * normal), the normals drawn in one [2, S, 3] block.
    normal = torch.randn(2, len(split), 3, generator=torch.Generator().manual_seed(7)).double().numpy()
    for part in range(2):
        for index, row in enumerate(split):
            w, x, y, z = (before["quats"][row] / before["quats"][row].norm()).double().numpy()
            rotation = np.array(
                [
                    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
                ]
            )
            offset = rotation @ (np.exp(before["scales"][row].double().numpy()) * normal[part, index])
            got = after["means"][b + part * len(split) + index].numpy()
            # f32 against double on values up to 4: 4 eps of the value, more of the offset.
            np.testing.assert_allclose(got, before["means"][row].numpy() + offset, rtol=1e-5, atol=2e-6)
    assert not any(value.any() for value in densifier.statistics.values())
    assert all(len(value) == len(gaussians) for value in densifier.statistics.values())


@pytest.mark.parametrize("option", [0.1, 0.0])
def test_cameras_that_stand_close_together_are_told_that_sizes_are_judged_by_them(caplog, option):
    """What lies far away is large beside their spread: gone refinement after refinement, or kept by 0."""
    gaussians = random_gaussians(100)
    gaussians.params["opacities"].data.fill_(0.0)
    gaussians.params["scales"].data.fill_(np.log(0.3 * EXTENT))
    gaussians.params["scales"].data[:70] = np.log(0.05 * EXTENT)
    optimizer = stepped_optimizer(gaussians)
    gaussians.params["opacities"].data.fill_(0.0)
    densifier = densifier_of(prune_scale=option)
    densifier._clear(100, torch.device("cpu"))
    for iteration in (3000, 3100, 3200):
        report = densifier.refine(iteration, gaussians, optimizer)
        assert report is not None and report.pruned == (30 if iteration == 3100 and option else 0)
        gaussians.params["opacities"].data.fill_(0.0)
    said = [record.getMessage() for record in caplog.records if "prune_scale" in record.getMessage()]
    assert len(said) == (1 if option else 0)
    if option:
        assert "iteration 3100: 30 of 100 Gaussians" in said[0] and "--densify.prune_scale 0" in said[0]


def test_the_mean_and_the_spread_of_split_parts_are_the_parents():
    gaussians = random_gaussians(1)
    gaussians.load_state_dict(
        {k: v.repeat(4000, *[1] * (v.ndim - 1)) for k, v in gaussians.state_dict().items()}
    )
    optimizer = stepped_optimizer(random_gaussians(0))
    parent = {k: v[0].clone() for k, v in gaussians.state_dict().items()}
    densifier = densifier_of(clone_scale=1e-9, prune_opacity=1e-9)
    densifier._clear(4000, torch.device("cpu"))
    densifier.statistics["gradient"] += 1.0
    densifier.refine(600, gaussians, optimizer)
    assert len(gaussians) == 8000
    local = rotate(parent["quats"], gaussians.params["means"].detach() - parent["means"], inverse=True)
    normal = local / parent["scales"].exp()
    # 8000 draws: the mean's standard error is 0.011, that of the standard deviation 0.008; 5 sigma.
    assert normal.mean(0).abs().max() < 0.056 and (normal.std(0) - 1).abs().max() < 0.04


def grown(count: int, limit: int, generator: torch.Generator) -> tuple[DefaultDensifier, Any, torch.Tensor]:
    gaussians = random_gaussians(count)
    gaussians.params["opacities"].data.fill_(0.0)
    gaussians.params["scales"].data.clamp_(max=-5.0)  # all are cloned
    densifier = densifier_of(max_gaussians=limit)
    densifier._clear(count, torch.device("cpu"))
    gradient = torch.rand(count, generator=generator) + 1.0
    densifier.statistics["gradient"] += gradient
    return densifier, gaussians, gradient


@pytest.mark.parametrize("limit", [100, 130, 200, 500])
def test_the_cap_is_hard_and_keeps_the_highest_gradients(generator, limit):
    densifier, gaussians, gradient = grown(100, limit, generator)
    before = gaussians.params["means"].detach().clone()
    densifier.refine(600, gaussians, stepped_optimizer(random_gaussians(0)))
    room = min(limit - 100, 100)
    assert len(gaussians) == 100 + room
    best = gradient.argsort(descending=True)[:room].sort().values
    assert torch.equal(gaussians.params["means"].detach()[100:], before[best])


def test_a_limit_that_rises_is_proportional_to_the_iteration(generator):
    densifier, gaussians, _ = grown(100, 300, generator)
    densifier.config = replace(densifier.config, fill_until=1200)
    densifier.refine(600, gaussians, stepped_optimizer(random_gaussians(0)))
    assert len(gaussians) == 150  # half way to 1200: half of 300
    limits = [densifier.config.limit(iteration) for iteration in (0, 100, 1200, 5000)]
    assert limits == [0, 25, 300, 300]
    assert DensifyConfig(max_gaussians=300).limit(1) == 300 and DensifyConfig(fill_until=9).limit(1) is None


def test_more_initial_gaussians_than_the_cap_stay(generator):
    densifier, gaussians, _ = grown(100, 10, generator)
    densifier.refine(600, gaussians, stepped_optimizer(random_gaussians(0)))
    assert len(gaussians) == 100


def test_an_oversized_gaussian_that_the_cap_keeps_from_splitting_is_pruned(generator):
    densifier, gaussians, _ = grown(10, 10, generator)
    gaussians.params["scales"].data[3] = np.log(0.15 * EXTENT)  # its halves would just fit
    report = densifier.refine(3100, gaussians, stepped_optimizer(random_gaussians(0)))
    assert report is not None and report.pruned == 1 and report.split == 0 and len(gaussians) == 9


def run_schedule(last: int, **options: Any) -> list[tuple[int, bool, bool]]:
    """(iteration, refined, reset) of every iteration that did something."""
    densifier = densifier_of(**options)
    gaussians = random_gaussians(20)
    optimizer = stepped_optimizer(gaussians)
    out = []
    for iteration in range(1, last + 1):
        gaussians.params["opacities"].data.fill_(3.0)
        before = gaussians.params["opacities"]
        densifier.collect(meta(len(gaussians), 1, torch.Generator().manual_seed(iteration)))
        report = densifier.refine(iteration, gaussians, optimizer)
        if report:
            refined = not densifier.statistics["count"].any()
            out.append((iteration, refined, report.reset))
            assert gaussians.params["opacities"] is not before
            top = gaussians.linear_opacities().max().item()
            # logit(0.01) and back: two roundings near 4.6.
            assert top == pytest.approx(0.01, rel=1e-5) if report.reset else top > 0.9
            if report.reset:
                assert not optimizer.state[gaussians.params["opacities"]]["exp_avg"].any()
                assert optimizer.state[gaussians.params["quats"]]["exp_avg"].any()
    return out


def test_the_opacity_reset_really_fires_every_time_and_never_at_the_stop():
    events = run_schedule(100, start=5, stop=60, every=10, reset_every=20, grad_threshold=1e9)
    assert [i for i, _, reset in events if reset] == [20, 40]
    assert [i for i, refined, _ in events if refined] == [10, 20, 30, 40, 50]


def test_refinement_can_pause_after_a_reset():
    events = run_schedule(
        60, start=0, stop=100, every=5, reset_every=20, pause_after_reset=10, grad_threshold=1e9
    )
    assert [i for i, refined, _ in events if refined] == [5, 10, 15, 20, 30, 35, 40, 50, 55, 60]
    assert [i for i, _, reset in events if reset] == [20, 40, 60]


def test_a_reset_only_lowers_opacities():
    densifier, gaussians = densifier_of(reset_every=10), random_gaussians(50)
    optimizer = stepped_optimizer(gaussians)
    before = gaussians.linear_opacities().detach()
    report = densifier.refine(10, gaussians, optimizer)
    assert report is not None and report.reset
    low = before < 0.01
    assert low.any() and (~low).any()
    assert torch.equal(gaussians.linear_opacities()[low], before[low])


def test_pruning_by_size_waits_for_the_first_reset():
    for iteration, expected in ((600, 20), (3000, 20), (3100, 0)):
        gaussians = random_gaussians(20)
        gaussians.params["opacities"].data.fill_(0.0)
        gaussians.params["scales"].data.fill_(float(np.log(0.11 * EXTENT)))
        densifier_of().refine(iteration, gaussians, stepped_optimizer(gaussians))
        assert len(gaussians) == expected, iteration


def test_pruning_by_size_on_screen_is_an_option(generator):
    for share, expected in ((0.0, 30), (0.5, 20)):
        gaussians = random_gaussians(30)
        gaussians.params["opacities"].data.fill_(0.0)
        gaussians.params["scales"].data.fill_(-6.0)
        info = meta(30, 2, generator)
        info["radii"][:] = 1
        info["radii"][1, :10] = 21  # more than half of 40 pixels
        densifier = densifier_of(prune_screen_size=share, grad_threshold=1e9)
        densifier.collect(info)
        densifier.refine(3100, gaussians, stepped_optimizer(gaussians))
        assert len(gaussians) == expected


def test_revised_opacity_makes_two_halves_composite_to_the_whole():
    gaussians = random_gaussians(10)
    before = gaussians.linear_opacities().detach()
    densifier = densifier_of(revised_opacity=True, clone_scale=1e-9, prune_opacity=1e-9)
    densifier._clear(10, torch.device("cpu"))
    densifier.statistics["gradient"] += 1.0
    densifier.refine(600, gaussians, stepped_optimizer(random_gaussians(0)))
    half = gaussians.linear_opacities().detach()[:10]
    torch.testing.assert_close(1 - (1 - half) ** 2, before, rtol=1e-4, atol=1e-6)  # cancels near 0 and 1


def test_all_gaussians_may_go_and_none_is_no_crash(caplog, generator):
    gaussians = random_gaussians(5)
    gaussians.params["opacities"].data.fill_(-10.0)
    optimizer = stepped_optimizer(gaussians)
    densifier = densifier_of()
    report = densifier.refine(600, gaussians, optimizer)
    assert report is not None and report.total == 0 and "every Gaussian was pruned" in caplog.text
    densifier.collect(meta(0, 1, generator))
    assert densifier.refine(700, gaussians, optimizer) is not None


def test_the_statistics_stop_costing_when_refinement_has_stopped(generator):
    densifier, gaussians = densifier_of(stop=1000), random_gaussians(5)
    optimizer = stepped_optimizer(gaussians)
    densifier.collect(meta(5, 1, generator))
    assert densifier.refine(1000, gaussians, optimizer) is None
    densifier.collect(meta(5, 1, generator))
    assert not densifier.statistics


def test_gsplats_strategy_sees_the_same_statistic(generator):
    strategies = pytest.importorskip("gsplat.strategy")
    strategy = strategies.DefaultStrategy()
    state = strategy.initialize_state()
    gaussians = random_gaussians(50)
    densifier = densifier_of()
    for _ in range(3):
        info = meta(50, 2, generator)
        strategy._update_state(gaussians.params, state, info)
        densifier.collect(info)
    assert torch.equal(state["count"], densifier.statistics["count"])
    # Sums of at most 6 f32 terms in another order.
    torch.testing.assert_close(state["grad2d"], densifier.statistics["gradient"], rtol=1e-6, atol=0)


def test_a_saved_state_belongs_to_one_strategy(generator):
    densifier = build_densifier(DensifyConfig(), 1.0, generator)
    nothing = build_densifier(DensifyConfig(strategy="none"), 1.0, generator)
    assert isinstance(nothing, NoDensifier)
    nothing.load_state_dict(nothing.state_dict())
    with pytest.raises(ValueError, match="expected strategy 'default', got 'none'"):
        densifier.load_state_dict(nothing.state_dict())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every"),
        ({"stop": -1}, "stop"),
        ({"prune_opacity": 0.0}, "prune_opacity"),
        ({"reset_opacity": 0.001}, "reset_opacity"),
        ({"prune_scale": -0.1}, "prune_scale"),
        ({"prune_scale": float("nan")}, "prune_scale"),
    ],
)
def test_a_schedule_without_meaning_is_refused(options, named):
    with pytest.raises(UserError, match=named):
        DensifyConfig(**options)


def test_statistics_are_brought_to_where_the_gaussians_are_before_a_refinement():
    """As after a resumption on a GPU just before one: a checkpoint's statistics are on the CPU."""
    densifier = densifier_of(start=0, every=1, stop=10, reset_every=0)
    gaussians = random_gaussians(5)
    densifier.statistics = {name: torch.zeros(5, device="meta") for name in ("gradient", "count")}
    with pytest.raises(NotImplementedError, match="meta"):  # it is tried: these have no values to bring
        densifier.refine(1, gaussians, stepped_optimizer(gaussians))
