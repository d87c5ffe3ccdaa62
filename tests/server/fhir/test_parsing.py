"""JSON of FHIR: what is refused and why, and that what comes back is what was sent."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.fhir.outcome import BadResource
from server.fhir.parsing import Number, dump_json, parse_json, read_json, splice, with_head


def observation(*members: str) -> bytes:
    return ("{" + ", ".join(['"resourceType": "Observation"', *members]) + "}").encode()


@pytest.mark.parametrize(
    "text", ["72.50", "1e2", "-0.0", "1.00E-3", "12345678901234567890123", "0.1000000000000000001", "-0"]
)
def test_a_number_keeps_its_text(text: str) -> None:
    resource = parse_json(observation(f'"valueQuantity":{{"value":{text}}}'))
    value = resource["valueQuantity"]["value"]
    assert isinstance(value, Number)
    assert value == Decimal(text)
    assert dump_json(value) == text.encode()


def test_a_small_integer_is_an_integer() -> None:
    value = parse_json(observation('"valueInteger":-42'))["valueInteger"]
    assert type(value) is int
    assert value == -42


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "resourceType"),
        (b'{"id":"1"}', "resourceType"),
        (b'{"resourceType":3}', "resourceType"),
        (observation('"id":"\xff"').decode().encode("latin-1"), "not UTF-8"),
        (b"\xef\xbb\xbf" + observation(), "no JSON"),
        (observation('"id":"1"', '"id":"1"'), "the member id twice"),
        (observation('"code":{"text":"a","text":"a"}'), "the member text twice"),
        (observation('"valueDecimal":NaN'), "NaN"),
        (observation('"valueDecimal":-Infinity'), "-Infinity"),
        (observation('"valueDecimal":01'), "no JSON"),
        (observation('"valueDecimal":' + "9" * 5000), "64 digits"),
        (observation('"valueDecimal":1e999999999'), "exponent"),
        (observation('"valueDecimal":1e-999999999999999999999999'), "exponent"),
        (observation('"status":"final",'), "no JSON"),
        (observation('"status":"a\nb"'), "no JSON"),
        (b'{"resourceType":"Observation","note":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "levels deep"),
        (b'{"resourceType":"Observation","note":' + b'{"a":' * 90 + b"1" + b"}" * 90 + b"}", "levels deep"),
        (b'{"resourceType":"Observation","note":' + b'{"a":' * 200_000 + b"}", "levels deep"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_resource_is_refused_with_the_reason(body: bytes, said: str) -> None:
    with pytest.raises(BadResource, match=said):
        parse_json(body)


@pytest.mark.parametrize(
    ("member", "where"),
    [
        ('"status":""', "Observation.status"),
        ('"status":null', "Observation.status"),
        ('"note":[]', "Observation.note"),
        ('"note":[null]', "Observation.note"),
        ('"note":[{"text":"a"},{}]', "Observation.note[1]"),
        (
            '"component":[{"code":{"text":"a"}},{"code":{"coding":[{"code":""}]}}]',
            "Observation.component[1].code.coding[0].code",
        ),
        ('"note":[{"text":"a\\u0000b"}]', "Observation.note[0].text"),
        ('"note":[{"text":"a\\bb"}]', "Observation.note[0].text"),
        ('"note":[{"text":"\\ud800"}]', "Observation.note[0].text"),
        ('"note":[{"text":"\uffff"}]', "Observation.note[0].text"),
    ],
)
def test_what_json_of_fhir_never_holds_is_named_by_its_path(member: str, where: str) -> None:
    with pytest.raises(BadResource) as caught:
        parse_json(observation(member))
    assert [issue.expression for issue in caught.value.issues] == [where]


def test_all_faults_are_told_in_order_and_no_more_than_a_few() -> None:
    with pytest.raises(BadResource) as caught:
        parse_json(observation('"b":null', '"a":""'))
    assert [issue.expression for issue in caught.value.issues] == ["Observation.a", "Observation.b"]
    with pytest.raises(BadResource) as caught:
        parse_json(observation('"note":[' + ",".join(["{}"] * 1000) + "]"))
    assert len(caught.value.issues) == 20


def test_null_may_stand_beside_an_extension_in_an_array() -> None:
    body = b'{"resourceType":"Patient","name":[{"given":["A",null],"_given":[null,{"id":"x"}]}]}'
    assert parse_json(body)["name"][0]["given"] == ["A", None]


def test_escapes_of_what_may_be_written_are_read() -> None:
    body = observation('"status":"a\\tb\\u00e9\\ud83d\\ude00"')
    assert parse_json(body)["status"] == "a\tb\u00e9\U0001f600"


def test_a_body_past_the_limit_is_not_read() -> None:
    with pytest.raises(BadResource, match="at most 10 are read"):
        parse_json(observation(), max_bytes=10)


def test_any_json_may_be_read_where_no_resource_is_asked_for() -> None:
    assert read_json(b'[{"op":"add","path":"/note","value":[]},null,1.50]') == [
        {"op": "add", "path": "/note", "value": []},
        None,
        Decimal("1.50"),
    ]
    with pytest.raises(BadResource, match="levels deep"):
        read_json(b"[" * 70 + b"]" * 70)
    with pytest.raises(BadResource, match="twice"):
        read_json(b'{"a":1,"a":2}')


def test_what_is_stored_comes_back_byte_for_byte_but_for_its_head() -> None:
    body = b""" {
  "id" : "mine", "resourceType":"Observation",
  "valueQuantity" : { "value" : 72.50, "unit": "kg\\u00e9 \\"}{\\"" }  ,
  "meta":{"tag":[{"code":"},"}]},
  "_id": {"extension":[{"url":"http://example.org/a","valueString":"\xc3\xa9"}]}
} """
    rest = splice(body)
    assert rest == (
        b'{\n  "valueQuantity" : { "value" : 72.50, "unit": "kg\\u00e9 \\"}{\\"" }  ,\n'
        b'  "_id": {"extension":[{"url":"http://example.org/a","valueString":"\xc3\xa9"}]}\n}'
    )
    whole = with_head(rest, "Observation", "a1", {"versionId": "2"})
    assert whole == b'{"resourceType":"Observation","id":"a1","meta":{"versionId":"2"},' + rest[1:]
    assert parse_json(whole)["valueQuantity"]["value"].text == "72.50"
    assert splice(whole) == rest


def test_a_resource_of_nothing_but_its_head_can_be_spliced() -> None:
    rest = splice(b'{ "resourceType" : "Patient" , "id" : "1" }')
    assert rest == b"{}"
    assert with_head(rest, "Patient", "2", {"versionId": "1"}) == (
        b'{"resourceType":"Patient","id":"2","meta":{"versionId":"1"}}'
    )
    assert splice(b'{"meta":{},"a":1}') == b'{"a":1}'


values = st.recursive(
    st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(min_size=1)
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(), inner, min_size=1, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    members=st.dictionaries(st.text() | st.sampled_from(["id", "meta"]), values, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    is_ascii=st.booleans(),
)
def test_whatever_is_spliced_keeps_its_members_and_their_order(
    members: dict[str, object], indent: int | None, is_ascii: bool
) -> None:
    members = {**members, "resourceType": "Basic"}
    body = json.dumps(members, indent=indent, ensure_ascii=is_ascii, default=float).encode("utf-8", "surrogatepass")
    left = [(name, value) for name, value in json.loads(body).items() if name not in ("resourceType", "id", "meta")]
    assert list(json.loads(splice(body)).items()) == left
    headed = json.loads(with_head(splice(body), "Basic", "1", {}))
    assert list(headed.items()) == [("resourceType", "Basic"), ("id", "1"), ("meta", {}), *left]
