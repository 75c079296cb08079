"""Which gsplat is there, and whether it can run: each case with its message, before any work is done.

No GPU is needed: what torch and gsplat find on a machine is made up. Not checked here: gsplat's compilation.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from gaussian_model import ModelConfig
from gaussian_model.gaussians import Gaussians
from rasterizer import BackendError, gsplat_backend, rasterization, resolve_backend
from scene import Camera, Points
from tests.rasterizer.gsplat_signatures import NEXT, POSITIONAL, V1_5_3
from tests.rasterizer.scenes import random_scene

gsplat = pytest.importorskip("gsplat")


# --- the call, in two versions ---


def test_the_signature_of_the_installed_version_is_the_one_on_file() -> None:
    assert tuple(inspect.signature(gsplat.rasterization).parameters) == V1_5_3


@pytest.fixture(params=[V1_5_3, NEXT], ids=["1.5.3", "next"])
def called(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What gsplat is called with, while it takes the parameters of one version and no others."""
    calls: list[dict[str, Any]] = []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        unknown = [name for name in kwargs if name not in request.param]
        if unknown:
            raise TypeError(f"rasterization() got an unexpected keyword argument {unknown[0]!r}")
        assert len(args) == POSITIONAL
        calls.append(dict(zip(request.param, args, strict=False)) | kwargs)
        cameras, height, width = len(args[5]), args[8], args[7]
        channels = 3 + (kwargs["render_mode"] != "RGB")
        meta = {"means2d": torch.zeros(cameras, len(args[0]), 2)}
        return torch.zeros(cameras, height, width, channels), torch.zeros(cameras, height, width, 1), meta

    compiled = types.ModuleType("gsplat.cuda._backend")
    compiled._C = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", compiled)
    monkeypatch.setattr(gsplat, "rasterization", stand_in)
    return calls


@pytest.mark.parametrize("depth", [None, "ED", "D"])
@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("antialiased", [False, True])
def test_what_the_model_renders_by_is_known_to_both_versions(
    called: list[dict[str, Any]], depth: Any, absgrad: bool, antialiased: bool
) -> None:
    points = Points(torch.rand(20, 3), torch.rand(20, 3))
    gaussians = Gaussians.from_points(points, ModelConfig(sh_degree=2))
    camera = Camera(torch.eye(4), torch.eye(3), 8, 6)
    for degree in (0, 1, 2):
        output = gaussians.render(
            camera, background=torch.ones(3), sh_degree=degree, depth=depth, absgrad=absgrad,
            antialiased=antialiased, backend="gsplat",
        )  # fmt: skip
        assert output.color.shape == (1, 6, 8, 3) and output.depth.shape == (1, 6, 8)
        call = called[-1]
        assert call["absgrad"] is absgrad and call["packed"] is False and call["sh_degree"] == degree
        # One tensor [N, K, 3] for all cameras: all that the next version takes.
        assert call["colors"].shape == (20, (degree + 1) ** 2, 3)


def test_both_versions_can_be_asked_to_render_between_processes(called: list[dict[str, Any]]) -> None:
    gaussians = Gaussians.from_points(Points(torch.rand(20, 3), torch.rand(20, 3)), ModelConfig(sh_degree=1))
    camera = Camera(torch.eye(4), torch.eye(3), 8, 6)
    gaussians.render(camera, distributed=True, backend="gsplat")
    assert called[-1]["distributed"] is True and called[-1]["packed"] is False
    gaussians.render(camera, backend="gsplat")
    assert "distributed" not in called[-1]


def test_an_argument_that_only_one_version_has_is_passed_if_it_is_asked_for(
    called: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    call = random_scene(4, 1).call()
    rasterization(*call, backend="gsplat")
    assert "channel_chunk" not in called[-1] and "distributed" not in called[-1]
    if "next" in request.node.name:
        with pytest.raises(TypeError, match="channel_chunk"):
            rasterization(*call, channel_chunk=8, backend="gsplat")
    else:
        rasterization(*call, channel_chunk=8, backend="gsplat")
        assert called[-1]["channel_chunk"] == 8


# --- what a machine has ---


def _no_gsplat(patch: pytest.MonkeyPatch, gpu: bool) -> None:
    patch.setattr("importlib.util.find_spec", lambda name: None)
    patch.setattr(torch.cuda, "is_available", lambda: gpu)


def _no_gpu(patch: pytest.MonkeyPatch, cuda: str | None) -> None:
    patch.setattr("importlib.util.find_spec", lambda name: object())
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", cuda)


def _not_compiled(patch: pytest.MonkeyPatch, load: Callable[[str], Any]) -> None:
    patch.setattr("importlib.util.find_spec", lambda name: object())
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.version, "cuda", "12.8")
    patch.setattr("importlib.import_module", load)


def _ninja_fails(name: str) -> Any:
    raise RuntimeError("Error building extension 'gsplat_cuda':\nnvcc fatal: Unsupported gpu architecture")


MACHINES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, bool]] = {
    "no gsplat, no GPU": (
        lambda patch: _no_gsplat(patch, False),
        "gsplat is not installed: `pip install gsplat`",
        False,
    ),
    "a GPU without gsplat": (
        lambda patch: _no_gsplat(patch, True),
        "gsplat is not installed: `pip install gsplat`",
        True,
    ),
    "torch without CUDA": (
        lambda patch: _no_gpu(patch, None),
        "was built without CUDA: install a CUDA build of torch",
        False,
    ),
    "torch with CUDA, no GPU": (
        lambda patch: _no_gpu(patch, "12.8"),
        "for CUDA 12.8): check `nvidia-smi` and the driver",
        False,
    ),
    "no compiler": (
        lambda patch: _not_compiled(patch, lambda name: types.SimpleNamespace(_C=None)),
        "found no CUDA toolkit to compile its kernels with: install an nvcc for CUDA 12.8, or a prebuilt",
        True,
    ),
    "a compiler that fails": (
        lambda patch: _not_compiled(patch, _ninja_fails),
        "gsplat could not compile its CUDA code (RuntimeError: Error building extension 'gsplat_cuda': nvcc "
        "fatal: Unsupported gpu architecture): install an nvcc for CUDA 12.8",
        True,
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_asked_for_by_name_it_is_an_error_and_auto_goes_on_without_and_says_so_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, machine: str
) -> None:
    make, message, has_gpu = MACHINES[machine]
    make(monkeypatch)
    with pytest.raises(BackendError) as caught:
        resolve_backend("gsplat")
    assert str(caught.value).startswith("--backend gsplat: ") and message in str(caught.value)
    assert str(caught.value).endswith("; or use --backend cpu") and "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert resolve_backend("auto") == "cpu"
    assert (message in caplog.text) == has_gpu
    assert ("the GPU stays unused" in caplog.text) == has_gpu
    with pytest.raises(BackendError, match=r"^backend gsplat: ") as caught:
        rasterization(*random_scene(2, 1).call(), backend="gsplat")
    assert message in str(caught.value)


def test_where_everything_is_there_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _not_compiled(monkeypatch, lambda name: types.SimpleNamespace(_C=object()))
    assert resolve_backend("auto") == resolve_backend("gsplat") == "gsplat"


@pytest.mark.parametrize("machine", MACHINES)
def test_training_refuses_before_it_reads_or_writes_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str
) -> None:
    make, message, _ = MACHINES[machine]
    make(monkeypatch)
    scene = tmp_path / "nowhere"  # not even looked at
    command = ["train.py", "-s", str(scene), "-m", str(tmp_path / "out"), "--backend", "gsplat"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(BackendError) as caught:
        train.main()
    assert message in str(caught.value) and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


# --- one compiles at a time ---


def _hold(cache: str, began: Any, seconds: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSPLAT_CACHE", cache)
        with gsplat_backend._alone():
            began.set()
            time.sleep(seconds)


def test_two_processes_do_not_compile_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setenv("FEWSPLAT_CACHE", str(tmp_path / "cache"))
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path / "cache"), began, 0.5))
    other.start()
    assert began.wait(60)
    start = time.monotonic()
    with gsplat_backend._alone():
        waited = time.monotonic() - start
    other.join(60)
    assert other.exitcode == 0 and waited > 0.2  # of the 0.5 s that the other one takes; the rest is slack


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEWSPLAT_CACHE", str(tmp_path / "file"))
    with gsplat_backend._alone():
        pass
