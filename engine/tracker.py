"""What a run shows while it works: TensorBoard curves and images, and a progress bar.

Values arrive as detached tensors and are only summed; they are read from the device once every `log_every`
iterations, so that a GPU never waits for a log line. Curves show the mean over those iterations; those of a
term that acts now and then, over the ones in which it acted.

| name | value |
|---|---|
| loss/TERM, loss/total | weighted terms of the objective and their sum |
| metrics/psnr_test, ssim_test, psnr_train, ssim_train | means over test and some training views, 8 bits |
| metrics/psnr_batch | PSNR in dB of the views just trained on |
| gaussians/count | N |
| lr/GROUP | learning rate per parameter group |
| speed/it_per_s | iterations per second, pauses left out |
| memory/peak_gib, memory/gpu_peak_gib | largest memory so far |
| run/minutes, metrics/lpips_test | once, at the end; with the run's options in the table of hyperparameters |
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from engine import words
from engine.command import add_facts
from engine.memory import peak_gpu_memory_gib, peak_memory_gib
from progress import terminal_width

if TYPE_CHECKING:
    from gaussian_model import Gaussians

_log = logging.getLogger(__name__)
_LINE_EVERY_S = 30.0  # between progress lines where there is no terminal to draw a bar on


class Tracker:
    """Writes TensorBoard events into a run's folder and draws its progress bar. A context manager.

    Args:
        folder: the run's folder.
        iterations: the run's last iteration.
        start: iterations already done; curves go on from there, and what an interrupted run had logged
            beyond is hidden.
        log_every: iterations between two readings of the values.
        quiet: no bar and no progress lines.
        events: False leaves TensorBoard out.

    Attributes:
        latest: the loss, the training views' PSNR in dB and the iterations per second when they were last
            read, as far as they are known; for who shows them elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        iterations: int,
        *,
        start: int = 0,
        log_every: int = 10,
        quiet: bool = False,
        events: bool = True,
    ) -> None:
        self._iterations, self._log_every, self._quiet = iterations, max(1, log_every), quiet
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        self._facts: dict[str, Any] = {"iteration": start}
        self._last_read = start
        self.latest: dict[str, float] = {}
        self._clock = time.perf_counter()
        self._next_line = self._clock + _LINE_EVERY_S
        self._warned = False
        self._writer = _writer(folder, start) if events else None
        self._bar = tqdm(
            total=iterations, initial=start, desc="training", unit="it", **terminal_width(),
            disable=True if quiet else None,  # None: drawn on terminals only
        )  # fmt: skip

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        add_facts(error, **self._facts)
        with contextlib.suppress(OSError):  # a full disk is what ended the run: keep that as the reason
            self.close()

    def close(self) -> None:
        """Ends the bar and writes out all events."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def losses(self, iteration: int, terms: Mapping[str, Tensor]) -> None:
        """Adds the weighted loss terms (scalars) of an iteration, and their sum as loss/total."""
        self.scalars(iteration, {f"loss/{name}": value for name, value in terms.items()})
        if terms and "total" not in terms:
            self.scalars(iteration, {"loss/total": sum(value.detach() for value in terms.values())})

    def scalars(self, iteration: int, values: Mapping[str, Tensor | float]) -> None:
        """Adds values of an iteration to the means that the next reading writes. Never waits for the device.

        Args:
            iteration: the iteration, from 1.
            values: full names ("metrics/psnr_batch") to scalars.
        """
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + (value.detach() if isinstance(value, Tensor) else value), count + 1)

    def pool(self, iteration: int, tell: Callable[[Any], list[Any]]) -> None:
        """Adds up what all processes of a training have seen since the last reading, just before the next.

        Args:
            iteration: the iteration; does nothing where `bar` will not read.
            tell: given a value to be sent, returns that of every process; see `replicas.Team.tell`.
        """
        if not self._reads(iteration):
            return
        pooled: dict[str, tuple[Tensor | float, int]] = {}
        for sums in tell({name: (float(total), count) for name, (total, count) in self._sums.items()}):
            for name, (total, count) in sums.items():
                before = pooled.get(name, (0.0, 0))
                pooled[name] = (before[0] + total, before[1] + count)
        self._sums = pooled

    def write(self, iteration: int, values: Mapping[str, Tensor | float]) -> None:
        """Writes values at once, for rare ones such as metrics/psnr_test."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), iteration)

    def bar(
        self,
        iteration: int,
        gaussians: int,
        optimizer: torch.optim.Optimizer | None = None,
        resolution: tuple[int, int] | None = None,
    ) -> None:
        """Ends an iteration: advances the bar and, every `log_every` iterations, reads and writes the values.

        Args:
            iteration: the iteration just completed, from 1.
            gaussians: their number N.
            optimizer: its groups' learning rates are written.
            resolution: width and height rendered; named if memory runs out.
        """
        self._facts.update(iteration=iteration, gaussians=gaussians)
        if resolution is not None:
            self._facts["resolution"] = resolution
        if self._reads(iteration):
            self._read(iteration, gaussians, optimizer)
        self._bar.update(iteration - self._bar.n)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block (an evaluation, a checkpoint) out of speed/it_per_s."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._clock += time.perf_counter() - begin

    def images(
        self,
        iteration: int,
        name: str,
        *,
        rendered: Tensor,
        true: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> None:
        """Writes images of one view under `name`.

        Args:
            iteration: the iteration.
            name: for instance "test/IMG_0001".
            rendered: [H,W,3], clamped to [0, 1] here.
            true: [H,W,3] in [0, 1].
            depth: [H,W]; 0 where nothing was rendered. Shown as grey of inverse depth, near bright.
        """
        if self._writer is None:
            return
        for kind, image in (("rendered", rendered), ("true", true)):
            if image is not None:
                pixels = torch.nan_to_num(image.detach().cpu()).clamp(0, 1)
                self._writer.add_image(f"{name}/{kind}", pixels, iteration, dataformats="HWC")
        if depth is not None:
            self._writer.add_image(f"{name}/depth", _grey(depth.detach().cpu()), iteration, dataformats="HW")

    def maps(
        self,
        iteration: int,
        name: str,
        *,
        depth: Mapping[str, Tensor] | None = None,
        share: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes maps [H, W] of one view under `name`.

        Args:
            iteration: the iteration.
            name: for instance "prior/IMG_0001".
            depth: shown as `images` shows it; 0 where nothing is known.
            share: in [0, 1], shown as grey.
        """
        if self._writer is not None:
            greys = {kind: _grey(value.detach().cpu()) for kind, value in (depth or {}).items()}
            greys |= {kind: value.detach().cpu().clamp(0, 1) for kind, value in (share or {}).items()}
            for kind, grey in greys.items():
                self._writer.add_image(f"{name}/{kind}", grey, iteration, dataformats="HW")

    def histograms(self, iteration: int, gaussians: Gaussians) -> None:
        """Writes the distributions of opacity and of log10 scale. Slow: for rare use."""
        if self._writer is not None and len(gaussians) > 0:
            with torch.no_grad():
                opacities = gaussians.linear_opacities().cpu()
                scales = gaussians.linear_scales().clamp_min(1e-12).log10().cpu()
            for name, values in (("gaussians/opacities", opacities), ("gaussians/log10_scales", scales)):
                finite = values[values.isfinite()]
                if finite.numel() > 0:
                    self._writer.add_histogram(name, finite, iteration)

    def comparison(self, options: Mapping[str, float | str | bool], metrics: Sequence[str]) -> None:
        """Enters the run into TensorBoard's table of hyperparameters, which compares runs.

        Args:
            options: what tells this run from others, by name.
            metrics: names of curves whose last values are this run's results.
        """
        if self._writer is not None:
            from torch.utils.tensorboard.summary import hparams

            for summary in hparams(dict(options), dict.fromkeys(metrics, 0.0)):
                self._writer.file_writer.add_summary(summary)

    def message(self, text: str) -> None:
        """Prints a line above the bar (also where there is no bar; not if quiet, nor above level `info`)."""
        if not self._quiet and words.heard("info"):
            words.say(text)

    def _reads(self, iteration: int) -> bool:
        """Whether the values are read after this iteration."""
        return iteration % self._log_every == 0 or iteration == self._iterations

    def _read(self, iteration: int, gaussians: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Reads the means, writes them and everything else that has a curve, and renews the bar's text."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        now = time.perf_counter()
        speed = (iteration - self._last_read) / max(now - self._clock, 1e-9)
        self._clock, self._last_read = now, iteration
        rates = {f"lr/{group['name']}": float(group["lr"]) for group in _groups(optimizer)}
        memory = {"memory/peak_gib": peak_memory_gib()}
        gpu = peak_gpu_memory_gib()
        if gpu is not None:
            memory["memory/gpu_peak_gib"] = gpu
        self.write(
            iteration, {**means, **rates, **memory, "gaussians/count": gaussians, "speed/it_per_s": speed}
        )
        loss, psnr = means.get("loss/total"), means.get("metrics/psnr_batch")
        if loss is not None and not math.isfinite(loss) and not self._warned:
            self._warned = True
            _log.warning("the loss is %s near iteration %d", loss, iteration)
        known = {"loss": loss, "PSNR": psnr, "it/s": speed}
        self.latest = {name: value for name, value in known.items() if value is not None}
        parts = [
            f"loss {loss:.4f}" if loss is not None else "",
            f"PSNR {psnr:.2f}" if psnr is not None else "",
        ]
        text = ", ".join([part for part in parts if part] + [f"N {gaussians:,}"])
        self._bar.set_postfix_str(text, refresh=False)
        if self._bar.disable and (now >= self._next_line or iteration == self._iterations):
            self._next_line = now + _LINE_EVERY_S
            left = tqdm.format_interval((self._iterations - iteration) / speed)
            self.message(f"iteration {iteration}/{self._iterations}, {text}, {speed:.2f} it/s, {left} left")


def _groups(optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if "name" in group] if optimizer is not None else []


def _writer(folder: Path, start: int) -> Any:
    """Opens TensorBoard's writer; importing it takes seconds, so it is not at the top."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start + 1 if start > 0 else None)


def _grey(depth: Tensor) -> Tensor:
    """Maps depth [H,W] to grey [H,W] in [0, 1] by inverse depth between its 2nd and 98th percentile."""
    seen = depth.isfinite() & (depth > 0)
    if not seen.any():
        return torch.zeros_like(depth)
    inverse = torch.where(seen, 1 / depth.where(seen, torch.ones_like(depth)), torch.zeros_like(depth))
    ordered = inverse[seen].sort().values  # torch.quantile refuses more than 16 million values
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.02, 0.98))
    grey = ((inverse - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return torch.where(seen, 0.1 + 0.9 * grey, torch.zeros_like(grey))  # black is kept for "nothing there"
