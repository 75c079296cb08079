"""The kernels compile for ARM (Apple's processors and others) and by clang, and run there: emulated, on NEON.

Skipped, by name, where no cross compiler, emulator or clang is installed (Debian: g++-aarch64-linux-gnu,
qemu-user-static, clang). Not checked here: speed, macOS's linker.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from native.build import FLAGS, SOURCES

DRIVER = Path(__file__).resolve().parents[1] / "rasterizer" / "sanitizer_driver.cpp"
STRICT = (*("-O1" if flag == "-O3" else flag for flag in FLAGS), "-Werror")
"""-O3 takes four times as long to compile."""


def _tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"not installed: {' or '.join(names)}")


def _run(*command: str, limit: float = 300) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_every_kernel_runs_on_neon_as_on_its_own_terms(tmp_path: Path) -> None:
    """The driver compares numbers of threads with each other, and every output with what must be written."""
    compiler, emulator = _tool("aarch64-linux-gnu-g++"), _tool("qemu-aarch64-static", "qemu-aarch64")
    objects = []
    for source in [*sorted(SOURCES.glob("*.cpp")), DRIVER]:
        flags = STRICT if source != DRIVER else tuple(flag for flag in STRICT if flag != "-Werror")
        objects.append(str(tmp_path / f"{source.stem}.o"))
        _run(compiler, *flags, "-pthread", "-c", str(source), "-o", objects[-1])
    _run(compiler, "-static", "-pthread", *objects, "-o", str(tmp_path / "driver"))
    told = _run(emulator, str(tmp_path / "driver"), "threads").split()
    assert told[0] == "ok" and int(told[1]) > 0 and told[2] == "neon"


def test_clang_takes_every_kernel_without_a_warning() -> None:
    compiler = _tool("clang++")
    for source in sorted(SOURCES.glob("*.cpp")):
        _run(compiler, *STRICT, "-march=native", "-fsyntax-only", str(source))
