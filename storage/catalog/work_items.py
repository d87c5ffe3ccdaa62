"""Work items in the catalog: rows by UID, the next ones to read, searches of them, and what happened to each.

A row that is written is also listed by the attributes that searches match, as the UPS that it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom.datadict import dictionary_VR

from readingroom.errors import Conflict, NotFound
from readingroom.model import PRIORITIES, ItemKind, ItemState, Priority, Scope, WorkItem
from storage.catalog import schema as t
from storage.catalog.directory import names_of
from storage.catalog.events import Event, Wanted, read_events
from storage.catalog.keys import Keys, listed_key
from storage.catalog.listed import list_values
from storage.catalog.matching import Condition
from storage.catalog.search import bound, holds
from storage.catalog.ups import UpsState, dataset_of, ups_state
from storage.catalog.writers import insert_for
from storage.objects import MetadataJson
from storage.upsrules import MATCHED

ITEM_KEYS = Keys(listed_key(".".join(path), dictionary_VR(int(path[-1], 16)), "work_item") for path in MATCHED)
"""The attributes of a UPS that searches match (PS3.4 Table CC.2.5-3), by name."""

_KEYS = tuple(ITEM_KEYS.values())
_STAT = len(PRIORITIES) - 1
_EVENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """A work item with everything that its row has; `schema.work_item` says what each is.

    `claim_token` is a lock and is shown to nobody: `shown` is what travels.
    """

    id: str
    workitem_uid: str
    kind: ItemKind
    state: ItemState
    facility: str
    version: int
    created_at: datetime
    changed_at: datetime
    order_at: datetime
    attributes: bytes = b"{}"
    study_uid: str | None = None
    accession_number: str | None = None
    priority: Priority = "routine"
    rank: int = 0
    is_flagged: bool = False
    findings: str = ""
    modality: str | None = None
    body_part: str | None = None
    subspecialty: str | None = None
    study_type: str | None = None
    patient_state: str | None = None
    owner: str | None = None
    offered_to: str | None = None
    claim_token: str | None = None
    claimed_at: datetime | None = None
    claim_expires_at: datetime | None = None
    held_from: ItemState | None = None
    reason: str = ""
    ready_at: datetime | None = None
    warn_at: datetime | None = None
    due_at: datetime | None = None
    extras: bytes | None = None

    @property
    def is_claimed(self) -> bool:
        """Somebody has its lock, at work or on hold."""
        return self.claim_token is not None

    @property
    def ups_state(self) -> UpsState:
        """Its Procedure Step State."""
        return ups_state(self.state, is_claimed=self.is_claimed)

    @property
    def shown(self) -> WorkItem:
        """The item as it travels."""
        return WorkItem(**{name: getattr(self, name) for name in _SHOWN})


_SHOWN = tuple(field.name for field in fields(WorkItem))
_COLUMNS = tuple(field.name for field in fields(StoredItem))
_MOMENTS = ("created_at", "changed_at", "order_at", "claimed_at", "claim_expires_at", "ready_at", "warn_at", "due_at")
_INSERT_VERSION = t.work_item_version.insert()
_SENT = b'{"sent"'
"""How the extras begin of an item that a client has made as a Task."""


def insert_item(connection: sa.Connection, item: StoredItem) -> bool:
    """Write a new row; False where its UID is taken, or its study has an item to be read already."""
    insert = insert_for(connection)(t.work_item).values(asdict(item)).on_conflict_do_nothing()
    if connection.execute(insert.returning(t.work_item.c.id)).first() is None:
        return False
    _keep(connection, item)
    _list(connection, item)
    return True


def update_item(connection: sa.Connection, before: StoredItem, after: StoredItem) -> None:
    """Write a row anew; raises `Conflict` where somebody else was quicker."""
    c = t.work_item.c
    mine = t.work_item.update().where(c.id == before.id, c.version == before.version)
    if not connection.execute(mine.values(asdict(after))).rowcount:
        raise Conflict(f"Work item {before.workitem_uid} was changed by somebody else at this moment; read it again.")
    _keep(connection, after)
    values = t.work_item_value
    connection.execute(values.delete().where(values.c.entity == after.id))
    _list(connection, after)


def _keep(connection: sa.Connection, item: StoredItem) -> None:
    """Keep a version of a row, without the claim token: it stays when the item changes."""
    row = {name: value for name, value in asdict(item).items() if name != "claim_token"}
    for name in ("attributes", "extras"):
        row[name] = row[name].decode() if row[name] is not None else None
    version = {"item": item.id, "version": item.version, "changed_at": item.changed_at, "row": orjson.dumps(row)}
    connection.execute(_INSERT_VERSION, version)


def _then(row: bytes) -> StoredItem:
    told = orjson.loads(row)
    for name in _MOMENTS:
        told[name] = datetime.fromisoformat(told[name]) if told[name] is not None else None
    for name in ("attributes", "extras"):
        told[name] = told[name].encode() if told[name] is not None else None
    return StoredItem(**told)


def restate_items(connection: sa.Connection, facility: str, study_uid: str, now: datetime) -> None:
    """List the items of a study anew, each at its next version; call it after what is told of the study has changed."""
    c = t.work_item.c
    touch_items(connection, now, c.study_uid == study_uid, c.facility == facility)


def touch_items(connection: sa.Connection, now: datetime, *of: sa.ColumnElement[bool]) -> None:
    """Let items be at their next version, since what they lead to is another; one that is over ended when it did.

    What a client has sent as a whole does not change by that.
    """
    for item in [_item(row) for row in connection.execute(_ROWS.where(*of).with_for_update()).all()]:
        if not (item.extras or b"").startswith(_SENT):
            is_over = item.state in ("completed", "cancelled")
            changed_at = item.changed_at if is_over else now
            update_item(connection, item, replace(item, version=item.version + 1, changed_at=changed_at))


def restate_items_of(connection: sa.Connection, reader: str) -> None:
    """List the items of a reader anew; call it after what the reader is called has changed."""
    c = t.work_item.c
    of_reader = _ROWS.where(sa.or_(c.owner == reader, c.offered_to == reader), c.kind != "external")
    for item in map(_item, connection.execute(of_reader).all()):
        connection.execute(t.work_item_value.delete().where(t.work_item_value.c.entity == item.id))
        _list(connection, item)


def find_item(connection: sa.Connection, scope: Scope, workitem_uid: str, *, locked: bool = False) -> StoredItem:
    """The item of that UID; raises `NotFound`. A locked row stays as it is until the transaction ends."""
    statement = _ROWS.where(t.work_item.c.workitem_uid == workitem_uid, *_in(scope))
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no work item {workitem_uid[:64]}.")
    return _item(row)


def item_by_id(connection: sa.Connection, id: str, *, locked: bool = False) -> StoredItem:
    """The item of that id; raises `NotFound`."""
    statement = _ROWS.where(t.work_item.c.id == id)
    row = connection.execute(statement.with_for_update() if locked else statement).one_or_none()
    if row is None:
        raise NotFound(f"There is no work item {id[:32]}.")
    return _item(row)


def items_by_id(connection: sa.Connection, scope: Scope, ids: Collection[str]) -> list[StoredItem]:
    """Those of the items that are there and in scope, in any order."""
    found = _ROWS.where(t.work_item.c.id.in_(sorted(ids)), *_in(scope))
    return [_item(row) for row in connection.execute(found)] if ids else []


def item_versions(
    connection: sa.Connection,
    scope: Scope,
    id: str | None,
    *,
    version: int | None = None,
    limit: int | None = None,
    until: datetime | None = None,
    since: datetime | None = None,
) -> list[StoredItem]:
    """Items as they were, the newest first: one, or all; nobody has their claim tokens."""
    v = t.work_item_version.c
    found = sa.select(v.row).join_from(t.work_item_version, t.work_item, v.item == t.work_item.c.id).where(*_in(scope))
    if id is not None:
        found = found.where(v.item == id)
    if version is not None:
        found = found.where(v.version == version)
    if until is not None:
        found = found.where(v.changed_at <= until)
    if since is not None:
        found = found.where(v.changed_at >= since)
    order = (v.changed_at.desc(), v.item, v.version.desc())
    return [_then(row) for row in connection.execute(found.order_by(*order).limit(limit)).scalars()]


def reading_of(
    connection: sa.Connection, facility: str, study_uid: str, accession_number: str | None = None
) -> StoredItem | None:
    """The item to read a study: its own; else the oldest that an order made and whose images are still to come."""
    c = t.work_item.c
    reads = _ROWS.where(c.kind == "read", c.facility == facility).with_for_update()
    row = connection.execute(reads.where(c.study_uid == study_uid)).one_or_none()
    if row is None and accession_number:
        ordered = reads.where(c.accession_number == accession_number, c.study_uid.is_(None), c.state == "waiting")
        row = connection.execute(ordered.order_by(c.id).limit(1)).one_or_none()
    return None if row is None else _item(row)


def items_of_study(connection: sa.Connection, facility: str, study_uid: str) -> list[StoredItem]:
    """All items of a study, locked, the oldest first."""
    c = t.work_item.c
    found = _ROWS.where(c.facility == facility, c.study_uid == study_uid).order_by(c.id).with_for_update()
    return [_item(row) for row in connection.execute(found)]


def ordered_reading(connection: sa.Connection, facility: str, accession_number: str) -> StoredItem | None:
    """The item to read what was ordered under an accession number, locked: the newest that is not over, else of all."""
    c = t.work_item.c
    mine = _ROWS.where(c.kind == "read", c.facility == facility, c.accession_number == accession_number)
    order = (c.state.in_(("completed", "cancelled")), c.id.desc())
    row = connection.execute(mine.order_by(*order).limit(1).with_for_update()).one_or_none()
    return None if row is None else _item(row)


def expired_claims(connection: sa.Connection, now: datetime, limit: int) -> Sequence[str]:
    """Ids of items whose claim has come to its end, the first that ended first."""
    c = t.work_item.c
    found = sa.select(c.id).where(c.claim_expires_at.is_not(None), c.claim_expires_at <= now)
    return connection.execute(found.order_by(c.claim_expires_at).limit(limit)).scalars().all()


def ups_of(connection: sa.Connection, item: StoredItem, root: str = "") -> MetadataJson:
    """An item as a UPS; see `storage.catalog.ups.dataset_of`."""
    return _datasets(connection, [item], root)[0]


def upses_of(connection: sa.Connection, items: Sequence[StoredItem], root: str = "") -> list[MetadataJson]:
    """Several items, each as a UPS."""
    return _datasets(connection, items, root)


def _datasets(connection: sa.Connection, items: Sequence[StoredItem], root: str) -> list[MetadataJson]:
    uids = {item.study_uid for item in items if item.study_uid and item.kind != "external"}
    studies: dict[tuple[str, str], sa.Row[Any]] = {}
    if uids:
        for row in connection.execute(_STUDIES.where(t.study.c.study_uid.in_(uids))):
            studies[row.owner_facility, row.study_uid] = row
    readers = {item.owner or item.offered_to or "" for item in items if item.kind != "external"}
    names = names_of(connection, readers - {""})
    return [dataset_of(asdict(item), studies.get((item.facility, item.study_uid or "")), root, names) for item in items]


def _list(connection: sa.Connection, item: StoredItem) -> None:
    list_values(connection, "work_item", {item.id: ups_of(connection, item)}, _KEYS)


def search_items(
    connection: sa.Connection,
    scope: Scope,
    conditions: tuple[Condition, ...],
    *,
    limit: int,
    offset: int = 0,
    after: str | None = None,
) -> list[StoredItem]:
    """One page of the items for which all conditions hold, the newest first; `after` is the id of the last one seen."""
    c = t.work_item.c
    statement = _ROWS.where(*_in(scope), *holds(tuple(conditions))).order_by(c.id.desc()).limit(limit).offset(offset)
    if after is not None:
        statement = statement.where(c.id < after)
    return [_item(row) for row in connection.execute(statement, bound(tuple(conditions)))]


def matches(connection: sa.Connection, id: str, conditions: tuple[Condition, ...]) -> bool:
    """Whether all conditions hold for one item."""
    statement = sa.select(t.work_item.c.id).where(t.work_item.c.id == id, *holds(conditions))
    return connection.execute(statement, bound(conditions)).first() is not None


def next_items(
    connection: sa.Connection, scope: Scope, *, now: datetime, limit: int, kinds: Collection[ItemKind] = ()
) -> list[StoredItem]:
    """The items that are ready to be read, in the order to read them; what others put on the worklist is left out.

    First what is flagged, then STAT, then what will soon be late, then urgent, then routine; within each what is due
    first. Each of these is cut from the head of an index, so that a hundred thousand open items cost no more than ten.
    """
    if scope.facilities is not None and not scope.facilities:
        return []
    facilities = sorted(scope.facilities or ())
    found: list[StoredItem] = []
    for head in _HEADS:
        statement = _head(head, min(len(facilities), 2), bool(kinds))
        values: dict[str, Any] = {"now": now, "limit": limit - len(found), "kinds": sorted(kinds)}
        values["facility"] = facilities if len(facilities) > 1 else "".join(facilities)
        found += [_item(row) for row in connection.execute(statement, values)]
        if len(found) >= limit:
            break
    return found


# Flagged or not, its rank, and whether it is at risk: None for either.
_Head = tuple[bool, int | None, bool | None]
_HEADS: tuple[_Head, ...] = (
    *((True, rank, None) for rank in range(_STAT, -1, -1)),
    (False, _STAT, None),
    (False, None, True),
    *((False, rank, False) for rank in range(_STAT - 1, -1, -1)),
)


@lru_cache(maxsize=64)
def _head(head: _Head, facilities: int, has_kinds: bool) -> sa.Select[Any]:
    c = t.work_item.c
    is_flagged, rank, is_at_risk = head
    now = sa.bindparam("now", type_=t.UtcDateTime())
    # As the partial indexes have it, word for word.
    page = sa.select(c.id).where(sa.text("state = 'ready' AND kind != 'external'"), c.is_flagged.is_(is_flagged))
    if facilities == 1:
        page = page.where(c.facility == sa.bindparam("facility", type_=sa.String()))
    elif facilities:
        page = page.where(c.facility.concat("").in_(sa.bindparam("facility", expanding=True)))
    if facilities:
        page = page.where(c.kind != "peer")
    if has_kinds:
        page = page.where(c.kind.in_(sa.bindparam("kinds", expanding=True)))
    page = page.where(c.rank < _STAT if rank is None else c.rank == rank)
    if is_at_risk:
        page = page.where(c.warn_at <= now).order_by(c.warn_at, c.id)
    else:
        if is_at_risk is not None:
            page = page.where(sa.or_(c.warn_at.is_(None), c.warn_at > now))
        page = page.order_by(c.order_at, c.id)
    ids = page.limit(sa.bindparam("limit", type_=sa.Integer)).subquery("page")
    order = (c.warn_at, c.id) if is_at_risk else (c.order_at, c.id)
    return _ROWS.join(ids, ids.c.id == c.id).order_by(*order)


def first_of_each_place(connection: sa.Connection) -> list[StoredItem]:
    """Of the items that nobody reads yet, for each facility and state of patients the one that is due first."""
    c = t.work_item.c
    number = sa.func.row_number().over(partition_by=(c.facility, c.patient_state), order_by=(c.order_at, c.id))
    open_ = sa.select(c.id, number.label("number")).where(c.state.in_(("ready", "assigned")), c.kind != "external")
    numbered = open_.subquery()
    return [
        _item(row)
        for row in connection.execute(_ROWS.join(numbered, numbered.c.id == c.id).where(numbered.c.number == 1))
    ]


def items_of_reader(connection: sa.Connection, scope: Scope, reader: str) -> list[StoredItem]:
    """What a reader has claimed or on hold, and what is offered to that reader; the most urgent first."""
    c = t.work_item.c
    own = sa.and_(c.owner == reader, c.state.in_(("claimed", "held")))
    offered = sa.and_(sa.text("state = 'assigned'"), c.offered_to == reader)
    statement = _ROWS.where(*_in(scope), sa.or_(own, offered))
    order = (c.is_flagged.desc(), c.rank.desc(), c.order_at, c.id)
    return [_item(row) for row in connection.execute(statement.order_by(*order))]


def items_in(connection: sa.Connection, states: Collection[ItemState]) -> list[StoredItem]:
    """All of our own items in these states; of those that somebody has or is offered there are few."""
    c = t.work_item.c
    found = _ROWS.where(c.state.in_(sorted(states)), c.kind != "external").order_by(c.id)
    return [_item(row) for row in connection.execute(found)]


def read_timeline(connection: sa.Connection, id: str) -> list[Event]:
    """All that happened to an item, in the order in which it did."""
    return list(_timeline(connection, id))


def _timeline(connection: sa.Connection, id: str) -> Iterator[Event]:
    after, found = 0, list[Event]()
    while not after or len(found) == _EVENTS_AT_ONCE:
        found = read_events(connection, Scope(), Wanted(item=id), after=after, limit=_EVENTS_AT_ONCE)
        if not found:
            return
        yield from found
        after = found[-1].sequence


_STUDIES: sa.Select[Any] = sa.select(t.study.c.owner_facility, t.study.c.study_uid, t.study.c.row, t.study.c.extra)
_ROWS = sa.select(*(t.work_item.c[name] for name in _COLUMNS))


def _in(scope: Scope) -> Iterator[sa.ColumnElement[bool]]:
    """What holds for the items of a scope. Peer reviews are the business of those who see every facility."""
    if scope.facilities is not None:
        yield t.work_item.c.facility.in_(sorted(scope.facilities))
        yield t.work_item.c.kind != "peer"


def is_seen(item: StoredItem, facilities: Collection[str] | None) -> bool:
    """Whether who sees these facilities (None: all) may see an item; the same as the SQL of a scope says."""
    return facilities is None or (item.facility in facilities and item.kind != "peer")


def _item(row: sa.Row[Any]) -> StoredItem:
    return StoredItem(**row._mapping)
