"""The one table of types: what is declared, routed, searched and exported is what stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.fhir.declared import DeclaredType
from server.fhir.directory_types import ENDPOINT, LOCATION, ORGANIZATION, PRACTITIONER, PRACTITIONER_ROLE, SCHEDULE
from server.fhir.imagingstudy import ImagingStudyType
from server.fhir.order import ServiceRequestType
from server.fhir.patient import PatientType
from server.fhir.stored import StoredType
from server.fhir.subscriptions import SubscriptionType
from server.fhir.task import TaskType
from server.fhir.types import Resource, ResourceType

_STORED = (
    *("Appointment", "Binary", "ChargeItem", "ChargeItemDefinition", "Communication", "CommunicationRequest"),
    *("DetectedIssue", "Device", "DiagnosticReport", "DocumentReference", "Encounter", "Flag", "Observation"),
    *("Provenance", "Slot"),
)


# What is declared is made from this table, so it is looked for when it is asked for.
def _statements(root: str) -> Sequence[Resource]:
    from server.fhir.capability import statement

    return [statement(root)]


def _search_parameters(root: str) -> Sequence[Resource]:
    from server.fhir.capability import search_parameters

    return search_parameters(root)


def _operation_definitions(root: str) -> Sequence[Resource]:
    from server.fhir.capability import operation_definitions

    return operation_definitions(root)


def _profiles(root: str) -> Sequence[Resource]:
    from server.fhir.profiles import profiles

    return [dict(one) for one in profiles().values()]


_TYPES: tuple[ResourceType, ...] = (
    *(StoredType(name=name) for name in _STORED),
    SubscriptionType(),
    *(ENDPOINT, LOCATION, ORGANIZATION, PRACTITIONER, PRACTITIONER_ROLE, SCHEDULE),
    *(ImagingStudyType(), PatientType(), ServiceRequestType(), TaskType()),
    DeclaredType(name="CapabilityStatement", make=_statements),
    DeclaredType(name="SearchParameter", make=_search_parameters),
    DeclaredType(name="OperationDefinition", make=_operation_definitions),
    DeclaredType(name="StructureDefinition", make=_profiles),
)

REGISTRY: Mapping[str, ResourceType] = {type.name: type for type in sorted(_TYPES, key=lambda type: type.name)}
"""By name, in the order of names."""
