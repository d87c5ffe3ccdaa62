"""Schemathesis drives every operation of the FHIR service's OpenAPI document: nothing undocumented, nothing fails.

`make test` draws a few cases for every operation; ``READINGROOM_FUZZ=10`` (`make fuzz`) ten times as many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from starlette.testclient import TestClient

from server.app import build_room, create_app
from server.fhir.openapi import openapi
from server.fhir.registry import REGISTRY
from server.settings import Settings

TIMES = int(os.environ.get("READINGROOM_FUZZ", "1"))
POSITIVE, NEGATIVE = 3 * TIMES, 2 * TIMES
ROOT = "http://127.0.0.1:8780/fhir"
JSON = "application/fhir+json"
JSON_PATCH = "application/json-patch+json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
CODE = {"text": "x"}
PATIENT = {"reference": "Patient/1"}

VALID: dict[str, dict[str, Any]] = {
    "Appointment": {"status": "proposed", "participant": [{"actor": PATIENT, "status": "accepted"}]},
    "Binary": {"contentType": "text/plain", "data": "YQ=="},
    "ChargeItem": {"status": "billable", "code": CODE, "subject": PATIENT},
    "ChargeItemDefinition": {"url": "urn:x", "status": "active"},
    "Communication": {"status": "completed"},
    "CommunicationRequest": {"status": "active"},
    "DetectedIssue": {"status": "final"},
    "Device": {"status": "active"},
    "DiagnosticReport": {"status": "final", "code": CODE},
    "DocumentReference": {"status": "current", "content": [{"attachment": {"title": "x"}}]},
    "Encounter": {"status": "finished", "class": {"code": "IMP"}},
    "Flag": {"status": "active", "code": CODE, "subject": PATIENT},
    "Location": {"name": "x"},
    "Observation": {"status": "final", "code": CODE},
    "Organization": {"name": "x"},
    "Patient": {"gender": "other"},
    "Practitioner": {"active": True},
    "PractitionerRole": {"active": True},
    "Provenance": {"target": [PATIENT], "recorded": "2026-01-01T12:00:00Z", "agent": [{"who": {"display": "x"}}]},
    "Schedule": {"actor": [{"display": "x"}]},
    "ServiceRequest": {"status": "active", "intent": "order", "subject": PATIENT},
    "Slot": {
        "schedule": {"reference": "Schedule/1"},
        "status": "free",
        "start": "2026-01-01T12:00:00Z",
        "end": "2026-01-01T13:00:00Z",
    },
    "Subscription": {
        "status": "requested",
        "reason": "x",
        "criteria": "Observation?code=x",
        "channel": {"type": "websocket"},
    },
    "Task": {"status": "requested", "intent": "order"},
}
"""The least of each type that can be written."""

BUNDLE = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": "Patient/1"}}]}
TAG = {"name": "meta", "valueMeta": {"tag": [{"system": "urn:x", "code": "x"}]}}
PIECES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#%"), min_size=1).filter(
    lambda text: text not in (".", "..")
)
PARAMETERS = {"resourceType": "Parameters", "parameter": [TAG]}
PATCHES = [[{"op": "add", "path": "/language", "value": "en"}], [{"op": "test", "path": "/language", "value": "en"}]]
OPERATIONS = [
    described["operationId"] for path in openapi(ROOT)["paths"].values() for _method, described in path.items()
]


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class Fuzzed:
    """A server with a resource of each type, and the document that it gives of itself."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.counts: Counter[int] = Counter()
        for media_type in (JSON, "application/fhir+xml", JSON_PATCH):
            schemathesis.serializer(media_type)(lambda _context, value: value)
        document = client.get("/fhir/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        found = (one.ok() for one in schema.get_all_operations())
        self.operations = {one.definition.raw["operationId"]: one for one in found}
        self.ids = {name: self._make(name) for name in VALID}

    def _make(self, name: str) -> str:
        answer = self.client.put(f"/fhir/{name}/1", json={"resourceType": name, "id": "1", **VALID[name]})
        if answer.status_code >= 400:  # of a type that is not put under an id of the client's own
            answer = self.client.post(f"/fhir/{name}", json={"resourceType": name, **VALID[name]})
        assert answer.status_code in (200, 201), answer.text
        id: str = answer.json()["id"]
        return id

    def bodies(self, operation: Any, id: str) -> list[tuple[str, bytes]]:
        """What can be sent, with its media type."""
        name = operation.definition.raw["operationId"]
        kind = operation.path.split("/")[1]
        if operation.method.upper() == "PATCH":
            return [(JSON_PATCH, orjson.dumps(patch)) for patch in PATCHES]
        if name == "Batch":
            return [(JSON, orjson.dumps(one)) for one in (BUNDLE, {**BUNDLE, "type": "transaction"})]
        if kind in VALID and operation.method.upper() in ("POST", "PUT") and "$" not in operation.path:
            resource = {"resourceType": kind, "id": id, **VALID[kind]}
            return [(JSON, orjson.dumps(resource)), (JSON, orjson.dumps({**resource, "language": "de"}))]
        return [(JSON, orjson.dumps(PARAMETERS))]

    def cases(self, name: str, mode: GenerationMode, data: st.DataObject) -> Case:
        """A case of an operation on what there is, or, of those that are to be wrong, anywhere."""
        operation = self.operations[name]
        more: dict[str, Any] = {}
        kind = operation.path.split("/")[1]
        if "{type}" in operation.path:
            [types] = [one.definition["schema"]["enum"] for one in operation.path_parameters if one.name == "type"]
            kind = data.draw(st.sampled_from([one for one in types if one in VALID]))
        gaps = {"type": kind, "id": self.ids.get(kind, "1"), "version": "1"}
        if mode is GenerationMode.NEGATIVE and not operation.query and not operation.body:
            gaps = {gap: data.draw(PIECES) for gap in gaps}
            mode = GenerationMode.POSITIVE  # there is nothing but the path to get wrong
        if operation.body and operation.path.endswith("/_search"):
            more["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
            more["media_type"] = "application/x-www-form-urlencoded"
        elif operation.body:
            good = self.bodies(operation, gaps["id"])
            media_type, body = data.draw(st.sampled_from(good))
            if mode is GenerationMode.NEGATIVE:
                cut = st.integers(0, len(body)).map(lambda end: body[:end])
                body = data.draw(st.one_of(st.binary(max_size=60), cut, st.just(b"{}"), st.just(b"[{}]")))
                mode = GenerationMode.POSITIVE  # there is little but the body to get wrong
            more = {"body": body, "media_type": media_type, "headers": {"Content-Type": media_type}}
        filled = {gap: value for gap, value in gaps.items() if f"{{{gap}}}" in operation.path}
        if filled:
            more["path_parameters"] = filled
        return data.draw(operation.as_strategy(mode, **more))  # type: ignore[no-any-return]

    def ask(self, case: Case) -> httpx.Response:
        """Send a case, and hold the answer against the document."""
        sent = case.as_transport_kwargs(base_url=ROOT)
        headers = {name: value for name, value in dict(sent.get("headers") or {}).items() if name != "User-Agent"}
        body = case.body if isinstance(case.body, bytes) else None
        content = {"content": body} if body is not None else {"data": sent.get("data")}
        answer = self.client.request(
            sent["method"], sent["url"], params=sent.get("params"), headers={"Accept": "*/*"} | headers, **content
        )
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert answer.json()["resourceType"] == "OperationOutcome"
        self.counts[answer.status_code] += 1
        if answer.status_code == 202:  # an export: no caller may have many at a time
            self.client.delete(answer.headers["content-location"])
        return answer


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    with build_room(Settings(data=folder)) as room:
        app = create_app(room)
        with TestClient(app, base_url="http://127.0.0.1:8780", raise_server_exceptions=False) as client:
            fuzzed = Fuzzed(client)
            yield fuzzed
            print(f"\nschemathesis: {dict(sorted(fuzzed.counts.items()))}")


def test_there_is_something_valid_of_each_type_that_can_be_written() -> None:
    assert set(VALID) == {name for name, type in REGISTRY.items() if not type.read_only_because}


def test_the_document_is_no_larger_than_a_page_may_be() -> None:
    assert len(orjson.dumps(openapi(ROOT))) < 300_000


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_asked_rightly_and_wrongly_gets_a_documented_answer(fuzzed: Fuzzed, name: str) -> None:
    fine = 0

    @given(st.data())
    @quick(POSITIVE)
    def rightly(data: st.DataObject) -> None:
        nonlocal fine
        fine += fuzzed.ask(fuzzed.cases(name, GenerationMode.POSITIVE, data)).status_code < 400

    @given(st.data())
    @quick(NEGATIVE)
    def wrongly(data: st.DataObject) -> None:
        fuzzed.ask(fuzzed.cases(name, GenerationMode.NEGATIVE, data))

    rightly()
    wrongly()
    if name.startswith(("Create", "Update", "Delete", "Batch")) and name != "DeleteTask":  # work is cancelled instead
        assert fine
