"""TensorBoard's own reader finds what the tracker was told, and a resumed run continues the curves."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import Tracker, peak_memory_gib
from engine.tracker import _grey
from tests.engine.fakes import make_state

ROOT = Path(__file__).resolve().parents[2]


def events(folder):
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    reader.Reload()
    return reader


def curve(folder, name):
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def test_every_value_has_a_curve_under_its_name(tmp_path):
    state = make_state()
    with Tracker(tmp_path, 20, log_every=10, quiet=True) as tracker:
        for iteration in range(1, 21):
            tracker.losses(
                iteration, {"l1": torch.tensor(0.5, requires_grad=True), "dssim": torch.tensor(0.25)}
            )
            tracker.scalars(iteration, {"metrics/psnr_batch": 20.0})
            tracker.bar(iteration, 100 + iteration, state.optimizer)
        tracker.write(20, {"metrics/psnr_test": torch.tensor(19.0), "metrics/ssim_test": 0.75})
    tags = set(events(tmp_path).Tags()["scalars"])
    assert tags >= {
        "loss/l1", "loss/dssim", "loss/total", "metrics/psnr_batch", "metrics/psnr_test", "metrics/ssim_test",
        "gaussians/count", "lr/means", "lr/shN", "speed/it_per_s", "memory/peak_gib",
    }  # fmt: skip
    assert curve(tmp_path, "loss/total") == [(10, 0.75), (20, 0.75)]
    assert curve(tmp_path, "gaussians/count") == [(10, 110.0), (20, 120.0)]
    assert curve(tmp_path, "metrics/psnr_test") == [(20, 19.0)]


def test_a_curve_shows_the_mean_since_its_last_point_also_for_rare_terms(tmp_path):
    with Tracker(tmp_path, 4, log_every=4, quiet=True) as tracker:
        for iteration in range(1, 5):
            terms = {"l1": torch.tensor(float(iteration))}
            if iteration == 3:
                terms["pseudo"] = torch.tensor(8.0)
            tracker.losses(iteration, terms)
            tracker.bar(iteration, 1)
    assert curve(tmp_path, "loss/l1") == [(4, 2.5)]
    assert curve(tmp_path, "loss/pseudo") == [(4, 8.0)]


def test_values_are_read_only_when_they_are_logged(tmp_path):
    class Watched(torch.Tensor):
        reads = 0

        def __float__(self):
            Watched.reads += 1
            return super().__float__()

    with Tracker(tmp_path, 100, log_every=10, quiet=True, events=False) as tracker:
        for iteration in range(1, 10):
            tracker.losses(iteration, {"l1": torch.ones(()).as_subclass(Watched)})
            tracker.bar(iteration, 1)
        assert Watched.reads == 0
        tracker.losses(10, {"l1": torch.ones(()).as_subclass(Watched)})
        tracker.bar(10, 1)
        assert Watched.reads == 2  # l1 and total, once each


def test_a_resumed_run_hides_what_the_interrupted_one_logged_beyond_its_checkpoint(tmp_path):
    with Tracker(tmp_path, 6, log_every=1, quiet=True) as tracker:
        for iteration in range(1, 6):  # interrupted after 5, the checkpoint is of 3
            tracker.losses(iteration, {"l1": torch.tensor(1.0)})
            tracker.bar(iteration, 1)
    with Tracker(tmp_path, 6, start=3, log_every=1, quiet=True) as tracker:
        for iteration in range(4, 7):
            tracker.losses(iteration, {"l1": torch.tensor(2.0)})
            tracker.bar(iteration, 1)
    assert curve(tmp_path, "loss/l1") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_images_and_histograms_can_be_read_back(tmp_path):
    state = make_state(50)
    with Tracker(tmp_path, 5, quiet=True) as tracker:
        depth = torch.linspace(0.0, 4.0, 12).reshape(3, 4)  # begins with a pixel that sees nothing
        tracker.images(
            5, "test/a", rendered=torch.full((3, 4, 3), 1.5), true=torch.zeros(3, 4, 3), depth=depth
        )
        tracker.images(5, "test/b", rendered=torch.full((3, 4, 3), float("nan")), depth=torch.zeros(3, 4))
        tracker.histograms(5, state.gaussians)
    reader = events(tmp_path)
    assert set(reader.Tags()["images"]) >= {"test/a/rendered", "test/a/true", "test/a/depth", "test/b/depth"}
    image = reader.Images("test/a/rendered")[0]
    assert (image.step, image.width, image.height) == (5, 4, 3)
    assert set(reader.Tags()["histograms"]) == {"gaussians/opacities", "gaussians/log10_scales"}


def test_near_is_brighter_than_far_and_nothing_is_black():
    grey = _grey(torch.tensor([[0.0, 1.0, 2.0, 4.0, float("inf")]]))[0]
    assert grey[0] == 0 and grey[4] == 0
    assert grey[1] > grey[2] > grey[3] > 0


def test_pauses_are_left_out_of_the_speed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("engine.tracker.time.perf_counter", lambda: now[0])
    with Tracker(tmp_path, 10, log_every=10, quiet=True) as tracker:
        for iteration in range(1, 11):
            now[0] += 0.5
            with tracker.paused():
                now[0] += 100.0
            tracker.bar(iteration, 1)
    assert curve(tmp_path, "speed/it_per_s") == [(10, 2.0)]


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_there_are_a_few_plain_lines_and_none_if_quiet(tmp_path, monkeypatch, quiet):
    stream = io.StringIO()  # no terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with Tracker(tmp_path, 30, log_every=10, quiet=quiet, events=False) as tracker:
        for iteration in range(1, 31):
            tracker.losses(iteration, {"l1": torch.tensor(0.125)})
            tracker.bar(iteration, 1200)
    expected = [] if quiet else ["iteration 30/30, loss 0.1250, N 1,200"]
    assert [line.rsplit(",", 2)[0] for line in stream.getvalue().splitlines()] == expected


@pytest.mark.parametrize("quiet", [False, True])
def test_a_loss_that_is_no_number_is_said_aloud_once(tmp_path, caplog, quiet):
    with Tracker(tmp_path, 30, log_every=10, events=False, quiet=quiet) as tracker:
        for iteration in range(1, 31):
            tracker.losses(iteration, {"l1": torch.tensor(float("nan"))})
            tracker.bar(iteration, 1)
    assert caplog.text.count("the loss is nan") == 1


def test_importing_the_engine_does_not_import_tensorboard():
    """TensorBoard takes seconds to import; only a `Tracker` needs it."""
    for path in (ROOT / "engine").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:  # the top level only
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "tensorboard" not in ast.unparse(node), path


def test_peak_memory_is_counted_in_gib():
    # torch alone needs about 0.2 GiB, and no machine that runs this has 4 TiB: a wrong unit is off by 1024
    assert 0.05 < peak_memory_gib() < 4096
    held = torch.ones(2**28)  # 1 GiB
    assert peak_memory_gib() > held.numel() * 4 / 2**30 * 0.9


def test_peak_memory_does_not_begin_with_that_of_the_process_that_started_this_one():
    held = torch.ones(2**28)  # 1 GiB, so that this process's peak is above what a bare one needs
    code = "from engine.memory import peak_memory_gib; print(peak_memory_gib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert held.numel() and float(done.stdout) < 1.0
