"""The parsers of what a run leaves to be read: TensorBoard's events, figures, its report and export."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from configs import load_preset
from configs.saved import save_config
from evaluation import Report, write_report
from evaluation.report import Scores
from exporting.source import load_source
from reporting import write_page
from reporting.events import read_events
from stress.fuzz_containers import in_records
from stress.fuzz_headers import in_ply
from stress.fuzz_maps import some_gaussians
from stress.fuzz_mutations import Mutator, regrown
from stress.fuzz_options import reoptioned
from stress.fuzz_parser import Parser, Seed, expect


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
    aims |= {"run/config.yaml": reoptioned, f"run/{_EVENTS}": in_records}
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
    return [Seed({**files, name: ply}, {**aims, name: in_ply})]


def _read_source(folder: Path) -> None:
    source = load_source(folder / "run")
    expect("/" not in source.name and source.folder.is_relative_to(folder), "an export that leads elsewhere")


PARSERS = (
    Parser("events", "TensorBoard events", _event_seeds, _read_events),
    Parser("report", "a run's folder as the report reads it", _run_seeds, _read_run, reads_elsewhere=True),
    Parser("results", "results.json and per_view.json that are added to", _figure_seeds, _read_figures),
    Parser("export", "a run's folder as the export reads it", _source_seeds, _read_source),
)
