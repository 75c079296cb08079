"""The output folder of a run: where each file goes, and the rules that keep one run from harming another.

A folder holds one run. A second run in it is an error unless it resumes or overwrites the first;
overwriting removes files of a run that this program wrote, by name, and nothing else; and a lock keeps two
processes from working in one folder at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from atomic import atomic_write, file_digest
from engine.checkpoint import latest_checkpoint
from engine.command import DISK_FULL, add_facts
from errors import UserError

_LOCK = ".run.lock"  # also marks a folder as ours: overwriting asks for it
_MARK = "Locked while train.py works in this folder. Safe to delete when it does not."
_OWN = (  # everything that a run and the rendering of it write, relative to the output folder
    "config.yaml",
    "cameras.json",
    "input.ply",
    "summary.json",
    "results.json",
    "per_view.json",
    "report.html",
    "events.out.tfevents.*",
    "point_cloud/iteration_*/point_cloud.ply",
    "teachers/teacher_*.ply",
    "teachers/teacher_*.sha256",
    "checkpoints/iteration_*.pt",
    *(
        f"{split}/ours_*/{name}"
        for split in ("test", "train")
        for name in ("results.json", "per_view.json", "*/*.png", "*/*.npy")
    ),
    "video/ours_*/*.mp4",
    "video/ours_*/*/*.png",
)
_LEFTOVERS = sorted(
    {f"{Path(pattern).parent}/.*.tmp*" for pattern in (*_OWN, "export/*")}
)  # of killed writes
_EXPORTED = (".html", ".spz", ".splat", ".compressed.ply", ".ply")  # export/NAME.*, NAME being the run's
_RUN = (
    *("config.yaml", "checkpoints/iteration_*.pt", "events.out.tfevents.*", "point_cloud/iteration_*"),
    "teachers/teacher_*.ply",
)
_TAKEN_FOR_OWN = (
    "checkpoints/iteration_*.pt",
    "point_cloud/iteration_*/point_cloud.ply",
    "teachers/teacher_*.ply",
)
_log = logging.getLogger(__name__)


class OutputError(UserError):
    """An output folder that cannot be used as asked."""


@dataclass(frozen=True)
class OutputFolder:
    """The places in a run's folder, laid out as 3DGS viewers and metric tools expect."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, config.yaml."""
        return self.path / "config.yaml"

    @property
    def cameras(self) -> Path:
        """The training and test cameras for viewers, cameras.json."""
        return self.path / "cameras.json"

    @property
    def input_ply(self) -> Path:
        """The points that the run started from, input.ply."""
        return self.path / "input.ply"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def point_cloud(self, iteration: int) -> Path:
        """Returns the .ply of an iteration (its folder is not made)."""
        return self.path / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"

    def teacher(self, number: int) -> Path:
        """Returns the .ply of a model that was trained to teach the run's own (its folder is not made)."""
        return self.path / "teachers" / f"teacher_{number}.ply"

    def seal_teacher(self, number: int) -> None:
        """Notes the sum of a teacher's file, which tells it from a damaged or a foreign one."""
        with atomic_write(self._seal(number)) as file:
            file.write(f"{file_digest(self.teacher(number))}\n".encode())

    def has_teacher(self, number: int) -> bool:
        """Whether a teacher's file is there, whole and this run's own."""
        path, seal = self.teacher(number), self._seal(number)
        return path.is_file() and seal.is_file() and seal.read_bytes().strip() == file_digest(path).encode()

    def _seal(self, number: int) -> Path:
        return self.teacher(number).with_suffix(".sha256")

    def renders(self, split: str, iteration: int) -> Path:
        """Returns the folder of `split`'s ("test", "train") images of an iteration (not made)."""
        return self.path / split / f"ours_{iteration}"

    def holds_run(self) -> bool:
        """Says whether a run has written here."""
        return any(next(self.path.glob(pattern), None) is not None for pattern in _RUN)

    def holds_training(self) -> bool:
        """Says whether a training has written here, and not only what joins the models of others."""
        patterns = ("checkpoints/iteration_*.pt", "events.out.tfevents.*")
        return any(next(self.path.glob(pattern), None) is not None for pattern in patterns)

    def is_in_use(self) -> bool:
        """Says whether a run is working here; False where the system cannot tell."""
        try:
            import fcntl

            with open(self.path / _LOCK, encoding="utf-8", opener=not_through_a_link) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (ImportError, OSError):  # not a POSIX system; no run, or no locks there
            pass
        return False

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Refuses a folder that cannot be used as asked. Changes nothing.

        Raises:
            OutputError: both flags; a run is here and neither flag is given; nothing to resume; no folder;
                or something to overwrite that this program did not write.
        """
        if resume and overwrite:
            raise OutputError("--resume and --overwrite: expected one of them, got both: choose one.")
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: expected an output folder, got a file: choose another -m.")
        if resume:
            if latest_checkpoint(self.checkpoints) is None:
                raise OutputError(
                    f"{self.path}: no usable checkpoint to resume from in {self.checkpoints}: check -m, or "
                    "start anew (without --resume; with --overwrite if the folder holds a run)."
                )
        elif self.holds_run() and not overwrite:
            raise OutputError(
                f"{self.path}: holds another run: go on with it by --resume, replace it by --overwrite, or "
                "choose another -m."
            )
        elif overwrite and (kept := self._behind_link()) is not None:
            raise OutputError(
                f"{kept}: lies behind a link to another place, where --overwrite removes nothing, and would "
                "be taken for a part of the new run: empty that folder, or choose another -m."
            )
        elif overwrite and self.holds_run() and not self._is_ours():
            raise OutputError(
                f"{self.path}: --overwrite only replaces runs of this program, and this folder holds "
                "something else (another tool's run?): nothing was removed; choose another -m."
            )

    def _behind_link(self) -> Path | None:
        """A run's model or checkpoint that `clear` would leave, and the next run would take for its own."""
        found = (path for pattern in _TAKEN_FOR_OWN for path in sorted(self.path.glob(pattern)))
        return next((path for path in found if path.is_file() and _through_link(path, self.path)), None)

    def _is_ours(self) -> bool:
        """Says whether the lock's mark or a configuration written by us is here."""
        if (self.path / _LOCK).is_file():
            return True
        try:
            lines = self.config.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return False
        return all(
            any(line.startswith(key) for line in lines) for key in ("format:", "source_path:", "iterations:")
        )

    def remove_leftovers(self) -> None:
        """Removes what killed processes had begun to write; what one that is alive here writes stays."""
        for pattern in _LEFTOVERS:
            for path in self.path.glob(pattern):
                number = path.name.partition(".tmp")[0].rpartition(".")[2]
                ours = path.is_file() and not _through_link(path, self.path)
                if ours and not (number.isdecimal() and _is_alive(int(number))):
                    path.unlink(missing_ok=True)

    def clear(self, *, keep: Sequence[str] = ()) -> None:
        """Removes the files of a run, by name, and folders left empty; all else stays and is reported.

        `keep`: names in the folder that need no report.
        """
        name = glob.escape(self.path.resolve().name)
        own = (*_OWN, *(f"export/{name}{ending}" for ending in _EXPORTED))
        for pattern in (*own, *_LEFTOVERS):
            for path in self.path.glob(pattern):
                if path.is_file() and not _through_link(path, self.path):
                    path.unlink()
        for folder in ("point_cloud", "checkpoints", "teachers", "test", "train", "video", "export"):
            _remove_empty(self.path / folder)
        left = sorted(path.name for path in self.path.iterdir() if path.name not in (_LOCK, *keep))
        if left:
            _log.warning("%s: left in place, not written by a run: %s", self.path, ", ".join(left[:5]))


@contextlib.contextmanager
def claim_output(path: Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[OutputFolder]:
    """Makes and locks the output folder for a run, cleared if `overwrite`; released when the block ends.

    Call `OutputFolder(path).check(...)` before slow work such as loading the scene, and this once the input
    has proved good, so that a bad input harms no earlier run.

    Raises:
        OutputError: as `OutputFolder.check`; or another process works in the folder; or it is not writable.
    """
    with replaced_output(path, resume=resume, overwrite=overwrite) as output:
        try:
            yield output
        except BaseException as error:
            add_facts(error, output=path)
            raise


@contextlib.contextmanager
def replaced_output(
    path: Path, *, resume: bool = False, overwrite: bool = True, keep: Sequence[str] = ()
) -> Iterator[OutputFolder]:
    """As `claim_output`, for what writes a run's files without being a training that could be resumed.

    `keep`: see `OutputFolder.clear`.
    """
    output = OutputFolder(path)
    output.check(resume=resume, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / _LOCK, "a+", encoding="utf-8", opener=not_through_a_link)
    except OSError as error:
        if error.errno == errno.ELOOP and (path / _LOCK).is_symlink():
            raise OutputError(
                f"{path / _LOCK}: expected a file of this program, got a link to another place: remove it"
            ) from error
        if (path / _LOCK).exists() and not (path / _LOCK).is_file():
            raise OutputError(
                f"{path / _LOCK}: expected a file of this program, got a folder or a pipe: remove it"
            ) from error
        if error.errno in DISK_FULL:
            raise
        raise OutputError(f"{path}: cannot write there ({error.strerror}): choose another -m.") from error
    with lock:
        _lock(lock, path)
        output.check(resume=resume, overwrite=overwrite)  # another run may have ended between check and lock
        output.remove_leftovers()
        if overwrite:
            output.clear(keep=keep)
        yield output


def not_through_a_link(path: str, flags: int) -> int:
    """Opens a file, but not one elsewhere that a link by its name leads to: `open(..., opener=this)`.

    Nor waits for somebody at the other end, should it be a pipe.

    Raises:
        OSError: ELOOP where there is such a link, and what `os.open` raises.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _is_alive(process: int) -> bool:
    """Says whether another process of this number is there, whoever's it is."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _lock(lock: IO[str], path: Path) -> None:
    """Takes the lock, which the system releases when its process ends in whatever way.

    Raises:
        OutputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.readline().strip() or "unknown"
        raise OutputError(
            f"{path}: another run is working there (process {owner}): wait for it, or choose another -m."
        ) from None
    except OSError as error:  # some network file systems have no locks; a run is worth more than the lock
        _log.warning(
            "%s: cannot lock the folder (%s); do not start a second run in it.", path, error.strerror
        )
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n{_MARK}\n")
    lock.flush()


def _through_link(path: Path, root: Path) -> bool:
    """Says whether a folder between `root` and `path` is a symbolic link (what is behind it is not ours)."""
    return any(parent.is_symlink() for parent in path.parents if root in parent.parents)


def _remove_empty(folder: Path) -> None:
    """Removes `folder` and folders below it that hold no file; follows no links."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for child in folder.iterdir():
        _remove_empty(child)
    with contextlib.suppress(OSError):
        folder.rmdir()
