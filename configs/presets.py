"""Presets: YAML files beside this one, found by name or by path."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from configs.config_error import ConfigError
from configs.migrations import options_of
from configs.scaling import scale_schedules
from configs.schema import Config
from configs.values import read_yaml, update

SPARSE_VIEWS = 24
"""Up to this many training views a scene counts as sparse: the few-shot literature uses 3 to 24."""
FEW_VIEWS = 12
"""Up to this many a preset's section `few_views` counts. `quick` on 17 views around the synthetic room gives
27.0 dB without it, 25.9 with it."""

SECTIONS = ("few_views", "around")
"""Parts of a preset that count for some scenes only: up to 12 training views; cameras that do not all look
one way (what FSGS calls 360 degrees)."""
_USED_EARLY = ("scene", "backend", "threads")
"""Options that count before the number of training views is known."""
_RUN_KEYS = ("source_path", "model_path", "config", "resume", "overwrite")


def preset_names() -> list[str]:
    """Returns the names that `--config` knows."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def choose_preset(n_train_views: int, backend: str) -> str:
    """Returns the preset for a scene when none is asked for.

    Args:
        n_train_views: number of training views after `--eval` and `--n_views`.
        backend: the one that will render; without a GPU many views take a schedule made for minutes of CPU.
    """
    if n_train_views <= SPARSE_VIEWS:
        return "sparse_view"
    return "full_capture" if backend == "gsplat" else "cpu_capture"


def load_preset(name_or_path: str, *, few_views: bool = False, around: bool = False) -> Config:
    """Returns the defaults changed by a preset, and by its sections `few_views` and `around` where asked for.

    A preset may begin with another one (`begins_with: NAME`). A schedule that none states is the default's,
    scaled to the preset's own `iterations`. The config.yaml of an earlier run is a preset too; the paths in
    it are left out.

    Raises:
        ConfigError: no such preset or file, an unknown key, or a bad value.
    """
    asked = (few_views, around)
    return _load(find_preset(name_or_path), tuple(s for s, on in zip(SECTIONS, asked, strict=True) if on), ())


def _load(path: Path, asked: tuple[str, ...], above: tuple[Path, ...]) -> Config:
    """Returns the preset in a file with the sections asked for; `above` are those that begin with it."""
    content = read_yaml(path)
    if "format" in content:  # the config.yaml of a run
        content = options_of(path, content)
    values = {key: value for key, value in content.items() if key not in _RUN_KEYS}
    before = values.pop("begins_with", None)
    sections = {name: values.pop(name, {}) for name in SECTIONS}
    if path.resolve() in above:
        raise ConfigError(f"{path}: begins_with: these presets begin with each other: mend one.")
    if before is not None and not isinstance(before, str):
        raise ConfigError(f"{path}: begins_with: expected the name of a preset, got {before!r}: mend it.")
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name}: expected options, got {section!r}: mend the file.")
        if early := sorted({"begins_with", *SECTIONS, *_USED_EARLY} & set(section)):
            raise ConfigError(
                f"{path}: {name}: {early[0]} counts before the views are known: state it outside."
            )
    base = Config()
    if before is not None:
        try:
            base = _load(find_preset(before, beside=path), asked, (*above, path.resolve()))
        except ConfigError as error:
            if str(error).startswith(f"{path}: begins_with: "):  # a circle, which says all there is to say
                raise
            raise ConfigError(f"{path}: begins_with: {str(error).removeprefix('--config: ')}") from error
    for name, section in sections.items():
        if name in asked:
            values = _merged(values, section)
        else:
            update(base, section, str(path))  # a mistake there is said even where it is not used
    config = update(base, values, str(path))
    return scale_schedules(config, config.iterations / base.iterations, set(_stated(values)))


def find_preset(name_or_path: str, *, beside: Path | None = None) -> Path:
    """Returns the file of a preset: one of ours by its name, else a path from the folder of `beside` or here.

    Raises:
        ConfigError: there is none; names a similar one.
    """
    shipped = Path(__file__).parent
    named = shipped / f"{name_or_path}.yaml"
    if "/" not in name_or_path and _is_file(named):
        return named
    try:
        given = Path(name_or_path).expanduser()
    except RuntimeError:  # ~somebody who is not known here
        given = Path(name_or_path)
    near = () if beside is None else (beside.parent / given,)
    for path in (*near, given, shipped.parent / name_or_path):  # the last one for a start from another folder
        if _is_file(path):
            return path
    names = preset_names()
    similar = difflib.get_close_matches(Path(name_or_path).stem, names, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"presets: {', '.join(names)}."
    raise ConfigError(f"--config: no preset or file {name_or_path!r}: {hint}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or none at all
        return False


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns nested mappings changed by others."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        merged[key] = _merged(values[key], value) if both else value
    return merged


def _stated(values: dict[str, object], prefix: str = "") -> list[str]:
    """Returns the dotted paths of all values in nested mappings."""
    paths: list[str] = []
    for key, value in values.items():
        paths += _stated(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return paths
