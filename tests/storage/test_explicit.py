"""Any stored file as Explicit VR Little Endian, over the corpus and over what is odd (PS3.5 A.2)."""

from __future__ import annotations

import io
import mmap
import struct
import warnings
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from readingroom.errors import NotAcceptable
from storage.explicit import explicit_little_endian, little_endian, native_bytes
from storage.objects import Scan, frame_payload, scan
from storage.pixels import decode_frame
from tests import synthetic
from tests.corpus import Entry, corpus_file, each_file
from tests.retrieve import in_syntax, read
from tests.storage.test_objects import REFUSED
from tests.synthetic import part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def rewritten(file: bytes) -> bytes:
    return b"".join(map(bytes, explicit_little_endian(file)))


UNDECODABLE = ("example3.dcm", "JPEG2000-embedded-sequence-delimiter.dcm")
"""Whose bitstreams are none: made by hand to see how readers fail."""


@each_file()
def test_every_readable_file_keeps_its_values(corpus: object, entry: Entry) -> None:
    """The JSON of what was rewritten is that of what was received, and so are the pixels."""
    if entry.name in REFUSED or entry.name.endswith(UNDECODABLE):
        return  # such a file is never stored
    file = entry.read()
    received, found = scan(file), scan(written := rewritten(file))
    assert found.transfer_syntax == ExplicitVRLittleEndian
    was_compressed = received.spec is not None and received.spec.encoding == "encapsulated"
    changed = {"7FE00001", "7FE00002", "7FE00010", "00280004", "00280006"} if was_compressed else set()
    for key in (received.metadata.keys() | found.metadata.keys()) - changed:
        assert padded(found.metadata.get(key)) == padded(received.metadata.get(key)), key
    if received.spec is None or (was_compressed and found.spec is None):
        return
    assert found.spec is not None
    for index in (0, received.spec.frames - 1):
        assert np.array_equal(pixels_of(written, found, index), pixels_of(file, received, index))


def padded(element: Any) -> Any:
    """The element with a value of even length, as PS3.5 7.1 wants it."""
    if element and len(raw := b64decode(element.get("InlineBinary", ""))) % 2:
        return {**element, "InlineBinary": b64encode(raw + b"\0").decode()}
    return element


def pixels_of(file: bytes, found: Scan, index: int) -> np.ndarray:
    assert found.spec is not None
    offset, length = found.chunks[0 if found.spec.encoding == "bits" else index]
    return decode_frame(frame_payload(found.spec, file[offset : offset + length], index), found.spec)


@pytest.mark.parametrize("name", UNDECODABLE)
def test_pixels_that_do_not_decode_are_not_acceptable(corpus: object, name: str) -> None:
    with pytest.raises(NotAcceptable, match=r"ask for transfer-syntax=\*"):
        rewritten(corpus_file(name))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_kind_of_value_is_turned(syntax: str) -> None:
    """PS3.5 6.2, 7.3: by the size of the words that its value representation has."""
    dataset = synthetic.text_report()
    dataset.add_new("FrameIncrementPointer", "AT", [0x00181063, 0x00181065])
    dataset.add_new("SelectorSLValue", "SL", [-1, 70000])
    dataset.add_new("SelectorSSValue", "SS", [-1, 700])
    dataset.add_new("SelectorULValue", "UL", [1, 1 << 31])
    dataset.add_new("SelectorUSValue", "US", [1, 1 << 15])
    dataset.add_new("SelectorFLValue", "FL", [1.5, -2])
    dataset.add_new("SelectorFDValue", "FD", [1e300])
    dataset.add_new("SelectorSVValue", "SV", [-(1 << 60)])
    dataset.add_new("SelectorUVValue", "UV", [1 << 63])
    dataset.add_new("SelectorUTValue", "UT", "longer" * 20000)
    dataset.add_new("SelectorURValue", "UR", "http://example.org/x")
    dataset.PatientComments = "y" * 501
    inner = Dataset()
    inner.SelectorUSValue = [3, 4]
    inner.ReferencedSOPInstanceUID = "1.2.3"
    outer = Dataset()
    outer.ContentSequence = [inner, Dataset()]
    dataset.ContentSequence = [outer]
    got = read(rewritten(part10(in_syntax_without_pixels(dataset, syntax))))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    for element in dataset:
        assert got[element.tag].value == element.value, element
        assert got[element.tag].VR == element.VR


def in_syntax_without_pixels(dataset: pydicom.FileDataset, syntax: str) -> pydicom.FileDataset:
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = b""  # in_syntax turns pixels as well; here there are none
    turned = in_syntax(dataset, syntax)
    if "PixelData" in turned:
        del turned.PixelData, dataset.PixelData
    return turned


def test_a_value_too_long_for_its_vr_becomes_un() -> None:
    """PS3.5 6.2.2 note: a short header cannot say more than 65,534 bytes."""
    dataset = synthetic.text_report()
    dataset.add_new("SelectorDSValue", "DS", ["1.5"] * 20_000)
    file = part10(in_syntax_without_pixels(dataset, ImplicitVRLittleEndian))
    written = rewritten(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        element = pydicom.dcmread(io.BytesIO(written)).get_item(0x00720072)
    assert element is not None
    assert element.VR == "UN"
    assert bytes(element.value).rstrip() == b"\\".join([b"1.5"] * 20_000)


def test_group_lengths_and_trailing_padding_are_left_out() -> None:
    (dataset,) = synthetic.ct_series(1)
    file = part10(in_syntax(dataset, ImplicitVRLittleEndian))
    group_length = struct.pack("<HHII", 0x0008, 0x0000, 4, 999)
    meta_end = scan_start(file)
    file = file[:meta_end] + group_length + file[meta_end:] + struct.pack("<HHI", 0xFFFC, 0xFFFC, 6) + b"abcdef"
    found = read(rewritten(file))
    assert (0x0008, 0x0000) not in found
    assert (0xFFFC, 0xFFFC) not in found
    assert np.array_equal(found.pixel_array, dataset.pixel_array)


def scan_start(file: bytes) -> int:
    """Where the data set begins."""
    (length,) = struct.unpack_from("<I", file, 140)
    return 144 + int(length)


def test_a_mapped_file_is_written_in_views_of_it(tmp_path: Path) -> None:
    """A large object is never held in memory."""
    (dataset,) = synthetic.ct_series(1, rows=1500, columns=1200)
    path = tmp_path / "file.dcm"
    path.write_bytes(part10(in_syntax(dataset, ImplicitVRLittleEndian)))
    with path.open("rb") as file:
        pieces = list(explicit_little_endian(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    assert max(map(len, pieces)) <= 1 << 20
    assert sum(isinstance(piece, memoryview) for piece in pieces) >= 3
    assert np.array_equal(read(b"".join(map(bytes, pieces))).pixel_array, dataset.pixel_array)


def test_pixels_that_would_not_fit_are_not_acceptable() -> None:
    """PS3.5 7.1: a length of 32 bits; PS3.18 8.7.8.1 note 1."""
    dataset = synthetic.encapsulated([b"x" * 10] * 3)
    dataset.Rows = dataset.Columns = 0x8000
    with pytest.raises(NotAcceptable, match="too long"):
        rewritten(part10(dataset))


def test_native_bytes_are_little_endian_and_by_plane_on_demand() -> None:
    spec = scan(part10(synthetic.secondary_capture(2, 2))).spec
    assert spec is not None
    values = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert native_bytes(values, spec) == bytes(range(12))
    assert native_bytes(values, spec, planar=True) == bytes([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11])


@pytest.mark.parametrize(
    ("vr", "word", "expected"),
    [
        ("OW", None, b"badcfehg"),
        ("OF", None, b"dcbahgfe"),
        ("OD", None, b"hgfedcba"),
        ("OB", None, b"abcdefgh"),
        ("UN", None, b"abcdefgh"),
        ("OW", 4, b"dcbahgfe"),
        ("OW", 1, b"abcdefgh"),
    ],
)
def test_words_are_turned_by_their_size(vr: str, word: int | None, expected: bytes) -> None:
    assert bytes(little_endian(memoryview(b"abcdefgh"), vr, word=word)) == expected
    assert bytes(little_endian(memoryview(b"abcdefgh!"), vr, word=word)) == expected + b"!"
