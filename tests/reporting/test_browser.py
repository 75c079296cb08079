"""A page in a real browser, opened from the disk: its script runs, nothing complains, something is seen.

Needs Chromium or Chrome; skipped by name where there is none.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest

from reporting import write_page
from tests.reporting.reading import matched, read_png

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# What a visitor does, added to a copy of the page, whose policy is lifted for it.
VISIT = """<script>addEventListener("load", () => {
  const at = (element, share) => {
    const box = element.getBoundingClientRect();
    return { clientX: box.left + share * box.width, clientY: box.top + 5, bubbles: true };
  };
  const render = document.querySelector('.shot[data-kind="render"] .frame');
  render.dispatchEvent(new PointerEvent("pointermove", at(render, 0.5)));
  document.body.dataset.cut = render.classList.contains("cutting") + render.style.getPropertyValue("--cut");
  const axes = document.querySelector(".axes");
  document.querySelector(".plot").dispatchEvent(new PointerEvent("pointermove", at(axes, 0.5)));
  document.body.dataset.tip = document.querySelector(".tip").textContent;
  const find = document.querySelector(".find");
  find.value = "densify.mcmc";
  find.dispatchEvent(new Event("input"));
  const rows = [...document.querySelectorAll(".filtered tbody tr")];
  document.body.dataset.found = rows.filter((row) => !row.hidden).length;
  document.querySelector(".filtered thead button").click();
  document.body.dataset.sorted = rows[0].parentElement.rows[0].cells[0].textContent;
  render.click();
  document.querySelector("dialog").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  document.body.dataset.enlarged = document.querySelector('dialog [aria-pressed="true"]').textContent;
  document.querySelector("dialog").close();
});</script></body>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Opens a page with some arguments; returns standard output, and what was said on the console."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser is here (looked for {', '.join(NAMES)})")
    profile = tmp_path_factory.mktemp("profile")

    def run(path, *arguments):
        command = [found, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += [
            "--no-first-run",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            *arguments,
            path.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.fixture(scope="module")
def page(trained_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen") / "ein Lauf ü"
    shutil.copytree(trained_run, folder)
    return write_page(folder)


@pytest.mark.parametrize(("theme", "ground"), [("light", 0xF6), ("dark", 0x13)])
def test_the_page_opens_from_the_disk_without_a_complaint_in_light_and_dark(
    browse, page, theme, ground, tmp_path
):
    shot = tmp_path / "shot.png"
    scheme = "--blink-settings=preferredColorScheme=" + ("0" if theme == "dark" else "1")
    _, said = browse(page, f"--screenshot={shot}", "--window-size=1280,1600", scheme)
    assert not said
    seen = read_png(shot)
    assert seen.shape == (1600, 1280, 3) and abs(int(seen[2, 2, 0]) - ground) < 3  # the page's own ground
    coloured = np.ptp(seen.astype(int), axis=2) > 40
    assert coloured.mean() > 0.02  # pictures are there: text is grey


def test_comparing_reading_finding_and_enlarging_work(browse, page, tmp_path):
    visited = tmp_path / "visited.html"
    source = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("utf-8"))
    visited.write_text(source.replace("</body>", VISIT), "utf-8")
    shown, said = browse(visited, "--dump-dom", "--window-size=1280,1600", "--virtual-time-budget=3000")
    assert not said
    body = dict(re.findall(r'data-(\w+)="([^"]*)"', matched(r"<body[^>]*>", shown)[0]))
    assert re.fullmatch(r"true\d+(\.\d+)?px", body["cut"])
    assert body["tip"].startswith("iteration 10") and "total" in body["tip"]
    assert body["found"] == "4"  # the four options of densify.mcmc
    assert body["sorted"] == "backend"  # the first name of all
    assert body["enlarged"] == "Error"  # one to the right of the render


def test_without_scripts_all_pictures_and_curves_are_there(page):
    source = page.read_text("utf-8")
    body = re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL)
    assert body.count("<img") >= 10 and body.count("<path") >= 10 and "<noscript" not in body


def test_the_policy_keeps_a_smuggled_script_from_running(browse, page, tmp_path):
    smuggled = tmp_path / "smuggled.html"
    inside = "<script>document.title = 'owned'</script><img src='file:///etc/hostname' alt=''>"
    smuggled.write_text(page.read_text("utf-8").replace("</main>", inside + "</main>"), "utf-8")
    shown, said = browse(smuggled, "--dump-dom")
    assert "<title>owned" not in shown and len(said) == 2  # the browser says that it refused both
    assert all("Content Security Policy" in line for line in said)
