"""Repeated timing, and what the machine is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import losses.image
import native
import native.kernels
import rasterizer.cpu


@dataclass(frozen=True)
class Timing:
    """Milliseconds over repetitions."""

    median: float
    minimum: float
    maximum: float
    repetitions: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """From durations in seconds (at least one)."""
        scaled = [1e3 * s for s in seconds]
        return cls(statistics.median(scaled), min(scaled), max(scaled), len(scaled))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.minimum:.1f}-{self.maximum:.1f})"


@dataclass
class Stopwatch:
    """Durations by name, of whatever is wrapped or timed with it."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the duration of the block to `name`."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Times every kernel that is called within the block, under its name without the prefix.

        The forward pass of the rasterizer is told apart as `binning` and `raster_forward`.
        """
        original = native.call

        def timed(name: str, *arguments: Any) -> Any:
            with self.time(name.removeprefix("fs_")):
                result = original(name, *arguments)
            if name == "fs_raster_forward":
                binning = 1e-3 * original("fs_raster_binning_ms", result)
                self.seconds.setdefault("binning", []).append(binning)
                self.seconds["raster_forward"][-1] -= binning
            return result

        with contextlib.ExitStack() as stack:
            for module in (native, native.kernels, rasterizer.cpu, losses.image):
                stack.enter_context(mock.patch.object(module, "call", timed))
            yield

    def timings(self, rounds: int = 0) -> dict[str, Timing]:
        """What was measured so far; with `rounds`, what is called several times a round counts as one."""
        per_round = {
            name: len(values) // rounds if rounds and len(values) % rounds == 0 else 1
            for name, values in self.seconds.items()
        }
        return {
            name: Timing.of([sum(values[i : i + k]) for i in range(0, len(values), k)])
            for (name, values), k in zip(self.seconds.items(), per_round.values(), strict=True)
        }


def raster_counts(address: int) -> tuple[int, int]:
    """What a forward pass had to do, from its handle: overlaps with tiles, pairs with 4x4 blocks."""
    overlaps, pairs = ctypes.c_int64(), ctypes.c_int64()
    native.call("fs_raster_counts", address, ctypes.addressof(overlaps), ctypes.addressof(pairs))
    return overlaps.value, pairs.value


def repeat(work: Callable[[], Any], repetitions: int, warm_up: int = 3) -> tuple[Timing, Timing]:
    """Wall-clock and CPU time (all threads) of a call."""
    seconds_of(work, warm_up)
    wall, cpu = seconds_of(work, repetitions)
    return Timing.of(wall), Timing.of(cpu)


def seconds_of(work: Callable[[], Any], repetitions: int) -> tuple[list[float], list[float]]:
    """Wall-clock and CPU seconds (all threads) of each of so many calls."""
    wall, cpu = [], []
    for _ in range(repetitions):
        cpu_start, start = time.process_time(), time.perf_counter()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return wall, cpu


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "simd": native.simd_name(),
        "load_before": round(load, 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def plain(value: Any) -> Any:
    """The value with every Timing as a dictionary, for JSON."""
    if isinstance(value, Timing):
        return {key: round(number, 4) for key, number in asdict(value).items()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns."""
    if not rows:
        return "(nothing)"
    heads = list(rows[0])
    cells = [heads, *([str(row.get(head, "")) for head in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in cells)
