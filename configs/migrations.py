"""The formats of a run's config.yaml so far, and the steps from each to the next.

1 (0.1.0): every option under its name, sections nested; format; program (not in the first files).

To change the meaning of an option: raise FORMAT, and add a step here and a line above. New options with
defaults need neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.config_error import ConfigError
from versions import VERSION, Step, brought_up

FORMAT = 1
STEPS: dict[int, Step] = {}
HEAD = ("format", "program")
"""What a file says of itself, besides the options."""


def headed(values: dict[str, Any]) -> dict[str, Any]:
    """The options with the head of a file of today."""
    return {"format": FORMAT, "program": VERSION, **values}


def options_of(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The options in a file's content, as the present format has them, without its head.

    Raises:
        ConfigError: it has no format number, a newer one, or is not what its number promises.
    """
    content = brought_up(
        content, path=path, what="configuration", present=FORMAT, steps=STEPS, error=ConfigError
    )
    return {key: value for key, value in content.items() if key not in HEAD}
