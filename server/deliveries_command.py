"""The commands on deliveries: what became of reports on their way, and to have them go again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.errors import Conflict, Invalid
from readingroom.model import LOCAL_OPERATOR, Scope
from server.console import Config, Data, Database, load_settings, out, print_table
from storage.catalog.deliveries import (
    DeliveryState,
    StoredDelivery,
    find_delivery,
    list_deliveries,
    list_delivery_attempts,
)

if TYPE_CHECKING:
    from server.queue import Queue

deliveries_app = typer.Typer(no_args_is_help=True, help="Signed reports on their way to those who are to have them.")

_MOST = 1_000_000
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Id = Annotated[int, typer.Argument(min=1, help="A number that 'deliveries list' shows.")]
Destination = Annotated[str | None, typer.Option(help="Only those to the destination of this id.")]


@deliveries_app.command("list")
def list_(
    state: Annotated[DeliveryState | None, typer.Option(help="Only what is in this state.")] = None,
    destination: Destination = None,
    report: Annotated[str | None, typer.Option(help="Only those of this report.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List deliveries, the newest first: where each version of a report goes, and how far it has come.

    [bold]Examples[/]

      readingroom deliveries list --state dead

      readingroom deliveries list --destination ris --json
    """
    from server.archive import open_archive_queue

    with (
        open_archive_queue(load_settings(config, data=data, database=database)) as queue,
        queue.engine.connect() as connection,
    ):
        rows = list_deliveries(connection, Scope(), state=state, destination=destination, report=report, limit=limit)
    if as_json:
        print(json.dumps([_told(row) for row in rows], default=_plain, indent=2))
        return
    if not rows:
        out.print("There are none.")
        return
    print_table(("id", "state", "destination", "channel", "report", "version", "since", "error"), [*map(_row, rows)])


@deliveries_app.command()
def show(
    id: Id,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show one delivery with its receipt and its attempts.

    [bold]Example[/]

      readingroom deliveries show 4711
    """
    from server.archive import open_archive_queue

    with (
        open_archive_queue(load_settings(config, data=data, database=database)) as queue,
        queue.engine.connect() as connection,
    ):
        row, attempts = find_delivery(connection, Scope(), id), list_delivery_attempts(connection, id)
    if as_json:
        told = {**_told(row), "attempts": [asdict(one) for one in attempts]}
        print(json.dumps(told, default=_plain, indent=2))
        return
    for name, value in _told(row).items():
        out.print(f"{name}: {_plain(value)}", markup=False, highlight=False)
    if attempts:
        shown = [
            (str(one.number), _time(one.begun_at), _time(one.ended_at), one.outcome, one.control_id, one.error)
            for one in attempts
        ]
        print_table(("attempt", "begun", "ended", "outcome", "control id", "error"), shown)


@deliveries_app.command()
def repeat(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", min=1, help="Numbers that 'deliveries list' shows.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that are dead or refused.")] = False,
    destination: Destination = None,
    new: Annotated[bool, typer.Option("--new", help="Under a new control id, as another message.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Have deliveries go again at once, however they ended.

    [bold]Examples[/]

      readingroom deliveries repeat 4711

      readingroom deliveries repeat --dead --destination ris

    A receiver knows by the control id what it has already; --new makes it take it once more. A version that a later one
    has followed is not sent any more. The exit status is 1 if one of them could not be repeated.
    """
    if bool(ids) == dead or (destination is not None and not dead):
        raise Invalid("Say which: numbers that 'deliveries list' shows, or --dead, which --destination narrows.")
    settings = load_settings(config, data=data, database=database)
    from server.reports.delivery import repeat_delivery
    from server.worklist.items import working

    refused = 0
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue:
        if dead:
            ids = _ended_badly(queue, destination)
        for id in ids or ():
            try:
                with working(queue.engine, queue.clock, LOCAL_OPERATOR, Scope(), queue=queue) as work:
                    repeat_delivery(work, queue, id, is_new=new)
            except Conflict as error:
                refused += 1
                out.print(f"[red]{escape(error.message)}[/]")
    out.print(f"{len(ids or ()) - refused:,} deliveries go again.")
    if refused:
        raise typer.Exit(1)


def _ended_badly(queue: Queue, destination: str | None) -> list[int]:
    """Ids of what is dead or refused, the oldest first."""
    found: list[int] = []
    states: tuple[DeliveryState, ...] = ("dead", "refused")
    with queue.engine.connect() as connection:
        for state in states:
            rows = list_deliveries(connection, Scope(), state=state, destination=destination, limit=_MOST)
            found += (row.id for row in rows)
    return sorted(found)


def _told(row: StoredDelivery) -> dict[str, Any]:
    known = asdict(row)
    for hidden in ("told", "receipt", "lane"):
        del known[hidden]
    answered = row.answered
    return {**known, "address": row.where.address, "receipt": None if answered is None else asdict(answered)}


def _row(row: StoredDelivery) -> tuple[str, ...]:
    where = f"{row.owner}/{row.destination}"
    return str(row.id), row.state, where, row.channel, row.report, str(row.number), _time(row.queued_at), row.error


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
