"""A quiet study settles once; what comes late reopens it."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest
import sqlalchemy as sa
from pydicom import FileDataset

from readingroom.clock import SetClock
from readingroom.model import LOCAL_OPERATOR, Scope
from server import removing
from server.room import Room
from server.settings import Settings
from server.settle import settle_studies
from storage.catalog import schema as t
from tests import synthetic
from tests.catalog import fill_together, header
from tests.synthetic import part10


def store(room: Room, *datasets: FileDataset) -> None:
    assert all(
        outcome.error is None
        for outcome in room.ingest.store([part10(one) for one in datasets], facility="local", source="test")
    )


def settle(room: Room, clock: SetClock) -> None:
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    assert settle_studies(room) == 1


def remove(room: Room, clock: SetClock, *datasets: FileDataset) -> None:
    for one in datasets:
        uids = one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID
        removing.remove(room.engine, room.blobs, clock, LOCAL_OPERATOR, Scope(), *uids)


def restore(room: Room, clock: SetClock, dataset: FileDataset) -> None:
    uids = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    removing.restore(room.engine, room.blobs, clock, LOCAL_OPERATOR, Scope(), *uids)


def changes(room: Room) -> list[tuple[int, list[str], list[str]]]:
    """Revision, and what was added and removed, of each event that tells of a study that is another one now."""
    statement = sa.select(t.event.c.payload).where(t.event.c.type == "StudyChanged").order_by(t.event.c.seq)
    payloads = room.query(lambda connection: connection.execute(statement).scalars().all())
    return [(told["revision"], told["added"], told["removed"]) for told in map(orjson.loads, payloads)]


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
    room.queue.drain()
    assert event_types(room).count("StudySettled") == 1
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
    assert event_types(room) == ["InstancesStored", "StudySettled"] * 2 + ["StudyChanged"]
    assert changes(room) == [(2, [late.SOPInstanceUID], [])]


@pytest.mark.rooms("sqlite", "postgres")
def test_a_study_that_settles_again_says_what_it_lost_and_what_came_back(room: Room, clock: SetClock) -> None:
    first, gone, back = synthetic.ct_series(3)
    store(room, first, gone, back)
    settle(room, clock)
    remove(room, clock, gone, back)
    restore(room, clock, back)
    settle(room, clock)
    assert changes(room) == [(2, [back.SOPInstanceUID], [gone.SOPInstanceUID])]
    store(room, gone)
    settle(room, clock)
    assert changes(room)[1:] == [(3, [gone.SOPInstanceUID], [])]


def test_many_late_instances_are_told_in_several_events(
    room: Room, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.settle._MOST_INSTANCES", 2)
    first, *late = synthetic.ct_series(6)
    store(room, first)
    settle(room, clock)
    store(room, *late)
    settle(room, clock)
    told = changes(room)
    assert [(revision, len(added), removed) for revision, added, removed in told] == [(2, n, []) for n in (2, 2, 1)]
    assert [uid for _, added, _ in told for uid in added] == [one.SOPInstanceUID for one in late]


@pytest.mark.slow
@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("studies", [1, 500])
def test_ten_thousand_instances_settle_once_for_each_quiet_period(room: Room, clock: SetClock, studies: int) -> None:
    """Whoever looks, and however often: the time is a row, so that nothing is lost with a process that knew of it."""
    quiet, uids = timedelta(minutes=1), [synthetic.new_uid() for _ in range(studies)]
    for period in (1, 2):
        for group in range(10):
            headers = [
                header(StudyInstanceUID=uids[number % studies], SeriesInstanceUID=f"1.2.{number % studies + 1}")
                for number in range(500)
            ]
            fill_together(room.engine, headers, now=clock.now(), quiet=quiet)
            assert settle_studies(room) == 0, group
            clock.advance(quiet / 2)
        clock.advance(quiet)
        settled = 0
        while some := settle_studies(room):
            settled += some
        assert settled == studies
        clock.advance(10 * quiet)
        assert settle_studies(room) == 0
        assert event_types(room).count("StudySettled") == period * studies


class TestPeriods:
    """How long a study has to be quiet depends on what is in it."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        periods = {"MR": 300.0, "CT": 10.0}
        return settings.model_copy(update={"settle_seconds": 60.0, "settle_seconds_by_modality": periods})

    @pytest.mark.parametrize(
        ("modalities", "seconds"), [(["CT"], 10), (["US"], 60), (["CT", "MR"], 300), (["CT", "SR"], 60)]
    )
    def test_the_longest_period_of_its_modalities_counts(
        self, room: Room, clock: SetClock, modalities: list[str], seconds: int
    ) -> None:
        study_uid = synthetic.new_uid()
        for modality in modalities:
            (image,) = synthetic.ct_series(1)
            image.StudyInstanceUID, image.Modality = study_uid, modality
            store(room, image)
        clock.advance(timedelta(seconds=seconds - 1))
        assert settle_studies(room) == 0
        clock.advance(timedelta(seconds=1))
        assert settle_studies(room) == 1


def test_a_superseded_version_is_no_longer_a_live_slot(room: Room, clock: SetClock) -> None:
    dataset = synthetic.ct_series(1)[0]
    list(room.ingest.store([part10(dataset)], facility="local", source="test"))
    dataset.SeriesDescription = "Other"
    list(room.ingest.store([part10(dataset)], facility="local", source="test"))
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    settle_studies(room)
    room.queue.drain()
    (key,) = [key for key in room.blobs.keys("s/") if key.endswith("/a0/zarr.json")]
    assert orjson.loads(room.blobs.read(key))["attributes"]["dicom"]["live_slots"] == [1]
