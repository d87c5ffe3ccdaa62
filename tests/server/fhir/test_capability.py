"""What is declared is what there is, and is valid R4."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from server.fhir.capability import operation_definitions, search_parameters, statement
from server.fhir.definitions import type_of
from server.fhir.operations import OPERATIONS
from server.fhir.parameters import PARAMETERS
from server.fhir.registry import REGISTRY
from server.fhir.validation import check_resource

ROOT = "http://127.0.0.1:8780/fhir"


def test_the_statement_and_all_definitions_are_valid() -> None:
    made = [statement(ROOT), *search_parameters(ROOT), *operation_definitions(ROOT)]
    assert {one["id"]: issues for one in made if (issues := check_resource(one))} == {}


def test_every_parameter_that_is_declared_is_searched(client: Any) -> None:
    kinds = {"date": "2020", "number": "1", "quantity": "1", "composite": "a$1"}
    for resource in client.get("/fhir/metadata").json()["rest"][0]["resource"]:
        for parameter in resource["searchParam"]:
            value = kinds.get(parameter["type"], "x")
            if parameter["name"].endswith("-date"):
                value = "a$2020" if parameter["type"] == "composite" else "2020"
            answer = client.get(
                f"/fhir/{resource['type']}",
                params={parameter["name"]: value, "_count": 1},
                headers={"prefer": "handling=strict"},
            )
            assert answer.status_code == 200, (resource["type"], parameter, answer.text)


def test_every_interaction_that_is_declared_is_there_and_no_other(client: Any) -> None:
    for resource in client.get("/fhir/metadata").json()["rest"][0]["resource"]:
        codes = {one["code"] for one in resource["interaction"]}
        made = client.post(f"/fhir/{resource['type']}", json={"resourceType": resource["type"], "unknown": 1})
        assert (made.status_code == 405) is ("create" not in codes), (resource["type"], made.text)
        assert client.get(f"/fhir/{resource['type']}/none").status_code == 404
        assert client.get(f"/fhir/{resource['type']}/_history").status_code == 200
        if "create" not in codes:
            assert made.json()["issue"][0]["diagnostics"]


def test_includes_that_are_declared_are_followed(client: Any) -> None:
    for resource in client.get("/fhir/metadata").json()["rest"][0]["resource"]:
        for name in ("Include", "RevInclude"):
            for include in resource.get(f"search{name}", []):
                answer = client.get(f"/fhir/{resource['type']}", params={f"_{name.lower()}": include, "_count": 1})
                assert answer.status_code == 200, (include, answer.text)


def test_what_the_server_says_of_itself_is_read_and_searched(client: Any) -> None:
    [entry] = client.get("/fhir/SearchParameter?base=DiagnosticReport&code=issued").json()["entry"]
    one = entry["resource"]
    assert one["type"] == "date"
    assert client.get(f"/fhir/SearchParameter/{one['id']}").json()["url"] == one["url"]
    assert client.get("/fhir/SearchParameter", params={"url": one["url"]}).json()["total"] == 1
    assert client.get("/fhir/OperationDefinition?code=validate").json()["total"] == 1
    assert client.get("/fhir/CapabilityStatement/readingroom").json()["fhirVersion"] == "4.0.1"
    seen: list[str] = []
    url = "/fhir/SearchParameter?_count=100"
    while url:
        page = client.get(url).json()
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
    assert (
        len(seen)
        == len(set(seen))
        == len({one.url for table in PARAMETERS.values() for one in table.values() if one.type in REGISTRY})
    )
    assert client.post("/fhir/SearchParameter", json={"resourceType": "SearchParameter"}).status_code == 405


@pytest.mark.parametrize("mode", ["full", "normative", "terminology"])
def test_the_statement_is_given_in_its_modes_and_formats(client: Any, mode: str) -> None:
    answer = client.get(f"/fhir/metadata?mode={mode}")
    assert answer.status_code == 200
    as_xml = client.get(f"/fhir/metadata?mode={mode}&_format=xml")
    assert as_xml.headers["content-type"] == "application/fhir+xml"
    assert answer.json()["resourceType"] in as_xml.text
    assert client.get("/fhir/metadata?mode=other").status_code == 400


def test_each_operation_is_there_where_it_is_declared() -> None:
    assert {one["code"] for one in operation_definitions(ROOT)} == set(OPERATIONS)


def test_what_is_never_deleted_or_made_under_an_id_of_the_clients_is_declared_so() -> None:
    told = {one["type"]: one for one in statement(ROOT)["rest"][0]["resource"]}
    task, flag = told["Task"], told["Flag"]
    codes = {one["code"] for one in task["interaction"]}
    assert codes == {one["code"] for one in flag["interaction"]} - {"delete"}
    assert (task["updateCreate"], task["conditionalDelete"]) == (False, "not-supported")
    assert (flag["updateCreate"], flag["conditionalDelete"]) == (True, "single")
    assert "cancelled" in task["documentation"]


def test_each_parameter_of_codes_that_stand_alone_says_which_system_they_are_of() -> None:
    unbound = {("OperationDefinition", "code"), ("SearchParameter", "code")}
    for table in PARAMETERS.values():
        for one in table.values():
            is_alone = one.kind == "token" and all(map(partial(_leads_to_code, one.type), one.paths))
            assert bool(one.systems) == (is_alone and (one.type, one.name) not in unbound), one


def _leads_to_code(type: str, path: str) -> bool:
    found: tuple[str, ...] = (type,)
    for step in path.removesuffix("!").split("."):
        name = step.partition("[")[0].partition("(")[0]
        element = next((one for one in type_of(found[0]).elements if one.name == name), None)
        found = element.types if element is not None else ("",)
    return found == ("code",)


def test_each_parameter_that_is_declared_has_values_that_it_looks_at() -> None:
    of_meta = {"_tag", "_profile", "_security", "_source"}  # of all types, and what is made here has none of it
    for type in REGISTRY.values():
        for one in PARAMETERS.get(type.name, {}).values():
            if type.sources and one.kind != "composite" and one.name not in ("_id", "_lastUpdated"):
                is_there = any(source.relation(one.name) is not None for source in type.sources)
                assert is_there or one.name in of_meta, (type.name, one.name)
