"""Which photographs a user means, and upright copies of them that COLMAP and everybody else can read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from atomic import file_digest
from errors import UserError

READABLE = frozenset((".jpg", ".jpeg", ".png"))
"""Files that are taken as they are."""
CONVERTED = frozenset((".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif", ".avif"))
"""Files that become PNG or, where they were lossy, JPEG."""
_LOSSY = frozenset((".webp", ".heic", ".heif", ".avif"))
UNREAD = frozenset(
    (".gif", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef")
)
"""Pictures that are left out, and said: animations, layers, a camera's raw data."""
VIDEOS = frozenset((".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"))
FOLDERS = ("images", "input")
"""Where the photographs are looked for, besides the folder itself."""
_ORIENTATION, _FOCAL_35MM, _FOCAL, _MAKE, _MODEL = 0x0112, 0xA405, 0x920A, 0x010F, 0x0110
_EXIF = 0x8769
_TOLD = 10  # files in a message
_log = logging.getLogger(__name__)
_QUALITY = 95
"""Of a JPEG that has to be written anew because it lies on its side."""


@dataclass(frozen=True)
class Photo:
    """One photograph of the scene to be."""

    name: str
    """Below the scene's images folder."""
    width: int
    height: int
    lens: str
    """Stands for camera, lens and zoom; photographs of one lens and size share their intrinsics."""


def find_photos(source: Path) -> list[Path]:
    """The photographs in a folder, or in its `images` or `input`, sorted by name.

    Raises:
        UserError: there are fewer than two, or some that nothing here can read.
    """
    for folder, found in _candidates(source):
        if found:
            _tell_unread(folder)
        if len(found) == 1:
            raise UserError(f"{folder}: expected at least 2 photographs, got 1: take more, from other places")
        if found:
            return found
    if below := folders_with_photos(source):
        raise UserError(
            f"{source}: expected photographs in it, got some in {', '.join(below[:5])}: name that folder"
        )
    raise UserError(
        f"{source}: expected photographs ({', '.join(sorted(READABLE | CONVERTED))}) in it or in its "
        f"{' or '.join(FOLDERS)} folder, got none: check the path"
    )


def folders_with_photos(source: Path) -> list[str]:
    """The names of folders in a folder that hold photographs."""
    return [folder.name for folder in sorted(source.iterdir()) if folder.is_dir() and _photographs(folder)]


def has_photos(source: Path) -> bool:
    """Whether a folder holds photographs where they are looked for."""
    return any(found for _, found in _candidates(source))


def _candidates(source: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folders that are looked into, with the photographs in each, sorted by name."""
    for folder in [source / name for name in FOLDERS if (source / name).is_dir()] + [source]:
        yield folder, _photographs(folder)


def _photographs(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix.lower() in READABLE | CONVERTED]


def _tell_unread(folder: Path) -> None:
    """Warns of pictures of kinds that are not read."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in UNREAD)
    if names:
        more = f" and {len(names) - _TOLD:,} more" if len(names) > _TOLD else ""
        kinds = ", ".join(sorted(kind.removeprefix(".") for kind in READABLE | CONVERTED))
        _log.warning("%s: left out, as only %s are read: %s%s", folder, kinds, ", ".join(names[:_TOLD]), more)


def without_copies(photos: Sequence[Path]) -> list[Path]:
    """Of files with the same content the first; the others are left out with a warning.

    Raises:
        UserError: they are all the same.
    """
    firsts: dict[str, Path] = {}
    for path in photos:
        digest = file_digest(path)
        if digest in firsts:
            _log.warning("%s: the same file as %s: left out", path, firsts[digest].name)
        firsts.setdefault(digest, path)
    if len(firsts) == 1 < len(photos):
        raise UserError(f"{photos[0].parent}: its {len(photos)} photographs are the same one: take others")
    return list(firsts.values())


def copy_upright(photos: Sequence[Path], folder: Path) -> list[Photo]:
    """Puts photographs into a folder, turned as their camera was held.

    One that needs no change is linked where the disk can do that, else copied.

    Args:
        photos: files; equal names are made different.
        folder: exists and is empty.

    Raises:
        UserError: files are no pictures, or cut short; all of these are named.
    """
    copied: list[Photo] = []
    taken: set[str] = set()
    bad: list[str] = []
    for path in photos:
        suffix = path.suffix.lower()
        target = suffix if suffix in READABLE else ".jpg" if suffix in _LOSSY else ".png"
        name = f"{path.stem}{target}"
        if name.casefold() in taken:
            name = f"{path.stem}_{suffix.removeprefix('.')}{target}"
        taken.add(name.casefold())
        try:
            copied.append(_copy(path, folder / name))
        except OSError as error:
            if error.errno is not None:  # the disk's own reason decides the exit code
                raise
            cut = "the picture is cut short or damaged"
            what = "not a readable photograph" if isinstance(error, UnidentifiedImageError) else cut
            bad.append(f"{path}: {what} ({error}): {_advice(suffix)}")
        except Exception as error:  # of Pillow, a dozen kinds, at damaged bytes and huge sizes
            why = str(error) or type(error).__name__
            bad.append(f"{path}: not a readable photograph ({why}): {_advice(suffix)}")
    if bad:
        more = f"\nand {len(bad) - _TOLD} more" if len(bad) > _TOLD else ""
        raise UserError("\n".join(bad[:_TOLD]) + more)
    return copied


def _advice(suffix: str) -> str:
    if suffix in (".heic", ".heif"):
        return "install the package pillow-heif (pip install pillow-heif), or convert it to JPEG"
    return "copy it again, or move it out of the folder"


def _copy(path: Path, target: Path) -> Photo:
    _register_heif(path)
    with Image.open(path) as image:
        exif = image.getexif()
        lens = _lens(exif)
        image.load()  # all of it, so that a damaged one is found here
        if exif.get(_ORIENTATION, 1) == 1 and target.suffix == path.suffix.lower():
            size = image.size
            link_or_copy(path, target)
        else:
            upright = ImageOps.exif_transpose(image)
            size = upright.size
            kept = upright.getexif().tobytes()
            if target.suffix in (".jpg", ".jpeg"):
                upright.convert("RGB").save(target, "JPEG", quality=_QUALITY, subsampling=0, exif=kept)
            else:
                upright.save(target, "PNG", exif=kept)
    return Photo(target.name, size[0], size[1], f"{size[0]}x{size[1]} {lens}")


def _lens(exif: Image.Exif) -> str:
    """Camera and focal length; a zoom that was moved is another lens."""
    details = exif.get_ifd(_EXIF)
    values = (exif.get(_MAKE), exif.get(_MODEL), details.get(_FOCAL), details.get(_FOCAL_35MM))
    return " ".join(str(value).strip("\0 ") for value in values if value is not None)


def link_or_copy(path: Path, target: Path) -> None:
    """Gives a file another name, by a hard link where the disk can do that."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _register_heif(path: Path) -> None:
    """Lets Pillow read an iPhone's photographs, where the optional package is installed."""
    if path.suffix.lower() in (".heic", ".heif"):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return
        register_heif_opener()
