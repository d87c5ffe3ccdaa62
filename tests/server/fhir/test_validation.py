"""What R4 asks of a resource, and by which path a fault is named."""

from __future__ import annotations

import copy
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from server.fhir.outcome import Issue
from server.fhir.parsing import parse_json
from server.fhir.validation import MAX_ISSUES, check_resource
from tests.corpus import each_example

REPORT: dict[str, Any] = {
    "resourceType": "DiagnosticReport",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2"}]},
    "subject": {"reference": "Patient/1"},
    "effectiveDateTime": "2026-03-01T10:00:00+01:00",
}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
    "valueQuantity": {"value": Decimal("72.50"), "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
}
ORGANIZATION = {"resourceType": "Organization", "id": "o", "name": "Group"}


def faults(resource: dict[str, Any]) -> list[tuple[str, str]]:
    return [(issue.code, issue.expression) for issue in check_resource(resource)]


def report(**members: Any) -> dict[str, Any]:
    return {**copy.deepcopy(REPORT), **members}


def observation(**members: Any) -> dict[str, Any]:
    return {**copy.deepcopy(OBSERVATION), **members}


@each_example()
def test_every_official_example_is_taken(corpus: Path, example: Path) -> None:
    resource = parse_json(example.read_bytes())
    before = copy.deepcopy(resource)
    assert check_resource(resource, type=resource["resourceType"]) == []
    assert resource == before


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"nonsense": 1}, "DiagnosticReport.nonsense"),
        ({"media": [{"link": {"reference": "Media/1"}, "Comment": "a"}]}, "DiagnosticReport.media[0].Comment"),
        ({"result": {"reference": "Observation/1"}}, "DiagnosticReport.result"),
        ({"result": ["Observation/1"]}, "DiagnosticReport.result[0]"),
        ({"subject": [{"reference": "Patient/1"}]}, "DiagnosticReport.subject"),
        ({"code": "24627-2"}, "DiagnosticReport.code"),
        ({"effective": "2026"}, "DiagnosticReport.effective"),
        ({"effectivePeriod": {"start": "2026"}}, "DiagnosticReport.effective"),
        ({"effectiveInstant": "2026-03-01T10:00:00Z"}, "DiagnosticReport.effectiveInstant"),
        ({"_subject": {"id": "a"}}, "DiagnosticReport._subject"),
        ({"_status": [{"id": "a"}]}, "DiagnosticReport._status"),
        ({"fhir_comments": ["a"]}, "DiagnosticReport.fhir_comments"),
        ({"contained": 1}, "DiagnosticReport.contained"),
        ({"contained": ["a"]}, "DiagnosticReport.contained[0]"),
        ({"note": None}, "DiagnosticReport.note"),
        ({"a" * 100: 1}, "DiagnosticReport.'" + "a" * 64 + "'"),
    ],
)
def test_what_has_another_structure_is_named_by_its_path(members: dict[str, Any], where: str) -> None:
    assert faults(report(**members)) == [("structure", where)]


def test_what_is_required_and_missing_is_named() -> None:
    assert faults({"resourceType": "DiagnosticReport"}) == [
        ("required", "DiagnosticReport.code"),
        ("required", "DiagnosticReport.status"),
    ]
    assert faults(report(media=[{"comment": "a"}])) == [("required", "DiagnosticReport.media[0].link")]


def test_a_required_element_may_say_by_an_extension_why_it_is_absent() -> None:
    absent = {
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "masked"}]
    }
    resource = {"resourceType": "Flag", "_status": absent, "code": {"text": "a"}, "subject": {"display": "one"}}
    assert faults(resource) == []


@pytest.mark.parametrize(
    ("type", "member", "value", "is_right"),
    [
        ("DiagnosticReport", "effectiveDateTime", "2026", True),
        ("DiagnosticReport", "effectiveDateTime", "2024-02-29", True),
        ("DiagnosticReport", "effectiveDateTime", "2026-02-29", False),
        ("DiagnosticReport", "effectiveDateTime", "2026-03-01T10:00:00", False),
        ("DiagnosticReport", "effectiveDateTime", "2026-03-01T10:00Z", False),
        ("DiagnosticReport", "effectiveDateTime", "2026-03-01T10:00:00.123456-05:00", True),
        ("DiagnosticReport", "effectiveDateTime", "2026-03-01T24:00:00Z", False),
        ("DiagnosticReport", "effectiveDateTime", "20260301", False),
        ("DiagnosticReport", "effectiveDateTime", 2026, False),
        ("DiagnosticReport", "issued", "2026-03-01T10:00:00Z", True),
        ("DiagnosticReport", "issued", "2026-03-01", False),
        ("DiagnosticReport", "conclusion", "x" * (1 << 20), True),
        ("DiagnosticReport", "conclusion", "x" * ((1 << 20) + 1), False),
        ("DiagnosticReport", "conclusion", 3, False),
        ("DiagnosticReport", "conclusion", "", False),
        ("DiagnosticReport", "conclusion", "Sans\u00a0particularit\u00e9 \u3000\n", True),
        ("DiagnosticReport", "id", "a.b-C9", True),
        ("DiagnosticReport", "id", "a_b", False),
        ("DiagnosticReport", "id", "a" * 65, False),
        ("DiagnosticReport", "language", "en-US", True),
        ("DiagnosticReport", "language", " en", False),
        ("DiagnosticReport", "implicitRules", "http://example.org/a b", False),
        ("Patient", "birthDate", "2026-03-01T10:00:00Z", False),
        ("Patient", "active", "true", False),
        ("Patient", "active", 1, False),
        ("Patient", "multipleBirthInteger", 2, True),
        ("Patient", "multipleBirthInteger", True, False),
        ("Patient", "multipleBirthInteger", Decimal("1.0"), False),
        ("Patient", "multipleBirthInteger", 1 << 31, False),
    ],
)
def test_primitive_values_are_written_as_r4_writes_them(type: str, member: str, value: Any, is_right: bool) -> None:
    resource = {**(REPORT if type == "DiagnosticReport" else {"resourceType": "Patient"}), member: value}
    assert faults(resource) == ([] if is_right else [("value", f"{type}.{member}")])


@pytest.mark.parametrize(
    ("data", "is_right"),
    [
        ("aGVsbG8=", True),
        ("aGVs\nbG8=", True),
        ("aGVsbG8", False),
        ("aGV=sbG8", False),
        ("a b!", False),
        ("_w==", False),
    ],
)
def test_bytes_are_base64(data: str, is_right: bool) -> None:
    resource = {"resourceType": "Binary", "contentType": "text/plain", "data": data}
    assert faults(resource) == ([] if is_right else [("value", "Binary.data")])


def test_what_r4_has_and_r4b_has_not_is_taken() -> None:
    extension = {"url": "urn:a", "valueMeta": {"tag": [{"code": "b"}]}}
    assert faults({"resourceType": "Patient", "extension": [extension]}) == []


def test_a_code_is_of_its_required_binding() -> None:
    (issue,) = check_resource(report(status="done"))
    assert (issue.code, issue.expression) == ("code-invalid", "DiagnosticReport.status")
    assert "amended, appended, cancelled, corrected" in issue.diagnostics
    assert faults(report(status=["final"])) == [("value", "DiagnosticReport.status")]


@pytest.mark.parametrize(
    ("subject", "is_right"),
    [
        ({"reference": "Patient/1"}, True),
        ({"reference": "http://example.org/fhir/Patient/1/_history/2"}, True),
        ({"reference": "Patient?identifier=a|b"}, True),
        ({"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}, True),
        ({"identifier": {"value": "1"}}, True),
        ({"type": "Patient", "display": "one"}, True),
        ({"reference": "Practitioner/1"}, False),
        ({"reference": "https://example.org/fhir/Practitioner/1"}, False),
        ({"type": "Practitioner", "display": "one"}, False),
        ({"reference": "Practitioner?identifier=1"}, False),
    ],
)
def test_a_reference_leads_to_a_type_that_it_may_lead_to(subject: dict[str, Any], is_right: bool) -> None:
    assert faults(report(subject=subject)) == ([] if is_right else [("value", "DiagnosticReport.subject")])


def test_the_type_of_a_reference_is_that_of_what_it_refers_to() -> None:
    assert faults(report(subject={"reference": "Patient/1", "type": "Device"})) == [
        ("value", "DiagnosticReport.subject.type")
    ]


def test_what_is_contained_keeps_the_rules_of_that() -> None:
    whole = report(contained=[ORGANIZATION], performer=[{"reference": "#o"}])
    assert faults(whole) == []
    assert faults(report(performer=[{"reference": "#o"}])) == [("not-found", "DiagnosticReport.performer[0]")]
    assert faults(report(contained=[ORGANIZATION])) == [("invariant", "DiagnosticReport.contained[0]")]
    assert faults({**whole, "subject": {"reference": "#o"}}) == [("value", "DiagnosticReport.subject")]
    for member in (
        {"contained": [{"resourceType": "Basic", "code": {"text": "a"}}]},
        {"meta": {"versionId": "1"}},
        {"meta": {"security": [{"code": "R"}]}},
    ):
        assert ("invariant", "DiagnosticReport.contained[0]") in faults({**whole, "contained": [ORGANIZATION | member]})


def test_what_is_contained_has_an_id_that_is_one() -> None:
    nameless = {"resourceType": "Organization", "id": {"a": "b"}, "name": "O"}
    assert ("value", "DiagnosticReport.contained[0].id") in faults(report(contained=[nameless]))


def test_what_is_contained_may_refer_to_what_contains_it_instead() -> None:
    device = {"resourceType": "Device", "id": "d", "patient": {"reference": "#"}}
    assert faults({"resourceType": "Patient", "contained": [device]}) == []


def test_a_resource_within_another_is_checked_as_what_it_is() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": report(status="done")}, {"resource": {"resourceType": "Nonsense"}}],
    }
    assert faults(bundle) == [
        ("code-invalid", "Bundle.entry[0].resource.status"),
        ("structure", "Bundle.entry[1].resource"),
    ]


BUNDLE = {"resourceType": "Bundle", "type": "collection"}
DOCUMENT = {
    **BUNDLE,
    "type": "document",
    "identifier": {"system": "urn:a", "value": "1"},
    "timestamp": "2026-03-01T10:00:00Z",
}


@pytest.mark.parametrize(
    ("key", "where", "resource"),
    [
        ("ele-1", "DiagnosticReport.subject", report(subject={"id": "a"})),
        ("ext-1", "DiagnosticReport.extension[0]", report(extension=[{"url": "urn:a"}])),
        (
            "ext-1",
            "DiagnosticReport.extension[0]",
            report(extension=[{"url": "urn:a", "valueCode": "a", "extension": [{"url": "b", "valueCode": "a"}]}]),
        ),
        (
            "per-1",
            "Observation.effectivePeriod",
            observation(effectivePeriod={"start": "2026-03", "end": "2026-02-20"}),
        ),
        (
            "per-1",
            "Observation.effectivePeriod",
            observation(effectivePeriod={"start": "2026-03-01T10:00:00+01:00", "end": "2026-03-01T08:59:59Z"}),
        ),
        ("qty-3", "Observation.valueQuantity", observation(valueQuantity={"value": 1, "code": "kg"})),
        (
            "rng-2",
            "Observation.referenceRange[0].age",
            observation(referenceRange=[{"text": "a", "age": {"low": {"value": 2}, "high": {"value": 1}}}]),
        ),
        ("obs-3", "Observation.referenceRange[0]", observation(referenceRange=[{"type": {"text": "a"}}])),
        ("obs-6", "Observation", observation(dataAbsentReason={"text": "lost"})),
        ("obs-7", "Observation", observation(component=[{"code": OBSERVATION["code"]}])),
        ("att-1", "DiagnosticReport.presentedForm[0]", report(presentedForm=[{"data": "aGVsbG8="}])),
        ("cpt-2", "Patient.telecom[0]", {"resourceType": "Patient", "telecom": [{"value": "1"}]}),
        ("pat-1", "Patient.contact[0]", {"resourceType": "Patient", "contact": [{"gender": "other"}]}),
        ("org-1", "Organization", {"resourceType": "Organization", "active": True}),
        ("org-2", "Organization", {**ORGANIZATION, "address": [{"use": "home"}]}),
        ("org-3", "Organization", {**ORGANIZATION, "telecom": [{"use": "home"}]}),
        ("bdl-1", "Bundle", {**BUNDLE, "total": 1}),
        ("bdl-2", "Bundle", {**BUNDLE, "entry": [{"resource": ORGANIZATION, "search": {"mode": "match"}}]}),
        ("bdl-3", "Bundle", {**BUNDLE, "entry": [{"request": {"method": "GET", "url": "Patient/1"}}]}),
        ("bdl-3", "Bundle", {**BUNDLE, "type": "batch", "entry": [{"resource": ORGANIZATION}]}),
        ("bdl-4", "Bundle", {**BUNDLE, "entry": [{"response": {"status": "200"}}]}),
        ("bdl-5", "Bundle.entry[0]", {**BUNDLE, "entry": [{"fullUrl": "urn:uuid:1"}]}),
        ("bdl-7", "Bundle", {**BUNDLE, "entry": [{"fullUrl": "urn:a", "resource": ORGANIZATION}] * 2}),
        (
            "bdl-8",
            "Bundle.entry[0]",
            {**BUNDLE, "entry": [{"fullUrl": "http://a/_history/1", "resource": ORGANIZATION}]},
        ),
        ("bdl-9", "Bundle", {name: value for name, value in DOCUMENT.items() if name != "identifier"}),
        ("bdl-10", "Bundle", {name: value for name, value in DOCUMENT.items() if name != "timestamp"}),
        ("bdl-11", "Bundle", {**DOCUMENT, "entry": [{"resource": ORGANIZATION}]}),
        ("bdl-12", "Bundle", {**BUNDLE, "type": "message", "entry": [{"resource": ORGANIZATION}]}),
        (
            "inv-1",
            "Task",
            {
                "resourceType": "Task",
                "status": "ready",
                "intent": "order",
                "authoredOn": "2026-03-02",
                "lastModified": "2026-02-20",
            },
        ),
        (
            "prr-1",
            "ServiceRequest",
            {
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "order",
                "subject": {"reference": "Patient/1"},
                "orderDetail": [{"text": "a"}],
            },
        ),
        (
            "tim-1",
            "ServiceRequest.occurrenceTiming.repeat",
            {
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "order",
                "subject": {"reference": "Patient/1"},
                "occurrenceTiming": {"repeat": {"duration": 3}},
            },
        ),
        (
            "inv-1",
            "Parameters.parameter[0]",
            {"resourceType": "Parameters", "parameter": [{"name": "a", "valueCode": "a", "resource": ORGANIZATION}]},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_invariant_is_named_by_key_and_path(key: str, where: str, resource: dict[str, Any]) -> None:
    issues = check_resource(resource)
    told = [
        issue
        for issue in issues
        if issue.code == "invariant" and f"({key})" in issue.diagnostics and issue.expression == where
    ]
    assert told, issues


def test_a_period_may_end_in_the_month_that_it_starts_in() -> None:
    assert faults(observation(effectivePeriod={"start": "2026-03-12T10:00:00Z", "end": "2026-03"})) == []
    assert faults(observation(effectivePeriod={"start": "0001", "end": "9999-12-31"})) == []
    first, last = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60-14:00"
    assert faults(observation(effectivePeriod={"start": first, "end": last})) == []
    assert ("invariant", "Observation.effectivePeriod") in faults(
        observation(effectivePeriod={"start": last, "end": first})
    )


@pytest.mark.parametrize(
    ("inner", "is_right"),
    [
        ("<p>A <b>b</b> &#160; &lt;</p>", True),
        ('<a href="http://example.org/a">a</a><img src="#p" alt="p"/>', True),
        ('<p style="color: red">a</p><!-- a -->', True),
        ('<img src="data:image/png;base64,aGVsbG8="/>', True),
        ('<p style="background: url(data: image/png;base64,aGVsbG8=)">a</p>', True),
        ("<script>a</script>", False),
        ("<p onclick='a'>a</p>", False),
        ("<a href='javascript:alert(1)'>a</a>", False),
        ("<a href=' JavaScript:alert(1)'>a</a>", False),
        ("<a href='data:text/html;base64,aGVsbG8='>a</a>", False),
        ("<p style='background: url(http://example.org/a)'>a</p>", False),
        ("<p style='width: expression(a)'>a</p>", False),
        ("<form><input/></form>", False),
        ("<iframe src='http://example.org'/>", False),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", False),
        ("<?php a?>a", False),
        ("&nbsp;", False),
        ("<p>a", False),
        ("  ", False),
        ("<p/>", False),
    ],
)
def test_a_narrative_has_text_that_is_shown_and_nothing_that_acts(inner: str, is_right: bool) -> None:
    div = f'<div xmlns="http://www.w3.org/1999/xhtml">{inner}</div>'
    found = faults(report(text={"status": "generated", "div": div}))
    assert found == ([] if is_right else [("invariant", "DiagnosticReport.text.div")])


@pytest.mark.parametrize(
    "div",
    [
        "<div>a</div>",
        '<p xmlns="http://www.w3.org/1999/xhtml">a</p>',
        "a",
        '<!DOCTYPE div [<!ENTITY a "b">]><div xmlns="http://www.w3.org/1999/xhtml">&a;</div>',
        '<div xmlns="http://www.w3.org/1999/xhtml">' + "<p>" * 5000 + "a" + "</p>" * 5000 + "</div>",
    ],
    ids=lambda div: div[:16],
)
def test_a_narrative_is_one_div_of_xhtml(div: str) -> None:
    found = faults(report(text={"status": "generated", "div": div}))
    assert found == [("invariant", "DiagnosticReport.text.div")]


def test_values_and_extensions_of_an_array_go_together() -> None:
    def patient(given: Any, beside: Any) -> list[tuple[str, str]]:
        return faults({"resourceType": "Patient", "name": [{"given": given, "_given": beside}]})

    note = {"extension": [{"url": "urn:a", "valueCode": "a"}]}
    assert patient(["A", None], [None, note]) == []
    assert patient(["A"], [note]) == []
    assert patient(["A", None], [note, None]) == [("structure", "Patient.name[0].given[1]")]
    assert patient(["A", "B"], [note]) == [("structure", "Patient.name[0]._given")]
    assert patient(["A"], note) == [("structure", "Patient.name[0]._given")]
    assert faults({"resourceType": "Patient", "name": [{"_given": [note]}]}) == []
    assert faults({"resourceType": "Patient", "name": [{"_given": [note, None]}]}) == [
        ("structure", "Patient.name[0]._given[1]")
    ]
    assert faults(
        {"resourceType": "Patient", "name": [{"family": "A", "_family": {"extension": [{"url": "urn:a"}]}}]}
    ) == [("invariant", "Patient.name[0]._family.extension[0]")]


@pytest.mark.parametrize(
    ("resource", "where", "release"),
    [
        (report(supportingInfo=[{"type": {"text": "a"}}]), "DiagnosticReport.supportingInfo", "R5"),
        (report(codedDiagnosis=[{"text": "a"}]), "DiagnosticReport.codedDiagnosis", "STU3"),
        (
            {
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "order",
                "subject": {"reference": "Patient/1"},
                "code": {"concept": {"text": "a"}},
            },
            "ServiceRequest.code.concept",
            "R5",
        ),
        (
            {
                "resourceType": "ImagingStudy",
                "status": "available",
                "subject": {"reference": "Patient/1"},
                "modality": [{"coding": [{"code": "CT"}]}],
            },
            "ImagingStudy.modality[0].coding",
            "R5",
        ),
        ({"resourceType": "ImagingSelection", "status": "available"}, "Resource", "R5"),
        ({"resourceType": "ProcedureRequest", "status": "active"}, "Resource", "STU3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_of_another_release_is_refused_with_a_hint(resource: dict[str, Any], where: str, release: str) -> None:
    told = [issue for issue in check_resource(resource) if issue.expression == where]
    assert [f"{release} has; this server speaks R4" in issue.diagnostics for issue in told] == [True]


def test_another_type_than_was_asked_for_is_refused() -> None:
    (issue,) = check_resource(report(), type="Observation")
    assert issue.diagnostics == "This is the place of Observation, not of DiagnosticReport."
    (issue,) = check_resource({"resourceType": "<script>"}, type="Observation")
    assert "script" not in issue.diagnostics
    assert faults({"resourceType": {"a": "b"}}) == [("structure", "Resource")]


def test_issues_are_few_and_in_order_and_hold_no_values() -> None:
    resource = report(effectiveDateTime="Doe^Jane", status="Doe^Jane", subject={"reference": 19700101})
    issues = check_resource(resource)
    assert [issue.expression for issue in issues] == sorted(issue.expression for issue in issues)
    assert len(issues) == 3
    assert not any("Doe" in issue.diagnostics or "1970" in issue.diagnostics for issue in issues)
    assert len(check_resource(report(note=[1] * 1000, result=[1] * 1000))) == MAX_ISSUES


def test_what_is_too_deep_is_refused_whoever_made_it() -> None:
    inner: dict[str, Any] = {"url": "urn:a", "valueCode": "a"}
    for _ in range(5000):
        inner = {"url": "urn:a", "extension": [inner]}
    (issue,) = check_resource(report(extension=[inner]))
    assert isinstance(issue, Issue)
    assert issue.code == "too-long"


def test_the_models_are_not_loaded_before_a_resource_is_checked() -> None:
    code = "import sys, server.fhir.validation; sys.exit('fhir.resources' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
