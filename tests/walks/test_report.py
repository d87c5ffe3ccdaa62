"""A head with blood from the scanner to the signed report and on: the whole life of a report on a live server.

The plugins are those that come with the server, each in a process of its own. The algorithm is the built-in detector,
which is for research only, so the server is in research mode; whatever it writes has to be accepted by a person.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydicom import FileDataset
from pypdfium2 import PdfDocument

from conformance.heads import FIELD_MM, SLICE_MM, make_head
from tests.multipart import content_type, encode
from tests.receiver import Receiver, receiver
from tests.servers import Live, environment, live_server
from tests.synthetic import ct_series, part10
from tests.waiting import expect

pytestmark = pytest.mark.timeout(600)

DIRECTORY = """
[[facilities]]
id = "local"
name = "Local Hospital"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
contacts = [{ name = "Ward 4", role = "referrer", channel = "voice", address = "+15125550100" }]
destinations = [{ id = "ris", channel = "hl7", address = "ADDRESS" }]

[[readers]]
id = "neuro"
name = "Nora Neuro"
zone = "America/Chicago"
licences = [{ state = "US-TX", number = "T1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]

[[readers]]
id = "second"
name = "Sam Second"
zone = "America/Chicago"
licences = [{ state = "US-TX", number = "T2" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]

[[readers]]
id = "elsewhere"
name = "Ella Elsewhere"
zone = "America/Los_Angeles"
licences = [{ state = "US-CA", number = "C1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]
"""


PRICES = """
currency = "USD"
valid_from = 2026-01-01
[[prices]]
modality = "CT"
amount = "40.00"
"""


@pytest.fixture(scope="module")
def ris() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, ris: Receiver) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("report")
    (home / "directory.toml").write_text(DIRECTORY.replace("ADDRESS", ris.address))
    (home / "prices.toml").write_text(PRICES)
    for of, name in (("directory", "directory.toml"), ("prices", "prices.toml")):
        command = [sys.executable, "-m", "server.cli", of, "import", str(home / name)]
        subprocess.run([*command, "--data", str(home / "data")], check=True, env=environment(), capture_output=True)
    settings = {
        "settle_seconds": 0.5,
        "research_mode": True,
        "plugins": json.dumps({"ai_triage": {}, "drafting": {}, "peer_review": {"rate": 1.0}}),
        "blocking_checks": '["blank"]',
        "private_networks": '["127.0.0.0/8"]',
    }
    with live_server(home / "data", settings=settings) as live:
        yield live


@pytest.fixture(scope="module")
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.base, timeout=60) as client:
        yield client


def head_with_blood() -> list[FileDataset]:
    head = make_head(4_711, bleed="parenchymal")
    count, rows, columns = head.hu.shape
    about = {"BodyPartExamined": "HEAD", "SliceThickness": SLICE_MM, "PatientName": "Müller^Jürgen", "PatientSex": "M"}
    slices = ct_series(count, rows, columns, AccessionNumber="ACC1", **about)
    for index, (one, hounsfield) in enumerate(zip(slices, head.hu, strict=True)):
        one.ImagePositionPatient = [0, 0, index * SLICE_MM]
        one.PixelSpacing = [FIELD_MM / rows, FIELD_MM / columns]
        one.PixelData = (hounsfield - int(one.RescaleIntercept)).astype("<i2").tobytes()
    return slices


def send(http: httpx.Client, report: dict[str, Any], command: str, **told: Any) -> httpx.Response:
    return http.post(f"/reports/{report['id']}/{command}", json=told, headers={"If-Match": report["etag"]})


def noted(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.text
    return {**answer.json(), "etag": answer.headers["etag"]}


@pytest.fixture(scope="module")
def drafted(http: httpx.Client) -> dict[str, Any]:
    """The report of a head, begun once a draft of it is there; with the draft."""
    slices = head_with_blood()
    body = encode([part10(one) for one in slices])
    stored = http.post("/dicomweb/studies", content=body, headers={"Content-Type": content_type()})
    assert stored.status_code == 200, stored.text
    study = str(slices[0].StudyInstanceUID)
    (item,) = expect(
        lambda: [one for one in http.get("/worklist", params={"limit": 5}).json() if one["is_flagged"]],
        bool,
        "the head, flagged",
    )
    claimed = http.post(f"/worklist/{item['workitem'].rsplit('/', 1)[1]}/claim", json={"reader": "neuro"})
    assert claimed.status_code == 200, claimed.text
    report = noted(http.post("/reports", json={"study": study}))
    assert (report["status"], report["item"]) == ("registered", item["id"])
    material = expect(
        lambda: http.get(f"/reports/{report['id']}/material").json(), lambda one: bool(one["drafts"]), "a draft"
    )
    return {**report, "study": study, "draft": material["drafts"][0]}


@pytest.fixture(scope="module")
def signed(http: httpx.Client, drafted: dict[str, Any]) -> dict[str, Any]:
    """The report, with a sentence of the algorithm that was accepted, one that was changed, and one of the reader's."""
    sections = {one["name"]: one["text"] for one in drafted["draft"]["sections"]}
    texts = [
        {"name": "findings", "text": f"{sections['findings'].strip()}\nThe midline is not shifted."},
        {"name": "impression", "text": f"{sections['impression'].strip()}\nNo other finding."},
    ]
    told = {"sections": texts, "reader": "neuro", "critical_results": [{"category": 1, "text": "Blood in the head."}]}
    report = noted(http.put(f"/reports/{drafted['id']}", json=told, headers={"If-Match": drafted["etag"]}))
    assert http.put(f"/reports/{drafted['id']}", json=told, headers={"If-Match": drafted["etag"]}).status_code == 412
    assert send(http, report, "sign", reader="elsewhere").status_code == 403
    refused = send(http, report, "sign", reader="neuro")
    assert (refused.status_code, "accepted" in refused.text) == (409, True)
    left = http.get(f"/reports/{report['id']}/checks").json()["unaccepted"]
    assert left
    report = noted(send(http, report, "accept", passages=left))
    report = noted(send(http, report, "sign", reader="neuro"))
    return {**report, "study": drafted["study"]}


def test_what_the_algorithm_wrote_is_known_in_the_signed_report(signed: dict[str, Any]) -> None:
    assert (signed["status"], signed["number"]) == ("final", 1)
    (findings, impression) = signed["signed"]["sections"]
    for section in (findings, impression):
        origins = [one["origin"] for one in section["passages"]]
        assert origins[-1] == "human"
        assert set(origins[:-1]) == {"ai"}
        assert all(one["is_accepted"] and one["algorithm"] and one["evidence"] for one in section["passages"][:-1])
    assert signed["signed"]["signatures"][0]["name"] == "Nora Neuro"


def test_the_reading_is_completed_by_the_signature(http: httpx.Client, signed: dict[str, Any]) -> None:
    rows = http.get("/dicomweb/workitems", params={"ProcedureStepState": "COMPLETED"}).json()
    assert len(rows) == 1
    assert signed["item"]


def test_the_critical_result_is_called_and_read_back_before_the_report_is_finished(
    http: httpx.Client, signed: dict[str, Any]
) -> None:
    assert (signed["status"], signed["is_finished"]) == ("final", False)
    (call,) = http.get("/escalations", params={"category": 1, "sort": "time left"}).json()
    assert (call["report"], 0 < call["minutes_left"] < 60) == (signed["id"], True)
    assert "The result: Blood in the head." in call["call"]["say"]
    path, phone = f"/escalations/{call['id']}", {"how": "telephone"}
    tried = http.post(f"{path}/attempts", json={"name": "Ward 4", "outcome": "no answer", **phone})
    assert tried.json()["state"] == "open"
    # The desk has nobody to send a message to; the ladder was climbed all the same.
    expect(lambda: http.get(path).json(), lambda one: one["rung"] >= 1, "climbed")
    assert http.get(f"/fhir/Communication/{call['id']}").json()["status"] == "in-progress"
    closed = http.post(f"{path}/acknowledge", json={"by": "Dr. Ward", "read_back": "Blood in the head.", **phone})
    assert [one["state"] for one in closed.json()["attempts"] if one["by"]] == ["no-answer", "read-back"]
    assert http.get(f"/reports/{signed['id']}").json()["is_finished"]
    told = http.get(f"/fhir/Communication/{call['id']}").json()
    assert (told["status"], told["reasonReference"]) == (
        "completed",
        [{"reference": f"DiagnosticReport/{signed['id']}"}],
    )
    assert http.get(f"/fhir/Task/{call['id']}").json()["status"] == "completed"
    (measured, *_) = http.get("/escalations/statistics").json()["categories"]
    assert (measured["acknowledged"], measured["within"]) == (1, 1.0)


def segments(message: str, name: str) -> list[list[str]]:
    return [line.split("|") for line in message.split("\r") if line.startswith(f"{name}|")]


def test_the_facility_gets_it_by_hl7(http: httpx.Client, signed: dict[str, Any], ris: Receiver) -> None:
    message = expect(lambda: [*ris.messages], bool, "a message")[0]
    (order,) = segments(message, "OBR")
    assert (order[25], order[3].split("^")[0]) == ("F", "ACC1")
    told = "".join("|".join(one) for one in segments(message, "OBX"))
    assert "The midline is not shifted." in told
    assert "RID49480" in told
    deliveries = expect(
        lambda: http.get("/deliveries", params={"report": signed["id"]}).json(),
        lambda rows: bool(rows) and rows[0]["state"] == "accepted",
        "accepted",
    )
    assert len(deliveries) == 1


def test_its_pdf_says_what_was_signed(http: httpx.Client, signed: dict[str, Any]) -> None:
    answer = http.get(f"/reports/{signed['id']}/versions/1.pdf")
    assert answer.status_code == 200, answer.text
    again = http.get(f"/reports/{signed['id']}/versions/1.pdf")
    assert again.content == answer.content
    pdf = PdfDocument(answer.content)
    text = " ".join("".join(page.get_textpage().get_text_bounded() for page in pdf).split())
    assert "Müller" in text
    for section in signed["signed"]["sections"]:
        for passage in section["passages"]:
            assert " ".join(passage["text"].split()) in text


def test_an_addendum_is_a_version_of_its_own_and_follows_the_report(
    http: httpx.Client, signed: dict[str, Any], ris: Receiver
) -> None:
    report = noted(http.get(f"/reports/{signed['id']}"))
    report = noted(send(http, report, "revise", kind="addendum", reader="neuro"))
    told = {"kind": "addendum", "addendum": "Compared with the study of yesterday: no change."}
    report = noted(http.put(f"/reports/{report['id']}", json=told, headers={"If-Match": report["etag"]}))
    report = noted(send(http, report, "sign", reader="neuro"))
    assert (report["status"], report["number"]) == ("appended", 2)
    first = http.get(f"/reports/{report['id']}/versions/1").json()
    assert first["report"]["addenda"] == []
    message = expect(lambda: [*ris.messages], lambda found: len(found) == 2, "two messages")[1]
    (order,) = segments(message, "OBR")
    assert order[25] == "C"
    assert "no change" in message


def test_a_peer_reads_it_again_without_knowing_what_was_read_and_scores_it(
    http: httpx.Client, signed: dict[str, Any]
) -> None:
    (review,) = expect(lambda: http.get("/peer-reviews", params={"reader": "second"}).json(), bool, "a review")
    assert "neuro" not in json.dumps(review)
    told = {"reader": "second", "impression": "A bleed into the brain."}
    answer = http.post(f"/peer-reviews/{review['id']}/impression", json=told)
    assert answer.status_code == 200, answer.text
    scored = http.post(f"/peer-reviews/{review['id']}/score", json={"reader": "second", "score": "1", "comment": ""})
    assert scored.status_code == 200, scored.text
    figures = http.get("/peer-reviews/statistics").json()
    assert signed["id"]
    assert "neuro" in json.dumps(figures)


def test_it_stands_on_the_statement_once(http: httpx.Client, signed: dict[str, Any]) -> None:
    month = signed["signed"]["signed_at"][:7]
    statement = expect(lambda: http.get(f"/statements/local/{month}").json(), lambda one: bool(one["lines"]), "a line")
    assert len(statement["lines"]) == 1
    assert "40.00" in json.dumps(statement)
    (charge,) = [one["resource"] for one in http.get("/fhir/ChargeItem").json()["entry"]]
    assert charge["service"][0] == {"reference": f"DiagnosticReport/{signed['id']}"}
    (price,) = [one["resource"] for one in http.get("/fhir/ChargeItemDefinition").json()["entry"]]
    assert charge["definitionUri"] == [price["url"]]
    assert http.delete(f"/fhir/ChargeItem/{charge['id']}").status_code == 405


def test_it_is_a_diagnosticreport_with_its_signature(http: httpx.Client, signed: dict[str, Any]) -> None:
    bundle = http.get("/fhir/DiagnosticReport", params={"_id": signed["id"], "_revinclude": "Provenance:target"}).json()
    types = [one["resource"]["resourceType"] for one in bundle["entry"]]
    assert types.count("DiagnosticReport") == 1
    assert "Provenance" in types
