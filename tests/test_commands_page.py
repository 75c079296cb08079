"""docs/commands.md is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.commands_page import COMMANDS, page, rows_of

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_commands_is_up_to_date():
    written = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert written == page(), "run: python -m scripts.commands_page docs/commands.md"


def test_every_command_is_on_it():
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    pages_own = {"demo", "test"}  # these hand their options on
    of_developers = {"docs_images", "stress"}
    named = {command.removeprefix("scripts/") for command in COMMANDS if command.startswith("scripts/")}
    assert scripts - pages_own - of_developers == named


@pytest.mark.parametrize("command", ["python render.py", "scripts/convert", "scripts/view", "scripts/export"])
def test_what_a_command_s_help_lists_is_what_the_page_lists(command):
    module = {
        "scripts/convert": "scripts.convert_photos",
        "scripts/view": "viewer",
        "scripts/export": "exporting",
    }
    words = ["-m", module[command]] if command in module else ["render.py"]
    shown = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"(?<![\w-])--(\w+)", re.sub(r"\x1b\[[\d;]*m", "", shown))) - {"help"}
    rows = rows_of(command, COMMANDS[command])
    options = {name for typed, _, _ in rows for name in re.findall(r"`--(\w+)`", typed)}
    assert options <= listed  # the texts may name options of other commands
    assert all(len(meaning) > 8 for _, _, meaning in rows)
    assert [typed for typed, default, _ in rows if default == "(needed)"] == [
        {"python render.py": "`--model_path`, `-m`", "scripts/view": "`output`"}.get(command, "`source`")
    ]


def test_choices_and_short_names_are_told():
    rows = {typed: (default, meaning) for typed, default, meaning in rows_of("", COMMANDS["scripts/export"])}
    assert rows["`--to`"][0] == "html spz" and rows["`--to`"][1].endswith(
        "Some of html, spz, splat, compressed_ply, ply."
    )
    assert rows["`--output`, `-o`"][0] == ""
    assert rows["`--background`"][1].endswith("One of black, white.")
