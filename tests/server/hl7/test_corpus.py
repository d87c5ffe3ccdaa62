"""Messages of other projects: each is read, and leads to what is named here, or to nothing for a reason."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from readingroom.errors import Invalid
from server.hl7.meaning import Meaning, meaning_of
from server.hl7.parsing import read_message
from server.hl7.profiles import load_profile
from server.room import Room
from server.settings import Hl7Sender, Settings
from tests.hl7 import deliver

FOLDERS = ("ans-teleradiologie", "dcm4che", "linuxforhealth", "ms-fhirconverter")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    senders = {
        name: Hl7Sender(application=name, takes_tests=True, profile="ans" if name.startswith("ans") else "default")
        for name in FOLDERS
    }
    return settings.model_copy(update={"hl7": settings.hl7.model_copy(update={"senders": senders})})


PATIENTS = {
    "dcm4che/ADT_A40-PatientMerge": ("NEW_PID_1", "ADT1", "New_Smith^Lucy^Mark", "OLD_PID_1"),
    "linuxforhealth/sample_unix": ("PID1234", "A", "DOE^JOHN^A", ""),
    "linuxforhealth/sample_win": ("PID1234", "A", "DOE^JOHN^A", ""),
    "ms-fhirconverter/ADT-A01-01": ("PATID1234", "test1", "EVERYMAN^ADAM^A^Dr.^III", ""),
    "ms-fhirconverter/ADT-A04-01": ("PATID1234", "test1", "EVERYMAN^ADAM^A^Dr.^III", ""),
    "ms-fhirconverter/ADT-A08-01": ("PATID1234", "test1", "EVERYMAN^ADAM^A^Dr.^III", ""),
    "ms-fhirconverter/ADT-A40-01": ("12345", "BCBS", "Test^Test^A", "56789"),
    "ms-fhirconverter/ADT01-23": ("10006579", "1", "DUCK^DONALD^D", ""),
    "ms-fhirconverter/SIU-S12-01": ("PATID1234", "test1", "EVERYMAN^ADAM^A^Dr.^III", ""),
}
ORDERS = {
    "ans-teleradiologie/flux1": [("OPN101", "MR", "tête et/ou cou", "")],
    "dcm4che/OMG_O19-GeneralClinicalOrder-Eyecare": [
        ("AccessionNumber", "CT", "Microscopic Observation", "1.2.392.200036.9125.0.198811291108.7")
    ],
    "dcm4che/ORM_O01-GeneralOrder": [
        ("AccessionNumber", "CT", "Microscopic Observation", "1.2.392.200036.9125.0.198811291108.7")
    ],
    "ms-fhirconverter/ORM-O01-01": [("1201", "", "CT Head", "")],
    "ms-fhirconverter/ORM-O01-02": [("1201", "", "CT Head", "")],
    "ms-fhirconverter/ORM-O01-03": [("1201", "", "CT Head", ""), ("2301", "", "MR Brain", "")],
}
IGNORED = {
    "ans-teleradiologie/flux3": "Reports are made here",
    "dcm4che/ORU_R01-CDA": "Reports are made here",
    "ms-fhirconverter/LAB-ORU-1": "Reports are made here",
    "ms-fhirconverter/MDM-T02-01": "Documents are made here",
    "ms-fhirconverter/ORU-R01-01": "Reports are made here",
}


def read(corpus: Path, name: str) -> Meaning:
    profile = load_profile("ans" if name.startswith("ans") else "default")
    raw = (corpus / "hl7v2" / f"{name}.hl7").read_bytes()
    return meaning_of(read_message(raw), profile, takes_tests=True)


def test_every_message_of_the_corpus_is_named_here(corpus: Path) -> None:
    there = {str(one.relative_to(corpus / "hl7v2"))[:-4] for one in (corpus / "hl7v2").rglob("*.hl7")}
    assert there == {*PATIENTS, *ORDERS, *IGNORED, "ms-fhirconverter/OMG-O19-01"} == {*RESOURCES}


@pytest.mark.parametrize("name", PATIENTS)
def test_a_message_says_who_a_patient_is(corpus: Path, name: str) -> None:
    meaning = read(corpus, name)
    assert meaning.person is not None
    (called,) = meaning.person.who["00100010"]["Value"]
    found = (meaning.person.id, meaning.person.issuer, called["Alphabetic"], meaning.merged_id)
    assert (found, meaning.ignored) == (PATIENTS[name], "")


@pytest.mark.parametrize("name", ORDERS)
def test_a_message_asks_for_imaging(corpus: Path, name: str) -> None:
    meaning = read(corpus, name)
    assert [(o.accession_number, o.modality, o.procedure, o.study_uid) for o in meaning.orders] == ORDERS[name]
    assert all(order.control == "place" for order in meaning.orders)


@pytest.mark.parametrize("name", IGNORED)
def test_a_message_that_is_not_for_us_says_why(corpus: Path, name: str) -> None:
    assert read(corpus, name).ignored.startswith(IGNORED[name])


def test_an_order_of_the_laboratory_without_a_number_is_none(corpus: Path) -> None:
    with pytest.raises(Invalid, match="It names no order"):
        read(corpus, "ms-fhirconverter/OMG-O19-01")


def test_an_appointment_says_when(corpus: Path) -> None:
    appointment = read(corpus, "ms-fhirconverter/SIU-S12-01").appointment
    assert appointment is not None
    assert (appointment.id, appointment.status, appointment.minutes) == ("36996", "booked", 60)
    assert str(appointment.starts) == "2021-09-24 07:15:00+00:00"


STAY, ORDER = {"Patient": 1, "Encounter": 1}, {"Patient": 1, "ServiceRequest": 1, "Task": 1}
RESOURCES: dict[str, dict[str, int]] = {
    "ans-teleradiologie/flux1": ORDER,
    "dcm4che/ADT_A40-PatientMerge": {"Patient": 2},
    "dcm4che/OMG_O19-GeneralClinicalOrder-Eyecare": ORDER,
    "dcm4che/ORM_O01-GeneralOrder": ORDER,
    "linuxforhealth/sample_unix": STAY,
    "linuxforhealth/sample_win": STAY,
    "ms-fhirconverter/ADT-A01-01": STAY,
    "ms-fhirconverter/ADT-A04-01": STAY,
    "ms-fhirconverter/ADT-A08-01": STAY,
    "ms-fhirconverter/ADT-A40-01": {"Patient": 2},
    "ms-fhirconverter/ADT01-23": STAY,
    "ms-fhirconverter/OMG-O19-01": {},
    "ms-fhirconverter/ORM-O01-01": ORDER,
    "ms-fhirconverter/ORM-O01-02": ORDER,
    "ms-fhirconverter/ORM-O01-03": {"Patient": 1, "ServiceRequest": 2, "Task": 2},
    "ms-fhirconverter/SIU-S12-01": {"Patient": 1, "Appointment": 1},
    **{name: {} for name in IGNORED},
}


@pytest.mark.parametrize("name", RESOURCES)
def test_a_message_gives_its_resources(corpus: Path, room: Room, client: httpx.Client, name: str) -> None:
    (row,) = deliver(room, (corpus / "hl7v2" / f"{name}.hl7").read_bytes(), sender=name.partition("/")[0])
    state = "applied" if RESOURCES[name] else "ignored" if name in IGNORED else "failed"
    assert row.state == state, row.error
    kinds = ("Patient", "Encounter", "ServiceRequest", "Appointment", "Task")
    found = {kind: client.get(f"/fhir/{kind}", params={"_summary": "count"}).json()["total"] for kind in kinds}
    assert {kind: count for kind, count in found.items() if count} == RESOURCES[name]
