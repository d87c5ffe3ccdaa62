"""What a token's scopes let its bearer do with which resources (SMART App Launch 2.2); of facilities see `Scope`.

Whether a type may be read, searched or written at all is asked once of each interaction: `require`. Which resources of
it is a condition, `limit_of`, that is put into every search: of matches, of what is chained to them, of what comes with
them. What is read or changed by its id is looked up by such a search, within the same transaction, and so is what a
write has made. So a query in a scope means what it means in a search.

A scope for one patient is for the resources of R4's Patient compartment that are about that patient: it is no scope for
those in which the patient had another part, and for none of types that are outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import parse_qsl

from readingroom.errors import Invalid, Refused
from server.fhir.query import parse_query
from server.fhir.session import Session
from server.scopes import Letter, Limit, limits, require_facility
from storage.catalog.fhir_conditions import AllOf, AnyOf, Chain, Condition, Has, Ids, Match, Text

COMPARTMENT = frozenset(
    (
        *("Appointment", "AuditEvent", "ChargeItem", "Communication", "CommunicationRequest", "DetectedIssue"),
        *("DiagnosticReport", "DocumentReference", "Encounter", "Flag", "ImagingStudy", "Observation", "Patient"),
        *("Provenance", "ServiceRequest"),
    )
)
"""The types of R4's CompartmentDefinition/patient that are kept here and have the search parameter ``patient``."""

FOR_EVERYBODY = frozenset(("CapabilityStatement", "OperationDefinition", "SearchParameter", "StructureDefinition"))
"""What only says how this server works."""

NOTHING: Condition = AnyOf(conditions=())


def may(session: Session, type: str, letter: Letter) -> bool:
    """Whether the caller may do this with any resource of a type."""
    return bool(limits(session.actor, type, letter)) or (letter in "rs" and type in FOR_EVERYBODY)


def require(session: Session, type: str, *letters: Letter) -> None:
    """Raise `Refused` where the caller may not do one of these with any resource of a type, or make none here."""
    for letter in letters:
        if not may(session, type, letter):
            raise Refused(f"The token has no scope for this; it would be system/{type[:64]}.{letter}.")
        if letter == "c":
            require_facility(session.scope, session.facility)


def limit_of(session: Session, type: str, letter: Letter) -> Condition | None:
    """What holds for the resources of a type that the caller may do this with; None where that is all of them."""
    if session.actor.scopes is None or (letter in "rs" and type in FOR_EVERYBODY):
        return None
    found = limits(session.actor, type, letter)
    if Limit() in found:
        return None
    some = [_condition(type, limit, session.actor.patient, session.root) for limit in found]
    return some[0] if len(some) == 1 else AnyOf(conditions=tuple(some))


def require_conditions(session: Session, conditions: Sequence[Condition]) -> None:
    """Raise `Refused` where a search asks about resources of a type that the caller may not search.

    Where a chain may lead to several types, those that may be searched are.
    """
    for condition in conditions:
        match condition:
            case Has(source=source, conditions=inner):
                require(session, source, "s")
                require_conditions(session, inner)
            case Chain(target=target, conditions=inner):
                require(session, target, "s")
                require_conditions(session, inner)
            case AllOf(conditions=inner):
                require_conditions(session, inner)
            case AnyOf(conditions=inner):
                closed = [one for one in inner if isinstance(one, Chain) and not may(session, one.target, "s")]
                others = [one for one in inner if one not in closed]
                require_conditions(session, others or closed)


def is_about(type: str, patient: str) -> Condition:
    """That a resource is of that patient's compartment."""
    if type not in COMPARTMENT:
        return NOTHING
    if type == "Patient":
        return Ids(ids=(patient,))
    return Match(parameter="patient", tests=(Text(text=f"Patient/{patient}"),))


def _condition(type: str, limit: Limit, patient: str | None, root: str) -> Condition:
    held = list(_of_query(type, limit.query, root)) if limit.query else []
    if limit.is_of_patient:
        held.append(NOTHING if patient is None else is_about(type, patient))
    return held[0] if len(held) == 1 else AllOf(conditions=tuple(held))


@lru_cache(512)
def _of_query(type: str, query: str, root: str) -> tuple[Condition, ...]:
    """What the query of a scope asks; nothing will do where it cannot be asked, or is about other resources too."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True)
        conditions = parse_query(type, pairs, root=root, is_strict=True).conditions
    except Invalid:
        return (NOTHING,)
    return conditions if conditions and all(map(_is_plain, conditions)) else (NOTHING,)


def _is_plain(condition: Condition) -> bool:
    if isinstance(condition, AnyOf | AllOf):
        return all(map(_is_plain, condition.conditions))
    return not isinstance(condition, Chain | Has)
