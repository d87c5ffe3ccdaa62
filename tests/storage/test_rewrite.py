"""Stored files written anew in another transfer syntax and with other attributes (PS3.5 A, PS3.10 7)."""

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
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from readingroom.errors import Invalid, NotAcceptable
from storage.encode import native_bytes
from storage.objects import Scan, frame_payload, scan
from storage.pixels import decode_frame
from storage.rewrite import Overlay, little_endian, rewrite
from tests import synthetic
from tests.corpus import Entry, corpus_file, each_file
from tests.retrieve import in_syntax, read
from tests.storage.test_objects import REFUSED
from tests.synthetic import part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def rewritten(file: bytes, target: str | None = ExplicitVRLittleEndian, overlay: Overlay | None = None) -> bytes:
    return b"".join(map(bytes, rewrite(file, target, overlay=overlay)))


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
        pieces = list(rewrite(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), ExplicitVRLittleEndian))
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


# -- other transfer syntaxes ---------------------------------------------------------------------------------------


@each_file()
def test_every_readable_file_is_written_in_its_own_transfer_syntax(corpus: object, entry: Entry) -> None:
    """An overlay needs that: values and frames stay as they are, whether anyone can decode them or not."""
    if entry.name in REFUSED:
        return
    file = entry.read()
    received, written = scan(file), rewritten(file, None)
    found = scan(written)
    never = (ImplicitVRLittleEndian, ExplicitVRBigEndian)
    assert found.transfer_syntax == (
        ExplicitVRLittleEndian if received.transfer_syntax in never else received.transfer_syntax
    )
    if found.spec and found.spec.encoding == "encapsulated":
        received.metadata["7FE00010"]["vr"] = "OB"  # whatever it was, fragments are OB (PS3.5 A.4)
    assert {key: padded(it) for key, it in found.metadata.items()} == {
        key: padded(it) for key, it in received.metadata.items()
    }
    if found.spec and found.spec.encoding == "encapsulated":
        assert frames_of(written, found) == frames_of(file, received)


def frames_of(file: bytes, found: Scan) -> list[bytes]:
    assert found.spec is not None
    return [
        frame_payload(found.spec, file[offset : offset + length], at)
        for at, (offset, length) in enumerate(found.chunks)
    ]


def test_a_data_set_is_deflated_to_an_even_length() -> None:
    """PS3.5 A.5."""
    for comment in ("", "x", "yz", "zzz9"):
        (dataset,) = synthetic.ct_series(1, PatientComments=comment)
        file = part10(dataset)
        written = rewritten(file, DeflatedExplicitVRLittleEndian)
        assert len(written) % 2 == 0
        assert len(written) < len(file) // 2
        got = read(written)
        assert got.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
        assert np.array_equal(got.pixel_array, dataset.pixel_array)
        assert read(rewritten(written)).PatientComments == comment or not comment


@pytest.mark.parametrize("target", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_implicit_vr_and_big_endian_are_never_written(target: str) -> None:
    with pytest.raises(NotAcceptable, match="Nothing is written"):
        rewritten(part10(synthetic.text_report()), target)


def test_what_has_no_pixels_has_nothing_to_compress() -> None:
    with pytest.raises(NotAcceptable, match="no pixel data"):
        rewritten(part10(synthetic.text_report()), JPEGLSLossless)


# -- overlays ------------------------------------------------------------------------------------------------------

NAME: Overlay = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Corrected^Ada"}]}}


def test_an_overlay_replaces_inserts_and_removes_in_the_order_of_tags() -> None:
    (dataset,) = synthetic.ct_series(1)
    overlay: Overlay = {
        **NAME,
        "00100040": None,
        "00104000": {"vr": "LT", "Value": ["inserted"]},
        "00080005": {"vr": "CS", "Value": ["ISO_IR 13"]},
        "FFFA0001": {"vr": "LO", "Value": ["last"]},
        "00041500": {"vr": "CS", "Value": ["FIRST"]},
        "77770010": None,
    }
    written = rewritten(part10(dataset), None, overlay)
    keys = list(scan(written).metadata)
    assert keys == sorted(keys)
    got = read(written)
    assert got.PatientName == "Corrected^Ada"
    assert got.PatientComments == "inserted"
    assert got[0xFFFA0001].value == "last"
    assert got[0x00041500].value == "FIRST"
    assert "PatientSex" not in got
    assert "SpecificCharacterSet" not in got, "is not the overlay's to set"
    untouched = {element.tag for element in dataset} - {0x00100010, 0x00100040}
    assert all(got[tag] == dataset[tag] for tag in untouched)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian]
)
def test_an_overlay_goes_over_every_encoding(syntax: str) -> None:
    (dataset,) = synthetic.ct_series(1)
    pixels = dataset.pixel_array
    got = read(rewritten(part10(in_syntax(dataset, syntax)), None, NAME))
    assert got.PatientName == "Corrected^Ada"
    assert np.array_equal(got.pixel_array, pixels)


@pytest.mark.parametrize("offsets", [{"has_offsets": True}, {"has_offsets": False}, {"is_extended": True}])
def test_an_overlay_leaves_frames_and_their_offsets_alone(offsets: dict[str, bool]) -> None:
    dataset = synthetic.encapsulated([b"first!", b"second", b"third!"], **offsets)  # type: ignore[arg-type]
    file = part10(dataset)
    written = rewritten(file, None, NAME)
    assert frames_of(written, scan(written)) == [b"first!", b"second", b"third!"]
    pixels = b"\xe0\x7f\x10\x00OB"
    assert written[written.index(pixels) :] == file[file.index(pixels) :]


def test_an_overlaid_sequence_is_replaced_as_a_whole() -> None:
    dataset = synthetic.text_report()
    item = {"00080100": {"vr": "SH", "Value": ["T-1"]}, "0040A730": {"vr": "SQ", "Value": [{}]}}
    got = read(rewritten(part10(dataset), None, {"0040A730": {"vr": "SQ", "Value": [item, {}]}}))
    assert [element.keyword for element in got.ContentSequence[0]] == ["CodeValue", "ContentSequence"]
    assert len(got.ContentSequence) == 2


def test_text_that_the_character_set_cannot_carry_makes_it_utf_8() -> None:
    """PS3.5 6.1.2.2: at every level, also where an item has a character set of its own."""
    dataset = synthetic.text_report(SpecificCharacterSet="ISO_IR 100", PatientComments="süß", PatientID="0815")
    (item,) = dataset.ContentSequence
    item.TextValue = "Müller"
    greek = Dataset()
    greek.SpecificCharacterSet = "ISO_IR 126"
    greek.TextValue = "Αθήνα"
    item.ContentSequence = [greek]
    file = part10(dataset)

    kept = read(rewritten(file, None, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Größe^Ä"}]}}))
    assert (kept.SpecificCharacterSet, kept.PatientName) == ("ISO_IR 100", "Größe^Ä")

    got = read(rewritten(file, None, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Łukasz^Ż"}]}}))
    assert got.SpecificCharacterSet == "ISO_IR 192"
    assert got.PatientName == "Łukasz^Ż"
    assert (got.PatientComments, got.PatientID) == ("süß", "0815")
    assert got.ContentSequence[0].TextValue == "Müller"
    inner = got.ContentSequence[0].ContentSequence[0]
    assert inner.TextValue == "Αθήνα"
    assert "SpecificCharacterSet" not in inner


def test_japanese_text_with_escapes_becomes_utf_8_beside_new_text() -> None:
    dataset = synthetic.text_report(SpecificCharacterSet=["", "ISO 2022 IR 87"])
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    overlay: Overlay = {"00081030": {"vr": "LO", "Value": ["胸部"]}}
    got = read(rewritten(part10(dataset), None, overlay))
    assert got.SpecificCharacterSet == "ISO_IR 192"
    assert got.StudyDescription == "胸部"
    assert str(got.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_a_new_instance_uid_is_one_in_the_file_meta_information_as_well() -> None:
    """PS3.10 7.1."""
    (dataset,) = synthetic.ct_series(1)
    got = read(rewritten(part10(dataset), None, {"00080018": {"vr": "UI", "Value": ["1.2.3"]}}))
    assert got.SOPInstanceUID == got.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert got.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID


@pytest.mark.parametrize("key", ["00020010", "7FE00010", "00080000", "FFFCFFFC", "FFFEE000", "PatientName", "0010001"])
def test_an_overlay_cannot_change_what_is_no_attribute_of_the_data_set(key: str) -> None:
    with pytest.raises(Invalid, match="overlay"):
        rewritten(part10(synthetic.text_report()), None, {key: {"vr": "LO", "Value": ["x"]}})


def test_an_overlay_of_broken_text_is_refused() -> None:
    with pytest.raises(Invalid, match="no Unicode"):
        rewritten(part10(synthetic.text_report()), None, {"00104000": {"vr": "LT", "Value": ["\ud800"]}})


def test_an_overlay_over_a_private_implicit_transfer_syntax_is_not_acceptable() -> None:
    """What its pixels are is not known: only the file as received is right."""
    file = part10(in_syntax(synthetic.ct_series(1)[0], ImplicitVRLittleEndian))
    private = file.replace(b"1.2.840.10008.1.2\0", b"1.2.840.113619.5.2"[:18])
    assert scan(private).transfer_syntax == "1.2.840.113619.5.2"
    with pytest.raises(NotAcceptable, match="as it was received"):
        rewritten(private, None, NAME)
