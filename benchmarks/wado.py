"""Retrieving: a CT series of 500 native slices (264 MB) and one of 100 JPEG-LS slices, as viewers fetch them."""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median

import numpy as np
from PIL import Image

from benchmarks import phantom, stow
from benchmarks.client import Connection, Reply, WrongAnswer, fetch_all, touched
from benchmarks.measure import Goal, Row, Sample, Workload, latencies
from benchmarks.multipart import only_part, unpack
from benchmarks.peers import Peer
from benchmarks.qido import JSON

NATIVE, NATIVE_COUNT = 1, 500
COMPRESSED, COMPRESSED_COUNT = 2, 100
CONNECTIONS = 6  # what a browser opens to one host

FRAME = 'multipart/related; type="application/octet-stream"'
JPEGLS_FRAME = 'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80'
INSTANCE = 'multipart/related; type="application/dicom"'
WINDOW = "window=40,400,linear"

ALL_KINDS = frozenset({"readingroom", "orthanc", "nginx"})


def study_path(series: int) -> str:
    return f"/studies/{phantom.series_uids(series)[0]}"


def metadata_path(series: int) -> str:
    return f"{study_path(series)}/series/{phantom.series_uids(series)[1]}/metadata"


def instance_path(series: int, number: int) -> str:
    path = f"{study_path(series)}/series/{phantom.series_uids(series)[1]}"
    return f"{path}/instances/{phantom.instance_uid(series, number)}"


def frame_path(series: int, number: int) -> str:
    return f"{instance_path(series, number)}/frames/1"


def for_nginx() -> Iterator[tuple[str, str, str]]:
    """List what nginx is to serve, as path, Accept and Accept-Encoding to ask another peer for it."""
    yield metadata_path(NATIVE), JSON, "gzip"
    yield study_path(NATIVE), INSTANCE, "identity"
    for number in range(1, NATIVE_COUNT + 1):
        yield frame_path(NATIVE, number), FRAME, "identity"
        yield instance_path(NATIVE, number), INSTANCE, "identity"
    for number in range(1, COMPRESSED_COUNT + 1):
        yield frame_path(COMPRESSED, number), JPEGLS_FRAME, "identity"


@functools.cache
def _study_buffer() -> bytearray:
    return touched(300 << 20)


@functools.cache
def _frame_buffers() -> tuple[bytearray, ...]:
    return tuple(touched(phantom.FRAME_BYTES + (32 << 10)) for _ in range(NATIVE_COUNT))


def is_frame(expected: bytes) -> Callable[[Reply], None]:
    """Make the check that a reply is one part with this frame and nothing else."""

    def check(reply: Reply) -> None:
        # An encapsulated frame may come with or without the padding byte that its item holds.
        if (part := only_part(reply.expect(200))) != expected and part + b"\0" != expected:
            raise WrongAnswer(f"a frame of {len(part)} bytes is not the {len(expected)} bytes that were stored")

    return check


def _is_instance(number: int) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        check_file(only_part(reply.expect(200)), number)

    return check


def check_file(file: bytes | memoryview, number: int) -> None:
    """Raise WrongAnswer unless these bytes are that instance, pixels and all."""
    file = bytes(file)
    named = phantom.instance_uid(NATIVE, number).encode() in file[:2048]
    if file[128:132] != b"DICM" or not named or not file.endswith(phantom.native_frame(number)):
        raise WrongAnswer(f"{len(file)} bytes are not instance {number} as a file with its pixels")


def check_metadata(reply: Reply) -> None:
    """Raise WrongAnswer unless the metadata are those of all instances, with all their attributes."""
    instances = json.loads(bytes(reply.expect(200).body))
    uids = {instance["00080018"]["Value"][0] for instance in instances}
    if uids != {phantom.instance_uid(NATIVE, number) for number in range(1, NATIVE_COUNT + 1)}:
        raise WrongAnswer(f"metadata of {len(uids)} instances are not those of the {NATIVE_COUNT} stored ones")
    if min(len(instance) for instance in instances) < 110 or "00400275" not in instances[0]:
        raise WrongAnswer(f"metadata of {min(len(i) for i in instances)} attributes is not the whole header")


@functools.cache
def _windowed(index: int) -> np.ndarray:
    """Give the slice as WINDOW shows it (PS3.3 C.11.2.1.2)."""
    hounsfield = phantom.slice_pixels(index).astype(float) - 1024
    return np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255)


def _is_picture(number: int) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        picture = np.asarray(Image.open(io.BytesIO(reply.expect(200).body)).convert("L"), dtype=float)
        # The first row differs (it is stamped), and JPEG loses a little.
        off = (
            float(np.abs(picture - _windowed(number % phantom.SLICES))[1:].mean())
            if picture.shape == (512, 512)
            else 255
        )
        if off > 6:
            raise WrongAnswer(f"a picture {picture.shape} is {off:.1f} grey levels off")

    return check


def _shuffled(count: int, seed: int) -> list[int]:
    numbers = list(range(1, count + 1))
    random.Random(seed).shuffle(numbers)
    return numbers


def one_frame(peer: Peer) -> Sample:
    """One frame after the other, from slices all over the series."""
    asks = (
        (peer.get(frame_path(NATIVE, n), FRAME), is_frame(phantom.native_frame(n))) for n in _shuffled(NATIVE_COUNT, 1)
    )
    took = latencies(Connection(peer.port, buffer=_frame_buffers()[0]), asks)
    return Sample(values=(median(took),), requests=len(took))


def all_frames(peer: Peer) -> Sample:
    """A whole series over six connections, frame by frame, in the order of the slices."""
    heads = [peer.get(frame_path(NATIVE, n), FRAME) for n in range(1, NATIVE_COUNT + 1)]
    started, replies = fetch_all([peer.connect() for _ in range(CONNECTIONS)], heads, _frame_buffers())
    for number, reply in enumerate(replies, start=1):
        is_frame(phantom.native_frame(number))(reply)
    first = (replies[0].done_at - started) * 1000
    whole = (max(reply.done_at for reply in replies) - started) * 1000
    return Sample(values=(first, whole), requests=len(heads))


def one_instance(peer: Peer) -> Sample:
    """One file after the other, all over the series."""
    asks = ((peer.get(instance_path(NATIVE, n), INSTANCE), _is_instance(n)) for n in _shuffled(NATIVE_COUNT, 2))
    took = latencies(Connection(peer.port, buffer=_frame_buffers()[0]), asks)
    return Sample(values=(median(took),), requests=len(took))


def whole_study(peer: Peer) -> Sample:
    """All files of a study in one answer."""
    connection = Connection(peer.port, buffer=_study_buffer())
    connection.connect()
    reply = connection.exchange(peer.get(study_path(NATIVE), INSTANCE)).expect(200)
    files = list(unpack(reply))
    if len(files) != NATIVE_COUNT:
        raise WrongAnswer(f"{len(files)} instances of a study of {NATIVE_COUNT}")
    for file in files:
        # The stamp of the first pixels says which one it is: the peers may send them in any order.
        check_file(file, int.from_bytes(file[-phantom.FRAME_BYTES :][:8], "little"))
    connection.close()
    return Sample(values=(reply.seconds * 1000,), requests=1)


def _metadata(encoding: str) -> Callable[[Peer], Sample]:
    def run(peer: Peer) -> Sample:
        connection = Connection(peer.port, buffer=touched(8 << 20))
        head = peer.get(metadata_path(NATIVE), JSON, encoding)
        replies = latencies(connection, ((head, check_metadata) for _ in range(20)), least=2, budget_seconds=0.5)
        connection.close()
        return Sample(values=(median(replies),), requests=len(replies))

    return run


def compressed_frames(peer: Peer) -> Sample:
    """JPEG-LS frames one after the other, as they were stored."""
    numbers = _shuffled(COMPRESSED_COUNT, 3)
    asks = ((peer.get(frame_path(COMPRESSED, n), JPEGLS_FRAME), is_frame(phantom.compressed_frame(n))) for n in numbers)
    took = latencies(Connection(peer.port), asks)
    return Sample(values=(1000 * len(took) / sum(took),), requests=len(took))


def _rendered(media_type: str, pictures: int, first: int) -> Callable[[Peer], Sample]:
    """Ask for pictures that nobody has asked for before."""
    turns: dict[str, Iterator[int]] = {}

    def run(peer: Peer) -> Sample:
        turn = next(turns.setdefault(peer.name, count()))
        numbers = [(first + turn * pictures + k) % NATIVE_COUNT + 1 for k in range(pictures)]
        asks = (
            (peer.get(f"{instance_path(NATIVE, n)}/rendered?{WINDOW}", media_type), _is_picture(n)) for n in numbers
        )
        took = latencies(peer.connect(), asks, least=pictures)
        return Sample(values=(1000 * len(took) / sum(took),), requests=len(took))

    return run


def load(peer: Peer) -> None:
    """Store what these workloads retrieve."""

    stow.load(peer, phantom.ct_series(NATIVE, NATIVE_COUNT), a_request=20)
    stow.load(peer, phantom.ct_series(COMPRESSED, COMPRESSED_COUNT, compressed=True), a_request=20)


def _beside_nginx(limit: float) -> tuple[Goal, ...]:
    return (Goal(limit=limit, against="nginx"),)


FRAME_WORKLOAD = Workload(
    name="frame",
    rows=(Row(title="one frame, 512 KiB", goals=(Goal(limit=0.5),), aims=(Goal(limit=0.35),)),),
    run=one_frame,
    kinds=ALL_KINDS,
)
WORKLOADS = (
    Workload(
        name="frames",
        rows=(
            Row(title="500 frames over 6 connections: first", aims=(Goal(limit=8),)),
            Row(title="500 frames over 6 connections: all", goals=_beside_nginx(2), aims=_beside_nginx(1.5)),
        ),
        run=all_frames,
        kinds=ALL_KINDS,
    ),
    Workload(
        name="metadata",
        rows=(
            Row(
                title="series metadata, 500 instances, gzip",
                goals=_beside_nginx(2),
                aims=(Goal(limit=10, against="orthanc"), *_beside_nginx(2)),
            ),
        ),
        run=_metadata("gzip"),
        kinds=ALL_KINDS,
    ),
    Workload(
        name="metadata-identity",
        rows=(
            Row(
                title="series metadata, 500 instances, not compressed",
                goals=_beside_nginx(2),
                aims=(Goal(limit=10, against="orthanc"), *_beside_nginx(2)),
            ),
        ),
        run=_metadata("identity"),
        kinds=ALL_KINDS,
    ),
    Workload(
        name="instance",
        rows=(Row(title="one instance, 516 KiB", aims=(Goal(limit=0.45),)),),
        run=one_instance,
        kinds=ALL_KINDS,
    ),
    Workload(
        name="study",
        rows=(Row(title="whole study, 264 MB multipart", aims=_beside_nginx(1.2)),),
        run=whole_study,
        kinds=ALL_KINDS,
    ),
    Workload(
        name="compressed",
        rows=(Row(title="JPEG-LS frames as stored", unit="/s", aims=(Goal(limit=6, against="orthanc"),)),),
        run=compressed_frames,
        kinds=ALL_KINDS,
    ),
    Workload(
        name="png",
        rows=(Row(title="rendered PNG, never asked for before", unit="/s", aims=(Goal(limit=5, against="orthanc"),)),),
        run=_rendered("image/png", 15, 0),
    ),
    Workload(
        name="jpeg",
        rows=(
            Row(title="rendered JPEG, never asked for before", unit="/s", aims=(Goal(limit=1.5, against="orthanc"),)),
        ),
        run=_rendered("image/jpeg", 40, 150),
    ),
)
