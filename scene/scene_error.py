"""The user-facing error of this room."""

from __future__ import annotations

from errors import UserError


class SceneError(UserError):
    """A scene folder that cannot be trained on: names the file or key and what to do next."""
