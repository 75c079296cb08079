"""What a run shows: figures and pictures in TensorBoard on the way, a summary and a table at its end."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch

from atomic import atomic_write
from configs import Config, chosen_options
from depth_priors import Knowledge
from engine import OutputFolder, Tracker, TrainingState, peak_memory_gib
from evaluation import Report, evaluate, load_perceptual, write_report
from gaussian_model import Gaussians, active_sh_degree
from reporting import write_page
from scene import Scene, View, title_of

_log = logging.getLogger(__name__)

SHOWN_VIEWS = 4  # test (or training) views whose images TensorBoard gets
MEASURED_VIEWS = 8  # training views whose mean PSNR and SSIM are logged beside the test views


def describe(config: Config, scene: Scene, gaussians: int, backend: str) -> str:
    """One line about what starts."""
    camera = scene.train[0].camera
    threads = torch.get_num_threads()
    where = backend if backend == "gsplat" else f"{backend} ({threads} thread{'s' if threads > 1 else ''})"
    return (
        f"{title_of(scene.source)}: {len(scene.train)} training and {len(scene.test)} test views, "
        f"{camera.width}x{camera.height}; {gaussians:,} Gaussians; preset {config.config}, "
        f"{config.iterations:,} iterations on {where}"
    )


def show_knowledge(tracker: Tracker, knowledge: Knowledge) -> None:
    """Shows each view's depth prior and confidence in TensorBoard, once."""
    for view, prior, confidence in zip(knowledge.views, knowledge.shown, knowledge.confidences, strict=True):
        if prior is not None:
            tracker.maps(
                0,
                f"prior/{view.stem}",
                depth={"depth": prior.depth()},
                share={"confidence": prior.confidence},
            )
        if confidence is not None:
            tracker.maps(0, f"confidence/{view.stem}", share={"image": confidence})


def say_skipped(skipped: Mapping[str, int], whose: str = "") -> None:
    """Warns of terms that could not be computed now and then."""
    for name, count in skipped.items():
        _log.warning(
            "%s%s was left out %s time%s: no prior, too few known pixels, all of one depth, or a prior "
            "without the scale that this loss needs",
            *(whose, name, f"{count:,}", "" if count == 1 else "s"),
        )


@torch.no_grad()
def show(
    config: Config, scene: Scene, gaussians: Gaussians, backend: str, tracker: Tracker, iteration: int
) -> Report:
    """Evaluates the test views and shows figures and images of some views in TensorBoard."""
    background = config.model.evaluation_background(scene.mean_colour).to(gaussians.device)

    def render(view: View):  # noqa: ANN202
        return gaussians.render(
            view.camera,
            background=background,
            sh_degree=active_sh_degree(config.optim, iteration, gaussians.max_sh_degree),
            depth=config.model.depth_mode,
            antialiased=config.model.antialiased,
            backend=backend,
        )

    last = iteration == config.iterations
    perceptual = load_perceptual(gaussians.device) if last and scene.test else None
    bars = ("", "") if config.quiet else ("test views", "train views")
    report = evaluate(scene.test, render, background=background, perceptual=perceptual, progress=bars[0])
    step = -(-len(scene.train) // MEASURED_VIEWS)  # spread over the training views, the same ones each time
    train_report = evaluate(scene.train[::step], render, background=background, progress=bars[1])
    for split, scores in (("test", report), ("train", train_report)):
        if scores.per_view:
            figures = {f"metrics/psnr_{split}": scores.mean.psnr, f"metrics/ssim_{split}": scores.mean.ssim}
            tracker.write(iteration, figures)
    if scene.test:
        mean = report.mean
        tracker.message(f"iteration {iteration}: test PSNR {mean.psnr:.2f} dB, SSIM {mean.ssim:.4f}")
    for split, views in (("test", scene.test), ("train", scene.train)):
        for view in views[:SHOWN_VIEWS]:
            output = render(view)
            tracker.images(
                iteration,
                f"{split}/{view.stem}",
                rendered=output.color[0],
                true=view.image(background.cpu()),
                depth=output.depth[0],
            )
    return report


def compare(config: Config, scene: Scene, tracker: Tracker, report: Report, seconds: float) -> None:
    """Enters the run into TensorBoard's table of hyperparameters, with its figures at the end."""
    last = {"run/minutes": seconds / 60.0}
    if scene.test and report.mean.lpips is not None:
        last["metrics/lpips_test"] = report.mean.lpips
    tracker.write(config.iterations, last)
    names = ["metrics/psnr_test", "metrics/ssim_test"] if scene.test else ["metrics/psnr_train"]
    tracker.comparison(
        chosen_options(config, len(scene.train)), [*names, "gaussians/count", "memory/peak_gib", *last]
    )


def finish(
    config: Config,
    scene: Scene,
    output: OutputFolder,
    state: TrainingState,
    report: Report,
    backend: str,
    work: tuple[int, float, float],
    skipped: Mapping[str, int],
) -> None:
    """Writes the run's figures and says where everything is.

    `work`: iterations and seconds of this process, and how many of these went into teachers; `skipped`: how
    often it left terms of the loss out.
    """
    iterations, seconds, teaching = work
    folder = shlex.quote(str(output.path))
    summary = {
        "preset": config.config,
        "iterations": config.iterations,
        "iterations_of_this_process": iterations,
        "seconds_of_this_process": round(seconds, 1),
        "seconds_of_teachers": round(teaching, 1) if config.pseudo.taught > 0 else 0.0,
        "skipped_terms_of_this_process": dict(skipped),
        "gaussians": len(state.gaussians),
        "peak_memory_gib": round(peak_memory_gib(), 3),
        "backend": backend,
        "threads": torch.get_num_threads(),
        "train_views": len(scene.train),
        "test_views": len(scene.test),
    }
    with atomic_write(output.path / "summary.json") as file:
        file.write((json.dumps(summary, indent=2) + "\n").encode())
    if scene.test:
        write_report(output.path, report, state.iteration)
        print(report.table("test"))
    of_teachers = f" after {teaching:.0f} s for teachers" if summary["seconds_of_teachers"] else ""
    print(
        f"{len(state.gaussians):,} Gaussians, {iterations:,} iterations in {seconds - teaching:.0f} s "
        f"({iterations / (seconds - teaching):.2f} it/s with evaluation){of_teachers}, "
        f"peak memory {peak_memory_gib():.2f} GiB\n"
        f"Gaussians: {output.point_cloud(state.iteration)}\n"
        f"pictures:  python {shlex.quote(str(Path(__file__).parent / 'render.py'))} -m {folder}\n"
        f"curves:    tensorboard --logdir {folder}"
    )
    try:
        print(f"report:    {write_page(output.path)}")
    except OSError:
        raise
    except Exception:  # whatever it is: the run is done and saved
        _log.warning("report.html could not be written:", exc_info=True)
