"""Correct what a study says of itself: one transaction, with a record in the store by which it can be done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from readingroom.clock import Clock
from readingroom.errors import Invalid, NotFound
from readingroom.model import Scope
from storage.blobs import Blobs
from storage.catalog.corrections import Target, correction_events, next_correction, owner_of, record_correction
from storage.catalog.events import append_events
from storage.changes import Changes
from storage.overlay import Correction
from storage.sidecars import begin_recorded

KIND = "correction"
"""The type of its side record."""

REASON_CHARACTERS = 1024

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def correct(
    engine: sa.Engine,
    blobs: Blobs,
    clock: Clock,
    scope: Scope,
    target: Target,
    change: Changes | int,
    *,
    actor: str,
    reason: str,
    held: str | None = None,
    drop: Collection[str] = (),
    along: Callable[[sa.Connection, Correction], object] | None = None,
) -> Correction | None:
    """Correct a study, a series or an instance; it is durable when this returns.

    Parameters
    ----------
    change, held, drop
        As `storage.catalog.corrections.next_correction` takes them, which also says what is raised.
    actor, reason
        Who corrects it, and why; they stay in its history.
    along
        What else is to be done in the same transaction, once it is corrected; not called where nothing would change.

    Returns
    -------
    Correction or None
        None where nothing would have changed.
    """
    if not reason.strip() or len(reason) > REASON_CHARACTERS or _CONTROL.search(reason):
        raise Invalid(f"Say why, in one line of at most {REASON_CHARACTERS} characters; the history keeps it.")
    with engine.connect() as connection:
        owner = owner_of(connection, scope, target)
    with begin_recorded(engine, blobs, owner, target.study_uid, clock=clock) as (connection, record):
        correction = next_correction(
            connection,
            scope,
            target,
            change,
            actor=actor,
            reason=reason.strip(),
            now=clock.now(),
            held=held,
            drop=drop,
        )
        if correction is None:
            return None
        told = {name: value for name, value in asdict(correction).items() if name != "at"}
        correction = replace(correction, at=record.write(connection, KIND, told))
        corrected = record_correction(connection, correction)
        append_events(connection, [*correction_events(correction, corrected)])
        if along is not None:
            along(connection, correction)
    return correction


def replay(connection: sa.Connection, record: dict[str, Any]) -> None:
    """Work a side record of a correction into the catalog; where its study has been purged there is nothing to do."""
    told = {name: value for name, value in record.items() if name not in ("type", "at")}
    with suppress(NotFound):
        record_correction(connection, Correction(at=datetime.fromisoformat(record["at"]), **told))
