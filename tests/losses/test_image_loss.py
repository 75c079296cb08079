"""L1 and SSIM: the C++ kernel and the torch form against formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import native
from losses import l1_and_ssim, mean_squared_error, ssim, ssim_map

SIZES = [(1, 1), (1, 9), (5, 7), (11, 11), (37, 61), (64, 48)]


def _images(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(height, width, 3, generator=g)
    b = (a + 0.2 * torch.randn(height, width, 3, generator=g)).clamp(0, 1)
    return a, b, torch.rand(height, width, generator=g)


def _numpy_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """SSIM of Wang et al. 2004 pixel by pixel: a direct double sum over the 11x11 window, zeros outside."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    height, width, _ = a.shape
    out = np.empty_like(a)
    pa, pb = (np.pad(v, ((5, 5), (5, 5), (0, 0))) for v in (a, b))
    for y in range(height):
        for z in range(width):
            wa, wb = pa[y : y + 11, z : z + 11], pb[y : y + 11, z : z + 11]
            ma, mb, aa, bb, ab = (
                np.einsum("ij,ijc->c", window, v) for v in (wa, wb, wa * wa, wb * wb, wa * wb)
            )
            va, vb, cov = aa - ma**2, bb - mb**2, ab - ma * mb
            out[y, z] = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    return out


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ssim_map_agrees_with_the_written_out_formula(height: int, width: int) -> None:
    a, b, _ = _images(height, width)
    ours = ssim_map(a.double(), b.double()).numpy()
    np.testing.assert_allclose(ours, _numpy_ssim(a.double().numpy(), b.double().numpy()), atol=1e-10)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_native_kernel_agrees_with_double_precision(height: int, width: int, weighted: bool) -> None:
    a, b, w = _images(height, width)
    weight = w if weighted else None
    image = a.clone().requires_grad_(True)
    truth = a.double().clone().requires_grad_(True)
    ours = l1_and_ssim(image, b, weight)
    theirs = l1_and_ssim(truth, b.double(), None if weight is None else weight.double())
    (0.8 * ours[0] - 0.2 * ours[1]).backward()
    (0.8 * theirs[0] - 0.2 * theirs[1]).backward()
    for x, y in zip(ours, theirs, strict=True):
        assert float(x.detach()) == pytest.approx(float(y.detach()), abs=1e-6)  # float32 of values near 1
    assert image.grad is not None and truth.grad is not None
    scale = float(truth.grad.abs().max())  # variances near C2 lose 3 digits of float32's 7 to cancellation
    torch.testing.assert_close(image.grad.double(), truth.grad, rtol=0, atol=1e-4 * scale)


def test_torch_form_has_the_gradient_of_finite_differences() -> None:
    a, b, w = _images(6, 7, seed=3)
    image = a.double().requires_grad_(True)  # |a - b| is far from 0 at every pixel here: L1 is smooth
    assert float((a - b).abs().min()) > 1e-5
    assert torch.autograd.gradcheck(lambda t: l1_and_ssim(t, b.double(), w.double()), (image,), eps=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [1.0, 0.25, 7.0, 0.3, 0.7, 1 / 255, 1e-30])
def test_constant_weight_is_the_unweighted_loss(dtype: torch.dtype, constant: float) -> None:
    a, b, _ = _images(20, 31)
    found = []
    for weight in (None, torch.full((20, 31), constant).to(dtype)):
        image = a.to(dtype).requires_grad_(True)
        l1, similarity = l1_and_ssim(image, b.to(dtype), weight)
        (l1 - similarity).backward()
        found.append((l1.detach(), similarity.detach(), image.grad))
    for x, y in zip(*found, strict=True):
        assert x is not None and y is not None and torch.equal(x, y)
    mean = float((a - b).abs().double().mean().detach())
    assert float(found[0][0]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_none_counts_nothing(dtype: torch.dtype, bad: float) -> None:
    a, b, w = (t.to(dtype) for t in _images(20, 31))
    broken, zero = w.clone(), w.clone()
    broken[3, 4:9], zero[3, 4:9] = bad, 0.0
    for x, y in zip(l1_and_ssim(a, b, broken), l1_and_ssim(a, b, zero), strict=True):
        assert torch.equal(x, y) and bool(x.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_weight_everywhere_gives_no_loss_and_no_gradient(dtype: torch.dtype) -> None:
    a, b, _ = _images(8, 9)
    image = a.to(dtype).requires_grad_(True)
    l1, similarity = l1_and_ssim(image, b.to(dtype), torch.zeros(8, 9, dtype=dtype))
    (l1 - similarity).backward()
    assert (float(l1.detach()), float(similarity.detach())) == (0.0, 1.0)
    assert image.grad is not None and not image.grad.any()


def test_masked_pixels_have_no_l1_gradient_and_do_not_count() -> None:
    a, b, _ = _images(30, 30)
    weight = torch.zeros(30, 30)
    weight[:, :15] = 1.0
    image = a.clone().requires_grad_(True)
    l1, _ = l1_and_ssim(image, b, weight)
    l1.backward()
    assert image.grad is not None and not image.grad[:, 15:].any() and image.grad[:, :15].any()
    assert float(l1.detach()) == pytest.approx(float((a - b)[:, :15].abs().mean()), rel=1e-6)


def test_equal_images_are_similar_and_opposite_ones_are_not() -> None:
    a, _, _ = _images(40, 40)
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-6)
    assert float(ssim(a, 1 - a)) < 0.0


def test_same_bits_for_any_number_of_threads() -> None:
    a, b, w = _images(101, 67)
    results = []
    for threads in (1, 2, 5):
        native.set_threads(threads)
        image = a.clone().requires_grad_(True)
        l1, similarity = l1_and_ssim(image, b, w)
        (l1 + similarity).backward()
        results.append((l1.detach(), similarity.detach(), image.grad))
    native.set_threads(2)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_wrong_shapes_are_named() -> None:
    a, b, w = _images(8, 9)
    with pytest.raises(ValueError, match=r"image, target: expected two \[H, W, 3\]"):
        l1_and_ssim(a, b[:4])
    with pytest.raises(ValueError, match="weight"):
        l1_and_ssim(a, b, w[:4])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_squared_error_is_that_of_the_clamped_image(height: int, width: int, weighted: bool) -> None:
    a, b, w = _images(height, width)
    image, weight = 3.0 * a - 1.0, w if weighted else None  # a third below 0, a third above 1
    error = (np.clip(image.double().numpy(), 0, 1) - b.double().numpy()) ** 2
    expected = np.average(error.mean(-1), weights=None if weight is None else w.double().numpy())
    for dtype in (torch.float32, torch.float64):  # the kernel and plain torch
        ours = mean_squared_error(image.to(dtype), b.to(dtype), weight)
        # float32 sums of a row's terms, then double over rows
        assert float(ours) == pytest.approx(float(expected), rel=1e-5)


def test_squared_error_refuses_shapes_that_do_not_fit_and_passes_a_nan_on() -> None:
    a, b, w = _images(9, 13)
    for image, target, weight in (
        (a, b[:2], None),
        (a[None], b[None], None),
        (a, b, w[:2]),
        (a[..., :1], b[..., :1], w),
    ):
        with pytest.raises(ValueError, match="expected"):
            mean_squared_error(image, target, weight)
    a[3, 4, 1] = float("nan")
    assert mean_squared_error(a, b).isnan() and mean_squared_error(a.double(), b.double()).isnan()


def test_squared_error_of_no_weight_is_zero() -> None:
    a, b, w = _images(9, 13)
    for dtype in (torch.float32, torch.float64):
        assert float(mean_squared_error(a.to(dtype), b.to(dtype), torch.zeros_like(w))) == 0.0
