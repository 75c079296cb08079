"""The sum of a batch's gradients over all processes, with the same bits as one process alone would get.

One process adds the gradients of its views one after the other. Several do the same: after each round, in
which every process has taken one view, each of them gets its piece of everybody's gradients and adds these
in the order of the views; at the end of the batch all pieces come to all processes. That moves as much as
the usual all-reduce does, whose order of additions is not that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaussian_model import Densifier, Gaussians
from replicas.team import Team


class Sums:
    """Takes the views of one batch as they are done.

        sums = Sums(team, gaussians, densifier)
        for lesson in team.share(lessons):
            info = None if lesson is None else render and backward
            sums.add(info)
        sums.finish()

    Args:
        team: all processes.
        gaussians: their gradients are added up.
        densifier: gets every view's statistics.
        without: keys of parameters that have no gradient in this batch, whatever the view.
    """

    def __init__(
        self, team: Team, gaussians: Gaussians, densifier: Densifier, without: frozenset[str] = frozenset()
    ) -> None:
        self._team, self._gaussians, self._densifier = team, gaussians, densifier
        self._keys = [key for key in gaussians.params if key not in without]
        self._has = [False] * len(self._keys)
        self._total: Tensor | None = None  # this process's piece

    @torch.no_grad()
    def add(self, info: Mapping[str, Any] | None) -> None:
        """Takes a view of each process; None where this one had none left. After its backward pass."""
        if self._team.size == 1:
            assert info is not None, "one process takes all views"
            self._densifier.collect(info)
            return
        params = [self._gaussians.params[key] for key in self._keys]
        grads = [param.grad for param in params]
        own = [int(info is not None), *(int(grad is not None) for grad in grads)]
        facts = _facts(info) if self._densifier.collects else ()
        rows = self._team.numbers([*own, *facts])
        length = sum(param.numel() for param in params)
        flat = torch.zeros(-(-length // self._team.size) * self._team.size, device=self._gaussians.device)
        at = 0
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                flat[at : at + param.numel()] = grad.reshape(-1)
            at += param.numel()
            param.grad = None
        for row, piece in zip(rows, self._team.pieces(flat), strict=True):
            if row[0]:
                self._total = piece.clone() if self._total is None else self._total.add_(piece)
                self._has = [has or bool(new) for has, new in zip(self._has, row[1:], strict=False)]
        if self._densifier.collects:
            self._collect(info, [row[len(own) :] for row in rows], [bool(row[0]) for row in rows])

    @torch.no_grad()
    def finish(self) -> None:
        """Gives every parameter the sum of all gradients; None where no view had any."""
        if self._team.size == 1:
            return
        assert self._total is not None, "a batch has at least one view"
        flat = self._team.tensors(self._total).reshape(-1)
        at = 0
        for key, has in zip(self._keys, self._has, strict=True):
            param = self._gaussians.params[key]
            if has:
                param.grad = flat[at : at + param.numel()].reshape(param.shape).clone()
            at += param.numel()

    def _collect(self, info: Mapping[str, Any] | None, facts: list[list[int]], taken: list[bool]) -> None:
        """Hands every process's view to the densifier, in the order of the views."""
        n = len(self._gaussians)
        packed = torch.zeros(n, 4, dtype=torch.int32, device=self._gaussians.device)
        if info is not None:
            packed[:, :2] = info["radii"][0].to(torch.int32)
            gradient = _gradient(info["means2d"])
            if gradient is not None:
                packed[:, 2:] = gradient[0].float().contiguous().view(torch.int32)
        everybody = self._team.tensors(packed)
        for row, (width, height, has_gradient, is_absolute), there in zip(
            everybody, facts, taken, strict=True
        ):
            if there:
                found = row[:, 2:].contiguous().view(torch.float32) if has_gradient else None
                view = of_one_view(row[:, :2].contiguous(), found, width, height, absolute=bool(is_absolute))
                self._densifier.collect(view)


def of_one_view(
    radii: Tensor, gradient: Tensor | None, width: int, height: int, *, absolute: bool = False
) -> dict[str, Any]:
    """The rasterizer's meta of one view, of which no more is known than the densifier reads.

    Args:
        radii: [N, 2] int32, pixels.
        gradient: of the projected positions, [N, 2]; None = the loss does not depend on them.
        width: of the view, pixels.
        height: likewise.
        absolute: the gradient is one of absolute values.
    """
    means2d = torch.zeros(1, len(radii), 2, device=radii.device, requires_grad=gradient is not None)
    if gradient is not None:
        means2d.grad = gradient.unsqueeze(0)
        if absolute:
            means2d.absgrad = means2d.grad  # type: ignore[attr-defined]
    return {"radii": radii.unsqueeze(0), "means2d": means2d, "width": width, "height": height}


def _facts(info: Mapping[str, Any] | None) -> tuple[int, int, int, int]:
    """Width and height, whether the positions have a gradient, and whether it is one of absolute values."""
    if info is None:
        return (0, 0, 0, 0)
    means2d = info["means2d"]
    absolute = getattr(means2d, "absgrad", None) is not None
    return (info["width"], info["height"], int(_gradient(means2d) is not None), int(absolute))


def _gradient(means2d: Tensor) -> Tensor | None:
    """Gradient [1, N, 2] of the projected positions, of absolute values where there is one; or None."""
    absolute: Tensor | None = getattr(means2d, "absgrad", None)
    return means2d.grad if absolute is None else absolute
