"""Work items by DIMSE (PS3.4 annex CC), with pynetdicom on the other side; the statuses are those of CC.2."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)

from readingroom.clock import SetClock
from server.associations.commands import ATTRIBUTES, FIELD, N_GET, read_command, write_command
from server.dimse.server import DimseServer
from server.notifying import CALL, Notifying
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings, Settings
from storage.upsrules import FILTERED, WORKLIST
from tests.dimse import LOOPBACK, SECONDS, Receiver, serving
from tests.synthetic import new_uid
from tests.worklist import add, attribute, performed, workitem

PUSH, PULL, WATCH = UnifiedProcedureStepPush, UnifiedProcedureStepPull, UnifiedProcedureStepWatch
TOKEN = "1.2.840.99.1"


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def called(receiver: Receiver) -> Iterator[int]:
    """The port where the AE of the desk is called; it takes event reports there."""
    entity = AE(ae_title="DESK")
    entity.add_supported_context(UnifiedProcedureStepEvent, scu_role=False, scp_role=True)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=receiver.handlers)
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def settings(settings: Settings, called: int) -> Settings:
    peers = {
        "desk": DimsePeer(ae="DESK", host="127.0.0.1", port=called),
        "looker": DimsePeer(ae="LOOKER", may_store=False),
        "north": DimsePeer(ae="NORTH", facility="north"),
    }
    return settings.model_copy(update={"dimse": DimseSettings(peers=peers), "private_networks": LOOPBACK})


@pytest.fixture
def dimse(room: Room) -> Iterator[DimseServer]:
    with serving(room, *room.settings.dimse.peers.values()) as server:
        yield server


@pytest.fixture
def desk(dimse: DimseServer) -> Iterator[Any]:
    association = associate(dimse)
    yield association
    association.release()


def associate(server: DimseServer, ae: str = "DESK") -> Any:
    requester = AE(ae_title=ae)
    requester.acse_timeout = requester.dimse_timeout = requester.network_timeout = SECONDS
    for one in (PUSH, PULL, WATCH, UnifiedProcedureStepQuery):
        requester.add_requested_context(one, ExplicitVRLittleEndian)
    association = requester.associate("127.0.0.1", server.port, ae_title="READINGROOM")
    assert association.is_established
    return association


def step(**changes: Any) -> Dataset:
    return Dataset.from_json(workitem(**changes))


def create(association: Any, **changes: Any) -> str:
    uid = new_uid()
    status, _ = association.send_n_create(step(**changes), PUSH, uid)
    assert status.Status in (0, 0xB300)
    return uid


def get(association: Any, uid: str, *tags: int, by: Any = PULL) -> tuple[int, Dataset]:
    status, answer = association.send_n_get(list(tags), PUSH, uid, meta_uid=by)
    return status.Status, answer


def update(association: Any, uid: str, dataset: dict[str, Any], token: str = "") -> int:
    told = {**dataset, **({"00081195": attribute("UI", token)} if token else {})}
    status, _ = association.send_n_set(Dataset.from_json(told), PUSH, uid, meta_uid=PULL)
    return int(status.Status)


def act(association: Any, uid: str, action: int, by: Any, **values: Any) -> int:
    told = Dataset()
    for name, value in values.items():
        setattr(told, name, value)
    status, _ = association.send_n_action(told if values else None, action, PUSH, uid, meta_uid=by)
    return int(status.Status)


def change(association: Any, uid: str, state: str, token: str = TOKEN) -> int:
    values = {"ProcedureStepState": state, **({"TransactionUID": token} if token else {})}
    return act(association, uid, 1, PULL, **values)


def find(association: Any, model: Any = UnifiedProcedureStepQuery, **keys: Any) -> list[tuple[int, Dataset]]:
    asked = Dataset()
    for name, value in keys.items():
        setattr(asked, name, value)
    *found, (last, _) = [(status.Status, answer) for status, answer in association.send_c_find(asked, model)]
    assert last == 0
    return found


def test_what_is_created_by_dimse_is_seen_over_http(desk: Any, client: httpx.Client) -> None:
    uid = create(desk)
    (shown,) = client.get(f"/dicomweb/workitems/{uid}").json()
    assert shown["00100010"] == attribute("PN", {"Alphabetic": "Müller^Jürgen"})
    status, answer = get(desk, uid, by=WATCH)
    assert (status, answer.PatientName, answer.ProcedureStepState) == (0, "Müller^Jürgen", "SCHEDULED")
    assert "TransactionUID" not in answer
    status, answer = get(desk, uid, 0x00741000, 0x00100020)
    assert (status, len(answer), answer.PatientID) == (0, 2, "P1")
    assert get(desk, uid, 0x00741000, 0x00189004)[0] == 0x0001
    status, answer = get(desk, uid, 0x00189004, 0x00189005)
    assert (status, len(answer)) == (0x0001, 0)


def test_what_is_no_step_is_not_created(desk: Any) -> None:
    uid = create(desk)
    assert desk.send_n_create(step(), PUSH, uid)[0].Status == 0x0111
    assert desk.send_n_create(step(**{"00741000": attribute("CS", "COMPLETED")}), PUSH, new_uid())[0].Status == 0xC309
    assert desk.send_n_create(step(**{"00741204": None}), PUSH, new_uid())[0].Status == 0x0120
    assert desk.send_n_create(step(**{"00741204": attribute("LO")}), PUSH, new_uid())[0].Status == 0x0121
    assert desk.send_n_create(step(**{"00741200": attribute("CS", "SOON")}), PUSH, new_uid())[0].Status == 0x0106
    assert get(desk, new_uid())[0] == 0xC307


def test_a_step_is_claimed_updated_and_completed_by_its_token(desk: Any) -> None:
    uid = create(desk)
    assert change(desk, uid, "COMPLETED") == 0xC310
    assert change(desk, uid, "IN PROGRESS", token="") == 0xC301
    assert update(desk, uid, {"00741204": attribute("LO", "Again")}, TOKEN) == 0xC310
    assert change(desk, uid, "IN PROGRESS") == 0
    assert change(desk, uid, "IN PROGRESS", token="1.2.3") == 0xC302
    assert change(desk, uid, "SCHEDULED") == 0xC303
    assert update(desk, uid, {"00741000": attribute("CS", "COMPLETED")}, TOKEN) == 0xC303
    assert update(desk, uid, {"00741204": attribute("LO", "Again")}, "1.2.3") == 0xC301
    assert update(desk, uid, {"00741204": attribute("LO", "Again")}) == 0xC301
    assert update(desk, uid, {"00741204": attribute("LO", "Again")}, TOKEN) == 0
    assert change(desk, uid, "COMPLETED") == 0xC304
    assert change(desk, uid, "COMPLETED", token="1.2.3") == 0xC301
    assert update(desk, uid, performed(), TOKEN) == 0
    assert change(desk, uid, "COMPLETED") == 0
    assert change(desk, uid, "COMPLETED") == 0xB306
    assert change(desk, uid, "CANCELED") == 0xC300
    assert update(desk, uid, {"00741204": attribute("LO", "Late")}, TOKEN) == 0xC300
    answer = get(desk, uid)[1]
    assert (answer.ProcedureStepState, answer.ProcedureStepLabel) == ("COMPLETED", "Again")


def test_a_cancellation_is_done_asked_for_or_too_late(desk: Any) -> None:
    scheduled, claimed, done = create(desk), create(desk), create(desk)
    assert act(desk, scheduled, 2, PUSH, ReasonForCancellation="twice") == 0
    assert act(desk, scheduled, 2, WATCH) == 0xB304
    assert get(desk, scheduled)[1].ProcedureStepProgressInformationSequence[0].ReasonForCancellation == "twice"
    assert change(desk, claimed, "IN PROGRESS") == 0
    assert act(desk, claimed, 2, PUSH) == 0
    assert get(desk, claimed)[1].ProcedureStepState == "IN PROGRESS"
    assert change(desk, claimed, "CANCELED") == 0
    assert [change(desk, claimed, spelled) for spelled in ("CANCELED", "CANCELLED")] == [0xB304] * 2
    assert change(desk, done, "IN PROGRESS") == update(desk, done, performed(), TOKEN) == 0
    assert change(desk, done, "COMPLETED") == 0
    assert act(desk, done, 2, PUSH) == 0xC311
    assert act(desk, new_uid(), 2, PUSH) == 0xC307


def test_steps_are_found_by_attributes_and_by_those_in_sequences(desk: Any) -> None:
    first = create(desk)
    other = {"00100010": attribute("PN", {"Alphabetic": "Doe^Jane"}), "00100020": attribute("LO", "P2")}
    second = create(desk, **other)
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "121", ""
    keys = {"SOPInstanceUID": "", "PatientName": "", "ProcedureStepState": "SCHEDULED", "InstitutionName": ""}
    for model in (PULL, WATCH, UnifiedProcedureStepQuery):
        found = find(desk, model, **keys, ScheduledWorkitemCodeSequence=[code])
        assert {answer.SOPInstanceUID for _, answer in found} == {first, second}
    assert {status for status, _ in found} == {0xFF00}
    answer = found[0][1]
    assert (answer.ScheduledWorkitemCodeSequence[0].CodeMeaning, len(answer.ScheduledWorkitemCodeSequence[0])) == (
        "Something to do",
        2,
    )
    assert answer.InstitutionName in ("", None)
    ((status, answer),) = find(desk, PatientName="doe^*", SOPInstanceUID="", InstitutionName="Mercy")
    assert (status, answer.SOPInstanceUID) == (0xFF01, second)
    code.CodeValue = "122"
    assert find(desk, ScheduledWorkitemCodeSequence=[code]) == []
    asked = Dataset()
    asked.ScheduledProcedureStepStartDateTime = "soon"
    assert [one.Status for one, _ in desk.send_c_find(asked, PULL)] == [0xC000]


def test_each_sop_class_has_its_own_operations(desk: Any) -> None:
    uid = create(desk)
    assert act(desk, uid, 1, PUSH, ProcedureStepState="IN PROGRESS", TransactionUID=TOKEN) == 0x0123
    assert act(desk, uid, 2, PULL) == 0x0123
    assert act(desk, uid, 1, WATCH, ProcedureStepState="IN PROGRESS", TransactionUID=TOKEN) == 0x0123
    status, _ = desk.send_n_set(step(), PUSH, uid)
    assert status.Status == 0x0211
    assert change(desk, uid, "BUSY") == 0x0115


def test_who_may_only_look_changes_nothing_and_another_facility_sees_nothing(
    dimse: DimseServer, desk: Any, room: Room
) -> None:
    uid, own = create(desk), add(room.engine)
    looker, north = associate(dimse, "LOOKER"), associate(dimse, "NORTH")
    assert get(looker, uid)[0] == 0
    assert change(looker, uid, "IN PROGRESS") == 0x0124
    assert looker.send_n_create(step(), PUSH, new_uid())[0].Status == 0x0124
    assert act(looker, uid, 3, WATCH, ReceivingAE="LOOKER", DeletionLock="FALSE") == 0
    assert act(looker, uid, 2, WATCH) == 0x0124
    assert get(north, uid)[0] == 0xC307
    assert find(north, SOPInstanceUID="") == []
    assert {answer.SOPInstanceUID for _, answer in find(looker, SOPInstanceUID="")} == {uid, own.workitem_uid}
    looker.release()
    north.release()


# -- event reports -----------------------------------------------------------------------------------------------------


def notify(room: Room) -> None:
    """What the worker does once a second."""
    Notifying(engine=room.engine, queue=room.queue, peers=Peers(room.settings.dimse), settings=room.settings).look()
    room.queue.drain()


def test_a_subscriber_is_called_with_what_becomes_of_a_step(desk: Any, room: Room, receiver: Receiver) -> None:
    uid = create(desk)
    assert act(desk, uid, 3, WATCH, ReceivingAE="DESK", DeletionLock="FALSE") == 0
    assert change(desk, uid, "IN PROGRESS") == 0
    notify(room)
    told = [receiver.next(), receiver.next()]
    assert [(event, report.ProcedureStepState) for event, report in told] == [(1, "SCHEDULED"), (1, "IN PROGRESS")]
    assert act(desk, uid, 2, WATCH, ReasonForCancellation="twice") == 0
    notify(room)
    event, report = receiver.next()
    assert (event, report.RequestingAE, report.ReasonForCancellation) == (2, "DESK", "twice")
    assert act(desk, uid, 4, WATCH, ReceivingAE="DESK") == 0
    assert change(desk, uid, "CANCELED") == 0
    notify(room)
    assert receiver.reports.empty()
    assert room.queue.entries(kind=CALL) == []


def test_subscriptions_to_what_comes_are_for_all_or_for_what_matches(desk: Any, room: Room, receiver: Receiver) -> None:
    values = {"ReceivingAE": "DESK", "DeletionLock": "FALSE"}
    assert act(desk, FILTERED, 3, WATCH, **values) == 0x0115
    assert act(desk, FILTERED, 3, WATCH, **values, PatientID="P2") == 0
    create(desk)
    create(desk, **{"00100020": attribute("LO", "P2")})
    notify(room)
    assert receiver.next()[0] == 1
    assert receiver.reports.empty()
    assert act(desk, FILTERED, 5, WATCH, ReceivingAE="DESK") == 0
    assert act(desk, WORKLIST, 3, WATCH, **values) == 0
    uid = create(desk)
    notify(room)
    assert receiver.next()[0] == 1
    assert act(desk, uid, 5, WATCH, ReceivingAE="DESK") == 0xC314
    assert act(desk, WORKLIST, 4, WATCH, ReceivingAE="DESK") == 0
    assert act(desk, uid, 3, WATCH, ReceivingAE="NOBODY") == 0xC308
    assert act(desk, new_uid(), 3, WATCH, ReceivingAE="DESK") == 0xC307


def test_a_subscriber_that_does_not_take_a_report_is_called_again_and_misses_none(
    desk: Any, room: Room, receiver: Receiver, clock: SetClock
) -> None:
    receiver.status = 0x0213
    uid = create(desk)
    assert act(desk, uid, 3, WATCH, ReceivingAE="DESK", DeletionLock="FALSE") == 0
    notify(room)
    assert change(desk, uid, "IN PROGRESS") == 0
    notify(room)  # it is about to be called, and is not called any sooner
    (waiting,) = room.queue.entries(kind=CALL)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    receiver.status = 0
    clock.advance(timedelta(minutes=10))
    notify(room)
    assert [receiver.next()[1].ProcedureStepState for _ in range(2)] == ["SCHEDULED", "IN PROGRESS"]
    receiver.status = 0x0113  # it does not know this type of event, and need not hear of it twice
    assert act(desk, uid, 2, PUSH) == 0
    notify(room)
    assert room.queue.entries(kind=CALL) == []


def test_a_list_of_attributes_in_a_command_is_written_and_read() -> None:
    command = {FIELD: N_GET, ATTRIBUTES: "00741000\\00404041\\00080018"}
    read = read_command(write_command(command))
    assert read == command
