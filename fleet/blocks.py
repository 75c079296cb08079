"""Trains one large scene in blocks and puts them together; the command behind scripts/train_blocks.

    scripts/train_blocks scenes/city -o output/city --blocks 3x2 --eval --train="-r 2" --jobs 2

The scene is cut on the ground plane, every block is trained as a scene of its own (by fleet/many.py), the
blocks are cropped to their cells and joined, and the result is measured. What is done is not done again.

    OUTPUT/blocks/partition.json      cells, plane, cameras and points of each block
    OUTPUT/blocks/scenes/BLOCK        a COLMAP model each, with links to the photographs
    OUTPUT/blocks/runs                the trainings, as scripts/train_many leaves them
    OUTPUT/blocks/merged.json         what each block has contributed and cost, and the figures
    OUTPUT/{point_cloud,config.yaml,cameras.json}  the model: render.py, scripts/view, scripts/export read it
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from configs import choose_preset, parse_command_line
from engine import OutputFolder, run_command
from errors import UserError
from fleet import many
from fleet.block_scenes import PLACE, Partition, Wish, check_partition, read_partition, write_partition
from fleet.folder import NOT_OURS, FleetFolder
from fleet.judging import judge, table
from fleet.merging import check_no_training, write_merged
from fleet.options import OF_THE_FLEET, absolute, meaning, split_options
from fleet.scenes import find_jobs
from native import set_threads
from rasterizer import resolve_backend

Flag = FlagCreatePairsOff[bool]
_TAKEN = {**OF_THE_FLEET, "__eval": "--eval of this command", "__n_views": "all views of the scene"}


@dataclass(frozen=True)
class Options:
    """Train a large scene in blocks, and put them together; the same command goes on where it was stopped."""

    scene: Annotated[Path, Positional, arg(metavar="SCENE")]
    """A COLMAP scene (images, sparse/0)."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FOLDER")]
    """Gets the merged model, and everything else in its folder blocks."""
    blocks: Annotated[str, arg(metavar="AxB")] = "2x2"
    """So many strips along the cameras' longest axis, each cut into so many blocks across."""
    overlap: float = 0.2
    """How far a block's cameras and points reach beyond its cell on every side, as a share of its size."""
    visible: float = 0.25
    """A camera elsewhere is one of a block's too if this share of the points that it sees lie in the cell."""
    eval: Flag = False
    """Keep every 8th image (--train=--test_every) from all blocks, and measure the merged model on these."""
    train: Annotated[str, arg(metavar="OPTIONS")] = ""
    """Options of train.py for all blocks, after an equals sign: --train="-r 2 --config full_capture". Without
    --config the preset is the one that the whole scene would get."""
    stage: Literal["all", "partition", "train", "merge", "evaluate"] = "all"
    """One step only; each needs those before it."""
    against: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A run of train.py --eval on the whole scene, to be measured on the same views."""
    jobs: int = 0
    """Trainings at a time, as in scripts/train_many; so are the next ones."""
    threads: int = 0
    """CPU threads of each training; 0 = the cores, shared out."""
    retries: int = 2
    """Further attempts after an end that may pass."""
    launcher: Literal["local", "torchrun", "ray", "slurm"] = "local"
    """Who starts the trainings; torchrun needs --stage train, and with slurm merging is a call of its own."""
    sbatch: Annotated[str, arg(metavar="OPTIONS")] = ""
    """Options of sbatch."""
    quiet: Flag = False
    """No progress bars."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options; None = the process's arguments."""
    return tyro.cli(
        Options, args=arguments, prog="scripts/train_blocks", description=__doc__, use_underscores=True
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what is missing; returns 1 where a block has failed."""
    options = parse(arguments)
    wish, words = _check(options)
    scene, output = absolute(options.scene), OutputFolder(absolute(options.output))
    if output.path.resolve() == scene.resolve():
        raise UserError(f"-o {options.output}: expected another folder than the scene's: choose one in it")
    place = output.path / PLACE
    wanted = {options.stage} if options.stage != "all" else {"partition", "train", "merge", "evaluate"}
    if "partition" in wanted:
        _make(place)
        partition = write_partition(scene, place, wish)
        print(_described(partition))
    else:
        partition = read_partition(place)
        check_partition(partition, scene, place, wish)
    words = _with_preset(words, partition)
    runs = FleetFolder(place / "runs")
    if "train" in wanted:
        code = many.run(
            many.Options(
                scenes=[str(place / "scenes")],
                output=runs.path,
                train=shlex.join(words),
                jobs=options.jobs,
                threads=options.threads,
                retries=options.retries,
                launcher=options.launcher,
                sbatch=options.sbatch,
                quiet=options.quiet,
            )
        )
        if options.launcher == "slurm":
            print("when it is done, call this again with --stage merge, and with --stage evaluate")
            return code
        if code:
            return code
    if "merge" in wanted:
        _check_trained(place, runs, words)
        iteration, merged = write_merged(
            scene,
            output,
            partition,
            runs,
            held_out=options.eval,
            said=meaning(words),
            record=place / "merged.json",
        )
        print(f"{len(merged):,} Gaussians: {output.point_cloud(iteration)}")
    if "evaluate" in wanted and (options.eval or options.stage == "evaluate"):
        if options.threads:
            set_threads(options.threads)
        against = None if options.against is None else absolute(options.against)
        record = place / "merged.json"
        _check_merged(record, words)
        print(table(judge(output, against, record, quiet=options.quiet)))
    return 0


def _make(place: Path) -> None:
    """Makes OUTPUT/blocks.

    Raises:
        UserError: OUTPUT holds something else, or cannot be written.
    """
    output = OutputFolder(place.parent)
    if output.holds_run() and not place.is_dir():
        raise UserError(f"{output.path}: holds a run of train.py: choose another -o")
    check_no_training(output)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{place}: expected a folder to write to ({error.strerror}): choose another -o"
        ) from error


def _check(options: Options) -> tuple[Wish, tuple[str, ...]]:
    """How the scene is to be cut, and the options of train.py.

    Raises:
        UserError: an option has no meaning, or no effect.
    """
    size = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", options.blocks)
    if size is None:
        raise UserError(f"--blocks: expected two numbers as 3x2, got {options.blocks!r}: change it")
    if not 0.0 <= options.overlap <= 1.0:
        raise UserError(f"--overlap: expected 0 to 1, got {options.overlap}: change it")
    if not 0.0 < options.visible <= 1.0:
        raise UserError(f"--visible: expected more than 0 and at most 1, got {options.visible}: change it")
    if options.launcher == "torchrun" and options.stage != "train":
        raise UserError(
            "--launcher torchrun: its processes can share --stage train only: do the others without"
        )
    if options.against is not None and not (options.eval or options.stage == "evaluate"):
        raise UserError("--against: it has no effect without --eval: add that, or leave it out")
    words = split_options(options.train, _TAKEN)
    views = parse_command_line(["-s", str(options.scene), *words]).config.scene
    if not Path(views.images).is_absolute() and ".." in Path(views.images).parts:
        raise UserError(
            f"--train: --images {views.images}: expected a folder in the scene, which each block gets a link "
            "to, or an absolute path: change it"
        )
    wish = Wish(
        int(size[1]),
        int(size[2]),
        options.overlap,
        options.visible,
        options.eval,
        views.test_every,
        views.images,
        views.skip_missing,
    )
    return wish, words


def _with_preset(words: tuple[str, ...], partition: Partition) -> tuple[str, ...]:
    """The options with a preset: where none is asked for the whole scene's, not a block's."""
    config = parse_command_line(["-s", ".", *words]).config
    if config.config:
        return words
    return ("--config", choose_preset(partition.train_views, resolve_backend(config.backend)), *words)


def _check_trained(place: Path, runs: FleetFolder, words: tuple[str, ...]) -> None:
    """Refuses to merge what is not there, or was trained otherwise.

    Raises:
        UserError: names the blocks.
    """
    jobs = find_jobs([str(place / "scenes")], words, meaning(words), runs.path)
    left = [job.name for job in jobs if not runs.is_done(job, job.digest())]
    if left:
        raise UserError(
            f"{runs.path}: expected {len(jobs)} blocks trained with these options, {', '.join(left[:5])}"
            f"{' and others' if len(left) > 5 else ''} {'is' if len(left) == 1 else 'are'} not: call "
            "the same command with --stage train"
        )


def _check_merged(record: Path, words: tuple[str, ...]) -> None:
    """Refuses to measure what is not there, or was trained otherwise.

    Raises:
        UserError: names the record.
    """
    if not record.is_file():
        raise UserError(f"{record}: no such file: put the blocks together first (--stage merge)")
    try:
        said = json.loads(record.read_bytes())["options"]
    except NOT_OURS as error:
        raise UserError(
            f"{record}: expected a merged model's record ({error}): --stage merge makes it anew"
        ) from error
    if said != meaning(words):
        raise UserError(
            f"{record.parent}: the merged model has other --train than are given now: give the same to each "
            "--stage, or begin again with --stage train"
        )


def _described(partition: Partition) -> str:
    """Lines about a partition."""
    lines = [
        f"{name}: {cameras} of {partition.train_views} training cameras, {points:,} of "
        f"{partition.points:,} points"
        for name, (cameras, points) in partition.sizes.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
