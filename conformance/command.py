"""``readingroom conformance``: the suites, for the server of anybody. Started by `server.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

# The suites need what the server does without; they are imported when they run.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

conformance_app = typer.Typer(no_args_is_help=True, help="See whether a server keeps to the standard.")


@conformance_app.callback()
def _conformance() -> None:
    """See whether a server keeps to the standard."""


@conformance_app.command("dicomweb")
def conformance_dicomweb(
    base: Annotated[
        str, typer.Option(help="Service root of the server under test.")
    ] = "http://127.0.0.1:8780/dicomweb",
    wado_uri: Annotated[
        str, typer.Option("--wado-uri", help="Where WADO-URI is.", show_default="/wado below the root, or beside it")
    ] = "",
    report: Annotated[
        Literal["html", "junit", "json"] | None, typer.Option(help="Write a report of that kind.")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="The report's file.", show_default="stdout")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only the checks whose id begins so; may be given several times.")
    ] = None,
    area: Annotated[list[str] | None, typer.Option(help="Only this area; may be given several times.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="Sent with each request, as 'Authorization: Bearer ...'.")
    ] = None,
    seconds: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that an answer may take.")] = 30,
    ca: Annotated[Path | None, typer.Option(help="Certificates (PEM) of the authority that vouches for it.")] = None,
    verify: Annotated[bool, typer.Option(help="Look at the server's certificate.")] = True,
    samples: Annotated[Path | None, typer.Option("--data", help="Folder that keeps the samples between runs.")] = None,
    store: Annotated[bool, typer.Option(help="Store the samples, or look for them where they are already.")] = True,
    keep: Annotated[bool, typer.Option(help="Leave on the server what was stored.")] = False,
    bodies: Annotated[Path | None, typer.Option(help="Folder for what was sent where a check was not met.")] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tell what is not met of SHOULD and MAY too.")
    ] = False,
    lists: Annotated[bool, typer.Option("--list", help="List the checks, and run none.")] = False,
) -> None:
    """Run the strict DICOMweb suite against any server.

    [bold]Examples[/]

      readingroom conformance dicomweb --base http://127.0.0.1:8780/dicomweb

      readingroom conformance dicomweb --base https://pacs.example.org/dicom-web --report html --out report.html

      readingroom conformance dicomweb --list --area search

    It stores samples that it makes, and removes them at the end if the server knows DELETE. The exit status is 0 if all
    that the standard demands (MUST) is met, 1 if something is not, 2 if the suite could not be run.
    """
    try:
        from conformance.dicomweb import report as reports
        from conformance.dicomweb.plugin import chosen
        from conformance.dicomweb.run import CannotRun, Options
        from conformance.dicomweb.run import run as run_suite
    except ModuleNotFoundError as error:
        raise _stop(
            f"The suite needs {error.name}, which is not installed: pip install 'readingroom[conformance]'."
        ) from None

    try:
        checks = chosen(only=only or (), in_areas=area or ())
        headers = [_header(line) for line in header or ()]
    except ValueError as error:
        raise _stop(str(error)) from None
    if lists:
        reports.print_list(out, checks)
        return
    live = reports.Live.begin(err, len(checks))
    options = Options(
        base=base,
        wado_uri=wado_uri,
        headers=headers,
        timeout=seconds,
        verify=ca or verify,
        data=samples,
        can_store=store,
        keeps=keep,
    )
    try:
        results = run_suite(options, checks, live.told)
    except CannotRun as error:
        live.end()
        raise _stop(str(error)) from None
    finally:
        live.end()
    if bodies is not None:
        reports.write_bodies(results, bodies)
    if report is not None:
        text = reports.WRITERS[report](results)
        if out_file is None:
            print(text, end="")
        else:
            out_file.write_text(text, encoding="utf-8")
    reports.print_results(err if report and out_file is None else out, results, verbose=verbose)
    raise typer.Exit(reports.exit_status(results))


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"The header {name[:40]!r} is not written as 'Name: value'.")
    return name.strip(), value.strip()


def _stop(message: str) -> typer.Exit:
    """Say why the suite cannot be run; gives the exit to raise."""
    err.print(f"[bold red]readingroom:[/] {escape(message)}")
    return typer.Exit(2)
