"""The commands of one facility: add it with all that it needs, look at it, and try whether everything answers."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.clock import SystemClock
from readingroom.errors import Invalid, NotFound
from server.console import Config, Data, Database, load_settings, out, print_table

if TYPE_CHECKING:
    from server.onboarding import Tried
    from server.settings import Settings
    from storage.directory import FacilityEntry

facility_app = typer.Typer(no_args_is_help=True, help="One facility: onboard it, and try whether everything answers.")

_AE = re.compile(r"(?P<ae>[^@]{1,16})(?:@(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+)(?::(?P<port>[0-9]{1,5}))?)?")
_CHANNELS = {"mllp": "hl7", "mllps": "hl7", "mailto": "mail"}
_STYLES = {"ok": "green", "failed": "bold red", "skipped": "dim"}

FacilityId = Annotated[str, typer.Argument(metavar="ID", help="Id of the facility.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@facility_app.command()
def add(
    id: FacilityId,
    name: Annotated[str | None, typer.Option(help="Its name.", show_default="as it is")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="hospital, imaging-centre, urgent-care, clinic, mobile or teleradiology."),
    ] = None,
    state: Annotated[str | None, typer.Option(help="Where its patients are, such as US-TX.")] = None,
    zone: Annotated[str | None, typer.Option(help="Its clock, such as America/Chicago.")] = None,
    ae: Annotated[
        list[str] | None,
        typer.Option(metavar="AE[@HOST[:PORT]]", help="An application entity; where it is called, if it is."),
    ] = None,
    tls: Annotated[bool, typer.Option(help="Whether the AEs of this command are called by TLS.")] = False,
    ca: Annotated[Path | None, typer.Option(help="PEM file of who signs their certificates.")] = None,
    sender: Annotated[
        list[str] | None,
        typer.Option(metavar="APPLICATION[|FACILITY]", help="Who sends HL7 messages: MSH-3, and MSH-4."),
    ] = None,
    profile: Annotated[str, typer.Option(help="How messages of these senders are read.")] = "default",
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADDRESS",
            help="Where its reports go: mllp://, mllps://, https://, mailto: ...",
            show_default=False,
        ),
    ] = None,
    contract: Annotated[
        Path | None, typer.Option(help="TOML file with its contracts, as facilities.toml has them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the entry, and change nothing.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Add a facility, or add to one that is there; a server that runs knows it at once.

    [bold]Examples[/]

      readingroom facility add mercy --name "Mercy Hospital" --kind hospital --state US-TX --zone America/Chicago \\
        --ae MERCY_CT --ae MERCY_PACS@10.1.0.4:104 --sender "EPIC|MERCY" --destination ris=mllp://10.1.0.9:6661

      readingroom facility add mercy --ae MERCY_MR

    What is said again is replaced: an AE by its title, a sender by its names, a destination by its name. The entry is
    printed as facilities.toml has it. Try it with 'readingroom facility check mercy'.
    """
    settings = load_settings(config, data=data, database=database)
    from pydantic import ValidationError

    from server.archive import open_new_archive
    from server.worklist.directory_file import Told, facility_text
    from server.worklist.directory_import import import_directory
    from storage.catalog.directory import read_directory
    from storage.directory import FacilityEntry

    with open_new_archive(settings) as (engine, _):
        with engine.connect() as connection:
            held = read_directory(connection, with_inactive=True).facilities.get(id)
        told = held.model_dump(by_alias=True) if held else {"id": id}
        told |= {
            key: value for key, value in (("name", name), ("kind", kind), ("state", state), ("zone", zone)) if value
        }
        missing = [f"--{one}" for one in ("name", "kind", "state", "zone") if not told.get(one)]
        if missing:
            raise Invalid(f"There is no facility {id} yet: a new one needs {', '.join(missing)}.")
        aes = [_ae(one) | ({"tls": tls, "ca": str(ca) if ca else ""} if "@" in one else {}) for one in ae or ()]
        _put(told, "aes", aes, ("ae",))
        _put(
            told, "senders", [_sender(one) | {"profile": profile} for one in sender or ()], ("application", "facility")
        )
        _put(told, "destinations", [_destination(one) for one in destination or ()], ("id",))
        if contract is not None:
            told["contracts"] = _contracts(contract)
        try:
            entry = FacilityEntry.model_validate(told)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from None
        changes = []
        if not dry_run:
            changes = import_directory(engine, Told(facilities={id: entry}, readers={}), SystemClock().now())
    print(facility_text(entry), end="")
    if dry_run:
        out.print("Nothing was changed.", highlight=False)
    else:
        done = "is as it was" if not changes else "is there" if changes[0].what == "added" else "was changed"
        out.print(f"{escape(id)} {done}. Try it: readingroom facility check {escape(id)}", highlight=False)


@facility_app.command("list")
def list_(as_json: Json = False, data: Data = None, database: Database = None, config: Config = None) -> None:
    """List the facilities, with their peers, senders and destinations.

    [bold]Example[/]

      readingroom facility list
    """
    settings = load_settings(config, data=data, database=database)
    entries = _entries(settings).values()
    rows = [
        {
            "id": one.id,
            "name": one.name,
            "kind": one.kind,
            "state": one.state,
            "aes": [ae.ae for ae in one.aes],
            "senders": ["|".join(filter(None, (two.application, two.facility))) for two in one.senders],
            "destinations": [two.id for two in one.destinations],
        }
        for one in entries
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        names = ("id", "name", "kind", "state", "aes", "senders", "destinations")
        print_table(names, [[_cell(row[name]) for name in names] for row in rows])


@facility_app.command()
def show(id: FacilityId, data: Data = None, database: Database = None, config: Config = None) -> None:
    """Print what the directory says of a facility, as facilities.toml has it.

    [bold]Example[/]

      readingroom facility show mercy
    """
    settings = load_settings(config, data=data, database=database)
    from server.worklist.directory_file import facility_text

    print(facility_text(_entry(settings, id)), end="")


@facility_app.command()
def check(
    id: FacilityId,
    send_test: Annotated[
        bool, typer.Option("--send-test", help="Send a made report (MSH-11 T) to where its reports go by HL7.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Try everything that a facility was given, and print a verdict; the exit status is 1 if anything fails.

    [bold]Examples[/]

      readingroom facility check mercy

      readingroom facility check mercy --send-test --json

    Its AEs are called (C-ECHO). Then, under the title of each, this server is asked what that AE may ask: an echo, a
    small object of a study of its own, which is found and deleted again, and the modality worklist. Its senders send a
    training message, which leads to nothing; its destinations are connected to. It needs a server that runs.
    """
    settings = load_settings(config, data=data, database=database)
    entry = _entry(settings, id)
    from server.archive import open_archive
    from server.onboarding import Trial

    tried: list[Tried] = []
    with open_archive(settings) as (engine, blobs):
        trial = Trial(settings=settings, engine=engine, blobs=blobs, clock=SystemClock(), sends_report=send_test)
        for one in trial.run(entry):
            tried.append(one)
            if not as_json:
                mark = f"[{_STYLES[one.state]}]{one.state:>7}[/]"
                out.print(f"{mark}  {escape(one.what)} {escape(one.who)}: {escape(one.text)}", highlight=False)
    failed = sum(one.state == "failed" for one in tried)
    if as_json:
        rows = [{"what": one.what, "who": one.who, "state": one.state, "text": one.text} for one in tried]
        print(json.dumps({"facility": id, "is_ready": not failed, "tried": rows}, indent=2))
    elif failed:
        out.print(f"[bold red]{escape(id)} is not ready:[/] {failed} of {len(tried)} failed.")
    else:
        out.print(f"[bold green]{escape(id)} is ready.[/]")
    if failed:
        raise typer.Exit(1)


def _ae(text: str) -> dict[str, Any]:
    found = _AE.fullmatch(text)
    if found is None:
        raise Invalid(f"Write an application entity as AE, AE@HOST or AE@HOST:PORT, not {text[:60]!r}.")
    return {name: value for name, value in found.groupdict().items() if value is not None}


def _sender(text: str) -> dict[str, Any]:
    application, _, facility = text.partition("|")
    return {"application": application, "facility": facility or None}


def _destination(text: str) -> dict[str, Any]:
    name, sign, address = text.partition("=")
    scheme = address.partition(":")[0]
    if not sign or not address:
        raise Invalid(f"Write a destination as NAME=ADDRESS, not {text[:60]!r}.")
    if scheme in ("http", "https"):
        channel = "stow" if "dicom" in address else "fhir"
    else:
        channel = _CHANNELS.get(scheme, "dicom" if "@" in address else "")
    if not channel:
        raise Invalid(f"The address of {name} begins with mllp:, mllps:, https: or mailto:, or is AE@HOST:PORT.")
    return {"id": name, "channel": channel, "address": address}


def _contracts(path: Path) -> Any:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path} cannot be read as TOML: {error}.") from None
    if not isinstance(told.get("contracts"), list):
        raise Invalid(f"{path} has no [[contracts]].")
    return told["contracts"]


def _put(told: dict[str, Any], name: str, new: Sequence[dict[str, Any]], by: Sequence[str]) -> None:
    """Add to a list; what is there already by its key is replaced."""
    keys = {tuple(one.get(part) for part in by) for one in new}
    kept = [one for one in told.get(name, ()) if tuple(one.get(part) for part in by) not in keys]
    told[name] = [*kept, *new]


def _entries(settings: Settings) -> dict[str, FacilityEntry]:
    from server.archive import open_archive
    from storage.catalog.directory import read_directory

    with open_archive(settings) as (engine, _), engine.connect() as connection:
        return dict(read_directory(connection).facilities)


def _entry(settings: Settings, id: str) -> FacilityEntry:
    found = _entries(settings).get(id)
    if found is None:
        raise NotFound(f"There is no facility {id}; 'readingroom facility list' names those that there are.")
    return found


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
