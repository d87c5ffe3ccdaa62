"""The commands of prices: take them from files, check and show them; and what a facility is charged for a month."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from readingroom.clock import SystemClock
from readingroom.errors import NotFound
from server.console import Config, Data, Database, load_settings, out, print_table

if TYPE_CHECKING:
    from server.settings import Settings

prices_app = typer.Typer(no_args_is_help=True, help="Published prices of readings, as files.")

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML files; each is one list.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@prices_app.command("import")
def import_(files: Files, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Publish lists of prices; run again, it changes nothing.

    [bold]Example[/]

      readingroom prices import prices.toml

    All errors are told, each with its file and line, and then nothing is imported. A list that says otherwise than the
    one of the same day takes its place; what was charged by that one stays as it is. What was charged without a price
    gets the one that it has by now.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive, open_queue
    from server.reports.charges import publish_prices
    from server.reports.prices_file import read_prices
    from storage.catalog.directory import read_directory

    with open_new_archive(settings) as (engine, _):
        with engine.connect() as connection:
            facilities = read_directory(connection).facilities
        lists = read_prices(files, facilities)
        clock = SystemClock()
        made, priced = publish_prices(engine, lists, clock.now(), open_queue(engine, clock))
    for one in made:
        count = len(one.list.prices)
        out.print(f"{count:,} prices hold from {one.list.valid_from} on (version {one.version}).")
    if not made:
        out.print("Nothing has changed.")
    if priced:
        out.print(f"{priced:,} charges that had no price have one now.")


@prices_app.command()
def check(files: Files, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Tell all that is wrong in files, each with its line; the exit status is 1 if anything is.

    [bold]Example[/]

      readingroom prices check prices.toml

    The facilities that they may name are those of the catalog, if there is one.
    """
    settings = load_settings(config, data=data, database=database)
    from server.reports.prices_file import read_prices

    lists = read_prices(files, _facilities(settings))
    out.print(f"{sum(len(one.prices) for one in lists):,} prices: all is right.")


@prices_app.command()
def show(as_json: Json = False, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Show the lists that hold, the first one first.

    [bold]Example[/]

      readingroom prices show
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from storage.catalog.charges import current_lists

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        lists = current_lists(connection)
    if as_json:
        print(json.dumps([one.list.model_dump(mode="json", exclude_none=True) for one in lists], indent=2))
        return
    for one in lists:
        out.print(f"From {one.list.valid_from} on, in {one.list.currency}, charged when {one.list.charge_at}:")
        rows = [
            (price.modality, price.facility or "", price.subspecialty or "", price.urgency or "", price.amount)
            for price in one.list.prices
        ]
        print_table(("modality", "facility", "subspecialty", "urgency", "amount"), rows)
    if not lists:
        out.print("There are no prices; publish some with readingroom prices import FILE.")


def statement(
    facility: Annotated[str, typer.Argument(metavar="FACILITY", help="Id of a facility.")],
    month: Annotated[str, typer.Argument(metavar="YYYY-MM", help="Month by the clock of the facility.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Print what a facility is charged for a month.

    [bold]Examples[/]

      readingroom statement mercy 2026-11

      readingroom statement mercy 2026-11 --csv > mercy-2026-11.csv
    """
    settings = load_settings(config, data=data, database=database)
    from readingroom.model import Scope
    from server.archive import open_archive
    from server.reports.charges import COLUMNS, lines_of, safe_cell, statement_of, statement_told
    from storage.prices import amount_text

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        found = statement_of(connection, Scope(), facility, month)
    if as_json:
        print(json.dumps(statement_told(found), indent=2))
        return
    lines = list(lines_of(found))
    if as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe_cell(value) for name, value in line.items()} for line in lines)
        return
    shown = ("date", "kind", "accession", "modality", "urgency", "state", "amount", "currency")
    print_table(shown, [[line[name] for name in shown] for line in lines])
    totals = ", ".join(f"{amount_text(amount, currency)} {currency}" for currency, amount in found.totals.items())
    out.print(f"{escape(facility)}, {month} ({found.zone}): {len(lines):,} lines, {totals or 'nothing'} in all.")
    if found.unpriced:
        out.print(f"[bold red]{found.unpriced:,} of them have no price yet.[/]")


def _facilities(settings: Settings) -> frozenset[str] | None:
    from server.archive import open_archive
    from storage.catalog.directory import read_directory

    try:
        with open_archive(settings) as (engine, _), engine.connect() as connection:
            return frozenset(read_directory(connection).facilities)
    except NotFound:
        return None
