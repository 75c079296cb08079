"""The memory that a container, a systemd unit or a batch system leaves this process (a Linux control group).

Who takes more is killed by the system, with SIGKILL and without a word. `heed` makes that limit one of the
process's own, so that what is too much fails where it is asked for: an error that can be told, with exit
code 3. Imports nothing that is slow (see begin.py).

Source: Linux' Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst; getrlimit(2).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_STACK = 16 << 20
"""Bytes set aside for a thread and never written: its stack, and malloc's first piece for it."""
_MARGIN = 0.03
"""Of what is left, for what the kernel counts besides: page tables, buffers of files being written."""


def memory_left() -> tuple[int, int] | None:
    """The tightest memory limit of this process's groups and what it leaves, in bytes; None without any.

    What the kernel can take back by itself (files that it keeps in memory) counts as left, and so does swap.
    """
    physical = _table(PROC / "meminfo")
    total, swap = physical.get("MemTotal", 0) * 1024, physical.get("SwapFree", 0) * 1024
    found = []
    for folder in _groups():
        stat = _table(folder / "memory.stat")
        if (folder / "memory.max").is_file():
            limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
            files = stat.get("inactive_file", 0) + stat.get("active_file", 0)
            swap_limit = _number(folder / "memory.swap.max")
            more = swap if swap_limit is None else min(swap, swap_limit)
        else:
            limit = _number(folder / "memory.limit_in_bytes")
            used = _number(folder / "memory.usage_in_bytes")
            files = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
            both = _number(folder / "memory.memsw.limit_in_bytes")
            more = swap if both is None or limit is None else min(swap, max(0, both - limit))
        if limit is not None and used is not None and limit < total:
            found.append((limit, max(0, limit - max(0, used - files)) + more))
    return min(found, key=lambda one: one[1], default=None)


def heed(*, processes: int = 1, threads: int = 1) -> int | None:
    """Limits the data of this process (RLIMIT_DATA) to what it has now and its share of what is left.

    Args:
        processes: of the same kind in the same group, which share what is left.
        threads: that this process may still start.

    Returns:
        The group's limit in bytes; None where there is none, or none can be set.
    """
    if sys.platform != "linux":
        return None
    import resource

    limited = memory_left()
    now = _table(PROC / "self" / "status").get("VmData")
    if limited is None or now is None:
        return None
    wanted = now * 1024 + int(limited[1] * (1.0 - _MARGIN)) // processes + threads * _STACK
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    known = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), hard))
    return limited[0]


def _groups() -> Iterator[Path]:
    """The folders of this process's memory groups: its own, and those that they are in."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = CGROUPS / "memory" if controllers else CGROUPS
        folder = top / place.strip("/")
        while True:  # a container may see no more than the top, which is its own group then
            if (folder / "memory.stat").is_file():
                yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _number(path: Path) -> int | None:
    """What a file of a group says; None for "max", or where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Names and numbers, as in "MemTotal: 123 kB" and "inactive_file 456"; empty where there is no file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = ((words[0].rstrip(":"), words[1]) for words in map(str.split, lines) if len(words) > 1)
    return {name: int(value) for name, value in pairs if value.isdigit()}
