"""Who reads what next: a snapshot of the queue for the plugins that propose, and their proposals checked and applied.

Plugins see the head of the queue with those readers alone whom licence, credential and shift allow each item. What they
propose is an offer at most: whether the item still waits, and the reader is still allowed it, is asked again under the
lock. An offer that nobody takes up comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from readingroom.errors import ReadingRoomError
from readingroom.model import Actor, ItemState, Reader, Snapshot, Waiting
from readingroom.results import Proposal
from server.queue import Queue
from server.worklist import items
from server.worklist.directory import Staffing, may_be_given, reasons_against
from server.worklist.items import EVERYWHERE, Work
from storage.catalog.directory import Directory
from storage.catalog.engine import begin_write
from storage.catalog.peer_reviews import excluded_reviewers
from storage.catalog.work_items import StoredItem, item_by_id, items_in, next_items

log = logging.getLogger(__name__)

HEAD = 200
"""So many items of the head of the queue are in a snapshot: more than are read before the next one."""
OFFER_LASTS = timedelta(minutes=10)

_MINUTES: Mapping[tuple[str, str], float] = {
    ("CT", "HEAD"): 7.0,
    ("CT", "BRAIN"): 7.0,
    ("CT", "CHEST"): 14.2,
    ("CT", "ABDOMEN"): 17.1,
    ("MR", "HEAD"): 11.0,
    ("MR", "BRAIN"): 11.0,
}
"""How long reading takes, in the mean."""
_MINUTES_OF_MODALITY: Mapping[str, float] = {"CT": 12.0, "MR": 14.0, "CR": 3.0, "DX": 3.0, "MG": 5.0, "US": 6.0}
_OFFERED: tuple[ItemState, ...] = ("assigned",)
_CLAIMED: tuple[ItemState, ...] = ("claimed",)
_LEAST_LEFT = 0.4
"""The share of a read that somebody who has read for longer than expected is still expected to take. Long reads are
very long; who seemed to be free in a moment, and again, would be waited for with what cannot wait."""


def read_time(item: StoredItem) -> timedelta:
    """How long an item is expected to take a reader."""
    modality, region = item.modality or "", (item.body_part or "").upper()
    return timedelta(minutes=_MINUTES.get((modality, region), _MINUTES_OF_MODALITY.get(modality, 10.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A snapshot, and what is offered already, by reader: it gives way to what is more urgent."""

    snapshot: Snapshot
    offered: Mapping[str, StoredItem]


def take_snapshot(connection: sa.Connection, directory: Directory, now: datetime) -> Queued:
    """The head of the queue with those who may read it, and when each of them is expected to be free."""
    staffing = Staffing(directory, now)
    waiting = []
    readers: dict[str, Reader] = {}
    for item in next_items(connection, EVERYWHERE, now=now, limit=HEAD):
        eligible = staffing.readers(item)
        if item.kind == "peer":
            excluded = excluded_reviewers(connection, item.id)
            eligible = tuple(reader for reader in eligible if reader.id not in excluded)
        readers.update((reader.id, reader) for reader in eligible)
        waiting.append(
            Waiting(
                item=item.shown,
                eligible=tuple(reader.id for reader in eligible),
                read_seconds=read_time(item).total_seconds(),
            )
        )
    free_at = dict.fromkeys(readers, now)
    offered = {item.offered_to or "": item for item in items_in(connection, _OFFERED)}
    for item in items_in(connection, _CLAIMED):
        if item.owner in free_at:
            left = (item.claimed_at or now) + read_time(item) - now
            free_at[item.owner] += max(left, _LEAST_LEFT * read_time(item))
    work = sum((timedelta(seconds=one.read_seconds) for one in waiting), timedelta())
    snapshot = Snapshot(
        at=now,
        waiting=tuple(waiting),
        readers=tuple(replace(reader, free_at=free_at[id]) for id, reader in sorted(readers.items())),
        utilisation=work / (timedelta(hours=1) * len(readers)) if readers else None,
    )
    return Queued(snapshot=snapshot, offered=offered)


def apply_proposals(
    engine: sa.Engine, queue: Queue | None, now: datetime, queued: Queued, plugin: str, proposals: Sequence[Proposal]
) -> int:
    """Offer what a plugin proposes, the best first and one item at most to each reader; returns how many that was."""
    actor = Actor(id=plugin, name=plugin, kind="plugin")
    eligible = {one.item.id: one.eligible for one in queued.snapshot.waiting}
    given = set[str]()
    for proposal in sorted(proposals, key=lambda one: -one.score):
        if proposal.reader in given or proposal.reader not in eligible.get(proposal.item, ()):
            continue
        with begin_write(engine) as connection:
            try:
                item = item_by_id(connection, proposal.item, locked=True)
                if item.state != "ready" or not may_be_given(connection, item, proposal.reader, now):
                    continue
                work = Work(connection=connection, now=now, actor=actor, queue=queue)
                if not _gives_way(work, queued.offered.get(proposal.reader), item):
                    continue
                items.offer_item(work, item, proposal.reader, proposal.because[:1000])
            except ReadingRoomError as error:
                log.info("item %s was not offered to %s: %s", proposal.item, proposal.reader, error.message)
                continue
            work.tell()
        given.add(proposal.reader)
    return len(given)


def _gives_way(work: Work, offered: StoredItem | None, item: StoredItem) -> bool:
    """Whether a reader is free for an item: without an offer, or with a less urgent one, which then comes back."""
    if offered is None:
        return True
    offered = item_by_id(work.connection, offered.id, locked=True)
    if offered.state != "assigned":
        return True
    if (item.is_flagged, item.rank) <= (offered.is_flagged, offered.rank):
        return False
    items.decline_item(work, offered, reader=offered.offered_to or "", reason="something more urgent came")
    return True


def withdraw_offers(engine: sa.Engine, directory: Directory, now: datetime, queue: Queue | None) -> int:
    """Take back what was offered for too long, or to somebody who is not there any more; returns how many."""
    with engine.connect() as connection:
        stale = [item.id for item in items_in(connection, _OFFERED) if _is_stale(directory, item, now)]
    withdrawn = 0
    for id in stale:
        with begin_write(engine) as connection:
            item = item_by_id(connection, id, locked=True)
            if item.state != "assigned":
                continue
            work = Work(connection=connection, now=now, actor=items.THE_SERVER, queue=queue)
            items.decline_item(work, item, reader=item.offered_to or "", reason="the offer was not taken up in time")
            work.tell()
        withdrawn += 1
    return withdrawn


def _is_stale(directory: Directory, item: StoredItem, now: datetime) -> bool:
    """Whether an offer has lasted too long, or is to one who may not take it up any more."""
    if now - item.changed_at >= OFFER_LASTS:
        return True
    reader = directory.readers.get(item.offered_to or "")
    if reader is None:
        return bool(directory.readers)
    return bool(reasons_against(directory, item, reader, now))
