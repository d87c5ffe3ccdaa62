"""What was removed, restored and purged is known again when a catalog is made from the store alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from server.purging import purge
from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from tests.retrieve import keep, url_of
from tests.server.test_operations import again, catalog_of, check
from tests.server.test_removal import delete, note, restore
from tests.stow import AS_STORED
from tests.synthetic import cine, ct_series, part10, pdf_document

# Moments and counters differ: what the catalog went through is not all told again.
_MOMENTS = {"updated_at", "settle_due_at", "stale_since", "version"}


def shown(engine: sa.Engine) -> dict[str, Any]:
    """What a catalog says, without moments of change and arrays that are empty."""
    c = t.removal.c
    with engine.connect() as connection:
        studies = connection.execute(sa.select(*(x for x in t.study.c if x.name not in {"id", "patient", *_MOMENTS})))
        series = connection.execute(sa.select(*(x for x in t.series.c if x.name not in {"id", "study", *_MOMENTS})))
        removals = connection.execute(sa.select(*(x for x in c if x.name != "id")))
        found = {"study": studies.all(), "series": series.all(), "removal": removals.all()}
    whole = catalog_of(engine)
    return {name: sorted(map(tuple, rows), key=repr) for name, rows in found.items()} | {
        name: whole[name] for name in ("facility", "patient", "study_value", "instance", "instance_metadata")
    }


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_reindex_knows_what_was_removed_and_what_came_back(
    room: Room, settings: Settings, client: httpx.Client, clock: SetClock, tmp_path: Path
) -> None:
    def then(step: Callable[[], object]) -> None:
        clock.advance(timedelta(minutes=1))
        step()

    deleted, again_same, again_other, kept = slices = ct_series(4)
    rejected, restored, gone = cine(), cine(), ct_series(2)
    document = pdf_document(StudyInstanceUID=deleted.StudyInstanceUID)
    expired, awaited, purged_and_back = cine(), cine(), cine()
    keep(client, *slices, rejected, restored, *gone, document, expired, purged_and_back)

    then(lambda: delete(client, gone[0], "study"))
    then(lambda: delete(client, purged_and_back))
    then(lambda: purge(room.engine, room.blobs, clock, before=clock.now()))
    then(lambda: keep(client, purged_and_back))
    then(lambda: delete(client, deleted))
    then(lambda: delete(client, document, "series"))
    then(lambda: delete(client, again_same))
    then(lambda: keep(client, again_same))
    then(lambda: delete(client, again_other))
    again_other.ImageComments = "corrected"
    then(lambda: keep(client, again_other))
    then(lambda: keep(client, note("113037", rejected, awaited)))
    then(lambda: keep(client, note("113001", restored)))
    then(lambda: restore(client, restored, rejected="true"))
    then(lambda: keep(client, note("113039", expired)))
    assert check(room).damages == []

    expected = shown(room.engine)
    assert {row.state for row in removals(room.engine)} == {"hidden", "purged", "awaited"}
    with again(settings, f"sqlite:///{tmp_path / 'again.sqlite'}", clock) as (engine, reindexed):
        assert reindexed.failures == []
        made = shown(engine)
        for table, rows in expected.items():
            assert made[table] == rows, table
    assert client.get(url_of(kept), headers=AS_STORED).content == part10(kept)


def test_what_a_purge_left_in_the_store_is_not_back_after_a_reindex(
    room: Room,
    settings: Settings,
    client: httpx.Client,
    clock: SetClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slices = ct_series(2)
    keep(client, *slices)
    delete(client, slices[0])
    clock.advance(timedelta(days=1))
    with monkeypatch.context() as patch:
        patch.setattr(type(room.blobs), "delete", lambda *_: None)  # as if the power went after the decision
        purge(room.engine, room.blobs, clock, before=clock.now())
    with again(settings, f"sqlite:///{tmp_path / 'again.sqlite'}", clock) as (engine, _):
        assert [(row.instance_uid, row.state) for row in removals(engine)] == [(slices[0].SOPInstanceUID, "purging")]
        assert purge(engine, room.blobs, clock, before=clock.now()).instances == 1
        assert [row.state for row in removals(engine)] == ["purged"]
    assert len([key for key in room.blobs.keys("s/") if "/c." in key]) == 1


def removals(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(t.removal)))
