"""What torchrun's environment says, and what a process alone does with it."""

from __future__ import annotations

import pytest
import torch

from errors import SaidElsewhere, UserError
from replicas import ALONE, Place, mute_parsing, place_of


def test_without_torchrun_a_process_is_alone():
    assert place_of({}) == Place() and Place().leads and place_of({"RANK": "3"}) == Place()


def test_torchruns_numbers_are_taken():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    place = place_of(environment)
    assert place == Place(5, 8, 1, 4) and not place.leads
    assert [place.threads(cores) for cores in (1, 4, 16, 18)] == [1, 1, 4, 4]
    assert place_of({"RANK": "1", "WORLD_SIZE": "2"}) == Place(1, 2, 1, 2)  # one machine, other launchers


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a number from torchrun, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK: expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2, WORLD_SIZE=2.*do not go together"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "3"}, "do not go together"),
        ({"WORLD_SIZE": "0"}, "do not go together"),
    ],
)
def test_numbers_that_cannot_be_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        place_of(environment)


def test_of_what_all_processes_say_alike_only_the_first_is_heard(capfd):
    with mute_parsing(Place()):
        print("heard")
    with mute_parsing(Place(1, 2, 1, 2)):
        print("not heard")
    with pytest.raises(SaidElsewhere) as caught, mute_parsing(Place(1, 2, 1, 2)):
        raise UserError("no such scene")
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="no such scene"), mute_parsing(Place()):
        raise UserError("no such scene")
    assert capfd.readouterr().out == "heard\n"


def test_one_process_alone_sends_nothing():
    assert list(ALONE.share([3, 4])) == [3, 4] and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.tell({"a": 1}) == [{"a": 1}] and ALONE.numbers([1, 2]) == [[1, 2]]
    assert ALONE.led(lambda: 7) == 7
    assert ALONE.tensors(torch.ones(3)).shape == ALONE.pieces(torch.ones(3)).shape == (1, 3)
    with pytest.raises(UserError, match="mine"), ALONE.agreed():
        raise UserError("mine")
