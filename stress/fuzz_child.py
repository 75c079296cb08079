"""The process that reads damaged files, one after the other, and may die of it.

Its parent learns from a small shared file which input was being read. Limits: CPU and wall seconds by timers
whose signal ends the process, address space by the system; what is executed, or read or written elsewhere, is
heard by an audit hook.

    python -m stress.fuzz_child JOB.json     (started by stress.fuzzing)
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import logging
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from errors import UserError
from stress.fuzz_mutations import BAIT, CANARY
from stress.fuzz_parser import Parser, Seed, contents

CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
"""Beyond these the process ends by SIGPROF or SIGALRM; the second one is for what waits without working."""
GROWTH = 1 << 30  # bytes of address space beyond what the process has before an input
PROGRESS = struct.Struct("<2q6d")
"""Job and input in hand; of this job: inputs, valid, clean, failed, CPU seconds and MiB at worst."""
_LONGEST_MESSAGE, _MOST_LINES = 3_000, 12
_EXECUTES = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "socket.getaddrinfo", "urllib.Request", "pty.spawn"),
)
_WRITES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_KEPT_OF_A_KIND = 3


class Watch:
    """What Python says of opened files and started programs while an input is read."""

    def __init__(self, scratch: Path) -> None:
        self.heard: list[str] = []
        self.on = False
        self.reads_elsewhere = False
        self._scratch = os.path.realpath(scratch)
        root = Path(__file__).resolve().parent.parent
        own = (
            sys.prefix,
            sys.base_prefix,
            os.path.dirname(os.__file__),
            root,
            "/proc",
            "/sys",
            "/dev",
            "/usr",
        )
        self._readable = tuple(os.path.realpath(path) + os.sep for path in own)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            self._opened(*details)
        elif event in _EXECUTES:
            self._refuse(f"{event} {details!r}"[:300])
        elif event in _WRITES:
            for path in details[:2]:
                if isinstance(path, (str, bytes)) and not self._inside(path):
                    self._refuse(f"{event} {path!r}"[:300])

    def _opened(self, path: Any, mode: Any, flags: int) -> None:
        if isinstance(path, int) or path is None:
            return
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if self._inside(path) or (writes and os.fsdecode(path) == os.devnull):
            return
        if writes:
            self._refuse(f"writes {path!r}"[:300])
        real = os.path.realpath(os.fsdecode(path))
        if not self.reads_elsewhere and not (real + os.sep).startswith(self._readable):
            self.heard.append(f"reads {path!r}"[:300])

    def _inside(self, path: Any) -> bool:
        try:
            real = os.path.realpath(os.fsdecode(path))
        except ValueError:  # a null character: the system call will refuse it
            return True
        bait = os.path.join(self._scratch, BAIT)
        return real.startswith(self._scratch) and not (real + os.sep).startswith(bait + os.sep)

    def _refuse(self, what: str) -> None:
        self.heard.append(what)
        raise PermissionError(f"fuzzing: {what}")


class _Unheard(logging.Handler):
    """Makes every message, as showing it would, and drops it."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


def random_of(seed: int, parser: str, number: int) -> Random:
    """The generator of one input: the same in every process."""
    return Random(f"{seed} {parser} {number}")


def make_input(seeds: list[Seed], rng: Random) -> tuple[int, dict[str, bytes]]:
    """Which seed, and the files of it that are damaged, with their new content."""
    which = rng.randrange(len(seeds))
    seed = seeds[which]
    names = sorted(seed.aims)
    chosen = rng.sample(names, 2 if len(names) > 1 and rng.random() < 0.1 else 1)
    return which, {name: seed.aims[name](rng, seed.files[name]) for name in chosen}


class Bench:
    """One parser with its seeds laid out as folders, into which damaged files are put and taken out again."""

    def __init__(self, parser: Parser, scratch: Path) -> None:
        self.parser = parser
        work = scratch / "making" / parser.name
        work.mkdir(parents=True)
        self.seeds = parser.seeds(work)
        self.folders = [scratch / parser.name / str(index) for index in range(len(self.seeds))]
        for folder, seed in zip(self.folders, self.seeds, strict=True):
            folder.mkdir(parents=True)
            put(folder, seed.files)
            (folder.parent / BAIT).mkdir(exist_ok=True)
            put(scratch / BAIT, {f"secret{end}": b"secret" for end in (".png", ".npy", ".ply", "")})
            with contextlib.suppress(UserError) if seed.refused else contextlib.nullcontext():
                self.parser.read(folder)  # an error ends the process: the parser or its seed is wrong
            self.restore(folder, seed)

    def restore(self, folder: Path, seed: Seed) -> None:
        """Brings a folder back to the seed's files, whatever reading has left in it."""
        found = contents(folder)
        if found.keys() - seed.files.keys():
            for name in found.keys() - seed.files.keys():
                (folder / name).unlink()
        put(folder, {name: data for name, data in seed.files.items() if found.get(name) != data})


def put(folder: Path, files: Any) -> None:
    """Writes files by their names in a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def judge(bench: Bench, which: int, changed: dict[str, bytes], watch: Watch) -> tuple[str, str, str]:
    """Reads one damaged folder: ("valid", "clean" or "failed", why, traceback)."""
    folder = bench.folders[which]
    put(folder, changed)
    watch.heard.clear()
    watch.reads_elsewhere = bench.parser.reads_elsewhere
    kind, why, trace = "valid", "", ""
    watch.on = True
    try:
        loaded = bench.parser.read(folder)
        kind = "clean" if loaded is False else "valid"
    except UserError as error:
        watch.on = False
        kind, why = "clean", unclear(str(error), folder, changed)
        trace = str(error)
    except Exception as error:
        watch.on = False
        trace = traceback.format_exc()
        kind, why = "failed", signature(error)
    finally:
        watch.on = False
    if watch.heard:
        why = watch.heard[0]
    if Path(CANARY).exists() or (folder / CANARY).exists():
        Path(CANARY).unlink(missing_ok=True)
        why = "a file's code was run"
    return ("failed" if why else kind), why, trace


def unclear(message: str, folder: Path, changed: dict[str, bytes]) -> str:
    """What is wrong with a message to the user; empty if nothing is."""
    names = [folder.name, *(Path(name).name for name in changed), str(folder)]
    if not any(name in message for name in names[1:]):
        return "a message that does not name the file"
    if len(message) > _LONGEST_MESSAGE or message.count("\n") >= _MOST_LINES:
        return f"a message of {len(message):,} characters in {message.count(chr(10)) + 1} lines"
    return "a traceback as a message" if "Traceback (most recent" in message else ""


def signature(error: BaseException) -> str:
    """The error's kind, its words without numbers, and the last line of ours that it went through."""
    root = str(Path(__file__).resolve().parent.parent)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(root) and "/.venv/" not in f.filename]
    at = f"{Path(ours[-1].filename).relative_to(root)}:{ours[-1].lineno}" if ours else "?"
    words = re.sub(r"\d+", "N", " ".join(str(error).split()))[:100]
    return f"{type(error).__name__} at {at}: {words}"


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + GROWTH, resource.RLIM_INFINITY))


class _Memory:
    """The most memory that is held between two moments, where the system can say."""

    def __init__(self) -> None:
        self._clear = open("/proc/self/clear_refs", "w")
        self._status = open("/proc/self/status")

    def begin(self) -> None:
        self._clear.write("5")
        self._clear.flush()
        self._before = self._kib("VmRSS")

    def growth_mib(self) -> float:
        return max(0.0, (self._kib("VmHWM") - self._before) / 1024)

    def _kib(self, name: str) -> int:
        self._status.seek(0)
        found = re.search(rf"{name}:\s*(\d+)", self._status.read())
        return int(found[1]) if found else 0


def run(job: dict[str, Any], told: Any) -> None:
    """Reads the inputs of all jobs, in order."""
    parser_named = importlib.import_module(job["module"]).parser_named
    scratch, output = Path(job["scratch"]), Path(job["output"])
    benches = {name: Bench(parser_named(name), scratch) for name in dict.fromkeys(j[0] for j in job["jobs"])}
    with open(job["progress"], "r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS.size)
    watch, memory, kinds = Watch(scratch), _Memory(), Counter[str]()
    gc.freeze()
    told.write('{"ready": true}\n')
    told.flush()
    for index, (name, first, last) in enumerate(job["jobs"]):
        bench, counts, worst_s, worst_mib = benches[name], Counter[str](), 0.0, 0.0
        for number in range(first, last):
            three = (counts["valid"], counts["clean"], counts["failed"])
            PROGRESS.pack_into(progress, 0, index, number, counts.total(), *three, worst_s, worst_mib)
            which, changed = make_input(bench.seeds, random_of(job["seed"], name, number))
            if job.get("keep"):
                keep(output, name, number, changed, "kept")
                continue
            if number % 50 == 0:
                _limit_memory()
            memory.begin()
            signal.setitimer(signal.ITIMER_PROF, job["cpu_seconds"])
            signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
            began = time.process_time()
            kind, why, trace = judge(bench, which, changed, watch)
            seconds = time.process_time() - began
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            grown = memory.growth_mib()
            if grown > GROWTH / 2**20 and not why:
                kind, why = "failed", f"took {grown:,.0f} MiB"
            worst_s, worst_mib = max(worst_s, seconds), max(worst_mib, grown)
            counts[kind] += 1
            if kind == "failed":
                kinds[f"{name} {why}"] += 1
                if kinds[f"{name} {why}"] <= _KEPT_OF_A_KIND:
                    keep(output, name, number, changed, f"{why}\n\n{trace}")
                told.write(json.dumps({"parser": name, "number": number, "why": why}) + "\n")
                told.flush()
            bench.restore(bench.folders[which], bench.seeds[which])
        done = {"done": index, "s": worst_s, "mib": worst_mib}
        told.write(json.dumps(done | {kind: counts[kind] for kind in ("valid", "clean", "failed")}) + "\n")
        told.flush()


def keep(output: Path, name: str, number: int, changed: dict[str, bytes], words: str) -> None:
    """Saves an input beside what came of it."""
    folder = output / name / str(number)
    put(folder, changed)
    (folder / "what.txt").write_text(words, "utf-8", errors="backslashreplace")


def _end_with_parent() -> None:
    """Ends the process where its parent is gone, which holds the other end of the standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Reads the job, sends what libraries print away, and runs it."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    told = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    faulthandler.enable(all_threads=False)
    for number in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(number, all_threads=False, chain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    logging.basicConfig(handlers=[_Unheard()], level=logging.DEBUG)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    scratch = Path(job["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    run(job, told)


if __name__ == "__main__":
    main()
