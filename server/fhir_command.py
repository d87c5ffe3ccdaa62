"""The commands on FHIR resources that are stored."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from server.console import Config, Data, Database, err, load_settings, out

fhir_app = typer.Typer(no_args_is_help=True, help="Keep the search index of FHIR resources.")

Types = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TYPE]...",
        help="List all resources of these types anew, such as Observation.",
        show_default="those that this release searches otherwise",
    ),
]


@fhir_app.command()
def reindex(types: Types = None, data: Data = None, database: Database = None, config: Config = None) -> None:
    """List stored resources anew, by which searches find them; the resources themselves stay as they are.

    [bold]Examples[/]

      readingroom fhir reindex

      readingroom fhir reindex Observation DiagnosticReport

    After an upgrade the server does this by itself, a few in each second; here it goes on without a pause. Both may
    run at once, and what was stopped goes on where it was.
    """
    settings = load_settings(config, data=data, database=database)
    from server.archive import open_archive
    from server.fhir.reindexing import begin, progress, step

    with open_archive(settings) as (engine, _):
        begin(engine, types or ())
        before = progress(engine)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}")
        with Progress(*columns, console=err, transient=True) as shown:
            bars = {one.type: shown.add_task(one.type, total=one.total, completed=one.done) for one in before}
            while step(engine, settings):
                left = {one.type: one.done for one in progress(engine)}
                for one in before:
                    shown.update(bars[one.type], completed=left.get(one.type, one.total))
    for one in before:
        out.print(f"{one.total - one.done:,} {one.type} resources were listed.")
    if not before:
        out.print("Nothing is to be listed.")
