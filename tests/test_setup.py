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
    code, said = _train_help(tmp_path)
    assert code == 2
    assert said.startswith("error: OpenCV lacks a library of the system (libxcb.so.1")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "library",
    [
        'raise ImportError("cv2.abi3.so: failed to map segment from shared object", name="cv2")',
        """
try:
    raise ImportError("libavcodec.so: failed to map segment from shared object")
except ImportError as error:
    raise RuntimeError("cannot import the backend: install the package") from error""",
    ],
)
def test_a_library_that_finds_no_memory_is_no_library_that_is_missing(tmp_path, library):
    (tmp_path / "cv2.py").write_text(library)
    code, said = _train_help(tmp_path)
    assert code == 3 and said.startswith("error: out of memory while the program was being loaded"), said
    assert "failed to map segment" in said and len(said.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v limits nothing elsewhere")
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_library_that_dies_of_too_little_address_space_is_said(tmp_path, name):
    (tmp_path / "cv2.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})")
    code, said = _train_help(tmp_path, "ulimit -c 0; ulimit -v 4000000; ")
    assert code == 3 and "error: out of memory in a library" in said, said


def _train_help(folder: Path, before: str = "") -> tuple[int, str]:
    """Calls train.py with other modules than those installed; returns its exit code and what it said."""
    done = subprocess.run(
        ["bash", "-c", f'{before}exec "$@"', "bash", sys.executable, str(ROOT / "train.py"), "--help"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_scripts_can_be_called_through_links(tmp_path):
    """From a folder of commands of the user's own."""
    for name in ("train_many", "train_blocks", "stress", "export", "view", "gpu_check", "convert"):
        (tmp_path / name).symlink_to(ROOT / "scripts" / name)
        (tmp_path / "again").unlink(missing_ok=True)
        (tmp_path / "again").symlink_to(name)
        line = next(
            line for line in (ROOT / "scripts" / name).read_text().splitlines() if line.startswith("ROOT=")
        )
        script = tmp_path / f"{name}_root"
        for link in (name, "again"):
            # the line itself, with the script's name as bash would give it
            script.write_text(f'{line.replace("${BASH_SOURCE[0]}", link)}\necho "$ROOT"\n')
            done = subprocess.run(
                ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            assert Path(done.stdout.strip()) == ROOT, name
