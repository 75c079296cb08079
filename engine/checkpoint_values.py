"""What the values of a checkpoint must be before a run takes them.

Sums protect a file against damage, not against somebody with another idea of it; a value of another kind
would end the run later, far from its reason, or reach a kernel. Each function here returns what is wrong in
words, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MOMENTS = frozenset(("step", "exp_avg", "exp_avg_sq"))
"""What Adam keeps of a parameter that it has moved."""


def tensor_fault(value: Any) -> str:
    """Of what must be a dense float32 tensor of finite numbers on the CPU, of any shape."""
    if not isinstance(value, Tensor):
        return f"expected a tensor, got {type(value).__name__}"
    dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if value.dtype is not torch.float32 or not dense or not value.is_contiguous():
        return f"expected a dense float32 tensor, got {value.dtype} ({value.layout}, {value.device})"
    return "" if bool(value.isfinite().all()) else "expected finite numbers, got NaN or infinity"


def moments_fault(moments: Any, shape: torch.Size) -> str:
    """Of what an optimizer keeps of one parameter of a shape; nothing at all is fine."""
    if not isinstance(moments, Mapping):
        return f"expected its moments, got {type(moments).__name__}"
    if moments and not MOMENTS <= set(moments):
        return f"expected {', '.join(sorted(MOMENTS))}, got {', '.join(sorted(map(str, moments)))[:200]}"
    for key, value in moments.items():
        if fault := tensor_fault(value):
            return f"{str(key)[:40]}: {fault}"
        if key != "step" and value.shape != shape:
            return f"{str(key)[:40]}: expected {list(shape)}, got {list(value.shape)}"
    if moments and (moments["step"].dim() or not 0.0 <= float(moments["step"]) < 2**31):
        return "step: expected a number of updates"
    return ""


def group_fault(saved: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """Of a saved parameter group, beside the optimizer's own one."""
    if not isinstance(saved, dict) or not isinstance(saved["params"], list):
        return "expected a group with the list of its parameters"
    if any(type(index) is not int for index in saved["params"]):
        return "params: expected whole numbers"
    for key in ("lr", "betas", "eps"):
        if key not in saved:
            return f"{key} is missing"
    for key, own in group.items():
        if key in ("params", "name") or key not in saved:
            continue
        if not _alike(own, saved[key]):
            return f"{key}: expected one like {own!r}, got {str(saved[key])[:60]}"
    return ""


def _alike(own: Any, saved: Any) -> bool:
    if own is None or isinstance(own, bool):
        return saved is None or isinstance(saved, bool)
    if isinstance(own, (int, float)):
        return isinstance(saved, (int, float)) and not isinstance(saved, bool) and _finite(saved)
    if isinstance(own, (tuple, list)):
        return isinstance(saved, (tuple, list)) and len(own) == len(saved) and all(map(_alike, own, saved))
    return True  # what torch may come to add


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
