"""The invariants of R4 that this server checks: for each type its rules, each by its key in the specification.

A rule gets the object as values of JSON and says whether it keeps the rule. Objects come here after their elements were
checked, so that a rule may trust their types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from server.fhir.primitives import moment

type Object = Mapping[str, Any]
type Keeps = Callable[[Object], bool]
type Rule = tuple[str, Keeps, str]

UCUM = "http://unitsofmeasure.org"
_FARTHEST_ZONE = timedelta(hours=14)


def _has(given: Object, *names: str) -> bool:
    """Whether any of these is there, be it as an extension alone."""
    return any(name in given or f"_{name}" in given for name in names)


def _has_choice(given: Object, name: str) -> bool:
    """Whether an element with ``[x]`` is there, of whatever type."""
    start = len(name)
    return any(each.startswith(name) and each[start : start + 1].isupper() for each in given) or any(
        each.startswith(f"_{name}") and each[start + 1 : start + 2].isupper() for each in given
    )


def _are_different(found: Iterable[object]) -> bool:
    listed = list(found)
    return len(set(listed)) == len(listed)


def span(text: str) -> tuple[datetime, datetime]:
    """The first and the last moment that a date or dateTime may mean, wherever on earth it was written."""
    if "T" in text:
        return moment(text), moment(text)
    year, month, day = (int(part) for part in f"{text}-01-01".split("-")[:3])
    first = datetime(year, month, day, tzinfo=UTC)
    if len(text) == 4:
        last = datetime(year, 12, 31, tzinfo=UTC)
    elif len(text) == 7:
        last = datetime(year, 12, 31, tzinfo=UTC) if month == 12 else datetime(year, month + 1, 1, tzinfo=UTC)
    else:
        last = first
    edge = timedelta() if year in (1, 9999) else _FARTHEST_ZONE
    return first - edge, last + timedelta(hours=23, minutes=59) + edge if year < 9999 else last


def _in_order(first: str | None, second: str | None) -> bool:
    return first is None or second is None or span(first)[0] <= span(second)[1]


def _low_to_high(given: Object) -> bool:
    low, high = given.get("low", {}), given.get("high", {})
    if "value" not in low or "value" not in high or low.get("code") != high.get("code"):
        return True
    return bool(_number(low["value"]) <= _number(high["value"]))


def _number(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _both_or_extension(given: Object) -> bool:
    both, either = "numerator" in given and "denominator" in given, "numerator" in given or "denominator" in given
    return both or (not either and "extension" in given)


def _no_component_repeats_the_code(given: Object) -> bool:
    if not _has_choice(given, "value"):
        return True
    codes = {_coding(coding) for coding in given.get("code", {}).get("coding", ())}
    return not any(
        _coding(coding) in codes
        for component in given.get("component", ())
        for coding in component.get("code", {}).get("coding", ())
    )


def _coding(coding: Object) -> tuple[Any, ...]:
    return tuple(coding.get(name) for name in ("system", "version", "code", "display", "userSelected"))


def _full_urls_differ(bundle: Object) -> bool:
    return bundle.get("type") == "history" or _are_different(
        (entry["fullUrl"], entry.get("resource", {}).get("meta", {}).get("versionId"))
        for entry in bundle.get("entry", ())
        if "fullUrl" in entry
    )


def _entries_have(name: str, *types: str) -> Keeps:
    return lambda bundle: all((name in each) == (bundle.get("type") in types) for each in bundle.get("entry", ()))


def _first_is(bundle: Object, type: str) -> bool:
    first: Object = next(iter(bundle.get("entry", ())), {})
    return bool(first.get("resource", {}).get("resourceType") == type)


def _elements(definition: Object, *views: str) -> list[Any]:
    return [each for view in views for each in definition.get(view, {}).get("element", ())]


def _of_ucum(given: Object) -> bool:
    return (_has(given, "code") or not _has(given, "value")) and given.get("system", UCUM) == UCUM


def _not_negative(name: str) -> Keeps:
    return lambda given: name not in given or _number(given[name]) >= 0


def _needs(name: str, *others: str) -> Keeps:
    """Where one is there, one of the others is."""
    return lambda given: not _has(given, name) or _has(given, *others)


def _either(*names: str) -> Keeps:
    return lambda given: _has(given, *names)


def _not_both(first: str, second: str) -> Keeps:
    return lambda given: not (_has(given, first) and _has(given, second))


def _not_at_home(given: Object) -> bool:
    return given.get("use") != "home"


RULES: Mapping[str, tuple[Rule, ...]] = {
    "Extension": (
        (
            "ext-1",
            lambda given: ("extension" in given) != _has_choice(given, "value"),
            "An extension has a value or extensions of its own, and not both.",
        ),
    ),
    "Period": (
        ("per-1", lambda given: _in_order(given.get("start"), given.get("end")), "A period starts before it ends."),
    ),
    "Quantity": (("qty-3", _needs("code", "system"), "The code of a unit has a system."),),
    "SimpleQuantity": (
        ("qty-3", _needs("code", "system"), "The code of a unit has a system."),
        ("sqty-1", lambda given: not _has(given, "comparator"), "Here a quantity has no comparator."),
    ),
    "Age": (
        ("qty-3", _needs("code", "system"), "The code of a unit has a system."),
        (
            "age-1",
            lambda given: _of_ucum(given) and ("value" not in given or _number(given["value"]) > 0),
            "An age is a positive number of a unit of UCUM.",
        ),
    ),
    "Duration": (
        ("qty-3", _needs("code", "system"), "The code of a unit has a system."),
        (
            "drt-1",
            lambda given: not _has(given, "code") or (given.get("system") == UCUM and _has(given, "value")),
            "A duration with a code has a value, and the code is of UCUM.",
        ),
    ),
    "Count": (
        ("qty-3", _needs("code", "system"), "The code of a unit has a system."),
        (
            "cnt-3",
            lambda given: _of_ucum(given) and given.get("code", "1") == "1" and "." not in str(given.get("value", "")),
            "A count is a whole number of the unit 1 of UCUM.",
        ),
    ),
    "Distance": (
        ("qty-3", _needs("code", "system"), "The code of a unit has a system."),
        ("dis-1", _of_ucum, "A distance has a unit of UCUM."),
    ),
    "Range": (("rng-2", _low_to_high, "The low end of a range is not above its high end."),),
    "Ratio": (("rat-1", _both_or_extension, "A ratio has a numerator and a denominator, or an extension."),),
    "ContactPoint": (("cpt-2", _needs("value", "system"), "A contact point with a value has a system."),),
    "Attachment": (("att-1", _needs("data", "contentType"), "An attachment with data says its contentType."),),
    "Expression": (("exp-1", _either("expression", "reference"), "An expression is given, or a reference to it."),),
    "Timing.repeat": (
        ("tim-1", _needs("duration", "durationUnit"), "A duration has a unit."),
        ("tim-2", _needs("period", "periodUnit"), "A period has a unit."),
        ("tim-4", _not_negative("duration"), "A duration is not negative."),
        ("tim-5", _not_negative("period"), "A period is not negative."),
        ("tim-6", _needs("periodMax", "period"), "With a periodMax comes a period."),
        ("tim-7", _needs("durationMax", "duration"), "With a durationMax comes a duration."),
        ("tim-8", _needs("countMax", "count"), "With a countMax comes a count."),
        (
            "tim-9",
            lambda given: (
                not _has(given, "offset")
                or (_has(given, "when") and not {"C", "CM", "CD", "CV"} & set(given.get("when", ())))
            ),
            "An offset is from an event, and not from a meal itself.",
        ),
        ("tim-10", _not_both("timeOfDay", "when"), "There is a time of day or a when, and not both."),
    ),
    "Task": (
        (
            "inv-1",
            lambda given: _in_order(given.get("authoredOn"), given.get("lastModified")),
            "A task is not modified before it is authored.",
        ),
    ),
    "Patient.contact": (
        (
            "pat-1",
            _either("name", "telecom", "address", "organization"),
            "A contact has a name, telecom, address or organization.",
        ),
    ),
    "Organization": (
        ("org-1", _either("identifier", "name"), "An organization has an identifier or a name."),
        (
            "org-2",
            lambda given: all(_not_at_home(each) for each in given.get("address", ())),
            "The address of an organization is never of use 'home'.",
        ),
        (
            "org-3",
            lambda given: all(_not_at_home(each) for each in given.get("telecom", ())),
            "The telecom of an organization is never of use 'home'.",
        ),
    ),
    "ServiceRequest": (("prr-1", _needs("orderDetail", "code"), "An order with an orderDetail has a code."),),
    "Observation": (
        (
            "obs-6",
            lambda given: not _has(given, "dataAbsentReason") or not _has_choice(given, "value"),
            "There is a value, or the reason for its absence, and not both.",
        ),
        ("obs-7", _no_component_repeats_the_code, "Where there is a value, no component has the observation's code."),
    ),
    "Observation.referenceRange": (
        ("obs-3", _either("low", "high", "text"), "A reference range has a low, a high or a text."),
    ),
    "AuditEvent.entity": (("sev-1", _not_both("name", "query"), "An entity has a name or a query, and not both."),),
    "Bundle": (
        (
            "bdl-1",
            lambda given: "total" not in given or given.get("type") in ("searchset", "history"),
            "Only a searchset or a history has a total.",
        ),
        (
            "bdl-2",
            lambda given: (
                given.get("type") == "searchset" or all("search" not in each for each in given.get("entry", ()))
            ),
            "Only the entries of a searchset have a search.",
        ),
        (
            "bdl-3",
            _entries_have("request", "batch", "transaction", "history"),
            "Entries of a batch, transaction or history have a request, and no others.",
        ),
        (
            "bdl-4",
            _entries_have("response", "batch-response", "transaction-response", "history"),
            "Entries of a batch-response, transaction-response or history have a response, and no others.",
        ),
        ("bdl-7", _full_urls_differ, "A fullUrl stands once in a bundle, or with different versions."),
        (
            "bdl-9",
            lambda given: given.get("type") != "document" or {"system", "value"} <= given.get("identifier", {}).keys(),
            "A document has an identifier with a system and a value.",
        ),
        (
            "bdl-10",
            lambda given: given.get("type") != "document" or "timestamp" in given,
            "A document has a timestamp.",
        ),
        (
            "bdl-11",
            lambda given: given.get("type") != "document" or _first_is(given, "Composition"),
            "A document begins with a Composition.",
        ),
        (
            "bdl-12",
            lambda given: given.get("type") != "message" or _first_is(given, "MessageHeader"),
            "A message begins with a MessageHeader.",
        ),
    ),
    "Bundle.entry": (
        (
            "bdl-5",
            _either("resource", "request", "response"),
            "An entry of a bundle has a resource, a request or a response.",
        ),
        (
            "bdl-8",
            lambda given: "/_history/" not in given.get("fullUrl", ""),
            "A fullUrl names no version.",
        ),
    ),
    "Parameters.parameter": (
        (
            "inv-1",
            lambda given: _has_choice(given, "value") + ("resource" in given) + ("part" in given) <= 1,
            "A parameter has a value, a resource or parts.",
        ),
    ),
    "CapabilityStatement": (
        ("cpb-1", _either("rest", "messaging", "document"), "It tells of REST, messaging or documents."),
        (
            "cpb-2",
            _either("description", "software", "implementation"),
            "It has a description, a software or an implementation.",
        ),
        (
            "cpb-14",
            lambda given: given.get("kind") != "instance" or _has(given, "implementation"),
            "An instance has an implementation.",
        ),
        (
            "cpb-15",
            lambda given: (
                given.get("kind") != "capability" or (_has(given, "software") and not _has(given, "implementation"))
            ),
            "A capability has a software and no implementation.",
        ),
        (
            "cpb-16",
            lambda given: given.get("kind") != "requirements" or not _has(given, "software", "implementation"),
            "Requirements have no software and no implementation.",
        ),
    ),
    "CapabilityStatement.rest": (
        (
            "cpb-9",
            lambda given: _are_different(each.get("type") for each in given.get("resource", ())),
            "A type of resource stands once.",
        ),
    ),
    "CapabilityStatement.rest.resource": (
        (
            "cpb-12",
            lambda given: _are_different(each.get("name") for each in given.get("searchParam", ())),
            "A search parameter stands once.",
        ),
    ),
    "OperationDefinition.parameter": (
        ("opd-1", _either("type", "part"), "A parameter has a type or parts."),
        (
            "opd-2",
            lambda given: not _has(given, "searchType") or given.get("type") == "string",
            "A parameter with a searchType is a string.",
        ),
        (
            "opd-3",
            lambda given: not _has(given, "targetProfile") or given.get("type") in ("Reference", "canonical"),
            "Only a Reference or a canonical has targets.",
        ),
    ),
    "SearchParameter": (
        ("spd-1", _needs("xpath", "xpathUsage"), "With an xpath comes its usage."),
        (
            "spd-2",
            lambda given: not _has(given, "chain") or given.get("type") == "reference",
            "Only a reference can be chained.",
        ),
    ),
    "StructureDefinition": (
        (
            "sdf-4",
            lambda given: given.get("abstract") is True or _has(given, "baseDefinition"),
            "What is not abstract has a baseDefinition.",
        ),
        ("sdf-6", _either("snapshot", "differential"), "It has a snapshot or a differential."),
        (
            "sdf-5",
            lambda given: (
                given.get("type") != "Extension"
                or given.get("derivation") == "specialization"
                or _has(given, "context")
            ),
            "An extension says where it may stand.",
        ),
        (
            "sdf-14",
            lambda given: all("id" in each for each in _elements(given, "snapshot", "differential")),
            "Each element has an id.",
        ),
        (
            "sdf-16",
            lambda given: _are_different(each.get("id") for each in _elements(given, "snapshot")),
            "The ids of a snapshot's elements differ.",
        ),
        (
            "sdf-17",
            lambda given: _are_different(each.get("id") for each in _elements(given, "differential")),
            "The ids of a differential's elements differ.",
        ),
        (
            "sdf-18",
            lambda given: not _has(given, "contextInvariant") or given.get("type") == "Extension",
            "Only an extension has a contextInvariant.",
        ),
    ),
    "StructureDefinition.mapping": (("sdf-2", _either("name", "uri"), "A mapping has a name or a uri."),),
}
