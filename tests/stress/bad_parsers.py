"""Parsers that do each of the things that a parser must not, for the tests of the fuzzer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from errors import UserError
from stress.fuzz_mutations import BAIT, damaged
from stress.fuzz_parser import Broken, Parser, Seed

WHOLE = bytes(range(64)) * 4


def crash(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(folder):
    while True:
        pass


def grow(folder):
    bytearray(2 << 30)


def write_elsewhere(folder):
    (folder.parent.parent.parent / "elsewhere").write_text("x")


def run_code(folder):
    try:
        os.system("true")
    except Exception:  # what a parser swallows is heard all the same
        return


def peek(folder):
    (folder / ".." / ".." / BAIT / "secret.png").resolve().read_bytes()


def mumble(folder):
    raise UserError("something is wrong")


def babble(folder):
    raise UserError(f"{folder}: " + "a\n" * 50)


def stumble(folder):
    raise ValueError("7 is no number")


def let_through(folder):
    raise Broken("a value that is not finite")


def refuse(folder):
    raise UserError(f"{folder / 'file'}: damaged: make it anew")


BAD = {
    "crash": (crash, "crashed: SIGSEGV"),
    "hang": (hang, "hung: more than 0.5 s of work"),
    "grow": (grow, "MemoryError"),
    "write_elsewhere": (write_elsewhere, "writes"),
    "run_code": (run_code, "os.system"),
    "peek": (peek, "reads"),
    "mumble": (mumble, "a message that does not name the file"),
    "babble": (babble, "in 51 lines"),
    "stumble": (stumble, "ValueError at tests/stress/bad_parsers.py"),
    "let_through": (let_through, "a value that is not finite"),
}


def parser_named(name: str) -> Parser:
    def read(folder: Path) -> None:
        if (folder / "file").read_bytes() != WHOLE:
            (refuse if name == "refuse" else BAD[name][0])(folder)

    return Parser(name, name, lambda work: [Seed({"file": WHOLE}, {"file": damaged})], read)
