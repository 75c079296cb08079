"""Run by test_team as one of several processes: what a team's members tell each other."""

from __future__ import annotations

import os

import torch

from engine import NotFinite
from errors import SaidElsewhere, UserError
from replicas import ReplicaLost, ReplicasDiffer, form_team, place_of

place = place_of()
with form_team(place, torch.device("cpu")) as team:
    rank, size = place.rank, place.size
    assert team.numbers([rank, 7]) == [[k, 7] for k in range(size)]
    assert team.tell({"rank": rank, "text": "é" * rank}) == [
        {"rank": k, "text": "é" * k} for k in range(size)
    ]
    assert team.any(rank == 1) and not team.any(False)
    assert torch.equal(
        team.tensors(torch.full((2, 2), rank)), torch.arange(size).view(-1, 1, 1).expand(-1, 2, 2)
    )
    own = torch.arange(2 * size) + 100 * rank
    pieces = torch.stack([torch.arange(2 * rank, 2 * rank + 2) + 100 * k for k in range(size)])
    assert torch.equal(team.pieces(own), pieces)
    # of any length, none included, to process 0 alone
    found = team.to_leader(torch.full((2 * (size - 1 - rank), 3), rank, dtype=torch.int32))
    if rank == 0:
        assert [(len(rows), rows.unique().tolist()) for rows in found] == [
            (2 * (size - 1 - k), [k] if k < size - 1 else []) for k in range(size)
        ]
    else:
        assert [rows.shape for rows in found] == [(0, 3)]
    shares = team.tell(list(team.share(list(range(2 * size + 1)))))
    assert [item for turn in zip(*shares, strict=True) for item in turn if item is not None] == list(
        range(2 * size + 1)
    )
    order = team.tell(team.led(lambda: team.place.rank))
    assert order == list(range(size))

    # one fails: it says why, the others end with its code; two: the first of them
    for failing in ({1}, {0, 1}):
        try:
            with team.agreed():
                if rank in failing:
                    raise UserError(f"{rank} has no file")
            raise AssertionError("an error in one must reach all")
        except SaidElsewhere as error:
            assert rank != min(failing) and error.exit_code == 2
        except UserError as error:
            assert rank == min(failing) and str(error) == f"{rank} has no file"

    # all fail: who saw it first says why, whatever its number
    try:
        with team.agreed():
            raise NotFinite(f"{rank} came to nothing", moment=10 - rank)
    except SaidElsewhere as error:
        assert rank != size - 1 and error.exit_code == 6
    except NotFinite as error:
        assert rank == size - 1 and str(error) == f"{rank} came to nothing"

    model = {"means": torch.arange(6.0), "steps": torch.tensor(3)}
    team.check_same(model, "at the start")
    model["steps"] = model["steps"] + (rank == size - 1)
    try:
        team.check_same(model, "iteration 8")
        raise AssertionError("a difference must be found")
    except ReplicasDiffer as error:
        assert f"iteration 8: steps of process {size - 1} has other bits" in str(error)
    # what compares as equal and is not
    try:
        team.check_same({"zeros": torch.tensor([-0.0 if rank else 0.0])}, "iteration 9")
        raise AssertionError("the sign of a zero is a difference")
    except ReplicasDiffer:
        pass
    team.check_same_words("the same", "the scene")
    try:
        team.check_same_words("the same" if rank else "another", "the scene")
        raise AssertionError("a difference must be found")
    except SaidElsewhere:
        assert rank != 1
    except UserError as error:
        assert rank == 1 and "the scene is another than process 0's" in str(error)

    team.wait()
    if rank == 1:
        os._exit(9)
    try:
        for _ in range(1000):
            team.wait()
        raise AssertionError("the end of another must be noticed")
    except ReplicaLost as error:
        assert "--resume" in str(error) and error.exit_code == 5
    print("all is well", flush=True)
os._exit(0)  # as train.py does, see `engine.end_at_once`
