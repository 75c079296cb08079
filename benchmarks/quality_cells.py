"""The trainings of scripts/benchmark_quality: scenes, view counts, presets, variants, seeds."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs import expand_at_files, load_preset, to_plain
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("images", "sparse", "transforms.json", "transforms_train.json")
"""One of these makes a folder a scene."""
_OUTPUT = "the benchmark itself"
_OWN = {
    **dict.fromkeys(("_s", "__source", "__source_path"), "the scenes"),
    **dict.fromkeys(("_m", "__model_path", "__overwrite", "__resume", "__eval", "__quiet"), _OUTPUT),
    **{"__n_views": "--views", "__config": "--presets", "__seed": "--seeds"},
}
"""Options of train.py (dashes as underscores) that a training gets from elsewhere, and from where."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    scene: Path
    views: int
    preset: str
    variant: str
    options: tuple[str, ...]
    seed: int
    common: str = ""
    """What all trainings of the call have in common besides; part of the name, so that calls with other
    options do not take each other's results away."""
    digest: str = ""
    """Of what the preset says, so that one that has changed is trained anew."""

    @property
    def label(self) -> str:
        """Preset and variant."""
        name = Path(self.preset).stem
        return f"{name}, {self.variant}" if self.variant else name

    @property
    def name(self) -> str:
        """Of its folder."""
        words = [self.scene.name, str(self.views or "all"), self.label.replace(", ", "-"), str(self.seed)]
        if self.common:
            words.append(hashlib.sha256(self.common.encode()).hexdigest()[:6])
        return "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in word) for word in words)

    def command(self, folder: Path) -> list[str]:
        """Of train.py."""
        views = ("--n_views", str(self.views)) if self.views else ()
        return [
            *(sys.executable, str(ROOT / "train.py"), "-s", str(self.scene), "-m", str(folder), "--eval"),
            *(*views, "--config", self.preset, "--seed", str(self.seed), "--overwrite", "--quiet"),
            *self.options,
        ]


def find_cells(
    given: Sequence[str],
    views: Sequence[int],
    presets: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    common: str,
) -> list[Cell]:
    """All trainings, scene by scene; they are done preset by preset, and seed by seed within.

    Args:
        given: scenes (SCENE:6 for one with its own number of views) or folders of scenes.
        views: of the others; 0 = all.
        presets: names or files.
        variants: NAME=OPTIONS, besides none; @FILE for a file of such lines.
        seeds: of each.
        common: options of train.py for all.

    Raises:
        UserError: no scene, or an option with no meaning.
    """
    if not (views and presets and seeds):
        raise UserError("--views, --presets, --seeds: expected at least one each: name some")
    if min(*views, *seeds) < 0:
        raise UserError(f"--views, --seeds: expected numbers from 0, got {min(*views, *seeds)}")
    scenes = [place for one in given for place in _places(one, views)]
    if not scenes:
        raise UserError("expected a scene, or a folder of scenes: name one")
    named: list[tuple[str, tuple[str, ...]]] = [("", ())]
    variants = expand_at_files(variants)
    for variant in variants:
        name, equals, words = variant.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--variants: expected NAME=OPTIONS, got {variant!r}")
        named.append((name.strip(), _split(words, "--variants")))
    for option, said in (("--train", common), *(("--variants", words) for words in variants)):
        _refuse_own(option, said)
    every, digests = _split(common, "--train"), {name: _digest(name) for name in presets}
    cells = [
        Cell(scene, count, preset, name, (*every, *words), seed, common.strip(), digests[preset])
        for scene, counts in scenes
        for count in counts
        for preset in presets
        for name, words in named
        for seed in seeds
    ]
    name, times = Counter(cell.name for cell in cells).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{times} trainings would have the name {name}: expected scenes, views, presets, variants and "
            "seeds of different names: rename or leave out one"
        )
    return cells


def _refuse_own(option: str, said: str) -> None:
    """Refuses what each training is given already, and would then be something else than its row says.

    Raises:
        UserError: names it.
    """
    for word in _split(said.partition("=")[2] if option == "--variants" else said, option):
        name = word.partition("=")[0].replace("-", "_")
        if word.startswith("-") and name in _OWN:
            raise UserError(f"{option}: {word}: that is for {_OWN[name]} to say: leave it out")


def _places(given: str, views: Sequence[int]) -> list[tuple[Path, Sequence[int]]]:
    """The scenes of one argument, with their numbers of views."""
    name, colon, number = given.rpartition(":")
    own = bool(colon) and number.isdecimal()
    path = Path(name if own else given).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"{given}: no such folder: name scenes or folders of scenes")
    found = [path] if _is_scene(path) else [one for one in sorted(path.iterdir()) if _is_scene(one)]
    if not found:
        raise UserError(f"{given}: expected a scene (images, sparse/0) or a folder of scenes, found neither")
    return [(one, [int(number)] if own else views) for one in found]


def _split(words: str, option: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(words))
    except ValueError as error:
        raise UserError(f"{option}: {words!r}: {error}: mend the quotes") from error


def _digest(preset: str) -> str:
    """Stands for all that a preset says.

    Raises:
        UserError: there is no such preset, or it is no good.
    """
    said = [
        to_plain(load_preset(preset, few_views=few, around=around))
        for few in (False, True)
        for around in (False, True)
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_scene(folder: Path) -> bool:
    return folder.is_dir() and any((folder / part).exists() for part in PARTS)
