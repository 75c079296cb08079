"""Long trainings, and trainings with settings and photographs that nobody should use: no NaN, ever.

    scripts/stress endurance                          # 30,000 iterations, then 10,000 of each hostile case
    scripts/stress endurance --scene scenes/garden --resolution 8
    scripts/stress endurance --iterations 300 --hostile-iterations 100

Each case is a training in its own process. It passes where all numbers are finite to the end, and where the
program ended it with exit code 6 and a line that names the term or parameter; every checkpoint and .ply that
it leaves is looked through for NaN and infinity.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from atomic import write_bytes
from engine import latest_checkpoint, load_checkpoint, saved_iterations
from engine.output import OutputFolder
from errors import UserError
from gaussian_model import load_ply
from scene.synthetic import write_synthetic_scene
from stress.fault_runs import Ended, run

NOT_FINITE = 6
WIDE = 4000
"""Pixels of the wide photograph."""


@dataclass
class Options:
    """Trains for long, and badly. Exit code 1 where a NaN was found, or a training ended in another way."""

    iterations: int = 30_000
    """Of the long training."""
    hostile_iterations: int = 10_000
    """Of each hostile one."""
    scene: Path | None = None
    """What the long training is of (default: a synthetic scene of 20 views)."""
    resolution: int = 8
    """Its -r, where a scene is given."""
    only: list[str] = field(default_factory=list)
    """Only cases whose name holds one of these words."""
    threads: int = 0
    """CPU threads (0 = all cores)."""
    output: Path = Path("output/stress")
    """Folder of endurance.json."""


@dataclass(frozen=True)
class Case:
    """A training: its name, its scene, its options."""

    name: str
    scene: Path
    options: tuple[str, ...]
    iterations: int

    @property
    def checkpoint_every(self) -> int:
        """Iterations between two checkpoints."""
        return max(10, self.iterations // 10)


def main(arguments: list[str]) -> int:
    """Trains; returns 1 where a NaN was found."""
    options = tyro.cli(Options, args=arguments, prog="scripts/stress endurance", description=__doc__)
    if min(options.iterations, options.hostile_iterations) < 20:
        raise UserError("--iterations, --hostile-iterations: expected at least 20")
    if options.scene is not None and not options.scene.is_dir():
        raise UserError(f"--scene: {options.scene}: no such folder: check the path")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="endurance_") as folder:
        words = options.only or [""]
        cases = [c for c in cases_of(options, Path(folder)) if any(word in c.name for word in words)]
        if not cases:
            raise UserError(f"--only {' '.join(options.only)}: no case has this in its name")
        rows = []
        for case in tqdm(cases, desc="endurance", unit="case", disable=None):
            rows.append(endure(case, Path(folder) / "runs" / case.name.replace(" ", "_"), options.threads))
            write_bytes(options.output / "endurance.json", (json.dumps(rows, indent=2) + "\n").encode())
            tqdm.write(_line(rows[-1]))
    wrong = [row for row in rows if row["lost"]]
    print(f"{sum(row['iterations_done'] for row in rows):,} iterations in {len(rows)} trainings: ", end="")
    print(f"{len(wrong)} went wrong" if wrong else "no NaN in any checkpoint or .ply")
    print(f"figures: {options.output / 'endurance.json'}")
    return 1 if wrong else 0


def cases_of(options: Options, folder: Path) -> list[Case]:
    """All trainings; their scenes are written to `folder`."""
    plain = folder / "scene"
    write_synthetic_scene(plain, n_views=10, width=80, height=60, points=800)
    long = ("--config", "full_capture", "--eval")
    if options.scene is not None:
        first = Case("long", options.scene, (*long, "-r", str(options.resolution)), options.iterations)
    else:
        still = folder / "still life"
        write_synthetic_scene(still, n_views=20, width=160, height=120, points=2000)
        first = Case("long", still, (*long, "--densify.max_gaussians", "20000"), options.iterations)
    n = options.hostile_iterations
    quick = ("--config", "quick", "--init", "sfm", "--densify.max_gaussians", "3000")

    def repainted(name: str, paint: Callable[[np.ndarray], np.ndarray]) -> Path:
        return _repainted(plain, folder / name, paint)

    cases = [first]
    for name in ("means", "scales", "quats", "opacities", "sh0", "shN"):
        for rate in ("1e3", "1e30"):
            final = ("--optim.means_lr_final", rate) if name == "means" else ()
            cases.append(Case(f"{name} rate {rate}", plain, (*quick, f"--optim.{name}_lr", rate, *final), n))
    every = [
        word
        for name in ("means", "scales", "quats", "opacities", "sh0", "shN")
        for word in (f"--optim.{name}_lr", "10")
    ]
    heavy = ("--loss.opacity_reg", "1e30", "--loss.scale_reg", "1e30")
    noisy = (
        *("--config", "mcmc", "--init", "sfm"),
        *("--densify.mcmc.cap_max", "1500", "--densify.mcmc.noise_lr", "5e9"),
    )
    alone = ("--config", "quick", "--densify.start", str(10 * n), "--densify.stop", str(20 * n))
    depth = ("--depth_loss", "pearson", "--depth_prior", "files", "--depth_dir", str(plain / "depth"))
    cases += [
        Case("all rates 10", plain, (*quick, *every), n),
        Case("loss weights 1e30", plain, (*quick, *heavy), n),
        Case("mcmc, much noise", plain, noisy, n),
        Case("1 view", plain, (*quick, "--n_views", "1"), n),
        Case("1 Gaussian", plain, (*alone, "--init", str(_one_point(folder / "one.ply"))), n),
        Case("all black", repainted("black", np.zeros_like), quick, n),
        Case("all white", repainted("white", lambda p: np.full_like(p, 255)), quick, n),
        Case("one colour", repainted("colour", lambda p: np.full_like(p, (200, 30, 90))), quick, n),
        Case("noise", repainted("noise", _noise), quick, n),
        Case("all black, depth loss", repainted("black depth", np.zeros_like), (*quick, *depth), n),
    ]  # fmt: skip
    wide = folder / "wide"
    write_synthetic_scene(wide, n_views=3, width=WIDE, height=300, points=500)
    cases.append(Case(f"{WIDE} pixels wide", wide, (*quick, "-r", "1"), n))
    return cases


def endure(case: Case, output: Path, threads: int) -> dict[str, Any]:
    """Runs a case; its row of figures."""
    began = time.perf_counter()
    ended = run(
        [
            "train.py",
            "-s",
            case.scene,
            "-m",
            output,
            *case.options,
            "--overwrite",
            *("--iterations", str(case.iterations), "--checkpoint_every", str(case.checkpoint_every)),
            *(("--threads", str(threads)) if threads else ()),
        ],
        patience=24 * 3600.0,
    )
    last = latest_checkpoint(output / "checkpoints")
    content = _loaded(last) if last is not None else None
    summary = output / "summary.json"
    said = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    named = re.search(r"iteration (\d+)", said[-1]) if said else None
    done = content["iteration"] if content is not None else 0
    return {
        "case": case.name,
        "iterations": case.iterations,
        "iterations_done": int(named[1]) if named and ended.code == NOT_FINITE else done,
        "exit_code": ended.code,
        "ended_by": said[-1][7:] if said else "",
        "last_checkpoint": done,
        "gaussians": len(content["gaussians"]["means"]) if content is not None else 0,
        "peak_memory_gib": json.loads(summary.read_text())["peak_memory_gib"] if summary.is_file() else None,
        "seconds": round(time.perf_counter() - began, 1),
        "lost": [*wrong(ended, output), *not_kept(ended, case, done)],
    }


def wrong(ended: Ended, output: Path) -> list[str]:
    """What must not be: another ending than the good ones, and numbers that are not finite in any file."""
    found = []
    pruned = ended.code == 2 and "no Gaussians are left" in ended.stderr
    if ended.code not in (0, NOT_FINITE) and not pruned:
        found.append(f"exit code {ended.code}: {ended.stderr[-1500:]}")
    if "Traceback" in ended.stderr:
        found.append("a traceback")
    if ended.code == NOT_FINITE and not re.search(
        r"the loss term \w+ is|the parameter \w+ is|mean of \w+ is", ended.stderr
    ):
        found.append("the error names nothing")
    for path in sorted((output / "checkpoints").glob("iteration_*.pt")):
        content = _loaded(path)
        found += [str(path)] if content is None else []
        found += [f"{path.name}: {name}" for name in _not_finite(content, "")]
    folder = OutputFolder(output)
    for iteration in saved_iterations(folder):
        path = folder.point_cloud(iteration)
        if path.is_file():
            params = load_ply(path).params
            found += [f"{path}: {key}" for key, value in params.items() if not bool(value.isfinite().all())]
    return found


def not_kept(ended: Ended, case: Case, last: int) -> list[str]:
    """What is missing of the checkpoints that had been due when a training came to nothing."""
    if ended.code != NOT_FINITE:
        return []
    named = re.search(r"error: iteration (\d+)", ended.stderr)
    if named is None:
        return ["the error names no iteration"]
    due = (int(named[1]) - 1) // case.checkpoint_every * case.checkpoint_every
    return [] if last >= due else [f"the checkpoint of iteration {due} was not kept (the last: {last})"]


def _loaded(path: Path) -> dict[str, Any] | None:
    """A checkpoint; None where it is damaged or holds NaN, which its loader says."""
    try:
        return load_checkpoint(path)
    except UserError as error:
        tqdm.write(str(error))
        return None


def _not_finite(value: Any, where: str) -> list[str]:
    """Places of tensors with NaN or infinity in a tree."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _not_finite(item, f"{where}.{key}")]
    if hasattr(value, "is_floating_point") and value.is_floating_point():
        return [] if bool(value.isfinite().all()) else [where]
    return []


def _line(row: dict[str, Any]) -> str:
    state = "LOST" if row["lost"] else "ok"
    end = (
        f"ended at {row['iterations_done']}: {row['ended_by'][:90]}"
        if row["exit_code"]
        else "finite to the end"
    )
    return (
        f"{state:6}{row['case']:24}{row['iterations']:7,} iterations, {row['gaussians']:6,} Gaussians, "
        f"{row['seconds']:7.1f} s: {end}" + "".join(f"\n      {line}" for line in row["lost"])
    )


def _repainted(source: Path, target: Path, paint: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The scene with other pixels."""
    (target / "images").mkdir(parents=True)
    (target / "sparse").symlink_to(source / "sparse")
    for path in sorted((source / "images").iterdir()):
        Image.fromarray(paint(np.asarray(Image.open(path).convert("RGB")))).save(
            target / "images" / path.name
        )
    return target


def _noise(pixels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)


def _one_point(path: Path) -> Path:
    """A file with a single point, in the middle of the synthetic scene."""
    names = ("x", "y", "z", "red", "green", "blue")
    kinds = ("float",) * 3 + ("uchar",) * 3
    lines = ["ply", "format ascii 1.0", "element vertex 1"]
    lines += [f"property {kind} {name}" for kind, name in zip(kinds, names, strict=True)]
    path.write_text("\n".join([*lines, "end_header", "0 0 0.8 128 128 128", ""]))
    return path
