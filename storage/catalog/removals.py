"""What is removed: hidden from everybody, kept, and known, until it is restored or purged.

A removed instance has a row in `removal` and no current version. Everything that shows instances asks for current
versions, so nothing else needs to know. Who asks for it by its UIDs is told that it is gone. The functions here expect
the study to be locked (`lock_study`) and their callers to write the side record and the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any, Literal

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.counts import recount_study, reopen_study
from storage.catalog.patients import forget_patient
from storage.rejection import TITLES

DELETED = "deleted"
"""The reason of what was deleted by request; every other reason is the code of a rejection note's title."""

State = Literal["awaited", "hidden", "purging", "purged"]
BySeries = Mapping[str, Sequence[str]]

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Instances of one study that go out of use, by series, and why; `note` is the rejection note, if there is one."""

    owner_facility: str
    study_uid: str
    instances: BySeries
    reason: str
    note: str = ""
    actor: str

    def to_json(self) -> dict[str, Any]:
        """The payload of its side record."""
        return {
            "owner_facility": self.owner_facility,
            "study_uid": self.study_uid,
            "instances": {series_uid: list(uids) for series_uid, uids in self.instances.items()},
            "reason": self.reason,
            "note": self.note,
            "actor": self.actor,
        }

    @classmethod
    def of_json(cls, record: Mapping[str, Any]) -> Removal:
        """The removal that a side record tells of."""
        return cls(**{name: record[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """An instance that is removed."""

    series_uid: str
    instance_uid: str
    state: State
    reason: str
    note: str

    @property
    def is_rejected(self) -> bool:
        """A rejection note removed it, and not a request to delete it."""
        return self.reason != DELETED

    @property
    def is_final(self) -> bool:
        """It is refused when it comes again."""
        return is_final(self.reason)


_REMOVED = sa.select(*(t.removal.c[name] for name in Removed.__slots__))
# Built once: it is asked for every group that is stored.
_THESE_REMOVED = _REMOVED.where(
    t.removal.c.owner_facility == sa.bindparam("owner_facility"),
    t.removal.c.instance_uid.in_(sa.bindparam("instance_uids", expanding=True)),
)


def is_final(reason: str) -> bool:
    """Whether what was removed for this reason is refused when it comes again."""
    return reason in TITLES and TITLES[reason].is_final


def lock_study(connection: sa.Connection, owner_facility: str, study_uid: str) -> str | None:
    """Lock a study against all who change what is in it; its row's id, None where the facility has no such study."""
    mine = sa.select(t.study.c.id).where(t.study.c.owner_facility == owner_facility, t.study.c.study_uid == study_uid)
    return connection.execute(mine.with_for_update()).scalar_one_or_none()


def visible(
    connection: sa.Connection, study_id: str, series_uid: str | None, instance_uid: str | None
) -> dict[str, list[str]]:
    """The current instances of a study, of one series or the one of a UID, by series."""
    wanted = (
        sa.select(t.series.c.series_uid, t.instance.c.instance_uid)
        .join_from(t.instance, t.series, t.instance.c.series == t.series.c.id)
        .where(t.instance.c.study == study_id, t.instance.c.is_current)
        .order_by(t.instance.c.id)
    )
    if series_uid is not None:
        wanted = wanted.where(t.series.c.series_uid == series_uid)
    if instance_uid is not None:
        wanted = wanted.where(t.instance.c.instance_uid == instance_uid)
    return _by_series(connection.execute(wanted))


def find_removed(connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]) -> dict[str, Removed]:
    """Those of the instances that are removed, by UID."""
    found: dict[str, Removed] = {}
    for some in batched(instance_uids, _AT_ONCE):
        rows = connection.execute(_THESE_REMOVED, {"owner_facility": owner_facility, "instance_uids": some})
        found |= {row.instance_uid: Removed(**row._mapping) for row in rows}
    return found


def removed_of(
    connection: sa.Connection,
    owner_facility: str,
    study_uid: str,
    series_uid: str | None = None,
    instance_uid: str | None = None,
) -> list[Removed]:
    """What is removed of a study, of one series or the one of a UID."""
    c = t.removal.c
    wanted = _REMOVED.where(c.owner_facility == owner_facility, c.study_uid == study_uid)
    if series_uid is not None:
        wanted = wanted.where(c.series_uid == series_uid)
    if instance_uid is not None:
        wanted = wanted.where(c.instance_uid == instance_uid)
    return [Removed(**row._mapping) for row in connection.execute(wanted.order_by(c.id))]


def hide(connection: sa.Connection, removal: Removal, at: datetime, *, absent: State) -> dict[str, list[str]]:
    """Take instances out of use; gives those that were in use, by series.

    A final reason stays when one that is not comes after it; else the last reason holds. An instance that another study
    of the facility has is left alone.

    Parameters
    ----------
    absent
        The state of instances that the facility does not have: awaited, or purged.
    """
    study_id = lock_study(connection, removal.owner_facility, removal.study_uid)
    hidden: dict[str, list[str]] = {}
    for some in batched(
        ((series_uid, uid) for series_uid, uids in removal.instances.items() for uid in uids), _AT_ONCE
    ):
        _hide(connection, removal, dict.fromkeys(some), study_id, at, absent, hidden)
    if study_id is not None and hidden:
        _changed(connection, study_id, hidden, at)
    return hidden


def _hide(
    connection: sa.Connection,
    removal: Removal,
    pairs: Collection[tuple[str, str]],
    study_id: str | None,
    at: datetime,
    absent: State,
    hidden: dict[str, list[str]],
) -> None:
    series_of = {uid: series_uid for series_uid, uid in pairs}
    held = _held(connection, removal.owner_facility, series_of)
    known = find_removed(connection, removal.owner_facility, series_of)
    added: list[dict[str, Any]] = []
    for uid, series_uid in series_of.items():
        rows = held.get(uid, ())
        if rows and rows[-1].study != study_id:
            continue
        before = known.get(uid)
        if before is None:
            state: State = "hidden" if rows else absent
        elif is_final(before.reason) and not is_final(removal.reason):
            continue
        else:
            state = "hidden" if rows and before.state == "awaited" else before.state
        added.append(
            {
                "id": t.new_id(),
                "owner_facility": removal.owner_facility,
                "study_uid": removal.study_uid,
                "series_uid": rows[-1].series_uid if rows else series_uid,
                "instance_uid": uid,
                "state": state,
                "reason": removal.reason,
                "note": removal.note,
                "actor": removal.actor,
                "at": at,
            }
        )
        for row in rows:
            if row.is_current:
                hidden.setdefault(row.series_uid, []).append(uid)
    if not added:
        return
    uids: list[str] = [one["instance_uid"] for one in added]
    forget(connection, removal.owner_facility, uids)
    connection.execute(t.removal.insert(), added)
    c = t.instance.c
    mine = t.instance.update().where(c.owner_facility == removal.owner_facility, c.instance_uid.in_(uids), c.is_current)
    connection.execute(mine.values(is_current=False))


def bring_back(
    connection: sa.Connection, owner_facility: str, study_uid: str, instance_uids: Sequence[str], at: datetime
) -> dict[str, list[str]]:
    """Make the newest versions of removed instances current again; gives those that there are, by series."""
    study_id = lock_study(connection, owner_facility, study_uid)
    back: dict[str, list[str]] = {}
    for some in batched(instance_uids, _AT_ONCE):
        held = _held(connection, owner_facility, some)
        newest = {uid: rows[-1] for uid, rows in held.items() if rows[-1].study == study_id}
        ids = [row.id for row in newest.values()]
        connection.execute(t.instance.update().where(t.instance.c.id.in_(ids)).values(is_current=True))
        for uid, row in newest.items():
            back.setdefault(row.series_uid, []).append(uid)
        forget(connection, owner_facility, some)
    if study_id is not None and back:
        _changed(connection, study_id, back, at)
    return back


def forget(connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]) -> None:
    """Know no more that instances were removed."""
    c = t.removal.c
    for some in batched(instance_uids, _AT_ONCE):
        mine = t.removal.delete().where(c.owner_facility == owner_facility, c.instance_uid.in_(some))
        connection.execute(mine)


def _held(connection: sa.Connection, owner_facility: str, instance_uids: Iterable[str]) -> dict[str, list[sa.Row[Any]]]:
    """All versions of instances, by UID, the newest last; an older one may be of another study."""
    c = t.instance.c
    wanted = (
        sa.select(c.id, c.instance_uid, c.version, c.is_current, c.study, t.series.c.series_uid)
        .join_from(t.instance, t.series, c.series == t.series.c.id)
        .where(c.owner_facility == owner_facility, c.instance_uid.in_(list(instance_uids)))
        .order_by(c.version)
    )
    held: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(wanted):
        held[row.instance_uid].append(row)
    return held


def _changed(connection: sa.Connection, study_id: str, series_uids: Iterable[str], at: datetime) -> None:
    """Make rows true again, and say that the zarr files of these series are not."""
    recount_study(connection, study_id)
    reopen_study(connection, study_id, at)
    connection.execute(t.study.update().where(t.study.c.id == study_id).values(updated_at=at))
    mine = t.series.update().where(t.series.c.study == study_id, t.series.c.series_uid.in_(list(series_uids)))
    connection.execute(mine.values(stale_since=at))


def _by_series(pairs: Iterable[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for series_uid, uid in pairs:
        found[series_uid].append(uid)
    return dict(found)


# -- purging ---------------------------------------------------------------------------------------------------------


def due_for_purge(connection: sa.Connection, before: datetime) -> list[tuple[str, str, bool]]:
    """The studies with something hidden since before that time, or a purge begun.

    Returns
    -------
    list
        Of each its owner facility, its UID, and whether something of it is still to be decided on.
    """
    c = t.removal.c
    hidden_before = (c.state == "hidden") & (c.at < before)
    is_open = sa.func.max(sa.case((hidden_before, 1), else_=0))
    wanted = sa.select(c.owner_facility, c.study_uid, is_open).where(hidden_before | (c.state == "purging"))
    found = connection.execute(wanted.group_by(c.owner_facility, c.study_uid).order_by(c.owner_facility, c.study_uid))
    return [(facility, study_uid, bool(is_open)) for facility, study_uid, is_open in found]


def condemn(connection: sa.Connection, owner_facility: str, study_uid: str, before: datetime) -> Sequence[Any]:
    """Decide that what of a study is hidden since before that time is purged; gives every version of it."""
    c = t.removal.c
    mine = t.removal.update().where(
        c.owner_facility == owner_facility, c.study_uid == study_uid, c.state == "hidden", c.at < before
    )
    uids = connection.execute(mine.values(state="purging").returning(c.instance_uid)).scalars().all()
    rows: list[Any] = []
    for some in batched(uids, _AT_ONCE):
        i = t.instance.c
        wanted = sa.select(i.instance_uid, i.object_key).where(
            i.owner_facility == owner_facility, i.instance_uid.in_(some)
        )
        rows += connection.execute(wanted).all()
    return rows


def condemned(connection: sa.Connection, owner_facility: str, study_uid: str) -> tuple[Sequence[Any], bool]:
    """Every version of what is being purged of a study, and whether it leaves corrections of a study that is gone."""
    i, c, o = t.instance.c, t.removal.c, t.overlay.c
    is_removed = (c.owner_facility == i.owner_facility) & (c.instance_uid == i.instance_uid)
    is_condemned = is_removed & (c.state == "purging") & (c.study_uid == study_uid)
    wanted = (
        sa.select(i.id, i.object_key, i.opaque_reason, i.size_bytes, i.sha256, i.study)
        .join_from(t.instance, t.removal, is_condemned)
        .where(c.owner_facility == owner_facility)
    )
    other = (
        sa.select(i.id)
        .join_from(t.instance, t.study, i.study == t.study.c.id)
        .where(t.study.c.owner_facility == owner_facility, t.study.c.study_uid == study_uid)
        .where(~sa.exists().where(is_condemned))
    )
    correction = sa.select(o.id).where(o.owner_facility == owner_facility, o.study_uid == study_uid)
    is_gone = connection.execute(other.limit(1)).first() is None
    has_corrections = connection.execute(correction.limit(1)).first() is not None
    return connection.execute(wanted).all(), is_gone and has_corrections


def erase(
    connection: sa.Connection, owner_facility: str, study_uid: str, instances: Sequence[Any]
) -> dict[str, list[str]]:
    """Forget all but the UIDs of condemned instances whose objects are deleted; gives them by series.

    A series, a study and a patient of whom nothing is left go as well.
    """
    c, i = t.removal.c, t.instance.c
    for some in batched((one.id for one in instances), _AT_ONCE):
        connection.execute(t.instance.delete().where(i.id.in_(some)))
    of_study = (c.owner_facility == owner_facility) & (c.study_uid == study_uid)
    left = sa.exists().where(i.owner_facility == c.owner_facility, i.instance_uid == c.instance_uid)
    gone = t.removal.update().where(of_study, c.state == "purging", ~left).values(state="purged")
    erased = _by_series(connection.execute(gone.returning(c.series_uid, c.instance_uid)))
    for study_id in sorted({one.study for one in instances}):
        _erase_if_empty(connection, study_id)
    return erased


def _erase_if_empty(connection: sa.Connection, study_id: str) -> None:
    is_empty = ~sa.exists().where(t.instance.c.series == t.series.c.id)
    connection.execute(t.series.delete().where(t.series.c.study == study_id, is_empty))
    has_series = connection.execute(sa.select(t.series.c.id).where(t.series.c.study == study_id).limit(1)).first()
    study = connection.execute(sa.select(t.study).where(t.study.c.id == study_id)).one_or_none()
    if has_series is not None or study is None:
        return
    o = t.overlay.c
    mine = (o.owner_facility == study.owner_facility) & (o.study_uid == study.study_uid)
    connection.execute(t.overlay.delete().where(mine))
    connection.execute(t.study.delete().where(t.study.c.id == study_id))
    forget_patient(connection, study.patient)


# -- making a catalog again -------------------------------------------------------------------------------------------


def replay_removal(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Take out of use again what a side record says was removed."""
    removal = Removal.of_json(record)
    hide(connection, removal, datetime.fromisoformat(record["at"]), absent="awaited" if removal.note else "purged")


def replay_restore(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Bring back again what a side record says was restored, or stored again."""
    at = datetime.fromisoformat(record["at"])
    uids = [uid for uids in record["instances"].values() for uid in uids]
    bring_back(connection, record["owner_facility"], record["study_uid"], uids, at)


def replay_purge(connection: sa.Connection, record: Mapping[str, Any]) -> None:
    """Know again what was purged; of what a crash left in the store, the next purge finishes the deletion."""
    owner_facility, objects = record["owner_facility"], set(record["objects"])
    at = datetime.fromisoformat(record["at"])
    i, c = t.instance.c, t.removal.c
    for some in batched(record["instance_uids"], _AT_ONCE):
        held = connection.execute(
            sa.select(i.instance_uid, i.object_key, i.received_at).where(
                i.owner_facility == owner_facility, i.instance_uid.in_(some)
            )
        ).all()
        # What lies under one of the keys and came later is another object.
        left = {row.instance_uid for row in held if row.object_key in objects and row.received_at < at}
        later = {row.instance_uid for row in held} - left
        for uids, state in ((left, "purging"), (set(some) - left - later, "purged")):
            mine = t.removal.update().where(c.owner_facility == owner_facility, c.instance_uid.in_(uids))
            connection.execute(mine.values(state=state))
