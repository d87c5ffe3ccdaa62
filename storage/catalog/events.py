"""What happened, in the order in which it was committed: rows that transactions append, and that the feed reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import batched
from typing import Any

import orjson
import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.engine import lock_events

_MOST_INSTANCES = 1000
"""Of one event; what concerns more is told in several."""

_INSERT = t.event.insert()


def append_events(connection: sa.Connection, events: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to the log, as the last thing that a transaction does.

    Whoever appends holds a lock until the commit, so that numbers are given in the order of commits: a reader who has
    seen one has seen all before it.
    """
    if events:
        lock_events(connection)
        connection.execute(_INSERT, list(events))


def instance_events(
    kind: str,
    *,
    owner_facility: str,
    study_uid: str,
    at: datetime,
    instances: Mapping[str, Sequence[str]],
    **told: Any,
) -> Iterator[dict[str, Any]]:
    """The rows that tell of instances of one study, given by series; none where there are none."""
    pairs = [(series_uid, uid) for series_uid, uids in sorted(instances.items()) for uid in uids]
    for some in batched(pairs, _MOST_INSTANCES):
        series: dict[str, list[str]] = {}
        for series_uid, uid in some:
            series.setdefault(series_uid, []).append(uid)
        yield {
            "type": kind,
            "version": 1,
            "study_uid": study_uid,
            "facility": owner_facility,
            "at": at,
            "payload": orjson.dumps({"series": series, **told}),
        }
