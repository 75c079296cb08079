"""Every option of train.py with its default and its value in each preset, as Markdown: docs/options.md.

python -m configs.reference docs/options.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import operator
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

from configs.command_line import SHORT
from configs.presets import load_preset, preset_names
from configs.schema import CommandLine, Config
from configs.values import to_plain, walk

_INTRODUCTION = """# Options

All options of `train.py`, made from the code by `python -m configs.reference docs/options.md`. The first
column is what to type (with two dashes) and the key in a YAML preset. Those of the scene and of depth
are typed without their section. Numbers of iterations are for the length that a preset states; they
scale with `--iterations` unless they are typed themselves. *few* is a preset's value for up to 12
training views, *around* for cameras that do not all look one way.
"""


def reference() -> str:
    """The page."""
    presets = {name: load_preset(name) for name in preset_names()}
    few = {name: load_preset(name, few_views=True) for name in presets}
    around = {name: load_preset(name, around=True) for name in presets}
    parts, section = [_INTRODUCTION], None
    texts = dict(texts_of(Config))
    for path, _ in walk(Config):
        name, _, rest = path.partition(".")
        if not rest:
            name = ""
        if name != section:
            section = name
            title = f"`{name}`: {texts[name]}" if name else "The program itself"
            parts.append(f"\n## {title}\n\n| option | default | in presets | meaning |\n|---|---|---|---|")
        typed = path.removeprefix("scene.").removeprefix("depth.")
        default = operator.attrgetter(path)(Config())
        others = [
            f"{preset}{which} {shown(value)}"
            for preset in presets
            for which, value in _values(path, presets[preset], few[preset], around[preset])
            if value != default
        ]
        meaning = texts[path].replace("|", "\\|")
        parts.append(f"| `{typed}` | {shown(default)} | {', '.join(others)} | {meaning} |")
    parts.append("\n## Other names\n\n| option | meaning |\n|---|---|")
    parts += [f"| `{typed}` | {meaning} |" for typed, meaning in _other_names()]
    return "\n".join(parts) + "\n"


def _other_names() -> list[tuple[str, str]]:
    """What can be typed besides the names above, with what it means."""
    hints = typing.get_type_hints(CommandLine, include_extras=True)
    own = dict(texts_of(CommandLine))
    found = [(short, f"The same as `{long}`.") for short, long in SHORT.items()]
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()):
            aliases = getattr(extra, "aliases", None) or ()
            found += [(alias, f"The same as `--{name}`.") for alias in aliases]
        if name in own:
            found.append((f"--{name}", own[name]))
    return found


def _values(path: str, usual: Config, few: Config, around: Config) -> list[tuple[str, Any]]:
    """A preset's value, and those for few views and for cameras all around where they are others."""
    value, *others = (operator.attrgetter(path)(config) for config in (usual, few, around))
    marks = (" *few*", " *around*")
    return [
        ("", value),
        *((mark, other) for mark, other in zip(marks, others, strict=True) if other != value),
    ]


def shown(value: Any) -> str:
    """A value as one types it."""
    plain = to_plain(value)
    if isinstance(plain, bool):
        return "on" if plain else "off"
    if isinstance(plain, list):
        return " ".join(map(str, plain)) or "none"
    if isinstance(plain, float):
        return f"{plain:g}"
    return "" if plain in ("", ".") else str(plain)


def texts_of(kind: type, prefix: str = "") -> list[tuple[str, str]]:
    """The text below each field of a dataclass, by dotted path; nested ones too."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef), "a class's source is a class"
    hints = typing.get_type_hints(kind)
    found = []
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        words = str(text.value.value) if is_text else ""  # type: ignore[attr-defined]
        path = f"{prefix}{field.target.id}"
        found.append((path, " ".join(words.split())))
        if dataclasses.is_dataclass(hints[field.target.id]):
            found += texts_of(typing.cast(type, hints[field.target.id]), f"{path}.")
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), "utf-8") if len(sys.argv) > 1 else print(reference(), end="")
