"""Our profiles: that they are StructureDefinitions of R4, and that who claims one keeps to it."""

from __future__ import annotations

import copy
from base64 import b64encode
from hashlib import sha1
from typing import Any

import pytest

from server.fhir.profiles import _CONSTRAINTS, profiles
from server.fhir.validation import check_resource
from storage.fhirvalues import OURS, code_system, profile

HTML = b"<!DOCTYPE html><title>CT</title><p>No finding.</p>"


def claiming(id: str, **members: Any) -> dict[str, Any]:
    definition = profiles()[id]
    return {"resourceType": definition["type"], "meta": {"profile": [definition["url"]]}, **members}


def form(content: bytes = HTML, type: str = "text/html") -> dict[str, Any]:
    return {
        "contentType": type,
        "data": b64encode(content).decode(),
        "size": len(content),
        "hash": b64encode(sha1(content).digest()).decode(),
    }


REPORT = claiming(
    "imr-report",
    status="final",
    code={"text": "CT"},
    subject={"reference": "Patient/1"},
    issued="2026-03-01T10:00:00Z",
    performer=[{"reference": "Organization/1"}, {"reference": "Practitioner/1"}],
    resultsInterpreter=[{"reference": "Practitioner/1"}],
    imagingStudy=[{"reference": "ImagingStudy/1"}],
    presentedForm=[form(), form(b"%PDF-1.7", "application/pdf")],
)
DEVICE = claiming(
    "ai-device",
    identifier=[{"system": f"{OURS}/sid/fda-premarket", "value": "K201234"}, {"system": "urn:a", "value": "1"}],
    deviceName=[{"name": "A", "type": "model-name"}],
    version=[{"value": "2.1"}],
    property=[
        {"type": {"coding": [{"system": code_system("clearance"), "code": code}]}, "valueCode": [{"text": text}]}
        for code, text in (("modality", "CT"), ("body-part", "HEAD"))
    ],
)
TASK = claiming(
    "reading-task",
    extension=[{"url": profile("ordered-priority"), "valueCode": "routine"}],
    identifier=[{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
    status="ready",
    businessStatus={"coding": [{"system": code_system("item-state"), "code": "ready"}]},
    intent="order",
    priority="stat",
    code={"coding": [{"system": code_system("item-kind"), "code": "read"}]},
    focus={"reference": "ImagingStudy/1"},
    authoredOn="2026-03-01T10:00:00Z",
    lastModified="2026-03-01T10:00:00Z",
    requester={"reference": "Organization/1"},
)


def faults(resource: dict[str, Any]) -> list[tuple[str, str]]:
    return [(issue.code, issue.expression) for issue in check_resource(resource)]


def changed(resource: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The resource with one value changed, or taken away where that is None."""
    resource = copy.deepcopy(resource)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    holder: Any = resource
    for step in steps:
        holder = holder[step]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return resource


@pytest.mark.parametrize("id", sorted(profiles()))
def test_every_profile_is_a_structure_definition_of_r4(id: str) -> None:
    definition = profiles()[id]
    assert check_resource(definition, type="StructureDefinition") == []
    assert definition["url"] == profile(id)
    elements = definition["differential"]["element"]
    assert {each["key"] for element in elements for each in element.get("constraint", ())} <= _CONSTRAINTS.keys()


def test_every_constraint_is_of_a_profile() -> None:
    elements = [each for definition in profiles().values() for each in definition["differential"]["element"]]
    assert _CONSTRAINTS.keys() == {each["key"] for element in elements for each in element.get("constraint", ())}


@pytest.mark.parametrize("resource", [REPORT, DEVICE, TASK], ids=lambda resource: resource["resourceType"])
def test_what_keeps_to_its_profile_is_taken(resource: dict[str, Any]) -> None:
    assert faults(resource) == []


@pytest.mark.parametrize(
    ("resource", "path", "value", "fault"),
    [
        (REPORT, "subject", None, ("required", "DiagnosticReport.subject")),
        (REPORT, "subject", {"reference": "Device/1"}, ("value", "DiagnosticReport.subject")),
        (REPORT, "issued", None, ("required", "DiagnosticReport.issued")),
        (REPORT, "imagingStudy", [{"reference": "ImagingStudy/1"}] * 2, ("structure", "DiagnosticReport.imagingStudy")),
        (REPORT, "performer", [{"reference": "Practitioner/1"}], ("required", "DiagnosticReport.performer")),
        (REPORT, "performer.1.reference", "Organization/2", ("structure", "DiagnosticReport.performer")),
        (REPORT, "resultsInterpreter.0.reference", "CareTeam/1", ("value", "DiagnosticReport.resultsInterpreter[0]")),
        (REPORT, "presentedForm.0.contentType", "text/plain", ("required", "DiagnosticReport.presentedForm")),
        (REPORT, "presentedForm.1.hash", None, ("required", "DiagnosticReport.presentedForm[1].hash")),
        (REPORT, "presentedForm.0.size", 1, ("invariant", "DiagnosticReport.presentedForm[0]")),
        (REPORT, "presentedForm.0.hash", form(b"other")["hash"], ("invariant", "DiagnosticReport.presentedForm[0]")),
        (REPORT, "presentedForm.0.data", None, ("invariant", "DiagnosticReport.presentedForm[0]")),
        (DEVICE, "identifier.0.value", "510(k)", ("invariant", "Device.identifier[0]")),
        (DEVICE, "identifier.1.system", f"{OURS}/sid/fda-premarket", ("structure", "Device.identifier")),
        (DEVICE, "property", DEVICE["property"][:1], ("invariant", "Device")),
        (DEVICE, "property.0.valueCode", None, ("required", "Device.property[0].valueCode")),
        (DEVICE, "version", None, ("required", "Device.version")),
        (DEVICE, "patient", {"reference": "Patient/1"}, ("structure", "Device.patient")),
        (TASK, "intent", "plan", ("value", "Task.intent")),
        (TASK, "focus.reference", "DiagnosticReport/1", ("value", "Task.focus")),
        (TASK, "code.coding.0.system", "urn:a", ("required", "Task.code.coding")),
        (TASK, "businessStatus.coding.0.code", None, ("required", "Task.businessStatus.coding[0].code")),
        (TASK, "identifier.0.system", "urn:a", ("required", "Task.identifier")),
        (TASK, "extension", TASK["extension"] * 2, ("structure", "Task.extension")),
        (TASK, "meta.profile.0", profile("imr-report"), ("value", "Task.meta.profile[0]")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_its_profile_is_named(
    resource: dict[str, Any], path: str, value: Any, fault: tuple[str, str]
) -> None:
    assert fault in faults(changed(resource, path, value))


def test_who_claims_nothing_or_a_profile_of_others_is_left_alone() -> None:
    report = changed(REPORT, "presentedForm", None)
    assert faults(changed(report, "meta.profile", ["https://example.org/StructureDefinition/a"])) == []
    assert faults(changed(report, "meta", None)) == []
    versioned = changed(report, "meta.profile", [f"{profile('imr-report')}|1.0.0"])
    assert ("required", "DiagnosticReport.presentedForm") in faults(versioned)


def test_a_hash_may_be_hexadecimal_and_a_form_elsewhere() -> None:
    assert faults(changed(REPORT, "presentedForm.0.hash", sha1(HTML).hexdigest().upper())) == []
    elsewhere = {name: value for name, value in form().items() if name != "data"} | {"url": "https://example.org/a"}
    assert faults(changed(REPORT, "presentedForm.0", elsewhere)) == []


def test_an_algorithm_without_clearance_need_not_say_what_it_is_for() -> None:
    assert faults(changed(changed(DEVICE, "identifier", None), "property", None)) == []
