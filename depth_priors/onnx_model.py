"""Depth networks in ONNX files (Depth Anything V2 Small and the like), through onnxruntime, an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from errors import UserError

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet, by which these networks take their images."""
SIZE, MULTIPLE = 518, 14
"""Pixels of the shorter side, and what sides are multiples of, for a model of any size (Depth Anything)."""


class OnnxModel:
    """A network that gives inverse depth, affine, of one image.

    Args:
        path: takes one float32 [1, 3, h, w], gives [1, h, w] or [1, 1, h, w] first.

    Raises:
        UserError: onnxruntime is not installed, or the file is no such model.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"--depth_prior onnx:{path}: onnxruntime is not installed: "
                "pip install -r requirements-onnx.txt"
            ) from error
        if not path.is_file():
            raise UserError(f"--depth_prior onnx:{path}: no such file: check the path")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # the same bits on any machine's cores
        )
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise UserError(f"{path}: not a model that onnxruntime reads ({_first_line(error)})") from error
        inputs = self.session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{item.name} {item.shape} {item.type}" for item in inputs)
            raise UserError(f"{path}: expected a model of one image, float [1, 3, height, width], got {got}")
        self.path, self.input = path, inputs[0].name
        self.fixed = tuple(side if isinstance(side, int) else 0 for side in shape[2:])

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image is resized to."""
        factor = SIZE / min(width, height)
        w, h = (max(1, round(factor * side / MULTIPLE)) * MULTIPLE for side in (width, height))
        return self.fixed[1] or w, self.fixed[0] or h

    def __call__(self, image: Tensor) -> Tensor:
        """Inverse depth [H, W], affine, of an image [H, W, 3] in [0, 1].

        Raises:
            UserError: the model fails, or gives something else.
        """
        height, width = image.shape[:2]
        device = image.device
        w, h = self.size(width, height)
        fitted = cv2.resize(image.cpu().numpy(), (w, h), interpolation=cv2.INTER_CUBIC)
        pixels = ((fitted - MEAN) / STD).transpose(2, 0, 1)[None]
        try:
            result = np.asarray(self.session.run(None, {self.input: np.ascontiguousarray(pixels)})[0])
        except Exception as error:
            raise UserError(
                f"{self.path}: the model failed on {w}x{h} pixels ({_first_line(error)})"
            ) from error
        if result.ndim not in (3, 4) or result.size != result.shape[-1] * result.shape[-2]:
            raise UserError(f"{self.path}: expected one map [1, height, width], got {list(result.shape)}")
        found = result.reshape(result.shape[-2:]).astype(np.float32)
        return torch.from_numpy(cv2.resize(found, (width, height), interpolation=cv2.INTER_CUBIC)).to(device)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
