"""What must never come out of the scanner: anything but a scan or a clear refusal, in bounded time and memory."""

from __future__ import annotations

import io
import mmap
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from readingroom.errors import NotDicom, NotFound, ReadingRoomError, TooLarge
from storage.dicomjson import dump
from storage.objects import Limits, Scan, find_bulk, frame_payload, make_trailer, scan
from tests.corpus import corpus_file, entries
from tests.storage.part10 import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    UNDEFINED,
    element,
    fragments,
    image,
    item,
    part10,
    sequence,
    uids,
)
from tests.storage.test_objects import description_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

DEFLATED = "1.2.840.10008.1.2.1.99"


@contextmanager
def bounded(seconds: float, mebibytes: int) -> Iterator[None]:
    """Fail where the block takes more, of processor time or of what Python allocates."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        elapsed, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert elapsed < seconds
    assert peak < mebibytes << 20


def use(data: bytes) -> Scan | None:
    """Scan and do with the result what a server does; None where it is refused."""
    try:
        found = scan(data)
    except ReadingRoomError as error:
        refusal = error.message
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        return None
    dump(found.metadata)
    assert bool(found.spec) != bool(found.opaque_reason)
    if found.spec is not None:
        assert all(offset + length <= len(data) for offset, length in found.chunks)
        for index, (offset, length) in enumerate(found.chunks[:3]):
            frame_payload(found.spec, data[offset : offset + length], index)
        found.spec.zarr_json(1, {})
        stored = data + make_trailer(found, description_of(data))
        assert scan(stored).chunks == found.chunks
    return found


# Mutations.

WORDS = [
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\xe0\x7f\x10\x00",
    b"\x28\x00\x08\x00",
    *(vr.encode() for vr in ("SQ", "UN", "OB", "UT", "DS", "IS", "PN", "UI", "US", "AT", "FD", "ZZ", "UC", "CS")),
]
MUTATION = st.tuples(
    st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(WORDS) | st.binary(min_size=1, max_size=8),
)


def mutate(data: bytes, kind: str, where: float, word: bytes) -> bytes:
    at = 128 + int((len(data) - 128) * where**3)  # most of them in the header
    if kind == "set":
        return data[:at] + word + data[at + len(word) :]
    if kind == "insert":
        return data[:at] + word + data[at:]
    if kind == "delete":
        return data[:at] + data[at + len(word) :]
    if kind == "repeat":
        return data[:at] + data[at - 100 : at] + data[at:]
    return data[:at]


@settings(max_examples=600, deadline=5_000, suppress_health_check=list(HealthCheck))
@given(choice=st.integers(0, 10_000), mutations=st.lists(MUTATION, min_size=1, max_size=6))
@example(choice=0, mutations=[("cut", 0.0, b"\0")])
def test_a_mutated_file_is_scanned_or_refused(
    corpus: object, choice: int, mutations: list[tuple[str, float, bytes]]
) -> None:
    small = [entry for entry in entries() if entry.path.stat().st_size < 40_000 and "non-part10" not in entry.name]
    data = small[choice % len(small)].read()
    for mutation in mutations:
        data = mutate(data, *mutation)
    use(data)


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
def test_a_file_cut_anywhere_is_scanned_or_refused(syntax: str) -> None:
    elements = [*image(2, 2, syntax=syntax), element(0x7FE0, 0x10, "OW", bytes(4), syntax)]
    if syntax == EXPLICIT_LITTLE:
        elements += [sequence(8, 0x1140, item(element(8, 0x60, "CS", b"CT"), undefined=True), undefined=True)]
    data = part10(elements, syntax)
    whole = scan(data)
    assert whole.spec is not None
    for cut in range(len(data)):
        found = use(data[:cut])
        assert found is None or found.spec is None


def test_a_cut_slide_is_opaque_and_says_so() -> None:
    data = part10([*image(2, 2, frames=2), fragments(b"tile one", b"tile two")], "1.2.840.10008.1.2.5")
    found = scan(data[:-20])
    assert found.spec is None
    assert "do not end before the file does" in found.opaque_reason


@settings(max_examples=200, deadline=2_000)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_scanned(raw: bytes) -> None:
    assert use(raw) is None
    use(bytes(128) + b"DICM" + raw)
    use(part10([raw], bare=True))
    use(part10(list(uids().values()), bare=True) + raw)


# Nesting.


def nested(depth: int, *, undefined: bool, vr: str = "SQ", broken: bool = False) -> bytes:
    """A sequence in a sequence, `depth` times; `broken` inside, so that the walk gives up and pydicom is asked."""
    inner = element(8, 0x60, "CS", b"CT") if not broken else b"\xfe\xff\xdd\xe0\0\0\0\0" * 2
    heads, tail, length = [], b"", len(inner)
    for _ in range(depth):
        if undefined:
            head = struct.pack("<HH2sHI", 8, 0x1140, vr.encode(), 0, UNDEFINED)
            head += struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
            tail += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        else:
            head = struct.pack("<HH2sHI", 8, 0x1140, vr.encode(), 0, length + 8)
            head += struct.pack("<HHI", 0xFFFE, 0xE000, length)
        heads.append(head)
        length += len(head)
    return b"".join(reversed(heads)) + inner + tail


@pytest.mark.parametrize("broken", [False, True], ids=["well formed", "broken inside"])
@pytest.mark.parametrize(
    ("vr", "undefined", "depth"),
    [("SQ", False, 10_000), ("SQ", True, 10_000), ("UN", True, 10_000), ("UN", False, 3_000)],
)
def test_ten_thousand_levels_are_too_many(vr: str, undefined: bool, depth: int, broken: bool) -> None:
    data = part10([nested(depth, undefined=undefined, vr=vr, broken=broken)])
    with bounded(2, 16), pytest.raises(TooLarge, match="deeper than"):
        scan(data)


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_depth_is_limited_where_pydicom_reads_too(undefined: bool) -> None:
    """A first sequence that the walk gives up on, then a deep one."""
    broken = sequence(8, 0x1110, item(element(8, 0x60, "CS", b"CT"), b"\xfe\xff\xdd\xe0\0\0\0\0"))
    with bounded(5, 64), pytest.raises(TooLarge, match="deeper than"):
        scan(part10([broken, nested(5_000, undefined=undefined)]))
    assert scan(part10([broken, nested(20, undefined=undefined)])).opaque_reason


# Lengths.


@pytest.mark.parametrize("length", [2, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFE])
@pytest.mark.parametrize("vr", ["OB", "UN", "UT", "SQ", "UC", "OW", "UV"])
def test_a_length_beyond_the_file_costs_nothing(vr: str, length: int) -> None:
    data = part10([*uids().values(), element(0x20, 0x4000, vr, b"", length=length)], bare=True)
    with bounded(2, 8):
        found = use(data)
    assert found is None or found.opaque_reason


@pytest.mark.parametrize("vr", ["LO", "US", "PN", "DS"])
def test_a_short_length_beyond_the_file_leaves_the_rest_readable(vr: str) -> None:
    data = part10([*uids().values(), element(0x20, 0x4000, vr, b"12", length=60_000)], bare=True)
    found = scan(data)
    assert "claims 60000 bytes, the file has 2 more" in found.opaque_reason
    assert found.metadata["0020000D"]["Value"] == ["1.2"]


def test_a_length_beyond_its_item_is_left_to_pydicom() -> None:
    lying = item(element(8, 0x60, "CS", b"CT", length=400))
    data = part10([sequence(8, 0x1140, lying), element(0x10, 0x20, "LO", b"X1")])
    found = scan(data)
    assert "a value claims 400 bytes of 2" in found.opaque_reason
    assert found.metadata["00100020"]["Value"] == ["X1"]
    assert pydicom.dcmread(io.BytesIO(data)).PatientID == "X1"


def test_a_sequence_that_cannot_be_read_is_kept_as_bytes() -> None:
    data = part10([element(8, 0x1140, "SQ", b"1234"), element(0x10, 0x20, "LO", b"X1")])
    found = scan(data)
    assert found.metadata["00081140"]["vr"] == "UN"
    assert found.metadata["00100020"]["Value"] == ["X1"]


def test_a_broken_giant_costs_pydicom_no_more_than_its_budget() -> None:
    """Values in items are read by pydicom at once; 200 MiB of them are not."""
    lump = element(0x11, 0x1001, "OB", bytes(50 << 20))
    broken = sequence(8, 0x1110, item(b"\xfe\xff\xdd\xe0\0\0\0\0"))
    data = part10([broken, sequence(8, 0x1140, *(item(lump) for _ in range(4)), undefined=True)])
    with bounded(5, 140), pytest.raises(TooLarge, match="to make sense of"):
        scan(data)


# Counts.


def test_two_hundred_thousand_elements_take_bounded_time_and_memory() -> None:
    elements = b"".join(
        struct.pack("<HH2sH", 0x0011 + 2 * (number >> 15), 0x1000 + (number & 0x7FFF), b"US", 2) + b"\1\0"
        for number in range(200_000)
    )
    data = part10([*uids().values()], bare=True) + elements
    with bounded(60, 256):  # counting what is allocated takes ten times as long as allocating it
        found = scan(data)
    assert len(found.metadata) == 200_004
    with pytest.raises(TooLarge, match="more than 100000 elements"):
        scan(data, Limits(max_elements=100_000))


def test_empty_items_and_values_of_nothing_but_backslashes_count_too() -> None:
    limits = Limits(max_elements=10_000)
    with pytest.raises(TooLarge, match="more than 10000 elements"):
        scan(part10([sequence(8, 0x1140, *[item()] * 10_001)]), limits)
    many = [element(0x11, 0x1001 + number, "UC", b"\\" * 1_000_000) for number in range(3)]
    with bounded(5, 16), pytest.raises(TooLarge, match="64 times as many bytes"):
        scan(part10(many), limits)


@pytest.mark.parametrize("tag", [(0x10, 0x20), (0x10, 0x10), (8, 0x1150), (0x28, 0x106), (8, 0x60), (8, 0x1190)])
def test_text_of_a_gigabyte_is_not_read(tag: tuple[int, int]) -> None:
    """In implicit VR any element may be long."""
    data = memoryview(mmap.mmap(-1, 1 << 30))  # zeros that take no memory as long as nobody looks
    head = part10(
        [*uids(IMPLICIT_LITTLE).values(), element(*tag, "", b"", IMPLICIT_LITTLE)], IMPLICIT_LITTLE, bare=True
    )
    data[: len(head)] = head
    struct.pack_into("<I", data, len(head) - 4, len(data) - len(head))
    with bounded(2, 4):
        assert "BulkDataURI" in scan(data).metadata[f"{tag[0]:04X}{tag[1]:04X}"]


def test_a_million_empty_fragments_are_too_many() -> None:
    data = part10([*image(2, 2, frames=2), fragments(*[b""] * 20_000)], "1.2.840.10008.1.2.5")
    with pytest.raises(TooLarge, match="fragments"):
        scan(data, Limits(max_elements=10_000))


def test_rows_that_are_no_number_or_too_large_are_opaque() -> None:
    """Orthanc CVE-2026-5440 and its kin: Rows and Columns of another VR than US."""
    for rows in (
        element(0x28, 0x10, "UL", b"\xff\xff\xff\xff"),
        element(0x28, 0x10, "SL", b"\xff\xff\xff\xff"),
        element(0x28, 0x10, "FD", struct.pack("<d", 2.5)),
        element(0x28, 0x10, "LO", b"2 "),
        element(0x28, 0x10, "PN", b"2 "),
        element(0x28, 0x10, "US", b""),
        sequence(0x28, 0x10, item()),
    ):
        kept = [one for one in image(2, 2) if one[:4] != b"\x28\0\x10\0"]
        found = scan(part10([*kept, rows, element(0x7FE0, 0x10, "OB", bytes(4))]))
        assert found.spec is None
        assert found.opaque_reason


# Deflate.


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return part10([packer.compress(body) + packer.flush()], DEFLATED, bare=True)


def test_a_deflate_bomb_is_too_large_and_never_held() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = packer.compress(b"".join(uids().values())) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # what follows does not look back
    data = part10([head + zeros * 600 + packer.flush()], DEFLATED, bare=True)
    assert len(data) < 1 << 20
    with bounded(5, 8), pytest.raises(TooLarge, match="deflated data set is longer"):
        scan(data)


def test_a_deflated_data_set_that_is_cut_or_broken_is_refused() -> None:
    data = deflated(b"".join(uids().values()) * 3)
    assert scan(data).opaque_reason == "the data set is deflated"
    with pytest.raises(NotDicom, match="cut short"):
        scan(data[:-10])
    with pytest.raises(NotDicom, match="deflated data set is broken"):
        scan(part10([b"\xff" * 40], DEFLATED, bare=True))


def test_deflated_in_deflated_is_not_inflated_twice() -> None:
    inner = deflated(b"".join(uids().values()))
    assert use(deflated(inner)) is None


# UIDs.

HOSTILE = [
    b"../../../etc/passwd",
    b"..",
    b".",
    b"1.2/../3",
    b"1.2\\3.4/..",
    b"/1.2.3",
    b"1.2;DROP TABLE study",
    b"1' OR '1'='1",
    b"1.2\0.3",
    b"1.2 3",
    b"1.2%2e%2e",
    b"1.2?x=1",
    b"1.2#x",
    b"1.2\r\nX: y",
    b"-rf",
    "1.2.\N{ARABIC-INDIC DIGIT THREE}".encode(),
    b"1" * 65,
    b"\x01/studies",
    b"",
    b"   ",
]


@pytest.mark.parametrize("uid", HOSTILE)
@pytest.mark.parametrize("tag", [(8, 0x16), (8, 0x18), (0x20, 0x0D), (0x20, 0x0E)], ids=lambda tag: f"{tag[1]:x}")
def test_a_uid_that_could_leave_its_place_is_refused(tag: tuple[int, int], uid: bytes) -> None:
    sent = uids() | {tag: element(*tag, "UI", uid + b"\0" * (len(uid) % 2))}
    data = part10(list(sent.values()), bare=True)
    if uid == b"1.2\\3.4/..":
        assert scan(data)  # two values, of which the first counts
        return
    with pytest.raises(NotDicom, match="UID"):
        scan(data)


def test_a_uid_with_letters_is_borne() -> None:
    assert scan(part10([uids(instance=b"1.2.3-TEST_a")[(8, 0x18)]])).metadata["00080018"]["Value"] == ["1.2.3-TEST_a"]


def test_a_uid_of_another_vr_is_no_uid() -> None:
    for vr, raw in (("PN", b"1.2 "), ("SQ", item()), ("US", b"\1\0"), ("OB", b"1.2\0")):
        with pytest.raises(NotDicom, match="Study Instance UID"):
            scan(part10(list((uids() | {(0x20, 0x0D): element(0x20, 0x0D, vr, raw)}).values()), bare=True))


@pytest.mark.parametrize("syntax", ["../x", "1.2.840.10008.1.2\r\nSet-Cookie: a", "1" * 65])
def test_a_transfer_syntax_that_is_no_uid_is_refused(syntax: str) -> None:
    with pytest.raises(NotDicom, match="Transfer Syntax UID"):
        scan(part10([], syntax))


# The front.


@pytest.mark.parametrize(
    "data",
    [b"", b"DICM", bytes(132), bytes(128) + b"DICX" + bytes(100), b"%PDF-1.7" + bytes(200), b"\x89PNG" + bytes(999)],
)
def test_what_is_no_dicom_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NotDicom, match="without DICM at byte 128"):
        scan(data)


def test_nothing_after_the_preamble_is_no_object() -> None:
    with pytest.raises(NotDicom, match="no SOP Class UID"):
        scan(bytes(128) + b"DICM")


def test_file_meta_information_that_is_cut_short_is_refused() -> None:
    data = part10([])
    with pytest.raises(NotDicom, match="file meta information is cut short"):
        scan(data[: 132 + 12 + 10])


def test_refusals_name_no_patient(corpus: object) -> None:
    """Messages go to logs and answers; they hold UIDs and tags, never a name."""
    data = corpus_file("pydicom__CT_small.dcm")
    name = str(pydicom.dcmread(io.BytesIO(data)).PatientName)
    assert name.encode() in data
    seen = set()
    for cut in range(200, len(data), 37):
        try:
            seen.add(scan(data[:cut]).opaque_reason)
        except ReadingRoomError as refusal:
            seen.add(refusal.message)
    assert len(seen) > 10
    assert not [message for message in seen if name in message]


@pytest.mark.parametrize("path", ["", "/", "7FE00010/1", "../../x", "00081140//00080060", "x" * 10_000])
def test_a_bulk_path_that_leads_nowhere_is_not_found(path: str) -> None:
    data = part10([*image(2, 2), element(0x7FE0, 0x10, "OB", bytes(4))])
    assert find_bulk(data, "7FE00010")[1] == 4
    with pytest.raises(NotFound) as error:
        find_bulk(data, path)
    assert len(error.value.message) < 300
