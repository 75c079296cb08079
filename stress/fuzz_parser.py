"""What a fuzzed parser is: valid files, how each is damaged, and a reading that checks what it promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stress.fuzz_mutations import Mutator


class Broken(Exception):
    """A parser has let something through that it promises not to."""


@dataclass(frozen=True)
class Seed:
    """A folder that the parser reads without complaint.

    Attributes:
        files: name -> content.
        refused: a valid file of its kind that the parser does not take.
        aims: names of the files that are damaged -> how; one of them at a time, now and then two.
    """

    files: Mapping[str, bytes]
    aims: Mapping[str, Mutator]
    refused: bool = False


@dataclass(frozen=True)
class Parser:
    """One parser of a file that users give.

    Attributes:
        name: on the command line and in the figures.
        words: what it reads, for people.
        seeds: makes the valid folders; is given an empty folder to work in.
        read: reads a folder; raises what the parser raises, and `Broken` where a loaded value is not what is
            promised. What it returns counts as "loaded" unless it is False (a refusal that raises nothing).
        reads_elsewhere: the file may name other files by any path, as its user's own words.
    """

    name: str
    words: str
    seeds: Callable[[Path], list[Seed]]
    read: Callable[[Path], Any]
    reads_elsewhere: bool = field(default=False)


def expect(true: Any, words: str) -> None:
    """Raises `Broken` unless a promise holds."""
    if not bool(true):
        raise Broken(words)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder by their names in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
