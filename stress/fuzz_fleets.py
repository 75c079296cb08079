"""The parsers of what a fleet of trainings writes down: what became of a scene, how a scene was cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fleet.block_scenes import read_partition
from fleet.folder import FleetFolder, Outcome
from fleet.scenes import Job
from stress.fuzz_mutations import regrown
from stress.fuzz_parser import Parser, Seed, contents, expect


def _outcome_seeds(work: Path) -> list[Seed]:
    fleet = FleetFolder(work)
    fleet.make()
    job = Job("garden", Path("scenes/garden"))
    done = Outcome("done", "0123", 1, 12.5, "", 0, 21.5, 0.7, 1000, 0.5)
    files = {
        "garden/summary.json": b"""{"gaussians": 7, "peak_memory_gib": 0.25, "test_views": 1,
            "iterations": 10}""",
        "garden/results.json": b'{"ours_10": {"PSNR": 20.5, "SSIM": 0.5}}',
    }
    seeds = []
    for outcome in (done, Outcome("failed", "0123", 3, 1.5, "out of memory", 3)):
        fleet.write(job, outcome)
        whole = {**files, **contents(work)}
        seeds.append(Seed(whole, dict.fromkeys(whole, regrown)))
    return seeds


def _read_outcome(folder: Path) -> None:
    fleet = FleetFolder(folder)
    outcome = fleet.outcome("garden")
    assert outcome is not None, "its file is there"
    measured = fleet.measured("garden", outcome)
    expect(measured.line("garden", fleet.log("garden")), "no line")
    fleet.write(Job("other", folder), measured)
    expect(fleet.outcome("other") == measured, "an outcome that is read back differently")


def _partition_seeds(work: Path) -> list[Seed]:
    content = {
        "format": 1, "scene": "scenes/garden", "wish": {}, "digest": "0123456789abcdef",
        "train_views": 9, "points": 120, "origin": [0.0, 0.5, 1.0],
        "axes": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
        "cells": [
            {"name": "block_0", "low": [None, None], "high": [0.5, None]},
            {"name": "block_1", "low": [0.5, None], "high": [None, 2.0]},
        ],
        "sizes": {"block_0": [5, 70], "block_1": [6, 60]},
    }  # fmt: skip
    return [Seed({"partition.json": json.dumps(content).encode()}, {"partition.json": regrown})]


def _read_partition(folder: Path) -> None:
    made = read_partition(folder)
    expect(made.plane.axes.shape == (2, 3) and np.isfinite(made.plane.axes).all(), "axes that are none")
    expect(np.isfinite(made.plane.origin).all(), "an origin that is no place")
    for cell in made.cells:
        away = cell.name in ("", ".", "..") or set(cell.name) & set("/\\\0")
        expect(not away, "a cell's name that leads away")
        expect(cell.name in made.sizes, "a cell without a size")


PARSERS = (
    Parser("outcome", "what became of a scene of a fleet (JSON)", _outcome_seeds, _read_outcome),
    Parser("partition", "how a scene was cut into blocks (JSON)", _partition_seeds, _read_partition),
)
