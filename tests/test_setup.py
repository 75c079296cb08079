"""What setting up says. The installation itself is not tried here: pip is one that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m pip install "*) echo install >>"$LOG"; echo "Successfully installed"; exit "${PIP_FAILS:-0}" ;;
    "-m pip "*) exit 0 ;;
    "-c import cv2") [ -z "${LACKS:-}" ] || { echo "ImportError: $LACKS: no such file" >&2; exit 1; } ;;
    *) exec "$REAL" "$@" ;;
esac
"""


@pytest.fixture
def setup(tmp_path: Path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "requirements.txt").write_text("opencv-python\n")

    def call(**environment: str) -> tuple[int, str, int]:
        """Exit code, what was said to standard error, and how often pip has installed so far."""
        log = tmp_path / "log"
        places = {
            "ROOT": str(tmp_path),
            "VENV": str(tmp_path / "venv"),
            "LOG": str(log),
            "REAL": sys.executable,
        }
        script = f'set -euo pipefail\nsource "{ROOT}/scripts/setup.sh"\nsetup_environment requirements.txt'
        done = subprocess.run(
            ["bash", "-c", script],
            env=os.environ | places | {"REAL": sys.executable} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr, log.read_text().count("install") if log.exists() else 0

    return call


def test_requirements_are_installed_once(setup):
    assert setup() == (0, "", 1)
    assert setup() == (0, "", 1)


def test_an_installation_that_failed_is_taken_up_again(setup):
    code, said, _ = setup(PIP_FAILS="1")
    assert code == 2 and "the installation failed" in said
    assert setup() == (0, "", 2)


def test_a_library_that_opencv_lacks_is_said_until_it_is_there(setup):
    for _ in range(2):
        code, said, installed = setup(LACKS="libxcb.so.1")
        assert code == 2 and "apt install libgl1" in said and "libxcb.so.1" in said
        assert installed == 1  # not again, which would undo another OpenCV that somebody has put there
    assert setup() == (0, "", 1)
    assert setup(LACKS="libxcb.so.1") == (0, "", 1)  # loading it takes a while: not looked at any more


def test_commands_say_what_opencv_lacks(tmp_path):
    (tmp_path / "cv2.py").write_text('raise ImportError("libxcb.so.1: cannot open", name="cv2")\n')
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: OpenCV lacks a library of the system (libxcb.so.1")
    assert len(done.stderr.splitlines()) == 1
