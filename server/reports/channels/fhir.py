"""The channel ``fhir``: a report as a transaction (IHE RAD-141), after which a repeat changes nothing.

The report goes where the server has it by its identifier (conditional update), and what it refers to is made only where
the server has it not (conditional create). So a report that comes twice is there once, and a later version is a later
version there.

| answer | what follows |
|---|---|
| 2xx and a transaction-response | the server has it |
| 2xx and anything else | it is sent again: something else has answered |
| 408, 409, 423, 425, 429, 5xx | it is sent again, later each time |
| 3xx and any other 4xx | it is refused: somebody is called |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID, uuid5

import orjson

from readingroom.errors import GiveUp, RetryLater
from readingroom.model import Destination, Report
from readingroom.outbound import Answer, Network, ask, check
from readingroom.results import Receipt
from server.reports import fhirjson
from server.reports.channels.access import backend_token, bearer, object_of, trust
from server.reports.delivery import Sending
from server.reports.documents import html
from server.reports.documents.sheet import TITLE
from server.reports.fhirjson import Refs, attachment
from storage.destinations import FhirOptions
from storage.fhirvalues import Element

_NAMESPACE = UUID("6f0c7c1b-4b56-5f0e-9a0d-0a7c9e0d2b44")
_FHIR = "application/fhir+json"
_LONGEST = 500
_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", ",": "\\,", "$": "\\$"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirChannel:
    """Hands reports over to FHIR servers.

    Attributes
    ----------
    pdf
        Makes the PDF of a report.
    networks
        Those beside the public Internet where servers may be; without TLS they are in these alone.
    """

    pdf: Callable[[Report], bytes]
    networks: Sequence[Network] = ()

    def __call__(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        """A `server.reports.delivery.Channel`."""
        options = FhirOptions.model_validate(destination.options)
        forms = [("text/html", html.page(report).encode())]
        if options.pdf:
            forms.append(("application/pdf", self.pdf(report)))
        bundle = transaction(report, options, forms)
        context = trust(options.ca)
        headers = {"Content-Type": _FHIR, "Accept": _FHIR, "Prefer": "return=minimal", **bearer(options.token)}
        if options.token_url:
            headers["Authorization"] = f"Bearer {self._token(options, sending)}"
        answer = ask(
            "POST",
            destination.address.rstrip("/"),
            orjson.dumps(bundle),
            headers,
            networks=self.networks,
            seconds=options.seconds,
            context=context,
        )
        return _receipt(answer, len(bundle["entry"]))

    def _token(self, options: FhirOptions, sending: Sending) -> str:
        """A token by SMART Backend Services (SMART App Launch 2.2)."""
        token, _ = backend_token(
            options.token_url,
            client_id=options.client_id,
            key=options.key,
            scope=options.scope,
            at=sending.at,
            networks=self.networks,
            seconds=options.seconds,
            context=trust(options.ca),
        )
        return token


def transaction(report: Report, options: FhirOptions, forms: Sequence[tuple[str, bytes]]) -> Element:
    """The Bundle of a report; the report is its first entry.

    Parameters
    ----------
    forms
        Content type and bytes of each document that presents it.
    """
    patient = fhirjson.patient(report, system=options.patient_system or None)
    subject = {"reference": _url(report, "patient")}
    if options.patients == "match":
        subject = {"reference": f"Patient?{_known_by(patient)}"}
    signers = fhirjson.signers(report)
    study = fhirjson.imaging_study(report, subject)
    order = None
    if options.accession_system:
        order = fhirjson.service_request(report, subject, system=options.accession_system)
    refs = Refs(
        subject=subject,
        organization={"reference": _url(report, "organization")},
        readers={one.reader: {"reference": _url(report, f"reader {one.reader}")} for one in signers},
        study={"reference": _url(report, "study")} if study else None,
        orders=[{"reference": _url(report, "order")}] if order else [],
    )
    told = [attachment(kind, data, title=TITLE, at=report.signed_at) for kind, data in forms]
    made = fhirjson.diagnostic_report(report, refs, forms=told)

    def entries() -> Iterator[Element]:
        yield _entry(_url(report, "report"), made, "PUT", f"DiagnosticReport?{_known_by(made)}")
        if options.patients == "create":
            yield _created(_url(report, "patient"), patient)
        yield _created(_url(report, "organization"), fhirjson.organization(report))
        for one in signers:
            yield _created(_url(report, f"reader {one.reader}"), fhirjson.practitioner(one))
        if study:
            yield _created(_url(report, "study"), study)
        if order:
            yield _created(_url(report, "order"), order)

    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries())}


def _url(report: Report, what: str) -> str:
    return f"urn:uuid:{uuid5(_NAMESPACE, f'{report.id}|{what}')}"


def _entry(url: str, resource: Element, method: str, target: str, **condition: str) -> Element:
    return {"fullUrl": url, "resource": resource, "request": {"method": method, "url": target, **condition}}


def _created(url: str, resource: Element) -> Element:
    """Made where the server has none that is known by the same."""
    return _entry(url, resource, "POST", resource["resourceType"], ifNoneExist=_known_by(resource))


def _known_by(resource: Element) -> str:
    """A search for what has the first identifier of a resource (FHIR R4 3.1.1.4.3: what separates is escaped)."""
    known = resource["identifier"][0]
    system, value = (known[name].translate(_ESCAPED) for name in ("system", "value"))
    return f"identifier={quote(f'{system}|{value}', safe='')}"


def _receipt(answer: Answer, count: int) -> Receipt:
    if 400 <= answer.status < 500:
        try:
            check(answer)
        except GiveUp:
            return Receipt(accepted=False, code=str(answer.status), text=_said(answer.body))
    check(answer)
    told = object_of(answer.body)
    entries = told.get("entry")
    if told.get("resourceType") != "Bundle" or told.get("type") != "transaction-response":
        raise RetryLater(f"It was answered {answer.status}, with something that is no transaction-response.")
    listed = entries if isinstance(entries, list) else []
    responses = [one["response"] for one in listed if isinstance(one, dict) and isinstance(one.get("response"), dict)]
    statuses = [str(one.get("status", ""))[:3] for one in responses]
    if len(statuses) != count or not all(one.startswith("2") for one in statuses):
        raise RetryLater(f"It was answered {answer.status}, and not each entry of the transaction was.")
    location, etag = (str(responses[0].get(name) or "")[:_LONGEST] for name in ("location", "etag"))
    return Receipt(accepted=True, code=statuses[0], reference=location, text=etag)


def _said(body: bytes) -> str:
    """What an OperationOutcome says, in a line."""
    issues = object_of(body).get("issue")
    told = []
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict):
            details = issue.get("details")
            text = details.get("text") if isinstance(details, dict) else None
            told.append(" ".join(str(one) for one in (issue.get("code"), issue.get("diagnostics") or text) if one))
    return "; ".join(told)[:_LONGEST]
