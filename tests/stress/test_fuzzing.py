"""A short fixed set of damaged files for every parser, and the fuzzer's own eyes.

`scripts/stress fuzz` reads a hundred thousand a parser; this is what fits between two commits. Not checked
here: that the damage reaches every branch of a parser.
"""

from __future__ import annotations

import json

import pytest

from stress import fuzzing
from tests.stress.bad_parsers import BAD

pytestmark = pytest.mark.slow

INPUTS = 200
SLOW = {"report": 40, "config": 100}
"""Parsers of more than 10 ms an input: a page of HTML, YAML in plain python."""


def test_damaged_files_end_in_a_clean_error_or_a_valid_load(tmp_path):
    blocks = fuzzing.in_blocks([(name, 0, SLOW.get(name, INPUTS)) for name in fuzzing.NAMES])
    said: list[str] = []
    figures = fuzzing.fuzz(blocks, 7, tmp_path, say=said.append)
    assert not [line for line in said if line.startswith("FAILED")]
    assert list(figures) == list(fuzzing.NAMES)
    for name, one in figures.items():
        assert one.inputs == one.valid + one.clean == SLOW.get(name, INPUTS), name
        assert one.valid > 0, f"{name}: some damage is harmless, or its seeds are not valid"
        assert one.clean > 0 or name in ("events", "report", "results"), f"{name}: these never refuse"
        assert one.worst_seconds < 5.0 and one.worst_mib < 1024.0


def test_the_names_are_those_of_the_parsers():
    from stress.fuzz_parsers import PARSERS

    assert tuple(parser.name for parser in PARSERS) == fuzzing.NAMES


@pytest.fixture(scope="module")
def caught(tmp_path_factory):
    """What is said of parsers that do what they must not: figures, lines, the folder of failures."""
    folder = tmp_path_factory.mktemp("fuzz")
    said: list[str] = []
    blocks = [[(name, 0, 2) for name in (*BAD, "refuse")]]
    figures = fuzzing.fuzz(
        blocks, 0, folder, say=said.append, module="tests.stress.bad_parsers", cpu_seconds=0.5
    )
    return figures, said, folder / "fuzz"


@pytest.mark.parametrize("name", BAD)
def test_whatever_a_parser_does_wrong_is_seen_kept_and_costs_one_input(caught, name):
    figures, said, folder = caught
    one = figures[name]
    assert (one.inputs, one.failures, one.valid, one.clean) == (2, 2, 0, 0)
    assert any(line.startswith(f"FAILED {name} 0: ") and BAD[name][1] in line for line in said), said
    assert (folder / name / "1" / "file").is_file()
    assert BAD[name][1].split(" at ")[0] in (folder / name / "1" / "what.txt").read_text()


def test_a_parser_that_refuses_as_it_should_is_clean(caught):
    figures, _, folder = caught
    assert (figures["refuse"].clean, figures["refuse"].failures) == (2, 0)
    assert not (folder / "refuse").exists()


def test_equal_seeds_and_numbers_give_equal_inputs(caught, tmp_path):
    blocks = [[("stumble", 1, 2)], [("stumble", 0, 1)]]
    fuzzing.fuzz(blocks, 0, tmp_path, jobs=2, module="tests.stress.bad_parsers")
    for number in ("0", "1"):
        again = (tmp_path / "fuzz" / "stumble" / number / "file").read_bytes()
        assert again == (caught[2] / "stumble" / number / "file").read_bytes()


def test_figures_are_written_and_unknown_parsers_refused(caught, tmp_path):
    fuzzing.write_figures(tmp_path / "fuzz.json", caught[0], fuzzing.Options(seed=3))
    written = json.loads((tmp_path / "fuzz.json").read_text())
    assert written["seed"] == 3 and written["parsers"]["hang"]["failures"] == 2
    with pytest.raises(fuzzing.UserError, match="--parsers: nonsense: expected some of"):
        fuzzing.main(["--parsers", "nonsense"])


def test_jobs_are_cut_and_gathered_into_blocks():
    blocks = fuzzing.in_blocks([("a", 0, 7000), ("b", 0, 1000), ("c", 3, 4)])
    assert blocks == [[("a", 0, 5000)], [("a", 5000, 7000), ("b", 0, 1000), ("c", 3, 4)]]
