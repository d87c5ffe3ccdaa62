"""What a store does about removals: what comes again that was removed, and notes that reject (IHE RAD TF-3 4.66)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import Any, Literal

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.events import instance_events
from storage.catalog.removals import Removal, bring_back, find_removed, forget, hide
from storage.rejection import Rejection
from storage.sidecars import SideRecords

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removing:
    """What a store may do about removals: the records it may write, and the titles of notes that it acts on."""

    records: SideRecords
    titles: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """One instance that came: the first with its UID in a group."""

    series_uid: str
    sha256: bytes
    source: str


@dataclass(slots=True)
class Readmitted:
    """What became of removed instances that came again.

    Attributes
    ----------
    results
        Of those that need nothing more: what to answer, and the version that is held.
    followed
        The last version of those that come with other bytes; the next one is free to be stored.
    """

    results: dict[str, tuple[Literal["restored", "identical", "rejected", "not now"], int]] = field(
        default_factory=dict
    )
    followed: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)


def readmit(
    connection: sa.Connection, removing: Removing, owner_facility: str, study_uid: str, came: Mapping[str, Return]
) -> Readmitted:
    """Let in what was removed and may come back; the same bytes make the old instance current again.

    Parameters
    ----------
    came
        Instances of one study, which is locked, by UID.
    """
    readmitted = Readmitted()
    removed = find_removed(connection, owner_facility, came)
    if not removed:
        return readmitted
    newest = _newest(connection, owner_facility, removed)
    back: dict[str, list[str]] = {}
    again: dict[str, list[str]] = {}
    for uid, gone in removed.items():
        held = newest.get(uid)
        is_same = held is not None and held.sha256 == came[uid].sha256
        version = held.version if held else 0
        if gone.state == "purging":
            readmitted.results[uid] = "not now", version
        elif gone.note == uid and is_same:  # a note that went out of use with what it rejects
            readmitted.results[uid] = "identical", version
        elif gone.is_final:
            readmitted.results[uid] = "rejected", version
        elif is_same:
            readmitted.results[uid] = "restored", version
            back.setdefault(came[uid].series_uid, []).append(uid)
        else:
            if held:
                readmitted.followed[uid] = version
            again.setdefault(came[uid].series_uid, []).append(uid)
    if not back and not again:
        return readmitted
    actor = next(iter(came.values())).source
    told = {
        "owner_facility": owner_facility,
        "study_uid": study_uid,
        "instances": {series_uid: back.get(series_uid, []) + again.get(series_uid, []) for series_uid in back | again},
        "actor": actor,
    }
    at = removing.records.take(owner_facility, study_uid).write(connection, "restore", told)
    forget(connection, owner_facility, (uid for uids in again.values() for uid in uids))
    shown = bring_back(connection, owner_facility, study_uid, [uid for uids in back.values() for uid in uids], at)
    readmitted.events += instance_events(
        "InstancesRestored", owner_facility=owner_facility, study_uid=study_uid, at=at, instances=shown, actor=actor
    )
    return readmitted


def reject(
    connection: sa.Connection,
    removing: Removing,
    rejection: Rejection,
    *,
    owner_facility: str,
    note: tuple[str, str, str],
    source: str,
) -> list[dict[str, Any]]:
    """Take out of use what a note rejects, in the facility that the note is of; gives the events to append.

    Parameters
    ----------
    note
        UIDs of the note's study, its series and itself.
    """
    if rejection.title.code not in removing.titles:
        return []
    studies = {uid: {series: list(uids) for series, uids in found.items()} for uid, found in rejection.studies.items()}
    study_uid, series_uid, note_uid = note
    if rejection.title.hides_note:
        studies.setdefault(study_uid, {}).setdefault(series_uid, []).append(note_uid)
    events: list[dict[str, Any]] = []
    for uid, instances in sorted(studies.items()):
        removal = Removal(
            owner_facility=owner_facility,
            study_uid=uid,
            instances=instances,
            reason=rejection.title.code,
            note=note_uid,
            actor=source,
        )
        at = removing.records.take(owner_facility, uid).write(connection, "removal", removal.to_json())
        hidden = hide(connection, removal, at, absent="awaited")
        events += removal_events(removal, at, hidden)
    log.info("note %s rejects instances of %d studies: %s", note_uid, len(studies), rejection.title.meaning)
    return events


def removal_events(removal: Removal, at: datetime, hidden: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """The events of a removal that hid these instances."""
    return list(
        instance_events(
            "InstancesRemoved",
            owner_facility=removal.owner_facility,
            study_uid=removal.study_uid,
            at=at,
            instances=hidden,
            reason=removal.reason,
            note=removal.note,
            actor=removal.actor,
        )
    )


def _newest(connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]) -> dict[str, sa.Row[Any]]:
    """The last version of each instance."""
    c = t.instance.c
    newest: dict[str, sa.Row[Any]] = {}
    for some in batched(instance_uids, 500):
        wanted = sa.select(c.instance_uid, c.version, c.sha256).where(
            c.owner_facility == owner_facility, c.instance_uid.in_(some)
        )
        newest |= {row.instance_uid: row for row in connection.execute(wanted.order_by(c.version))}
    return newest
