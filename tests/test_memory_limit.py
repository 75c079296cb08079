"""The limits of control groups: which one counts, and that too much fails where it is asked for.

Not checked here: groups of the second version on a real kernel (this is what files of such groups say); a
whole training in a group (tests/stress/test_faults.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memory_limit
from memory_limit import memory_left

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent


class Machine:
    """A machine of 8 GiB with 1 GiB of swap that is free."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(
            f"MemTotal: {8 * 2**20} kB\nSwapFree: {2**20} kB\nHugePages: none\n"
        )

    def within(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def group(self, place: str, **files: object) -> None:
        folder = self.groups / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / f"memory.{name}".replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path)
    monkeypatch.setattr(memory_limit, "PROC", made.proc)
    monkeypatch.setattr(memory_limit, "CGROUPS", made.groups)
    return made


def test_the_tightest_of_the_groups_above_one_counts(machine):
    machine.within("0::/user/job")
    machine.group("user/job", max="max", current=500 * MIB, stat="anon 1", swap__max=0)
    machine.group("user", max=3000 * MIB, current=900 * MIB, swap__max=0, stat="inactive_file 0")
    machine.group("", stat="anon 1")  # the top has no limit at all
    assert memory_left() == (3000 * MIB, 2100 * MIB)
    machine.group("user/job", max=2000 * MIB)
    assert memory_left() == (2000 * MIB, 1500 * MIB)


def test_files_that_the_kernel_keeps_and_swap_are_room(machine):
    machine.within("0::/job")
    stat = f"anon {400 * MIB}\ninactive_file {300 * MIB}\nactive_file {200 * MIB}"
    machine.group("job", max=1000 * MIB, current=950 * MIB, stat=stat, swap__max=0)
    assert memory_left() == (1000 * MIB, 550 * MIB)
    machine.group("job", swap__max=100 * MIB)
    assert memory_left() == (1000 * MIB, 650 * MIB)
    machine.group("job", swap__max="max")  # what the machine has
    assert memory_left() == (1000 * MIB, 1574 * MIB)


def test_groups_of_the_first_version_are_read_too(machine):
    machine.within("5:devices:/", "4:cpu,memory:/docker/0123", "0::/")
    stat = f"inactive_file 7\ntotal_inactive_file {50 * MIB}\ntotal_active_file 0"
    machine.group("memory", limit_in_bytes=1000 * MIB, usage_in_bytes=250 * MIB, stat=stat)
    machine.group("memory", memsw__limit_in_bytes=1000 * MIB)  # no swap beyond it
    assert memory_left() == (1000 * MIB, 800 * MIB), "within a container, its group is the top"
    machine.group("memory", limit_in_bytes=2**63 - 4096)
    assert memory_left() is None, "as large as that means none"


@pytest.mark.parametrize("lines", [(), ("0::/gone",), ("0::/../../elsewhere",), ("nonsense",)])
def test_without_groups_there_is_no_limit(machine, lines):
    machine.within(*lines)
    assert memory_left() is None
    (machine.proc / "self" / "cgroup").unlink()
    assert memory_left() is None


ASKS = """
import resource, sys
from pathlib import Path
import memory_limit
memory_limit.PROC, memory_limit.CGROUPS = Path(sys.argv[1]), Path(sys.argv[2])
(memory_limit.PROC / "self" / "status").write_text(Path("/proc/self/status").read_text())
assert memory_limit.heed(processes=int(sys.argv[3]), threads=0) == 1 << 30
held = bytearray(int(sys.argv[4]) << 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize(("processes", "mib", "fits"), [(1, 400, True), (1, 600, False), (2, 400, False)])
def test_too_much_fails_where_it_is_asked_for(machine, processes, mib, fits):
    """512 MiB are left for all processes of the group; 400 and 600 are far from it on either side."""
    machine.within("0::/")
    machine.group("", max=1024 * MIB, current=512 * MIB, swap__max=0, stat="anon 1")
    words = [sys.executable, "-c", ASKS, str(machine.proc), str(machine.groups), str(processes), str(mib)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=False)
    assert (ended.returncode, "MemoryError" in ended.stderr) == ((0, False) if fits else (1, True)), ended


def test_a_group_that_cannot_hold_the_libraries_is_warned_of(monkeypatch, capfd):
    import begin

    for left, warned in ((900 * MIB, True), (1100 * MIB, False)):
        monkeypatch.setattr(begin, "memory_left", lambda left=left: (1200 * MIB, left))
        begin._warn_of_limit()
        assert ("of 1.2 GiB of memory" in capfd.readouterr().err) == warned


WATCHED = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
import begin
begin.begin()
{end}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is done there is for Linux' limits")
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [("os.abort()", 3, "error: out of memory in a library"), ("sys.exit(6)", 6, ""), ("", 0, ""),
     ("os.kill(os.getpid(), signal.SIGKILL)", -9, "")],
)  # fmt: skip
def test_with_little_address_space_a_parent_says_what_a_library_cannot(end, code, said):
    """C++ that gets no memory aborts the process; nothing of Python runs then."""
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED.format(end=end)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code and "warning: ulimit -v leaves 3.0 GiB" in ended.stderr, ended
    assert said in ended.stderr and ("error:" in ended.stderr) == bool(said)


@pytest.mark.skipif(sys.platform != "linux", reason="what is done there is for Linux' limits")
@pytest.mark.parametrize(("end", "code"), [("", 3), ("begin.loaded()", 0)])
def test_a_library_that_waits_for_memory_is_not_waited_for(end, code):
    """As OpenBLAS does at some sizes; a command that has loaded may take as long as it likes."""
    script = WATCHED.format(end=f"{end}\nimport time\ntime.sleep(3 if {bool(end)} else 600)")
    script = script.replace("begin.begin()", "begin._PATIENCE_S = 1.0\nbegin.begin()")
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended
    assert ("a library still waits for it after 1 s" in ended.stderr) == (code == 3)


@pytest.mark.skipif(sys.platform != "linux", reason="what is done there is for Linux' limits")
def test_signals_reach_the_child_of_such_a_parent():
    end = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('here', flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED.format(end=end)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"here\n"
        parent.terminate()
        assert parent.wait(60) == 143


def test_each_process_of_torchrun_needs_its_own_libraries(monkeypatch, capfd):
    import begin

    monkeypatch.setattr(begin, "memory_left", lambda: (1200 * MIB, 1100 * MIB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    begin._warn_of_limit()
    assert "about 1 GiB in each process" in capfd.readouterr().err
