"""`train.py --viewer` from outside: what it prints, pausing, Ctrl-C while paused, and going on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from engine import latest_checkpoint, load_checkpoint
from tests.viewer.fake_browser import FakeBrowser

ROOT = Path(__file__).resolve().parent.parent.parent


def _start(*options: str) -> tuple[subprocess.Popen[str], FakeBrowser]:
    process = subprocess.Popen(
        [sys.executable, "train.py", *options, "--viewer", "--viewer_port", "18480", "--quiet"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.match(r"viewer: http://localhost:(\d+)", line)
    assert found, line + process.communicate(timeout=120)[1]
    return process, FakeBrowser(int(found[1]))


def test_a_run_that_is_paused_can_be_stopped_resumed_and_watched_to_its_end(small_scene, tmp_path):
    output = tmp_path / "out"
    process, browser = _start(
        "-s", str(small_scene), "-m", str(output), "--config", "quick", "--iterations", "20000"
    )
    browser.wait(browser.splats)
    browser.set("Pause training", True)
    browser.wait(lambda: "paused" in browser.status())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors
    last = latest_checkpoint(output / "checkpoints")
    assert last is not None
    stopped = load_checkpoint(last)["iteration"]
    assert 0 < stopped < 20000

    process, browser = _start("-m", str(output), "--resume", "--iterations", str(stopped + 20))
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"iteration_{stopped + 20}" in out
