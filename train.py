"""Trains 3D Gaussians on the photographs of a scene. This page is the map of the whole program.

    python train.py -s scenes/garden -m output/garden --eval --config quick

A scene is loaded, Gaussians start from its points, and every iteration renders random training views
(one, or --batch_size), compares them with their photographs, moves the Gaussians, and now and then adds
and removes some. Several processes can share the views of an iteration, and the Gaussians too (torchrun
train.py ...).
Each step below is one call into a room (folder) of the same name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from begin import begin

begin()

import torch
from torch import Tensor

from configs import Config, Parsed, parse_command_line, save_config, scale_schedules, to_plain
from depth_priors import Knowledge, PseudoWish, learn
from engine import (
    OutputFolder,
    StopRequest,
    Tracker,
    TrainingState,
    checkpoint_path,
    claim_output,
    device_for,
    end_at_once,
    generators_kept,
    hear,
    is_due,
    latest_checkpoint,
    load_checkpoint,
    restore,
    run_command,
    save_checkpoint,
    seed_everything,
)
from errors import UserError
from evaluation import to_8bit
from gaussian_model import (
    GaussianAdam,
    Gaussians,
    build_densifier,
    load_ply,
    save_ply,
)
from learning import Lessons, learn_once
from memory_limit import heed
from native import cache_folder, set_threads
from photos import scene_of
from progress import Bar
from rasterizer import resolve_backend
from replicas import (
    ALONE,
    Place,
    Team,
    form_team,
    mute_parsing,
    place_of,
    usable_cores,
)
from scene import Camera, Points, Scene, View, ViewSampler, load_scene, write_cameras_json
from scene.geometry import is_forward_facing
from sharding import check_place, check_views, own_part, whole_state
from showing import compare, describe, finish, say_skipped, show, show_knowledge
from viewer.painter import Style
from viewer.training import NoViewer, open_viewer

_log = logging.getLogger(__name__)
HISTOGRAMS = 10  # how often in a run the distributions are logged


def main() -> None:
    """Checks the input, then trains; nothing is written before the input has proved good."""
    place = place_of()
    with mute_parsing(place):
        parsed = parse_command_line()
        hear(parsed.config.log_level if place.leads else "error")
        backend = resolve_backend(parsed.config.backend)
        check_place(parsed.config, backend, place)
    threads = parsed.config.threads or usual_threads(place)
    set_threads(threads)
    if place.size > 1:
        end_at_once()
    with form_team(place, device_for(backend)) as team:
        team.wait()  # until all of them have loaded their libraries
        if backend != "gsplat":  # what drivers of GPUs set aside is nobody's memory
            heed(processes=place.local_size, threads=threads)
        team.wait()  # before one of them takes what another counts as left
        run(parsed, backend, team)


def run(parsed: Parsed, backend: str, team: Team) -> None:
    """All of it, in one process of a team."""
    quiet = parsed.config.quiet or not team.leads
    with team.agreed():
        if team.leads:
            OutputFolder(parsed.config.model_path).check(
                resume=parsed.config.resume, overwrite=parsed.config.overwrite
            )
    parsed = team.led(lambda: with_poses(parsed, quiet))
    with team.agreed():
        scene = load_scene(parsed.config.source_path, parsed.config.scene, quiet=quiet)
        around = not is_forward_facing([view.camera for view in scene.train])
        config = parsed.resolve(len(scene.train), backend, around=around)
        config = with_batch(replace(config, quiet=quiet), parsed, team)
        check_views(config, scene, team.place)
        folder = OutputFolder(config.model_path)
        last = latest_checkpoint(folder.checkpoints) if config.resume else None
        teachers = range(config.pseudo.teachers_of(config.iterations))
        there = frozenset(k for k in teachers if last is not None and folder.has_teacher(k))
        starts = last is None or len(there) < len(teachers)
        if starts:
            config.depth.check_points(again=last is not None)
    team.check_same_words(scene.fingerprint(), "the scene")
    team.check_same_words(f"{last and last.name} {sorted(there)}", "what -m holds of the run to resume")
    knowledge = team.led(
        lambda: learn(
            scene,
            config.depth,
            depth_loss=config.loss.wants_depth,
            starts=starts,
            cache_folder=cache_folder(),
            pseudo=pseudo_wish(config),
            quiet=quiet,
        )
    )
    with ExitStack() as stack:
        with team.agreed():
            claim = claim_output(config.model_path, resume=config.resume, overwrite=config.overwrite)
            output = stack.enter_context(claim) if team.leads else folder
        train(config, scene, knowledge, last, there, output, backend, team)


def usual_threads(place: Place) -> int:
    """CPU threads where none are asked for: all cores, or this process's share of them."""
    if place.size == 1:
        return torch.get_num_threads()
    return place.threads(usable_cores())


def with_batch(config: Config, parsed: Parsed, team: Team) -> Config:
    """The configuration with a view per process and step at least; as many, if nothing else is asked for.

    Raises:
        UserError: fewer are asked for.
    """
    if team.size <= config.batch_size:
        return config
    if "batch_size" in parsed.given or config.resume:
        raise UserError(
            f"--batch_size {config.batch_size}: expected at least a view per process, and there are "
            f"{team.size} processes: give a larger one (the views of a step are shared out), or start fewer"
        )
    return replace(config, batch_size=team.size)


def with_poses(parsed: Parsed, quiet: bool) -> Parsed:
    """The command line with the scene of its photographs in their place, where it names such, or a video."""
    made = scene_of(parsed.config.source_path, threads=torch.get_num_threads(), quiet=quiet)
    if made is None:
        return parsed
    for warning in made.warnings:
        _log.warning("%s", warning)
    for line in () if quiet else made.lines:
        _log.info("%s", line)
    return replace(parsed, config=replace(parsed.config, source_path=made.path))


def train(
    config: Config,
    scene: Scene,
    knowledge: Knowledge,
    last: Path | None,
    there: Set[int],
    output: OutputFolder,
    backend: str,
    team: Team = ALONE,
) -> None:
    """Runs the optimisation from its start, or from the checkpoint `last`, to its end.

    `there`: the numbers of the teachers that a run to resume has trained already.
    """
    device = device_for(backend)
    state = start(config, scene, knowledge.points, torch.device("cpu") if config.sharded else device)
    at_hand = knowledge.to(device)
    with team.agreed():
        if last is not None:
            resume(state, last, config, output)
    if team.leads:
        if last is None:
            save_ply(output.input_ply, state.gaussians)
            write_cameras_json(output.cameras, [*scene.train, *scene.test])
        save_config(output.config, config)
    team.check_same(tensors_of(state), "at the start")
    if config.sharded:
        state = own_part(config, scene, state, device, team)
    first, clock = state.iteration, time.perf_counter()

    with (
        StopRequest() as stop,
        Tracker(
            output.path,
            config.iterations,
            start=first,
            log_every=config.log_every,
            quiet=config.quiet,
            events=team.leads,
        ) as tracker,
        open_viewer(
            config.viewer and team.leads,
            scene,
            host=config.viewer_host,
            port=config.viewer_port,
            style=Style(config.model.antialiased, backend),
            background=config.model.evaluation_background(scene.mean_colour),
            iterations=config.iterations,
            stop=stop,
        ) as viewer,
    ):
        tracker.message(describe(config, scene, state.total, backend))
        if team.size > 1:
            tracker.message(shares(config, team))
        for line in knowledge.lines:
            tracker.message(line)
        if first == 0:
            show_knowledge(tracker, knowledge)
        save = partial(
            save_checkpoint,
            config_dict=to_plain(config),
            keep=config.keep_checkpoints,
            protected=config.checkpoint_iterations,
        )
        taught: list[View] = []
        began = time.perf_counter()
        if config.pseudo.teachers_of(config.iterations) and first < config.iterations:
            if last is None and team.leads:  # so that a run that is stopped here can be resumed
                save(checkpoint_path(output.checkpoints, 0), state)
            with tracker.paused(), generators_kept(state.generator):
                taught = teach(config, scene, at_hand, there, output, backend, stop, tracker, viewer, team)
        teaching = time.perf_counter() - began - viewer.paused_seconds
        lessons = Lessons.of(config, at_hand, taught, device)
        ended = first >= config.iterations
        whole = whole_state(config, scene, state, team) if config.sharded and ended else state
        for iteration in range(first + 1, config.iterations + 1):
            view = learn_once(config, scene, state, lessons, iteration, backend, tracker, team)
            tracker.pool(iteration, team.tell)
            tracker.bar(iteration, state.total, state.optimizer, (view.camera.width, view.camera.height))
            if is_due(iteration - 1, every=config.densify.every):  # one step after a refinement
                team.check_same(tensors_of(state), f"iteration {iteration}")
            stopping = team.any(stop.requested)  # what comes later is for the next iteration: all agree
            if stopping:
                stop.request()
            if config.sharded and (stopping or is_read(config, iteration)):
                whole = whole_state(config, scene, state, team)
            if not team.leads:
                if stopping and iteration < config.iterations:
                    stop.leave()
                continue
            with tracker.paused():
                viewer.step(iteration, state.gaussians, tracker.latest)
                if is_due(iteration, at=config.test_iterations, last=config.iterations):
                    report = show(config, scene, whole.gaussians.to(device), backend, tracker, iteration)
                if is_due(iteration, every=max(1, config.iterations // HISTOGRAMS)):
                    tracker.histograms(iteration, whole.gaussians)
                if is_due(iteration, at=config.save_iterations, last=config.iterations):
                    save_ply(output.point_cloud(iteration), whole.gaussians)
                checkpoint_due = is_due(
                    iteration, config.checkpoint_iterations, config.checkpoint_every, last=config.iterations
                )
                stopping = stopping or (team.size == 1 and stop.requested)
                if checkpoint_due or stopping:
                    save(checkpoint_path(output.checkpoints, iteration), whole)
            if stopping and iteration < config.iterations:
                say_skipped(lessons.objective.skipped)
                stop.leave()

        skipped = added_up(team.tell(dict(lessons.objective.skipped)))
        if not team.leads:
            return
        say_skipped(skipped)
        if ended:  # it ended here, or was killed just before the figures were written
            tracker.message(f"the run is at iteration {first} already; raise --iterations to train on")
            report = show(config, scene, whole.gaussians.to(device), backend, tracker, first)
            save_ply(output.point_cloud(first), whole.gaussians)
        compare(config, scene, tracker, report, time.perf_counter() - clock)
    finish(
        config,
        scene,
        output,
        whole,
        report,
        backend,
        (config.iterations - first, time.perf_counter() - clock - viewer.paused_seconds, teaching),
        skipped,
    )


def shares(config: Config, team: Team) -> str:
    """What several processes mean, in a line."""
    shown = config.iterations * config.batch_size
    shared = f"{'the Gaussians and ' if config.sharded else ''}{config.batch_size} views a step"
    return (
        f"{team.size} processes share {shared}: {config.iterations:,} iterations "
        f"show {shown:,} photographs; for as many as one process with a view a step would show, --iterations "
        f"{max(1, config.iterations // config.batch_size)}"
    )


def added_up(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several tables of counts."""
    names = dict.fromkeys(name for table in counts for name in table)
    return {name: sum(table.get(name, 0) for table in counts) for name in names}


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    """What has to be the same in all processes after every step."""
    random = {"the random numbers": state.generator.get_state()}
    if state.counts:  # each process has Gaussians of its own
        return random
    found = {key: value.detach() for key, value in state.gaussians.params.items()}
    for group in state.optimizer.param_groups:
        for key, value in state.optimizer.state.get(group["params"][0], {}).items():
            found[f"{group['name']}'s {key}"] = value
    return {**found, **random}


def is_read(config: Config, iteration: int) -> bool:
    """Whether figures or files are made of the whole model after an iteration."""
    at = {*config.test_iterations, *config.save_iterations, *config.checkpoint_iterations}
    rests = (config.checkpoint_every, max(1, config.iterations // HISTOGRAMS))
    return any(is_due(iteration, at, every, config.iterations) for every in rests)


def teach(
    config: Config,
    scene: Scene,
    knowledge: Knowledge,
    there: Set[int],
    output: OutputFolder,
    backend: str,
    stop: StopRequest,
    tracker: Tracker,
    viewer: NoViewer,
    team: Team,
) -> list[View]:
    """Trains models with other seeds, but those that are `there` in the output folder; their pseudo views."""
    length = config.pseudo.teacher_iterations or config.iterations
    alone = replace(config, iterations=length, pseudo=replace(config.pseudo, taught=0.0))
    alone = scale_schedules(alone, length / config.iterations)
    device = device_for(backend)
    drawn = torch.Generator().manual_seed(config.seed)
    seeds = torch.randint(2**31, (config.pseudo.teachers,), generator=drawn).tolist()
    paths = [output.teacher(k) for k in range(len(seeds))]
    for k, (seed, path) in enumerate(zip(seeds, paths, strict=True)):
        which, began = f"teacher {k + 1} of {len(seeds)}", time.perf_counter()
        if k in there:
            tracker.message(f"{which}: {path} is there already")
            continue
        if path.is_file():
            _log.warning("%s: %s has been damaged or changed: trained anew", which, path)
        state = start(replace(alone, seed=seed), scene, knowledge.points, device)
        lessons = Lessons.of(alone, knowledge, [], device)
        for iteration in Bar(range(1, length + 1), desc=which, quiet=config.quiet):
            learn_once(alone, scene, state, lessons, iteration, backend, team=team)
            viewer.step(iteration, state.gaussians, of=length, phase=which)
            if team.any(stop.requested):
                stop.request()
                stop.leave()
        say_skipped(added_up(team.tell(dict(lessons.objective.skipped))), f"{which}: ")
        if team.leads:
            save_ply(path, state.gaussians)
            output.seal_teacher(k)
        seconds = time.perf_counter() - began
        tracker.message(
            f"{which}: {len(state.gaussians):,} Gaussians, {length:,} iterations in {seconds:.0f} s"
        )
    team.wait()  # until the last of them is written
    background = config.model.evaluation_background(scene.mean_colour).to(device)
    models = [load_ply(path).to(device) for path in paths]
    return [
        mean_picture(models, camera, background, config, backend, f"taught_{i:04}")
        for i, camera in enumerate(knowledge.pseudo.cameras)
    ]


@torch.no_grad()
def mean_picture(
    models: Sequence[Gaussians], camera: Camera, background: Tensor, config: Config, backend: str, name: str
) -> View:
    """What several models see from one camera, averaged."""
    pictures = [
        model.render(
            camera.to(model.device),
            background=background,
            depth=None,
            antialiased=config.model.antialiased,
            backend=backend,
        ).color[0]
        for model in models
    ]
    mean = torch.stack([picture.clamp(0.0, 1.0) for picture in pictures]).mean(0)
    return View(name, camera, to_8bit(mean).cpu())


def start(config: Config, scene: Scene, points: Points, device: torch.device) -> TrainingState:
    """The state before the first iteration, with Gaussians at `points`."""
    generator = seed_everything(config.seed)
    gaussians = Gaussians.from_scene(replace(scene, points=points), config.model, generator).to(device)
    return TrainingState(
        gaussians=gaussians,
        optimizer=GaussianAdam(gaussians, config.optim, scene.extent),
        densifier=build_densifier(
            config.densify,
            scene.extent,
            generator,
            cameras=[view.camera for view in scene.train],
            points=scene.points.xyz,
        ),
        sampler=ViewSampler(len(scene.train), generator),
        generator=generator,
        scene=scene.fingerprint(),
        photographs=scene.checksums,
    )


def resume(state: TrainingState, last: Path, config: Config, output: OutputFolder) -> None:
    """Puts a fresh state where it was at the checkpoint `last`."""
    restore(state, load_checkpoint(last))
    if state.iteration > config.iterations:
        raise UserError(
            f"--iterations: the run in {output.path} is at iteration {state.iteration} already, "
            f"got {config.iterations}: expected a higher number"
        )


def pseudo_wish(config: Config) -> PseudoWish | None:
    """What has to be known of pseudo views; None where none are used."""
    asked = config.pseudo
    if not asked.wanted:
        return None
    return PseudoWish(
        asked.cameras,
        asked.count,
        asked.reach,
        config.seed,
        warped=asked.warped > 0,
        depth=asked.depth_from if asked.depth > 0 else "",
        gradient=asked.depth_gradient,
    )


if __name__ == "__main__":
    run_command(main)
