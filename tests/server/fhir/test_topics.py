"""What subscribers hear of studies, work and critical results, whichever way they come about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydicom import FileDataset

from readingroom.clock import SetClock
from server.fhir.topics import TOPICS
from server.room import Room
from server.settings import Settings
from server.settle import settle_studies
from storage.catalog.work_items import reading_of
from tests import stow
from tests.server.fhir.receiver import Receiver, receiving
from tests.server.fhir.test_subscriptions import BOTH, LOOPBACK, backport, plain, send
from tests.synthetic import ct_series, part10
from tests.worklist import attribute

DICOM = {"Content-Type": "application/dicom+json"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Lets subscriptions send to the loopback."""
    return settings.model_copy(update={"private_networks": LOOPBACK})


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A subscriber's endpoint."""
    with receiving() as receiver:
        yield receiver


def topic(name: str) -> str:
    """The canonical URL of a topic."""
    [url] = [url for url in TOPICS if url.endswith(f"/{name}")]
    return url


def store(client: httpx.Client, series: list[FileDataset]) -> str:
    """Store a series; returns the UID of its study."""
    stow.store(client, *map(part10, series))
    return str(series[0].StudyInstanceUID)


def settle(room: Room, clock: SetClock) -> None:
    clock.advance(timedelta(minutes=2))
    settle_studies(room)
    room.queue.drain()


def events(hook: Receiver) -> list[dict[str, Any]]:
    """What was told since the last time, of handshakes nothing."""
    return [one for got in hook.take() for one in got.told.get("events", [])]


def imaging_study(client: httpx.Client, study_uid: str) -> Any:
    found = client.get(f"/fhir/ImagingStudy?identifier=urn:oid:{study_uid}").json()
    [entry] = found["entry"]
    return entry["resource"]


def task_of(room: Room, study_uid: str) -> str:
    """The id of the reading of a study."""
    item = room.query(reading_of, "local", study_uid)
    assert item is not None
    return item.id


@BOTH
def test_a_study_is_told_of_when_it_is_there_as_a_whole_and_again_after_more_came(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    send(client, backport(hook, "ImagingStudy?modality=CT", topic=topic("study-available")))
    room.queue.drain()
    series = ct_series(3)
    uid = store(client, series[:2])
    room.queue.drain()
    assert events(hook) == []
    settle(room, clock)
    [event] = events(hook)
    assert event["focus"].endswith(f"/ImagingStudy/{imaging_study(client, uid)['id']}")
    store(client, series[2:])
    settle(room, clock)
    [event] = events(hook)
    assert event["event-number"] == "2"


def test_a_study_of_another_modality_is_filtered_out(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    send(client, backport(hook, "modality=MR", topic=topic("study-available")))
    room.queue.drain()
    store(client, ct_series(1))
    settle(room, clock)
    assert events(hook) == []


def test_a_subscription_of_r4_has_the_study_itself_put_to_it(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    send(client, plain(hook, "ImagingStudy?modality=CT"))
    room.queue.drain()
    uid = store(client, ct_series(2))
    settle(room, clock)
    [got] = hook.take()
    shown = imaging_study(client, uid)
    assert (got.method, got.path) == ("PUT", f"/fhir/ImagingStudy/{shown['id']}")
    assert got.json == shown
    assert got.json["numberOfInstances"] == 2
    store(client, [*ct_series(1, study_uid=uid)])
    settle(room, clock)
    assert [got.json["numberOfInstances"] for got in hook.take()] == [3]


@BOTH
def test_a_task_is_told_of_whichever_way_it_changes(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    send(client, backport(hook, topic=topic("task-changed"), content="full-resource"))
    room.queue.drain()
    hook.take()
    uid = store(client, ct_series(1))
    settle(room, clock)
    told = [entry["resource"] for got in hook.take() for entry in got.json["entry"][1:]]
    assert [one["status"] for one in told][-1] == "ready"
    assert told[-1]["id"] == task_of(room, uid)
    focus = imaging_study(client, uid)["id"]
    assert told[-1]["focus"]["reference"].endswith(focus)
    [workitem] = client.get("/dicomweb/workitems").json()
    change = {"00741000": attribute("CS", "IN PROGRESS"), "00081195": attribute("UI", "1.2.3")}
    where = f"/dicomweb/workitems/{workitem['00080018']['Value'][0]}/state"
    answer = client.put(where, json=change, headers=DICOM)
    assert answer.status_code == 200, answer.text
    room.queue.drain()
    [got] = hook.take()
    [entry] = got.json["entry"][1:]
    assert entry["resource"]["status"] == "in-progress"


def test_a_critical_result_is_told_of_with_its_task(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    uid = store(client, ct_series(1))
    settle(room, clock)
    send(client, backport(hook, topic=topic("critical-result")))
    room.queue.drain()
    task = task_of(room, uid)
    told = {"reason": "Pneumothorax", "study": uid, "item": task}
    client.post("/escalations", json={**told, "key": "late"}).raise_for_status()
    client.post("/escalations", json={**told, "category": 1, "key": "a"}).raise_for_status()
    client.post("/escalations", json={**told, "category": 1, "key": "a"}).raise_for_status()
    room.queue.drain()
    [event] = events(hook)
    assert event["focus"].endswith(f"/ImagingStudy/{imaging_study(client, uid)['id']}")
    assert event["additional-context"].endswith(f"/Task/{task}")
    client.post("/escalations", json={**told, "category": 2, "key": "b"}).raise_for_status()
    room.queue.drain()
    assert [one["event-number"] for one in events(hook)] == ["2"]


def test_where_nobody_watches_the_work_makes_no_jobs_for_it(room: Room, client: httpx.Client, clock: SetClock) -> None:
    store(client, ct_series(1))
    clock.advance(timedelta(minutes=2))
    settle_studies(room)
    assert not any(entry.kind.endswith(".fhir") for entry in room.queue.entries())


def test_the_study_of_another_facility_is_told_of_to_nobody_else(
    room: Room, client: httpx.Client, hook: Receiver, clock: SetClock
) -> None:
    stow.store(client, *map(part10, ct_series(1)), to="/dicomweb/f/north/studies")
    settle(room, clock)
    asked = backport(hook, topic=topic("study-available"))
    send(client, asked, root="/fhir/f/north")
    room.queue.drain()
    hook.take()
    stow.store(client, *map(part10, ct_series(1)), to="/dicomweb/f/south/studies")
    settle(room, clock)
    assert events(hook) == []
    stow.store(client, *map(part10, ct_series(1)), to="/dicomweb/f/north/studies")
    settle(room, clock)
    assert len(events(hook)) == 1
