"""Presets and saved configurations are read strictly: every mistake names the file, the key and what came."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import (
    Config,
    ConfigError,
    load_preset,
    load_saved_config,
    parse_command_line,
    save_config,
    to_plain,
)
from configs.values import read_yaml, update


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    mode: Literal["fast", "slow"] = "fast"


@dataclass(frozen=True)
class Outer:
    count: int = 1
    flag: bool = False
    name: str = ""
    where: Path = Path()
    steps: tuple[int, ...] = ()
    box: tuple[int, float] = (1, 2.0)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def read(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return update(Outer(), read_yaml(path), str(path))


def test_every_kind_of_value_is_read(tmp_path):
    text = "count: 3\nflag: true\nname: x\nwhere: a/b\nsteps: [1, 2]\nbox: [4, 1]\nlimit: 5\n"
    text += "inner: {rate: 1, mode: slow}\n"
    assert read(text, tmp_path) == Outer(3, True, "x", Path("a/b"), (1, 2), (4, 1.0), 5, Inner(1.0, "slow"))
    assert read("limit: null", tmp_path).limit is None
    assert read("", tmp_path) == Outer()
    assert read("inner: {rate: 1e-4}", tmp_path).inner.rate == 1e-4  # text to YAML 1.1, for want of a dot


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(  # 9^8 values in 400 characters
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuont: 3", r"unknown key 'cuont': did you mean 'count'\?"),
        ("inner: {rat: 3}", r"unknown key 'inner\.rat': did you mean 'inner\.rate'\?"),
        ("rate: 3", r"unknown key 'rate': did you mean 'inner\.rate' \(indentation\)\?"),
        ("zzz: 3", r"unknown key 'zzz': known here: box, count"),
        ("3: 3", "unknown key '3'"),
        ("count: 1.5", r"count: expected a whole number, got 1\.5"),
        ("count: true", "count: expected a whole number, got true"),
        ("count: many", "count: expected a whole number, got 'many'"),
        ("count:", "count: expected a whole number, got nothing"),
        ("flag: 1", "flag: expected true or false, got 1"),
        ("name: 12", "name: expected text, got 12: put it in quotes"),
        ("steps: 3", "steps: expected a list, got 3"),
        ("steps: [1, x]", r"steps\[1\]: expected a whole number, got 'x'"),
        ("box: [1]", "box: expected 2 values, got 1"),
        ("limit: x", "limit: expected a whole number, got 'x'"),
        ("inner: 3", "inner: expected a section of keys, got 3"),
        ("inner: {rate: x}", r"inner\.rate: expected a number, got 'x'"),
        ("inner: {rate: .nan}", r"inner\.rate: expected a number, got nan"),
        ("inner: {mode: fsat}", r"inner\.mode: expected one of fast, slow, got 'fsat': did you mean fast\?"),
        ("count: {a: 1}", "count: expected a whole number, got a section of keys"),
        ("- 1", r"expected lines `key: value`, got \[1\]"),
        ("count: [", "not valid YAML"),
        ("count: 1\ncount: 2", "'count' is given twice .line 2"),
        ("x: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("count: 2001-99-99", "not valid YAML .month must be in"),
        ("count: !!int x", "not valid YAML"),
        ("count: " + "[" * 3000, "not valid YAML"),
        ("count: " + "9" * 5000, "not valid YAML"),
        ("inner: {rate: 1" + "0" * 400 + "}", r"inner\.rate: expected a number, got one beyond 1e308"),
        ("inner: &a {rate: 1, inner: *a}", "sections without end"),
        (LAUGHS, "sections without end"),
        ("flag: 0x" + "f" * 5000, "flag: expected true or false, got a number of thousands of digits"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_came(text, message, tmp_path):
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
        read(text, tmp_path)


def test_a_value_that_a_room_refuses_names_the_file_and_the_section(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("densify: {every: 0}")
    with pytest.raises(ConfigError, match=r"a\.yaml: densify\.every: expected at least 1"):
        load_preset(str(path))


@pytest.mark.parametrize("name", ["x" * 5000, "n\0ul", "~nobody-of-this-name/x.yaml", "a/" * 3000 + "b"])
def test_names_that_no_file_can_have_are_no_preset(name, tmp_path):
    with pytest.raises(ConfigError, match="no preset or file"):
        load_preset(name)
    (tmp_path / "a.yaml").write_text(f'begins_with: "{name}"'.replace("\0", "\\0"))
    with pytest.raises(ConfigError, match=r"a\.yaml: begins_with: no preset or file"):
        load_preset(str(tmp_path / "a.yaml"))


def test_files_that_are_no_text_or_not_there_are_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.yaml: expected a YAML text file"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"b\.yaml: cannot read"):
        read_yaml(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match=r"config\.yaml: no such file"):
        load_saved_config(tmp_path)


@pytest.mark.parametrize(
    "words", [[], ["--config", "quick"], ["--test_iterations", "3", "5", "--densify.strategy", "mcmc"]]
)
def test_a_saved_configuration_is_read_back_equal(words, tmp_path):
    config = parse_command_line(["-s", "sc\u00e8ne: x", *words]).resolve(9, "cpu")
    save_config(tmp_path / "config.yaml", config)
    assert load_saved_config(tmp_path / "config.yaml") == load_saved_config(tmp_path) == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


text = st.text(st.characters(codec="utf-8"), max_size=20)
number = st.floats(1e-300, 1e300)


@given(name=text, rate=number, steps=st.lists(st.integers(1, 10**9)), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_any_values_survive_saving(tmp_path_factory, name, rate, steps, seed):
    config = dataclasses.replace(
        Config(), config=name, seed=seed, test_iterations=tuple(steps),
        loss=dataclasses.replace(Config().loss, scale_reg=rate),
        scene=dataclasses.replace(Config().scene, images=name),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    save_config(path, config)
    assert load_saved_config(path) == config


def test_a_configuration_of_a_newer_version_says_so(tmp_path):
    save_config(tmp_path / "config.yaml", Config())
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("format: 1", "format: 2") + "new_key: 3\n")
    with pytest.raises(ConfigError, match=r"written by Fewsplat .*\(configuration format 2\)"):
        load_saved_config(path)


def test_an_unknown_key_or_a_foreign_file_is_no_saved_configuration(tmp_path):
    save_config(tmp_path / "config.yaml", Config())
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text() + "sed: 3\n")
    with pytest.raises(ConfigError, match=r"unknown key 'sed': did you mean 'seed'\?"):
        load_saved_config(path)
    path.write_text("name: another tool\n")
    with pytest.raises(ConfigError, match="not one of this program"):
        load_saved_config(path)


def test_an_older_file_without_a_newer_option_gets_its_default(tmp_path):
    save_config(tmp_path / "config.yaml", Config())
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("log_every: 10\n", ""))
    assert load_saved_config(path) == Config()


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    save_config(path, Config())
    before = path.read_text()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="space"):
        save_config(path, dataclasses.replace(Config(), seed=3))
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_the_plain_form_holds_primitives_only():
    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (bool, int, float, str)

    check(to_plain(Config()))
