"""`readingroom dimse`: serves modalities and archives by DIMSE, apart from HTTP, until it is told to stop."""

from __future__ import annotations

import logging.config
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from readingroom.errors import Refused
from server.beside import kept_beside, told_to_stop
from server.console import Config, Data, Database, load_settings, out
from server.tls import server_context

if TYPE_CHECKING:
    from server.settings import DimseSettings, Settings


def dimse(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", show_default="11112")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Serve modalities and archives by DIMSE (C-STORE, C-FIND, C-MOVE, C-GET and more) until Ctrl-C.

    [bold]Examples[/]

      readingroom dimse --port 11112

      readingroom dimse --config /etc/readingroom.toml

    'serve' starts it by itself where the setting dimse.port is there. Who may call is in [dimse.peers], and in the
    directory ('readingroom facility'); another address than loopback needs named callers, or TLS with certificates of
    theirs.
    """
    settings = load_settings(config, data=data and data.resolve(), database=database)
    wanted = {"host": host, "port": port if port is not None else settings.dimse.port}
    chosen = settings.dimse.model_copy(update={name: value for name, value in wanted.items() if value is not None})
    if chosen.port is None:
        chosen = chosen.model_copy(update={"port": 11112})
    from server.app import build_room
    from server.dimse.server import DimseServer
    from server.dimse.services import all_services
    from server.dimse.storing import Storing
    from server.listen import bind_any, logging_config

    require_guarded(chosen)
    tls = tls_context(chosen)
    logging.config.dictConfig(logging_config(settings.log_level))
    bound = bind_any(chosen.host, chosen.port or 0)
    told = told_to_stop()
    with build_room(settings) as room:
        storing = Storing(
            ingest=room.ingest, memory_bytes=settings.max_memory_bytes, most_bytes=settings.max_object_bytes
        )
        services = all_services(room, ae_title=chosen.ae_title)
        server = DimseServer(bound, chosen, storing, services, peers=room.peers, facility=settings.facility, tls=tls)
        thread = threading.Thread(target=server.serve, name="dimse")
        thread.start()
        out.print(
            f"[bold]readingroom[/] is {chosen.ae_title} at {chosen.host}:{server.port}{' by TLS' if tls else ''}."
        )
        if not chosen.any_caller and not room.peers.known():
            out.print(
                "Nobody may call yet: 'readingroom facility add' a facility with its AE titles, name peers in "
                "[dimse.peers], or let anybody with any_caller = true.",
                markup=False,
            )
        out.print("Ctrl-C stops it.")
        told.wait()
        server.stop()
        thread.join()


@contextmanager
def dimse_beside(settings: Settings) -> Iterator[None]:
    """While this is open, a process of its own serves associations, where a port is set; one that dies is replaced."""
    if settings.dimse.port is None:
        yield
        return
    require_guarded(settings.dimse)
    with kept_beside("DIMSE", "dimse"):
        yield


def require_guarded(settings: DimseSettings) -> None:
    """Raise `Refused` where anybody who reaches the port could call by any name."""
    from server.listen import is_loopback

    if is_loopback(settings.host) or settings.client_ca is not None:
        return
    if settings.any_caller:
        raise Refused(
            f"Will not listen on {settings.host}: anybody could store there. Let only those call who are named "
            "(dimse.any_caller = false), or set dimse.certificate and dimse.client_ca, so that peers have to show a "
            "certificate."
        )


def tls_context(settings: DimseSettings) -> ssl.SSLContext | None:
    """TLS as PS3.15 B.12 (BCP 195) wants it; None where no certificate is set."""
    return server_context("dimse", certificate=settings.certificate, key=settings.key, client_ca=settings.client_ca)
