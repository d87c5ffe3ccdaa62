"""The channel ``webhook``: a signed POST, as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from datetime import datetime

from plugins.escalation.message import Message
from plugins.escalation.settings import EscalationSettings
from readingroom import Contact, GiveUp
from readingroom.outbound import Origin, call


def send(settings: EscalationSettings, contact: Contact, message: Message, now: datetime) -> str:
    """Send a message to the URL of a contact; gives its ``webhook-id``, which is the same on every attempt.

    Raises
    ------
    GiveUp
        The URL is of no origin that the settings name, or the message is refused for good.
    RetryLater
        Another attempt may do.
    """
    try:
        origin = Origin.of(contact.address)
    except ValueError as error:
        raise GiveUp(f"The address of this contact is no URL that could be called: {error}.") from None
    key = next((one.key for one in settings.webhooks if Origin.of(one.origin) == origin), None)
    if key is None:
        raise GiveUp(f"{origin.url} is not among the origins of the webhooks in the settings.")
    body = written(message)
    call("POST", contact.address, body, _headers(message.key, body, key, now), networks=settings.private_networks)
    return message.key


def written(message: Message) -> bytes:
    """The body: the same on every attempt."""
    told = {
        "escalation": message.escalation,
        "facility": message.facility,
        "category": message.category,
        "rung": message.rung,
        "role": message.role,
        "url": message.url,
        **message.shown,
    }
    return json.dumps({"type": "escalation.rung", "data": told}, separators=(",", ":")).encode()


def signature(key: bytes, id: str, at: int, body: bytes) -> str:
    """The signature of a message, version 1: HMAC-SHA256 over id, time and body."""
    return "v1," + b64encode(hmac.digest(key, f"{id}.{at}.".encode() + body, "sha256")).decode()


def _headers(id: str, body: bytes, key: bytes, now: datetime) -> dict[str, str]:
    at = int(now.timestamp())
    return {
        "Content-Type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(key, id, at, body),
    }
