"""Patches: what each operation does, and that one that cannot be done does nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from server.fhir.outcome import BadResource, BrokenRule
from server.fhir.parsing import dump_json, parse_json
from server.fhir.patching import BadPatch, PatchFailed, fhirpath_patch, json_patch, patched
from server.fhir.validation import check_resource
from tests.corpus import each_example

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p1",
    "meta": {"versionId": "2", "lastUpdated": "2026-03-01T10:00:00Z"},
    "active": True,
    "name": [
        {"use": "official", "family": "A", "given": ["B", "C"]},
        {"use": "nickname", "given": ["D"], "_given": [{"extension": [{"url": "urn:a", "valueCode": "b"}]}]},
    ],
    "identifier": [
        {"system": "urn:a", "value": "1"},
        {"system": "urn:b", "value": "2"},
        {"system": "urn:c", "value": "3"},
    ],
    "birthDate": "1970-01-01",
    "deceasedBoolean": False,
    "contact": [{"gender": "other", "organization": {"reference": "Organization/1"}}],
}


def by_json(*operations: dict[str, Any], resource: dict[str, Any] = PATIENT) -> dict[str, Any]:
    before = copy.deepcopy(resource)
    try:
        return patched(resource, json_patch(json.dumps(operations).encode()))
    finally:
        assert resource == before


def op(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **more}


@pytest.mark.parametrize(
    ("operation", "path", "value"),
    [
        (op("add", "/gender", value="other"), ["gender"], "other"),
        (op("add", "/active", value=False), ["active"], False),
        (op("add", "/identifier/1", value={"value": "9"}), ["identifier", 1], {"value": "9"}),
        (op("add", "/identifier/-", value={"value": "9"}), ["identifier", 3], {"value": "9"}),
        (op("add", "/identifier/3", value={"value": "9"}), ["identifier", 3], {"value": "9"}),
        (op("replace", "/name/0/family", value="Z"), ["name", 0, "family"], "Z"),
        (op("replace", "/identifier/0", value={"value": "9"}), ["identifier", 0], {"value": "9"}),
        (op("remove", "/identifier/0"), ["identifier", 0], {"system": "urn:b", "value": "2"}),
        (op("move", "/name/1/family", **{"from": "/name/0/family"}), ["name", 1, "family"], "A"),
        (
            op("move", "/identifier/2", **{"from": "/identifier/0"}),
            ["identifier", 2],
            {"system": "urn:a", "value": "1"},
        ),
        (op("move", "/active", **{"from": "/active"}), ["active"], True),
        (op("copy", "/name/1/family", **{"from": "/name/0/family"}), ["name", 1, "family"], "A"),
        (
            op("copy", "/identifier/0", **{"from": "/identifier/2"}),
            ["identifier", 0],
            {"system": "urn:c", "value": "3"},
        ),
        (op("test", "/name/0", value=PATIENT["name"][0]), ["active"], True),
        (op("test", "/deceasedBoolean", value=False), ["active"], True),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_json_patch_does_its_operations(operation: dict[str, Any], path: list[Any], value: Any) -> None:
    found: Any = by_json(operation)
    for step in path:
        found = found[step]
    assert found == value


def test_operations_of_json_patch_follow_each_other() -> None:
    assert by_json(
        op("add", "/telecom", value=[]),
        op("add", "/telecom/-", value={"system": "phone"}),
        op("add", "/telecom/0/value", value="1"),
        op("test", "/telecom/0/value", value="1"),
    )["telecom"] == [{"system": "phone", "value": "1"}]


def test_a_pointer_may_have_escapes() -> None:
    resource = {"resourceType": "Basic", "a/b": 1, "m~n": 2}
    assert by_json(op("test", "/a~1b", value=1), op("remove", "/m~0n"), resource=resource) == {
        "resourceType": "Basic",
        "a/b": 1,
    }


def test_numbers_are_compared_by_value_and_kept_by_digits() -> None:
    resource = parse_json(b'{"resourceType":"Observation","valueQuantity":{"value":72.50}}')
    operations = b'[{"op":"test","path":"/valueQuantity/value","value":72.5},{"op":"add","path":"/a","value":1.20}]'
    changed = patched(resource, json_patch(operations))
    assert str(changed["valueQuantity"]["value"]) == "72.50"
    assert str(changed["a"]) == "1.20"
    with pytest.raises(PatchFailed):
        by_json(op("test", "/active", value=1))


def test_what_is_left_empty_is_taken_away() -> None:
    assert "contact" not in by_json(op("remove", "/contact/0"))
    assert "name" not in by_json(op("remove", "/name/1"), op("remove", "/name/0"))
    assert by_json(op("remove", "/contact/0/gender"), op("remove", "/contact/0/organization"))["active"] is True


@pytest.mark.parametrize(
    "operation",
    [
        op("test", "/active", value=False),
        op("test", "/nonsense", value=1),
        op("remove", "/nonsense"),
        op("remove", ""),
        op("replace", "/nonsense", value=1),
        op("replace", "/identifier/3", value={}),
        op("replace", "/identifier/-", value={}),
        op("add", "/identifier/4", value={}),
        op("add", "/identifier/01", value={}),
        op("add", "/identifier/-1", value={}),
        op("add", "/identifier/999999999999", value={}),
        op("add", "/identifier/a", value={}),
        op("add", "/nonsense/family", value="a"),
        op("add", "/active/a", value="a"),
        op("copy", "/a", **{"from": "/nonsense"}),
        op("move", "/a", **{"from": "/nonsense"}),
        op("replace", "/id", value="p2"),
        op("remove", "/id"),
        op("replace", "/resourceType", value="Person"),
        op("replace", "/meta/versionId", value="9"),
        op("remove", "/meta"),
        op("replace", "/meta/lastUpdated", value="2027-03-01T10:00:00Z"),
        op("replace", "", value={"resourceType": "Patient"}),
        op("replace", "", value=[]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_cannot_be_done_fails(operation: dict[str, Any]) -> None:
    with pytest.raises(PatchFailed, match=r"Operation 2|changes no"):
        by_json(op("add", "/gender", value="other"), operation)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", "array of operations"),
        (b"[1]", "array of operations"),
        (b'[{"op":"add","path":"/a","value":1},{"op":"increase","path":"/a"}]', "Operation 2 has an op"),
        (b'[{"path":"/a"}]', "Operation 1 has an op"),
        (b'[{"op":"remove"}]', "has a path"),
        (b'[{"op":"remove","path":"a"}]', "has a path"),
        (b'[{"op":"remove","path":"/~2"}]', "has a path"),
        (b'[{"op":"remove","path":["a"]}]', "has a path"),
        (b'[{"op":"add","path":"/a"}]', "has a value"),
        (b'[{"op":"move","path":"/a"}]', "has a from"),
        (b'[{"op":"move","from":"/name","path":"/name/0"}]', "into itself"),
        (b"[" + b",".join([b'{"op":"remove","path":"/a"}'] * 201) + b"]", "at most 200"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_json_patch_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadPatch, match=said):
        json_patch(body)


def test_a_json_patch_is_json() -> None:
    with pytest.raises(BadResource):
        json_patch(b"[")


def test_what_comes_out_is_json_of_fhir() -> None:
    with pytest.raises(BrokenRule) as caught:
        by_json(op("add", "/gender", value=None), op("add", "/language", value=""))
    assert [issue.expression for issue in caught.value.issues] == ["Patient.gender", "Patient.language"]


def test_copying_does_not_fill_the_memory() -> None:
    with pytest.raises(PatchFailed, match="too large"):
        by_json(op("add", "/a", value="x" * 100_000), *[op("copy", "/a", **{"from": ""}) for _ in range(100)])
    with pytest.raises((PatchFailed, BrokenRule), match=r"deep|large"):
        by_json(op("add", "/a", value={"b": "c"}), *[op("copy", "/a/b", **{"from": "/a"})] * 150)
    nested: dict[str, Any] = {"b": 1}
    for _ in range(50):
        nested = {"b": nested}
    path = "/a" + "/b" * 50
    with pytest.raises((PatchFailed, BrokenRule), match="deep"):
        by_json(op("add", "/a", value=nested), *[op("add", path + path[2:] * n, value=nested) for n in range(60)])


# FHIRPath Patch


def part(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, **value}


def operation(type: str, path: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return part("operation", part=[part("type", valueCode=type), part("path", valueString=path), *parts])


def by_path(*operations: dict[str, Any], resource: dict[str, Any] = PATIENT) -> dict[str, Any]:
    before = copy.deepcopy(resource)
    try:
        return patched(resource, fhirpath_patch({"resourceType": "Parameters", "parameter": list(operations)}))
    finally:
        assert resource == before


def without(name: str) -> dict[str, Any]:
    return {each: value for each, value in PATIENT.items() if each != name}


def test_add_gives_an_element_a_value() -> None:
    add = operation("add", "Patient", part("name", valueString="birthDate"), part("value", valueDate="1980"))
    assert by_path(add, resource=without("birthDate"))["birthDate"] == "1980"
    with pytest.raises(PatchFailed, match="comes once"):
        by_path(add)


def test_add_appends_to_what_repeats() -> None:
    value = {"system": "urn:d", "value": "4"}
    add = operation("add", "Patient", part("name", valueString="identifier"), part("value", valueIdentifier=value))
    assert by_path(add)["identifier"] == [*PATIENT["identifier"], value]
    assert by_path(add, resource=without("identifier"))["identifier"] == [value]


def test_add_makes_an_element_that_has_no_type_of_its_own_from_parts() -> None:
    parts = [
        part("name", valueHumanName={"text": "N"}),
        part("telecom", valueContactPoint={"system": "phone", "value": "1"}),
        part("telecom", valueContactPoint={"system": "phone", "value": "2"}),
    ]
    add = operation("add", "Patient", part("name", valueString="contact"), part("value", part=parts))
    assert by_path(add)["contact"][1] == {
        "name": {"text": "N"},
        "telecom": [{"system": "phone", "value": "1"}, {"system": "phone", "value": "2"}],
    }


def test_add_takes_the_member_that_the_type_of_the_value_asks_for() -> None:
    add = operation("add", "Patient", part("name", valueString="deceased"), part("value", valueDateTime="2026-03"))
    assert by_path(add, resource=without("deceasedBoolean"))["deceasedDateTime"] == "2026-03"
    with pytest.raises(PatchFailed, match="comes once"):
        by_path(add)
    wrong = operation("add", "Patient", part("name", valueString="deceased"), part("value", valueString="yes"))
    with pytest.raises(PatchFailed, match="boolean or dateTime"):
        by_path(wrong, resource=without("deceasedBoolean"))


def test_add_gives_a_primitive_element_an_extension() -> None:
    extension = {"url": "urn:a", "valueCode": "b"}
    parts = [part("url", valueUri="urn:a"), part("value", valueCode="b")]
    more = (part("name", valueString="extension"), part("value", part=parts))
    assert by_path(operation("add", "Patient.birthDate", *more))["_birthDate"] == {"extension": [extension]}
    changed = by_path(operation("add", "Patient.name[0].given[1]", *more))
    assert changed["name"][0]["_given"] == [None, {"extension": [extension]}]
    assert check_resource(changed) == []


def test_insert_puts_a_value_in_its_place() -> None:
    def insert(index: int, path: str = "Patient.identifier") -> dict[str, Any]:
        return operation(
            "insert", path, part("value", valueIdentifier={"value": "9"}), part("index", valueInteger=index)
        )

    values = [[each["value"] for each in by_path(insert(index))["identifier"]] for index in (0, 2, 3)]
    assert values == [["9", "1", "2", "3"], ["1", "2", "9", "3"], ["1", "2", "3", "9"]]
    assert by_path(insert(0), resource=without("identifier"))["identifier"] == [{"value": "9"}]
    with pytest.raises(PatchFailed, match="at most 3"):
        by_path(insert(4))
    with pytest.raises(PatchFailed, match="comes once"):
        by_path(insert(0, "Patient.managingOrganization"))
    with pytest.raises(PatchFailed, match="ends with its name"):
        by_path(insert(0, "Patient.identifier[0]"))


def test_insert_keeps_extensions_beside_their_values() -> None:
    insert = operation("insert", "Patient.name[1].given", part("value", valueString="Z"), part("index", valueInteger=0))
    changed = by_path(insert)
    assert changed["name"][1]["given"] == ["Z", "D"]
    assert changed["name"][1]["_given"] == [None, *PATIENT["name"][1]["_given"]]


FIRST, SECOND, THIRD = PATIENT["identifier"]
OFFICIAL, NICKNAME = PATIENT["name"]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("Patient.birthDate", without("birthDate")),
        ("Patient.deceased", without("deceasedBoolean")),
        ("birthDate", without("birthDate")),
        ("$this.birthDate", without("birthDate")),
        ("Patient.identifier[1]", {**PATIENT, "identifier": [FIRST, THIRD]}),
        ("Patient.identifier.first()", {**PATIENT, "identifier": [SECOND, THIRD]}),
        ("Patient.identifier.last()", {**PATIENT, "identifier": [FIRST, SECOND]}),
        ("Patient.identifier.where(system = 'urn:a')", {**PATIENT, "identifier": [SECOND, THIRD]}),
        (
            "Patient.identifier.where(system = 'urn:a' and value = \"1\")",
            {**PATIENT, "identifier": [SECOND, THIRD]},
        ),
        (
            "Patient.identifier.where(system != 'urn:a' and value != '2')",
            {**PATIENT, "identifier": [FIRST, SECOND]},
        ),
        ("Patient.name.where(family.exists())", {**PATIENT, "name": [NICKNAME]}),
        ("Patient.name.where(family.empty())", {**PATIENT, "name": [OFFICIAL]}),
        (
            "Patient.name.where(use = 'old' or (family = 'A' and given.where($this = 'C').exists()))",
            {**PATIENT, "name": [NICKNAME]},
        ),
        ("Patient.where(active).birthDate", without("birthDate")),
        ("Patient.where(active = true).deceased.as(boolean)", without("deceasedBoolean")),
        ("Patient.deceased.ofType(dateTime)", PATIENT),
        ("Patient.gender", PATIENT),
        ("Patient.contact", without("contact")),
        ("Patient.contact[0]", without("contact")),
        ("Patient.name[1].given[0]", {**PATIENT, "name": [OFFICIAL, {"use": "nickname"}]}),
        (
            "Patient.name[1].given[0].extension('urn:a')",
            {**PATIENT, "name": [OFFICIAL, {"use": "nickname", "given": ["D"]}]},
        ),
    ],
)
def test_delete_takes_the_one_element_away_if_there_is_one(path: str, left: dict[str, Any]) -> None:
    assert by_path(operation("delete", path)) == left


def test_replace_puts_one_value_for_another() -> None:
    def replace(path: str, **value: Any) -> dict[str, Any]:
        return by_path(operation("replace", path, part("value", **value)))

    assert replace("Patient.birthDate", valueDate="1980")["birthDate"] == "1980"
    assert replace("Patient.name[0].given[1]", valueString="Z")["name"][0]["given"] == ["B", "Z"]
    assert replace("Patient.name[1].given[0]", valueString="Z")["name"][1] == {"use": "nickname", "given": ["Z"]}
    changed = replace("Patient.deceased", valueDateTime="2026-03")
    assert changed["deceasedDateTime"] == "2026-03"
    assert "deceasedBoolean" not in changed
    assert replace("Patient.contact[0]", part=[part("gender", valueCode="male")])["contact"] == [{"gender": "male"}]
    assert replace("Patient.name[0]", valueHumanName={"text": "N"})["name"][0] == {"text": "N"}
    beside = {"extension": [{"url": "urn:a", "valueCode": "b"}]}
    assert replace("Patient.birthDate", valueDate="1980", _valueDate=beside)["_birthDate"] == beside


def test_move_changes_the_order() -> None:
    def moved(source: int, destination: int) -> list[str]:
        parts = (part("source", valueInteger=source), part("destination", valueInteger=destination))
        return [each["value"] for each in by_path(operation("move", "Patient.identifier", *parts))["identifier"]]

    assert moved(0, 2) == ["2", "3", "1"]
    assert moved(2, 0) == ["3", "1", "2"]
    assert moved(1, 1) == ["1", "2", "3"]
    with pytest.raises(PatchFailed, match="indices of the list"):
        moved(0, 3)


def test_a_resource_within_another_can_be_changed() -> None:
    report = {
        "resourceType": "DiagnosticReport",
        "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
        "performer": [{"reference": "#o"}],
    }
    value = part("value", valueString="P")
    changed = by_path(
        operation("replace", "DiagnosticReport.contained.where(id = 'o').name", value),
        operation(
            "add",
            "DiagnosticReport",
            part("name", valueString="resultsInterpreter"),
            part("value", valueReference={"reference": "#o"}),
        ),
        resource=report,
    )
    assert changed["contained"][0]["name"] == "P"
    assert changed["resultsInterpreter"] == [{"reference": "#o"}]


@pytest.mark.parametrize(
    "failing",
    [
        operation("delete", "Patient"),
        operation("delete", "Patient.identifier"),
        operation("delete", "Person.birthDate"),
        operation("delete", "Patient.nonsense"),
        operation("delete", "Patient.id"),
        operation("delete", "Patient.meta"),
        operation("replace", "Patient.gender", part("value", valueCode="other")),
        operation("replace", "Patient.identifier", part("value", valueIdentifier={"value": "9"})),
        operation("replace", "Patient", part("value", resource={"resourceType": "Patient"})),
        operation("replace", "Patient.birthDate", part("value", valueString="1980-01-01")),
        operation("replace", "Patient.birthDate", part("value", part=[part("a", valueCode="b")])),
        operation("replace", "Patient.name[0]", part("value", valueIdentifier={"value": "9"})),
        operation("add", "Patient.nonsense", part("name", valueString="a"), part("value", valueCode="b")),
        operation("add", "Patient", part("name", valueString="nonsense"), part("value", valueCode="b")),
        operation("add", "Patient.name", part("name", valueString="family"), part("value", valueString="b")),
        operation(
            "add", "Patient.deceased.as(dateTime)", part("name", valueString="id"), part("value", valueString="b")
        ),
        operation("move", "Patient.gender", part("source", valueInteger=0), part("destination", valueInteger=0)),
    ],
    ids=lambda value: json.dumps(value["part"][0:2])[1:].replace('"', "")[:100],
)
def test_what_a_path_cannot_do_fails(failing: dict[str, Any]) -> None:
    with pytest.raises(PatchFailed, match=r"Operation 1|changes no"):
        by_path(failing)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (part("other", valueCode="a"), "named operation"),
        (operation("append", "Patient"), "has a type of"),
        (part("operation", part=[part("path", valueString="Patient.name")]), "has a type of"),
        (part("operation", part=[part("type", valueCode="delete")]), "lacks its path"),
        (operation("add", "Patient", part("value", valueCode="a")), "lacks its name"),
        (operation("add", "Patient", part("name", valueString="a")), "lacks its value"),
        (operation("insert", "Patient.name", part("value", valueCode="a")), "lacks its index"),
        (
            operation("insert", "Patient.name", part("value", valueCode="a"), part("index", valueString="1")),
            "valueInteger",
        ),
        (
            operation("move", "Patient.name", part("source", valueInteger=-1), part("destination", valueInteger=1)),
            "from 0",
        ),
        (operation("delete", "Patient.name", part("path", valueString="Patient.name")), "each part once"),
        (part("operation", part=[part("type", valueCode="delete"), part("path", valueInteger=1)]), "valueString"),
        (operation("delete", "Patient..name"), "none of FHIRPath"),
        (operation("delete", "Patient.name["), "none of FHIRPath"),
        (operation("delete", "Patient.name[1.5]"), "An index"),
        (operation("delete", "Patient.name[-1]"), "An index"),
        (operation("delete", "Patient.name.where(use = )"), "none of FHIRPath"),
        (operation("delete", "Patient.name.where(use = official)"), "none of FHIRPath"),
        (operation("delete", "Patient.name.where(use"), "none of FHIRPath"),
        (operation("delete", "Patient.name.exists()"), "none of FHIRPath"),
        (operation("delete", "Patient.name | Patient.contact"), "none of FHIRPath"),
        (operation("delete", "%resource.name"), "none of FHIRPath"),
        (operation("delete", "Patient.managingOrganization.resolve().name"), "no function resolve()"),
        (operation("delete", "Patient.name.where(" + "(" * 100 + "use = 'a'" + ")" * 100 + ")"), "none of FHIRPath"),
        (operation("delete", "a.where(" * 60 + "b" + ")" * 60), "none of FHIRPath|characters"),
        (operation("delete", "Patient" + ".name" * 200), "characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:60],
)
def test_what_is_no_fhirpath_patch_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadPatch, match=said):
        fhirpath_patch({"resourceType": "Parameters", "parameter": [given]})


def test_a_fhirpath_patch_is_a_resource() -> None:
    for wrong in ({"resourceType": "Patient"}, {"resourceType": "Parameters", "parameter": [{"valueCode": "a"}]}):
        with pytest.raises(BadResource):
            fhirpath_patch(wrong)
    with pytest.raises(BadPatch):
        fhirpath_patch({"resourceType": "Parameters"})


@each_example()
def test_a_patch_that_only_looks_leaves_every_official_example_as_it_is(corpus: Path, example: Path) -> None:
    resource = parse_json(example.read_bytes())
    looking = json_patch(json.dumps([op("test", "/resourceType", value=resource["resourceType"])]).encode())
    assert dump_json(patched(resource, looking)) == dump_json(resource)
