"""Adaptive density control of 3D Gaussian Splatting (Kerbl et al. 2023, section 5.2).

Where the image asks a Gaussian to move a lot, there is too little: small ones are cloned, large
ones split in two. Transparent and oversized ones are removed, and opacities are cut from time to
time so that what is not needed stays transparent and goes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gaussian_model.densify.config import DensifyConfig
from gaussian_model.densify.front import EmptySpace
from gaussian_model.densify.geometry import normal_like
from gaussian_model.densify.protocol import DensifyReport, check_strategy
from gaussian_model.densify.unpool import Unpooled, unpool
from gaussian_model.edit import RowEdit, apply_edit
from gaussian_model.gaussians import Gaussians
from gaussian_model.parameters import log_scales, logit_opacities
from gaussian_model.rotation import rotate

log = logging.getLogger(__name__)

SPLIT_SHRINK = 1.6
"""Divisor of the scales of the two parts of a split: 0.8 times the number of parts (3DGS)."""
MANY = 0.2
"""Share of the Gaussians that are seldom all too large: where more are, the measure is too small."""


class DefaultDensifier:
    """Clone, split, prune and reset by the gradients of the projected positions.

    The statistic is the mean, over the cameras that saw a Gaussian since the last refinement, of
    the norm of the gradient of its projected position in normalised device units: pixel gradients
    times (width, height) / 2, times the number of cameras of the pass, whose loss is a mean.
    """

    def __init__(
        self,
        config: DensifyConfig,
        extent: float,
        generator: torch.Generator,
        empty: EmptySpace | None = None,
    ) -> None:
        """Judge sizes relative to `extent` (world units); draw splits from `generator` (CPU).

        Gaussians in `empty` space are pruned.
        """
        self.config = config
        self.empty = empty
        self.extent = extent
        self.generator = generator
        self.wants_absgrad = config.absgrad
        self.statistics: dict[str, Tensor] = {}
        self._stopped = False
        self._warned = False

    @property
    def collects(self) -> bool:
        """Whether `collect` still makes use of what it is given: not after the last refinement."""
        return not self._stopped

    @torch.no_grad()
    def collect(self, info: Mapping[str, Any]) -> None:
        """Add the gradients of one backward pass; exact for every Gaussian with radii > 0.

        Raises:
            RuntimeError: `means2d` kept no gradient.
        """
        if self._stopped:
            return
        radii: Tensor = info["radii"]  # [C, N, 2]
        cameras, count = radii.shape[:2]
        known = self.statistics.get("count")
        if known is None or known.shape[:1] != (count,):
            self._clear(count, radii.device)
        self.statistics = {name: value.to(radii.device) for name, value in self.statistics.items()}
        gradient = self._gradient(info["means2d"])
        scale = (0.5 * info["width"] * cameras, 0.5 * info["height"] * cameras)
        for camera in range(cameras):  # one after the other: a fixed order of summation
            self._add(radii[camera], None if gradient is None else gradient[camera], scale)
        if self.config.prune_screen_size > 0.0:
            size = radii.amax(dim=(0, 2)) / max(info["width"], info["height"])
            torch.maximum(self.statistics["screen_size"], size, out=self.statistics["screen_size"])

    def _add(self, radii: Tensor, gradient: Tensor | None, scale: tuple[float, float]) -> None:
        """Add one camera's radii [N,2] and pixel gradients [N,2]; `scale` makes these normalised ones."""
        total, seen = self.statistics["gradient"], self.statistics["count"]
        native_types = radii.dtype == torch.int32 and (gradient is None or gradient.dtype == torch.float32)
        if radii.device.type == "cpu" and native_types:
            from native import call  # compiles on first use, so never at import

            dense = None if gradient is None else gradient.contiguous()
            call("fs_density_statistics", len(radii), radii.contiguous(), dense, *scale, total, seen)
            return
        visible = (radii > 0).all(dim=-1)
        seen += visible
        if gradient is not None:
            x, y = gradient[:, 0] * scale[0], gradient[:, 1] * scale[1]
            total += torch.where(visible, (x.square() + y.square()).sqrt(), 0.0)

    def _gradient(self, means2d: Tensor) -> Tensor | None:
        """Gradient [C,N,2] of the projected positions; None where the loss did not depend on them."""
        if self.config.absgrad and getattr(means2d, "absgrad", None) is not None:
            return means2d.absgrad  # type: ignore[attr-defined]
        if not means2d.requires_grad:
            return None
        if not (means2d.is_leaf or means2d.retains_grad):
            raise RuntimeError(
                'means2d kept no gradient: call info["means2d"].retain_grad() between render and backward'
            )
        if self.config.absgrad and means2d.grad is not None:
            raise RuntimeError("means2d has no absgrad: render with absgrad=densifier.wants_absgrad")
        return means2d.grad

    @torch.no_grad()
    def refine(
        self, iteration: int, gaussians: Gaussians, optimizer: torch.optim.Optimizer
    ) -> DensifyReport | None:
        """Grow, prune and reset where due; see `Densifier.refine`."""
        config = self.config
        if iteration >= config.stop:
            self._stopped = True
            self.statistics.clear()
            return None
        # Those of a checkpoint are still on the CPU where a run goes on just before a refinement.
        self.statistics = {name: value.to(gaussians.device) for name, value in self.statistics.items()}
        report = None
        if iteration > config.start and iteration % config.every == 0 and not self._paused(iteration):
            report = self._grow_and_prune(iteration, gaussians, optimizer)
        if config.reset_every > 0 and iteration % config.reset_every == 0:
            self._reset(gaussians, optimizer)
            report = replace(report or DensifyReport(total=len(gaussians)), reset=True)
        return report

    def _paused(self, iteration: int) -> bool:
        """Whether the last reset before this iteration is too recent."""
        if self.config.reset_every == 0 or iteration <= self.config.reset_every:
            return False
        since = (iteration - 1) % self.config.reset_every + 1
        return since < self.config.pause_after_reset

    def _grow_and_prune(
        self, iteration: int, gaussians: Gaussians, optimizer: torch.optim.Optimizer
    ) -> DensifyReport:
        """One refinement as one row edit: survivors, clones, pairs of split parts, and what fills gaps."""
        if len(self.statistics.get("count", ())) != len(gaussians):
            self._clear(len(gaussians), gaussians.device)
        grow, split, pruned = self._decide(iteration, gaussians)
        kept = (~pruned & ~split).nonzero().squeeze(-1)
        cloned = (grow & ~split).nonzero().squeeze(-1)
        parents = split.nonzero().squeeze(-1)
        gaps = self._gaps(iteration, gaussians, kept, len(kept) + len(cloned) + 2 * len(parents))
        source = torch.cat([kept, cloned, parents, parents, gaps.like])
        fresh = torch.arange(len(source), device=source.device) >= len(kept)
        edit = RowEdit(source, fresh, self._new_values(gaussians, cloned, parents, gaps))
        apply_edit(gaussians, optimizer, self.statistics, edit)
        for statistic in self.statistics.values():
            statistic.zero_()
        if len(gaussians) == 0:
            log.warning("iteration %d: every Gaussian was pruned", iteration)
        return DensifyReport(
            total=len(gaussians),
            cloned=len(cloned),
            split=len(parents),
            pruned=int(pruned.sum()),
            added=len(gaps.like),
        )

    def _gaps(self, iteration: int, gaussians: Gaussians, kept: Tensor, total: int) -> Unpooled:
        """What is added between the kept rows, which grow to `total` without it."""
        means = gaussians.params["means"].detach()
        if not self.config.unpools_at(iteration):
            return Unpooled(kept[:0], means[:0])
        limit = self.config.limit(iteration)
        room = None if limit is None else max(0, limit - total)
        found = unpool(means[kept], self.config.unpool * self.extent, room)
        return Unpooled(kept[found.like], found.means)

    def _decide(self, iteration: int, gaussians: Gaussians) -> tuple[Tensor, Tensor, Tensor]:
        """Masks [N]: growing (cloned or split), split, pruned. Growing and pruned exclude each other."""
        config = self.config
        gradient = self.statistics["gradient"] / self.statistics["count"].clamp_min(1.0)
        largest = gaussians.linear_scales().amax(dim=-1)
        grow = gradient > config.threshold
        large = largest > config.clone_scale * self.extent
        doomed = gaussians.linear_opacities() < config.prune_opacity
        if self.empty is not None:
            doomed |= self.empty.contains(gaussians.params["means"])
        too_large = torch.zeros_like(doomed)
        if config.reset_every > 0 and iteration > config.reset_every:
            largest_allowed = config.prune_scale * self.extent if config.prune_scale > 0.0 else torch.inf
            if config.prune_screen_size > 0.0:
                doomed |= self.statistics["screen_size"] > config.prune_screen_size
            too_large = largest > largest_allowed
            # A split part that would still be too large is not worth making.
            oversized = torch.where(grow & large, largest / SPLIT_SHRINK, largest) > largest_allowed
            self._warn_of_sizes(iteration, int((oversized & ~doomed).sum()), len(gaussians))
            doomed |= oversized
        grow &= ~doomed
        limit = config.limit(iteration)
        if limit is not None:  # every clone and every split adds exactly one
            room = max(0, limit - len(gaussians) + int(doomed.sum()))
            grow = _highest(gradient, grow, room)
        split = grow & large
        return grow, split, doomed | (too_large & ~split)

    def _warn_of_sizes(self, iteration: int, count: int, total: int) -> None:
        """Says once that many Gaussians go only because they are larger than the cameras' spread allows."""
        if count > MANY * total and not self._warned:
            self._warned = True
            log.warning(
                "iteration %d: %s of %s Gaussians are removed because they are larger than prune_scale, "
                "%g of the scene extent, which is how far the cameras are apart: where these stand close "
                "together, choose a larger one, or --densify.prune_scale 0",
                iteration, f"{count:,}", f"{total:,}", self.config.prune_scale,
            )  # fmt: skip

    def _new_values(
        self, gaussians: Gaussians, cloned: Tensor, parents: Tensor, gaps: Unpooled
    ) -> dict[str, Tensor]:
        """Stored values of the fresh rows: equal copies, samples of the split ones, copies between others."""
        params = {key: value.detach() for key, value in gaussians.params.items()}
        scales = gaussians.linear_scales()[parents]
        drawn = normal_like(scales, (2, len(parents), 3), self.generator)
        offsets = rotate(params["quats"][parents], scales * drawn)  # [2, S, 3]
        part_means = (params["means"][parents] + offsets).reshape(-1, 3)
        part_scales = log_scales(scales / SPLIT_SHRINK)
        values = {
            "means": torch.cat([params["means"][cloned], part_means, gaps.means]),
            "scales": torch.cat(
                [params["scales"][cloned], part_scales, part_scales, params["scales"][gaps.like]]
            ),
        }
        if self.config.revised_opacity:
            parts = logit_opacities(1.0 - (1.0 - gaussians.linear_opacities()[parents]).sqrt())
            between = params["opacities"][gaps.like]
            values["opacities"] = torch.cat([params["opacities"][cloned], parts, parts, between])
        return values

    def _reset(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> None:
        """Cut every opacity to at most `reset_opacity` and forget the opacities' momentum."""
        stored = gaussians.params["opacities"].detach()
        ceiling = logit_opacities(torch.full_like(stored, self.config.reset_opacity))
        apply_edit(
            gaussians,
            optimizer,
            self.statistics,
            RowEdit.overwriting("opacities", torch.minimum(stored, ceiling)),
        )

    def _clear(self, count: int, device: torch.device) -> None:
        self.statistics = {name: torch.zeros(count, device=device) for name in self._names()}

    def _names(self) -> list[str]:
        """Of the statistics that this configuration asks for."""
        return ["gradient", "count"] + (["screen_size"] if self.config.prune_screen_size > 0.0 else [])

    def state_dict(self) -> dict[str, Any]:
        """See `Densifier.state_dict`."""
        return {"strategy": "default", "stopped": self._stopped, "statistics": dict(self.statistics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Densifier.load_state_dict`; the statistics are copied to where the next meta lies."""
        check_strategy(state, "default")
        saved = state["statistics"]
        rows = {len(value) for value in saved.values()}
        for name, value in saved.items():
            if name not in self._names() or value.dtype != torch.float32 or value.dim() != 1 or len(rows) > 1:
                raise ValueError(f"densifier state: {str(name)[:40]}: expected a statistic [N] float32")
        if saved and set(saved) != set(self._names()):
            raise ValueError(f"densifier state: expected {self._names()}, got {list(saved)}")
        self._stopped = bool(state["stopped"])
        self.statistics = {name: value.clone() for name, value in saved.items()}


def _highest(score: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The `count` candidates of highest score as a mask [N]; among equals the first rows."""
    rows = candidates.nonzero().squeeze(-1)
    if len(rows) <= count:
        return candidates
    order = torch.sort(score[rows], descending=True, stable=True).indices
    chosen = torch.zeros_like(candidates)
    chosen[rows[order[:count]]] = True
    return chosen
