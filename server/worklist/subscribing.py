"""Subscriptions of AEs to work items, to the worklist, or to what of it matches a filter (PS3.4 CC.2.3).

DICOMweb and DIMSE are two ways to the same subscriptions: an AE is one, by whichever it has come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from readingroom.errors import Invalid, NotFound
from readingroom.model import Scope
from server.worklist.reports import report_now
from storage.catalog.subscriptions import (
    Coming,
    Filter,
    Subscriber,
    realm_of,
    subscribe,
    subscribe_to_coming,
    suspend,
    unsubscribe,
    unsubscribe_all,
)
from storage.catalog.work_items import find_item
from storage.upsrules import FILTERED, WORKLIST

COMING: Mapping[str, Coming] = {WORKLIST: "worklist", FILTERED: "filtered"}
"""The well-known UIDs that stand for items to come."""

_AE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")


def subscriber_of(scope: Scope, ae: str) -> Subscriber:
    """An AE in the realm of a scope; raises `Invalid` where that is no AE title."""
    if not _AE.fullmatch(ae):
        raise Invalid("An AE title has 1 to 16 printable characters, and no backslash.")
    return Subscriber(realm_of(scope), ae)


def subscribe_ae(
    connection: sa.Connection,
    scope: Scope,
    subscriber: Subscriber,
    target: str,
    *,
    has_lock: bool,
    now: datetime,
    filter: Filter | None = None,
) -> None:
    """Subscribe an AE, and have it told how things are.

    Parameters
    ----------
    target
        UID of an item, or one of `COMING`.
    filter
        What items to come have to match, where that is `FILTERED`; None elsewhere.

    Raises
    ------
    NotFound
        There is no such item in scope.
    Invalid
        There is a filter where there may be none, or the other way round.
    """
    if (target == FILTERED) != (filter is not None):
        raise Invalid(f"A filter goes with the filtered worklist {FILTERED}, which has to have one.")
    if coming := COMING.get(target):
        new = subscribe_to_coming(connection, scope, subscriber, coming, has_lock=has_lock, now=now, filter=filter)
        told = new if has_lock else ()  # only then are all reported as they are (PS3.4 CC.2.4.3)
    else:
        item = find_item(connection, scope, target, locked=True)
        subscribe(connection, subscriber, item, has_lock=has_lock, now=now)
        told = [item.id]
    report_now(connection, subscriber, told, now)


def unsubscribe_ae(
    connection: sa.Connection, scope: Scope, subscriber: Subscriber, target: str, *, now: datetime
) -> None:
    """Have an AE hear no more of an item; of any, where that is one of `COMING`.

    Raises
    ------
    NotFound
        There is no such item in scope, or the AE is not subscribed to it.
    """
    if coming := COMING.get(target):
        was_there = unsubscribe_all(connection, subscriber, coming)
    else:
        was_there = unsubscribe(connection, subscriber, find_item(connection, scope, target, locked=True), now=now)
    if not was_there:
        raise NotFound(f"{subscriber.ae} is not subscribed to {target[:64]}.")


def suspend_ae(connection: sa.Connection, subscriber: Subscriber, target: str) -> None:
    """Have an AE hear of no further items; those that it knows it still hears of.

    Raises
    ------
    Invalid
        That is none of `COMING`.
    NotFound
        There is no such subscription.
    """
    if target not in COMING:
        raise Invalid(f"A subscription to the worklist is suspended, {WORKLIST} or {FILTERED}; others are deleted.")
    if not suspend(connection, subscriber, COMING[target]):
        raise NotFound(f"{subscriber.ae} is not subscribed to {target[:64]}.")
