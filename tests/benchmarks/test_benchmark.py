"""scripts/benchmark's program measures what it says; how fast anything is, no test asks."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.inputs import KEYS, generate_inputs, load_inputs
from benchmarks.iterating import as_gaussians, resample
from benchmarks.measure import Timing, table
from errors import UserError
from gaussian_model import save_ply
from losses.depth import names

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def _save(path: Path, count: int = 200) -> Path:
    x = generate_inputs(count, 48, 36)
    arrays = [x.means, x.quats, x.scales, x.opacities, x.colors, x.viewmats[0], x.Ks[0], 48, 36]
    np.savez(path, **dict(zip(KEYS, map(np.asarray, arrays), strict=True)))  # type: ignore[arg-type]
    return path


def test_rasterizer_and_scaling_are_measured_tabled_written_and_drawn(tmp_path: Path) -> None:
    inputs, output = _save(tmp_path / "small.npz"), tmp_path / "out"
    done = _run(
        *("rasterizer", "scaling", "--inputs", inputs, "--output", output, "--repetitions", "2"),
        *("--threads", "1", "2", "--counts", "100", "400", "--widths", "40"),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((output / "results.json").read_text())
    assert set(results) == {"machine", "rasterizer", "scaling"} and results["machine"]["cores"] >= 1
    assert [row["threads"] for row in results["rasterizer"]] == [1, 2]
    for row in results["rasterizer"]:
        assert row["scene"] == "small" and row["gaussians"] == 200 and row["overlaps"] > 0
        assert 0 < row["forward"]["minimum"] <= row["forward"]["median"] <= row["both"]["maximum"]
        assert {"binning", "raster_forward", "raster_backward", "project_backward"} <= set(row["kernels"])
        assert row["forward"]["repetitions"] == row["kernels"]["raster_forward"]["repetitions"] == 2
        assert row["evaluations_per_pixel"] > 0 and row["busy"].endswith(" %")
        assert row["speed_up"] > 0
    assert [(row["along"], row["pixels"]) for row in results["scaling"]] == [
        ("gaussians", "504x378"), ("gaussians", "504x378"), ("width", "40x30"),
    ]  # fmt: skip
    assert (output / "scaling.png").stat().st_size > 1000 and "small" in done.stdout


def test_stereo_is_measured_against_truth_and_points_held_back(tmp_path: Path, small_scene: Path) -> None:
    done = _run("stereo", "--scene", small_scene, "--output", tmp_path, "--threads", "2")
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "results.json").read_text())["stereo"][0]
    assert row["views"] == 8 and row["pixels"] == "80x60" and row["threads"] == 2 and row["s_per_view"] > 0
    assert row["held_points"] > 50
    # so small pictures hold little detail: this only checks that the figures are what they are called
    assert 0 < float(row["two_agree"].split()[0]) <= float(row["confident"].split()[0]) <= 100
    assert 50 < float(row["truth_within_5"].split()[0]) <= 100
    assert 50 < float(row["within_5"].split()[0]) <= 100 and float(row["median_error"].split()[0]) < 5


def test_an_iteration_is_told_apart_into_stages_and_kernels(tmp_path: Path, small_scene: Path) -> None:
    save_ply(tmp_path / "model.ply", as_gaussians(generate_inputs(300, 80, 60)))
    done = _run(
        *("iteration", "--scene", small_scene, "--model", tmp_path / "model.ply", "--output", tmp_path),
        *("--gaussians", "100", "400", "--threads", "1", "--repetitions", "3"),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["iteration"]
    assert [row["gaussians"] for row in rows] == [100, 400, 8]  # the last one is the fixed cost
    for row in rows[:2]:
        stages = sum(row[stage]["median"] for stage in ("image", "forward", "loss", "backward", "adam"))
        assert 0 < stages <= 1.5 * row["all"]["maximum"]
        assert {"binning", "raster_forward", "image_loss_forward", "adam_step", "density_statistics"} <= set(
            row["kernels"]
        )
        assert 0 < float(row["outside_kernels"].removesuffix(" %")) < 100
        assert row["one_refinement"]["repetitions"] == 1
    assert (tmp_path / "iteration.png").stat().st_size > 1000


def test_every_loss_on_depth_is_told_what_it_costs(tmp_path: Path) -> None:
    done = _run(
        *("losses", "--gaussians", "2000", "--threads", "2", "--repetitions", "2", "--output", tmp_path)
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["losses"]
    assert [row["depth_loss"] for row in rows] == ["none", *names()]
    for row in rows:
        assert row["gaussians"] == 2000 and row["threads"] == 2 and row["all"]["repetitions"] == 2
        assert float(row["more"]) == pytest.approx(
            row["all"]["median"] - rows[0]["all"]["median"],
            abs=0.05 + 1e-9,  # it is rounded to 0.1 ms
        )


def test_convergence_is_recorded_without_the_time_of_evaluation(tmp_path: Path, small_scene: Path) -> None:
    done = _run(
        *("convergence", "--scene", small_scene, "--output", tmp_path, "--points", "5"),
        "--train=--config quick --iterations 10 --quiet",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["convergence"]
    assert [row["iteration"] for row in rows] == [5, 10]
    assert 0 < rows[0]["seconds"] <= rows[1]["seconds"] and all(row["psnr"] > 0 for row in rows)


def test_another_trainer_is_timed_in_turns_with_ours_on_the_same_scene(
    tmp_path: Path, small_scene: Path
) -> None:
    sleeper = "import sys, time; time.sleep(0.5 + 0.05 * int(sys.argv[2]))"  # half a second to start
    peer = f"{shlex.quote(sys.executable)} -c {shlex.quote(sleeper)} {{scene}} {{iterations}}"
    done = _run(
        *("peer", "--scene", small_scene, "--output", tmp_path, "--peer-iterations", "7", f"--peer={peer}"),
        "--train=--config quick --densify.strategy none",
    )
    assert done.returncode == 0, done.stderr
    theirs, ours = json.loads((tmp_path / "results.json").read_text())["peer"]
    # 50 ms for each of 7 more iterations; starting is not charged, but how long it takes varies
    assert 30 < theirs["ms_per_iteration"]["median"] < 90 and theirs["ms_per_iteration"]["repetitions"] == 3
    assert (
        ours["who"] == "ours" and ours["ms_per_iteration"]["maximum"] >= 0 and float(theirs["times_ours"]) > 0
    )


def test_a_measurement_is_kept_when_another_is_made(tmp_path: Path) -> None:
    for what in ("rasterizer", "scaling"):
        done = _run(
            what, "--inputs", _save(tmp_path / "x.npz"), "--counts", "100", "--widths", "32",
            "--threads", "1", "--repetitions", "1", "--output", tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert {"machine", "rasterizer", "scaling"} <= set(json.loads((tmp_path / "results.json").read_text()))


def test_what_cannot_be_measured_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "part.npz", means=np.zeros((1, 3)))
    for arguments, message in (
        (["rasterizer", "--inputs", tmp_path / "bad.npz"], "bad.npz: expected a .npz of arrays"),
        (["rasterizer", "--inputs", tmp_path / "part.npz"], "quats, scales, opacities"),
        (["peer"], "give the other trainer's command"),
        (["rasterizer", "--repetitions", "0"], "expected numbers of at least 1"),
        (["iteration", "--gaussians", "0"], "--gaussians: expected numbers of at least 1"),
        (["scaling", "--counts", "0"], "--counts: expected numbers of at least 1"),
        (["peer", "--peer", "no-such-trainer {scene}", "--scene", tmp_path], "cannot run no-such-trainer"),
        (["peer", "--peer", "false {scene}", "--scene", tmp_path], "ended with exit code 1"),
        (["peer", "--peer", "true {scene} {other}", "--scene", tmp_path], "no braces but"),
        (["rasterizer", "--threads", "5000"], "--threads: expected at most 1024"),
        (["iteration", "--scene", tmp_path / "gone"], "gone: no such folder"),
        (["convergence", "--train=--threads 1"], "--threads to the benchmark itself"),
        (["rasterizer", "--output", "/proc/none"], "--output: cannot make /proc/none"),
    ):
        done = _run("--output", tmp_path / "out", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_inputs_read_back_equal(tmp_path: Path) -> None:
    loaded, made = load_inputs(_save(tmp_path / "x.npz")), generate_inputs(200, 48, 36)
    assert torch.equal(loaded.means, made.means) and torch.equal(loaded.Ks, made.Ks) and loaded.width == 48
    with pytest.raises(UserError, match="absent"):
        load_inputs(tmp_path / "absent.npz")


@pytest.mark.parametrize("count", [50, 200, 700])
def test_resampling_keeps_the_sum_of_areas(count: int) -> None:
    model = as_gaussians(generate_inputs(200, 48, 36))
    changed = resample(model, count)
    assert len(changed) == count
    if count >= 200:  # each of the old ones is in it as often as the next, give or take one
        before, after = (x.linear_scales().detach().square().sum() for x in (model, changed))
        assert 0.8 < float(before / after) < 1.25


def test_a_timing_is_the_median_with_its_range() -> None:
    timing = Timing.of([0.003, 0.001, 0.002])
    assert (round(timing.median, 6), round(timing.minimum, 6), round(timing.maximum, 6)) == (2, 1, 3)
    assert str(timing) == "2.0 (1.0-3.0)" and timing.repetitions == 3
    assert table([{"a": 1, "bb": "x"}]) == "a  bb\n1   x"
