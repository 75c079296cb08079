"""The user's mistakes: messages that can be read whatever a file holds."""

from __future__ import annotations

from errors import UserError


def test_a_message_loses_the_middle_of_what_is_too_long_to_be_read():
    assert str(UserError("a.json: expected a number, got 3: mend it")) == (
        "a.json: expected a number, got 3: mend it"
    )
    word = str(UserError(f"a.json: got {'9' * 5000}: mend it"))
    assert word.startswith("a.json: got 999") and word.endswith("999: mend it") and len(word) < 150
    long = str(UserError("a.json: got " + "[ " * 5000 + ": mend it"))
    assert len(long) <= 3000 and long.startswith("a.json: got [") and long.endswith(": mend it")


def test_a_path_stays_whole():
    path = "/".join(["folder" * 40] * 10)
    assert str(UserError(f"{path}: no such file")) == f"{path}: no such file"
