"""Bulk export: what is in it, who may have it, and that it outlives what happens meanwhile."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from readingroom.clock import SetClock
from server.fhir import exporting
from server.fhir.exporting import EXPORT, forget_exports
from server.room import Room
from storage.catalog.clients import remove_client
from storage.catalog.engine import begin_write
from tests.server.fhir.test_smart import FHIR, binary, observation, patient, put, report
from tests.smart import BASE, register

BOTH = pytest.mark.rooms("sqlite", "postgres")
ASYNC = {"prefer": "respond-async", "accept": "application/fhir+json"}
ALL = "system/*.rs"


def begin(client: httpx.Client, path: str = "$export", headers: dict[str, str] | None = None, **query: Any) -> str:
    """Ask for an export; returns where it is told of."""
    told = f"?{urlencode(query, doseq=True)}" if query else ""
    answer = client.get(f"/fhir/{path}{told}", headers=ASYNC | (headers or {}))
    assert answer.status_code == 202, answer.text
    where: str = answer.headers["content-location"]
    assert where.startswith(f"{BASE}/fhir/")
    return where.removeprefix(BASE)


def manifest(room: Room, client: httpx.Client, where: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The manifest of an export, once it is made."""
    room.queue.drain()
    answer = client.get(where, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def lines(client: httpx.Client, told: dict[str, Any], headers: dict[str, str] | None = None) -> list[str]:
    """All resources of all files."""
    found = []
    for file in told["output"]:
        answer = client.get(file["url"].removeprefix(BASE), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/fhir+ndjson"
        some = [json.loads(line) for line in answer.text.splitlines()]
        assert {one["resourceType"] for one in some} == {file["type"]}
        assert len(some) == file["count"]
        found += [f"{one['resourceType']}/{one['id']}" for one in some]
    assert len(found) == len(set(found))
    return sorted(found)


def exported(room: Room, client: httpx.Client, path: str = "$export", **query: Any) -> list[str]:
    return lines(client, manifest(room, client, begin(client, path, **query)))


@pytest.fixture
def there(client: httpx.Client) -> None:
    """Two patients with what is about them."""
    put(client, patient("p1"), observation("o1", "p1"), report("r1", "p1", "o1"))
    put(client, patient("p2"), observation("o2", "p2", "imaging"), observation("o3", "p2"), binary("b1"))
    client.delete("/fhir/Observation/o3")
    device = {"resourceType": "Device", "id": "d1"}
    put(client, device, observation("o4", "p1") | {"subject": {"reference": "Device/d1"}})


PATIENTS = ["DiagnosticReport/r1", "Observation/o1", "Observation/o2", "Patient/p1", "Patient/p2"]


@BOTH
@pytest.mark.usefixtures("there")
def test_all_that_is_there_is_exported_once(room: Room, client: httpx.Client) -> None:
    where = begin(client)
    waiting = client.get(where)
    assert waiting.status_code == 202
    assert "of" in waiting.headers["x-progress"]
    assert int(waiting.headers["retry-after"]) > 0
    told = manifest(room, client, where)
    assert told["request"] == f"{BASE}/fhir/$export"
    assert told["transactionTime"] == "2026-01-01T12:00:00.000Z"
    assert told["requiresAccessToken"] is False
    assert told["error"] == []
    found = [one for one in lines(client, told) if not one.startswith(("Organization", "Location", "Endpoint"))]
    assert found == sorted([*PATIENTS, "Device/d1", "Observation/o4"])
    body = client.get(told["output"][0]["url"].removeprefix(BASE)).text.splitlines()[0]
    one = json.loads(body)
    assert one == client.get(f"/fhir/{one['resourceType']}/{one['id']}").json()


@pytest.mark.usefixtures("there")
def test_of_patients_is_what_is_about_a_patient(room: Room, client: httpx.Client) -> None:
    assert exported(room, client, "Patient/$export") == PATIENTS
    assert client.get("/fhir/Group/g1/$export", headers=ASYNC).status_code == 404
    assert client.get("/fhir/Patient/$export?_type=Device", headers=ASYNC).status_code == 400


@pytest.mark.usefixtures("there")
def test_types_and_filters_are_kept_to(room: Room, client: httpx.Client) -> None:
    assert exported(room, client, _type="Patient,Device") == ["Device/d1", "Patient/p1", "Patient/p2"]
    assert exported(room, client, _type=["Patient", "Device"]) == ["Device/d1", "Patient/p1", "Patient/p2"]
    assert exported(room, client, _type="Binary") == ["Binary/b1"]
    imaging = "Observation?category=imaging"
    assert exported(room, client, _type="Observation", _typeFilter=imaging) == ["Observation/o2"]
    either = f"{imaging}&status=final,Observation?subject=Patient/p1,Patient?identifier=urn:test|p2"
    assert exported(room, client, _type="Observation,Patient", _typeFilter=either) == [
        "Observation/o1",
        "Observation/o2",
        "Patient/p2",
    ]
    several = [imaging, "Observation?category=imaging,laboratory"]
    assert exported(room, client, _type="Observation", _typeFilter=several) == [
        "Observation/o1",
        "Observation/o2",
        "Observation/o4",
    ]


def test_since_leaves_out_what_has_not_changed(room: Room, client: httpx.Client, clock: SetClock) -> None:
    put(client, patient("p1"), observation("o1", "p1"))
    told = manifest(room, client, begin(client, _type="Patient,Observation"))
    clock.advance(timedelta(minutes=1))
    put(client, observation("o2", "p1"), observation("o1", "p2"))
    for zone in (told["transactionTime"], "2026-01-01T14:00:00+02:00"):
        assert exported(room, client, _type="Patient,Observation", _since=zone) == ["Observation/o1", "Observation/o2"]


def test_parameters_may_be_posted(room: Room, client: httpx.Client) -> None:
    put(client, patient("p1"), observation("o1", "p1"))
    sent = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueString": "Patient"},
            {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
            {"name": "_since", "valueInstant": "2025-01-01T00:00:00Z"},
        ],
    }
    answer = client.post("/fhir/$export", content=json.dumps(sent), headers=FHIR | ASYNC)
    assert answer.status_code == 202, answer.text
    told = manifest(room, client, answer.headers["content-location"].removeprefix(BASE))
    assert lines(client, told) == ["Patient/p1"]


def test_what_was_sent_on_many_lines_is_exported_on_one(room: Room, client: httpx.Client) -> None:
    body = json.dumps(observation("o1", "p1") | {"valueString": "one\ntwo"}, indent=2).replace("\n", "\r\n")
    assert client.put("/fhir/Observation/o1", content=body, headers=FHIR).status_code == 201
    told = manifest(room, client, begin(client, _type="Observation"))
    [line] = client.get(told["output"][0]["url"].removeprefix(BASE)).text.splitlines()
    assert json.loads(line)["valueString"] == "one\ntwo"


@pytest.mark.parametrize(
    "query",
    [
        "_outputFormat=text/csv",
        "_since=yesterday",
        "_since=2026-01-01T00:00:00",
        "_type=Nonsense",
        "_typeFilter=nonsense",
        "_type=Patient&_typeFilter=Observation?status=final",
        "_typeFilter=Observation?nonsense=1",
        "_typeFilter=Observation?_include=Observation:subject",
        "_typeFilter=Observation?_count=1",
        "_typeFilter=Observation?status:wrong=final",
        "_elements=id",
        "patient=Patient/p1",
    ],
)
def test_what_is_not_understood_is_refused_at_once(room: Room, client: httpx.Client, query: str) -> None:
    answer = client.get(f"/fhir/$export?{query}", headers=ASYNC)
    assert answer.status_code == 400
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert room.queue.entries(kind=EXPORT) == []


@BOTH
def test_many_resources_take_several_files_and_each_is_in_one(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_MOST_LINES", 4)
    monkeypatch.setattr(exporting, "MOST", 2)
    put(client, *(observation(f"a{number}", "p1") for number in range(11)), patient("p1"))
    told = manifest(room, client, begin(client, _type="Observation,Patient"))
    assert [(file["type"], file["count"]) for file in told["output"]] == [
        ("Observation", 4),
        ("Observation", 4),
        ("Observation", 3),
        ("Patient", 1),
    ]
    assert len(lines(client, told)) == 12


def test_an_export_goes_on_where_it_was_cut_off(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_MOST_LINES", 1)
    monkeypatch.setattr(exporting, "MOST", 1)
    put(client, *(observation(f"a{number}", "p1") for number in range(5)))
    where = begin(client, _type="Observation")
    write = room.blobs.put
    seen: list[str] = []

    def fails_now_and_then(key: str, data: bytes, **how: Any) -> None:
        write(key, data, **how)
        seen.append(key)
        if len(seen) % 2:
            raise KeyboardInterrupt("the process ends here")

    monkeypatch.setattr(type(room.blobs), "put", lambda _self, key, data, **how: fails_now_and_then(key, data, **how))
    assert isinstance(room.clock, SetClock)
    for _again in range(8):
        room.queue.drain()
        room.clock.advance(timedelta(minutes=1))
    told = manifest(room, client, where)
    assert len(seen) > 5
    assert lines(client, told) == [f"Observation/a{number}" for number in range(5)]


def test_an_export_that_is_called_off_is_gone_with_its_files(room: Room, client: httpx.Client) -> None:
    put(client, patient("p1"))
    where = begin(client, _type="Patient")
    told = manifest(room, client, where)
    assert client.delete(where).status_code == 202
    for path in (where, told["output"][0]["url"].removeprefix(BASE)):
        assert client.get(path).status_code == 404
    assert client.delete(where).status_code == 404
    assert list(room.blobs.keys("exports/")) == []
    early = begin(client, _type="Patient")
    assert client.delete(early).status_code == 202
    room.queue.drain()
    assert client.get(early).status_code == 404
    assert list(room.blobs.keys("exports/")) == []


def test_files_are_kept_for_a_day(room: Room, client: httpx.Client, clock: SetClock) -> None:
    put(client, patient("p1"))
    where = begin(client, _type="Patient")
    told = manifest(room, client, where)
    assert client.get(where).headers["expires"] == "Fri, 02 Jan 2026 12:00:00 GMT"
    clock.advance(timedelta(hours=23))
    assert forget_exports(room, clock.now()) == 0
    assert lines(client, told) == ["Patient/p1"]
    clock.advance(timedelta(hours=1))
    assert client.get(where).status_code == 404
    assert forget_exports(room, clock.now()) == 1
    assert list(room.blobs.keys("exports/")) == []


def test_only_so_many_are_made_at_once(room: Room, client: httpx.Client) -> None:
    for _each in range(4):
        begin(client)
    busy = client.get("/fhir/$export", headers=ASYNC)
    assert busy.status_code == 503
    assert int(busy.headers["retry-after"]) > 0
    room.queue.drain()
    begin(client)


# -- who may have it ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("there")
def test_only_the_client_that_asked_may_have_it(room: Room, client: httpx.Client) -> None:
    headers = register(room, "one").headers(client, ALL)
    other = register(room, "two").headers(client, "system/*.cruds")
    where = begin(client, headers=headers, _type="Patient")
    told = manifest(room, client, where, headers)
    assert told["requiresAccessToken"] is True
    assert lines(client, told, headers) == ["Patient/p1", "Patient/p2"]
    unknown = client.get("/fhir/_export/0123", headers=other)
    for path in (where, told["output"][0]["url"].removeprefix(BASE)):
        answer = client.get(path, headers=other)
        assert answer.status_code == 404
        assert answer.text.replace(where.rpartition("/")[2], "0123") == unknown.text
    assert client.delete(where, headers=other).status_code == 404
    assert client.get(where).status_code == 404  # the local operator's are others
    assert client.get(where, headers=headers).status_code == 200


@pytest.mark.usefixtures("there")
def test_an_export_is_of_what_the_token_may_search(room: Room, client: httpx.Client) -> None:
    program = register(room, patient="p1", scopes="system/*.cruds patient/*.cruds")

    def seen(scopes: str, **query: Any) -> list[str]:
        headers = program.headers(client, scopes)
        return lines(client, manifest(room, client, begin(client, headers=headers, **query), headers), headers)

    assert seen("system/Patient.rs system/Observation.s") == ["Patient/p1", "Patient/p2"]
    assert seen("system/Observation.rs?category=imaging") == ["Observation/o2"]
    assert seen("patient/*.rs") == ["DiagnosticReport/r1", "Observation/o1", "Patient/p1"]
    for scopes, query in (
        ("system/Patient.s", ""),
        ("system/Slot.r", ""),
        ("system/Patient.rs", "?_type=Patient,Observation"),
        ("system/Observation.rs", "?_typeFilter=Observation%3Fsubject:Patient.family=x"),
    ):
        answer = client.get(f"/fhir/$export{query}", headers=ASYNC | program.headers(client, scopes))
        assert answer.status_code == 403, scopes


@pytest.mark.usefixtures("there")
def test_an_export_is_of_the_facilities_of_its_client(room: Room, client: httpx.Client) -> None:
    put(client, patient("p9"), facility="north")
    headers = register(room, facilities=frozenset(("north",))).headers(client, ALL)
    told = manifest(room, client, begin(client, headers=headers, _type="Patient"), headers)
    assert lines(client, told, headers) == ["Patient/p9"]
    everywhere = register(room, "all").headers(client, ALL)
    where = begin(client, "f/north/$export", headers=everywhere, _type="Patient")
    told = manifest(room, client, where, everywhere)
    assert lines(client, told, everywhere) == ["Patient/p9"]


@pytest.mark.usefixtures("there")
def test_a_lesser_token_of_the_same_client_does_not_fetch_it(room: Room, client: httpx.Client) -> None:
    program = register(room)
    headers = program.headers(client, ALL)
    where = begin(client, headers=headers, _type="Patient,Observation")
    told = manifest(room, client, where, headers)
    for scopes in ("system/Patient.rs", "system/Patient.rs system/Observation.rs?category=imaging"):
        lesser = program.headers(client, scopes)
        assert client.get(where, headers=lesser).status_code == 403
        assert client.get(told["output"][0]["url"].removeprefix(BASE), headers=lesser).status_code == 403
    assert client.get(where, headers=program.headers(client, "system/*.cruds")).status_code == 200


@pytest.mark.usefixtures("there")
def test_an_export_of_a_client_that_is_registered_no_more_is_not_made(room: Room, client: httpx.Client) -> None:
    headers = register(room).headers(client, ALL)
    where = begin(client, headers=headers, _type="Patient")
    with begin_write(room.engine) as connection:
        remove_client(connection, "ehr")
    room.queue.drain()
    register(room)
    failed = client.get(where, headers=headers)
    assert failed.status_code == 500
    assert "registered no more" in failed.json()["issue"][0]["diagnostics"]
    assert list(room.blobs.keys("exports/")) == []
