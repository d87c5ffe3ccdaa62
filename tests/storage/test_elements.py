"""DICOM JSON to elements and back again (PS3.18 F.2, PS3.5 7.1.2)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from readingroom.errors import Invalid
from storage.elements import UTF_8, NotInCharacterSet, encode_text, write_data_set, write_element
from storage.objects import scan
from storage.values import character_set
from tests import synthetic
from tests.corpus import Entry, each_file
from tests.storage.test_objects import REFUSED
from tests.synthetic import part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def as_file(metadata: dict[str, Any]) -> bytes:
    """A Part 10 file with that data set."""
    file = part10(synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7", transfer_syntax=ExplicitVRLittleEndian))
    (group_length,) = (int.from_bytes(file[140:144], "little"),)
    return file[: 144 + group_length] + write_data_set(metadata)


def without_bulk(metadata: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, element in metadata.items():
        if "BulkDataURI" in element:
            continue
        kept[key] = element
        if element["vr"] == "SQ" and "Value" in element:
            kept[key] = {"vr": "SQ", "Value": [without_bulk(item) for item in element["Value"]]}
    return kept


def said(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with its character sets set aside, and short decimals as numbers."""
    return {
        key: {"vr": "SQ", "Value": [said(item) for item in element["Value"]]}
        if element["vr"] == "SQ" and "Value" in element
        else element
        for key, element in metadata.items()
        if key != "00080005"
    }


@each_file()
def test_the_json_of_every_file_survives_the_way_to_elements_and_back(corpus: object, entry: Entry) -> None:
    if entry.name in REFUSED:
        return
    metadata = without_bulk(scan(entry.read()).metadata)
    recoded = {**metadata, "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    assert approximately(said(scan(as_file(recoded)).metadata)) == approximately(said(metadata))


def approximately(value: Any) -> Any:
    """Decimals of more than 16 characters lose what DS cannot hold; bytes are padded to an even length (PS3.5 7.1)."""
    match value:
        case {"InlineBinary": text} if len(raw := b64decode(text)) % 2:
            return {**value, "InlineBinary": b64encode(raw + b"\0").decode()}
        case float():
            return float(f"{value:.9g}")
        case dict():
            return {key: approximately(item) for key, item in value.items()}
        case list():
            return [approximately(item) for item in value]
    return value


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ({"vr": "DS", "Value": [1.5, -2, None, "1.0e3"]}, b"1.5\\-2\\\\1.0e3"),
        ({"vr": "DS", "Value": [1 / 3]}, b"0.33333333333333"),
        ({"vr": "DS", "Value": [1e300]}, b"1e+300"),
        ({"vr": "IS", "Value": [7, "08"]}, b"7\\08"),
        ({"vr": "PN", "Value": [{"Alphabetic": "A^B", "Phonetic": "C"}, None]}, b"A^B==C\\"),
        ({"vr": "LT", "Value": ["a\\b"]}, b"a\\b"),
        ({"vr": "AT", "Value": ["00100020"]}, b"\x10\x00\x20\x00"),
        ({"vr": "US", "Value": [1, 65535]}, b"\x01\x00\xff\xff"),
        ({"vr": "FD", "Value": ["NaN"]}, b"\0\0\0\0\0\0\xf8\x7f"),
        ({"vr": "UI", "Value": ["1.2"]}, b"1.2\0"),
        ({"vr": "OB", "InlineBinary": "AQID"}, b"\x01\x02\x03\0"),
        ({"vr": "LO"}, b""),
        ({"vr": "LO", "Value": ["müd"]}, "müd".encode()),
    ],
)
def test_each_value_representation_is_written_as_it_is_read(element: dict[str, Any], expected: bytes) -> None:
    written = write_element("00091001", element)
    value = expected + (b" " if element["vr"] not in ("UI", "OB") else b"\0") * (len(expected) % 2)
    assert written[-len(value) or len(written) :] == value
    assert len(written) == len(value) + (12 if element["vr"] == "OB" else 8)


@pytest.mark.parametrize(
    "element",
    [
        {"vr": "XX", "Value": [1]},
        {"vr": None},
        {"Value": ["x"]},
        {"vr": "US", "Value": [65536]},
        {"vr": "US", "Value": [None]},
        {"vr": "US", "Value": ["x"]},
        {"vr": "IS", "Value": [1.5]},
        {"vr": "DS", "Value": [True]},
        {"vr": "DS", "Value": [{}]},
        {"vr": "CS", "Value": ["Ł"]},
        {"vr": "LO", "Value": ["a\\b"]},
        {"vr": "LO", "Value": [1]},
        {"vr": "LT", "Value": ["a", "b"]},
        {"vr": "PN", "Value": ["A^B"]},
        {"vr": "PN", "Value": [{"Roman": "A"}]},
        {"vr": "AT", "Value": ["tag"]},
        {"vr": "OB", "InlineBinary": "not base64!"},
        {"vr": "OB", "InlineBinary": 5},
        {"vr": "OW", "BulkDataURI": "http://elsewhere"},
        {"vr": "UT", "BulkDataURI": "http://elsewhere"},
        {"vr": "SQ", "Value": [{"00100010": {"vr": "PN", "Value": [3]}}]},
        {"vr": "SQ", "Value": ["no item"]},
        {"vr": "SQ", "Value": [{"patient": {"vr": "PN"}}]},
    ],
)
def test_what_is_no_value_is_refused_with_its_tag_and_never_its_text(element: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"^\([0-9A-F]{4},[0-9A-F]{4}\) ") as refused:
        write_element("00091001", element)
    assert "A^B" not in refused.value.message


@pytest.mark.parametrize(
    ("terms", "text", "expected"),
    [
        (None, "Ada", b"Ada"),
        (["ISO_IR 100"], "Müller", b"M\xfcller"),
        (["ISO_IR 144"], "Люк", "Люк".encode("iso8859_5")),
        (["GB18030"], "王", "王".encode("gb18030")),
        (["ISO_IR 192"], "山", "山".encode()),
        (["", "ISO 2022 IR 87"], "Yamada", b"Yamada"),
    ],
)
def test_text_is_written_in_a_character_set_that_has_it(terms: Any, text: str, expected: bytes) -> None:
    assert encode_text(text, character_set(terms)) == expected


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (None, "Müller"),
        (["ISO_IR 6"], "Müller"),
        (["ISO_IR 100"], "Łukasz"),
        (["ISO_IR 13"], "山"),
        (["", "ISO 2022 IR 87"], "山田"),
        (["ISO_IR 192"], "\ud800"),
    ],
)
def test_text_that_a_character_set_does_not_have_is_told(terms: Any, text: str) -> None:
    """PS3.5 6.1.2: what needs an escape sequence is told too; it goes as UTF-8."""
    with pytest.raises(NotInCharacterSet):
        encode_text(text, character_set(terms))


def test_a_data_set_is_sorted_and_its_sequences_are_delimited() -> None:
    written = write_data_set(
        {"00400275": {"vr": "SQ", "Value": [{"00400007": {"vr": "LO", "Value": ["x"]}}, {}]}, "00100020": {"vr": "LO"}},
        UTF_8,
    )
    assert written.startswith(b"\x10\x00\x20\x00LO\0\0\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0")
    assert written.endswith(b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0")
