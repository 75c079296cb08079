"""The Gaussians that a run has left are found, the newest or those asked for."""

from __future__ import annotations

import pytest
import torch

from engine import OutputFolder, checkpoint_path, load_finished, save_checkpoint
from errors import UserError
from gaussian_model import save_ply
from tests.engine.test_real_state import real_state


@pytest.fixture
def folder(tmp_path):
    """A run with a .ply of iterations 3 and 12, and a checkpoint of iteration 20 alone."""
    output = OutputFolder(tmp_path / "iteration_99")  # a name like those of the places looked at
    for iteration, count in ((3, 5), (12, 6)):
        save_ply(output.point_cloud(iteration), real_state("none", n=count).gaussians)
    state = real_state("none", n=7)
    state.iteration = 20
    save_checkpoint(checkpoint_path(output.checkpoints, 20), state, {}, keep=2)
    return output


@pytest.mark.parametrize(("wanted", "iteration", "count"), [(-1, 20, 7), (20, 20, 7), (12, 12, 6), (3, 3, 5)])
def test_a_runs_gaussians_are_read_from_its_ply_or_its_checkpoint(folder, wanted, iteration, count):
    found, gaussians = load_finished(folder, wanted)
    assert found == iteration
    expected = real_state("none", n=count).gaussians
    for key, value in gaussians.state_dict().items():
        assert torch.equal(value, expected.params[key]), key


def test_what_is_not_there_is_said(folder, tmp_path):
    with pytest.raises(UserError, match=r"iteration 4, got those of iterations: 3, 12, 20;"):
        load_finished(folder, 4)
    with pytest.raises(UserError, match=r"of any iteration, got those of iterations: none;"):
        load_finished(OutputFolder(tmp_path / "nowhere"))


def test_a_checkpoint_of_other_gaussians_is_named(folder):
    path = checkpoint_path(folder.checkpoints, 20)
    whole = path.read_bytes()
    content = torch.load(path, weights_only=True)
    content["gaussians"]["shN"] = torch.zeros(7, 2, 3)
    torch.save(content, path)
    try:
        with pytest.raises(UserError, match=r"iteration_20\.pt: gaussians: shN: expected 0, 3, 8"):
            load_finished(folder, 20)
    finally:
        path.write_bytes(whole)
