"""The parsers of what a run starts and goes on from: presets, config.yaml, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickletools
import random
from pathlib import Path
from random import Random
from typing import Any

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
from gaussian_model import DensifyConfig, GaussianAdam, OptimConfig, build_densifier
from scene import ViewSampler
from stress.fuzz_containers import CALLS, in_archive, in_pickle, packed
from stress.fuzz_maps import some_gaussians
from stress.fuzz_mutations import Mutator, damaged
from stress.fuzz_options import reoptioned
from stress.fuzz_parser import Parser, Seed, expect

_VIEWS = 3


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
        *[Seed({name: whole}, {name: _rebuilt(path)})] * 3,  # the only ones that get beyond the archive
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
                with contextlib.suppress(RuntimeError):  # of a tensor that the change before has made sparse
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


def _leaves(tree: Any, above: tuple[int, ...] = ()) -> Any:
    if id(tree) in above:  # a value within itself, put there by the change before
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _leaves(value, (*above, id(tree)))


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
    saved = work / "config.yaml"
    save_config(saved, dataclasses.replace(load_preset("quick"), config="quick", iterations=100))
    return [
        Seed({"preset.yaml": _config_text()}, {"preset.yaml": reoptioned}),
        Seed({"config.yaml": saved.read_bytes()}, {"config.yaml": reoptioned}),
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


PARSERS = (
    Parser("checkpoint", "checkpoints (.pt), code in pickles", _checkpoint_seeds, _read_checkpoint),
    Parser(
        "config", "presets and config.yaml, code in tags", _config_seeds, _read_config, reads_elsewhere=True
    ),
)
