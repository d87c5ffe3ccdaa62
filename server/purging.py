"""Purges what was removed long enough ago: its bytes and its metadata go for good, and that it was there stays known.

Three steps, so that a crash between any two leaves something that the next run finishes: instances are condemned (a
side record, one transaction), their objects deleted from the store, their rows deleted from the catalog. Nothing in use
is ever condemned, and nothing condemned can be restored or stored again until it is gone. Plugins are asked before a
study is condemned (`veto_purge`), each time anew; a purge that has begun is finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import NotFound
from readingroom.model import Study
from server.hooks import Hooks
from server.room import Room
from storage.blobs import Blobs
from storage.catalog import nonpatient
from storage.catalog.engine import begin_write
from storage.catalog.events import append_events, instance_events
from storage.catalog.removals import condemn, condemned, due_for_purge, erase, lock_study
from storage.catalog.shown import read_removed
from storage.sidecars import begin_recorded, iter_records, records_folder

log = logging.getLogger(__name__)

AskVeto = Callable[[Study, str], str | None]
"""Given a study and the reason of its purge: why it is kept, or None."""

_AT_ONCE = 20
"""Studies that a round of the server's timer purges; it has other things to look at."""

_OWN_RECORDS = frozenset({"removal", "restore", "purge"})
"""What stays of a study that is gone: who removed it and when, and no more of the patient than its UIDs."""


@dataclass(slots=True)
class Purged:
    """What a purge has done so far."""

    studies: int = 0
    instances: int = 0
    size_bytes: int = 0
    vetoed: list[tuple[str, str]] = field(default_factory=list)
    """The UIDs of studies that are kept, and why."""


def purge_due(room: Room) -> int:
    """Purge some of what the setting `purge_after_days` says is due; returns how many instances that were."""
    days = room.settings.purge_after_days
    if days is None:
        return 0
    before = room.clock.now() - timedelta(days=days)
    return purge(
        room.engine,
        room.blobs,
        room.clock,
        before=before,
        at_most=_AT_ONCE,
        forget=room.renditions.forget,
        veto=vetoes_of(room.hooks),
    ).instances


def vetoes_of(hooks: Hooks) -> AskVeto:
    """Asks the plugins whether a study may be purged; one that fails keeps it."""

    def ask(study: Study, reason: str) -> str | None:
        for answer in hooks.decide_all("veto_purge", study=study, reason=reason):
            return f"{answer.plugin}: {answer.problem or answer.value.because}"
        return None

    return ask


def purge(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    *,
    before: datetime,
    at_most: int | None = None,
    forget: Callable[[str], None] = lambda _: None,
    advance: Callable[[Purged], None] = lambda _: None,
    veto: AskVeto = lambda _study, _reason: None,
) -> Purged:
    """Purge what was removed before a time, study by study.

    Safe beside a running server, and beside another purge.

    Parameters
    ----------
    at_most
        So many studies, and leave the rest for another time.
    forget
        Removes what else was made of an object, whose sha256 it is given; as `server.renditions.Renditions.forget`.
    veto
        Why a study may not be purged, if so; as `vetoes_of` makes it.
    """
    purged = Purged()
    with engine.connect() as connection:
        due = due_for_purge(connection, before)
    for owner_facility, study_uid, is_open in due:
        if at_most is not None and purged.studies >= at_most:
            break
        because = _veto(engine, veto, owner_facility, study_uid, before) if is_open else None
        if because is not None:
            purged.vetoed.append((study_uid, because))
        # What is condemned already goes; what has been removed since stays with the veto.
        until = before if because is None else None
        if because is None or _is_begun(engine, owner_facility, study_uid):
            _purge_study(engine, blobs, clock, owner_facility, study_uid, until, purged, forget)
        advance(purged)
    with engine.connect() as connection:
        due_of_nobody = nonpatient.due_for_purge(connection, before, at_most)
    for owner_facility, category, uid in due_of_nobody:
        _purge_non_patient(engine, blobs, clock, owner_facility, category, uid, before, purged)
        advance(purged)
    if purged.instances:
        log.info("purged %d instances of %d studies, %d bytes", purged.instances, purged.studies, purged.size_bytes)
    return purged


def _veto(engine: sa.Engine, veto: AskVeto, owner_facility: str, study_uid: str, before: datetime) -> str | None:
    try:
        with engine.connect() as connection:
            study = read_removed(connection, owner_facility, study_uid)
    except NotFound:
        return None  # it was rejected before it came: there is nothing of it to keep
    because = veto(study, f"removed before {before:%Y-%m-%d %H:%M} UTC")
    if because is not None:
        log.warning("study %s is not purged: %s", study_uid, because)
    return because


def _is_begun(engine: sa.Engine, owner_facility: str, study_uid: str) -> bool:
    with engine.connect() as connection:
        return bool(condemned(connection, owner_facility, study_uid)[0])


def _purge_non_patient(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    owner_facility: str,
    category: str,
    uid: str,
    before: datetime,
    purged: Purged,
) -> None:
    """Purge an instance that belongs to no patient, in the same three steps."""
    with begin_recorded(engine, blobs, owner_facility, uid, clock=clock) as (connection, record):
        row = nonpatient.lock_non_patient(connection, owner_facility, category, uid)
        is_due = row is not None and row.state == "hidden" and row.removed_at < before
        if row is None or not (is_due or row.state == "purging"):
            return  # somebody else has restored or purged it
        objects = nonpatient.condemn(connection, row)
        if is_due:
            told = nonpatient.told_of(row, row.actor) | {"objects": objects}
            record.write(connection, nonpatient.PURGED, told)
    for key in objects:
        blobs.delete(key)
        blobs.delete(f"{key.rpartition('/')[0]}/zarr.json")
    with begin_write(engine) as connection:
        row = nonpatient.lock_non_patient(connection, owner_facility, category, uid)
        if row is not None and row.state == "purging":
            nonpatient.erase(connection, row)
            purged.instances += 1
            purged.size_bytes += row.size_bytes


def _purge_study(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    owner_facility: str,
    study_uid: str,
    before: datetime | None,
    purged: Purged,
    forget: Callable[[str], None],
) -> None:
    with begin_recorded(engine, blobs, owner_facility, study_uid, clock=clock) as (connection, record):
        lock_study(connection, owner_facility, study_uid)
        chosen = condemn(connection, owner_facility, study_uid, before) if before is not None else ()
        if chosen:
            told = {
                "owner_facility": owner_facility,
                "study_uid": study_uid,
                "instance_uids": sorted({one.instance_uid for one in chosen}),
                "objects": sorted(one.object_key for one in chosen),
            }
            record.write(connection, "purge", told)
    with engine.connect() as connection:
        instances, leaves_corrections = condemned(connection, owner_facility, study_uid)
    for one in instances:
        forget(bytes(one.sha256).hex())
        blobs.delete(one.object_key)
        if one.opaque_reason:
            blobs.delete(f"{one.object_key.rpartition('/')[0]}/zarr.json")
    if leaves_corrections:
        _delete_other_records(blobs, owner_facility, study_uid)
    with begin_write(engine) as connection:
        lock_study(connection, owner_facility, study_uid)
        by_series = erase(connection, owner_facility, study_uid, instances)
        events = instance_events(
            "InstancesPurged",
            owner_facility=owner_facility,
            study_uid=study_uid,
            at=clock.now(),
            instances=by_series,
        )
        append_events(connection, list(events))
    purged.studies += 1
    purged.instances += sum(map(len, by_series.values()))
    purged.size_bytes += sum(one.size_bytes for one in instances)


def _delete_other_records(blobs: Blobs, owner_facility: str, study_uid: str) -> None:
    """Delete what else was recorded of a study: corrections hold what a patient is called."""
    for key, record in iter_records(blobs, records_folder(owner_facility, study_uid)):
        if isinstance(record, dict) and record["type"] not in _OWN_RECORDS:
            blobs.delete(key)
