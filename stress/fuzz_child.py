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
from stress.fuzz_figures import Figures, without_details
from stress.fuzz_mutations import BAIT, CANARY
from stress.fuzz_parser import Parser, Seed, contents
from stress.fuzz_watch import GROWTH, Lines, Memory, Watch, limit_memory

CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
"""Beyond these the process ends by SIGPROF or SIGALRM; the second one is for what waits without working."""
PROGRESS = struct.Struct("<2q")
"""Job and input in hand."""
_LONGEST_MESSAGE, _MOST_LINES = 3_000, 12
_KEPT_OF_A_KIND = 3


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
    """Reads one damaged folder: ("valid", "clean" or "failed", why, message or traceback)."""
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


def run(job: dict[str, Any], told: Any) -> None:
    """Reads the inputs of all jobs, in order, and tells the figures of each."""
    parser_named = importlib.import_module(job["module"]).parser_named
    scratch = Path(job["scratch"])
    benches = {name: Bench(parser_named(name), scratch) for name in dict.fromkeys(j[0] for j in job["jobs"])}
    with open(job["progress"], "r+b") as file:
        progress = mmap.mmap(file.fileno(), PROGRESS.size)
    reader = _Reader(job, Watch(scratch), Memory())
    gc.freeze()
    for index, (name, first, last) in enumerate(job["jobs"]):
        figures, lines = Figures(), Lines()
        cpu, wall = time.process_time(), time.perf_counter()
        for number in range(first, last):
            PROGRESS.pack_into(progress, 0, index, number)
            which, changed = make_input(benches[name].seeds, random_of(job["seed"], name, number))
            if not job["read"]:
                keep(Path(job["output"]), name, number, changed, "not read")
                continue
            reader.read(benches[name], number, which, changed, figures, lines)
        figures.cpu_seconds, figures.wall_seconds = time.process_time() - cpu, time.perf_counter() - wall
        figures.reached, figures.entered = lines.reached, lines.entered
        told.write(json.dumps({"job": index, "figures": figures.to_json(), "failed": reader.failed}) + "\n")
        told.flush()
        reader.failed.clear()


class _Reader:
    """Reads inputs one by one, within the limits."""

    def __init__(self, job: dict[str, Any], watch: Watch, memory: Memory) -> None:
        self.failed: list[tuple[int, str]] = []
        self._job, self._watch, self._memory = job, watch, memory
        self._kinds = Counter[str]()

    def read(
        self,
        bench: Bench,
        number: int,
        which: int,
        changed: dict[str, bytes],
        figures: Figures,
        lines: Lines,
    ) -> None:
        """Reads one input and adds what came of it."""
        if number % 50 == 0:
            limit_memory()
        self._memory.begin()
        signal.setitimer(signal.ITIMER_PROF, self._job["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        began = time.process_time()
        kind, why, said = judge(bench, which, changed, self._watch)
        seconds = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = self._memory.growth_mib()
        if grown > GROWTH / 2**20 and not why:
            kind, why = "failed", f"took {grown:,.0f} MiB"
        figures.done.add(number)
        figures.worst_seconds = max(figures.worst_seconds, seconds)
        figures.worst_mib = max(figures.worst_mib, grown)
        if kind == "valid":
            figures.valid += 1
        elif kind == "clean":
            figures.clean += 1
            figures.refusals[without_details(said, bench.folders[which])] += 1
        else:
            self.failed.append((number, why))
            figures.kinds[why] += 1
        if self._kept(kind, why):
            words = f"{why or kind}\n\n{said}"
            keep(Path(self._job["output"]), bench.parser.name, number, changed, words)
        bench.restore(bench.folders[which], bench.seeds[which])
        if number % 50 == 0 and kind != "failed" and seconds < 0.1:
            lines.during(lambda: judge(bench, which, changed, self._watch))
            bench.restore(bench.folders[which], bench.seeds[which])

    def _kept(self, kind: str, why: str) -> bool:
        """Whether an input is worth keeping: the first few of a kind of failure."""
        self._kinds[why] += 1
        return self._job["keep"] or (kind == "failed" and self._kinds[why] <= _KEPT_OF_A_KIND)


def keep(output: Path, name: str, number: int, changed: dict[str, bytes], words: str) -> None:
    """Saves an input beside what came of it."""
    folder = output / name / str(number)
    put(folder, changed)
    (folder / "what.txt").write_text(words, "utf-8", errors="backslashreplace")


def _end_with_parent(folder: Path) -> None:
    """Ends the process where its parent is gone, which holds the other end of the standard input."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
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
    scratch = Path(job["scratch"])
    threading.Thread(target=_end_with_parent, args=(scratch.parent,), daemon=True).start()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    run(job, told)


if __name__ == "__main__":
    main()
