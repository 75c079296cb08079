"""Dealing out and collecting a model's rows, and what is refused before. One process; see test_sharded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs import Config
from configs.together import check_together
from engine import TrainingState
from errors import UserError
from gaussian_model import DefaultDensifier, DensifyConfig, GaussianAdam, Gaussians, build_densifier
from rasterizer import BackendError
from replicas import Place, ShardSums, Team, own_rows, own_share, reseed, whole_rows
from scene import Camera, Points, Scene, View, ViewSampler
from sharding import check_place, check_views, count, own_part, whole_state

CPU = torch.device("cpu")
SHARDED = Config(sharded=True, backend="gsplat", batch_size=4)


class _Together(Team):
    """A team of whose other processes the parts are known already."""

    def __init__(self, rank: int, size: int, parts: list[Any]) -> None:
        super().__init__(Place(rank, size, rank, size), CPU)
        self._parts, self._asked = [_flat(part) for part in parts], 0

    def to_leader(self, own: Tensor) -> list[Tensor]:
        self._asked += 1
        found = [part[self._asked - 1] for part in self._parts]
        assert torch.equal(found[self.place.rank], own)
        return found

    def numbers(self, own: Any) -> list[list[int]]:
        return [list(own)] * self.size


def _flat(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree] if tree.dim() else []
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for value in values for tensor in _flat(value)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_rows_dealt_out_and_collected_are_in_their_old_order(size: int) -> None:
    tree: dict[str, Any] = {
        "means": torch.arange(14.0).view(7, 2),
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.arange(7.0)}},
        "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}],
        "strategy": "default",
    }
    places = [Place(rank, size, rank, size) for rank in range(size)]
    parts = [own_rows(tree, place) for place in places]
    assert [len(part["means"]) for part in parts] == [own_share(7, place) for place in places]
    assert sum(own_share(7, place) for place in places) == 7
    assert parts[1]["means"].tolist()[0] == [2.0, 3.0]
    found = whole_rows(parts[0], _Together(0, size, parts))
    assert torch.equal(found["means"], tree["means"])
    assert torch.equal(found["state"][0]["exp_avg"], tree["state"][0]["exp_avg"])
    assert found["state"][0]["step"] == 3.0 and found["groups"] == tree["groups"]
    assert found["strategy"] == "default"


def test_rows_of_unequal_parts_come_in_turn_and_those_left_over_last() -> None:
    parts = [torch.tensor([0, 10, 20, 30]), torch.tensor([1]), torch.tensor([2, 12])]
    assert whole_rows(parts[0], _Together(0, 3, parts)).tolist() == [0, 1, 2, 10, 12, 20, 30]


def test_a_processs_random_numbers_depend_on_seed_iteration_and_process_alone() -> None:
    def drawn(seed: int, iteration: int, rank: int) -> float:
        generator = torch.Generator()
        torch.rand(rank + 3, generator=generator)  # whatever was drawn before
        reseed(generator, seed, iteration, Place(rank, 4))
        return float(torch.rand((), generator=generator))

    found = {(s, i, r): drawn(s, i, r) for s in (0, 1) for i in (1, 2, 11) for r in (0, 1)}
    assert len(set(found.values())) == len(found) and drawn(1, 11, 1) == found[1, 11, 1]


def test_a_view_of_each_process_counts_as_one_view_after_the_other() -> None:
    g = torch.Generator().manual_seed(0)
    radii = torch.randint(0, 3, (2, 50, 2), generator=g, dtype=torch.int32)
    gradient = torch.randn(2, 50, 2, generator=g)

    def densifier() -> DefaultDensifier:
        return DefaultDensifier(DensifyConfig(prune_screen_size=0.1), 1.0, torch.Generator())

    def info(cameras: slice) -> dict[str, Any]:
        means2d = torch.zeros(2, 50, 2)[cameras].requires_grad_()
        means2d.grad = gradient[cameras].clone()
        return {"means2d": means2d, "radii": radii[cameras], "width": 40, "height": 30}

    one, shared = densifier(), densifier()
    for camera in range(2):  # as a single process renders a batch
        one.collect(info(slice(camera, camera + 1)))
    ShardSums(_Together(1, 2, []), shared).add(info(slice(None)))
    assert one.statistics.keys() == shared.statistics.keys()
    assert all(torch.equal(one.statistics[key], shared.statistics[key]) for key in one.statistics)
    assert one.statistics["count"].max() == 2


# --- a state in parts ---


def _scene(*sizes: tuple[int, int], points: int = 40) -> Scene:
    views = [
        View(f"{i}.png", Camera(torch.eye(4), torch.eye(3), w, h), torch.zeros(h, w, 3, dtype=torch.uint8))
        for i, (w, h) in enumerate(sizes or [(8, 6)] * 4)
    ]
    g = torch.Generator().manual_seed(2)
    cloud = Points(torch.randn(points, 3, generator=g), torch.rand(points, 3, generator=g))
    return Scene(tuple(views), (), cloud, 1.0, Path("scene"))


def _state(config: Config, scene: Scene) -> TrainingState:
    generator = torch.Generator().manual_seed(1)
    gaussians = Gaussians.from_scene(scene, config.model, generator)
    optimizer = GaussianAdam(gaussians, config.optim, scene.extent)
    for parameter in gaussians.params.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return TrainingState(
        gaussians, optimizer, build_densifier(config.densify, scene.extent, generator),
        ViewSampler(len(scene.train), generator), generator, iteration=7,
    )  # fmt: skip


def test_a_state_in_parts_makes_the_whole_one_again() -> None:
    densify = replace(SHARDED.densify, max_gaussians=100)
    config, scene = replace(SHARDED, densify=densify), _scene()
    whole = _state(config, scene)
    places = [Place(rank, 3, rank, 3) for rank in range(3)]
    parts = [own_part(config, scene, whole, CPU, _Together(place.rank, 3, [])) for place in places]
    assert [len(part.gaussians) for part in parts] == [14, 13, 13]
    limits = [part.densifier.config.max_gaussians for part in parts]  # type: ignore[attr-defined]
    assert limits == [34, 33, 33] and config.densify.max_gaussians == 100
    assert all(part.generator is whole.generator is not part.local for part in parts)
    parts[0].counts = (14, 13, 13)
    assert parts[0].total == 40 and parts[0].iteration == 7
    trees = [
        [part.gaussians.state_dict(), part.optimizer.state_dict(), part.densifier.state_dict()]
        for part in parts
    ]
    found = whole_state(config, scene, parts[0], _Together(0, 3, trees))
    assert found.total == 40 and found.counts == ()
    assert all(torch.equal(found.gaussians.params[k], v) for k, v in whole.gaussians.params.items())
    a, b = found.optimizer.state_dict(), whole.optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"]
    for index, moments in b["state"].items():
        assert all(torch.equal(a["state"][index][key], value) for key, value in moments.items())


def test_a_mean_over_gaussians_is_weighted_by_how_many_a_process_has() -> None:
    values, counts = torch.rand(40, generator=torch.Generator().manual_seed(3)), (5, 25, 10)
    state = _state(SHARDED, _scene())
    assert state.weight == 1.0
    means = []
    for part in values.split(counts):
        state.gaussians = Gaussians.from_scene(_scene(points=len(part)), SHARDED.model, torch.Generator())
        state.counts = counts
        means.append(part.mean() * state.weight)
    torch.testing.assert_close(torch.stack(means).mean(), values.mean())


def test_a_process_without_gaussians_ends_all() -> None:
    scene = _scene(points=2)
    state = _state(SHARDED, scene)
    with pytest.raises(UserError, match=r"a Gaussian for every process at least, got 2 for 3 processes"):
        own_part(SHARDED, scene, state, CPU, _Together(0, 3, []))
    state.gaussians = Gaussians({k: v[:0] for k, v in state.gaussians.state_dict().items()})
    team = Team(Place(), CPU)
    with pytest.raises(UserError, match=r"iteration 7: process 0 has no Gaussians left.*prune_opacity"):
        count(state, team)


# --- refusals ---


def test_it_needs_gsplat_and_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Place(0, 2, 0, 2)
    check_place(SHARDED, "gsplat", two)
    check_place(Config(), "cpu", Place())
    with pytest.raises(UserError, match=r"^--sharded: expected several processes .* torchrun"):
        check_place(SHARDED, "gsplat", Place())
    with pytest.raises(BackendError, match=r"^--sharded: expected the backend gsplat .*, got cpu: leave"):
        check_place(replace(SHARDED, backend="cpu"), "cpu", two)
    monkeypatch.setattr("rasterizer.gsplat_backend.why_unavailable", lambda: "there is no GPU")
    with pytest.raises(BackendError, match=r"got cpu \(there is no GPU\): leave --sharded out") as caught:
        check_place(replace(SHARDED, backend="auto"), "cpu", two)
    assert caught.value.exit_code == 2


def test_batches_and_views_must_suit_all_processes() -> None:
    check_views(SHARDED, _scene(), Place(0, 2))
    check_views(Config(batch_size=3), _scene((8, 6), (9, 6)), Place(0, 2))
    with pytest.raises(UserError, match=r"^--batch_size 4: expected a multiple of the 3 .*: give 3 or 6, "):
        check_views(SHARDED, _scene(), Place(0, 3))
    with pytest.raises(UserError, match=r"^--sharded: expected .* of one size.*9x6 \(2\), 8x6 \(1\)"):
        check_views(SHARDED, _scene((8, 6), (9, 6), (9, 6)), Place(0, 2))


@pytest.mark.parametrize(
    ("option", "section", "values", "action"),
    [
        ("viewer", "", {"viewer": True}, "leave it out"),
        ("densify.absgrad", "densify", {"absgrad": True}, "leave it out"),
        ("densify.unpool", "densify", {"unpool": 0.1}, "set --densify.unpool 0"),
        ("regularise.sh_dropout", "regularise", {"sh_dropout": 0.1}, "set --regularise.sh_dropout 0"),
        ("loss.binocular", "loss", {"binocular": 0.1}, "set --loss.binocular 0"),
        ("pseudo.depth", "pseudo", {"depth": 0.1}, "set --pseudo.depth 0"),
        ("pseudo.warped", "pseudo", {"warped": 0.1}, "set --pseudo.warped 0"),
        ("pseudo.taught", "pseudo", {"taught": 0.1}, "set --pseudo.taught 0"),
    ],
)
def test_what_does_not_go_together_with_it_is_named(
    option: str, section: str, values: dict[str, Any], action: str
) -> None:
    part = values if not section else {section: replace(getattr(Config(), section), **values)}
    check_together(replace(Config(), **part), ())
    with pytest.raises(UserError, match=rf"^--sharded: --{option} does not go together.*: {action}\.$"):
        check_together(replace(SHARDED, **part), ())


def test_what_the_strategy_does_not_use_is_not_in_its_way() -> None:
    densify = replace(Config().densify, strategy="mcmc", unpool=0.1, absgrad=True)
    check_together(replace(SHARDED, densify=densify), ())
