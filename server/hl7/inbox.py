"""What an operator does with messages that came: have them applied again, or give them up."""

from __future__ import annotations

from readingroom.errors import Conflict
from server.hl7.keeping import enqueue_applying
from server.queue import Queue
from server.worklist.items import Work
from storage.catalog.inbox import StoredMessage, find_message, ignore_message, later_about, receive_again


def retry_message(work: Work, queue: Queue, id: int, *, is_replay: bool = False, is_forced: bool = False) -> None:
    """Have a message applied once more, as its profile reads it now.

    Parameters
    ----------
    is_replay
        Whatever became of it; else one that failed.
    is_forced
        Also where a later message about the same order or patient holds already.

    Raises
    ------
    NotFound
        There is no such message in scope.
    Conflict
        It did not fail, or it would undo what a later message says.
    """
    row = find_message(work.connection, work.scope, id, locked=True)
    if row.state == "received":
        return
    if row.state != "failed" and not is_replay:
        raise Conflict(f"Message {id} did not fail, it is {row.state}; replay it if it is to be applied all the same.")
    later = later_about(work.connection, row)
    if later is not None and not is_forced:
        raise Conflict(
            f"Message {later}, which came later, is about the same and holds; force it if this one is right."
        )
    receive_again(work.connection, row)
    enqueue_applying(queue, work.connection, row.facility)


def drop_message(work: Work, id: int) -> StoredMessage:
    """Give up a message that failed or waits; it stays in the inbox. Raises `NotFound`, and `Conflict` for others."""
    row = find_message(work.connection, work.scope, id, locked=True)
    if row.state == "applied":
        raise Conflict(f"Message {id} was applied, and that stays so; send another one that says otherwise.")
    ignore_message(work.connection, row, work.now, f"It was given up by {work.actor.id}.")
    return row
