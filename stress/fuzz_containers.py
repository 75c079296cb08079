"""Damage inside of formats that protect themselves by sums: archives, PNG, TensorBoard events, pickles.

A flipped bit in such a file is found by its sum, and the parser behind never sees it. Here the sums are made
right again after the damage, as somebody with intent would.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from stress.fuzz_mutations import CANARY, NAMES, Mutator, damaged, poked

_PNG = b"\x89PNG\r\n\x1a\n"


def in_archive(of_member: Callable[[str], Mutator]) -> Mutator:
    """A mutator of zip archives: a member is damaged and the archive packed anew; sometimes raw bytes are.

    Args:
        of_member: the mutator of a member, by its name.
    """

    def mutate(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.25:
            return damaged(rng, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at = rng.randrange(len(members))
        name, content = members[at]
        kind = rng.randrange(12)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members[at] = (rng.choice(NAMES).replace("\ud800", "?")[:60_000] or "x", content)
        elif kind == 2:
            members.append((name, of_member(name)(rng, content)))
        elif kind == 3:
            members[at] = (name, content * rng.choice((0, 2, 100)))
        else:
            members[at] = (name, of_member(name)(rng, content))
        how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        return packed(members, how)

    return mutate


def packed(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive with right sums; equal arguments give equal bytes."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", how) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            info.compress_type = how
            try:
                archive.writestr(info, content)
            except ValueError:  # a name that the format cannot hold
                archive.writestr("x", content)
    return whole.getvalue()


def in_png(rng: Random, data: bytes) -> bytes:
    """Damages a PNG: a chunk, with right sums and pixels unpacked, or its size; sometimes raw bytes."""
    kind = rng.randrange(10)
    if kind == 0 or not data.startswith(_PNG):
        return damaged(rng, data)
    chunks = _chunks(data)
    if kind < 3:
        sides = [rng.choice((0, 1, 24, 40_000, 2**24, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
        chunks[0] = (b"IHDR", struct.pack(">2I", *sides) + chunks[0][1][8:])
    elif kind < 5:  # bits, colour type, compression, filter, interlace
        fields = bytearray(chunks[0][1])
        fields[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 17, 255))
        chunks[0] = (b"IHDR", bytes(fields))
    elif kind == 5:
        name = rng.choice((b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"tEXt", b"IDAT", b"IEND", b"ABCD"))
        body = rng.choice(
            (b"", bytes(2), bytes(6), bytes(768), b"a\0\0" + zlib.compress(bytes(99)), b"\xff" * 9)
        )
        chunks.insert(rng.randrange(len(chunks) + 1), (name, body))
    elif kind == 6:
        at, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
        chunks[at], chunks[other] = chunks[other], chunks[at]
    else:
        at = rng.randrange(len(chunks))
        name, body = chunks[at]
        inside = name == b"IDAT" and rng.random() < 0.7
        body = zlib.compress(poked(rng, zlib.decompress(body))) if inside else damaged(rng, body)
        chunks[at] = (name, body)
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of a PNG's chunks; OpenCV writes all pixels of a small picture into one."""
    at, found = len(_PNG), []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def in_records(rng: Random, data: bytes) -> bytes:
    """Damages a record of a TensorBoard file, and makes lengths and sums right again; sometimes raw bytes."""
    from tensorboard.summary.writer.record_writer import masked_crc32c

    if rng.random() < 0.25:
        return damaged(rng, data)
    at, records = 0, []
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        records.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    for _ in range(rng.choice((1, 1, 2))):
        which = rng.randrange(len(records))
        kind = rng.randrange(8)
        if kind == 0:
            records.insert(which, rng.choice(records))
        elif kind == 1 and len(records) > 1:
            del records[which]
        else:
            records[which] = damaged(rng, records[which])
    whole = b""
    for record in records:
        head = struct.pack("<Q", len(record))
        sums = struct.pack("<I", masked_crc32c(head)), struct.pack("<I", masked_crc32c(record))
        whole += head + sums[0] + record + sums[1]
    return whole


def in_pickle(rng: Random, data: bytes) -> bytes:
    """Damages a pickle, or puts code in: calls that leave the canary where anything runs them."""
    if rng.random() < 0.6:
        return damaged(rng, data)
    call = rng.choice(CALLS)
    where = rng.randrange(4)
    if where == 0:
        return call
    if where == 1:  # in the place of the answer
        return data[:-1] + call[2:] if data.endswith(b".") else call
    at = rng.randrange(2, max(3, len(data)))
    return data[:at] + call[2:-1] + data[at:]


def _called(module: str, name: str, argument: str) -> bytes:
    text = argument.encode()
    return (
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."
    )


_CODE = f"open({CANARY!r}, 'w')"
CALLS = (
    *(_called(module, "system", f"touch {CANARY}") for module in ("os", "posix", "nt")),
    *(_called("builtins", name, _CODE) for name in ("eval", "exec")),
    *(_called("__builtin__", name, _CODE) for name in ("eval", "exec")),
    _called("subprocess", "getoutput", f"touch {CANARY}"),
    _called("torch", "load", CANARY),
    _called("torch.hub", "load_state_dict_from_url", "http://localhost:9/x"),
    _called("torch.storage", "_load_from_bytes", CANARY),
    _called("numpy", "load", CANARY),
    _called("runpy", "run_path", CANARY),
    _called("pathlib", "Path", CANARY),
    _called("collections", "OrderedDict", CANARY),
    _called("builtins", "bytearray", "x"),
    b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # two GiB by one call
    b"\x80\x02ctorch\nempty\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftR.",
)
"""Pickles (protocol 2) of one call each."""
