"""Depth maps kept between runs: one .npz a view, named by everything that it was computed from.

A file is whole or absent (atomic.py); one that cannot be read is computed anew, with a warning. Nothing is
ever removed: the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomic import write_bytes

VERSION = 1
"""Raised when what is computed from the same input changes."""

_log = logging.getLogger(__name__)


class MapCache:
    """Named maps [H, W] float32 in a folder.

    Args:
        folder: made when the first map is stored; None = keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, key: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
        """The maps stored under a key, or None where there are none that can be used."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as content:
                maps = {name: torch.from_numpy(content[name]) for name in shapes}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # a flipped bit can make zipfile and numpy raise almost anything
            _log.warning("%s: a damaged map in the cache (%s): computed anew", path, error)
            return None
        if any(m.dtype != torch.float32 or tuple(m.shape) != shapes[name] for name, m in maps.items()):
            _log.warning("%s: not the map that was stored in the cache: computed anew", path)
            return None
        return maps

    def store(self, key: str, maps: dict[str, Tensor]) -> None:
        """Keeps maps under a key; where the folder cannot be written, says so and goes on."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            arrays: dict[str, Any] = {name: value.numpy() for name, value in maps.items()}
            np.savez(content, **arrays)
            write_bytes(self.folder / f"{key}.npz", content.getvalue())
        except OSError as error:
            _log.warning(
                "%s: cannot keep depth maps there (%s): they are computed anew next time", self.folder, error
            )
            self.folder = None


def digest(parts: Iterable[Any]) -> str:
    """32 hexadecimal digits that stand for texts, numbers, bytes, arrays and tensors, in order."""
    total = hashlib.sha256()
    for given in parts:
        part = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
        if isinstance(part, np.ndarray):
            total.update(repr((part.dtype.str, part.shape)).encode())
            total.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(repr(part).encode())
        total.update(b"\0")
    return total.hexdigest()[:32]
