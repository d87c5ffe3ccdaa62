"""Channels such as ``voice`` and ``sms``: services that call or text people, asked by a request from a template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from string import Template
from typing import Any
from urllib.parse import urlencode

from plugins.escalation.message import Message
from plugins.escalation.settings import EscalationSettings, Gateway
from readingroom import Contact, GiveUp
from readingroom.outbound import call

_NUMBER = re.compile(r"\+?[0-9]{3,15}")
_LONGEST_REFERENCE = 200


def send(settings: EscalationSettings, contact: Contact, message: Message) -> str:
    """Ask the gateway of a contact's channel to reach them; gives what it knows the message by.

    Raises
    ------
    GiveUp
        The address is no telephone number, or the gateway refuses the request for good.
    RetryLater
        Another attempt may do.
    """
    gateway = settings.gateways[contact.channel]
    body = written(gateway, contact, message)
    kind = "application/json" if gateway.encoding == "json" else "application/x-www-form-urlencoded"
    headers = {
        **{name: value.get_secret_value() for name, value in gateway.headers.items()},
        "Content-Type": kind,
        gateway.key_header: message.key,
    }
    answer = call("POST", gateway.url, body, headers, networks=settings.private_networks)
    return _reference(gateway, answer) or message.key


def written(gateway: Gateway, contact: Contact, message: Message) -> bytes:
    """The body of the request: the fields of the settings, filled in."""
    number = re.sub(r"[ ()./-]", "", contact.address)
    if not _NUMBER.fullmatch(number):
        raise GiveUp("The address of this contact is no telephone number, such as +15125550100.")
    known = {
        "to": number,
        "key": message.key,
        "url": message.url,
        "facility": message.facility,
        "urgency": message.urgency,
    }
    known["text"] = Template(gateway.text).substitute(known, text="")
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


def _reference(gateway: Gateway, answer: bytes) -> str | None:
    if gateway.reference is None:
        return None
    try:
        found = json.loads(answer)[gateway.reference]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)[:_LONGEST_REFERENCE] if isinstance(found, str | int) else None
