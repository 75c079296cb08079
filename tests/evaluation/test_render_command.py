"""render.py end to end on a small run: figures, pictures, films, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import render
from configs import Config, save_config
from errors import UserError
from gaussian_model import Gaussians, ModelConfig, save_ply
from scene import SceneConfig, load_scene, write_cameras_json
from scene.synthetic import write_synthetic_scene


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as train.py leaves it, with untrained Gaussians of iteration 7."""
    source, output = tmp_path_factory.mktemp("scene"), tmp_path_factory.mktemp("run")
    write_synthetic_scene(source, n_views=4, width=64, height=48, points=300)
    config = dataclasses.replace(
        Config(), source_path=source, model_path=output, backend="reference", scene=SceneConfig(eval=True)
    )
    scene = load_scene(source, config.scene)
    save_config(output / "config.yaml", config)
    write_cameras_json(output / "cameras.json", scene.train)
    (output / "point_cloud" / "iteration_7").mkdir(parents=True)
    gaussians = Gaussians.from_points(scene.points, ModelConfig(sh_degree=0, init_opacity=0.8))
    save_ply(output / "point_cloud" / "iteration_7" / "point_cloud.ply", gaussians)
    return source, output


@pytest.fixture(autouse=True)
def _threads_as_before():
    yield
    torch.set_num_threads(2)


def test_a_run_gives_figures_pictures_and_a_film(run, capsys):
    _, output = run
    render.main(["-m", str(output), "--video", "auto", "--n_frames", "3", "--depth_video", "--frames"])
    results = json.loads((output / "results.json").read_text())
    assert 8 < results["ours_7"]["PSNR"] < 30
    test, train = output / "test" / "ours_7", output / "train" / "ours_7"
    for part in ("renders", "gt", "depth"):
        assert [path.stem for path in (test / part).glob("*.png")] == ["view_000"]
        assert len(list((train / part).glob("*.png"))) == 3
    assert (test / "depth" / "view_000.npy").is_file()
    assert "ours_7" in json.loads((train / "results.json").read_text())
    (film,) = (output / "video" / "ours_7").glob("*.mp4")
    assert len(list(film.with_suffix("").glob("*.png"))) == 3
    assert "PSNR" in capsys.readouterr().out


def test_a_foreign_ply_renders_with_the_cameras_of_a_scene(run, tmp_path):
    source, output = run
    ply = output / "point_cloud" / "iteration_7" / "point_cloud.ply"
    new = tmp_path / "new"
    options = ["-m", str(new), "--ply", str(ply), "--backend", "reference", "--skip_train", "--eval"]
    with pytest.raises(UserError, match="-s"):
        render.main(options)
    render.main([*options, "-s", str(source)])
    ours = json.loads((output / "results.json").read_text())["ours_7"]
    assert json.loads((new / "results.json").read_text())["ours_7"] == ours


def test_without_the_scene_new_views_still_film(run, tmp_path, capsys):
    _, output = run
    config = render.load_saved_config(output)
    moved = tmp_path / "moved"
    (moved / "point_cloud" / "iteration_7").mkdir(parents=True)
    for name in ("cameras.json", "point_cloud/iteration_7/point_cloud.ply"):
        (moved / name).write_bytes((output / name).read_bytes())
    save_config(moved / "config.yaml", dataclasses.replace(config, source_path=tmp_path / "gone"))
    render.main(["-m", str(moved), "--video", "interpolated", "--n_frames", "2"])
    assert (moved / "video" / "ours_7" / "interpolated.mp4").stat().st_size > 0
    assert "gone" in capsys.readouterr().err
    assert not (moved / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iteration", "5"], "iterations: 7"),
        (["--ply", "none.ply"], "none.ply"),
        (["--n_frames", "0"], "n_frames"),
        (["-s", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(run, options, message):
    with pytest.raises(UserError, match=message):
        render.main(["-m", str(run[1]), *options])


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml"):
        render.main(["-m", str(tmp_path)])
