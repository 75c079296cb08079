"""How a command ends: one line for the user, an exit code for scripts, and no harm to the last checkpoint.

| what happened | exit code |
|---|---|
| done | 0 |
| a fault of the program (traceback) | 1 |
| a mistake in the input: `UserError`; a file that cannot be read or written | 2 |
| out of memory, CPU or GPU | 3 |
| the disk is full | 4 |
| another process of the training has ended | 5 |
| the training has come to NaN or infinite numbers: `NotFinite` | 6 |
| Ctrl-C | 130 |
| SIGTERM | 143 |

Facts about the run (its folder, the number of Gaussians) reach the message by riding on the exception: the
context managers that know them call `add_facts` as it passes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, NoReturn

from begin import loaded
from engine import words
from engine.checkpoint import latest_checkpoint
from engine.finite import CameToNothing
from errors import SaidElsewhere, UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
_NO_MEMORY = (
    *("can't allocate", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("can't start new thread", "failed to map segment"),  # of python, and of the loader of libraries
)
_FACTS = "_run_facts"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_AT_ONCE: list[bool] = []


class Stopped(BaseException):
    """The run ended because a signal asked for it, after a whole iteration.

    Not an `Exception`, so that nothing in between takes it for an error.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish that the loop reads; the second stops at once.

    Use as a context manager around the loop:

        with StopRequest() as stop:
            for iteration in ...:
                ...
                if stop.requested:
                    save_checkpoint(...)
                    stop.leave()

    Outside the main thread, where python delivers no signals, it never requests anything.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Says whether the loop should stop after this iteration."""
        return self._number is not None

    def request(self) -> None:
        """Requests it as a SIGTERM would, where no signal has: another process of the training got one."""
        if self._number is None:
            self._number = signal.SIGTERM

    def leave(self) -> NoReturn:
        """Leaves the loop with the exit code of the signal that was received.

        Raises:
            Stopped: always.
        """
        assert self._number is not None, "leave() before a request"
        raise Stopped(self._number)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            raise Stopped(number)
        self._number = number
        print("\nstopping after this iteration (again to stop at once)", file=sys.stderr, flush=True)


def add_facts(error: BaseException, **facts: Any) -> None:
    """Attaches what is known about the run to an exception that is passing through.

    Args:
        error: the exception; facts already on it win.
        **facts: any of `output` (the run's folder), `iteration`, `gaussians` (their number) and
            `resolution` (width, height).
    """
    known = getattr(error, _FACTS, {})
    setattr(error, _FACTS, {**facts, **known})


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command's main function and exits the process with the code of the table above."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # as an exception, so that files and locks are let go
        signal.signal(signal.SIGINT, signal.default_int_handler)
    loaded()
    threading.excepthook = _fail_in_a_thread
    words.hear()
    try:
        code = main() or 0
        sys.stdout.flush()
    except SystemExit:
        raise
    except BrokenPipeError:  # who read our output has gone (`| head`): the work is done or not worth a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        code = _report(error)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # python would try again while it ends, and take that for how the command ended
        os._exit(code)
    if _AT_ONCE or code >= 128:  # of a signal: another one would end python in its own way while it cleans up
        os._exit(code)
    if threading.current_thread() is threading.main_thread():  # all is done: what is left is python's own
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


def end_at_once() -> None:
    """Lets `run_command` end the process without python's own clean-up.

    For processes that are connected: gloo's threads hold tensors, and one that lets go of its own while
    python is being taken down aborts the process (SIGABRT) after all its work is done.
    """
    _AT_ONCE.append(True)


def end_with_parent() -> None:
    """Called in a child before it runs its program: the system sends it SIGTERM when its parent has ended.

    On Linux; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _fail_in_a_thread(what: threading.ExceptHookArgs) -> None:
    """Says nothing of a full disk: TensorBoard's writer meets it first, and hands it on to who calls next."""
    if not (isinstance(what.exc_value, OSError) and what.exc_value.errno in DISK_FULL):
        threading.__excepthook__(what)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _tell(text: str, kind: Literal["", "error"] = "") -> None:
    """Says it where that can be: a log on a disk that is full does not change how the command ends."""
    with contextlib.suppress(OSError):
        words.say(text, kind)


def _trace(error: BaseException) -> None:
    """Shows where it came from, likewise."""
    with contextlib.suppress(OSError):
        traceback.print_exception(error)


def _report(error: BaseException) -> int:
    """Prints what happened and what to do next on stderr; returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # there is nothing left to let go of
            signal.signal(number, lambda received, _: os._exit(128 + received))
    facts: dict[str, Any] = getattr(error, _FACTS, {})
    if words.heard("debug") and isinstance(error, Exception):
        _trace(error)
    if isinstance(error, SaidElsewhere):
        return error.exit_code
    if isinstance(error, UserError):
        _tell(str(error), "error")
        if isinstance(error, CameToNothing):
            _say_what_is_left(facts.get("output"), to_nothing=True)
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        code = error.exit_code if isinstance(error, Stopped) else 128 + signal.SIGINT
        _tell("stopped" + (f" after iteration {facts['iteration']}" if facts.get("iteration") else ""))
    elif _is_out_of_memory(error):
        code = 3
        _tell(
            f"out of memory{_size(facts)}: use smaller images (-r 2) or lower --densify.max_gaussians",
            "error",
        )
    elif isinstance(error, OSError) and error.errno in DISK_FULL:
        code = 4
        where = f" writing {error.filename}" if error.filename else ""
        _tell(
            f"the disk is full{where} ({error.strerror}): free some space, or choose another folder", "error"
        )
    elif isinstance(error, OSError) and error.errno in _NO_ACCESS and error.filename:
        code = 2
        _tell(
            f"{os.fsdecode(error.filename)}: cannot be read or written ({error.strerror}): correct its "
            "permissions or what is in its place, or choose another folder",
            "error",
        )
    else:
        code = 1
        if not words.heard("debug"):
            _trace(error)
    _say_what_is_left(facts.get("output"))
    return code


def _say_what_is_left(output: Path | None, *, to_nothing: bool = False) -> None:
    """Names a run's last valid checkpoint and the command that goes on from it, if a run had begun.

    Where it came `to_nothing`, going on would do so again.
    """
    if output is None:
        return
    last = latest_checkpoint(output / "checkpoints")
    if last is None:
        _tell("no checkpoint had been written; start anew with --overwrite")
    elif to_nothing:
        _tell(f"the last checkpoint is from before and valid: {last}\n--resume would come to the same again")
    else:
        command = f"{shlex.quote(sys.argv[0])} -m {shlex.quote(str(output))} --resume"
        _tell(f"the last checkpoint is valid: {last}\ngo on with: python {command}")


def _size(facts: dict[str, Any]) -> str:
    """Returns ' with N Gaussians at WxH pixels', as far as it is known."""
    text = f" with {facts['gaussians']:,} Gaussians" if facts.get("gaussians") else ""
    if facts.get("resolution"):
        width, height = facts["resolution"]
        text += f" at {width}x{height} pixels"
    return text


def _is_out_of_memory(error: BaseException) -> bool:
    """Says whether memory ran out: python's own error, or torch's, which differ only in their text."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(
        words in str(error).lower() for words in _NO_MEMORY
    )
