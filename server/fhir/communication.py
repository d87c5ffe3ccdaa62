"""Critical results as FHIR: the Communication that tells one (R4 8.14), and the Flag that stands until it was told.

Both have the id of the escalation, and so has the Task of the call. They are made of its row and of its attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from readingroom.model import Category
from server.fhir.publishing import publish
from server.reports.critical import RADLEX
from server.room import Room
from server.worklist.items import Work
from storage.catalog import schema as t
from storage.catalog.escalations import Attempt, AttemptState, EscalationState, StoredEscalation, list_attempts
from storage.catalog.ids import study_fhir_id
from storage.fhirvalues import (
    Element,
    code_system,
    instant_of,
    reference,
    text,
    without_none,
)

_STATUS: Mapping[EscalationState, str] = {"open": "in-progress", "acknowledged": "completed", "cancelled": "stopped"}
_PRIORITY: Mapping[Category, str] = {1: "stat", 2: "urgent", 3: "routine"}
_HOW_SOON: Mapping[Category, str] = {
    1: "Category 1: to be told within minutes",
    2: "Category 2: to be told within hours",
    3: "Category 3: to be told within days",
}
_RADLEX_SYSTEM = "http://www.radlex.org"
_MODES = "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode"
_MEDIUM: Mapping[str, str] = {
    "telephone": "PHONE",
    "phone": "PHONE",
    "voice": "PHONE",
    "in person": "FACE",
    "online": "ONLINEWRIT",
    "smtp": "EMAILWRIT",
    "mail": "EMAILWRIT",
    "video": "VIDEOCONF",
    "fax": "FAXWRIT",
}
_BECAME: Mapping[AttemptState, str] = {
    "notified": "message handed over",
    "failed": "could not be reached",
    "reached": "reached, not read back",
    "no-answer": "no answer",
    "left-message": "left a message",
    "read-back": "read back",
    "handed-over": "handed over",
}
_SENT = frozenset(("notified", "reached", "left-message", "read-back"))


def communication(
    row: StoredEscalation, attempts: Sequence[Attempt], *, patient: str | None = None, study: str | None = None
) -> Element:
    """The Communication of a critical result.

    It is in progress as long as nobody has read the result back, completed when somebody has, and stopped where a
    person has cancelled it. `sent` is the first time that anything was, `received` when it was read back.

    Parameters
    ----------
    patient, study
        Ids of the Patient and of the ImagingStudy.
    """
    is_told = row.state == "acknowledged"
    read_back = next((one for one in attempts if one.state == "read-back"), None)
    sent = min((one.at for one in attempts if one.state in _SENT), default=None)
    payload = [text(row.reason), f"Read back: {text(row.read_back)}" if is_told else None]
    return without_none(
        resourceType="Communication",
        id=row.id,
        identifier=[{"system": code_system("escalation"), "value": row.id}],
        basedOn=[reference("Task", row.id)] if row.report else None,
        status=_STATUS[row.state],
        statusReason={"text": text(row.read_back)} if row.state == "cancelled" else None,
        category=list(_categories(row)),
        priority=_PRIORITY[row.category] if row.category else None,
        medium=[_medium(read_back.contact.channel)] if read_back else None,
        subject=reference("Patient", patient) if patient else None,
        about=[reference("ImagingStudy", study)] if study else None,
        sent=instant_of(sent),
        received=instant_of(row.reached_at),
        recipient=[_recipient(row, read_back)] if is_told else None,
        sender={"display": text(read_back.by)} if read_back else None,
        reasonReference=[reference("DiagnosticReport", row.report)] if row.report else None,
        payload=[{"contentString": one} for one in payload if one],
        note=[_note(one) for one in attempts],
    )


def flag(row: StoredEscalation, *, patient: str) -> Element:
    """The Flag that a critical result has not been told: active as long as its escalation is open."""
    return without_none(
        resourceType="Flag",
        id=row.id,
        identifier=[{"system": code_system("escalation"), "value": row.id}],
        status="active" if row.state == "open" else "inactive",
        category=[
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/flag-category", "code": "clinical"}]},
            *list(_categories(row))[1:],
        ],
        code={"text": f"CRITICAL RESULT - NOT YET COMMUNICATED: {text(row.reason)}"},
        subject=reference("Patient", patient),
        period=without_none(start=instant_of(row.opened_at), end=instant_of(row.closed_at)),
    )


def publish_criticals(room: Room) -> None:
    """Have Communication and Flag follow their escalations, in the transactions that change those."""

    def follow(work: Work, row: StoredEscalation) -> None:
        if row.category is None:
            return
        attempts = list_attempts(work.connection, row.id)
        study, patient = _about(work.connection, row)
        publish(room, work, communication(row, attempts, patient=patient, study=study), facility=row.facility)
        if row.category == 1 and patient is not None:
            publish(room, work, flag(row, patient=patient), facility=row.facility)

    room.criticals.published.append(follow)


def _about(connection: sa.Connection, row: StoredEscalation) -> tuple[str | None, str | None]:
    """The ids of ImagingStudy and Patient; None where there is no study of that UID."""
    if row.study_uid is None:
        return None, None
    s = t.study.c
    found = sa.select(s.patient).where(s.owner_facility == row.facility, s.study_uid == row.study_uid)
    patient = connection.execute(found).scalar_one_or_none()
    return (study_fhir_id(row.facility, row.study_uid), str(patient)) if patient else (None, None)


def _categories(row: StoredEscalation) -> Iterator[Element]:
    yield {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/communication-category", "code": "alert"}]}
    if row.category is not None:
        coded = {"system": _RADLEX_SYSTEM, "code": RADLEX[row.category]}
        yield {"coding": [coded], "text": _HOW_SOON[row.category]}


def _medium(channel: str) -> Element:
    code = _MEDIUM.get(channel.lower())
    return without_none(coding=[{"system": _MODES, "code": code}] if code else None, text=text(channel))


def _recipient(row: StoredEscalation, read_back: Attempt | None) -> Element:
    role = read_back.contact.role if read_back else ""
    return {"display": f"{text(row.closed_by)} ({text(role)})" if text(role) else text(row.closed_by)}


def _note(one: Attempt) -> Element:
    who = " ".join(filter(None, (text(one.contact.name), f"({text(one.contact.role)})" if one.contact.role else "")))
    how = f" by {text(one.contact.channel)}" if text(one.contact.channel) else ""
    more = text(one.note) or text(one.error)
    told = f"{who}{how}: {_BECAME[one.state]}" + (f". {more}" if more else "")
    author: dict[str, Any] = {"authorString": text(one.by or one.plugin)}
    return without_none(**author, time=instant_of(one.at), text=told)
