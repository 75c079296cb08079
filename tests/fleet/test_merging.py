"""Cropping and joining: blocks that are copies of one model give that model, each Gaussian once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from configs import Config, save_config
from engine import OutputFolder, load_finished
from errors import UserError
from fleet import blocks
from fleet.block_scenes import Partition
from fleet.folder import FleetFolder
from fleet.merging import crop, joined, write_merged
from fleet.partition import Plane, cut
from gaussian_model import Gaussians, save_ply
from scene import Camera, NamedCamera, write_cameras_json

PLANE = Plane(np.array([1.0, 2, 3]), np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0][:2])


def model(count: int, degree: int = 1) -> Gaussians:
    """Random ones; `opacities` numbers them."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "sh0": (1, 3), "shN": ((degree + 1) ** 2 - 1, 3)}
    state = {key: torch.randn(count, *shape, generator=generator) for key, shape in shapes.items()}
    return Gaussians({**state, "opacities": torch.arange(count, dtype=torch.float32)})


def cells(a: int, b: int):
    return tuple(cut(np.random.default_rng(2).normal(size=(50, 2)), a, b))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 1), (3, 4)])
def test_copies_of_one_model_become_that_model(a, b):
    whole = model(3000)
    with torch.no_grad():  # some lie far outside of everything
        whole.params["means"][:100] *= 1e4
    parts = [crop(whole, PLANE, cell) for cell in cells(a, b)]
    assert sum(len(part) > 0 for part in parts) > (a * b) // 2
    merged = joined(parts)
    order = merged.params["opacities"].argsort()
    assert len(merged) == len(whole)
    for key, value in whole.params.items():
        assert torch.equal(merged.params[key][order], value), key


def test_a_gaussian_on_a_boundary_is_in_one_cell_whatever_stands_beside_it():
    whole = model(500)
    means = whole.params["means"].detach().numpy()
    spots = PLANE.spots(means)
    alone = np.concatenate([PLANE.spots(means[row : row + 1]) for row in range(len(means))])
    assert np.array_equal(spots, alone), "the same bits for one row and for many"
    on_it = cut(spots[[7, 7, 9, 9]], 2, 1)  # the boundary lies between Gaussians 7 and 9, or on them
    assert [int(sum(cell.holds(spots[row : row + 1])[0] for cell in on_it)) for row in (7, 9)] == [1, 1]


def runs_of(folder, parts, *, iterations=(20, 20)) -> FleetFolder:
    runs = FleetFolder(folder)
    runs.make()
    camera = Camera(torch.eye(4), torch.tensor([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]]), 8, 8)
    for cell, part, iteration, names in zip(
        cells(2, 1), parts, iterations, (("b", "a"), ("b", "c")), strict=True
    ):
        run = runs.run(cell.name)
        save_ply(run.point_cloud(iteration), part)
        write_cameras_json(run.cameras, [NamedCamera(name, camera) for name in names])
        save_config(run.config, Config(source_path=run.path, model_path=run.path, iterations=iteration))
    return runs


def partition() -> Partition:
    return Partition(PLANE, cells(2, 1), "", 3, 0, {"block_0_0": (2, 0), "block_1_0": (2, 0)})


def test_a_merged_model_is_a_run_of_the_whole_scene(tmp_path):
    whole = model(800)
    runs = runs_of(tmp_path / "runs", [whole, whole])
    output = OutputFolder(tmp_path / "out")
    record = tmp_path / "merged.json"
    iteration, merged = write_merged(
        tmp_path, output, partition(), runs, held_out=True, said="so", record=record
    )
    found, read = load_finished(output)
    assert found == iteration == 20 and len(read) == len(merged) == 800
    names = [entry["img_name"] for entry in json.loads(output.cameras.read_text())]
    assert names == ["a", "b", "c"], "every camera once"
    assert (
        "eval: true" in output.config.read_text() and f"source_path: {tmp_path}" in output.config.read_text()
    )


def test_blocks_of_different_lengths_or_degrees_are_refused(tmp_path):
    for name, parts, iterations, message in (
        ("a", [model(9), model(9)], (20, 30), "equal iterations, got \\[20, 30\\]"),
        ("b", [model(900), model(900, degree=2)], (20, 20), "equal SH degrees"),
    ):
        runs = runs_of(tmp_path / name, parts, iterations=iterations)
        with pytest.raises(UserError, match=message):
            write_merged(
                tmp_path,
                OutputFolder(tmp_path / "out"),
                partition(),
                runs,
                held_out=False,
                said="so",
                record=tmp_path / "r",
            )
    assert not (tmp_path / "out").exists()


def test_another_merged_model_leaves_nothing_of_the_one_before(tmp_path):
    """Two models in one folder: the one with more iterations would be shown, with the figures of either."""
    output, record = OutputFolder(tmp_path / "out"), tmp_path / "out" / "blocks" / "merged.json"
    record.parent.mkdir(parents=True)
    (record.parent / "mine.txt").write_text("stays")

    def merge(count: int, iterations: int, said: str) -> None:
        runs = runs_of(tmp_path / f"runs {iterations}", [model(count)] * 2, iterations=(iterations,) * 2)
        write_merged(tmp_path, output, partition(), runs, held_out=True, said=said, record=record)

    merge(800, 60, "so")
    measured = output.path / "results.json"
    measured.write_text("{}")
    merge(800, 60, "so")
    assert measured.is_file(), "the same model again: what was measured is true"
    merge(800, 60, "otherwise")
    assert not measured.exists()
    measured.write_text("{}")
    merge(500, 30, "so")
    found, read = load_finished(output)
    assert (found, len(read)) == (30, 500) and not measured.exists()
    assert (record.parent / "mine.txt").read_text() == "stays"


def test_a_training_in_the_same_folder_is_not_replaced(tmp_path):
    runs = runs_of(tmp_path / "runs", [model(800)] * 2)
    for name in ("checkpoints/iteration_9.pt", "events.out.tfevents.1"):
        output = OutputFolder(tmp_path / name.replace("/", " "))
        theirs = output.path / name
        theirs.parent.mkdir(parents=True)
        theirs.write_text("work of hours")
        with pytest.raises(UserError, match=r"holds a run of train\.py"):
            write_merged(
                tmp_path, output, partition(), runs, held_out=True, said="so", record=tmp_path / "merged.json"
            )
        assert theirs.read_text() == "work of hours"
        (output.path / "blocks").mkdir()
        with pytest.raises(UserError, match=r"holds a run of train\.py"):
            blocks._make(output.path / "blocks")
