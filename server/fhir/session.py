"""One transaction, or one read, by one caller of the FHIR interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from readingroom.model import Actor, Scope
from server.auth import Caller
from server.room import Room
from server.worklist.items import Work
from storage.catalog.engine import begin_write
from storage.catalog.fhir_subscriptions import is_watched

CHANGED = "fhir.changed"
"""The kind of the job that tells subscribers of resources that were written."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What an interaction works with; the ones of a Bundle share one.

    `root` and `dicomweb` are the addresses of the two services as this caller sees them, without a slash at the end;
    `facility` owns what is written.
    """

    room: Room
    connection: sa.Connection
    now: datetime
    actor: Actor
    scope: Scope
    facility: str
    root: str
    dicomweb: str
    if_match: int | None = None
    """The version that the caller wants to change; None where the request names none."""
    method: str = ""
    """The HTTP method that a version is to be known by, where it is not what the write is otherwise done by."""
    changed: list[tuple[str, str, int]] = field(default_factory=list)
    """Type, id and version of each resource that was written."""
    works: list[Work] = field(default_factory=list)
    """The transaction as the worklist has it: one, once there is a command."""

    @property
    def work(self) -> Work:
        """The commands on work items that belong to this transaction."""
        if not self.works:
            lasts = timedelta(minutes=self.room.settings.claim_minutes)
            work = Work(
                connection=self.connection,
                now=self.now,
                actor=self.actor,
                scope=self.scope,
                claim_lasts=lasts,
                queue=self.room.queue,
            )
            self.works.append(work)
        return self.works[0]

    def tell(self) -> None:
        """Tell what was done: the last act of a transaction."""
        queue = self.room.queue
        types = {type for type, _id, _version in self.changed}
        if self.changed and CHANGED in queue.handlers and is_watched(self.connection, types):
            queue.enqueue(self.connection, CHANGED, {"resources": self.changed}, lane=CHANGED)
        for work in self.works:
            work.tell()


def reading(room: Room, caller: Caller, connection: sa.Connection) -> Session:
    """A session that only reads."""
    return Session(
        room=room,
        connection=connection,
        now=room.clock.now(),
        actor=caller.actor,
        scope=caller.scope,
        facility=caller.facility,
        root=caller.fhir_root,
        dicomweb=caller.service_root,
    )


@contextmanager
def writing(room: Room, caller: Caller) -> Iterator[Session]:
    """A transaction of its own; what it did is durable, and told, when it ends."""
    with begin_write(room.engine) as connection:
        session = reading(room, caller, connection)
        yield session
        session.tell()
