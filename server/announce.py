"""Tells what happened: rows of the log, and a job for each event that somebody in the server reacts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from server.queue import USUAL, Job, Policy, Queue
from storage.catalog.events import Event, append_events, read_event

Reaction = Callable[[Job, Event], None]
Wanted = Callable[[sa.Connection], bool]


def on_event(
    queue: Queue, type: str, policy: Policy = USUAL, *, by: str = "", if_wanted: Wanted | None = None
) -> Callable[[Reaction], Reaction]:
    """Decorates a function that reacts to events of a type, each in a job of its own; before the worker starts.

    Events of one item, and those of one study that are of no item, come one at a time and in their order.

    Parameters
    ----------
    by
        Who reacts, where several do: none of them waits for another.
    if_wanted
        Asked in the transaction that tells of the event; where it says no, there is nothing to react to.
    """
    kind = f"event.{type}" + (f".{by}" if by else "")

    def register(reaction: Reaction) -> Reaction:
        @queue.on(kind, policy)
        def react(job: Job) -> None:
            with queue.engine.connect() as connection:
                event = read_event(connection, job.payload["sequence"])
            reaction(job, event)

        queue.reactions.setdefault(type, []).append((kind, by, if_wanted))
        return reaction

    return register


def announce(connection: sa.Connection, queue: Queue, events: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """Append events to the log as `append_events` does, and enqueue the reactions to them in the same transaction."""
    sequences = append_events(connection, events)
    for sequence, event in zip(sequences, events, strict=True):
        of_study = f"study {event.get('facility')} {event.get('study_uid')}"
        lane = f"event {'item ' + event['item'] if event.get('item') else of_study}"
        for kind, by, is_wanted in queue.reactions.get(event["type"], ()):
            if is_wanted is None or is_wanted(connection):
                queue.enqueue(connection, kind, {"sequence": sequence}, lane=f"{by} {lane}" if by else lane)
    return sequences
