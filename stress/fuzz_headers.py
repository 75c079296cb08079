"""Damage to formats of a header and the data that it describes: .npy, .ply, TIFF.

Bytes changed anywhere mostly make such a header unreadable, and nothing behind it is ever reached. Here
headers say other things in their own words, or stay whole while the data changes.
"""

from __future__ import annotations

import re
import struct
from random import Random

from stress.fuzz_mutations import NAMES, NUMBERS, damaged, poked, reworded

_DTYPES = (
    *("<f4", ">f4", "<f8", ">f8", "<f2", "|u1", "|i1", "|b1", "<u2", ">u2", "<i4", "<u4", "<i8", ">u8"),
    *("<c8", "|O", "|S4", "<U1", "|V4", "<M8[ns]", "<m8[s]", "<f16", "f4,f4", "", "<f9999999999", "<x4"),
)
_SHAPES = (
    *("()", "(1,)", "(0,)", "(0, 0)", "(18, 24)", "(24, 18)", "(432,)", "(1, 18, 24)", "(18, 24, 1)"),
    *(
        "(18, 24, 3)",
        "(4, 5)",
        "(5, 4)",
        "(-1,)",
        "(-18, -24)",
        "(2**40,)",
        "(1099511627776, 1)",
        "(18.0, 24)",
    ),
    *(
        "(4294967296, 4294967296)",
        "(9223372036854775807, 3)",
        "(18, 24, 0)",
        "(True, 432)",
        "18",
        "None",
        "[18]",
    ),
    "(" + "1, " * 40 + ")",
)


def in_npy(rng: Random, data: bytes) -> bytes:
    """A .npy file of other values, another type, order or shape; sometimes raw bytes are damaged."""
    kind = rng.randrange(8)
    head = re.match(rb"\x93NUMPY\x01\x00..(\{[^\n]*\n)", data, re.DOTALL)
    if kind == 0 or head is None:
        return damaged(rng, data)
    text, body = head[1].decode("latin-1"), data[head.end() :]
    if kind < 4:
        body = poked(rng, body)
    elif kind == 4:
        text = re.sub(r"(?<='descr': )'[^']*'", lambda _: repr(rng.choice(_DTYPES)), text)
    elif kind == 5:
        text = re.sub(r"\([^)]*\)", lambda _: rng.choice(_SHAPES), text)
    elif kind == 6:
        text = text.replace("False", rng.choice(("True", "None", "0", "1 == 1")))
    else:
        text = reworded()(rng, text.strip().encode()).decode("latin-1")
    if rng.random() < 0.1:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body * 2
    text = text.strip()[:60_000]
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1") + body


_TYPES = (
    *("char", "uchar", "short", "ushort", "int", "uint", "float", "double", "int8", "uint8", "float32"),
    *("float64", "list uchar int", "list int float", "list float float", "string"),
)
_FORMATS = ("ascii 1.0", "binary_little_endian 1.0", "binary_big_endian 1.0", "ascii 2.0", "binary 1.0")
_FIELDS = (
    *("x", "y", "z", "nx", "red", "green", "blue", "alpha", "opacity", "scale_0", "rot_0", "rot_3", "f_dc_0"),
    *("f_rest_0", "f_rest_8", "f_rest_44", "f_rest_45", "f_rest_-1", "scale_3", "vertex_indices"),
)
_END = b"end_header\n"


def in_ply(rng: Random, data: bytes) -> bytes:
    """A .ply file of other values, or whose header names other fields; sometimes raw bytes are damaged."""
    head, end, body = data.partition(_END)
    kind = rng.randrange(6)
    if kind == 0 or not end:
        return damaged(rng, data)
    if kind < 4:
        ascii_ = b"format ascii" in head
        return head + end + (reworded() if ascii_ else poked)(rng, body)
    lines = head.decode("latin-1").splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_header(rng, lines)
    return "".join(lines).encode("utf-8", "surrogatepass") + end + body


def _change_header(rng: Random, lines: list[str]) -> None:
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    words = lines[at].split()
    kind = rng.randrange(8)
    if kind == 0 and len(lines) > 1:
        del lines[at]
    elif kind == 1:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 2:
        lines.insert(other, lines[at])
    elif kind == 3:
        name = rng.choice((*_FIELDS, *NAMES)).replace("\n", " ")
        lines.insert(at, f"{rng.choice(('comment', 'obj_info', 'property float', 'element'))} {name}\n")
    elif words[:1] == ["element"] and len(words) > 1:
        lines[at] = f"element {words[1]} {rng.choice(('0', '1', '4', '5', '7', '-1', *NUMBERS))}\n"
    elif words[:1] == ["format"]:
        lines[at] = f"format {rng.choice(_FORMATS)}\n"
    elif words[:1] == ["property"] and len(words) > 1:
        kept = rng.random() < 0.5
        of, name = " ".join(words[1:-1]), words[-1]
        lines[at] = (
            f"property {rng.choice(_TYPES)} {name}\n" if kept else f"property {of} {rng.choice(_FIELDS)}\n"
        )


def in_tiff(rng: Random, data: bytes) -> bytes:
    """A TIFF file of another entry in its directory, or other pixels; sometimes raw bytes are damaged."""
    kind = rng.randrange(6)
    if kind == 0 or data[:4] != b"II*\0":
        return damaged(rng, data)
    (directory,) = struct.unpack_from("<I", data, 4)
    if kind == 1:  # directories stand at the end
        return data[:8] + poked(rng, data[8:directory]) + data[directory:]
    changed = bytearray(data)
    (count,) = struct.unpack_from("<H", data, directory)
    for _ in range(rng.choice((1, 1, 2))):
        entry = directory + 2 + 12 * rng.randrange(count)
        tag, of, length, value = struct.unpack_from("<HHII", data, entry)
        part = rng.randrange(8)
        if part == 0:
            tag = rng.choice(
                (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 322, 325, 338, 339, 34665)
            )
        elif part == 1:
            of = rng.choice((0, 1, 2, 3, 4, 5, 11, 12, 13, 99))
        elif part == 2:
            length = rng.choice((0, 1, 2, 3, 100, 2**20, 2**32 - 1))
        else:
            small = (0, 1, 2, 3, 4, 5, 8, 16, 17, 24, 32, 64, 32773, 65535, 10**6, 2**31, 2**32 - 1)
            value = rng.choice((*small, directory, value + 1))
        struct.pack_into("<HHII", changed, entry, tag, of, length % 2**32, value % 2**32)
    return bytes(changed)
