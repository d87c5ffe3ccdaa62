"""The commands on forwards: studies on their way to others, to have them go again, or not go."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.errors import Conflict, Invalid
from server.console import Config, Data, Database, load_settings, out, print_table
from storage.catalog.forwards import (
    Forward,
    ForwardState,
    count_forwarded,
    drop_forward,
    list_forwards,
    retry_forward,
)

if TYPE_CHECKING:
    from server.queue import Queue

forwards_app = typer.Typer(no_args_is_help=True, help="Studies that go on to others by the rules of the settings.")

_MOST = 1_000_000
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Ids = Annotated[list[int], typer.Argument(min=1, help="Numbers that 'forwards list' shows.")]
Destination = Annotated[str | None, typer.Option("--to", help="Only those to the archive or peer of this name.")]


@forwards_app.command("list")
def list_(
    state: Annotated[ForwardState | None, typer.Option(help="Only what is in this state.")] = None,
    to: Destination = None,
    rule: Annotated[str | None, typer.Option(help="Only those by the rule of this name.")] = None,
    study: Annotated[str | None, typer.Option(help="Only those of this Study Instance UID.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List studies on their way, the newest first: where each goes, how much of it is there, and what is amiss.

    [bold]Examples[/]

      readingroom forwards list --state dead

      readingroom forwards list --to city --json
    """
    from server.archive import open_archive_queue

    with (
        open_archive_queue(load_settings(config, data=data, database=database)) as queue,
        queue.engine.connect() as connection,
    ):
        rows = list_forwards(connection, state=state, destination=to, rule=rule, study_uid=study, limit=limit)
        counts = count_forwarded(connection, [row.id for row in rows])
    if as_json:
        told = [{**asdict(row), **dict(zip(("sent", "refused"), counts[row.id], strict=True))} for row in rows]
        print(json.dumps(told, default=_plain, indent=2))
        return
    if not rows:
        out.print("There are none.")
        return
    names = ("id", "state", "rule", "to", "facility", "study", "sent", "refused", "since", "error")
    print_table(names, [_row(row, *counts[row.id]) for row in rows])


@forwards_app.command()
def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", min=1, help="Numbers that 'forwards list' shows.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that are dead or refused.")] = False,
    to: Destination = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Have studies go at once: what is missing at their destination, and what it has refused.

    [bold]Examples[/]

      readingroom forwards retry 4711

      readingroom forwards retry --dead --to city
    """
    if bool(ids) == dead or (to is not None and not dead):
        raise Invalid("Say which: numbers that 'forwards list' shows, or --dead, which --to narrows.")
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue
    from server.forwarding import go_on
    from storage.catalog.engine import begin_write

    with open_archive_queue(settings) as queue:
        for id in ids or _ended_badly(queue, to):
            with begin_write(queue.engine) as connection:
                now = queue.clock.now()
                row = retry_forward(connection, id, now)
                go_on(connection, queue, row.destination, now)
            out.print(f"Study {row.study_uid} goes to {row.destination} again.")


@forwards_app.command()
def drop(ids: Ids, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Have studies not go any more; what is there already stays there.

    [bold]Example[/]

      readingroom forwards drop 4711

    When such a study changes, it is compared with the rules anew. The exit status is 1 if one could not be dropped.
    """
    settings = load_settings(config, data=data, database=database)
    from storage.catalog.engine import begin_write

    refused = 0
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue:
        for id in ids:
            try:
                with begin_write(queue.engine) as connection:
                    drop_forward(connection, id, queue.clock.now())
            except Conflict as error:
                refused += 1
                out.print(f"[red]{escape(error.message)}[/]")
    out.print(f"{len(ids) - refused:,} are dropped.")
    if refused:
        raise typer.Exit(1)


def _ended_badly(queue: Queue, destination: str | None) -> list[int]:
    states: tuple[ForwardState, ...] = ("dead", "refused")
    with queue.engine.connect() as connection:
        found = [
            row.id
            for state in states
            for row in list_forwards(connection, state=state, destination=destination, limit=_MOST)
        ]
    return sorted(found)


def _row(row: Forward, sent: int, refused: int) -> tuple[str, ...]:
    counts = f"{sent:,}", f"{refused:,}"
    since = f"{row.queued_at:%Y-%m-%d %H:%M:%S}Z"
    return str(row.id), row.state, row.rule, row.destination, row.facility, row.study_uid, *counts, since, row.error


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
