"""Control groups with a limit of memory, for children to run in. Linux, root."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_limit import CGROUPS

_numbers = itertools.count()


@contextmanager
def limited_group(mib: int) -> Iterator[Path | None]:
    """A group of so many MiB below this process's own; None where none can be made.

    Processes enter it by writing their numbers to its cgroup.procs, and have ended when the block does.
    """
    group = _made(mib)
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def _made(mib: int) -> Path | None:
    for above, limit in _places():
        group = above / f"stress_{os.getpid()}_{next(_numbers)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(mib << 20))
            return group
        except OSError:  # a group of the second version without the memory controller
            group.rmdir()
    return None


def _places() -> Iterator[tuple[Path, str]]:
    """Groups to make one in, and the name of the file that takes its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            yield CGROUPS / place.strip("/"), "memory.max"
        elif "memory" in controllers.split(","):
            yield CGROUPS / "memory" / place.strip("/"), "memory.limit_in_bytes"
