"""A run's config.yaml of an older format is brought to the present one; a newer one names its program."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import ConfigError, migrations
from configs.migrations import headed, options_of
from versions import VERSION

PATH = Path("out/config.yaml")


def test_todays_head_comes_off_again():
    values = {"iterations": 3, "densify": {"every": 5}}
    assert list(headed(values))[:2] == ["format", "program"]
    assert options_of(PATH, headed(values)) == values


def test_a_file_from_before_programs_were_named_is_read():
    assert options_of(PATH, {"format": 1, "iterations": 3}) == {"iterations": 3}


def test_every_older_format_has_a_step_to_the_next():
    assert sorted(migrations.STEPS) == list(range(1, migrations.FORMAT))


def test_an_option_that_has_changed_its_name_is_taken_under_the_new_one(monkeypatch):
    def renamed(content):
        content["densify"]["every"] = content["densify"].pop("interval")
        return content

    monkeypatch.setattr(migrations, "FORMAT", 2)
    monkeypatch.setattr(migrations, "STEPS", {1: renamed})
    old = {"format": 1, "densify": {"interval": 50}}
    assert options_of(PATH, old) == {"densify": {"every": 50}}
    new = {"format": 2, "densify": {"every": 50}}
    assert options_of(PATH, new) == {"densify": {"every": 50}}
    with pytest.raises(
        ConfigError, match=r"config\.yaml: damaged: not what a configuration of format 1 holds"
    ):
        options_of(PATH, {"format": 1})


def test_a_newer_file_names_the_program_that_wrote_it():
    with pytest.raises(ConfigError, match=rf"Fewsplat 0\.9 \(configuration format 2\).*Fewsplat {VERSION}"):
        options_of(PATH, {"format": 2, "program": "0.9"})


@pytest.mark.parametrize("content", [{}, {"format": "1"}, {"format": None}, {"format": True}])
def test_a_file_without_a_number_is_not_ours(content):
    with pytest.raises(ConfigError, match="expected a configuration with a format number"):
        options_of(PATH, content)
