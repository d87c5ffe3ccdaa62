"""Instance Availability Notification (PS3.4 annex R): peers hear of studies that have settled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import InstanceAvailabilityNotification

from readingroom.clock import SetClock
from readingroom.model import LOCAL_OPERATOR, Scope
from server.availability import TELL
from server.removing import remove
from server.room import Room
from server.settings import DimsePeer, DimseSettings, Settings
from server.settle import settle_studies
from storage.catalog.engine import begin_write
from storage.catalog.studies import ensure_facility
from tests.synthetic import ct_series, part10


class Peer:
    """A peer that takes notifications, or answers with another status."""

    def __init__(self) -> None:
        self.status = 0
        self.told: list[tuple[str, Dataset]] = []
        entity = AE(ae_title="RIS")
        entity.add_supported_context(InstanceAvailabilityNotification)
        handlers = [(evt.EVT_N_CREATE, self._take)]
        self.server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    def _take(self, event: Any) -> tuple[int, Dataset | None]:
        if self.status:
            return self.status, None
        self.told.append((event.request.AffectedSOPInstanceUID, event.attribute_list))
        return 0, event.attribute_list


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.server.shutdown()


@pytest.fixture
def settings(settings: Settings, peer: Peer) -> Settings:
    called = {"host": "127.0.0.1", "port": peer.server.server_address[1], "wants_availability": True}
    peers = {"ris": DimsePeer(ae="RIS", **called), "quiet": DimsePeer(ae="QUIET", host="127.0.0.1", port=9)}
    return settings.model_copy(
        update={
            "dimse": DimseSettings(ae_title="ROOM", peers=peers),
            "private_networks": (ip_network("127.0.0.0/8"),),
            "public_url": "https://images.example.org",
        }
    )


def settle(room: Room, clock: SetClock, *instances: Dataset, facility: str = "local") -> None:
    for outcome in room.ingest.store(map(part10, instances), facility=facility, source="test"):
        assert outcome.error is None
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    assert settle_studies(room) == 1


def test_a_study_that_settles_is_told_with_all_its_instances(room: Room, clock: SetClock, peer: Peer) -> None:
    slices = ct_series(3)
    settle(room, clock, *slices)
    room.queue.drain()
    ((_, told),) = peer.told
    assert (told.StudyInstanceUID, len(told.ReferencedPerformedProcedureStepSequence)) == (
        slices[0].StudyInstanceUID,
        0,
    )
    (series,) = told.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == [
        one.SOPInstanceUID for one in slices
    ]
    first = series.ReferencedSOPSequence[0]
    assert (first.ReferencedSOPClassUID, first.InstanceAvailability, first.RetrieveAETitle) == (
        slices[0].SOPClassUID,
        "ONLINE",
        "ROOM",
    )
    assert first.RetrieveURL == (
        f"https://images.example.org/dicomweb/studies/{slices[0].StudyInstanceUID}"
        f"/series/{slices[0].SeriesInstanceUID}/instances/{slices[0].SOPInstanceUID}"
    )


def test_a_late_instance_is_told_with_those_before_it(room: Room, clock: SetClock, peer: Peer) -> None:
    *some, late = ct_series(3)
    for instances in (some, [late]):
        settle(room, clock, *instances)
        room.queue.drain()
    counts = [len(told.ReferencedSeriesSequence[0].ReferencedSOPSequence) for _, told in peer.told]
    assert counts == [2, 3]
    assert len({uid for uid, _ in peer.told}) == 2


def test_a_peer_that_does_not_take_it_is_told_again_of_the_same_notification(
    room: Room, clock: SetClock, peer: Peer
) -> None:
    settle(room, clock, *ct_series(1))
    peer.status = 0x0213
    room.queue.drain()
    (waiting,) = room.queue.entries(kind=TELL)
    assert (waiting.state, waiting.error) == ("queued", "RIS does not take the notification: 0213.")
    peer.status = 0x0111  # it has had it after all
    clock.advance(timedelta(minutes=1))
    room.queue.drain()
    assert room.queue.entries(kind=TELL) == []


def test_what_is_of_another_facility_or_was_deleted_meanwhile_is_not_told(
    room: Room, clock: SetClock, peer: Peer
) -> None:
    with begin_write(room.engine) as connection:
        ensure_facility(connection, "north")
    settle(room, clock, *ct_series(1), facility="north")
    slices = ct_series(1)
    settle(room, clock, *slices)
    remove(room.engine, room.blobs, room.clock, LOCAL_OPERATOR, Scope(), slices[0].StudyInstanceUID)
    room.queue.drain()
    assert peer.told == []
    assert room.queue.entries(kind=TELL) == []
