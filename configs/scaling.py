"""Schedules that keep their shape when the length of a run changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

from configs.values import walk

T = TypeVar("T")


def schedule_fields(kind: type) -> dict[str, int]:
    """Returns the options that count iterations (metadata {"unit": "iterations"}) and their least values.

    The metadata "least" bounds what scaling may make of a value; without it the bound is 1.
    """
    return {
        path: item.metadata.get("least", 1)
        for path, item in walk(kind)
        if item.metadata.get("unit") == "iterations"
    }


def scale_schedules(config: T, ratio: float, pinned: Collection[str] = ()) -> T:
    """Returns `config` with every option that counts iterations multiplied by `ratio`.

    Args:
        config: a dataclass, of which nested ones are scaled too.
        ratio: new length divided by the length that the schedules are stated for.
        pinned: dotted paths that keep their value.

    Values are rounded, and those above 0 stay at least 1, or the field's own least value where they were
    not below it: zero means "never" or "at once" and remains.
    """
    changes = {
        path: _scaled(_get(config, path), ratio, least)
        for path, least in schedule_fields(type(config)).items()
        if path not in pinned
    }
    return replace_paths(config, changes)


def replace_paths(config: T, changes: dict[str, Any]) -> T:
    """Returns a frozen dataclass with values at dotted paths replaced, all of them at once.

    At once, because a room may refuse a combination that exists only halfway.
    """
    here: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        if rest:
            below.setdefault(name, {})[rest] = value
        else:
            here[name] = value
    for name, inner in below.items():
        here[name] = replace_paths(getattr(config, name), inner)
    return dataclasses.replace(config, **here)  # type: ignore[type-var]


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _scaled(value: Any, ratio: float, least: int) -> Any:
    if isinstance(value, tuple):  # short runs make neighbours equal
        return tuple(dict.fromkeys(_scaled(item, ratio, least) for item in value))
    return max(min(value, least), round(value * ratio)) if value > 0 else value
