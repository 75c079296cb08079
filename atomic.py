"""Files that exist whole or not at all, whatever ends the process: an error, a full disk, `kill -9`; sums.

The content goes to a temporary file in the same folder, is forced to the disk, and takes the final name in
one step; then the folder is forced to the disk too, so that the name survives a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SUFFIX = ".tmp"


class _Recorder:
    """A binary file that remembers its first failed write.

    torch's archive writer replaces the reason ("No space left on device") by one of its own, which says
    only that a write failed; the reason decides the exit code.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:  # torch goes on writing its index after a failed write
            raise self.error
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Any]:
    """Opens a binary file for writing that becomes `path` when the block ends without an error.

    Raises:
        OSError: the first failed write (for instance errno ENOSPC), even where the block's own code
            reported it as something else. The file that was at `path` before is then untouched and the
            temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    recorder: _Recorder | None = None
    try:
        with open(temporary, "wb") as file:
            recorder = _Recorder(file)
            yield recorder
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if recorder is not None and recorder.error is not None and error is not recorder.error:
            raise recorder.error from error
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file by `content` in one step; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)


def file_digest(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Forces a folder's list of names to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
