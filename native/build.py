"""Compiles src/*.cpp into one shared library, once per source, flag, compiler and processor.

The object files are compiled side by side; the library is moved into the cache in one step, so that
two processes that build at once, or one that is killed, never leave a half-written library.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from errors import UserError

SOURCES = Path(__file__).parent / "src"

_log = logging.getLogger(__name__)

# -ffp-contract=off: fused multiply-adds only where written, so that the forward and the backward
# pass recompute the same bits. -ffast-math is not used: it would delete the NaN checks.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler takes


class NativeBuildError(UserError):
    """No usable C++ compiler, or the compiler failed."""


def find_compiler() -> list[str]:
    """The C++ compiler's command: $CXX (which may carry options), else c++, g++ or clang++.

    Raises:
        NativeBuildError: none is found.
    """
    named = os.environ.get("CXX", "").split()
    if named:
        if shutil.which(named[0]) is None:
            raise NativeBuildError(
                f"the compiler {named[0]!r} named by $CXX is not found: correct or unset CXX"
            )
        return named
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NativeBuildError(
        "no C++ compiler found (looked for $CXX, c++, g++, clang++): install one "
        "(Debian/Ubuntu: `sudo apt install g++`; Fedora: `sudo dnf install gcc-c++`; "
        "macOS: `xcode-select --install`) "
        "or use --backend reference (slow) or --backend gsplat (NVIDIA GPU)"
    )


def cache_folder() -> Path:
    """Where compiled libraries are kept: $FEWSPLAT_CACHE, else the platform's user cache."""
    if os.environ.get("FEWSPLAT_CACHE"):
        return Path(os.environ["FEWSPLAT_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fewsplat"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewsplat"


def build_library(extra_flags: tuple[str, ...] = (), *, native: bool = True) -> Path:
    """Builds the library, or finds it in the cache.

    Args:
        extra_flags: more compiler and linker flags (tests pass sanitizers and instruction sets).
        native: compile for this machine's processor.

    Returns:
        The shared library's path.

    Raises:
        NativeBuildError: with the compiler's last lines.
    """
    compiler = find_compiler()
    key = _cache_key(compiler, extra_flags, native)
    failure: OSError | None = None
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"fewsplat-{os.getuid()}"):
        path = folder / "native" / key / "libfewsplat.so"
        if path.is_file():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=path.parent) as work:
                _log.info("compiling the CPU kernels for this processor (once, less than a minute)")
                began = time.perf_counter()
                built = _compile(compiler, extra_flags, native, Path(work))
                os.replace(built, path)
            if failure is not None:
                _log.warning(
                    "%s: cannot keep the compiled CPU kernels there (%s): they are in %s, where they may not "
                    "last; set FEWSPLAT_CACHE to a writable folder",
                    cache_folder(), failure.strerror, folder,
                )  # fmt: skip
            _log.debug("%s: compiled by %s in %.1f s", path, compiler[0], time.perf_counter() - began)
            return path
        except OSError as error:  # a cache that cannot be written: try the next folder
            failure = error
    raise NativeBuildError(
        f"cannot write the compiled library: {failure}; set FEWSPLAT_CACHE to a writable folder"
    )


def _cache_key(compiler: list[str], extra_flags: tuple[str, ...], native: bool) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    digest.update(
        repr(
            (compiler, FLAGS, NATIVE_FLAGS, extra_flags, native, version, _processor() if native else "")
        ).encode()
    )
    return digest.hexdigest()[:20]


def _processor() -> str:
    """Names the processor, so that a cache on a shared disk never serves another machine's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("flags", "Features", "model name")
        return platform.machine() + "".join(sorted({line for line in lines if line.startswith(wanted)}))
    except OSError:
        return platform.machine() + platform.processor()


def _compile(compiler: list[str], extra_flags: tuple[str, ...], native: bool, work: Path) -> Path:
    flags = [*FLAGS, *(_accepted_native_flags(compiler, work) if native else ()), *extra_flags]
    sources = sorted(SOURCES.glob("*.cpp"))

    def compile_one(source: Path) -> Path:
        target = work / f"{source.stem}.o"
        _run([*compiler, *flags, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, sources))
    target = work / "libfewsplat.so"
    _run([*compiler, *extra_flags, "-shared", *map(str, objects), "-o", str(target), "-pthread"])
    return target


def _accepted_native_flags(compiler: list[str], work: Path) -> tuple[str, ...]:
    probe = work / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    for flags in NATIVE_FLAGS:
        command = [*compiler, *flags, "-c", str(probe), "-o", str(work / "probe.o")]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return flags
    return ()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise NativeBuildError(
            f"the C++ compiler failed (exit {done.returncode}): {' '.join(command)}\n{tail}\n"
            "set CXX to another compiler, or use --backend reference"
        )
