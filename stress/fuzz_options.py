"""Damage to files of options: other values, names and places for them, and what YAML stumbles over."""

from __future__ import annotations

import re
from random import Random

from stress.fuzz_mutations import CANARY, NUMBERS, reworded

_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_YAML_TRAPS = (
    *(f"!!python/object/apply:os.system ['touch {CANARY}']", "!!python/name:os.system", "!!python/module:os"),
    f"!!python/object/new:os.system [touch {CANARY}]",
    f"!!python/object/apply:builtins.eval [\"open('{CANARY}','w')\"]",
    *("&a [*a]", "&a {<<: *a}", "&a {b: *a}", "<<: {iterations: 3}", "*nowhere", "!!binary AAAA"),
    *("!!set {a, b}", "!!timestamp 2001-99-99", "2001-99-99", "2001-12-14t21:59:43.10-99:99"),
    *("!!omap [a: 1]", "? [a, b]\n: 1", "1:99:99", "0b102", "0o9", "1_0", "=", "~", ".nan", ".inf", "-.inf"),
    *("!!float x", "!!int x", "!!bool x", "--- \n", "...\n", "%YAML 9.9\n", "'", '"\\x0"', "|\n", "- - - "),
    *(
        "key: : :",
        "\t",
        "{a: b, ",
        "[1, 2",
        "@",
        "`",
        "few_views: {iterations: 3}",
        "around: []",
        "format: 2",
    ),
    *("begins_with: quick", "begins_with: preset.yaml"),
    *("[" * 3000, "{a: " * 3000, "!!int " + "9" * 5000, "9" * 5000, "1e400", "-1e400", _LAUGHS),
)
_VALUES = (
    *(
        "0",
        "1",
        "2",
        "3",
        "7",
        "100",
        "-1",
        "0.5",
        "1.0",
        "1e-4",
        "2e9",
        "true",
        "false",
        "null",
        "[]",
        "[1, 2]",
    ),
    *(
        "''",
        "cpu",
        "auto",
        "white",
        "quick",
        "full_capture",
        "[100, 200]",
        "[0.5, 2]",
        "[a, b]",
        "{a: 1}",
        "{}",
    ),
)
_OPTION = re.compile(r"( *)(\w+):(.*)")


def reoptioned(rng: Random, data: bytes) -> bytes:
    """A configuration with options of other values, names or places; sometimes its text is reworded."""
    if rng.random() < 0.3:
        return reworded(_YAML_TRAPS)(rng, data)
    lines = data.decode().splitlines()
    options = [index for index, line in enumerate(lines) if _OPTION.fullmatch(line)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, other = (_OPTION.fullmatch(lines[rng.choice(options)]) for _ in range(2))
        assert at is not None and other is not None, "they were found by it"
        index, kind = lines.index(at[0]), rng.randrange(8)
        (indent, name, value), said = at.groups(), other[3]
        if kind == 0:
            lines[index] = "# " + at[0]
        elif kind == 1:
            name, value = other[2], said
        elif kind == 2:
            value = said
        elif kind == 3:
            value = f" {rng.choice((*_YAML_TRAPS, *NUMBERS))}"
        elif kind == 4:
            name = rng.choice((other[2], f"{name}s", name.upper(), "0", "'a b'", "<<"))
        elif kind == 5 and value.strip().replace(".", "", 1).isdigit():
            value = f" {float(value) * rng.choice((0, -1, 0.5, 2, 1000, 1e9)):g}"
        elif value:
            value = f" {rng.choice(_VALUES)}"
        if kind:
            lines[index] = f"{indent}{name}:{value}"
        options = [index for index, line in enumerate(lines) if _OPTION.fullmatch(line)] or options
    return "\n".join((*lines, "")).encode("utf-8", "surrogatepass")
