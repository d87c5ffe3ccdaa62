"""Orders, and the readings that they lead to: one for each accession number, however its order came.

An order whose images are still to come makes an item that waits for them; one whose study is there is linked to its
reading. The order says how urgent that is, holds it, and takes it back.
"""

from __future__ import annotations

from dataclasses import replace

from readingroom.model import priority_rank
from server.worklist.items import (
    Work,
    cancel_item,
    follow_order,
    hold_item,
    item_for_order,
    link_item,
    request_cancellation,
    resume_item,
)
from server.worklist.reconciling import is_of_another
from server.worklist.reconsidering import reconsider
from storage.catalog import schema as t
from storage.catalog.fhir_studies import touch_study
from storage.catalog.orders import StoredOrder, forget_order, lock_order, order_of, orders_for, write_order
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import StoredItem, item_by_id, ordered_reading, touch_items

ON_HOLD = "The order is on hold."
REVOKED = "The order was revoked."


def place_order(work: Work, order: StoredOrder) -> StoredItem | None:
    """Take an order, or what has changed of one; returns the reading that it leads to, None where there is none.

    Said again, it changes nothing.
    """
    ensure_facility(work.connection, order.facility)
    before = lock_order(work.connection, order.facility, order.id)
    if before is not None and before.accession_number != order.accession_number:
        _leave(work, before)
        before = None
    order = replace(order, item=before.item if before else None)
    if order == before:
        return item_by_id(work.connection, order.item) if order.item else None
    write_order(work.connection, order, work.now)
    if before is None:
        _touch(work, order)
    item = _followed(work, order)
    if item is not None and item.id != order.item:
        write_order(work.connection, replace(order, item=item.id), work.now)
    reconsider(work, order.facility, accession_number=order.accession_number)
    return item


def withdraw_order(work: Work, facility: str, id: str) -> None:
    """Forget an order: what it led to is cancelled, unless another one asks for it too."""
    before = lock_order(work.connection, facility, id)
    if before is not None:
        _leave(work, before)


def _leave(work: Work, order: StoredOrder) -> None:
    forget_order(work.connection, order.facility, order.id)
    _touch(work, order)
    item = ordered_reading(work.connection, order.facility, order.accession_number)
    if item is not None:
        _end(work, order, item)


def _touch(work: Work, order: StoredOrder) -> None:
    """Let all that leads to an order be at its next version, but for the reading that follows it."""
    touch_study(work.connection, order.facility, order.accession_number, work.now)
    item = ordered_reading(work.connection, order.facility, order.accession_number)
    c = t.work_item.c
    mine = [c.facility == order.facility, c.accession_number == order.accession_number]
    if item is not None and item.state not in ("completed", "cancelled"):
        mine.append(c.id != item.id)
    touch_items(work.connection, work.now, *mine)


def _reading(work: Work, order: StoredOrder) -> StoredItem | None:
    """The reading of an order; that of a study of another patient with its accession number is none."""
    while (item := ordered_reading(work.connection, order.facility, order.accession_number)) is not None:
        uid = item.study_uid
        if uid is None or not is_of_another(work.connection, order.facility, uid, order.accession_number):
            break
        if item.state in ("completed", "cancelled"):
            return None
        link_item(work, item, None)
    return item


def _followed(work: Work, order: StoredOrder) -> StoredItem | None:
    """The reading of an order, as all orders of its accession number want it."""
    item = _reading(work, order)
    wanted = order_of(work.connection, order.facility, order.accession_number)
    is_over = item is None or item.state in ("completed", "cancelled")
    if order.state == "revoked":
        return item if item is None else _end(work, order, item)
    if item is None or (item.state == "cancelled" and item.study_uid is None and order.state == "active"):
        if order.state == "completed" or wanted is None:
            return item
        item = item_for_order(work, wanted)
    elif is_over or wanted is None:
        return item
    else:
        item = follow_order(work, item, wanted)
    states = {one.state for one in orders_for(work.connection, order.facility, order.accession_number)}
    is_on_hold = "on-hold" in states and "active" not in states
    if is_on_hold and item.state in ("waiting", "ready", "assigned"):
        return hold_item(work, item, ON_HOLD)
    if not is_on_hold and item.state == "held" and item.reason == ON_HOLD:
        return resume_item(work, item, token=item.claim_token)
    return item


def _end(work: Work, order: StoredOrder, item: StoredItem) -> StoredItem:
    """Cancel the reading of an order that was taken back, unless another order asks for it."""
    others = orders_for(work.connection, order.facility, order.accession_number)
    holding = [one for one in others if one.id != order.id and one.state in ("active", "on-hold")]
    if item.state in ("completed", "cancelled"):
        return item
    if holding:
        return follow_order(work, item, max(holding, key=lambda one: priority_rank(one.priority)).order)
    if item.is_claimed:
        request_cancellation(work, item, REVOKED, {})
        touch_items(work.connection, work.now, t.work_item.c.id == item.id)
        return item_by_id(work.connection, item.id)
    return cancel_item(work, item, REVOKED)
