"""train.py and render.py end to end on a small synthetic scene: results, exactness, and what users get wrong.

Not checked here: quality on real photographs, which takes minutes per scene.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import render
import train
from engine import load_checkpoint
from errors import UserError
from gaussian_model import load_ply

ROOT = Path(__file__).resolve().parent.parent
# Short, but with densification, a reset, a new SH degree, and random draws of every kind in it.
SHORT = [
    *("--eval", "--config", "quick", "--iterations", "40", "--quiet", "--checkpoint_every", "20"),
    *("--init", "sfm"),
    *("--densify.start", "5", "--densify.every", "6", "--densify.stop", "35", "--densify.reset_every", "18"),
    *(
        "--save_iterations",
        "18",
        "--optim.sh_degree_interval",
        "10",
        "--densify.max_gaussians",
        "3000",
        "--model.background",
        "random",
        *("--pyramid.factor", "2", "--pyramid.until", "25"),
    ),
]


def _train(monkeypatch: pytest.MonkeyPatch, scene: Path, output: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-s", str(scene), "-m", str(output), *options])
    train.main()


def _command(*arguments: str | Path, script: str = "train.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _tensors(output: Path, iteration: int) -> dict[str, torch.Tensor]:
    content = load_checkpoint(output / "checkpoints" / f"iteration_{iteration}.pt")
    flat = {f"gaussians.{k}": v for k, v in content["gaussians"].items()}
    for index, state in content["optimizer"]["state"].items():
        flat |= {f"adam.{index}.{k}": v for k, v in state.items()}
    flat["random"] = content["random"]["generator"]
    return flat


def _assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def trained(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        _train(patch, small_scene, output, *SHORT, "--threads", "2")
    return output


def test_a_run_leaves_everything_that_the_family_s_tools_read(trained: Path) -> None:
    for name in (
        *("config.yaml", "cameras.json", "input.ply", "results.json", "per_view.json", "summary.json"),
        *("point_cloud/iteration_40/point_cloud.ply", "checkpoints/iteration_40.pt"),
    ):
        assert (trained / name).is_file(), name
    assert list(trained.glob("events.out.tfevents.*"))
    results = json.loads((trained / "results.json").read_text())["ours_40"]
    assert 5 < results["PSNR"] < 60 and 0 < results["SSIM"] < 1
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["gaussians"] == len(_tensors(trained, 40)["gaussians.means"])
    assert summary["train_views"] == 8 and summary["test_views"] == 2


def test_densification_and_reset_really_happened(trained: Path) -> None:
    middle, end = (
        load_checkpoint(trained / "checkpoints" / f"iteration_{i}.pt")["gaussians"] for i in (20, 40)
    )
    assert 800 < len(middle["means"]) <= 3000 and 800 < len(end["means"]) <= 3000  # grown, within the limit
    # the reset at 18 cut every opacity to 0.01: two iterations later none can be far above it
    assert float(torch.sigmoid(middle["opacities"]).max()) < 0.05


def test_what_is_saved_at_the_iteration_of_a_reset_is_the_model_before_it(trained: Path) -> None:
    saved = load_ply(trained / "point_cloud" / "iteration_18" / "point_cloud.ply")
    assert (
        float(saved.linear_opacities().detach().max()) > 0.1
    )  # what they start at; after a reset they are 0.01


def test_same_seed_gives_the_same_bits_for_any_number_of_threads(
    small_scene: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "3"):
        _train(monkeypatch, small_scene, tmp_path / threads, *SHORT, "--threads", threads)
        _assert_same_bits(_tensors(trained, 40), _tensors(tmp_path / threads, 40))


def test_another_seed_gives_another_result(
    small_scene: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(monkeypatch, small_scene, tmp_path / "out", *SHORT, "--seed", "1")
    ours, theirs = _tensors(trained, 40)["gaussians.means"], _tensors(tmp_path / "out", 40)["gaussians.means"]
    assert ours.shape != theirs.shape or not torch.equal(ours, theirs)


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_resuming_in_a_new_process_gives_the_same_bits_as_never_stopping(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    options = [*SHORT, "--densify.strategy", strategy]
    if strategy == "mcmc":  # which refuses what would have no effect
        for name in ("--densify.reset_every", "--densify.max_gaussians"):
            at = options.index(name)
            del options[at : at + 2]
    _train(monkeypatch, small_scene, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "stopped" / "checkpoints" / "iteration_40.pt").unlink()  # as if it had died after 20
    done = _command("-s", small_scene, "-m", tmp_path / "stopped", *options, "--resume")
    assert done.returncode == 0, done.stderr
    mutter = [line for line in done.stderr.splitlines() if re.search(r"Warning|WARN|site-packages", line)]
    assert not mutter, "what libraries say is for --log_level debug"
    _assert_same_bits(_tensors(tmp_path / "whole", 40), _tensors(tmp_path / "stopped", 40))
    plies = [tmp_path / run / "point_cloud/iteration_40/point_cloud.ply" for run in ("whole", "stopped")]
    assert plies[0].read_bytes() == plies[1].read_bytes()


def test_an_interrupt_saves_a_checkpoint_and_the_resumed_run_ends_as_if_it_had_not_been(
    small_scene: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "train.py"), "-s", str(small_scene), "-m", str(output), *SHORT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(output.glob("events.*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    if process.returncode != 0:  # 0: it was done before the signal came
        assert process.returncode == 130 and "--resume" in errors, errors
        done = _command("-m", output, "--resume")
        assert done.returncode == 0, done.stderr
    _assert_same_bits(_tensors(trained, 40), _tensors(output, 40))


def test_render_writes_pictures_figures_and_a_video(
    small_scene: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    render.main(["-m", str(output), "--video", "auto", "--n_frames", "4"])
    assert "PSNR" in capsys.readouterr().out
    for split, count in (("test", 2), ("train", 8)):
        folder = output / split / "ours_40"
        for part, suffix in (("renders", "png"), ("gt", "png"), ("depth", "png"), ("depth", "npy")):
            assert len(list((folder / part).glob(f"*.{suffix}"))) == count
    depth = np.load(next((output / "test" / "ours_40" / "depth").glob("*.npy")))
    assert depth.shape == (60, 80) and depth.dtype == np.float32 and np.isfinite(depth).all()
    assert next(output.rglob("*.mp4")).stat().st_size > 1000
    before = json.loads((trained / "results.json").read_text())["ours_40"]["PSNR"]
    after = json.loads((output / "results.json").read_text())["ours_40"]["PSNR"]
    assert after == pytest.approx(before, abs=1e-6)  # the .ply holds exactly what was evaluated in training


def test_training_goes_on_from_a_random_start_without_points(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pycolmap

    scene = tmp_path / "scene"
    shutil.copytree(small_scene, scene)
    model = pycolmap.Reconstruction(str(scene / "sparse" / "0"))
    for point in list(model.points3D):
        model.delete_point3D(point)
    model.write(str(scene / "sparse" / "0"))
    _train(
        monkeypatch,
        scene,
        tmp_path / "out",
        *SHORT[:4],
        "5",
        "--quiet",
        "--model.random_points",
        "500",
        "--init",
        "random",
    )
    assert "500 random" in caplog.text
    assert (tmp_path / "out" / "point_cloud" / "iteration_5" / "point_cloud.ply").is_file()


def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(small_scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    missing = _command("-s", tmp_path / "nowhere", "-m", output)
    empty = tmp_path / "empty"
    empty.mkdir()
    no_model = _command("-s", empty, "-m", output)
    for done, words in ((missing, "nowhere"), (no_model, "COLMAP")):
        assert done.returncode == 2, done.stderr
        lines = done.stderr.strip().splitlines()
        assert lines[-1].startswith("error: ") and words in lines[-1] and "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n_views", "99"], "99"),
        (["--config", "quik"], "quick"),
        (["--backend", "gsplat"], "gsplat"),
        (["-r", "3"], "resolution"),
    ],
)
def test_bad_options_are_named(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    if "gsplat" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU: --backend gsplat is no mistake here")
    with pytest.raises(UserError, match=words):
        _train(monkeypatch, small_scene, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_preset_file_with_an_unknown_key_gets_a_suggestion(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("iteratons: 10\n")
    with pytest.raises(UserError, match=r"mine\.yaml.*iteratons.*did you mean 'iterations'"):
        _train(monkeypatch, small_scene, tmp_path / "out", "--config", str(preset))


def test_another_run_is_not_written_over(
    small_scene: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        _train(monkeypatch, small_scene, trained, *SHORT)
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_unregistered_and_missing_images_are_listed(small_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(small_scene, scene)
    for path in sorted((scene / "images").iterdir())[:7]:
        path.unlink()
    done = _command("-s", scene, "-m", tmp_path / "out", "--eval")
    assert done.returncode == 2 and "--skip_missing" in done.stderr and "7" in done.stderr
    assert done.stderr.count("view_0") == 5  # up to five are listed


@pytest.mark.parametrize("script", ["train.py", "render.py"])
def test_without_the_environment_one_line_says_what_to_do(script: str) -> None:
    bare = [sys.executable, "-E", "-S", str(ROOT / script), "--help"]  # no packages
    done = subprocess.run(bare, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "torch is not installed" in done.stderr and "scripts/demo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_explains_every_option_and_exits_with_0() -> None:
    done = _command("--help")
    assert done.returncode == 0
    for option in ("--source_path", "-m", "--n_views", "--resume", "--backend", "--densify.strategy"):
        assert option in done.stdout, option
    environment_is_quiet = done.stderr.strip()
    assert environment_is_quiet == ""


def test_a_run_of_the_reference_backend_agrees_with_the_cpu_backend(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SHORT[:4], "6", "--quiet", "--densify.strategy", "none", "-r", "20"]
    rates = {"means": 1.6e-4, "sh0": 2.5e-3, "shN": 1.25e-4, "opacities": 0.05, "scales": 5e-3, "quats": 1e-3}
    options += [word for key, rate in rates.items() for word in (f"--optim.{key}_lr", str(rate))]
    for backend in ("cpu", "reference"):
        _train(monkeypatch, small_scene, tmp_path / backend, *options, "--backend", backend)
    ours, theirs = (_tensors(tmp_path / b, 6) for b in ("cpu", "reference"))
    # Adam divides by the gradient's size: rounding of a tiny gradient can turn its whole step around, so
    # single entries may differ by steps; on average six steps of either agree closely.
    for key, rate in (("means", 1e-3), ("sh0", 2.5e-3), ("opacities", 0.05), ("scales", 5e-3)):
        difference = (ours[f"gaussians.{key}"] - theirs[f"gaussians.{key}"]).abs()
        assert float(difference.mean()) < 0.02 * 6 * rate, key


def test_exit_code_of_a_stopped_run_is_not_zero(small_scene: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-s", str(small_scene), "-m", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("events.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 143


def test_resuming_with_another_scene_or_size_is_refused(
    small_scene: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    before = (output / "config.yaml").read_text()
    with pytest.raises(UserError, match="other training views"):
        _train(monkeypatch, small_scene, output, "--resume", "-r", "40")
    assert (output / "config.yaml").read_text() == before


def test_a_run_killed_before_its_figures_were_written_gets_them_by_resume(
    small_scene: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    ply = (output / "point_cloud/iteration_40/point_cloud.ply").read_bytes()
    for name in ("results.json", "summary.json", "point_cloud/iteration_40/point_cloud.ply"):
        (output / name).unlink()
    _train(monkeypatch, small_scene, output, "--resume")
    for name in ("results.json", "per_view.json"):
        assert (
            json.loads((output / name).read_text())["ours_40"]
            == json.loads((trained / name).read_text())["ours_40"]
        )
    assert (output / "point_cloud/iteration_40/point_cloud.ply").read_bytes() == ply


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "99999999999999999999"], "seed"),
        (["--threads", "100000"], "threads"),
        (["--densify.grad_threshold", "nan"], r"densify\.grad_threshold: expected a finite number"),
        (["--loss.lambda_dssim", "2"], "lambda_dssim"),
    ],
)
def test_values_without_a_meaning_are_named(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        _train(monkeypatch, small_scene, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_reader_of_the_output_that_goes_away_is_no_error(small_scene: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-s",
        str(small_scene),
        "-m",
        str(tmp_path / "out"),
        *SHORT,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 0 and "Traceback" not in errors
    assert (tmp_path / "out" / "summary.json").is_file()


def test_tensorboard_gets_every_curve_and_image(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained))
    events.Reload()
    tags = events.Tags()
    wanted = {
        *(
            "loss/l1",
            "loss/dssim",
            "loss/total",
            "metrics/psnr_batch",
            "gaussians/count",
            "lr/means",
            "lr/shN",
        ),
        *("metrics/psnr_test", "metrics/ssim_test", "metrics/psnr_train", "metrics/ssim_train"),
        *("speed/it_per_s", "memory/peak_gib"),
    }
    assert wanted <= set(tags["scalars"])
    kinds = {tag.rsplit("/", 1)[-1] for tag in tags["images"]}
    assert kinds == {"rendered", "true", "depth"}
    assert {tag.split("/")[0] for tag in tags["images"]} == {"test", "train"}
    assert set(tags["histograms"]) == {"gaussians/opacities", "gaussians/log10_scales"}


def test_tensorboards_table_compares_runs_by_what_was_chosen(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    events = EventAccumulator(str(trained))
    events.Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    options = metadata.parse_session_start_info_plugin_data(content).hparams
    assert options["preset"].string_value == "quick" and options["iterations"].number_value == 40
    assert options["densify.max_gaussians"].number_value == 3000 and "densify.prune_opacity" not in options
    content = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    metrics = {info.name.tag for info in metadata.parse_experiment_plugin_data(content).metric_infos}
    assert {"metrics/psnr_test", "metrics/ssim_test", "gaussians/count", "run/minutes"} <= metrics
    assert metrics <= set(events.Tags()["scalars"]), "each has a value"


def test_rendering_with_other_settings_leaves_the_run_s_own_figures(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    before = (output / "results.json").read_bytes()
    render.main(["-m", str(output), "-r", "40", "--skip_train"])
    assert (output / "results.json").read_bytes() == before
    assert (output / "test" / "ours_40" / "results.json").is_file()


def test_a_resumed_run_keeps_its_options_and_does_not_go_back(trained: Path, small_scene: Path) -> None:
    before = (trained / "config.yaml").read_bytes(), (trained / "results.json").read_bytes()
    base = ["-s", str(small_scene), "-m", str(trained), "--resume", "--quiet"]
    for options, message in (
        (["--seed", "9"], "--resume: --seed is 0 in the run in .*, got 9: leave it out"),
        (["--densify.every", "7"], "--resume: --densify.every is 6 in the run"),
        (["-w"], "--resume: --model.background is random in the run"),
        (["--iterations", "20"], "is at iteration 40 already, got 20: expected a higher number"),
    ):
        done = _command(*base, *options)
        assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert before == ((trained / "config.yaml").read_bytes(), (trained / "results.json").read_bytes())


def test_a_wrong_init_is_refused_before_anything_is_written_and_a_file_of_points_is_taken(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("colmap", str(tmp_path / "missing.ply")):
        done = _command("-s", small_scene, "-m", tmp_path / "out", "--init", wrong)
        assert done.returncode == 2 and wrong in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
    _train(monkeypatch, small_scene, tmp_path / "a", *SHORT[:4], "2", "--quiet", "--init", "sfm")
    ply = tmp_path / "a" / "input.ply"
    _train(monkeypatch, small_scene, tmp_path / "b", *SHORT[:4], "2", "--quiet", "--init", str(ply))
    # the positions are the file's; colours go through SH and back
    assert torch.equal(
        load_ply(tmp_path / "b" / "input.ply").params["means"].detach(),
        load_ply(ply).params["means"].detach(),
    )
