"""Checkpoints hold the whole state, survive every kind of ending, and refuse what is not theirs."""

from __future__ import annotations

import copy
import errno
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from atomic import atomic_write
from engine import (
    CheckpointError,
    OutputFolder,
    checkpoint_path,
    claim_output,
    latest_checkpoint,
    load_checkpoint,
    restore,
    save_checkpoint,
    seed_everything,
)
from engine.checkpoint import KIND
from tests.engine.fakes import make_state, train, tree_equal

ROOT = Path(__file__).resolve().parents[2]


def saved(folder, state=None, iteration=None, **options):
    state = state or make_state()
    state.iteration = state.iteration if iteration is None else iteration
    path = checkpoint_path(folder, state.iteration)
    save_checkpoint(path, state, {"iterations": 10}, **options)
    return path


def contents(state):
    return [state.gaussians.state_dict(), state.optimizer.state_dict(), state.densifier.state_dict(),
            state.sampler.state_dict(), state.generator.get_state(), state.iteration]  # fmt: skip


def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path):
    seed_everything(3)
    whole = make_state()
    train(whole, 7)
    path = saved(tmp_path, whole)
    expected = train(whole, 8)

    seed_everything(99)  # every generator elsewhere, and other values: all must come from the file
    resumed = make_state(n=4, seed=5)
    restore(resumed, load_checkpoint(path))
    assert resumed.iteration == 7
    assert train(resumed, 8) == expected
    assert tree_equal(contents(resumed), contents(whole))


def test_python_and_numpy_generators_are_restored(tmp_path):
    seed_everything(1)
    random.gauss(0, 1)  # leaves half of a pair behind, which is state too
    np.random.standard_normal()
    path = saved(tmp_path)
    expected = [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()]
    seed_everything(2)
    restore(make_state(), load_checkpoint(path))
    assert [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()] == expected


def test_parameters_after_restoring_are_those_the_optimizer_moves(tmp_path):
    path = saved(tmp_path, make_state(n=30))
    state = make_state(n=3)
    restore(state, load_checkpoint(path))
    before = state.gaussians.params["means"].detach().clone()
    train(state, 1)
    assert not torch.equal(before, state.gaussians.params["means"].detach())


def test_the_last_k_and_the_protected_checkpoints_stay(tmp_path):
    for iteration in (5, 10, 15, 20, 100):
        saved(tmp_path, iteration=iteration, keep=2, protected=(10,))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "iteration_10.pt", "iteration_100.pt", "iteration_20.pt",
    ]  # fmt: skip
    assert latest_checkpoint(tmp_path) == tmp_path / "iteration_100.pt"  # by number, not by spelling


def test_no_older_checkpoint_goes_before_the_new_one_is_there(tmp_path, monkeypatch):
    saved(tmp_path, iteration=1, keep=1)

    def fail(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="space"):
        saved(tmp_path, iteration=2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_1.pt"]


@pytest.mark.parametrize("damage", ["cut in half", "one byte short", "one bit flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, caplog, damage):
    good, bad = saved(tmp_path, iteration=1), saved(tmp_path, iteration=2)
    data = bytearray(bad.read_bytes())
    if damage == "one bit flipped":
        with zipfile.ZipFile(bad) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        data[largest.header_offset + 200 + largest.file_size // 2] ^= 1  # well inside its content
    else:
        del data[len(data) // 2 if damage == "cut in half" else -1 :]
    bad.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"iteration_2\.pt.*damaged"):
        load_checkpoint(bad)
    assert latest_checkpoint(tmp_path) == good
    assert "iteration_2.pt" in caplog.text
    assert load_checkpoint(good)["iteration"] == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_written_stays_though_damaged_ones_are_newer(tmp_path, keep):
    """As after going back to the checkpoint before a damaged one."""
    for iteration in (10, 20, 30):
        saved(tmp_path, iteration=iteration, keep=0)
    for iteration in (20, 30):
        checkpoint_path(tmp_path, iteration).write_bytes(b"PK\x03\x04")
    written = saved(tmp_path, iteration=15, keep=keep)
    assert latest_checkpoint(tmp_path) == written
    assert checkpoint_path(tmp_path, 10).exists() == (keep == 2)


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused_unread(tmp_path):
    path = saved(tmp_path, iteration=1)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_checkpoint(path)


def test_an_empty_file_counts_as_cut_short(tmp_path):
    path = tmp_path / "iteration_1.pt"
    path.touch()
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"iteration_1\.pt.*No such file"):
        load_checkpoint(tmp_path / "iteration_1.pt")
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_other_files_are_not_checkpoints(tmp_path):
    text, tensors, archive = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt"
    text.write_text("not at all")
    torch.save({"iteration": 3}, tensors)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "hello")
    for path in (text, tensors, archive):
        with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
            load_checkpoint(path)


class _Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"kind": KIND, "format": 1, "x": _Evil()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "evil").exists()


def changed(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_a_newer_format_says_both_numbers_and_which_version_wrote_it(tmp_path):
    path = changed(saved(tmp_path), lambda content: content.update(format=2, program="0.7.3"))
    words = (
        r"written by Fewsplat 0\.7\.3 \(checkpoint format 2\), and this is Fewsplat .*reads format 1: update"
    )
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)
    changed(path, lambda content: content.pop("program"))
    with pytest.raises(CheckpointError, match=r"by a newer version of this program \(checkpoint format 2\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("number", [None, 0, -1, True, "1", 1.0, torch.zeros(9, 9)])
def test_a_format_that_is_no_number_is_said_in_a_line(tmp_path, number):
    path = changed(saved(tmp_path), lambda content: content.update(format=number))
    with pytest.raises(CheckpointError, match="expected a checkpoint with a format number") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "key", ["iteration", "config", "gaussians", "optimizer", "densifier", "sampler", "random"]
)
def test_a_missing_or_mistyped_key_is_named(tmp_path, key):
    path = changed(saved(tmp_path), lambda content: content.pop(key))
    with pytest.raises(CheckpointError, match=f"no '{key}'"):
        load_checkpoint(path)
    path = changed(saved(tmp_path), lambda content: content.update({key: "text"}))
    with pytest.raises(CheckpointError, match=f"{key}: expected"):
        load_checkpoint(path)


MISFITS = {
    "another SH degree": (make_state(sh_rest=3), None, r"shN: expected \[N=20, 15, 3\], got \[20, 3, 3\]"),
    "parameters of different length": (
        make_state(), lambda c: c["gaussians"].update(quats=torch.zeros(7, 4)), r"quats: expected \[N=20",
    ),
    "a missing parameter": (make_state(), lambda c: c["gaussians"].pop("sh0"), "gaussians: expected tensors"),
    "another group order": (
        make_state(), lambda c: c["optimizer"]["param_groups"].reverse(), "optimizer: expected groups",
    ),
    "moments of another length": (
        make_state(), lambda c: c["optimizer"]["state"].update({0: {"exp_avg": torch.zeros(7, 3)}}),
        r"optimizer\.means\.exp_avg: expected \[20, 3\], got \[7, 3\]",
    ),
    "no optimizer": (make_state(), lambda c: c.update(optimizer={}), "optimizer: not a state of one"),
    "another number of views": (make_state(views=6), None, "sampler: .*expected 5 views, got 6"),
    "another strategy": (make_state(), lambda c: c["densifier"].update(strategy="x"), "densifier: does"),
    "no generator state": (make_state(), lambda c: c["random"].pop("torch"), "random: does not fit"),
    "a garbage generator state": (
        make_state(), lambda c: c["random"].update(generator=torch.zeros(3)), "random: does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_is_named_and_leaves_the_state_untouched(tmp_path, case):
    other, change, message = MISFITS[case]
    path = saved(tmp_path, other)
    if change:
        changed(path, change)
    state = make_state(seed=8)
    train(state, 3)
    torch.manual_seed(4)
    before = copy.deepcopy([*contents(state), torch.get_rng_state()])
    payload = load_checkpoint(path)
    with pytest.raises(CheckpointError, match=message):
        restore(state, payload)
    assert tree_equal([*contents(state), torch.get_rng_state()], before)
    train(state, 1)  # and it still trains


def test_only_tensors_and_primitives_are_saved(tmp_path):
    state = make_state()
    with pytest.raises(TypeError, match=r"checkpoint\.config\.where"):
        save_checkpoint(tmp_path / "iteration_0.pt", state, {"where": Path("x")})
    assert list(tmp_path.iterdir()) == []


def test_a_view_of_a_large_tensor_is_saved_without_the_rest(tmp_path):
    state = make_state()
    state.densifier.counts = torch.zeros(3_000_000)[:20]
    assert saved(tmp_path, state).stat().st_size < 1_000_000  # the whole storage would be 12 MB


_KILLED = """
import os, pathlib, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
import torch
from tests.engine.fakes import make_state
from engine import checkpoint_path, save_checkpoint
torch.set_num_threads(1)  # forked processes must not inherit a pool of threads that are not there
random.seed(7)

state = make_state(n=20_000)  # about 5 MB a file

def save_for_ever(folder):
    while True:
        state.iteration += 1
        save_checkpoint(checkpoint_path(folder, state.iteration), state, {})

for attempt in range(8):
    folder = pathlib.Path(sys.argv[1]) / str(attempt) / "checkpoints"
    child = os.fork()
    if child == 0:
        save_for_ever(folder)
    while not list(folder.glob("iteration_*.pt")):  # the promise starts with the first checkpoint
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_at_any_moment_leaves_a_loadable_checkpoint_and_the_next_run_tidies_up(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), str(ROOT)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    interrupted = 0
    for run in tmp_path.iterdir():
        folder = OutputFolder(run).checkpoints
        interrupted += bool(list(folder.glob(".*.tmp")))
        last = latest_checkpoint(folder)
        newest = max(folder.glob("iteration_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
        assert last is not None and last == newest  # a finished name is never a broken file
        state = make_state(n=2)
        restore(state, load_checkpoint(last))
        assert len(state.gaussians) == 20_000
        with claim_output(run, resume=True):
            assert list(folder.glob(".*")) == []
    assert len(list(tmp_path.iterdir())) == 8
    assert interrupted > 0, "no kill fell into a save: the test showed nothing"


_LIMITED = """
import sys, pathlib, resource
sys.path.insert(0, sys.argv[2])
from tests.engine.fakes import make_state
from engine import checkpoint_path, save_checkpoint, run_command, claim_output
def main():
    with claim_output(pathlib.Path(sys.argv[1])) as output:
        state = make_state(n=1000)
        save_checkpoint(checkpoint_path(output.checkpoints, 1), state, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save_checkpoint(checkpoint_path(output.checkpoints, 2), state, {})
run_command(main)
"""


def test_a_file_that_outgrows_the_disk_exits_with_4_and_keeps_the_checkpoint_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "out"), str(ROOT)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr
    assert "error: the disk is full" in done.stderr and "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    folder = tmp_path / "out" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["iteration_1.pt"]
    assert load_checkpoint(folder / "iteration_1.pt")["iteration"] == 0


def test_a_full_disk_keeps_its_reason_although_torch_reports_another(tmp_path, monkeypatch):
    """With a real full file system where this process may mount one, else with failing writes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0 and sys.platform == "linux"
    mounted = mounted and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    try:
        good = saved(folder, make_state(n=500), iteration=1)
        if not mounted:
            monkeypatch.setattr("atomic.open", _full_open, raising=False)
        with pytest.raises(OSError) as caught:
            saved(folder, make_state(n=20_000), iteration=2)
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in folder.iterdir()] == ["iteration_1.pt"]
        assert latest_checkpoint(folder) == good
        assert load_checkpoint(good)["iteration"] == 1
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


class _FullFile:
    def __init__(self, file):
        self._file, self._left = file, 100_000

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)


def _full_open(path, mode):
    return _FullFile(open(path, mode))


def test_a_simulated_full_disk_is_reported_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("atomic.open", _full_open, raising=False)
    with pytest.raises(OSError) as caught:
        saved(tmp_path, make_state(n=20_000), iteration=2)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_atomic_file_is_absent_until_its_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"d")
        raise ZeroDivisionError
    assert path.read_bytes() == b"abc" and len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_other_views_is_refused(tmp_path):
    state = make_state(n=3)
    state.scene = "a"
    path = checkpoint_path(tmp_path, state.iteration)
    save_checkpoint(path, state, {})
    state.scene = "b"
    with pytest.raises(CheckpointError, match="other training views"):
        restore(state, load_checkpoint(path))
    state.scene = "a"
    restore(state, load_checkpoint(path))


def test_photographs_that_have_changed_since_the_run_began_are_named_and_still_are_next_time(
    tmp_path, caplog
):
    state = make_state()
    state.photographs = {f"{i}.png": f"{i:08x}" for i in range(6)}
    save_checkpoint(checkpoint_path(tmp_path, 0), state, {})
    payload = load_checkpoint(checkpoint_path(tmp_path, 0))
    restore(state, payload)
    assert not caplog.records
    for _ in range(2):
        state.photographs = state.photographs | {f"{i}.png": "other" for i in range(1, 6)}
        restore(state, payload)
        said = caplog.records.pop().getMessage()
        assert (
            "5 of 6 photographs" in said and "1.png, 2.png, 3.png and 2 more" in said and "0.png" not in said
        )
        assert state.photographs == payload["photographs"]
    restore(state, {key: value for key, value in payload.items() if key != "photographs"})  # of before
    assert not caplog.records
