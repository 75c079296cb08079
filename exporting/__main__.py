"""`python -m exporting`, which scripts/export calls."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while torch loads: nothing has begun yet
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads would spin where ours work

    from engine import run_command
    from exporting.command import main

    run_command(main)
