"""train.py with gsplat's fake, as one of several processes: `child.py OPTIONS_OF_TRAIN`.

It also binds every call of gsplat.rasterization to the real one's signature, and counts those with
`distributed=True` in the folder that $CALLS names. With $ACCELERATOR tensors are on tests.accelerator's GPU.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import gsplat
import pytest
import torch

import train
from tests.accelerator import Accelerator
from tests.sharded import fake_gsplat

CPU = torch.device("cpu")
calls: list[dict[str, Any]] = []
real, signature = gsplat.rasterization, inspect.signature(gsplat.rasterization)


def watched(*args: Any, **kwargs: Any) -> Any:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    result = real(*args, **kwargs)
    given, meta = bound.arguments, result[2]
    calls.append(
        {
            **{name: given[name] for name in ("distributed", "packed", "absgrad", "width", "height")},
            "gaussians": len(given["means"]),
            "device": given["means"].device.type,
            "cameras": len(given["viewmats"]),
            "images": list(result[0].shape),
            "means2d": list(meta["means2d"].shape),
        }
    )
    return result


def main() -> None:
    train.main()
    if folder := os.environ.get("CALLS"):
        name = f"{os.environ.get('RANK', '0')}.json"
        Path(folder, name).write_text(json.dumps(calls), encoding="utf-8")


patch = pytest.MonkeyPatch()
patch.setattr(gsplat, "rasterization", watched)
if "ACCELERATOR" in os.environ:
    with Accelerator() as accelerator:
        fake_gsplat.install(patch, accelerator)
        train.run_command(main)
else:
    fake_gsplat.install(patch)
    patch.setattr(train, "device_for", lambda backend: CPU)
    train.run_command(main)
