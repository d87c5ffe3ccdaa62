"""Tells what happened: rows of the log, and a job for each event that somebody in the server reacts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from server.queue import USUAL, Job, Policy, Queue
from storage.catalog.events import Event, append_events, read_event

Reaction = Callable[[Job, Event], None]


def on_event(queue: Queue, type: str, policy: Policy = USUAL) -> Callable[[Reaction], Reaction]:
    """Decorates the function that reacts to events of a type, each in a job of its own; before the worker starts.

    Events of one item, and those of one study that are of no item, come one at a time and in their order.
    """

    def register(reaction: Reaction) -> Reaction:
        @queue.on(_kind(type), policy)
        def react(job: Job) -> None:
            with queue.engine.connect() as connection:
                event = read_event(connection, job.payload["sequence"])
            reaction(job, event)

        return reaction

    return register


def announce(connection: sa.Connection, queue: Queue, events: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """Append events to the log as `append_events` does, and enqueue the reactions to them in the same transaction."""
    sequences = append_events(connection, events)
    for sequence, event in zip(sequences, events, strict=True):
        kind = _kind(event["type"])
        if kind in queue.handlers:
            of_study = f"study {event.get('facility')} {event.get('study_uid')}"
            lane = f"event {'item ' + event['item'] if event.get('item') else of_study}"
            queue.enqueue(connection, kind, {"sequence": sequence}, lane=lane)
    return sequences


def _kind(type: str) -> str:
    return f"event.{type}"
