"""The RESTful API over HTTP: versions, conditions, preferences, and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from readingroom.clock import SetClock

OBSERVATION = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "59776-5"}]},
}
FHIR = {"content-type": "application/fhir+json"}


@pytest.fixture
def post(client: Any) -> Any:
    def post(resource: dict[str, Any], **headers: str) -> Any:
        return client.post(f"/fhir/{resource['resourceType']}", content=json.dumps(resource), headers=FHIR | headers)

    return post


@pytest.fixture
def put(client: Any) -> Any:
    def put(resource: dict[str, Any], id: str, **headers: str) -> Any:
        body = json.dumps({**resource, "id": id})
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.put(f"/fhir/{resource['resourceType']}/{id}", content=body, headers=FHIR | sent)

    return put


def test_a_resource_is_created_read_changed_and_deleted(client: Any, post: Any, put: Any) -> None:
    made = post(OBSERVATION)
    assert made.status_code == 201
    assert made.headers["etag"] == 'W/"1"'
    id = made.json()["id"]
    assert made.headers["location"] == f"http://127.0.0.1:8780/fhir/Observation/{id}/_history/1"
    read = client.get(f"/fhir/Observation/{id}")
    assert read.status_code == 200
    assert read.headers["content-type"] == "application/fhir+json"
    assert {**read.json(), "id": None, "meta": None} == {**OBSERVATION, "id": None, "meta": None}
    changed = put({**OBSERVATION, "status": "amended"}, id)
    assert (changed.status_code, changed.headers["etag"]) == (200, 'W/"2"')
    assert client.get(f"/fhir/Observation/{id}/_history/1").json()["status"] == "final"
    assert client.delete(f"/fhir/Observation/{id}").status_code == 204
    gone = client.get(f"/fhir/Observation/{id}")
    assert gone.status_code == 410
    assert gone.json()["issue"][0]["code"] == "deleted"
    assert client.get(f"/fhir/Observation/{id}/_history/3").status_code == 410
    assert client.delete(f"/fhir/Observation/{id}").status_code == 204
    assert put(OBSERVATION, id).status_code == 201
    assert client.delete("/fhir/Observation/never").status_code == 204


def test_if_match_keeps_one_from_overwriting_what_one_has_not_read(client: Any, put: Any) -> None:
    assert put(OBSERVATION, "o", if_match='W/"1"').status_code == 412
    assert put(OBSERVATION, "o").status_code == 201
    changed = {**OBSERVATION, "status": "amended"}
    assert put(changed, "o", if_match='W/"2"').status_code == 412
    assert put(changed, "o", if_match='W/"1"').status_code == 200
    assert put(changed, "o", if_none_match="*").status_code == 412
    assert put(OBSERVATION, "o", if_match="nonsense").status_code == 400
    assert client.delete("/fhir/Observation/o", headers={"if-match": 'W/"1"'}).status_code == 412
    assert client.delete("/fhir/Observation/o", headers={"if-match": 'W/"2"'}).status_code == 204


def test_what_the_client_has_is_not_sent_again(client: Any, put: Any) -> None:
    made = put(OBSERVATION, "o")
    same = client.get("/fhir/Observation/o", headers={"if-none-match": made.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    since = client.get("/fhir/Observation/o", headers={"if-modified-since": made.headers["last-modified"]})
    assert since.status_code == 304
    other = client.get("/fhir/Observation/o", headers={"if-none-match": 'W/"9"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("preference", "kind"),
    [
        ("return=minimal", None),
        ("return=representation", "Observation"),
        ("return=OperationOutcome", "OperationOutcome"),
    ],
)
def test_a_client_says_what_it_wants_back(put: Any, preference: str, kind: str | None) -> None:
    answer = put(OBSERVATION, "o", prefer=preference)
    assert answer.status_code == 201
    assert (answer.json()["resourceType"] if answer.content else None) == kind


def test_an_update_that_changes_nothing_makes_no_version(client: Any, put: Any) -> None:
    put(OBSERVATION, "o")
    assert put(OBSERVATION, "o").headers["etag"] == 'W/"1"'
    assert len(client.get("/fhir/Observation/o/_history").json()["entry"]) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("Nothing/1", 404),
        ("Observation/none", 404),
        ("Observation/none/_history", 404),
        ("Observation/none/_history/1", 404),
        ("Observation/none/_history/x", 404),
        ("Observation/a/b/c", 404),
        ("Observation/none?_format=html", 406),
        ("_history?_count=x", 400),
        ("_history?unknown=1", 400),
        ("_history?_page=1", 400),
        ("_history?_since=yesterday", 400),
        ("$nothing", 404),
        ("Observation/none/$meta", 404),
    ],
)
def test_what_cannot_be_answered_says_so_in_an_operation_outcome(client: Any, path: str, status: int) -> None:
    answer = client.get(f"/fhir/{path}")
    assert answer.status_code == status
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert answer.json()["issue"][0]["diagnostics"]


def test_a_body_of_another_type_or_id_or_media_type_is_refused(client: Any, put: Any) -> None:
    assert client.put("/fhir/Observation/o", json={**OBSERVATION, "id": "p"}).status_code == 400
    assert client.put("/fhir/Observation/o", json=OBSERVATION).status_code == 400
    assert client.put("/fhir/Device/o", json={**OBSERVATION, "id": "o"}).status_code == 400
    assert client.put("/fhir/Observation/o", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert client.put("/fhir/Observation/o", content=b"", headers=FHIR).status_code == 400
    other = {"content-type": "application/fhir+json; fhirVersion=5.0"}
    assert client.put("/fhir/Observation/o", content=b"{}", headers=other).status_code == 415
    assert client.get("/fhir/Observation/o").status_code == 404


def test_a_history_is_paged_and_its_links_stay_good_while_more_is_written(
    client: Any, put: Any, clock: SetClock
) -> None:
    for number in range(7):
        put({**OBSERVATION, "valueInteger": number}, "o")
    page = client.get("/fhir/Observation/_history?_count=3").json()
    assert page["type"] == "history"
    seen = [entry["resource"]["meta"]["versionId"] for entry in page["entry"]]
    clock.advance(timedelta(seconds=1))
    put({**OBSERVATION, "valueInteger": 99}, "p")
    while links := [link["url"] for link in page["link"] if link["relation"] == "next"]:
        page = client.get(links[0]).json()
        seen += [entry["resource"]["meta"]["versionId"] for entry in page["entry"]]
    assert seen == list("7654321")
    everything = client.get("/fhir/_history").json()["entry"]
    assert everything[0]["resource"]["id"] == "p"
    assert everything[0]["request"] == {"method": "PUT", "url": "Observation/p"}
    assert everything[0]["response"]["status"] == "201"
    assert everything[1]["response"]["status"] == "200"
    before = everything[0]["response"]["lastModified"]
    assert len(client.get("/fhir/_history", params={"_since": before}).json()["entry"]) == 1


def test_a_binary_is_sent_and_asked_for_by_its_own_media_type(client: Any) -> None:
    made = client.post("/fhir/Binary", content=b"%PDF-1.4", headers={"content-type": "application/pdf"})
    assert made.status_code == 201
    id = made.json()["id"]
    assert made.json()["contentType"] == "application/pdf"
    native = client.get(f"/fhir/Binary/{id}", headers={"accept": "application/pdf"})
    assert native.content == b"%PDF-1.4"
    assert native.headers["content-type"] == "application/pdf"
    assert native.headers["content-disposition"] == "attachment"
    assert client.get(f"/fhir/Binary/{id}").json()["resourceType"] == "Binary"
    assert client.get("/fhir/Observation/o", headers={"accept": "application/pdf"}).status_code == 406


def test_meta_is_added_to_and_taken_from(client: Any, put: Any) -> None:
    put(OBSERVATION, "o")
    tag = {"system": "http://x", "code": "teaching"}
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [tag]}}]}
    added = client.post("/fhir/Observation/o/$meta-add", json=body)
    assert added.json()["parameter"][0]["valueMeta"]["tag"] == [tag]
    assert client.get("/fhir/Observation/o").json()["meta"]["tag"] == [tag]
    client.post("/fhir/Observation/o/$meta-delete", json=body)
    meta = client.get("/fhir/Observation/o/$meta").json()["parameter"][0]["valueMeta"]
    assert "tag" not in meta
    assert meta["versionId"] == "3"


def test_another_facility_is_another_service(client: Any, put: Any) -> None:
    put(OBSERVATION, "o")
    assert client.get("/fhir/f/north/Observation/o").status_code == 404
    assert "entry" not in client.get("/fhir/f/north/_history").json()
    assert client.get("/fhir/f/local/Observation/o").status_code == 200
