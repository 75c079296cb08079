"""Reads the TensorBoard events of a run: curves, distributions, and where its pictures are.

Records are parsed by tensorboard's own code. Its EventAccumulator takes a sum in plain python over every
byte, pictures included (0.15 s per MB), and holds all of them; here pictures stay on the disk until one is
asked for, and their own sums (PNG) protect them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scene.decode import cut_short

PATTERN = "events.out.tfevents.*"
_HEADER = struct.Struct(
    "<QI"
)  # length of the record, sum of these 8 bytes; after the record 4 bytes with its sum
_SUMMED = 4096  # bytes up to which a record's sum is checked: every number, no picture
_LEAST_SIDE = 2  # of a picture in pixels
_MOST_PIXELS = 1 << 26  # of a picture: more than any that is logged, and 200 MB decoded


@dataclass(frozen=True)
class Place:
    """Where a record lies."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Histogram:
    """A distribution: `counts[i]` values lie between `edges[i]` and `edges[i + 1]`."""

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]


@dataclass
class Events:
    """What a run has logged, by tag and step. What an interrupted run logged beyond its checkpoint is gone.

    Attributes:
        scalars: values, which may be NaN.
        pictures: where they are; `picture` reads one.
        histograms: distributions.
        sessions: first and last time of each process, seconds since 1970.
        resumed: the first iterations of processes that resumed the run.
        notes: what could not be read, in sentences.
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[str, dict[int, Place]] = field(default_factory=dict)
    histograms: dict[str, dict[int, Histogram]] = field(default_factory=dict)
    sessions: list[tuple[float, float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def curve(self, tag: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns steps [P] in ascending order and their values [P]; P = 0 for an unknown tag."""
        points = sorted(self.scalars.get(tag, {}).items())
        array = np.array(points, np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def last(self, tag: str) -> float | None:
        """Returns a tag's newest value that is a finite number; None if there is none."""
        values = self.curve(tag)[1]
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None

    def picture(self, tag: str, step: int) -> NDArray[np.uint8] | None:
        """Returns a picture [H, W, 3] RGB; None if there is none or it is damaged."""
        place = self.pictures.get(tag, {}).get(step)
        if place is None:
            return None
        try:
            with open(place.path, "rb") as file:
                file.seek(place.offset)
                event = _parsed(file.read(place.length))
        except OSError:
            return None
        for value in () if event is None else event.summary.value:
            if value.tag == tag:
                return decoded(value.image.encoded_image_string)
        return None

    def drop_from(self, step: int) -> None:
        """Forgets everything of `step` and later: a run that is resumed there writes it again."""
        tables: tuple[dict[str, dict[int, Any]], ...] = (self.scalars, self.pictures, self.histograms)
        for table in tables:
            for tag, points in list(table.items()):
                table[tag] = {at: value for at, value in points.items() if at < step}
                if not table[tag]:
                    del table[tag]


def stems_of(events: Events, before: str, after: str) -> list[str]:
    """Returns the names between `before` and `after` in the tags of pictures, sorted."""
    return sorted(
        tag[len(before) : -len(after)]
        for tag in events.pictures
        if tag.startswith(before) and tag.endswith(after) and len(tag) > len(before) + len(after)
    )


def decoded(content: bytes) -> NDArray[np.uint8] | None:
    """Decodes a picture file's content to [H, W, 3] RGB; None if it is none, or too small to be seen."""
    if not content or cut_short(content):
        return None
    try:
        width, height = Image.open(io.BytesIO(content)).size  # of its header; nothing is decoded yet
        if width * height > _MOST_PIXELS:
            return None
    except Exception:  # no picture, or one that promises more pixels than Pillow takes for sound
        return None
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # a header that promises more pixels than there can be
        return None
    if image is None or min(image.shape[:2]) < _LEAST_SIDE:
        return None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_events(folder: Path) -> Events:
    """Reads all event files in `folder` in the order in which they were begun. Never fails."""
    events = Events()
    for path in sorted(folder.glob(PATTERN)):
        if path.is_file():
            _read_file(path, events)
    return events


def _read_file(path: Path, events: Events) -> None:
    """Adds one file's events."""
    times: list[float] = []
    try:
        for event, place in _records(path, events.notes):
            times.append(event.wall_time)
            if event.session_log.status == 1:  # START, with the first step of a resumed run
                events.drop_from(event.step)
                events.resumed.append(event.step)
            for value in event.summary.value:
                _add(events, value, event.step, place)
    except OSError as error:
        events.notes.append(f"{path.name} could not be read ({error.strerror}): its curves are missing.")
    if times:
        events.sessions.append((min(times), max(times)))


def _add(events: Events, value: Any, step: int, place: Place) -> None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        events.scalars.setdefault(value.tag, {})[step] = value.simple_value
    elif kind == "image":
        events.pictures.setdefault(value.tag, {})[step] = place
    elif kind == "histo":
        histogram = _histogram(value.histo)
        if histogram is not None:
            events.histograms.setdefault(value.tag, {})[step] = histogram


def _histogram(histo: Any) -> Histogram | None:
    """TensorBoard's buckets, of which only upper limits are stored, cut to the range of the values."""
    limits, counts = np.array(histo.bucket_limit, np.float64), np.array(histo.bucket, np.float64)
    if len(limits) != len(counts) or not counts.sum() > 0 or not histo.min < histo.max:
        return None
    edges = np.concatenate([[histo.min], limits]).clip(histo.min, histo.max)
    return Histogram(edges, counts)


def _records(path: Path, notes: list[str]) -> Iterator[tuple[Any, Place]]:
    """Yields the events of a file up to the first that is cut short or damaged, which is noted."""
    from tensorboard.summary.writer.record_writer import masked_crc32c

    size, offset = path.stat().st_size, 0
    with open(path, "rb") as file:
        while offset < size:
            head = file.read(_HEADER.size)
            length = _HEADER.unpack(head)[0] if len(head) == _HEADER.size else size
            if offset + _HEADER.size + length + 4 > size:
                break
            start, content, sums = offset + _HEADER.size, file.read(length), file.read(4)
            if length <= _SUMMED and masked_crc32c(content) != struct.unpack("<I", sums)[0]:
                break
            event = _parsed(content)
            if event is None:
                break
            yield event, Place(path, start, length)
            offset = start + length + 4
    if offset < size:
        notes.append(
            f"{path.name} is damaged or cut short after {offset:,} of {size:,} bytes (a process that was "
            "killed, or a full disk): what it logged later is missing from the curves."
        )


def _parsed(content: bytes) -> Any:
    """Parses an event; None if it is none."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(content)
    except DecodeError:
        return None
