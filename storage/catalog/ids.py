"""Ids that follow from what they name: a catalog that is made again has the same."""

from __future__ import annotations

from uuid import UUID, uuid5

_NAMESPACE = UUID("0d1c0a3e-7a0c-5d5f-9a47-6d1e2f8b3c51")


def study_fhir_id(owner_facility: str, study_uid: str) -> str:
    """The id of the ImagingStudy of a study."""
    return uuid5(_NAMESPACE, f"{owner_facility}|{study_uid}").hex


def patient_key(issuer: str, patient_id: str) -> str:
    """The id of the patient that an issuer knows by a Patient ID."""
    return uuid5(_NAMESPACE, f"patient|{issuer}|{patient_id}").hex


def nameless_key(owner_facility: str, study_uid: str) -> str:
    """The id of the patient of a study that names none."""
    return uuid5(_NAMESPACE, f"nameless|{owner_facility}|{study_uid}").hex


def report_uid(report: str, what: str, number: int | None = None) -> str:
    """The UID of an object that is made of a version of a report; without a number, of the series of such objects."""
    return f"2.25.{uuid5(_NAMESPACE, f'report|{report}|{what}|{number or 0}').int}"


def algorithm_id(manufacturer: str, name: str, version: str) -> str:
    """The id of the Device that an algorithm is."""
    return uuid5(_NAMESPACE, f"algorithm|{manufacturer}|{name}|{version}").hex


def ordered_study_uid(facility: str, number: str) -> str:
    """The Study Instance UID of what was ordered under a number, where the order names none."""
    return f"2.25.{uuid5(_NAMESPACE, f'ordered|{facility}|{number}').int}"


def order_step_id(order: str) -> str:
    """The Scheduled Procedure Step ID of what an order asks a modality to do; an SH has 16 characters."""
    return uuid5(_NAMESPACE, f"step|{order}").hex[:16].upper()
