"""Real trainings: a killed one goes on with the bits of one that was not, a Slurm task trains its share, and
blocks become a model.

Not tested here: Slurm itself; its script is run by bash with the variable that Slurm sets.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

import render
from configs import load_saved_config
from engine import OutputFolder, load_finished
from errors import UserError
from fleet import blocks, many, running
from fleet.block_scenes import read_partition
from scene import SceneConfig, load_scene

TRAIN = "--config quick --iterations 30 --init sfm --pyramid.factor 1 --checkpoint_every 2"
PATIENCE_S = 240.0  # far more than anything here takes, for machines that are busy with something else


@pytest.fixture(scope="module")
def room(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scene in it, with a space in its name."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copytree(small_scene, folder / "still life")
    return folder


@pytest.fixture(scope="module")
def whole(room: Path) -> Path:
    """The run of an undisturbed training, by a Slurm task."""
    output = room / "by slurm"
    words = [str(room / "still life"), "-o", str(output), f"--train=--eval {TRAIN}", "--launcher", "slurm"]
    assert many.main([*words, "--sbatch=--time=01:00:00 --comment='two words'", "--jobs", "7"]) == 0
    script = (output / "slurm" / "train.sbatch").read_text()
    said = re.findall(r"^#SBATCH (.*)$", script, re.M)
    assert {"--array=0-0%7", "--cpus-per-task=1", "--time=01:00:00", '--comment="two words"'} <= set(said)
    assert f'--output="{output}/logs/slurm_%A_%a.txt"' in said
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0"}
    command = ["bash", str(output / "slurm" / "train.sbatch")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"still life: \d+\.\d\d dB, SSIM 0\.\d{4}, [\d,]+ Gaussians, \d+ s, ", done.stdout)
    assert many.main([*words[:-2], "--status"]) == 0
    return output / "still life"


def test_a_training_that_is_killed_goes_on_and_has_the_same_bits(room, whole, tmp_path, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []
    checkpoints = tmp_path / "out" / "still life" / "checkpoints"
    real = running.start

    def start(*words):
        started.append(real(*words))
        if len(started) == 1:
            threading.Thread(target=kill, args=(started[0],)).start()
        return started[-1]

    def kill(process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not list(checkpoints.glob("iteration_*.pt")) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(running, "start", start)
    words = [str(room / "still life"), "-o", str(tmp_path / "out"), f"--train=--eval {TRAIN}", "--pause", "0"]
    assert many.main(words) == 0
    log = (tmp_path / "out" / "logs" / "still life.log").read_text()
    assert len(started) == 2 and log.count("== attempt ") == 2 and "--resume" in log.rpartition("==")[2]
    mine, true = (load_finished(OutputFolder(path))[1] for path in (tmp_path / "out" / "still life", whole))
    for key, value in true.params.items():
        assert torch.equal(mine.params[key], value), key


def test_blocks_become_one_model_that_everything_reads(small_scene, whole, tmp_path, capfd):
    output = tmp_path / "city"
    words = [str(small_scene), "-o", str(output), "--blocks", "2x1", "--eval", f"--train={TRAIN}"]
    assert blocks.main(words) == 0
    said = capfd.readouterr().out
    assert "block_0_0: 8 of 8 training cameras" in said and "2 scenes done" in said
    partition = read_partition(output / "blocks")
    _, merged = load_finished(OutputFolder(output))
    spots = partition.plane.spots(merged.params["means"].detach().numpy())
    assert all(0 < cell.holds(spots).sum() < len(merged) for cell in partition.cells)
    config = load_saved_config(output)
    assert (config.source_path, config.scene.eval, config.iterations) == (small_scene.absolute(), True, 30)
    scene = load_scene(small_scene, SceneConfig(eval=True), quiet=True)
    written = [entry["img_name"] for entry in json.loads((output / "cameras.json").read_text())]
    assert written == [view.name for view in scene.train], "held-out views were in no block"

    # again: nothing is trained, and the figures stand beside those of a run on the whole scene
    with pytest.raises(UserError, match="--against"):
        blocks.main([*words, "--against", str(whole)])
    config_file = whole / "config.yaml"
    text = config_file.read_text()
    config_file.write_text(re.sub(r"^source_path: .*$", f"source_path: {small_scene}", text, flags=re.M))
    assert blocks.main([*words, "--against", str(whole)]) == 0
    config_file.write_text(text)
    said = capfd.readouterr().out
    assert "2 scenes done (2 before)" in said
    figures = json.loads((output / "blocks" / "merged.json").read_text())["figures"]
    # every camera of this small scene is in both blocks, so both are trained on what the whole one was
    assert abs(figures["blocks"]["PSNR"] - figures[str(whole)]["PSNR"]) < 0.5
    render.main(["-m", str(output), "--skip_train", "--quiet"])
    table = capfd.readouterr().out
    assert (
        f"{figures['blocks']['PSNR']:.2f}" in table and f"{len(merged):,} Gaussians of iteration 30" in table
    )

    with pytest.raises(UserError, match="was cut from another scene, or with other --eval"):
        blocks.main([*(word for word in words if word != "--eval"), "--stage", "merge"])
    with pytest.raises(UserError, match=r"2 blocks trained with these options, block_0_0, block_1_0 are not"):
        blocks.main([*words[:-1], f"--train={TRAIN} -r 2", "--stage", "merge"])
