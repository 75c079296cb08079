"""Every option of the commands beside train.py with its default, as Markdown: docs/commands.md.

python -m scripts.commands_page docs/commands.md
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

import render
from benchmarks import __main__ as benchmark
from benchmarks import gpu_check, quality
from configs.reference import shown, texts_of
from exporting import command as exporting
from fleet import blocks, many
from scripts import convert_photos
from viewer import __main__ as viewing

COMMANDS: dict[str, type] = {
    "python render.py": render.Options,
    "scripts/convert": convert_photos.Options,
    "scripts/view": viewing.Options,
    "scripts/export": exporting.Options,
    "scripts/train_many": many.Options,
    "scripts/train_blocks": blocks.Options,
    "scripts/gpu_check": gpu_check.Options,
    "scripts/benchmark": benchmark.Options,
    "scripts/benchmark_quality": quality.Options,
}
_INTRODUCTION = """# Options of the other commands

Made from the code by `python -m scripts.commands_page docs/commands.md`. Those of `train.py` are in
[options.md](options.md). What has no dashes is typed without a name, first. `scripts/demo` hands its options
to `train.py`, `scripts/test` to pytest.
"""
_OF_THIS_MACHINE = {"scripts/benchmark": {"threads": "one, and all cores"}}


def page() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for command, kind in COMMANDS.items():
        parts.append(f"\n## `{command}`\n\n| option | default | meaning |\n|---|---|---|")
        parts += [f"| {' | '.join(row)} |" for row in rows_of(command, kind)]
    return "\n".join(parts) + "\n"


def rows_of(command: str, kind: type) -> list[tuple[str, str, str]]:
    """What is typed, its default and its meaning; options of a nested class as if they were the command's."""
    hints, texts, rows = typing.get_type_hints(kind, include_extras=True), dict(texts_of(kind)), []
    for field in dataclasses.fields(kind):
        plain = _without_remarks(hints[field.name])
        if dataclasses.is_dataclass(plain):
            rows += rows_of(command, typing.cast(type, plain))
            continue
        extras = getattr(hints[field.name], "__metadata__", ())
        short = [alias for extra in extras for alias in getattr(extra, "aliases", None) or ()]
        positional = any(str(extra) == "Positional" for extra in extras)
        names = [field.name] if positional else [f"--{field.name}", *short]
        typed = ", ".join(f"`{name}`" for name in names)
        default = _OF_THIS_MACHINE.get(command, {}).get(field.name) or _default(field)
        choices = [str(choice) for choice in typing.get_args(_inner(plain)) if isinstance(choice, str | int)]
        which = "Some of" if typing.get_origin(plain) in (list, tuple) else "One of"
        meaning = texts[field.name] + (f" {which} {', '.join(choices)}." if choices else "")
        rows.append((typed, default, meaning.replace("|", "\\|")))
    return rows


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else shown(_plain(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return shown(field.default_factory())
    return "(needed)"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _without_remarks(hint: Any) -> Any:
    return _without_remarks(typing.get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


def _inner(hint: Any) -> Any:
    """The part of `X | None`, `list[X]`, `tuple[X, ...]` that may be a Literal."""
    if typing.get_origin(hint) is typing.Literal:
        return hint
    parts = [_inner(part) for part in typing.get_args(hint)]
    return next((part for part in parts if typing.get_origin(part) is typing.Literal), None)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8") if len(sys.argv) > 1 else print(page(), end="")
