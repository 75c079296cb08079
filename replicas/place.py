"""Where a process stands among those that train together, as torchrun says in its environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from errors import SaidElsewhere, UserError


@dataclass(frozen=True)
class Place:
    """A process's numbers.

    Attributes:
        rank: its own, from 0; 0 writes the files.
        size: of all processes.
        local_rank: its own on its machine, from 0; the number of its GPU.
        local_size: of those on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def threads(self, cores: int) -> int:
        """CPU threads for it where the machine has so many cores: an equal share, at least 1."""
        return max(1, cores // self.local_size)

    def __str__(self) -> str:
        return f"process {self.rank} of 0 to {self.size - 1}"


def usable_cores() -> int:
    """CPU cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


@contextlib.contextmanager
def mute_parsing(place: Place) -> Iterator[None]:
    """A block that says the same in all processes of a machine: only the first of them is heard.

    Raises:
        SaidElsewhere: for a `UserError` in another process than the first.
    """
    if place.local_rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            try:
                yield
            except UserError as error:
                raise SaidElsewhere(error.exit_code) from error


def place_of(environment: Mapping[str, str] = os.environ) -> Place:
    """Reads the environment that torchrun makes; one process alone where there is none.

    Raises:
        UserError: a variable is no number, or they do not go together.
    """
    if "WORLD_SIZE" not in environment:
        return Place()
    rank, size = environment.get("RANK", "0"), environment["WORLD_SIZE"]
    usual = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    values = []
    for name, default in usual.items():
        word = environment.get(name, default)
        if not word.isdecimal():
            raise UserError(f"{name}: expected a number from torchrun, got {word!r}: start by torchrun")
        values.append(int(word))
    place = Place(*values)
    if not (place.rank < place.size and place.local_rank < place.local_size <= place.size):
        told = ", ".join(f"{name}={value}" for name, value in zip(usual, values, strict=True))
        raise UserError(f"{told}: these do not go together: start by torchrun")
    return place
