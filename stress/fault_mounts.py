"""Small and read-only file systems to write to, seen by this process and its children alone. Linux, root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_CLONE_NEWNS = 0x00020000


@cache
def can_mount() -> bool:
    """Whether mounting is allowed here; from then on, mounts of this process are its own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) != 0:
            return False
        return _call("mount", "--make-rprivate", "/")
    except (OSError, AttributeError):
        return False


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[bool]:
    """A file system of so many MiB in memory at `folder`; False if there cannot be one (`folder` is made)."""
    folder.mkdir(parents=True, exist_ok=True)
    there = can_mount() and _call(
        "mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(folder)
    )
    try:
        yield there
    finally:
        if there:
            _call("umount", "-l", str(folder))


@contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """`folder` cannot be written to within the block; False if that cannot be had."""
    if can_mount():
        there = _call("mount", "--bind", str(folder), str(folder))
        there = there and _call("mount", "-o", "remount,bind,ro", str(folder))
        try:
            yield there
        finally:
            _call("umount", "-l", str(folder))
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # whom permissions do not stop
        yield False
        return
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        yield True
    finally:
        folder.chmod(mode)


def _call(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
