"""Processes that each hold a part of one model's Gaussians: how rows are dealt out, and collected again.

Row i of a whole model belongs to process i % size; the rows of all processes, each taken in turn, make a
whole one again (in the very order that was dealt out, as long as none has been added or removed since).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gaussian_model import Densifier
from replicas.place import Place
from replicas.sums import of_one_view
from replicas.team import Team


class ShardSums:
    """Takes the views of one batch as `Sums` does, where each process has its own Gaussians.

    Their gradients are complete when the backward passes are: the rasterizer has brought together those of
    all processes' cameras. What is left to do is the density statistics.

    Args:
        team: all processes.
        densifier: of this process's Gaussians; gets the statistics of every process's view.
    """

    def __init__(self, team: Team, densifier: Densifier) -> None:
        self._team, self._densifier = team, densifier

    @torch.no_grad()
    def add(self, info: Mapping[str, Any] | None) -> None:
        """Takes a view of each process: meta of this process's N Gaussians in all their cameras."""
        assert info is not None, "a batch has a view for every process in each round"
        if not self._densifier.collects:
            return
        radii, gradient = info["radii"], info["means2d"].grad
        assert radii.shape[0] == self._team.size, "one camera of each process"
        for camera in range(self._team.size):  # in the order of the views, as one process alone would
            own = None if gradient is None else gradient[camera]
            self._densifier.collect(of_one_view(radii[camera], own, info["width"], info["height"]))

    def finish(self) -> None:
        """Nothing is left to add up."""


def own_rows(tree: Any, place: Place) -> Any:
    """A process's rows of every tensor [N, ...] in a tree of dicts, lists and tuples; the rest as it is."""
    return _mapped(tree, lambda whole: whole[place.rank :: place.size].clone() if whole.dim() else whole)


@torch.no_grad()
def whole_rows(tree: Any, team: Team) -> Any:
    """A tree with the rows of all processes in every tensor [n, ...], on the CPU; a collective.

    The trees are alike in all processes but for the number of rows. Only process 0's result is whole: the
    others get empty tensors.
    """
    return _mapped(tree, lambda own: _in_turn(team.to_leader(own)) if own.dim() else own.cpu())


def own_share(limit: int, place: Place) -> int:
    """How many rows of so many are a process's; those of all processes add up to the limit."""
    return len(range(place.rank, limit, place.size))


def reseed(generator: torch.Generator, seed: int, iteration: int, place: Place) -> None:
    """Starts a process's own random numbers of one iteration, which no checkpoint has to hold then."""
    words = f"{seed} {iteration} {place.rank}".encode()
    generator.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "little"))


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, change) for value in tree)
    return tree


def _in_turn(parts: list[Tensor]) -> Tensor:
    """The first rows of all parts, their second rows, and so on."""
    joined = torch.cat(parts)
    turns = torch.cat([torch.arange(len(part)) for part in parts])
    return joined[torch.sort(turns, stable=True).indices]
