"""scripts/export's program: what it writes, what it says, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import Config, save_config
from errors import UserError
from exporting import DESCRIBED, FORMATS, load_source
from exporting.command import main
from gaussian_model import Gaussians, ModelConfig, load_ply, save_ply
from scene import load_scene, write_cameras_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _threads_as_before():
    yield
    torch.set_num_threads(2)


@pytest.fixture
def run(tmp_path, small_scene) -> Path:
    """A folder as train.py leaves it, with Gaussians of iterations 3 and 12."""
    output = tmp_path / "out put" / "garden"
    config = dataclasses.replace(Config(), source_path=small_scene, model_path=output)
    scene = load_scene(small_scene, config.scene)
    output.mkdir(parents=True)
    save_config(output / "config.yaml", config)
    write_cameras_json(output / "cameras.json", scene.train)
    gaussians = Gaussians.from_points(scene.points, ModelConfig(sh_degree=1, init_opacity=0.8))
    save_ply(output / "point_cloud" / "iteration_12" / "point_cloud.ply", gaussians)
    few = Gaussians.from_tensors({key: value[:5] for key, value in gaussians.state_dict().items()})
    save_ply(output / "point_cloud" / "iteration_3" / "point_cloud.ply", few)
    return output


def newest(run: Path) -> Path:
    return run / "point_cloud" / "iteration_12" / "point_cloud.ply"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_page_and_an_spz_come_out_if_nothing_is_said(run, capsys):
    main([str(run), "--quiet", "--fit_steps", "5"])
    assert names(run / "export") == ["garden.html", "garden.spz"]
    out = capsys.readouterr().out
    assert "garden, iteration 12: " in out and "Gaussians" in out
    for line, ending in zip(out.splitlines()[2:], (".html", ".spz"), strict=True):
        path = run / "export" / f"garden{ending}"
        assert str(path) in line and "B  " in line
        assert f"{path.stat().st_size / 1e3:.1f} kB" in line or f"{path.stat().st_size / 1e6:.1f} MB" in line


def test_every_format_can_be_named_and_each_is_written_once(run, tmp_path):
    main([str(run), "-o", str(tmp_path / "new" / "folder"), "--to", *FORMATS, "spz", "--fit_steps", "0"])
    expected = sorted(f"garden{DESCRIBED[name].ending}" for name in FORMATS)
    assert names(tmp_path / "new" / "folder") == expected


def test_a_plain_ply_holds_the_selection_bit_for_bit(run, tmp_path):
    main([str(run), "-o", str(tmp_path), "--to", "ply", "--max_gaussians", "40", "--sh_degree", "0"])
    whole, part = load_ply(newest(run)), load_ply(tmp_path / "garden.ply")
    assert len(part) == 40 and part.max_sh_degree == 0
    rows = [int((whole.params["means"] == row).all(dim=1).nonzero()[0]) for row in part.params["means"]]
    assert rows == sorted(rows)
    for key in ("means", "quats", "scales", "opacities", "sh0"):
        assert torch.equal(part.params[key], whole.params[key][rows]), key


def test_a_splats_colours_are_fitted_to_what_the_runs_cameras_see(run):
    state = dict(load_ply(newest(run)).state_dict())
    state["shN"] = torch.full_like(state["shN"], 0.3)
    save_ply(newest(run), Gaussians.from_tensors(state))
    colours = {}
    for steps in ("0", "20"):
        main([str(run), "--to", "splat", "--fit_steps", steps, "--quiet"])
        colours[steps] = np.fromfile(run / "export" / "garden.splat", dtype="u1").reshape(-1, 32)[:, 24:27]
    dc = (state["sh0"][:, 0] * 0.2820948 + 0.5).clamp(0, 1).mean()
    # the cameras go around a third of a circle only, so that what the coefficients add does not cancel
    assert abs(colours["0"].mean() / 255 - float(dc)) > 0.02
    assert not np.array_equal(colours["0"], colours["20"])


def test_a_plain_ply_ends_at_degree_3_unless_more_is_asked_for(tmp_path):
    from tests.gaussian_model.models import random_gaussians

    save_ply(tmp_path / "a.ply", random_gaussians(9, degree=4))
    main([str(tmp_path / "a.ply"), "--to", "ply"])
    assert load_ply(tmp_path / "export" / "a.ply").max_sh_degree == 3
    main([str(tmp_path / "a.ply"), "--to", "ply", "--sh_degree", "4"])
    assert load_ply(tmp_path / "export" / "a.ply").max_sh_degree == 4


def test_any_iteration_and_any_ply_can_be_exported(run, tmp_path, capsys):
    main([str(run), "--iteration", "3", "--to", "splat"])
    assert (run / "export" / "garden.splat").stat().st_size == 5 * 32
    foreign = tmp_path / "theirs.ply"
    foreign.write_bytes(newest(run).read_bytes())
    main([str(foreign), "--to", "html", "splat"])
    assert names(tmp_path / "export") == ["theirs.html", "theirs.splat"]
    assert "theirs.ply: " in capsys.readouterr().out


def test_the_run_around_a_ply_is_recognised(run):
    source = load_source(newest(run))
    assert len(source.cameras) == len(load_source(run).cameras) > 0
    assert source.name == "point_cloud" and source.folder == newest(run).parent / "export"


@pytest.mark.parametrize("background", ["black", "white", "random", "mean"])
def test_how_a_run_was_trained_is_known(run, small_scene, background):
    model = ModelConfig(background=background, antialiased=True)
    config = dataclasses.replace(Config(), source_path=small_scene, model_path=run, model=model)
    save_config(run / "config.yaml", config)
    source = load_source(run)
    assert source.antialiased
    mean = load_scene(small_scene, config.scene).mean_colour
    assert 0.1 < mean.min() and mean.max() < 0.9, "told apart from black and white"
    expected = {"white": torch.ones(3), "mean": mean}.get(background, torch.zeros(3))
    assert torch.equal(source.background, expected)


def test_where_the_photographs_are_gone_their_mean_colour_is_not_known(run, tmp_path, capsys):
    config = dataclasses.replace(
        Config(), source_path=tmp_path / "gone", model_path=run, model=ModelConfig(background="mean")
    )
    save_config(run / "config.yaml", config)
    main([str(run), "--to", "html", "splat", "--fit_steps", "2"])
    err = capsys.readouterr().err
    assert err.count("not the photographs' mean colour; choose one by --background") == 1 and "gone" in err
    main([str(run), "--to", "html", "--background", "white", "--fit_steps", "2"])
    assert "mean colour" not in capsys.readouterr().err


def test_a_configuration_that_cannot_be_read_stops_no_export(run, capsys):
    (run / "config.yaml").write_text("format: 1\nno_such_option: 3\n")
    main([str(run), "--to", "splat", "--fit_steps", "2"])  # no longer than a line of progress needs
    assert (run / "export" / "garden.splat").is_file()
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and "config.yaml" in err and len(err.splitlines()) == 1


def test_an_earlier_export_is_replaced(run):
    main([str(run), "--to", "splat"])
    first = np.fromfile(run / "export" / "garden.splat", dtype="<f4").reshape(-1, 8)
    main([str(run), "--to", "splat", "--max_gaussians", "7"])
    second = np.fromfile(run / "export" / "garden.splat", dtype="<f4").reshape(-1, 8)
    assert len(first) > 7 and np.array_equal(second[:, :6], first[:7, :6])  # the colours make up for the rest
    assert names(run / "export") == ["garden.splat"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_the_earlier_file_and_no_litter(run, monkeypatch, name):
    target = run / "export" / f"garden{DESCRIBED[name].ending}"
    target.parent.mkdir()
    target.write_bytes(b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        main([str(run), "--to", name, *(["--fit_steps", "0"] if name == "html" else [])])
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
    assert names(target.parent) == [target.name] and target.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iteration", "5"], "of iteration 5, got those of iterations: 3, 12"),
        (["--min_opacity", "0.95"], "--min_opacity 0.95: no Gaussian"),
        (["--min_opacity", "2"], "expected 0 to 1"),
        (["--max_gaussians", "-1"], "expected 0 or more"),
        (["--sh_degree", "5"], "expected 0 to 4"),
        (["--view", "no_such_image"], "--view no_such_image: .*view_00"),
        (["--to", "spz", "--view", "view_001"], "--view is of no use without html"),
        (["--to", "spz", "--fit_steps", "3"], "--fit_steps is of no use without html or splat"),
        (["--to", "html", "splat", "--sh_degree", "1"], "--sh_degree is of no use"),
        (["--to", "html", "--spz_version", "3"], "--spz_version is of no use without spz"),
        (["--to"], "--to: expected formats, got none"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(run, options, message):
    with pytest.raises(UserError, match=message):
        main([str(run), *options])
    assert not (run / "export").exists() or not names(run / "export")


def test_a_camera_that_is_not_there_is_said_before_colours_are_fitted(run, monkeypatch, capsys):
    monkeypatch.setattr("exporting.command.mean_colours", lambda *_, **__: pytest.fail("it took its time"))
    with pytest.raises(UserError, match="--view no_such_image"):
        main([str(run), "--view", "no_such_image"])
    assert capsys.readouterr().out == ""


def test_what_is_no_run_and_no_ply_is_named(run, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        main([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: expected Gaussians of any iteration, got .* none"):
        main([str(tmp_path / "empty")])
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match=r"a\.txt: not a \.ply"):
        main([str(tmp_path / "a.txt")])
    with pytest.raises(UserError, match=r"input\.ply: no such file"):
        main([str(run / "input.ply")])
    with pytest.raises(UserError, match=r"--iteration 3: .* is one file"):
        main([str(newest(run)), "--iteration", "3"])


def test_no_gaussians_are_said(tmp_path):
    from tests.gaussian_model.models import random_gaussians

    save_ply(tmp_path / "none.ply", random_gaussians(0))
    with pytest.raises(UserError, match="got none"):
        main([str(tmp_path / "none.ply"), "--to", *FORMATS])


def test_a_place_that_cannot_be_written_to_is_named(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/below: cannot write there \(Not a directory\).*-o"):
        main([str(run), "--to", "splat", "-o", str(tmp_path / "file" / "below")])
    (tmp_path / "garden.splat").mkdir()
    with pytest.raises(UserError, match=r"garden\.splat: cannot write there \(Is a directory\)"):
        main([str(run), "--to", "splat", "-o", str(tmp_path)])


def test_a_file_is_never_exported_over_itself(run, tmp_path):
    ply = newest(run).parent
    before = newest(run).read_bytes()
    with pytest.raises(UserError, match=r"point_cloud\.ply: is what is to be exported"):
        main([str(newest(run)), "--to", "ply", "-o", str(ply)])
    (tmp_path / "link").symlink_to(ply)
    with pytest.raises(UserError, match="is what is to be exported"):
        main([str(newest(run)), "--to", "splat", "ply", "-o", str(tmp_path / "link")])
    assert newest(run).read_bytes() == before and names(ply) == ["point_cloud.ply"]


def test_damaged_cameras_are_named(run):
    (run / "cameras.json").write_text("[{]")
    with pytest.raises(UserError, match=r"cameras\.json"):
        main([str(run), "--to", "html"])


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "exporting", *map(str, arguments)],
        cwd=ROOT.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_program_ends_with_a_line_and_a_code(run, tmp_path):
    done = command(run, "-o", tmp_path / "x", "--to", "html", "splat", "--fit_steps", "3")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and len(done.stdout.splitlines()) == 4, "what viser says belongs to nobody"
    done = command(tmp_path / "nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    done = command(run, "--to", "obj")
    assert done.returncode == 2 and "obj" in done.stderr and "compressed_ply" in done.stderr
    assert "Traceback" not in done.stderr


def test_equal_exports_have_equal_bytes(run, tmp_path):
    for folder in ("a", "b"):
        main([str(run), "-o", str(tmp_path / folder), "--to", "splat", "compressed_ply", "spz"])
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert np.frombuffer((tmp_path / "a" / "garden.splat").read_bytes(), "u1").size % 32 == 0
