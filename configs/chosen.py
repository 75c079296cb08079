"""What somebody chose: the options of a run that differ from those of its preset."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from configs.config_error import ConfigError
from configs.presets import FEW_VIEWS, load_preset
from configs.scaling import scale_schedules
from configs.schema import Config
from configs.values import to_plain, walk

OF_THE_CALL = frozenset(
    (
        "source_path",
        "model_path",
        "config",
        "resume",
        "overwrite",
        "sharded",
        "quiet",
        "log_level",
        "viewer",
        "viewer_port",
        "viewer_host",
    )
)
"""Options that no preset has: where a run works, not how."""
ALWAYS = ("iterations", "seed", "batch_size", "scene.resolution", "depth.init", "densify.strategy")
"""Worth comparing between runs even where they are the preset's."""


@dataclass(frozen=True)
class PresetBehind:
    """What a run's options are compared with.

    Attributes:
        options: the preset as it is today, scaled to the run's length, or the defaults.
        there: it could be read.
        scaled: the run's length is not the preset's own.
    """

    options: Config
    there: bool
    scaled: bool


def preset_behind(name: str, n_train_views: int | None, iterations: int | None) -> PresetBehind:
    """The preset that a run started from.

    A file of the user's may have gone since, which must not end a run, nor a report: then the defaults are
    what there is to compare with.

    Args:
        name: a preset, or "" for the defaults.
        n_train_views: decides whether its section `few_views` counts; None = it does not.
        iterations: the run's; None = the preset's own.
    """
    few = n_train_views is not None and n_train_views <= FEW_VIEWS
    try:
        preset = load_preset(name, few_views=few) if name else Config()
        scaled = bool(iterations) and iterations != preset.iterations
        if iterations and scaled:
            preset = scale_schedules(preset, iterations / preset.iterations)
    except (ConfigError, OSError):
        return PresetBehind(Config(), there=False, scaled=False)
    return PresetBehind(preset, there=True, scaled=scaled)


def chosen_options(config: Config, n_train_views: int) -> dict[str, Any]:
    """What tells a run from others, by dotted name: preset, number of views, what differs from the preset.

    Values are plain: numbers, switches, text; of lists their text. A preset that has gone is replaced by
    the defaults.
    """
    preset = preset_behind(config.config, n_train_views, config.iterations).options
    found: dict[str, Any] = {"preset": config.config, "train_views": n_train_views}
    for name, _ in walk(Config):
        value, usual = (to_plain(operator.attrgetter(name)(options)) for options in (config, preset))
        if name not in OF_THE_CALL and (name in ALWAYS or value != usual):
            found[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
