"""The one table of types: what is declared, routed, searched and exported is what stands here."""

from __future__ import annotations

from collections.abc import Mapping

from server.fhir.stored import StoredType
from server.fhir.types import ResourceType

_STORED = (
    *("Binary", "ChargeItem", "ChargeItemDefinition", "Communication", "CommunicationRequest", "DetectedIssue"),
    *("Device", "DiagnosticReport", "DocumentReference", "Flag", "Location", "Observation", "Organization", "Patient"),
    *("Practitioner", "PractitionerRole", "Provenance", "Schedule", "ServiceRequest", "Slot"),
)

_TYPES: tuple[ResourceType, ...] = tuple(StoredType(name=name) for name in _STORED)

REGISTRY: Mapping[str, ResourceType] = {type.name: type for type in sorted(_TYPES, key=lambda type: type.name)}
"""By name, in the order of names."""
