"""The C++ kernels under sanitizers of memory, undefined behaviour and threads, called as the program does.

    scripts/stress sanitizers --rounds 2000

The library is built with the sanitizer and loaded into a python that has its runtime preloaded. Random and
poisoned tensors (NaN, infinity, huge and tiny numbers, no Gaussians, one, images of one pixel) go through
every room that calls a kernel, forward and backward; then a short training runs with stereo and all losses.
tests/rasterizer/test_sanitizers.py calls the kernels from C++ instead, from exactly sized arrays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from atomic import write_bytes
from errors import UserError
from native.build import build_library, find_compiler
from scene.synthetic import write_synthetic_scene

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {
    "memory": ("-O1", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    "threads": ("-O1", "-g1", "-fsanitize=thread"),
}
RUNTIMES = {"memory": ("libasan.so", "libubsan.so"), "threads": ("libtsan.so",)}
FINDINGS = ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer", "FATAL: ThreadSanitizer")
# Libraries that are not instrumented: what they lock, the sanitizer does not see.
_FOREIGN = ("libtorch_cpu", "libtorch_python")
SUPPRESSED = "".join(f"called_from_lib:{name}\n" for name in _FOREIGN)
PATIENCE_S = 3600.0


@dataclass
class Options:
    """Runs the kernels under sanitizers. Exit code 1 where one of them found anything."""

    rounds: int = 500
    """Rounds of random tensors under the memory sanitizers; a tenth of them under that of threads."""
    seed: int = 0
    """Of the tensors."""
    threads: int = 4
    """The kernels' threads."""
    iterations: int = 30
    """Length of the training."""
    output: Path = Path("output/stress")
    """Folder of sanitizers.json."""


def main(arguments: list[str]) -> int:
    """Builds and runs; returns 1 where anything was found."""
    options = tyro.cli(Options, args=arguments, prog="scripts/stress sanitizers", description=__doc__)
    if min(options.rounds, options.threads, options.iterations) < 1:
        raise UserError("--rounds, --threads, --iterations: expected at least 1")
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="sanitizers_") as folder:
        scene = Path(folder) / "scene"
        write_synthetic_scene(scene, n_views=5, width=64, height=48, points=300)
        training = [
            *(
                str(ROOT / "train.py"),
                "-s",
                str(scene),
                "-m",
                str(Path(folder) / "run"),
                "--overwrite",
                "--eval",
            ),
            *("--config", "quick", "--init", "mvs", "--loss.binocular", "0.3", "--depth_loss", "pearson"),
            *("--depth_prior", "mvs", "--densify.start", "5", "--densify.every", "5", "--quiet"),
            *("--iterations", str(options.iterations), "--threads", str(options.threads)),
        ]
        cases: list[tuple[str, str, int, list[str]]] = [
            ("memory", "tensors", options.rounds, []),
            ("memory", "training", 0, training),
            ("threads", "tensors", max(1, options.rounds // 10), []),
        ]
        for kind, name, rounds, command in tqdm(cases, desc="sanitizers", unit="case", disable=None):
            rows.append(
                sanitize(kind, name, [str(options.seed), str(rounds), str(options.threads), *command])
            )
            rows[-1]["rounds"] = rounds
            state = "skipped" if rows[-1]["skipped"] else "FOUND" if rows[-1]["found"] else "ok"
            words = rows[-1]["said"] + rows[-1]["skipped"]
            tqdm.write(f"{state:8}{kind:8}{name:9}{rows[-1]['seconds']:6.0f} s  {words}")
            for line in rows[-1]["found"]:
                tqdm.write(f"        {line}")
    write_bytes(options.output / "sanitizers.json", (json.dumps(rows, indent=2) + "\n").encode())
    print(f"figures: {options.output / 'sanitizers.json'}")
    return 1 if any(row["found"] for row in rows) else 0


def sanitize(kind: str, name: str, arguments: list[str]) -> dict[str, Any]:
    """Runs the child with the sanitizer's runtime; its row."""
    began = time.perf_counter()
    row: dict[str, Any] = {"sanitizer": kind, "case": name, "found": [], "skipped": "", "said": ""}
    compiler = find_compiler()
    runtimes = [_library(compiler, runtime) for runtime in RUNTIMES[kind]]
    if None in runtimes:
        row["skipped"] = f"{' '.join(compiler)} has no {' or no '.join(RUNTIMES[kind])}"
    else:
        build_library(FLAGS[kind])
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as suppressions:
            suppressions.write(SUPPRESSED)
            suppressions.flush()
            environment = {
                **os.environ,
                "LD_PRELOAD": ":".join(str(runtime) for runtime in runtimes),
                "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
                "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
                "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:"
                f"suppressions={suppressions.name}",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            }
            command = [sys.executable, "-m", "stress.sanitizer_child", " ".join(FLAGS[kind]), *arguments]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environment,
                    cwd=ROOT,
                    timeout=PATIENCE_S,
                )
            except subprocess.TimeoutExpired:
                row["found"] = [f"no end after {PATIENCE_S:.0f} s"]
            else:
                lines = done.stderr.splitlines()
                row["found"] = [line for line in lines if any(word in line for word in FINDINGS)]
                if done.returncode != 0:
                    row["found"].append(f"exit code {done.returncode}: {done.stderr[-1500:]}")
                row["said"] = (done.stdout.strip().splitlines() or [""])[-1] if name == "tensors" else ""
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row


def _library(compiler: list[str], name: str) -> Path | None:
    """Where the compiler keeps a runtime library; None if it has it not."""
    done = subprocess.run(
        [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
    )
    path = Path(done.stdout.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None
