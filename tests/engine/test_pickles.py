"""Checkpoints whose few bytes stand for values without end, and that real ones are far from the limits."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from engine import CheckpointError, checkpoint_path, load_checkpoint, save_checkpoint
from engine.pickles import MOST, extent_fault, hashing_fault
from tests.engine.test_real_state import real_state


def repeated(kind: Any, levels: int) -> Any:
    """10 ** levels ones, in a few dozen objects."""
    value = kind([1])
    for _ in range(levels):
        value = kind([value] * 10)
    return value


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.fixture
def path(tmp_path):
    made = checkpoint_path(tmp_path, 2)
    save_checkpoint(made, real_state("default"), {})
    return made


@pytest.mark.parametrize(
    "places",
    [("format",), ("optimizer", "param_groups", 0, "lr"), ("optimizer", "param_groups", 0, "name"),
     ("densifier", "strategy"), ("photographs",), ("config",), ("sampler", "order"), ("random", "torch")],
)  # fmt: skip
@pytest.mark.parametrize("bomb", [lambda: repeated(list, 12), lambda: repeated(tuple, 12), itself])
def test_values_without_end_are_refused_before_anybody_goes_through_them(path, places, bomb):
    content = torch.load(path, weights_only=True)
    holder = content
    for place in places[:-1]:
        holder = holder[place]
    holder[places[-1]] = bomb()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="values in values without end"):
        load_checkpoint(path)


class _Key:
    """The pickle of a dictionary whose key is a tuple of tuples: making one takes as long as reading it."""

    def __init__(self, levels: int) -> None:
        lines = b"(I1\ntq\x01"  # a tuple with a 1, kept
        for _ in range(levels):
            lines += b"0(" + b"h\x01" * 10 + b"tq\x01"  # dropped; ten times what was kept, kept instead
        self.pickle = b"\x80\x02}q\x000h\x000" + lines + b"0h\x00h\x01K\x01s."


def test_keys_that_are_hashed_without_end_are_seen_without_unpickling():
    small = _Key(2).pickle
    (key,) = pickle.loads(small)
    assert key == repeated(tuple, 2) and hashing_fault(small) == ""
    assert hashing_fault(_Key(30).pickle) == "values in values without end"


def test_such_a_key_in_a_checkpoint_is_refused(path, monkeypatch):
    monkeypatch.setattr("engine.checkpoint._pickle_of", lambda path: _Key(30).pickle)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    with pytest.raises(CheckpointError, match="values in values without end"):
        load_checkpoint(path)


@pytest.mark.parametrize("data", [b"", b"no pickle", b"h\x07.", b"((((", b"t.", b"\x80\x02s."])
def test_what_is_no_pickle_is_left_to_the_unpickler(data):
    assert hashing_fault(data) == ""


def test_as_many_values_as_a_thousand_photographs_have_are_no_fault():
    many = {"photographs": {f"view_{k}.png": k for k in range(10_000)}, "order": list(range(100_000))}
    assert extent_fault(many) == "" and hashing_fault(pickle.dumps(many)) == ""
    assert extent_fault(list(range(MOST + 1))) != ""


@pytest.mark.parametrize("key", ["gaussians", "optimizer"])
def test_a_checkpoint_that_holds_nan_is_refused(path, key):
    state = real_state("default")
    for value in state.gaussians.params.values():
        value.grad = torch.ones_like(value)
    state.optimizer.step()
    save_checkpoint(path, state, {})
    content = torch.load(path, weights_only=True)
    holder = content["gaussians"] if key == "gaussians" else content["optimizer"]["state"][0]
    holder["means" if key == "gaussians" else "exp_avg"][1] = float("nan")
    torch.save(content, path)
    from engine import restore

    with pytest.raises(CheckpointError, match="expected finite numbers, got NaN"):
        restore(state, load_checkpoint(path))
