"""The page of a real run: it says what the run's files say, stands alone, and survives any damage to these.

Not checked here: how it looks. tests/reporting/test_browser.py opens it in a browser.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml

import render
from engine import Tracker
from errors import UserError
from reporting import NAME, ReportError, write_page
from reporting.views import MOST_VIEWS
from tests.reporting.reading import Page, matched, picture, read_png, references
from tests.reporting.running import run_training

HOSTILE = "\"><img src=x onerror='document.title=1'><script>document.title=2<!-- {{7*7}} & \u2028"


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of the run that a test may change."""
    folder = tmp_path / "a run"
    shutil.copytree(trained_run, folder)
    return folder


def page_of(folder):
    path = write_page(folder)
    assert path == folder / NAME
    page = Page(path.read_text("utf-8"))
    assert references(page) == [a.attributes["href"] for a in page.all("a") if a.attributes["href"][0] != "#"]
    assert all(image.attributes["alt"] for image in page.all("img"))
    for image in page.all("img"):
        pixels = picture(image.attributes["src"])
        size = (int(image.attributes["width"]), int(image.attributes["height"]))
        assert size in ((pixels.shape[1], pixels.shape[0]), (128, 2)) and size[0] <= 640
    for heading in ("Test views", "Curves", "Training views", "Worth knowing", "Configuration"):
        assert heading in [element.text for element in page.all("h2")]
    return page


def log_anew(run, iterations, measured, figures):
    """Other events: 20 iterations of so many, and figures that were measured after one of them."""
    for path in run.glob("events.*"):
        path.unlink()
    with Tracker(run, iterations, log_every=1, quiet=True) as tracker:
        for iteration in range(1, 21):
            tracker.losses(iteration, {"l1": torch.tensor(0.5 / iteration)})
            tracker.bar(iteration, 100)
            if iteration == measured:
                tracker.write(iteration, figures)


def shots(page, kind):
    """Pictures of a kind ("truth", "render", "error", "depth"), in the order of the page."""
    return re.findall(rf'data-kind="{kind}"[^>]*>\s*<img src="([^"]*)"', page.source)


@pytest.fixture(scope="module")
def page(trained_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "mit Leerzeichen ü"
    shutil.copytree(trained_run, folder)
    return page_of(folder)


def test_the_page_has_the_run_s_own_figures(page, trained_run):
    results = json.loads((trained_run / "results.json").read_text())["ours_20"]
    summary = json.loads((trained_run / "summary.json").read_text())
    tiles = page.tiles()
    assert tiles["PSNR"] == f"{results['PSNR']:.2f}" and tiles["SSIM"] == f"{results['SSIM']:.3f}"
    assert tiles["Gaussians"] == f"{summary['gaussians']:,}"
    assert tiles["Peak memory"] == f"{summary['peak_memory_gib']:.2f}"
    assert tiles["Rasterizer"] == summary["backend"] and "LPIPS" not in tiles
    per_view = json.loads((trained_run / "per_view.json").read_text())["ours_20"]
    views = page.all("article", cls="view")[: len(per_view["PSNR"])]
    assert len(views) == 2
    for view, stem in zip(views, sorted(per_view["PSNR"]), strict=True):
        assert stem in view.text and f"{per_view['PSNR'][stem]:.2f}" in view.text
        assert f"{per_view['SSIM'][stem]:.3f}" in view.text
    worst = min(per_view["PSNR"], key=per_view["PSNR"].get)
    marked = [view for view in views if "worst" in view.text]
    assert len(marked) == 1 and worst in marked[0].text


def test_charts_have_every_logged_point_from_the_first_iteration_to_the_last(page):
    charts = page.charts()
    assert {"Loss", "PSNR", "SSIM", "Number of Gaussians", "Speed", "Memory", "Learning rates"} <= set(charts)
    assert {"Opacity", "Size"} <= set(charts)
    for title in ("Loss", "Number of Gaussians", "Speed", "Memory"):
        assert charts[title]["x"] == [0, 20]
        assert charts[title]["lines"][0]["x"] == list(range(1, 21)), title
    psnr = {line["name"]: line for line in charts["PSNR"]["lines"]}
    assert psnr["test views"]["x"] == [10, 20] == psnr["training views"]["x"]
    assert psnr["test views"]["y"][-1] == pytest.approx(float(page.tiles()["PSNR"]), abs=0.005)
    # the sum of the terms is the total
    lines = {line["name"]: np.array(line["y"]) for line in charts["Loss"]["lines"]}
    small = charts.get("Small terms of the loss", {"lines": []})["lines"]
    terms = sum(y for name, y in lines.items() if name != "total") + sum(np.array(s["y"]) for s in small)
    # a term that is left out now and then is the mean over the iterations in which it acted: within 5 %
    assert terms == pytest.approx(lines["total"], rel=0.05)
    for title in ("Opacity", "Size"):
        for line in charts[title]["lines"]:
            assert sum(line["y"]) == pytest.approx(100, abs=0.01)  # per cent, written with six digits


def test_pictures_are_those_that_training_logged_and_errors_are_bright_where_they_differ(page):
    truths, renders, errors = (shots(page, kind) for kind in ("truth", "render", "error"))
    assert len(renders) == len(errors) == 2 and len(shots(page, "depth")) == 2
    for truth, shown, error in zip(truths, renders, errors, strict=False):
        a, b, bright = (picture(uri).astype(float) for uri in (truth, shown, error))
        difference = np.abs(a - b).mean(-1)
        assert a.shape == (96, 128, 3)
        # inferno's brightness rises with the error; JPEG blurs both, hence no more than this
        assert np.corrcoef(difference.ravel(), bright.mean(-1).ravel())[0, 1] > 0.8
    assert "of iteration 20" in page.text and "From the TensorBoard events" in page.text
    assert "Iteration 10" in page.text and "took shape" in page.text


def test_priors_and_confidence_of_training_views_are_shown(page):
    for caption in ("Depth prior", "Rendered depth", "Prior's confidence", "Weight of pixels"):
        assert page.text.count(caption) >= 4, caption
    assert "No depth prior and no confidence map" not in page.text


def test_a_view_without_prior_is_told_from_one_whose_pictures_are_not_kept(run):
    with Tracker(run, 30, start=20, log_every=1, quiet=True) as tracker:
        tracker.maps(21, "train/alone", share={"rendered": torch.ones(6, 8)})
    (article,) = re.findall(r'aria-label="Training view alone">.*?</article>', page_of(run).source, re.S)
    told = {caption: words for words, caption in re.findall(r"<span>([^<]+)</span>([^<]+)</p>", article)}
    assert told["Depth prior"] == told["Prior&#39;s confidence"] == "this view has none"
    assert told["Photograph"].startswith("not recorded")


def test_changed_options_come_first_and_all_are_there(page, trained_run):
    options = yaml.safe_load((trained_run / "config.yaml").read_text())
    rows = re.findall(r'<th scope="row"><code>([^<]*)</code></th><td>([^<]*)</td>', page.source)
    names = [name for name, _ in rows]
    changed = set(names[: names.index("source_path")])
    assert {"iterations", "loss.depth_loss", "depth.confidence", "depth.init", "pyramid.factor"} <= changed
    # schedules that only scale with the length are the preset's
    assert not {"optim.means_lr", "model.sh_degree", "densify.stop", "model_path", "resume"} & changed
    assert ("loss.depth_loss", "pearson") in rows and ("depth.init", "sfm") in rows
    assert "densify.mcmc.cap_max" in names and len(set(names)) > len(options)


def test_the_page_says_how_to_go_on(page):
    text = page.text
    assert "--resume --iterations 40" in text and "tensorboard --logdir" in text
    assert "'" in matched(r"render\.py -m (\S+)", text)[1]  # quoted: its path has a space
    links = {a.attributes["href"] for a in page.all("a")}
    assert "point_cloud/iteration_20/point_cloud.ply" in links


def test_the_page_stands_alone_and_may_run_nothing_but_its_own_script(page):
    policy = next(m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert (
        "default-src 'none'" in policy.attributes["content"] and "unsafe" not in policy.attributes["content"]
    )
    assert len(page.all("script")) == 1 and not page.all("iframe") and not page.all("object")
    assert not [name for e in page.elements for name in e.attributes if name.startswith("on")]
    assert not any("style" in element.attributes for element in page.elements)  # the policy would drop them
    assert "http://" not in page.source and "https://" not in page.source
    headings = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert headings[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(headings))


def test_rendered_pictures_of_all_views_are_preferred(run):
    render.main(["-m", str(run), "--skip_train", "--threads", "1"])
    page = page_of(run)
    assert "From test/ours_20" in page.text and len(shots(page, "render")) == 2
    png = read_png(min((run / "test/ours_20/renders").glob("*.png")))
    shown = picture(shots(page, "render")[0])
    assert np.abs(shown.astype(float) - png).mean() < 4  # JPEG at quality 84 costs about 2 of 255


def test_pictures_of_another_size_come_with_figures_of_their_own(run):
    render.main(["-m", str(run), "--skip_train", "--threads", "1", "-r", "64"])
    page = page_of(run)
    own = json.loads((run / "test/ours_20/per_view.json").read_text())["ours_20"]["PSNR"]
    for stem, value in own.items():
        view = next(view for view in page.all("article", cls="view") if stem in view.text)
        assert f"{value:.2f}" in view.text
    assert "other settings than the run's own" in page.text
    assert page.tiles()["PSNR"] == f"{json.loads((run / 'results.json').read_text())['ours_20']['PSNR']:.2f}"


def test_of_many_views_some_are_shown_with_the_worst_and_the_best(run):
    source = picture(shots(page_of(run), "truth")[0])
    folder, rng, psnr = run / "test/ours_20", np.random.default_rng(0), {}
    for k in range(40):
        noisy = np.clip(source + rng.normal(0, 5 + (k * 7) % 40, source.shape), 0, 255).astype(np.uint8)
        psnr[f"v{k:02}"] = 10 * np.log10(255**2 / ((noisy - source.astype(float)) ** 2).mean())
        for part, image in (("renders", noisy), ("gt", source)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / f"v{k:02}.png"), image[..., ::-1])
    (run / "per_view.json").write_text(json.dumps({"ours_20": {"PSNR": psnr}}))
    page = page_of(run)
    assert len(shots(page, "render")) == MOST_VIEWS and "28 are left out" in page.text
    assert "No figures" not in page.text and "Figures of all 40 test views" in page.text
    views = [view.text for view in page.all("article", cls="view")]
    for mark, choose in (("best", max), ("worst", min)):
        stem = choose(psnr, key=lambda stem: psnr[stem])
        assert [view for view in views if mark in view and stem in view], mark
    assert not shots(page, "depth")  # there are none, and that is no failure


def test_views_that_the_events_do_not_hold_are_named(run):
    per_view = json.loads((run / "per_view.json").read_text())
    per_view["ours_20"]["PSNR"]["view_9999"] = 3.21
    (run / "per_view.json").write_text(json.dumps(per_view))
    page = page_of(run)
    assert "Shown are 2 of 3" in page.text and "The worst is not among them: view_9999, 3.21 dB" in page.text


def test_a_resumed_run_has_one_curve_and_says_that_it_was_resumed(run, stereo_scene, monkeypatch):
    for path in (run / "checkpoints/iteration_20.pt", run / "summary.json", run / "results.json"):
        path.unlink()
    run_training(monkeypatch, stereo_scene, run, "--resume")
    page = page_of(run)
    assert len(list(run.glob("events.*"))) == 2
    assert page.charts()["Loss"]["lines"][0]["x"] == list(range(1, 21))
    assert "The run was resumed after iteration 10" in page.text and "the last of 2 processes" in page.text


def test_a_run_that_was_stopped_is_told_as_far_as_it_came(run):
    for name in ("summary.json", "results.json", "per_view.json"):
        (run / name).unlink()
    options = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**options, "iterations": 50}))
    page = page_of(run)
    assert "iteration 20 of 50" in page.text and "no summary.json" in page.text
    assert {"PSNR", "Gaussians", "Time", "Speed", "Peak memory"} <= set(page.tiles())
    assert "measured on these pictures" in page.text  # there is no per_view.json
    assert "Go on to the end" in page.text


@pytest.mark.parametrize("measured, told", [(10, "At iteration 10 training"), (20, "At the end training")])
def test_the_gap_between_training_and_test_views_is_told_with_its_iteration(run, measured, told):
    log_anew(run, 50, measured, {"metrics/psnr_train": 31.5, "metrics/psnr_test": 25.5})
    assert f"{told} views reach 31.5 dB and test views 25.5 dB, a gap of 6.0 dB" in page_of(run).text


def test_a_run_without_test_views_says_so(run):
    for name in ("results.json", "per_view.json"):
        (run / name).unlink()
    log_anew(run, 20, 20, {"metrics/psnr_train": 31.5})
    page = page_of(run)
    assert "There are no pictures of test views" in page.text and "no test views were held out" in page.text
    assert page.tiles()["PSNR"] == "31.50" and "no pictures of training views" in page.text


@pytest.mark.parametrize(
    "name", ["summary.json", "results.json", "per_view.json", "cameras.json", "config.yaml", "events.*"]
)
@pytest.mark.parametrize("content", [None, b"", b"{", b'["no", "mapping"]', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_missing_or_damaged_file_costs_only_itself(run, name, content):
    path = next(run.glob(name))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    page = page_of(run)
    assert page.tiles() and "Worth knowing" in page.text
    silent = (
        content is None or (name == "events.*" and not content) or (name == "config.yaml" and not content)
    )
    listed = name == "cameras.json" and content == b'["no", "mapping"]'
    notes = page.one("section", id="notes").text
    assert silent or listed or path.name in notes, notes


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {
            "gaussians": "many",
            "seconds_of_this_process": None,
            "threads": [],
            "backend": 3,
            "train_views": "x",
        },
        {"gaussians": -1, "seconds_of_this_process": 0, "iterations_of_this_process": 0, "threads": 0},
        {"gaussians": 10**400, "peak_memory_gib": float("nan"), "skipped_terms_of_this_process": {"a": "b"}},
        {"seconds_of_this_process": 5e5, "iterations_of_this_process": 10, "seconds_of_teachers": 4e5},
    ],
)
def test_a_summary_that_lacks_keys_or_holds_nonsense_is_no_failure(run, summary):
    (run / "summary.json").write_text(json.dumps(summary))
    page = page_of(run)
    if summary.get("seconds_of_teachers"):
        assert page.tiles()["Time"] == "138:53" and "111 h 06 min of it for teachers" in page.text


@pytest.mark.parametrize("value", [-1e6, -1e308, 1e308])
def test_a_psnr_that_no_picture_has_is_no_failure(run, value):
    results = json.loads((run / "results.json").read_text())
    for scores in results.values():
        scores["PSNR"] = value
    (run / "results.json").write_text(json.dumps(results))
    assert "dB are" not in page_of(run).text or value > 0


def test_an_older_version_s_options_are_shown_as_they_are(run):
    options = yaml.safe_load((run / "config.yaml").read_text())
    del options["pseudo"], options["densify"]["start"]
    options |= {"gone": {"option": 7}, "config": "a_preset_that_is_gone"}
    (run / "config.yaml").write_text(yaml.safe_dump(options))
    page = page_of(run)
    assert (
        "gone.option" in page.text and "the program's defaults (the preset a_preset_that_is_gone" in page.text
    )
    assert "pseudo.cameras" not in page.text


def test_left_out_terms_and_infinite_losses_are_told(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["skipped_terms_of_this_process"] = {"depth_pearson": 7, "binocular": 0}
    (run / "summary.json").write_text(json.dumps(summary))
    with Tracker(run, 30, start=20, log_every=1, quiet=True) as tracker:
        for iteration in range(21, 31):
            tracker.losses(iteration, {"l1": torch.tensor(float("nan") if iteration == 25 else 0.1)})
            tracker.bar(iteration, 100)
    notes = page_of(run).one("section", id="notes").text
    assert "depth_pearson was left out 7 times in 20 iterations" in notes and "binocular" not in notes
    assert "no finite number near iteration 25" in notes


def test_pictures_alone_are_enough(run, tmp_path):
    render.main(["-m", str(run), "--skip_train", "--threads", "1"])
    folder = tmp_path / "alone"
    shutil.copytree(run / "test", folder / "test")
    page = page_of(folder)
    assert len(shots(page, "render")) == 2 and "measured on these pictures" in page.text
    for words in ("No figures are known", "Nothing was logged", "The options are not known"):
        assert words in page.text


def test_damaged_pictures_are_left_out_and_counted(run):
    render.main(["-m", str(run), "--skip_train", "--threads", "1"])
    first, second = sorted((run / "test/ours_20/renders").glob("*.png"))
    first.write_bytes(b"no picture")
    page = page_of(run)
    assert len(shots(page, "render")) == 1 and "1 picture is damaged" in page.text
    shutil.copy(next((run / "test/ours_20/gt").glob("*.png")), first)
    cv2.imwrite(str(second), np.zeros((7, 9, 3), np.uint8))  # of another size than its photograph
    assert len(shots(page_of(run), "error")) == 1
    for path in (first, second):
        path.write_bytes(b"")
    assert "no pictures of test views" in page_of(run).text


def test_names_and_values_from_files_cannot_become_markup(run):
    options = yaml.safe_load((run / "config.yaml").read_text())
    options |= {"source_path": f"/scenes/{HOSTILE.replace('/', '')}", "config": HOSTILE, HOSTILE: HOSTILE}
    (run / "config.yaml").write_text(yaml.safe_dump(options))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"backend": HOSTILE, "skipped_terms_of_this_process": {HOSTILE: 3}}
    (run / "summary.json").write_text(json.dumps(summary))
    results = json.loads((run / "results.json").read_text())
    results["conventions"]["LPIPS"] = f"not computed: {HOSTILE}"
    (run / "results.json").write_text(json.dumps(results))
    per_view = json.loads((run / "per_view.json").read_text())
    per_view["ours_20"]["PSNR"] |= {HOSTILE: 1.0, "other": 2.0}
    (run / "per_view.json").write_text(json.dumps(per_view))
    cameras = json.loads((run / "cameras.json").read_text())
    cameras[0]["img_name"] = HOSTILE
    (run / "cameras.json").write_text(json.dumps(cameras))
    stem = HOSTILE.replace("/", "")
    for part in ("renders", "gt"):
        (run / "test/ours_20" / part).mkdir(parents=True)
        cv2.imwrite(str(run / "test/ours_20" / part / "x.png"), np.full((8, 8, 3), 90, np.uint8))
        (run / "test/ours_20" / part / "x.png").rename(run / "test/ours_20" / part / f"{stem}.png")
    (run / "video/ours_20").mkdir(parents=True)
    (run / "video/ours_20" / f"{stem}.mp4").write_bytes(b"x")
    with Tracker(run, 30, start=20, log_every=1, quiet=True) as tracker:
        tracker.losses(21, {HOSTILE: torch.tensor(0.5)})
        tracker.bar(21, 100)
        tracker.write(21, {f"skipped/{HOSTILE}": 3.0, f"lr/{HOSTILE}": 0.1})
        tracker.maps(21, f"prior/{HOSTILE}", share={"confidence": torch.ones(6, 8)})
    page = page_of(run)
    assert len(page.all("script")) == 1 and "49" not in page.one("h1").text
    assert not [image for image in page.all("img") if image.attributes["src"] == "x"]
    assert page.source.count("<!--") == 0 and page.text.count("onerror") > 8  # it is there, as text


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ReportError, match=r"expected the output folder of a run.*check -m"):
            write_page(folder)
    assert issubclass(ReportError, UserError) and not list(tmp_path.iterdir())


def test_the_same_run_gives_the_same_page_and_an_old_one_stays_if_writing_fails(run, monkeypatch):
    first = write_page(run).read_bytes()
    assert write_page(run).read_bytes() == first

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atomic.os.replace", full)
    with pytest.raises(OSError, match="space"):
        write_page(run)
    assert (run / NAME).read_bytes() == first and not list(run.glob(".report*"))
