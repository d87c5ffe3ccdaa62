"""One request to a gateway, from the template of the settings, and what its answer means.

| answer | what follows |
|---|---|
| 2xx | the gateway has taken it on; where `reference` is set, it has to be in the answer |
| 408, 409, 423, 425, 429, 5xx, none | it is sent again, with the same key |
| any other | it is refused: somebody is called |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Template
from typing import Any
from urllib.parse import urlencode

from plugins.gateway.settings import Gateway, GatewaySettings
from readingroom import Destination, GiveUp, Receipt, Report
from readingroom.outbound import ask, check

_LONGEST = 200


def send(
    settings: GatewaySettings,
    gateway: Gateway,
    report: Report,
    destination: Destination,
    pdf: str | None,
    *,
    key: str,
) -> Receipt:
    """Ask a gateway to send a report, or to say that there is one.

    Parameters
    ----------
    key
        The same on every attempt, so that what is sent twice goes out once.

    Raises
    ------
    GiveUp
        It may have been taken, but the answer is not as the settings say; or there is no PDF of it.
    RetryLater
        Another attempt may do.
    """
    kind = "application/json" if gateway.encoding == "json" else "application/x-www-form-urlencoded"
    headers = {
        **{name: value.get_secret_value() for name, value in gateway.headers.items()},
        "Content-Type": kind,
        gateway.key_header: key,
    }
    body = written(settings, gateway, report, destination, pdf, key=key)
    answer = ask("POST", gateway.url, body, headers, networks=settings.private_networks, seconds=gateway.seconds)
    if 400 <= answer.status < 500:
        try:
            check(answer)
        except GiveUp:
            return Receipt(accepted=False, code=str(answer.status))
    check(answer)
    reference = _reference(gateway.reference, answer.body)
    if reference is None:
        raise GiveUp(
            f"The gateway answered {answer.status} without {gateway.reference}: whether it has taken the report is not"
            " known; ask there before it is repeated."
        )
    return Receipt(accepted=True, code=str(answer.status), reference=reference or key)


def written(
    settings: GatewaySettings,
    gateway: Gateway,
    report: Report,
    destination: Destination,
    pdf: str | None,
    *,
    key: str,
) -> bytes:
    """The body of the request: the fields of the settings, filled in."""
    if gateway.sends_document and pdf is None:
        raise GiveUp("The report cannot be set as PDF with the fonts of this server.")
    known = {
        "to": destination.address,
        "key": key,
        "link": f"{settings.base_url}/reports/{report.id}.pdf",
        "facility": " ".join((report.facility_name or report.facility).split()),
        "status": report.status,
        "report": report.id,
        "document": pdf or "",
    }
    known["text"] = Template(gateway.text).substitute(known)
    fields = _filled(gateway.fields, known)
    return json.dumps(fields).encode() if gateway.encoding == "json" else urlencode(fields).encode()


def _filled(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return Template(value).substitute(known)
    if isinstance(value, dict):
        return {name: _filled(part, known) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, known) for part in value]
    return value


def _reference(path: str | None, answer: bytes) -> str | None:
    """What an answer says at a place; empty where none is asked for, None where there is nothing."""
    if path is None:
        return ""
    try:
        found = json.loads(answer)
        for step in path.split("."):
            found = found[step]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (
        str(found)[:_LONGEST] if isinstance(found, str | int) and not isinstance(found, bool) and found != "" else None
    )
