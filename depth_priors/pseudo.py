"""What is known of pseudo views before training: their cameras, warped photographs, and a network to ask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from depth_priors.config import DepthConfig
from depth_priors.network import Network, affine_prior, find_network
from depth_priors.new_view import NewViews
from depth_priors.one_thread import one_thread
from depth_priors.prior import DepthPrior
from depth_priors.stereo_once import SceneStereo
from errors import UserError
from progress import Bar
from scene import Camera, PseudoCameras, PseudoKind, Scene, View

_log = logging.getLogger(__name__)

FEWEST_POINTS = 1000
"""Surface points below which stereo says nothing of new places."""


@dataclass(frozen=True)
class PseudoWish:
    """What a run wants to know of pseudo views."""

    cameras: PseudoKind = "auto"
    count: int = 60
    reach: float = 1.0
    seed: int = 0
    warped: bool = False
    """Photographs moved there."""
    depth: Literal["", "auto", "network", "mvs"] = ""
    """Whose depth; "" = nobody's."""
    gradient: bool = True
    """Through the network."""


@dataclass(frozen=True)
class PseudoKnowledge:
    """What is known of P pseudo views."""

    cameras: tuple[Camera, ...] = ()
    warped: tuple[View, ...] = ()
    """P, or none; masked where nothing is known."""
    priors: tuple[DepthPrior, ...] = ()
    """P, or none."""
    estimate: Callable[[Tensor], DepthPrior | None] | None = None
    """Depth of a picture [H, W, 3]; None where no network is asked."""
    line: str = ""
    """What all this is, for the user."""


def know_pseudo_views(
    scene: Scene, config: DepthConfig, wish: PseudoWish, stereo: SceneStereo, *, quiet: bool = False
) -> PseudoKnowledge:
    """Draws the cameras and finds out what is asked of them.

    Args:
        scene: its training views and points.
        config: names the network.
        wish: what is asked.
        stereo: the scene's; done only if something is asked that needs it.
        quiet: no progress bar.

    Raises:
        UserError: what is asked for cannot be had.
    """
    generator = torch.Generator().manual_seed(wish.seed)
    source = PseudoCameras(scene.train, wish.cameras, scene.points.xyz, reach=wish.reach)
    cameras = tuple(source.draw(generator) for _ in range(wish.count))
    told = [f"pseudo views: {wish.count} ({source.kind})"]
    places = torch.stack([camera.center for camera in cameras])
    if wish.count > 1 and bool((places - places[0]).abs().max() <= 1e-6 * places.abs().max()):
        _log.warning(
            "pseudo views: all stand at one place, as the training cameras do: they show nothing new"
        )
    network = None
    if wish.depth in ("auto", "network"):
        network = find_network(config) if config.may_ask_network else None
        if network is None and wish.depth == "network":
            raise UserError(
                f"--pseudo.depth_from network: --depth_prior {config.depth_prior}: expected a network (midas:"
                "... or onnx:...), or MiDaS weights on disk with auto: name one, or --pseudo.depth_from mvs"
            )
    estimate = None
    if network is not None:
        estimate = Estimator(network, gradient=wish.gradient)
        told.append(f"depth by {network.name}")
    from_stereo = bool(wish.depth) and network is None
    warped: list[View] = []
    priors: list[DepthPrior] = []
    if wish.warped or from_stereo:
        new_views = NewViews(scene.train, stereo.priors)
        if len(new_views) < FEWEST_POINTS:
            _miss_stereo(wish)
            return PseudoKnowledge(cameras, (), (), estimate, f"{told[0]}, depth unknown")
        for i, camera in enumerate(Bar(cameras, desc="pseudo views", unit="view", quiet=quiet)):
            view, prior = new_views(camera, f"pseudo_{i:04}", coloured=wish.warped)
            warped.append(view)
            priors.append(prior)
        told.append(" and ".join(["warped photographs"] * wish.warped + ["depth by mvs"] * from_stereo))
    return PseudoKnowledge(
        cameras,
        tuple(warped) if wish.warped else (),
        tuple(priors) if from_stereo else (),
        estimate,
        ", ".join(told),
    )


def _miss_stereo(wish: PseudoWish) -> None:
    """Says what is missing where stereo finds too little to show anything from other places.

    Raises:
        UserError: it was asked for by name.
    """
    asked = ["--pseudo.warped"] * wish.warped + ["--pseudo.depth_from mvs"] * (wish.depth == "mvs")
    if asked:
        raise UserError(
            f"{asked[0]}: stereo finds too little in these photographs to show them from other places: leave "
            "it out"
        )
    _log.warning(
        "pseudo views: no depth network, and stereo finds too little in these photographs to stand in for "
        "one: --pseudo.depth has no effect"
    )


class Estimator:
    """A network as a function from a rendered picture to a prior, the same bits for any number of threads.

    Args:
        network: loaded when it is first asked.
        gradient: whether gradients reach the picture; those of an ONNX model never do.
    """

    def __init__(self, network: Network, *, gradient: bool) -> None:
        self._network = network
        self._run: Callable[[Tensor], Tensor] | None = None
        self._gradient = gradient and not network.name.startswith("onnx:")

    def __call__(self, picture: Tensor) -> DepthPrior | None:
        """Affine inverse depth [H, W] of a picture [H, W, 3]; None where the network says nothing."""
        if self._run is None:
            self._run = self._network.load(picture.device)
        picture = picture.clamp(0.0, 1.0)
        if self._gradient and picture.requires_grad:
            answer = _OneThread.apply(picture, self._run)
        else:
            with one_thread():
                answer = self._run(picture.detach()).to(picture)
        return affine_prior(answer, self._network.name)


class _OneThread(torch.autograd.Function):
    """A network's answer and its gradient to the picture, both computed on one thread."""

    @staticmethod
    def forward(ctx: Any, picture: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.picture = picture.detach().requires_grad_()
        with torch.enable_grad(), one_thread():
            ctx.value = run(ctx.picture).to(picture)
        return ctx.value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        with one_thread():
            (gradient,) = torch.autograd.grad(ctx.value, ctx.picture, grads[0])
        return gradient, None
