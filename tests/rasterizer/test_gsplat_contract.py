"""The gsplat backend by contract: no GPU is needed, since gsplat's CUDA operators are replaced by torch.

Our call must have gsplat's signature and hand every argument on; gsplat's own Python front end, run through
`backend="gsplat"` on those replacements, must agree with our backends; gsplat's own strategies must run on
our meta. Not checked here: gsplat's CUDA kernels themselves.
"""

from __future__ import annotations

import inspect
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

import rasterizer
from rasterizer import BackendError, gsplat_backend, rasterization, resolve_backend
from tests.rasterizer.scenes import Inputs, margin_to_thresholds, random_scene

gsplat = pytest.importorskip("gsplat")
rendering = pytest.importorskip("gsplat.rendering")
impl = pytest.importorskip("gsplat.cuda._torch_impl")
ops = pytest.importorskip("gsplat.strategy.ops")

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def _compiled(monkeypatch: pytest.MonkeyPatch, code: object) -> None:
    """Makes the backend believe that it has a GPU, and that gsplat has `code` as compiled CUDA code."""
    backend = types.ModuleType("gsplat.cuda._backend")
    backend._C = code  # type: ignore[attr-defined]
    monkeypatch.setattr(gsplat_backend, "why_unavailable", lambda: None)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend)
    monkeypatch.setattr(gsplat.cuda, "_backend", backend, raising=False)


# --- the call ---


def test_our_signature_is_that_of_the_installed_gsplat() -> None:
    theirs = inspect.signature(gsplat.rasterization).parameters
    ours = dict(inspect.signature(rasterization).parameters)
    assert ours.pop("backend").kind is inspect.Parameter.KEYWORD_ONLY
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind, name
        if name == "rolling_shutter":
            # gsplat's enumeration cannot be named without importing gsplat: None stands for its GLOBAL.
            assert ours[name].default is None and parameter.default.name == "GLOBAL"
        else:
            assert ours[name].default == parameter.default, name
            assert type(ours[name].default) is type(parameter.default), name


def test_the_tested_version_is_the_installed_one() -> None:
    assert gsplat.__version__ == gsplat_backend.TESTED_VERSION


class _Recorder:
    """Stands for gsplat.rasterization; binds what it is called with to gsplat's parameter names."""

    def __init__(self) -> None:
        self.signature = inspect.signature(gsplat.rasterization)
        self.result = (torch.zeros(1), torch.ones(1), {"means2d": torch.ones(2)})
        self.bound: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.bound = dict(bound.arguments)
        return self.result


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> _Recorder:
    stand_in = _Recorder()
    _compiled(monkeypatch, object())
    monkeypatch.setattr(gsplat, "rasterization", stand_in)
    return stand_in


OPTIONS: dict[str, Any] = {
    "near_plane": 0.5,
    "far_plane": 50.0,
    "radius_clip": 2.0,
    "eps2d": 0.1,
    "sh_degree": 1,
    "packed": False,
    "tile_size": 8,
    "backgrounds": torch.zeros(1, 3),
    "render_mode": "RGB+ED",
    "sparse_grad": True,
    "absgrad": True,
    "rasterize_mode": "antialiased",
    "channel_chunk": 7,
    "distributed": True,
    "camera_model": "fisheye",
    "segmented": True,
    "covars": torch.zeros(4, 3, 3),
    "with_ut": True,
    "with_eval3d": True,
    "radial_coeffs": torch.zeros(1, 6),
    "tangential_coeffs": torch.zeros(1, 2),
    "thin_prism_coeffs": torch.zeros(1, 4),
    "ftheta_coeffs": object(),
    "rolling_shutter": object(),
    "viewmats_rs": torch.zeros(1, 4, 4),
}


def test_without_options_gsplat_gets_the_tensors_and_its_own_defaults(recorder: _Recorder) -> None:
    call = random_scene(4, 1).call()
    result = rasterization(*call, backend="gsplat")
    assert result is recorder.result
    for name, given in zip(recorder.signature.parameters, call, strict=False):
        assert recorder.bound[name] is given, name
    for name, parameter in list(recorder.signature.parameters.items())[len(call) :]:
        assert recorder.bound[name] == parameter.default, name


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_gsplat_under_its_name_and_unchanged(recorder: _Recorder, name: str) -> None:
    call = random_scene(4, 1).call()
    given = {name: OPTIONS[name]} | ({"packed": False} if name == "distributed" else {})
    assert rasterization(*call, backend="gsplat", **given) is recorder.result
    assert recorder.bound[name] is OPTIONS[name]
    for other, parameter in list(recorder.signature.parameters.items())[len(call) :]:
        assert other in given or recorder.bound[other] == parameter.default, other


@pytest.mark.parametrize("name", ["packed", "absgrad"])
def test_what_gsplat_does_wrong_between_processes_is_refused(recorder: _Recorder, name: str) -> None:
    options = {"packed": False, "distributed": True, name: True}
    with pytest.raises(NotImplementedError, match=rf"^{name}: gsplat 1\.5\.3 has it not with distributed"):
        rasterization(*random_scene(4, 1).call(), backend="gsplat", **options)
    assert not recorder.bound


def test_the_options_above_are_all_that_gsplat_has() -> None:
    assert list(OPTIONS) == list(inspect.signature(gsplat.rasterization).parameters)[9:]


# --- messages ---


@pytest.mark.parametrize(
    ("has_gsplat", "cuda", "message"),
    [
        (False, None, r"gsplat is not installed: `pip install gsplat`"),
        (True, None, r"this torch \(.+\) was built without CUDA: install a CUDA build of torch"),
        (True, "12.8", r"torch finds no NVIDIA GPU \(torch .+ for CUDA 12.8\): check `nvidia-smi`"),
    ],
)
def test_what_gsplat_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, has_gsplat: bool, cuda: str | None, message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has_gsplat else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(BackendError, match=rf"^backend gsplat: {message}.*; or use --backend cpu$"):
        rasterization(*random_scene(2, 1).call(), backend="gsplat")
    with pytest.raises(BackendError, match=rf"^--backend gsplat: {message}.*; or use --backend cpu$"):
        resolve_backend("gsplat")
    assert resolve_backend("auto") == "cpu" and "gsplat" not in rasterizer.available_backends()


def test_gsplat_without_compiled_code_is_named_instead_of_an_attribute_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _compiled(monkeypatch, None)
    with pytest.raises(
        BackendError, match=r"^backend gsplat: gsplat 1.* found no CUDA toolkit .*install an nvcc"
    ):
        rasterization(*random_scene(2, 1).call(), backend="gsplat")


def test_gsplat_that_fails_to_compile_is_named_with_the_compilers_complaint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _compiled(monkeypatch, object())
    monkeypatch.delattr(gsplat.cuda, "_backend")
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)  # its import raises
    with pytest.raises(
        BackendError, match=r"^backend gsplat: gsplat could not compile its CUDA code \(\w+Error:"
    ):
        rasterization(*random_scene(2, 1).call(), backend="gsplat")


# --- gsplat's front end on torch operators ---


def _projection(
    means: Tensor,
    covars: Tensor | None,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float,
    packed: bool,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    sparse_grad: bool,
    calc_compensations: bool,
    camera_model: str,
    opacities: Tensor,
) -> tuple[Tensor | None, ...]:
    """fully_fused_projection: gsplat's torch twin, with the box sizes and culling of its CUDA kernel."""
    assert covars is None and not sparse_grad and camera_model == "pinhole"
    covars, _ = impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    _, means2d, depths, conics, compensations = impl._fully_fused_projection(
        means, covars, viewmats, Ks, width, height, eps2d, calc_compensations=calc_compensations
    )
    with torch.no_grad():
        _, covars2d = impl._persp_proj(*impl._world_to_cam(means, covars, viewmats), Ks, width, height)
        opacity = opacities if compensations is None else opacities * compensations
        extent = torch.sqrt(2 * torch.log((opacity * 255).clamp(min=1.0))).clamp(max=3.33)
        radii = torch.ceil(extent[..., None] * torch.sqrt(covars2d.diagonal(dim1=-2, dim2=-1) + eps2d))
        size = torch.tensor([width, height])
        keep = (depths >= near_plane) & (depths <= far_plane) & (opacity >= 1 / 255)
        keep &= (radii > radius_clip).any(-1)
        keep &= ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        radii = (radii * keep[..., None]).int()
    if not packed:
        return radii, means2d, depths, conics, compensations
    camera, gaussian = torch.nonzero(keep, as_tuple=True)
    rows = [t if t is None else t[camera, gaussian] for t in (radii, means2d, depths, conics, compensations)]
    return torch.zeros_like(camera), camera, gaussian, *rows


def _harmonics(degree: int, directions: Tensor, coeffs: Tensor, masks: Tensor) -> Tensor:
    return impl._spherical_harmonics(degree, directions, coeffs) * masks[..., None]


def _isect_tiles(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    segmented: bool,
    packed: bool,
    n_images: int,
    image_ids: Tensor | None,
    gaussian_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One id (image, tile, depth) per tile that a Gaussian's box touches, sorted."""
    counts = torch.zeros(depths.shape, dtype=torch.int32)
    bits, ids, rows = (tile_width * tile_height).bit_length(), [], []
    flat = zip(means2d.reshape(-1, 2).tolist(), radii.reshape(-1, 2).tolist(), strict=True)
    depth_bits = depths.detach().reshape(-1).float().contiguous().view(torch.int32).tolist()
    for row, ((x, y), (rx, ry)) in enumerate(flat):
        if rx <= 0 or ry <= 0:
            continue
        image = int(image_ids[row]) if packed and image_ids is not None else row // depths.shape[-1]
        columns = range(
            max(0, math.floor((x - rx) / tile_size)), min(tile_width, math.ceil((x + rx) / tile_size))
        )
        lines = range(
            max(0, math.floor((y - ry) / tile_size)), min(tile_height, math.ceil((y + ry) / tile_size))
        )
        tiles = [line * tile_width + column for line in lines for column in columns]
        counts.view(-1)[row] = len(tiles)
        ids += [((image << bits | tile) << 32) | depth_bits[row] for tile in tiles]
        rows += [row] * len(tiles)
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    isect_ids = torch.tensor([ids[i] for i in order], dtype=torch.int64)
    return counts, isect_ids, torch.tensor([rows[i] for i in order], dtype=torch.int32)


def _rasterize_to_pixels(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    backgrounds: Tensor | None,
    packed: bool,
    absgrad: bool,
) -> tuple[Tensor, Tensor]:
    """gsplat's rule (rasterize_to_pixels_3dgs_fwd), one Gaussian of a tile's list after the other."""
    images, channels = isect_offsets.shape[0], colors.shape[-1]
    centres, conics, colors = means2d.reshape(-1, 2), conics.reshape(-1, 3), colors.reshape(-1, channels)
    opacities = opacities.reshape(-1)
    absolute = torch.zeros_like(means2d)
    if absgrad:
        means2d.absgrad = absolute  # type: ignore[attr-defined]
    ends = [*isect_offsets.flatten().tolist()[1:], len(flatten_ids)]
    bounds = iter(zip(isect_offsets.flatten().tolist(), ends, strict=True))
    image_rows, alpha_rows = [], []
    for _ in range(images):
        picture, opaque = [], []
        for top in range(0, height, tile_size):
            strip, strip_alpha = [], []
            for left in range(0, width, tile_size):
                begin, end = next(bounds)
                y, x = torch.meshgrid(
                    torch.arange(top, min(top + tile_size, height)) + 0.5,
                    torch.arange(left, min(left + tile_size, width)) + 0.5,
                    indexing="ij",
                )
                left_over = torch.ones_like(x, dtype=conics.dtype)
                done = torch.zeros_like(x, dtype=torch.bool)
                pixels = torch.zeros(*x.shape, channels, dtype=conics.dtype)
                for row in flatten_ids[begin:end].tolist():
                    own = centres[row].expand(
                        *x.shape, 2
                    )  # a copy per pixel, whose gradients absgrad adds up
                    if absgrad and own.requires_grad:

                        def add(grad: Tensor, row: int = row) -> None:
                            absolute.view(-1, 2)[row] += grad.abs().sum((0, 1))

                        own.register_hook(add)
                    dx, dy = own[..., 0] - x, own[..., 1] - y
                    a, b, c = conics[row]
                    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                    alpha = (opacities[row] * torch.exp(-sigma)).clamp(max=0.999)
                    hit = (sigma >= 0) & (alpha >= 1 / 255) & ~done
                    after = left_over * (1 - alpha)
                    done = done | (hit & (after <= 1e-4))
                    hit = hit & ~done
                    weight = torch.where(hit, alpha * left_over, torch.zeros_like(alpha))
                    pixels = pixels + weight[..., None] * colors[row]
                    left_over = torch.where(hit, after, left_over)
                strip.append(pixels)
                strip_alpha.append(1 - left_over)
            picture.append(torch.cat(strip, 1))
            opaque.append(torch.cat(strip_alpha, 1))
        image_rows.append(torch.cat(picture, 0))
        alpha_rows.append(torch.cat(opaque, 0)[..., None])
    image, alpha = torch.stack(image_rows), torch.stack(alpha_rows)
    if backgrounds is not None:
        image = image + backgrounds[:, None, None, :] * (1 - alpha)
    return image, alpha


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat.rasterization runs on the CPU: its five CUDA operators are the functions above."""
    _compiled(monkeypatch, object())
    monkeypatch.setattr(rendering, "fully_fused_projection", _projection)
    monkeypatch.setattr(rendering, "spherical_harmonics", _harmonics)
    monkeypatch.setattr(rendering, "isect_tiles", _isect_tiles)
    monkeypatch.setattr(rendering, "isect_offset_encode", impl._isect_offset_encode)
    monkeypatch.setattr(rendering, "rasterize_to_pixels", _rasterize_to_pixels)


def _render(scene: Inputs, backend: str, dtype: torch.dtype, options: dict[str, Any]) -> dict[str, Any]:
    """Images, meta and all gradients of a fixed random cotangent, by name."""
    x, options = scene.to(dtype), dict(options)
    leaves = [t.requires_grad_(True) for t in x.tensors()]
    backgrounds = None
    if options.pop("background", False):
        backgrounds = torch.linspace(0.1, 0.9, 3 * x.viewmats.shape[0], dtype=dtype).view(-1, 3)
        backgrounds.requires_grad_(True)
    colors, alphas, meta = rasterization(
        *leaves, x.Ks, x.width, x.height, backgrounds=backgrounds, backend=backend, **options
    )
    meta["means2d"].retain_grad()
    g = torch.Generator().manual_seed(1)
    v_colors = torch.randn(colors.shape, generator=g, dtype=torch.float64).to(dtype)
    v_alphas = torch.randn(alphas.shape, generator=g, dtype=torch.float64).to(dtype)
    ((colors * v_colors).sum() + (alphas * v_alphas).sum()).backward()
    out: dict[str, Any] = {
        "meta": meta,
        "colors": colors,
        "alphas": alphas,
        "v_means2d": meta["means2d"].grad,
    }
    out |= {f"v_{name}": leaf.grad for name, leaf in zip(NAMES, leaves, strict=True)}
    if options.get("absgrad"):
        out["absgrad"] = meta["means2d"].absgrad
    if backgrounds is not None:
        out["v_backgrounds"] = backgrounds.grad
    return out


SAME_META = (
    "width",
    "height",
    "n_cameras",
    "n_batches",
    "tile_size",
    "tile_width",
    "tile_height",
    "batch_ids",
)
GSPLAT_ONLY = {"tiles_per_gauss", "isect_ids", "flatten_ids", "isect_offsets"}  # its global lists

CASES: dict[str, dict[str, Any]] = {
    "RGB": {"sh_degree": 1},
    "RGB+ED with background": {"sh_degree": 2, "render_mode": "RGB+ED", "background": True, "absgrad": True},
    "RGB+D antialiased": {
        "sh_degree": 0,
        "render_mode": "RGB+D",
        "rasterize_mode": "antialiased",
        "absgrad": True,
    },
    "D": {"sh_degree": 0, "render_mode": "D"},
    "ED with background": {"sh_degree": 0, "render_mode": "ED", "background": True},
    "features": {"absgrad": True, "background": True},
    "clipped": {"sh_degree": 1, "radius_clip": 5.0, "near_plane": 2.3, "far_plane": 3.6, "eps2d": 0.1},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_gsplats_front_end_agrees_with_our_backends(front_end: None, case: str, packed: bool) -> None:
    options = {**CASES[case], "packed": packed}
    for seed in range(200):
        scene = random_scene(24, 2, k=9, width=35, height=21, seed=seed)
        # float32 moves an alpha by 1e-6: no decision may differ.
        if margin_to_thresholds(scene) > 1e-5:
            break
    if case == "features":
        scene.colors = scene.colors[:, 0]
    theirs = _render(scene, "gsplat", torch.float64, options)
    # Both in double: rounding of sums of some hundred terms and of quotients of small alphas (ED), 1e-9 of
    # the largest. cpu is float32: 1e-4 of the largest, as in test_cpu.
    for backend, dtype, tolerance in (("reference", torch.float64, 1e-9), ("cpu", torch.float32, 1e-4)):
        ours = _render(scene, backend, dtype, options)
        mine, other = ours.pop("meta"), dict(theirs["meta"])
        assert set(other) - set(mine) == GSPLAT_ONLY and set(mine) <= set(other)
        for name in SAME_META:
            if name == "batch_ids" and packed:  # gsplat: zeros [nnz] with one batch; ours has no batches
                continue
            assert mine[name] == other[name], name
        if packed:
            assert torch.equal(mine["camera_ids"], other["camera_ids"])
            assert torch.equal(mine["gaussian_ids"], other["gaussian_ids"])
        else:
            assert mine["camera_ids"] is None and mine["gaussian_ids"] is None
        assert mine["radii"].dtype == torch.int32 and mine["radii"].shape == other["radii"].shape
        # A box's half-width is rounded up: float32 may round over a whole pixel.
        assert int((mine["radii"] - other["radii"]).abs().max()) <= (0 if dtype == torch.float64 else 1)
        visible = (other["radii"] > 0).all(-1)
        assert torch.equal((mine["radii"] > 0).all(-1), visible) and 10 < int(visible.sum())
        pairs = {
            n: (mine[n][visible], other[n][visible]) for n in ("means2d", "depths", "conics", "opacities")
        }
        pairs |= {name: (value, theirs[name]) for name, value in ours.items()}
        for name, (value, expected) in pairs.items():
            if value is None or expected is None:  # D and ED do not use colours or backgrounds
                assert value is None or not value.any(), name
                assert expected is None or not expected.any(), name
                continue
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(
                value.detach().double(),
                expected.detach(),
                rtol=0,
                atol=tolerance * scale + 1e-12,
                msg=lambda m, n=name, b=backend: f"{b}, {n}: {m}",
            )


@pytest.mark.parametrize("name", ["radius_clip", "near_plane", "far_plane"])
def test_every_limit_of_the_clipped_case_culls_something(name: str) -> None:
    options = {**CASES["clipped"], "packed": False}
    scene = random_scene(24, 2, k=9, width=35, height=21)
    radii = _render(scene, "reference", torch.float64, options)["meta"]["radii"]
    del options[name]
    more = _render(scene, "reference", torch.float64, options)["meta"]["radii"]
    assert int((more > 0).sum()) > int((radii > 0).sum())


# --- gsplat's strategies on our meta ---


def _parameters(scene: Inputs) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.optim.Optimizer]]:
    x = scene.to(torch.float32)
    values = {
        "means": x.means,
        "quats": x.quats,
        "scales": x.scales.log(),
        "opacities": torch.logit(x.opacities.clamp(0.002, 0.99)),
        "colors": x.colors,
    }
    params = {name: torch.nn.Parameter(value) for name, value in values.items()}
    return params, {name: torch.optim.Adam([p], lr=1e-3) for name, p in params.items()}


def _step(
    params: dict[str, torch.nn.Parameter], scene: Inputs, packed: bool, absgrad: bool
) -> tuple[Any, Tensor]:
    x = scene.to(torch.float32)
    image, _, info = rasterization(
        params["means"], params["quats"], params["scales"].exp(), torch.sigmoid(params["opacities"]),
        params["colors"], x.viewmats, x.Ks, x.width, x.height, sh_degree=1, packed=packed, absgrad=absgrad,
        backend="cpu",
    )  # fmt: skip
    target = torch.linspace(0, 1, image.numel()).view(image.shape)
    return info, (image - target).abs().mean()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_default_strategy_refines_on_our_meta(packed: bool, absgrad: bool) -> None:
    from gsplat.strategy import DefaultStrategy

    torch.manual_seed(0)
    scene = random_scene(80, 2, k=4)
    params, optimizers = _parameters(scene)
    strategy = DefaultStrategy(
        refine_start_iter=1, refine_every=3, reset_every=8, absgrad=absgrad, grow_grad2d=1e-3,
        grow_scale3d=0.12, prune_opa=0.05, prune_scale3d=0.6, refine_scale2d_stop_iter=100, grow_scale2d=0.5,
    )  # fmt: skip
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    done = {"duplicated": 0, "split": 0, "pruned": 0}
    grow, prune = strategy._grow_gs, strategy._prune_gs

    def counting_grow(*args: Any) -> tuple[int, int]:
        duplicated, split = grow(*args)
        done["duplicated"] += duplicated
        done["split"] += split
        return duplicated, split

    def counting_prune(*args: Any) -> int:
        pruned = prune(*args)
        done["pruned"] += pruned
        return pruned

    strategy._grow_gs, strategy._prune_gs = counting_grow, counting_prune
    for step in range(11):
        before = len(params["means"])
        info, loss = _step(params, scene, packed, absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, info)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        if step == 0:
            rows = info["gaussian_ids"] if packed else torch.nonzero((info["radii"] > 0).all(-1))[:, 1]
            assert torch.equal(state["count"], torch.bincount(rows, minlength=before).float())
            gradient = info["means2d"].absgrad if absgrad else info["means2d"].grad
            pixels = gradient * torch.tensor([scene.width, scene.height]) / 2 * 2  # to [-1, 1], two cameras
            if not packed:
                pixels = pixels[(info["radii"] > 0).all(-1)]
            total = torch.zeros(before).index_add_(0, rows, pixels.norm(dim=-1))
            torch.testing.assert_close(state["grad2d"], total)  # the same sums in float32: default 1e-5
            assert state["grad2d"].count_nonzero() > 40
        after = 80 + done["duplicated"] + done["split"] - done["pruned"]  # a split makes two of one
        assert {len(p) for p in params.values()} == {after} == {len(state["count"])}
        assert all(p.isfinite().all() for p in params.values())
    assert min(done.values()) > 0, done  # every operation was exercised


def test_packed_and_unpacked_meta_give_the_default_strategy_the_same_statistics() -> None:
    from gsplat.strategy import DefaultStrategy

    scene, states = random_scene(80, 2, k=4), []
    for packed in (False, True):
        params, optimizers = _parameters(scene)
        strategy = DefaultStrategy(absgrad=True)
        state = strategy.initialize_state()
        for step in range(3):
            info, loss = _step(params, scene, packed, absgrad=True)
            strategy.step_pre_backward(params, optimizers, state, step, info)
            loss.backward()
            strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        states.append(state)
    assert torch.equal(states[0]["count"], states[1]["count"])
    assert torch.equal(states[0]["grad2d"], states[1]["grad2d"])  # the same kernels on the same rows


def _relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 9 of Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", 2024."""
    share = 1 - (1 - opacities) ** (1 / ratios)
    scaling = []
    for opacity, new, ratio in zip(opacities.tolist(), share.tolist(), ratios.tolist(), strict=True):
        total = sum(
            float(binoms[i, k]) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
            for i in range(int(ratio))
            for k in range(i + 1)
        )
        scaling.append(opacity / total)
    return share, scales * torch.tensor(scaling)[:, None]


def test_gsplats_mcmc_strategy_relocates_and_adds_on_our_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    from gsplat.strategy import MCMCStrategy

    def covariances(
        quats: Tensor, scales: Tensor, compute_covar: bool, compute_preci: bool, triu: bool
    ) -> Any:
        return impl._quat_scale_to_covar_preci(quats, scales, compute_covar, compute_preci, triu)

    monkeypatch.setattr(ops, "compute_relocation", _relocation)  # the two CUDA operators that it uses
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", covariances)
    torch.manual_seed(0)
    scene = random_scene(60, 2, k=4)
    params, optimizers = _parameters(scene)
    strategy = MCMCStrategy(cap_max=66, refine_start_iter=0, refine_every=2, min_opacity=0.05, noise_lr=1.0)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    dead = int((torch.sigmoid(params["opacities"]) <= 0.05).sum())
    assert dead > 0  # something is there to relocate
    for step in range(7):
        info, loss = _step(params, scene, packed=False, absgrad=False)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info, lr=1e-3)
        assert all(p.isfinite().all() for p in params.values())
    assert {len(p) for p in params.values()} == {66}
    assert int((torch.sigmoid(params["opacities"]) <= 0.049).sum()) == 0
