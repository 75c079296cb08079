"""The one primitive by which the set of Gaussians changes: a row edit.

Clone, split, prune, relocate and reset are each one `RowEdit`; `apply_edit` alone touches
parameters, Adam moments and per-Gaussian statistics, so that no operation can forget one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gaussian_model.gaussians import Gaussians

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


@dataclass(frozen=True)
class RowEdit:
    """New rows 0..M-1 out of N old ones.

    A row that is not fresh keeps values, moments and statistics bit for bit. A value that descent
    did not produce has no momentum: fresh rows have zero moments (and statistics), and an
    overwritten value has zero moments of its own key.
    """

    source: Tensor
    """[M] int64: new row i starts as a copy of old row source[i]."""
    fresh: Tensor
    """[M] bool: rows that begin anew."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Per key [F, ...]: stored values of the F fresh rows, in row order; other keys stay copies."""
    overwrite: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Per key (rows [R] int64 without repetition, values [R, ...]): stored values to put into new rows."""

    @classmethod
    def keeping(cls, mask: Tensor) -> RowEdit:
        """The edit that keeps the rows where mask [N] is true, in their order."""
        source = mask.nonzero().squeeze(-1)
        return cls(source, torch.zeros_like(source, dtype=torch.bool))

    @classmethod
    def overwriting(cls, key: str, values: Tensor) -> RowEdit:
        """The edit that keeps all rows and replaces one parameter's values [N, ...] altogether."""
        rows = torch.arange(len(values), device=values.device)
        return cls(rows, torch.zeros_like(rows, dtype=torch.bool), overwrite={key: (rows, values)})


@torch.no_grad()
def apply_edit(
    gaussians: Gaussians, optimizer: torch.optim.Optimizer, statistics: dict[str, Tensor], edit: RowEdit
) -> None:
    """Carry out an edit on parameters, optimizer state and statistics.

    Works key by key, so that the peak of extra memory is one parameter and its moments. Every
    parameter becomes a new leaf without gradient, and the optimizer's groups and state point at it;
    scalar state (the step count) is kept.

    Args:
        gaussians: edited in place.
        optimizer: owns the parameters, in groups of any arrangement; parameters that it has no state
            for yet are only exchanged.
        statistics: tensors with one row per Gaussian, replaced in this dict.
        edit: indices on the parameters' device.

    Raises:
        ValueError: shapes that do not fit each other.
        IndexError: a source row that does not exist (on CUDA: a device assertion).
    """
    _check(gaussians, statistics, edit)
    for key, old in list(gaussians.params.items()):
        value = old.detach().index_select(0, edit.source)
        if key in edit.values:
            value[edit.fresh] = edit.values[key].to(value.dtype)
        zeroed = [edit.fresh]
        if key in edit.overwrite:
            rows, written = edit.overwrite[key]
            value[rows] = written.to(value.dtype)
            zeroed.append(rows)
        new = nn.Parameter(value, requires_grad=old.requires_grad)
        gaussians.params[key] = new
        _exchange(optimizer, old, new, edit.source, zeroed)
    for name, statistic in statistics.items():
        rows_of = statistic.index_select(0, edit.source)
        rows_of[edit.fresh] = 0
        statistics[name] = rows_of


def _exchange(
    optimizer: torch.optim.Optimizer,
    old: nn.Parameter,
    new: nn.Parameter,
    source: Tensor,
    zeroed: list[Tensor],
) -> None:
    """Put `new` where `old` was in groups and state, with edited moments."""
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if not state:
        return
    for name in _MOMENTS:
        if name in state:
            moment = state[name].index_select(0, source)
            for rows in zeroed:
                moment[rows] = 0
            state[name] = moment
    optimizer.state[new] = state


def _check(gaussians: Gaussians, statistics: Mapping[str, Tensor], edit: RowEdit) -> None:
    """Raise where shapes do not fit; nothing is changed before."""
    if edit.source.ndim != 1 or edit.source.dtype != torch.int64:
        raise ValueError(f"source: expected [M] int64, got {list(edit.source.shape)} {edit.source.dtype}")
    if edit.fresh.shape != edit.source.shape or edit.fresh.dtype != torch.bool:
        raise ValueError(
            f"fresh: expected [M={len(edit.source)}] bool, got {list(edit.fresh.shape)} {edit.fresh.dtype}"
        )
    unknown = sorted((set(edit.values) | set(edit.overwrite)) - set(gaussians.params))
    if unknown:
        raise ValueError(f"edit: no such parameter: {', '.join(unknown)}")
    for key, (rows, values) in edit.overwrite.items():
        expected = (len(rows), *gaussians.params[key].shape[1:])
        if tuple(values.shape) != expected:
            raise ValueError(f"overwrite[{key}]: expected {list(expected)}, got {list(values.shape)}")
    for key, values in edit.values.items():
        expected = (int(edit.fresh.sum()), *gaussians.params[key].shape[1:])
        if tuple(values.shape) != expected:
            raise ValueError(f"values[{key}]: expected {list(expected)}, got {list(values.shape)}")
    for name, statistic in statistics.items():
        if len(statistic) != len(gaussians):
            raise ValueError(f"statistics[{name}]: expected {len(gaussians)} rows, got {len(statistic)}")
