"""The commands of the directory: take it from files, check them, write them, and ask who may read what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
import typer
from rich.markup import escape

from readingroom.clock import SystemClock
from readingroom.errors import Invalid, NotFound
from server.console import Config, Data, Database, err, load_settings, out, print_table

if TYPE_CHECKING:
    from server.settings import Settings
    from server.worklist.directory_import import Change
    from storage.catalog.directory import Directory

directory_app = typer.Typer(no_args_is_help=True, help="Facilities, contracts and readers, as files.")
readers_app = typer.Typer(no_args_is_help=True, help="Who may read what, and when.")

_SHOWN = 40

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML files; together they are one directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FacilityId = Annotated[str, typer.Argument(metavar="FACILITY", help="Id of a facility.")]
State = Annotated[
    str | None, typer.Option(help="Where the patient is, such as US-TX.", show_default="where the facility is")
]


@directory_app.command("import")
def import_(
    files: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change, and change nothing.")] = False,
    prune: Annotated[bool, typer.Option(help="Deactivate what the files do not have.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make the catalog say what files do; run again, it changes nothing.

    [bold]Examples[/]

      readingroom directory import facilities.toml readers.toml

      readingroom directory import facilities.toml --prune --dry-run

    All errors are told, each with its file and line, and then nothing is imported. With --prune facilities that are in
    none of the files are deactivated if the files have any facility, and readers likewise. It may run beside a server.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from server.worklist.directory_file import read_files
    from server.worklist.directory_import import changes_of, import_directory
    from storage.catalog.directory import read_directory

    with open_new_archive(settings) as (engine, _):
        with engine.connect() as connection:
            known = read_directory(connection)
            told = read_files(files, None if prune else known)
            changes = changes_of(connection, told, prune=prune) if dry_run else []
        if not dry_run:
            changes = import_directory(engine, told, SystemClock().now(), prune=prune)
    _print_changes(changes)
    entries = f"{len(told.facilities):,} facilities and {len(told.readers):,} readers"
    done = "would change" if dry_run else "changed"
    out.print(f"{entries} read; {len(changes):,} {done}." if changes else f"{entries} read; nothing {done}.")


@directory_app.command()
def check(files: Files, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Tell all that is wrong in files, each with its line; the exit status is 1 if anything is.

    [bold]Example[/]

      readingroom directory check facilities.toml

    What they may name beside their own entries is what is in the catalog, if there is one.
    """
    settings = load_settings(config, data=data, database=database)
    from server.worklist.directory_file import read_files

    told = read_files(files, _known(settings))
    out.print(f"{len(told.facilities):,} facilities and {len(told.readers):,} readers: all is right.")


@directory_app.command()
def export(
    target: Annotated[Path | None, typer.Argument(help="A new file.", show_default="standard output")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Write the directory as one TOML file, which import takes back.

    [bold]Example[/]

      readingroom directory export directory.toml
    """
    settings = load_settings(config, data=data, database=database)
    from server.worklist.directory_file import write_text

    with _directory(settings) as (_, directory):
        text = write_text(directory)
    if target is None:
        print(text, end="")
    elif target.exists():
        raise Invalid(f"There is a file {target} already; name a new one.")
    else:
        target.write_text(text, encoding="utf-8")
        entries = f"{len(directory.facilities):,} facilities and {len(directory.readers):,} readers"
        out.print(f"Wrote {entries} to {escape(str(target))}.")


@readers_app.command("list")
def list_(
    facility: Annotated[str | None, typer.Option(help="Tell who may be given what this facility sends.")] = None,
    state: State = None,
    at: Annotated[str | None, typer.Option(help="When, such as 2026-03-08T02:00Z.", show_default="now")] = None,
    as_json: Json = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """List the readers; for a facility who of them may be given an item of it, and why the others may not.

    [bold]Examples[/]

      readingroom readers list

      readingroom readers list --facility mercy --state US-OK --at 2026-07-04T03:00Z
    """
    settings = load_settings(config, data=data, database=database)
    from server.worklist.directory import eligible_readers

    moment = _moment(at)
    with _directory(settings) as (_, directory):
        if facility is None:
            rows = [_row(directory, reader, moment) for reader in directory.readers]
        else:
            found = eligible_readers(directory, _located(directory, facility, state), moment)
            rows = [
                _row(directory, reader, moment)
                | {"eligible": reader not in found.refused}
                | {"because": [reason.text for reason in found.refused.get(reader, ())]}
                for reader in directory.readers
            ]
            if found.alarm:
                err.print(f"[bold red]{escape(found.alarm)}[/]")
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        columns = ["id", "name", "subspecialties", "skills", "licences", "shift"]
        columns += [] if facility is None else ["eligible", "because"]
        print_table(columns, [[_cell(row[name]) for name in columns] for row in rows])


@readers_app.command()
def gaps(
    facility: FacilityId,
    days: Annotated[int, typer.Option(min=1, max=90, help="How far to look ahead.")] = 7,
    state: State = None,
    as_json: Json = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Tell when in the days to come nobody could be given an item of a facility; the exit status is 1 if ever.

    [bold]Example[/]

      readingroom readers gaps mercy --days 30
    """
    settings = load_settings(config, data=data, database=database)
    from server.worklist.directory import coverage_gaps
    from storage.directory import zone_of

    now = SystemClock().now().replace(second=0, microsecond=0)
    with _directory(settings) as (_, directory):
        located = _located(directory, facility, state)
        found = coverage_gaps(directory, located, now, now + timedelta(days=days))
        zone = zone_of(directory.facilities[facility].zone)
    if as_json:
        print(json.dumps([{"from": begin.isoformat(), "to": end.isoformat()} for begin, end in found], indent=2))
    elif found:
        rows = [[f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M}" for moment in gap] for gap in found]
        print_table((f"from ({zone.key})", "to"), rows)
    else:
        out.print(f"There is somebody for {escape(facility)} at any time of the next {days} days.")
    if found:
        raise typer.Exit(1)


@contextmanager
def _directory(settings: Settings) -> Iterator[tuple[sa.Connection, Directory]]:
    from server.archive import open_archive
    from storage.catalog.directory import read_directory

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        yield connection, read_directory(connection)


def _known(settings: Settings) -> Directory | None:
    try:
        with _directory(settings) as (_, directory):
            return directory
    except NotFound:
        return None


def _located(directory: Directory, facility: str, state: str | None) -> Any:
    from readingroom.model import WorkItem

    if facility not in directory.facilities:
        raise NotFound(f"There is no facility {facility[:64]!r} in the directory.")
    return WorkItem(id="", kind="read", state="ready", facility=facility, version=1, patient_state=state)


def _moment(text: str | None) -> datetime:
    if text is None:
        return SystemClock().now()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise Invalid(f"{text[:40]!r} is no time with its zone, such as 2026-03-08T02:00Z.")
    return moment.astimezone(UTC)


def _row(directory: Directory, reader: str, at: datetime) -> dict[str, Any]:
    from server.worklist.directory import on_shift_until, roster_reasons

    entry = directory.readers[reader]
    until = on_shift_until(entry, at)
    is_there = not roster_reasons(entry, at)
    return {
        "id": entry.id,
        "name": entry.name,
        "subspecialties": list(entry.subspecialties),
        "skills": list(entry.skills),
        "licences": sorted({one.state for one in entry.licences}),
        "shift": f"until {until:%Y-%m-%dT%H:%MZ}" if until and is_there else "",
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _print_changes(changes: Sequence[Change]) -> None:
    rows = [(one.what, one.kind, one.id, ", ".join(one.fields)) for one in changes[:_SHOWN]]
    if rows:
        print_table(("what", "kind", "id", "fields"), rows)
    if len(changes) > _SHOWN:
        out.print(f"... and {len(changes) - _SHOWN} more.")
