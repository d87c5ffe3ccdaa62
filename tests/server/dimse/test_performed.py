"""Performed procedure steps by DIMSE (PS3.4 annex F), with pynetdicom as the modality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import ModalityPerformedProcedureStep as PERFORMED
from pynetdicom.sop_class import ModalityPerformedProcedureStepRetrieve as RETRIEVE
from pynetdicom.sop_class import ModalityWorklistInformationFind as WORKLIST

from readingroom.model import Scope
from server.associations.commands import ATTRIBUTES, FIELD, N_GET, read_command, write_command
from server.dimse.server import DimseServer
from server.room import Room
from server.settings import DimsePeer
from server.worklist.performed import OVER
from server.worklist.steps import schedule_step
from storage.catalog.performed import doubtful_steps
from storage.catalog.steps import StoredStep
from storage.dicomjson import MetadataJson
from tests.dimse import associated, serving
from tests.steps import ended, performed, said, step
from tests.worklist import at_work

UID = "1.2.3.4.5.1"
PEERS = (DimsePeer(ae="CT1"), DimsePeer(ae="NORTH", facility="north"), DimsePeer(ae="VIEWER", may_store=False))


@pytest.fixture
def dimse(room: Room) -> Iterator[DimseServer]:
    with serving(room, *PEERS) as server:
        yield server


@pytest.fixture
def planned(room: Room) -> StoredStep:
    with at_work(room.engine) as work:
        return schedule_step(work, step())


def create(association: Any, told: MetadataJson, uid: str | None = UID) -> Dataset:
    status: Dataset = association.send_n_create(Dataset.from_json(told), PERFORMED, uid)[0]
    return status


def change(association: Any, told: MetadataJson, uid: str = UID) -> Dataset:
    status: Dataset = association.send_n_set(Dataset.from_json(told), PERFORMED, uid)[0]
    return status


def worklist(association: Any) -> list[str]:
    """The statuses of what is on the worklist."""
    asked = Dataset.from_json(said(AccessionNumber="", ScheduledProcedureStepSequence=[]))
    found = [answer for _, answer in association.send_c_find(asked, WORKLIST) if answer is not None]
    return [one.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus for one in found]


def test_a_modality_reads_its_worklist_begins_and_ends(dimse: DimseServer, planned: StoredStep) -> None:
    with associated(dimse, WORKLIST, PERFORMED, RETRIEVE) as association:
        assert worklist(association) == ["SCHEDULED"]
        assert create(association, performed(planned)).Status == 0
        assert worklist(association) == ["STARTED"]
        assert change(association, ended("COMPLETED", "1.2.3.6")).Status == 0
        assert worklist(association) == []
        again = change(association, said(PerformedProcedureStepDescription="More"))
        assert (again.Status, again.ErrorComment, again.ErrorID) == (0x0110, OVER, 0xA710)

        status, whole = association.send_n_get([], RETRIEVE, UID)
        assert (status.Status, whole.PerformedProcedureStepStatus, whole.PatientName) == (
            0,
            "COMPLETED",
            "Müller^Jürgen",
        )
        status, some = association.send_n_get([0x00400252, 0x00080060], RETRIEVE, UID)
        assert (status.Status, some.Modality, len(some)) == (0, "CT", 2)
        status, some = association.send_n_get([0x00080060, 0x00100030], RETRIEVE, UID)
        assert (status.Status, [one.keyword for one in some]) == (0x0001, ["Modality"])
        assert association.send_n_get([], RETRIEVE, "1.2.9")[0].Status == 0x0112


def test_what_cannot_be_is_refused_by_its_status_and_the_association_goes_on(
    room: Room, dimse: DimseServer, planned: StoredStep
) -> None:
    with associated(dimse, PERFORMED) as association:
        assert create(association, performed(PerformedProcedureStepID=None)).Status == 0x0120
        assert create(association, performed(PerformedStationAETitle="")).Status == 0x0121
        assert create(association, performed(PerformedProcedureStepStatus="COMPLETED")).Status == 0x0106
        assert create(association, performed(planned)).Status == 0
        assert create(association, performed(planned)).Status == 0x0111
        assert change(association, said(PatientID="P2")).Status == 0x0105
        assert change(association, ended("COMPLETED", "1.2.3.6"), "1.2.9").Status == 0x0112
        assert create(association, performed(), None).Status == 0  # the server names it
    with room.engine.connect() as connection:
        (made,) = doubtful_steps(connection, Scope(), limit=10)
    assert made.instance_uid not in ("", UID)


def test_a_modality_of_another_facility_knows_nothing_of_it(dimse: DimseServer, planned: StoredStep) -> None:
    with associated(dimse, PERFORMED) as association:
        assert create(association, performed(planned)).Status == 0
    with associated(dimse, PERFORMED, RETRIEVE, ae="NORTH") as association:
        assert change(association, ended("COMPLETED", "1.2.3.6")).Status == 0x0112
        assert association.send_n_get([], RETRIEVE, UID)[0].Status == 0x0112
    with associated(dimse, PERFORMED, ae="VIEWER") as association:
        assert change(association, ended("COMPLETED", "1.2.3.6")).Status == 0x0124


def test_a_list_of_attributes_is_read_as_it_is_written() -> None:
    command = {FIELD: N_GET, ATTRIBUTES: "00400252\\00080060"}
    assert read_command(write_command(command)[12:]) == command
