"""The C++ backend against the reference in double: images, every gradient, absgrad; and its invariants.

Not checked here: speed (scripts/benchmark) and memory errors (test_sanitizers).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import native
from rasterizer import rasterization
from tests.rasterizer.scenes import Inputs, margin_to_thresholds, random_scene

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def _run(scene: Inputs, backend: str, dtype: torch.dtype, **options: object) -> dict[str, Tensor]:
    """Renders, pulls a fixed random cotangent back, and returns everything by name, in double."""
    x = scene.to(dtype)
    leaves = [t.requires_grad_(True) for t in x.tensors()]
    cameras = x.viewmats.shape[0]
    channels = {"RGB": 3, "D": 1, "ED": 1, "RGB+D": 3, "RGB+ED": 3}[str(options.get("render_mode", "RGB"))]
    backgrounds = None
    if options.pop("background", False):
        backgrounds = torch.linspace(0.1, 0.9, cameras * channels, dtype=dtype).view(cameras, channels)
        backgrounds.requires_grad_(True)
    colors, alphas, meta = rasterization(
        *leaves, x.Ks, x.width, x.height, sh_degree=options.pop("sh_degree", 3), backgrounds=backgrounds,
        absgrad=True, backend=backend, **options,
    )  # fmt: skip
    meta["means2d"].retain_grad()
    g = torch.Generator().manual_seed(1)
    v_colors = torch.randn(colors.shape, generator=g, dtype=torch.float64).to(dtype)
    v_alphas = torch.randn(alphas.shape, generator=g, dtype=torch.float64).to(dtype)
    ((colors * v_colors).sum() + (alphas * v_alphas).sum()).backward()
    out = {"colors": colors, "alphas": alphas, "radii": meta["radii"], "depths": meta["depths"]}
    out |= {"means2d": meta["means2d"], "v_means2d": meta["means2d"].grad, "absgrad": meta["means2d"].absgrad}
    out |= {f"v_{name}": leaf.grad for name, leaf in zip(NAMES, leaves, strict=True)}
    if backgrounds is not None and channels == 3:
        out["v_backgrounds"] = backgrounds.grad
    return {k: v.detach().double() for k, v in out.items() if v is not None}


def _compare(scene: Inputs, **options: object) -> dict[str, Tensor]:
    """Asserts that cpu in float32 agrees with the reference in double; returns the former."""
    # No alpha or transmittance nearer to a threshold than float32 could move it: no decision may differ.
    assert margin_to_thresholds(scene) > 2e-6
    truth = _run(scene, "reference", torch.float64, **dict(options))
    ours = _run(scene, "cpu", torch.float32, **dict(options))
    assert truth.keys() == ours.keys()
    for name, expected in truth.items():
        # float32 through sums of up to 1e4 terms of both signs: 1e-4 of the largest entry is a bound for
        # rounding (1e-6 is typical), and far below what a wrong formula or a lost term would cause.
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=1e-4 * scale + 1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )
    return ours


def _away_from_thresholds(*args: int, **kwargs: int) -> Inputs:
    for seed in range(200):
        scene = random_scene(*args, seed=seed, **kwargs)
        if margin_to_thresholds(scene) > 2e-6:
            return scene
    raise AssertionError("no scene away from the thresholds")


@pytest.mark.parametrize(("width", "height"), [(50, 37), (16, 16), (17, 33), (1, 1), (3, 70), (64, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_cpu_agrees_with_reference_over_image_sizes(width: int, height: int, packed: bool) -> None:
    scene = _away_from_thresholds(60, 2, width=width, height=height)
    _compare(scene, render_mode="RGB+ED", background=True, packed=packed)


@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_cpu_agrees_with_reference_over_modes(render_mode: str, mode: str) -> None:
    scene = _away_from_thresholds(80, 3)
    _compare(scene, render_mode=render_mode, rasterize_mode=mode, background=True, packed=False)


@pytest.mark.parametrize("degree", range(5))
def test_cpu_agrees_with_reference_over_sh_degrees(degree: int) -> None:
    scene = _away_from_thresholds(60, 2, k=25)
    out = _compare(scene, sh_degree=degree, packed=False)
    unused = out["v_colors"][:, (degree + 1) ** 2 :]
    assert float(unused.abs().sum()) == 0.0 and float(out["v_colors"].abs().max()) > 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("per_camera", [False, True])
def test_cpu_renders_any_number_of_feature_channels(channels: int, per_camera: bool) -> None:
    scene = _away_from_thresholds(50, 2)
    g = torch.Generator().manual_seed(3)
    shape = (2, 50, channels) if per_camera else (50, channels)
    features = torch.randn(shape, generator=g, dtype=torch.float64)
    results = []
    for backend, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        x = scene.to(dtype)
        f = features.to(dtype).clone().requires_grad_(True)
        means = x.means.requires_grad_(True)
        colors, _, _ = rasterization(
            means, x.quats, x.scales, x.opacities, f, x.viewmats, x.Ks, x.width, x.height, backend=backend
        )
        weights = torch.linspace(-1, 1, colors.numel(), dtype=dtype).view(colors.shape)
        (colors * weights).sum().backward()
        results.append([colors.detach().double(), f.grad.double(), means.grad.double()])
    for ours, truth in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-4 * float(truth.abs().max()))


def test_splats_behind_and_across_the_near_plane_are_culled_without_gradient() -> None:
    scene = _away_from_thresholds(60, 1)
    scene.means[:20, 2] = torch.linspace(-2.0, 0.0099, 20).double()
    out = _compare(scene, packed=False)
    assert float(out["radii"][0, :20].sum()) == 0
    assert float(out["v_means"][:20].abs().sum()) == 0 and float(out["v_means"][20:].abs().sum()) > 0


def test_splats_far_outside_the_view_use_the_clamped_jacobian() -> None:
    for seed in range(50):
        scene = random_scene(40, 1, seed=seed)
        scene.means[:, 0] *= 3.0  # beyond 1.3 times the field of view, but large enough to reach in
        scene.scales *= 4.0
        if margin_to_thresholds(scene) > 2e-6:
            break
    out = _compare(scene, packed=False)
    assert float(out["v_viewmats"].abs().max()) > 0


@pytest.mark.parametrize("packed", [False, True])
def test_empty_and_fully_culled_scenes_show_the_background(packed: bool) -> None:
    for scene in (random_scene(0, 2), random_scene(30, 2)):
        scene.means[:, 2] = -5.0
        for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
            x = scene.to(dtype)
            means = x.means.requires_grad_(True)
            background = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=dtype)
            colors, alphas, meta = rasterization(
                means, *x.call()[1:], sh_degree=2, backgrounds=background, render_mode="RGB+ED",
                packed=packed, absgrad=True, backend=backend,
            )  # fmt: skip
            colors.sum().backward()
            assert torch.equal(
                colors[..., :3], background[:, None, None].expand(2, scene.height, scene.width, 3)
            )
            assert not colors[..., 3].any() and not alphas.any()
            assert float(means.grad.abs().sum()) == 0 and int(meta["radii"].sum()) == 0


def test_one_opaque_splat_saturates_at_the_largest_alpha() -> None:
    x = random_scene(1, 1).to(torch.float32)
    x.means[0] = torch.tensor([0.0, 0.0, 3.0])
    x.scales[0], x.opacities[0] = 5.0, 1.0
    colors, alphas, _ = rasterization(*x.call(), sh_degree=0, backend="cpu")
    assert float(alphas.max()) == pytest.approx(0.999, abs=1e-6)
    assert torch.isfinite(colors).all()


def test_same_bits_for_any_number_of_threads() -> None:
    scene = random_scene(3000, 2, width=203, height=151)
    runs = []
    for threads in (1, 2, 3, 7):
        native.set_threads(threads)
        runs.append(_run(scene, "cpu", torch.float32, render_mode="RGB+ED", packed=False))
    native.set_threads(2)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


def test_equal_depths_are_drawn_in_index_order() -> None:
    x = random_scene(6, 1).to(torch.float32)
    x.means[:] = torch.tensor([0.0, 0.0, 3.0])
    x.scales[:], x.opacities[:] = 5.0, 0.7
    colors = torch.eye(6)
    image, _, _ = rasterization(
        x.means, x.quats, x.scales, x.opacities, colors, x.viewmats, x.Ks, x.width, x.height, backend="cpu"
    )
    centre = image[0, x.height // 2, x.width // 2]
    assert (centre[:-1] >= centre[1:]).all() and float(centre[0]) > 0.5


def test_radius_clip_and_planes_cull_as_in_the_reference() -> None:
    scene = _away_from_thresholds(80, 2)
    out = _compare(scene, packed=False, radius_clip=6.0, near_plane=2.0, far_plane=3.5)
    assert 0 < int((out["radii"].sum(-1) > 0).sum()) < int(0.7 * 160)


def test_a_saturated_stack_of_splats_agrees_with_the_reference() -> None:
    for seed in range(200):
        scene = random_scene(120, 1, width=40, height=24, seed=seed)
        scene.opacities[:] = 0.6 + 0.39 * scene.opacities
        scene.scales *= 3.0
        if margin_to_thresholds(scene) > 2e-6:
            break
    out = _compare(scene, render_mode="RGB+D", packed=False)
    assert float(out["alphas"].max()) > 0.999  # pixels really end early


def test_long_thin_splats_agree_with_the_reference() -> None:
    for seed in range(200):
        scene = random_scene(40, 1, width=120, height=90, seed=seed)
        scene.scales[:, 0] *= 20.0
        scene.scales[:, 1:] *= 0.05
        if margin_to_thresholds(scene) > 2e-5:
            break
    truth = _run(scene, "reference", torch.float64, packed=False)
    ours = _run(scene, "cpu", torch.float32, packed=False)
    # A float32 conic of a splat of aspect ratio A carries an error of about A^2 eps; here A is up to 200.
    torch.testing.assert_close(ours["colors"], truth["colors"], rtol=0, atol=5e-3)
    for name in ("v_means", "v_colors", "v_opacities"):
        torch.testing.assert_close(
            ours[name], truth[name], rtol=0, atol=1e-2 * float(truth[name].abs().max())
        )


def test_the_bench_scene_agrees_with_the_reference(shared_bench: object) -> None:
    import numpy as np

    with np.load(shared_bench / "bench_scene_10k.npz") as data:  # type: ignore[operator]
        fields = {k: torch.from_numpy(np.asarray(data[k])).float() for k in data if data[k].ndim}
    K = fields["K"].clone()
    K[:2] *= (
        0.25  # the reference needs Gaussians x pixels of memory: a quarter of the size, every 5th Gaussian
    )
    rows = slice(None, None, 5)
    arguments = [fields[k][rows] for k in ("means", "quats", "scales", "opacities", "colors")]
    out = []
    for backend, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        args = [a.to(dtype) for a in arguments]
        colors, alphas, _ = rasterization(
            *args,
            fields["viewmat"][None].to(dtype),
            K[None].to(dtype),
            126,
            94,
            render_mode="RGB+ED",
            backend=backend,
        )
        out.append(torch.cat([colors[..., :3], alphas], -1).double())
    difference = (out[0] - out[1]).abs()
    # Decisions at the 1/255 threshold may flip where float32 rounds across it; each moves a pixel by < 1/255.
    flips = int((difference > 1e-4).sum())
    assert flips <= 0.002 * difference.numel() and float(difference.max()) < 2 / 255


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("degree", [1, 3])
def test_a_pair_of_coefficients_is_the_same_as_one_tensor(backend: str, degree: int) -> None:
    x = random_scene(40, 2).to(torch.float32)
    weights = torch.linspace(-1, 1, 2 * x.height * x.width * 3).view(2, x.height, x.width, 3)
    results = []
    for pair in (False, True):
        leaf = x.colors.clone().requires_grad_(True)
        coefficients = (leaf[:, :1], leaf[:, 1:]) if pair else leaf
        image, _, _ = rasterization(
            x.means, x.quats, x.scales, x.opacities, coefficients, x.viewmats, x.Ks, x.width, x.height,
            sh_degree=degree, backend=backend,
        )  # fmt: skip
        (image * weights).sum().backward()
        results.append((image.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert float(results[1][1][:, 1:4].abs().max()) > 0


def test_a_pair_of_wrong_shapes_is_refused() -> None:
    x = random_scene(4).to(torch.float32)
    rest = [x.viewmats, x.Ks, x.width, x.height]

    def call(colors: object, degree: int | None = 1) -> None:
        rasterization(x.means, x.quats, x.scales, x.opacities, colors, *rest, sh_degree=degree, backend="cpu")

    with pytest.raises(ValueError, match="a pair is SH coefficients"):
        call((x.colors[:, :1], x.colors[:, 1:]), None)
    with pytest.raises(ValueError, match=r"expected \[N=4, K, 3\].*got \[4, 2, 3\] and \[4, 14, 3\]"):
        call((x.colors[:, :2], x.colors[:, 2:]))
    with pytest.raises(ValueError, match="K >= 4"):
        call((x.colors[:, :1], x.colors[:, 1:3]))
    with pytest.raises(ValueError, match="expected a tensor, or a pair"):
        call((x.colors[:, :1],))


def test_a_gaussian_that_only_ends_pixels_hides_what_is_behind_it_from_the_gradient() -> None:
    # Without blur, one pixel and three splats: the first leaves T = 0.05; the second, as small as the pixel,
    # would bring T below 1e-4 and so ends the pixel; the third reaches other pixels of the block as well.
    depths = torch.tensor([1.0, 1.1, 2.0])
    centres = torch.tensor([[4.0, 4.0], [1.5, 1.5], [4.0, 4.0]])
    results = []
    for backend, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        z = depths.to(dtype)[:, None]
        scales = torch.tensor([[1000.0] * 3, [0.2, 0.2, 1e-3], [1000.0] * 3], dtype=dtype)
        quats = torch.tensor([[1.0, 0, 0, 0]] * 3, dtype=dtype)
        opacities = torch.tensor([0.95, 1.0, 0.5], dtype=dtype, requires_grad=True)
        colors = torch.ones(3, 1, dtype=dtype, requires_grad=True)
        image, _, _ = rasterization(
            torch.cat([centres.to(dtype) * z, z], -1), quats, scales, opacities, colors,
            torch.eye(4, dtype=dtype)[None], torch.eye(3, dtype=dtype)[None], 8, 8,
            eps2d=0.0, backend=backend,
        )  # fmt: skip
        image[0, 1, 1].sum().backward()
        assert opacities.grad is not None and colors.grad is not None
        results.append((image[0, 1, 1].detach().double(), opacities.grad.double(), colors.grad.double()))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert results[1][1][2] == 0 and results[1][2][2] == 0


def test_gradients_are_the_same_formula_row_by_row_where_the_scene_is_opaque() -> None:
    """A row's own size is the yardstick, so that an error in small gradients shows as well."""
    g = torch.Generator().manual_seed(0)
    n = 6000
    z = 2 + 4 * torch.rand(n, 1, generator=g)
    means = torch.cat([(torch.rand(n, 2, generator=g) - 0.5) * z, z], -1)
    scales = 0.015 * z * torch.exp(0.5 * torch.randn(n, 3, generator=g))
    quats, colors = torch.randn(n, 4, generator=g), torch.rand(n, 3, generator=g)
    opacities = torch.sigmoid(4 + torch.randn(n, generator=g))
    K = torch.tensor([[64.0, 0, 32], [0, 64, 24], [0, 0, 1]])
    weights = torch.randn(1, 48, 64, 3, generator=g)
    rows = []
    for backend, dtype in (("reference", torch.float64), ("cpu", torch.float32)):
        leaves = [t.to(dtype).requires_grad_(True) for t in (means, quats, scales, opacities, colors)]
        image, _, _ = rasterization(
            *leaves, torch.eye(4, dtype=dtype)[None], K.to(dtype)[None], 64, 48, eps2d=0.0, backend=backend
        )
        (image * weights.to(dtype)).sum().backward()
        rows.append([leaf.grad.double().view(n, -1) for leaf in leaves if leaf.grad is not None])
    for truth, ours in zip(*rows, strict=True):
        size = truth.norm(dim=-1)
        error = (ours - truth).norm(dim=-1)
        # A pixel may end one splat earlier or later where float32 decides on which side of 1e-4 its
        # transmittance is: that moves the tiny gradients of what lies behind, in few rows (4 here; a backward
        # pass that misses some ends of pixels is wrong in 15 to 22).
        wrong = error > 1e-3 * size + 1e-6 * size.max()
        assert int(wrong.sum()) <= 8, f"{int(wrong.sum())} of {n} rows differ"
