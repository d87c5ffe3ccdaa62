"""What is kept in memory stays within its bounds and is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from readingroom.errors import NotFound
from readingroom.model import Scope
from server.dicomweb.kept import Kept, Located
from server.room import Room
from storage.catalog.find import StoredInstance
from tests.retrieve import keep
from tests.synthetic import ct_series

EVERYWHERE = Scope()


class Maker:
    """Makes values of a size, and counts how often."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def of(self, key: str, size: int = 10) -> Callable[[], Awaitable[bytes]]:
        async def make() -> bytes:
            await asyncio.sleep(0)
            self.made.append(key)
            return key.encode() * size

        return make


def test_what_was_used_last_stays_and_the_bytes_are_bounded() -> None:
    async def story() -> None:
        kept, maker = Kept[bytes](100), Maker()
        for key in "abcdefghij":
            await kept.get(key, maker.of(key), len)
        await kept.get("a", maker.of("a"), len)
        assert kept.bytes == 100
        await kept.get("k", maker.of("k"), len)
        await kept.get("a", maker.of("a"), len)
        await kept.get("b", maker.of("b"), len)
        assert maker.made == [*"abcdefghijk", "b"], "b went when k came, a had been used"
        assert kept.bytes == 100

    anyio.run(story)


def test_what_is_too_large_is_given_and_not_kept() -> None:
    async def story() -> None:
        kept, maker = Kept[bytes](100), Maker()
        for _ in range(2):
            assert await kept.get("a", maker.of("a", 26), len) == b"a" * 26
        assert (maker.made, kept.bytes) == (["a", "a"], 0)

    anyio.run(story)


def test_what_many_ask_for_at_once_is_made_once() -> None:
    async def story() -> None:
        kept, maker = Kept[bytes](100), Maker()
        answers = await asyncio.gather(*(kept.get("a", maker.of("a"), len) for _ in range(5)))
        assert answers == [b"a" * 10] * 5
        assert maker.made == ["a"]

    anyio.run(story)


def test_one_who_leaves_does_not_take_the_others_answer_along() -> None:
    async def story() -> None:
        kept, maker = Kept[bytes](100), Maker()
        leaving = asyncio.create_task(kept.get("a", maker.of("a"), len))
        staying = asyncio.create_task(kept.get("a", maker.of("a"), len))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == b"a" * 10
        assert maker.made == ["a"]

    anyio.run(story)


def test_what_fails_is_tried_again() -> None:
    async def story() -> None:
        kept = Kept[bytes](100)

        async def fail() -> bytes:
            raise NotFound("not there")

        for _ in range(2):
            with pytest.raises(NotFound):
                await kept.get("a", fail, len)
        assert await kept.get("a", Maker().of("a"), len) == b"a" * 10

    anyio.run(story)


@pytest.mark.rooms("sqlite", "postgres")
def test_an_instance_is_located_again_only_after_a_commit(room: Room, client: object) -> None:
    series = ct_series(4)
    keep(client, *series)  # type: ignore[arg-type]
    located = Located()
    asked: list[str] = []

    async def find(number: int, scope: Scope = EVERYWHERE) -> StoredInstance:
        dataset = series[number]
        found = await located.find(
            room, scope, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        )
        asked.append(found.instance_uid)
        return found

    async def story() -> None:
        first = await find(0)
        assert await find(0) == first
        with pytest.raises(NotFound):
            await find(0, Scope(facilities=frozenset({"elsewhere"})))
        await find(1)
        await asyncio.gather(*located._tasks)
        if room.engine.dialect.name == "sqlite":
            assert len(located._found) == 4, "who scrolls will ask for the others"
        assert (await find(2)).instance_uid == series[2].SOPInstanceUID
        series[0].PatientComments = "other bytes"
        await anyio.to_thread.run_sync(keep, client, series[0])
        assert (await find(0)).version == 2
        assert (await find(1)).version == 1

    anyio.run(story)


@pytest.mark.rooms("sqlite", "postgres")
def test_a_series_is_located_again_only_after_a_commit(room: Room, client: object) -> None:
    *before, later = ct_series(3)
    keep(client, *before)  # type: ignore[arg-type]
    located, uids = Located(), (later.StudyInstanceUID, later.SeriesInstanceUID)

    async def story() -> None:
        found = await located.find_series(room, EVERYWHERE, *uids)
        assert found.instance_count == 2
        again = await located.find_series(room, EVERYWHERE, *uids)
        assert again == found
        assert (again is found) == (room.engine.dialect.name == "sqlite"), "what is kept was not read again"
        with pytest.raises(NotFound):
            await located.find_series(room, Scope(facilities=frozenset({"elsewhere"})), *uids)
        await anyio.to_thread.run_sync(keep, client, later)
        assert (await located.find_series(room, EVERYWHERE, *uids)).instance_count == 3

    anyio.run(story)
