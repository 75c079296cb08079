"""Peak memory of training iterations, each case in a process of its own.

    python -m benchmarks.memory GAUSSIANS WIDTH THREADS

prints the process's peak in GiB before and after three iterations at SH degree 3, and after one refinement.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import native
from benchmarks.inputs import generate_inputs
from benchmarks.iterating import TrainingIteration, as_gaussians, as_view
from engine.memory import peak_memory_gib


def measure_memory(cases: list[tuple[int, int]], threads: int) -> list[dict[str, Any]]:
    """Peak of (Gaussians, width) each; images are three quarters as high as they are wide.

    A case that differs from the one before it in one of the two also says what that one costs apiece.
    """
    rows: list[dict[str, Any]] = []
    before_peak, before_case = 0.0, (0, 0)
    for count, width in cases:
        command = [sys.executable, "-m", "benchmarks.memory", str(count), str(width), str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        before, peak, refined = (float(word) for word in done.stdout.split())
        rows.append(
            {
                "gaussians": count,
                "pixels": f"{width}x{round(width * 0.75)}",
                "threads": threads,
                "before_gib": round(before, 3),
                "peak_gib": round(peak, 3),
                "with_refinement_gib": round(refined, 3),
                "more_than_the_row_above": _marginal(peak - before_peak, (count, width), before_case),
            }
        )
        before_peak, before_case = peak, (count, width)
    return rows


def _marginal(gib: float, case: tuple[int, int], before: tuple[int, int]) -> str:
    """Bytes per Gaussian or per pixel between two cases (Gaussians, width) that differ in that only."""
    if case[1] == before[1]:
        return f"{gib * 2**30 / (case[0] - before[0]):.0f} bytes per Gaussian"
    if case[0] == before[0]:
        pixels = [width * round(width * 0.75) for _, width in (case, before)]
        return f"{gib * 2**30 / (pixels[0] - pixels[1]):.0f} bytes per pixel"
    return ""


def main() -> None:
    """Three iterations on one view, and a refinement."""
    count, width, threads = (int(word) for word in sys.argv[1:])
    native.set_threads(threads)
    native.simd_name()
    before = peak_memory_gib()
    inputs = generate_inputs(count, width, round(width * 0.75))
    iteration = TrainingIteration(as_gaussians(inputs), 1.0)
    view = as_view(inputs)
    del inputs
    for _ in range(3):
        iteration(view)
    peak = peak_memory_gib()
    iteration.time_refinement()
    print(before, peak, peak_memory_gib())


if __name__ == "__main__":
    main()
