"""Every official example of a type that can be written is taken over HTTP, and comes back as it was sent."""

from __future__ import annotations

import functools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from server.fhir.parsing import parse_json
from server.fhir.registry import REGISTRY
from server.fhir.types import Resource
from server.fhir.xml import from_xml, to_xml
from tests.corpus import each_example, fhir_examples

JSON = "application/fhir+json"
XML = "application/fhir+xml"
SAID_HERE = {"Subscription": ("status", "error")}
"""Elements that the server alone can know, by type, beside id and meta."""
WRITABLE = tuple(name for name, type in REGISTRY.items() if not type.read_only_because)


@functools.cache
def _resource(path: Path) -> Resource:
    return parse_json(path.read_bytes())


def content(resource: Resource) -> dict[str, Any]:
    """What a resource says, with its numbers as they are written; some of it is the server's to say."""
    said_here = ("id", "meta", *SAID_HERE.get(str(resource["resourceType"]), ()))
    written = {name: value for name, value in resource.items() if name not in said_here}
    return _as_written(written)  # type: ignore[no-any-return]


def _as_written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_written(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_written(inner) for inner in value]
    return str(value) if isinstance(value, Decimal) else value


def sent(client: Any, resource: Resource, body: bytes, media_type: str) -> str:
    """Send a new resource under its own id, where the type takes one; returns its address."""
    name, headers = resource["resourceType"], {"content-type": media_type}
    if REGISTRY[name].takes_ids:
        answer = client.put(f"/fhir/{name}/{resource['id']}", content=body, headers=headers)
    else:
        answer = client.post(f"/fhir/{name}", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"]).split("/_history")[0]


def test_there_are_examples_of_most_types_that_can_be_written(corpus: Path) -> None:
    there = {str(_resource(path)["resourceType"]) for path in fhir_examples()}
    assert len(there.intersection(WRITABLE)) >= 12


@pytest.mark.usefixtures("corpus")
@each_example(*WRITABLE)
def test_an_example_comes_back_in_json_as_it_was_sent(client: Any, example: Path) -> None:
    resource = _resource(example)
    address = sent(client, resource, example.read_bytes(), JSON)
    read = client.get(address)
    assert content(parse_json(read.content)) == content(resource)
    assert content(from_xml(client.get(address, headers={"accept": XML}).content)) == content(resource)


@pytest.mark.usefixtures("corpus")
@each_example(*WRITABLE)
def test_an_example_comes_back_in_xml_as_it_was_sent(client: Any, example: Path) -> None:
    resource = _resource(example)
    address = sent(client, resource, to_xml(resource), XML)
    read = client.get(address, headers={"accept": XML})
    assert read.headers["content-type"] == XML
    assert content(from_xml(read.content)) == content(resource)
    assert content(parse_json(client.get(address).content)) == content(resource)
