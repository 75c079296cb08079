"""What a run can be told: the options of the program itself, and those of each room under its name.

The docstring below a field is its help text on the command line. Fields that count iterations say so in
their metadata ({"unit": "iterations"}): they are stated for this configuration's own `iterations`, and
scale with it (scaling.py).
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from configs.config_error import ConfigError
from configs.values import walk
from depth_priors import DepthConfig
from gaussian_model import DensifyConfig, ModelConfig, OptimConfig, RegulariseConfig
from losses import DepthLoss, LossConfig, PseudoConfig
from scene import PyramidConfig, SceneConfig

Flag = FlagCreatePairsOff[bool]
_ITERATIONS = {"unit": "iterations"}


@dataclass(frozen=True)
class Config:
    """All options of a training run. `Parsed.resolve` gives real paths to the first two.

    Raises:
        ConfigError: a value has no meaning.
    """

    source_path: Annotated[
        Path, arg(aliases=("-s", "--source"), metavar="FOLDER", help_behavior_hint="(required)")
    ] = Path()
    """The scene: a COLMAP folder (images, sparse/0), or one with transforms.json. Or a folder of photographs,
    or a video: where they were taken from is found out first (structure from motion), see scripts/convert."""
    model_path: Annotated[
        Path, arg(aliases=("-m",), metavar="FOLDER", help_behavior_hint="(default: output/SCENE_NAME)")
    ] = Path()
    """Where everything that comes out is written."""
    config: Annotated[
        str, arg(metavar="NAME|FILE", help_behavior_hint="(default: by the number of views)")
    ] = ""
    """A preset (quick, sparse_view, cpu_capture, full_capture, mcmc; for few views also fsgs, confidence, g2)
    or a YAML file, which may have sections few_views for up to 12 training views and around for cameras that
    do not all look one way. Options on the command line win over it. Without it: sparse_view for up to 24
    training views; for more, full_capture on a GPU and cpu_capture without one."""
    iterations: int = 30_000
    """Length of the training; this one is full_capture's, others have their own (sparse_view: 2000). Changing
    it scales every schedule that is not given on the command line too.
    For more quality take a preset made for a longer run: quick and sparse_view have learning rates, and quick
    and cpu_capture a number of Gaussians, for short ones."""
    batch_size: int = 1
    """Training views per iteration, which takes so many times longer; give fewer --iterations then. Learning
    rates stay as they are given, but for --optim.batch_rule. Where there are fewer views, they repeat within
    an iteration. Several processes (torchrun) share them, and take a view each if nothing is said."""
    backend: Literal["auto", "gsplat", "cpu", "reference"] = "auto"
    """Rasterizer: gsplat (CUDA), cpu (C++, all cores), reference (plain torch, slow, exact). auto: gsplat
    where there is a GPU, else cpu."""
    sharded: Flag = False
    """Each of several processes (torchrun, one a GPU) holds a part of the Gaussians, for more of them than
    fit into one GPU; without it each holds them all. gsplat only. A run that goes on is told it again."""
    threads: int = 0
    """CPU threads; 0 = all cores. The result is the same for any number."""
    seed: int = 0
    """Seed of everything random. The same seed on the CPU gives the same bits."""
    resume: Flag = False
    """Go on from the last checkpoint in the output folder, with its configuration."""
    overwrite: Flag = False
    """Replace the run that is in the output folder."""
    test_iterations: tuple[int, ...] = field(default=(), metadata=_ITERATIONS)
    """Evaluate the test views after these iterations, besides the last."""
    save_iterations: tuple[int, ...] = field(default=(), metadata=_ITERATIONS)
    """Write the Gaussians as .ply after these iterations, besides the last."""
    checkpoint_iterations: tuple[int, ...] = field(default=(), metadata=_ITERATIONS)
    """Write checkpoints to keep after these iterations, besides the last."""
    checkpoint_every: int = 1000
    """Also write a checkpoint every so many iterations (0 = never), of which the last ones stay."""
    keep_checkpoints: int = 2
    """How many of those stay; 0 = all."""
    log_every: int = 10
    """Iterations between two points of the TensorBoard curves."""
    quiet: bool = False
    """Show no progress bar and no progress lines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is said on the way. debug: also what libraries say, times, and where an error came from."""
    viewer: bool = False
    """Show the training in the browser while it goes; its address is printed. The result stays the same."""
    viewer_port: int = 8080
    """The viewer's port; the next free one is taken (and said) where somebody listens there."""
    viewer_host: str = "localhost"
    """Who may look: localhost = this machine only, 0.0.0.0 = everybody who reaches it over the network."""

    scene: Annotated[SceneConfig, OmitArgPrefixes] = field(default_factory=SceneConfig)
    """The scene: images, masks, resolution, held-out views."""
    depth: Annotated[DepthConfig, OmitArgPrefixes] = field(default_factory=DepthConfig)
    """What is known of depth before training."""
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """Coarse-to-fine training images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The Gaussians."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Learning rates."""
    densify: DensifyConfig = field(default_factory=DensifyConfig)
    """Where Gaussians are added and removed."""
    regularise: RegulariseConfig = field(default_factory=RegulariseConfig)
    """What keeps Gaussians from fitting a few photographs only."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss terms."""
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    """Places that nobody photographed: what the Gaussians must look like from there."""

    def __post_init__(self) -> None:
        """Refuses values with no meaning.

        Raises:
            ConfigError: names the option.
        """
        least = {"iterations": 1, "batch_size": 1, "log_every": 1, "viewer_port": 1}
        for name in (*least, "threads", "seed", "checkpoint_every", "keep_checkpoints"):
            bound = least.get(name, 0)
            if getattr(self, name) < bound:
                raise ConfigError(
                    f"{name}: expected at least {bound}, got {getattr(self, name)}: change --{name}."
                )
        for name, bound in (("seed", 2**63 - 1), ("threads", 1024), ("viewer_port", 65535)):
            if getattr(self, name) > bound:
                raise ConfigError(
                    f"{name}: expected at most {bound}, got {getattr(self, name)}: change --{name}."
                )
        for path, _ in walk(type(self)):
            value = operator.attrgetter(path)(self)
            if isinstance(value, float) and not math.isfinite(value):
                option = path.removeprefix("scene.").removeprefix("depth.")
                raise ConfigError(f"{option}: expected a finite number, got {value}: change --{option}.")
        for name in ("test_iterations", "save_iterations", "checkpoint_iterations"):
            if any(iteration < 1 for iteration in getattr(self, name)):
                got = list(getattr(self, name))
                raise ConfigError(f"{name}: iterations count from 1, got {got}: change --{name}.")


@dataclass(frozen=True)
class CommandLine(Config):
    """`Config` and the options that exist on the command line only, as other names for its fields."""

    white_background: Annotated[Flag, arg(aliases=("-w",))] = False
    """The same as --model.background white (the name that 3DGS uses)."""
    sh_degree: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """The same as --model.sh_degree (the name that 3DGS uses)."""
    depth_loss: Annotated[DepthLoss | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The same as --loss.depth_loss: hold rendered depth to the depth prior."""
