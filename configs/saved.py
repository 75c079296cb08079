"""OUTPUT/config.yaml: the resolved configuration of a run, written once and read back equal."""

from __future__ import annotations

from pathlib import Path

import yaml

from atomic import write_bytes
from configs.config_error import ConfigError
from configs.migrations import headed, options_of
from configs.schema import Config
from configs.values import read_yaml, to_plain, update

_HEADER = "# The resolved configuration of this run; `--config` takes this file as a preset.\n"


def save_config(path: Path, config: Config) -> None:
    """Writes a configuration; the file is whole or absent whatever happens.

    Raises:
        OSError: the disk is full or not writable.
    """
    values = headed(to_plain(config))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if any(
        line_end in text for line_end in "\x85\u2028\u2029"
    ):  # written as they are, YAML reads them as spaces
        text = yaml.safe_dump(values, sort_keys=False)
    text = _HEADER + text
    write_bytes(path, text.encode())


def load_saved_config(path: Path) -> Config:
    """Returns the configuration of a run.

    Args:
        path: its config.yaml, or the output folder that holds it.

    Raises:
        ConfigError: there is none, it is of a newer format, or a key or value is unknown.
    """
    if path.is_dir():
        path = path / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file: expected the output folder of a run: check -m.")
    values = options_of(path, read_yaml(path))
    return update(Config(), values, str(path))
