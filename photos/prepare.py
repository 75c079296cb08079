"""The way from photographs or a video to a scene folder: copies, structure from motion, words.

A scene is made beside its final place and takes its name in one step, so that what is there is always whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from atomic import write_bytes
from errors import UserError
from photos.advice import guessed_lens, left_out, only_turned, summary
from photos.collect import (
    FOLDERS,
    VIDEOS,
    Photo,
    copy_upright,
    find_photos,
    folders_with_photos,
    has_photos,
    without_copies,
)
from photos.video import pick_frames
from progress import Bar
from scene import MADE, is_scene

ROOT = Path(__file__).resolve().parent.parent
RECORD = "convert.json"
"""In the scene's folder: what it was made from, and what structure from motion found."""
FORMAT = 1
PLACED = 0.5
"""Share of the photographs that must be placed for a scene to be of use."""
_LEAST_FREE = 1 << 20  # bytes; a database that cannot grow leaves less
_LAST_LINES = 5


@dataclass(frozen=True)
class SfmConfig:
    """How photographs become a scene."""

    frames: int = 48
    """Of a video: frames to pick, the sharpest ones, evenly over its length."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which photographs are compared: every pair, or each with those taken next. auto: every pair of up to
    60."""
    camera_model: Literal["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"] = (
        "SIMPLE_RADIAL"
    )
    """Lens model, by COLMAP's name. Photographs of one camera, lens and zoom share it."""
    max_features: int = 8192
    """Features of a photograph."""
    max_image_size: int = 2000
    """Longer side at which features are looked for, in pixels; the photographs stay as they are."""
    undistort: bool = False
    """Remove lens distortion from the photographs that are written (training does so anyway); for programs
    that know pinhole cameras only."""
    seed: int = 0
    """Of pycolmap's random numbers."""

    def check(self) -> None:
        """Refuses values with no meaning."""
        for name, least in (("frames", 2), ("max_features", 100), ("max_image_size", 100), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Converted:
    """A scene that was made of photographs."""

    path: Path
    lines: tuple[str, ...]
    """What was found, for the user."""
    warnings: tuple[str, ...]


def scene_of(source: Path, *, threads: int, quiet: bool = False) -> Converted | None:
    """The scene that belongs to photographs or a video, made where it is not there yet.

    It lies in `colmap` in the photographs' folder, or beside the video.

    Args:
        source: what the user named as the scene.
        threads: CPU threads.
        quiet: no progress bars.

    Returns:
        None where `source` is a scene already, or nothing that this room knows of.

    Raises:
        UserError: no scene can be made of it, or the photographs lie in folders of it.
    """
    if source.is_dir() and is_scene(source):
        return None
    if source.is_dir() and not has_photos(source):
        if folders_with_photos(source):
            find_photos(source)  # says which
        return None
    if not source.is_dir() and not (source.is_file() and source.suffix.lower() in VIDEOS):
        return None
    return convert(source, place_of(source), SfmConfig(), threads=threads, quiet=quiet)


def place_of(source: Path) -> Path:
    """Where the scene of photographs or of a video is kept unless the user says so."""
    return source / MADE if source.is_dir() else source.with_name(f"{source.stem}_{MADE}")


def convert(source: Path, target: Path, config: SfmConfig, *, threads: int, quiet: bool = False) -> Converted:
    """Makes a COLMAP scene of photographs or a video.

    Args:
        source: a folder of photographs, or a video.
        target: the scene's folder to be. One that was made from the same files in the same way is kept.
        config: how.
        threads: CPU threads.
        quiet: no progress bars.

    Raises:
        UserError: `source` is unusable, too few photographs could be placed, or `target` is something else.
    """
    config.check()
    if not source.exists():
        raise UserError(f"{source}: no such folder or video: check the path")
    is_video = source.is_file()
    if is_video and source.suffix.lower() not in VIDEOS:
        raise UserError(
            f"{source}: expected a folder of photographs or a video ({', '.join(sorted(VIDEOS))}): name one"
        )
    if target.resolve() in [source.resolve() / name for name in FOLDERS]:
        raise UserError(f"{target}: photographs are looked for there first: choose another folder by -o")
    files = [source] if is_video else find_photos(source)
    digest = _digest(files, config)
    if (kept := _kept(target, digest)) is not None:
        return kept
    with _beside(target) as work:
        began = time.perf_counter()
        (work / "images").mkdir()
        if is_video:
            (work / "frames").mkdir()
            files = pick_frames(source, work / "frames", config.frames, quiet=quiet)
        copied = copy_upright(without_copies(files), work / "images")
        if is_video:
            shutil.rmtree(work / "frames")
        found = _reconstruct(copied, work, config, threads, quiet)
        _judge(source, found)
        warnings = [words for words in (left_out(found), only_turned(found), guessed_lens(found)) if words]
        masks = source / "masks"
        if config.undistort:
            _undistort(work)
            if masks.is_dir():
                warnings.append(
                    f"{masks}: left out, as they fit photographs with the lens's distortion: without "
                    "--undistort they are used, and training undistorts both"
                )
        elif masks.is_dir():
            shutil.copytree(masks, work / "masks")
        lines = [summary(found, time.perf_counter() - began)]
        record = {"format": FORMAT, "digest": digest, "source": str(source), "config": asdict(config)}
        record |= {"found": found, "lines": lines, "warnings": warnings}
        write_bytes(work / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        _move(work, target)
    return Converted(target, (*lines, f"scene: {target}"), tuple(warnings))


def _digest(files: Sequence[Path], config: SfmConfig) -> str:
    """Stands for the photographs (by name, size and time) and the options."""
    parts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([FORMAT, parts, asdict(config)]).encode()).hexdigest()


def _kept(target: Path, digest: str) -> Converted | None:
    """The scene in `target` if it was made from these very files; None where it is to be made.

    Raises:
        UserError: something else is there.
    """
    if not target.exists():
        return None
    try:
        record = json.loads((target / RECORD).read_text("utf-8"))
        same = record["format"] == FORMAT and record["digest"] == digest
        warnings = tuple(map(str, record["warnings"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if target.is_dir() and not any(target.iterdir()):
            return None
        raise UserError(
            f"{target}: expected no such file, or a scene that was made here ({RECORD}), got something else: "
            "move it away, or name another folder with scripts/convert"
        ) from None
    return Converted(target, (f"scene: {target}, made earlier",), warnings) if same else None


@contextlib.contextmanager
def _beside(target: Path) -> Any:
    """A new folder on the disk of `target`, gone at the end.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"{target.parent}: cannot make the scene there ({error.strerror}): make it elsewhere with "
            "scripts/convert PHOTOS -o FOLDER, and train with -s FOLDER"
        ) from error
    try:
        work.chmod(0o777 & ~_umask())  # mkdtemp's is for one user only
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move(work: Path, target: Path) -> None:
    """Gives a finished scene its name; an older one there, which `_kept` has looked at, goes."""
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)
    work.mkdir()  # for who cleans up


def _reconstruct(
    copied: Sequence[Photo], work: Path, config: SfmConfig, threads: int, quiet: bool
) -> dict[str, Any]:
    """Runs structure from motion in a process of its own, with a bar for each stage.

    Raises:
        UserError: it ended without a result; with the last lines that it printed.
    """
    scratch = work / "sfm"
    scratch.mkdir()
    job = {
        "photos": [asdict(photo) for photo in copied],
        "images": str(work / "images"),
        "work": str(scratch),
        "output": str(work / "sparse" / "0"),
        "threads": threads,
        "matching": config.matching,
        "camera_model": config.camera_model,
        "max_features": config.max_features,
        "max_image_size": config.max_image_size,
        "seed": config.seed,
    }
    (scratch / "job.json").write_text(json.dumps(job), "utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "photos.reconstruct", str(scratch / "job.json")]
    with open(scratch / "log.txt", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None, "asked for above"
            _show(process.stdout, quiet)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        printed = [line.strip() for line in log.read().splitlines() if line.strip()]
    result = scratch / "result.json"
    if code != 0 or not result.is_file():
        if shutil.disk_usage(scratch).free < _LEAST_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work))
        how = (
            f"exit code {code}" if code >= 0 else f"signal {-code}" + (" (no memory?)" if code == -9 else "")
        )
        raise UserError(
            f"structure from motion ended early ({how}): {' / '.join(printed[-_LAST_LINES:]) or 'no word'}: "
            "with many or large photographs lower --max_features or --max_image_size of scripts/convert"
        )
    found = json.loads(result.read_text("utf-8"))
    shutil.rmtree(scratch)
    return found


def _show(stream: Any, quiet: bool) -> None:
    """Draws a bar for each stage from the lines of the process."""
    bar: Bar[None] | None = None
    shown, attempt = "", 1
    for line in stream:
        try:
            told = json.loads(line)
            stage, done, total = str(told["stage"]), int(told["done"]), int(told["total"])
        except (ValueError, KeyError, TypeError):
            continue  # something that a library has printed
        if stage != shown or (bar is not None and done < bar.done):
            if bar is not None:
                bar.close()
            fresh = stage != shown
            shown, attempt = stage, 1 if fresh else attempt + 1
            desc = f"structure from motion, {stage}" + (f", attempt {attempt}" if attempt > 1 else "")
            bar = Bar(total=total, desc=desc, quiet=quiet, announced=fresh)
        if bar is not None:
            bar.update(done - bar.done)
    if bar is not None:
        bar.close()


def _judge(source: Path, found: dict[str, Any]) -> None:
    """Refuses a model of too few photographs.

    Raises:
        UserError: with what to do.
    """
    placed, total = len(found["registered"]), len(found["features"])
    if placed < 2 or placed < PLACED * total:
        why = only_turned(found) or left_out(found)
        raise UserError(f"{source}: structure from motion placed {placed} of {total} photographs: {why}")


def _undistort(work: Path) -> None:
    """Replaces images and model by ones without lens distortion."""
    import pycolmap

    pycolmap.logging.minloglevel = 2  # errors only
    flat = work / "flat"
    pycolmap.undistort_images(flat, work / "sparse" / "0", work / "images", jpeg_quality=95)
    for name in ("images", "sparse"):
        shutil.rmtree(work / name)
    (flat / "images").rename(work / "images")
    (work / "sparse").mkdir()
    (flat / "sparse").rename(work / "sparse" / "0")
    shutil.rmtree(flat)
