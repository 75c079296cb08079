"""A web page that shows the Gaussians by itself: one `.html` that needs no server and no network.

The viewer inside is viser's, which draws Gaussians of one colour each. Positions and sizes are written in
units of a tenth of the distance that the page opens at, around the point that it turns about, because viser
keeps covariances as 16-bit floats and sorts depths in 65,536 steps between the nearest and the farthest.
"""

from __future__ import annotations

import contextlib
import html
import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from exporting.splats import Splats, morton_order
from exporting.viewpoint import Viewpoint
from gaussian_model import rotation_matrices

_DISTANCE = 10.0  # from the eye to what it turns about, units of the page
_REACH = 1000.0  # what is farther away than 100 times that distance would cost all others their order
_LARGEST = 200.0  # standard deviation whose square a 16-bit float still holds
_NEAR, _FAR = 0.02, 4000.0
# viser sorts in a worker made of a blob: URL or, where that cannot be had, of a data: URL. Chromium gives the
# first to a page opened from a disk and then refuses to run it, so such a page must not get one.
_WORKER_FROM_DISK = (
    "<script>if(location.protocol==='file:'){const make=URL.createObjectURL;URL.createObjectURL="
    "(o)=>String(o.type).startsWith('text/javascript')?'':make.call(URL,o)}</script>"
)


@dataclass(frozen=True)
class Encoded:
    """A page, and how many Gaussians stood too far away to be in it."""

    content: bytes
    too_far: int


def encode(
    splats: Splats,
    colours: NDArray[np.float32],
    view: Viewpoint,
    *,
    title: str,
    background: NDArray[np.float32],
) -> Encoded:
    """Writes the page.

    Args:
        splats: N >= 1 Gaussians.
        colours: [N, 3] in [0, 1].
        view: where it opens.
        title: of the browser's window.
        background: [3] in [0, 1].
    """
    scale = _DISTANCE / view.distance
    centers = (splats.means.astype(np.float64) - view.target) * scale
    near = np.linalg.norm(centers, axis=1) <= _REACH
    if not near.any():  # nothing is where the cameras looked; show it all the same
        near[:] = True
    order = np.flatnonzero(near)[morton_order(splats.means[near])]  # neighbours compress well
    splats = splats.rows(order)
    page = _page(
        centers[order].astype(np.float32),
        _covariances(splats, scale),
        np.round(colours[order] * 255.0).astype(np.uint8),
        np.round(splats.opacities * 255.0).astype(np.uint8),
        (view.position - view.target) * scale,
        view,
        np.round(background * 255.0).astype(np.uint8),
    )
    page = page.replace("<head>", f"<head>{_WORKER_FROM_DISK}", 1)
    page = page.replace("<title>Viser</title>", f"<title>{html.escape(title)}</title>", 1)
    return Encoded(page.encode("utf-8"), int(np.sum(~near)))


def _covariances(splats: Splats, scale: float) -> NDArray[np.float32]:
    """[N, 3, 3] in units of the page, squared."""
    rotations = rotation_matrices(torch.from_numpy(splats.quats)).numpy()
    sizes = np.exp(np.minimum(splats.log_scales + np.log(scale), np.log(_LARGEST)))
    axes = (rotations * sizes[:, None, :]).astype(np.float32)
    return axes @ axes.transpose(0, 2, 1)


def _page(
    centers: NDArray[np.float32],
    covariances: NDArray[np.float32],
    colours: NDArray[np.uint8],
    opacities: NDArray[np.uint8],
    position: NDArray[np.float64],
    view: Viewpoint,
    background: NDArray[np.uint8],
) -> str:
    """Viser's page for a scene. It wants a server for that, which is on a free local port and gone after."""
    import viser  # here, because it takes a while and no other format needs it

    with contextlib.redirect_stdout(io.StringIO()):  # it announces the server, and its end
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            server.scene.set_up_direction(view.up)
            server.scene.add_gaussian_splats(
                "/gaussians",
                centers=centers,
                covariances=covariances,
                rgbs=colours,
                opacities=opacities[:, None],
            )
            server.scene.set_background_image(np.broadcast_to(background, (1, 1, 3)), format="png")
            camera = server.initial_camera
            camera.position, camera.look_at = position, (0.0, 0.0, 0.0)
            camera.fov, camera.near, camera.far = view.field_of_view, _NEAR, _FAR
            return server.scene.as_html(dark_mode=bool(background.mean() < 128))
        finally:
            server.stop()
