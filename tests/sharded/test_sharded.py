"""--sharded by contract: real processes, gsplat's own Python code between them, its CUDA code replaced.

Compared with one process that trains with the same batch, on the same replacements. Not tested here: gsplat's
CUDA kernels, NCCL, memory and speed; --sharded has not been run on GPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from engine import latest_checkpoint, load_checkpoint
from gaussian_model import load_ply
from reporting.events import read_events
from tests.replicas.processes import PATIENCE_S, ROOT, end, run, start, wait_for_checkpoint

pytest.importorskip("gsplat")
CHILD = Path(__file__).with_name("child.py")
OPTIONS = [
    *("--eval", "--config", "quick", "--iterations", "24", "--init", "sfm", "--quiet", "--threads", "1"),
    *("--backend", "gsplat", "--batch_size", "4", "--model.background", "random", "--log_every", "1"),
    *("--optim.sh_degree_interval", "6", "--checkpoint_every", "4", "--keep_checkpoints", "0"),
    *("--regularise.sh_dropout", "0", "--regularise.dropout", "0", "--loss.binocular", "0"),
]
DEFAULT = [  # clones and removes, but does not split, whose random offsets each process draws for itself
    *("--densify.start", "5", "--densify.every", "8", "--densify.stop", "20", "--densify.reset_every", "0"),
    *("--densify.grad_threshold", "2e-3", "--densify.prune_opacity", "0.08", "--densify.clone_scale", "100"),
    *("--densify.max_gaussians", "0", "--densify.unpool", "0", "--densify.prune_screen_size", "0.9"),
    *("--loss.opacity_reg", "0.01", "--loss.scale_reg", "0.01"),
]


def argv(scene: Path, output: Path, *more: str) -> list[str]:
    return [str(CHILD), "-s", str(scene), "-m", str(output), *OPTIONS, *more]


def trained(count: int, words: list[str]) -> None:
    for code, _, err in run(count, words):
        assert code == 0, err


def checkpoint(output: Path, iteration: int = 24) -> dict[str, Any]:
    return load_checkpoint(output / "checkpoints" / f"iteration_{iteration}.pt")


def covariances(params: dict[str, Tensor]) -> Tensor:
    """[N, 3, 3]: what quaternions and scales mean together; of a ball any rotation is the same."""
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci

    return _quat_scale_to_covar_preci(params["quats"], params["scales"].exp(), compute_preci=False)[0]


def partners(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """The row of `b` that is each row of `a`: processes keep their own order. Each has one."""
    rows = [
        torch.cat([x["means"], x["scales"], x["opacities"][:, None], x["sh0"][:, 0]], 1).numpy()
        for x in (a, b)
    ]
    found = torch.from_numpy(cKDTree(rows[1]).query(rows[0])[1])
    assert len(rows[0]) == len(rows[1]) == len(set(found.tolist()))
    return found


def assert_alike(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    """The same Gaussians, with the same averages and statistics, within a share of each tensor's largest."""
    a, b = one["gaussians"], other["gaussians"]
    order = partners(a, b)
    pairs = {"covariances": (covariances(a), covariances(b)[order])}
    pairs |= {key: (a[key], b[key][order]) for key in a if key != "quats"}
    for index, moments in one["optimizer"]["state"].items():
        theirs = other["optimizer"]["state"][index]
        assert moments["step"] == theirs["step"]
        pairs[f"average {index}"] = (moments["exp_avg"], theirs["exp_avg"][order])
    for name, values in one["densifier"]["statistics"].items():
        pairs[name] = (values, other["densifier"]["statistics"][name][order])
    for name, (value, theirs) in pairs.items():
        wrong = float((theirs - value).abs().max()) / max(float(value.abs().max()), 1e-30)
        assert wrong <= tolerance, (name, wrong)


@pytest.fixture(scope="module")
def folder(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by one process, in `one`, and by two that share the Gaussians, in `two`."""
    found = tmp_path_factory.mktemp("sharded")
    (found / "calls").mkdir()
    trained(1, argv(small_scene, found / "one", *DEFAULT))
    os.environ["CALLS"] = str(found / "calls")
    try:
        trained(2, argv(small_scene, found / "two", *DEFAULT, "--sharded"))
    finally:
        del os.environ["CALLS"]
    return found


@pytest.mark.slow
def test_gsplat_is_called_as_it_can_render_between_processes(folder: Path) -> None:
    calls = [json.loads((folder / "calls" / f"{rank}.json").read_text()) for rank in (0, 1)]
    shared = [[call for call in own if call["distributed"]] for own in calls]
    assert len(shared[0]) == len(shared[1]) == 24 * 2, "two rounds of two views in each iteration"
    for first, second in zip(*shared, strict=True):
        for call in (first, second):
            assert not call["packed"] and not call["absgrad"] and call["cameras"] == 1
            assert call["images"][0] == 1 and call["means2d"] == [2, call["gaussians"], 2]
        assert (first["width"], first["height"]) == (second["width"], second["height"])
    counts = [[call["gaussians"] for call in own] for own in shared]
    more = {first - second for first, second in zip(*counts, strict=True)}
    assert more - {0, 1}, "refinements have made them unequal, else the test shows less"
    assert [own[0] for own in counts] == [292, 291], "583 points"
    whole = {call["gaussians"] for call in calls[0] if not call["distributed"]}
    assert counts[0][-1] + counts[1][-1] in whole, "process 0 evaluates the whole model, alone"
    assert len(calls[1]) == len(shared[1])


@pytest.mark.slow
def test_two_processes_with_half_of_the_gaussians_each_do_what_one_with_all_does(folder: Path) -> None:
    counts = []
    for iteration in (4, 8, 12, 16, 20, 24):
        one, two = (checkpoint(folder / name, iteration) for name in ("one", "two"))
        if iteration <= 8:  # nothing added or removed yet: the rows are in their old order
            assert (partners(one["gaussians"], two["gaussians"]) == torch.arange(583)).all()
        # Sums over cameras in another order, float32: 1e-7 of a gradient. Adam divides by its size, so where
        # a gradient almost cancels a step of 2e-2 may differ in its third digit, and that stays.
        assert_alike(one, two, 2e-3)
        assert torch.equal(one["random"]["generator"], two["random"]["generator"])
        assert one["densifier"]["statistics"].keys() == {"gradient", "count", "screen_size"} or iteration > 16
        counts.append(len(one["gaussians"]["means"]))
    assert len(set(counts)) == 3, "two refinements have changed the number"
    one, two = (read_events(folder / name).scalars for name in ("one", "two"))
    for name in ("loss/l1", "loss/dssim", "loss/opacity_reg", "loss/scale_reg", "loss/total"):
        assert len(one[name]) == 24
        # As above: the parameters of 600 Gaussians differ in the fifth digit, a mean over them in the sixth.
        assert one[name] == pytest.approx(two[name], rel=1e-4), name
    for name in ("gaussians/count", "metrics/psnr_test", "metrics/psnr_batch"):
        assert one[name] == pytest.approx(two[name], rel=1e-4), name


@pytest.mark.slow
def test_process_0_alone_writes_and_the_whole_model(folder: Path) -> None:
    written = [
        {
            str(path.relative_to(folder / name)).partition(".tfevents")[0]
            for path in (folder / name).rglob("*")
        }
        for name in ("one", "two")
    ]
    assert written[0] == written[1]
    saved = checkpoint(folder / "two")["gaussians"]
    ply = load_ply(folder / "two" / "point_cloud" / "iteration_24" / "point_cloud.ply")
    torch.testing.assert_close(ply.params["means"].detach(), saved["means"], rtol=0, atol=0)
    first = [load_ply(folder / name / "input.ply").state_dict() for name in ("one", "two")]
    assert all(torch.equal(first[0][key], first[1][key]) for key in first[0])
    summaries = [json.loads((folder / name / "summary.json").read_text()) for name in ("one", "two")]
    assert summaries[0]["gaussians"] == summaries[1]["gaussians"] == len(saved["means"])


def resumed(source: Path, output: Path, at: int) -> Path:
    """A copy of a run as if it had died after a checkpoint."""
    shutil.copytree(source, output)
    for path in (output / "checkpoints").iterdir():
        if int(path.stem.partition("_")[2]) > at:
            path.unlink()
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("began", "count", "sharded"), [("two", 1, False), ("one", 2, True), ("two", 4, True)]
)
def test_a_run_goes_on_with_another_number_of_processes(
    folder: Path, small_scene: Path, tmp_path: Path, began: str, count: int, sharded: bool
) -> None:
    output = resumed(folder / began, tmp_path / "out", 8)  # just before a refinement
    words = [str(CHILD), "-s", str(small_scene), "-m", str(output), "--resume", "--threads", "1"]
    trained(count, [*words, *(["--sharded"] if sharded else [])])
    assert_alike(checkpoint(folder / "one"), checkpoint(output), 2e-3)  # as above


@pytest.mark.slow
def test_every_tensor_is_on_the_gpu_that_the_exchange_wants_there(
    folder: Path, small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = resumed(folder / "two", tmp_path / "out", 8)
    monkeypatch.setenv("ACCELERATOR", "1")
    monkeypatch.setenv("CALLS", str(tmp_path))
    words = [str(CHILD), "-s", str(small_scene), "-m", str(output), "--resume", "--threads", "1"]
    trained(2, [*words, "--sharded"])
    assert_alike(checkpoint(folder / "one"), checkpoint(output), 2e-3)  # as above
    calls = json.loads((tmp_path / "1.json").read_text())
    assert len(calls) == 16 * 2 and all(call["device"] == "cuda" and call["distributed"] for call in calls)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mcmc", "default"])
def test_what_is_random_for_single_gaussians_is_drawn_by_each_process_and_again_alike(
    small_scene: Path, tmp_path: Path, name: str
) -> None:
    more = {
        "mcmc": (
            *("--densify.strategy", "mcmc", "--densify.mcmc.cap_max", "601", "--densify.mcmc.grow", "0.5"),
            *("--densify.start", "5", "--densify.every", "8", "--densify.stop", "20"),
        ),
        "default": (
            *DEFAULT, "--densify.clone_scale", "0.0001", "--densify.max_gaussians", "601",
            *("--regularise.dropout", "0.2", "--densify.grad_threshold", "1e-4"),
            *("--densify.prune_opacity", "0.005", "--densify.fill_until", "0"),
        ),
    }[name]  # fmt: skip
    trained(2, argv(small_scene, tmp_path / "whole", *more, "--sharded"))
    whole = checkpoint(tmp_path / "whole")["gaussians"]
    assert len(whole["means"]) == 601, "301 and 300: each process grows to its share of the limit"
    assert all(value.isfinite().all() for value in whole.values())
    output = resumed(tmp_path / "whole", tmp_path / "again", 4)  # before the refinements
    words = [str(CHILD), "-s", str(small_scene), "-m", str(output), "--resume", "--threads", "1"]
    trained(2, [*words, "--sharded"])
    again = checkpoint(output)["gaussians"]  # each process has the rows that it had, so it has its bits too
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.slow
def test_where_a_process_dies_the_others_end_and_the_checkpoint_is_whole(
    small_scene: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    processes = start(2, argv(small_scene, output, *DEFAULT, "--sharded", "--checkpoint_every", "1"))
    wait_for_checkpoint(output)
    processes[1].kill()
    ended = end(processes)
    assert ended[1][0] == -signal.SIGKILL
    code, _, err = ended[0]
    if code != 0:  # else it had done all of its work before the other died
        assert code == 5 and "another process of this training has ended" in err and "Traceback" not in err
    assert len(checkpoint(output, 1)["gaussians"]["means"]) == 583


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_the_whole_model_in_one_checkpoint(
    small_scene: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    processes = start(2, argv(small_scene, output, *DEFAULT, "--sharded", "--iterations", "100000"))
    wait_for_checkpoint(output)
    os.kill(processes[1].pid, signal.SIGTERM)
    ended = end(processes)
    assert [code for code, _, _ in ended] == [143, 143], ended
    last = latest_checkpoint(output / "checkpoints")
    assert last is not None and f"{last}" in ended[0][2], ended[0][2]
    iteration = load_checkpoint(last)["iteration"]
    words = [str(CHILD), "-m", str(output), "--resume", "--threads", "1", "--sharded"]
    trained(2, [*words, "--iterations", str(iteration + 2)])
    assert checkpoint(output, iteration + 2)["iteration"] == iteration + 2


# --- what is refused ---


def test_without_a_gpu_it_says_so_once_and_ends_with_2(small_scene: Path, tmp_path: Path) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    train = [str(ROOT / "train.py"), "-s", str(small_scene), "-m", str(tmp_path / "out"), "--sharded"]
    done = subprocess.run(
        [str(torchrun), "--nproc-per-node=2", *train], capture_output=True, text=True, check=False,
        timeout=PATIENCE_S, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "--sharded: expected the backend gsplat on NVIDIA GPUs, got cpu (" in said[0]
    for code, out, err in run(2, [*train, "--backend", "cpu"]):
        assert code == 2 and not out and err.count("--sharded: expected the backend gsplat") <= 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_gsplat_cannot_render_between_processes_is_refused_before_anything_is_written(
    small_scene: Path, tmp_path: Path
) -> None:
    cases = [
        (1, argv(small_scene, tmp_path / "out", "--sharded"), "--sharded: expected several processes"),
        (
            2,
            argv(small_scene, tmp_path / "out", "--sharded", "--batch_size", "3"),
            "--batch_size 3: expected a multiple of the 2 processes",
        ),
        (
            2,
            argv(small_scene, tmp_path / "out", "--sharded", "--densify.absgrad"),
            "--sharded: --densify.absgrad does not go together with it",
        ),
    ]
    for count, words, message in cases:
        ended = run(count, words)
        assert [code for code, _, _ in ended] == [2] * count, ended
        said = [err for _, _, err in ended]
        assert message in said[0] and not any(err.strip() for err in said[1:]), said
    assert not (tmp_path / "out").exists()
