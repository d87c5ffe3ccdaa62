"""Resources that are kept: versions, scope, and what they look like."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from readingroom.errors import Ambiguous, Conflict
from readingroom.model import LOCAL_OPERATOR, Scope
from server.auth import Caller
from server.fhir.session import Session, writing
from server.fhir.shown import Shown
from server.fhir.stored import StoredType
from server.room import Room

OBSERVATION = StoredType(name="Observation")
REST = b'{"status":"final","valueQuantity":{"value":72.50}}'


def caller(facility: str = "local", scope: Scope | None = None) -> Caller:
    return Caller(
        actor=LOCAL_OPERATOR,
        scope=scope or Scope(),
        service_root="http://here/dicomweb",
        fhir_root="http://here/fhir",
        facility=facility,
    )


def created(session: Session, id: str = "o1", rest: bytes = REST) -> Shown:
    return OBSERVATION.create(session, {"resourceType": "Observation"}, rest, id)


def test_what_was_sent_comes_back_byte_for_byte_behind_id_and_meta(room: Room) -> None:
    with writing(room, caller(room.settings.facility)) as session:
        resource = {"resourceType": "Observation", "meta": {"versionId": "9", "tag": [{"code": "x"}]}}
        shown = OBSERVATION.create(session, resource, REST, OBSERVATION.new_id(session, resource))
    with writing(room, caller(room.settings.facility)) as session:
        [read] = OBSERVATION.read(session, (shown.id,))
    assert read == shown
    assert read.body.endswith(b"," + REST[1:])
    assert read.resource["meta"] == {
        "versionId": "1",
        "lastUpdated": read.resource["meta"]["lastUpdated"],
        "tag": [{"code": "x"}],
    }
    assert str(read.resource["valueQuantity"]["value"]) == "72.50"


def test_each_change_is_a_version_and_a_change_that_changes_nothing_is_none(room: Room) -> None:
    with writing(room, caller(room.settings.facility)) as session:
        first = created(session)
    with writing(room, caller(room.settings.facility)) as session:
        locked = OBSERVATION.lock(session, "o1")
        assert locked == first
        assert OBSERVATION.update(session, first, {"resourceType": "Observation"}, REST) is first
        second = OBSERVATION.update(session, first, {"resourceType": "Observation"}, b"{}")
        assert second.version == 2
        assert second.updated_at > first.updated_at
        gone = OBSERVATION.delete(session, second)
        assert gone.is_deleted
        found = OBSERVATION.versions(session, "o1", limit=9)
        assert [one.version for one in found] == [3, 2, 1]
        assert OBSERVATION.versions(session, "o1", limit=9, since=gone.updated_at) == [gone]
        assert OBSERVATION.versions(session, "o1", limit=9, until=first.updated_at) == [first]
        assert OBSERVATION.version(session, "o1", 2) == second
        assert session.changed == [("Observation", "o1", 2), ("Observation", "o1", 3)]


def test_a_version_follows_the_one_before_though_the_clock_is_set_back(room: Room) -> None:
    with writing(room, caller(room.settings.facility)) as session:
        first = created(session)
        earlier = replace(session, now=session.now - timedelta(days=1))
        second = OBSERVATION.update(earlier, first, {"resourceType": "Observation"}, b"{}")
    assert second.updated_at > first.updated_at


def test_another_facility_sees_nothing_of_it_and_may_use_the_same_id(room: Room, facility_north: str) -> None:
    with writing(room, caller(room.settings.facility)) as session:
        created(session)
    there = caller(facility_north, Scope(facilities=frozenset({facility_north})))
    with writing(room, there) as session:
        assert OBSERVATION.read(session, ("o1",)) == []
        assert OBSERVATION.lock(session, "o1") is None
        assert OBSERVATION.versions(session, None, limit=9) == []
        assert OBSERVATION.version(session, "o1", 1) is None
        created(session, rest=b"{}")
    with writing(room, caller(room.settings.facility)) as session:
        assert len(OBSERVATION.read(session, ("o1",))) == 2
        with pytest.raises(Ambiguous, match="Several facilities"):
            OBSERVATION.lock(session, "o1")


def test_two_that_make_the_same_id_are_told_apart(room: Room) -> None:
    with writing(room, caller(room.settings.facility)) as session:
        created(session)
        with pytest.raises(Conflict, match="already"):
            created(session)


@pytest.fixture
def facility_north(room: Room) -> str:
    from storage.catalog.engine import begin_write
    from storage.catalog.studies import ensure_facility

    with begin_write(room.engine) as connection:
        ensure_facility(connection, "north")
    return "north"
