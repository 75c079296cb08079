"""Undistortion judged by geometry: where a pinhole says a point is, the undistorted image shows it.

The distortions are written out here from the papers, independently of the library that removes them.
"""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest

from scene import SceneConfig, SceneError, load_scene
from scene.undistort import MAX_HALF_ANGLE, MAX_MAGNIFICATION, MIN_MAGNIFICATION, make_warp, pinhole_for

SIZE = (320, 240)
FX, FY, CX, CY = 260.0, 255.0, 166.0, 115.0


def _polynomial(theta2, k):
    return 1 + sum(c * theta2 ** (i + 1) for i, c in enumerate(k))


def _radial(x, y, k1, k2=0.0):
    scale = _polynomial(x * x + y * y, (k1, k2))
    return x * scale, y * scale


def _opencv(x, y, k1, k2, p1, p2, k3=0.0, k4=0.0, k5=0.0, k6=0.0):
    r2 = x * x + y * y
    scale = _polynomial(r2, (k1, k2, k3)) / _polynomial(r2, (k4, k5, k6))
    return (
        x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _fisheye(x, y, *k):
    r = np.hypot(x, y)
    theta = np.arctan(r)
    scale = np.where(r > 0, theta * _polynomial(theta * theta, k) / np.maximum(r, 1e-12), 1.0)
    return x * scale, y * scale


def _fov(x, y, omega):
    r = np.hypot(x, y)
    bent = np.arctan(2 * r * np.tan(omega / 2)) / omega
    scale = np.where(r > 0, bent / np.maximum(r, 1e-12), 2 * np.tan(omega / 2) / omega)
    return x * scale, y * scale


def _thin_prism(x, y, k1, k2, p1, p2, k3, k4, s1, s2):
    u, v = _fisheye(x, y)
    r2 = u * u + v * v
    scale = _polynomial(r2, (k1, k2, k3, k4))
    return (
        u * scale + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + s1 * r2,
        v * scale + 2 * p2 * u * v + p1 * (r2 + 2 * v * v) + s2 * r2,
    )


LENSES = {
    "SIMPLE_RADIAL": (_radial, False, (-0.18,)),
    "RADIAL": (_radial, False, (0.12, -0.03)),
    "OPENCV": (_opencv, True, (-0.2, 0.05, 0.004, -0.006)),
    "FULL_OPENCV": (_opencv, True, (0.1, 0.02, 0.002, 0.001, 0.01, 0.25, 0.02, 0.0)),
    "OPENCV_FISHEYE": (_fisheye, True, (0.02, -0.01, 0.003, 0.0)),
    "FOV": (_fov, True, (0.9,)),
    "THIN_PRISM_FISHEYE": (_thin_prism, True, (0.02, -0.01, 0.002, 0.001, 0.0, 0.0, 0.003, -0.002)),
}


def _photograph(distort, fx, fy, extra, rays):
    """Soft dots at the distorted positions of `rays` [n, 2], drawn at their exact subpixel places."""
    x, y = distort(rays[:, 0], rays[:, 1], *extra)
    spots = np.stack([fx * x + CX, fy * y + CY], axis=1)
    rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] + 0.5
    image = np.zeros((SIZE[1], SIZE[0]))
    for u, v in spots:
        image += np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.0**2))
    return np.repeat(np.rint(255 * np.minimum(image, 1))[..., None], 3, axis=2).astype(np.uint8), spots


def _centroid(image, u, v, reach=7):
    left, top = int(u) - reach, int(v) - reach
    part = image[top : top + 2 * reach + 1, left : left + 2 * reach + 1].astype(float)
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + 0.5
    return (part * columns).sum() / part.sum() + left, (part * rows).sum() / part.sum() + top


@pytest.mark.parametrize("resolution", [1, 2])
@pytest.mark.parametrize("model", LENSES)
def test_undistorted_points_lie_where_the_pinhole_projects_them(make_scene, model, resolution):
    distort, two_focals, extra = LENSES[model]
    params = (FX, FY, CX, CY, *extra) if two_focals else (FX, CX, CY, *extra)
    x, y = np.meshgrid(np.linspace(-0.5, 0.46, 7), np.linspace(-0.34, 0.36, 5))
    rays = np.stack([x.ravel(), y.ravel()], axis=1)
    source = make_scene(2, model=model, params=params, size=SIZE)
    photo, spots = _photograph(distort, FX, FY if two_focals else FX, extra, rays)
    for name in ("img_00.png", "img_01.png"):
        cv2.imwrite(str(source / "images" / name), photo)
    plain = np.stack([FX * rays[:, 0] + CX, (FY if two_focals else FX) * rays[:, 1] + CY], axis=1)
    assert np.abs(plain - spots).max() > 3  # pixels: the lens really bends

    view = load_scene(source, SceneConfig(resolution=resolution)).train[0]
    assert view.mask is None  # the chosen pinhole has no empty border
    K = view.camera.K.double().numpy()
    image = view.pixels[..., 0].numpy()
    checked = 0
    reach = 7 // resolution
    for ray in rays:
        u, v = K[0, 0] * ray[0] + K[0, 2], K[1, 1] * ray[1] + K[1, 2]
        if not (8 <= u < view.camera.width - 8 and 8 <= v < view.camera.height - 8):
            continue
        found = _centroid(image, u, v, reach)
        # 8-bit rounding of a dot with sigma 2 moves its centroid by some hundredths of a pixel, and the
        # lens's curvature across the dot by as much; a half-pixel convention error would be 0.5 / resolution
        assert np.hypot(found[0] - u, found[1] - v) < 0.12, (model, ray)
        checked += 1
    assert checked >= 15


ALL_MODELS = [
    name
    for name in pycolmap.CameraModelId.__members__
    if name not in ("INVALID", "EQUIRECTANGULAR", "PINHOLE", "SIMPLE_PINHOLE")
]


def _read(path):
    return cv2.imread(str(path))


def _camera(model, focal=260.0, bend=0.03):
    """A camera of any model, its extra parameters all a little off their neutral values."""
    create = getattr(pycolmap.Camera, "create_from_model_name", None)
    if create is None:
        camera = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=[focal], camera_id=1)
    else:
        camera = create(1, model, focal, *SIZE)
    params = np.array(camera.params)
    extra = list(camera.extra_params_idxs())
    params[extra] += bend / (1 + np.arange(len(extra)))
    camera.params = params.tolist()
    return camera


@pytest.mark.parametrize("focal", [260.0, 110.0])
@pytest.mark.parametrize("model", ALL_MODELS)
def test_every_camera_model_has_a_pinhole_without_empty_pixels(model, focal):
    camera = _camera(model, focal)
    K, resample = pinhole_for(camera, "camera 1")
    assert resample
    warp = make_warp(camera, K, *SIZE)
    assert warp.valid is None
    # a few rays, against the model's own projection; 1e-3 px is float32 at 320 px
    for u, v in ((0.5, 0.5), (100.5, 70.5), (319.5, 239.5)):
        ray = np.linalg.solve(K, [u, v, 1.0])
        expected = camera.img_from_cam(ray)
        found = warp.map_x[int(v), int(u)] + 0.5, warp.map_y[int(v), int(u)] + 0.5
        assert np.abs(np.array(found) - expected).max() < 1e-3
    # the image is used: some side touches the border of the photograph, or a limit was reached
    reach = min(warp.map_x.min(), warp.map_y.min(), 319 - warp.map_x.max(), 239 - warp.map_y.max())
    limited = K[0, 0] <= focal * MIN_MAGNIFICATION * 1.05 or K[0, 2] / K[0, 0] > 0.95 * np.tan(MAX_HALF_ANGLE)
    assert reach < 2.0 or limited


def test_a_fisheye_wider_than_half_the_sphere_is_cropped_not_folded():
    camera = pycolmap.Camera(
        model="OPENCV_FISHEYE", width=640, height=640, params=[170.0, 170, 320, 320, 0, 0, 0, 0], camera_id=1
    )
    K, _ = pinhole_for(camera, "camera 1")
    half = np.arctan(320 / K[0, 0])
    assert np.radians(50) < half <= MAX_HALF_ANGLE + 1e-6
    warp = make_warp(camera, K, 640, 640)
    assert (np.diff(warp.map_x, axis=1) > 0).all() and (np.diff(warp.map_y, axis=0) > 0).all()


def test_a_lens_that_folds_inside_the_image_shows_only_the_part_before_the_fold():
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[300.0, 320, 240, -0.4], camera_id=1
    )
    K, _ = pinhole_for(camera, "camera 1")
    corner = np.linalg.solve(K, [0.0, 0.0, 1.0])
    # r (1 - 0.4 r^2) turns back at r = 1 / sqrt(1.2)
    assert np.hypot(corner[0], corner[1]) < 1 / np.sqrt(1.2) + 1e-9


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_PINHOLE", (50.0, 30.0, 20.0)),
        ("SIMPLE_RADIAL", (50.0, 30.0, 20.0, 0.0)),
        ("OPENCV", (50.0, 51.0, 30.0, 20.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_images_of_undistorted_cameras_are_not_resampled(make_scene, model, params):
    source = make_scene(2, model=model, params=params)
    view = load_scene(source, SceneConfig()).train[1]
    original = _read(source / "images/img_01.png")[..., ::-1]
    assert (view.pixels.numpy() == original).all()
    assert view.camera.K[0, 2] == 30 and view.camera.K[1, 2] == 20
    assert view.undistortion is None


def test_masks_are_undistorted_with_their_image(make_scene):
    source = make_scene(2, model="SIMPLE_RADIAL", params=(50.0, 32.0, 24.0, -0.15))
    for i in range(2):
        image = np.zeros((48, 64, 3), np.uint8)
        image[10:30, 20:50] = 255
        cv2.imwrite(str(source / f"images/img_{i:02d}.png"), image)
        (source / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(source / f"masks/img_{i:02d}.png.png"), image[..., 0])
    view = load_scene(source, SceneConfig()).train[0]
    assert view.mask is not None
    assert view.undistortion is not None  # so that a map of the photograph is moved as its mask is
    mask = _read(source / "masks/img_00.png.png")[..., 0].astype(np.float32)
    assert np.abs(view.undistortion(mask) - view.mask.numpy()).max() <= 1.0  # that one is rounded
    # colour is resampled with a cubic kernel and the mask linearly, so they differ at edges only
    differ = (view.pixels[..., 0].int() - view.mask.int()).abs() > 100
    assert differ.float().mean() < 0.01
    assert 0.1 < float((view.mask > 128).float().mean()) < 0.5


@pytest.mark.parametrize("focal", [0.0, -50.0, float("nan")])
def test_a_camera_without_a_focal_length_is_refused(make_scene, focal):
    source = make_scene(2, suffix=".txt")
    path = source / "sparse/0/cameras.txt"
    path.write_text(f"1 PINHOLE 64 48 {focal} 50 32 24\n")
    with pytest.raises(SceneError, match="camera"):
        load_scene(source, SceneConfig())


@pytest.mark.parametrize("point", [(1e6, 1e6), (-1e6, 24.0), (32.0, 48 * 11.1), (-64 * 10.1, 24.0)])
def test_a_principal_point_far_outside_the_image_is_refused_with_its_values(make_scene, point):
    source = make_scene(2, params=(50.0, 52.0, *point))
    with pytest.raises(SceneError, match=r"camera 1 .*principal point") as error:
        load_scene(source, SceneConfig())
    assert f"({point[0]:g}, {point[1]:g})" in str(error.value)


def test_a_principal_point_a_few_images_outside_is_a_crop_and_allowed(make_scene):
    source = make_scene(2, params=(50.0, 52.0, -64.0 * 9.9, 48.0 * 10.9))
    assert load_scene(source, SceneConfig()).train[0].camera.K[0, 2] == pytest.approx(-64.0 * 9.9)


@pytest.mark.parametrize("coefficients", [(1e9, 1e9), (1e4, 0.0), (1e15, 0.0)])
def test_a_distortion_that_magnifies_beyond_any_lens_is_refused_with_its_parameters(make_scene, coefficients):
    source = make_scene(2, model="RADIAL", params=(50.0, 32.0, 24.0, *coefficients))
    with pytest.raises(SceneError, match=r"camera 1 \(RADIAL.*parameters") as error:
        load_scene(source, SceneConfig())
    assert f"{coefficients[0]:g}" in str(error.value)


def test_the_strongest_pincushion_that_colmap_keeps_is_still_shown():
    """Focal length a tenth of the image and coefficients of 1, COLMAP's own limits."""
    camera = pycolmap.Camera(
        model="RADIAL", width=640, height=480, params=[64.0, 320, 240, 1.0, 1.0], camera_id=1
    )
    K, resample = pinhole_for(camera, "camera 1")
    assert resample and 3.0 < K[0, 0] / 64.0 < MAX_MAGNIFICATION
