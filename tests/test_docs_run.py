"""The commands that the documentation shows are run, page by page, on small things of the names they use.

Trainings are cut to a few iterations. Left out by name: installing, what needs a GPU, a second machine or a
Ray cluster, `scripts/demo` and `scripts/test` themselves, and the ablation, which takes hours.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from scene.synthetic import write_synthetic_scene
from scripts.docs_pictures import answers, free_port

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

ITERATIONS = "10"
PATIENCE_S = 120.0
LEFT_OUT = ("python3 -m venv", "scripts/demo", "scripts/test", "scripts/gpu_check")
PAGES = ["README", "photos", "viewer", "monitoring", "export", "quality", "depth", "scale"]


def commands_of(page: str) -> list[str]:
    """The lines of a page's blocks of commands, without their remarks."""
    path = ROOT / "README.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    found: list[str] = []
    inside, wanted = False, False
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside, wanted = not inside, not inside and line in ("```", "```bash")
        elif inside and wanted and line.strip():
            found.append(re.split(r"\s+#", line)[0].strip())
    return [line for line in found if re.match(r"python3? |scripts/\w|tensorboard |torchrun ", line)]


def _run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def _serve(words: list[str], port: int, folder: Path) -> None:
    """Starts a server, waits for its page, and ends it as Ctrl-C does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            until = time.monotonic() + PATIENCE_S
            while not answers(port):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until, f"{words}: no page at port {port}"
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGINT)


def run_command(line: str, folder: Path) -> None:
    """Runs a line of the documentation in a folder, shortened."""
    program, *words = shlex.split(line)
    python = [sys.executable]
    if program == "python" and words[0] == "train.py":
        short = [] if "--resume" in words else ["--iterations", ITERATIONS, "--overwrite"]
        short += ["--viewer_port", str(free_port())] if "--viewer" in words else []
        _run([*python, str(ROOT / "train.py"), *words[1:], *short], folder)
    elif program == "python" and words[0] == "render.py":
        short = ["--n_frames", "3"] if "--video" in words else []
        _run([*python, str(ROOT / "render.py"), *words[1:], *short], folder)
    elif program == "torchrun":
        short = ["--iterations", ITERATIONS, "--overwrite"]
        processes, train, *options = words
        assert train == "train.py"
        _run([*python, "-m", "torch.distributed.run", processes, str(ROOT / train), *options, *short], folder)
    elif program in ("scripts/train_many", "scripts/train_blocks"):
        given = next(word for word in words if word.startswith("--train="))
        words[words.index(given)] = f"{given} --iterations {ITERATIONS}"
        _run([*python, "-m", program.replace("scripts/train_", "fleet."), *words], folder)
    elif program == "scripts/view":
        port = free_port()
        _serve([*python, "-m", "viewer", *words, "--port", str(port)], port, folder)
    elif program == "tensorboard":
        port = free_port()
        _serve([*python, "-m", "tensorboard.main", *words, "--port", str(port)], port, folder)
    elif program == "scripts/export":
        _run([*python, "-m", "exporting", *words], folder)
    elif program == "scripts/convert":
        _run([*python, "-m", "scripts.convert_photos", *words], folder)
    elif program == "scripts/benchmark":
        words = ["scenes/garden" if word == "SCENE" else word for word in words]
        _run([*python, "-m", "benchmarks", *words, "--output", "output/benchmark"], folder)
    elif program == "scripts/benchmark_quality":
        words = ["scenes" if word == "SCENES" else word for word in words]
        train = next((word.removeprefix("--train=") for word in words if word.startswith("--train=")), "")
        words = [word for word in words if not word.startswith("--train=")]
        _run([*python, "-m", "benchmarks.quality", *words, f"--train={train} --iterations 2"], folder)
    else:
        raise AssertionError(f"{line}: how is this run?")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a scene, photographs, a video, and a run on that scene."""
    folder = tmp_path_factory.mktemp("things")
    scene = folder / "scenes" / "garden"
    write_synthetic_scene(scene, n_views=10, width=320, height=240, points=1500)
    for photographs in ("photos/garden", "holiday"):
        shutil.copytree(scene / "images", folder / photographs)
    writer = cv2.VideoWriter(str(folder / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (320, 240))
    for path in sorted((scene / "images").iterdir()):
        picture = cv2.imread(str(path))
        assert picture is not None
        for _ in range(3):
            writer.write(picture)
    writer.release()
    run_command("python train.py -s scenes/garden -m output/garden --eval", folder)
    demo = folder / "output" / "demo"
    shutil.copytree(folder / "output" / "garden", demo)
    saved = demo / "point_cloud" / f"iteration_{ITERATIONS}"
    shutil.copy(saved / "point_cloud.ply", folder / "theirs.ply")
    saved.rename(saved.with_name("iteration_2000"))
    return folder


def _is_left_out(line: str) -> bool:
    elsewhere = any(word in line for word in ("--nnodes", "--launcher ray", "--sharded"))
    long = "@benchmarks/ablation.txt" in line or "benchmark rasterizer" in line
    return line.startswith(LEFT_OUT) or elsewhere or long


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, things: Path, tmp_path: Path) -> None:
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    lines = [line for line in commands_of(page) if not _is_left_out(line)]
    assert lines
    for line in lines:
        run_command(line, tmp_path)


def test_no_page_with_commands_is_forgotten() -> None:
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    with_commands = {page for page in pages if any(not _is_left_out(line) for line in commands_of(page))}
    assert with_commands <= set(PAGES), "add them to PAGES"
