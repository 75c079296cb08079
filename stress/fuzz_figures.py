"""What came of damaged files: figures of each parser, added up over processes and over runs of the fuzzer."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomic import write_bytes
from errors import UserError

_FORMAT = 2
_MOST_REFUSALS = 2_000
_SHARED = ("fuzz_mutations", "fuzz_containers", "fuzz_headers", "fuzz_options")
"""Modules that make inputs for several parsers."""


@dataclass
class Figures:
    """What came of one parser's inputs.

    Attributes:
        done: numbers of the inputs that were read.
        valid: of these loaded.
        clean: refused by a message for the user.
        kinds: anything else, by its kind.
        refusals: the messages, without what varies, and how often each came.
        reached: file -> lines of the program that were run, looked at with each 50th input.
        entered: file -> all lines of the functions that were entered.
        worst_seconds: CPU seconds of the slowest.
        worst_mib: largest growth of resident memory while one was read.
        cpu_seconds: for all of them, with making the inputs.
        wall_seconds: likewise.
    """

    done: set[int] = field(default_factory=set)
    valid: int = 0
    clean: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    reached: dict[str, set[int]] = field(default_factory=dict)
    entered: dict[str, set[int]] = field(default_factory=dict)
    worst_seconds: float = 0.0
    worst_mib: float = 0.0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def inputs(self) -> int:
        """How many were read."""
        return len(self.done)

    @property
    def failures(self) -> int:
        """How many ended in anything but a valid load or a clean error."""
        return self.kinds.total()

    def add(self, other: Figures) -> None:
        """Adds what came of other inputs."""
        self.done |= other.done
        self.kinds.update(other.kinds)
        for name in ("valid", "clean", "cpu_seconds", "wall_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("worst_seconds", "worst_mib"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for message, count in other.refusals.items():
            if message in self.refusals or len(self.refusals) < _MOST_REFUSALS:
                self.refusals[message] += count
        for ours, theirs in ((self.reached, other.reached), (self.entered, other.entered)):
            for file, lines in theirs.items():
                ours.setdefault(file, set()).update(lines)

    def to_json(self) -> dict[str, Any]:
        """As plain values; first what people look for."""
        lines = {name: {file: in_ranges(at) for file, at in getattr(self, name).items()} for name in _LINES}
        first = {"inputs": self.inputs, "valid": self.valid, "clean": self.clean, "failures": self.failures}
        rest = {name: round(getattr(self, name), 3) for name in _NUMBERS}
        return {
            **first, **rest, "kinds": self.kinds, "done": in_ranges(self.done),
            "refusals": dict(self.refusals.most_common()), **lines,
        }  # fmt: skip

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Figures:
        """What `to_json` gave."""
        numbers = {name: content[name] for name in ("valid", "clean", *_NUMBERS)}
        lines = {name: {file: of_ranges(at) for file, at in content[name].items()} for name in _LINES}
        counters = {name: Counter(content[name]) for name in ("kinds", "refusals")}
        plain: dict[str, Any] = {"done": of_ranges(content["done"]), **numbers, **counters, **lines}
        return Figures(**plain)


_NUMBERS = ("worst_seconds", "worst_mib", "cpu_seconds", "wall_seconds")
_LINES = ("reached", "entered")


def in_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as people write them: 0-99,120."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def of_ranges(text: str) -> set[int]:
    """The numbers that `in_ranges` wrote."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def without_details(message: str, folder: Path) -> str:
    """A message without what varies from input to input: names, numbers, what a file held."""
    message = message.replace(str(folder), "...")
    message = re.sub(r"'[^']*'|\"[^\"]*\"|b'.*'", "Q", " ".join(message.split()))
    return re.sub(r"[-+]?\d[\w.+-]*|\bnan\b|-?\binf\b", "N", message)[:100]


def makers(module: str) -> str:
    """A sum of the files that make the inputs of a parser module: what a number and a seed mean."""
    folder = Path(__file__).parent
    sources = [(folder / f"{name}.py").read_bytes() for name in (*_SHARED, module)]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]


def write_figures(path: Path, figures: Mapping[str, Figures], seed: int, sums: Mapping[str, str]) -> None:
    """Writes figures; the file is replaced in one step.

    Args:
        path: fuzz.json.
        figures: by parser.
        seed: that of the inputs.
        sums: parser -> `makers` of its module.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parsers = {name: {"makers": sums[name], **one.to_json()} for name, one in figures.items()}
    content = {"format": _FORMAT, "seed": seed, "parsers": parsers}
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def read_figures(path: Path, seed: int, sums: Mapping[str, str]) -> tuple[dict[str, Figures], list[str]]:
    """Reads what earlier runs have counted.

    Args:
        path: fuzz.json, or where it would be.
        seed: figures of another one are left out.
        sums: parser -> `makers` of its module; likewise.

    Returns:
        Figures by parser, and a line for each parser whose inputs are made otherwise now.

    Raises:
        UserError: the file is there and cannot be read.
    """
    if not path.is_file():
        return {}, []
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.get("format") != _FORMAT or content["seed"] != seed:
            return {}, [f"{path} holds figures of another seed or version: all begin anew"]
        found, other = {}, []
        for name, one in content["parsers"].items():
            if one["makers"] == sums.get(name):
                found[name] = Figures.from_json(one)
            else:
                other.append(f"{name}: inputs are made otherwise than those counted in {path}: begins anew")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected figures of the fuzzer ({error!r}): remove the file") from error
    return found, other
