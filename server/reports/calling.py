"""What is said on the telephone: whom to call about a critical result, what to tell, and what to ask for.

The number, the patient and the result stand on one card, so that whoever calls needs to look up nothing, and the person
who is called can write them down and read them back (Joint Commission NPSG.02.03.01).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from readingroom.model import Category, Contact, Facility
from server.worklist.escalations import rungs_of
from storage.catalog.escalations import StoredEscalation

ASK = "Please read back the name of the patient and the result. May I have your name? I write down the time."
"""What ends a call: without it nobody knows that what was said is what was heard."""

_HOW_SOON: Mapping[Category | None, str] = {
    1: "a critical result, category 1, which is to be told within minutes",
    2: "an urgent result, category 2, which is to be told within hours",
    3: "a result of category 3, which is to be told within days",
    None: "a matter that somebody has to know of",
}
_DAY = re.compile(r"\d{8}")
_NUMBER = re.compile(r"\+?[0-9][0-9 ().-]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Whom to call, the best first, what to say, and what to ask for. What is no number is not shown as one."""

    contacts: tuple[Contact, ...]
    say: str
    ask: str = ASK


def call_of(row: StoredEscalation, facility: Facility) -> Call:
    """The call that the present rung of an escalation is for."""
    rungs = rungs_of(row)
    role = rungs[min(max(row.rung, 1), len(rungs)) - 1].role
    contacts = sorted(facility.contacts, key=lambda one: one.role != role)
    return Call(
        contacts=tuple(one for one in contacts if _NUMBER.fullmatch(one.address)),
        say=" ".join(_said(row, facility, orjson.loads(row.details))),
    )


def _said(row: StoredEscalation, facility: Facility, told: Mapping[str, Any]) -> Iterator[str]:
    yield f"I call from the reading room about {_HOW_SOON[row.category]}, of {facility.name}."
    if told.get("patient_name") or told.get("patient_id"):
        known = [
            _named(told.get("patient_name") or "name not known"),
            f"born {_day(told['birth_date'])}" if told.get("birth_date") else "",
            f"ID {told['patient_id']}" if told.get("patient_id") else "",
        ]
        yield f"The patient is {', '.join(filter(None, known))}."
    if told.get("procedure") or told.get("accession_number"):
        study = [
            told.get("procedure") or "a study",
            f"of {_day(told['study_date'])}" if told.get("study_date") else "",
            f"accession number {told['accession_number']}" if told.get("accession_number") else "",
        ]
        yield f"It is about {', '.join(filter(None, study))}."
    yield f"The result: {row.reason}"
    if told.get("reader"):
        yield f"It was read by {told['reader']}."


def _named(name: str) -> str:
    """A person's name (PS3.5 6.2.1) as it is said."""
    family, _, others = name.partition("=")[0].partition("^")
    return ", ".join(filter(None, (" ".join(part.replace("^", " ").split()) for part in (family, others))))


def _day(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if _DAY.fullmatch(day) else day
