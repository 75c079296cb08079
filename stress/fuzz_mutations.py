"""Damage for files: from valid bytes, text or trees to ones that a parser must survive.

Every change is drawn from the generator that is handed in, so that an input can be made again from a seed and
a number. What is put in is not random but what parsers stumble over: counts beyond the file, NaN, names that
lead elsewhere, code.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Mutator = Callable[[Random, bytes], bytes]

CANARY = "fuzz-canary"
"""A file of this name in the current folder proves that a file's code was run."""
BAIT = "outside"
"""A folder beside the one that is read, with files that no name in it may reach."""
NAMES = (
    *(
        "..",
        ".",
        "",
        " ",
        "/",
        "../outside/secret.png",
        "../outside/secret.npy",
        "a/../../outside/secret.png",
    ),
    *("/etc/passwd", "C:\\secret.png", "\\\\server\\share.png", "..\\outside\\secret.png", "~/secret.png"),
    *("./view_000.png", "view_000.png/", "VIEW_000.PNG", "view_000", "view_001.png", "images/view_000.png"),
    *(
        "x" * 10_000,
        "a/" * 3_000 + "b.png",
        "n\0ul.png",
        "line\nbreak.png",
        "\u202egnp.x",
        "e\u0301.png",
        "\ud800",
    ),
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "%s%n%d", "-rf", "CON"),
    *(f"$(touch {CANARY})", f"`touch {CANARY}`", f"__import__('os').system('touch {CANARY}')"),
)
NUMBERS = (
    *(
        "nan",
        "NaN",
        "-inf",
        "inf",
        "Infinity",
        "1e999",
        "-1e999",
        "1e308",
        "1e-320",
        "1e39",
        "-0.0",
        "0",
        "-1",
    ),
    *(
        "1",
        "2",
        "0.5",
        "3",
        "255",
        "65536",
        "2147483648",
        "4294967296",
        "-9223372036854775809",
        "1e9",
        "9" * 30,
    ),
    *("9" * 5_000, "0x7f", "1_000", "1.5.5", "--1", "true", "null", "1e", "\u0661"),
)
_INTEGERS = (
    0,
    1,
    2,
    3,
    127,
    255,
    65535,
    10**6,
    10**9,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
_FLOATS = (float("nan"), float("inf"), float("-inf"), 1e308, 1e39, 3.5e38, -1e30, 1e-310, 0.0, -1.0, 1e18)
_TOKEN = re.compile(r"[-+.\w]+|\s+|.", re.DOTALL)
_WORD = re.compile(rb"[ -~]{3,}")
_HEAD = 96  # bytes; what a format says of itself is mostly there


def damaged(rng: Random, data: bytes) -> bytes:
    """Bytes with one to four pieces of damage, more often near their beginning."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(_DAMAGES)(rng, data)
    return data


def poked(rng: Random, data: bytes) -> bytes:
    """Bytes of which some are other ones, of the same number as far as there is room: sizes still agree."""
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        data = rng.choice(_POKES)(rng, data)
    return data


def reworded(extra: Sequence[str] = ()) -> Mutator:
    """A mutator of text: tokens and lines changed, swapped, repeated; numbers, names and `extra` put in."""

    def mutate(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.15:
            return damaged(rng, data)
        text = data.decode("utf-8", "surrogateescape")
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = rng.choice(_REWORDINGS)(rng, text, extra)
        return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")

    return mutate


def regrown(rng: Random, data: bytes) -> bytes:
    """A JSON file with entries of its tree replaced, removed, repeated or swapped; sometimes reworded."""
    if rng.random() < 0.25:
        return reworded()(rng, data)
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _grown(rng, tree)
    return _RAW.sub(_raw_text, json.dumps(tree, indent=rng.choice((None, 1)))).encode()


_RAW = re.compile(r'"@(deep|number)(\d+)@"')


def _raw_text(found: re.Match[str]) -> str:
    """What JSON's writer would never write."""
    if found[1] == "number":
        return NUMBERS[int(found[2]) % len(NUMBERS)]
    depth = int(found[2])
    return ("[" * depth + "]" * depth) if depth % 2 else ('{"a":' * depth + "1" + "}" * depth)


def hostile(rng: Random) -> Any:
    """A value that no field of a JSON file expects."""
    return rng.choice(
        (
            lambda: rng.choice(NAMES),
            lambda: rng.choice(NAMES),
            lambda: f"@number{rng.randrange(len(NUMBERS))}@",
            lambda: f"@number{rng.randrange(len(NUMBERS))}@",
            lambda: f"@deep{rng.choice((3, 60, 901, 20_000, 100_001))}@",
            lambda: rng.choice(
                (None, True, False, [], {}, [[]], [None], {"": None}, "", 0, -1, 0.0, 10**400)
            ),
            lambda: rng.choice((float("nan"), float("inf"), 1e308, -1e308, 1e39, 5e-324)),
            lambda: [0.0] * rng.choice((1, 2, 3, 4, 16, 1000)),
            lambda: [[0.0] * 4] * rng.choice((3, 4)),
        )
    )()


def _grown(rng: Random, tree: Any) -> Any:
    levels = list(_levels(tree))
    if not levels or rng.random() < 0.02:
        return hostile(rng)
    places = rng.choice(levels)  # a level first: most values are numbers at the bottom
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, at = rng.choice(places)
        holder[key], other[at] = _copied(other[at]), _copied(holder[key])
    elif kind == 2 and isinstance(holder, list):
        holder.extend([_copied(holder[key])] * rng.choice((1, 2, 50)))
    elif kind == 3 and isinstance(holder, dict):
        name = rng.choice(NAMES)
        holder[name] = holder.pop(key) if rng.random() < 0.5 else _copied(holder[key])
    elif type(holder[key]) in (int, float) and abs(holder[key]) < 1e300 and rng.random() < 0.7:
        value = holder[key]
        holder[key] = rng.choice((-1, 0, 1, 2, 1e-12, 1.001, 1e6, 1e30, 1e300)) * value + rng.choice(
            (0, 0, 1)
        )
    elif isinstance(holder[key], str) and rng.random() < 0.7:
        holder[key] = rng.choice(NAMES)
    else:
        holder[key] = hostile(rng)
    return tree


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _levels(tree: Any) -> Iterator[list[tuple[Any, Any]]]:
    """The places of a tree, (holder, key), level by level."""
    holders = [tree]
    while holders:
        places = [
            (holder, key)
            for holder in holders
            if isinstance(holder, (dict, list))
            for key in (holder if isinstance(holder, dict) else range(len(holder)))
        ]
        if places:
            yield places
        holders = [holder[key] for holder, key in places]


def _at(rng: Random, data: bytes) -> int:
    return rng.randrange(max(1, min(len(data), _HEAD) if rng.random() < 0.5 else len(data)))


def _flip(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = _at(rng, data)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _set(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return (
        data[:at]
        + bytes(rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))) for _ in "x")
        + data[at + 1 :]
    )


def _cut(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)]
    at = _at(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 24, 100)) :]


def _repeat(rng: Random, data: bytes) -> bytes:
    at, length = _at(rng, data), rng.choice((1, 4, 8, 24, 64, 500))
    return data[:at] + data[at : at + length] * rng.choice((2, 2, 3, 40)) + data[at + length :]


def _splice(rng: Random, data: bytes) -> bytes:
    one, other, length = _at(rng, data), _at(rng, data), rng.choice((1, 4, 8, 32, 200))
    return data[:one] + data[other : other + length] + data[one + length :]


def _insert(rng: Random, data: bytes) -> bytes:
    at, length = _at(rng, data), rng.choice((1, 2, 4, 8, 100, 4000))
    filling = rng.choice((b"\0", b"\xff", b"\n", b"9", b"A")) * length
    return data[:at] + (filling if rng.random() < 0.7 else rng.randbytes(length)) + data[at:]


def _integer(rng: Random, data: bytes) -> bytes:
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "little", "big"))
    at = min(
        _at(rng, data) // size * size if rng.random() < 0.5 else _at(rng, data), max(0, len(data) - size)
    )
    value = rng.choice(_INTEGERS) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def _float(rng: Random, data: bytes) -> bytes:
    kind = rng.choice("fd")
    size = struct.calcsize(kind)
    at = min(_at(rng, data) // 4 * 4 if rng.random() < 0.5 else _at(rng, data), max(0, len(data) - size))
    value = rng.choice(_FLOATS)
    if kind == "f" and 3.4e38 < abs(value) < float("inf"):
        value = 3e38
    return data[:at] + struct.pack(f"<{kind}", value) + data[at + size :]


def _rename(rng: Random, data: bytes) -> bytes:
    words = list(_WORD.finditer(data[:200_000]))
    if not words:
        return _insert(rng, data)
    word = rng.choice(words)
    name = rng.choice(NAMES).encode("utf-8", "surrogatepass")
    return data[: word.start()] + name + data[word.end() :]


def _digits(rng: Random, data: bytes) -> bytes:
    numbers = list(re.finditer(rb"\d+", data[:4096]))
    if not numbers:
        return _integer(rng, data)
    number = rng.choice(numbers)
    return data[: number.start()] + rng.choice(NUMBERS).encode() + data[number.end() :]


def _nothing_much(rng: Random, data: bytes) -> bytes:
    return rng.choice(
        (b"", b"\0", b"\n", data + data, data + b"\0" * 7, rng.randbytes(rng.choice((1, 20, 999))))
    )


_DAMAGES: tuple[Mutator, ...] = (
    *(_flip, _flip, _set, _set, _cut, _repeat, _splice, _insert, _integer, _integer, _integer),
    *(_float, _float, _rename, _rename, _digits),
    _nothing_much,
)
_POKES: tuple[Mutator, ...] = (_flip, _set, _integer, _float, _float)


def _replace_token(rng: Random, text: str, extra: Sequence[str]) -> str:
    return _changed_tokens(rng, text, lambda tokens, at: tokens.__setitem__(at, _put(rng, tokens[at], extra)))


def _put(rng: Random, token: str, extra: Sequence[str]) -> str:
    if extra and rng.random() < 0.4:
        return rng.choice(extra)
    number = token[:1].isdigit() or token[:1] == "-"
    return rng.choice(NUMBERS if number == (rng.random() < 0.85) else NAMES)


def _swap_tokens(rng: Random, text: str, extra: Sequence[str]) -> str:
    def swap(tokens: list[str], at: int) -> None:
        other = rng.randrange(len(tokens))
        tokens[at], tokens[other] = tokens[other], tokens[at]

    return _changed_tokens(rng, text, swap)


def _drop_token(rng: Random, text: str, extra: Sequence[str]) -> str:
    return _changed_tokens(rng, text, lambda tokens, at: tokens.__setitem__(at, ""))


def _changed_tokens(rng: Random, text: str, change: Callable[[list[str], int], None]) -> str:
    tokens = _TOKEN.findall(text)
    if not tokens:
        return rng.choice(NAMES)
    solid = [index for index, token in enumerate(tokens) if not token.isspace()] or [0]
    change(tokens, rng.choice(solid))
    return "".join(tokens)


def _change_lines(rng: Random, text: str, extra: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[one]
    elif kind == 1:
        lines.insert(other, lines[one] * rng.choice((1, 1, 60)))
    elif kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 3:
        del lines[one:]
    else:
        lines.insert(one, rng.choice((*extra, *NAMES)) + "\n")
    return "".join(lines)


def _nest(rng: Random, text: str, extra: Sequence[str]) -> str:
    at, depth = rng.randrange(len(text) + 1), rng.choice((2, 80, 1_000, 5_000))
    return text[:at] + rng.choice(("[", "{", "(", '{"a":', "- ", "[[", "\t")) * depth + text[at:]


_REWORDINGS = (
    *(_replace_token, _replace_token, _replace_token, _replace_token, _swap_tokens, _drop_token),
    *(_change_lines, _change_lines, _nest),
)
