"""`readingroom edge`: takes what a site sends, keeps it until the centre has it, and says how that goes."""

from __future__ import annotations

import json
import logging.config
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.errors import Invalid, NotFound
from server.beside import told_to_stop
from server.console import Config, load_settings, out, print_table

if TYPE_CHECKING:
    from readingroom.clock import Clock
    from server.relaying import Authorize, Relay
    from server.settings import EdgeSettings, Settings
    from server.spooling import Outbox

edge_app = typer.Typer(help="The edge at a site: keeps images until the centre has them.")

_SHOWN = 40


@edge_app.callback(invoke_without_command=True)
def edge(context: typer.Context, config: Config = None) -> None:
    """Take images by DIMSE at a site, keep them on disk, and send them on to the centre, through outages.

    [bold]Example[/]

      readingroom edge --config /etc/readingroom.toml

    The settings have the centre in [edge], and who may call in [dimse]. It needs no database. Ctrl-C stops it; what
    waits then goes on when it is started again.
    """
    if context.invoked_subcommand is None:
        run(load_settings(config))


@edge_app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, config: Config = None) -> None:
    """Tell what waits for the centre, since when, and what it does not take; the exit status is 1 if anything is wrong.

    [bold]Example[/]

      readingroom edge status
    """
    told = status_of(load_settings(config).edge)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        _print_status(told)
    if not told["is_running"] or told["refused"] or told["state"].get("error"):
        raise typer.Exit(1)


@edge_app.command()
def retry(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Objects, as 'edge status' names them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the centre did not take.")] = False,
    config: Config = None,
) -> None:
    """Send again what the centre did not take, once what was wrong is right.

    [bold]Example[/]

      readingroom edge retry --all
    """
    from server.spooling import refused_in, try_again

    folder = load_settings(config).edge.folder
    known = [one.name for one in refused_in(folder)]
    if bool(names) == everything:
        raise Invalid("Name objects, or say --all.")
    if unknown := set(names or ()) - set(known):
        raise NotFound(f"There is no {min(unknown)[:120]!r} among what the centre did not take.")
    out.print(f"{try_again(folder, known if everything else names or ()):,} objects go again.")


def run(settings: Settings) -> None:
    """Serve until a signal comes."""
    from readingroom.clock import SystemClock
    from server.associations.commands import C_ECHO
    from server.dimse.server import DimseServer
    from server.dimse.services import VERIFICATION, echo
    from server.dimse.storing import Storing
    from server.dimse_command import require_guarded, tls_context
    from server.listen import bind_any, logging_config
    from server.peers import Peers

    dimse = settings.dimse
    require_guarded(dimse)
    tls = tls_context(dimse)
    logging.config.dictConfig(logging_config(settings.log_level))
    clock = SystemClock()
    told = told_to_stop()
    with closing(open_outbox(settings.edge, clock)) as outbox:
        relay = relay_of(settings, outbox, clock)
        bound = bind_any(dimse.host, 11112 if dimse.port is None else dimse.port)
        storing = Storing(ingest=outbox, memory_bytes=settings.max_memory_bytes, most_bytes=settings.max_object_bytes)
        services = {(VERIFICATION, C_ECHO): echo}
        server = DimseServer(bound, dimse, storing, services, peers=Peers(dimse), facility=settings.facility, tls=tls)
        thread = threading.Thread(target=server.serve, name="dimse")
        thread.start()
        relay.start()
        out.print(
            f"[bold]readingroom edge[/] is {dimse.ae_title} at {dimse.host}:{server.port}{' by TLS' if tls else ''}, "
            f"and sends to {escape(str(settings.edge.centre))}."
        )
        if not dimse.peers and not dimse.any_caller:
            out.print("Nobody may call yet: name peers in [dimse.peers].", markup=False)
        out.print("Ctrl-C stops it.")
        told.wait()
        server.stop()
        thread.join()
        relay.stop()


def open_outbox(edge: EdgeSettings, clock: Clock) -> Outbox:
    """The spool of a site; raises as `Outbox` does."""
    from server.spooling import Outbox

    return Outbox(
        edge.folder,
        clock=clock,
        most_bytes=edge.most_bytes,
        least_free_bytes=edge.least_free_bytes,
        first_aes=edge.first_aes,
        first_modalities=edge.first_modalities,
    )


def relay_of(settings: Settings, outbox: Outbox, clock: Clock) -> Relay:
    """What carries it to the centre; raises `Invalid` where the settings name none."""
    from zoneinfo import ZoneInfo

    from server.bandwidth import Bandwidth
    from server.relaying import Batches, Centre, Relay
    from server.reports.channels.access import trust

    edge = settings.edge
    if edge.centre is None:
        raise Invalid("The settings name no centre: edge.centre is the root of its DICOMweb.")
    kilobytes = edge.kilobytes_per_second
    return Relay(
        outbox,
        Centre(
            url=edge.centre,
            authorize=_authorize(settings, clock),
            context=trust(_text(edge.ca), certificate=_text(edge.certificate), key=_text(edge.key)),
            networks=settings.private_networks,
            confirms=edge.confirm,
        ),
        clock=clock,
        batches=Batches(connections=edge.connections, instances=edge.batch_instances, size_bytes=edge.batch_bytes),
        bandwidth=Bandwidth(
            usual=None if kilobytes is None else kilobytes * 1000,
            hours=[(one.opening, one.kilobytes_per_second * 1000) for one in edge.hours],
            zone=ZoneInfo(edge.zone),
        ),
        longest=edge.retry_seconds,
        shortest=min(1.0, edge.retry_seconds),
    )


def _authorize(settings: Settings, clock: Clock) -> Authorize:
    from server.relaying import Tokens
    from server.reports.channels.access import backend_token, bearer, trust

    edge = settings.edge
    if not edge.token_url:
        bearer(edge.token)  # here, where it is told at once that there is none
        return lambda: bearer(edge.token).get("Authorization")
    context = trust(_text(edge.ca), certificate=_text(edge.certificate), key=_text(edge.key))
    return Tokens(
        lambda at: backend_token(
            edge.token_url,
            client_id=edge.client_id,
            key=_text(edge.client_key),
            scope=edge.scope,
            at=at,
            networks=settings.private_networks,
            seconds=30.0,
            context=context,
        ),
        clock,
    )


def _text(path: object) -> str:
    return "" if path is None else str(path)


def status_of(edge: EdgeSettings) -> dict[str, Any]:
    """How it goes, as JSON."""
    from server.spooling import held_in, is_held, refused_in, state_of

    waiting = sorted(held_in(edge.folder / "waiting"))
    times = [int(one.name.split("-")[1]) // 1_000_000_000 for one in waiting]
    return {
        "is_running": is_held(edge.folder),
        "waiting": {
            "objects": len(waiting),
            "first": sum(one.is_first for one in waiting),
            "bytes": sum(one.size for one in waiting),
            "oldest": _moment(min(times)) if times else None,
        },
        "refused": [{"name": one.name, "bytes": one.size, "reason": one.reason} for one in refused_in(edge.folder)],
        "state": state_of(edge.folder),
    }


def _moment(seconds: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _print_status(told: dict[str, Any]) -> None:
    waiting, state, refused = told["waiting"], told["state"], told["refused"]
    out.print("The edge is running." if told["is_running"] else "[bold red]The edge is not running.[/]")
    what = f"{waiting['objects']:,} objects ({waiting['bytes']:,} bytes) wait"
    first = f", {waiting['first']:,} of them go first" if waiting["first"] else ""
    out.print(f"{what}, the oldest since {waiting['oldest']}{first}." if waiting["objects"] else "Nothing waits.")
    if state:
        since = f"{state.get('sent', 0):,} objects were sent since {state.get('since', '?')}"
        out.print(f"{since}, the last at {state['sent_at']}." if state.get("sent_at") else f"{since}.")
    if state.get("error"):
        out.print(f"[bold red]Since {state.get('failing_since', '?')} nothing goes:[/] {escape(state['error'])}")
    if refused:
        out.print(f"[bold red]The centre does not take {len(refused):,} objects[/] ('edge retry' sends them again):")
        print_table(("name", "reason"), [(one["name"], one["reason"]) for one in refused[:_SHOWN]])
        if len(refused) > _SHOWN:
            out.print(f"... and {len(refused) - _SHOWN} more.")
