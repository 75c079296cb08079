"""Colours that do not change with the view, for viewers without spherical harmonics.

Where the cameras of a run are known, each Gaussian begins with the mean of its colours as those cameras see
it. Then all colours are fitted so that the pictures from those cameras resemble the ones with view-dependent
colours; no photograph is needed for it. (Of 29 dB, one scene keeps 22 without this, 24 to 26 with it.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaussian_model import Gaussians
from gaussian_model.spherical_harmonics import C0, rgb_to_sh, sh_to_rgb
from progress import Bar
from rasterizer.reference import sh_basis
from scene import Camera

_MOST_CAMERAS = 64  # of a capture, spread evenly over it
_LONGEST_SIDE = 512  # pixels; colours vary slowly enough, and time goes with the area
_ROWS_AT_ONCE = 1 << 16
_HELD = 0.1  # pixels: a colour is held to its start as if so much of one showed that
_FIRST_RATE, _LAST_RATE = 0.05, 0.005  # of Adam, in units of the coefficient (0.05 is 0.014 in colour)


def mean_colours(gaussians: Gaussians, cameras: Sequence[Camera], *, quiet: bool = True) -> Tensor:
    """The mean colour of each Gaussian over the cameras that have it in their picture, [N, 3] in [0, 1].

    What no camera has takes the mean over all; without cameras, the colour is that of SH degree 0.
    """
    state = {key: value.cpu() for key, value in gaussians.state_dict().items()}
    if not cameras:
        return sh_to_rgb(state["sh0"][:, 0]).clamp(0.0, 1.0)
    chosen = spread_evenly(cameras, _MOST_CAMERAS)
    bar = Bar(_parts(len(gaussians)), desc="mean colours", quiet=quiet)
    return torch.cat([_mean_colours(state, rows, chosen, gaussians.max_sh_degree) for rows in bar])


def fit_colours(
    colours: Tensor,
    kept: Gaussians,
    model: Gaussians,
    cameras: Sequence[Camera],
    *,
    steps: int,
    background: Tensor,
    antialiased: bool,
    backend: str,
    quiet: bool = False,
) -> Tensor:
    """Moves the colours of Gaussians so that they resemble a model from its cameras.

    Args:
        colours: [N, 3] in [0, 1], the start.
        kept: N Gaussians whose colours these are, on the backend's device.
        model: the Gaussians to resemble, maybe more of them, there too.
        cameras: at least one.
        steps: pictures to look at, one a step.
        background: colour [3] behind all.
        antialiased: how `model` is drawn; `kept` is drawn as plain viewers do.
        backend: a resolved rasterizer's name.
        quiet: no progress bar.

    Returns:
        [N, 3] in [0, 1], on the CPU.
    """
    views = [
        _at_most(camera, _LONGEST_SIDE).to(kept.device) for camera in spread_evenly(cameras, _MOST_CAMERAS)
    ]
    background = background.to(kept.device)
    state = kept.state_dict()
    flat = Gaussians.from_tensors(
        {**state, "sh0": rgb_to_sh(colours.to(kept.device))[:, None], "shN": state["shN"][:, :0]}
    )
    for key, parameter in flat.params.items():
        parameter.requires_grad_(key == "sh0")
    coefficients = flat.params["sh0"]
    start = coefficients.detach().clone()
    darkest, brightest = (float(rgb_to_sh(torch.tensor(end))) for end in (0.0, 1.0))
    optimizer = torch.optim.Adam([coefficients], lr=_FIRST_RATE)
    generator = torch.Generator().manual_seed(0)
    order: list[int] = []
    targets: dict[int, Tensor] = {}
    bar = Bar(range(steps), desc="colours", unit="picture", quiet=quiet)
    for step in bar:
        if not order:
            order = torch.randperm(len(views), generator=generator).tolist()
        number = order.pop()
        if number not in targets:
            with torch.no_grad():
                seen = model.render(
                    views[number], background=background, depth=None, antialiased=antialiased, backend=backend
                )
            targets[number] = seen.color[0].clamp(0.0, 1.0)
        drawn = flat.render(views[number], background=background, depth=None, backend=backend)
        error = (drawn.color[0] - targets[number]).square().sum()
        error = (
            error + _HELD * C0**2 * (coefficients - start).square().sum()
        )  # else what is hardly seen drifts
        loss = error / targets[number].numel()
        for group in optimizer.param_groups:
            group["lr"] = _FIRST_RATE * (_LAST_RATE / _FIRST_RATE) ** (step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            coefficients.clamp_(darkest, brightest)
    return sh_to_rgb(coefficients.detach()[:, 0]).clamp(0.0, 1.0).cpu()


def spread_evenly(cameras: Sequence[Camera], most: int) -> list[Camera]:
    """At most so many of them, the first and the last among these."""
    if len(cameras) <= most:
        return list(cameras)
    return [cameras[round(i * (len(cameras) - 1) / (most - 1))] for i in range(most)]


def _mean_colours(state: dict[str, Tensor], rows: slice, cameras: Sequence[Camera], degree: int) -> Tensor:
    means = state["means"][rows]
    coefficients = torch.cat([state["sh0"][rows], state["shN"][rows]], dim=1)
    everywhere, in_picture = torch.zeros(len(means), 3), torch.zeros(len(means), 3)
    seen = torch.zeros(len(means), 1)
    for camera in cameras:
        direction = torch.nn.functional.normalize(means - camera.center.cpu(), dim=-1)
        colour = torch.einsum("nk,nkc->nc", sh_basis(degree, direction), coefficients) + 0.5
        colour = colour.clamp(0.0, 1.0)
        inside = _in_picture(camera, means).unsqueeze(-1)
        everywhere += colour
        in_picture += torch.where(inside, colour, torch.zeros(()))
        seen += inside
    return torch.where(seen > 0, in_picture / seen.clamp_min(1.0), everywhere / len(cameras))


def _in_picture(camera: Camera, means: Tensor) -> Tensor:
    """Whether points [n, 3] are in front of a camera and in its picture: [n]. `project`, but in float32."""
    local = means @ camera.viewmat[:3, :3].cpu().T + camera.viewmat[:3, 3].cpu()
    x, y, z = (local @ camera.K.cpu().T).unbind(-1)
    return (z > 0) & (x >= 0) & (x < camera.width * z) & (y >= 0) & (y < camera.height * z)


def _parts(count: int) -> list[slice]:
    return [slice(first, first + _ROWS_AT_ONCE) for first in range(0, count, _ROWS_AT_ONCE)]


def _at_most(camera: Camera, side: int) -> Camera:
    """The camera with a picture of at most so many pixels a side."""
    factor = side / max(camera.width, camera.height)
    if factor >= 1.0:
        return camera
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
