"""One study and one reading, told by DICOMweb, UPS-RS and FHIR: whoever changes it, all three say the same."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from readingroom.clock import SetClock
from server.room import Room
from server.settle import settle_studies
from tests.stow import store
from tests.synthetic import ct_series, new_uid, part10

pytestmark = pytest.mark.rooms("sqlite", "postgres")

JSON, DICOM = {"content-type": "application/fhir+json"}, {"content-type": "application/dicom+json"}
ACSN = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}


def ask(client: httpx.Client, url: str, **params: Any) -> dict[str, Any]:
    answer = client.get(url, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def put(client: httpx.Client, task: dict[str, Any], version: int, **changes: Any) -> httpx.Response:
    return client.put(
        f"/fhir/Task/{task['id']}", json={**task, **changes}, headers={**JSON, "if-match": f'W/"{version}"'}
    )


def state_of(client: httpx.Client, uid: str) -> str:
    [ups] = client.get(f"/dicomweb/workitems/{uid}").json()
    return str(ups["00741000"]["Value"][0])


def claim_by_ups(client: httpx.Client, uid: str, token: str) -> int:
    body = [{"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": [token]}}]
    return client.put(f"/dicomweb/workitems/{uid}/state", content=orjson.dumps(body), headers=DICOM).status_code


def history_of(client: httpx.Client, type: str) -> list[dict[str, Any]]:
    found = ask(client, f"/fhir/{type}/_history")
    return [one["resource"] for one in found.get("entry", ()) if "resource" in one]


def test_a_study_its_order_and_its_reading_are_one_truth(client: httpx.Client, room: Room, clock: SetClock) -> None:
    # Images come over STOW-RS, and there is an ImagingStudy at once.
    study_uid = new_uid()
    told = {"PatientID": "P1", "IssuerOfPatientID": "NORTH", "PatientName": "Doe^Jane", "AccessionNumber": "A1"}
    store(client, *map(part10, ct_series(3, StudyInstanceUID=study_uid, **told)))
    [study] = history_of(client, "ImagingStudy")
    assert study["identifier"][0]["value"] == f"urn:oid:{study_uid}"
    assert (study["status"], study["numberOfInstances"]) == ("available", 3)
    assert "reference" not in study["basedOn"][0]
    patient = ask(client, f"/fhir/{study['subject']['reference']}")
    assert patient["name"][0]["family"] == "Doe"
    endpoint = ask(client, f"/fhir/{study['endpoint'][0]['reference']}")
    found = client.get(f"{endpoint['address']}/studies/{study_uid}/metadata")
    assert found.status_code == 200
    assert len(found.json()) == 3

    # Its order links it, and waits no more once the study is complete: a Task appears.
    order = client.post(
        "/fhir/ServiceRequest",
        json={
            "resourceType": "ServiceRequest",
            "status": "active",
            "intent": "order",
            "priority": "urgent",
            "identifier": [{"type": ACSN, "value": "A1"}],
            "subject": study["subject"],
            "code": {"text": "CT of the head"},
        },
        headers=JSON,
    )
    assert order.status_code == 201, order.text
    linked = ask(client, f"/fhir/ImagingStudy/{study['id']}")
    reference = {"reference": f"ServiceRequest/{order.json()['id']}"}
    assert linked["basedOn"][0]["reference"] == reference["reference"]
    assert int(linked["meta"]["versionId"]) > int(study["meta"]["versionId"])
    waiting = history_of(client, "Task")[0]
    assert (waiting["status"], waiting["basedOn"], waiting["priority"]) == ("requested", [reference], "urgent")
    clock.advance(timedelta(hours=1))
    settle_studies(room)
    room.queue.drain()
    task = ask(client, f"/fhir/Task/{waiting['id']}")
    assert (task["status"], task["focus"]) == ("ready", {"reference": f"ImagingStudy/{study['id']}"})
    assert task["for"] == study["subject"]
    uid = task["identifier"][0]["value"].removeprefix("urn:oid:")
    assert state_of(client, uid) == "SCHEDULED"

    # It is claimed over FHIR: the version that was read is the lock, and UPS-RS sees it.
    version = int(task["meta"]["versionId"])
    assert client.put(f"/fhir/Task/{task['id']}", json={**task, "status": "in-progress"}).status_code == 428
    claimed = put(client, task, version, status="in-progress")
    assert claimed.status_code == 200, claimed.text
    assert state_of(client, uid) == "IN PROGRESS"
    assert claim_by_ups(client, uid, "2.25.1") == 409
    assert put(client, task, version, status="in-progress").status_code == 412

    # It is given back over FHIR, and claimed by UPS-RS: FHIR sees that, and what is not legal says what would be.
    now = claimed.json()
    given_back = put(client, now, int(now["meta"]["versionId"]), status="ready")
    assert given_back.status_code == 200, given_back.text
    assert claim_by_ups(client, uid, "2.25.98765432109876") == 200
    now = ask(client, f"/fhir/Task/{task['id']}")
    assert now["status"] == "in-progress"
    refused = put(client, now, int(now["meta"]["versionId"]), status="draft")
    assert refused.status_code == 409
    assert "completed" in refused.json()["issue"][0]["diagnostics"]
    done = put(client, now, int(now["meta"]["versionId"]), status="completed")
    assert done.status_code == 200, done.text
    assert state_of(client, uid) == "COMPLETED"
    history = ask(client, f"/fhir/Task/{task['id']}/_history")
    statuses = [one["resource"]["status"] for one in history["entry"]]
    assert statuses[:2] == ["completed", "in-progress"]
    assert statuses[-1] == "requested"
    assert b"2.25.98765432109876" not in orjson.dumps(history)

    # What is deleted over DICOMweb is gone in FHIR.
    assert client.delete(f"/dicomweb/studies/{study_uid}").status_code < 300
    assert client.get(f"/fhir/ImagingStudy/{study['id']}").status_code == 410
