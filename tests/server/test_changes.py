"""The change feed: every change once, in the order of the commits, as pages and as a stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.model import Scope
from server import feed
from server.dicomweb import changes
from server.purging import purge
from server.room import Room
from server.settle import settle_studies
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.events import Wanted, append_events, instance_events, last_sequence, read_events
from tests.retrieve import ROOT, keep, url_of
from tests.servers import Live
from tests.stow import STUDIES, store
from tests.synthetic import cine, ct_series, part10

BOTH = pytest.mark.rooms("sqlite", "postgres")
FEED = "/dicomweb/changes"


def read(client: httpx.Client, path: str = FEED, **params: str | int) -> list[dict[str, Any]]:
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


# -- pages -----------------------------------------------------------------------------------------------------------


@BOTH
def test_the_feed_tells_what_happened_to_each_instance(room: Room, client: httpx.Client, clock: SetClock) -> None:
    image = cine()
    keep(client, image)
    image.ImageComments = "sent again"
    keep(client, image)
    client.delete(url_of(image))
    client.post(f"{url_of(image)}/restore")
    clock.advance(timedelta(minutes=2))
    settle_studies(room)
    client.delete(url_of(image))
    clock.advance(timedelta(days=1))
    purge(room.engine, room.blobs, clock, before=clock.now())
    told = read(client)
    assert [one["type"] for one in told] == [
        "InstancesStored",
        "InstancesStored",
        "InstancesRemoved",
        "InstancesRestored",
        "StudySettled",
        "InstancesRemoved",
        "InstancesPurged",
    ]
    assert [[each["action"] for each in one["instances"]] for one in told] == [
        ["create"],
        ["update"],
        ["delete"],
        ["restore"],
        [],
        ["delete"],
        ["purge"],
    ]
    first, second, removed, *_ = told
    assert first["study"] == image.StudyInstanceUID
    assert first["facility"] == "local"
    assert first["time"] == "2026-01-01T12:00:00.000000Z"
    assert first["url"] == f"{ROOT}/studies/{image.StudyInstanceUID}"
    assert first["instances"] == [
        {
            "series": image.SeriesInstanceUID,
            "instance": image.SOPInstanceUID,
            "action": "create",
            "version": 1,
            "metadata": f"http://127.0.0.1:8780{url_of(image)}/metadata",
        }
    ]
    assert second["instances"][0]["version"] == 2
    assert removed["details"] == {"reason": "deleted", "note": "", "actor": "local-operator"}
    numbers = [one["sequence"] for one in told]
    assert numbers == sorted(set(numbers))


@BOTH
def test_pages_follow_each_other_to_the_end(client: httpx.Client) -> None:
    for _ in range(7):
        keep(client, cine())
    everything = read(client)
    seen: list[dict[str, Any]] = []
    url = f"{FEED}?limit=3"
    while url:
        response = client.get(url)
        seen += response.json()
        url = response.links.get("next", {}).get("url", "")
    assert seen == everything
    assert len(seen) == 7
    assert read(client, since=everything[-1]["sequence"]) == []
    assert read(client, since=everything[2]["sequence"]) == everything[3:]


def test_an_answer_is_cut_where_it_names_too_many_instances(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_MOST_INSTANCES", 5)
    for _ in range(3):
        keep(client, *ct_series(4))
    response = client.get(FEED)
    assert [len(one["instances"]) for one in response.json()] == [4, 4]
    assert [len(one["instances"]) for one in client.get(response.links["next"]["url"]).json()] == [4]


@BOTH
def test_the_feed_is_narrowed_by_type_study_and_time(client: httpx.Client, clock: SetClock) -> None:
    first, second = cine(), cine()
    keep(client, first)
    clock.advance(timedelta(hours=1))
    keep(client, second)
    client.delete(url_of(first))

    def types(**params: str) -> list[str]:
        return [one["type"] for one in read(client, **params)]

    assert types(type="InstancesRemoved") == ["InstancesRemoved"]
    assert types(type="InstancesRemoved,InstancesStored", study=second.StudyInstanceUID) == ["InstancesStored"]
    assert types(to="2026-01-01T12:30:00Z") == ["InstancesStored"]
    assert types(**{"from": "2026-01-01T13:00:00+00:00"}) == ["InstancesStored", "InstancesRemoved"]
    assert types(**{"from": "2026-01-01T14:00:00+02:00", "to": "2026-01-01T12:00:01Z"}) == ["InstancesStored"]
    assert types(study="1.2.3") == []


@BOTH
def test_a_facility_sees_its_own_changes_alone(client: httpx.Client) -> None:
    for facility in ("north", "south", "north"):
        store(client, part10(cine()), to=f"/dicomweb/f/{facility}/studies")
    north = read(client, "/dicomweb/f/north/changes")
    assert [one["facility"] for one in north] == ["north", "north"]
    assert north[0]["url"].startswith(f"{ROOT}/f/north/studies/")
    assert len(read(client)) == 3
    assert read(client, "/dicomweb/f/west/changes") == []
    assert client.get("/dicomweb/f/west/changes/latest").status_code == 204
    assert client.get("/dicomweb/f/south/changes/latest").json()["facility"] == "south"


def test_the_latest_change_is_the_last_of_the_feed(client: httpx.Client) -> None:
    assert client.get(f"{FEED}/latest").status_code == 204
    image = cine()
    keep(client, image)
    client.delete(url_of(image))
    assert client.get(f"{FEED}/latest").json() == read(client)[-1]
    assert client.get(f"{FEED}/latest?type=InstancesStored").json() == read(client)[0]
    for path in (FEED, f"{FEED}/latest"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    "query",
    [
        "since=-1",
        "since=x",
        "since=",
        "limit=0",
        "limit=1.5",
        "from=yesterday",
        "from=2026-01-01",
        "from=2026-01-01T12:00:00",
        "to=0001-01-01T00:00:00%2B23:59",
        "type=",
        "type=*",
        "study=",
        "study=1%002",
        "offset=3",
    ],
)
def test_what_the_feed_does_not_understand_is_400(client: httpx.Client, query: str) -> None:
    response = client.get(f"{FEED}?{query}")
    assert response.status_code == 400
    assert len(response.text.splitlines()) == 1


def test_other_media_types_are_406(client: httpx.Client) -> None:
    assert client.get(FEED, headers={"Accept": "application/dicom+json"}).status_code == 406
    assert client.get(f"{FEED}/latest", headers={"Accept": "text/event-stream"}).status_code == 406


# -- the order of commits --------------------------------------------------------------------------------------------


def append(engine: sa.Engine, study_uid: str, clock: SetClock) -> None:
    with begin_write(engine) as connection:
        told = {"owner_facility": "local", "study_uid": study_uid, "at": clock.now(), "instances": {"1": ["1.1"]}}
        append_events(connection, list(instance_events("InstancesStored", **told)))


@pytest.mark.postgres
def test_a_transaction_that_commits_late_does_not_come_before_one_that_was_read(
    request: pytest.FixtureRequest, clock: SetClock
) -> None:
    engine = open_engine(request.getfixturevalue("postgres_url"))

    def read_all() -> list[str | None]:
        with engine.connect() as connection:
            return [one.study_uid for one in read_events(connection, Scope(), Wanted(), after=0, limit=100)]

    with ThreadPoolExecutor(1) as pool:
        with begin_write(engine) as connection:
            told = {"owner_facility": "local", "study_uid": "slow", "at": clock.now(), "instances": {"1": ["1.1"]}}
            append_events(connection, list(instance_events("InstancesStored", **told)))
            quick = pool.submit(append, engine, "quick", clock)
            with pytest.raises(TimeoutError):
                quick.result(timeout=0.3)  # it waits: else a reader would see it, and then the other before it
            assert read_all() == []
        quick.result(timeout=30)
    assert read_all() == ["slow", "quick"]
    engine.dispose()


def test_a_reader_misses_nothing_that_several_writers_commit(engine: sa.Engine, clock: SetClock) -> None:
    seen: list[int] = []
    is_over = threading.Event()

    def follow() -> None:
        while True:
            was_over = is_over.is_set()
            with engine.connect() as connection:
                last = last_sequence(connection)
                after = seen[-1] if seen else 0
                seen.extend(
                    e.sequence for e in read_events(connection, Scope(), Wanted(), after=after, limit=9, last=last)
                )
                if was_over and (seen[-1] if seen else 0) >= last:
                    return

    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(follow)
        writing = [pool.submit(append, engine, f"1.{number}", clock) for number in range(60)]
        for one in writing:
            one.result(timeout=60)
        is_over.set()
        reading.result(timeout=60)
    with engine.connect() as connection:
        everything = [e.sequence for e in read_events(connection, Scope(), Wanted(), after=0, limit=1000)]
    assert seen == everything
    assert len(seen) == 60


# -- streams ---------------------------------------------------------------------------------------------------------


async def messages(pieces: AsyncIterator[bytes], number: int) -> list[tuple[int, dict[str, Any]]]:
    """Number and entry of the next so many messages."""
    found: list[tuple[int, dict[str, Any]]] = []
    async for piece in pieces:
        if piece.startswith(b"id: "):
            head, _, data = piece.partition(b"\n")
            found.append((int(head[4:]), orjson.loads(data.removeprefix(b"data: "))))
        if len(found) == number:
            break
    return found


@BOTH
def test_a_stream_catches_up_and_goes_on_live(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(changes, "_USUAL", 2)
    for _ in range(3):
        keep(client, cine())
    before = read(client, limit=100)

    async def follow() -> list[tuple[int, dict[str, Any]]]:
        pieces = changes.stream(room, Scope(), Wanted(), ROOT, after=before[0]["sequence"])
        found = await messages(pieces, 2)
        await asyncio.to_thread(keep, client, cine())
        return found + await messages(pieces, 1)

    found = asyncio.run(follow())
    after = read(client, since=before[0]["sequence"], limit=100)
    assert [entry for _, entry in found] == after
    assert [number for number, _ in found] == [one["sequence"] for one in after]
    assert len(after) == 3


def test_a_stream_of_one_facility_passes_over_the_others(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.01)
    for facility in ("south", "south", "north"):
        store(client, part10(cine()), to=f"/dicomweb/f/{facility}/studies")
    looked: list[tuple[int, int | None]] = []

    def counted(*args: Any, after: int, last: int | None = None, **kwargs: Any) -> Any:
        looked.append((after, last))
        return read_events(*args, after=after, last=last, **kwargs)

    monkeypatch.setattr(changes, "read_events", counted)

    async def follow() -> list[tuple[int, dict[str, Any]]]:
        pieces = changes.stream(room, Scope().narrowed("north"), Wanted(), ROOT, after=0)
        found = await messages(pieces, 1)
        for _ in range(2):
            await asyncio.to_thread(store, client, part10(cine()), to="/dicomweb/f/south/studies")
        await asyncio.to_thread(store, client, part10(cine()), to="/dicomweb/f/north/studies")
        return found + await messages(pieces, 1)

    found = asyncio.run(follow())
    assert [entry["facility"] for _, entry in found] == ["north", "north"]
    assert all(last is not None and after < last for after, last in looked)
    assert len({after for after, _ in looked}) == len(looked), "nothing is looked through twice"


def test_a_quiet_stream_gives_signs_of_life_and_ends_with_the_server(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 0.001)

    async def listen() -> list[bytes]:
        heard = []
        async for piece in changes.stream(room, Scope(), Wanted(), ROOT, after=0):
            heard.append(piece)
            if len(heard) == 3:
                room.is_stopping.set()
        return heard

    assert asyncio.run(listen()) == [b"retry: 1000\n\n", b": still here\n\n", b": still here\n\n"]


def test_a_stream_has_no_end_to_ask_for(client: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    for query in ("limit=3", "to=2026-01-01T00:00:00Z"):
        assert client.get(f"{FEED}?{query}", headers=headers).status_code == 400
    assert client.get(FEED, headers=headers | {"Last-Event-ID": "x"}).status_code == 400
    response = client.head(FEED, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")


@contextmanager
def numbers(live: Live, **headers: str) -> Iterator[Iterator[str]]:
    """The numbers of the messages of a stream from the beginning, as they come."""
    headers = {"Accept": "text/event-stream", **headers}
    with httpx.stream("GET", f"{live.dicomweb}/changes?since=0", headers=headers, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (line[4:] for line in response.iter_lines() if line.startswith("id: "))


def test_a_client_that_comes_back_goes_on_where_it_was_and_the_server_ends_its_stream(live: Live) -> None:
    with httpx.Client(base_url=live.base, timeout=60) as client:
        for _ in range(3):
            store(client, part10(cine()), to=STUDIES)
        sequences = [str(one["sequence"]) for one in read(client)]
    with numbers(live) as heard:
        assert list(islice(heard, 2)) == sequences[:2]
    with numbers(live, **{"Last-Event-ID": sequences[1]}) as heard:
        assert next(heard) == sequences[2]
        live.process.terminate()
        assert list(heard) == [], "the stream ends as a whole answer does; cut off, it would raise"
    live.process.wait(30)
