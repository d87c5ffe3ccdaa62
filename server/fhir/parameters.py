"""The search parameters: the one table that searching, indexing and everything that is declared are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

Kind = Literal["token", "string", "reference", "date", "number", "quantity", "uri", "composite"]

OWN = "https://readingroom.example/fhir/"
"""Where the definitions of this server's own parameters and operations would be, if that were a place."""

MODIFIERS: Mapping[str, tuple[str, ...]] = {
    "token": ("missing", "not", "text", "of-type"),
    "string": ("missing", "exact", "contains"),
    "reference": ("missing", "identifier"),
    "uri": ("missing", "below"),
    "date": ("missing",),
    "number": ("missing",),
    "quantity": ("missing",),
    "composite": (),
}
"""What may stand behind the colon; of a reference a type too."""

COMPARATORS = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
"""What may stand before a date, a number or a quantity."""

_FILE = Path(__file__).with_name("parameters.txt")
_STANDARD = "http://hl7.org/fhir/SearchParameter/"
_SYSTEMS = "http://hl7.org/fhir/"
_ANY = "*"
_DECLARED = frozenset(("CapabilityStatement", "OperationDefinition", "SearchParameter", "StructureDefinition"))
"""What nothing of a patient refers to."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One search parameter of one type; `server/fhir/parameters.txt` says what `paths` and `definition` mean."""

    type: str
    name: str
    kind: Kind
    paths: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """Of a composite: the parameters that it puts together."""
    definition: str = ""
    systems: tuple[str, ...] = ()
    """Of codes that stand alone: the code systems that their value set is of (R4 3.1.1.4.10)."""

    @cached_property
    def key(self) -> str:
        """What its values go by in the index."""
        return f"{self.type}.{self.name}"

    @property
    def is_own(self) -> bool:
        """No definition of HL7's is behind it."""
        return self.definition == "readingroom"

    @property
    def is_ranked(self) -> bool:
        """Its codes are priorities, which are in order by how soon something is to be done."""
        return self.systems == (f"{_SYSTEMS}request-priority",)

    @property
    def url(self) -> str:
        """The canonical URL of its definition."""
        if self.is_own:
            return f"{OWN}SearchParameter/{self.type}-{self.name}"
        return _STANDARD + (self.definition or f"{self.type}-{self.name}")

    @property
    def description(self) -> str:
        """What it looks at."""
        if self.kind == "composite":
            return f"{' and '.join(self.parts)} of the same {self.type}"
        where = [path.replace("[*]", "[x]").removesuffix("!") for path in self.paths]
        return " or ".join(f"{self.type}.{path}" for path in where)

    @property
    def modifiers(self) -> tuple[str, ...]:
        """What may stand behind its name; types of a reference's target not counted."""
        return MODIFIERS[self.kind]

    @property
    def comparators(self) -> tuple[str, ...]:
        """What may stand before its values."""
        return COMPARATORS if self.kind in ("date", "number", "quantity") else ()


_COMMON = (
    ("_id", "token", "id", "Resource-id"),
    ("_lastUpdated", "date", "meta.lastUpdated", "Resource-lastUpdated"),
    ("_tag", "token", "meta.tag", "Resource-tag"),
    ("_profile", "uri", "meta.profile", "Resource-profile"),
    ("_security", "token", "meta.security", "Resource-security"),
    ("_source", "uri", "meta.source", "Resource-source"),
)
_COMPOSITES = {
    "Observation": {
        "code-value-concept": ("code", "value-concept"),
        "code-value-date": ("code", "value-date"),
        "code-value-quantity": ("code", "value-quantity"),
        "code-value-string": ("code", "value-string"),
    }
}
"""Those whose parts a resource has once, so that both of one resource are of each other."""


def _read(text: str) -> dict[str, dict[str, Parameter]]:
    tables: dict[str, dict[str, Parameter]] = {}
    type = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            type = line.strip()
            tables[type] = {
                name: Parameter(type=type, name=name, kind=cast(Kind, kind), paths=(path,), definition=definition)
                for name, kind, path, definition in _COMMON
            }
            for name, parts in _COMPOSITES.get(type, {}).items():
                tables[type][name] = Parameter(type=type, name=name, kind="composite", parts=parts)
            continue
        name, kind, paths, *rest = line.split()
        definition = rest.pop().removeprefix("=") if rest and rest[-1].startswith("=") else ""
        systems = rest.pop().removeprefix("^").split(",") if rest and rest[-1].startswith("^") else ()
        targets = tuple(rest[0].split(",")) if rest and rest[0] != "-" else ()
        tables[type][name] = Parameter(
            type=type,
            name=name,
            kind=cast(Kind, kind),
            paths=tuple(paths.split("|")),
            targets=targets,
            definition=definition,
            systems=tuple(one if ":" in one else _SYSTEMS + one for one in systems),
        )
    for table in tables.values():
        for name, parameter in table.items():
            if parameter.targets == (_ANY,):
                table[name] = replace(parameter, targets=tuple(one for one in tables if one not in _DECLARED))
    return tables


PARAMETERS: Mapping[str, Mapping[str, Parameter]] = MappingProxyType(_read(_FILE.read_text()))
"""By type, then by name."""
