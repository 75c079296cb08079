"""The configuration of a run: one frozen `Config` out of defaults, a preset (YAML) and the command line.

    parsed = parse_command_line(sys.argv[1:])
    scene = load_scene(parsed.config.source_path, parsed.config.scene)
    config = parsed.resolve(len(scene.train), backend)
    save_config(folder / "config.yaml", config)

Each room declares its own options in a frozen dataclass beside the code that uses them; here they are
composed, read and saved. Rooms never import this one.
"""

from configs.at_files import expand_at_files
from configs.chosen import OF_THE_CALL, chosen_options, preset_behind
from configs.command_line import Parsed, parse_command_line
from configs.config_error import ConfigError
from configs.presets import choose_preset, load_preset, preset_names
from configs.saved import load_saved_config, save_config
from configs.scaling import scale_schedules
from configs.schema import Config
from configs.values import to_plain

__all__ = [
    "OF_THE_CALL",
    "Config",
    "ConfigError",
    "Parsed",
    "choose_preset",
    "chosen_options",
    "expand_at_files",
    "load_preset",
    "load_saved_config",
    "parse_command_line",
    "preset_behind",
    "preset_names",
    "save_config",
    "scale_schedules",
    "to_plain",
]
