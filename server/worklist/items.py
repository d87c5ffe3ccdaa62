"""The commands on work items. Each is checked against `states`, and writes row, search values and event together.

A command is given to a `Work`, which is one transaction by one actor; its events are told as its last act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom.uid import generate_uid

from readingroom.clock import Clock
from readingroom.errors import Conflict, Invalid, NotFound, Refused
from readingroom.events import ItemChanged, SlaCrossed
from readingroom.model import (
    Actor,
    ItemKind,
    ItemState,
    Order,
    Priority,
    Rung,
    Scope,
    SlaMark,
    Study,
    WorkItem,
    priority_rank,
)
from server.announce import announce
from server.queue import Queue
from server.worklist.directory import require_lawful
from server.worklist.marks import follow, place_marks
from server.worklist.reports import report_change
from server.worklist.states import Command, check
from storage.catalog import schema as t
from storage.catalog.directory import names_of
from storage.catalog.engine import begin_write
from storage.catalog.escalations import is_open_escalation
from storage.catalog.events import append_events
from storage.catalog.peer_reviews import excluded_reviewers
from storage.catalog.studies import ensure_facility
from storage.catalog.ups import TOLD
from storage.catalog.work_items import (
    StoredItem,
    expired_claims,
    find_item,
    insert_item,
    item_by_id,
    reading_of,
    update_item,
)
from storage.objects import MetadataJson

THE_SERVER = Actor(id="server", name="This server", kind="server")
"""Who gives the commands that nobody gave: an expiry, an item for a study that has settled."""

EVERYWHERE = Scope()
CLAIM_LASTS = timedelta(hours=2)
READINGS: frozenset[ItemKind] = frozenset(("read", "second", "peer"))
"""The kinds that take a reader with licence and privileges; to tell of a result, or to follow one up, does not."""
_LONG_AFTER = timedelta(days=3650)
AT_ONCE = 100
"""Claims that one look gives back."""
_REASON_CHARACTERS = 1024
_SHOWN = tuple(WorkItem.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of an item; `requested` is what came with a request to cancel it."""

    before: StoredItem | None
    after: StoredItem
    requested: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One transaction on the worklist, by one actor who sees one scope of it.

    `events` are what the log is to be told of it, and `changes` what subscribers are. With a `queue`, whatever in the
    server reacts to events does so too.
    """

    connection: sa.Connection
    now: datetime
    actor: Actor
    scope: Scope = EVERYWHERE
    claim_lasts: timedelta = CLAIM_LASTS
    queue: Queue | None = None
    """Gets the jobs of those who react to the events; without one they are told, and nobody reacts."""
    ladders: Mapping[str, Sequence[Rung]] = field(default_factory=dict)
    """Whom plugins would have reached for what it may come to open: they are asked before it begins, never within."""
    events: list[dict[str, Any]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def find(self, workitem_uid: str) -> StoredItem:
        """An item in scope, locked until the transaction ends; raises `NotFound`."""
        return find_item(self.connection, self.scope, workitem_uid, locked=True)

    def note(
        self,
        what: str,
        told: Mapping[str, Any],
        *,
        facility: str | None,
        study_uid: str | None = None,
        item: str | None = None,
    ) -> None:
        """Have something told at the end that changed no row of an item; without a facility, to none of them."""
        self.events.append(
            {
                "type": what,
                "version": 1,
                "study_uid": study_uid,
                "facility": facility,
                "item": item,
                "at": self.now,
                "payload": orjson.dumps({"actor": self.actor.id, **told}),
            }
        )

    def tell(self) -> None:
        """Report to subscribers, and append the events: the last thing that the transaction does."""
        for change in self.changes:
            report_change(self.connection, change.before, change.after, self.now, change.requested)
        if self.queue is not None:
            announce(self.connection, self.queue, self.events)
        else:
            append_events(self.connection, self.events)
        self.changes.clear()
        self.events.clear()


@contextmanager
def working(
    engine: sa.Engine,
    clock: Clock,
    actor: Actor,
    scope: Scope,
    *,
    queue: Queue | None = None,
    claim_lasts: timedelta = CLAIM_LASTS,
    ladders: Mapping[str, Sequence[Rung]] | None = None,
) -> Iterator[Work]:
    """A transaction of its own; what it did is durable, and told, when it ends."""
    with begin_write(engine) as connection:
        work = Work(
            connection=connection,
            now=clock.now(),
            actor=actor,
            scope=scope,
            claim_lasts=claim_lasts,
            queue=queue,
            ladders=ladders or {},
        )
        yield work
        work.tell()


# -- coming into being -------------------------------------------------------------------------------------------------


def create_item(
    work: Work,
    *,
    facility: str,
    kind: ItemKind,
    workitem_uid: str | None = None,
    id: str | None = None,
    state: ItemState | None = None,
    is_ready: bool = True,
    priority: Priority = "routine",
    attributes: MetadataJson | None = None,
    **columns: Any,
) -> StoredItem:
    """Put an item on the worklist; `columns` are further ones of `schema.work_item`.

    Parameters
    ----------
    state
        What it is from the beginning, where somebody else has it already; by default it is ready, or waits.

    Raises
    ------
    Conflict
        There is an item of that UID, or one to read that study.
    """
    ensure_facility(work.connection, facility)
    id = id or t.new_id()
    state = state or ("ready" if is_ready else "waiting")
    item = StoredItem(
        id=id,
        workitem_uid=workitem_uid or f"2.25.{int(id, 16)}",
        kind=kind,
        state=state,
        facility=facility,
        version=1,
        created_at=work.now,
        changed_at=work.now,
        ready_at=None if state == "waiting" else work.now,
        order_at=columns.get("due_at") or work.now + _LONG_AFTER,
        priority=priority,
        rank=priority_rank(priority),
        attributes=orjson.dumps(attributes or {}),
        **columns,
    )
    if not insert_item(work.connection, item):
        raise Conflict(f"There is a work item {item.workitem_uid} already, or one to read its study.")
    if item.due_at is not None and kind != "external":
        place_marks(work.connection, item, None)
    _tell(work, None, item, "created")
    return item


def item_for_study(work: Work, study: Study, order: Order | None = None) -> StoredItem:
    """The item to read a study that has settled: made now, or by its order, or when it settled before.

    However often it is called for a study, there is one.
    """
    found = reading_of(work.connection, study.facility, study.study_uid, study.accession_number)
    described: dict[str, Any] = {
        "study_uid": study.study_uid,
        "accession_number": study.accession_number,
        "modality": next(iter(study.modalities), None),
        "body_part": next(iter(study.body_parts), None),
    }
    if found is None:
        priority = order.priority if order else "routine"
        try:
            return create_item(work, facility=study.facility, kind="read", priority=priority, **described)
        except Conflict:  # somebody else has made it at this moment
            found = reading_of(work.connection, study.facility, study.study_uid)
            if found is None:
                raise
    if found.study_uid is None:
        found = _change(work, found, "study arrived", **described)
    return make_ready(work, found) if found.state == "waiting" else found


def item_for_order(work: Work, order: Order, **columns: Any) -> StoredItem:
    """An item for an order whose images are still to come."""
    known = {"00100020": order.patient_id, "00100021": order.issuer}
    attributes = {tag: {"vr": "LO", "Value": [value]} for tag, value in known.items() if value}
    return create_item(
        work,
        facility=order.facility,
        kind="read",
        is_ready=False,
        priority=order.priority,
        attributes=attributes,
        accession_number=order.accession_number,
        **columns,
    )


def follow_order(work: Work, item: StoredItem, order: Order) -> StoredItem:
    """Let an item be as urgent as it is ordered, and say that it is; what was found in it may have made it more so."""
    rank = priority_rank(order.priority)
    rank = max(rank, item.rank) if item.is_flagged else rank
    return _step(
        work,
        item,
        "reprioritise",
        told={"because": f"order {order.accession_number}"},
        priority=order.priority,
        rank=rank,
    )


def link_item(work: Work, item: StoredItem, accession_number: str | None) -> StoredItem:
    """Let an item be the reading of what was ordered under an accession number; of nothing for None."""
    if item.accession_number == accession_number:
        return item
    return _change(work, item, "linked" if accession_number else "unlinked", accession_number=accession_number)


# -- who reads it ------------------------------------------------------------------------------------------------------


def make_ready(work: Work, item: StoredItem) -> StoredItem:
    """Say that everything is there that it takes."""
    return _step(work, item, "make ready", ready_at=work.now)


def await_input(work: Work, item: StoredItem, reason: str = "") -> StoredItem:
    """Say that something is missing again."""
    return _step(work, item, "await", reason=reason, offered_to=None)


def offer_item(work: Work, item: StoredItem, reader: str, because: str = "") -> StoredItem:
    """Assign an item to a reader, who may decline it."""
    check("offer", item, work.actor)
    _require_lawful(work, item, _reader(reader))
    return _step(work, item, "offer", told={"because": because}, offered_to=reader)


def decline_item(work: Work, item: StoredItem, *, reader: str, reason: str = "") -> StoredItem:
    """Give back what was offered."""
    check("decline", item, work.actor, reader=reader)
    return _step(work, item, "decline", told={"reader": reader, "because": reason}, offered_to=None)


def claim_item(work: Work, item: StoredItem, *, token: str | None = None, reader: str = "") -> StoredItem:
    """Take an item on: of all who try at once, one gets it.

    Parameters
    ----------
    token
        The Transaction UID that the claimant has chosen; one is made otherwise, and stands in `claim_token`.
    reader
        For whom it is claimed, who must be the one whom it is offered to. By default the actor, if that is a reader of
        the directory; else the one whom it is offered to; else the actor.

    Raises
    ------
    Conflict
        Somebody else has it, or is offered it.
    Refused
        It is to be read, and that reader may not by law: see `server.worklist.directory.require_lawful`.
    """
    is_own = item.kind != "external"
    acts = is_own and item.offered_to and work.actor.id in names_of(work.connection, [work.actor.id])
    reader = _reader(reader) if reader else (None if acts else item.offered_to) or work.actor.id
    check("claim", item, work.actor, reader=reader)
    _require_lawful(work, item, reader)
    return _step(
        work,
        item,
        "claim",
        owner=reader,
        offered_to=None,
        claim_token=token or new_token(),
        claimed_at=work.now,
        # A UPS does not go back from IN PROGRESS (PS3.4 CC.1.1): those who made it know their performers.
        claim_expires_at=work.now + work.claim_lasts if is_own else None,
    )


def new_token() -> str:
    """A Transaction UID for who has chosen none."""
    return str(generate_uid(prefix=None))


def renew_claim(work: Work, item: StoredItem, *, token: str) -> StoredItem:
    """Say that the claimant is still at it, so that the claim lasts anew; tells nobody."""
    check("release", item, work.actor, token=token)
    if item.claim_expires_at is None:
        return item
    renewed = replace(item, claim_expires_at=work.now + work.claim_lasts, version=item.version + 1)
    update_item(work.connection, item, renewed)
    return renewed


def release_item(work: Work, item: StoredItem, *, token: str, reason: str = "") -> StoredItem:
    """Give back what was claimed, unread."""
    return _step(work, item, "release", token=token, told={"because": reason}, **_given_back(item))


def hold_item(work: Work, item: StoredItem, reason: str, *, token: str | None = None) -> StoredItem:
    """Put an item aside for a reason: a prior or an order that is missing. A claim stays, and does not expire."""
    if not reason.strip():
        raise Invalid("Say why the item is held.")
    return _step(work, item, "hold", token=token, reason=_line(reason), held_from=item.state, claim_expires_at=None)


def resume_item(work: Work, item: StoredItem, *, token: str | None = None) -> StoredItem:
    """Go on where an item was put aside."""
    is_claimed = item.held_from == "claimed"
    return _step(
        work,
        item,
        "resume",
        token=token,
        reason="",
        state=item.held_from,
        held_from=None,
        claim_expires_at=work.now + work.claim_lasts if is_claimed and item.kind != "external" else None,
    )


def reassign_item(work: Work, item: StoredItem, reader: str | None, reason: str = "") -> StoredItem:
    """Give an item that one reader has to another; to nobody for None, so that it is ready for all."""
    values: dict[str, Any] = {**_NOBODYS, "offered_to": _reader(reader) if reader else None, "held_from": None}
    check("reassign", item, work.actor)
    if reader is None:
        values["state"] = _given_back(item).get("state", "ready")
    else:
        _require_lawful(work, item, reader)
    return _step(work, item, "reassign", told={"because": reason}, reason="", **values)


def _given_back(item: StoredItem) -> Mapping[str, Any]:
    """What is nobody's again; a call or a follow-up that was never to be read is not to be read by that."""
    waits = item.kind in TOLD and item.ready_at is None
    return {**_NOBODYS, "state": "waiting"} if waits else _NOBODYS


_NOBODYS: Mapping[str, Any] = {
    "owner": None,
    "offered_to": None,
    "claim_token": None,
    "claimed_at": None,
    "claim_expires_at": None,
}


# -- how soon ----------------------------------------------------------------------------------------------------------


def reprioritise_item(work: Work, item: StoredItem, priority: Priority, reason: str = "") -> StoredItem:
    """Change how soon an item is to be read. A plugin may raise it, and never lowers it."""
    rank = priority_rank(priority)
    if rank < item.rank and work.actor.kind == "plugin":
        raise Refused(f"{work.actor.id} may raise the priority of work item {item.workitem_uid}, not lower it.")
    if rank == item.rank:
        return item
    return _step(work, item, "reprioritise", told={"because": reason}, rank=rank)


def raise_priority(work: Work, item: StoredItem, priority: Priority, reason: str = "") -> StoredItem:
    """The same, of an item that has a lower one; any other stays as it is."""
    return reprioritise_item(work, item, priority, reason) if priority_rank(priority) > item.rank else item


def flag_item(work: Work, item: StoredItem, findings: str, priority: Priority | None = None) -> StoredItem:
    """Put an item before all others for what was found in it, and raise its priority to at least this."""
    rank = max(item.rank, priority_rank(priority) if priority else 0)
    if item.is_flagged and (item.rank, item.findings) == (rank, findings):
        return item
    return _step(work, item, "reprioritise", rank=rank, is_flagged=True, findings=_line(findings))


def schedule_item(
    work: Work,
    item: StoredItem,
    *,
    due_at: datetime | None,
    warn_at: datetime | None,
    study_type: str | None = None,
) -> StoredItem:
    """Say when an item is due, from when on it is at risk of being late, and as what type of study it is read."""
    study_type = study_type or item.study_type
    if (due_at, warn_at, study_type) == (item.due_at, item.warn_at, item.study_type):
        return item
    order_at = due_at or item.created_at + _LONG_AFTER
    return _step(work, item, "schedule", due_at=due_at, warn_at=warn_at, order_at=order_at, study_type=study_type)


# -- its content and its end -------------------------------------------------------------------------------------------


def update_attributes(
    work: Work, item: StoredItem, attributes: MetadataJson, *, token: str | None = None, **columns: Any
) -> StoredItem:
    """Set attributes of the UPS that no column has, and columns that follow from them; empty ones stay, empty."""
    merged = dict(sorted({**orjson.loads(item.attributes), **attributes}.items()))
    if item.claim_expires_at is not None:
        columns["claim_expires_at"] = work.now + work.claim_lasts
    return _step(
        work, item, "update", token=token, told={"set": sorted(attributes)}, attributes=orjson.dumps(merged), **columns
    )


def annotate_item(work: Work, item: StoredItem, extras: bytes, *, token: str | None = None) -> StoredItem:
    """Keep what else a client says of an item, which changes nothing of the work."""
    return _step(work, item, "update", token=token, extras=extras)


def complete_item(work: Work, item: StoredItem, *, token: str) -> StoredItem:
    """End an item with its work done.

    Raises
    ------
    Conflict
        It is to tell a critical result, which nobody has read back.
    """
    _require_told(work, item)
    return _step(work, item, "complete", token=token, claim_expires_at=None)


def cancel_item(
    work: Work,
    item: StoredItem,
    reason: str = "",
    *,
    token: str | None = None,
    attributes: MetadataJson | None = None,
) -> StoredItem:
    """End an item without; what is claimed is cancelled by its claimant. `attributes` are set with it.

    Raises
    ------
    Conflict
        It is to tell a critical result, whose escalation is still open.
    """
    _require_told(work, item)
    merged = orjson.loads(item.attributes) | (attributes or {})
    return _step(
        work,
        item,
        "cancel",
        token=token,
        reason=_line(reason),
        held_from=None,
        claim_expires_at=None,
        attributes=orjson.dumps(dict(sorted(merged.items()))),
    )


def finish_item(work: Work, item: StoredItem, *, reader: str) -> StoredItem:
    """End an item with its work done, wherever it is and whoever has it; nobody's is claimed for `reader` first."""
    if item.state == "held":
        item = resume_item(work, item, token=item.claim_token)
    if item.state != "claimed":
        item = claim_item(work, item, reader=item.offered_to or reader)
    return complete_item(work, item, token=item.claim_token or "")


def drop_item(work: Work, item: StoredItem, reason: str) -> StoredItem:
    """End an item without, whoever has it; of a reason that is too long, as much as there may be."""
    return cancel_item(work, item, " ".join(reason.split())[:_REASON_CHARACTERS], token=item.claim_token)


def request_cancellation(work: Work, item: StoredItem, reason: str, attributes: MetadataJson) -> None:
    """Ask whoever has an item to cancel it (PS3.4 CC.2.2); it stays as it is."""
    actor = work.actor
    requested = {"ae": (actor.name if actor.kind == "ae" else actor.id)[:16], **attributes}
    _tell(work, item, item, "cancellation requested", because=_line(reason), requested=requested)


def expire_claims(engine: sa.Engine, now: datetime, queue: Queue | None = None) -> int:
    """Give back what was claimed and never finished; returns how many. Called once a second."""
    with engine.connect() as connection:
        due = expired_claims(connection, now, AT_ONCE)
    expired = 0
    for id in due:
        with begin_write(engine) as connection:
            work = Work(connection=connection, now=now, actor=THE_SERVER, queue=queue)
            try:
                item = item_by_id(connection, id, locked=True)
            except NotFound:
                continue
            # Asked again under the lock: it may have been finished, or renewed, meanwhile.
            if item.state != "claimed" or item.claim_expires_at is None or item.claim_expires_at > now:
                continue
            _step(work, item, "expire", told={"reader": item.owner}, **_given_back(item))
            work.tell()
            expired += 1
    return expired


def _step(
    work: Work,
    item: StoredItem,
    command: Command,
    *,
    token: str | None = None,
    told: Mapping[str, Any] | None = None,
    **values: Any,
) -> StoredItem:
    step = check(command, item, work.actor, token=token)
    if step.target is not None:
        values = {"state": step.target, **values}
    return _change(work, item, step.done, told=told, **values)


def _change(
    work: Work, item: StoredItem, what: str, *, told: Mapping[str, Any] | None = None, **values: Any
) -> StoredItem:
    changed = replace(item, **values, version=item.version + 1, changed_at=work.now)
    marks: list[tuple[SlaMark, Mapping[str, Any]]] = []
    changed = follow(work.connection, item, changed, work.now, lambda *mark: marks.append(mark))
    update_item(work.connection, item, changed)
    _tell(work, item, changed, what, **(told or {}))
    for mark, more in marks:
        crossed = {"item": item.id, "mark": mark, "study_uid": item.study_uid, **more}
        work.note(SlaCrossed.__name__, crossed, facility=_told_to(item), study_uid=item.study_uid, item=item.id)
    return changed


def _tell(
    work: Work,
    before: StoredItem | None,
    item: StoredItem,
    what: str,
    *,
    requested: Mapping[str, Any] | None = None,
    **told: Any,
) -> None:
    """Note what is to be told: a `readingroom.events.ItemChanged`, and with it what was done and was otherwise."""
    was = {}
    if before is not None:
        was = {name: getattr(before, name) for name in _SHOWN if getattr(before, name) != getattr(item, name)}
    payload = {
        "item": item.id,
        "before": before.state if before else None,
        "after": item.state,
        "study_uid": item.study_uid,
        "actor": work.actor.id,
        "reason": item.reason,
        "what": what,
        "was": was,
        "workitem": item.workitem_uid,
        "kind": item.kind,
        "version": item.version,
        "reader": item.owner or item.offered_to,
        **{name: value for name, value in told.items() if value},
    }
    work.changes.append(Change(before=before, after=item, requested=requested))
    work.events.append(
        {
            "type": ItemChanged.__name__,
            "version": ItemChanged.version,
            "study_uid": item.study_uid,
            "facility": _told_to(item),
            "item": item.id,
            "at": work.now,
            "payload": orjson.dumps(payload),
        }
    )


def _told_to(item: StoredItem) -> str | None:
    """The facility that hears what happens to an item: of a peer review none does."""
    return None if item.kind == "peer" else item.facility


def _reader(reader: str) -> str:
    if not (0 < len(reader) <= 64 and reader.isprintable()):
        raise Invalid("A reader is named by an id of 1 to 64 characters.")
    return reader


def _require_lawful(work: Work, item: StoredItem, reader: str) -> None:
    if item.kind in READINGS:
        require_lawful(work.connection, item, reader, work.now)
    # The message does not say why: the reviewer is not to learn who has read it.
    if item.kind == "peer" and reader in excluded_reviewers(work.connection, item.id):
        raise Refused(f"Reader {reader} may not do the peer review {item.workitem_uid}; somebody else does.")


def _require_told(work: Work, item: StoredItem) -> None:
    """The call of a critical result ends with its escalation, which has the id of the item."""
    if item.kind == "critical" and is_open_escalation(work.connection, item.id):
        raise Conflict(f"Work item {item.workitem_uid} ends when escalation {item.id} is acknowledged or cancelled.")


def _line(text: str) -> str:
    """A text of one line."""
    line = " ".join(text.split())
    if len(line) > _REASON_CHARACTERS:
        raise Invalid(f"A reason is one line of at most {_REASON_CHARACTERS} characters.")
    return line
