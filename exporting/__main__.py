"""`python -m exporting`, which scripts/export calls."""

from __future__ import annotations

if __name__ == "__main__":
    from begin import begin

    begin()

    from engine import run_command
    from exporting.command import main

    run_command(main)
