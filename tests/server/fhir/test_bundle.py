"""Batches and transactions: all or nothing, links between entries, and answers in the order of the entries."""

from __future__ import annotations

from typing import Any

import pytest

OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
DEVICE = {"resourceType": "Device", "status": "active"}
ONE = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"
TWO = "urn:uuid:88f151c0-a954-468a-88bd-5ae15c08e059"


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: str) -> dict[str, Any]:
    told: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        told["resource"] = resource
    if full_url:
        told["fullUrl"] = full_url
    return told


def bundle(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def statuses(answer: Any) -> list[str]:
    return [one["response"]["status"][:3] for one in answer.json()["entry"]]


def test_a_transaction_links_what_it_makes_even_in_a_circle(client: Any) -> None:
    answer = client.post(
        "/fhir",
        json=bundle(
            "transaction",
            entry("POST", "Observation", {**OBSERVATION, "device": {"reference": TWO}}, ONE),
            entry("POST", "Device", {**DEVICE, "url": ONE, "parent": {"reference": TWO}}, TWO),
        ),
    )
    assert answer.status_code == 200
    assert answer.json()["type"] == "transaction-response"
    assert statuses(answer) == ["201", "201"]
    one, two = (
        item["response"]["location"].split("/fhir/")[1].split("/_history")[0] for item in answer.json()["entry"]
    )
    observation, device = client.get(f"/fhir/{one}").json(), client.get(f"/fhir/{two}").json()
    assert observation["device"]["reference"] == two
    assert (device["url"], device["parent"]["reference"]) == (one, two)


def test_the_narrative_of_a_transaction_is_linked_too(client: Any) -> None:
    text = {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><a href="{TWO}">it</a></div>'}
    answer = client.post(
        "/fhir",
        json=bundle(
            "transaction",
            entry("POST", "Observation", {**OBSERVATION, "text": text}, ONE),
            entry("PUT", "Device/d", {**DEVICE, "id": "d"}, TWO),
            entry("GET", "Device/d"),
        ),
    )
    assert statuses(answer) == ["201", "201", "200"]
    assert answer.json()["entry"][2]["resource"]["id"] == "d"
    found = client.get(answer.json()["entry"][0]["response"]["location"].split("8780", 1)[1]).json()
    assert 'href="Device/d"' in found["text"]["div"]


def test_of_a_transaction_that_fails_nothing_stays_and_the_entry_is_named(client: Any) -> None:
    answer = client.post(
        "/fhir",
        json=bundle(
            "transaction",
            entry("PUT", "Device/d", {**DEVICE, "id": "d"}),
            entry("PUT", "Device/e", {**DEVICE, "id": "f"}),
        ),
    )
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1]"]
    assert client.get("/fhir/Device/d").status_code == 404


@pytest.mark.parametrize(
    "entries",
    [
        [entry("PUT", "Device/d", {**DEVICE, "id": "d"}), entry("DELETE", "Device/d")],
        [entry("POST", "Observation", {**OBSERVATION, "device": {"reference": TWO}}, ONE)],
        [entry("POST", "Device", DEVICE, ONE), entry("POST", "Device", DEVICE, ONE)],
        [entry("PUT", "Device/d", {**DEVICE, "id": "d"}, ifMatch='W/"7"')],
        [{"resource": DEVICE}],
        [entry("MOVE", "Device/d")],
        [entry("POST", "Nothing", {"resourceType": "Nothing"})],
        ["text"],
    ],
)
def test_a_transaction_that_cannot_be_right_is_refused_whole(client: Any, entries: list[Any]) -> None:
    before = client.get("/fhir/_history").json()["entry"]
    answer = client.post("/fhir", json=bundle("transaction", *entries))
    assert 400 <= answer.status_code < 500
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert client.get("/fhir/_history").json()["entry"] == before


def test_each_entry_of_a_batch_stands_for_itself(client: Any) -> None:
    answer = client.post(
        "/fhir",
        json=bundle(
            "batch",
            entry("PUT", "Device/d", {**DEVICE, "id": "d"}),
            entry("GET", "Device/none"),
            entry("GET", "Device/d"),
            entry("GET", "Device/d", ifNoneMatch='W/"1"'),
            entry("DELETE", "Device/d", ifMatch='W/"3"'),
            entry("DELETE", "Device/d"),
        ),
    )
    assert statuses(answer) == ["201", "404", "200", "304", "412", "204"]
    assert answer.json()["entry"][1]["response"]["outcome"]["issue"][0]["code"] == "not-found"


def test_what_is_no_bundle_to_be_done_is_refused(client: Any) -> None:
    assert client.post("/fhir", json=OBSERVATION).status_code == 400
    assert client.post("/fhir", json=bundle("history")).status_code == 400
    assert client.post("/fhir", json={**bundle("batch"), "entry": []}).status_code == 400
    assert client.post("/fhir", json=OBSERVATION, follow_redirects=False).status_code == 400
    assert client.post("/fhir/", json={"resourceType": "Bundle", "type": "batch"}).json()["type"] == "batch-response"
