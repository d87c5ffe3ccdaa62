"""Rules that change what objects say as they come."""

from __future__ import annotations

from typing import Any

import pytest

from readingroom.errors import Invalid
from storage.coercion import Coercion, coerce
from tests.catalog import header

CAME = header(
    PatientID=" 17 ", PatientName="Doe ^ Jane", AccessionNumber="A1", StudyDescription="", OtherPatientIDs=["x", "N-y"]
)


def made(*rules: dict[str, Any], facility: str = "north", source: str = "stow") -> dict[str, Any]:
    return coerce(CAME, [Coercion.of(**rule) for rule in rules], facility=facility, source=source)


def text(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def test_without_rules_nothing_changes() -> None:
    assert made() == {}


def test_set_remove_default_trim_and_prefix() -> None:
    assert made({"set": {"InstitutionName": "North", "PatientSex": ""}}) == {
        "00080080": text("LO", "North"),
        "00100040": {"vr": "CS"},
    }
    assert made({"remove": ["AccessionNumber", "PatientSex"]}) == {"00080050": None}
    defaults = {"IssuerOfPatientID": "NORTH", "StudyDescription": "None", "AccessionNumber": "B"}
    assert made({"default": defaults}) == {"00081030": text("LO", "None"), "00100021": text("LO", "NORTH")}
    assert made({"trim": ["PatientID", "PatientName", "AccessionNumber"]}) == {
        "00100010": text("PN", {"Alphabetic": "Doe^Jane"}),
        "00100020": text("LO", "17"),
    }
    assert made({"prefix": {"OtherPatientIDs": "N-", "AccessionNumber": "N-", "StudyDescription": "N-"}}) == {
        "00080050": text("SH", "N-A1"),
        "00101000": text("LO", "N-x", "N-y"),
    }


def test_within_a_rule_and_from_rule_to_rule_each_step_sees_the_one_before() -> None:
    rule = {"trim": ["PatientID"], "prefix": {"PatientID": "N-"}, "default": {"AccessionNumber": "none"}}
    assert made({"remove": ["AccessionNumber"]}, rule) == {
        "00080050": text("SH", "none"),
        "00100020": text("LO", "N-17"),
    }


def test_a_rule_concerns_the_facilities_and_sources_that_it_names() -> None:
    rule = {"facility": "nor*", "source": "MR_?", "set": {"InstitutionName": "North"}}
    assert made(rule, source="MR_1")
    assert not made(rule, source="MR_12")
    assert not made(rule, facility="south", source="MR_1")


def test_what_is_as_it_should_be_is_no_change() -> None:
    assert made({"set": {"AccessionNumber": "A1"}, "remove": ["PatientSex"], "trim": ["AccessionNumber"]}) == {}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"set": {"StudyInstanceUID": "1.2"}}, "StudyInstanceUID cannot be changed"),
        ({"set": {"PatientBirthDate": "yesterday"}}, "is no DA"),
        ({"remove": ["PixelData"]}, "PixelData cannot be changed"),
        ({"default": {"Nonsense": "x"}}, "Nonsense"),
        ({"trim": ["PatientBirthDate"]}, "is no text"),
        ({"prefix": {"PatientName": "x"}}, "is no text"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Coercion.of(**rule)


def test_odd_values_are_passed_over() -> None:
    odd = {
        "00100020": {"vr": "UN", "InlineBinary": "AAAA"},
        "00080050": text("SH", None, 5),
        "00100010": text("PN", None),
        "00081030": {"vr": "LO", "BulkDataURI": "\x01/x"},
    }
    rule = Coercion.of(
        trim=["PatientID", "AccessionNumber", "PatientName"],
        prefix={"PatientID": "N-", "AccessionNumber": "N-"},
        default={"StudyDescription": "x", "PatientID": "y"},
    )
    assert coerce(odd, [rule], facility="f", source="s") == {"00100010": {"vr": "PN"}}
