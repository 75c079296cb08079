"""scripts/gpu_check, on backends that every machine has: it sees that two agree, and that two do not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from rasterizer import gsplat_backend, rasterization

SMALL = ["--gaussians", "200", "--width", "64", "--height", "48", "--repetitions", "1"]


def _check(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(
        sys, "argv", ["gpu_check", *SMALL, "--candidate", "cpu", "--judge", "reference", *words]
    )
    return gpu_check.main()


def test_two_that_agree(monkeypatch, capsys):
    assert _check(monkeypatch) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("AGREE in all 6 comparisons") and "times as fast" in said[-2]


@pytest.mark.parametrize("fault", ["colour", "alpha", "gradient", "nan"])
def test_two_that_do_not(monkeypatch, capsys, fault):
    """A few wrong pixels in a hundred, a gradient of a twentieth too much, a number that is none."""

    def faulty(*arguments: Any, backend: str, **options: Any) -> Any:
        picture, alpha, meta = rasterization(*arguments, backend=backend, **options)
        if backend == "cpu":
            if fault == "colour":
                picture = picture + 0.05 * (torch.arange(48)[:, None, None] < 3)
            if fault == "alpha":
                alpha = alpha * 0.999
            if fault == "nan":
                picture = torch.where(torch.arange(64)[:, None] == 5, torch.nan, picture)
            if fault == "gradient":
                picture = picture.detach() + 1.05 * (picture - picture.detach())
                alpha = alpha.detach() + 1.05 * (alpha - alpha.detach())
        return picture, alpha, meta

    monkeypatch.setattr(gpu_check, "rasterization", faulty)
    assert _check(monkeypatch) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("DIFFERENT in 6 of 6")


def test_without_a_gpu_it_says_why(monkeypatch):
    reason = gsplat_backend.why_unavailable()
    if reason is None:
        pytest.skip("a GPU with gsplat is here")
    monkeypatch.setattr(sys, "argv", ["gpu_check", *SMALL])
    with pytest.raises(gpu_check.UserError) as caught:
        gpu_check.main()
    assert reason in str(caught.value)


def test_a_backend_is_not_compared_with_itself(monkeypatch):
    with pytest.raises(gpu_check.UserError, match="name another one"):
        _check(monkeypatch, "--judge", "cpu")
