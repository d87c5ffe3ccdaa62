"""Plugins hear of every version of a report that is signed."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from readingroom.events import ReportSigned
from server.announce import on_event
from server.hooks import Hooks
from server.queue import Job, Policy, Queue
from server.reports.signing import SigningKeys, read_signed
from storage.catalog.events import Event

_HOOK = "report_signed"
_PLUGINS = Policy(attempts=5, first=timedelta(seconds=2), most=timedelta(minutes=1), within=timedelta(days=1))
_RULES = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=1))


def tell_plugins(engine: sa.Engine, queue: Queue, hooks: Hooks, keys: SigningKeys) -> None:
    """Have the queue tell them; before the worker starts.

    Each plugin is told in a job of its own, of one report one version at a time and in their order.
    """

    @on_event(queue, ReportSigned.__name__, _RULES, by="plugins", if_wanted=lambda _: bool(hooks.having(_HOOK)))
    def signed(job: Job, event: Event) -> None:
        told = {"report": event.payload["report"], "number": event.payload["number"]}
        with job.finishing() as connection:
            for plugin in hooks.having(_HOOK):
                lane = f"{plugin} report {told['report']}"
                queue.enqueue(connection, "report.signed", {**told, "plugin": plugin}, lane=lane)

    @queue.on("report.signed", _PLUGINS)
    def tell(job: Job) -> None:
        with engine.connect() as connection:
            report = read_signed(connection, keys, job.payload["report"], job.payload["number"])
        hooks.react(job.payload["plugin"], _HOOK, delivery=job.delivery, attempt=job.attempt, report=report)
