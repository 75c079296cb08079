"""Reading JSON whose every mistake names the file and the key."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene.scene_error import SceneError


def read_json(path: Path) -> Any:
    """The parsed content of `path`.

    Raises:
        SceneError: If it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: expected JSON ({error}); repair or re-export it") from error


class Values:
    """One JSON object, asked for values by key.

    Args:
        content: The parsed object.
        where: File (and place in it), for messages.
        fallback: Asked for keys that `content` lacks (a frame's missing intrinsics are the file's).

    Raises:
        SceneError: From every method, if the key is missing (and has no default) or its value wrong.
    """

    def __init__(self, content: Any, where: str, fallback: Values | None = None) -> None:
        """Checks that `content` is an object."""
        if not isinstance(content, dict):
            raise SceneError(f"{where}: expected an object, got {type(content).__name__}; re-export the file")
        self._content = content
        self._where = where
        self._fallback = fallback

    def label(self, key: str) -> str:
        """File and key, for messages."""
        return f"{self._where}: {key}"

    def __contains__(self, key: str) -> bool:
        """Whether the object or its fallback has the key."""
        return key in self._content or (self._fallback is not None and key in self._fallback)

    def get(self, key: str) -> Any:
        """The raw value."""
        if key in self._content:
            return self._content[key]
        if self._fallback is not None and key in self._fallback:
            return self._fallback.get(key)
        raise SceneError(f"{self.label(key)}: missing; re-export the file with it")

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        if default is not None and key not in self:
            return default
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise self._wrong(key, "a finite number", value)
        return float(value)

    def positive(self, key: str) -> float:
        """A finite number above 0."""
        value = self.number(key)
        if value <= 0:
            raise self._wrong(key, "a number above 0", value)
        return value

    def size(self, key: str) -> int:
        """A whole number of pixels, 1 to 100000 (exporters write 800.0 too)."""
        value = self.number(key)
        if value != int(value) or not 1 <= value <= 100_000:
            raise self._wrong(key, "a whole number of pixels, 1 to 100,000", value)
        return int(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        if default is not None and key not in self:
            return default
        value = self.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text", value)
        return value

    def matrix(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """A finite array of exactly `shape`."""
        value = self.get(key)
        try:
            array = np.array(value, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            raise self._wrong(key, f"numbers {list(shape)}", value) from None
        if array.shape != shape:
            raise SceneError(
                f"{self.label(key)}: expected shape {list(shape)}, got {list(array.shape)}; re-export it"
            )
        if not np.isfinite(array).all():
            raise SceneError(f"{self.label(key)}: expected finite numbers, got NaN or infinity; re-export it")
        return array

    def _wrong(self, key: str, expected: str, value: object) -> SceneError:
        return SceneError(
            f"{self.label(key)}: expected {expected}, got {_shown(value)!r}; re-export the file"
        )


def _shown(value: object) -> str:
    """A value as text, short."""
    try:
        return str(value)[:60]
    except ValueError:  # python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
