"""Searches of many stored resources: pages that hold each once, and indexes that the databases really take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.fhir.query import cursor_of, parse_query
from server.fhir.registry import REGISTRY
from server.fhir.search import run
from server.fhir.session import writing
from server.room import Room
from storage.catalog import fhir_search
from tests import fhir


def made(room: Room, count: int) -> list[str]:
    """Flags of one patient."""
    flag = {"status": "active", "code": {"text": "x"}, "subject": {"reference": "Patient/p"}}
    return [fhir.create(room, REGISTRY["Flag"], flag).id for _ in range(count)]


@pytest.mark.rooms("sqlite", "postgres")
def test_pages_of_ids_that_are_given_hold_each_once(room: Room) -> None:
    ids = made(room, 12)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        pairs = [("_id", ",".join(ids)), ("_count", "5")] + ([("_cursor", cursor)] if cursor else [])
        with fhir.looking(room) as session:
            page = run(session, parse_query("Flag", pairs, root=session.root))
        seen += [id for _, id in page.matches]
        cursor = page.next
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("pairs", "index"),
    [
        ([], "ix_resource_type"),
        ([("status:not", "inactive")], "ix_resource_type"),
        ([("_sort", "-_lastUpdated")], "ix_resource_updated"),
    ],
)
def test_the_newest_of_a_type_are_cut_from_an_index(room: Room, pairs: list[tuple[str, str]], index: str) -> None:
    made(room, 1)
    statements: list[tuple[str, Any]] = []
    sa.event.listen(
        room.engine, "before_cursor_execute", lambda _c, _u, said, values, _x, _m: statements.append((said, values))
    )
    with fhir.looking(room) as session:
        assert len(run(session, parse_query("Flag", pairs, root=session.root)).matches) == 1
    plans = []
    with room.engine.connect() as connection:
        for said, values in [one for one in statements if "ORDER BY" in one[0]]:
            plans += [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said}", values)]
    assert any(index in step for step in plans), plans
    assert not any("TEMP B-TREE" in step for step in plans), plans


@pytest.mark.rooms("sqlite", "postgres")
def test_searches_of_one_shape_share_a_statement_and_find_each_its_own(room: Room) -> None:
    ids = [
        fhir.create(
            room,
            REGISTRY["Observation"],
            {
                "status": status,
                "code": {"coding": [{"system": "http://a", "code": code}, {"system": "http://b", "code": code}]},
                "subject": {"reference": f"Patient/{patient}"},
                "effectiveDateTime": day,
            },
        ).id
        for status, code, patient, day in (
            ("final", "x", "p", "2026-01-01"),
            ("amended", "x", "q", "2026-02-01"),
            ("final", "y", "q", "2026-03-01"),
        )
    ]

    def found(*pairs: tuple[str, str]) -> tuple[set[int], int | None]:
        with fhir.looking(room) as session:
            query = parse_query("Observation", (*pairs, ("_total", "accurate"), ("_count", "1")), root=session.root)
            one = run(session, query)
            all = run(session, parse_query("Observation", pairs, root=session.root))
        assert [id for _, id in one.matches] == [id for _, id in all.matches][:1]
        return {ids.index(id) for _, id in all.matches}, one.total

    shapes = {
        ("code",): [(("x",), {0, 1}), (("y",), {2}), (("z",), set())],
        ("code", "patient"): [(("http://a|x", "Patient/p"), {0}), (("http://b|y", "Patient/q"), {2})],
        ("date", "status:not"): [(("ge2026-01-01", "amended"), {0, 2}), (("ge2026-02-01", "final"), {1})],
        ("_id", "_sort"): [((",".join(ids[:2]), "-date"), {0, 1}), ((ids[2], "-date"), {2})],
    }
    for names, searches in shapes.items():
        for number, (values, places) in enumerate(searches):
            before = fhir_search._kept.cache_info().misses
            assert found(*zip(names, values, strict=True)) == (places, len(places)), (names, values)
            assert number == 0 or fhir_search._kept.cache_info().misses == before


@pytest.mark.rooms("sqlite", "postgres")
def test_what_is_deleted_or_of_another_facility_is_not_counted(room: Room) -> None:
    ids = made(room, 3)
    with fhir.looking(room) as session:
        query = parse_query("Flag", [("patient", "Patient/p"), ("_count", "0")], root=session.root)
        assert run(session, query).total == 3
    with writing(room, fhir.caller()) as session:
        gone = REGISTRY["Flag"].lock(session, ids[1])
        assert gone is not None
        REGISTRY["Flag"].delete(session, gone)
    with fhir.looking(room) as session:
        assert run(session, query).total == 2
        elsewhere = replace(session, scope=Scope(facilities=frozenset(("elsewhere",))))
        assert run(elsewhere, query).total == 0


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize(
    ("type", "sort", "place"),
    [
        ("Observation", "date", ["x", 0, 5]),
        ("Observation", "date", [5.0, 0, "x"]),
        ("Observation", "date", [5.0, 0, 1.5]),
        ("Observation", "date", [True, 0, 5]),
        ("Observation", "status", [5, 0, 5]),
        ("Observation", "_lastUpdated", ["x", 0, 1]),
        ("Observation", "", [0, "x"]),
        ("Observation", "", [0, 1 << 63]),
        ("Observation", "", [1, 5]),
        ("Observation", "", [-1, 5]),
        ("Task", "priority", ["x", 0, "y"]),
        ("Task", "priority", [1, 1, 5]),
        ("ImagingStudy", "started", [5, 0, "x"]),
        ("ImagingStudy", "", [0, 5]),
        ("SearchParameter", "", [0, "x"]),
        ("SearchParameter", "", [0, -1]),
    ],
)
def test_a_place_that_is_none_in_the_order_is_refused(room: Room, type: str, sort: str, place: list[Any]) -> None:
    pairs = [("_cursor", cursor_of(place)), *([("_sort", sort)] if sort else [])]
    with fhir.looking(room) as session, pytest.raises(Invalid, match="_cursor"):
        run(session, parse_query(type, pairs, root=session.root))
