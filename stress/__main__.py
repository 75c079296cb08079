"""The command behind scripts/stress: one of several harnesses, by name."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from errors import UserError

HARNESSES = {
    "faults": ("stress.faults", "kills, full disks, too little memory, signals, files that vanish"),
    "fuzz": ("stress.fuzzing", "damaged files for every parser that reads a user's file"),
    "endurance": ("stress.endurance", "long trainings and hostile settings: no NaN, ever"),
    "sanitizers": ("stress.sanitizers", "the C++ kernels under ASan, UBSan and TSan"),
}


def main(argv: Sequence[str]) -> int:
    """Runs a harness, whose `main(arguments)` returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: scripts/stress NAME [options]   (scripts/stress NAME --help)\n")
        for name, (_, words) in HARNESSES.items():
            print(f"  {name:11} {words}")
        return 0 if argv else 2
    if argv[0] not in HARNESSES:
        raise UserError(f"{argv[0]}: expected one of {', '.join(HARNESSES)}: name one")
    harness = importlib.import_module(HARNESSES[argv[0]][0])
    # An exception, so that children end and folders go. After the import: pycolmap's takes the signal away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return int(harness.main(list(argv[1:])))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who read our output has gone (`| head`)
        os._exit(0)
