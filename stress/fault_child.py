"""Runs a command of the program and brings a fault upon it just before its n-th work on a file.

    python -m stress.fault_child '{"fault": "kill", "at": 7, "under": "/out"}' train.py -s scene -m /out

Moments are what python's audit hooks tell of files below `under`: opened for writing, renamed, removed, made.
The command itself is the real one, unchanged; what it does between two moments is hit by `fault_runs.run`'s
`kill_after`. `log` gets a line per moment, so that a run without a fault says which moments there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import threading
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

_TOUCHING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SMALL = 512
"""Bytes that a file may have where a size limit stands for a full disk: less than any file of a run."""


class Fault:
    """Counts moments, and strikes at one of them."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.under = os.path.realpath(plan["under"])
        self.count = 0
        self._here = threading.local()  # what one thread does here must not hide another's moments
        self._one_at_a_time = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if getattr(self._here, "busy", False) or (event != "open" and event not in _TOUCHING):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
        except (TypeError, ValueError):  # a descriptor
            return
        if not path.startswith(self.under) or not fnmatch(path, self.plan.get("match", "*")):
            return
        self._here.busy = True
        try:
            with self._one_at_a_time:
                self.count += 1
                if self.plan.get("log"):
                    with open(self.plan["log"], "a") as log:
                        log.write(f"{event} {os.path.relpath(path, self.under)}\n")
                if self.count == self.plan.get("at"):
                    self.strike()
        finally:
            self._here.busy = False

    def strike(self) -> None:
        """Brings the fault."""
        fault = self.plan["fault"]
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "signal":
            for _ in range(self.plan.get("times", 1)):
                os.kill(os.getpid(), self.plan["number"])
        elif fault == "small_files":  # python ignores SIGXFSZ: writing ends with EFBIG
            resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALL, resource.RLIM_INFINITY))
        elif fault == "fill":
            _fill(Path(self.plan["ballast"]))
        elif fault == "memory":
            limit = _address_space() + int(self.plan["mib"] * 2**20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        elif fault == "damage":
            damage(Path(self.plan["victim"]), self.plan["how"])


def damage(victim: Path, how: str) -> None:
    """Harms a file: `vanish`, `truncate` (to half), `empty`, `change` (to another picture of the folder)."""
    if how == "vanish":
        victim.unlink()
    elif how == "truncate":
        os.truncate(victim, victim.stat().st_size // 2)
    elif how == "empty":
        os.truncate(victim, 0)
    elif how == "change":
        others = sorted(p for p in victim.parent.iterdir() if p != victim and p.suffix == victim.suffix)
        shutil.copyfile(others[-1], victim)
    else:
        raise ValueError(how)


def _fill(ballast: Path) -> None:
    """Writes until the disk is full."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def _address_space() -> int:
    """Bytes of address space that this process has (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main(arguments: list[str]) -> None:
    """Runs `arguments[1:]`: a script of the program's folder, or `-m MODULE`, and its options."""
    sys.addaudithook(Fault(json.loads(arguments[0])))
    root = Path(__file__).resolve().parent.parent
    if arguments[1] == "-m":
        sys.argv = arguments[2:]
        sys.path[0] = str(root)
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        return
    script = str(root / arguments[1])
    sys.argv = [script, *arguments[2:]]
    sys.path[0] = str(root)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
