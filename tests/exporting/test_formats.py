"""Every format is read back by programs of others, and is whole and finite whatever the Gaussians are.

Tolerances are half a step of each format's numbers; how viewers draw the files, no test sees.
"""

from __future__ import annotations

import gzip
import math

import gsply
import numpy as np
import pytest
import torch

from errors import UserError
from exporting import Splats, compressed_ply, select, splat, spz
from exporting.splats import morton_order
from gaussian_model import Gaussians
from gaussian_model.spherical_harmonics import C0
from rasterizer.reference import sh_basis
from tests.exporting.readers import (
    matched,
    turn_between,
    with_gaussforge,
    with_gsply,
    with_splat_transform,
)
from tests.gaussian_model.models import random_gaussians

READERS = {"gsply": with_gsply, "gaussforge": with_gaussforge, "splat_transform": with_splat_transform}
EPSILON = 1e-5  # float32 through exp and log
# A unit quaternion whose three smaller parts are off by s at most is off by 2 sqrt(3) s in all, since the
# largest part, found from the others, is at least 1/2; the angle is twice that.
SMALLEST_THREE = 2 * 2 * math.sqrt(3)


def splats_of(degree: int, count: int = 600) -> Splats:
    """Random ones, with SH coefficients as trained scenes have them: few reach 1."""
    gaussians = random_gaussians(count, degree)
    gaussians.params["shN"].data *= 0.25
    return Splats.of(gaussians)


def grey(splats: Splats) -> np.ndarray:
    return np.full((len(splats), 3), 0.5, dtype=np.float32)


def half_steps(values: np.ndarray, steps: int) -> float:
    """Half of the largest step that `values` [n, 3] can take between the bounds of a chunk."""
    return float(np.ptp(values, axis=0).max()) / steps / 2 + EPSILON


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_a_compressed_ply_reads_as_it_was_written(tmp_path, reader, degree):
    ours = splats_of(degree)
    path = tmp_path / "a.compressed.ply"
    path.write_bytes(compressed_ply.encode(ours))
    read = matched(READERS[reader](path, tmp_path), ours)
    assert read.degree == min(degree, 3)
    # 10 bits is the coarser of the axes
    assert np.abs(read.means - ours.means).max() <= half_steps(ours.means, 1023)
    assert np.abs(read.log_scales - ours.log_scales).max() <= half_steps(ours.log_scales, 1023)
    assert np.abs(read.sh0 - ours.sh0).max() <= half_steps(ours.sh0, 255)
    assert np.abs(read.opacities - ours.opacities).max() <= 0.5 / 255 + EPSILON
    assert turn_between(read, ours) <= SMALLEST_THREE * math.sqrt(2) / 1023 / 2 + 1e-3  # 1e-3: arccos near 1
    kept = ours.up_to_degree(read.degree).shN
    assert np.abs(read.shN - kept).max(initial=0.0) <= 1 / 64 + EPSILON  # 256 steps over [-4, 4]


@pytest.mark.parametrize("reader", ["gaussforge", "splat_transform"])
@pytest.mark.parametrize("degree", [0, 3])
def test_a_splat_reads_as_it_was_written_without_view_dependence(tmp_path, reader, degree):
    ours = splats_of(degree)
    path = tmp_path / "a.splat"
    colours = np.clip(ours.sh0 * C0 + 0.5, 0.0, 1.0)
    path.write_bytes(splat.encode(ours, colours))
    assert path.stat().st_size == 32 * len(ours)
    read = matched(READERS[reader](path, tmp_path), ours)
    assert read.degree == 0
    np.testing.assert_array_equal(read.means, ours.means)
    np.testing.assert_allclose(read.log_scales, ours.log_scales, atol=EPSILON)
    assert np.abs(read.sh0 * C0 + 0.5 - colours).max() <= 0.5 / 255 + EPSILON
    assert np.abs(read.opacities - ours.opacities).max() <= 0.5 / 255 + EPSILON
    # half a step of 1/128; readers that take the bytes for [-1, 1] instead of around 128 are off by another
    assert turn_between(read, ours) <= 2 * 2 * 1.5 / 128


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_an_spz_reads_as_it_was_written(tmp_path, reader, degree, version):
    ours = splats_of(degree)
    path = tmp_path / "a.spz"
    encoded = spz.encode(ours, version=version)
    assert encoded.too_far == 0
    path.write_bytes(encoded.content)
    read = matched(READERS[reader](path, tmp_path), ours)
    assert read.degree == min(degree, 3)
    bits = gzip.decompress(path.read_bytes())[13]
    assert bits == 20  # positions reach about 4, so that 8 of 24 bits suffice before the point
    assert np.abs(read.means - ours.means).max() <= 0.5 / 2**bits + EPSILON
    assert np.abs(read.opacities - ours.opacities).max() <= 0.5 / 255 + EPSILON
    reach = 0.5 / 0.15  # of the coefficients of degree 0
    assert np.abs(read.sh0 - np.clip(ours.sh0, -reach, reach)).max() <= 0.5 / 255 / 0.15 + EPSILON
    assert np.abs(read.log_scales - np.clip(ours.log_scales, -10, 5.9375)).max() <= 1 / 32 + EPSILON
    # version 2 has 255 steps over [-1, 1] for x, y, z; where w is near 0 it is found from them badly: its
    # square is off by 2 sqrt(3) / 255 at most
    worst = SMALLEST_THREE * math.sqrt(0.5) / 511 / 2 + 1e-3 if version == 3 else 2 * math.sqrt(6.9 / 255)
    assert turn_between(read, ours) <= worst
    kept = np.clip(ours.up_to_degree(read.degree).shN, -1.0, 127 / 128)
    off = np.abs(read.shN - kept).max(axis=(0, 2), initial=0.0)
    assert (off[:3] <= 4 / 128 + EPSILON).all()  # 5 of 8 bits are kept of degree 1
    assert (off[3:] <= 8 / 128 + EPSILON).all()  # 4 of the others


def test_spz_turns_view_dependence_along_with_the_axes():
    """A colour seen from a direction is the same colour seen from the turned direction in the turned file."""
    directions = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    turned = directions * torch.tensor([1.0, -1.0, -1.0])
    signs = torch.from_numpy(spz._SH_SIGNS).double()
    torch.testing.assert_close(sh_basis(3, turned)[:, 1:], sh_basis(3, directions)[:, 1:] * signs)


def test_spz_says_how_it_is_drawn_and_which_version_it_is():
    ours = splats_of(1, count=3)
    for version in (2, 3):
        for antialiased in (False, True):
            content = gzip.decompress(spz.encode(ours, version=version, antialiased=antialiased).content)
            assert content[:4] == b"NGSP" and content[4] == version and content[8] == 3
            assert content[12] == 1 and content[14] == int(antialiased)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e5])
def test_spz_counts_positions_in_a_unit_that_fits_the_scene(tmp_path, size):
    ours = splats_of(0)
    ours = Splats(ours.means * np.float32(size), *_rest(ours))
    path = tmp_path / "a.spz"
    path.write_bytes(spz.encode(ours).content)
    read = with_gsply(path, tmp_path)
    nearest = np.abs(read.means[:, None] - ours.means[None]).max(axis=2).min(axis=1)
    # 24 bits over a reach of less than 5 sizes, and the unit a power of two: 2^-20 at the finest
    assert nearest.max() <= max(5 * size / 2**22, 0.5 / 2**20) + 1e-6 * size


def test_spz_leaves_out_what_strays_and_refuses_what_never_fits():
    ours = splats_of(0, count=2000)
    ours.means[7] = 1e20
    encoded = spz.encode(ours)
    assert encoded.too_far == 1
    assert gzip.decompress(encoded.content)[13] == 20  # the others keep their fine unit
    with pytest.raises(UserError, match=r"spz: positions reach 1e\+09"):
        spz.encode(Splats(np.full_like(ours.means, 1e9), *_rest(ours)))


def test_the_most_important_gaussian_of_a_splat_comes_first():
    ours = splats_of(0)
    content = np.frombuffer(splat.encode(ours, grey(ours)), dtype="<f4").reshape(-1, 8)
    largest = np.argmax(ours.opacities * np.exp(np.sort(ours.log_scales, axis=1)[:, 1:].sum(axis=1)))
    np.testing.assert_array_equal(content[0, :3], ours.means[largest])


@pytest.mark.parametrize("count", [1, 255, 256, 257])
@pytest.mark.parametrize("alike", [False, True])
def test_chunks_may_be_partly_filled_and_hold_equal_gaussians(tmp_path, count, alike):
    ours = splats_of(1, count)
    if alike:
        ours = ours.rows(np.zeros(count, dtype=np.int64))
    for name, content in (
        ("a.compressed.ply", compressed_ply.encode(ours)),
        ("a.spz", spz.encode(ours).content),
        ("a.splat", splat.encode(ours, grey(ours))),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        read = with_gaussforge(path, tmp_path)
        assert len(read) == count
        if alike:
            assert np.abs(read.means - ours.means).max() < 1e-5
            assert np.abs(read.log_scales - ours.log_scales).max() <= 1 / 32


def test_extreme_gaussians_become_finite_files(tmp_path):
    gaussians = random_gaussians(600, degree=3)
    p = gaussians.params
    p["scales"].data[0], p["scales"].data[1] = 90.0, -200.0
    p["quats"].data[2], p["quats"].data[3], p["quats"].data[4] = 0.0, 1e30, 1e-30
    p["opacities"].data[5], p["opacities"].data[6] = 200.0, -200.0
    p["sh0"].data[7], p["shN"].data[8] = 1e30, -1e30
    p["means"].data[9], p["means"].data[10] = torch.tensor([3e38, -3e38, 3e38]), 1e17
    ours = Splats.of(select(gaussians))
    assert len(ours) == 599
    for value in vars(ours).values():
        assert np.isfinite(value).all()
    np.testing.assert_allclose(np.linalg.norm(ours.quats, axis=1), 1.0, atol=1e-6)
    (tmp_path / "a.compressed.ply").write_bytes(compressed_ply.encode(ours))
    (tmp_path / "a.spz").write_bytes(spz.encode(ours).content)
    packed = np.frombuffer(splat.encode(ours, grey(ours)), dtype="<f4").reshape(-1, 8)
    assert np.isfinite(packed[:, :6]).all()
    for read, count in (
        (gsply.plyread(tmp_path / "a.compressed.ply"), 599),
        (gsply.read_spz(tmp_path / "a.spz"), 598),  # the one at 1e17 strays
    ):
        assert len(read.means) == count
        for values in (read.means, read.scales, read.quats, read.opacities, read.sh0, read.shN):
            assert np.isfinite(values).all()


def test_the_same_gaussians_give_the_same_bytes():
    for encode in (
        compressed_ply.encode,
        lambda s: splat.encode(s, grey(s)),
        lambda s: spz.encode(s).content,
    ):
        assert encode(splats_of(2)) == encode(splats_of(2))


def test_neighbours_stand_together_along_the_curve():
    means = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0)).numpy()
    order = morton_order(means)
    assert np.array_equal(np.sort(order), np.arange(4096))
    step = np.linalg.norm(np.diff(means[order], axis=0), axis=1).mean()
    # at random 0.66 apart; in a cube of 16 cells a side, neighbours are about a cell apart
    assert step < 2 / 16
    assert len(morton_order(means[:0])) == 0 and list(morton_order(means[:1])) == [0]


def _rest(splats: Splats) -> tuple[np.ndarray, ...]:
    return (splats.quats, splats.log_scales, splats.opacities, splats.sh0, splats.shN)


def test_splats_of_a_gpu_or_any_other_model_are_float32():
    gaussians = Gaussians.from_tensors(random_gaussians(3).state_dict())
    assert {value.dtype for value in vars(Splats.of(gaussians)).values()} == {np.dtype(np.float32)}
