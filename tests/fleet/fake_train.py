"""Stands for train.py: ends as the file `.fate` in the scene says, a word an attempt; writes what a run does.

`ok`, an exit code, `early-CODE` (before the run that was there is removed), `kill` (as the system does where
memory runs out), or `wait` (until a SIGTERM, which it ends by 143 as train.py does). After the last word it
is `ok`. What it was told is noted in `told` in the scene's parent folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

words = sys.argv[1:]
scene, run = (Path(words[words.index(flag) + 1]) for flag in ("-s", "-m"))
kept = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
note = {"scene": scene.name, "words": words, "env": {name: os.environ.get(name) for name in kept}}
with open(scene.parent / "told", "a", encoding="utf-8") as file:
    file.write(json.dumps(note) + "\n")
fates = (scene / ".fate").read_text().split() if (scene / ".fate").is_file() else []
attempts = sum(json.loads(line)["scene"] == scene.name for line in (scene.parent / "told").open())
fate = fates[attempts - 1] if attempts <= len(fates) else "ok"
if fate.startswith("early-"):
    print("error: it had not begun", file=sys.stderr)
    sys.exit(int(fate.removeprefix("early-")))
run.mkdir(parents=True, exist_ok=True)
if "--overwrite" in words:
    for old in ("config.yaml", "checkpoints/iteration_1.pt", "point_cloud/iteration_9/point_cloud.ply"):
        (run / old).unlink(missing_ok=True)
(run / "config.yaml").write_text("format: 1\nsource_path: x\niterations: 1\n")
(run / "checkpoints").mkdir(exist_ok=True)
if fate == "wait":

    def end(*_: object) -> None:
        (run / "checkpoints" / "iteration_1.pt").write_text(f"of attempt {attempts}")
        (scene / ".ended").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)
    (scene / ".waiting").touch()
    time.sleep(60)
if fate == "kill":
    (run / "checkpoints" / "iteration_1.pt").write_text(f"of attempt {attempts}")
    os.kill(os.getpid(), signal.SIGKILL)
if fate == "1":
    raise ValueError("a fault of the program")
if fate != "ok":
    print(f"said on the way\nerror: it ended by {fate}\nthe last checkpoint is valid: there", file=sys.stderr)
    sys.exit(int(fate))
ply = run / "point_cloud" / "iteration_9" / "point_cloud.ply"
ply.parent.mkdir(parents=True, exist_ok=True)
ply.write_bytes(b"ply")
summary = {"gaussians": 1234, "peak_memory_gib": 0.5, "iterations": 9, "test_views": 2}
(run / "summary.json").write_text(json.dumps(summary))
(run / "results.json").write_text(json.dumps({"ours_9": {"PSNR": 20.0 + len(scene.name), "SSIM": 0.5}}))
