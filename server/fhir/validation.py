"""Whether a resource is one of R4: all that the table of definitions asks for, in one walk; then models and profiles.

The models of fhir.resources (R4B, whose types that are served here are those of R4) are a second opinion on what the
walk found nothing in; they are loaded with the first resource of a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from server.fhir.definitions import Element, Property, is_known, release_of, resource_names, type_of, type_referred
from server.fhir.invariants import RULES, Rule
from server.fhir.narrative import narrative_faults
from server.fhir.outcome import Issue
from server.fhir.parsing import MAX_DEPTH
from server.fhir.primitives import CHECKS, Check
from server.fhir.profiles import profile_issues

MAX_ISSUES = 50
NO_MODEL = frozenset({"Evidence", "EvidenceVariable"})  # R4B has others of these names

type Path = tuple[Any, ...]

_SHOWN_CODES = 12


def check_resource(resource: Mapping[str, Any], *, type: str | None = None) -> list[Issue]:
    """What of a resource is not as R4 has it, in the order of the places; empty where all is well.

    Parameters
    ----------
    resource
        As `parse_json` gives it.
    type
        The type that it has to be of; any, where None.

    Returns
    -------
    list of Issue
        At most `MAX_ISSUES`; each says by a FHIRPath where it is. Codes are of
        http://hl7.org/fhir/issue-type: structure, value, required, code-invalid, invariant, not-found, too-long.
    """
    given = resource.get("resourceType")
    name = given if isinstance(given, str) and is_known(given) else None
    if type is not None and name != type:
        return [Issue(diagnostics=f"This is the place of {type}, not of {name or 'another or no resourceType'}.")]
    walk = _Walk()
    walk.resource(resource, (name or "Resource",))
    if not walk.issues:
        walk.issues += _model_issues(resource)
    if not walk.issues:
        walk.issues += profile_issues(resource)
    return sorted(walk.issues, key=lambda issue: issue.expression)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A member of an object in JSON, made ready to be checked."""

    name: str
    type: str
    element: Element
    is_list: bool
    check: Check | None
    bound: Check | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that is to be checked of an object of one type."""

    name: str
    is_resource: bool
    members: Mapping[str, _Member]
    required: tuple[tuple[str, tuple[str, ...]], ...]
    choices: tuple[tuple[str, frozenset[str]], ...]
    rules: tuple[Rule, ...]


@cache
def _plan(name: str) -> _Plan:
    made = type_of(name)
    by_element: dict[str, tuple[str, ...]] = {}
    for each in made.properties.values():
        by_element[each.element.name] = (*by_element.get(each.element.name, ()), each.name)
    return _Plan(
        name=name,
        is_resource=made.kind == "resource",
        members={each.name: _member(each) for each in made.properties.values() if each.element.max != 0},
        required=tuple(
            (element.name, tuple(x for each in by_element[element.name] for x in (each, f"_{each}")))
            for element in made.elements
            if element.min
        ),
        choices=tuple(
            (element.name, frozenset(by_element[element.name])) for element in made.elements if element.is_choice
        ),
        rules=RULES.get(name, ()),
    )


def _member(each: Property) -> _Member:
    codes = each.element.codes if each.type == "code" else frozenset[str]()
    return _Member(
        name=each.name,
        type=each.type,
        element=each.element,
        is_list=each.is_list,
        check=CHECKS.get(each.type),
        bound=_bound(codes) if codes else None,
    )


def _bound(codes: frozenset[str]) -> Check:
    shown = ", ".join(sorted(codes)[:_SHOWN_CODES]) + (", ..." if len(codes) > _SHOWN_CODES else "")
    said = f"The code is not one of those that are required here: {shown}."
    return lambda value: None if value in codes else said


@dataclass(slots=True)
class _Root:
    """A resource with what it contains, and which of that is referred to."""

    contained: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    local: list[tuple[str, frozenset[str], Path]] = field(default_factory=list)


class _TooMany(Exception):
    """Enough faults were found."""


class _Walk:
    """One walk over a resource."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []

    def resource(self, value: Mapping[str, Any], path: Path) -> None:
        with suppress(_TooMany):
            self._resource(value, path, None, 1)

    def _say(self, path: Path, said: str, *, code: str = "structure") -> None:
        self.issues.append(Issue(code=code, diagnostics=said, expression=_shown(path)))
        if len(self.issues) >= MAX_ISSUES:
            raise _TooMany

    def _resource(self, value: Mapping[str, Any], path: Path, container: _Root | None, depth: int) -> None:
        name = value.get("resourceType")
        if not isinstance(name, str) or not is_known(name):
            release = release_of(name) if isinstance(name, str) else None
            hint = f" {release} has; this server speaks R4 (4.0.1)." if release else ""
            self._say(path, f"R4 has no type of resource of this name.{hint}")
            return
        if container is not None:
            self._object(value, _plan(name), path, container, depth)
            return
        root = _Root()
        contained = value.get("contained")
        contained = contained if isinstance(contained, list) else []
        for each in contained:
            if isinstance(each, dict) and isinstance(each.get("id"), str):
                root.contained[each["id"]] = str(each.get("resourceType"))
        self._object(value, _plan(name), path, root, depth)
        self._contained(contained, path, root)

    def _contained(self, contained: list[Any], path: Path, root: _Root) -> None:
        """The rules of what is contained: ref-1 and dom-2 to dom-5."""
        for name, targets, where in root.local:
            if name not in root.contained:
                self._say(where, "It refers to a contained resource that is not there (ref-1).", code="not-found")
            elif targets and root.contained[name] not in targets:
                self._say(where, _no_target(root.contained[name], targets), code="value")
        for index, each in enumerate(contained):
            where = (path, "contained", index)
            if not isinstance(each, dict):
                continue
            meta = each.get("meta", {})
            if "contained" in each:
                self._say(where, "What is contained contains nothing itself (dom-2).", code="invariant")
            if isinstance(meta, dict) and ("versionId" in meta or "lastUpdated" in meta):
                self._say(where, "What is contained has no versionId and no lastUpdated (dom-4).", code="invariant")
            if isinstance(meta, dict) and "security" in meta:
                self._say(where, "What is contained has no security labels (dom-5).", code="invariant")
            if str(each.get("id")) not in root.named and not _refers_to_container(each):
                self._say(where, "What is contained is referred to by the rest (dom-3).", code="invariant")

    def _object(self, value: Any, plan: _Plan, path: Path, root: _Root, depth: int) -> None:
        if not isinstance(value, dict):
            self._say(path, "This is an object.")
            return
        if depth > MAX_DEPTH:
            self._say(path, f"A resource is at most {MAX_DEPTH} levels deep.", code="too-long")
            return
        before = len(self.issues)
        members = plan.members
        for name, item in value.items():
            member = members.get(name)
            if member is None:
                self._unlisted(value, name, item, plan, path, root, depth)
            elif not member.is_list:
                self._one(item, member, (path, name), root, depth)
            elif not isinstance(item, list) or not item:
                self._say((path, name), "This may repeat, so that it is written as an array of one or more.")
            else:
                for index, each in enumerate(item):
                    if each is None and member.check:
                        self._gap(value, name, index, path)
                    else:
                        self._one(each, member, (path, name, index), root, depth)
        for element, names in plan.required:
            if not any(name in value for name in names):
                self._say((path, element), "This is required.", code="required")
        for element, options in plan.choices:
            if len(options & value.keys()) > 1:
                self._say((path, element), "This has one type, and comes once.")
        if value.keys() <= {"id"} and not plan.is_resource:
            self._say(path, "An element has a value or children (ele-1).", code="invariant")
        if plan.rules and len(self.issues) == before:
            for key, keeps, said in plan.rules:
                if not keeps(value):
                    self._say(path, f"{said} ({key})", code="invariant")

    def _unlisted(
        self, value: Mapping[str, Any], name: str, item: Any, plan: _Plan, path: Path, root: _Root, depth: int
    ) -> None:
        """What is no element: the type of a resource, the extensions of a primitive element, or a mistake."""
        if name == "resourceType" and plan.is_resource:
            return
        member = plan.members.get(name[1:]) if name.startswith("_") else None
        if member is not None and member.check:
            self._beside(value, member, item, (path, name), root, depth)
            return
        release = release_of(f"{plan.name}.{name}")
        hint = f" {release} has; this server speaks R4 (4.0.1)." if release else ""
        self._say((path, name), f"R4 has no such element here.{hint}")

    def _beside(
        self, value: Mapping[str, Any], member: _Member, item: Any, path: Path, root: _Root, depth: int
    ) -> None:
        """Ids and extensions of a primitive element, or of each in an array (2.6.2.3)."""
        element = _plan("Element")
        if not member.is_list:
            self._object(item, element, path, root, depth + 1)
            return
        values = value.get(member.name)
        if not isinstance(item, list) or (isinstance(values, list) and len(values) != len(item)):
            self._say(path, "This is an array as long as that of the values that it goes with.")
            return
        for index, each in enumerate(item):
            if each is not None:
                self._object(each, element, (path, index), root, depth + 1)
            elif values is None:
                self._say((path, index), "There is a value or an extension for each in an array.")

    def _gap(self, value: Mapping[str, Any], name: str, index: int, path: Path) -> None:
        beside = value.get(f"_{name}")
        if not isinstance(beside, list) or index >= len(beside) or beside[index] is None:
            self._say((path, name, index), "null stands only beside an extension.")

    def _one(self, value: Any, member: _Member, path: Path, root: _Root, depth: int) -> None:
        if member.check is not None:
            said = member.check(value)
            if said is not None:
                self._say(path, said, code="value")
            elif member.bound is not None:
                if (said := member.bound(value)) is not None:
                    self._say(path, said, code="code-invalid")
            elif member.type == "xhtml":
                for each in narrative_faults(value):
                    self._say(path, each, code="invariant")
            elif isinstance(value, str) and value.startswith("#"):
                root.named.add(value[1:])
        elif member.type == "Resource":
            if not isinstance(value, dict):
                self._say(path, "This is a resource.")
            else:
                self._resource(value, path, root if member.name == "contained" else None, depth + 1)
        else:
            self._object(value, _plan(member.type), path, root, depth + 1)
            if member.type == "Reference" and isinstance(value, dict):
                self._reference(value, member.element.targets, path, root)

    def _reference(self, value: Mapping[str, Any], targets: frozenset[str], path: Path, root: _Root) -> None:
        """Whether a reference leads to a type that it may lead to (ref-1 is looked at last)."""
        reference, said = value.get("reference"), value.get("type")
        if isinstance(reference, str) and reference.startswith("#") and len(reference) > 1:
            root.named.add(reference[1:])
            root.local.append((reference[1:], targets, path))
        found = type_referred(value)
        if found and isinstance(said, str) and said in resource_names() and found != said:
            self._say((path, "type"), "The type of a reference is that of what it refers to.", code="value")
        if found and targets and found not in targets:
            self._say(path, _no_target(found, targets), code="value")


def _no_target(found: str, targets: frozenset[str]) -> str:
    return f"A reference here leads to {' or '.join(sorted(targets))}, not to {found}."


def _refers_to_container(value: Any) -> bool:
    """Whether a contained resource has a reference to the one that contains it."""
    if isinstance(value, dict):
        return value.get("reference") == "#" or any(_refers_to_container(each) for each in value.values())
    return isinstance(value, list) and any(_refers_to_container(each) for each in value)


def _shown(path: Path) -> str:
    """The FHIRPath of a place: a root's name, or what it lies in, then a name, an index, or both."""
    parts: list[str] = []
    while len(path) > 1:
        path, *steps = path
        parts += [f"[{step}]" if isinstance(step, int) else f".{_named(step)}" for step in reversed(steps)]
    return str(path[0]) + "".join(reversed(parts))


def _named(name: str) -> str:
    """A name that a client chose, fit for a path."""
    return name if len(name) <= 64 and name.isidentifier() else repr(name[:64])


def _model_issues(resource: Mapping[str, Any]) -> list[Issue]:
    """What the model of its type says of a resource."""
    name = resource["resourceType"]
    model = _model(name)
    if model is None:
        return []
    from pydantic import ValidationError

    try:
        model.model_validate(resource)
    except ValidationError as error:
        return [
            Issue(
                code="structure",
                diagnostics=f"The model of R4 does not take this: {fault['type']}.",
                expression=_shown(_nested((name,), fault["loc"])),
            )
            for fault in error.errors(include_input=False, include_url=False, include_context=False)[:MAX_ISSUES]
            if fault["type"] != "extra_forbidden"  # R4 has it, R4B has it no more
        ]
    return []


def _nested(path: Path, steps: tuple[Any, ...]) -> Path:
    for step in steps:
        path = (path, step)
    return path


@cache
def _model(name: str) -> Any:
    """The class of a type, loaded when it is first asked for; None where R4B has not the same type."""
    if name in NO_MODEL:
        return None
    from fhir.resources.R4B import get_fhir_model_class

    try:
        return get_fhir_model_class(name)
    except (ValueError, KeyError):
        return None
