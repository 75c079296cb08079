"""Between YAML's plain values and the frozen dataclasses, strictly both ways.

Reading accepts exactly what a field's type says and names the file, the key and what came for everything
else; nothing is ignored and nothing is evaluated.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from configs.config_error import ConfigError
from errors import UserError

T = TypeVar("T")

_LARGEST = 2**63
"""Beyond any seed, and beyond what torch and the kernels can count."""
_MOST_NESTED, _MOST_VALUES = 20, 10_000
"""Levels and values of a file; the whole configuration has 3 and some 150."""

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error instead of the last one silently winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"a key is no name (line {line})")
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice (line {line})"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping of names to values (or nothing).

    Raises:
        ConfigError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_StrictLoader)
        _check_extent(content, path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration ({error.strerror}): check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected a YAML text file in UTF-8, got other bytes: check the path."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"{path}: not valid YAML{place}: {problem}: mend the file.") from error
    except ConfigError:
        raise
    except Exception as error:  # a date without a month, a number without digits: yaml raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}: not valid YAML ({reason}): mend the file.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected lines `key: value`, got {_shown(content)}: mend the file.")
    return content


def _check_extent(content: Any, path: Path) -> None:
    """Refuses what no configuration is: nested without end (a value within itself), or huge by repetition."""
    waiting, values = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        inner = (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        )
        values += len(inner)
        if depth > _MOST_NESTED or values > _MOST_VALUES:
            raise ConfigError(
                f"{path}: expected options, got sections in sections without end: mend the file."
            )
        waiting += ((one, depth + 1) for one in inner)


def update(base: T, values: Mapping[Any, Any], where: str, prefix: str = "", root: type | None = None) -> T:
    """Returns a frozen dataclass with the fields named in `values` replaced, nested ones key by key.

    Args:
        base: the dataclass instance.
        values: plain values as YAML gives them.
        where: the file, for messages.
        prefix: the dotted path of `base` within the whole, ending in a dot.
        root: the outermost dataclass, searched for suggestions.

    Raises:
        ConfigError: an unknown key (with a suggestion), a value of another type, or one out of range.
    """
    kind: Any = type(base)
    hints = _types_of(kind)
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(_unknown(str(key), list(hints), where, prefix, root or kind))
        path = f"{prefix}{key}"
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {path}: expected a section of keys, got {_shown(value)}.")
            changed[key] = update(getattr(base, key), value, where, f"{path}.", root or kind)
        else:
            changed[key] = _read(hints[key], value, f"{where}: {path}")
    try:
        return dataclasses.replace(base, **changed)  # type: ignore[type-var]
    except UserError as error:
        raise ConfigError(f"{where}: {prefix}{error}") from error


def to_plain(value: Any) -> Any:
    """Returns a dataclass as dicts, lists and primitives: what YAML and checkpoints hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def check_whole_numbers(config: Any) -> None:
    """Refuses whole numbers that no float can stand for, in any section of a configuration.

    Raises:
        ConfigError: names the option.
    """
    for path, _ in walk(type(config)):
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if type(one) is int and abs(one) >= _LARGEST:
                raise ConfigError(f"--{path}: expected a whole number below 2^63, got {_shown(one)}.")


def walk(kind: type) -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    """Returns the dotted path and the field of every option of a dataclass, sections opened."""
    return _walk(kind)


@cache  # it is asked for with each change of a configuration
def _walk(kind: type) -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    found: list[tuple[str, dataclasses.Field[Any]]] = []
    for item in dataclasses.fields(kind):
        section = _types_of(kind)[item.name]
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            found += ((f"{item.name}.{path}", inner) for path, inner in walk(section))
        else:
            found.append((item.name, item))
    return tuple(found)


@cache  # python reads annotations anew with each call
def _types_of(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _unknown(key: str, known: list[str], where: str, prefix: str, root: type) -> str:
    """Returns the message for an unknown key: a similar one here, or the same one in another section."""
    elsewhere = [path for path, _ in walk(root) if path.rsplit(".", 1)[-1] == key]
    if elsewhere:
        hint = f"did you mean {elsewhere[0]!r} (indentation)?"
    else:
        similar = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = (
            f"did you mean {prefix + similar[0]!r}?"
            if similar
            else f"known here: {', '.join(sorted(known))}."
        )
    return f"{where}: unknown key {prefix + key!r}: {hint}"


def _read(hint: Any, value: Any, where: str) -> Any:
    """Returns a plain value as the type `hint`, or raises ConfigError."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        similar = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        hint_text = f": did you mean {similar[0]}?" if similar else "."
        raise ConfigError(
            f"{where}: expected one of {', '.join(map(str, choices))}, got {_shown(value)}{hint_text}"
        )
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        members = [choice for choice in choices if choice is not type(None)]
        for member in members[:-1]:
            try:
                return _read(member, value, where)
            except ConfigError:
                continue
        return _read(members[-1], value, where)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {_shown(value)}: write [a, b].")
        if origin is tuple and choices[-1] is not Ellipsis and len(choices) != len(value):
            raise ConfigError(f"{where}: expected {len(choices)} values, got {len(value)}.")
        hints = choices if origin is tuple and choices[-1] is not Ellipsis else choices[:1] * len(value)
        return origin(_read(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    return _read_primitive(hint, value, where)


def _read_primitive(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4, which has no dot, as text
        try:
            value = float(value)
        except ValueError:
            pass
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: expected a number, got one beyond 1e308.") from None
    if hint is float and type(value) is float and not math.isnan(value):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is int and type(value) is int and abs(value) >= _LARGEST:
        raise ConfigError(f"{where}: expected a whole number below 2^63, got {_shown(value)}.")
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint not in _NAMES:
        raise TypeError(f"{where}: no rule for reading {hint}")
    advice = ": put it in quotes." if hint is str and not isinstance(value, (dict, list)) else "."
    raise ConfigError(f"{where}: expected {_NAMES[hint]}, got {_shown(value)}{advice}")


def _shown(value: Any) -> str:
    """Returns a value as a user wrote it, roughly, and short."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section of keys"
    try:
        text = repr(value)
    except ValueError:  # python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
