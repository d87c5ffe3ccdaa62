"""SMART scopes on every path of the FHIR service: interactions, searches, histories, Bundles, operations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from readingroom.model import Actor, Scope
from server.auth import Caller
from server.fhir.capability import statement
from server.fhir.notify import resource_of
from server.fhir.session import reading
from server.room import Room
from tests.smart import BASE, Program, register

FHIR = {"content-type": "application/fhir+json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
PATCH = {"content-type": "application/json-patch+json"}
CODE = {"coding": [{"system": "http://loinc.org", "code": "59776-5"}]}
CATEGORIES = "http://terminology.hl7.org/CodeSystem/observation-category"


def observation(id: str, patient: str, category: str = "laboratory", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id,
        "identifier": [{"system": "urn:test", "value": id}],
        "status": "final",
        "category": [{"coding": [{"system": CATEGORIES, "code": category}]}],
        "code": CODE,
        "subject": {"reference": f"Patient/{patient}"},
        **more,
    }


def patient(id: str) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": id,
        "identifier": [{"system": "urn:test", "value": id}],
        "name": [{"family": f"Family{id}"}],
    }


def report(id: str, patient: str, *results: str) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "id": id,
        "status": "final",
        "code": CODE,
        "subject": {"reference": f"Patient/{patient}"},
        "result": [{"reference": f"Observation/{one}"} for one in results],
    }


def provenance(id: str, *targets: str) -> dict[str, Any]:
    return {
        "resourceType": "Provenance",
        "id": id,
        "target": [{"reference": one} for one in targets],
        "recorded": "2026-01-01T12:00:00Z",
        "agent": [{"who": {"display": "a machine"}}],
    }


def binary(id: str) -> dict[str, Any]:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "eA=="}


def put(client: httpx.Client, *resources: dict[str, Any], facility: str = "") -> None:
    for one in resources:
        below = f"/f/{facility}" if facility else ""
        answer = client.put(f"/fhir{below}/{one['resourceType']}/{one['id']}", content=json.dumps(one), headers=FHIR)
        assert answer.status_code in (200, 201), answer.text


def scope_of(*needs: str, context: str = "system") -> str:
    return " ".join(f"{context}/{need}" for need in needs)


@dataclass(frozen=True)
class Asked:
    """A request, and the scopes without any of which it is refused."""

    name: str
    method: str
    path: str
    needs: tuple[str, ...]
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
        kind = {} if self.body is None else PATCH if self.method == "PATCH" else FHIR
        content = self.body if isinstance(self.body, str) else None if self.body is None else json.dumps(self.body)
        sent = {**kind, **self.headers, **headers}
        return client.request(self.method, f"/fhir/{self.path}", content=content, headers=sent)

    @property
    def entry(self) -> dict[str, Any]:
        """The same as an entry of a Bundle."""
        request = {"method": self.method, "url": self.path}
        if condition := self.headers.get("if-none-exist"):
            request["ifNoneExist"] = condition
        body = self.body
        if self.method == "PATCH":
            operation = [
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "Observation.status"},
                {"name": "value", "valueCode": "amended"},
            ]
            body = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": operation}]}
        return {"request": request} | ({} if body is None else {"resource": body})


META = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "seen"}]}}]}
NEW = {name: value for name, value in observation("new", "p1").items() if name != "id"}
AMEND = [{"op": "replace", "path": "/status", "value": "amended"}]
OWN = "Observation?identifier=urn:test|o1"

ASKED = (
    Asked("read", "GET", "Observation/o1", ("Observation.r",)),
    Asked("vread", "GET", "Observation/o1/_history/1", ("Observation.r",)),
    Asked("history of one", "GET", "Observation/o1/_history", ("Observation.r",)),
    Asked("history of a type", "GET", "Observation/_history", ("Observation.s",)),
    Asked("search", "GET", "Observation?status=final", ("Observation.s",)),
    Asked("count", "GET", "Observation?_summary=count", ("Observation.s",)),
    Asked("search of all", "GET", "?_type=Observation&status=final", ("Observation.s",)),
    Asked("chain", "GET", "Observation?subject:Patient.family=x", ("Observation.s", "Patient.s")),
    Asked("chain to one type", "GET", "Observation?patient.family=x", ("Observation.s", "Patient.s")),
    Asked("has", "GET", "Patient?_has:Observation:patient:status=final", ("Patient.s", "Observation.s")),
    Asked(
        "chain behind has",
        "GET",
        "Patient?_has:Observation:patient:_has:Provenance:target:recorded=2026",
        ("Patient.s", "Observation.s", "Provenance.s"),
    ),
    Asked("read binary", "GET", "Binary/b1", ("Binary.r",)),
    Asked("create", "POST", "Observation", ("Observation.c",), NEW),
    Asked(
        "conditional create",
        "POST",
        "Observation",
        ("Observation.c", "Observation.s"),
        NEW,
        {"if-none-exist": "identifier=urn:test|other"},
    ),
    Asked(
        "conditional create of what is there",
        "POST",
        "Observation",
        ("Observation.c", "Observation.s", "Observation.r"),
        NEW,
        {"if-none-exist": "identifier=urn:test|o1"},
    ),
    Asked("update", "PUT", "Observation/o1", ("Observation.u",), observation("o1", "p1")),
    Asked("update of what is not there", "PUT", "Observation/o9", ("Observation.u",), observation("o9", "p1")),
    Asked("conditional update", "PUT", OWN, ("Observation.u", "Observation.s"), observation("o1", "p1")),
    Asked("patch", "PATCH", "Observation/o1", ("Observation.u", "Observation.r"), AMEND),
    Asked("conditional patch", "PATCH", OWN, ("Observation.u", "Observation.r", "Observation.s"), AMEND),
    Asked("delete", "DELETE", "Observation/o1", ("Observation.d",)),
    Asked("conditional delete", "DELETE", OWN, ("Observation.d", "Observation.s")),
    Asked("meta", "GET", "Observation/o1/$meta", ("Observation.r",)),
    Asked("meta-add", "POST", "Observation/o1/$meta-add", ("Observation.r", "Observation.u"), META),
    Asked("meta-delete", "POST", "Observation/o1/$meta-delete", ("Observation.r", "Observation.u"), META),
    Asked("validate", "GET", "Observation/o1/$validate", ("Observation.r",)),
    Asked("everything", "GET", "Patient/p1/$everything", ("Patient.r",)),
)


@pytest.fixture
def own(client: httpx.Client) -> None:
    """What is there: a patient with what is about that patient."""
    put(client, patient("p1"), observation("o1", "p1"), report("r1", "p1", "o1"), provenance("v1", "Observation/o1"))
    put(client, binary("b1"))


def lacking(needs: tuple[str, ...]) -> list[str]:
    """All scopes there are but one of those that are needed, for each of these."""
    types = dict.fromkeys(need.partition(".")[0] for need in needs)
    sets = []
    for need in needs:
        kind, _dot, letter = need.partition(".")
        others = [f"{type}.cruds" for type in types if type != kind]
        rest = "cruds".replace(letter, "")
        sets.append(scope_of(f"{kind}.{rest}", *others, "Slot.cruds"))
    return sets


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("asked", ASKED, ids=[one.name for one in ASKED])
def test_each_interaction_takes_its_scopes(room: Room, client: httpx.Client, asked: Asked) -> None:
    program = register(room)
    before = client.get("/fhir/_history?_count=500").content
    for scopes in lacking(asked.needs):
        answer = asked.send(client, program.headers(client, scopes))
        assert answer.status_code == 403, f"{scopes}: {answer.text}"
        assert answer.json()["issue"][0]["code"] == "forbidden"
    assert client.get("/fhir/_history?_count=500").content == before
    answer = asked.send(client, program.headers(client, scope_of(*asked.needs)))
    assert answer.status_code < 300, answer.text


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("asked", ASKED, ids=[one.name for one in ASKED])
def test_an_entry_of_a_bundle_takes_the_same_scopes(room: Room, client: httpx.Client, asked: Asked, kind: str) -> None:
    program = register(room)
    bundle = {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [{"request": {"method": "GET", "url": "Slot"}}, asked.entry],
    }
    before = client.get("/fhir/_history?_count=500").content
    for scopes in lacking(asked.needs):
        answer = client.post("/fhir", content=json.dumps(bundle), headers=FHIR | program.headers(client, scopes))
        if kind == "transaction":
            assert answer.status_code == 403, answer.text
        else:
            statuses = [entry["response"]["status"][:3] for entry in answer.json()["entry"]]
            assert statuses == ["200", "403"], answer.text
    assert client.get("/fhir/_history?_count=500").content == before
    scopes = scope_of(*asked.needs, "Slot.s")
    answer = client.post("/fhir", content=json.dumps(bundle), headers=FHIR | program.headers(client, scopes))
    assert answer.status_code == 200, answer.text
    assert [entry["response"]["status"][0] for entry in answer.json()["entry"]] == ["2", "2"], answer.text


def found(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return sorted(
        f"{one['resource']['resourceType']}/{one['resource']['id']}"
        for one in entries
        if one["resource"]["resourceType"] != "OperationOutcome"
    )


@pytest.mark.usefixtures("own")
def test_what_comes_with_matches_takes_a_scope_too(room: Room, client: httpx.Client) -> None:
    program = register(room)
    query = "/fhir/DiagnosticReport?_include=DiagnosticReport:result&_include=DiagnosticReport:subject"
    query += "&_revinclude:iterate=Provenance:target"

    def seen(*needs: str) -> list[str]:
        return found(client.get(query, headers=program.headers(client, scope_of(*needs))))

    assert seen("DiagnosticReport.s") == ["DiagnosticReport/r1"]
    assert seen("DiagnosticReport.s", "Patient.r") == ["DiagnosticReport/r1", "Patient/p1"]
    assert seen("DiagnosticReport.s", "Patient.s", "Observation.c") == ["DiagnosticReport/r1"]
    assert seen("DiagnosticReport.s", "Provenance.s") == ["DiagnosticReport/r1"]
    assert seen("DiagnosticReport.s", "Observation.r", "Provenance.s") == [
        "DiagnosticReport/r1",
        "Observation/o1",
        "Provenance/v1",
    ]


@pytest.mark.usefixtures("own")
def test_everything_is_what_the_token_may_search(room: Room, client: httpx.Client) -> None:
    program = register(room)
    url = "/fhir/Patient/p1/$everything"
    alone = client.get(url, headers=program.headers(client, "system/Patient.r system/Observation.r"))
    assert found(alone) == ["Patient/p1"]
    more = client.get(url, headers=program.headers(client, "system/Patient.r system/Observation.s"))
    assert found(more) == ["Observation/o1", "Patient/p1"]


@pytest.mark.usefixtures("own")
def test_the_history_of_all_is_of_what_may_be_searched(room: Room, client: httpx.Client) -> None:
    program = register(room)
    told = client.get("/fhir/_history", headers=program.headers(client, "system/Patient.s system/Observation.r"))
    assert found(told) == ["Patient/p1"]
    refused = client.get("/fhir/_history", headers=program.headers(client, "system/*.crud"))
    assert refused.status_code == 403


@pytest.mark.usefixtures("own")
def test_links_in_a_transaction_are_resolved_among_what_may_be_searched(room: Room, client: httpx.Client) -> None:
    program = register(room)
    linked = observation("new", "p1") | {"subject": {"reference": "Patient?identifier=urn:test|p1"}}
    entry = {"request": {"method": "PUT", "url": "Observation/new"}, "resource": linked}
    bundle = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    refused = client.post("/fhir", content=bundle, headers=FHIR | program.headers(client, "system/Observation.cud"))
    assert refused.status_code == 403
    scopes = "system/Observation.cud system/Patient.s"
    assert client.post("/fhir", content=bundle, headers=FHIR | program.headers(client, scopes)).status_code == 200


def test_what_says_how_the_server_works_is_for_everybody(room: Room, client: httpx.Client) -> None:
    headers = register(room).headers(client, "system/Slot.r")
    assert client.get("/fhir/metadata", headers=headers).status_code == 200
    # Where nobody has to have a token, clients that ask what they need are not told to get one.
    assert "security" not in client.get("/fhir/metadata").json()["rest"][0]
    security = statement("http://127.0.0.1:8780/fhir", needs_tokens=True)["rest"][0]["security"]
    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"


# -- scopes for some of a type -----------------------------------------------------------------------------------------


def foreign(client: httpx.Client) -> None:
    """Another patient with the like, which refers to what is ours too."""
    put(client, patient("p2"), observation("o2", "p2", "imaging"), report("r2", "p2", "o2", "o1"))
    put(client, provenance("v2", "Observation/o2"), observation("o3", "p2", "imaging"))
    client.delete("/fhir/Observation/o3")


def outside(client: httpx.Client) -> None:
    """The like of another facility."""
    put(client, patient("p2"), observation("o2", "p2"), report("r2", "p2", "o2"), facility="south")
    put(client, provenance("v2", "Observation/o2"), observation("o3", "p2"), facility="south")
    client.delete("/fhir/f/south/Observation/o3")


LOOKS = (
    "Observation",
    "Observation?_total=accurate",
    "Observation?_summary=count",
    "Observation?_sort=-_lastUpdated&_count=1",
    "Observation?_sort=status",
    "Observation?_id=o1,o2",
    "Observation?subject=Patient/p2",
    "Observation?status:not=entered-in-error",
    "Observation?subject:missing=false",
    "Observation?identifier=urn:test|o2",
    "Observation?subject:Patient.family=Familyp2",
    "Observation?_has:DiagnosticReport:result:status=final",
    "Observation?_revinclude=Provenance:target&_revinclude=DiagnosticReport:result",
    "Patient?_has:Observation:patient:status=final",
    "Patient?_revinclude=Observation:subject&_revinclude:iterate=DiagnosticReport:result",
    "DiagnosticReport?_include=DiagnosticReport:result&_include:iterate=Observation:subject",
    "Provenance?target=Observation/o2",
    "Observation/_history",
    "Observation/_history?_count=1",
    "_history",
    "Observation/o1/_history",
    "Observation/o2/_history",
    "Observation/o3/_history",
    "Observation/o1",
    "Observation/o2",
    "Observation/o3",
    "Observation/o2/_history/1",
    "Observation/o3/_history/1",
    "Observation/o3/_history/2",
    "Observation/o2/$meta",
    "Observation/o2/$validate",
    "Patient/p1/$everything",
    "Patient/p2/$everything",
)


def look(client: httpx.Client, headers: dict[str, str], paths: tuple[str, ...] = LOOKS) -> list[tuple[str, int, str]]:
    """What a token's bearer is answered, request by request and all of them in a batch."""
    told = []
    for path in paths:
        answer = client.get(f"/fhir/{path}", headers=headers)
        told.append((path, answer.status_code, answer.text))
    entries = [{"request": {"method": "GET", "url": path}} for path in paths]
    batch = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries})
    answer = client.post("/fhir", content=batch, headers=FHIR | headers)
    return [*told, ("batch", answer.status_code, answer.text)]


WRITES = (
    Asked("update", "PUT", "Observation/o2", (), observation("o2", "p1")),
    Asked("patch", "PATCH", "Observation/o2", (), AMEND),
    Asked("delete", "DELETE", "Observation/o2", ()),
    Asked("conditional delete", "DELETE", "Observation?identifier=urn:test|o2", ()),
    Asked("conditional patch", "PATCH", "Observation?identifier=urn:test|o2", (), AMEND),
    Asked("meta-add", "POST", "Observation/o2/$meta-add", (), META),
    Asked("read", "GET", "Observation/o2", ()),
)


@dataclass(frozen=True)
class Bound:
    """A program that sees a part of what is there."""

    name: str
    scopes: str
    patient: str | None = None

    def register(self, room: Room) -> Program:
        return register(room, "part", self.scopes, patient=self.patient)


BOUND = (
    Bound("one patient", "patient/*.cruds", patient="p1"),
    Bound(
        "a query",
        "system/Observation.cruds?category=laboratory system/Patient.cruds?_id=p1"
        " system/DiagnosticReport.cruds?subject=Patient/p1 system/Provenance.cruds?target=Observation/o1",
    ),
)


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("bound", BOUND, ids=[one.name for one in BOUND])
def test_nothing_changes_whether_the_foreign_record_exists(room: Room, client: httpx.Client, bound: Bound) -> None:
    put(client, patient("p1"), observation("o1", "p1"), report("r1", "p1", "o1"), provenance("v1", "Observation/o1"))
    headers = bound.register(room).headers(client, bound.scopes)

    def all_told() -> list[tuple[str, int, str]]:
        written = [(one.name, one.send(client, headers)) for one in WRITES]
        return look(client, headers) + [(name, answer.status_code, answer.text) for name, answer in written]

    before = all_told()
    assert [status for _, status, _ in before[:4]] == [200] * 4
    foreign(client)
    assert all_told() == before
    untouched = client.get("/fhir/Observation/o2").json()
    assert (untouched["subject"], untouched["meta"]["versionId"]) == ({"reference": "Patient/p2"}, "1")


def test_nothing_changes_whether_another_facility_has_the_like(room: Room, client: httpx.Client) -> None:
    put(client, patient("p1"), observation("o1", "p1"), report("r1", "p1", "o1"), provenance("v1", "Observation/o1"))
    headers = register(room, facilities=frozenset(("local",))).headers(client, "system/*.cruds")
    before = look(client, headers)
    outside(client)
    assert look(client, headers) == before


def test_one_patients_token_sees_what_is_about_that_patient(room: Room, client: httpx.Client) -> None:
    put(client, patient("p1"), observation("o1", "p1"), report("r1", "p1", "o1"), provenance("v1", "Patient/p1"))
    put(client, binary("b1"))
    foreign(client)
    headers = BOUND[0].register(room).headers(client, "patient/*.cruds")
    for type in ("Patient", "Observation", "DiagnosticReport", "Provenance"):
        [one] = found(client.get(f"/fhir/{type}", headers=headers))
        assert one.endswith("1")
    assert client.get("/fhir/Patient/p1", headers=headers).status_code == 200
    assert client.get("/fhir/Binary/b1", headers=headers).status_code == 404
    assert found(client.get("/fhir/Patient/p1/$everything", headers=headers)) == [
        "DiagnosticReport/r1",
        "Observation/o1",
        "Patient/p1",
        "Provenance/v1",
    ]
    mixed = "patient/Observation.rs system/Binary.r"
    both = register(room, "both", mixed, patient="p1").headers(client, mixed)
    assert client.get("/fhir/Binary/b1", headers=both).status_code == 200
    assert found(client.get("/fhir/Observation", headers=both)) == ["Observation/o1"]


def test_several_queries_are_alternatives(room: Room, client: httpx.Client) -> None:
    put(client, observation("o1", "p1"), observation("o2", "p1", "imaging"), observation("o3", "p1", "survey"))
    scopes = "system/Observation.rs?category=laboratory system/Observation.s?category=imaging"
    headers = register(room, scopes=scopes).headers(client, scopes)
    assert found(client.get("/fhir/Observation", headers=headers)) == ["Observation/o1", "Observation/o2"]
    assert client.get("/fhir/Observation/o1", headers=headers).status_code == 200
    assert client.get("/fhir/Observation/o2", headers=headers).status_code == 404


@pytest.mark.parametrize(
    "query", ["nonsense=1", "status:wrong=final", "subject:Patient.family=x", "_has:Provenance:target:recorded=2026"]
)
def test_a_scope_whose_query_cannot_be_asked_gives_nothing(room: Room, client: httpx.Client, query: str) -> None:
    put(client, observation("o1", "p1"))
    scope = f"system/Observation.rs?{query}"
    headers = register(room, scopes=scope).headers(client, scope)
    assert found(client.get("/fhir/Observation", headers=headers)) == []
    assert client.get("/fhir/Observation/o1", headers=headers).status_code == 404


@pytest.mark.parametrize("bound", BOUND, ids=[one.name for one in BOUND])
def test_what_is_written_has_to_be_of_the_part_that_may_be_written(
    room: Room, client: httpx.Client, bound: Bound
) -> None:
    put(client, patient("p1"), observation("o1", "p1"))
    headers = bound.register(room).headers(client, bound.scopes)
    other = {name: value for name, value in observation("x", "p2", "imaging").items() if name != "id"}
    moved = observation("o1", "p2", "imaging")
    before = client.get("/fhir/_history").content
    refused = [
        Asked("create", "POST", "Observation", (), other),
        Asked("update", "PUT", "Observation/o1", (), moved),
        Asked(
            "patch",
            "PATCH",
            "Observation/o1",
            (),
            [
                {"op": "replace", "path": "/subject", "value": moved["subject"]},
                {"op": "replace", "path": "/category", "value": moved["category"]},
            ],
        ),
    ]
    for one in refused:
        assert one.send(client, headers).status_code == 403, one.name
    assert client.get("/fhir/_history").content == before
    good = [
        Asked("create", "POST", "Observation", (), NEW),
        Asked("update", "PUT", "Observation/o1", (), observation("o1", "p1") | {"status": "amended"}),
        Asked("patch", "PATCH", "Observation/o1", (), [{"op": "replace", "path": "/status", "value": "final"}]),
        Asked("delete", "DELETE", "Observation/o1", ()),
    ]
    for one in good:
        assert one.send(client, headers).status_code < 300, one.name


def test_who_sees_a_part_sees_of_each_the_current_version(room: Room, client: httpx.Client) -> None:
    put(client, observation("o1", "p2"), observation("o1", "p1"))
    headers = BOUND[0].register(room).headers(client, "patient/*.cruds")
    told = client.get("/fhir/Observation/o1/_history", headers=headers).json()
    assert [one["resource"]["meta"]["versionId"] for one in told["entry"]] == ["2"]
    assert client.get("/fhir/Observation/o1/_history/2", headers=headers).status_code == 200
    assert client.get("/fhir/Observation/o1/_history/1", headers=headers).status_code == 404


def test_nothing_is_written_for_a_facility_that_is_not_seen(room: Room, client: httpx.Client) -> None:
    program = register(room, facilities=frozenset(("north", "east")))
    headers = FHIR | program.headers(client, "system/*.cruds")
    body = json.dumps(NEW)
    assert client.post("/fhir/Observation", content=body, headers=headers).status_code == 403
    assert client.post("/fhir/f/south/Observation", content=body, headers=headers).status_code == 403
    other = json.dumps(observation("o1", "p1"))
    assert client.put("/fhir/f/south/Observation/o1", content=other, headers=headers).status_code == 403
    assert client.post("/fhir/f/north/Observation", content=body, headers=headers).status_code == 201
    assert len(found(client.get("/fhir/Observation", headers=headers))) == 1


def test_a_page_after_the_first_is_bound_by_the_token_that_asks_for_it(room: Room, client: httpx.Client) -> None:
    put(client, *(observation(f"a{number}", f"p{number % 2 + 1}") for number in range(6)))
    headers = BOUND[0].register(room).headers(client, "patient/*.cruds")
    url: str | None = "/fhir/Observation?_count=1"
    seen: list[str] = []
    while url:
        told = client.get(url, headers=headers)
        seen += found(told)
        links = {link["relation"]: link["url"] for link in told.json()["link"]}
        url = links.get("next", "").removeprefix(BASE) or None
    assert sorted(seen) == ["Observation/a0", "Observation/a2", "Observation/a4"]
    whole = client.get("/fhir/Observation?_count=1").json()["link"]
    following = urlsplit(next(link["url"] for link in whole if link["relation"] == "next"))
    told = client.get(f"{following.path}?{following.query}", headers=headers)
    assert set(found(told)) <= set(seen)


# -- subscriptions -----------------------------------------------------------------------------------------------------

SUBSCRIPTION = {
    "resourceType": "Subscription",
    "id": "s1",
    "status": "requested",
    "reason": "To be told",
    "criteria": "Observation?status=final",
    "channel": {"type": "websocket"},
}


def told_of(room: Room, client: httpx.Client, headers: dict[str, str]) -> str:
    """How many events a subscription has had."""
    room.queue.drain()
    status = client.get("/fhir/Subscription/s1/$status", headers=headers).json()["entry"][0]["resource"]
    told = {one["name"]: one.get("valueString") for one in status["parameter"]}
    return str(told["events-since-subscription-start"])


def test_a_subscriber_is_told_of_what_its_token_may_search(room: Room, client: httpx.Client) -> None:
    scopes = "system/Subscription.cruds patient/Observation.rs"
    headers = register(room, scopes=scopes, patient="p1").headers(client, scopes)
    body = json.dumps(SUBSCRIPTION)
    lesser = register(room, "lesser").headers(client, "system/Subscription.cruds system/Observation.r")
    assert client.put("/fhir/Subscription/s1", content=body, headers=FHIR | lesser).status_code == 422
    assert client.put("/fhir/Subscription/s1", content=body, headers=FHIR | headers).status_code == 201
    foreign(client)
    assert told_of(room, client, headers) == "0"
    put(client, observation("o1", "p1"))
    assert told_of(room, client, headers) == "1"
    other = register(room, "slots").headers(client, "system/Slot.rs")
    for path in ("$status", "$events", "$get-ws-binding-token"):
        refused = client.get(f"/fhir/Subscription/s1/{path}", headers=other)
        assert refused.status_code == 403, path


def test_events_tell_no_more_of_a_resource_than_may_be_read_now(room: Room, client: httpx.Client) -> None:
    scopes = "system/Subscription.cruds patient/Observation.rs"
    headers = register(room, scopes=scopes, patient="p1").headers(client, scopes)
    put(client, patient("p1"), observation("o1", "p1"))
    with room.engine.connect() as connection:
        caller = Caller(
            actor=Actor(id="client:ehr", name="ehr", scopes=frozenset(scopes.split()), patient="p1"),
            scope=Scope(),
            service_root=f"{BASE}/dicomweb",
            fhir_root=f"{BASE}/fhir",
            facility="local",
        )
        session = reading(room, caller, connection)
        seen = resource_of(session, "Observation", "o1", 1)
        assert seen is not None
        assert seen.id == "o1"
        assert resource_of(session, "Patient", "p1", 1) is None
    put(client, observation("o1", "p2"))
    with room.engine.connect() as connection:
        assert resource_of(reading(room, caller, connection), "Observation", "o1", 1) is None
    assert client.get("/fhir/Observation/o1", headers=headers).status_code == 404
