"""Runs inside a process that has a sanitizer's runtime loaded: every kernel, through the rooms that call it.

    python -m stress.sanitizer_child FLAGS SEED ROUNDS THREADS [train.py ...]

FLAGS, joined by spaces, choose the library (built before). A sanitizer ends the process at its first finding.
"""

from __future__ import annotations

import functools
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import native
from gaussian_model import DensifyConfig, build_densifier
from gaussian_model.densify.default import DefaultDensifier
from losses import l1_and_ssim, mean_squared_error
from losses.binocular import row_warp
from native import kernels
from native.build import build_library
from rasterizer import BackendError, rasterization

POISON = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e38, 1e-38, 1e-45, 1e20, -1.0, 255.0)
SIZES = ((1, 1), (1, 40), (33, 1), (16, 16), (17, 15), (50, 37), (70, 90))
COUNTS = (0, 1, 2, 17, 300, 2000)


def main(arguments: list[str]) -> int:
    """Runs the rounds, or the program; prints how many calls there were."""
    flags, seed, rounds, threads = arguments[0].split(), *(int(word) for word in arguments[1:4])
    setattr(kernels, "build_library", functools.partial(build_library, tuple(flags)))  # noqa: B010
    torch.set_num_threads(1)  # torch's own threads are not instrumented
    native.kernels.library().fs_set_threads(threads)
    if arguments[4:]:
        sys.argv = arguments[4:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    generator = torch.Generator().manual_seed(seed)
    calls = sum(_round(generator, number) for number in range(rounds))
    print(f"{calls} calls, {native.simd_name()}, {native.get_threads()} threads")
    return 0


def _round(generator: torch.Generator, number: int) -> int:
    """One of each, of random sizes; odd rounds are poisoned. How many calls there were."""
    width, height = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
    n = COUNTS[int(torch.randint(len(COUNTS), (), generator=generator))]
    share = 0.0 if number % 2 == 0 else float(torch.rand((), generator=generator)) ** 3
    calls = 0
    for work in (_rasterizer, _image_loss, _row_warp, _adam, _sum, _statistics):
        for _ in work(generator, n, width, height, share):
            calls += 1
    return calls


def _poisoned(value: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The tensor with so large a share of its numbers replaced by unusable ones."""
    hit = torch.rand(value.shape, generator=generator) < share
    which = torch.tensor(POISON)[torch.randint(len(POISON), value.shape, generator=generator)]
    return torch.where(hit, which, value)


def _rasterizer(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    degree = int(torch.randint(0, 5, (), generator=g))
    cameras = int(torch.randint(1, 4, (), generator=g))

    def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        value = torch.randn(*shape, generator=g) * scale + shift
        return _poisoned(value, share, g).requires_grad_(True)

    means = (torch.randn(n, 3, generator=g) + torch.tensor([0.0, 0.0, 3.0])) if n else torch.zeros(0, 3)
    leaves = [
        _poisoned(means, share, g).requires_grad_(True),
        normal(n, 4),
        _poisoned(torch.randn(n, 3, generator=g).mul(1.5).sub(2).exp(), share, g).requires_grad_(True),
        _poisoned(torch.rand(n, generator=g), share, g).requires_grad_(True),
        normal(n, (degree + 1) ** 2, 3, scale=0.5),
    ]
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, 3] = torch.randn(cameras, 3, generator=g) * 0.2
    K = torch.tensor([[0.9 * width, 0, 0.5 * width], [0, 0.9 * width, 0.5 * height], [0, 0, 1]])
    for mode in ("RGB", "RGB+ED", "D"):
        try:
            image, alpha, info = rasterization(
                leaves[0], leaves[1], leaves[2], leaves[3], leaves[4],
                viewmats, K.repeat(cameras, 1, 1), width, height,
                sh_degree=degree, render_mode=mode, packed=False, absgrad=mode == "RGB",
                rasterize_mode="antialiased" if mode == "D" else "classic", backend="cpu",
            )  # fmt: skip
        except BackendError:  # says what it cannot take: fine
            yield None
            continue
        yield None
        if image.requires_grad:
            info["means2d"].retain_grad()
            gradient = _poisoned(torch.randn(image.shape, generator=g), share, g)
            torch.autograd.backward([image, alpha], [gradient, torch.ones_like(alpha)])
            yield None


def _image_loss(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    image = _poisoned(torch.rand(height, width, 3, generator=g), share, g).requires_grad_(True)
    target = _poisoned(torch.rand(height, width, 3, generator=g), share / 2, g)
    for weight in (None, torch.rand(height, width, generator=g), torch.zeros(height, width)):
        l1, similarity = l1_and_ssim(image, target, weight)
        (l1 + similarity).backward()
        yield None
        mean_squared_error(image.detach(), target, weight)
        yield None


def _row_warp(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    image = _poisoned(torch.rand(height, width, 3, generator=g), share, g).requires_grad_(True)
    shift = torch.randn(height, width, generator=g) * width
    disparity = _poisoned(shift, share, g).requires_grad_(True)
    moved, _ = row_warp(image, disparity)
    moved.backward(_poisoned(torch.randn(moved.shape, generator=g), share, g))
    yield None


def _adam(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    param, grad, mean, square = (_poisoned(torch.randn(n, 3, generator=g), share, g) for _ in range(4))
    native.adam_step(
        param,
        grad,
        mean,
        square.abs(),
        lr=1e-3 if share == 0 else 1e30,
        beta1=0.9,
        beta2=0.999,
        eps=1e-15,
        step=1,
    )
    yield None


def _sum(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    native.ordered_sum(_poisoned(torch.randn(n, generator=g), share, g))
    yield None


def _statistics(g: torch.Generator, n: int, width: int, height: int, share: float) -> Iterator[None]:
    densifier = build_densifier(DensifyConfig(), 1.0, g)
    assert isinstance(densifier, DefaultDensifier)
    means2d = torch.zeros(1, n, 2, requires_grad=True)
    means2d.grad = _poisoned(torch.randn(1, n, 2, generator=g), share, g)
    radii = torch.randint(-3, 2000, (1, n, 2), generator=g, dtype=torch.int32)
    densifier.collect({"means2d": means2d, "radii": radii, "width": width, "height": height, "n_cameras": 1})
    yield None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main(sys.argv[1:]))
