"""Every photograph that could not be placed gets a reason, and a lens that nothing tells gets a warning."""

from __future__ import annotations

from typing import Any

import pytest

from photos.advice import guessed_lens, left_out

FOUND: dict[str, Any] = {
    "features": {"a": 3000, "b": 3000, "c": 40, "d": 3000, "e": 3000, "f": 3000, "g": 3000},
    "registered": ["a", "b"],
    "pairs": [["a", "b", 500], ["e", "f", 400], ["g", "a", 200]],
    "prior_focal": False,
}


def test_each_photograph_that_is_left_out_has_its_reason():
    said = left_out(FOUND)
    assert said.startswith("5 of 7 photographs could not be placed: c, d, e, f, g. ")
    for reason in (
        "c: hardly any detail",
        "d: too few points in common with any other photograph",
        "e, f: points in common with each other, but too few with those that were placed",
        "g: points in common with others, but no position explains them",
    ):
        assert reason in said
    assert left_out(FOUND | {"registered": list(FOUND["features"])}) == ""


@pytest.mark.parametrize(
    ("registered", "prior", "warned"), [("ab", False, True), ("ab", True, False), ("abd", False, False)]
)
def test_two_photographs_do_not_tell_the_focal_length(registered, prior, warned):
    said = guessed_lens(FOUND | {"registered": list(registered), "prior_focal": prior})
    assert ("do not tell the focal length" in said) == warned
