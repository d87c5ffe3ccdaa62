"""The worklist of a modality and what it has done, over HTTP (PS3.18 chapters 14 and 15)."""

from __future__ import annotations

from typing import Any

import httpx

from server.room import Room
from server.worklist.steps import schedule_step
from storage.catalog.steps import StoredStep, lock_step
from storage.nativexml import from_xml, to_xml
from tests.steps import ended, performed, said, step
from tests.synthetic import new_uid
from tests.worklist import at_work

JSON, XML = "application/dicom+json", "application/dicom+xml"
SCHEDULED, PERFORMED = "/dicomweb/modality-scheduled-procedure-steps", "/dicomweb/modality-performed-procedure-steps"


def schedule(room: Room, *steps: StoredStep) -> list[StoredStep]:
    with at_work(room.engine) as work:
        return [schedule_step(work, one) for one in steps]


def found(client: httpx.Client, **params: Any) -> list[str]:
    answer = client.get(SCHEDULED, params=params)
    if answer.status_code == 204:
        return []
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON), answer.text
    return [one["00400100"]["Value"][0]["00400009"]["Value"][0] for one in answer.json()]


def say(client: httpx.Client, uid: str, dataset: dict[str, Any], *, update: bool = False) -> int:
    path = f"{PERFORMED}/{uid}{'?update' if update else ''}"
    return client.post(path, json=[dataset], headers={"Content-Type": JSON}).status_code


def state_of(room: Room) -> str:
    with room.engine.connect() as connection:
        kept = lock_step(connection, "local", "S1")
    assert kept is not None
    return kept.state


def test_the_worklist_is_matched_as_by_find_and_comes_page_by_page(client: httpx.Client, room: Room) -> None:
    schedule(
        room,
        step(),
        step("S2", modality="MR", starts_at="1015"),
        step("S3", starts_on="20261126", outer={"PatientName": "Doe^Jane"}),
        step("S4", state="completed"),
    )
    sequence = "ScheduledProcedureStepSequence"
    assert found(client) == ["S1", "S2", "S3"]
    assert found(client, **{f"{sequence}.Modality": "MR"}) == ["S2"]
    assert found(client, **{f"{sequence}.ScheduledProcedureStepStartDate": "20261126-"}) == ["S3"]
    assert found(client, PatientName="DOE*") == ["S3"]
    assert found(client, PatientName="jane", fuzzymatching="true") == ["S3"]
    assert found(client, AccessionNumber="A9") == []

    first = client.get(SCHEDULED, params={"limit": 2})
    assert len(first.json()) == 2
    assert "offset=2" in first.headers["link"]
    assert found(client, limit=2, offset=2) == ["S3"]


def test_what_is_not_matched_is_told_and_what_is_no_value_is_refused(client: httpx.Client, room: Room) -> None:
    schedule(room, step())
    answer = client.get(SCHEDULED, params={"PatientWeight": "70", "TimezoneOffsetFromUTC": "+0100"})
    assert "PatientWeight, 00080201" in answer.headers["warning"]
    wrong = client.get(SCHEDULED, params={"ScheduledProcedureStepSequence.ScheduledProcedureStepStartDate": "today"})
    assert wrong.status_code == 400
    xml = client.get(SCHEDULED, headers={"Accept": f'multipart/related; type="{XML}"'})
    assert (xml.status_code, "Müller".encode() in xml.content) == (200, True)
    assert client.get(SCHEDULED, headers={"Accept": "text/html"}).status_code == 406


def test_who_calls_for_a_facility_sees_its_worklist(client: httpx.Client, room: Room) -> None:
    schedule(room, step(), step("S2", facility="north"))
    answer = client.get("/dicomweb/f/north/modality-scheduled-procedure-steps")
    assert [one["00400100"]["Value"][0]["00400009"]["Value"][0] for one in answer.json()] == ["S2"]


def test_a_modality_begins_goes_on_and_ends(client: httpx.Client, room: Room) -> None:
    (planned,) = schedule(room, step())
    uid = new_uid()
    made = client.post(f"{PERFORMED}/{uid}", json=performed(planned), headers={"Content-Type": JSON})
    assert (made.status_code, made.headers["location"].endswith(f"{PERFORMED}/{uid}")) == (201, True)
    assert (say(client, uid, performed(planned)), state_of(room)) == (409, "started")
    assert say(client, uid, said(PatientID="P9"), update=True) == 409
    assert say(client, uid, said(PerformedProcedureStepStatus="PAUSED"), update=True) == 400
    done = client.post(
        f"{PERFORMED}/{uid}?update", content=to_xml(ended("COMPLETED", "1.2.3")), headers={"Content-Type": XML}
    )
    assert (done.status_code, state_of(room)) == (200, "completed")
    assert say(client, uid, ended("DISCONTINUED"), update=True) == 409
    assert say(client, new_uid(), ended("COMPLETED", "1.2.3"), update=True) == 404
    assert say(client, new_uid(), performed(Modality="")) == 400

    (whole,) = client.get(f"{PERFORMED}/{uid}").json()
    assert whole["00080018"]["Value"] == [uid]
    assert (whole["00400252"]["Value"], whole["00080005"]["Value"]) == (["COMPLETED"], ["ISO_IR 192"])
    (some,) = client.get(f"{PERFORMED}/{uid}", params={"includefield": "Modality,00400252"}).json()
    assert some.keys() == {"00080016", "00080018", "00080060", "00400252"}
    xml = client.get(f"{PERFORMED}/{uid}", headers={"Accept": XML})
    assert from_xml(xml.content)["00080060"]["Value"] == ["CT"]
    parts = client.get(f"{PERFORMED}/{uid}", headers={"Accept": f'multipart/related; type="{XML}"'})
    assert parts.headers["content-type"].startswith("multipart/related")
    assert client.get(f"{PERFORMED}/{new_uid()}").status_code == 404
    assert say(client, "nothing", performed()) == 400
