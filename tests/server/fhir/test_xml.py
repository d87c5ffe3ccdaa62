"""XML of FHIR: the same resource as in JSON, and nothing that XML can do to a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from server.fhir.outcome import BadResource
from server.fhir.parsing import Number, parse_json
from server.fhir.validation import check_resource
from server.fhir.xml import FHIR, from_xml, to_xml
from tests.corpus import each_example

PATIENT = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Patient xmlns="http://hl7.org/fhir"><id value="p1"/><active value="true"/>'
    '<name><given value="A"/><given id="g"><extension url="urn:a"><valueCode value="b"/></extension></given></name>'
    '<multipleBirthInteger value="2"/></Patient>'
)


def canonical(value: Any) -> Any:
    """The values of a resource, with narratives in canonical XML."""
    if isinstance(value, dict):
        return {name: etree.canonicalize(each) if name == "div" else canonical(each) for name, each in value.items()}
    if isinstance(value, list):
        return [canonical(each) for each in value]
    return value.text if isinstance(value, Number) else value


def document(inner: str, type: str = "Patient") -> bytes:
    return f'<{type} xmlns="{FHIR}">{inner}</{type}>'.encode()


@each_example()
def test_every_official_example_comes_back_from_xml_as_it_was(corpus: Path, example: Path) -> None:
    resource = parse_json(example.read_bytes())
    back = from_xml(to_xml(resource))
    assert canonical(back) == canonical(resource)
    assert check_resource(back) == []


def test_elements_stand_in_the_order_of_the_specification() -> None:
    written = to_xml(
        {
            "multipleBirthInteger": 2,
            "name": [
                {"given": ["A", None], "_given": [None, {"extension": [{"valueCode": "b", "url": "urn:a"}], "id": "g"}]}
            ],
            "active": True,
            "id": "p1",
            "resourceType": "Patient",
        }
    )
    assert written.decode() == PATIENT
    assert to_xml(from_xml(written)) == written


def test_what_is_an_attribute_in_xml_is_a_member_in_json() -> None:
    resource = from_xml(
        document('<extension id="e" url="urn:a"><extension url="b"><valueCode value="c"/></extension></extension>')
    )
    assert resource == {
        "resourceType": "Patient",
        "extension": [{"id": "e", "url": "urn:a", "extension": [{"url": "b", "valueCode": "c"}]}],
    }


def test_numbers_keep_their_digits() -> None:
    value = from_xml(document('<valueQuantity><value value="72.50"/></valueQuantity>', "Observation"))["valueQuantity"][
        "value"
    ]
    assert (type(value), value.text) == (Number, "72.50")
    assert b'<value value="1.0E-3"/>' in to_xml(
        {"resourceType": "Observation", "valueQuantity": {"value": Number("1.0E-3")}}
    )


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\ufffe\uffff").filter(
            lambda each: each >= " " or each in "\t\n\r"
        ),
        min_size=1,
    )
)
def test_any_text_that_may_be_written_comes_back(text: str) -> None:
    resource = {"resourceType": "Basic", "code": {"text": text}}
    assert from_xml(to_xml(resource)) == resource


def test_a_contained_resource_and_one_in_a_bundle_are_read_as_what_they_are() -> None:
    resource = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": {"resourceType": "Patient", "contained": [{"resourceType": "Organization", "id": "o"}]}},
            {"resource": {"resourceType": "Binary", "contentType": "text/plain", "data": "aGVsbG8="}},
        ],
    }
    assert from_xml(to_xml(resource)) == resource


def test_a_narrative_is_taken_out_of_its_surroundings() -> None:
    div = '<h:div><h:p class="a">A<h:br/>B</h:p><!-- c --> D</h:div>'
    body = f'<Patient xmlns="{FHIR}" xmlns:h="http://www.w3.org/1999/xhtml" xmlns:x="urn:x">'
    read = from_xml(f'{body}<text><status value="generated"/>{div}</text></Patient>'.encode())
    assert read["text"]["div"] == '<div xmlns="http://www.w3.org/1999/xhtml"><p class="a">A<br/>B</p> D</div>'


def test_comments_and_space_are_passed_over() -> None:
    body = document('\n  <!-- a -->\n  <active value="true"/>\n  <?go?>\n')
    assert from_xml(b'<?xml version="1.0"?>\n' + body) == {"resourceType": "Patient", "active": True}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no XML"),
        (b"<Patient", "no XML"),
        (b"<Patient/>", "of the namespace"),
        (document("", "Nonsense"), "of the namespace"),
        (b'<Patient xmlns="http://hl7.org/fhir"><active value="\xff"/></Patient>', "not UTF-8"),
        (document('<active value="true"/>').decode().encode("utf-16"), "not UTF-8"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + document('<id value="&b;"/>'), "no DOCTYPE"),
        (b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a">' + document(""), "no DOCTYPE"),
        (document('<id value="&b;"/>'), "no XML"),
        (document('<id value="a\x01"/>'), "no XML"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_is_no_xml_of_fhir_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadResource, match=said):
        from_xml(body)


@pytest.mark.parametrize(
    ("inner", "where"),
    [
        ("<nonsense/>", "Patient.nonsense"),
        ('<x:active xmlns:x="urn:x" value="true"/>', "Patient"),
        ('<active value="yes"/>', "Patient.active"),
        ('<active value=""/>', "Patient.active"),
        ("<active/>", "Patient.active"),
        ('<active value="true" lang="en"/>', "Patient.active"),
        ('<active value="true"/><active value="true"/>', "Patient.active"),
        ('<name use="official"/>', "Patient.name[0]"),
        ("<name>A</name>", "Patient.name[0]"),
        ('<active value="true">A</active>', "Patient.active"),
        ('<multipleBirthInteger value="01"/>', "Patient.multipleBirthInteger"),
        ('<multipleBirthInteger value="NaN"/>', "Patient.multipleBirthInteger"),
        ("<contained/>", "Patient.contained[0]"),
        ("<contained><Nonsense/></contained>", "Patient.contained[0]"),
        ("<contained><Basic/><Basic/></contained>", "Patient.contained[0]"),
        ("<text><div/></text>", "Patient.text.div"),
        ('<extension><url value="urn:a"/></extension>', "Patient.extension[0].url"),
        ('<name><given value="A"/><given/></name>', "Patient.name[0].given[1]"),
    ],
)
def test_what_r4_does_not_have_is_named_by_its_path(inner: str, where: str) -> None:
    with pytest.raises(BadResource) as caught:
        from_xml(document(inner))
    assert [issue.expression for issue in caught.value.issues] == [where]


def test_what_is_too_deep_or_too_long_is_refused() -> None:
    deep = '<extension url="a">' * 200 + "</extension>" * 200
    with pytest.raises(BadResource, match="levels deep"):
        from_xml(document(deep))
    with pytest.raises(BadResource, match="levels deep"):
        from_xml(document('<extension url="a">' * 40 + '<valueCode value="b"/>' + "</extension>" * 40))
    with pytest.raises(BadResource, match=r"no XML|levels deep"):
        from_xml(document('<extension url="a">' * 10_000 + "</extension>" * 10_000))
    with pytest.raises(BadResource, match="at most 10 are read"):
        from_xml(document(""), max_bytes=10)
    text = '<h:p xmlns:h="http://www.w3.org/1999/xhtml">'
    narrative = (
        f'<text><div xmlns="http://www.w3.org/1999/xhtml">{text * 3000}{"a" * (8 << 20)}{"</h:p>" * 3000}</div></text>'
    )
    with pytest.raises(BadResource, match=r"no XML|not that deep"):
        from_xml(document(narrative))


def test_long_bytes_are_read_and_written() -> None:
    resource = {"resourceType": "Binary", "contentType": "text/plain", "data": "aGVs" * (3 << 20)}
    assert from_xml(to_xml(resource)) == resource


def test_what_r4_does_not_have_is_not_written() -> None:
    with pytest.raises(BadResource) as caught:
        to_xml({"resourceType": "Patient", "nonsense": 1})
    assert caught.value.issues[0].expression == "Patient.nonsense"
    with pytest.raises(BadResource, match="no type"):
        to_xml({"resourceType": "Nonsense"})
    with pytest.raises(BadResource, match="div"):
        to_xml({"resourceType": "Patient", "text": {"status": "empty", "div": "</text><active value='true'/>"}})
