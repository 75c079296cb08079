"""The lean reader of events finds what TensorBoard's own finds, and survives what a dead process leaves."""

from __future__ import annotations

import io
import struct
import zlib
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import Tracker
from gaussian_model import Gaussians
from reporting.events import decoded, read_events


class Model:
    """What the tracker asks of Gaussians for its histograms."""

    def __len__(self):
        return 1000

    def linear_opacities(self):
        return torch.linspace(0.0, 1.0, 1000)

    def linear_scales(self):
        return torch.linspace(0.001, 0.1, 3000).reshape(1000, 3)


def log(folder, first, last, *, value=1.0):
    with Tracker(folder, last, start=first, log_every=1, quiet=True) as tracker:
        for iteration in range(first + 1, last + 1):
            tracker.losses(iteration, {"l1": torch.tensor(value * iteration)})
            tracker.bar(iteration, 100 + iteration)
        grey = torch.full((6, 8), 0.5)
        tracker.images(last, "test/a b/ü", rendered=torch.full((6, 8, 3), value / 2), true=None, depth=grey)
        tracker.histograms(last, cast(Gaussians, Model()))


@pytest.fixture
def folder(tmp_path):
    log(tmp_path, 0, 8)
    return tmp_path


def test_curves_are_those_that_tensorboard_reads(folder):
    events = read_events(folder)
    theirs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    theirs.Reload()
    assert set(events.scalars) == set(theirs.Tags()["scalars"])
    for tag in events.scalars:
        steps, values = events.curve(tag)
        assert [(e.step, e.value) for e in theirs.Scalars(tag)] == list(zip(steps, values, strict=True))
    assert set(events.pictures) == set(theirs.Tags()["images"])
    assert not events.notes and not events.resumed and len(events.sessions) == 1


def test_a_picture_is_read_back_and_a_missing_one_is_none(folder):
    events = read_events(folder)
    picture = events.picture("test/a b/ü/rendered", 8)
    assert (
        picture is not None and picture.shape == (6, 8, 3) and np.all(picture == 127)
    )  # torch's writer cuts 0.5 * 255 down
    assert events.picture("test/a b/ü/rendered", 7) is None and events.picture("nothing", 8) is None


def test_a_histogram_has_its_range_and_all_values(folder):
    histogram = read_events(folder).histograms["gaussians/opacities"][8]
    assert (histogram.edges[0], histogram.edges[-1]) == (0.0, 1.0)
    assert histogram.counts.sum() == 1000 and (np.diff(histogram.edges) >= 0).all()
    below = histogram.counts[histogram.edges[1:] <= 0.5].sum()
    assert 400 < below <= 500  # half of them, less those of the bucket that holds 0.5: 10 % wide


def test_a_resumed_run_hides_what_was_logged_beyond_its_checkpoint(folder):
    log(folder, 5, 10, value=3.0)
    events = read_events(folder)
    steps, values = events.curve("loss/l1")
    assert list(steps) == list(range(1, 11)) and events.resumed == [6] and len(events.sessions) == 2
    assert list(values) == [1, 2, 3, 4, 5, 18, 21, 24, 27, 30]
    assert list(events.pictures["test/a b/ü/rendered"]) == [10]


@pytest.mark.parametrize("kept", [0.9, 0.3, 0.0])
def test_a_file_that_is_cut_short_keeps_what_is_whole(folder, kept):
    path = next(folder.glob("events.*"))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    events = read_events(folder)
    assert len(events.curve("loss/l1")[0]) == (8 if kept == 0.9 else len(events.curve("loss/l1")[0]))
    assert bool(events.notes) == (kept > 0)  # an empty file is what a process has that logged nothing yet
    assert all(path.name in note for note in events.notes)


def test_a_changed_byte_ends_the_reading_with_a_note(folder):
    path = next(folder.glob("events.*"))
    content = bytearray(path.read_bytes())
    at = content.find(b"loss/total") + 12
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    events = read_events(folder)
    assert len(events.notes) == 1 and "damaged" in events.notes[0]
    assert "loss/total" not in events.scalars


def test_something_that_is_no_events_file_is_noted(tmp_path):
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"\xff" * 1000)
    (tmp_path / "events.out.tfevents.2.x").mkdir()
    events = read_events(tmp_path)
    assert not events.scalars and len(events.notes) == 1


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\xff" * 64])
def test_no_picture_decodes_to_none(content):
    assert decoded(content) is None


def test_pictures_that_would_take_a_gigabyte_are_none(monkeypatch):
    good = cv2.imencode(".png", np.full((4, 4, 3), 9, np.uint8))[1].tobytes()
    at = good.index(b"IDAT") - 4
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was unpacked"))
    assert decoded(good[:at] + struct.pack(">I", 0x4000_01CD) + good[at + 4 :]) is None
    header = good[12:16] + struct.pack(">2I", 9_000, 9_000) + good[24:29]
    large = good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]
    assert Image.open(io.BytesIO(large)).size == (9_000, 9_000)
    assert decoded(large) is None
