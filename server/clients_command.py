"""The commands of the programs that may have tokens: add, list and remove them, and change the key that signs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.markup import escape

from readingroom.clock import SystemClock
from readingroom.errors import Invalid, NotFound
from readingroom.model import Permission
from server.console import Config, Data, Database, load_settings, out, print_table

clients_app = typer.Typer(no_args_is_help=True, help="Programs that may have tokens for FHIR and DICOMweb.")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

ClientId = Annotated[str, typer.Argument(metavar="CLIENT", help="Its client_id.")]


@clients_app.command()
def add(
    client: ClientId,
    scopes: Annotated[str, typer.Option(help="All that it may be granted, such as 'system/ImagingStudy.rs'.")],
    jwks: Annotated[Path | None, typer.Option(help="File with its public keys, a JSON Web Key Set.")] = None,
    jwks_uri: Annotated[str | None, typer.Option(help="Where it publishes its public keys instead.")] = None,
    facility: Annotated[
        list[str] | None, typer.Option(help="A facility whose data it may see; the first owns what it writes.")
    ] = None,
    all_facilities: Annotated[bool, typer.Option("--all-facilities", help="It may see the data of all.")] = False,
    name: Annotated[str | None, typer.Option(help="What people call it.", show_default="its id")] = None,
    may: Annotated[list[str] | None, typer.Option(help=f"A permission: {', '.join(get_args(Permission))}.")] = None,
    patient: Annotated[str | None, typer.Option(help="Id of the Patient that its patient/ scopes are for.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Register a program by its public keys.

    [bold]Example[/]

      readingroom clients add ehr --scopes "system/ImagingStudy.rs system/DiagnosticReport.rs" \\
        --jwks ehr.jwks.json --facility mercy

    It gets tokens at /auth/token (SMART Backend Services). Registered again, it has to be removed first.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from server.tokens import check_keys, read_registered
    from storage.catalog.clients import Client, add_client
    from storage.catalog.directory import read_directory
    from storage.catalog.engine import begin_write

    if not _ID.fullmatch(client):
        raise Invalid("A client_id is of letters, digits, '.', '_' and '-', 64 at most.")
    if bool(facility) == all_facilities:
        raise Invalid("Say whose data it may see: --facility FACILITY, as often as need be, or --all-facilities.")
    if unknown := set(may or ()) - set(get_args(Permission)):
        raise Invalid(f"There is no permission {sorted(unknown)[0]!r}; there are {', '.join(get_args(Permission))}.")
    if client in settings.clients:
        raise Invalid(f"The settings have a client {client!r} already.")
    told = None if jwks is None else jwks.read_text(encoding="utf-8", errors="replace")
    check_keys(told, jwks_uri)
    row = Client(
        id=client,
        name=name or client,
        scopes=read_registered(scopes),
        jwks=told,
        jwks_uri=jwks_uri,
        facilities=None if all_facilities else frozenset(facility or ()),
        facility=facility[0] if facility else None,
        may=frozenset(may or ()),
        patient=patient,
    )
    with open_new_archive(settings) as (engine, _), begin_write(engine) as connection:
        known = read_directory(connection).facilities
        for one in facility or ():
            if one != settings.facility and one not in known:
                raise NotFound(f"There is no facility {one[:64]!r}; 'readingroom directory import' makes one.")
        add_client(connection, row, SystemClock().now())
    out.print(f"The client {escape(client)} may have tokens.")
    if not settings.require_auth:
        out.print("Who comes without a token is still the local operator: set require_auth to end that.")


@clients_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List the programs that may have tokens: those of the settings, then those that were added."""
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.tokens import configured_clients
    from storage.catalog.clients import list_clients

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        found = [*configured_clients(settings).values(), *list_clients(connection)]
    rows = [
        {
            "id": one.id,
            "name": one.name,
            "scopes": list(one.scopes),
            "facilities": None if one.facilities is None else sorted(one.facilities),
            "may": sorted(one.may),
            "patient": one.patient,
        }
        for one in found
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("id", "name", "facilities", "scopes")
    print_table(
        columns,
        [
            (
                one.id,
                one.name,
                "all" if one.facilities is None else ", ".join(sorted(one.facilities)),
                " ".join(one.scopes),
            )
            for one in found
        ],
    )


@clients_app.command()
def remove(client: ClientId, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Forget a program; the tokens that it has are good no more within two seconds."""
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from storage.catalog.clients import remove_client
    from storage.catalog.engine import begin_write

    if client in settings.clients:
        raise Invalid(f"The client {client!r} is one of the settings: take it out there, and start the server again.")
    with open_archive(settings) as (engine, _), begin_write(engine) as connection:
        remove_client(connection, client)
    out.print(f"The client {escape(client)} is forgotten.")


@clients_app.command("new-key")
def new_key(
    forget: Annotated[bool, typer.Option("--forget", help="Take no tokens any more that the old keys signed.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Sign tokens with a new key from now on; the server does so by itself every 90 days."""
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.tokens import renew_signing_key
    from storage.catalog.clients import forget_signing_keys, list_signing_keys
    from storage.catalog.engine import begin_write

    with open_archive(settings) as (engine, _), begin_write(engine) as connection:
        if forget:
            forget_signing_keys(connection, [one.kid for one in list_signing_keys(connection)])
        key = renew_signing_key(connection, SystemClock().now())
    out.print(f"Tokens are signed with the key {escape(key.kid)} from now on.")
