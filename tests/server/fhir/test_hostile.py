"""What nobody sends by chance: it is refused with the reason, nothing fails, and nothing of it is kept."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.fhir.query import MOST, parse_query

JSON = "application/fhir+json"
XML = "application/fhir+xml"
BOTH = pytest.mark.rooms("sqlite", "postgres")
OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
DEEP = 10_000
LONG = 10 << 20


@pytest.fixture
def refused(client: Any) -> Iterator[Any]:
    """Sends what is to be refused, and at the end looks whether anything of it was kept."""
    before = client.get("/fhir/_history").json().get("entry")

    def refused(
        method: str, path: str, content: Any = b"", kind: str = JSON, *, status: int = 0, **headers: str
    ) -> dict[str, Any]:
        body = json.dumps(content).encode() if isinstance(content, Mapping) else content
        sent = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
        answer = client.request(method, path, content=body, headers=sent)
        said = f"{method} {path[:80]} {body[:80]!r}: {answer.status_code} {answer.text[:300]}"
        assert 400 <= answer.status_code < 500, said
        assert not status or answer.status_code == status, said
        assert answer.headers["content-type"].startswith((JSON, XML))
        told: dict[str, Any] = answer.json()
        assert told["resourceType"] == "OperationOutcome"
        assert all(issue["diagnostics"] and issue["code"] for issue in told["issue"])
        assert len(answer.content) < 100_000
        return told

    yield refused
    assert client.get("/fhir/_history").json().get("entry") == before


def observation(**more: Any) -> dict[str, Any]:
    return OBSERVATION | more


def in_xml(inside: str, before: str = "") -> bytes:
    return (
        f'{before}<Observation xmlns="http://hl7.org/fhir">{inside}'
        '<status value="final"/><code><text value="x"/></code></Observation>'
    ).encode()


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
NESTED = '{"url":"a","extension":['
START = b'{"resourceType":"Observation","status":"final","code":{"text":"x"},'
BODIES = {
    "no JSON": b"{",
    "two values": json.dumps(OBSERVATION).encode() * 2,
    "a list": b"[]",
    "text": b'"Observation"',
    "null": b"null",
    "a number": b"1",
    "a member twice": b'{"resourceType":"Observation","status":"final","status":"amended","code":{"text":"x"}}',
    "a member twice inside": b'{"resourceType":"Observation","status":"final","code":{"text":"x","text":"y"}}',
    "the type twice": b'{"resourceType":"Patient","resourceType":"Observation","status":"final","code":{"text":"x"}}',
    "NaN": START + b'"valueQuantity":{"value":NaN}}',
    "Infinity": START + b'"valueQuantity":{"value":-Infinity}}',
    "a huge exponent": START + b'"valueQuantity":{"value":1e999999999}}',
    "endless digits": START + b'"valueInteger":' + b"9" * 100_000 + b"}",
    "a NUL": b'{"resourceType":"Observation","status":"final","code":{"text":"a\\u0000b"}}',
    "a bare NUL": b'{"resourceType":"Observation","status":"final","code":{"text":"a\x00b"}}',
    "half of a pair": b'{"resourceType":"Observation","status":"final","code":{"text":"\\ud800"}}',
    "half of a pair as name": START + b'"\\udfff":1}',
    "half of a pair in bytes": b'{"resourceType":"Observation","status":"final","code":{"text":"\xed\xa0\x80"}}',
    "no UTF-8": b'{"resourceType":"Observation","status":"final","code":{"text":"\xff"}}',
    "UTF-16": json.dumps(OBSERVATION).encode("utf-16"),
    "lists without end": b"[" * DEEP + b"]" * DEEP,
    "objects without end": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "extensions without end": START + b'"extension":[' + (NESTED * DEEP).encode() + b"]}" * DEEP + b"]}",
    "contained without end": b'{"resourceType":"Observation","contained":[' * DEEP + b"]}" * DEEP,
    "brackets that nothing closes": b"[" * 1_000_000,
    "a code of 10 MB": json.dumps(observation(status="f" * LONG)).encode(),
    "an id of 10 MB": json.dumps(observation(id="i" * LONG)).encode(),
    "a name of 10 MB": json.dumps(observation(**{"n" * LONG: 1})).encode(),
    "a type of 10 MB": json.dumps({"resourceType": "O" * LONG}).encode(),
    "a date of 10 MB": json.dumps(observation(effectiveDateTime="2" * LONG)).encode(),
    "a narrative of entities": json.dumps(
        observation(text={"status": "generated", "div": f"<!DOCTYPE d [{LAUGHS}]><div>&l9;</div>"})
    ).encode(),
    "a script": json.dumps(
        observation(
            text={
                "status": "generated",
                "div": '<div xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></div>',
            }
        )
    ).encode(),
    "bad base64": START + b'"contained":[{"resourceType":"Binary","id":"b","contentType":"text/plain","data":"%%%"}]}',
    "a type that is none": b'{"resourceType":"Observatory"}',
    "a type that is a list": b'{"resourceType":["Observation"]}',
    "no type": b'{"status":"final"}',
    "another type": b'{"resourceType":"Patient"}',
    "STU3": START + b'"comment":"as before","related":[{"type":"has-member","target":{"reference":"Observation/1"}}]}',
    "R5": b'{"resourceType":"Observation","status":"final","code":{"text":"x"},'
    b'"triggeredBy":[{"observation":{"reference":"Observation/1"},"type":"reflex"}]}',
}
"""What is no Observation, as JSON."""

XML_BODIES = {
    "no XML": b"<",
    "a file": in_xml(
        '<language value="en"/>', '<!DOCTYPE Observation [<!ENTITY file SYSTEM "file:///etc/passwd">]>'
    ).replace(b'"en"', b'"&file;"'),
    "a parameter entity": in_xml("", '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x">%p;]>'),
    "a file elsewhere": in_xml("", '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">'),
    "a billion laughs": in_xml("&l9;", f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]>'),
    "an inclusion": in_xml('<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/passwd"/>'),
    "an instruction": in_xml("", '<?xml-stylesheet href="file:///etc/passwd"?>').replace(b"final", b"finally"),
    "elements without end": in_xml('<extension url="a">' * DEEP + "</extension>" * DEEP),
    "a narrative without end": in_xml(
        '<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml">'
        + "<p>" * DEEP
        + "</p>" * DEEP
        + "</div></text>"
    ),
    "a namespace of its own": in_xml("").replace(b"hl7.org/fhir", b"hl7.org/v3"),
    "a NUL": in_xml('<language value="&#0;"/>'),
    "half of a pair": in_xml('<language value="&#xD800;"/>'),
    "an attribute twice": in_xml('<language value="en" value="de"/>'),
    "an element twice": in_xml('<language value="en"/><language value="de"/>'),
    "UTF-16": in_xml("").decode().encode("utf-16"),
    "an attribute of 10 MB": in_xml(f'<language value="{"e" * LONG}"/>'),
    "a long name": in_xml(f"<{'n' * 100_000}/>"),
    "JSON": json.dumps(OBSERVATION).encode(),
    "R5": in_xml('<triggeredBy><observation><reference value="Observation/1"/></observation></triggeredBy>'),
}


@BOTH
def test_a_body_that_is_no_resource_is_refused_in_json(refused: Any) -> None:
    for body in BODIES.values():
        refused("POST", "/fhir/Observation", body)
        refused("PUT", "/fhir/Observation/o", body)


def test_a_body_that_is_no_resource_is_refused_in_xml(refused: Any) -> None:
    for body in XML_BODIES.values():
        told = refused("POST", "/fhir/Observation", body, XML)
        assert "root:" not in json.dumps(told)


def test_a_body_that_is_no_resource_is_refused_wherever_one_is_sent(refused: Any) -> None:
    for name, body in BODIES.items():
        if name in ("a type that is none", "no type", "STU3", "R5", "another type", "bad base64"):
            continue
        refused("POST", "/fhir", body)
        refused("PATCH", "/fhir/Observation/o", body)
        refused("PATCH", "/fhir/Observation/o", body, "application/json-patch+json")
        refused("POST", "/fhir/Observation/o/$meta-add", body)


def test_validation_says_of_hostile_resources_what_a_write_would_say(client: Any) -> None:
    for name, body in BODIES.items():
        answer = client.post("/fhir/Observation/$validate", content=body, headers={"content-type": JSON})
        assert answer.status_code in (200, 400)
        severities = {issue["severity"] for issue in answer.json()["issue"]}
        assert severities & {"error", "fatal"}, name


def test_a_text_of_a_megabyte_is_kept_and_one_of_ten_is_refused(client: Any) -> None:
    def sent(size: int) -> int:
        status: int = client.post("/fhir/Observation", json=observation(note=[{"text": "s" * size}])).status_code
        return status

    assert sent(1 << 20) == 201
    assert sent(LONG) == 422


@pytest.mark.parametrize("id", ["a_b", "a" * 65, "ä", "a b", "a\\b", "a|b", "é" * 10, "$", "_x", ".."])
def test_an_id_that_is_none_is_refused(refused: Any, id: str) -> None:
    address = "/fhir/Observation/" + "".join(f"%{byte:02X}" for byte in id.encode())
    refused("PUT", address, observation(id=id))
    refused("GET", address)
    refused("PATCH", address, b'[{"op":"remove","path":"/status"}]', "application/json-patch+json")
    refused("POST", "/fhir", transaction(entry("PUT", f"Observation/{id}", observation(id=id))))


ADDRESSES = [
    "/fhir/%2e%2e/%2e%2e/etc/passwd",
    "/fhir/Observation/..%2f..%2fetc",
    "/fhir/Observation/%00",
    "/fhir/%00",
    "/fhir/Observation/o/_history/-1",
    "/fhir/Observation/o/_history/0",
    "/fhir/Observation/o/_history/99999999999999999999999",
    "/fhir/Observation/o/_history/%D9%A1",
    "/fhir/Observation/%ff%fe",
    "/fhir/observation",
    "/fhir/__class__",
    "/fhir/Observation/o/p/q/r/s/t",
    "/fhir/" + "a/" * 2000,
    "/fhir/f/no%20facility/Observation/o",
    "/fhir/f/" + "n" * 70 + "/Observation/o",
]


@BOTH
def test_an_address_that_leads_nowhere_is_refused(refused: Any) -> None:
    for address in ADDRESSES:
        refused("GET", address)
        refused("PUT", address, observation(id="o"))
    refused("TRACE", "/fhir/Observation", status=405)
    refused("BREW", "/fhir/Observation/o", status=405)
    refused("OPTIONS", "/fhir", status=405)
    refused("GET", "/fhir/metadata", host="elsewhere.example", status=400)
    refused("GET", "/fhir/Observation/o", authorization="Bearer of.bad.news", status=401)


SEARCHES = [
    "code:sideways=x",
    "code:exact=x",
    "status:in=http://x",
    "code:missing=perhaps",
    "date=yesterday",
    "date=2026-13-01",
    "date=2026-02-30",
    "date=eq",
    "date=zz2026",
    "date=0000",
    "date=99999-01-01",
    "date=2026-01-01T25:00:00Z",
    "value-quantity=NaN",
    "value-quantity=1e",
    "value-quantity=" + "9" * 5000,
    "_count=-1",
    "_count=x",
    "_count=1.5",
    "_count=%D9%A1",
    "_count=99999999999999999999999999",
    "_lastUpdated=never",
    "_sort=nothing",
    "_include=*:*:*:*",
    "_include=Observation:nothing",
    "_include=Nothing:subject",
    "_include:sideways=Observation:subject",
    "_revinclude=Provenance:nothing",
    "_has:Observation=x",
    "_has:Nothing:subject:code=x",
    "_has:" + "Observation:subject:_has:" * 50 + "code=x",
    "subject:Patient." + "link:Patient." * 50 + "name=x",
    "subject:Nothing.name=x",
    "subject.nothing=x",
    "subject.code=x",
    "_summary=maybe",
    "_total=some",
    "_cursor=x",
    "_page=x",
    "_cursor=" + base64.urlsafe_b64encode(b'["x",1,null]').decode(),
    "_page=" + base64.urlsafe_b64encode(b'["x",1,null]').decode(),
    "_format=html",
    "_format=" + "x" * 5000,
    "code=a%00b",
    "_id=a%00b",
    "subject=Patient/a%00b",
    "value-string=%00",
    "code=%FF",
    "_filter=name eq x",
    "&".join(f"code={number}" for number in range(2000)),
    "code=" + ",".join("x" * 10 for _ in range(5000)),
]
"""Searches for Observation that mean nothing, or too much."""


@BOTH
def test_a_search_that_means_nothing_is_refused(refused: Any, client: Any) -> None:
    for search in SEARCHES:
        refused("GET", f"/fhir/Observation?{search}", prefer="handling=strict")
        if "_format" not in search and "%" not in search:
            form = "application/x-www-form-urlencoded"
            refused("POST", "/fhir/Observation/_search", search.encode(), form, prefer="handling=strict")


def test_a_condition_that_means_nothing_is_refused(refused: Any) -> None:
    for search in SEARCHES:
        if search.startswith(("_format", "_summary", "_total", "_count", "_sort", "_include", "_revinclude")):
            continue
        refused("PUT", f"/fhir/Observation?{search}", OBSERVATION)
        refused("DELETE", f"/fhir/Observation?{search}")
        if search.isascii() and "%" not in search:
            refused("POST", "/fhir/Observation", OBSERVATION, if_none_exist=search)


def test_a_page_has_no_more_than_it_may_however_many_are_asked_for() -> None:
    assert parse_query("Observation", [("_count", "1000000")], root="http://x/fhir").count == MOST


HEADERS = [
    ({"if-match": "1"}, 400),
    ({"if-match": 'W/"x"'}, 400),
    ({"if-match": 'W/"1", W/"2"'}, 400),
    ({"if-match": 'W/"' + "9" * 30 + '"'}, 400),
    ({"if-match": 'W/"999999999"'}, 412),
    ({"if-none-exist": "code:sideways=x"}, 0),
    ({"content-type": "text/html"}, 415),
    ({"content-type": "application/json; fhirVersion=5.0"}, 415),
    ({"content-type": "application/fhir+json; fhirVersion=3.0"}, 415),
    ({"content-type": "application/fhir+json; charset=utf-16"}, 415),
    ({"content-type": "*/*"}, 415),
    ({"content-type": ""}, 415),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ({"accept": "application/fhir+json; fhirVersion=5.0"}, 406),
    ({"accept": "text/html"}, 406),
    ({"accept": "application/fhir+json;q=0"}, 406),
    ({"content-encoding": "gzip"}, 415),
    ({"content-encoding": "br"}, 415),
]


@pytest.mark.parametrize(("headers", "status"), HEADERS, ids=lambda value: str(value)[:60])
def test_a_header_that_asks_for_what_is_not_done_is_refused(refused: Any, headers: dict[str, str], status: int) -> None:
    sent = {name.replace("-", "_"): value for name, value in headers.items()}
    kind = sent.pop("content_type", JSON)
    body = json.dumps(observation(id="o")).encode()
    encoding = headers.get("content-encoding")
    method, path = ("POST", "/fhir/Observation") if "if-none-exist" in headers else ("PUT", "/fhir/Observation/o")
    refused(method, path, gzip.compress(body) if encoding else body, kind, status=status, **sent)


# -- Bundles -----------------------------------------------------------------------------------------------------------


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        told["resource"] = resource
    return {**told, "fullUrl": full_url} if full_url else told


def transaction(*entries: Any) -> dict[str, Any]:
    """A transaction whose first entry would be written, were it alone."""
    good = entry("POST", "Observation", OBSERVATION)
    return {"resourceType": "Bundle", "type": "transaction", "entry": [good, *entries]}


ONE = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"
BUNDLES: dict[str, dict[str, Any]] = {
    "too many entries": {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [entry("POST", "Observation", OBSERVATION)] * 5001,
    },
    "a document": {"resourceType": "Bundle", "type": "document"},
    "no type": {"resourceType": "Bundle"},
    "entries that are no list": {"resourceType": "Bundle", "type": "transaction", "entry": {"a": 1}},
    "an entry that is text": transaction("x"),
    "no request": transaction({"resource": OBSERVATION}),
    "a request that is a list": transaction({"request": []}),
    "a method that is none": transaction(entry("BREW", "Observation", OBSERVATION)),
    "an address that is a list": transaction({"request": {"method": "GET", "url": []}}),
    "an address elsewhere": transaction(entry("POST", "http://other.example/fhir/Observation", OBSERVATION)),
    "an address above": transaction(entry("PUT", "../../Observation/o", observation(id="o"))),
    "a NUL in an address": transaction(entry("GET", "Observation/%00")),
    "a NUL in a condition": transaction(entry("POST", "Observation", OBSERVATION, ifNoneExist="code=%00")),
    "no resource": transaction(entry("POST", "Observation")),
    "a resource that is text": transaction(entry("POST", "Observation", "x")),
    "a resource of another type": transaction(entry("POST", "Patient", OBSERVATION)),
    "a resource that breaks a rule": transaction(entry("POST", "Observation", observation(status="perhaps"))),
    "a Bundle in a Bundle": transaction(
        entry("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": []})
    ),
    "one that meets itself": transaction(
        entry(
            "POST",
            "Observation",
            observation(
                identifier=[{"system": "urn:x", "value": "self"}],
                hasMember=[{"reference": "Observation?identifier=urn:x|self"}],
            ),
        )
    ),
    "two that meet each other": transaction(
        *(
            entry(
                "POST",
                "Observation",
                observation(
                    identifier=[{"system": "urn:x", "value": mine}],
                    hasMember=[{"reference": f"Observation?identifier=urn:x|{other}"}],
                ),
            )
            for mine, other in (("a", "b"), ("b", "a"))
        )
    ),
    "a link to nothing": transaction(
        entry("POST", "Observation", observation(hasMember=[{"reference": "urn:uuid:nowhere"}]))
    ),
    "a condition that means nothing": transaction(
        entry("POST", "Observation", observation(hasMember=[{"reference": "Observation?code:sideways=x"}]))
    ),
    "a condition on a type that is none": transaction(
        entry("POST", "Observation", observation(hasMember=[{"reference": "Nothing?code=x"}]))
    ),
    "one address of two": transaction(
        entry("POST", "Observation", OBSERVATION, ONE), entry("POST", "Observation", OBSERVATION, ONE)
    ),
    "one resource written twice": transaction(
        entry("PUT", "Observation/o", observation(id="o")), entry("PUT", "Observation/o", observation(id="o"))
    ),
    "one resource written and deleted": transaction(
        entry("PUT", "Observation/o", observation(id="o")), entry("DELETE", "Observation/o")
    ),
    "a version that was not read": transaction(
        entry("PUT", "Observation/o", observation(id="o"), ifMatch='W/"7"'),
    ),
    "a version that is none": transaction(entry("PUT", "Observation/o", observation(id="o"), ifMatch="seven")),
    "a version that is a number": transaction(entry("PUT", "Observation/o", observation(id="o"), ifMatch=7)),
    "a condition that is a list": transaction(entry("POST", "Observation", OBSERVATION, ifNoneExist=["x"])),
    "a time that is none": transaction(entry("GET", "Observation/o", ifModifiedSince="then")),
    "a patch in bad base64": transaction(
        entry(
            "PATCH",
            "Observation/o",
            {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": "%%"},
        )
    ),
    "a patch that is none": transaction(entry("PATCH", "Observation/o", OBSERVATION)),
    "what cannot be read": transaction(entry("GET", "Observation/never")),
    "a search that means nothing": transaction(entry("GET", "Observation?code:sideways=x")),
}


@BOTH
def test_of_a_bundle_that_cannot_be_done_nothing_is_done(refused: Any) -> None:
    for bundle in BUNDLES.values():
        refused("POST", "/fhir", bundle)


def test_an_entry_of_a_batch_that_cannot_be_done_leaves_the_others_alone(client: Any) -> None:
    for bundle in BUNDLES.values():
        if bundle.get("type") != "transaction" or len(bundle["entry"]) > 10:
            continue
        answer = client.post("/fhir", json=bundle | {"type": "batch"})
        assert answer.status_code in (200, 400)
        for told in answer.json().get("entry", []):
            assert told["response"]["status"][:1] in "24", bundle


def test_five_thousand_entries_are_not_too_many(client: Any) -> None:
    entries = [entry("GET", "Observation/never")] * 5000
    answer = client.post("/fhir", json={"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert answer.status_code == 200
    assert len(answer.json()["entry"]) == 5000


# -- operations and patches --------------------------------------------------------------------------------------------

PATCHES = [
    b"[",
    b"{}",
    b"[1]",
    b'[{"op":"brew","path":"/status"}]',
    b'[{"op":"replace","path":"status","value":"x"}]',
    b'[{"op":"replace","path":"/__class__","value":"x"}]',
    b'[{"op":"replace","path":"/code/text","value":NaN}]',
    b'[{"op":"copy","from":"","path":"/code/coding"}]',
    b'[{"op":"move","from":"/code","path":"/code/coding"}]',
    b'[{"op":"add","path":"/note/99999999999999999999","value":{"text":"x"}}]',
    b'[{"op":"add","path":"/resourceType","value":"Patient"}]',
    b'[{"op":"replace","path":"/id","value":"p"}]',
    b'[{"op":"add","path":"/note","value":' + b"[" * DEEP + b"]" * DEEP + b"}]",
    b"[" + b",".join([b'{"op":"copy","from":"/code","path":"/code/coding"}'] * 10_000) + b"]",
    b'[{"op":"add","path":"/' + b"a/" * 100_000 + b'","value":1}]',
]
BOMB = [{"op": "copy", "from": "", "path": f"/x{number}"} for number in range(60)]
EXPRESSIONS = ["", "Observation.", "(" * 10_000, "Observation.code" * 5_000, "1/0", "Observation.where(", "%x", "\x00"]


def test_a_patch_that_cannot_be_done_changes_nothing(client: Any) -> None:
    before = client.put("/fhir/Observation/o", json=observation(id="o")).json()
    bodies = [(body, "application/json-patch+json") for body in (*PATCHES, json.dumps(BOMB).encode())]
    for expression in EXPRESSIONS:
        parts = {"type": "replace", "path": expression, "value": "x"}
        part = [{"name": name, f"value{'Code' if name == 'type' else 'String'}": text} for name, text in parts.items()]
        patch = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": part}]}
        bodies.append((json.dumps(patch).encode(), JSON))
    for body, kind in bodies:
        answer = client.patch("/fhir/Observation/o", content=body, headers={"content-type": kind})
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert client.get("/fhir/Observation/o").json() == before


# -- many at once ------------------------------------------------------------------------------------------------------


@BOTH
def test_of_a_hundred_who_claim_a_task_at_once_one_has_it(client: Any) -> None:
    task = client.post("/fhir/Task", json={"resourceType": "Task", "status": "ready", "intent": "order"}).json()
    owners = [f"Practitioner/r{number}" for number in range(100)]

    def claim(owner: str) -> Any:
        claimed = task | {"status": "in-progress", "owner": {"reference": owner}}
        return client.put(f"/fhir/Task/{task['id']}", json=claimed, headers={"if-match": 'W/"1"'})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(claim, owners))
    assert sorted({answer.status_code for answer in answers}) == [200, 412]
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert client.get(f"/fhir/Task/{task['id']}").json() == winner
    lost = [answer.json() for answer in answers if answer.status_code == 412]
    assert all(one["resourceType"] == "OperationOutcome" for one in lost)
