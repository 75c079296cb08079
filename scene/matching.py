"""Finding the file that belongs to a name: images and masks are matched by name, never by rank.

Names come from files that others wrote, so they are refused where they could leave the folder.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from scene.scene_error import SceneError
from scene.view import IMAGE_SUFFIXES, strip_suffix

_LONGEST, _LONGEST_PART = 2_000, 255
"""Characters of a name, bytes of its parts: beyond them the system refuses to look for the file."""


def _bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def check_name(name: str, where: str) -> None:
    """Refuses image names that point outside the images folder or cannot be a file name.

    Args:
        name: As the model gives it; slash or backslash separate folders.
        where: The file that holds the name, for the message.

    Raises:
        SceneError: For an empty name, an absolute path, a drive, "..", or control characters.
    """
    windows = PureWindowsPath(name)
    if not name or any(ord(character) < 32 for character in name):
        problem = "is empty or holds control characters"
    elif windows.drive or windows.root:
        problem = "is an absolute path"
    elif ".." in windows.parts:
        problem = 'leads out of the images folder with ".."'
    elif not windows.parts:
        problem = "names no file"
    elif len(name) > _LONGEST or any(_bytes(part) > _LONGEST_PART for part in windows.parts):
        problem = "is longer than any file's"
    else:
        return
    raise SceneError(
        f"{where}: image name {name[:80]!r} {problem}; names must be relative to the images folder"
    )


def name_key(name: str) -> str:
    """Names that differ only in case, separators, a leading "./" or Unicode composition share a key."""
    plain = name.replace("\\", "/")
    while plain.startswith("./"):
        plain = plain[2:]
    return unicodedata.normalize("NFC", plain).casefold()


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file in a folder and its subfolders, sorted in each: its place below the folder, and its path.

    Links are followed; a link back to a parent folder is not.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a parent folder would never end
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            yield path.relative_to(folder).as_posix(), path


class FileIndex:
    """The image files below a folder, found by name with or without their extension.

    Args:
        folder: Walked once, with subfolders; links are followed.

    Raises:
        SceneError: If it is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        """Walks the folder."""
        if not folder.is_dir():
            raise SceneError(f"{folder}: no such folder; check the path")
        self.folder = folder
        self._exact: dict[str, Path] = {}
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for relative, path in files_below(folder):
            self._exact[relative] = path
            self._by_name[name_key(relative)].append(path)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_stem[name_key(strip_suffix(relative))].append(path)

    def find(self, name: str) -> Path | None:
        """The file of `name`: exactly, else without regard to case, else by stem; None if there is none.

        Raises:
            SceneError: If several files fit equally well.
        """
        if (exact := self._exact.get(name)) is not None:
            return exact
        for files in (
            self._by_name.get(name_key(name), []),
            self._by_stem.get(name_key(strip_suffix(name)), []),
        ):
            if len(files) == 1:
                return files[0]
            if files:
                found = ", ".join(sorted(file.name for file in files)[:5])
                raise SceneError(f"{self.folder}: {name} could be any of {found}; keep only one of them")
        return None

    def find_mask(self, name: str) -> Path | None:
        """The mask of image `name`: NAME.png as COLMAP has it (a.jpg.png), else a file of its name or stem.

        Raises:
            SceneError: If several files fit equally well.
        """
        path = self.find(f"{name}.png")
        return path if path is not None else self.find(name)

    def __len__(self) -> int:
        """Number of image files."""
        return sum(len(files) for files in self._by_stem.values())
