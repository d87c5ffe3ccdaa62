"""The commands on HL7: serve information systems by MLLP, apart from HTTP, and look after the messages that came."""

from __future__ import annotations

import json
import logging.config
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError, Refused
from readingroom.model import LOCAL_OPERATOR, Scope
from server.beside import kept_beside, told_to_stop
from server.console import Config, Data, Database, load_settings, out, print_table
from server.tls import server_context
from storage.catalog.inbox import MessageState, StoredMessage, body_of_message, find_message, list_messages

if TYPE_CHECKING:
    from server.queue import Queue
    from server.settings import Hl7Settings, Settings

hl7_app = typer.Typer(no_args_is_help=True, help="Orders and patients that information systems send by HL7 version 2.")
inbox_app = typer.Typer(no_args_is_help=True, help="The HL7 messages that came, and what became of them.")
hl7_app.add_typer(inbox_app, name="inbox")

_MOST = 1_000_000
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Id = Annotated[int, typer.Argument(min=1, help="A number that 'hl7 inbox list' shows.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", min=1, help="Numbers that 'hl7 inbox list' shows.")]


@hl7_app.command("serve")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", show_default="2575")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Take HL7 messages by MLLP until Ctrl-C.

    [bold]Examples[/]

      readingroom hl7 serve --port 2575

      readingroom hl7 serve --config /etc/readingroom.toml

    The other 'serve' starts it by itself where the setting hl7.port is there. Who may send is in [hl7.senders], and in
    the directory ('readingroom facility'); another address than loopback needs named senders, or TLS with certificates
    of theirs.
    """
    settings = load_settings(config, data=data and data.resolve(), database=database)
    wanted = {"host": host, "port": port if port is not None else settings.hl7.port}
    chosen = settings.hl7.model_copy(update={name: value for name, value in wanted.items() if value is not None})
    if chosen.port is None:
        chosen = chosen.model_copy(update={"port": 2575})
    from server.archive import open_new_archive, open_queue
    from server.hl7.keeping import Keeping
    from server.hl7.listening import Hl7Server
    from server.listen import bind_any, logging_config
    from server.senders import Senders
    from storage.catalog.clocks import clock_of
    from storage.catalog.directory import LatestDirectory

    require_guarded(chosen)
    tls = server_context("hl7", certificate=chosen.certificate, key=chosen.key, client_ca=chosen.client_ca)
    logging.config.dictConfig(logging_config(settings.log_level))
    bound = bind_any(chosen.host, chosen.port or 0)
    told = told_to_stop()
    with open_new_archive(settings) as (engine, _):
        clock = clock_of(engine)
        senders = Senders(chosen, LatestDirectory(engine))
        with closing(Keeping(open_queue(engine, clock))) as keeping:
            server = Hl7Server(
                bound,
                chosen,
                senders=senders,
                keep=keeping.keep,
                facility=settings.facility,
                clock=clock,
                tls=tls,
            )
            thread = threading.Thread(target=server.serve, name="hl7")
            thread.start()
            by = "MLLPS" if tls else "MLLP"
            out.print(f"[bold]readingroom[/] takes HL7 by {by} at {chosen.host}:{server.port}.")
            if not chosen.any_sender and not senders.known():
                out.print(
                    "Nobody may send yet: 'readingroom facility add' a facility with its senders, name them in "
                    "[hl7.senders], or let anybody with any_sender = true.",
                    markup=False,
                )
            out.print("Ctrl-C stops it.")
            told.wait()
            server.stop()
            thread.join()


@contextmanager
def hl7_beside(settings: Settings) -> Iterator[None]:
    """While this is open, a process of its own takes HL7 messages, where a port is set; one that dies is replaced."""
    if settings.hl7.port is None:
        yield
        return
    require_guarded(settings.hl7)
    with kept_beside("HL7", "hl7", "serve"):
        yield


def require_guarded(settings: Hl7Settings) -> None:
    """Raise `Refused` where anybody who reaches the port could send in any name."""
    from server.listen import is_loopback

    if is_loopback(settings.host) or settings.client_ca is not None:
        return
    if settings.any_sender:
        raise Refused(
            f"Will not listen on {settings.host}: anybody could send orders there. Let only those send who are named "
            "(hl7.any_sender = false), or set hl7.certificate and hl7.client_ca, so that senders have to show a "
            "certificate."
        )


@hl7_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files with one message each.")],
    sender: Annotated[str | None, typer.Option(help="Read them as this sender's; default: who MSH-3 says.")] = None,
    profile: Annotated[str | None, typer.Option(help="Read them by this profile.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show what messages say, as a sender's profile reads them; stores nothing.

    [bold]Examples[/]

      readingroom hl7 check order.hl7 --sender ris

      readingroom hl7 check *.hl7 --profile ans

    The exit status is 1 if one of them cannot be read.
    """
    settings = load_settings(config, data=data, database=database)
    from server.hl7.header import read_header
    from server.hl7.meaning import meaning_of
    from server.hl7.parsing import read_message
    from server.hl7.profiles import load_profile

    known = settings.hl7.senders
    if sender is not None and sender not in known:
        raise NotFound(f"There is no sender {sender!r} in [hl7.senders].")
    told, has_failed = [], False
    for path in files:
        shown: dict[str, Any] = {"file": str(path)}
        try:
            raw = path.read_bytes()
            header = read_header(raw)
            application = header.first(header.application)
            who = known[sender] if sender else next((o for o in known.values() if o.application == application), None)
            by = load_profile(profile or (who.profile if who else "default"), settings.hl7.profiles)
            issuers = who.issuers if who else None
            meaning = meaning_of(read_message(raw), by, issuers=issuers, takes_tests=bool(who and who.takes_tests))
            shown |= {"profile": by.name, **_said(asdict(meaning))}
        except ReadingRoomError as error:
            has_failed = True
            shown["error"] = error.message
        told.append(shown)
    print(json.dumps(told, default=_plain, indent=2, ensure_ascii=False))
    if has_failed:
        raise typer.Exit(1)


def _said(value: Any) -> Any:
    """A meaning without what is empty."""
    if isinstance(value, dict):
        return {name: _said(one) for name, one in value.items() if one not in (None, "", (), {}, [])}
    return [_said(one) for one in value] if isinstance(value, (list, tuple)) else value


# -- the inbox ---------------------------------------------------------------------------------------------------------


@inbox_app.command("list")
def list_(
    state: Annotated[MessageState | None, typer.Option(help="Only what is in this state.")] = None,
    sender: Annotated[str | None, typer.Option(help="Only what this sender sent.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List the messages that came, the newest first.

    [bold]Examples[/]

      readingroom hl7 inbox list --state failed

      readingroom hl7 inbox list --sender ris --json
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue, queue.engine.connect() as connection:
        rows = list_messages(connection, Scope(), state=state, sender=sender, limit=limit)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=_plain, indent=2))
    elif rows:
        print_table(("id", "state", "type", "sender", "control id", "facility", "received", "why"), [*map(_row, rows)])
    else:
        out.print("There are none.")


@inbox_app.command()
def show(
    id: Id,
    raw: Annotated[bool, typer.Option("--raw", help="Write the bytes of the message alone, as they came.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show one message, and what became of it.

    [bold]Examples[/]

      readingroom hl7 inbox show 4711

      readingroom hl7 inbox show 4711 --raw > message.hl7
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue, queue.engine.connect() as connection:
        row, body = find_message(connection, Scope(), id), body_of_message(connection, id)
    if raw:
        sys.stdout.buffer.write(body)
        return
    for name, value in asdict(row).items():
        out.print(f"{name}: {_plain(value)}", markup=False)
    out.print()
    out.print(body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n"), markup=False)


@inbox_app.command()
def retry(
    ids: Ids = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    sender: Annotated[str | None, typer.Option(help="Of those, only what this sender sent.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also where a later message is about the same.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Have messages that failed applied again, as their profile reads them now.

    [bold]Examples[/]

      readingroom hl7 inbox retry 4711

      readingroom hl7 inbox retry --failed --sender ris

    One that would undo what a later message about the same order or patient says is left alone, and the exit status is
    then 1.
    """
    if bool(ids) == failed or (sender is not None and not failed):
        raise Invalid("Say which: numbers that 'hl7 inbox list' shows, or --failed, which --sender narrows.")
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue:
        if failed:
            with queue.engine.connect() as connection:
                rows = list_messages(connection, Scope(), state="failed", sender=sender, limit=_MOST)
            ids = sorted(row.id for row in rows)
        _retry_all(queue, ids or [], is_replay=False, is_forced=force)


@inbox_app.command()
def replay(
    ids: Annotated[list[int], typer.Argument(metavar="ID...", min=1, help="Numbers that 'hl7 inbox list' shows.")],
    force: Annotated[bool, typer.Option("--force", help="Also where a later message is about the same.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Have messages applied once more, whatever became of them: after a profile was changed, or as it was a duplicate.

    [bold]Example[/]

      readingroom hl7 inbox replay 4711 4712
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue

    with open_archive_queue(settings) as queue:
        _retry_all(queue, ids, is_replay=True, is_forced=force)


def _retry_all(queue: Queue, ids: Sequence[int], *, is_replay: bool, is_forced: bool) -> None:
    from server.hl7.inbox import retry_message
    from server.worklist.items import working

    refused = 0
    for id in ids:
        try:
            with working(queue.engine, queue.clock, LOCAL_OPERATOR, Scope(), queue=queue) as work:
                retry_message(work, queue, id, is_replay=is_replay, is_forced=is_forced)
        except Conflict as error:
            refused += 1
            out.print(f"[red]{escape(error.message)}[/]")
    out.print(f"{len(ids) - refused:,} messages are applied again.")
    if refused:
        raise typer.Exit(1)


@inbox_app.command()
def drop(id: Id, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Give up a message that failed, or waits: it leads to nothing, and stays in the inbox.

    [bold]Example[/]

      readingroom hl7 inbox drop 4711
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive_queue
    from server.hl7.inbox import drop_message
    from server.worklist.items import working

    with (
        open_archive_queue(settings) as queue,
        working(queue.engine, queue.clock, LOCAL_OPERATOR, Scope(), queue=queue) as work,
    ):
        drop_message(work, id)
    out.print(f"Message {id} leads to nothing any more.")


def _row(row: StoredMessage) -> tuple[str, ...]:
    at = f"{row.received_at:%Y-%m-%d %H:%M:%S}Z"
    return str(row.id), row.state, row.kind, row.sender, row.control_id, row.facility, at, row.error


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
