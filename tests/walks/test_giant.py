"""Objects far larger than the memory allowed: an encapsulated one of 6 GiB, a native one just below 4 GiB."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydicom.uid import JPEG2000Lossless, MultiFrameGrayscaleByteSecondaryCaptureImageStorage

from tests import multipart
from tests.conftest import absent
from tests.servers import live_server
from tests.stow import AS_STORED, STUDIES, Answer
from tests.synthetic import new_dataset, part10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GIB = 1 << 30
MEMORY = 256 << 20
ROWS, COLUMNS = 1024, 1024
PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Giant:
    """An object that is made as it is sent; of frame n every byte is n modulo 251."""

    head: bytes
    frames: int
    frame_bytes: int
    is_encapsulated: bool

    def pieces(self) -> Iterator[bytes]:
        yield self.head
        for number in range(1, self.frames + 1):
            if self.is_encapsulated:
                yield struct.pack("<HHI", 0xFFFE, 0xE000, self.frame_bytes)
            frame = self.frame(number)
            for at in range(0, self.frame_bytes, PIECE):
                yield frame[at : at + PIECE]
        if self.is_encapsulated:
            yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

    def frame(self, number: int) -> bytes:
        return bytes([number % 251]) * self.frame_bytes


def giant(frames: int, frame_bytes: int, *, is_encapsulated: bool) -> Giant:
    syntax = {"transfer_syntax": JPEG2000Lossless} if is_encapsulated else {}
    dataset = new_dataset(MultiFrameGrayscaleByteSecondaryCaptureImageStorage, Modality="OT", **syntax)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames, ROWS, frame_bytes // ROWS
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    if is_encapsulated:
        opening = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        opening += struct.pack("<HHI", 0xFFFE, 0xE000, 0)  # an empty basic offset table
    else:
        opening = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, frames * frame_bytes)
    return Giant(
        head=part10(dataset) + opening, frames=frames, frame_bytes=frame_bytes, is_encapsulated=is_encapsulated
    )


@pytest.mark.parametrize(
    ("frames", "frame_bytes", "is_encapsulated"),
    [
        pytest.param(3072, 2 << 20, True, id="6 GiB encapsulated"),
        pytest.param(4095, 1 << 20, False, id="just below 4 GiB native"),
    ],
)
def test_a_giant_is_stored_and_read_in_little_memory(
    tmp_path: Path, frames: int, frame_bytes: int, is_encapsulated: bool
) -> None:
    size = frames * frame_bytes
    if shutil.disk_usage(tmp_path).free < size + 3 * GIB:
        absent(f"{(size + 3 * GIB) / GIB:.0f} GiB of free disk below {tmp_path}")
    sent = giant(frames, frame_bytes, is_encapsulated=is_encapsulated)
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield b"--XX\r\nContent-Type: application/dicom\r\n\r\n"
        for piece in sent.pieces():
            digest.update(piece)
            yield piece
        yield b"\r\n--XX--\r\n"

    with live_server(tmp_path / "data") as server, httpx.Client(base_url=server.base, timeout=600) as client:
        response = client.post(STUDIES, content=body(), headers={"Content-Type": multipart.content_type()})
        assert response.status_code == 200, response.text
        (item,) = Answer(200, response.json()).stored.values()
        url = item["00081190"]["Value"][0]
        for number in (1, 2, frames // 2, frames):
            frame = client.get(
                f"{url}/frames/{number}", headers={"Accept": "application/octet-stream; transfer-syntax=*"}
            )
            assert frame.content == sent.frame(number), number
        received = hashlib.sha256()
        with client.stream("GET", url, headers=AS_STORED) as whole:
            assert whole.status_code == 200
            for chunk in whole.iter_raw(PIECE):
                received.update(chunk)
        assert received.digest() == digest.digest()
        (metadata,) = client.get(f"{url}/metadata").json()
        assert metadata["00280008"]["Value"] == [frames]
        peak = server.peak_memory_bytes()
    shutil.rmtree(tmp_path / "data")
    print(f"{size / GIB:.2f} GiB in a peak of {peak >> 20} MiB")
    assert peak <= MEMORY
