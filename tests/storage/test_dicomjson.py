"""The DICOM JSON of every corpus file is pydicom's; where pydicom is wrong, a file and a tag are named."""

from __future__ import annotations

import base64
import io
import struct
import warnings
from typing import Any

import orjson
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from readingroom.errors import NotFound, ReadingRoomError, TooLarge
from storage.dicomjson import BASE_URL_MARK, INLINE_BYTES, PIXEL_ELEMENTS, Limits, dump
from storage.objects import MetadataJson, find_bulk, inflate, read_data_set, scan
from storage.part10 import read_front
from storage.values import little_endian
from tests.corpus import Entry, each_file
from tests.storage.part10 import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, element, item, part10, sequence

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

# What pydicom cannot give, or gives otherwise than PS3.18 Annex F has it.
DIFFERENCES = {
    ("rt/pydicom__badVR.dcm", "00280008"): "pydicom raises: Number of Frames is '1A'; kept as the string it is",
}


def metadata_of(data: bytes) -> MetadataJson:
    """The metadata also of files that `scan` refuses for want of a UID."""
    front = read_front(data, Limits())
    if front.is_deflated:
        return metadata_of(bytes(inflate(data)))
    metadata, _, _ = read_data_set(data, front, Limits())
    return metadata


def differences(expected: Dataset, found: MetadataJson, path: str = "", *, big_endian: bool = False) -> dict[str, str]:
    """Where our JSON is not pydicom's, after the rules of Annex F that pydicom does not follow."""
    out: dict[str, str] = {}
    tags = [element.tag for element in expected.values()]
    kept = {f"{tag:08X}" for tag in tags if not (tag.element == 0 or tag.group in (0, 2) or tag == 0xFFFCFFFC)}
    for key in sorted(kept ^ set(found)):
        out[path + key] = "only in pydicom's" if key in kept else "only in ours"
    for key in sorted(kept & set(found)):
        ours = found[key]
        try:
            wanted = expected[int(key, 16)]
            if wanted.VR == "SQ" == ours["vr"]:
                items = ours.get("Value", [])
                if len(items) != len(wanted.value):
                    out[path + key] = f"{len(items)} items, not {len(wanted.value)}"
                for number, (theirs, our) in enumerate(zip(wanted.value, items, strict=False), 1):
                    out |= differences(theirs, our, f"{path}{key}/{number}/", big_endian=big_endian)
            elif ours["vr"] != wanted.VR:
                out[path + key] = f"VR {ours['vr']}, not {wanted.VR}"
            elif "InlineBinary" in ours or "BulkDataURI" in ours:
                value = little_endian(wanted.value, wanted.VR) if big_endian else wanted.value
                is_named = len(value) > INLINE_BYTES or key in PIXEL_ELEMENTS
                if is_named != ("BulkDataURI" in ours):
                    out[path + key] = f"{len(value)} bytes {'inline' if is_named else 'named'}"
                elif not is_named and base64.b64decode(ours["InlineBinary"]) != value:
                    out[path + key] = "other bytes"
            elif ours != (theirs := as_annex_f(wanted.to_json_dict(None, 0))):
                out[path + key] = f"{ours}, not {theirs}"
        except (ValueError, TypeError, IndexError, NotImplementedError, AttributeError) as error:
            out[path + key] = f"pydicom raises {type(error).__name__}"
    return out


def as_annex_f(element: dict[str, Any]) -> dict[str, Any]:
    """pydicom's JSON with null for an empty value (F.2.5) and without the empty groups of a name (F.2.2)."""
    values = element.get("Value")
    if values is None:
        return element
    if element["vr"] == "PN":
        values = [{group: part for group, part in value.items() if part} or None for value in values]
    return {**element, "Value": [None if value == "" else value for value in values]}


@each_file()
def test_metadata_is_pydicoms(corpus: object, entry: Entry) -> None:
    data = entry.read()
    try:
        found = metadata_of(data)
    except ReadingRoomError:
        assert entry.name.startswith(("non-part10/", "unreadable/"))
        return
    expected = pydicom.dcmread(io.BytesIO(data))
    big_endian = expected.file_meta.get("TransferSyntaxUID") == EXPLICIT_BIG
    allowed = {tag for name, tag in DIFFERENCES if name == entry.name}
    assert set(different := differences(expected, found, big_endian=big_endian)) == allowed, different
    assert list(found) == sorted(found)
    assert orjson.loads(dump(found).replace(b"\x01", b"https://pacs.example/dicomweb"))


@each_file()
def test_bulk_uris_lead_to_the_value_in_the_file(corpus: object, entry: Entry) -> None:
    data = entry.read()
    try:
        found = scan(data)
        if found.opaque_reason == "the data set is deflated":
            data = bytes(inflate(data))
    except ReadingRoomError:
        return  # test_objects.py lists what is refused
    expected = pydicom.dcmread(io.BytesIO(data))
    place = found.category
    if not place:
        place = f"studies/{expected.StudyInstanceUID}/series/{expected.SeriesInstanceUID}/instances"
    root = f"{BASE_URL_MARK}/{place}/{expected.SOPInstanceUID}/bulkdata/"
    for path, element_json in bulk_elements(found.metadata):
        assert element_json["BulkDataURI"] == root + path
        offset, length, vr = find_bulk(data, path)
        assert vr == element_json["vr"]
        assert data[offset : offset + length] == value_at(expected, path)


def bulk_elements(metadata: MetadataJson, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for key, element_json in metadata.items():
        if "BulkDataURI" in element_json:
            found.append((path + key, element_json))
        elif element_json["vr"] == "SQ":
            for number, value in enumerate(element_json.get("Value", ()), 1):
                found += bulk_elements(value, f"{path}{key}/{number}/")
    return found


def value_at(data_set: Dataset, path: str) -> Any:
    key, _, rest = path.partition("/")
    value = data_set[int(key, 16)].value
    if not rest:
        return value
    number, _, rest = rest.partition("/")
    return value_at(value[int(number) - 1], rest)


# One value field at a time.


def value(vr: str, raw: bytes, *, charset: bytes = b"", big: bool = False) -> dict[str, Any]:
    """The JSON of one element of that VR."""
    syntax = EXPLICIT_BIG if big else EXPLICIT_LITTLE
    elements = [element(0x0011, 0x1001, vr, raw, syntax)]
    if charset:
        elements.insert(0, element(0x0008, 0x0005, "CS", charset, syntax))
    found: dict[str, Any] = metadata_of(part10(elements, syntax, bare=True))["00111001"]
    assert found.pop("vr") == vr
    return found


@pytest.mark.parametrize(
    ("vr", "raw", "values"),
    [
        ("DS", b"1\\-2.5\\ 3e2 ", [1.0, -2.5, 300.0]),
        ("DS", b"1\\\\2 ", [1.0, None, 2.0]),
        ("DS", b"abc\\1.5", ["abc", 1.5]),
        ("DS", b"1e999 ", ["1e999"]),
        ("DS", b"nan ", ["nan"]),
        ("DS", b"-inf\\1", ["-inf", 1.0]),
        ("IS", b"12\\-3 ", [12, -3]),
        ("IS", b"1.0 ", [1]),
        ("IS", b"1.5 ", ["1.5"]),
        ("IS", b"1A", ["1A"]),
        ("IS", b"\\7 ", [None, 7]),
        ("IS", b"1e999 ", ["1e999"]),
        ("IS", b"99999999999999999999", ["99999999999999999999"]),
        ("IS", b"9" * 5000, ["9" * 5000]),
        ("PN", b"Yamada^Tarou=Y^T=y^t", [{"Alphabetic": "Yamada^Tarou", "Ideographic": "Y^T", "Phonetic": "y^t"}]),
        ("PN", b"==y^t ", [{"Phonetic": "y^t"}]),
        ("PN", b"A^B\\\\C^D ", [{"Alphabetic": "A^B"}, None, {"Alphabetic": "C^D"}]),
        ("LO", b" a \\ b\\\\c\0", [" a", " b", None, "c"]),
        ("UC", b"a\\b ", ["a", "b"]),
        ("LT", b" a\\b \r\n ", [" a\\b \r\n"]),
        ("UT", b"a\\b ", ["a\\b"]),
        ("UR", b"http://a/b\\c  ", ["http://a/b\\c"]),
        ("AE", b" A \\ B ", ["A", "B"]),
        ("CS", b"A\\\\B ", ["A", None, "B"]),
        ("UI", b"1.2\\1.3\0", ["1.2", "1.3"]),
        ("DA", b"20260102", ["20260102"]),
        ("AT", b"\x10\x00\x20\x00\x08\x00\x18\x00", ["00100020", "00080018"]),
        ("US", b"\x01\x00\xff\xff", [1, 65535]),
        ("SS", b"\xff\xff", [-1]),
        ("UL", b"\xff\xff\xff\xff", [2**32 - 1]),
        ("SV", b"\xff" * 8, [-1]),
        ("UV", b"\xff" * 8, [2**64 - 1]),
        ("FL", struct.pack("<2f", 0.5, float("nan")), [0.5, "NaN"]),
        ("FD", struct.pack("<3d", float("inf"), 1.25, float("-inf")), ["Infinity", 1.25, "-Infinity"]),
    ],
)
def test_values_come_as_annex_f_has_them(vr: str, raw: bytes, values: list[Any]) -> None:
    found = value(vr, raw)
    assert found == {"Value": values}
    assert orjson.loads(orjson.dumps(found)) == found


@pytest.mark.parametrize("vr", ["LO", "PN", "DS", "IS", "US", "FD", "AT", "UI", "OB", "UN", "UT", "AE"])
def test_an_empty_attribute_has_no_value(vr: str) -> None:
    assert value(vr, b"") == {}


@pytest.mark.parametrize("vr", ["LO", "PN", "DS", "IS", "UT", "AE", "CS"])
def test_a_value_of_padding_alone_is_empty(vr: str) -> None:
    assert value(vr, b"    ") == {}


@pytest.mark.parametrize(("vr", "raw"), [("US", b"123"), ("FD", b"1234"), ("UL", b"12")])
def test_numbers_of_a_wrong_length_are_bytes_of_no_known_kind(vr: str, raw: bytes) -> None:
    data = part10([element(0x0011, 0x1001, vr, raw)], bare=True)
    assert metadata_of(data)["00111001"] == {"vr": "UN", "InlineBinary": base64.b64encode(raw).decode()}


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        (b"ISO_IR 192", "Müller^Jörg=山田".encode(), {"Alphabetic": "Müller^Jörg", "Ideographic": "山田"}),
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), {"Alphabetic": "Müller^Jörg"}),
        (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), {"Alphabetic": "Люкceмбypг"}),
        (
            b"GB18030",
            "Wang^XiaoDong=王^小东".encode("gb18030"),
            {"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小东"},
        ),
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"},
        ),
        (b"ISO_IR 999", "Jörg".encode("latin-1"), {"Alphabetic": "Jörg"}),
        (b"utf_16", "Jörg".encode("latin-1"), {"Alphabetic": "Jörg"}),
        (b"punycode", b"Jorg-\x1b", {"Alphabetic": "Jorg-\x1b"}),
    ],
)
def test_names_are_read_in_their_character_set(charset: bytes, raw: bytes, name: dict[str, str]) -> None:
    assert value("PN", raw, charset=charset) == {"Value": [name]}


def test_a_character_set_of_pythons_own_is_none_of_dicoms() -> None:
    found = value("LT", b"J\xf6rg \\ud800", charset=b"unicode_escape")
    assert found == {"Value": ["Jörg \\ud800"]}
    assert orjson.dumps(found)


def test_specific_character_set_keeps_the_sources_value() -> None:
    data = part10([element(8, 5, "CS", b"\\ISO 2022 IR 87")], bare=True)
    assert metadata_of(data)["00080005"] == {"vr": "CS", "Value": [None, "ISO 2022 IR 87"]}


def test_an_items_character_set_ends_with_the_item() -> None:
    russian = item(element(8, 5, "CS", b"ISO_IR 144"), element(0x10, 0x10, "PN", "Люк".encode("iso8859_5")))
    german = item(element(0x10, 0x10, "PN", "Jörg".encode()))
    data = part10([element(8, 5, "CS", b"ISO_IR 192"), sequence(0x0010, 0x1002, russian, german)], bare=True)
    first, second = metadata_of(data)["00101002"]["Value"]
    assert first["00100010"]["Value"] == [{"Alphabetic": "Люк"}]
    assert second["00100010"]["Value"] == [{"Alphabetic": "Jörg"}]


@settings(max_examples=300, deadline=None)
@given(
    vr=st.sampled_from(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]),
    charset=st.sampled_from(
        ["", "ISO_IR 100", "ISO_IR 13", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149", "ISO_IR 166"]
    ),
    raw=st.binary(max_size=40) | st.text("AZ09 ^=\\\0\x1b\r\näй山", max_size=20).map(str.encode),
)
def test_any_text_reads_as_in_pydicom(vr: str, charset: str, raw: bytes) -> None:
    raw += b" " * (len(raw) % 2)
    data = part10([element(8, 5, "CS", charset.encode()), element(0x11, 0x1001, vr, raw)], bare=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metadata_of(data)
        try:
            theirs = pydicom.dcmread(io.BytesIO(data))[0x00111001].to_json_dict(None, 0)
        except (IndexError, UnicodeError, LookupError):
            return  # a name of nothing but "="; a fragment that its codec cannot read
    ours = found["00111001"]
    theirs = as_annex_f(theirs)
    if set(theirs.get("Value", [None])) == {None} if vr != "PN" else theirs.get("Value") == [None]:
        assert ours in ({"vr": vr}, theirs)
    else:
        assert ours == theirs
    dump(found)


# Where an element's VR is to be found out.


def test_private_elements_have_the_vr_of_their_creators_dictionary() -> None:
    elements = [
        element(0x0019, 0x0010, "LO", b"GEMS_ACQU_01", IMPLICIT_LITTLE),
        element(0x0019, 0x0011, "LO", b"NOBODY WE KNOW", IMPLICIT_LITTLE),
        element(0x0019, 0x1002, "SL", struct.pack("<i", 7), IMPLICIT_LITTLE),
        element(0x0019, 0x1102, "SL", struct.pack("<i", 7), IMPLICIT_LITTLE),
    ]
    found = metadata_of(part10(elements, IMPLICIT_LITTLE, bare=True))
    assert found["00190010"] == {"vr": "LO", "Value": ["GEMS_ACQU_01"]}
    assert found["00191002"] == {"vr": "SL", "Value": [7]}
    assert found["00191102"] == {"vr": "UN", "InlineBinary": "BwAAAA=="}


@pytest.mark.parametrize(("representation", "vr", "number"), [(0, "US", 65535), (1, "SS", -1), (None, "US", 65535)])
def test_us_or_ss_follows_pixel_representation_also_from_an_item_before_it(
    representation: int | None, vr: str, number: int
) -> None:
    smallest = element(0x0028, 0x0106, "SS", b"\xff\xff", IMPLICIT_LITTLE)
    elements = [sequence(0x0008, 0x1140, item(smallest), syntax=IMPLICIT_LITTLE)]
    if representation is not None:
        elements.append(element(0x0028, 0x0103, "US", struct.pack("<H", representation), IMPLICIT_LITTLE))
    found = metadata_of(part10([*elements, smallest], IMPLICIT_LITTLE, bare=True))
    assert found["00280106"] == {"vr": vr, "Value": [number]}
    assert found["00081140"]["Value"][0]["00280106"] == {"vr": vr, "Value": [number]}


def test_the_first_value_of_a_lut_descriptor_is_never_negative() -> None:
    data = part10([element(0x0028, 0x3002, "SS", struct.pack("<3h", -32768, -5, 16))], bare=True)
    assert metadata_of(data)["00283002"]["Value"] == [32768, -5, 16]


def test_an_unknown_element_of_undefined_length_is_a_sequence_in_implicit_vr() -> None:
    """PS3.5 6.2.2: what a UN of undefined length holds is encoded in implicit VR."""
    inside = sequence(0x0011, 0x1001, item(element(0x10, 0x20, "LO", b"X1", IMPLICIT_LITTLE)), vr="UN")
    found = metadata_of(part10([inside], bare=True))
    assert found == {"00111001": {"vr": "SQ", "Value": [{"00100020": {"vr": "LO", "Value": ["X1"]}}]}}


def test_a_known_element_sent_as_un_has_its_dictionarys_vr() -> None:
    found = metadata_of(part10([element(0x10, 0x20, "UN", b"X1")], bare=True))
    assert found == {"00100020": {"vr": "LO", "Value": ["X1"]}}


def test_a_vr_that_nobody_knows_is_bytes() -> None:
    found = metadata_of(part10([element(0x10, 0x20, "ZZ", b"X1"), element(0x10, 0x40, "CS", b"F ")], bare=True))
    assert found["00100020"]["vr"] == "LO"
    assert found["00100040"] == {"vr": "CS", "Value": ["F"]}


def test_data_says_another_encoding_than_the_transfer_syntax_and_is_believed() -> None:
    found = metadata_of(part10([element(0x10, 0x20, "LO", b"X1", IMPLICIT_LITTLE)], EXPLICIT_LITTLE, bare=True))
    assert found == {"00100020": {"vr": "LO", "Value": ["X1"]}}


def test_group_lengths_and_padding_are_left_out_and_elements_are_in_order() -> None:
    elements = [
        element(0x10, 0, "UL", b"\x08\0\0\0"),
        element(0x10, 0x20, "LO", b"X1"),
        element(0x08, 0x60, "CS", b"CT"),
        element(0xFFFC, 0xFFFC, "OB", bytes(2000)),
    ]
    assert list(metadata_of(part10(elements, bare=True))) == ["00080060", "00100020"]


def test_an_empty_item_is_kept() -> None:
    data = part10([sequence(8, 0x1140, item(), item(element(8, 0x60, "CS", b"CT")))], bare=True)
    assert metadata_of(data)["00081140"]["Value"] == [{}, {"00080060": {"vr": "CS", "Value": ["CT"]}}]


# Bulk.


def test_bytes_of_1024_are_inline_and_longer_ones_are_named_by_their_path() -> None:
    inner = item(element(0x0011, 0x1001, "OB", bytes(1024)), element(0x0011, 0x1002, "OB", b"\7" * 1026))
    data = part10([sequence(0x0008, 0x1140, item(), inner), element(0x0042, 0x0011, "OB", b"\x09" * 2000)])
    found = scan(data).metadata
    assert "InlineBinary" in found["00081140"]["Value"][1]["00111001"]
    uri = found["00081140"]["Value"][1]["00111002"]["BulkDataURI"]
    assert uri == "\x01/studies/1.2/series/1.2.3/instances/1.2.3.4/bulkdata/00081140/2/00111002"
    offset, length, vr = find_bulk(data, "00081140/2/00111002")
    assert (data[offset : offset + length], vr) == (b"\7" * 1026, "OB")
    with pytest.raises(NotFound):
        find_bulk(data, "00081140/1/00111002")


def test_numbers_by_the_million_are_bulk_data_too() -> None:
    data = part10([element(0x5600, 0x0020, "UT", b"x" * (1 << 20)), element(0x5600, 0x0030, "UT", b"x" * (1 << 21))])
    found = scan(data).metadata
    assert len(found["56000020"]["Value"][0]) == 1 << 20
    assert found["56000030"]["BulkDataURI"].endswith("/bulkdata/56000030")


def test_pixel_data_is_named_however_small() -> None:
    assert "BulkDataURI" in scan(part10([element(0x7FE0, 0x10, "OB", b"\0\0")])).metadata["7FE00010"]


def test_big_endian_words_are_inline_in_little_endian_order() -> None:
    assert value("OW", b"\x01\x02\x03\x04", big=True) == {"InlineBinary": base64.b64encode(b"\2\1\4\3").decode()}
    assert value("OF", b"\x01\x02\x03\x04", big=True) == {"InlineBinary": base64.b64encode(b"\4\3\2\1").decode()}
    assert value("OB", b"\x01\x02", big=True) == {"InlineBinary": base64.b64encode(b"\1\2").decode()}


def test_a_value_cannot_forge_the_mark_of_the_base_url() -> None:
    forged = b'","BulkDataURI":"\x01/studies'
    data = part10([element(0x10, 0x20, "LO", forged), element(0x42, 0x11, "OB", bytes(2000))])
    text = dump(scan(data).metadata)
    assert text.count(b"\x01") == 1
    assert b'"BulkDataURI":"\x01/studies/1.2/' in text
    served = orjson.loads(text.replace(b"\x01", b"https://pacs.example"))
    assert served["00100020"]["Value"] == [forged.decode()]


# Limits.


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
def test_depth_is_limited(undefined: bool) -> None:
    nested = element(8, 0x60, "CS", b"CT")
    for _ in range(65):
        nested = sequence(8, 0x1140, item(nested, undefined=undefined), undefined=undefined)
    with pytest.raises(TooLarge, match="deeper than 64"):
        scan(part10([nested]))
    assert scan(part10([nested]), Limits(max_depth=65)).metadata["00081140"]


def test_elements_are_counted_over_all_items() -> None:
    data = part10([sequence(8, 0x1140, *(item(element(8, 0x60, "CS", b"CT")) for _ in range(100)))])
    assert scan(data, Limits(max_elements=220)).metadata
    with pytest.raises(TooLarge, match="more than 100 elements"):
        scan(data, Limits(max_elements=100))


def test_a_data_element_is_what_pydicom_writes() -> None:
    """The little writer of these tests agrees with pydicom's."""
    data_set = Dataset()
    data_set.add(DataElement(0x00100010, "PN", "A^B"))
    data_set.add(DataElement(0x00080005, "CS", "ISO_IR 100"))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data_set, implicit_vr=False, little_endian=True)
    assert buffer.getvalue() == element(8, 5, "CS", b"ISO_IR 100") + element(0x10, 0x10, "PN", b"A^B ")
