"""A short fixed set of damaged files for every parser, and the fuzzer's own eyes.

`scripts/stress fuzz` reads a hundred thousand a parser; this is what fits between two commits. Not checked
here: that the damage reaches every branch of a parser.
"""

from __future__ import annotations

import io
import json
import sys
from random import Random

import cv2
import numpy as np
import pytest

from errors import UserError
from reporting.run import number
from stress import fuzzing
from stress.fuzz_child import make_input, random_of
from stress.fuzz_containers import in_png
from stress.fuzz_figures import Figures, in_ranges, of_ranges, without_details
from stress.fuzz_headers import in_npy, in_ply, in_tiff
from stress.fuzz_mutations import poked
from stress.fuzz_options import reoptioned
from stress.fuzz_parsers import parser_named
from stress.fuzz_watch import Lines
from tests.stress.bad_parsers import BAD

pytestmark = pytest.mark.slow

INPUTS = 200


def test_damaged_files_end_in_a_clean_error_or_a_valid_load(tmp_path):
    blocks = fuzzing.in_blocks([(name, 0, INPUTS) for name in fuzzing.NAMES])
    said: list[str] = []
    figures = fuzzing.fuzz(blocks, 7, tmp_path, say=said.append)
    assert not [line for line in said if line.startswith("FAILED")]
    assert list(figures) == list(fuzzing.NAMES)
    for name, one in figures.items():
        assert one.inputs == one.valid + one.clean == INPUTS, name
        # A bound for damage that reaches beyond the first check; the least share measured is 12 %.
        assert one.valid >= 0.05 * INPUTS, f"{name}: nearly all is refused"
        assert sum(map(len, one.reached.values())) > 10, f"{name}: its lines were looked at"
        assert one.clean > 0 or name in ("events", "report", "results"), f"{name}: these never refuse"
        assert one.worst_seconds < 5.0 and one.worst_mib < 1024.0


def test_the_names_are_those_of_the_parsers():
    from stress.fuzz_parsers import PARSERS

    assert tuple(parser.name for parser in PARSERS) == fuzzing.NAMES
    for parser in PARSERS:
        (module,) = (module for module, names in fuzzing.MODULES.items() if parser.name in names)
        assert parser.seeds.__module__ == f"stress.{module}", "of whose source a sum is kept with the figures"


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
    for at in ("0", "1"):
        again = (tmp_path / "fuzz" / "stumble" / at / "file").read_bytes()
        assert again == (caught[2] / "stumble" / at / "file").read_bytes()


def test_figures_are_written_and_unknown_parsers_refused(caught, tmp_path):
    sums = dict.fromkeys(caught[0], "a sum")
    fuzzing.write_figures(tmp_path / "fuzz.json", caught[0], 3, sums)
    written = json.loads((tmp_path / "fuzz.json").read_text())
    assert written["seed"] == 3 and written["parsers"]["hang"]["failures"] == 2
    assert fuzzing.read_figures(tmp_path / "fuzz.json", 3, sums) == (caught[0], [])
    assert fuzzing.read_figures(tmp_path / "fuzz.json", 4, sums)[0] == {}
    other, notes = fuzzing.read_figures(tmp_path / "fuzz.json", 3, sums | {"hang": "another"})
    assert set(other) == set(caught[0]) - {"hang"} and "begins anew" in notes[0]
    with pytest.raises(fuzzing.UserError, match="--parsers: nonsense: expected some of"):
        fuzzing.main(["--parsers", "nonsense"])


def test_jobs_are_cut_and_gathered_into_blocks():
    first, second = fuzzing.in_blocks([("a", 0, 19_700), ("b", 0, 1000), ("c", 3, 4)])
    assert first[:2] == [("a", 0, 500), ("a", 500, 1000)] and first[-1] == ("a", 19_500, 19_700)
    assert second == [("b", 0, 500), ("b", 500, 1000), ("c", 3, 4)]
    few = [("a", 0, 900), ("b", 0, 900)]
    assert len(fuzzing.in_blocks(few)) == 1 and len(fuzzing.in_blocks(few, 2)) == 4, "for each process some"


def test_numbers_are_written_as_ranges_and_read_back():
    numbers = {0, 1, 2, 7, 9, 10}
    assert in_ranges(numbers) == "0-2,7,9-10" and of_ranges("0-2,7,9-10") == numbers
    assert in_ranges([]) == "" and of_ranges("") == set()


def test_only_inputs_that_were_not_read_are_missing():
    done = Figures(done={0, 1, 5, 6, 30})
    assert fuzzing.missing("a", done, 10) == [("a", 2, 5), ("a", 7, 10)]
    assert fuzzing.missing("a", done, 1) == []
    assert fuzzing.missing("a", Figures(), 3) == [("a", 0, 3)]


def test_what_was_read_before_a_stop_is_counted_and_nothing_goes_on(tmp_path):
    counted: list[int] = []

    def stop(name, figures):
        counted.append(figures.inputs)
        if len(counted) == 2:
            raise KeyboardInterrupt

    blocks = fuzzing.in_blocks([("refuse", 0, 100_000)])
    with pytest.raises(KeyboardInterrupt):
        fuzzing.fuzz(blocks, 0, tmp_path, done=stop, module="tests.stress.bad_parsers")
    assert counted == [500, 500]


def test_a_second_call_goes_on_where_the_first_was_stopped(tmp_path, monkeypatch, capsys):
    asked: list[list[tuple[str, int, int]]] = []

    def some_of_it(blocks, seed, output, *, done, **_):
        asked.append([job for block in blocks for job in block])
        name, first, last = asked[-1][0]
        done(name, Figures(done=set(range(first, last)), valid=last - first, reached={"a.py": {first}}))
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fuzzing, "fuzz", some_of_it)
    call = ["--parsers", "depth", "config", "--output", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        fuzzing.main([*call, "--inputs", "700"])
    assert fuzzing.main([*call, "--inputs", "900"]) == 0
    assert asked[0] == [("depth", 0, 500), ("depth", 500, 700), ("config", 0, 500), ("config", 500, 700)]
    assert asked[1] == [("depth", 500, 900), ("config", 0, 500), ("config", 500, 900)]
    depth = json.loads((tmp_path / "fuzz.json").read_text())["parsers"]["depth"]
    assert (depth["inputs"], depth["done"], depth["valid"]) == (900, "0-899", 900)
    assert depth["reached"] == {"a.py": "0,500"}
    assert "config" not in json.loads((tmp_path / "fuzz.json").read_text())["parsers"]
    fuzzing.main([*call[:2], *call[3:], "--inputs", "900", "--again"])
    assert asked[2] == [("depth", 0, 500), ("depth", 500, 900)]
    assert "depth" in capsys.readouterr().out
    (tmp_path / "fuzz.json").write_text("{")
    with pytest.raises(UserError, match="expected figures of the fuzzer"):
        fuzzing.main([*call, "--inputs", "900"])


def test_one_input_can_be_read_again_and_is_kept(tmp_path, capsys):
    assert fuzzing.main(["--parsers", "cameras_json", "--only", "7", "--output", str(tmp_path)]) == 0
    folder = tmp_path / "fuzz" / "cameras_json" / "7"
    assert (folder / "cameras.json").is_file() and str(folder) in capsys.readouterr().out
    assert (folder / "what.txt").read_text().startswith(("valid", "clean"))
    assert not (tmp_path / "fuzz.json").exists()


def in_bytes(write, value) -> bytes:
    """What a function writes into a file."""
    file = io.BytesIO()
    write(file, value)
    return file.getvalue()


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nend_header\n"
SHAPED = {
    "npy": (in_npy, in_bytes(np.save, np.ones((18, 24), np.float32))),
    "ply": (in_ply, PLY + bytes(8)),
    "tiff": (in_tiff, cv2.imencode(".tif", np.ones((5, 6), np.uint16))[1].tobytes()),
    "png": (in_png, cv2.imencode(".png", np.ones((5, 6), np.uint8))[1].tobytes()),
    "options": (reoptioned, b"begins_with: quick\nmodel:\n  sh_degree: 2\n"),
    "poked": (poked, bytes(40)),
}


@pytest.mark.parametrize(("mutate", "whole"), SHAPED.values(), ids=SHAPED)
def test_damage_that_knows_a_format_can_be_made_again_and_is_rarely_none(mutate, whole):
    made = [mutate(Random(seed), whole) for seed in range(200)]
    assert made == [mutate(Random(seed), whole) for seed in range(200)]
    # A value may be replaced by itself: more often than every fourth time would be a waste.
    assert sum(one == whole for one in made) < 50
    assert len(set(made)) > 50


def test_messages_are_told_apart_without_what_varies(tmp_path):
    one, other = (
        f"{tmp_path}/a.ply: 'x{i}' of b'\\x0{i}' at -{i}.5e-{i}, nan of inf: mend it" for i in (1, 2)
    )
    assert without_details(one, tmp_path) == without_details(other, tmp_path)
    assert without_details(one, tmp_path).startswith(".../a.ply: Q of Q at N")


def test_lines_that_run_are_seen_and_counted_beside_those_that_do_not():
    lines = Lines()
    lines.during(lambda: number({}, "absent"))
    assert set(lines.reached) == set(lines.entered) == {"reporting/run.py"}
    before = set(lines.reached["reporting/run.py"])
    assert before < lines.entered["reporting/run.py"], "it returns before it asks whether it is finite"
    lines.during(lambda: number({"here": 1.5}, "here"))
    assert before < lines.reached["reporting/run.py"]
    assert sys.gettrace() is None


def test_a_checkpoint_is_damaged_twice_whatever_the_first_change_has_left(tmp_path):
    """Sparse and quantized tensors know few operations; input 19,853 of seed 0 met a sparse one."""
    seeds = parser_named("checkpoint").seeds(tmp_path)
    assert make_input(seeds, random_of(0, "checkpoint", 19_853))
