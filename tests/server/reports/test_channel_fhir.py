"""Reports go to FHIR servers as a transaction: once however often they are sent, and loud where they are not taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from readingroom.errors import GiveUp, RetryLater, Unreachable
from readingroom.model import Addendum, Destination, Facility, Passage, Report
from readingroom.results import Receipt
from server.reports.channels.fhir import FhirChannel, transaction
from server.reports.delivery import Sending
from server.room import Room
from storage.destinations import FhirOptions, options_problem
from tests.plugins.http import Answer, Request, Server, serving
from tests.reports import Desk, a_report
from tests.servers import free_port

LOOPBACK = (ip_network("127.0.0.0/8"),)
SENDING = Sending(
    control_id="0" * 20,
    attempt=1,
    at=datetime(2026, 11, 24, 12, 30, tzinfo=UTC),
    facility=Facility(id="local", name="Local Hospital"),
)


def to(url: str, **options: Any) -> Destination:
    return Destination(id="ehr", facility="local", channel="fhir", address=url, options=options)


def send(url: str, report: Report | None = None, **options: Any) -> Receipt:
    channel = FhirChannel(pdf=lambda _: b"%PDF-1.7", networks=LOOPBACK)
    return channel(report or a_report(), to(url, **options), SENDING)


@dataclass
class Ehr:
    """A server that gives requests to a function, or to the FHIR of this server."""

    client: httpx.Client
    answers: Callable[[Request], Answer] | None = None
    url: str = ""
    said: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        if self.answers is not None:
            return self.answers(request)
        given = self.client.post("/fhir", content=request.body, headers={"Content-Type": "application/fhir+json"})
        self.said.append(given.json())
        return given.status_code, given.content, {"Content-Type": "application/fhir+json"}


@pytest.fixture
def ehr(room: Room, client: httpx.Client) -> Iterator[tuple[Ehr, Server]]:
    Desk(room=room, client=client, study="1.2.3.4").receive()
    made = Ehr(client)
    with serving(lambda request: made.answer(request)) as server:
        yield made, server


def test_a_report_that_is_sent_twice_is_there_once_with_all_that_it_refers_to(
    ehr: tuple[Ehr, Server], client: httpx.Client
) -> None:
    _, server = ehr
    first = send(server.url, accession_system="urn:oid:1.2.3")
    again = send(server.url, accession_system="urn:oid:1.2.3")
    assert (first.accepted, first.code, again.accepted, again.code) == (True, "201", True, "200")
    assert "/DiagnosticReport/" in first.reference
    for type in ("DiagnosticReport", "Patient", "Practitioner", "ServiceRequest"):
        assert client.get(f"/fhir/{type}").json()["total"] == 1, type
    (entry,) = client.get("/fhir/DiagnosticReport?patient.identifier=P1&status=final").json()["entry"]
    report = entry["resource"]
    assert report["conclusion"] == "Normal CT of the head."
    assert [one["contentType"] for one in report["presentedForm"]] == ["text/html", "application/pdf"]
    for one in (report["subject"], *report["basedOn"], *report["resultsInterpreter"], *report["performer"]):
        assert client.get(f"/fhir/{one['reference']}").status_code == 200


def test_a_later_version_is_a_later_version_of_the_same_there(ehr: tuple[Ehr, Server], client: httpx.Client) -> None:
    _, server = ehr
    first = send(server.url)
    added = Addendum(number=2, passages=(Passage(text="Also a cyst."),), signatures=a_report().signatures)
    later = send(server.url, a_report(number=2, status="appended", kind="addendum", addenda=(added,)))
    assert first.reference.partition("/_history")[0] == later.reference.partition("/_history")[0]
    (entry,) = client.get("/fhir/DiagnosticReport").json()["entry"]
    assert entry["resource"]["status"] == "appended"
    assert "Also a cyst." in entry["resource"]["conclusion"]


def test_a_patient_who_is_to_be_known_and_is_not_has_the_report_refused(ehr: tuple[Ehr, Server]) -> None:
    made, server = ehr
    stranger = a_report(patient_id="P9")
    receipt = send(server.url, stranger, patients="match")
    assert not receipt.accepted
    assert receipt.code.startswith("4")
    assert made.said[0]["resourceType"] == "OperationOutcome"
    assert receipt.text
    assert send(server.url, stranger).accepted
    assert send(server.url, stranger, patients="match").accepted


@pytest.mark.parametrize("status", [500, 503, 409, 429])
def test_what_may_be_taken_later_is_sent_again(ehr: tuple[Ehr, Server], status: int) -> None:
    made, server = ehr
    made.answers = lambda _: (status, b"", {"Retry-After": "7"})
    with pytest.raises(RetryLater) as caught:
        send(server.url)
    assert caught.value.after.total_seconds() == 7
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Log in</html>",
        b"",
        b"[1]",
        b'{"resourceType": "Bundle", "type": "searchset"}',
        b'{"resourceType": "Bundle", "type": "transaction-response"}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": {"status": "201"}}]}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": [1, null, {"response": 5}]}',
    ],
)
def test_what_answers_and_is_no_fhir_server_has_not_got_it(ehr: tuple[Ehr, Server], body: bytes) -> None:
    made, server = ehr
    made.answers = lambda _: (200, body, {})
    with pytest.raises(RetryLater):
        send(server.url)


def test_a_refusal_is_in_the_receipt_and_a_redirect_is_not_followed(ehr: tuple[Ehr, Server]) -> None:
    made, server = ehr
    outcome = {"resourceType": "OperationOutcome", "issue": [{"code": "invalid", "diagnostics": "No such code."}, 5]}
    made.answers = lambda _: (422, json.dumps(outcome).encode(), {})
    assert send(server.url) == Receipt(accepted=False, code="422", text="invalid No such code.")
    made.answers = lambda _: (422, b"\xff", {})
    assert send(server.url) == Receipt(accepted=False, code="422")
    made.answers = lambda _: (302, b"", {"Location": "http://127.0.0.1/"})
    with pytest.raises(GiveUp, match="redirects are not followed"):
        send(server.url)


def test_a_server_that_is_away_is_unreachable_and_one_that_is_not_allowed_is_not_asked() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable):
        send(url)
    with pytest.raises(GiveUp):
        FhirChannel(pdf=lambda _: b"")(a_report(), to(url, pdf=False), SENDING)


def test_a_token_comes_from_the_environment(ehr: tuple[Ehr, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = ehr
    with pytest.raises(GiveUp, match="EHR_TOKEN"):
        send(server.url, token="EHR_TOKEN")
    monkeypatch.setenv("EHR_TOKEN", "abc")
    assert send(server.url, token="EHR_TOKEN").accepted
    assert server.asked[0].headers["Authorization"] == "Bearer abc"


def test_a_token_is_asked_for_by_an_assertion_that_our_key_has_signed(ehr: tuple[Ehr, Server], tmp_path: Path) -> None:
    made, server = ehr
    key = ECKey.generate_key("P-384", {"kid": "k1"})
    file = tmp_path / "key.jwk"
    file.write_text(json.dumps(key.as_dict(private=True)))
    smart = {"token_url": f"{server.url}/token", "client_id": "room", "key": str(file)}

    def token(request: Request) -> Answer:
        if request.path != "/token":
            return 403, b"", {}
        return 200, b'{"access_token": "given", "token_type": "bearer", "expires_in": 300}', {}

    made.answers = token
    assert send(f"{server.url}/fhir", **smart).code == "403"
    asked, sent = server.asked
    assert sent.headers["Authorization"] == "Bearer given"
    form = parse_qs(asked.body.decode())
    claims = jwt.decode(form["client_assertion"][0], key, algorithms=["ES384"])
    assert claims.header["kid"] == "k1"
    assert (claims.claims["iss"], claims.claims["aud"]) == ("room", f"{server.url}/token")
    made.answers = lambda _: (200, b"{}", {})
    with pytest.raises(RetryLater, match="without one"):
        send(server.url, **smart)
    file.write_text("{}")
    with pytest.raises(GiveUp, match="private JWK"):
        send(server.url, **smart)


def test_options_that_make_no_sense_are_refused() -> None:
    assert options_problem("fhir", {"token_url": "https://ehr.example.org/token"}) is not None
    assert options_problem("fhir", {"patients": "maybe"}) is not None
    assert options_problem("fhir", {"token": "EHR_TOKEN", "pdf": False}) is None


def test_what_stands_in_an_identifier_cannot_become_another_search() -> None:
    report = replace(a_report(), patient_id="P1|x,y&name=z")
    patient = transaction(report, FhirOptions(), [])["entry"][1]["request"]["ifNoneExist"]
    assert patient.endswith("%7CP1%5C%7Cx%5C%2Cy%26name%3Dz")
