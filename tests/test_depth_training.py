"""train.py with depth priors and confidence maps: what it says, shows, keeps, and repeats.

Not checked here: what they bring on real photographs (docs/depth.md).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train
from engine import load_checkpoint
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RUN = [
    *("--eval", "--config", "quick", "--iterations", "20", "--checkpoint_every", "10", "--init", "sfm"),
    *("--depth_loss", "pearson", "--densify.start", "2", "--densify.every", "4"),
    *("--pyramid.factor", "2", "--pyramid.until", "10"),
]
NO_LOSS = ("--depth_loss", "none")

pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture
def scene(stereo_scene: Path) -> Path:
    return stereo_scene


def _train(patch: pytest.MonkeyPatch, scene: Path, output: Path, *options: str) -> dict:
    words = [
        "-s",
        str(scene),
        "-m",
        str(output),
        *RUN,
        "--depth_cache",
        str(output.parent / "cache"),
        *options,
    ]
    patch.setattr(sys, "argv", ["train.py", *words])
    train.main()
    return load_checkpoint(output / "checkpoints" / "iteration_20.pt")


def _events(output: Path) -> tuple[set[str], dict[str, list[int]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    return set(tags["scalars"]), {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]}


def test_the_built_in_prior_trains_says_so_and_is_shown_once(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(monkeypatch, scene, tmp_path / "out", "--confidence", "mvs")
    said = capsys.readouterr().err
    assert "depth prior: mvs (no --depth_dir and no MiDaS weights on disk), 8 of 8 views" in said
    assert "confidence: agreement of views, 8 of 8 views" in said
    scalars, images = _events(tmp_path / "out")
    assert "loss/depth_pearson" in scalars
    shown = {tag: steps for tag, steps in images.items() if tag.startswith(("prior/", "confidence/"))}
    assert len(shown) == 8 * 3 and all(steps == [0] for steps in shown.values())
    assert len([tag for tag in shown if tag.endswith("/depth")]) == 8
    assert len(list((tmp_path / "cache").glob("mvs-*.npz"))) == 8


def test_a_prior_changes_what_is_learned_and_not_its_exactness(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--quiet", "--confidence", "mvs", "--batch_size", "2")
    one = _train(monkeypatch, scene, tmp_path / "a", *options, "--threads", "1")
    shutil.rmtree(tmp_path / "cache")  # so that stereo, too, is computed on three threads
    three = _train(monkeypatch, scene, tmp_path / "b", *options, "--threads", "3")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c" / "checkpoints" / "iteration_20.pt").unlink()  # as if it had died after 10
    resumed = _train(monkeypatch, scene, tmp_path / "c", *options, "--resume")
    for other in (three, resumed):
        for key, value in one["gaussians"].items():
            assert torch.equal(value, other["gaussians"][key]), key
    without = _train(monkeypatch, scene, tmp_path / "d", *options, "--depth_prior", "none")
    plain = _train(
        monkeypatch, scene, tmp_path / "e", "--quiet", "--batch_size", "2", "--depth_prior", "none"
    )
    means = [run["gaussians"]["means"] for run in (one, without, plain)]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in ((means[0], means[1]), means[1:]))


FEW_VIEWS = (
    *("--regularise.dropout", "0.3", "--regularise.opacity_decay", "0.999", "--regularise.max_ratio", "5"),
    *("--loss.binocular", "0.5", "--loss.binocular_from", "4", "--optim.decay", "0.1", "--depth_loss", "g2"),
)


def test_what_few_views_need_is_exact_too(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--quiet", *FEW_VIEWS)
    one = _train(monkeypatch, scene, tmp_path / "a", *options, "--threads", "1", "--log_every", "1")
    three = _train(monkeypatch, scene, tmp_path / "b", *options, "--threads", "3")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c" / "checkpoints" / "iteration_20.pt").unlink()
    resumed = _train(monkeypatch, scene, tmp_path / "c", *options, "--resume")
    for other in (three, resumed):
        for key, value in one["gaussians"].items():
            assert torch.equal(value, other["gaussians"][key]), key
    scalars, _ = _events(tmp_path / "a")
    assert {"loss/binocular", "loss/depth_g2", "loss/l1"} <= scalars
    assert not any(tag.startswith("skipped/") for tag in scalars)
    scales = one["gaussians"]["scales"].sort(dim=1).values.exp()
    assert float((scales[:, 2] / scales[:, 1]).max()) <= 5 * (1 + 1e-5)


@pytest.mark.parametrize("name", ["pearson_patch", "adepth", "rdepth", "rgrad", "ssi", "silog", "inverse_l1"])
def test_every_depth_loss_trains(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = ("--depth_loss", name, "--loss.depth_weight_final", "0.01", "--quiet")
    _train(monkeypatch, scene, tmp_path / "out", *options, "--log_every", "1")
    scalars, _ = _events(tmp_path / "out")
    assert f"loss/depth_{name}" in scalars and f"skipped/depth_{name}" not in scalars


def test_views_without_a_prior_are_counted(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maps").mkdir()
    names = sorted(image.stem for image in (scene / "images").iterdir())
    for stem in (names[0], names[1]):  # by --eval the first is a test view
        noise = np.random.default_rng(0).random((96, 128), np.float32)
        np.save(tmp_path / "maps" / f"{stem}.npy", 1 + noise)
    maps = ("--depth_dir", str(tmp_path / "maps"), "--no_depth_align", "--n_views", "4", "--quiet")
    _train(monkeypatch, scene, tmp_path / "out", *maps)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["train_views"] == 4  # of which one has a map
    assert summary["skipped_terms_of_this_process"] == {"depth_pearson": 20 * 3 // 4}


def test_a_term_that_cannot_be_computed_is_counted_and_said(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "maps").mkdir()
    for image in (scene / "images").iterdir():
        np.save(
            tmp_path / "maps" / f"{image.stem}.npy",
            np.tile(np.linspace(1, 2, 128, dtype=np.float32), (96, 1)),
        )
    maps = ("--depth_dir", str(tmp_path / "maps"), "--depth_frame", "affine", "--no_depth_align")
    options = (
        "--depth_loss",
        "adepth",
        "--batch_size",
        "2",
        "--log_every",
        "8",
    )  # it needs the scene's units
    _train(monkeypatch, scene, tmp_path / "out", *maps, *options, "--quiet")
    assert "depth_adepth was left out 40 times" in caplog.text, "also where it is to be quiet"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["skipped_terms_of_this_process"] == {"depth_adepth": 40}
    events = EventAccumulator(str(tmp_path / "out"))
    events.Reload()
    counts = [(event.step, event.value) for event in events.Scalars("skipped/depth_adepth")]
    assert counts == [(8, 16.0), (16, 32.0), (20, 40.0)]


def test_an_option_of_a_loss_that_is_off_is_refused(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"loss\.depth_weight: .*--depth_loss"):
        _train(monkeypatch, scene, tmp_path / "out", *NO_LOSS, "--loss.depth_weight", "0.1")


def test_full_confidence_equals_none_bit_for_bit(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sure"
    folder.mkdir()
    for image in (scene / "images").iterdir():
        cv2.imwrite(str(folder / f"{image.stem}.png"), np.full((96, 128), 255, np.uint8))
    options = ("--quiet", "--depth_prior", "none")
    plain = _train(monkeypatch, scene, tmp_path / "a", *options)
    sure = _train(
        monkeypatch, scene, tmp_path / "b", *options, "--confidence", "files", "--confidence_dir", str(folder)
    )
    for key, value in plain["gaussians"].items():
        assert torch.equal(value, sure["gaussians"][key]), key


def test_maps_from_files_are_fitted_and_named(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(monkeypatch, scene, tmp_path / "out", "--depth_dir", str(scene / "depth"))
    assert "depth prior: files (--depth_dir is given), 8 of 8 views, 8 fitted" in capsys.readouterr().err


def test_a_run_without_a_depth_loss_makes_no_prior(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(monkeypatch, scene, tmp_path / "out", *NO_LOSS)
    assert "depth prior" not in capsys.readouterr().err and not (tmp_path / "cache").exists()
    assert not any(tag.startswith("prior/") for tag in _events(tmp_path / "out")[1])
    _train(monkeypatch, scene, tmp_path / "c", *NO_LOSS, "--init", "mvs")
    shown = [tag for tag in _events(tmp_path / "c")[1] if tag.startswith("prior/")]
    assert len(shown) == 8 * 2  # what stereo found is worth a look, whatever it was done for
    _train(monkeypatch, scene, tmp_path / "b", *NO_LOSS, "--depth_prior", "mvs")
    assert "not used: add --depth_loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--depth_prior", "midas:small"), "--depth_download"),
        (("--depth_prior", "midas:huge"), "midas:dpt_hybrid"),
        (("--depth_prior", "files"), "--depth_dir"),
        (("--depth_dir", "gone"), "gone"),
        (("--confidence", "augment"), "--confidence mvs"),
        (("--confidence", "files", "--confidence_dir", "gone"), "gone"),
        (("--loss.depth_weight", "-1"), "depth_weight"),
    ],
)
def test_wrong_options_write_nothing(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        _train(monkeypatch, scene, tmp_path / "out", *options)
    assert not (tmp_path / "out" / "config.yaml").exists()
    assert not (tmp_path / "out" / "input.ply").exists()


def test_a_damaged_map_is_one_line_and_exit_code_2(scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    shutil.copytree(scene / "depth", folder)
    bad = sorted(folder.iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:200])
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), "-s", str(scene), "-m", str(tmp_path / "out")),
            *(*RUN, "--depth_dir", str(folder)),
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and bad.name in done.stderr and "Traceback" not in done.stderr


def test_a_missing_network_does_not_cost_the_run_that_is_to_be_replaced(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(monkeypatch, scene, tmp_path / "out", "--quiet", *NO_LOSS)
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(UserError, match="--depth_download"):
        _train(monkeypatch, scene, tmp_path / "out", "--overwrite", "--depth_prior", "midas:small")
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before
