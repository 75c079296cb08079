"""The parsers of what runs leave behind: checkpoints, configurations, figures, TensorBoard's events."""

from __future__ import annotations

import dataclasses
import io
import json
import pickletools
import random
import re
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import torch

from configs import Config, load_preset, load_saved_config
from configs.chosen import chosen_options
from configs.saved import save_config
from engine import (
    OutputFolder,
    TrainingState,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    load_finished,
    restore,
    save_checkpoint,
)
from evaluation import Report, write_report
from evaluation.report import Scores
from exporting.source import load_source
from gaussian_model import DensifyConfig, GaussianAdam, OptimConfig, build_densifier
from reporting import write_page
from reporting.events import read_events
from scene import ViewSampler
from stress.fuzz_containers import CALLS, in_archive, in_pickle, in_records, packed
from stress.fuzz_maps import some_gaussians
from stress.fuzz_mutations import CANARY, Mutator, damaged, regrown, reworded
from stress.fuzz_parser import Parser, Seed, expect

_VIEWS = 3
_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TRAPS = (
    *(f"!!python/object/apply:os.system ['touch {CANARY}']", "!!python/name:os.system", "!!python/module:os"),
    f"!!python/object/new:os.system [touch {CANARY}]",
    f"!!python/object/apply:builtins.eval [\"open('{CANARY}','w')\"]",
    *(
        "&a [*a]",
        "&a {<<: *a}",
        "&a {b: *a}",
        "<<: {iterations: 3}",
        "*nowhere",
        "!!binary AAAA",
        "!!set {a, b}",
    ),
    *(
        "!!timestamp 2001-99-99",
        "2001-99-99",
        "2001-12-14t21:59:43.10-99:99",
        "!!omap [a: 1]",
        "? [a, b]\n: 1",
    ),
    *(
        "1:99:99",
        "0b102",
        "0o9",
        "1_0",
        "=",
        "~",
        ".nan",
        ".inf",
        "-.inf",
        "!!float x",
        "!!int x",
        "!!bool x",
    ),
    *(
        "--- \n",
        "...\n",
        "%YAML 9.9\n",
        "'",
        '"\\x0"',
        "|\n",
        "- - - ",
        "key: : :",
        "\t",
        "{a: b, ",
        "[1, 2",
        "@",
        "`",
    ),
    *(
        "few_views: {iterations: 3}",
        "begins_with: quick",
        "begins_with: preset.yaml",
        "around: []",
        "format: 2",
    ),
    *("[" * 3000, "{a: " * 3000, "!!int " + "9" * 5000, "9" * 5000, "1e400", "-1e400", _LAUGHS),
)


def _state() -> TrainingState:
    generator = torch.Generator().manual_seed(3)
    gaussians = some_gaussians(5, 3)
    state = TrainingState(
        gaussians=gaussians,
        optimizer=GaussianAdam(gaussians, OptimConfig(), 2.0),
        densifier=build_densifier(DensifyConfig(), 2.0, generator),
        sampler=ViewSampler(_VIEWS, generator),
        generator=generator,
    )
    for value in gaussians.params.values():
        value.grad = torch.full_like(value, 0.1)
    state.optimizer.step()
    state.sampler.next()
    state.iteration = 7
    return state


def _checkpoint_seeds(work: Path) -> list[Seed]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    path = checkpoint_path(work / "checkpoints", 7)
    save_checkpoint(path, _state(), {"iterations": 10, "name": "run"})
    whole = path.read_bytes()
    name = "run/checkpoints/iteration_7.pt"
    return [
        Seed(
            {name: whole},
            {name: in_archive(lambda member: in_pickle if member.endswith("data.pkl") else damaged)},
        ),
        Seed({name: whole}, {name: _rebuilt(path)}),
        Seed({name: whole}, {name: _with_calls()}),
    ]


def _rebuilt(path: Path) -> Mutator:
    """Changes the tree in a checkpoint and saves it anew, as a program with other ideas would."""

    def mutate(rng: Random, data: bytes) -> bytes:
        tree = torch.load(io.BytesIO(data), weights_only=True)
        for _ in range(rng.choice((1, 1, 2))):
            places = list(_leaves(tree))
            holder, key = rng.choice(places)
            value = holder[key]
            if isinstance(value, torch.Tensor) and rng.random() < 0.7:
                holder[key] = _other_tensor(rng, value)
            else:
                other, at = rng.choice(places)
                odd: tuple[Any, ...] = (
                    None,
                    -1,
                    2**70,
                    float("nan"),
                    "x",
                    "../x",
                    [],
                    {},
                    b"bytes",
                    (1,),
                    torch.zeros(()),
                    other[at],
                )
                holder[key] = rng.choice(odd)
            if rng.random() < 0.15 and isinstance(holder, dict):
                del holder[key]
        content = io.BytesIO()
        torch.save(tree, content)
        return content.getvalue()

    return mutate


def _leaves(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _leaves(value)


def _other_tensor(rng: Random, value: torch.Tensor) -> torch.Tensor:
    return rng.choice(
        (
            lambda: value[:0] if value.dim() else value,
            lambda: value.reshape(-1)[:1],
            lambda: value.to(torch.int32) if not value.is_complex() else value,
            lambda: value.to(rng.choice((torch.float64, torch.bool, torch.int64))),
            lambda: value[None],
            lambda: torch.cat([value, value]) if value.dim() else value,
            lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value * 0 - 1,
            lambda: torch.full_like(value, 200) if value.dtype == torch.uint8 else value * 1000,
            lambda: torch.zeros(1).expand(10**6) if value.dim() else value,
            lambda: torch.empty(value.shape, device="meta"),
            lambda: value.to_sparse() if value.dim() and value.is_floating_point() else value,
            lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
            lambda: torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).T,
        )
    )()


def _with_calls() -> Mutator:
    """Pickles with calls: bare, in torch's old format, in an archive, among the values of a real one."""

    def mutate(rng: Random, data: bytes) -> bytes:
        call = rng.choice(CALLS)
        kind = rng.randrange(5)
        if kind == 0:
            return call
        if kind == 1:  # magic number, protocol, system information: torch's format before archives
            head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
            return head + call + b"\x80\x02]."
        if kind == 2:
            return packed(
                [("archive/data.pkl", call), ("archive/version", b"3\n"), ("archive/byteorder", b"little")]
            )
        if kind == 3:
            return packed(
                [
                    ("archive/code/x.py", b"import os"),
                    ("archive/constants.pkl", call),
                    ("archive/data.pkl", call),
                ]
            )
        return in_archive(lambda member: _at_opcode(call) if member.endswith("data.pkl") else damaged)(
            rng, data
        )

    return mutate


def _at_opcode(call: bytes) -> Mutator:
    """Puts a call between two operations of a pickle, where it is read as one and its answer dropped."""

    def mutate(rng: Random, data: bytes) -> bytes:
        places = [position for _, _, position in pickletools.genops(data) if position]
        at = rng.choice(places)
        return data[:at] + call[2:-1] + b"0" + data[at:]

    return mutate


def _read_checkpoint(folder: Path) -> bool:
    run = OutputFolder(folder / "run")
    latest = latest_checkpoint(run.checkpoints)
    state = _state()
    path = checkpoint_path(run.checkpoints, 7)
    try:
        restore(state, load_checkpoint(path))
    finally:
        # whatever came of it: generators and state can be used, as a run that goes on would
        random.random(), np.random.rand(3), torch.rand(2), torch.rand(2, generator=state.generator)
        if state.iteration != 7 or latest is not None:
            state.sampler.next()
    expect(latest == path, "a checkpoint that loads but is not the latest")
    number, gaussians = load_finished(run)
    expect(number == 7 and len(gaussians) == len(state.gaussians), "other Gaussians than the state's")
    for key, value in state.gaussians.params.items():
        expect(len(value) == len(state.gaussians) and value.dtype == torch.float32, key)
        value.grad = torch.zeros_like(value)
    state.optimizer.step()
    return True


def _config_text() -> bytes:
    """Options of every kind of value, as one writes a preset."""
    return (
        b"# a preset\nbegins_with: quick\niterations: 300\nseed: 3\nbackend: cpu\n"
        b"test_iterations: [100, 200]\n"
        b"scene:\n  resolution: 2\n  eval: true\n  images: images\n"
        b"model:\n  sh_degree: 2\n  background: white\n"
        b"  init_opacity: 0.2\ndensify:\n  strategy: default\n  every: 50\n  grad_threshold: 2e-4\n"
        b"depth:\n  depth_dir: 'maps'\n  depth_prior: auto\nfew_views:\n  model: {sh_degree: 1}\n"
    )


def _config_seeds(work: Path) -> list[Seed]:
    how = reworded(YAML_TRAPS)
    saved = work / "config.yaml"
    save_config(saved, dataclasses.replace(load_preset("quick"), config="quick", iterations=100))
    return [
        Seed({"preset.yaml": _config_text()}, {"preset.yaml": how}),
        Seed({"config.yaml": saved.read_bytes()}, {"config.yaml": how}),
    ]


def _read_config(folder: Path) -> None:
    (path,) = folder.glob("*.yaml")
    if path.name == "preset.yaml":
        for few in (False, True):
            config = load_preset(str(path), few_views=few)
            _check_config(config, folder)
    else:
        _check_config(load_saved_config(folder), folder)


def _check_config(config: Config, folder: Path) -> None:
    expect(isinstance(config, Config), "another object than a configuration")
    again = folder / "again" / "config.yaml"
    again.parent.mkdir(exist_ok=True)
    save_config(again, config)
    expect(load_saved_config(again) == config, "a configuration that is read back differently")
    chosen_options(dataclasses.replace(config, config="quick"), 3)
    again.unlink()


@cache
def _event_bytes() -> bytes:
    """Curves, pictures and distributions of a few steps, as a tracker writes them, with fixed times."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
    from tensorboard.summary.writer.record_writer import masked_crc32c

    picture = cv2.imencode(".png", np.full((8, 10, 3), 90, np.uint8))[1].tobytes()
    histogram = HistogramProto(
        min=0.0, max=1.0, num=3, sum=1.5, bucket_limit=[0.3, 0.6, 1.0], bucket=[1, 1, 1]
    )
    scalars = (
        "loss/l1",
        "loss/total",
        "metrics/psnr_test",
        "metrics/psnr_train",
        "lr/means",
        "gaussians/count",
    )
    pictures = [f"test/view_000/{kind}" for kind in ("rendered", "true", "depth")]
    pictures += ["train/view_001/rendered", "prior/view_001/depth", "prior/view_001/confidence"]
    events = [Event(wall_time=1.7e9, file_version="brain.Event:2")]
    for step in (10, 20):
        for tag in scalars:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=1.0 / step)])
            events.append(Event(wall_time=1.7e9 + step, step=step, summary=summary))
        for tag in pictures:
            image = Summary.Image(height=8, width=10, colorspace=3, encoded_image_string=picture)
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            events.append(Event(wall_time=1.7e9 + step, step=step, summary=summary))
        for tag in ("gaussians/opacities", "gaussians/log10_scales"):
            summary = Summary(value=[Summary.Value(tag=tag, histo=histogram)])
            events.append(Event(wall_time=1.7e9 + step, step=step, summary=summary))
    whole = b""
    for event in events:
        record = event.SerializeToString(deterministic=True)
        head = struct.pack("<Q", len(record))
        whole += (
            head + struct.pack("<I", masked_crc32c(head)) + record + struct.pack("<I", masked_crc32c(record))
        )
    return whole


_EVENTS = "events.out.tfevents.1700000000.host.1.0"


def _event_seeds(work: Path) -> list[Seed]:
    return [Seed({_EVENTS: _event_bytes()}, {_EVENTS: in_records})]


def _read_events(folder: Path) -> None:
    events = read_events(folder)
    for tag in events.scalars:
        steps, values = events.curve(tag)
        expect(steps.shape == values.shape and (np.diff(steps) > 0).all(), "a curve out of order")
        events.last(tag)
    for tag, places in events.pictures.items():
        for step in places:
            picture = events.picture(tag, step)
            expect(picture is None or (picture.ndim == 3 and picture.dtype == np.uint8), "a picture")
    for distributions in events.histograms.values():
        for histogram in distributions.values():
            expect(len(histogram.edges) == len(histogram.counts) + 1, "a distribution")


def _run_seeds(work: Path) -> list[Seed]:
    config = dataclasses.replace(
        load_preset("quick"), config="quick", iterations=20, source_path=Path("scene")
    )
    save_config(work / "config.yaml", config)
    scores = {f"view_{i:03d}": Scores(20.0 + i, 0.5, 0.1 if i else None, 100.0) for i in range(3)}
    for iteration in (10, 20):
        write_report(work, Report(scores, ("view_001",)), iteration)
    camera = {
        "width": 8,
        "height": 6,
        "rotation": np.eye(3).tolist(),
        "position": [0, 0, 1],
        "fx": 9,
        "fy": 9,
    }
    cameras = [{"id": i, "img_name": f"view_{i:03d}.png", **camera} for i in range(3)]
    summary = {
        "preset": "quick",
        "iterations": 20,
        "iterations_of_this_process": 20,
        "seconds_of_this_process": 3.5,
        "seconds_of_teachers": 0.0,
        "skipped_terms_of_this_process": {"depth": 2},
        "gaussians": 1000,
        "peak_memory_gib": 0.5,
        "backend": "cpu",
        "threads": 2,
        "train_views": 3,
        "test_views": 1,
    }
    files = {f"run/{path.name}": path.read_bytes() for path in work.iterdir() if path.is_file()}
    files["run/cameras.json"] = json.dumps(cameras).encode()
    files["run/summary.json"] = json.dumps(summary).encode()
    files[f"run/{_EVENTS}"] = _event_bytes()
    files["run/test/ours_20/renders/view_000.png"] = cv2.imencode(".png", np.zeros((6, 8, 3)))[1].tobytes()
    aims: dict[str, Mutator] = {name: regrown for name in files if name.endswith(".json")}
    aims |= {"run/config.yaml": reworded(YAML_TRAPS), f"run/{_EVENTS}": in_records}
    return [Seed(files, aims)]


_UNSAFE = re.compile(r"<script>alert|<img src=x", re.IGNORECASE)


def _read_run(folder: Path) -> None:
    path = write_page(folder / "run")
    page = path.read_text("utf-8")
    expect(not _UNSAFE.search(page), "markup of a file in the page")
    expect(page.count("<script") == 1, "another script than the page's own")
    path.unlink()


def _figure_seeds(work: Path) -> list[Seed]:
    write_report(work, Report({"view_000": Scores(20.0, 0.5, None, 9.0)}), 10)
    files = {path.name: path.read_bytes() for path in work.iterdir()}
    return [Seed(files, {name: regrown for name in files})]


def _read_figures(folder: Path) -> None:
    write_report(folder, Report({"view_000": Scores(21.0, 0.5, None, 9.0)}), 20)
    for name in ("results.json", "per_view.json"):
        content = json.loads((folder / name).read_text("utf-8"), parse_constant=_no_constant)
        expect("ours_20" in content, "a report that was not written")


def _no_constant(name: str) -> None:
    expect(False, f"{name} in JSON")


def _source_seeds(work: Path) -> list[Seed]:
    from gaussian_model import save_ply

    (seed,) = _run_seeds(work)
    save_ply(work / "point_cloud.ply", some_gaussians(4, 0))
    ply = (work / "point_cloud.ply").read_bytes()
    aims = {name: how for name, how in seed.aims.items() if name in ("run/config.yaml", "run/cameras.json")}
    files = {name: data for name, data in seed.files.items() if name in aims}
    name = "run/point_cloud/iteration_20/point_cloud.ply"
    return [Seed({**files, name: ply}, {**aims, name: damaged})]


def _read_source(folder: Path) -> None:
    source = load_source(folder / "run")
    expect("/" not in source.name and source.folder.is_relative_to(folder), "an export that leads elsewhere")


PARSERS = (
    Parser("checkpoint", "checkpoints (.pt), code in pickles", _checkpoint_seeds, _read_checkpoint),
    Parser(
        "config", "presets and config.yaml, code in tags", _config_seeds, _read_config, reads_elsewhere=True
    ),
    Parser("events", "TensorBoard events", _event_seeds, _read_events),
    Parser("report", "a run's folder as the report reads it", _run_seeds, _read_run, reads_elsewhere=True),
    Parser("results", "results.json and per_view.json that are added to", _figure_seeds, _read_figures),
    Parser("export", "a run's folder as the export reads it", _source_seeds, _read_source),
)
