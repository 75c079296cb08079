"""All parsers that are fuzzed, by name."""

from __future__ import annotations

from errors import UserError
from stress import fuzz_fleets, fuzz_maps, fuzz_runs, fuzz_scenes, fuzz_states
from stress.fuzz_parser import Parser

_MODULES = (fuzz_scenes, fuzz_maps, fuzz_states, fuzz_runs, fuzz_fleets)
PARSERS: tuple[Parser, ...] = tuple(parser for module in _MODULES for parser in module.PARSERS)


def parser_named(name: str) -> Parser:
    """The parser of a name.

    Raises:
        UserError: there is none.
    """
    for parser in PARSERS:
        if parser.name == name:
            return parser
    raise UserError(f"--parsers: {name}: expected some of {', '.join(p.name for p in PARSERS)}: name them")
