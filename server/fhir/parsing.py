"""From bytes to resources, and back; numbers keep their text."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson

from server.fhir.outcome import BadResource, Issue


def parse_json(body: bytes) -> dict[str, Any]:
    """A resource as values; raises `BadResource`."""
    try:
        parsed = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise BadResource([Issue(code="structure", diagnostics="The body is no JSON.")]) from None
    if not isinstance(parsed, dict):
        raise BadResource([Issue(code="structure", diagnostics="A resource is a JSON object.")])
    return parsed


def dump_json(resource: Any) -> bytes:
    """Values as JSON."""
    return orjson.dumps(resource, default=_number)


def _number(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value).encode())
    raise TypeError
