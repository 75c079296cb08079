"""Depth maps in files: what each format holds, and what its numbers mean.

| file | numbers | kind, frame if nothing says otherwise |
|---|---|---|
| .png, 16 or 8 bits | value / 65535 or / 255 | inverse, affine (MiDaS; 3DGS's depth regularisation) |
| .pfm | float32 | inverse, affine (MiDaS) |
| .npy, .npz (`depth` or `inverse`, and `confidence`), .tif with floats | as they are | depth, scale |
| .geometric.bin, .photometric.bin | float32 (COLMAP) | depth, world |
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_priors.prior import Frame, Kind
from errors import UserError
from scene.decode import cut_short, too_many_pixels

COLMAP_SUFFIXES = (".geometric.bin", ".photometric.bin")
SUFFIXES = (".npz", ".npy", ".png", ".pfm", ".tif", ".tiff", *COLMAP_SUFFIXES)
CONFIDENCES = ("confidence", "conf")
OUTLIER = 1e6
"""Times the median from which on a number counts as unknown."""
LEAST = float(np.finfo(np.float32).tiny)
"""The smallest number that counts as known: one over a smaller one is not finite in float32."""
_MOST_BYTES = 1 << 30  # of all arrays in a file; packed zeros would fill any memory
_INVERSES = ("inverse", "disparity")
_ADVICE = "convert it to .npy, or to a .png of 16 bits"


@dataclass(frozen=True)
class DepthFile:
    """What a file says."""

    value: NDArray[np.float32]
    """[H, W]; 0 where the file says nothing (0, negative, not finite)."""
    confidence: NDArray[np.float32]
    """[H, W] in [0, 1]; 0 where the value is."""
    kind: Kind
    frame: Frame


def read_depth(path: Path) -> DepthFile:
    """Reads a depth map of any of the formats above.

    Raises:
        UserError: the file cannot be read, or holds no map of one number a pixel.
    """
    name = path.name.lower()
    confidence = None
    kind: Kind = "depth"
    frame: Frame = "scale"
    if name.endswith(COLMAP_SUFFIXES):
        value, frame = _read(path, _read_colmap), "world"
    elif name.endswith(".npz"):
        arrays = _read(path, _read_npz)
        key = _only(path, [key for key in arrays if key not in CONFIDENCES], ("depth", *_INVERSES))
        kind = "inverse" if key in _INVERSES else "depth"
        value = _one_channel(path, arrays[key])
        confidence = next((_one_channel(path, arrays[key]) for key in CONFIDENCES if key in arrays), None)
    else:
        value = read_map(path)
        if name.endswith((".png", ".pfm")):
            kind, frame = "inverse", "affine"
    usable = np.isfinite(value) & (value >= LEAST)
    if usable.any():  # a number that is out of all proportion stands for "far" or "unknown" in some programs
        usable &= value < OUTLIER * float(np.median(value[usable]))
    if confidence is None:
        confidence = np.ones(value.shape, np.float32)
    elif confidence.shape != value.shape:
        raise UserError(
            f"{path}: confidence: expected the depth's size {value.shape[1]}x{value.shape[0]}, "
            f"got {confidence.shape[1]}x{confidence.shape[0]}: make it anew"
        )
    confidence = np.nan_to_num(confidence, nan=0.0).clip(0.0, 1.0)
    return DepthFile(
        np.where(usable, value, 0).astype(np.float32),
        np.where(usable, confidence, 0).astype(np.float32),
        kind,
        frame,
    )


def read_map(path: Path) -> NDArray[np.float32]:
    """One number a pixel [H, W] from an image, .pfm, .npy or .npz; an image's whole numbers become 0 to 1.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    name = path.name.lower()
    if name.endswith(".npz"):
        arrays = _read(path, _read_npz)
        value = arrays[_only(path, list(arrays), CONFIDENCES)]
    elif name.endswith(".npy"):
        value = _read(path, _read_npy)
    elif name.endswith(SUFFIXES):
        value = _read(path, _read_image)
    else:
        raise UserError(f"{path}: expected a map ({', '.join(SUFFIXES)}): {_ADVICE}")
    if value.dtype.kind == "u" and not name.endswith((".npy", ".npz")):
        value = value / np.float32(np.iinfo(value.dtype).max)
    return _one_channel(path, value)


def _read(path: Path, how: Callable[[Path], Any]) -> Any:
    try:
        return how(path)
    except MemoryError as error:  # a damaged header can ask for any size
        raise UserError(f"{path}: cannot read the map (it asks for too much memory): make it anew") from error
    except Exception as error:  # numpy, zlib and OpenCV raise a dozen kinds at damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: cannot read the map ({reason}): make it anew, or {_ADVICE}") from error


def _only(path: Path, keys: list[str], preferred: tuple[str, ...]) -> str:
    """The name of the one array that is meant.

    Raises:
        UserError: it is not clear.
    """
    chosen = [key for key in keys if key in preferred] or keys
    if len(chosen) != 1:
        raise UserError(
            f"{path}: expected one array named {' or '.join(preferred)}, got {', '.join(keys) or 'none'}: "
            "save it under that name"
        )
    return chosen[0]


def _one_channel(path: Path, value: NDArray) -> NDArray[np.float32]:
    """The map [H, W] of an array that may have axes of length 1, or channels that all say the same."""
    if value.dtype.kind not in "fiu":
        raise UserError(f"{path}: expected numbers, got {value.dtype}: {_ADVICE}")
    if value.ndim == 3 and value.shape[-1] in (3, 4) and (value[..., :1] == value[..., :3]).all():
        value = value[..., 0]
    shape = [side for side in value.shape if side != 1]
    if value.size == 0 or (value.ndim != 2 and len(shape) != 2):
        coloured = value.ndim == 3 and value.shape[-1] in (3, 4)
        what = "a picture in colour" if coloured else f"the shape {list(value.shape)}"
        raise UserError(f"{path}: expected one number a pixel [height, width], got {what}: {_ADVICE}")
    return (value if value.ndim == 2 else value.reshape(shape)).astype(np.float32)


def _read_npy(path: Path) -> NDArray:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an .npz file: give it that ending")
    return found


def _read_npz(path: Path) -> dict[str, NDArray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"it unpacks to {size / 2**30:.1f} GiB, which no map takes")
    with np.load(path, allow_pickle=False) as content:
        found = {name: content[name] for name in content.files}
    strangers = [name for name, value in found.items() if not isinstance(value, np.ndarray)]
    if strangers:
        raise ValueError(f"{strangers[0][:60]!r} in it is no array")
    return found


def _read_image(path: Path) -> NDArray:
    content = path.read_bytes()
    if promise := too_many_pixels(content):
        raise ValueError(promise)
    if cut_short(content):
        raise ValueError("it is cut short")
    data = np.frombuffer(content, np.uint8)  # cv2.imread cannot open every path on every system
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None:
        raise ValueError("damaged, or no image")
    return image


def _read_colmap(path: Path) -> NDArray[np.float32]:
    """COLMAP's dense map: "width&height&channels&", then float32, row after row."""
    content = path.read_bytes()
    head = content[:64].split(b"&", 3)
    if len(head) != 4 or not all(part.isdigit() and len(part) < 10 for part in head[:3]):
        raise ValueError("expected COLMAP's `width&height&channels&` at its start")
    width, height, channels = (int(part) for part in head[:3])
    start = sum(len(part) + 1 for part in head[:3])
    size = 4 * width * height * channels
    if channels != 1 or width < 1 or height < 1 or len(content) - start != size:
        raise ValueError(f"expected {size} bytes for {width}x{height}, got {len(content) - start}")
    return np.frombuffer(content, "<f4", offset=start).reshape(height, width)
