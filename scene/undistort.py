"""From any lens that COLMAP knows to a pinhole: which pinhole, and where each of its pixels comes from.

Works through pycolmap's projection alone, so every camera model is handled alike. The pinhole keeps
the image's size and shows the largest axis-aligned part of the photograph that has no empty border.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock

import numpy as np
import pycolmap

from scene.frames import Lens
from scene.scene_error import SceneError
from scene.warp import Array, Warp, make_warp, project

PINHOLE_TOLERANCE = 0.01
"""Pixels. A lens that bends no ray by more is a pinhole; resampling it would only blur."""

MIN_MAGNIFICATION = 0.5
"""Smallest scale at the image centre: a wider view would throw away more than half the resolution there."""

MAX_MAGNIFICATION = 8.0
"""Largest scale at the image centre. COLMAP drops lenses with coefficients above 1 or a focal length below
a tenth of the image; the strongest pincushion that is left needs about 5. Beyond it, a fit has gone wrong."""

MAX_HALF_ANGLE = math.radians(70.0)
"""Widest half field of view; beyond it a pinhole image is nearly all stretched border."""

MAX_OFF_CENTRE = 10.0
"""Image sizes by which the principal point may lie outside: crops and shifted lenses stay far below, and
beyond it float32 rays are nearly parallel and show nothing of the scene."""

_MIN_PIXELS, _MAX_PIXELS = 1e-3, 1e8  # focal lengths: beyond any lens, within float32
_BORDER = 256  # samples along each side of the photograph
_GRID = 65  # samples along each side of the pinhole image when it is checked
_SHRINK = 0.98  # per attempt, where the first rectangle shows something that the lens cannot
_ATTEMPTS = 150  # 0.98^150 = 0.05
_STEP = 1e-5  # for derivatives on the plane z = 1: far above float64 rounding, far below any bending
_MIN_AREA = (
    0.02  # photographed area of a ray's surroundings relative to the axis; 0.05 at 70 degrees of a fisheye
)


def pinhole_for(camera: pycolmap.Camera, label: str) -> tuple[Array, bool]:
    """The pinhole intrinsics [3, 3] for a lens, at its own size, and whether pixels must be resampled.

    Args:
        camera: Any perspective or fisheye model.
        label: File and camera, for messages.

    Raises:
        SceneError: If no part of the image can be shown by a pinhole, or the parameters are no lens's.
    """
    own = _own_pinhole(camera)
    _check_lens(camera, own, label)
    if camera.model.name in ("SIMPLE_PINHOLE", "PINHOLE") or _bends_nothing(camera, own):
        return own, False
    x0, x1, y0, y1 = _visible_rectangle(camera, label)
    fx, fy = camera.width / (x1 - x0), camera.height / (y1 - y0)
    largest = max(fx / own[0, 0], fy / own[1, 1])
    if not largest <= MAX_MAGNIFICATION:
        raise SceneError(
            f"{label}: expected a lens whose image a pinhole can show, got the parameters "
            f"{_parameters(camera)}, which magnify its centre {largest:.0f} times (at most "
            f"{MAX_MAGNIFICATION:g}); run COLMAP again"
        )
    return np.array([[fx, 0.0, -x0 * fx], [0.0, fy, -y0 * fy], [0.0, 0.0, 1.0]]), True


class WarpCache:
    """Intrinsics and warps of the lenses, computed once where images share them; safe across threads.

    Args:
        lenses: One entry per image, so that it is known which lenses are shared.
    """

    _KEPT = 2  # warps; images are read in the order of their names, which groups them by camera

    def __init__(self, lenses: Iterable[Lens]) -> None:
        """Counts how often each lens is used."""
        self._uses = Counter(lens.key for lens in lenses)
        self._pinholes: dict[Hashable, tuple[Array, bool]] = {}
        self._warps: OrderedDict[Hashable, Warp] = OrderedDict()
        self._lock = Lock()
        self._sizes: dict[Hashable, tuple[str, Counter[tuple[int, int]]]] = {}

    def pinhole(self, lens: Lens, width: int, height: int) -> tuple[pycolmap.Camera, Array, bool]:
        """The lens at this image size, its pinhole (at the lens's size), and whether to resample."""
        camera = lens.at(width, height)
        with self._lock:
            self._sizes.setdefault(lens.key, (lens.label, Counter()))[1][width, height] += 1
        key = (lens.key, camera.width, camera.height)
        if key not in self._pinholes:
            self._pinholes[key] = pinhole_for(camera, lens.label)
        return camera, *self._pinholes[key]

    def mixed_sizes(self) -> list[tuple[str, Counter[tuple[int, int]]]]:
        """Labels of the lenses whose images came in several sizes, and how many came in each."""
        return [(label, sizes) for label, sizes in self._sizes.values() if len(sizes) > 1]

    def warp(self, lens: Lens, camera: pycolmap.Camera, K: Array, width: int, height: int) -> Warp:
        """`make_warp`, remembered for lenses that several images share."""
        if self._uses[lens.key] < 2:
            return make_warp(camera, K, width, height)
        key = (lens.key, width, height)
        with self._lock:  # held while computing: the other threads want the same warp
            if key not in self._warps:
                self._warps[key] = make_warp(camera, K, width, height)
                while len(self._warps) > self._KEPT:
                    self._warps.popitem(last=False)
            self._warps.move_to_end(key)
            return self._warps[key]


def _own_pinhole(camera: pycolmap.Camera) -> Array:
    return np.array(
        [
            [camera.focal_length_x, 0.0, camera.principal_point_x],
            [0.0, camera.focal_length_y, camera.principal_point_y],
            [0.0, 0.0, 1.0],
        ]
    )


def _parameters(camera: pycolmap.Camera) -> str:
    return ", ".join(f"{value:g}" for value in camera.params)


def _check_lens(camera: pycolmap.Camera, own: Array, label: str) -> None:
    """Refuses focal lengths and principal points that no lens has, NaN included."""
    if not (_MIN_PIXELS < own[0, 0] < _MAX_PIXELS and _MIN_PIXELS < own[1, 1] < _MAX_PIXELS):
        raise SceneError(
            f"{label}: expected focal lengths above 0, got the parameters {_parameters(camera)}; "
            "run COLMAP again"
        )
    size = np.array([camera.width, camera.height])
    off = np.abs(own[:2, 2] / size - 0.5) - 0.5  # image sizes outside the image
    if not (off <= MAX_OFF_CENTRE).all():
        raise SceneError(
            f"{label}: expected a principal point at most {MAX_OFF_CENTRE:g} image sizes outside the image, "
            f"got ({own[0, 2]:g}, {own[1, 2]:g}) of the parameters {_parameters(camera)}; run COLMAP again"
        )


def _bends_nothing(camera: pycolmap.Camera, K: Array) -> bool:
    x, y = np.meshgrid(np.linspace(0, camera.width, 33), np.linspace(0, camera.height, 33))
    pixels = np.stack([x, y], axis=-1)
    rays = (pixels - K[:2, 2]) / np.array([K[0, 0], K[1, 1]])
    error = np.abs(project(camera, rays) - pixels)
    return bool(np.isfinite(error).all() and error.max() < PINHOLE_TOLERANCE)


def _visible_rectangle(camera: pycolmap.Camera, label: str) -> tuple[float, float, float, float]:
    """x0, x1, y0, y1 of the largest part of the plane z = 1 that the photograph covers without a gap."""
    width, height = camera.width, camera.height
    x_cap, y_cap = _caps(camera)
    x, y = np.linspace(0.5, width - 0.5, _BORDER), np.linspace(0.5, height - 0.5, _BORDER)
    left = _unproject(camera, np.stack([np.full_like(y, 0.5), y], axis=1))[:, 0]
    right = _unproject(camera, np.stack([np.full_like(y, width - 0.5), y], axis=1))[:, 0]
    top = _unproject(camera, np.stack([x, np.full_like(x, 0.5)], axis=1))[:, 1]
    bottom = _unproject(camera, np.stack([x, np.full_like(x, height - 0.5)], axis=1))[:, 1]
    # Border points that no pinhole can show (NaN) set no limit: the caps and the check below do.
    bounds = np.array(
        [
            np.fmax.reduce(left, initial=-x_cap[0]),
            np.fmin.reduce(right, initial=x_cap[1]),
            np.fmax.reduce(top, initial=-y_cap[0]),
            np.fmin.reduce(bottom, initial=y_cap[1]),
        ]
    )
    if bounds[0] < bounds[1] and bounds[2] < bounds[3]:
        centre = np.repeat([bounds[:2].mean(), bounds[2:].mean()], 2)
        for _ in range(_ATTEMPTS):
            if _covered(camera, bounds):
                return float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3])
            bounds = centre + (bounds - centre) * _SHRINK
    raise SceneError(f"{label}: no pinhole view fits into its image; undistort the images with COLMAP first")


def _caps(camera: pycolmap.Camera) -> tuple[tuple[float, float], tuple[float, float]]:
    """Farthest (left, right) and (top, bottom) on the plane z = 1 by magnification and by angle."""
    centre, right, down = project(camera, np.array([[0.0, 0.0], [_STEP, 0.0], [0.0, _STEP]]))
    limit = math.tan(MAX_HALF_ANGLE)
    focal_x = MIN_MAGNIFICATION * (right[0] - centre[0]) / _STEP
    focal_y = MIN_MAGNIFICATION * (down[1] - centre[1]) / _STEP

    def cap(pixels: float, focal: float) -> float:
        return min(limit, max(pixels, 0.0) / focal) if focal > 0 else 0.0

    return (
        (cap(centre[0], focal_x), cap(camera.width - centre[0], focal_x)),
        (cap(centre[1], focal_y), cap(camera.height - centre[1], focal_y)),
    )


def _unproject(camera: pycolmap.Camera, pixels: Array) -> Array:
    """Rays (x, y, 1) [n, 2] of photograph positions [n, 2]; NaN where projecting back misses by 0.1 px.

    pycolmap's inverse returns something else than a ray where none exists, hence the way back.
    """
    rays = np.asarray(camera.cam_from_img(pixels), dtype=np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(project(camera, rays) - pixels).max(axis=1) < 0.1)
    rays[wrong] = np.nan
    return rays


def _covered(camera: pycolmap.Camera, bounds: Array) -> bool:
    """Whether every ray in the rectangle comes from inside the photograph, and from one place only."""
    grid = np.meshgrid(np.linspace(bounds[0], bounds[1], _GRID), np.linspace(bounds[2], bounds[3], _GRID))
    rays = np.concatenate([np.stack(grid, axis=-1).reshape(-1, 2), [[0.0, 0.0]]])  # the axis comes last
    image = project(camera, rays)
    if not np.isfinite(image).all():
        return False
    inside = (image[:-1] >= 0.0).all() and (image[:-1] <= np.array([camera.width, camera.height])).all()
    du = project(camera, rays + np.array([_STEP, 0.0])) - image
    dv = project(camera, rays + np.array([0.0, _STEP])) - image
    area = du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0]  # negative where the lens folds the image over
    return bool(inside and (area > _MIN_AREA * area[-1]).all())
