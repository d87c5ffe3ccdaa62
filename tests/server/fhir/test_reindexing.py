"""Resources that an earlier release has listed by other parameters are listed anew, and searches say so meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from server.fhir import reindexing
from server.fhir.query import parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import Page, run
from server.room import Room
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from tests import fhir
from tests.commands import Run

pytestmark = pytest.mark.rooms("sqlite", "postgres")


def observation(room: Room, code: str, **more: Any) -> str:
    resource = {"status": "final", "code": {"coding": [{"code": code}]}, **more}
    return fhir.create(room, REGISTRY["Observation"], resource).id


def search(room: Room, type: str = "Observation", **pairs: str) -> Page:
    with fhir.looking(room) as session:
        asked = [(name.replace("__", "."), value) for name, value in pairs.items()]
        return run(session, parse_query(type, asked, root=session.root))


def listed_otherwise(room: Room) -> None:
    """Have the catalog as a release that knew other parameters left it."""
    with begin_write(room.engine) as connection:
        connection.execute(t.resource_index.update().values(digest="another"))
        connection.execute(t.resource_value.delete())


def test_a_new_catalog_has_nothing_to_list(room: Room) -> None:
    assert not reindexing.reindex(room)
    observation(room, "1")
    assert not reindexing.reindex(room)
    assert search(room, code="1").warnings == ()


def test_what_was_listed_otherwise_is_listed_anew_step_by_step(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    reindexing.reindex(room)
    ids = [observation(room, "1", subject={"reference": f"http://localhost:8000/fhir/Patient/p{n}"}) for n in range(5)]
    with fhir.looking(room) as session:
        deleted = REGISTRY["Observation"].lock(session, ids[0])
    assert deleted is not None
    with fhir.writing(room, fhir.caller()) as session:
        REGISTRY["Observation"].delete(session, deleted)
    listed_otherwise(room)
    monkeypatch.setattr(reindexing, "AT_ONCE", 2)
    monkeypatch.setattr(reindexing, "_ROUND_SECONDS", 0.0)
    assert reindexing.reindex(room)
    partial = search(room, code="1")
    assert [id for _, id in partial.matches] == [ids[2], ids[1]]
    assert partial.warnings == (
        "Observation resources are being listed anew, 2 of 4 are; some may be missing until all are.",
    )
    assert search(room, "Patient", name="x").warnings == ()
    assert search(room, "DiagnosticReport", result__code="1").warnings != ()
    while reindexing.reindex(room):
        pass
    done = search(room, code="1")
    assert len(done.matches) == 4
    assert done.warnings == ()
    assert [id for _, id in search(room, subject="Patient/p3").matches] == [ids[3]]
    with room.engine.connect() as connection:
        [row] = connection.execute(sa.select(t.resource_index).where(t.resource_index.c.type == "Observation"))
    assert (row.reached, row.done, row.total) == (None, 4, 4)
    assert row.digest == reindexing.digests()["Observation"]


def test_another_way_of_listing_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reindexing.digests()
    assert len(set(before.values())) > 20
    reindexing.digests.cache_clear()
    monkeypatch.setattr(reindexing, "LISTING", reindexing.LISTING + 1)
    after = reindexing.digests()
    reindexing.digests.cache_clear()
    assert all(before[type] != after[type] for type in before)


def test_an_operator_has_a_type_listed_anew(room: Room, run: Run) -> None:
    ids = [observation(room, "1") for _ in range(3)]
    reindexing.reindex(room)
    with begin_write(room.engine) as connection:
        connection.execute(t.resource_value.delete())
    where = ("--data", room.settings.data, "--database", room.settings.database or "")
    assert "Nothing is to be listed." in run("fhir", "reindex", *where).words
    assert search(room, code="1").matches == []
    assert "3 Observation resources were listed." in run("fhir", "reindex", "Observation", *where).words
    assert {id for _, id in search(room, code="1").matches} == set(ids)
    assert search(room, code="1").warnings == ()
    for type in ("Nothing", "ImagingStudy"):
        assert f"No '{type}' resources are stored" in run("fhir", "reindex", type, *where, status=1).err
