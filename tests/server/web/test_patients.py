"""Merges over HTTP and FHIR: how they are made, shown, undone, and refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.room import Room
from storage.catalog import schema as t
from storage.catalog.ids import patient_key
from tests.catalog import fill, header
from tests.retrieve import JSON

MERGES = "/patients/merges"
HER = {"from": "A", "into": "B", "reason": "The same person"}


def key(patient_id: str) -> str:
    return patient_key("local", patient_id)


def merged(room: Room, client: httpx.Client) -> dict[str, Any]:
    """A merge of a patient with one study, whom a client has written, into another with one."""
    for patient_id in ("A", "B"):
        fill(room.engine, header(PatientID=patient_id, PatientName=f"{patient_id}^Ada"))
    answer = client.post(MERGES, json=HER)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_merge_tells_how_far_it_has_come_and_is_undone(room: Room, client: httpx.Client) -> None:
    made = merged(room, client)
    assert (made["from"], made["into"], made["moved"], made["studies_waiting"]) == ("A", "B", {}, 1)
    room.queue.drain()
    url = f"{MERGES}/{made['id']}"
    shown = client.get(url).json()
    assert (shown["moved"], shown["studies_waiting"]) == ({"study": 1}, 0)
    assert client.get(MERGES, params={"patient_id": "B"}).json() == [shown]
    assert client.get(MERGES, params={"patient_id": "C"}).json() == []
    undone = client.post(f"{url}/undo", json={"reason": "Twins"}).json()
    assert undone["undone_source"].endswith("Twins")
    assert undone["studies_waiting"] == 1
    room.queue.drain()
    assert client.get(url).json()["studies_waiting"] == 0
    assert client.post(f"{url}/undo", json={"reason": "again"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"from": "A", "into": "B"}, 400),
        ({"from": "A", "into": "A", "reason": "why"}, 400),
        ({"from": "A", "reason": "why"}, 400),
        ({"from": "B", "into": "A", "reason": "a loop"}, 409),
        ({"from": "A", "into": "C", "reason": "elsewhere"}, 409),
    ],
)
def test_a_merge_that_cannot_be_is_refused(room: Room, client: httpx.Client, body: dict[str, str], status: int) -> None:
    merged(room, client)
    assert client.post(MERGES, json=body).status_code == status
    assert client.get(f"{MERGES}/nothing").status_code == 404


def test_patients_that_were_merged_link_to_each_other(room: Room, client: httpx.Client) -> None:
    fill(room.engine, header(PatientID="A", PatientName="A^Ada"))
    sent = client.get(f"/fhir/Patient/{key('A')}").json()
    client.put(f"/fhir/Patient/{key('A')}", json={**sent, "active": True, "language": "en"})
    made = merged(room, client)
    room.queue.drain()
    old, survivor = (client.get(f"/fhir/Patient/{key(one)}").json() for one in "AB")
    assert (old["active"], old["language"]) == (False, "en")
    assert old["link"] == [{"other": {"reference": f"Patient/{key('B')}"}, "type": "replaced-by"}]
    assert survivor["link"] == [{"other": {"reference": f"Patient/{key('A')}"}, "type": "replaces"}]
    assert "active" not in survivor
    found = client.get("/fhir/Patient", params={"identifier": "A"}).json()["entry"]
    assert key("A") in {one["resource"]["id"] for one in found}
    study, _ = client.get("/dicomweb/studies", params={"PatientID": "A"}, headers=JSON).json()
    with room.engine.connect() as connection:
        study_uid = sa.select(t.study.c.fhir_id).where(t.study.c.study_uid == study["0020000D"]["Value"][0])
        fhir_id = connection.execute(study_uid).scalar_one()
    shown = client.get(f"/fhir/ImagingStudy/{fhir_id}").json()
    assert shown["subject"]["reference"] == f"Patient/{key('B')}"
    client.post(f"{MERGES}/{made['id']}/undo", json={"reason": "Twins"})
    room.queue.drain()
    assert client.get(f"/fhir/Patient/{key('A')}").json()["active"] is True
    assert "link" not in client.get(f"/fhir/Patient/{key('B')}").json()
