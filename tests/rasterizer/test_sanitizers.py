"""The C++ kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and their threads.

sanitizer_driver.cpp calls every kernel on random and poisoned input from exactly sized arrays. The build
(about 10 s of one core) is kept in the kernels' cache under a hash of the sources. Not checked here: reads of
memory that was never written (GCC has no MemorySanitizer; the driver checks that outputs are), and
instruction sets other than this machine's widest.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import native
from native.build import NATIVE_FLAGS, SOURCES, cache_folder
from rasterizer import rasterization
from tests.rasterizer.scenes import random_scene

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("sanitizer_driver.cpp")

# -O0 compiles in a third of -O1's time, and optimises no faulty access away.
COMMON = ("-std=c++17", "-g1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread")
SANITIZERS = {
    "memory": ("-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    "threads": ("-O1", "-fsanitize=thread"),
}


def _execute(command: list[str], limit: float = 120) -> subprocess.CompletedProcess[str]:
    options = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=limit, env={**os.environ, **options}
    )


def _usable_flags(compiler: list[str], flags: tuple[str, ...], work: Path) -> tuple[str, ...]:
    """The flags with which a program compiles and runs here, or a skip that says why there are none."""
    (work / "probe.cpp").write_text("int main() { return 0; }\n")
    reason = ""
    for processor in NATIVE_FLAGS:
        every = (*COMMON, *processor, *flags)
        done = _execute([*compiler, *every, str(work / "probe.cpp"), "-o", str(work / "probe")])
        if done.returncode == 0:
            done = _execute([str(work / "probe")])
            if done.returncode == 0:
                return every
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    pytest.skip(f"{' '.join(compiler)} has no working runtime for {flags[1]}: {reason}")


@functools.cache
def _driver(kind: str) -> Path:
    """Builds the kernels and the driver with sanitizers, or finds them in the cache."""
    try:
        compiler = native.find_compiler()
    except native.NativeBuildError as error:
        pytest.skip(str(error))
    sources = [*sorted(SOURCES.glob("*.cpp")), DRIVER]
    digest = hashlib.sha256(repr((compiler, COMMON, SANITIZERS[kind])).encode())
    digest.update(subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout)
    for path in [*sources, *sorted(SOURCES.glob("*.h"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():  # a cache on a shared disk must not serve another processor's code
        digest.update("".join(sorted(set(re.findall("flags.*", cpuinfo.read_text())))).encode())
    target = cache_folder() / "sanitizers" / digest.hexdigest()[:20] / kind
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        work = Path(folder)
        flags = _usable_flags(compiler, SANITIZERS[kind], work)

        def compile_one(source: Path) -> str:
            done = _execute([*compiler, *flags, "-c", str(source), "-o", str(work / f"{source.stem}.o")])
            assert done.returncode == 0, done.stderr[-4000:]
            return str(work / f"{source.stem}.o")

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, sources))
        done = _execute([*compiler, *flags, *objects, "-o", str(work / kind)])
        assert done.returncode == 0, done.stderr[-4000:]
        os.replace(work / kind, target)
    return target


def test_every_kernel_runs_under_address_and_undefined_behaviour_sanitizers() -> None:
    done = _execute([str(_driver("memory"))])
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[:8000]}"
    assert re.fullmatch(r"ok \d+ \w+\n", done.stdout)


def test_the_sanitizer_sees_a_read_one_past_the_end() -> None:
    done = _execute([str(_driver("memory")), "overread"])
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr and "fs_sum" in done.stderr


def test_the_kernels_and_their_thread_pool_have_no_data_race() -> None:
    done = _execute([str(_driver("threads")), "threads"])
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[:8000]}"
    assert re.fullmatch(r"ok 5 \w+\n", done.stdout)


def test_the_driver_calls_every_exported_kernel() -> None:
    driver = DRIVER.read_text().split("namespace {", 1)[1]  # behind the declarations
    exported = {
        name
        for source in SOURCES.glob("*.cpp")
        for name in re.findall(r'extern "C" [\w ]+?[\w*] ?\*?(fs_\w+)\(', source.read_text())
    }
    assert len(exported) >= 18
    assert sorted(name for name in exported if f"{name}(" not in driver) == []


def _image_and_gradient(seed: int, n: int = 1500) -> list[Tensor]:
    """An image of enough tiles and Gaussians to occupy several threads, and its gradient."""
    x = random_scene(n, 2, k=4, width=90, height=70, seed=seed).to(torch.float32)
    means = x.means.requires_grad_(True)
    image, alpha, _ = rasterization(means, *x.call()[1:], sh_degree=1, render_mode="RGB+D", backend="cpu")
    (image.sin().sum() + alpha.sum()).backward()
    assert means.grad is not None and means.grad.any()
    return [image.detach(), alpha.detach(), means.grad]


def test_two_python_threads_that_render_at_once_both_get_the_right_bits() -> None:
    native.set_threads(2)
    expected = [_image_and_gradient(seed) for seed in range(4)]
    got: dict[int, list[list[Tensor]]] = {}
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        got[seed] = [_image_and_gradient(seed) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == [0, 1, 2, 3]
    for seed, runs in got.items():
        for run in runs:
            assert all(torch.equal(a, b) for a, b in zip(run, expected[seed], strict=True))


FORK = """
import os, sys, threading, torch, native
from tests.rasterizer.test_sanitizers import _image_and_gradient

torch.set_num_threads(1)  # torch's own OpenMP pool does not outlive a fork; the kernels' is tested
expected = _image_and_gradient(0)
native.kernels.library().fs_set_threads(2)
assert native.get_threads() == 2
before = _image_and_gradient(0)  # starts the parent's workers
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        _image_and_gradient(1, n=200)
other = threading.Thread(target=keep_busy) if sys.argv[1] == "busy" else None
if other:
    other.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        ok = all(torch.equal(a, b) for a, b in zip(_image_and_gradient(0), expected))
        os._exit(0 if ok else 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
if other:
    other.join()
assert all(torch.equal(a, b) for a, b in zip(_image_and_gradient(0), expected))  # the parent goes on
assert all(torch.equal(a, b) for a, b in zip(before, expected))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("parent", ["idle", "busy"])
def test_a_forked_child_renders_with_threads_of_its_own(parent: str) -> None:
    # In a process of its own: a fork of pytest's would carry other tests' threads. A hang fails by the limit.
    native.kernels.library()  # the build is not on the child's clock
    done = subprocess.run(
        [sys.executable, "-c", FORK, parent],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
