"""Storage commitment by DIMSE (PS3.4 annex J), with pynetdicom on the other side."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel

from readingroom.clock import SetClock
from server.committing import PATIENCE, REPORT, REPORT_AFTER, WELL_KNOWN, Committing, Reporting
from server.dimse.server import DimseServer
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings
from tests.dimse import LOOPBACK, SECONDS, Receiver, orthanc, serving
from tests.servers import free_port
from tests.synthetic import ct_series, new_uid, part10


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def called(receiver: Receiver) -> Iterator[int]:
    """The port where the peer is called; it takes reports there."""
    entity = AE(ae_title="CT1")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=receiver.handlers)
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def dimse(room: Room) -> Iterator[DimseServer]:
    with serving(room, DimsePeer(ae="CT1")) as server:
        yield server


def associate(server: DimseServer, receiver: Receiver) -> Any:
    requester = AE(ae_title="CT1")
    requester.acse_timeout = requester.dimse_timeout = requester.network_timeout = SECONDS
    requester.add_requested_context(StorageCommitmentPushModel)
    requester.add_requested_context(CTImageStorage)
    association = requester.associate("127.0.0.1", server.port, ae_title="READINGROOM", evt_handlers=receiver.handlers)
    assert association.is_established
    return association


def request(uid: str, *instances: Dataset, sop_class: str = "") -> Dataset:
    asked = Dataset()
    asked.TransactionUID = uid
    asked.ReferencedSOPSequence = []
    for one in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class or one.SOPClassUID
        item.ReferencedSOPInstanceUID = one.SOPInstanceUID
        asked.ReferencedSOPSequence.append(item)
    return asked


def ask(association: Any, asked: Dataset, *, action: int = 1, instance: str = WELL_KNOWN) -> int:
    status, _ = association.send_n_action(asked, action, StorageCommitmentPushModel, instance)
    return int(status.Status)


def uids(items: Any) -> list[str]:
    return [one.ReferencedSOPInstanceUID for one in items]


def test_who_waits_on_its_association_is_told_there(dimse: DimseServer, receiver: Receiver) -> None:
    slices, uid = ct_series(2), new_uid()
    association = associate(dimse, receiver)
    assert [association.send_c_store(one).Status for one in slices] == [0, 0]
    assert ask(association, request(uid, *slices)) == 0
    event, told = receiver.next()
    assert (event, told.TransactionUID, told.RetrieveAETitle) == (1, uid, "READINGROOM")
    assert uids(told.ReferencedSOPSequence) == [one.SOPInstanceUID for one in slices]
    assert "FailedSOPSequence" not in told
    association.release()


def test_several_requests_on_one_association_are_each_told(dimse: DimseServer, receiver: Receiver) -> None:
    first, second = ct_series(2)
    association = associate(dimse, receiver)
    assert [association.send_c_store(one).Status for one in (first, second)] == [0, 0]
    asked = [new_uid(), new_uid()]
    for uid, one in zip(asked, (first, second), strict=True):
        assert ask(association, request(uid, one)) == 0
    assert sorted(receiver.next()[1].TransactionUID for _ in asked) == sorted(asked)
    association.release()


def test_what_is_not_kept_is_told_with_the_reason(dimse: DimseServer, receiver: Receiver, clock: SetClock) -> None:
    kept, absent = ct_series(2)
    association = associate(dimse, receiver)
    assert association.send_c_store(kept).Status == 0
    asked = request(new_uid(), kept, absent)
    asked.ReferencedSOPSequence += request("", kept, sop_class="1.2.840.10008.5.1.4.1.1.4").ReferencedSOPSequence
    assert ask(association, asked) == 0
    clock.advance(PATIENCE)
    event, told = receiver.next()
    assert (event, uids(told.ReferencedSOPSequence)) == (2, [kept.SOPInstanceUID])
    assert [one.FailureReason for one in told.FailedSOPSequence] == [0x0112, 0x0119]
    association.release()


def test_what_is_stored_after_it_was_asked_about_is_committed(dimse: DimseServer, receiver: Receiver) -> None:
    (slice_,) = ct_series(1)
    first, second = associate(dimse, receiver), associate(dimse, receiver)
    assert ask(first, request(new_uid(), slice_)) == 0
    assert second.send_c_store(slice_).Status == 0
    assert receiver.next()[0] == 1
    first.release()
    second.release()


def test_a_transaction_uid_that_is_in_use_commits_nothing_else(dimse: DimseServer, receiver: Receiver) -> None:
    first, second = ct_series(2)
    uid = new_uid()
    association = associate(dimse, receiver)
    assert [association.send_c_store(one).Status for one in (first, second)] == [0, 0]
    told = []
    for instance in (first, first, second):
        assert ask(association, request(uid, instance)) == 0
        told.append(receiver.next())
    assert [event for event, _ in told] == [1, 1, 2]
    assert told[2][1].FailedSOPSequence[0].FailureReason == 0x0131
    association.release()


def test_what_is_no_request_is_refused_and_the_association_goes_on(dimse: DimseServer, receiver: Receiver) -> None:
    (slice_,) = ct_series(1)
    association = associate(dimse, receiver)
    good = request(new_uid(), slice_)
    assert ask(association, good, action=2) == 0x0123
    assert ask(association, good, instance="1.2.3") == 0x0112
    assert ask(association, request(new_uid())) == 0x0115
    assert ask(association, request("", slice_)) == 0x0115
    assert association.send_c_store(slice_).Status == 0
    association.release()


def test_who_may_not_store_is_promised_nothing(room: Room, receiver: Receiver) -> None:
    with serving(room, DimsePeer(ae="CT1", may_store=False)) as server:
        association = associate(server, receiver)
        assert ask(association, request(new_uid(), *ct_series(1))) == 0x0124
        association.release()


# -- on another association --------------------------------------------------------------------------------------------


def reporting(room: Room, peer: DimsePeer) -> None:
    """Have jobs of `room` know that peer."""
    settings = DimseSettings(peers={"ct": peer})
    del room.queue.handlers[REPORT]
    committing = Committing(engine=room.engine, blobs=room.blobs, clock=room.clock, queue=room.queue)
    own = room.settings.model_copy(update={"dimse": settings, "private_networks": LOOPBACK})
    Reporting(committing, Peers(settings), own).register()


def leave(room: Room, peer: DimsePeer, *instances: Dataset, uid: str = "") -> None:
    """Store, ask, and go at once."""
    with serving(room, peer) as server:
        association = associate(server, Receiver())
        for one in instances:
            assert association.send_c_store(one).Status == 0
        assert ask(association, request(uid or new_uid(), *instances)) == 0
        association.abort()


def test_who_has_left_is_called(room: Room, receiver: Receiver, called: int, clock: SetClock) -> None:
    peer, uid = DimsePeer(ae="CT1", host="127.0.0.1", port=called), new_uid()
    reporting(room, peer)
    (slice_,) = ct_series(1)
    leave(room, peer, slice_, uid=uid)
    room.queue.drain()
    assert receiver.reports.empty()
    clock.advance(REPORT_AFTER)
    room.queue.drain()
    event, told = receiver.next()
    assert (event, told.TransactionUID, uids(told.ReferencedSOPSequence)) == (1, uid, [slice_.SOPInstanceUID])
    clock.advance(timedelta(hours=1))
    room.queue.drain()
    assert receiver.reports.empty()
    leave(room, peer, slice_, uid=uid)
    clock.advance(REPORT_AFTER)
    room.queue.drain()
    assert receiver.next()[1].TransactionUID == uid


def test_who_does_not_take_the_report_is_called_again(
    room: Room, receiver: Receiver, called: int, clock: SetClock
) -> None:
    peer = DimsePeer(ae="CT1", host="127.0.0.1", port=called)
    reporting(room, peer)
    leave(room, peer, *ct_series(1))
    receiver.status = 0x0110
    clock.advance(REPORT_AFTER)
    room.queue.drain()
    assert receiver.reports.empty()
    (waiting,) = room.queue.entries(kind=REPORT)
    assert (waiting.state, waiting.error) == ("queued", "CT1 does not take the report: 0110")
    receiver.status = 0
    clock.advance(timedelta(minutes=10))
    room.queue.drain()
    assert receiver.next()[0] == 1
    assert room.queue.entries(kind=REPORT) == []


def test_what_is_missing_is_looked_for_a_minute_and_then_reported(
    room: Room, receiver: Receiver, called: int, clock: SetClock
) -> None:
    peer = DimsePeer(ae="CT1", host="127.0.0.1", port=called)
    reporting(room, peer)
    with serving(room, peer) as server:
        association = associate(server, Receiver())
        assert ask(association, request(new_uid(), *ct_series(1))) == 0
        association.abort()
    for _ in range(20):
        clock.advance(timedelta(seconds=5))
        room.queue.drain()
    assert receiver.next()[0] == 2


def test_who_has_left_and_is_never_called_is_shown_to_the_operator(room: Room, clock: SetClock) -> None:
    peer = DimsePeer(ae="CT1")
    reporting(room, peer)
    leave(room, peer, *ct_series(1))
    for _ in range(26):
        clock.advance(timedelta(hours=1))
        room.queue.drain()
    (dead,) = room.queue.entries(kind=REPORT)
    assert (dead.state, "give it a host" in str(dead.error)) == ("dead", True)


# -- others' products --------------------------------------------------------------------------------------------------


def test_orthanc_stores_asks_leaves_and_is_called(room: Room, clock: SetClock, tmp_path: Path) -> None:
    dicom = free_port()
    peer = DimsePeer(ae="CT1", host="127.0.0.1", port=dicom)
    reporting(room, peer)
    slices, absent_one = ct_series(2), ct_series(1)[0]
    with serving(room, peer) as server, orthanc(tmp_path, dicom, server.port) as client:
        for one in slices:
            client.post("/instances", content=part10(one)).raise_for_status()
        stored = client.post("/modalities/here/store", json=client.get("/instances").json()).raise_for_status()
        assert stored.json()["FailedInstancesCount"] == 0
        named = [[str(one.SOPClassUID), str(one.SOPInstanceUID)] for one in (*slices, absent_one)]
        asked = client.post("/modalities/here/storage-commitment", json={"DicomInstances": named}).raise_for_status()
        clock.advance(PATIENCE)
        room.queue.drain()
        told = client.get(asked.json()["Path"]).json()
    assert told["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [one.SOPInstanceUID for one in slices]
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [
        (absent_one.SOPInstanceUID, 0x0112)
    ]
