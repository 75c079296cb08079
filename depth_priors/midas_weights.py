"""Finding MiDaS's weights on disk, or fetching them where the user has asked for it; the file is verified.

Looked for, in this order: the path given, the folder $FEWSPLAT_WEIGHTS, torch hub's cache of checkpoints
(under the new and the old name). Only then, and only if wished, a download into torch hub's cache.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from atomic import atomic_write, file_digest
from depth_priors.midas import MODELS, build
from errors import UserError

FOLDER = "FEWSPLAT_WEIGHTS"


def find_weights(name: str, explicit: Path | None = None) -> Path | None:
    """The file of a model's weights, or None where there is none.

    Args:
        name: a key of `MODELS`.
        explicit: the file, or a folder with it, that the user has named.

    Raises:
        UserError: what the user has named is not there.
    """
    files = MODELS[name].files
    if explicit is not None:
        path = explicit.expanduser()
        candidates = [path / file for file in files] if path.is_dir() else [path]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(
                f"--depth_weights: {explicit}: expected a file of weights, or a folder with "
                f"{' or '.join(files)}: check the path, or get it from {MODELS[name].url}"
            )
        return found
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    if os.environ.get(FOLDER):
        folders.insert(0, Path(os.environ[FOLDER]).expanduser())
    return next((f / file for f in folders for file in files if (f / file).is_file()), None)


def download_weights(name: str) -> Path:
    """Fetches a model's weights into torch hub's cache; the file is verified before it gets its name.

    Raises:
        UserError: no network, or not the file that was published.
    """
    model = MODELS[name]
    target = Path(torch.hub.get_dir()) / "checkpoints" / model.files[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(model.url, timeout=60) as response, atomic_write(target) as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=model.files[0], unit="B", unit_scale=True, leave=False) as bar:
                while block := response.read(1 << 20):
                    digest.update(block)
                    file.write(block)
                    bar.update(len(block))
            _check_digest(model.url, digest.hexdigest(), model.sha256)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"--depth_download: {model.url}: cannot fetch it ({reason}): fetch it by other means and give "
            "its path with --depth_weights"
        ) from error
    return target


def load_network(name: str, path: Path, *, sha256: str | None = None) -> nn.Module:
    """The network with the weights of a file.

    Args:
        name: a key of `MODELS`.
        path: the official file.
        sha256: what its sum must be; None = the published one.

    Raises:
        UserError: the file is not the published one, cannot be read, or holds other weights.
    """
    _check_digest(str(path), weights_digest(path), MODELS[name].sha256 if sha256 is None else sha256)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot read the weights ({reason}): get the file anew") from error
    if isinstance(content, dict) and "optimizer" in content:
        content = content.get("model")
    with torch.device("meta"):  # neither memory nor time for weights that are replaced
        network = build(name)
    wanted = network.state_dict()
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise UserError(f"{path}: expected the weights of MiDaS {name}, got something else: get it anew")
    wrong = sorted(set(wanted) ^ set(content)) or [
        key for key, value in wanted.items() if content[key].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"{path}: expected the weights of MiDaS {name} ({len(wanted)} entries), got {len(content)} of "
            f"which {len(wrong)} do not fit, such as {wrong[0]}: is it the file of another model?"
        )
    whole = {key: value.to(wanted[key].dtype) for key, value in content.items()}
    network.load_state_dict(whole, strict=True, assign=True)
    return network


def weights_digest(path: Path) -> str:
    """The sha256 of a file of weights, as hexadecimal digits.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights ({error.strerror}): check the path") from error


def _check_digest(where: str, got: str, expected: str) -> None:
    if got != expected:
        raise UserError(
            f"{where}: expected the published weights, whose sha256 begins with {expected[:16]}, got "
            f"{got[:16]}: the file is damaged or another one; remove it and get it anew"
        )
