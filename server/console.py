"""What the commands share: where they print, the options that all of them have, and the settings behind those."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from readingroom.errors import Invalid, NotFound
from server.settings import Settings

# What a command answers goes to stdout; progress and errors go to stderr, so that answers can be piped.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[Path | None, typer.Option(help="Folder of the store and the catalog.", show_default="var/data")]
Config = Annotated[Path | None, typer.Option(help="Settings file (TOML).", show_default="readingroom.toml if there")]
Database = Annotated[str | None, typer.Option(help="Database URL.", show_default="SQLite in the data folder")]


def load_settings(config: Path | None, **options: Any) -> Settings:
    """Settings from the options given, then the environment, then the file; raises `Invalid` naming what is wrong."""
    if config is not None:
        if not config.is_file():
            raise NotFound(f"There is no settings file {config}.")
        os.environ["READINGROOM_CONFIG"] = str(config.resolve())
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise Invalid(f"The settings are not right. {'; '.join(wrong)}. See docs/reference/settings.md.") from None
    except SettingsError as error:
        raise Invalid(f"The settings are not right: {error}; a list is written as JSON.") from None
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"The settings file is no TOML: {error}.") from None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows to stdout under the names of their columns."""
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


@contextmanager
def show_progress(
    label: str, total: float, *, of_bytes: bool = True
) -> Iterator[tuple[Callable[[float], None], Progress]]:
    """A bar on stderr while this is open: what moves it on, and the whole of it to change its words."""
    columns = [DownloadColumn(), TransferSpeedColumn()] if of_bytes else [TextColumn("{task.completed}/{task.total}")]
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn(), console=err, transient=True
    ) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount), progress
