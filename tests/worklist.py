"""Work items for tests: in a catalog of its own, or of a room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from readingroom.clock import Clock, SetClock
from readingroom.model import LOCAL_OPERATOR, Actor, Scope, Study
from server.worklist.items import Work, create_item, working
from storage.catalog.work_items import StoredItem
from tests.synthetic import new_uid

PLUGIN = Actor(id="triage", name="Triage", kind="plugin")
READER = Actor(id="ada", name="Ada")


@contextmanager
def at_work(
    engine: sa.Engine, clock: Clock | None = None, actor: Actor = LOCAL_OPERATOR, scope: Scope | None = None
) -> Iterator[Work]:
    """One transaction of the worklist."""
    with working(engine, clock or SetClock(), actor, scope or Scope()) as work:
        yield work


def add(engine: sa.Engine, clock: Clock | None = None, **columns: Any) -> StoredItem:
    """One more item to be read, of a study of its own."""
    columns = {"facility": "local", "kind": "read", "study_uid": new_uid()} | columns
    with at_work(engine, clock) as work:
        return create_item(work, **columns)


def study(**attributes: Any) -> Study:
    """A study that has settled."""
    known = {
        "study_uid": new_uid(),
        "facility": "local",
        "patient": "p",
        "modalities": ("CT",),
        "body_parts": ("HEAD",),
    }
    return Study(**{**known, **attributes})
