"""The command line of training: defaults, then a preset, then what the user typed.

The preset may depend on the scene (how many views it has), and the scene's folder stands on the command
line; so parsing gives a `Parsed`, whose `resolve` takes the number of training views.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from configs.config_error import ConfigError
from configs.presets import FEW_VIEWS, choose_preset, load_preset
from configs.saved import load_saved_config
from configs.scaling import replace_paths, scale_schedules
from configs.schema import CommandLine, Config
from configs.together import check_together
from configs.values import check_whole_numbers, walk
from errors import UserError

SHORT = {"-r": "--resolution"}  # 3DGS habit; the other short names are declared in the schema
# What a resumed run may change: where and how it runs and what it shows, and how long.
_MAY_CHANGE = {
    *("source_path", "model_path", "resume", "overwrite", "iterations", "backend", "threads", "quiet"),
    "sharded",
    *("test_iterations", "save_iterations", "checkpoint_iterations", "checkpoint_every", "keep_checkpoints"),
    *("log_every", "log_level", "config", "depth.depth_cache", "depth.depth_weights"),
    *("viewer", "viewer_port", "viewer_host"),
}
_DESCRIPTION = """Train 3D Gaussians on the photographs of a scene.

Example: python train.py -s scenes/garden -m output/garden --eval --config quick

The options of a room carry its name, as in YAML presets (--densify.every 200); those of the scene carry
none, and -r is short for --resolution. Options given here win over the preset's."""


@dataclass(frozen=True)
class Parsed:
    """A command line whose preset may still be open.

    Attributes:
        config: all that is decided before the scene is read: paths, the scene's options, resume, overwrite,
            backend, threads, seed, quiet. Schedules and weights are final only in `resolve`'s value.
        given: dotted paths of the options that the user typed.
        argv: the arguments, short names spelled out.
        base: the configuration that the options change (preset or saved run); None while it is open.
    """

    config: Config
    given: frozenset[str]
    argv: tuple[str, ...]
    base: Config | None

    def resolve(self, n_train_views: int, backend: str, *, around: bool = False) -> Config:
        """Returns the final configuration.

        Args:
            n_train_views: chooses the preset if the user named none, and whether its section few_views
                counts.
            backend: chooses the preset likewise.
            around: the cameras do not all look one way: whether the preset's section `around` counts.

        Raises:
            ConfigError: the values do not go together.
        """
        if self.base is None:
            name = choose_preset(n_train_views, backend)
            base = load_preset(name, few_views=n_train_views <= FEW_VIEWS, around=around)
            base = dataclasses.replace(base, config=name, scene=self.config.scene)
            config = _parse(self.argv, base)
            config = dataclasses.replace(
                config,
                source_path=self.config.source_path,
                model_path=self.config.model_path,
                config=name,
            )
        else:
            base, config = self.base, self.config
            few = n_train_views <= FEW_VIEWS
            if (few or around) and not config.resume:
                base = load_preset(base.config, few_views=few, around=around)
                base = dataclasses.replace(base, config=config.config)
                config = dataclasses.replace(
                    _parse(self.argv, base), source_path=config.source_path, model_path=config.model_path
                )
        if "iterations" in self.given and not config.resume:
            config = scale_schedules(config, config.iterations / base.iterations, self.given)
        check_together(config, self.given)
        return config


def parse_command_line(argv: Sequence[str] | None = None) -> Parsed:
    """Parses the arguments of train.py.

    With `--resume` the saved configuration of the run takes the preset's place; schedules then stay as they
    are, even where `--iterations` makes the run longer.

    Args:
        argv: the arguments without the program's name; None = the process's.

    Raises:
        ConfigError: no scene is given, a preset or saved configuration is bad, or options contradict.
        SystemExit: code 2 for unknown options (with a suggestion), 0 after `--help`.
    """
    args = tuple(_spelled_out(sys.argv[1:] if argv is None else argv))
    given = given_options(args)
    base = _base(args, given)
    config = _parse(args, base or Config())
    if "source_path" not in given and config.source_path == Path():
        if config.resume:
            raise ConfigError(
                f"--resume: {config.model_path} holds no run (no config.yaml): name the folder of one by -m."
            )
        raise ConfigError(
            "no scene given: expected -s FOLDER, of photographs or a COLMAP scene: add it, or see --help."
        )
    source = config.source_path.expanduser().absolute()
    model = config.model_path.expanduser()
    if "model_path" not in given:
        model = _default_output(source)
    config = dataclasses.replace(config, source_path=source, model_path=model)
    config.scene.check()
    if config.resume:  # it does not start from points: their file may be gone
        config.depth.check_maps()
    else:
        config.depth.check()
    if config.resume and base is not None and (config.model_path / "config.yaml").is_file():
        _check_unchanged(base, config)
    return Parsed(config, frozenset(given), args, base)


def _check_unchanged(saved: Config, config: Config) -> None:
    """Refuses options that would make the rest of a run another training than its beginning.

    The scene's are left to the checkpoint, which knows the views that the run was trained on.

    Raises:
        ConfigError: names the first one.
    """
    for path, _ in walk(Config):
        before, now = map(operator.attrgetter(path), (saved, config))
        if path not in _MAY_CHANGE and not path.startswith("scene.") and now != before:
            raise ConfigError(
                f"--resume: --{path} is {before} in the run in {config.model_path}, got {now}: leave it "
                "out (a resumed run keeps its options), or start anew in another -m."
            )


def _default_output(source: Path) -> Path:
    """Returns output/SCENE_NAME."""
    source = source.expanduser().resolve()
    return Path("output") / ((source.stem if source.is_file() else source.name) or "scene")


def given_options(argv: Sequence[str]) -> dict[str, list[str]]:
    """Returns the options typed, by dotted path, with the words after each; unknown ones are left out.

    Only exact names count, as in the parser itself: it takes no abbreviations.
    """
    names = {path.removeprefix("scene."): path for path, _ in walk(Config)}
    names |= {
        "white_background": "model.background",
        "sh_degree": "model.sh_degree",
        "depth_loss": "loss.depth_loss",
        "source": "source_path",
    }
    short = {"-s": "source_path", "-m": "model_path", "-w": "model.background"}
    found: dict[str, list[str]] = {}
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        path = short.get(flag) or (names.get(_name(flag)) if flag.startswith("--") else None)
        if path is not None:
            words = found[path] = [value] if equals else []
        elif _is_option(word):
            words = []  # an unknown one: the parser will say so
        else:
            words.append(word)
    return found


def _name(flag: str) -> str:
    """Returns an option's name within its class: no dashes, and no "no_" of a switch that is turned off."""
    *sections, last = flag.lstrip("-").replace("-", "_").split(".")
    return ".".join([*sections, last.removeprefix("no_")])


def _is_option(word: str) -> bool:
    """Says whether a word is an option and no value; "-1" is a value."""
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with the short names that the parser does not know replaced."""
    pairs = [word.partition("=") for word in argv]
    return [
        SHORT[flag] + equals + value if flag in SHORT else flag + equals + value
        for flag, equals, value in pairs
    ]


def _base(argv: Sequence[str], given: dict[str, list[str]]) -> Config | None:
    """Returns what the options change: the saved run, the named preset, or None where it is still open.

    Raises:
        ConfigError: from reading it; or `--resume` with another `--config` than the run's.
    """
    wanted = (given.get("config") or [""])[0]
    folder = Path((given.get("model_path") or [""])[0]).expanduser()
    if "model_path" not in given and given.get("source_path"):
        folder = _default_output(Path(given["source_path"][0]))
    if "resume" in given and (folder / "config.yaml").is_file():
        saved = load_saved_config(folder)
        if wanted and Path(wanted).stem != Path(saved.config).stem:
            raise ConfigError(
                f"--resume: the run in {folder} was started with --config {saved.config}, got {wanted}: "
                "leave --config out, or start anew in another -m."
            )
        return dataclasses.replace(saved, resume=False, overwrite=False, sharded=False)
    return dataclasses.replace(load_preset(wanted), config=wanted) if wanted else None


def _parse(argv: Sequence[str], base: Config) -> Config:
    """Returns `base` with the options applied."""
    default = CommandLine(**{item.name: getattr(base, item.name) for item in dataclasses.fields(base)})
    try:
        parsed = tyro.cli(
            CommandLine,
            default=default,
            args=list(argv),
            prog="train.py",
            description=_DESCRIPTION,
            use_underscores=True,
        )
        config = Config(**{item.name: getattr(parsed, item.name) for item in dataclasses.fields(Config)})
        check_whole_numbers(config)
        same: dict[str, object] = {}
        if parsed.white_background:
            same["model.background"] = "white"
        if parsed.sh_degree is not None:
            same["model.sh_degree"] = parsed.sh_degree
        if parsed.depth_loss is not None:
            same["loss.depth_loss"] = parsed.depth_loss
        return replace_paths(config, {**same, "depth": config.depth.absolute()})
    except ConfigError:
        raise
    except UserError as error:  # a room refused a value; it does not know its section's name
        option = str(error).partition(":")[0]
        section = next(
            (path[: -len(option)] for path in given_options(argv) if path.endswith(f".{option}")), ""
        )
        raise ConfigError(f"--{section}{error}" if section else f"command line: {error}") from error
