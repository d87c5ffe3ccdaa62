"""Performed procedure steps (PS3.4 annex F): a modality says that it has begun, how it goes on, and how it ended.

All that it says is kept. It leads to the scheduled steps that it names, which are then started, completed or
discontinued. What does not fit them is kept as well, moves none of them, and waits for somebody to look at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import orjson
from pydicom.uid import UID

from readingroom.errors import Conflict, Invalid, NotFound
from server.worklist.items import Work
from server.worklist.steps import move_step, steps_of, steps_of_study
from storage.catalog.performed import (
    PerformedState,
    PerformedStep,
    find_performed,
    hurry_study,
    insert_performed,
    performed_of_study,
    update_performed,
)
from storage.catalog.steps import StepState, StoredStep, lock_step
from storage.catalog.studies import ensure_facility
from storage.dicomjson import MetadataJson
from storage.upsrules import items_of, value_of

PERFORMED_CHANGED = "PerformedStepChanged"
"""The event that tells of a performed step: its UID and state, the scheduled steps, and what is doubtful about it."""

OVER = "Performed Procedure Step Object may no longer be updated"
"""What is answered to a change of one that has ended (PS3.4 table F.7.2-2), word for word."""

_SCHEDULED, _SERIES, _REASON = "00400270", "00400340", "00400281"
_STATUS, _ENDED_ON, _ENDED_AT = "00400252", "00400250", "00400251"
_STATES: dict[str, PerformedState] = {
    "IN PROGRESS": "in progress",
    "COMPLETED": "completed",
    "DISCONTINUED": "discontinued",
}
_REQUIRED = ("00400253", "00400241", "00400244", "00400245", _STATUS, "00080060", _SCHEDULED)
"""Type 1 of a creation: id, station AE title, start date and time, status, modality, what was scheduled."""
_FIXED = frozenset(
    (
        *("00100010", "00100020", "00100021", "00100024", "00100030", "00100040", "00101002", "00081120", "00380010"),
        *("00400253", "00400241", "00400242", "00400243", "00400244", "00400245", "00080060", "00200010", _SCHEDULED),
    )
)
"""What is said once, and not changed (Not allowed in N-SET)."""
_WRONG_ENTRY = ("110514", "DCM")
"""Incorrect worklist entry selected (PS3.16 CID 9300): the step that was named is still to be done."""


class MissingAttribute(Invalid):
    """An attribute that has to be there is not."""


class MissingValue(Invalid):
    """An attribute that has to have a value has none."""


class NoSuchAttribute(Conflict):
    """An attribute is one that this transaction cannot change."""


class Taken(Conflict):
    """There is a performed procedure step of that SOP Instance UID."""


@dataclass(slots=True)
class _Found:
    """What was scheduled of what was performed, and what is doubtful about that."""

    steps: dict[str, StoredStep] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def create_performed(
    work: Work, *, facility: str, instance_uid: str, dataset: MetadataJson, source: str
) -> PerformedStep:
    """A modality has begun (F.7.2.1); `source` is who says so.

    Raises
    ------
    MissingAttribute, MissingValue
        Something of type 1 is not there, or empty.
    Invalid
        Its status is not IN PROGRESS, or its UID is none.
    Taken
        Its UID is in use.
    """
    if not UID(instance_uid).is_valid:
        raise Invalid("The SOP Instance UID of a performed procedure step is no UID.")
    _require(dataset, _REQUIRED)
    for item in items_of(dataset, _SCHEDULED):
        _require(item, ("0020000D",))
    if _status(dataset) != "in progress":
        raise Invalid("A performed procedure step begins with the status IN PROGRESS.")
    ensure_facility(work.connection, facility)
    found = _scheduled(work, facility, dataset)
    performed = PerformedStep(
        instance_uid=instance_uid,
        facility=facility,
        source=source,
        state="in progress",
        study_uid=str(value_of(dataset, _SCHEDULED, "0020000D")),
        steps=orjson.dumps(sorted(found.steps)).decode(),
        doubt=" ".join(dict.fromkeys(found.doubts)),
        attributes=_packed(dataset),
        created_at=work.now,
        changed_at=work.now,
    )
    if not insert_performed(work.connection, performed):
        raise Taken(f"There is a performed procedure step {instance_uid} already.")
    for step in found.steps.values():
        if step.state in ("scheduled", "arrived"):
            move_step(work, step, "started")
    _note(work, performed, "created")
    return performed


def change_performed(work: Work, instance_uid: str, changes: MetadataJson) -> PerformedStep:
    """What a modality has done since, or that it is done (F.7.2.2); the attributes that it names are replaced.

    Raises
    ------
    NotFound
        There is none of that UID in scope.
    Conflict
        It has ended.
    NoSuchAttribute
        What is said once is said otherwise.
    MissingAttribute, MissingValue
        It would end without what it has to have then.
    Invalid
        Its status is none.
    """
    before = find_performed(work.connection, work.scope, instance_uid, locked=True)
    if before is None:
        raise NotFound(f"There is no performed procedure step {instance_uid[:64]}.")
    if before.state != "in progress":
        raise Conflict(OVER)
    known = before.dataset
    for tag in _FIXED & changes.keys():
        if changes[tag].get("Value") != known.get(tag, {}).get("Value"):
            raise NoSuchAttribute(f"({tag[:4]},{tag[4:]}) of a performed procedure step is said once.")
    dataset = {**known, **changes}
    state = _status(dataset)
    if state != "in progress":
        _require(dataset, (_ENDED_ON, _ENDED_AT, *([_SERIES] if state == "completed" else [])))
        for series in items_of(dataset, _SERIES):
            _require(series, ("0020000E",))
    after = replace(before, state=state, attributes=_packed(dataset), changed_at=work.now)
    if state == "discontinued" and _is_wrong_entry(dataset):
        after = replace(after, doubt=f"{before.doubt} Another entry of the worklist was meant.".strip())
    update_performed(work.connection, after)
    if state != "in progress":
        _end(work, after)
    _note(work, after, "changed" if state == "in progress" else state)
    return after


def referenced_instances(dataset: MetadataJson) -> list[str]:
    """SOP Instance UIDs of what was made, as the series that were performed name them."""
    return [
        str(uid)
        for series in items_of(dataset, _SERIES)
        for tag in ("00081140", "00400220")  # images, and what is none
        for one in items_of(series, tag)
        if (uid := value_of(one, "00081155"))
    ]


def _scheduled(work: Work, facility: str, dataset: MetadataJson) -> _Found:
    """The steps that a performed one names: by their ids, else by accession number, else by study."""
    found = _Found()
    patient = str(value_of(dataset, "00100020") or "")
    for item in items_of(dataset, _SCHEDULED):
        id, number = str(value_of(item, "00400009") or ""), str(value_of(item, "00080050") or "")
        study_uid = str(value_of(item, "0020000D"))
        named: Sequence[StoredStep]
        if id:
            step = lock_step(work.connection, facility, id)
            named = [step] if step else []
        else:
            named = steps_of(work.connection, facility, accession_number=number) if number else []
            named = named or steps_of_study(work.connection, facility, study_uid)
            modality = value_of(dataset, "00080060")
            named = [one for one in named if one.modality == modality and one.is_open]
        if not named:
            says = id or number
            found.doubts.append(f"{says} is not scheduled here." if says else "Nothing was scheduled.")
        for step in named:
            if doubts := list(_doubts(step, patient=patient, number=number, study_uid=study_uid)):
                found.doubts += doubts
            else:
                found.steps[step.id] = step
    return found


def _doubts(step: StoredStep, *, patient: str, number: str, study_uid: str) -> Iterator[str]:
    if patient and step.patient_id and patient != step.patient_id:
        yield f"{step.id} is of another patient."
    if number and step.accession_number and number != step.accession_number:
        yield f"{step.id} has another accession number."
    if study_uid != step.study_uid:
        yield f"{step.id} is of another study."
    if not step.is_open:
        yield f"{step.id} was {step.state} before."


def _end(work: Work, performed: PerformedStep) -> None:
    """End the steps that nobody else performs any more; the study settles at once if all that was made is here."""
    dataset = performed.dataset
    others = performed_of_study(work.connection, performed.facility, performed.study_uid)
    others = [one for one in others if one.instance_uid != performed.instance_uid]
    busy = {id for one in others if one.state == "in progress" for id in one.step_ids}
    done = {id for one in others if one.state == "completed" for id in one.step_ids}
    to: StepState = "completed" if performed.state == "completed" else "discontinued"
    reason = ""
    if to == "discontinued":
        to = "scheduled" if _is_wrong_entry(dataset) else to
        reason = str(value_of(dataset, _REASON, "00080104") or "") if to == "discontinued" else ""
    for id in performed.step_ids:
        step = lock_step(work.connection, performed.facility, id)
        if step is not None and step.state == "started" and id not in busy:
            move_step(work, step, "completed" if id in done else to, "" if id in done else reason)
    is_last = all(one.state != "in progress" for one in others)
    if performed.state == "completed" and is_last:
        made = [uid for one in (performed, *others) for uid in referenced_instances(one.dataset)]
        hurry_study(work.connection, performed.facility, performed.study_uid, made, work.now)


def _is_wrong_entry(dataset: MetadataJson) -> bool:
    code = value_of(dataset, _REASON, "00080100"), value_of(dataset, _REASON, "00080102")
    return code == _WRONG_ENTRY


def _status(dataset: MetadataJson) -> PerformedState:
    said = str(value_of(dataset, _STATUS))
    if said not in _STATES:
        raise Invalid("The status of a performed procedure step is IN PROGRESS, COMPLETED or DISCONTINUED.")
    return _STATES[said]


def _require(dataset: MetadataJson, tags: Sequence[str]) -> None:
    for tag in tags:
        if tag not in dataset:
            raise MissingAttribute(f"({tag[:4]},{tag[4:]}) has to be there.")
        if not any(value not in (None, "", {}) for value in dataset[tag].get("Value") or ()):
            raise MissingValue(f"({tag[:4]},{tag[4:]}) has to have a value.")


def _packed(dataset: MetadataJson) -> bytes:
    """What is kept: text is Unicode here, so it has no character set; the UIDs of the object are its row's."""
    kept = {tag: one for tag, one in dataset.items() if tag not in ("00080005", "00080016", "00080018")}
    return orjson.dumps(dict(sorted(kept.items())))


def _note(work: Work, performed: PerformedStep, what: str) -> None:
    told = {
        "what": what,
        "performed": performed.instance_uid,
        "state": performed.state,
        "steps": performed.step_ids,
        "doubt": performed.doubt,
    }
    work.note(PERFORMED_CHANGED, told, facility=performed.facility, study_uid=performed.study_uid)
