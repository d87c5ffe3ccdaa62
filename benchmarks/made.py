"""What this server makes on request: frames in other transfer syntaxes, the files of a study in a zip.

No other peer does all of it, so the figures are ratios of times that are taken in turns in one process: a transcoded
frame beside the call of the codec alone, a kept one beside a stored one, and the files of a study beside its frames.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from statistics import median
from time import perf_counter, sleep

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks import phantom
from benchmarks.client import Connection, Reply, WrongAnswer, touched
from benchmarks.measure import Goal, Row, Sample, Workload
from benchmarks.multipart import only_part, unpack
from benchmarks.peers import Peer
from benchmarks.wado import FRAME, INSTANCE, NATIVE, NATIVE_COUNT, check_file, frame_path, is_frame, study_path

BITS = 16  # Bits Stored of the phantom
A_TURN = 25
REST_SECONDS = 0.003
"""Before the codec is called alone: for a server that waits for requests, too, the processor's caches are cold."""
HTJ2K, JPEG_LS = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.80"
ZIP = "application/zip"
MIB = 1 << 20

Encode = Callable[[NDArray[np.uint16]], bytes]
Decode = Callable[[bytes], NDArray[np.uint16]]


def _pixels(number: int) -> NDArray[np.uint16]:
    return np.frombuffer(phantom.native_frame(number), "<u2").reshape(phantom.SIZE, phantom.SIZE)


def encode_htj2k(pixels: NDArray[np.uint16]) -> bytes:
    """Call the codec with what the server asks of it."""
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True, rgb=False, planar=False, bitspersample=BITS))


def encode_jpeg_ls(pixels: NDArray[np.uint16]) -> bytes:
    """The same of JPEG-LS."""
    return bytes(imagecodecs.jpegls_encode(pixels, bitspersample=BITS))


def _transcoding(media_type: str, syntax: str, encode: Encode, decode: Decode) -> Callable[[Peer], Sample]:
    """Ask for frames that nobody has had in this syntax, each beside its codec's call, and for the same ones again."""
    turns: dict[str, Iterator[int]] = {}
    accept = f'multipart/related; type="{media_type}"; transfer-syntax={syntax}'

    def run(peer: Peer) -> Sample:
        turn = next(turns.setdefault(peer.name, count()))
        numbers = [(turn * A_TURN + k) % NATIVE_COUNT + 1 for k in range(A_TURN)]
        connection = peer.connect()
        made, called, kept, stored = [], [], [], []
        for number in numbers:
            pixels = _pixels(number)
            sleep(REST_SECONDS)
            begun = perf_counter()
            encode(pixels)
            called.append(perf_counter() - begun)
            reply = connection.exchange(peer.get(frame_path(NATIVE, number), accept))
            made.append(reply.seconds)
            bitstream = bytes(only_part(reply.expect(200)))
            if not np.array_equal(decode(bitstream), pixels):
                raise WrongAnswer(f"frame {number} is another one in {syntax}")
        for number in numbers:
            reply = connection.exchange(peer.get(frame_path(NATIVE, number), accept))
            kept.append(reply.expect(200).seconds)
            reply = connection.exchange(peer.get(frame_path(NATIVE, number), FRAME))
            stored.append(reply.seconds)
            is_frame(phantom.native_frame(number))(reply)
        connection.close()
        ratios = (median(made) / median(called), median(kept) / median(stored))
        return Sample(values=(median(made) * 1000, *ratios), requests=3 * A_TURN)

    return run


def _whole(accept: str, files: Callable[[Reply], Sequence[bytes | memoryview]]) -> Callable[[Peer], Sample]:
    """All files of a study in one answer, beside all its frames one after the other; and what memory that took."""

    def run(peer: Peer) -> Sample:
        connection = Connection(peer.port, buffer=_buffer())
        connection.connect()
        before = peer.memory_bytes()
        peer.forget_peaks()
        reply = connection.exchange(peer.get(study_path(NATIVE), accept)).expect(200)
        extra = peer.memory_bytes("VmHWM") - before
        taken = reply.seconds
        numbers = {int.from_bytes(file[-phantom.FRAME_BYTES :][:8], "little") for file in files(reply)}
        if len(numbers) != NATIVE_COUNT:
            raise WrongAnswer(f"{len(numbers)} instances of a study of {NATIVE_COUNT}")
        for file in files(reply):
            check_file(file, int.from_bytes(file[-phantom.FRAME_BYTES :][:8], "little"))
        frames = 0.0
        for number in range(1, NATIVE_COUNT + 1):
            frames += connection.exchange(peer.get(frame_path(NATIVE, number), FRAME)).expect(200).seconds
        connection.close()
        return Sample(values=(taken * 1000, frames / taken, max(0, extra) / MIB), requests=1 + NATIVE_COUNT)

    return run


_kept: list[bytearray] = []


def _buffer() -> bytearray:
    if not _kept:
        _kept.append(touched(300 * MIB))
    return _kept[0]


def in_parts(reply: Reply) -> Sequence[memoryview]:
    """Give the files of a multipart message."""
    return list(unpack(reply))


def in_zip(reply: Reply) -> Sequence[bytes]:
    """Give the files of a zip but for its DICOMDIR."""
    with zipfile.ZipFile(io.BytesIO(reply.coded)) as archive:
        return [archive.read(name) for name in archive.namelist() if name != "DICOMDIR"]


def _made_rows(title: str) -> tuple[Row, ...]:
    return (
        Row(title=f"a CT frame made {title}"),
        Row(title=f"a CT frame made {title}, times its codec's call", unit="x", goals=(Goal(limit=1.3),)),
        Row(title=f"a CT frame kept {title}, times a stored one", unit="x", goals=(Goal(limit=1.0),)),
    )


def _whole_rows(title: str) -> tuple[Row, ...]:
    return (
        Row(title=f"{title} of 500 files"),
        Row(title=f"{title} of 500 files, speed of frames one by one", unit="x/s", goals=(Goal(limit=0.7),)),
        Row(title=f"{title} of 500 files, memory taken", unit="MiB", goals=(Goal(limit=64),)),
    )


OURS = frozenset({"readingroom"})

WORKLOADS = (
    Workload(
        name="htj2k",
        rows=_made_rows("HTJ2K"),
        run=_transcoding("image/jphc", HTJ2K, encode_htj2k, imagecodecs.htj2k_decode),
        kinds=OURS,
    ),
    Workload(
        name="jpegls",
        rows=_made_rows("JPEG-LS"),
        run=_transcoding("image/jls", JPEG_LS, encode_jpeg_ls, imagecodecs.jpegls_decode),
        kinds=OURS,
    ),
    Workload(name="zip", rows=_whole_rows("a zip"), run=_whole(ZIP, in_zip), kinds=OURS),
    Workload(name="parts", rows=_whole_rows("a multipart"), run=_whole(INSTANCE, in_parts), kinds=OURS),
)
