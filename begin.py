"""What a command does before it imports torch, which takes seconds. Imports nothing that is slow itself."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import select
import signal
import sys
from types import TracebackType

from memory_limit import memory_left

_NO_MEMORY = (
    "failed to map segment",
    "cannot allocate memory",
    "can't start new thread",
    "cannot create shared object",
)
_ROOMY, _LOADED = 4 * 2**30, 2**30
_PATIENCE_S = 120.0
"""For loading what takes five seconds, and a minute from a slow disk."""
_WAITS: list[int] = []
"""The end of a pipe on which a parent waits until all is loaded."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def begin() -> None:
    """Lets Ctrl-C end the command at once while torch loads, and says what to do where there is no torch.

    Raises:
        SystemExit: code 2; torch is not installed.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing has begun yet
    sys.excepthook = _fail
    if _warn_of_limit():
        _watch()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads would spin where ours work
    if importlib.util.find_spec("torch") is None:
        print(
            f"error: torch is not installed for {sys.executable}: source .venv/bin/activate, or call "
            "scripts/demo once, which installs everything",
            file=sys.stderr,
        )
        sys.exit(2)


def loaded() -> None:
    """Called when all libraries are there: from now on the command may take as long as it likes."""
    while _WAITS:
        os.close(_WAITS.pop())


def _watch() -> None:
    """Goes on in a child, and says in its place what it died of: C++ that gets no memory aborts, or worse.

    The parent ends as the child does, hands on SIGTERM, and leaves Ctrl-C to the child, which hears it too.
    """
    ours, childs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _WAITS.append(childs)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    os.close(childs)
    if not select.select([ours], [], [], _PATIENCE_S)[0]:  # neither loaded nor dead
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(
            f"error: out of memory: a library still waits for it after {_PATIENCE_S:.0f} s, as OpenBLAS does "
            "where it gets no address space: raise ulimit -v",
            file=sys.stderr,
            flush=True,
        )
        os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS):
        print(
            "error: out of memory in a library, which has ended the program: raise ulimit -v; what had been "
            "saved is intact: go on with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(3)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _warn_of_limit() -> bool:
    """Says so where memory is too short to load the libraries, which ends in ways that say nothing.

    Of address space (returns True then): OpenBLAS waits forever for a buffer that it cannot get, and C++
    aborts. Of a group: SIGKILL.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return False
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _ROOMY:
        print(
            f"warning: ulimit -v leaves {limit / 2**30:.1f} GiB of address space: loading the libraries may "
            "fail below 4 GiB; limit memory by a cgroup instead (systemd-run -p MemoryMax=4G)",
            file=sys.stderr,
            flush=True,
        )
    limited = memory_left()
    given = os.environ.get("LOCAL_WORLD_SIZE", "")  # of torchrun
    processes = max(1, int(given)) if given.isdecimal() else 1
    if limited is not None and limited[1] < processes * _LOADED:
        print(
            "warning: the control group of this process (a container, a systemd unit, a batch job) leaves "
            f"{limited[1] / 2**30:.1f} of {limited[0] / 2**30:.1f} GiB of memory: the libraries take about "
            f"1 GiB{' in each process' if processes > 1 else ''}, and the system kills what takes more: "
            "raise its limit",
            file=sys.stderr,
            flush=True,
        )
    return limit != resource.RLIM_INFINITY and limit < _ROOMY


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says in a line what keeps the program from being loaded: a library of the system (2), memory (3)."""
    lines = [line for line in _story(error) if any(known in line.lower() for known in _NO_MEMORY)]
    if isinstance(error, ImportError) and error.name == "cv2" and not lines:
        print(
            f"error: OpenCV lacks a library of the system ({error}): install it (Debian and Ubuntu: apt "
            "install libgl1 libglib2.0-0 libxcb1), or take OpenCV without windows: pip uninstall -y "
            "opencv-python && pip install opencv-python-headless",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)
    if not isinstance(error, MemoryError) and not lines:
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"error: out of memory while the program was being loaded ({lines[-1] if lines else 'no reason'}): "
        "it needs about 1 GiB, and 4 GiB of address space: end other programs, or raise ulimit -v",
        file=sys.stderr,
        flush=True,
    )
    os._exit(3)


def _story(error: BaseException | None) -> list[str]:
    """The lines of an error, and of those that it came of: a library may say less than what it met itself."""
    lines: list[str] = []
    for _ in range(10):
        if error is None:
            break
        lines += str(error).splitlines()
        error = error.__cause__ or error.__context__
    return lines
