"""What an ORU^R01 says of a report, read back by python-hl7."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import hl7
import pytest

from readingroom.errors import Invalid
from readingroom.model import Addendum, CriticalResult, Destination, FollowUp, Passage, Report, Signature
from server.hl7.messages import unescape
from server.hl7.oru import write_oru
from storage.destinations import Hl7Options
from tests.deliveries import section
from tests.reports import a_report

AT = datetime(2026, 11, 24, 12, 31, tzinfo=UTC)
ADA = Signature(reader="ada", name="Byron^Ada^^Dr", role="attending", at=AT, npi="1234567893")
SECTIONS = (
    section("findings", "No bleeding.\nVentricles | normal & ~5\\6 mm^2.", "59776-5"),
    section("impression", "Normal head.", "19005-8"),
)


def told(report: Report, **options: Any) -> hl7.Message:
    """The message as its receiver reads it."""
    destination = Destination(id="ris", facility="local", channel="hl7", address="mllp://10.0.0.5:2575")
    known = Hl7Options.model_validate(options)
    message = write_oru(report, destination, known, control_id="c" * 20, at=AT, pdf=lambda: b"%PDF-1.7")
    assert message.endswith(b"\r")
    return hl7.parse(message.decode("utf-8"))


def report(**changes: Any) -> Report:
    return a_report(**{"sections": SECTIONS, "signatures": (ADA,), **changes})


def observations(message: hl7.Message) -> list[tuple[str, str, str, str]]:
    """Type, code, value and status of each OBX."""
    return [
        (str(one[2]), str(one[3]).split("^")[0], unescape(str(one[5])), str(one[11])) for one in message.segments("OBX")
    ]


def test_the_header_says_who_sends_what_to_whom() -> None:
    options = {"receiving_application": "RIS", "receiving_facility": "NORTH", "version": "2.5.1"}
    msh = told(report(), **options).segment("MSH")
    shown = {number: str(msh[number]) for number in (3, 4, 5, 6, 7, 9, 10, 11, 12, 18)}
    assert shown == {
        3: "READINGROOM",
        4: "local",
        5: "RIS",
        6: "NORTH",
        7: "20261124123100+0000",
        9: "ORU^R01^ORU_R01",
        10: "c" * 20,
        11: "P",
        12: "2.5.1",
        18: "UNICODE UTF-8",
    }
    assert str(msh[15]) == ""
    enhanced = told(report(), acknowledgement="enhanced", version="2.3").segment("MSH")
    assert (str(enhanced[15]), str(enhanced[16]), str(enhanced[9])) == ("AL", "NE", "ORU^R01")


def test_the_patient_is_told_in_each_form_of_the_name() -> None:
    pid = told(report(patient_name="Yamada^Tarou^^Mr^III=山田^太郎=やまだ^たろう")).segment("PID")
    assert str(pid[3]) == "P1^^^local^MR"
    names = "Yamada^Tarou^^III^Mr^^L^A", "山田^太郎^^^^^L^I", "やまだ^たろう^^^^^L^P"
    assert str(pid[5]) == "~".join(names)
    assert (str(pid[7]), str(pid[8])) == ("19700131", "F")


def test_the_order_is_told_by_its_accession_number_with_when_and_who() -> None:
    message = told(report(reason="Fall"))
    orc, obr = message.segment("ORC"), message.segment("OBR")
    assert (str(orc[1]), str(orc[3]), str(orc[5])) == ("RE", "A1", "CM")
    assert str(obr[3]) == "A1"
    assert str(obr[4]) == "18748-4^Diagnostic imaging study^LN^^CT head without contrast^L"
    assert str(obr[7]) == "20261124101500-0600"  # in Chicago
    assert str(obr[22]) == "20261124063000-0600"
    assert (str(obr[24]), str(obr[31])) == ("RAD", "^Fall")
    assert str(obr[32]) == "1234567893&Byron&Ada&&&Dr&&&NPI&2.16.840.1.113883.4.6&ISO"


@pytest.mark.parametrize(
    ("status", "obr", "obx"),
    [
        ("preliminary", "P", "P"),
        ("final", "F", "F"),
        ("appended", "C", "C"),
        ("amended", "C", "C"),
        ("corrected", "C", "C"),
        ("cancelled", "X", "X"),
        ("entered-in-error", "X", "W"),
    ],
)
def test_the_status_is_that_of_the_version(status: Any, obr: str, obx: str) -> None:
    message = told(report(status=status))
    assert str(message.segment("OBR")[25]) == obr
    assert {one[3] for one in observations(message)} == {obx}


def test_a_receiver_that_knows_no_correction_gets_a_final() -> None:
    assert str(told(report(status="amended"), corrected="F").segment("OBR")[25]) == "F"


def test_sections_addenda_and_what_is_critical_are_observations() -> None:
    made = report(
        status="appended",
        addenda=(Addendum(number=2, passages=(Passage(text="Compared with 2025."),), signatures=(ADA,)),),
        critical_results=(CriticalResult(category=1, text="Tension pneumothorax"),),
        follow_ups=(FollowUp(text="CT of the chest", due_on="2027-05-24"),),
    )
    found = observations(told(made))
    assert [(kind, code) for kind, code, _, _ in found] == [
        ("HD", "113014"),
        ("FT", "59776-5"),
        ("FT", "19005-8"),
        ("FT", "55107-7"),
        ("CE", "ACTIONABLE"),
        ("FT", "ACTIONABLE"),
        ("FT", "18783-1"),
        ("FT", "SIGNED"),
    ]
    values = [value for _, _, value, _ in found]
    assert values[0] == "^1.2.3.4^ISO"
    assert values[1] == "No bleeding.\nVentricles | normal & ~5\\6 mm^2."
    assert "Compared with 2025." in values[3]
    assert values[4] == "RID49480^Category 1 actionable finding^RADLEX"
    assert values[5] == "Tension pneumothorax"
    assert "2027-05-24" in values[6]
    assert "Signed by Dr Ada Byron" in values[7]


def test_a_resident_is_the_assistant_of_who_signs_last() -> None:
    resident = Signature(reader="rob", name="Rob Resident", role="resident", at=AT)
    obr = told(report(signatures=(resident, ADA))).segment("OBR")
    assert str(obr[32]).startswith("1234567893&")
    assert str(obr[33]) == "rob&Rob Resident"


def test_texts_and_codes_are_of_the_types_that_the_receiver_takes() -> None:
    made = report(critical_results=(CriticalResult(category=2, text="x"),))
    assert {kind for kind, _, _, _ in observations(told(made, text="TX", version="2.7"))} == {"HD", "TX", "CWE"}


def test_the_pdf_goes_along_where_it_is_wanted() -> None:
    kind, code, value, _ = observations(told(report(), pdf=True))[-1]
    assert (kind, code) == ("ED", "18748-4")
    assert base64.b64decode(value.split("^")[-1]) == b"%PDF-1.7"
    assert value.startswith("^application^pdf^Base64^")


def test_what_an_algorithm_wrote_is_said() -> None:
    ai = Passage(text="A bleed of 3 ml.", origin="ai", source="bleed", is_accepted=True)
    made = report(sections=(section("findings", "", "59776-5"), *SECTIONS[1:]))
    made = report(sections=(type(SECTIONS[0])(name="findings", title="Findings", passages=(ai,)), *made.sections[1:]))
    assert "1 sentence drafted by bleed" in observations(told(made))[-1][2]


def test_a_character_that_the_receiver_cannot_read_is_an_error_and_no_question_mark() -> None:
    with pytest.raises(Invalid, match=r"U\+5C71"):
        told(report(patient_name="=山田^太郎"), character_set="8859/1")


def test_a_report_with_next_to_nothing_is_still_a_message() -> None:
    bare = Report(id="1", facility="local", status="final", number=1)
    message = told(bare)
    assert [str(one[0]) for one in message] == ["MSH", "PID", "ORC", "OBR", "OBX"]


def test_no_text_of_a_report_makes_a_segment() -> None:
    evil = "x\rOBX|9|FT|evil\nMSH|^~\\&|\x0b\x1c\x00"
    made = report(
        patient_name=evil, patient_id=evil, procedure=evil, reason=evil, sections=(section("findings", evil, "1"),)
    )
    assert [str(one[0]) for one in told(made)] == ["MSH", "PID", "ORC", "OBR", "OBX", "OBX", "OBX"]
