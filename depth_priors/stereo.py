"""Inverse depth of every view by multi-view stereo with known poses; the heavy loops are in C++.

First guess: a plane sweep with semi-global matching on small images. Then PatchMatch with slanted planes,
from small images to the full size; then once more with each view held to its neighbours' depths. What
several views agree on is confident. See native/src/stereo.cpp for the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_priors.neighbours import SMALLEST, Surroundings
from native import call
from scene import View

PLANES = 128
"""Of the sweep, evenly spread over inverse depth; a multiple of 16."""
SWEEP_SIZE = 300
"""Longest side of the images that are swept, in pixels: the sweep's patch of 7 pixels then sees enough."""
JUMP, STEP, CONTRAST = 0.35, 0.04, 0.05
"""Semi-global matching: what a depth edge and a change by one plane cost, in units of 1 - NCC, and the step
of grey (of 1) at which an edge costs half."""
FIRST_ROUNDS, FINER_ROUNDS, GEOMETRIC_ROUNDS = 3, 2, 2
"""PatchMatch rounds on the smallest images, on each finer size, and with the neighbours' depths."""
SPREADS = (0.1, 0.02, 0.01)
"""First size of PatchMatch's random changes in these three, as a share of the range of inverse depths."""
GEOMETRIC_WEIGHT = 0.1
"""What a pixel of disagreement with a neighbour's depth costs, in units of 1 - NCC."""
COLOUR = 0.04
"""Difference of colour (of 1) at which a pixel of a patch counts 1/e."""
AGREE_PIXELS, AGREE_DEPTH = 1.0, 0.02
"""How far a neighbour may bring a pixel back from where it was, and from its depth, and still confirm it."""

DISTINCT, DISTINCT_PIXELS, WORST_MATCH = 0.02, 2.0, 0.7
"""A match counts if 1 - NCC is at most the last and rises by at least the first when the surface is moved by
so many pixels, nearer and farther: blank surfaces and stripes along the baseline match anywhere."""


@dataclass(frozen=True, eq=False)
class StereoMap:
    """One view's result."""

    inverse: Tensor
    """[H, W] float32, 1 / camera z, world units; where neighbours agree the mean of what they say."""
    agreeing: Tensor
    """[H, W] float32: how many neighbours confirm it; 0 outside the mask and where anything matches."""
    slopes: Tensor
    """[2, H, W] float32: change of the inverse depth per pixel to the right and down."""


def stereo_maps(
    views: Sequence[View],
    surroundings: Sequence[Surroundings],
    *,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> list[StereoMap | None]:
    """Depth of every view that has a neighbour; None for the others.

    The same bits for any number of threads.

    Args:
        views: V views, of any sizes.
        surroundings: theirs, in the same order.
        seed: of the random changes.
        progress: called `work_steps(views)` times.
    """
    sizes = _scales(views)
    usable = [i for i, around in enumerate(surroundings) if around.neighbours]
    states: dict[int, Tensor] = {}
    level = _Level(views, surroundings, sizes[-1])
    for i in range(len(views)):
        states[i] = level.sweep(i) if i in usable else level.nothing(i)
        progress()
    for step, scale in enumerate(reversed(sizes)):
        if step > 0:
            level = _Level(views, surroundings, scale)
            states = {i: level.resize(i, state) for i, state in states.items()}
        for i in range(len(views)):
            if i in usable:
                rounds = FINER_ROUNDS if step else FIRST_ROUNDS
                states[i] = level.refine(i, states[i], rounds, SPREADS[min(step, 1)], seed + 7 * step)
            progress()
    for turn in range(GEOMETRIC_ROUNDS):
        before = level.join(states)
        refined = {}
        for i in range(len(views)):
            if i in usable:
                refined[i] = level.refine(i, states[i], 1, SPREADS[2], seed + 1000 + turn, before)
            progress()
        states |= refined
    inverses = level.join(states)
    found: list[StereoMap | None] = [None] * len(views)
    for i in range(len(views)):
        progress()
        if i not in usable:
            continue
        agreed = level.agree(i, states[i], inverses)
        sure = level.distinct(i, states[i])
        found[i] = replace(agreed, agreeing=torch.where(sure, agreed.agreeing, 0.0))
    return found


def work_steps(views: Sequence[View]) -> int:
    """How often `stereo_maps` reports progress."""
    return len(views) * (2 + len(_scales(views)) + GEOMETRIC_ROUNDS)


def _scales(views: Sequence[View]) -> list[float]:
    """Image sizes as shares of the full one, from large to small: halves until the sweep can afford it."""
    longest = max(max(view.camera.width, view.camera.height) for view in views)
    scales = [1.0]
    while longest * scales[-1] > SWEEP_SIZE:
        scales.append(0.5 * scales[-1])
    return scales


class _Level:
    """All views at one size, as the kernels take them: one array behind the other."""

    def __init__(self, views: Sequence[View], surroundings: Sequence[Surroundings], scale: float) -> None:
        self.surroundings = surroundings
        self.poses = [view.camera.viewmat.double().numpy() for view in views]
        self.grey: list[Tensor] = []
        self.colours: list[Tensor] = []
        self.used: list[Tensor | None] = []
        self.K: list[NDArray[np.float64]] = []
        layout, offset = [], 0
        for view in views:
            full = cv2.cvtColor(view.pixels.numpy(), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
            height, width = full.shape
            w, h = (max(min(side, SMALLEST), round(side * scale)) for side in (width, height))
            K = view.camera.K.double().numpy().copy()
            K[0] *= w / width
            K[1] *= h / height
            self.K.append(K)
            self.grey.append(torch.from_numpy(_resized(full, w, h)))
            colours = _resized(view.pixels.numpy().astype(np.float32) / 255.0, w, h)
            self.colours.append(torch.from_numpy(colours).permute(2, 0, 1).contiguous())
            used = usable_pixels(view)
            shrunk = None if used is None else _resized(used.numpy().astype(np.float32), w, h) > 0.5
            self.used.append(None if shrunk is None else torch.from_numpy(shrunk.astype(np.uint8)))
            layout.append((offset, w, h))
            offset += w * h
        self._neighbours: dict[int, tuple[int, Tensor, Tensor]] = {}
        self.layout = torch.tensor(layout, dtype=torch.int64)
        self.images = torch.cat([image.reshape(-1) for image in self.grey])

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of a view."""
        return int(self.layout[i, 1]), int(self.layout[i, 2])

    def range(self, i: int) -> tuple[float, float]:
        """Least and greatest inverse depth of a view."""
        return 1.0 / self.surroundings[i].far, 1.0 / self.surroundings[i].near

    def neighbours(self, i: int) -> tuple[int, Tensor, Tensor]:
        """Number, indices [n] int32 and geometry [n, 24] (M, t there and back) of a view's neighbours."""
        if i not in self._neighbours:
            which = self.surroundings[i].neighbours
            rows = [np.concatenate([*self._between(i, j), *self._between(j, i)]) for j in which]
            geometry = torch.from_numpy(np.stack(rows).astype(np.float32))
            self._neighbours[i] = len(which), torch.tensor(which, dtype=torch.int32), geometry
        return self._neighbours[i]

    def _between(self, i: int, j: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """M [9] and t [3] that take a pixel of view i, with its inverse depth, into view j."""
        rotation = self.poses[j][:3, :3] @ self.poses[i][:3, :3].T
        shift = self.poses[j][:3, 3] - rotation @ self.poses[i][:3, 3]
        return (self.K[j] @ rotation @ np.linalg.inv(self.K[i])).ravel(), self.K[j] @ shift

    def nothing(self, i: int) -> Tensor:
        """The state [3, H, W] of a view of which nothing is known."""
        width, height = self.size(i)
        return torch.zeros(3, height, width)

    def sweep(self, i: int) -> Tensor:
        """First state [3, H, W] of a view: inverse depth, and no slopes."""
        width, height = self.size(i)
        least, most = self.range(i)
        step = (most - least) / (PLANES - 1)
        volume, sums = torch.empty(height, width, PLANES), torch.empty(height, width, PLANES)
        state = self.nothing(i)
        count, which, geometry = self.neighbours(i)
        call(
            "fs_stereo_sweep", width, height, self.grey[i], count, which, self.images, self.layout, geometry,
            PLANES, least, step, 1, volume,
        )  # fmt: skip
        call(
            "fs_stereo_sgm", width, height, self.grey[i], PLANES, volume, least, step, STEP, JUMP, CONTRAST,
            sums, state,
        )  # fmt: skip
        return state

    def resize(self, i: int, state: Tensor) -> Tensor:
        """A state from a smaller size at this one."""
        width, height = self.size(i)
        larger = torch.nn.functional.interpolate(state[None], size=(height, width), mode="bilinear")[0]
        larger[1] *= state.shape[2] / width
        larger[2] *= state.shape[1] / height
        return larger.contiguous()

    def refine(
        self, i: int, state: Tensor, rounds: int, spread: float, seed: int, inverses: Tensor | None = None
    ) -> Tensor:
        """The state after PatchMatch; with all views' inverse depths, held to the neighbours' ones."""
        width, height = self.size(i)
        least, most = self.range(i)
        state, cost = state.clone(), torch.empty(height, width)
        count, which, geometry = self.neighbours(i)
        call(
            "fs_stereo_patchmatch", width, height, self.grey[i], self.colours[i], count, which, self.images,
            inverses, self.layout, geometry, self.used[i], least, most, float(self.K[i][0, 0]), 1,
            GEOMETRIC_WEIGHT, COLOUR, rounds, spread, seed * 4096 + i, state, cost,
        )  # fmt: skip
        return state

    def join(self, states: dict[int, Tensor]) -> Tensor:
        """All views' inverse depths behind one another; 0 where a pixel is not to be used."""
        parts = []
        for i in range(len(states)):
            inverse, used = states[i][0], self.used[i]
            parts.append((inverse if used is None else inverse * used).reshape(-1))
        return torch.cat(parts)

    def agree(self, i: int, state: Tensor, inverses: Tensor) -> StereoMap:
        """What a view's neighbours say to its depth."""
        width, height = self.size(i)
        agreeing, fused = torch.empty(height, width), torch.empty(height, width)
        count, which, geometry = self.neighbours(i)
        used = self.used[i]
        inverse = (state[0] if used is None else state[0] * used).contiguous()
        call(
            "fs_stereo_agreement", width, height, inverse, count, which, inverses, self.layout, geometry,
            AGREE_PIXELS, AGREE_DEPTH, agreeing, fused,
        )  # fmt: skip
        return StereoMap(fused, agreeing, state[1:].clone())

    def distinct(self, i: int, state: Tensor) -> Tensor:
        """[H, W] bool: where a view's matches are no worse than they may be, and would be anywhere else."""
        width, height = self.size(i)
        rise = torch.empty(height, width)
        count, which, geometry = self.neighbours(i)
        call(
            "fs_stereo_distinct", width, height, self.grey[i], self.colours[i], count, which, self.images,
            self.layout, geometry, COLOUR, DISTINCT_PIXELS, WORST_MATCH, state.contiguous(), rise,
        )  # fmt: skip
        return rise >= DISTINCT


def usable_pixels(view: View) -> Tensor | None:
    """[H, W] bool: pixels that are neither masked nor mostly transparent; None where all are usable."""
    used = None
    for channel in (view.mask, view.alpha):
        if channel is not None:
            used = (channel > 127) if used is None else used & (channel > 127)
    return used


def _resized(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
