"""Two uploads that no server should hold in memory; the client does not either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from benchmarks import phantom
from benchmarks.client import WrongAnswer
from benchmarks.measure import Goal, Row, Sample, Workload
from benchmarks.multipart import BOUNDARY, STOW_TYPE, only_part
from benchmarks.peers import Peer
from benchmarks.stow import check_stored

ENCAPSULATED_BYTES = 6 << 30
NATIVE_BYTES = (1 << 32) - 2  # the most that a 32-bit length of even bytes can say (PS3.5 7.1)
MIB = 1 << 20
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def frame_count(*, compressed: bool) -> int:
    """Say how many frames the giant has."""
    if compressed:
        return ENCAPSULATED_BYTES // (8 + len(phantom.compressed_frame(1)))
    return NATIVE_BYTES // phantom.FRAME_BYTES


def pieces(*, compressed: bool) -> Iterator[bytes]:
    """Give the multipart body that holds the giant, piece by piece."""
    frames = frame_count(compressed=compressed)
    yield b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    yield phantom.giant_head(frames, compressed=compressed)
    if compressed:
        yield ITEM + bytes(4)  # an empty offset table
        for number in range(1, frames + 1):
            frame = phantom.compressed_frame(number)
            yield ITEM + len(frame).to_bytes(4, "little") + frame
        yield DELIMITER + bytes(4)
    else:
        for number in range(1, frames + 1):
            yield phantom.native_frame(number)
    yield b"\r\n--" + BOUNDARY + b"--\r\n"


def _upload(*, compressed: bool) -> Callable[[Peer], Sample]:
    """Store the giant and read a few of its frames back."""

    def run(peer: Peer) -> Sample:
        size = sum(len(piece) for piece in pieces(compressed=compressed))
        connection = peer.connect()
        with _Watch(peer) as watch:
            reply = connection.exchange(peer.post("/studies", STOW_TYPE, size), pieces(compressed=compressed))
            check_stored(reply.expect(200).body, 1)
            _check_frames(peer, compressed=compressed)
        connection.close()
        own = watch.peak / MIB
        return Sample(values=(peer.memory_bytes("VmHWM") / MIB, own, size / MIB / reply.seconds), requests=1)

    return run


def _check_frames(peer: Peer, *, compressed: bool) -> None:
    study_uid, series_uid = phantom.series_uids(90 + compressed)
    path = f"/studies/{study_uid}/series/{series_uid}/instances/{phantom.uid(3, 90 + compressed)}/frames"
    last = frame_count(compressed=compressed)
    media_type = "image/jls" if compressed else "application/octet-stream"
    make = phantom.compressed_frame if compressed else phantom.native_frame
    connection = peer.connect()
    for number in (1, last // 2, last):
        head = peer.get(f"{path}/{number}", f'multipart/related; type="{media_type}"')
        frame = only_part(connection.exchange(head).expect(200))
        if frame != make(number) and frame + b"\0" != make(number):
            raise WrongAnswer(f"frame {number} of {last} is not what was stored")
    connection.close()


class _Watch:
    """Looks again and again how much memory a peer has of its own, pages of mapped files not counted."""

    def __init__(self, peer: Peer) -> None:
        self.peak = 0
        self._peer = peer
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._peer.memory_bytes("RssAnon"))

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _workload(name: str, title: str, *, compressed: bool) -> Workload:
    return Workload(
        name=name,
        rows=(
            Row(title=f"{title}: peak memory", unit="MiB", goals=(Goal(limit=256),)),
            Row(title=f"{title}: peak memory without file pages", unit="MiB"),
            Row(title=f"{title}: MiB a second", unit="/s"),
        ),
        run=_upload(compressed=compressed),
        kinds=frozenset({"readingroom"}),
    )


WORKLOADS = (
    _workload("giant-encapsulated", "encapsulated upload of 6 GiB", compressed=True),
    _workload("giant-native", "native upload just below 4 GiB", compressed=False),
)
