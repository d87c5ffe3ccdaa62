"""A quiet study settles once; what comes late reopens it."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from server.room import Room
from server.settle import settle_studies
from storage.catalog import schema as t
from tests import synthetic
from tests.synthetic import part10


def event_types(room: Room) -> list[str]:
    statement = sa.select(t.event.c.type).order_by(t.event.c.seq)
    return list(room.query(lambda connection: connection.execute(statement).scalars()))


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_a_quiet_study_settles_and_its_array_is_described(room: Room, clock: SetClock) -> None:
    series = synthetic.ct_series(4)
    for dataset in (series[2], series[0], series[3], series[1]):
        list(room.ingest.store([part10(dataset)], facility="local", source="test"))
    assert settle_studies(room) == 0
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    assert settle_studies(room) == 1
    assert settle_studies(room) == 0
    assert event_types(room)[-1] == "StudySettled"
    (key,) = [key for key in room.blobs.keys("s/") if key.endswith("/a0/zarr.json")]
    document = orjson.loads(room.blobs.read(key))
    said = document["attributes"]["dicom"]
    assert said["live_slots"] == [1, 3, 0, 2]
    assert said["instance_uids"] == [dataset.SOPInstanceUID for dataset in series]
    assert said["positions_mm"][1] == [0, 0, 2]
    assert document["shape"] == [4, 32, 24]


def test_each_instance_moves_the_time_at_which_its_study_settles(room: Room, clock: SetClock) -> None:
    first, second = synthetic.ct_series(2)
    quiet = timedelta(seconds=room.settings.settle_seconds)
    list(room.ingest.store([part10(first)], facility="local", source="test"))
    clock.advance(quiet * 0.75)
    list(room.ingest.store([part10(second)], facility="local", source="test"))
    clock.advance(quiet * 0.75)
    assert settle_studies(room) == 0
    clock.advance(quiet * 0.5)
    assert settle_studies(room) == 1


def test_late_instance_reopens_a_settled_study(room: Room, clock: SetClock) -> None:
    first, late = synthetic.ct_series(2)
    quiet = timedelta(seconds=room.settings.settle_seconds + 1)
    list(room.ingest.store([part10(first)], facility="local", source="test"))
    clock.advance(quiet)
    settle_studies(room)
    list(room.ingest.store([part10(late)], facility="local", source="test"))
    payload = room.query(
        lambda connection: connection.execute(
            sa.select(t.event.c.payload).order_by(t.event.c.seq.desc()).limit(1)
        ).scalar_one()
    )
    assert orjson.loads(payload)["reopened"] is True
    clock.advance(quiet)
    assert settle_studies(room) == 1
    assert event_types(room) == ["InstancesStored", "StudySettled"] * 2


def test_a_superseded_version_is_no_longer_a_live_slot(room: Room, clock: SetClock) -> None:
    dataset = synthetic.ct_series(1)[0]
    list(room.ingest.store([part10(dataset)], facility="local", source="test"))
    dataset.SeriesDescription = "Other"
    list(room.ingest.store([part10(dataset)], facility="local", source="test"))
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    settle_studies(room)
    (key,) = [key for key in room.blobs.keys("s/") if key.endswith("/a0/zarr.json")]
    assert orjson.loads(room.blobs.read(key))["attributes"]["dicom"]["live_slots"] == [1]
