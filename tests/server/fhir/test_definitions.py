"""The table of R4: what it says of types that everybody knows, and that it agrees with the models of fhir.resources."""

from __future__ import annotations

import importlib

import pytest

from server.fhir.definitions import PRIMITIVES, is_known, open_types, release_of, resource_names, type_of


def test_a_type_has_its_elements_in_the_order_of_xml() -> None:
    names = [element.name for element in type_of("ImagingStudy").elements]
    assert names[:9] == [
        *("id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension"),
        "identifier",
    ]
    assert [element.name for element in type_of("ImagingStudy.series.instance").elements] == [
        *("id", "extension", "modifierExtension", "uid", "sopClass", "number", "title")
    ]


def test_an_element_says_how_many_of_what_it_may_be() -> None:
    status, effective, series = (
        next(element for element in type_of(type).elements if element.name == name)
        for type, name in (
            ("DiagnosticReport", "status"),
            ("DiagnosticReport", "effective"),
            ("ImagingStudy", "series"),
        )
    )
    assert (status.min, status.max, status.is_summary, status.is_modifier) == (1, 1, True, True)
    assert {"registered", "partial", "preliminary", "final", "amended", "entered-in-error"} < status.codes
    assert (effective.is_choice, effective.types) == (True, ("dateTime", "Period"))
    assert (series.min, series.max, series.types) == (0, None, ("ImagingStudy.series",))


def test_a_property_is_an_element_with_one_of_its_types() -> None:
    report = type_of("DiagnosticReport").properties
    assert {"effectiveDateTime", "effectivePeriod"} < report.keys()
    assert "effective" not in report
    subject = report["subject"]
    assert (subject.type, subject.is_list, subject.is_primitive) == ("Reference", False, False)
    assert subject.element.targets == {"Patient", "Group", "Device", "Location"}
    assert "image" not in report
    assert type_of("Dosage.doseAndRate").properties["doseQuantity"].type == "SimpleQuantity"


def test_content_may_be_that_of_another_element() -> None:
    assert type_of("Bundle.entry").properties["link"].type == "Bundle.link"
    assert {"relation", "url"} < type_of("Bundle.link").properties.keys()


@pytest.mark.parametrize("name", ["Age", "Duration", "SimpleQuantity"])
def test_a_kind_of_quantity_has_the_elements_of_one(name: str) -> None:
    assert type_of(name).properties.keys() == type_of("Quantity").properties.keys()


def test_what_is_attribute_in_xml_is_marked() -> None:
    attributes = [element.name for element in type_of("Extension").elements if element.is_attribute]
    assert attributes == ["id", "url"]
    assert not type_of("Patient").elements[0].is_attribute


def test_all_types_that_any_element_names_are_there() -> None:
    todo, seen = [*sorted(resource_names()), *open_types()], set(PRIMITIVES)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [type for element in type_of(name).elements for type in element.types]
    assert len(seen) > 600


def test_only_types_of_resources_are_known() -> None:
    assert len(resource_names()) == 146
    assert is_known("ImagingStudy")
    assert not any(
        is_known(name) for name in ("Resource", "DomainResource", "HumanName", "Patient.contact", "Nonsense")
    )
    with pytest.raises(KeyError):
        type_of("Nonsense")


def test_elements_of_other_releases_are_told() -> None:
    assert release_of("DiagnosticReport.supportingInfo") == "R5"
    assert release_of("ImagingStudy.availability") == "STU3"
    assert release_of("DiagnosticReport.result") is None
    assert release_of("DiagnosticReport.nonsense") is None


@pytest.mark.parametrize("name", ["ImagingStudy", "Task", "DiagnosticReport", "Observation", "Provenance"])
def test_the_table_has_the_elements_of_the_model(name: str) -> None:
    model = getattr(importlib.import_module(f"fhir.resources.R4B.{name.lower()}"), name)
    theirs = {info.alias or field for field, info in model.model_fields.items()}
    theirs = {each for each in theirs if not each.startswith("_")} - {"fhir_comments", "resourceType", "resource_type"}
    assert type_of(name).properties.keys() == theirs
