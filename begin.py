"""What a command does before it imports torch, which takes seconds. Imports nothing that is slow itself."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys


def begin() -> None:
    """Lets Ctrl-C end the command at once while torch loads, and says what to do where there is no torch.

    Raises:
        SystemExit: code 2; torch is not installed.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing has begun yet
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads would spin where ours work
    if importlib.util.find_spec("torch") is None:
        print(
            f"error: torch is not installed for {sys.executable}: source .venv/bin/activate, or call "
            "scripts/demo once, which installs everything",
            file=sys.stderr,
        )
        sys.exit(2)
