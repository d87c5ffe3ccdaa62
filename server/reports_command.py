"""The commands of reports: whether what is signed is what was signed, and the texts that reports begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from readingroom.clock import SystemClock
from readingroom.errors import Invalid, ReadingRoomError
from readingroom.model import Scope
from server.console import Config, Data, Database, err, load_settings, out, print_table

if TYPE_CHECKING:
    from server.reports.signing import SigningKeys
    from server.settings import Settings

reports_app = typer.Typer(no_args_is_help=True, help="Signed reports, and the keys that sign them.")
templates_app = typer.Typer(no_args_is_help=True, help="Templates and macros, which reports begin with.")

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML, or HTML of the IHE profile MRRT.")]


@reports_app.command()
def verify(data: Data = None, database: Database = None, config: Config = None) -> None:
    """Look at the signature of every signed version; the exit status is 1 if one is not good.

    [bold]Example[/]

      readingroom reports verify

    A version is good if its bytes are those that were signed by one of the keys, and if it follows the version that it
    was signed after: what was changed, taken out or put in, were it in the database itself, is told. It may run beside
    a server.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from server.reports.signing import read_history
    from storage.catalog.reports import all_reports, find_report

    keys, count, bad = _keys(settings), 0, 0
    with open_new_archive(settings) as (engine, _), engine.connect() as connection:
        for id in track(all_reports(connection), description="Looking at reports", console=err, transient=True):
            try:
                count += len(read_history(connection, keys, find_report(connection, Scope(), id)))
            except ReadingRoomError as error:
                bad += 1
                out.print(error.message, markup=False, highlight=False)
    out.print(f"{count:,} signed versions are as they were signed.")
    if bad:
        out.print(f"{bad:,} reports are not.")
        raise typer.Exit(1)


@reports_app.command("rotate-key")
def rotate_key(data: Data = None, config: Config = None) -> None:
    """Make a new key for signing; those before it stay good for what they have signed.

    [bold]Example[/]

      readingroom reports rotate-key

    Servers that run take it up by themselves. Keep a copy of the file: without it, what is signed cannot be checked.
    """
    keys = _keys(load_settings(config, data=data))
    out.print(f"Key {keys.rotate()} signs from now on; it is the first in {keys.path}.", markup=False, highlight=False)


@templates_app.command("import")
def import_(
    files: Files,
    reader: Annotated[str, typer.Option(help="Whose own they are.", show_default="everybody's")] = "",
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Take templates and macros from files; one of the same name and language is written anew.

    [bold]Examples[/]

      readingroom templates import templates.toml

      readingroom templates import RPT144.html --reader ada

    A TOML file has [[template]] with name, modality, body_part and [[template.sections]] with name and text, and
    [[macro]] with name and text. HTML is of the IHE profile MRRT, as radreport.org has it. If anything is wrong in one
    of the files, nothing is taken.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from server.reports.templates import read_templates, stored_template
    from storage.catalog.engine import begin_write
    from storage.catalog.reports import write_template

    rows = []
    for file in files:
        if not file.is_file():
            raise Invalid(f"There is no file {file}.")
        for given in read_templates(file):
            mine = given.model_copy(update={"reader": reader}) if reader else given
            rows.append(stored_template(mine, SystemClock().now()))
    with open_new_archive(settings) as (engine, _), begin_write(engine) as connection:
        for row in rows:
            write_template(connection, row)
    out.print(f"{len(rows):,} templates and macros are there.")


@templates_app.command("list")
def list_(
    reader: Annotated[str, typer.Option(help="Show that reader's own too.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show the templates and macros that there are, with whose they are and what they are for."""
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from storage.catalog.reports import list_templates

    with open_new_archive(settings) as (engine, _), engine.connect() as connection:
        found = [
            *list_templates(connection, "template", reader=reader),
            *list_templates(connection, "macro", reader=reader),
        ]
    names = ("kind", "name", "language", "modality", "body_part", "reader", "id")
    rows = [[str(getattr(one, name)) for name in names] for one in found]
    if as_json:
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    print_table(names, rows)


@templates_app.command()
def remove(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `templates list` shows it.")],
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Remove one; texts that have begun with it stay as they are."""
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from storage.catalog.engine import begin_write
    from storage.catalog.reports import find_template, forget_template

    with open_new_archive(settings) as (engine, _), begin_write(engine) as connection:
        name = find_template(connection, id).name
        forget_template(connection, id)
    out.print(f"{name} is removed.", markup=False, highlight=False)


def _keys(settings: Settings) -> SigningKeys:
    from server.reports.signing import SigningKeys

    return SigningKeys(settings.signing_keys_path)
