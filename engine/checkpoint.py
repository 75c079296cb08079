"""Checkpoints: all that a run needs to go on as if it had never stopped, bit for bit.

One file per checkpoint, `checkpoints/iteration_N.pt`, made of tensors and primitives only and read with
`weights_only=True`, so that opening a stranger's file cannot run code. A file is whole or absent (see
atomic.py); reading checks its sums first, and nothing of the running state changes before everything in
the file has been found right.
"""

from __future__ import annotations

import logging
import re
import time
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomic import atomic_write
from engine.checkpoint_values import group_fault, moments_fault, tensor_fault
from engine.finite import check_finite
from engine.migrations import FORMAT, STEPS
from engine.pickles import extent_fault, hashing_fault
from engine.seeding import generator_states, set_generator_states
from engine.state import TrainingState
from errors import UserError
from versions import VERSION, brought_up

KIND = "Gaussian splatting training state"
_NAME = re.compile(r"iteration_(\d+)\.pt")
_CONTENT: dict[str, type] = {
    "iteration": int,
    "scene": str,
    "config": dict,
    "gaussians": dict,
    "optimizer": dict,
    "densifier": dict,
    "sampler": dict,
    "random": dict,
}
_log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A checkpoint that cannot be used: missing, damaged, of another format or another model."""


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """Returns the file of an iteration's checkpoint in a run's `checkpoints` folder."""
    return folder / f"iteration_{iteration}.pt"


def save_checkpoint(
    path: Path,
    state: TrainingState,
    config_dict: dict[str, Any],
    *,
    keep: int = 2,
    protected: Collection[int] = (),
) -> None:
    """Writes a checkpoint atomically, then removes older ones beyond the last `keep`.

    Args:
        path: `checkpoint_path(folder, state.iteration)`; the folder is made.
        state: the run's state after a whole iteration.
        config_dict: the resolved configuration as primitives (for a reader; training goes on with
            config.yaml).
        keep: number of checkpoints that stay; 0 = all.
        protected: iterations whose checkpoints stay in any case.

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are untouched.
        NotFinite: a parameter or an average is NaN or infinite; nothing is written then.
        TypeError: a state dict holds something other than tensors and primitives.
    """
    check_finite(state)
    began = time.perf_counter()
    content = {
        "kind": KIND,
        "format": FORMAT,
        "program": VERSION,
        "iteration": state.iteration,
        "scene": state.scene,
        "config": config_dict,
        "gaussians": state.gaussians.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "densifier": state.densifier.state_dict(),
        "sampler": state.sampler.state_dict(),
        "random": generator_states(state.generator),
        "photographs": state.photographs,  # absent in checkpoints of earlier versions
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        torch.save(_plain(content, "checkpoint"), file)
    _log.debug("%s: written in %.2f s", path, time.perf_counter() - began)
    if keep > 0:
        prune_checkpoints(path.parent, keep, protected, state.iteration)


def prune_checkpoints(
    folder: Path, keep: int, protected: Collection[int] = (), last: int | None = None
) -> None:
    """Removes all but the last `keep` checkpoints up to iteration `last`, and all but `protected` ones.

    What is newer than `last`, which has just been written, was passed over as damaged: it counts for none.
    """
    known = [(i, path) for i, path in _newest_first(folder) if last is None or i <= last]
    for iteration, path in known[keep:]:
        if iteration not in protected:
            path.unlink(missing_ok=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest undamaged checkpoint of a run's `checkpoints` folder, or None if there is none.

    A damaged one is reported and passed over for the one before it.
    """
    for _, path in _newest_first(folder):
        try:
            _check_archive(path)
            return path
        except CheckpointError as error:
            _log.warning("%s Trying the checkpoint before it.", error)
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads and checks a checkpoint, its tensors on the CPU; older formats are brought to the present one.

    Returns:
        The content (`iteration`, `config`, `gaussians`, `optimizer`, `densifier`, `sampler`, `random`) and
        `path`, for `restore`.

    Raises:
        CheckpointError: it is missing, damaged, not ours, or of a newer format.
    """
    _check_archive(path)
    try:
        fault = hashing_fault(_pickle_of(path))
        content = None if fault else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that somebody has changed makes torch raise anything
        raise _not_ours(path) from error
    if fault := fault or extent_fault(content):
        raise CheckpointError(f"{path}: {fault}: {_OTHER}.")
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise _not_ours(path)
    content = brought_up(
        content, path=path, what="checkpoint", present=FORMAT, steps=STEPS, error=CheckpointError
    )
    for key, kind in _CONTENT.items():
        if key not in content:
            raise CheckpointError(f"{path}: the checkpoint has no {key!r}: {_OTHER}.")
        if not isinstance(content[key], kind):
            got = type(content[key]).__name__
            raise CheckpointError(f"{path}: {key}: expected {kind.__name__}, got {got}: {_OTHER}.")
    if isinstance(content["iteration"], bool) or not 0 <= content["iteration"] < 2**53:
        raise CheckpointError(f"{path}: iteration: expected a number of iterations: {_OTHER}.")
    for key, value in content["gaussians"].items():
        if fault := tensor_fault(value):
            raise CheckpointError(f"{path}: gaussians: {str(key)[:60]}: {fault}: {_OTHER}.")
    return {**content, "path": str(path)}


def restore(state: TrainingState, payload: dict[str, Any]) -> None:
    """Puts `state` where it was when the checkpoint was saved.

    The number of Gaussians may differ; everything else (keys, SH degree, parameter groups, number of views)
    must agree. On an error `state` is as it was before. Photographs that have changed since the run began are
    said, in a warning, and those that it began with are remembered.

    Raises:
        CheckpointError: the checkpoint belongs to another model or scene.
    """
    path = payload["path"]
    if state.scene and payload["scene"] and state.scene != payload["scene"]:
        raise CheckpointError(
            f"{path}: the checkpoint was made with other training views (scene, -r, --eval or --n_views): "
            "resume with the run's own, or start anew with another -m."
        )
    _check_gaussians(path, state, payload["gaussians"])
    _check_optimizer(path, state, payload)
    _load_parts(path, state, payload)  # whatever may still refuse, and is put back then
    device = state.gaussians.device
    state.gaussians.load_state_dict({key: value.to(device) for key, value in payload["gaussians"].items()})
    state.optimizer.state.clear()
    for group in state.optimizer.param_groups:  # loading may have made new parameters of another length
        group["params"] = [state.gaussians.params[group["name"]]]
    state.optimizer.load_state_dict(payload["optimizer"])
    state.iteration = payload["iteration"]
    _compare_photographs(path, state, payload.get("photographs"))


_OTHER = "use another checkpoint, or start anew with --overwrite"


def _newest_first(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yields (iteration, path) of the checkpoints in a folder, the newest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    yield from sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _not_ours(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: not a checkpoint of this program: name one that train.py wrote.")


def _pickle_of(path: Path) -> bytes:
    """The tree in a checkpoint's archive, without its tensors' numbers; nothing where there is none."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return archive.read(names[0]) if names else b""


def _check_archive(path: Path) -> None:
    """Checks that the file is a whole archive by its checksums, without unpacking it.

    Raises:
        CheckpointError: it is missing, not an archive, cut short, or damaged.
    """
    damaged = CheckpointError(f"{path}: the checkpoint is cut short or damaged: {_OTHER}.")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if not b"PK\x03\x04".startswith(start):  # how every zip archive, and so every torch file, begins
            raise _not_ours(path)
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise _not_ours(path)  # torch packs nothing, and a few megabytes could unpack to any size
            if archive.testzip() is not None:
                raise damaged
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint ({error.strerror}): {_OTHER}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise damaged from error


def _plain(value: Any, where: str) -> Any:
    """Copies a tree, tensors detached and cut from larger storages, and refuses other objects.

    Raises:
        TypeError: naming the place of anything that `weights_only` loading would refuse.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()
    if isinstance(value, dict):
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where}: expected tensors and primitives, got {type(value).__name__}")


def _check_gaussians(path: str, state: TrainingState, saved: dict[str, Any]) -> None:
    """Raises CheckpointError unless `saved` has the model's keys and shapes, with one common N."""
    expected = {key: tuple(value.shape) for key, value in state.gaussians.params.items()}
    if set(saved) != set(expected) or not all(isinstance(value, Tensor) for value in saved.values()):
        got = sorted(map(str, saved))
        raise CheckpointError(f"{path}: gaussians: expected tensors {sorted(expected)}, got {got}: {_OTHER}.")
    rows = saved[next(iter(expected))].shape[:1]
    for key, shape in expected.items():
        if tuple(saved[key].shape) != (*rows, *shape[1:]):
            sizes = ", ".join([f"N={rows[0] if rows else '?'}", *map(str, shape[1:])])
            raise CheckpointError(
                f"{path}: gaussians.{key}: expected [{sizes}], got {list(saved[key].shape)}: "
                "train with the options of the run (same --model.sh_degree), or start anew with --overwrite."
            )


def _compare_photographs(path: str, state: TrainingState, began_with: Any) -> None:
    """Warns of training views whose pixels are not those that the run began with, where these are known."""
    if not isinstance(began_with, dict) or not began_with:
        return
    now = state.photographs
    changed = sorted(name for name in now if name in began_with and began_with[name] != now[name])
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        _log.warning(
            "%s: %d of %d photographs have other pixels than when this run began (%s%s): it goes on with "
            "what is there now; put the files back, or start anew with --overwrite",
            path, len(changed), len(now), ", ".join(changed[:3]), more,
        )  # fmt: skip
    state.photographs = dict(began_with)


def _check_optimizer(path: str, state: TrainingState, payload: dict[str, Any]) -> None:
    """Raises CheckpointError unless the saved moments fit the saved parameters group by group."""
    saved = payload["optimizer"]
    try:
        groups = [(group["name"], list(group["params"])) for group in saved["param_groups"]]
        moments = saved["state"]
        if not isinstance(moments, dict):
            raise TypeError(f"state: {type(moments).__name__}")
        names = [group["name"] for group in state.optimizer.param_groups]
        if [name for name, _ in groups] != names or any(len(members) != 1 for _, members in groups):
            found = [" ".join(str(name).split())[:40] for name, _ in groups]
            raise CheckpointError(f"{path}: optimizer: expected groups {names}, got {found}: {_OTHER}.")
        for name, (index,) in groups:
            shape = payload["gaussians"][name].shape
            for key, value in moments.get(index, {}).items():
                if isinstance(value, Tensor) and value.dim() > 0 and value.shape != shape:
                    got = list(value.shape)
                    raise CheckpointError(
                        f"{path}: optimizer.{name}.{key}: expected {list(shape)}, got {got}: {_OTHER}."
                    )
        for group, own in zip(saved["param_groups"], state.optimizer.param_groups, strict=True):
            shape = payload["gaussians"][own["name"]].shape
            fault = group_fault(group, own) or moments_fault(moments.get(group["params"][0], {}), shape)
            if fault:
                raise CheckpointError(f"{path}: optimizer: {own['name']}: {fault}: {_OTHER}.")
    except CheckpointError:
        raise
    except Exception as error:  # values of a file that somebody has changed make anything raise
        raise CheckpointError(f"{path}: optimizer: not a state of one ({error!r}): {_OTHER}.") from error


def _load_parts(path: str, state: TrainingState, payload: dict[str, Any]) -> None:
    """Restores sampler, densifier and generators; if one refuses, puts all of them back and raises."""
    sampler, densifier = state.sampler.state_dict(), state.densifier.state_dict()
    before = _copy({"sampler": sampler, "densifier": densifier, "random": generator_states(state.generator)})
    part = "sampler"
    try:
        state.sampler.load_state_dict(payload["sampler"])
        part = "densifier"
        state.densifier.load_state_dict(payload["densifier"])
        part = "random"
        set_generator_states(payload["random"], state.generator)
    except Exception as error:  # values of a file that somebody has changed make anything raise
        state.sampler.load_state_dict(before["sampler"])
        state.densifier.load_state_dict(before["densifier"])
        set_generator_states(before["random"], state.generator)
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # torch's have a stack below
        raise CheckpointError(
            f"{path}: {part}: does not fit this run ({reason}): train with the scene and options of the run, "
            "or start anew with --overwrite."
        ) from error


def _copy(value: Any) -> Any:
    """Copies a tree of tensors and primitives."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value
