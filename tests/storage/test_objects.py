"""Every corpus file as a stored object: what it is refused for, its frames, its trailer, and as a zarr array."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import zarr
from pydicom.encaps import generate_frames
from zarr.storage import LocalStore

from readingroom.errors import Invalid, NotDicom, ReadingRoomError, TooLarge
from storage.arrays import ArraySpec, Chunks, frame_bits
from storage.objects import (
    Description,
    Limits,
    Scan,
    frame_chunk,
    frame_payload,
    inflate,
    make_trailer,
    original_size,
    read_description,
    read_index,
    scan,
)
from tests.corpus import Entry, corpus_file, each_file, entries
from tests.storage.part10 import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    element,
    fragments,
    image,
    item,
    part10,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

NO_PREAMBLE = "without DICM at byte 128"
NO_STUDY = "no Study Instance UID"
NO_CLASS = "no SOP Class UID"

REFUSED = {
    "enhanced/weasis-dicom-tools__jpeg2000-multiframe-multifragments.dcm": "a UID is 1 to 64 digits and dots",
    "mr/fo-dicom__GH626.dcm": NO_STUDY,
    "non-part10/deid__deid.dcm": NO_PREAMBLE,
    "non-part10/pydicom-data__JLSL_RGB_ILV0.dcm": NO_PREAMBLE,
    "non-part10/pydicom-data__JLSL_RGB_ILV2.dcm": NO_PREAMBLE,
    "non-part10/pydicom__ExplVR_BigEndNoMeta.dcm": NO_PREAMBLE,
    "non-part10/pydicom__ExplVR_LitEndNoMeta.dcm": NO_PREAMBLE,
    "non-part10/pydicom__no_meta.dcm": NO_PREAMBLE,
    "non-part10/pydicom__rtstruct.dcm": NO_PREAMBLE,
    "other/dicom-test-files__priv_SQ.dcm": NO_CLASS,
    "other/fo-dicom__GH220.dcm": NO_STUDY,
    "other/pydicom__DICOMDIR-bigEnd.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR-empty.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR-implicit.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR-nooffset.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR-nopatient.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR-reordered.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR.dcm": NO_CLASS,
    "other/pydicom__DICOMDIR__62010513.dcm": NO_CLASS,
    "other/pydicom__UN_sequence.dcm": NO_CLASS,
    "other/pydicom__chrSQEncoding.dcm": NO_CLASS,
    "other/pydicom__chrSQEncoding1.dcm": NO_CLASS,
    "other/pydicom__empty_charset_LEI.dcm": NO_CLASS,
    "other/pydicom__meta_missing_tsyntax.dcm": NO_CLASS,
    "other/pydicom__nested_priv_SQ.dcm": NO_CLASS,
    "other/pydicom__no_meta_group_length.dcm": NO_CLASS,
    "other/pydicom__priv_SQ.dcm": NO_CLASS,
    "sc/pydicom-data__HTJ2KLossless_08_RGB.dcm": NO_STUDY,
    "sc/pydicom-data__JLSL_16_15_1_1F.dcm": NO_STUDY,
    "sc/pydicom__JPEGLSNearLossless_08.dcm": NO_STUDY,
    "sc/pydicom__JPEGLSNearLossless_16.dcm": NO_STUDY,
    "sc/pydicom__SC_rgb_jls_lossy_line.dcm": NO_STUDY,
    "sc/pydicom__SC_rgb_jls_lossy_sample.dcm": NO_STUDY,
    "unreadable/fo-dicom__GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm": "the data set cannot be read",
}

OPAQUE = {
    "mr/pydicom__MR_truncated.dcm": "(7FE0,0010) claims 8192 bytes, the file has 8130 more",
    "other/fo-dicom__Issue1097_FailToOpenDeflatedFileWithSQ.dcm": "the data set is deflated",
    "rt/pydicom__badVR.dcm": "Number of Frames is '1A'",
    "rt/pydicom__rtplan_truncated.dcm": "(300A,00B0) at byte 1418: a sequence claims 976 bytes of 711",
    "sc/fo-dicom__GH179A.dcm": "(0028,0120) claims 139296 bytes, the file has 1436 more",
    "sc/pynetdicom__SCImageStorage_Deflated.dcm": "the data set is deflated",
}
"""Besides those that have no pixel data."""


NON_PATIENT = {
    "hp/weasis-dicom-tools__NeurosurgeryPlan.dcm": "hanging-protocols",
    **{
        f"palette/pydicom__{name}.dcm": "color-palettes"
        for name in ("fall", "hotiron", "hotmetalblue", "pet", "pet20step", "spring", "summer", "winter")
    },
}
"""Those that belong to no patient, and their category."""


def scanned(entry: Entry) -> tuple[bytes, Scan] | None:
    data = entry.read()
    try:
        return data, scan(data)
    except ReadingRoomError:
        assert entry.name in REFUSED
        return None


def description_of(data: bytes, **extras: str) -> Description:
    return Description(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        owner_facility="north",
        source="STOW-RS \N{SNOWMAN}",
        received_at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        version=2,
        extras=extras,
    )


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read_at(offset: int, length: int) -> bytes:
        assert offset >= 0
        return data[offset : offset + length]

    return read_at


@each_file()
def test_a_file_is_stored_unless_it_is_listed_with_the_reason(corpus: object, entry: Entry) -> None:
    if entry.name in REFUSED:
        with pytest.raises(NotDicom, match=re.escape(REFUSED[entry.name])):
            scan(entry.read())
        return
    found = scan(entry.read())
    assert found.category == NON_PATIENT.get(entry.name, "")
    if found.spec is None:
        assert OPAQUE.get(entry.name, "no pixel data") == found.opaque_reason
        assert found.opaque_reason != "no pixel data" or "PixelData" not in pydicom.dcmread(entry.path)
    else:
        assert entry.name not in OPAQUE
        assert len(found.chunks) == (1 if found.spec.encoding == "bits" else found.spec.frames)


def test_the_lists_name_files_of_the_corpus(corpus: object) -> None:
    assert set(REFUSED) | set(OPAQUE) | set(NON_PATIENT) <= {entry.name for entry in entries()}


@each_file()
def test_a_trailer_changes_nothing_for_dicom_readers(corpus: object, entry: Entry) -> None:
    if (both := scanned(entry)) is None:
        return
    data, found = both
    trailer = make_trailer(found, description_of(data))
    if found.spec is None:
        assert trailer == b""
        return
    stored = data + trailer
    assert len(trailer) % 2 == 0
    before, after = pydicom.dcmread(io.BytesIO(data)), pydicom.dcmread(io.BytesIO(stored))
    tag = int(found.spec.pixel_element, 16)
    assert after[tag].value == before[tag].value
    assert list(after.keys())[-1] == 0xFFFCFFFC
    assert set(after.keys()) - {0xFFFCFFFC} == set(before.keys()) - {0xFFFCFFFC}
    assert len(after[0xFFFCFFFC].value) + (8 if found.implicit_vr else 12) == len(trailer)
    assert scan(stored).metadata == found.metadata
    assert scan(stored).chunks == found.chunks


@each_file()
def test_a_stored_object_describes_itself_and_its_chunks(corpus: object, entry: Entry) -> None:
    if (both := scanned(entry)) is None or both[1].spec is None:
        return
    data, found = both
    description = description_of(data, study="kept")
    stored = data + make_trailer(found, description)
    read_at, total, count = reader(stored), len(stored), len(found.chunks)
    assert read_description(read_at, total) == description
    assert original_size(read_at, total) == len(data)
    assert read_index(read_at, total, count) == found.chunks
    assert [frame_chunk(read_at, total, count, index) for index in range(count)] == list(found.chunks)


@each_file()
def test_frames_are_the_bitstreams_in_the_file(corpus: object, entry: Entry) -> None:
    if (both := scanned(entry)) is None or both[1].spec is None:
        return
    data, found = both
    spec = found.spec
    assert spec is not None
    data_set = pydicom.dcmread(io.BytesIO(data))
    raw = data_set[int(spec.pixel_element, 16)].value
    if spec.encoding == "encapsulated":
        extended = None
        if "ExtendedOffsetTable" in data_set:
            extended = (data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths)
        expected = list(generate_frames(raw, number_of_frames=spec.frames, extended_offsets=extended))
    else:
        expected = native_frames(spec, raw)
    assert len(expected) == spec.frames
    for index, wanted in enumerate(expected):
        offset, length = found.chunks[0 if spec.encoding == "bits" else index]
        assert frame_payload(spec, data[offset : offset + length], index) == wanted


def native_frames(spec: ArraySpec, raw: bytes) -> list[bytes]:
    """The frames of native pixel data in little-endian order, made another way than ours."""
    bits = frame_bits(spec)
    if bits % 8:
        text = "".join(f"{byte:08b}"[::-1] for byte in raw)
        cut = [text[bits * index : bits * (index + 1)] for index in range(spec.frames)]
        padded = [frame + "0" * (-len(frame) % 8) for frame in cut]
        return [bytes(int(frame[at : at + 8][::-1], 2) for at in range(0, len(frame), 8)) for frame in padded]
    word = 1
    if spec.transfer_syntax == EXPLICIT_BIG:
        word = max(spec.bits_allocated // 8, 2 if spec.pixel_vr == "OW" else 1)
    swapped = b"".join(raw[at : at + word][::-1] for at in range(0, len(raw), word))
    return [swapped[bits // 8 * index : bits // 8 * (index + 1)] for index in range(spec.frames)]


# As a zarr array.


def stored_array(folder: Path, found: Scan, *files: bytes) -> zarr.Array[Any]:
    """An array of these files, one a slot, as it lies on disk; opened by zarr-python alone."""
    assert found.spec is not None
    (folder / "a0").mkdir()
    for slot, data in enumerate(files):
        stored = data + make_trailer(scan(data), description_of(data))
        (folder / "a0" / found.spec.chunk_key(slot)).write_bytes(stored)
    document = found.spec.zarr_json(len(files), {"series": "1.2.3"})
    (folder / "a0" / "zarr.json").write_text(json.dumps(document))
    return zarr.open_array(LocalStore(folder), path="a0", mode="r")


def needs_no_codec_of_ours(spec: ArraySpec) -> bool:
    return "dicom_frame" not in json.dumps(spec.zarr_json(1, {}))


@each_file()
def test_plain_zarr_reads_native_pixels_as_pydicom_does(corpus: object, entry: Entry, tmp_path: Path) -> None:
    if (both := scanned(entry)) is None or both[1].spec is None or not needs_no_codec_of_ours(both[1].spec):
        return
    data, found = both
    spec = found.spec
    assert spec is not None
    array = stored_array(tmp_path, found, data, data)
    assert array.attrs["series"] == "1.2.3"
    expected = pydicom.pixels.pixel_array(pydicom.dcmread(io.BytesIO(data)), raw=True)
    expected = expected.reshape(spec.frames, *spec.frame_shape)
    assert array.shape == (2 * spec.frames, *spec.frame_shape)
    assert array.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(array[spec.frames :], expected)


def test_most_native_files_need_no_codec_of_ours(corpus: object) -> None:
    plain = own = 0
    for entry in entries():
        if (both := scanned(entry)) and (spec := both[1].spec) and spec.encoding == "native":
            plain += needs_no_codec_of_ours(spec)
            own += not needs_no_codec_of_ours(spec)
    assert plain > 100
    assert own < 20


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, False),
        ({"transfer_syntax": EXPLICIT_BIG}, False),
        ({"samples": 3, "planar_configuration": 1, "photometric": "RGB"}, False),
        ({"bits_stored": 12}, False),
        ({"bits_stored": 12, "signed": True}, True),
        ({"bits_stored": 12, "holds_overlays": True}, True),
        ({"bits_allocated": 1, "bits_stored": 1}, True),
        ({"bits_allocated": 1, "bits_stored": 1, "encoding": "bits"}, True),
        ({"bits_allocated": 8, "bits_stored": 8, "transfer_syntax": EXPLICIT_BIG}, True),
        ({"bits_allocated": 8, "bits_stored": 8, "transfer_syntax": EXPLICIT_BIG, "pixel_vr": "OB"}, False),
        ({"samples": 3, "photometric": "YBR_FULL_422", "bits_allocated": 8, "bits_stored": 8}, True),
        ({"encoding": "encapsulated", "transfer_syntax": "1.2.840.10008.1.2.5"}, True),
        ({"pixel_element": "7FE00008", "bits_allocated": 32, "bits_stored": 32, "pixel_vr": "OF"}, False),
    ],
)
def test_the_codec_of_ours_stands_only_where_zarr_has_none(changes: dict[str, Any], own: bool) -> None:
    spec = replace(CT, **changes)
    assert needs_no_codec_of_ours(spec) != own
    assert zarr.core.metadata.v3.ArrayV3Metadata.from_dict(spec.zarr_json(3, {})).shape == (3, *spec.frame_shape)


CT = ArraySpec(
    transfer_syntax=EXPLICIT_LITTLE,
    rows=512,
    columns=512,
    samples=1,
    bits_allocated=16,
    bits_stored=16,
    signed=False,
    planar_configuration=0,
    photometric="MONOCHROME2",
    frames=1,
    pixel_element="7FE00010",
    pixel_vr="OW",
    encoding="native",
)


def test_a_digest_names_a_spec_for_good() -> None:
    assert CT.digest() == "d4877af0840a4aa7"
    assert replace(CT, frames=2).digest() != CT.digest() == replace(CT).digest()


def test_chunk_keys_are_one_file_in_one_folder() -> None:
    assert CT.chunk_key(7) == "c.7.0.0"
    assert replace(CT, samples=3).chunk_key(12) == "c.12.0.0.0"


# Made for the purpose.


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
def test_float_pixels_are_an_array(syntax: str, tmp_path: Path) -> None:
    order = ">" if syntax == EXPLICIT_BIG else "<"
    values = np.arange(24, dtype="f8").reshape(2, 3, 4) / 7
    description = image(3, 4, frames=2, bits=64, syntax=syntax)
    data = part10([*description, element(0x7FE0, 9, "OD", values.astype(f"{order}f8").tobytes(), syntax)], syntax)
    found = scan(data)
    assert found.spec is not None
    assert (found.spec.pixel_element, found.spec.dtype) == ("7FE00009", "float64")
    np.testing.assert_array_equal(stored_array(tmp_path, found, data)[:], values)
    offset, length = found.chunks[1]
    assert frame_payload(found.spec, data[offset : offset + length], 1) == values[1].tobytes()


@pytest.mark.parametrize("count", [1, 3])
def test_eight_bit_samples_in_big_endian_words_are_put_right(count: int) -> None:
    """PS3.5 8.1.2: words are swapped, so the padding byte of an odd image comes before its last sample."""
    frames = [bytes(range(10 * number, 10 * number + 6)) for number in range(count)]
    raw = b"".join(frames)
    swapped = bytes(raw[at ^ 1] for at in range(len(raw)))
    data = part10(
        [*image(2, 3, frames=count, syntax=EXPLICIT_BIG), element(0x7FE0, 0x10, "OW", swapped, EXPLICIT_BIG)],
        EXPLICIT_BIG,
    )
    found = scan(data)
    assert found.spec is not None
    served = [
        frame_payload(found.spec, data[offset : offset + length], index)
        for index, (offset, length) in enumerate(found.chunks)
    ]
    assert served == frames


def test_an_odd_image_in_big_endian_words_keeps_its_last_sample() -> None:
    data = part10(
        [*image(1, 3, syntax=EXPLICIT_BIG), element(0x7FE0, 0x10, "OW", b"\2\1\0\3", EXPLICIT_BIG)], EXPLICIT_BIG
    )
    found = scan(data)
    assert found.spec is not None
    ((offset, length),) = found.chunks
    assert frame_payload(found.spec, data[offset : offset + length], 0) == b"\1\2\3"


def test_one_bit_frames_off_a_byte_boundary_are_one_chunk() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (5, 3, 7), dtype=np.uint8)
    raw = np.packbits(bits, bitorder="little").tobytes()
    data = part10([*image(3, 7, frames=5, bits=1), element(0x7FE0, 0x10, "OB", raw)])
    found = scan(data)
    assert found.spec is not None
    assert (found.spec.encoding, len(found.chunks)) == ("bits", 1)
    ((offset, length),) = found.chunks
    for index in range(5):
        frame = frame_payload(found.spec, data[offset : offset + length], index)
        np.testing.assert_array_equal(
            np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little", count=21).reshape(3, 7), bits[index]
        )
    codec = found.spec.zarr_json(2, {})["codecs"][0]["configuration"]
    assert codec["chunk_shape"] == [5, 3, 7]


JPEG_LS = "1.2.840.10008.1.2.4.80"
ODD, EVEN = b"\xff\xd8one\xff\xd9\0", b"\xff\xd8frame\xff\xd9\0"


def encapsulated(*pieces: bytes, frames: int, table: tuple[int, ...] = (), extra: bytes = b"") -> tuple[bytes, Scan]:
    elements = [*image(2, 2, frames=frames), fragments(*pieces, table=table)]
    if extra:
        elements.append(extra)
    data = part10(elements, JPEG_LS)
    return data, scan(data)


def payloads(data: bytes, found: Scan) -> list[bytes]:
    assert found.spec is not None, found.opaque_reason
    return [
        frame_payload(found.spec, data[offset : offset + length], index)
        for index, (offset, length) in enumerate(found.chunks)
    ]


def test_one_fragment_a_frame_needs_no_table() -> None:
    data, found = encapsulated(ODD, EVEN, frames=2)
    assert payloads(data, found) == [ODD, EVEN]
    assert found.spec is not None
    assert found.spec.framing == "none"


def test_fragments_are_joined_by_the_basic_offset_table() -> None:
    data, found = encapsulated(b"a1", b"a2", b"b1b1", frames=2, table=(0, 20))
    assert payloads(data, found) == [b"a1a2", b"b1b1"]
    assert found.spec is not None
    assert found.spec.framing == "items"


def test_fragments_are_joined_by_the_extended_offset_table() -> None:
    table = element(0x7FE0, 1, "OV", struct.pack("<2Q", 0, 20))
    data, found = encapsulated(b"a1", b"a2", b"b1b1", frames=2, extra=table)
    assert payloads(data, found) == [b"a1a2", b"b1b1"]


def test_fragments_are_joined_by_end_of_image_markers() -> None:
    data, found = encapsulated(b"a1", b"a2" + ODD, EVEN, frames=2)
    assert payloads(data, found) == [b"a1a2" + ODD, EVEN]


def test_all_fragments_are_the_one_frame_there_is() -> None:
    data, found = encapsulated(b"a1", b"a2", b"a3", frames=1)
    assert payloads(data, found) == [b"a1a2a3"]


@pytest.mark.parametrize(
    ("pieces", "frames", "table", "reason"),
    [
        ((b"a1",), 2, (), "1 fragments for 2 frames"),
        ((), 1, (), "no fragments"),
        ((b"a1", b"a2", b"b1"), 2, (0, 19), "an offset table of 2 that does not fit 3 fragments"),
        ((b"a1", b"a2", b"b1"), 2, (0, 10, 20), "an offset table of 3"),
        ((b"a1", b"a2", b"b1"), 2, (10, 0), "an offset table of 2"),
        ((b"a1", b"a2", b"b1"), 2, (0, 4_000_000_000), "an offset table of 2"),
        ((b"a1", b"a2", b"b1"), 2, (), "3 fragments for 2 frames, and no offset table"),
    ],
)
def test_fragments_that_make_no_frames_are_opaque(
    pieces: tuple[bytes, ...], frames: int, table: tuple[int, ...], reason: str
) -> None:
    _, found = encapsulated(*pieces, frames=frames, table=table)
    assert found.spec is None
    assert reason in found.opaque_reason


@pytest.mark.parametrize(
    ("elements", "syntax", "reason"),
    [
        (image(4, 4, frames=3), EXPLICIT_LITTLE, "32 bytes of pixel data for 4 x 4 x 1 samples x 3 frames"),
        (image(65535, 65535, frames=2**31 - 1), EXPLICIT_LITTLE, "2147483647 frames are more than 1000000"),
        (image(0, 4), EXPLICIT_LITTLE, "0 rows"),
        (image(4, 4, bits=12), EXPLICIT_LITTLE, "12 bits allocated"),
        (image(4, 4, samples=5), EXPLICIT_LITTLE, "5 samples"),
        (image(2, 3, samples=3, photometric=b"YBR_FULL_422"), EXPLICIT_LITTLE, "YBR_FULL_422 of 3 columns"),
        (image(2, 4, samples=3, photometric=b"YBR_FULL_422"), EXPLICIT_LITTLE, "a half more than YBR_FULL_422"),
        (image(4, 4), JPEG_LS, f"native pixel data in transfer syntax {JPEG_LS}"),
        (image(4, 4), "1.2.840.113619.5.2", "native pixel data in transfer syntax 1.2.840.113619.5.2"),
        ([], EXPLICIT_LITTLE, "Bits Allocated is missing"),
        (image(4, 4, photometric=b"MONOCHROME2" * 10), EXPLICIT_LITTLE, "no code of up to 16 characters"),
    ],
)
def test_pixels_that_do_not_match_their_description_are_opaque(elements: list[bytes], syntax: str, reason: str) -> None:
    found = scan(part10([*elements, element(0x7FE0, 0x10, "OB", bytes(32))], syntax))
    assert found.spec is None
    assert reason in found.opaque_reason


def test_a_video_is_opaque() -> None:
    data = part10([*image(2, 2, frames=2), fragments(b"mp", b"eg")], "1.2.840.10008.1.2.4.102")
    assert "is a video" in scan(data).opaque_reason


def test_pixel_data_followed_by_padding_is_addressed() -> None:
    data = part10([*image(2, 2), element(0x7FE0, 0x10, "OB", bytes(100))])
    assert list(scan(data).chunks) == [(len(data) - 100, 4)]


@pytest.mark.parametrize("rest", [b"\0", b"\0\0\0\0", b"\xfe\xff\x0d\xe0\0\0\0\0more"])
def test_bytes_after_the_data_set_make_it_opaque(rest: bytes) -> None:
    data = part10([*image(2, 2), element(0x7FE0, 0x10, "OB", bytes(4))]) + rest
    assert "bytes after the end of the data set" in scan(data).opaque_reason


def test_the_trailer_has_the_encoding_that_the_data_set_really_has() -> None:
    data = part10(
        [*image(2, 2, syntax=IMPLICIT_LITTLE), element(0x7FE0, 0x10, "OW", bytes(4), IMPLICIT_LITTLE)],
        IMPLICIT_LITTLE,
    ).replace(IMPLICIT_LITTLE.encode() + b"\0", b"1.2.840.10008.1.2\0")
    lying = data.replace(
        element(2, 0x10, "UI", b"1.2.840.10008.1.2\0"), element(2, 0x10, "UI", EXPLICIT_LITTLE.encode() + b"\0")
    )
    found = scan(lying)
    assert found.implicit_vr
    assert found.transfer_syntax == EXPLICIT_LITTLE
    stored = lying + make_trailer(found, description_of(lying))
    assert scan(stored).chunks == found.chunks


def test_a_deflated_file_inflates_to_one_that_has_frames(corpus: object) -> None:
    data = corpus_file("pynetdicom__SCImageStorage_Deflated.dcm")
    whole = bytes(inflate(data))
    found = scan(whole)
    assert found.transfer_syntax == EXPLICIT_LITTLE
    assert found.metadata == scan(data).metadata
    assert scan(data).transfer_syntax == "1.2.840.10008.1.2.1.99"
    expected = pydicom.dcmread(io.BytesIO(data))
    assert payloads(whole, found) == [expected.PixelData]
    again = pydicom.dcmread(io.BytesIO(whole))
    assert again == expected
    assert again.file_meta.FileMetaInformationGroupLength == expected.file_meta.FileMetaInformationGroupLength - 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_scanned_alike(kind: Callable[[bytes], bytes], corpus: object) -> None:
    for name in ("pydicom__CT_small.dcm", "pydicom__MR_small_expb.dcm", "pydicom__reportsi.dcm"):
        data = corpus_file(name)
        assert scan(kind(data)) == scan(data)


# Size and speed.


def test_a_slide_of_ten_thousand_tiles_costs_little() -> None:
    tiles = [bytes((number % 256, number // 256)) * 20 for number in range(10_000)]
    data = part10([*image(2, 2, frames=10_000), fragments(*tiles)], JPEG_LS)
    started = time.process_time()
    found = scan(data)
    stored = data + make_trailer(found, description_of(data))
    elapsed = time.process_time() - started
    offset, length = frame_chunk(reader(stored), len(stored), 10_000, 9_999)
    assert data[offset : offset + length] == tiles[-1]
    assert read_description(reader(stored), len(stored)).size == len(data)
    assert elapsed < 1


def test_a_native_object_of_ten_thousand_frames_is_a_stride() -> None:
    data = part10([*image(4, 4, frames=10_000), element(0x7FE0, 0x10, "OB", bytes(160_000))])
    chunks = scan(data).chunks
    assert (len(chunks), chunks[9_999]) == (10_000, (len(data) - 16, 16))


def test_six_gigabytes_are_scanned_where_they_lie(tmp_path: Path) -> None:
    """Two encapsulated frames of 3 GiB, in a sparse file, through mmap."""
    size = 3 << 30
    head = part10([*image(2, 2, frames=2), fragments()], JPEG_LS)[:-8]
    path = tmp_path / "giant.dcm"
    with path.open("wb+") as file:
        file.write(head + struct.pack("<HHI", 0xFFFE, 0xE000, size))
        file.seek(size, 1)
        file.write(struct.pack("<HHI", 0xFFFE, 0xE000, size))
        file.seek(size, 1)
        file.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    tracemalloc.start()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = scan(data)
        trailer = make_trailer(found, description_of(b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    first = len(head) + 8
    assert found.size == path.stat().st_size > 6 << 30
    assert list(found.chunks) == [(first, size), (first + size + 8, size)]
    assert struct.unpack("<4Q", trailer[-36:-4]) == (first, size, first + size + 8, size)
    assert peak < 1 << 20


# What is wrong with a trailer.


def stored_small() -> tuple[bytes, int]:
    data = part10([*image(2, 2, frames=3), element(0x7FE0, 0x10, "OB", bytes(12))])
    return data + make_trailer(scan(data), description_of(data)), len(data)


def test_an_index_with_a_flipped_bit_is_found() -> None:
    stored, _ = stored_small()
    broken = bytearray(stored)
    broken[-10] ^= 1
    with pytest.raises(Invalid, match="fails its checksum"):
        read_index(reader(bytes(broken)), len(broken), 3)
    with pytest.raises(Invalid, match="fails its checksum"):
        read_index(reader(stored), len(stored), 2)


def test_an_object_without_a_trailer_or_with_half_of_one_is_not_described() -> None:
    stored, size = stored_small()
    for cut in (size, size + 5, size + 30, len(stored) - 1, len(stored) - 4, 0, 3):
        with pytest.raises(Invalid, match="no trailer"):
            read_description(reader(stored[:cut]), cut)


def test_a_received_file_that_holds_a_trailer_of_its_own_is_described_by_ours() -> None:
    stored, _ = stored_small()
    again = stored + make_trailer(scan(stored), description_of(stored))
    assert read_description(reader(again), len(again)).size == len(stored)


def test_chunks_outside_the_index_are_an_error() -> None:
    stored, _ = stored_small()
    for index in (-1, 3):
        with pytest.raises(IndexError):
            frame_chunk(reader(stored), len(stored), 3, index)


def test_chunks_behave_as_a_sequence() -> None:
    chunks = Chunks.of([(1, 2), (3, 4), (5, 6)])
    assert chunks[-1] == (5, 6)
    assert list(chunks[1:]) == [(3, 4), (5, 6)] == list(chunks)[1:]
    assert chunks == [(1, 2), (3, 4), (5, 6)]
    assert chunks != [(1, 2)]
    assert all(isinstance(number, int) for pair in chunks for number in pair)


def test_a_deflated_file_past_the_limit_is_too_large(corpus: object) -> None:
    data = corpus_file("pynetdicom__SCImageStorage_Deflated.dcm")
    with pytest.raises(TooLarge, match="longer than 1000 bytes"):
        scan(data, Limits(max_inflated_bytes=1000))


def test_an_item_is_what_pydicom_calls_one() -> None:
    assert item(b"") == b"\xfe\xff\x00\xe0\0\0\0\0"
