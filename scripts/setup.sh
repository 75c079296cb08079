# Makes the virtual environment and installs the requirements, where that has not been done. Sourced by the
# scripts beside it, which set ROOT; leaves the interpreter in PYTHON.
#
#   setup_environment requirements.txt [requirements-dev.txt]
#
# The environment is ROOT/.venv, or the folder named by VENV. pip runs only if the requirement files have
# changed since its last success, so that an interrupted installation is taken up again by the next call.

setup_environment() {
    local venv="${VENV:-$ROOT/.venv}" base="" candidate
    PYTHON="$venv/bin/python"

    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
                base="$candidate"
                break
            fi
        done
        if [ -z "$base" ]; then
            echo "error: Python 3.10 or newer is needed, found $(python3 --version 2>&1 || true): install it." >&2
            return 2
        fi
        if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
            echo "error: $venv is no virtual environment: move it away, or set VENV to another folder." >&2
            return 2
        fi
        echo "making the virtual environment $venv"
        if ! "$base" -m venv --clear "$venv"; then
            echo "error: $base cannot make a virtual environment: install its venv module" \
                "(Debian and Ubuntu: apt install python3-venv)." >&2
            return 2
        fi
    fi

    local wanted stamp file arguments=()
    for file in "$@"; do
        arguments+=(-r "$ROOT/$file")
    done
    wanted="$(cd "$ROOT" && "$PYTHON" -c '
import hashlib, sys
digest = hashlib.sha256(sys.version.encode())
for name in sys.argv[1:]:
    digest.update(open(name, "rb").read())
print(digest.hexdigest())' "$@")"
    stamp="$venv/.installed-$#"  # one per set of files: those of a run, and those and the tools
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
        _check_opencv "$venv/.checked"
        return
    fi
    echo "installing $* (the first time takes some minutes)"
    if ! "$PYTHON" -m pip install --disable-pip-version-check "${arguments[@]}" | _installation_progress; then
        echo "error: the installation failed (above): check the network and call this again." >&2
        return 2
    fi
    echo "$wanted" >"$stamp"
    rm -f "$venv/.checked"
    _check_opencv "$venv/.checked"
}

# Says what OpenCV lacks, again at each call until it can be loaded; then leaves the file $1.
_check_opencv() {
    [ ! -e "$1" ] || return 0
    local missing
    if ! missing="$("$PYTHON" -c 'import cv2' 2>&1)"; then
        echo "error: OpenCV lacks a library of the system (${missing##*$'\n'}): install it (Debian and Ubuntu:" \
            "apt install libgl1 libglib2.0-0 libxcb1), or, on a machine without a screen, take OpenCV without" \
            "windows: $PYTHON -m pip uninstall -y opencv-python && $PYTHON -m pip install opencv-python-headless" >&2
        return 2
    fi
    touch "$1"
}

# Keeps the lines of pip that show where it is.
_installation_progress() {
    awk '/^Collecting / { print "  " $2; fflush() }
         /^Installing collected/ { print "  unpacking"; fflush() }
         /^Successfully installed/ { print "  done" }'
}
