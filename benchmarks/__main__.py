"""The command line of scripts/benchmark."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import native
from atomic import atomic_write
from benchmarks.converging import measure_convergence, measure_peer
from benchmarks.depth import measure_stereo
from benchmarks.inputs import generate_inputs, load_inputs
from benchmarks.iterating import measure_fixed_cost, measure_iteration, measure_losses
from benchmarks.measure import machine, plain, table
from benchmarks.memory import measure_memory
from benchmarks.plots import plot_convergence, plot_iteration, plot_scaling
from benchmarks.rasterizing import measure_image, measure_scaling
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MOST_THREADS = 1024
What = Literal["rasterizer", "iteration", "losses", "scaling", "memory", "convergence", "stereo", "peer"]


@dataclass
class Options:
    """What to measure on this machine. Let nothing else run meanwhile: other work shows in every figure."""

    what: Annotated[list[What], tyro.conf.Positional] = field(
        default_factory=lambda: ["rasterizer", "iteration"]
    )
    """Which measurements, in this order."""
    threads: list[int] = field(default_factory=lambda: sorted({1, os.cpu_count() or 1}))
    """Numbers of threads to measure with; the last one is used where one is enough."""
    repetitions: int = 20
    """How often each thing is timed (scaling: a quarter as often, at least 3 times); the figures are the
    median with minimum and maximum."""
    inputs: list[Path] = field(default_factory=list)
    """rasterizer: .npz files of Gaussians and a camera (default: generated ones)."""
    scene: Path | None = None
    """iteration, convergence, stereo, peer: a COLMAP scene (default: the synthetic scene of scripts/demo)."""
    model: Path | None = None
    """iteration: a .ply of that scene, resampled to each number (default: trained here by `quick`)."""
    gaussians: list[int] = field(default_factory=lambda: [10_000, 50_000, 200_000])
    """iteration, losses: numbers of Gaussians."""
    views: int = 0
    """iteration, stereo: train on this many views (0 = all)."""
    near: bool = False
    """stereo: take neighbouring images instead of ones spread over the scene."""
    counts: list[int] = field(default_factory=lambda: [10_000, 50_000, 200_000, 1_000_000, 2_000_000])
    """scaling: numbers of Gaussians, at 504x378."""
    widths: list[int] = field(default_factory=lambda: [250, 500, 1000, 2000])
    """scaling: widths in pixels, with 50,000 Gaussians."""
    train: str = "--config quick"
    """convergence, peer: options of train.py, after an equals sign: --train="--config quick --n_views 3"."""
    points: list[int] = field(default_factory=lambda: [100, 200, 400, 700, 1000])
    """convergence: iterations to evaluate after, besides the last."""
    peer: str = ""
    """peer: a command that trains on {scene} for {iterations} iterations."""
    peer_iterations: int = 100
    """peer: it and train.py (with --train) are run for so many iterations, and for twice as many."""
    output: Path = Path("output/benchmark")
    """Folder of results.json and the plots."""


def main() -> None:
    """Measures, prints and writes."""
    options = tyro.cli(Options, prog="scripts/benchmark", config=(tyro.conf.AvoidSubcommands,))
    for name, numbers, least in (
        ("repetitions", [options.repetitions], 1),
        ("threads", options.threads, 1),
        ("gaussians", options.gaussians, 1),
        ("counts", options.counts, 1),
        ("widths", options.widths, 16),
        ("points", options.points, 1),
        ("peer-iterations", [options.peer_iterations], 1),
    ):
        if min(numbers, default=0) < least:
            raise UserError(f"--{name}: expected numbers of at least {least}, got {numbers}")
    if "peer" in options.what and not options.peer.strip():
        raise UserError(
            'peer: give the other trainer\'s command, as in --peer "opensplat {scene} -n {iterations}"'
        )
    if max(options.threads) > MOST_THREADS:
        raise UserError(f"--threads: expected at most {MOST_THREADS}, got {max(options.threads)}")
    if options.scene is not None and not options.scene.is_dir():
        raise UserError(f"--scene: {options.scene}: no such folder: check the path")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: cannot make {options.output}: {error.strerror}") from error
    results: dict[str, Any] = _earlier(options.output / "results.json") | {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    most = options.threads[-1]
    for what in options.what:
        print(f"\n{what} (times in ms, median and range, unless named otherwise)", flush=True)
        if what == "rasterizer":
            scenes = [load_inputs(path) for path in options.inputs]
            scenes = scenes or [generate_inputs(n, 504, 378) for n in (10_000, 50_000)]
            rows = [row for s in scenes for row in measure_image(s, options.threads, options.repetitions)]
        elif what == "iteration":
            source = _scene(options)
            model = options.model or _train(source, options.output)
            rows = [
                measure_iteration(source, model, options.views, n, t, options.repetitions)
                for n in options.gaussians
                for t in options.threads
            ]
            rows.append(measure_fixed_cost(most, 200))
            plot_iteration(rows[:-1], options.output / "iteration.png")
        elif what == "losses":
            rows = [row for n in options.gaussians for row in measure_losses(n, most, options.repetitions)]
        elif what == "scaling":
            rows = measure_scaling(most, options.counts, options.widths, max(3, options.repetitions // 4))
            plot_scaling(rows, options.output / "scaling.png")
        elif what == "memory":
            rows = measure_memory([(100_000, 504), (1_000_000, 504), (1_000_000, 1008)], most)
        elif what == "convergence":
            native.set_threads(most)
            rows = measure_convergence(_scene(options), shlex.split(options.train), options.points)
            plot_convergence(rows, options.output / "convergence.png")
        elif what == "stereo":
            picture = options.output / "stereo.jpg"
            rows = [measure_stereo(_scene(options), options.views, options.near, most, picture)]
        else:
            native.set_threads(most)
            rows = measure_peer(
                options.peer, _scene(options), shlex.split(options.train), options.peer_iterations
            )
        results[what] = rows
        print(table([{k: v for k, v in row.items() if k != "kernels"} for row in rows]))
        for row in rows:
            if "kernels" in row:
                parts = ", ".join(f"{k} {v.median:.1f}" for k, v in row["kernels"].items())
                print(f"  {row['gaussians']:,} Gaussians, {row['threads']} threads: {parts}")
        with atomic_write(options.output / "results.json") as file:
            file.write((json.dumps(plain(results), indent=1) + "\n").encode())
    print(f"\nwritten: {options.output}/results.json")


def _earlier(path: Path) -> dict[str, Any]:
    """What this folder holds of the same machine already: a run replaces only what it measures."""
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    now, then = machine(), kept.get("machine") if isinstance(kept, dict) else None
    same = isinstance(then, dict) and all(
        then.get(key) == now[key] for key in ("cpu", "cores", "simd", "torch")
    )
    return kept if same else {}


def _scene(options: Options) -> Path:
    """The scene asked for, or the synthetic one, made where it is missing."""
    if options.scene is not None:
        return options.scene
    from scene.synthetic import write_synthetic_scene

    folder = options.output / "synthetic_scene"
    if not (folder / ".complete").exists():
        write_synthetic_scene(folder)
        (folder / ".complete").touch()
    return folder


def _train(source: Path, output: Path) -> Path:
    """A model of the scene, trained with the quick preset in another process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "-s", str(source), "-m", f"{folder}/run"]
        done = subprocess.run(
            [*command, "--eval", "--config", "quick", "--model.sh_degree", "3"], check=False
        )
        if done.returncode != 0:  # train.py has said why
            raise UserError(
                f"{source}: train.py ended with exit code {done.returncode}: give --model, or mend it"
            )
        ply = next(Path(folder).glob("run/point_cloud/*/point_cloud.ply"))
        kept = output / "model.ply"
        kept.write_bytes(ply.read_bytes())
    return kept


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
