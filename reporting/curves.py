"""Which curves a run's page shows, and what one may read from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reporting.chart import Chart, Drawing, Line, Mark, draw
from reporting.events import Histogram
from reporting.run import Run, number, text

_BINS = 48  # of a distribution: TensorBoard's own grow by 10 % each, too coarse for finer ones
_SHOWN = (
    0.001,
    0.999,
)  # part of a distribution that decides on its axis: a few giants would squeeze the rest
_SMALL = 0.03  # share of the loss below which a term gets a chart of its own
_GROUPS = ("means", "sh0", "shN", "opacities", "scales", "quats")
_TERMS = {
    "l1": "L1 (colour)",
    "dssim": "1 - SSIM (structure)",
    "binocular": "view from beside",
    "opacity_reg": "opacities",
    "scale_reg": "scales",
}


def curves(run: Run) -> list[Drawing]:
    """Draws everything that was logged over the iterations; empty where nothing was."""
    marks = _marks(run)
    charts = [*_loss(run, marks), *_quality(run, marks), _gaussians(run, marks), *_cost(run, marks)]
    return [drawing for drawing in map(draw, charts) if drawing is not None]


def learning_rates(run: Run) -> Drawing | None:
    """Draws the learning rates of all groups of parameters."""
    tags = sorted(tag for tag in run.events.scalars if tag.startswith("lr/"))
    names = [tag.removeprefix("lr/") for tag in tags]
    order = sorted(names, key=lambda name: (_GROUPS.index(name) if name in _GROUPS else len(_GROUPS), name))
    lines = [_line(run, f"lr/{name}", name, tone=i) for i, name in enumerate(order)]
    return draw(Chart("Learning rates", lines, words="Of each group of parameters.", scale="log"))


def distributions(run: Run) -> list[Drawing]:
    """Draws how opacities and sizes were distributed at the first and the last count."""
    opacity = _distribution_chart(
        run,
        "gaussians/opacities",
        title="Opacity",
        words="Many near 0 make haze; surfaces want values near 1.",
        x_name="opacity",
        span=(0.0, 1.0),
    )
    size = _distribution_chart(
        run,
        "gaussians/log10_scales",
        title="Size",
        words="Each Gaussian's three standard deviations, as powers of ten of a world unit: -2 is 0.01. On "
        "the right are large blobs, on the left dust and thin sheets.",
        x_name="log10 of the size",
        span=None,
    )
    return [drawing for drawing in map(draw, (opacity, size)) if drawing is not None]


def over_fit(run: Run) -> str:
    """Returns what the gap between training and test views says, in a sentence; empty if it is not known."""
    test, train = (run.events.last(f"metrics/psnr_{split}") for split in ("test", "train"))
    if test is None or train is None:
        return ""
    gap = train - test
    step = int(run.events.curve("metrics/psnr_test")[0][-1])
    when = "At the end" if step == run.reached else f"At iteration {step:,}"
    ends = f"{when} training views reach {train:.1f} dB and test views {test:.1f} dB"
    if gap < 0.5:
        return f"{ends}: no gap to speak of, what was learnt holds from new places too."
    if gap < 3:
        meaning = "a small one: most of what was learnt holds from new places too"
    elif gap < 8:
        meaning = "usual with few photographs: the model knows these better than the scene"
    else:
        meaning = "a large one: the model fits its photographs and little else"
    return f"{ends}, a gap of {gap:.1f} dB: {meaning}."


def _loss(run: Run, marks: Sequence[Mark]) -> list[Chart]:
    """The loss and its terms; those that are too small to be seen beside it in a second chart."""
    tags = [tag for tag in run.events.scalars if tag.startswith("loss/") and tag != "loss/total"]
    total = _line(run, "loss/total", "total", tone=0, noisy=True)
    terms = []
    for i, tag in enumerate(tags):
        name = tag.removeprefix("loss/")
        terms.append(_line(run, tag, _TERMS.get(name, name.replace("_", " ")), tone=1 + i % 7, noisy=True))
    large = _typical(total)
    small = [line for line in terms if large > 0 and 0 < _typical(line) < _SMALL * large]
    words = "What training makes small, and its weighted terms. Pale: as logged; strong: smoothed."
    few = "Terms of the loss that are too small to be seen beside the others; they may still shape the scene."
    first = [total, *(line for line in terms if line not in small)]
    return [
        Chart("Loss", first, words=words, scale="auto", from_zero=True, span=_span(run), marks=marks),
        Chart(
            "Small terms of the loss",
            small,
            words=few,
            scale="auto",
            from_zero=True,
            span=_span(run),
            marks=marks,
            labelled=False,
        ),
    ]


def _typical(line: Line) -> float:
    """The median of a line's size, 0 for one without values."""
    sizes = np.abs(line.y[np.isfinite(line.y)])
    return float(np.median(sizes)) if len(sizes) else 0.0


def _quality(run: Run, marks: Sequence[Mark]) -> list[Chart]:
    psnr = [
        _line(run, "metrics/psnr_test", "test views", tone=1, dots=True),
        _line(run, "metrics/psnr_train", "training views", tone=2, dots=True, dashed=True),
    ]
    batch = _line(run, "metrics/psnr_batch", "views just trained on", tone=5, noisy=True)
    ssim = [
        _line(run, "metrics/ssim_test", "test views", tone=1, dots=True),
        _line(run, "metrics/ssim_train", "training views", tone=2, dots=True, dashed=True),
    ]
    return [
        Chart(
            "PSNR",
            [*psnr, batch],
            unit="dB",
            decimals=2,
            words="Where test views fall while training views rise, photographs are learnt by heart. Views "
            "just trained on are as training sees them: smaller at first, and with dropout if it is on.",
            span=_span(run),
            marks=marks,
            labelled=False,
        ),
        Chart(
            "SSIM",
            ssim,
            decimals=3,
            words="Likeness of structure, 1 = equal; sees lost texture that PSNR forgives.",
            span=_span(run),
            marks=marks,
            labelled=False,
        ),
    ]


def _gaussians(run: Run, marks: Sequence[Mark]) -> Chart:
    start, stop = (number(run.options, f"densify.{key}") for key in ("start", "stop"))
    bands = []
    if start is not None and stop is not None and text(run.options, "densify.strategy") != "none":
        bands = [Mark("added and removed", start, stop)]
    line = _line(run, "gaussians/count", "Gaussians", tone=1)
    return Chart(
        "Number of Gaussians",
        [line],
        words="In the shaded part new ones come where detail is missing, and transparent ones go."
        if bands
        else "New ones come where detail is missing, and transparent ones go.",
        from_zero=True,
        span=_span(run),
        marks=[*marks, *bands],
    )


def _cost(run: Run, marks: Sequence[Mark]) -> list[Chart]:
    speed = _line(run, "speed/it_per_s", "iterations/s", tone=3, noisy=True)
    memory = [
        _line(run, "memory/peak_gib", "main memory", tone=4),
        _line(run, "memory/gpu_peak_gib", "GPU memory", tone=2, dashed=True),
    ]
    return [
        Chart(
            "Speed",
            [speed],
            unit="it/s",
            words="Without evaluations and checkpoints. It falls with larger images and more Gaussians.",
            from_zero=True,
            span=_span(run),
            marks=marks,
            labelled=False,
        ),
        Chart(
            "Memory",
            memory,
            unit="GiB",
            words="The largest amount so far.",
            from_zero=True,
            span=_span(run),
            marks=marks,
            labelled=False,
        ),
    ]


def _line(
    run: Run,
    tag: str,
    name: str,
    *,
    tone: int,
    noisy: bool = False,
    dots: bool = False,
    dashed: bool = False,
) -> Line:
    x, y = run.events.curve(tag)
    return Line(name, x, y, tone, noisy, dots and len(x) <= 60, dashed)


def _span(run: Run) -> tuple[float, float]:
    return 0.0, float(max(run.reached, 1))


def _marks(run: Run) -> list[Mark]:
    """What explains a bend: images that reach their full size, resets, and processes that resumed."""
    marks = []
    factor, until = (number(run.options, f"pyramid.{key}") for key in ("factor", "until"))
    if factor is not None and until is not None and factor > 1 and 0 < until < run.reached:
        marks.append(Mark("full-size images", until))
    every, stop = (number(run.options, f"densify.{key}") for key in ("reset_every", "stop"))
    if every and every >= 1 and stop and text(run.options, "densify.strategy") == "default":
        resets = range(int(every), int(min(stop, run.reached)), int(every))
        marks += [Mark("opacities reset" if i == 0 else "", at) for i, at in enumerate(resets) if i < 20]
    marks += [Mark("resumed", max(0, step - 1)) for step in run.events.resumed]
    return marks


def _distribution_chart(
    run: Run, tag: str, *, title: str, words: str, x_name: str, span: tuple[float, float] | None
) -> Chart:
    """The first and the last histogram of a tag over the same even bins."""
    counted = sorted(run.events.histograms.get(tag, {}).items())
    chosen = [counted[-1], counted[0]][: len(counted)] if counted else []
    sums = [_sums(histogram) for _, histogram in chosen]
    if sums and span is None:
        ends = [np.interp(_SHOWN, share, edges) for edges, share in sums]
        span = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    lines = []
    if span is not None and span[0] < span[1]:
        bins = np.linspace(*span, _BINS + 1)
        for i, (step, _) in enumerate(chosen):
            below = np.interp(bins, *sums[i], left=0.0)
            below[0], below[-1] = 0.0, 1.0  # the few beyond are counted into the outermost bins
            heights = np.append(100.0 * np.diff(below), 0.0)
            lines.append(Line(f"iteration {step:,}", bins, heights, 1 + i, dashed=i > 0, area=True))
    return Chart(title, lines, unit="% of all", x_name=x_name, words=words, from_zero=True, span=span)


def _sums(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Edges and the share of values below each; values are taken as even within a bucket.

    Of edges that coincide (those cut to the range of the values) the last one counts.
    """
    edges, from_end = np.unique(histogram.edges[::-1], return_index=True)
    sums = np.concatenate([[0.0], np.cumsum(histogram.counts)])[::-1][from_end]
    return edges, sums / sums[-1]
