"""Scheduled procedure steps for tests."""

from __future__ import annotations

from typing import Any

import orjson

from storage.catalog.steps import StoredStep
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
