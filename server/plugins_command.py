"""The commands for plugins: which there are, whether they are right, a new one, and one study to try them on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from readingroom.clock import SystemClock
from readingroom.errors import Conflict, Invalid, NotFound
from readingroom.model import Scope
from server.console import Config, Data, Database, err, load_settings, out, print_table

if TYPE_CHECKING:
    from server.hooks import Found
    from server.settings import Settings

plugins_app = typer.Typer(no_args_is_help=True, help="Plugins: list, check, try and make them.")

_TEMPLATE = Path(__file__).parent / "plugin_template"
_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "$module/__init__.py": "plugin.py.txt",
    "tests/conftest.py": "conftest.py.txt",
    "tests/test_$module.py": "test_plugin.py.txt",
}
_STUDY_HOOKS = ("find_priors", "triage_study", "summarize_priors")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@plugins_app.command("list")
def list_(as_json: Json = False, config: Config = None) -> None:
    """Tell which plugins there are, and which of them are on.

    A plugin is on where the settings have a table [bold]\\[plugins.NAME][/] for it, or where it lies in the folder that
    the setting 'plugins_folder' names. None is started here: 'readingroom plugins check' tells whether it can be.
    """
    from server.hooks import find_plugins

    found = find_plugins(load_settings(config))
    if as_json:
        told = [{"name": one.name, "on": one.is_enabled, "how": _how(one)} for one in found]
        told = [one | {"where": of.where, "version": of.version} for one, of in zip(told, found, strict=True)]
        print(json.dumps(told, indent=2))
        return
    rows = [(one.name, "yes" if one.is_enabled else "no", _how(one), one.where, one.version) for one in found]
    if rows:
        print_table(("plugin", "on", "how", "from", "version"), rows)
    else:
        out.print("There are no plugins. 'readingroom plugins new NAME' makes one.")


def _how(found: Found) -> str:
    if found.settings is None:
        return f"add [plugins.{found.name}] to the settings"
    if not found.settings.enabled:
        return "enabled = false"
    if found.is_missing:
        return "cannot run: it is not there"
    return "in the server's process" if found.settings.trusted else "in its own process"


@plugins_app.command("check")
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PLUGIN]...", help="Names, or files; all that run if none is given.")
    ] = None,
    config: Config = None,
) -> None:
    """Start plugins as the server does, and tell what is wrong with them.

    [bold]Examples[/]

      readingroom plugins check

      readingroom plugins check acme

      readingroom plugins check ./draft.py

    The exit status is 1 if one of them would not run.
    """
    settings = load_settings(config)
    from server.hooks import Hooks, find_plugins

    chosen = (
        [_chosen(settings, name) for name in names] if names else [f for f in find_plugins(settings) if f.is_enabled]
    )
    if not chosen:
        out.print("No plugin runs here.")
        return
    with err.status("starting the plugins"):
        hooks = Hooks(chosen, clock=SystemClock())
    try:
        states = hooks.states()
    finally:
        hooks.close()
    for state in states:
        if state.state == "broken":
            out.print(f"[bold red]FAIL[/] {state.name}: {escape(state.problem)}")
        else:
            out.print(f"[green]ok[/]   {state.name} {state.version}".rstrip())
            out.print(f"     hooks: {', '.join(state.hooks)}")
            out.print(f"     kept in place by: {', '.join(state.layers)}")
    if any(state.state == "broken" for state in states):
        raise typer.Exit(1)


@plugins_app.command("run")
def run(
    name: Annotated[str, typer.Argument(metavar="PLUGIN", help="Its name, or its file.")],
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    hook: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(_STUDY_HOOKS)}.", show_default="all that it has")
    ] = None,
    facility: Annotated[str | None, typer.Option(help="Whose study, where several facilities have it.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show a stored study to a plugin, and print what it answers; nothing comes of it.

    [bold]Examples[/]

      readingroom plugins run acme --study 1.2.826.0.1.3680043.8.498.1

      readingroom plugins run ./draft.py --study 1.2.826.0.1.3680043.8.498.1 --hook triage_study

    It may run beside a server.
    """
    settings = load_settings(config, data=data, database=database)
    if hook is not None and hook not in _STUDY_HOOKS:
        raise Invalid(f"{hook} is none of {', '.join(_STUDY_HOOKS)}.")
    chosen = _chosen(settings, name)
    from readingroom.jsonio import to_json
    from server.archive import open_archive
    from server.codecs import Codecs
    from server.hooks import Hooks
    from server.volumes import ShownStudies
    from storage.catalog.find import find_study
    from storage.catalog.shown import read_patient, read_study

    with open_archive(settings) as (engine, blobs):
        codecs = Codecs(children=1, memory_bytes=settings.codec_memory_bytes, seconds=settings.codec_seconds)
        hooks = Hooks(
            [chosen],
            clock=SystemClock(),
            open_archive=lambda studies: ShownStudies(engine, blobs, codecs, studies),
        )
        try:
            (state,) = hooks.states()
            if state.state == "broken":
                raise Invalid(state.problem)
            wanted = [one for one in _STUDY_HOOKS if one in state.hooks and hook in (None, one)]
            if not wanted:
                raise Invalid(
                    f"Plugin {state.name} implements {', '.join(state.hooks)}, and nothing to run on a study."
                )
            with engine.connect() as connection:
                scope = Scope() if facility is None else Scope().narrowed(facility)
                found = read_study(connection, find_study(connection, scope, study).owner_facility, study)
                patient = read_patient(connection, found)
            given: dict[str, Any] = {"study": found, "patient": patient, "order": None, "priors": ()}
            for one in wanted:
                answer = hooks.react(state.name, one, delivery=f"run-{one}", **_arguments(one, given))
                if one == "find_priors":
                    given["priors"] = answer
                print(json.dumps({"hook": one, "answer": to_json(answer)}, indent=2))
        finally:
            hooks.close()
            codecs.close()


def _arguments(hook: str, given: dict[str, Any]) -> dict[str, Any]:
    from readingroom.hookspecs import HOOKS

    return {name: given[name] for name in HOOKS[hook].parameters}


@plugins_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens, such as acme-triage.")],
    into: Annotated[Path, typer.Option(help="The folder in which its own is made.")] = Path(),
) -> None:
    """Write a plugin to start from: a distribution with tests that pass.

    [bold]Example[/]

      readingroom plugins new acme
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 40:
        raise Invalid(f"{name!r} is no name of a plugin: small letters, digits and hyphens between them.")
    from readingroom import __version__

    major, minor = (int(part) for part in __version__.split(".")[:2])
    module = f"readingroom_{name.replace('-', '_')}"
    told = {
        "name": name,
        "module": module,
        "contract": f"{major}.{minor}",
        "next_contract": f"{major}.{minor + 1}" if major == 0 else str(major + 1),
    }
    folder = into / f"readingroom-{name}"
    if folder.exists():
        raise Conflict(f"There is a folder {folder} already.")
    for target, source in _FILES.items():
        path = folder / Template(target).substitute(told)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template((_TEMPLATE / source).read_text("utf-8")).substitute(told), "utf-8")
    out.print(f"The plugin [bold]{name}[/] is in {escape(str(folder))}; its README.md says what comes next.")


def _chosen(settings: Settings, name: str) -> Found:
    """A plugin by its name, or a file or folder that is one; whether the settings have it or not."""
    from server.hooks import Found, find_plugins
    from server.settings import PluginSettings

    plain = PluginSettings.model_validate({})
    path = Path(name)
    if path.suffix == ".py" or len(path.parts) > 1:
        if not path.exists():
            raise NotFound(f"There is no plugin {path}.")
        told = settings.plugins.get(path.stem, plain)
        return Found(name=path.stem, where=name, settings=told, module=str(path.resolve()))
    for one in find_plugins(settings):
        if one.name == name:
            return replace(one, settings=(one.settings or plain).model_copy(update={"enabled": True}))
    raise NotFound(f"There is no plugin {name!r}; 'readingroom plugins list' tells which there are.")
