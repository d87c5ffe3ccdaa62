"""The commands on durable work: run it in a process of its own, see what waits, what runs and what has failed."""

from __future__ import annotations

import json
import logging.config
import signal
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape

from readingroom.errors import Invalid, ReadingRoomError
from server.console import Config, Data, Database, load_settings, out, print_table
from server.queue import Entry, Queue, State, count_states

jobs_app = typer.Typer(no_args_is_help=True, help="See the server's jobs; retry or drop what has failed.")

_MOST = 1_000_000

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Dead = Annotated[bool, typer.Option("--dead", help="All dead letters, or all of --kind.")]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", min=1, max=2**63 - 1, help="Numbers that 'jobs list' shows."),
]
Kind = Annotated[str | None, typer.Option(help="Only jobs of this kind.")]


@jobs_app.command("list")
def list_(
    state: Annotated[State | None, typer.Option(help="Only what is in this state.")] = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List jobs: what waits, what runs, and the dead letters, which nobody tries any more.

    [bold]Examples[/]

      readingroom jobs list --state dead

      readingroom jobs list --kind deliver --json

    What is done is not listed: it has left the queue.
    """
    from server.archive import open_archive_queue

    with open_archive_queue(load_settings(config, data=data, database=database)) as queue:
        entries, tallies = queue.entries(state=state, kind=kind, limit=limit), queue.tallies()
    if as_json:
        found = {"jobs": [asdict(one) for one in entries], "counts": [asdict(one) for one in tallies]}
        print(json.dumps(found, default=_plain, indent=2))
        return
    if entries:
        print_table(("id", "kind", "state", "attempt", "since", "not before", "lane", "error"), [*map(_row, entries)])
    out.print(", ".join(f"{number:,} {name}" for name, number in count_states(tallies).items()) + ".")


@jobs_app.command()
def retry(
    ids: Ids = None,
    dead: Dead = False,
    kind: Kind = None,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Have dead letters, or jobs that wait, tried at once, with all their attempts before them.

    [bold]Examples[/]

      readingroom jobs retry 4711

      readingroom jobs retry --dead --kind deliver

    The exit status is 1 if one of them could not be.
    """
    from server.archive import open_archive_queue

    with open_archive_queue(load_settings(config, data=data, database=database)) as queue:
        _each(queue, ids, dead, kind, "retry", as_json)


@jobs_app.command()
def drop(
    ids: Ids = None,
    dead: Dead = False,
    kind: Kind = None,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Forget dead letters, or jobs that wait: what they were to do is never done.

    [bold]Example[/]

      readingroom jobs drop 4711

    The exit status is 1 if one of them could not be.
    """
    from server.archive import open_archive_queue

    with open_archive_queue(load_settings(config, data=data, database=database)) as queue:
        _each(queue, ids, dead, kind, "drop", as_json)


def work(
    threads: Annotated[int | None, typer.Option(min=1, help="Jobs run at once.", show_default="job_threads")] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="Only jobs of this kind; may be repeated.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Run jobs, apart from the server, until Ctrl-C.

    [bold]Examples[/]

      readingroom work --config /etc/readingroom.toml

      readingroom work --threads 2 --kind flow.ask

    Any number may run, on any number of hosts if the database is PostgreSQL. 'serve' runs jobs too, unless the setting
    'embedded_worker' is false.
    """
    settings = load_settings(config, data=data and data.resolve(), database=database)
    from server.app import build_room
    from server.listen import logging_config
    from server.worker import working

    logging.config.dictConfig(logging_config(settings.log_level))
    told = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with build_room(settings) as room:
        unknown = sorted(set(kinds or ()) - room.queue.handlers.keys())
        if unknown:
            known = ", ".join(sorted(room.queue.handlers)) or "none"
            raise Invalid(f"There are no jobs of kind {', '.join(unknown)}; there are: {known}.")
        number_of = threads or settings.job_threads
        with working(room, threads=number_of, kinds=kinds or None):
            out.print(f"[bold]readingroom[/] works for {room.engine.url.render_as_string()}, {number_of} jobs at once.")
            out.print("Ctrl-C stops it.")
            told.wait()
            room.is_stopping.set()


def _each(queue: Queue, ids: Sequence[int] | None, dead: bool, kind: str | None, command: str, as_json: bool) -> None:
    """Do it to each of the jobs that were named, and tell how it went."""
    if bool(ids) == dead or (kind is not None and not dead):
        raise Invalid("Say which: numbers that 'readingroom jobs list' shows, or --dead, which --kind narrows.")
    if dead:
        ids = [one.id for one in queue.entries(state="dead", kind=kind, limit=_MOST)]
    act = queue.retry if command == "retry" else queue.drop
    refused: dict[int, str] = {}
    for id in ids or ():
        try:
            act(id)
        except ReadingRoomError as error:
            refused[id] = error.message
    done = [id for id in ids or () if id not in refused]
    if as_json:
        print(json.dumps({command: done, "refused": {str(id): why for id, why in refused.items()}}, indent=2))
    else:
        for why in refused.values():
            out.print(f"[red]{escape(why)}[/]")
        out.print(f"{len(done):,} jobs are tried again." if command == "retry" else f"{len(done):,} jobs are dropped.")
    if refused:
        raise typer.Exit(1)


def _row(one: Entry) -> tuple[str, ...]:
    times = _time(one.since), _time(one.run_at)
    return str(one.id), one.kind, one.state, str(one.attempt), *times, one.lane, one.error or ""


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value.total_seconds()
