"""Reports of ours over FHIR: what was signed, version by version, with who has signed it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx
import pytest

from readingroom.jsonio import dumps
from readingroom.model import Algorithm, Passage, Section
from readingroom.results import Draft
from server.room import Room
from storage.catalog.answers import keep_answer
from storage.catalog.engine import begin_write
from storage.catalog.ids import study_fhir_id
from tests.reports import Desk, reader_at
from tests.worklist import add

pytestmark = pytest.mark.rooms("sqlite", "postgres")


@pytest.fixture
def desk(room: Room, client: httpx.Client) -> Desk:
    desk = Desk(room=room, client=client)
    desk.furnish(reader_at("ada", npi="1234567893"), reader_at("bob"))
    desk.receive(StudyDate="20261124", StudyTime="101500")
    return desk


def get(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(f"/fhir/{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def validated(client: httpx.Client, resource: dict[str, Any]) -> None:
    outcome = client.post(f"/fhir/{resource['resourceType']}/$validate", json=resource).json()
    assert not [one for one in outcome["issue"] if one["severity"] in ("error", "fatal")], outcome


def test_a_report_is_a_diagnosticreport_from_its_beginning(desk: Desk, client: httpx.Client) -> None:
    report = desk.begin()
    shown = get(client, f"DiagnosticReport/{report['id']}")
    assert (shown["status"], shown["meta"]["versionId"]) == ("registered", "1")
    assert "conclusion" not in shown
    validated(client, shown)
    desk.write(report)
    assert get(client, f"DiagnosticReport/{report['id']}")["meta"]["versionId"] == "1"


def test_what_was_signed_stands_in_it_word_for_word(desk: Desk, client: httpx.Client) -> None:
    report = desk.signed()
    shown = get(client, f"DiagnosticReport/{report['id']}")
    validated(client, shown)
    assert (shown["status"], shown["conclusion"]) == ("final", "Normal CT of the head.")
    assert shown["imagingStudy"] == [{"reference": f"ImagingStudy/{study_fhir_id('local', desk.study)}"}]
    assert shown["effectiveDateTime"] == "2026-11-24T10:15:00-06:00"
    assert shown["resultsInterpreter"] == [{"reference": "Practitioner/ada", "display": "Ada"}]
    (form,) = shown["presentedForm"]
    page = base64.b64decode(form["data"])
    assert b"There is no haemorrhage." in page
    assert (form["size"], base64.b64decode(form["hash"])) == (len(page), hashlib.sha1(page).digest())
    for reference in (shown["subject"], *shown["performer"], *shown["imagingStudy"]):
        get(client, reference["reference"])


def test_it_is_found_by_what_ehrs_ask_for(desk: Desk, client: httpx.Client) -> None:
    report = desk.signed()
    shown = get(client, f"DiagnosticReport/{report['id']}")
    patient, study = shown["subject"]["reference"], shown["imagingStudy"][0]["reference"]
    for query in (
        f"patient={patient}&category=RAD&status=final",
        f"patient={patient}&date=ge2026-11-01&date=lt2026-12-01",
        f"patient={patient}&code=18748-4",
        "identifier=A1",
        f"imaging-study={study}",
        "results-interpreter=Practitioner/ada",
        f"_id={report['id']}&_revinclude=Provenance:target",
    ):
        bundle = get(client, f"DiagnosticReport?{query}")
        assert report["id"] in {one["resource"]["id"] for one in bundle["entry"]}, query
    types = {one["resource"]["resourceType"] for one in bundle["entry"]}
    assert types == {"DiagnosticReport", "Provenance"}


def test_every_signed_version_stays_as_it_was(desk: Desk, client: httpx.Client) -> None:
    report = desk.give(desk.signed(), "revise", kind="addendum", reader="bob")
    report = desk.write(report, {"kind": "addendum", "addendum": "The priors have come."})
    report = desk.give(report, "sign", reader="bob")
    report = desk.give(report, "withdraw", reader="ada", reason="It is of another patient.")
    history = get(client, f"DiagnosticReport/{report['id']}/_history")["entry"]
    for one in history:
        validated(client, one["resource"])
        version = one["resource"]["meta"]["versionId"]
        assert get(client, f"DiagnosticReport/{report['id']}/_history/{version}") == one["resource"]
    assert [one["resource"]["status"] for one in history] == ["entered-in-error", "appended", "final", "registered"]
    appended = get(client, f"DiagnosticReport/{report['id']}/_history/3")
    assert appended["conclusion"] == "Normal CT of the head.\n\nAddendum 1: The priors have come."
    assert {one["display"] for one in appended["resultsInterpreter"]} == {"Ada", "Bob"}
    proof = get(client, f"Provenance/{report['id']}-2")
    validated(client, proof)
    assert proof["target"] == [{"reference": f"DiagnosticReport/{report['id']}/_history/3"}]
    jws = desk.client.get(f"/reports/{report['id']}/versions/2").json()["signature"]
    assert base64.b64decode(proof["signature"][0]["data"]).decode() == jws


def test_an_algorithm_whose_sentence_was_accepted_is_named(desk: Desk, client: httpx.Client) -> None:
    algorithm = Algorithm(
        name="Bleed", version="2", manufacturer="Acme", clearance="K123456", modalities=("CT",), body_parts=("HEAD",)
    )
    section = Section(name="findings", title="", passages=(Passage(text="There is a subdural haematoma."),))
    with begin_write(desk.room.engine) as connection:
        keep_answer(
            connection,
            facility="local",
            study_uid=desk.study,
            revision=1,
            hook="draft_report",
            plugin="writer",
            answer=dumps(Draft(sections=(section,), algorithm=algorithm)),
            note="offered",
            at=desk.room.clock.now(),
        )
    report = desk.write(desk.begin(), {"sections": [{"name": "impression", "text": "There is a subdural haematoma."}]})
    digests = [one["digest"] for one in report["writing"]["sections"][0]["passages"]]
    report = desk.give(desk.give(report, "accept", passages=digests), "sign", reader="ada")
    proof = get(client, f"Provenance/{report['id']}-1")
    (assembler,) = [one["who"] for one in proof["agent"] if one["type"]["coding"][0]["code"] == "assembler"]
    shown = get(client, assembler["reference"])
    validated(client, shown)
    assert shown["identifier"][0]["value"] == "K123456"


def test_a_client_cannot_change_what_was_reported_here(desk: Desk, client: httpx.Client) -> None:
    report = desk.signed()
    shown = get(client, f"DiagnosticReport/{report['id']}")
    changed = client.put(f"/fhir/DiagnosticReport/{report['id']}", json={**shown, "status": "amended"})
    assert (changed.status_code, "/reports/" in changed.text) == (405, True), changed.text
    patch = [{"op": "replace", "path": "/status", "value": "amended"}]
    patched = client.patch(
        f"/fhir/DiagnosticReport/{report['id']}", json=patch, headers={"Content-Type": "application/json-patch+json"}
    )
    assert patched.status_code == 405
    assert client.delete(f"/fhir/DiagnosticReport/{report['id']}").status_code == 405
    theirs = {key: shown[key] for key in ("resourceType", "status", "code")}
    made = client.post("/fhir/DiagnosticReport", json=theirs)
    assert made.status_code == 201
    assert client.delete(f"/fhir/DiagnosticReport/{made.json()['id']}").status_code in (200, 204)


def test_a_reading_that_is_over_has_its_report_as_output(desk: Desk, client: httpx.Client) -> None:
    item = add(desk.room.engine, desk.room.clock, study_uid=desk.study)
    report = desk.begin()
    assert "output" not in get(client, f"Task/{item.id}")
    desk.give(desk.write(report), "sign", reader="ada")
    task = get(client, f"Task/{item.id}")
    validated(client, task)
    assert task["output"][0]["valueReference"] == {"reference": f"DiagnosticReport/{report['id']}"}
    desk.give(desk.read(report["id"]), "withdraw", reader="ada", reason="It is of another patient.")
    assert get(client, f"Task/{item.id}") == task
