"""The error of this room."""

from __future__ import annotations

from errors import UserError


class ConfigError(UserError):
    """A preset, a saved configuration or an option that cannot be used; names the file and the key."""
