"""The command line: serve, import, export, and what an operator needs to keep the archive well."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
import typer
from rich.markup import escape
from rich.table import Table

from conformance.command import conformance_app
from readingroom.clock import SystemClock
from readingroom.errors import Invalid, ReadingRoomError
from readingroom.model import Scope
from server.clients_command import clients_app
from server.console import Config, Data, Database, err, load_settings, out, print_table, show_progress
from server.deliveries_command import deliveries_app
from server.dimse_command import dimse, dimse_beside
from server.directory_command import directory_app, readers_app
from server.edge_command import edge_app
from server.facility_command import facility_app
from server.fhir_command import fhir_app
from server.forwards_command import forwards_app
from server.hl7_command import hl7_app, hl7_beside
from server.jobs_command import jobs_app, work
from server.peers_command import find, get, send
from server.plugins_command import plugins_app
from server.prices_command import prices_app, statement
from server.reports_command import reports_app, templates_app

if TYPE_CHECKING:
    from storage.catalog.corrections import Target

# pydicom warns of odd values by quoting them: noise, and it may be a patient's data. Workers run this line as well.
warnings.filterwarnings("ignore", module="pydicom")

# Commands import what they need when they run: help comes at once.
_DEMO = "demo"  # the source by which a demo object is known
_SHOWN = 40

app = typer.Typer(
    name="readingroom",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A DICOMweb imaging server: it stores studies byte for byte, and shows them.\n\n"
    "Settings come from options, then READINGROOM_... variables, then readingroom.toml "
    "(see docs/reference/settings.md).",
)
zarr_app = typer.Typer(no_args_is_help=True, help="Open stored series as zarr arrays.")
app.add_typer(zarr_app, name="zarr")
app.add_typer(conformance_app, name="conformance")
app.add_typer(directory_app, name="directory")
app.add_typer(facility_app, name="facility")
app.add_typer(readers_app, name="readers")
app.add_typer(edge_app, name="edge")
app.add_typer(fhir_app, name="fhir")
app.add_typer(clients_app, name="clients")
app.add_typer(plugins_app, name="plugins")
app.add_typer(jobs_app, name="jobs")
app.add_typer(deliveries_app, name="deliveries")
app.add_typer(forwards_app, name="forwards")
app.add_typer(reports_app, name="reports")
app.add_typer(templates_app, name="templates")
app.add_typer(prices_app, name="prices")
app.add_typer(hl7_app, name="hl7")

Facility = Annotated[str | None, typer.Option(help="The facility that owns it.", show_default="the setting 'facility'")]


def main() -> None:
    """The console script: errors that we raise become one line and exit status 1."""
    try:
        app()
    except ReadingRoomError as error:
        _fail(error.message)
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        _fail(f"The database does not do as it is told: {reason}. 'readingroom doctor' says what to look at.")
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _fail(message: str) -> None:
    err.print(f"[bold red]readingroom:[/] {escape(message)}")
    sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; loopback only.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", show_default="8780")] = None,
    data: Data = None,
    database: Database = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="1")] = None,
    config: Config = None,
) -> None:
    """Serve DICOMweb and the viewer until Ctrl-C.

    [bold]Examples[/]

      readingroom serve --data /srv/images

      readingroom serve --config /etc/readingroom.toml --workers 4

    Listens on loopback only: there is no TLS here, and people do not log in yet.
    """
    options = {"host": host, "port": port, "data": data and data.resolve(), "database": database, "workers": workers}
    settings = load_settings(config, **options)
    from server.archive import open_new_archive
    from server.listen import bind
    from server.listen import serve as listen
    from server.web.ohif import is_installed

    bound = bind(settings.host, settings.port)
    with open_new_archive(settings):
        pass  # here, where what goes wrong is one clear line, and not in each worker
    # The app in this process and in the workers reads its settings from the environment.
    os.environ |= {f"READINGROOM_{name.upper()}": str(value) for name, value in options.items() if value is not None}

    def ready(root: str) -> None:
        rows = [("DICOMweb", f"{root}/dicomweb"), ("FHIR", f"{root}/fhir"), ("Health", f"{root}/healthz")]
        if is_installed():
            rows.insert(0, ("Viewer", f"{root}/ohif/"))
        out.print(f"[bold]readingroom[/] serves {escape(str(settings.data.resolve()))}")
        for name, address in rows:
            out.print(f"  {name:<9} [cyan]{escape(address)}[/]")
        if settings.dimse.port is not None:
            where = f"{settings.dimse.ae_title} at {settings.dimse.host}:{settings.dimse.port}"
            out.print(f"  {'DIMSE':<9} [cyan]{escape(where)}[/]")
        if settings.hl7.port is not None:
            out.print(f"  {'HL7':<9} [cyan]{escape(f'{settings.hl7.host}:{settings.hl7.port}')}[/]")
        out.print("Ctrl-C stops it.")

    with dimse_beside(settings), hl7_beside(settings):
        has_served = listen(settings, bound, ready)
    if not has_served:
        raise Invalid("The server did not start; the lines above say why. 'readingroom doctor' may know more.")


app.command()(work)
app.command()(statement)
app.command()(dimse)
app.command()(send)
app.command()(find)
app.command()(get)


@app.command()
def demo(data: Data = None, database: Database = None, config: Config = None) -> None:
    """Load the demo studies: a made 200-slice CT, and the real images that installed packages bring along.

    Where the directory has no readers, one is put there who may read and sign them, ada.

    Loads nothing twice: run it as often as you like.
    """
    settings = load_settings(config, data=data, database=database)
    from server.app import build_room
    from server.demo import demo_objects, furnish
    from storage.catalog import schema as t
    from storage.catalog.engine import begin_write

    objects = demo_objects()
    results: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []
    with build_room(settings) as room:
        with begin_write(room.engine) as connection:
            furnish(connection, settings.facility, room.clock.now())
        there = sa.select(sa.func.count()).where(t.instance.c.source == _DEMO, t.instance.c.is_current)
        with room.engine.connect() as connection:
            if connection.execute(there).scalar_one() == len(objects):
                out.print(f"The demo studies are there already ({len(objects)} objects).")
                return
        with show_progress("demo", len(objects), of_bytes=False) as (advance, _):
            bodies = (one.read() for one in objects)
            outcomes = room.ingest.store(bodies, facility=settings.facility, source=_DEMO)
            for one, outcome in zip(objects, outcomes, strict=True):
                if outcome.result is not None:
                    results[outcome.result] += 1
                if outcome.error is not None:
                    failures.append((one.name, outcome.error.message))
                advance(1)
    out.print(f"Demo studies: {_counted(results)}.")
    if failures:
        _print_failures(failures)
        raise typer.Exit(1)


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders, zip files, DICOMDIRs or files.")],
    facility: Facility = None,
    source: Annotated[str, typer.Option(help="Kept with each object: where it came from.")] = "import",
    report: Annotated[Path | None, typer.Option(help="Write the outcome to this file as JSON.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Store DICOM files from a disk.

    Folders are searched through, zip files are read as they are, and a DICOMDIR is followed within its own folder.
    What is no DICOM in a folder or a zip file is skipped and counted.

    [bold]Examples[/]

      readingroom import /mnt/cd

      readingroom import studies.zip more.zip --facility north --report import.json

      readingroom import /mnt/cd/DICOMDIR

    Interrupted, run it again: what is stored already is found identical, and nothing is stored twice.
    The exit status is 1 if anything failed, 130 if interrupted.
    """
    settings = load_settings(config, data=data, database=database, facility=facility)
    from server.app import build_room
    from server.importing import Tally, import_paths
    from server.media import measure

    tally = Tally()
    begun = time.monotonic()
    is_whole = True
    total = measure(paths)
    with build_room(settings) as room, show_progress("looking", total) as (advance, progress):

        def dealt_with(weight: int) -> None:
            advance(weight)
            progress.update(progress.task_ids[0], description=f"{tally.seen} files")

        try:
            import_paths(
                room.ingest,
                paths,
                tally,
                facility=settings.facility,
                source=source,
                max_bytes=settings.max_object_bytes,
                advance=dealt_with,
            )
        except KeyboardInterrupt:
            is_whole = False
    seconds = time.monotonic() - begun
    if report is not None:
        outcome = {"complete": is_whole, "seconds": round(seconds, 3), "facility": settings.facility}
        report.write_text(json.dumps(outcome | tally.to_json(), indent=2) + "\n")
    skipped = f", {tally.skipped} skipped as no DICOM" if tally.skipped else ""
    failed = f", [red]{len(tally.failures)} failed[/]" if tally.failures else ""
    out.print(f"{_counted(tally.results) or 'Nothing to store'}{skipped}{failed} in {seconds:.1f} s.")
    if tally.failures:
        _print_failures(tally.failures)
    if not is_whole:
        err.print("Interrupted. What is counted above is stored; run the same command again to go on.")
        raise typer.Exit(130)
    if tally.failures:
        raise typer.Exit(1)


@app.command("export")
def export_(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    target: Annotated[Path, typer.Argument(help="A folder, or a new file that ends in .zip.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    original: Annotated[bool, typer.Option(help="What was received, whatever has been corrected since.")] = False,
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities have it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Write a study's files as they were received, each checked against its sha256; corrected ones as corrected.

    [bold]Examples[/]

      readingroom export 1.2.826.0.1.3680043.8.498.1 out/

      readingroom export 1.2.826.0.1.3680043.8.498.1 study.zip --series 1.2.826.0.1.3680043.8.498.2
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.exporting import choose_instances, export

    with open_archive(settings) as (engine, blobs):
        with engine.connect() as connection:
            instances = choose_instances(connection, _scope(facility), study, series)
        with show_progress("export", sum(one.size_bytes for one in instances)) as (advance, _):
            export(engine, blobs, instances, target, advance, original=original)
    out.print(f"Wrote {len(instances)} files to {escape(str(target))}.")


@app.command("correct")
def correct_(
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEYWORD=VALUE]...", help="Attributes and their new values.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only this SOP Instance UID, of that series.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take this attribute away; may be repeated.")] = None,
    back_to: Annotated[int | None, typer.Option(min=0, help="Let this version hold again; 0: as received.")] = None,
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities have it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Correct what a study, a series or an instance says of itself; the received bytes stay as they are.

    [bold]Examples[/]

      readingroom correct --study 1.2.826.0.1 --reason "wrong worklist item" PatientName=Doe^Jane PatientID=4711

      readingroom correct --study 1.2.826.0.1 --series 1.2.826.0.2 --reason "wrong side" Laterality=L

      readingroom correct --study 1.2.826.0.1 --reason "it was right" --back-to 0

    Several values are parted by a backslash, the groups of a name by '='. 'readingroom history' tells what was changed.
    It may run beside a server.
    """
    settings = load_settings(config, data=data, database=database)
    from readingroom.model import LOCAL_OPERATOR
    from server.archive import open_archive
    from server.correcting import correct
    from storage.changes import read_change, read_changes

    target = _target(study, series, instance)
    wanted: dict[str, Any] = dict(read_change(name, None) for name in remove or ())
    for change in changes or ():
        name, equals, value = change.partition("=")
        if not equals:
            raise Invalid(f"{name!r} sets nothing; write KEYWORD=VALUE, or --remove KEYWORD.")
        tag, element = read_change(name, value)
        wanted[tag] = element
    if (back_to is None) != bool(wanted):
        raise Invalid("Say what to change, or --back-to a version, and not both.")
    what = read_changes(wanted, target.level) if back_to is None else back_to
    with open_archive(settings) as (engine, blobs):
        made = correct(
            engine, blobs, SystemClock(), _scope(facility), target, what, actor=LOCAL_OPERATOR.id, reason=reason
        )
    out.print(f"Corrected: version {made.version} of the study's corrections." if made else "Nothing had to change.")


@app.command()
def history(
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Only what concerns this Series Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only what concerns this SOP Instance UID.")] = None,
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities have it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Tell what was corrected of a study: what it was and is, by whom, when and why.

    [bold]Example[/]

      readingroom history --study 1.2.826.0.1.3680043.8.498.1
    """
    settings = load_settings(config, data=data, database=database)
    from pydicom.datadict import keyword_for_tag

    from server.archive import open_archive
    from storage.catalog.corrections import read_history

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        found = read_history(connection, _scope(facility), _target(study, series, instance))
    rows = []
    for entry in found.entries:
        one = entry.correction
        about = (str(one.version), f"{one.at:%Y-%m-%d %H:%M}Z", one.actor, one.reason)
        for tag, (before, after) in entry.changed.items():
            rows.append((*about, keyword_for_tag(int(tag, 16)) or tag, _value_of(before), _value_of(after)))
            about = ("", "", "", "")
    if rows:
        print_table(("version", "at", "by", "why", "attribute", "was", "is"), rows)
    else:
        out.print("Nothing has been corrected.")


def _target(study: str, series: str | None, instance: str | None) -> Target:
    if instance is not None and series is None:
        raise Invalid("An instance is named together with its series: give --series as well.")
    from storage.catalog.corrections import Target

    return Target(study_uid=study, series_uid=series or "", instance_uid=instance or "")


def _value_of(element: dict[str, Any] | None) -> str:
    """An element of DICOM JSON in one line."""
    if element is None:
        return "(absent)"
    values = element.get("Value", [])
    if element["vr"] == "SQ":
        return f"{len(values)} items"
    return "\\".join("=".join(one.values()) if element["vr"] == "PN" and one else str(one or "") for one in values)


@app.command()
def doctor(
    host: Annotated[str | None, typer.Option(help="Address that 'serve' would bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that 'serve' would bind.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Look the installation over, and say what to do about what is not right.

    The exit status is 1 if something does not work.
    """
    settings = load_settings(config, host=host, port=port, data=data, database=database)
    from server.doctor import examine

    table = Table("", "check", "found", box=None, pad_edge=False)
    signs = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[bold red]FAIL[/]"}
    has_failed = False
    with err.status("looking"):
        for check in examine(settings):
            has_failed |= check.state == "fail"
            advice = f"\n[bold]{escape(check.advice)}[/]" if check.advice else ""
            table.add_row(signs[check.state], check.name, escape(check.found) + advice)
    out.print(table)
    if has_failed:
        raise typer.Exit(1)


@app.command()
def scrub(
    sample: Annotated[float, typer.Option(min=0, max=100, help="Read only this percentage, chosen at random.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Read every stored object and compare its bytes with the sha256 it came with.

    Tells what is missing or changed, whose frame index is broken, and objects that no row names. It may run beside a
    server; a monthly run finds bit rot while the backup is still good. The exit status is 1 if there is damage.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.scrub import Scrubbed, count
    from server.scrub import scrub as run

    scrubbed = Scrubbed()
    with open_archive(settings) as (engine, blobs):
        _, size_bytes = count(engine)
        with show_progress("scrub", size_bytes * sample / 100) as (advance, _):
            run(engine, blobs, scrubbed, now=SystemClock().now(), sample=sample / 100, advance=advance)
    if as_json:
        damages = [asdict(damage) for damage in scrubbed.damages]
        outcome = {"objects": scrubbed.objects, "bytes": scrubbed.size_bytes, "damages": damages}
        print(json.dumps(outcome, indent=2))
    else:
        out.print(f"Read {scrubbed.objects:,} objects, {scrubbed.size_bytes:,} bytes.")
        if scrubbed.damages:
            print_table(
                ("damage", "object", "instance", "detail"),
                [(one.kind, one.object_key, one.instance_uid or "", one.detail) for one in scrubbed.damages],
            )
        else:
            out.print("All is as it was received.")
    if scrubbed.damages:
        raise typer.Exit(1)


@app.command()
def reindex(
    force: Annotated[bool, typer.Option(help="Empty the catalog first if it holds anything.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make the catalog again from the stored objects alone.

    [bold]Examples[/]

      readingroom reindex --data /srv/images

      readingroom reindex --database postgresql://readingroom@localhost/readingroom

    Use it when the database was lost, or to move from one database to another. Stop the server first. The objects are
    only read. The exit status is 1 if an object could not be recorded.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_new_archive
    from server.reindex import Reindexed, list_objects, prepare, record_objects, replay_side_records

    reindexed = Reindexed()
    with open_new_archive(settings) as (engine, blobs):
        prepare(engine, now=SystemClock().now(), force=force)
        with err.status("listing the stored objects") as status:
            found = list_objects(blobs, reindexed, lambda number: status.update(f"{number} objects found"))
        with show_progress("reindex", len(found), of_bytes=False) as (advance, _):
            record_objects(engine, blobs, found, reindexed, quiet=settings.quiet_period, advance=advance)
        replay_side_records(engine, blobs, reindexed)
    extra = f", {reindexed.superfluous} held already" if reindexed.superfluous else ""
    out.print(f"Recorded {reindexed.instances:,} instances and {reindexed.side_records} side records{extra}.")
    if reindexed.failures:
        _print_failures(reindexed.failures)
        raise typer.Exit(1)


@app.command("restore")
def restore_(
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only this SOP Instance UID, of that series.")] = None,
    rejected: Annotated[bool, typer.Option(help="What a rejection note took out of use, too.")] = False,
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities removed it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Bring back what was deleted and not purged yet.

    [bold]Examples[/]

      readingroom restore --study 1.2.826.0.1.3680043.8.498.1

      readingroom restore --study 1.2.826.0.1.3680043.8.498.1 --rejected

    It may run beside a server.
    """
    settings = load_settings(config, data=data, database=database)
    if instance is not None and series is None:
        raise Invalid("An instance is named together with its series: give --series as well.")
    from readingroom.model import LOCAL_OPERATOR
    from server.archive import open_archive
    from server.removing import restore

    with open_archive(settings) as (engine, blobs):
        scope = _scope(facility)
        uids = (study, series, instance)
        number = restore(engine, blobs, SystemClock(), LOCAL_OPERATOR, scope, *uids, rejected=rejected)
    out.print(f"Restored {number:,} instances.")


@app.command("purge")
def purge_(
    days: Annotated[
        float | None,
        typer.Option(min=0, help="What was removed before so many days.", show_default="purge_after_days"),
    ] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Delete for good what was deleted or rejected long enough ago: its bytes, its metadata, its patient's name.

    [bold]Example[/]

      readingroom purge --days 30

    That it was there stays known: who asks for it is told that it is gone. Nothing that is in use is touched. It may
    run beside a server; interrupted, run it again.
    """
    settings = load_settings(config, data=data, database=database, purge_after_days=days)
    if settings.purge_after_days is None:
        raise Invalid("Say how long what was removed is kept: --days, or the setting purge_after_days.")
    from server.archive import open_archive
    from server.hooks import Hooks, find_plugins
    from server.purging import purge, vetoes_of
    from server.renditions import open_renditions

    clock = SystemClock()
    with open_archive(settings) as (engine, blobs), err.status("purging") as status:
        before = clock.now() - timedelta(days=settings.purge_after_days)
        with (
            closing(open_renditions(settings)) as renditions,
            closing(Hooks(find_plugins(settings), clock=clock)) as hooks,
        ):
            purged = purge(
                engine,
                blobs,
                clock,
                before=before,
                forget=renditions.forget,
                advance=lambda done: status.update(f"{done.instances} instances"),
                veto=vetoes_of(hooks),
            )
    for study_uid, because in purged.vetoed:
        out.print(f"Kept study {study_uid}: {because}", markup=False)
    out.print(f"Purged {purged.instances:,} instances of {purged.studies:,} studies, {purged.size_bytes:,} bytes.")


@app.command()
def migrate(data: Data = None, database: Database = None, config: Config = None) -> None:
    """Bring the catalog to the schema of this release.

    'serve' and 'import' do this by themselves; run it yourself to choose the moment. Make a backup first.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_catalog
    from storage.catalog.migrate import current, upgrade

    with open_catalog(settings) as engine:
        run = upgrade(engine)
        what = f"ran {', '.join(run)}" if run else "nothing to do"
        out.print(f"The catalog is at revision {current(engine)}: {what}.")


@zarr_app.command("path")
def zarr_path(
    uid: Annotated[str, typer.Argument(help="Study or Series Instance UID.")],
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities have it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Print where the zarr arrays of a study or series lie, brought up to date, and how to open them.

    [bold]Example[/]

      readingroom zarr path 1.2.826.0.1.3680043.8.498.2

    Open them for reading only: writing would destroy the DICOM files that they are.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.arrays import describe_arrays

    with open_archive(settings) as (engine, blobs), engine.connect() as connection:
        for array in describe_arrays(connection, blobs, _scope(facility), uid):
            out.print(f"[bold]{escape(array.address(blobs, settings))}[/]")
            out.print(f"  {escape(array.summary)}")
            print(array.snippet(blobs, settings))


def _scope(facility: str | None) -> Scope:
    return Scope() if facility is None else Scope().narrowed(facility)


def _counted(results: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {result}" for result, number in sorted(results.items()))


def _print_failures(failures: Sequence[tuple[str, str]]) -> None:
    print_table(("not stored", "why"), failures[:_SHOWN])
    if len(failures) > _SHOWN:
        out.print(f"... and {len(failures) - _SHOWN} more; --report FILE writes them all.")


if __name__ == "__main__":
    main()
