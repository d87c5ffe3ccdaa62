"""Scheduled procedure steps for tests."""

from __future__ import annotations

from typing import Any

import orjson

from storage.catalog.steps import StoredStep
from storage.dicomjson import MetadataJson
from tests.catalog import header

OUTER = {"PatientName": "Müller^Jürgen", "PatientID": "P1", "RequestedProcedureDescription": "Head CT"}


def step(
    id: str = "S1", *, planned: dict[str, Any] | None = None, outer: dict[str, Any] | None = None, **columns: Any
) -> StoredStep:
    """A step as an order makes it: by default a CT of the head, of Jürgen Müller, on a morning in November."""
    item = header(
        **{
            **OUTER,
            **(outer or {}),
            "ScheduledProcedureStepSequence": [{"ScheduledProcedureStepDescription": "Head", **(planned or {})}],
        }
    )
    for tag in ("00080016", "00080018", "0020000D", "0020000E"):
        del item[tag]
    known = {
        "facility": "local",
        "accession_number": "A1",
        "procedure_id": "R1",
        "modality": "CT",
        "station_ae": "CT1",
        "starts_on": "20261125",
        "starts_at": "0930",
    }
    return StoredStep(**{**known, "id": id, "header": orjson.dumps(item), **columns})


def performed(step: StoredStep | None = None, **changes: Any) -> MetadataJson:
    """What a modality says when it begins, of a step or of none that was scheduled; None takes an attribute away."""
    scheduled = {
        "StudyInstanceUID": step.study_uid if step is not None else "1.2.3.4",
        "ReferencedStudySequence": [],
        "AccessionNumber": step.accession_number if step is not None else "",
        "RequestedProcedureID": step.procedure_id if step is not None else "",
        "ScheduledProcedureStepID": step.id if step is not None else "",
    }
    known = {
        "PatientID": step.patient_id if step is not None else "P1",
        "PatientName": "Müller^Jürgen",
        "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "CT1",
        "PerformedProcedureStepStartDate": "20261125",
        "PerformedProcedureStepStartTime": "094500",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "PerformedProcedureStepEndDate": "",
        "PerformedProcedureStepEndTime": "",
        "PerformedSeriesSequence": [],
        "Modality": "CT",
        "ScheduledStepAttributesSequence": [scheduled],
    }
    return said(**{**known, **changes})


def ended(status: str, *instances: str, series: str = "1.2.3.5", **changes: Any) -> MetadataJson:
    """What a modality says when it ends."""
    made = {
        "SeriesInstanceUID": series,
        "ProtocolName": "Head",
        "ReferencedImageSequence": [
            {"ReferencedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ReferencedSOPInstanceUID": uid} for uid in instances
        ],
    }
    known = {
        "PerformedProcedureStepStatus": status,
        "PerformedProcedureStepEndDate": "20261125",
        "PerformedProcedureStepEndTime": "101500",
        "PerformedSeriesSequence": [made] if instances else [],
    }
    return said(**{**known, **changes})


def said(**attributes: Any) -> MetadataJson:
    """A data set without the UIDs of an object."""
    made = header(**{name: value for name, value in attributes.items() if value is not None})
    own = ("00080016", "00080018", "0020000D", "0020000E")
    return {tag: one for tag, one in made.items() if tag not in own}
