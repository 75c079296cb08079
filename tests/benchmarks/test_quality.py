"""scripts/benchmark_quality trains every cell once, goes on where it was stopped, and says what failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.quality import Cell, main
from benchmarks.quality_cells import find_cells
from benchmarks.quality_figures import differences
from configs import parse_command_line
from errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "--train=--iterations 6 --init sfm --pyramid.factor 1 --densify.strategy none"


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.quality", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_cells_tables_sheets_and_going_on(tmp_path: Path, small_scene: Path) -> None:
    scenes, output = tmp_path / "scenes", tmp_path / "out"
    shutil.copytree(small_scene, scenes / "room")
    (scenes / "notes").mkdir()
    words: list[str | Path] = [
        scenes,
        "--views",
        "3",
        "--presets",
        "quick",
        "--seeds",
        "0",
        "1",
        "--output",
        output,
        TRAIN,
    ]
    done = _run(*words)
    assert done.returncode == 0, done.stderr
    cells = json.loads((output / "results.json").read_text())["cells"]
    # what all trainings have in common is part of their names
    (mark,) = {name.rpartition("_")[2] for name in cells}
    assert sorted(cells) == [f"room_3_quick_0_{mark}", f"room_3_quick_1_{mark}"]
    for cell in cells.values():
        assert (
            5 < cell["psnr"] < 40 and 0 < cell["ssim"] < 1 and cell["gaussians"] > 0 and cell["seconds"] > 0
        )
        assert cell["iterations"] == 6 and len(cell["per_view"]["PSNR"]) == 2
    mean = sum(cell["psnr"] for cell in cells.values()) / 2
    text = (output / "table.md").read_text()
    assert f"| {mean:.2f} ± " in text and "| room | 3 | quick | 2 |" in text
    assert (output / "room_3.jpg").stat().st_size > 2000 and not any((output / "runs").iterdir())

    before = (output / "results.json").read_text()
    again = _run(*words)
    assert again.returncode == 0 and (output / "results.json").read_text() == before  # nothing was trained
    own = _run(f"{scenes / 'room'}:4", *words[1:])  # a scene's own number of views
    assert own.returncode == 0 and f"room_4_quick_1_{mark}" in (output / "results.json").read_text()
    variants = ("soft=--regularise.dropout 0.3 -r 30", "bad=--loss.lambda_dssim 7", "typo=--nosuch 3")
    more = _run(*words, "--variants", *variants)  # soft has pictures of another shape in the sheet
    assert more.returncode == 1 and f"failed: room_3_quick-bad_0_{mark}: error: " in more.stderr, more.stderr
    assert "lambda_dssim" in more.stderr
    (typo,) = [line for line in more.stderr.splitlines() if line.startswith("failed: room_3_quick-typo_0_")]
    assert "nosuch" in typo, typo
    cells = json.loads((output / "results.json").read_text())["cells"]
    assert cells[f"room_3_quick_0_{mark}"] == json.loads(before)["cells"][f"room_3_quick_0_{mark}"]
    assert cells[f"room_3_quick-soft_0_{mark}"]["psnr"] != cells[f"room_3_quick_0_{mark}"]["psnr"]
    text = (output / "table.md").read_text()
    assert "| PSNR / SSIM | room, 3 | mean |" in text and "| quick, bad | - / - | - |" in text
    soft = next(line.split(" | ") for line in text.splitlines() if line.startswith("| quick, soft | "))
    assert soft[1].count("±") == 2 and soft[2].rstrip(" |") == soft[1], "one scene is its own mean"


def test_an_edited_preset_is_trained_anew_and_damaged_results_are_named(
    tmp_path: Path, small_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, trained = tmp_path / "mine.yaml", []

    def train(cell: Cell, *_: object) -> dict[str, object]:
        trained.append(cell.name)
        return {"psnr": 20.0, "ssim": 0.5, "gaussians": 1, "seconds": 1.0, "per_view": {}}

    monkeypatch.setattr("benchmarks.quality._train", train)
    output = tmp_path / "out"
    words = [str(small_scene), "--presets", str(preset), "--sheet_views", "0", "--output", str(output)]
    for text in ("begins_with: quick\n", "begins_with: quick\n", "begins_with: quick\nseed: 3\n"):
        preset.write_text(text)
        assert main(words) == 0
    assert len(trained) == 2, "once, not again, and again with what has changed"
    results = output / "results.json"
    whole = json.loads(results.read_text())
    (name,) = whole["cells"]
    broken = [
        json.dumps({"cells": {name: {**whole["cells"][name], key: value}}})
        for key, value in (("ssim", "x"), ("per_view", None), ("psnr", float("nan")), ("lpips", float("inf")))
    ]
    for content in (*broken, '{"cells": {"a": 3}}', '{"cells": {"a": {}}}', '{"cells": 3}', "[]"):
        results.write_text(content)
        with pytest.raises(UserError, match=r"results\.json: expected this benchmark's results"):
            main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "no such folder"),
        (["."], "found neither"),
        (["SCENE", "--variants", "nameless"], "NAME=OPTIONS"),
        (["SCENE", "--variants", "@gone.txt"], r"@gone\.txt: cannot read"),
        (["SCENE", "--views", "-1"], "--views"),
        ([], "name one"),
        (["SCENE", "--presets", "quik"], "did you mean quick"),
        (["SCENE", "--sheet_views", "-1"], "--sheet_views"),
        (["SCENE", "--train=--quiet '3"], "--train: .*No closing quotation"),
        (["SCENE", "--train=-r 4 --n_views 3"], "--train: --n_views: that is for --views to say"),
        (["SCENE", "--train=--model-path=elsewhere"], "--train: --model-path=elsewhere: .* benchmark itself"),
        (["SCENE", "--variants", "a=-r 4 --seed 7"], "--variants: --seed: that is for --seeds to say"),
        (["SCENE", "--seeds", "-3"], "--seeds: expected numbers from 0, got -3"),
        (["SCENE", "--seeds", "0", "0"], "2 trainings would have the name"),
        (["SCENE", "--variants", "a=-r 1", "a=-r 2"], "2 trainings would have the name"),
        (["SCENE", "--output", "SCENE/images/view_000.png"], "--output: .*expected a folder"),
    ],
)
def test_mistakes_are_told_at_once(
    tmp_path: Path, small_scene: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word.replace("SCENE", str(small_scene)) for word in words]
    with pytest.raises(UserError, match=message):
        main(given)
    assert not (tmp_path / "output").exists()


def test_a_file_of_variants_that_is_no_text_is_refused(tmp_path: Path, small_scene: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"soft\xff=--regularise.dropout 0.1\n")
    with pytest.raises(UserError, match=r"v\.txt: cannot read .*utf-8"):
        find_cells([str(small_scene)], [3], ["quick"], [f"@{tmp_path / 'v.txt'}"], [0], "")


def test_variants_of_a_file_are_known_options_of_quick(small_scene: Path) -> None:
    variants = [f"@{ROOT / 'benchmarks' / 'ablation.txt'}", "own=-r 8"]
    cells = find_cells([str(small_scene)], [3], ["quick"], variants, [0], "")
    assert cells[0].variant == "" and cells[-1].options == ("-r", "8") and len(cells) > 30
    for cell in cells:
        words = ["-s", str(small_scene), "--config", cell.preset, *cell.options]
        parse_command_line(words).resolve(3, "cpu")


def test_what_a_variant_gains_is_paired_by_seed_and_averaged_over_scenes() -> None:
    def cell(*psnr: float) -> dict[str, list[float]]:
        return {"psnr": list(psnr), "ssim": [0.02 * value for value in psnr]}

    (gained,) = differences(
        {
            ("room", 3, "quick"): cell(20.0, 22.0),
            ("hall", 6, "quick"): cell(10.0, 10.0),
            ("room", 3, "quick, soft"): cell(21.0, 22.5),  # 1 and 0.5
            ("hall", 6, "quick, soft"): cell(9.6, 10.3),  # -0.4 and 0.3: 0.3 and 0.4 over both
            ("room", 3, "quick, hard"): cell(20.5, 22.5),
            ("hall", 6, "quick, hard"): cell(10.1),  # a training failed: no pairs
            ("room", 3, "other, soft"): cell(21.0, 22.5),  # of a preset that was not tried
        }
    )
    assert gained == [
        {
            "change of quick": "soft",
            "dB": "+0.35 ± 0.05",
            "SSIM": "+0.007 ± 0.001",
            "room, 3": "+0.75",
            "hall, 6": "-0.05",
        },
        {
            "change of quick": "hard",
            "dB": "+0.50 ± 0.00",
            "SSIM": "+0.010 ± 0.000",
            "room, 3": "+0.50",
            "hall, 6": "-",
        },
    ]
