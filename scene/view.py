"""Views, points and the scene they make up: what the rest of the program is handed.

Pixels stay uint8 until a view is used, so that a scene costs a quarter of its float images.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from scene.camera import Camera
from scene.warp import Undistortion

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".tif",
        ".tiff",
        ".bmp",
        ".webp",
        ".jp2",
        ".ppm",
        ".pgm",
        ".exr",
        ".hdr",
    )
)
"""Lower-case endings that count as an image's extension."""


def strip_suffix(name: str) -> str:
    """`name` without an image extension; other dots ("r_0.5") stay."""
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in IMAGE_SUFFIXES else name


def output_stem(name: str) -> str:
    """The flat file stem of an image's name: no extension, subfolders joined with "__"."""
    return strip_suffix(name).replace("\\", "/").replace("/", "__")


@dataclass(frozen=True, eq=False)
class View:
    """One photograph and its camera.

    Raises:
        ValueError: If an array does not have the camera's size or is not uint8.
    """

    name: str
    """Image name as in the model, with subfolders ("a/b.jpg")."""
    camera: Camera
    pixels: Tensor
    """[H, W, 3] uint8, sRGB as read, straight (not premultiplied) colour."""
    alpha: Tensor | None = None
    """[H, W] uint8, compositing alpha; only where alpha means the background."""
    mask: Tensor | None = None
    """[H, W] uint8, 255 = use this pixel; multiplies the loss weight."""
    undistortion: Undistortion | None = None
    """How the photograph in the file became this image; None where its lens bends nothing."""

    def __post_init__(self) -> None:
        """Checks shapes and types, so that a mismatch fails where it is made."""
        size = (self.camera.height, self.camera.width)
        for label, value, shape in (
            ("pixels", self.pixels, (*size, 3)),
            ("alpha", self.alpha, size),
            ("mask", self.mask, size),
        ):
            if value is not None and (value.shape != shape or value.dtype != torch.uint8):
                got = f"{list(value.shape)} {value.dtype}"
                raise ValueError(f"{self.name}: {label}: expected {list(shape)} uint8, got {got}")

    @property
    def stem(self) -> str:
        """The name as a flat file stem: no extension, subfolders joined with "__"."""
        return output_stem(self.name)

    def image(self, background: Tensor | None = None) -> Tensor:
        """The photograph as [H, W, 3] float32 in [0, 1].

        Args:
            background: [3] colour in [0, 1] behind transparent pixels; black if not given. Only
                matters where the view has an alpha.
        """
        rgb = self.pixels / 255.0  # uint8 to float32 in one pass
        if self.alpha is None:
            return rgb
        alpha = self.alpha.to(torch.float32)[..., None] / 255.0
        behind = rgb.new_zeros(3) if background is None else background.to(rgb)
        return rgb * alpha + behind * (1.0 - alpha)

    def weight(self) -> Tensor | None:
        """The mask as [H, W] float32 in [0, 1], or None where every pixel counts."""
        return None if self.mask is None else self.mask.to(torch.float32) / 255.0

    def to(self, device: torch.device | str) -> View:
        """The same view with its tensors on `device`."""
        alpha = None if self.alpha is None else self.alpha.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return replace(
            self, camera=self.camera.to(device), pixels=self.pixels.to(device), alpha=alpha, mask=mask
        )


def weighted_view(view: View, confidence: Tensor | None) -> View:
    """The view with its pixels counting `confidence` [H, W] in [0, 1] times as much, in steps of 1/255.

    Weights are relative: they are scaled to a largest of 1 first. None, and the same number everywhere (but
    0), leave the view as it is.
    """
    if confidence is None:
        return view
    largest = float(confidence.max())
    if largest > 0.0:
        confidence = confidence / largest
    if bool((confidence == 1.0).all()):
        return view
    mask = (confidence if view.mask is None else confidence * view.mask / 255.0) * 255.0
    return replace(view, mask=mask.round().clamp(0, 255).to(torch.uint8))


@dataclass(frozen=True, eq=False)
class Points:
    """Coloured points to start from; may be empty.

    Raises:
        ValueError: If the two arrays do not match.
    """

    xyz: Tensor
    """[P, 3] float32, world."""
    rgb: Tensor
    """[P, 3] float32 in [0, 1]."""
    seen: Tensor | None = None
    """[P, V] bool: which training views, in the scene's order, observed a point; None where not known."""

    def __post_init__(self) -> None:
        """Checks that both arrays are [P, 3], and that `seen` has as many rows."""
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or self.rgb.shape != self.xyz.shape:
            got = f"{list(self.xyz.shape)} and {list(self.rgb.shape)}"
            raise ValueError(f"points: expected two [P, 3], got {got}")
        if self.seen is not None and (self.seen.ndim != 2 or len(self.seen) != len(self.xyz)):
            raise ValueError(f"points: seen: expected [P={len(self.xyz)}, V], got {list(self.seen.shape)}")

    @classmethod
    def none(cls) -> Points:
        """No points."""
        return cls(torch.zeros(0, 3), torch.zeros(0, 3))

    def __len__(self) -> int:
        """P, the number of points."""
        return self.xyz.shape[0]


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that training reads; views are sorted by name."""

    train: tuple[View, ...]
    test: tuple[View, ...]
    points: Points
    """Only points that the training views see, where some images do not train."""
    extent: float
    """Radius of the training cameras, world units, > 0: the unit of the position learning rate."""
    source: Path

    @cached_property
    def mean_colour(self) -> Tensor:
        """[3] in [0, 1], CPU: of all training pixels that count; black where a view is transparent somewhere.

        What a place most probably looks like that no training view shows. The same bits for any number of
        threads.
        """
        total, count = torch.zeros(3, dtype=torch.int64), 0
        for view in self.train:
            if view.alpha is not None:
                return torch.zeros(3)
            used = view.pixels if view.mask is None else view.pixels[view.mask > 127]
            total += used.reshape(-1, 3).sum(0, dtype=torch.int64).cpu()
            count += used.numel() // 3
        return (total.double() / (255.0 * max(count, 1))).float()

    @cached_property
    def checksums(self) -> dict[str, str]:
        """CRC-32 of every training view's pixels, alpha and mask, by name: whether a file has changed since.

        Another version of an image library may decode a JPEG to other pixels.
        """
        found = {}
        for view in self.train:
            value = 0
            for part in (view.pixels, view.alpha, view.mask):
                if part is not None:
                    value = zlib.crc32(part.cpu().contiguous().numpy().data, value)
            found[view.name] = f"{value:08x}"
        return found

    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this scene, image size and split from others.

        A sha256 of the training views' names, sizes and cameras, in order; the same in every process.
        Pixels, masks, points and test views are not part of it. K is rounded to 0.01 pixels and the
        world-to-camera matrix to 1e-4, so that another machine's float rounding rarely shows.
        """
        digest = hashlib.sha256()
        for view in self.train:
            camera = view.camera
            # whole numbers, because -0.0 and 0.0 print differently
            K = [round(value * 1e2) for value in camera.K.flatten().tolist()]
            viewmat = [round(value * 1e4) for value in camera.viewmat.flatten().tolist()]
            digest.update(repr((view.name, camera.width, camera.height, K, viewmat)).encode())
        return digest.hexdigest()[:16]
