"""Work items for tests: in a catalog of its own, or of a room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from readingroom.clock import Clock, SetClock
from readingroom.model import LOCAL_OPERATOR, Actor, Scope, Study
from server.worklist.items import Work, create_item, working
from storage.catalog.work_items import StoredItem
from tests.synthetic import new_uid

PLUGIN = Actor(id="triage", name="Triage", kind="plugin")
READER = Actor(id="ada", name="Ada")


@contextmanager
def at_work(
    engine: sa.Engine, clock: Clock | None = None, actor: Actor = LOCAL_OPERATOR, scope: Scope | None = None
) -> Iterator[Work]:
    """One transaction of the worklist."""
    with working(engine, clock or SetClock(), actor, scope or Scope()) as work:
        yield work


def add(engine: sa.Engine, clock: Clock | None = None, **columns: Any) -> StoredItem:
    """One more item to be read, of a study of its own."""
    columns = {"facility": "local", "kind": "read", "study_uid": new_uid()} | columns
    with at_work(engine, clock) as work:
        return create_item(work, **columns)


def study(**attributes: Any) -> Study:
    """A study that has settled."""
    known = {
        "study_uid": new_uid(),
        "facility": "local",
        "patient": "p",
        "modalities": ("CT",),
        "body_parts": ("HEAD",),
    }
    return Study(**{**known, **attributes})


# -- what others put on the worklist -----------------------------------------------------------------------------------

CODE = {
    "00080100": {"vr": "SH", "Value": ["121"]},
    "00080102": {"vr": "SH", "Value": ["99TEST"]},
    "00080104": {"vr": "LO", "Value": ["Something to do"]},
}


def attribute(vr: str, *values: Any) -> dict[str, Any]:
    """An element of DICOM JSON."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def workitem(**changes: dict[str, Any] | None) -> dict[str, Any]:
    """A data set that creates a UPS, written out by hand; None takes an attribute away."""
    dataset: dict[str, Any] = {
        "00080005": attribute("CS", "ISO_IR 192"),
        "00081080": attribute("LO"),
        "00081084": attribute("SQ"),
        "00081195": attribute("UI"),
        "00100010": attribute("PN", {"Alphabetic": "Müller^Jürgen"}),
        "00100020": attribute("LO", "P1"),
        "00100021": attribute("LO", "NORTH"),
        "00100024": attribute("SQ"),
        "00100030": attribute("DA", "19700101"),
        "00100040": attribute("CS", "O"),
        "00101002": attribute("SQ"),
        "00380010": attribute("LO"),
        "00380014": attribute("SQ"),
        "00400400": attribute("LT"),
        "00404005": attribute("DT", "20260101130000"),
        "00404018": attribute("SQ", CODE),
        "00404021": attribute("SQ"),
        "00404025": attribute("SQ"),
        "00404026": attribute("SQ"),
        "00404027": attribute("SQ"),
        "00404041": attribute("CS", "READY"),
        "0040A370": attribute("SQ"),
        "00741000": attribute("CS", "SCHEDULED"),
        "00741002": attribute("SQ"),
        "00741200": attribute("CS", "MEDIUM"),
        "00741202": attribute("LO", "LUNG CAD"),
        "00741204": attribute("LO", "Look for nodules"),
        "00741210": attribute("SQ"),
        "00741216": attribute("SQ"),
    }
    dataset = {**dataset, **changes}
    return {tag: one for tag, one in sorted(dataset.items()) if one is not None}


def performed() -> dict[str, Any]:
    """What a performer sets before it completes a UPS."""
    return {
        "00741216": attribute(
            "SQ",
            {
                "00404019": attribute("SQ", CODE),
                "00404028": attribute("SQ", CODE),
                "00404033": attribute("SQ"),
                "00404050": attribute("DT", "20260101130000"),
                "00404051": attribute("DT", "20260101131500"),
            },
        )
    }
