"""What a process sees of itself while it reads a damaged file: opened files, started programs, memory, lines.

Files that C++ opens by itself are not heard; of ours pycolmap does so, and only reads.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from stress.fuzz_mutations import BAIT

GROWTH = 1 << 30
"""Bytes of address space beyond what the process has before an input."""
_ROOT = Path(__file__).resolve().parent.parent
_EXECUTES = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "socket.getaddrinfo", "urllib.Request", "pty.spawn"),
)
_WRITES = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Watch:
    """What Python says of opened files and started programs while an input is read."""

    def __init__(self, scratch: Path) -> None:
        self.heard: list[str] = []
        self.on = False
        self.reads_elsewhere = False
        self._scratch = os.path.realpath(scratch)
        own = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), _ROOT, "/proc", "/sys", "/usr")
        self._readable = tuple(os.path.realpath(path) + os.sep for path in (*own, *_DEVICES))
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
            real = os.path.realpath(os.fsdecode(path)) + os.sep
        except ValueError:  # a null character: the system call will refuse it
            return True
        bait = os.path.join(self._scratch, BAIT) + os.sep
        return real.startswith(self._scratch + os.sep) and not real.startswith(bait)

    def _refuse(self, what: str) -> None:
        self.heard.append(what)
        raise PermissionError(f"fuzzing: {what}")


def limit_memory() -> None:
    """Lets the process grow by 1 GiB beyond what it has now."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + GROWTH, resource.RLIM_INFINITY))


class Memory:
    """The most memory that is held between two moments, where the system can say."""

    def __init__(self) -> None:
        self._clear = open("/proc/self/clear_refs", "w")
        self._status = open("/proc/self/status")

    def begin(self) -> None:
        """Forgets the highest mark."""
        self._clear.write("5")
        self._clear.flush()
        self._before = self._kib("VmRSS")

    def growth_mib(self) -> float:
        """How far the highest mark lies above the beginning."""
        return max(0.0, (self._kib("VmHWM") - self._before) / 1024)

    def _kib(self, name: str) -> int:
        self._status.seek(0)
        found = re.search(rf"{name}:\s*(\d+)", self._status.read())
        return int(found[1]) if found else 0


class Lines:
    """Lines of the program that are run while something is called, and all lines of what was entered.

    Attributes:
        reached: file, from the repository's root -> lines that were run.
        entered: likewise, all lines of the functions that were entered.
    """

    def __init__(self) -> None:
        self.reached: dict[str, set[int]] = {}
        self.entered: dict[str, set[int]] = {}
        self._of: dict[CodeType, set[int] | None] = {}

    def during(self, call: Callable[[], Any]) -> None:
        """Calls, which takes several times as long as it does otherwise."""
        sys.settrace(self._call)
        try:
            call()
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code not in self._of:
            self._of[code] = self._enter(code)
        lines = self._of[code]
        if lines is None:
            return None
        lines.add(code.co_firstlineno)

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            lines.add(frame.f_lineno)
            return line

        return line

    def _enter(self, code: CodeType) -> set[int] | None:
        try:
            name = Path(code.co_filename).relative_to(_ROOT).as_posix()
        except ValueError:
            return None
        if name.startswith((".venv/", "stress/", "tests/")):
            return None
        self.entered.setdefault(name, set()).update(line for _, _, line in code.co_lines() if line)
        return self.reached.setdefault(name, set())
