"""What --train says: options of train.py for all trainings, looked at before anything starts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from configs import load_preset, parse_command_line, to_plain
from errors import UserError

_SCENES, _HERE = "the scenes themselves", "this command itself"
OF_THE_FLEET = {
    **dict.fromkeys(("_s", "__source", "__source_path"), _SCENES),
    **dict.fromkeys(("_m", "__model_path", "__overwrite", "__resume", "__viewer"), _HERE),
    "__threads": "--threads of this command",
}
"""Options (dashes as underscores) that every training gets from elsewhere, and from where."""


def split_options(words: str, taken: Mapping[str, str] = OF_THE_FLEET) -> tuple[str, ...]:
    """The words of --train.

    Args:
        words: as the shell would get them.
        taken: options that are for others to say, and for whom.

    Raises:
        UserError: a quote is open, an option is not for here, or train.py does not know one.
    """
    try:
        found = tuple(shlex.split(words))
    except ValueError as error:
        raise UserError(f"--train: {words!r}: {error}: mend the quotes") from error
    for word in found:
        name = word.partition("=")[0].replace("-", "_")
        if not word.startswith("--"):
            name = name[:2]  # -sFOLDER is -s FOLDER
        if word.startswith("-") and name in taken:
            raise UserError(f"--train: {word}: that is for {taken[name]} to say: leave it out")
        if word in ("-h", "--help"):
            raise UserError("--train: see python train.py --help for what can be said here")
    said = io.StringIO()
    plain = parse_command_line(["-s", "."]).config
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parsed = parse_command_line(["-s", ".", *found])
            if parsed.config.config:
                load_preset(parsed.config.config)
        for name in ("source_path", "model_path"):  # whatever way they were said in
            if getattr(parsed.config, name) != getattr(plain, name):
                raise UserError(f"{words!r} says {name}, which this command does: leave it out")
    except SystemExit as error:
        lines = [line.strip(" │╭╰─") for line in said.getvalue().splitlines()]
        told = [line for line in lines if any(c.isalnum() for c in line) and "--help" not in line]
        told = [line for line in told if any(word and word in line for word in found)] or told
        raise UserError(f"--train: {told[-1] if told else words}: see python train.py --help") from error
    except UserError as error:
        raise UserError(f"--train: {error}") from error
    return found


def meaning(options: tuple[str, ...]) -> str:
    """Stands for the options and for all that the preset among them says, which may be a file."""
    preset = parse_command_line(["-s", ".", *options]).config.config
    said = [
        to_plain(load_preset(preset, few_views=few, around=around))
        for few in (False, True)
        for around in (False, True)
        if preset
    ]
    text = json.dumps([options, said], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def absolute(folder: Path) -> Path:
    """A folder's path that holds wherever a training is started; links stay."""
    return folder.expanduser().absolute()
