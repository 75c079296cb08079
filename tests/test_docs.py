"""What the documentation shows works: examples run, and commands are ones that the program knows.

Commands are parsed, not run: what they do is tested beside the code that does it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser

import render
from benchmarks import quality
from configs import Config, parse_command_line, save_config
from depth_priors import DepthPrior
from exporting import command as exporting_command
from fleet import blocks, many
from gaussian_model import GaussianAdam, Gaussians, ModelConfig, OptimConfig
from losses import depth as depth_losses
from scene import Camera, Points, Scene, View
from scripts import convert_photos

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def _examples() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in _blocks(ROOT / "docs" / "extending.md", "python"):
        exec(compile(block, "docs/extending.md", "exec"), found)
    return found


def test_the_example_of_a_loss_is_one(monkeypatch):
    monkeypatch.setitem(depth_losses._LOSSES, "log_l1", _examples()["log_l1"])
    generator = torch.Generator().manual_seed(0)
    depth, true = (1 + torch.rand(24, 32, generator=generator) for _ in range(2))
    prior = DepthPrior(true, "depth", "world", torch.ones(24, 32), "test")
    loss = depth_losses.depth_loss("log_l1", depth, torch.ones(24, 32), prior)  # type: ignore[arg-type]
    expected = np.abs(np.log(depth.numpy()) - np.log(true.numpy())).mean()
    assert loss is not None and loss.item() == pytest.approx(expected, rel=1e-5)  # float32


def test_the_example_of_a_prior_is_one():
    lens = torch.tensor([[40.0, 0, 16], [0, 40, 12], [0, 0, 1]])
    view = View("a.png", Camera(torch.eye(4), lens, 32, 24), torch.zeros(24, 32, 3, dtype=torch.uint8))
    (prior,) = _examples()["ground_priors"]([view], 2.0)
    assert float(prior.depth()[20, 5]) == pytest.approx(2.0 * 40 / (20.5 - 12), rel=1e-5)  # float32
    assert not prior.confidence[:12].any() and bool(prior.confidence[12:].all())


def test_the_example_of_a_densifier_is_one():
    generator = torch.Generator().manual_seed(0)
    points = Points(torch.rand(50, 3, generator=generator), torch.rand(50, 3, generator=generator))
    gaussians = Gaussians.from_scene(Scene((), (), points, 1.0, Path()), ModelConfig(), generator)
    with torch.no_grad():
        gaussians.params["opacities"].copy_(torch.linspace(-3, 3, 50))
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    kept = gaussians.params["means"].detach()[5:].clone()
    thinner = _examples()["Thinner"](10)
    assert thinner.refine(9, gaussians, optimizer) is None
    report = thinner.refine(10, gaussians, optimizer)
    assert (report.total, report.pruned) == (45, 5)
    assert torch.equal(gaussians.params["means"], kept)
    thinner.load_state_dict(thinner.state_dict())


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in [*_blocks(page, "bash"), *_blocks(page, "")]:
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line.partition("  #")[0].strip()) for line in lines if line.strip()]
    return found


def _that_begin(*beginnings: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("line", [line for _, line in _commands() if line.startswith(beginnings)])


@_that_begin("python train.py")
def test_commands_of_training_are_known(line: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[2:]
    if "--resume" in words:  # the run that it goes on with
        run = Path(words[words.index("-m") + 1])
        run.mkdir(parents=True)
        save_config(run / "config.yaml", Config(source_path=tmp_path, config="quick"))
    parse_command_line(words).resolve(3, "cpu")


@_that_begin("python render.py")
def test_commands_of_rendering_are_known(line: str):
    assert render.parse(shlex.split(line)[2:]).model_path != Path()


@_that_begin("torchrun ")
def test_commands_of_several_processes_are_known(line: str):
    options, _, words = line.partition(" train.py ")
    torchrun = get_args_parser().parse_args([*shlex.split(options)[1:], "train.py"])
    assert torchrun.training_script == "train.py"
    parse_command_line(shlex.split(words)).resolve(30, "cpu")


@_that_begin(
    "scripts/convert ",
    "scripts/export ",
    "scripts/benchmark_quality ",
    "scripts/train_many ",
    "scripts/train_blocks ",
)
def test_commands_of_scripts_are_known(line: str):
    script, *words = shlex.split(line)
    parse = {
        "scripts/convert": convert_photos.parse,
        "scripts/export": exporting_command.parse,
        "scripts/benchmark_quality": quality.parse,
        "scripts/train_many": many.parse,
        "scripts/train_blocks": blocks.parse,
    }[script]
    parse(words)


def test_every_script_that_is_named_is_there():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    for script in set(re.findall(r"(?<![\w/])scripts/\w+", text)):
        assert (ROOT / script).is_file(), script


def test_every_picture_that_is_shown_is_there_and_every_one_there_is_shown():
    shown = {
        (page.parent / path).resolve()
        for page in PAGES
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    assert shown == set((ROOT / "docs" / "images").iterdir())


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
            target = (page.parent / path) if path else page
            assert target.exists(), f"{page.name}: {path}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M)
                anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{page.name}: {path}#{anchor}"


def test_messages_that_troubleshooting_explains_are_ones_that_the_program_says():
    rooms = [path for path in ROOT.glob("*/") if path.name not in ("tests", "docs", ".venv", "output")]
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]
    said = " ".join(path.read_text("utf-8") for path in [*files, ROOT / "scripts" / "setup.sh"])
    said = re.sub(r'"\s*f?"', "", said)  # texts that go on in the next line
    table = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8").partition("## The result")[0]
    messages = [
        text
        for row in re.findall(r"^\| (.*?) \|", table, re.M)
        for text in re.findall(r"`([^`]+)`", row)
        if " " in text
    ]
    assert len(messages) > 15
    for message in messages:
        if message.startswith(("libGL", "sudo", "pip")):  # the system's own words
            continue
        for part in re.split(r"\.\.\.|\d+(?: of \d+)?|\bN\b", message):
            assert part.strip() in said, f"{message}: {part}"
