"""What may be corrected, and which values are taken."""

from __future__ import annotations

from typing import Any

import pytest

from readingroom.errors import Invalid
from storage.changes import CHANGEABLE, Level, read_change, read_changes, tag_of


def element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def name(text: str) -> dict[str, Any]:
    return element("PN", {"Alphabetic": text})


def test_changes_come_in_the_form_that_metadata_has() -> None:
    said = {
        "00101030": element("DS", "71.5 "),
        "00100010": element("PN", {"Alphabetic": "Doe^Jane ", "Phonetic": ""}),
        "00080050": {"vr": "SH"},
        "00100030": None,
        "00081030": element("LO", "  Chest  "),
        "001021d0": element("DA", "20260101"),
        "00081048": element("PN", {"Alphabetic": "A"}, None, {"Alphabetic": "B"}),
    }
    changes = read_changes(said, "study")
    assert changes == {
        "00080050": {"vr": "SH"},
        "00081030": element("LO", "Chest"),
        "00081048": element("PN", {"Alphabetic": "A"}, None, {"Alphabetic": "B"}),
        "00100010": name("Doe^Jane"),
        "00100030": None,
        "00101030": element("DS", 71.5),
        "001021D0": element("DA", "20260101"),
    }
    assert list(changes) == sorted(changes)


def test_items_of_a_sequence_are_taken_whole() -> None:
    code = {"00080100": element("SH", "CTCHEST"), "00080102": element("SH", "99LOCAL"), "00080104": element("LO", "CT")}
    codes = {"00081032": element("SQ", code)}
    assert read_changes(codes, "study") == codes
    assert read_changes({"00081032": {"vr": "SQ", "Value": []}}, "study") == {"00081032": {"vr": "SQ"}}


@pytest.mark.parametrize(
    ("tag", "level", "says"),
    [
        ("0020000D", "study", "(0020,000D) StudyInstanceUID cannot be changed"),
        ("00080018", "instance", "SOPInstanceUID cannot be changed"),
        ("00080016", "instance", "SOPClassUID cannot be changed"),
        ("00280010", "instance", "Rows cannot be changed"),
        ("7FE00010", "instance", "PixelData cannot be changed"),
        ("00020010", "study", "TransferSyntaxUID cannot be changed"),
        ("04000561", "study", "OriginalAttributesSequence cannot be changed"),
        ("00080005", "study", "SpecificCharacterSet cannot be changed"),
        ("0040A730", "instance", "ContentSequence cannot be changed"),
        ("00201208", "study", "cannot be changed"),
        ("00091001", "study", "(0009,1001) cannot be changed"),
        ("00100010", "series", "PatientName is changed for a whole study, not for a series"),
        ("00100010", "instance", "PatientName is changed for a whole study, not for an instance"),
        ("0008103E", "study", "SeriesDescription is changed for a whole series, not for a study"),
        ("00200013", "series", "InstanceNumber is changed for a whole instance, not for a series"),
    ],
)
def test_what_may_not_be_changed_there_is_named(tag: str, level: Level, says: str) -> None:
    for element in (None, {"vr": "LO", "Value": ["x"]}):
        with pytest.raises(Invalid) as refused:
            read_changes({tag: element}, level)
        assert says in refused.value.message


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("00100010", element("PN", "Doe^Jane")),
        ("00100010", element("PN", {"Alphabetic": "Doe=Jane"})),
        ("00100010", element("PN", {"Alphabetic": "x" * 65})),
        ("00100010", element("PN", {"Alphabetic": "a^b^c^d^e^f"})),
        ("00100010", element("PN", {"Alphabetic": "Doe\nJane"})),
        ("00100010", element("PN", {"Alphabetic": "\ud800"})),
        ("00100010", element("PN", {"Kana": "Doe"})),
        ("00100010", element("PN", {"Alphabetic": "A"}, {"Alphabetic": "B"})),
        ("00100010", element("LO", "Doe^Jane")),
        ("00100010", {"Value": [{"Alphabetic": "Doe^Jane"}]}),
        ("00100010", {"vr": "PN", "InlineBinary": "AAAA"}),
        ("00100010", {"vr": "PN", "Value": {"Alphabetic": "Doe^Jane"}}),
        ("00100010", ["Doe^Jane"]),
        ("00100020", element("LO", "a\\b")),
        ("00100020", element("LO", "x" * 65)),
        ("00100020", element("LO", "\x1b$B")),
        ("00100020", element("LO", 17)),
        ("00100030", element("DA", "20260230")),
        ("00100030", element("DA", "2026.01.01")),
        ("00100030", element("DA", "20260101-20260102")),
        ("00080030", element("TM", "25")),
        ("00080030", element("TM", "1000-1100")),
        ("00100040", element("CS", "male")),
        ("00101010", element("AS", "7")),
        ("00101030", element("DS", "heavy")),
        ("00101030", element("DS", "nan")),
        ("00101030", element("DS", True)),
        ("001021C0", element("US", 65536)),
        ("001021C0", element("US", 1.5)),
        ("00081032", element("SQ", "CTCHEST")),
        ("00081032", element("SQ", {"00080100": element("LO", "CTCHEST")})),
        ("00081032", element("SQ", {"00091001": element("LO", "private")})),
        ("00081032", element("SQ", {"00080005": element("CS", "ISO_IR 192")})),
        ("00081032", element("SQ", {"00420011": element("OB", "AAAA")})),
    ],
)
def test_a_value_that_is_none_of_its_vr_is_refused_and_never_repeated(tag: str, said: Any) -> None:
    with pytest.raises(Invalid) as refused:
        read_changes({tag: said}, "study")
    for part in ("Doe", "CTCHEST", "heavy", "x" * 10):
        assert part not in refused.value.message


@pytest.mark.parametrize("said", [[], "x", None, {"PatientName": name("x")}, {"0010": name("x")}, {"0010001G": None}])
def test_what_is_no_data_set_of_dicom_json_is_refused(said: Any) -> None:
    with pytest.raises(Invalid):
        read_changes(said, "study")


def test_sequences_within_sequences_have_an_end() -> None:
    item: dict[str, Any] = {"00080100": element("SH", "x")}
    for _ in range(12):
        item = {"00081032": element("SQ", item)}
    with pytest.raises(Invalid, match="nested deeper"):
        read_changes(item, "study")


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        (
            "PatientName",
            "Müller^Jörg=山田",
            ("00100010", element("PN", {"Alphabetic": "Müller^Jörg", "Ideographic": "山田"})),
        ),
        ("OtherPatientNames", "A^B\\C^D", ("00101001", element("PN", {"Alphabetic": "A^B"}, {"Alphabetic": "C^D"}))),
        ("00100020", "17", ("00100020", element("LO", "17"))),
        ("SeriesNumber", "3", ("00200011", element("IS", 3))),
        ("AccessionNumber", "", ("00080050", {"vr": "SH"})),
        ("AccessionNumber", None, ("00080050", None)),
        ("PatientComments", "a\\b", ("00104000", element("LT", "a\\b"))),
    ],
)
def test_a_change_is_read_from_a_keyword_and_a_text(keyword: str, text: str | None, expected: Any) -> None:
    assert read_change(keyword, text) == expected


@pytest.mark.parametrize(("keyword", "text"), [("Nonsense", "x"), ("PixelData", "x"), ("ProcedureCodeSequence", "x")])
def test_a_keyword_that_cannot_be_set_is_named(keyword: str, text: str) -> None:
    with pytest.raises(Invalid, match=f"{keyword}|Procedure"):
        read_change(keyword, text)


def test_no_uid_and_nothing_that_holds_bytes_can_be_changed_at_any_level() -> None:
    from pydicom.datadict import dictionary_VR

    for tags in CHANGEABLE.values():
        assert {dictionary_VR(int(tag, 16)) for tag in tags}.isdisjoint({"UI", "OB", "OW", "UN"})
        assert not any(tag[:4] in ("0002", "0400", "7FE0", "5400", "6000") for tag in tags)
    assert tag_of("PatientID") == "00100020"
