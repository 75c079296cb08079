"""Each way to end a command has its exit code, says what to do next, and only faults show a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# One process loads torch once and forks for every ending; each writes its stderr and exit code to files.
_PROGRAM = """
import errno, os, pathlib, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
parent = pathlib.Path(sys.argv[2])
import numpy, torch
import engine.command
from engine import *
from errors import UserError
from tests.engine.fakes import make_state
torch.set_num_threads(1)  # forked processes must not inherit a pool of threads that are not there
state = make_state()

def save(output, iteration):
    state.iteration = iteration
    save_checkpoint(checkpoint_path(output.checkpoints, iteration), state, {})

def throw(error):
    raise error

def run(name):
    def main():
        folder = parent / name
        with claim_output(folder) as output, Tracker(folder, 100, events=False, quiet=True) as tracker:
            tracker.bar(7, 1234, resolution=(504, 378))
            if not name.endswith("too early"):
                save(output, 7)
            if name == "stop late":  # another signal while the last checkpoint is looked for
                engine.command._say_what_is_left = lambda *_: signal_self(signal.SIGTERM)
            if name.startswith("stop"):
                return loop(output, tracker, name)
            return endings[name]()
    run_command(main)

def loop(output, tracker, name):
    with StopRequest() as stop:
        for iteration in range(8, 100):
            if iteration == 9:
                os.kill(os.getpid(), signal.SIGTERM if "SIGTERM" in name else signal.SIGINT)
            if iteration == 9 and "twice" in name:
                os.kill(os.getpid(), signal.SIGINT)
            tracker.bar(iteration, 1234)
            if stop.requested:
                save(output, iteration)
                stop.leave()

def signal_self(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def disk_in_a_thread():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    writer = threading.Thread(target=throw, args=(full,))
    writer.start()
    writer.join()
    raise full

endings = {
    "done": lambda: None,
    "own code": lambda: 5,
    "user": lambda: throw(UserError("scale: expected 1, got 2: change --scale")),
    "nan": lambda: throw(NotFinite("iteration 9: the parameter means is not finite: start anew")),
    "nan too early": lambda: throw(NotFinite("iteration 1: the parameter means is not finite: start anew")),
    "memory": lambda: throw(MemoryError()),
    "numpy": lambda: numpy.empty(2**46),
    "torch": lambda: torch.empty(2**60, dtype=torch.uint8),
    "cuda": lambda: throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
    "too early": lambda: throw(MemoryError()),
    "no access": lambda: throw(OSError(errno.EROFS, os.strerror(errno.EROFS), "out/a.png")),
    "disk": lambda: throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.ply")),
    "disk and log": lambda: throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.ply")),
    "quota": lambda: throw(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))),
    "disk in a thread": disk_in_a_thread,
    "fault": lambda: 1 / 0,
    "other os error": lambda: open("/nowhere/x"),
    "other runtime error": lambda: throw(RuntimeError("shapes differ")),
    "ctrl-c": lambda: signal_self(signal.SIGINT),
    "terminated": lambda: signal_self(signal.SIGTERM),
}
for name in [*endings, "stop SIGINT", "stop SIGTERM", "stop twice", "stop late"]:
    child = os.fork()
    if child == 0:
        told = "/dev/full" if name == "disk and log" else parent / (name + ".err")
        os.dup2(os.open(told, os.O_CREAT | os.O_WRONLY), 2)
        try:
            run(name)
        except SystemExit as end:
            os._exit(end.code)
    (parent / (name + ".code")).write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Exit code and stderr of every ending."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    parent = tmp_path_factory.mktemp("endings")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(ROOT), str(parent)],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = {path.stem: int(path.read_text()) for path in parent.glob("*.code")}
    said = {name: parent / f"{name}.err" for name in codes}
    return {
        name: (code, said[name].read_text() if said[name].is_file() else "") for name, code in codes.items()
    }


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("done", 0), ("own code", 5), ("user", 2), ("memory", 3), ("numpy", 3), ("torch", 3), ("cuda", 3),
        ("no access", 2), ("disk", 4), ("disk and log", 4), ("quota", 4), ("disk in a thread", 4),
        ("fault", 1), ("other os error", 1),
        ("other runtime error", 1), ("ctrl-c", 130), ("terminated", 143), ("stop SIGINT", 130),
        ("stop SIGTERM", 143), ("stop twice", 130), ("stop late", 143),
    ],
)  # fmt: skip
def test_an_ending_has_its_exit_code(endings, ending, code):
    assert endings[ending][0] == code, endings[ending][1]


def test_a_users_mistake_is_one_line(endings):
    assert endings["user"][1] == "error: scale: expected 1, got 2: change --scale\n"


@pytest.mark.parametrize("ending", ["memory", "numpy", "torch", "cuda"])
def test_out_of_memory_says_how_large_the_run_was_and_what_to_lower(endings, ending):
    text = endings[ending][1]
    assert "error: out of memory with 1,234 Gaussians at 504x378 pixels" in text
    assert "-r 2" in text and "--densify.max_gaussians" in text


@pytest.mark.parametrize("ending", ["memory", "disk", "ctrl-c", "terminated", "fault", "stop twice"])
def test_every_broken_run_names_its_valid_checkpoint_and_the_command_to_go_on(endings, ending):
    text = endings[ending][1]
    assert "the last checkpoint is valid: " in text and "iteration_7.pt" in text
    assert f"{ending}" in text and text.rstrip().endswith("--resume")


def test_a_training_that_came_to_nothing_names_the_checkpoint_from_before_if_there_is_one(endings):
    code, text = endings["nan"]
    assert code == 6 and "the last checkpoint is from before and valid: " in text and "iteration_7.pt" in text
    assert "--resume would come to the same again" in text
    code, text = endings["nan too early"]
    assert code == 6 and "no checkpoint had been written; start anew with --overwrite" in text
    assert "--resume" not in text and "valid" not in text


def test_only_faults_show_a_traceback(endings):
    shown = {ending for ending, (_, text) in endings.items() if "Traceback" in text}
    assert shown == {"fault", "other os error", "other runtime error"}


def test_a_full_disk_names_the_file(endings):
    assert "error: the disk is full writing a.ply" in endings["disk"][1]


def test_before_the_first_checkpoint_nothing_is_claimed_to_be_valid(endings):
    code, text = endings["too early"]
    assert code == 3 and "no checkpoint had been written" in text and "--resume" not in text


@pytest.mark.parametrize("ending", ["stop SIGINT", "stop SIGTERM"])
def test_the_first_signal_ends_the_loop_after_a_whole_iteration_with_a_checkpoint(endings, ending):
    text = endings[ending][1]
    assert "stopping after this iteration" in text
    assert "stopped after iteration 9\n" in text and "iteration_9.pt" in text


def test_the_second_signal_ends_at_once_and_the_last_checkpoint_is_still_named(endings):
    text = endings["stop twice"][1]
    assert "stopped after iteration 8\n" in text and "iteration_9.pt" not in text


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stopped_command_leaves_no_time_in_which_another_signal_would_end_it_otherwise(number, code):
    """While python takes itself down, signals end a process by their own, with another exit code."""
    program = f"""
import atexit, os, signal
from engine import run_command
atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL))
run_command(lambda: os.kill(os.getpid(), signal.{number}))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == code and ended.stderr.startswith("stopped"), ended


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_after_the_work_is_done_changes_nothing(number):
    program = f"""
import atexit, os, signal
from engine import run_command
atexit.register(lambda: os.kill(os.getpid(), signal.{number}))
run_command(lambda: 0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
