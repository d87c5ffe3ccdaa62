"""The modality worklist by C-FIND (PS3.4 annex K), with pynetdicom and dcmtk as modalities."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import ModalityWorklistInformationFind as WORKLIST

from server.dimse.server import DimseServer
from server.room import Room
from server.settings import DimsePeer
from server.worklist.steps import schedule_step
from storage.catalog.steps import StoredStep
from tests.conftest import absent
from tests.dimse import associated, serving
from tests.steps import step
from tests.worklist import at_work

PEERS = (
    DimsePeer(ae="CT1"),
    DimsePeer(ae="NORTH", facility="north"),
    DimsePeer(ae="ALL", sees_all=True),
    DimsePeer(ae="DEAF", may_find=False),
)


@pytest.fixture
def dimse(room: Room) -> Iterator[DimseServer]:
    with serving(room, *PEERS) as server:
        yield server


def schedule(room: Room, *steps: StoredStep) -> None:
    with at_work(room.engine) as work:
        for one in steps:
            schedule_step(work, one)


def asked(planned: dict[str, Any] | None = None, **keys: Any) -> Dataset:
    """An identifier; without `planned` it asks nothing of the Scheduled Procedure Step Sequence."""
    identifier = Dataset()
    for name, value in keys.items():
        setattr(identifier, name, value)
    if planned is not None:
        item = Dataset()
        for name, value in planned.items():
            setattr(item, name, value)
        identifier.ScheduledProcedureStepSequence = [item]
    return identifier


def find(server: DimseServer, identifier: Dataset, *, ae: str = "CT1") -> tuple[list[Dataset], set[int], int]:
    """The answers, their statuses, and the last one."""
    with associated(server, WORKLIST, ae=ae) as association:
        *pending, last = [(one.Status, answer) for one, answer in association.send_c_find(identifier, WORKLIST)]
    return [answer for _, answer in pending], {status for status, _ in pending}, last[0]


def numbers(found: list[Dataset]) -> list[str]:
    return [str(one.AccessionNumber) for one in found]


def test_a_modality_has_what_it_is_to_do_with_all_that_it_asks_for(room: Room, dimse: DimseServer) -> None:
    code = {"CodeValue": "RPID22", "CodingSchemeDesignator": "RADLEX", "CodeMeaning": "CT Head"}
    schedule(
        room,
        step(planned={"ScheduledProtocolCodeSequence": [code], "ScheduledPerformingPhysicianName": "Okafor^Ada"}),
        step("S2", accession_number="A2", modality="MR", station_ae="MR1", starts_at="1015"),
        step("S3", accession_number="A3", starts_on="20261126"),
        step("S4", accession_number="A4", state="cancelled"),
        step("S5", accession_number="A5", facility="north"),
    )
    planned = {
        "Modality": "CT",
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20261125",
        "ScheduledProcedureStepStartTime": "0800-1200",
        "ScheduledPerformingPhysicianName": "okafor*",
        "ScheduledProcedureStepID": "",
        "ScheduledProcedureStepStatus": "",
        "ScheduledProtocolCodeSequence": [],
        "PreMedication": "",
    }
    keys = {"PatientName": "MULLER*", "PatientBirthDate": "", "AccessionNumber": "", "StudyInstanceUID": ""}
    more = {"ReferencedStudySequence": [], "AdmissionID": ""}
    (one,), statuses, last = find(dimse, asked(planned, **keys, **more))

    assert (statuses, last) == ({0xFF00}, 0)
    assert one.SpecificCharacterSet == "ISO_IR 192"
    assert one.PatientName == "Müller^Jürgen"
    assert one.StudyInstanceUID.startswith("2.25.")
    assert (one.PatientBirthDate, one.AdmissionID, list(one.ReferencedStudySequence)) == ("", "", [])
    (told,) = one.ScheduledProcedureStepSequence
    assert (told.ScheduledProcedureStepID, told.ScheduledProcedureStepStatus) == ("S1", "SCHEDULED")
    assert told.ScheduledProcedureStepStartTime == "093000"
    assert told.ScheduledProtocolCodeSequence[0].CodeValue == "RPID22"
    assert told.PreMedication == ""
    assert "ScheduledProcedureStepDescription" not in told
    assert "PatientID" not in one


def test_the_list_is_that_of_the_facility_of_who_asks(room: Room, dimse: DimseServer) -> None:
    schedule(room, step(), step("S5", accession_number="A5", facility="north"))
    everything = asked(AccessionNumber="")

    assert numbers(find(dimse, everything)[0]) == ["A1"]
    assert numbers(find(dimse, everything, ae="NORTH")[0]) == ["A5"]
    assert sorted(numbers(find(dimse, everything, ae="ALL")[0])) == ["A1", "A5"]
    assert find(dimse, everything, ae="DEAF") == ([], set(), 0x0124)


def test_what_is_not_matched_here_is_said_and_what_is_no_value_is_refused(room: Room, dimse: DimseServer) -> None:
    schedule(room, step())
    (one,), statuses, _ = find(dimse, asked(AccessionNumber="", PatientWeight="70"))
    assert (one.AccessionNumber, statuses) == ("A1", {0xFF01})
    assert find(dimse, asked({"ScheduledProcedureStepStartDate": "tomorrow"})) == ([], set(), 0xC000)


def test_an_old_modality_has_its_own_character_set_where_that_will_do(room: Room, dimse: DimseServer) -> None:
    schedule(room, step(), step("S2", accession_number="A2", outer={"PatientName": "山田^太郎"}))
    one, two = find(dimse, asked(PatientName="", AccessionNumber="", SpecificCharacterSet="ISO_IR 100"))[0]

    assert (one.SpecificCharacterSet, one.PatientName) == ("ISO_IR 100", "Müller^Jürgen")
    assert (two.SpecificCharacterSet, two.PatientName) == ("ISO_IR 192", "山田^太郎")


def test_a_sequence_that_is_asked_for_as_a_whole_comes_as_a_whole(room: Room, dimse: DimseServer) -> None:
    schedule(room, step())
    (one,), _, _ = find(dimse, asked(ScheduledProcedureStepSequence=[]))

    assert one.ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription == "Head"
    assert len(one) == 1


def test_dcmtk_reads_the_worklist(room: Room, dimse: DimseServer) -> None:
    if shutil.which("findscu") is None:
        absent("dcmtk (findscu)")
    schedule(room, step(), step("S2", accession_number="A2", modality="MR"))
    sequence = "ScheduledProcedureStepSequence[0]"
    keys = ["PatientName=m?ller*", "AccessionNumber=", f"{sequence}.Modality=CT", f"{sequence}.ScheduledStationName="]
    command = ["findscu", "-v", "-W", "-aet", "CT1", "-aec", "READINGROOM", "127.0.0.1", str(dimse.port)]
    told = subprocess.run(
        [*command, *(part for key in keys for part in ("-k", key))],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    said = told.stdout + told.stderr
    assert said.count("(Pending)") == 1, said
    assert "[A1" in said
