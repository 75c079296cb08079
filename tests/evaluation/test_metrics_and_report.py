"""Figures follow their definitions, and the JSON files keep to the layout that other tools read."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch

from evaluation import (
    MAX_PSNR,
    Perceptual,
    Report,
    Scores,
    evaluate,
    load_perceptual,
    psnr,
    to_8bit,
    write_report,
)
from losses import ssim
from rasterizer.contract import RenderOutput
from scene import Camera, View

H, W = 24, 32


def read(path):
    """A picture as [H, W, 3] RGB uint8."""
    return np.asarray(cv2.imread(str(path)))[..., ::-1].copy()


def make_view(name="a/b.jpg", seed=0, mask=None, alpha=None):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (H, W, 3), generator=generator, dtype=torch.uint8)
    K = torch.tensor([[30.0, 0, W / 2], [0, 30.0, H / 2], [0, 0, 1]])
    return View(name, Camera(torch.eye(4), K, W, H), pixels, alpha, mask)


def output(color, depth=2.0):
    return RenderOutput(color[None], torch.full((1, H, W), depth), torch.ones(1, H, W), {})


def test_psnr_pools_the_squared_error_over_pixels_and_channels():
    target = torch.zeros(4, 5, 3)
    image = target.clone()
    image[0, 0, 0] = 0.6
    assert psnr(image, target) == pytest.approx(-10 * math.log10(0.36 / 60), abs=1e-5)  # float32 0.6


def test_psnr_with_weights_counts_weighted_pixels_only():
    target = torch.zeros(4, 5, 3)
    image = target.clone()
    image[0] = 1.0
    image[1] = 0.1
    weight = torch.zeros(4, 5)
    weight[1:] = 1
    assert psnr(image, target, weight) == pytest.approx(-10 * math.log10(0.01 / 3), abs=1e-5)
    assert psnr(image, target, torch.ones(4, 5)) == pytest.approx(psnr(image, target))
    assert math.isnan(psnr(image, target, torch.zeros(4, 5)))


def test_equal_images_get_the_stated_maximum():
    assert psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3)) == MAX_PSNR


def test_8_bit_images_are_clamped_and_rounded_to_nearest():
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0, math.nan])
    assert to_8bit(values.expand(1, 3, 7).permute(0, 2, 1))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 0]


def test_metrics_are_taken_on_what_the_written_pictures_hold(tmp_path):
    view = make_view()
    noisy = view.image() + 0.1 * torch.randn(H, W, 3, generator=torch.Generator().manual_seed(1))
    report = evaluate([view], lambda v: output(noisy), folder=tmp_path)
    render, truth = (
        torch.from_numpy(read(tmp_path / part / "a__b.png") / 255.0).float() for part in ("renders", "gt")
    )
    scores = report.per_view["a__b"]
    # float32 against float64 pooling
    assert scores.psnr == pytest.approx(psnr(render, truth), abs=1e-4)
    assert scores.ssim == pytest.approx(float(ssim(render, truth)), abs=1e-5)
    assert np.array_equal(read(tmp_path / "gt" / "a__b.png"), view.pixels.numpy())
    depth = np.load(tmp_path / "depth" / "a__b.npy")
    assert depth.dtype == np.float32 and (depth == 2).all()
    assert read(tmp_path / "depth" / "a__b.png").shape == (H, W, 3)


def test_masked_pixels_do_not_count_and_the_report_says_so():
    mask = torch.zeros(H, W, dtype=torch.uint8)
    mask[:, : W // 2] = 255
    view = make_view(mask=mask)
    wrong = view.image()
    wrong[:, W // 2 :] = 1 - wrong[:, W // 2 :]
    report = evaluate([view], lambda v: output(wrong))
    assert report.mean.psnr == MAX_PSNR
    assert report.masked == ("a/b.jpg",)
    assert "1 of 1" in report.conventions()["masks"]


def test_a_fully_masked_view_is_left_out_of_the_mean():
    views = [make_view("x.png"), make_view("y.png", 1, mask=torch.zeros(H, W, dtype=torch.uint8))]
    report = evaluate(views, lambda v: output(v.image() * 0.9))
    assert math.isnan(report.per_view["y"].psnr)
    assert report.mean.psnr == report.per_view["x"].psnr


def test_transparent_photographs_are_put_before_the_background():
    view = make_view(alpha=torch.zeros(H, W, dtype=torch.uint8))
    white = torch.ones(3)
    assert evaluate([view], lambda v: output(torch.ones(H, W, 3)), background=white).mean.psnr == MAX_PSNR


def test_lpips_sees_the_truth_outside_of_a_mask_and_lands_in_the_report():
    mask = torch.zeros(H, W, dtype=torch.uint8)
    mask[:4] = 255
    distance = Perceptual(lambda a, b: float((a - b).abs().max()), "")
    report = evaluate([make_view(mask=mask)], lambda v: output(1 - v.image()), perceptual=distance)
    plain = evaluate([make_view()], lambda v: output(1 - v.image()), perceptual=distance)
    assert report.mean.lpips is not None and plain.mean.lpips is not None
    assert 0 < report.mean.lpips <= plain.mean.lpips
    wrong_below = make_view(mask=mask).image()
    wrong_below[4:] = 0
    clean = evaluate([make_view(mask=mask)], lambda v: output(wrong_below), perceptual=distance)
    assert clean.mean.lpips == 0


def test_without_weights_lpips_is_not_computed_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("fetched"))
    perceptual = load_perceptual()
    assert perceptual.distance is None
    assert "vgg16" in perceptual.reason
    report = evaluate([make_view()], lambda v: output(v.image()), perceptual=perceptual)
    assert "not computed" in report.table("test") and "not computed" in report.conventions()["LPIPS"]


def test_a_broken_weight_file_costs_lpips_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").write_bytes(b"not weights")
    perceptual = load_perceptual()
    assert perceptual.distance is None and perceptual.reason


def test_reports_keep_the_familys_layout_and_other_iterations(tmp_path):
    first = Report({"a": Scores(20.0, 0.5, None, 4.0), "b": Scores(30.0, 0.7, None, 4.0)})
    write_report(tmp_path, first, 7000)
    write_report(tmp_path, Report({"a": Scores(25.0, 0.6, 0.1, 4.0)}, lpips_reason=""), 30000)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ours_7000"] == {"SSIM": pytest.approx(0.6), "PSNR": 25.0, "LPIPS": None}
    assert results["ours_30000"] == {"SSIM": 0.6, "PSNR": 25.0, "LPIPS": 0.1}
    assert {"PSNR", "SSIM", "LPIPS", "masks", "images"} <= results["conventions"].keys()
    per_view = json.loads((tmp_path / "per_view.json").read_text())
    assert per_view["ours_7000"]["PSNR"] == {"a": 20.0, "b": 30.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_view.json", "results.json"]


def test_a_damaged_results_file_is_replaced(tmp_path):
    (tmp_path / "results.json").write_text("{")
    write_report(tmp_path, Report({"a": Scores(math.nan, math.nan, None, 0.0)}), 1)
    assert json.loads((tmp_path / "results.json").read_text())["ours_1"]["PSNR"] is None


def test_a_results_file_of_odd_values_is_added_to_or_replaced(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"ours_1": {"PSNR": NaN, "SSIM": 1e999, "LPIPS": 0.5}, "conventions": [3]}')
    write_report(tmp_path, Report({"a": Scores(20.0, 0.5, None, 4.0)}), 2)
    results = json.loads(path.read_text())
    assert (
        results["ours_1"] == {"PSNR": None, "SSIM": None, "LPIPS": 0.5} and results["ours_2"]["PSNR"] == 20.0
    )
    assert "PSNR" in results["conventions"]
    path.write_text('{"ours_1": ' + "[" * 100_000)
    write_report(tmp_path, Report({"a": Scores(20.0, 0.5, None, 4.0)}), 2)
    assert "ours_1" not in json.loads(path.read_text())


def test_the_table_has_a_row_per_view_and_the_mean():
    report = Report({"a": Scores(20.0, 0.5, 0.25, 4.0), "b": Scores(30.0, 0.7, 0.35, 4.0)}, lpips_reason="")
    lines = report.table("test", views=True).splitlines()
    assert len(lines) == 4
    assert lines[-1].split()[-3:] == ["25.00", "0.6000", "0.3000"]
