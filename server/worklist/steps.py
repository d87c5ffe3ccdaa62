"""Scheduled procedure steps: what an order asks a modality to do, which is on its worklist until it has been done.

A step is said as often as its order is; it goes forward only, from scheduled over arrived and started to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import Invalid, NotFound
from readingroom.model import Study
from server.worklist.items import Work
from server.worklist.reconsidering import reconsider
from storage.catalog import schema as t
from storage.catalog.ids import ordered_study_uid
from storage.catalog.normal import normal_day, normal_time
from storage.catalog.steps import (
    StepState,
    StoredStep,
    insert_step,
    lock_step,
    open_steps_of_patient,
    steps_of,
    steps_of_study,
    update_step,
)
from storage.catalog.studies import ensure_facility
from storage.catalog.ups import element
from storage.dicomjson import MetadataJson
from storage.upsrules import items_of

__all__ = ["cancel_step", "end_imaged", "move_step", "rename_steps", "schedule_step", "steps_of", "steps_of_study"]

STEP_CHANGED = "StepChanged"
"""The event that tells of a step: its payload has the id, the state, what was done, and why."""

IMAGED = "Its images are here."

_SEQUENCE = "00400100"
_OUTER: Mapping[str, tuple[str, str]] = {
    "accession_number": ("00080050", "SH"),
    "patient_id": ("00100020", "LO"),
    "issuer": ("00100021", "LO"),
    "study_uid": ("0020000D", "UI"),
    "procedure_id": ("00401001", "SH"),
}
_INNER: Mapping[str, tuple[str, str]] = {
    "modality": ("00080060", "CS"),
    "station_ae": ("00400001", "AE"),
    "starts_on": ("00400002", "DA"),
    "starts_at": ("00400003", "TM"),
    "id": ("00400009", "SH"),
}
_FORWARD: tuple[StepState, ...] = ("scheduled", "arrived", "started")
_DONE: frozenset[StepState] = frozenset(("completed", "discontinued"))
_REASON_CHARACTERS = 1024


def schedule_step(work: Work, step: StoredStep) -> StoredStep:
    """Take a step, or what has changed of one; said again, it changes nothing.

    What its columns and its header do not both say, either is told by the other. A step that names no study gets the
    UID that its accession number has in the facility, the same each time. One that was cancelled is scheduled again;
    one that has begun, or is over, stays so, and in its study.

    Raises
    ------
    Invalid
        It has no id, or a date or a time that is none.
    """
    ensure_facility(work.connection, step.facility)
    before = lock_step(work.connection, step.facility, step.id)
    if before is not None:
        state = _state_after(before.state, step.state)
        step = replace(
            step,
            key=before.key,
            order=step.order or before.order,
            state=state,
            reason=before.reason if state == before.state else step.reason,
        )
        if before.state in ("started", *_DONE):
            header = {**step.item, "0020000D": element("UI", before.study_uid)}
            step = replace(step, study_uid=before.study_uid, header=orjson.dumps(header))
    if step.state in _FORWARD:
        step = replace(step, reason="")
    step = _whole(work.connection, step)
    if step == before:
        return step
    if before is None:
        step = insert_step(work.connection, step, work.now)
    else:
        update_step(work.connection, step, work.now)
    _note(work, step, "scheduled" if before is None else "changed")
    reconsider(
        work,
        step.facility,
        accession_number=step.accession_number,
        study_uid=step.study_uid,
        patient_id=step.patient_id,
    )
    return step


def cancel_step(work: Work, facility: str, id: str, reason: str) -> StoredStep:
    """Take a step back, so that no worklist has it; one that has begun goes on, and one that is over stays as it is.

    Raises
    ------
    NotFound
        The facility has no such step.
    """
    step = lock_step(work.connection, facility, id)
    if step is None:
        raise NotFound(f"There is no scheduled procedure step {id[:64]}.")
    return move_step(work, step, "cancelled", reason) if step.state in ("scheduled", "arrived") else step


def move_step(work: Work, step: StoredStep, state: StepState, reason: str = "") -> StoredStep:
    """Let a step be in another state."""
    if step.state == state:
        return step
    after = replace(step, state=state, reason=reason[:_REASON_CHARACTERS])
    after = _whole(work.connection, after)
    update_step(work.connection, after, work.now)
    _note(work, after, state)
    return after


def end_imaged(work: Work, study: Study) -> None:
    """End what was to be done for a study that has settled, where nobody has said that it was begun.

    Modalities that tell of no performed step would leave it on the worklist for ever. Of several steps of a modality
    nobody knows which one the images are of: they stay.
    """
    steps = steps_of_study(work.connection, study.facility, study.study_uid)
    if study.accession_number:
        steps += steps_of(work.connection, study.facility, accession_number=study.accession_number)
    by_modality: dict[str, set[str]] = {}
    for step in steps:
        if step.is_open:
            by_modality.setdefault(step.modality, set()).add(step.id)
    for modality, ids in by_modality.items():
        is_here = modality in study.modalities or not modality
        only = lock_step(work.connection, study.facility, *ids) if is_here and len(ids) == 1 else None
        if only is not None and only.state in ("scheduled", "arrived"):
            move_step(work, only, "completed", IMAGED)


def rename_steps(work: Work, facility: str, issuer: str, patient_id: str, changes: MetadataJson) -> None:
    """Have the patient of steps that are still to be done called otherwise, or be another.

    Parameters
    ----------
    changes
        What holds of the patient now, by tag; with Patient ID and Issuer of Patient ID where these are others too.
    """
    whose = {name: _text(changes, _OUTER[name][0]) for name in ("patient_id", "issuer")}
    told: dict[str, Any] = {name: value for name, value in whose.items() if value}
    for step in open_steps_of_patient(work.connection, facility, issuer, patient_id):
        header = orjson.dumps({**step.item, **changes})
        after = _whole(work.connection, replace(step, header=header, **told))
        if after != step:
            update_step(work.connection, after, work.now)
            _note(work, after, "patient changed")


def _state_after(before: StepState, told: StepState) -> StepState:
    if before in _DONE or told == before:
        return before
    if before in _FORWARD and told in _FORWARD:
        return max(before, told, key=_FORWARD.index)
    return told


def _whole(connection: sa.Connection, step: StoredStep) -> StoredStep:
    """A step whose columns and header say the same, its state included."""
    header = step.item
    planned = dict(next(iter(items_of(header, _SEQUENCE)), {}))
    known: dict[str, Any] = {}
    for name, (tag, _) in _OUTER.items():
        known[name] = getattr(step, name) or _text(header, tag)
    for name, (tag, _) in _INNER.items():
        known[name] = getattr(step, name) or _text(planned, tag)
    if not known["id"]:
        raise Invalid("A scheduled procedure step has an id.")
    known["study_uid"] = known["study_uid"] or ordered_study_uid(step.facility, known["accession_number"] or step.id)
    if not known["issuer"]:
        of_facility = sa.select(t.facility.c.issuer).where(t.facility.c.id == step.facility)
        known["issuer"] = connection.execute(of_facility).scalar_one()
    known["starts_on"] = _normal("date", normal_day, known["starts_on"])
    known["starts_at"] = _normal("time", normal_time, known["starts_at"])
    for tags, within in ((_OUTER, header), (_INNER, planned)):
        for name, (tag, vr) in tags.items():
            told = known[name].removesuffix(".000000") if vr == "TM" else known[name]
            within[tag] = element(vr, *filter(None, told.split("\\")))
    planned["00400020"] = element("CS", step.state.upper())
    header[_SEQUENCE] = element("SQ", dict(sorted(planned.items())))
    return replace(step, header=orjson.dumps(dict(sorted(header.items()))), **known)


def _normal(what: str, normal: Any, value: str) -> str:
    found = normal(value) if value else ""
    if found is None:
        raise Invalid(f"The start {what} of a scheduled procedure step is YYYYMMDD, or HHMMSS.FFFFFF or its beginning.")
    return str(found)


def _text(dataset: MetadataJson, tag: str) -> str:
    """The values of an attribute, with backslashes between them."""
    values = dataset.get(tag, {}).get("Value") or ()
    return "\\".join(str(value) for value in values if value is not None)


def _note(work: Work, step: StoredStep, what: str) -> None:
    told = {"what": what, "step": step.id, "state": step.state}
    if step.reason:
        told["reason"] = step.reason
    work.note(STEP_CHANGED, told, facility=step.facility, study_uid=step.study_uid)
