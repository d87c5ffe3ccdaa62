"""What subscribers are told of a change to a work item: the event reports of PS3.4 CC.2.4, as data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

import sqlalchemy as sa

from storage.catalog.engine import begin_write
from storage.catalog.subscriptions import (
    Report,
    Subscriber,
    add_reports,
    all_subscribers,
    prune_reports,
    release,
    subscribe_those_who_wait,
    subscribers_of,
    was_told,
)
from storage.catalog.ups import element
from storage.catalog.work_items import StoredItem, item_by_id, ups_of, upses_of
from storage.objects import MetadataJson
from storage.upsrules import WORKLIST, items_of, value_of

STATE, CANCEL_REQUESTED, PROGRESS, SCP_STATUS, ASSIGNED = 1, 2, 3, 4, 5
"""Event Type IDs (PS3.4 Table CC.2.4-1)."""

_AT_ONCE = 500
_ONE_START = timedelta(minutes=1)
_PROGRESS = ("00741004", "00741006", "00741008")
_ASKED = ("00741238", "0074100A", "0074100C", "0074100E")

Content = tuple[int, MetadataJson]

GOING_DOWN: Content = (SCP_STATUS, {"00741242": element("CS", "GOING DOWN")})
"""What those are told who are connected when this server ends."""


def report_change(
    connection: sa.Connection,
    before: StoredItem | None,
    item: StoredItem,
    now: datetime,
    requested: Mapping[str, Any] | None = None,
) -> None:
    """Report what became of an item to those who are subscribed to it, and to those who wait for one like it.

    Parameters
    ----------
    requested
        The requesting AE, and the attributes that it sent, where a cancellation was requested.
    """
    subscribed = subscribers_of(connection, item)
    new = subscribe_those_who_wait(connection, item, subscribed, is_new=before is None, now=now)
    if not subscribed and not new:
        return
    shown = ups_of(connection, item)
    contents = [*_requested(requested)] if requested is not None else []
    if before is not None and subscribed:
        contents += _changes(ups_of(connection, before), shown)
    reports = [_report(subscriber, item, content) for subscriber in subscribed for content in contents]
    for subscriber in new:
        reports += [_report(subscriber, item, content) for content in (_state(shown), *_assigned(shown))]
    add_reports(connection, reports, now)
    if item.state in ("completed", "cancelled"):
        release(connection, item)


def report_now(connection: sa.Connection, subscriber: Subscriber, items: Sequence[str], now: datetime) -> None:
    """Report the present state of items to a subscriber that is new to them (PS3.4 CC.2.4.3)."""
    for some in batched(items, _AT_ONCE):
        found = [item_by_id(connection, id) for id in some]
        shown = upses_of(connection, found)
        reports = [_report(subscriber, item, _state(ups)) for item, ups in zip(found, shown, strict=True)]
        add_reports(connection, reports, now)


def report_restart(engine: sa.Engine, now: datetime) -> None:
    """Report to all subscribers that this server has been started again, and has kept everything; once for a start."""
    with begin_write(engine) as connection:
        if was_told(connection, SCP_STATUS, now - _ONE_START):
            return  # by another of its processes
        warm = element("CS", "WARM START")
        told = {"00741242": element("CS", "RESTARTED"), "00741244": warm, "00741246": warm}
        reports = [
            Report(subscriber=one, workitem_uid=WORKLIST, type=SCP_STATUS, attributes=told)
            for one in all_subscribers(connection)
        ]
        add_reports(connection, reports, now)


def forget_reports(engine: sa.Engine, now: datetime) -> int:
    """Forget the reports that nobody has come for in a day; returns how many."""
    with begin_write(engine) as connection:
        return prune_reports(connection, now)


def _report(subscriber: Subscriber, item: StoredItem, content: Content) -> Report:
    type, attributes = content
    return Report(subscriber=subscriber, workitem_uid=item.workitem_uid, type=type, attributes=attributes)


def _changes(before: MetadataJson, after: MetadataJson) -> Iterator[Content]:
    states = [str(value_of(dataset, "00741000")) for dataset in (before, after)]
    if states == ["SCHEDULED", "CANCELED"]:  # by way of IN PROGRESS (PS3.4 CC.2.2.3)
        yield _state(after, "IN PROGRESS")
    if states[0] != states[1] or before.get("00404041") != after.get("00404041"):
        yield _state(after)
    if any(before.get(tag) != after.get(tag) for tag in ("00404025", "00404034")):
        yield from _assigned(after) or [(ASSIGNED, {})]
    progress = [next(iter(items_of(dataset, "00741002")), {}) for dataset in (before, after)]
    if any(progress[0].get(tag) != progress[1].get(tag) for tag in _PROGRESS):
        told = {tag: one for tag, one in progress[1].items() if tag in (*_PROGRESS, "00741007")}
        yield PROGRESS, {"00741002": element("SQ", told)}


def _state(shown: MetadataJson, state: str | None = None) -> Content:
    attributes = {"00404041": shown["00404041"], "00741000": element("CS", state) if state else shown["00741000"]}
    if value_of(attributes, "00741000") == "CANCELED":
        progress = next(iter(items_of(shown, "00741002")), {})
        attributes |= {tag: progress[tag] for tag in ("00741238", "0074100E") if tag in progress}
    return STATE, attributes


def _assigned(shown: MetadataJson) -> list[Content]:
    told: MetadataJson = {}
    if items_of(shown, "00404025"):
        told["00404025"] = shown["00404025"]
    if performers := items_of(shown, "00404034"):
        codes = [code for performer in performers for code in items_of(performer, "00404009")]
        told["00404009"] = element("SQ", *codes)
        if organization := value_of(performers[0], "00404036"):
            told["00404036"] = element("LO", organization)
    return [(ASSIGNED, told)] if told else []


def _requested(requested: Mapping[str, Any]) -> Iterator[Content]:
    attributes = {tag: one for tag, one in requested.items() if tag in _ASKED}
    yield CANCEL_REQUESTED, {"00741236": element("AE", requested["ae"]), **attributes}
