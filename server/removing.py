"""Deletes and restores studies, series and instances, of no patient too: hidden at once, kept until they are purged.

A change of what is in use is one transaction: the side record that tells of it is durable before its commit, and its
events are a part of it.
"""

from __future__ import annotations

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Ambiguous, Conflict, Gone, NotFound
from readingroom.model import Actor, Scope
from server.auth import require
from storage.blobs import Blobs
from storage.catalog import nonpatient
from storage.catalog import schema as t
from storage.catalog.events import append_events, instance_events
from storage.catalog.find import find_instance, find_series, find_study, scoped
from storage.catalog.readmission import removal_events
from storage.catalog.removals import DELETED, Removal, bring_back, hide, lock_study, removed_of, visible
from storage.sidecars import begin_recorded


def remove(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    actor: Actor,
    scope: Scope,
    study_uid: str,
    series_uid: str | None = None,
    instance_uid: str | None = None,
) -> int:
    """Delete a study, one of its series or an instance, with all versions; returns how many instances that were.

    Raises
    ------
    NotFound, Gone, Ambiguous
        As `storage.catalog.find.find_instance` does.
    Refused
        The actor may not.
    """
    require(actor, "remove")
    with engine.connect() as connection:
        owner_facility = _owner(connection, scope, study_uid, series_uid, instance_uid)
    with begin_recorded(engine, blobs, owner_facility, study_uid, clock=clock) as (connection, record):
        study_id = lock_study(connection, owner_facility, study_uid)
        instances = visible(connection, study_id, series_uid, instance_uid) if study_id else {}
        if not instances:
            raise Gone("Somebody else removed it at this moment.")
        removal = Removal(
            owner_facility=owner_facility,
            study_uid=study_uid,
            instances=instances,
            reason=DELETED,
            actor=actor.id,
        )
        at = record.write(connection, "removal", removal.to_json())
        hidden = hide(connection, removal, at, absent="purged")
        append_events(connection, removal_events(removal, at, hidden))
    return sum(map(len, hidden.values()))


def restore(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    actor: Actor,
    scope: Scope,
    study_uid: str,
    series_uid: str | None = None,
    instance_uid: str | None = None,
    *,
    rejected: bool = False,
) -> int:
    """Bring back what was removed of a study, a series, or one instance; returns how many instances are in use again.

    Parameters
    ----------
    rejected
        Bring back what a rejection note took out of use as well, and accept what it still waits for.

    Raises
    ------
    NotFound
        Nothing in scope was removed there.
    Gone
        It has been purged.
    Conflict
        All that is removed there was rejected, and `rejected` is not given; or nothing is removed there any more.
    Ambiguous
        Several facilities removed it.
    Refused
        The actor may not.
    """
    require(actor, "remove")
    uids = study_uid, series_uid, instance_uid
    with engine.connect() as connection:
        owner_facility = _remover(connection, scope, *uids)
    with begin_recorded(engine, blobs, owner_facility, study_uid, clock=clock) as (connection, record):
        lock_study(connection, owner_facility, study_uid)
        removed = removed_of(connection, owner_facility, *uids)
        kept = [one for one in removed if one.state in ("hidden", "awaited")]
        chosen = [one for one in kept if rejected or not one.is_rejected]
        if not chosen and kept:
            note = kept[0].note
            raise Conflict(
                f"The rejection note {note} took it out of use; it is restored where 'rejected' is asked for."
            )
        if not chosen and removed:
            raise Gone("It has been purged: its bytes are gone, and only sending it again brings it back.")
        if not chosen:
            raise Conflict("Somebody else restored it at this moment.")
        instances: dict[str, list[str]] = {}
        for one in chosen:
            instances.setdefault(one.series_uid, []).append(one.instance_uid)
        told = {"owner_facility": owner_facility, "study_uid": study_uid, "instances": instances, "actor": actor.id}
        at = record.write(connection, "restore", told)
        back = bring_back(connection, owner_facility, study_uid, [one.instance_uid for one in chosen], at)
        events = instance_events(
            "InstancesRestored",
            owner_facility=owner_facility,
            study_uid=study_uid,
            at=at,
            instances=back,
            actor=actor.id,
        )
        append_events(connection, list(events))
    return sum(map(len, back.values()))


def remove_non_patient(
    engine: sa.Engine, blobs: Blobs, clock: Clock, actor: Actor, scope: Scope, category: str, uid: str
) -> None:
    """Delete an instance that belongs to no patient, with all versions; raises as `remove` does."""
    require(actor, "remove")
    with engine.connect() as connection:
        owner_facility = nonpatient.find_non_patient(connection, scope, category, uid).stored.owner_facility
    with begin_recorded(engine, blobs, owner_facility, uid, clock=clock) as (connection, record):
        row = nonpatient.lock_non_patient(connection, owner_facility, category, uid)
        if row is None or row.state != "kept":
            raise Gone("Somebody else removed it at this moment.")
        at = record.write(connection, nonpatient.REMOVED, nonpatient.told_of(row, actor.id))
        nonpatient.hide(connection, row, at, actor.id)


def restore_non_patient(
    engine: sa.Engine, blobs: Blobs, clock: Clock, actor: Actor, scope: Scope, category: str, uid: str
) -> None:
    """Bring back an instance that belongs to no patient and was removed; raises as `restore` does."""
    require(actor, "remove")
    with engine.connect() as connection:
        owner_facility = nonpatient.find_removed(connection, scope, category, uid).owner_facility
    with begin_recorded(engine, blobs, owner_facility, uid, clock=clock) as (connection, record):
        row = nonpatient.lock_non_patient(connection, owner_facility, category, uid)
        if row is None or row.state != "hidden":
            raise Conflict("Somebody else restored it at this moment.")
        record.write(connection, nonpatient.RESTORED, nonpatient.told_of(row, actor.id))
        nonpatient.bring_back(connection, row)


def _owner(
    connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str | None, instance_uid: str | None
) -> str:
    """The facility whose study, series or instance it is."""
    if series_uid is None:
        return find_study(connection, scope, study_uid).owner_facility
    if instance_uid is None:
        return find_series(connection, scope, study_uid, series_uid).owner_facility
    return find_instance(connection, scope, study_uid, series_uid, instance_uid).owner_facility


def _remover(
    connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str | None, instance_uid: str | None
) -> str:
    """The facility that removed something there."""
    c = t.removal.c
    wanted = sa.select(c.owner_facility).distinct().where(c.study_uid == study_uid)
    for column, uid in ((c.series_uid, series_uid), (c.instance_uid, instance_uid)):
        if uid is not None:
            wanted = wanted.where(column == uid)
    found = connection.execute(scoped(wanted, scope, c.owner_facility)).scalars().all()
    if not found:
        raise NotFound("Nothing was removed there.")
    if len(found) > 1:
        raise Ambiguous()
    return str(found[0])
