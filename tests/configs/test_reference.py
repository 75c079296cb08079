"""docs/options.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from configs.reference import reference
from configs.schema import Config
from configs.values import walk

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_options_is_up_to_date():
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert page == reference(), "run: python -m configs.reference docs/options.md"


def test_every_option_is_on_it_with_a_meaning():
    page, others = reference().split("## Other names")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    named = {row[0].strip("| `") for row in rows}
    assert {path.removeprefix("scene.").removeprefix("depth.") for path, _ in walk(Config)} == named
    assert all(len(row) == 4 and len(row[3]) > 20 for row in rows)
    for typed in ("-s", "-m", "-r", "-w", "--source", "--sh_degree", "--depth_loss", "--white_background"):
        assert others.count(f"| `{typed}` | The same as ") == 1
