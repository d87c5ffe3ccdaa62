"""Finds a plugin, looks whether all of it is right, and calls its hooks.

This runs where the plugin lives: in its own process, or in the server's for one that is trusted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from readingroom import hookspecs
from readingroom.context import Context
from readingroom.errors import Invalid, NotFound
from readingroom.hooks import NAME, Hook
from readingroom.hookspecs import HOOKS
from readingroom.jsonio import from_json, to_json

HOST_SETTINGS = frozenset(
    {
        "enabled",
        "trusted",
        "python",
        "module",
        "network",
        "subprocesses",
        "readable",
        "writable",
        "memory_bytes",
        "seconds",
        "milliseconds",
        "processes",
        "environment",
        "on_error",
    }
)
"""What the server itself reads in the table of a plugin: no setting of the plugin may be named so."""


class WrongAnswer(Invalid):
    """A plugin answers what its hook does not allow."""


@dataclass(kw_only=True)
class Plugin:
    """One plugin, loaded and found right; `version` is that of its distribution."""

    name: str
    implemented: Mapping[str, pluggy.HookImpl]
    settings: Any = None
    version: str = ""
    model: Any = field(default=None, repr=False)

    def call(self, hook: Hook, arguments: Mapping[str, Any], context: Context) -> Any:
        """The answer of the plugin as JSON, found to be of the hook's type.

        Raises
        ------
        WrongAnswer
            It answers something else.
        """
        impl = self.implemented[hook.name]
        given = {**arguments, "ctx": context}
        answer = impl.function(*(given[name] for name in impl.argnames))
        if hook.is_listed and answer is None:
            answer = ()
        try:
            told = to_json(answer)
            from_json(hook.result, told)
        except Invalid as error:
            raise WrongAnswer(f"{hook.name} of {self.name} answers what it must not: {error.message}") from None
        return told


def load_plugin(
    name: str,
    *,
    module: str | None = None,
    entry_point: str | None = None,
    version: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Plugin:
    """Load a plugin and check it.

    Parameters
    ----------
    name
        Of its entry point in the group ``readingroom``.
    module
        The file or folder of one that has no entry point.
    entry_point, version
        What its entry point says, and of which version its distribution is, where that is known: to look through all
        that is installed takes long.
    settings
        Its table in the settings, without what the server reads there.

    Raises
    ------
    NotFound
        There is none of that name here.
    Invalid
        Something of it is not right; the message lists all that is.
    """
    if module is not None:
        found, version = _import_path(name, Path(module)), ""
    elif entry_point is not None:
        found = importlib.metadata.EntryPoint(name, entry_point, NAME).load()
    else:
        found, version = _entry_point(name)
    implemented = _implementations(name, found)
    plugin = Plugin(name=name, implemented=implemented, version=version)
    if "register_settings" in implemented:
        plugin.model = implemented["register_settings"].function()
    plugin.settings = _validated(name, plugin.model, dict(settings or {}))
    return plugin


def _entry_point(name: str) -> tuple[Any, str]:
    found = [one for one in importlib.metadata.entry_points(group=NAME) if one.name == name]
    if not found:
        raise NotFound(f"No installed distribution has a plugin {name!r}: an entry point of that name in group {NAME}.")
    if len(found) > 1:
        owners = ", ".join(sorted(one.dist.name if one.dist else "?" for one in found))
        raise Invalid(f"More than one distribution has a plugin {name!r}: {owners}. Uninstall all but one.")
    (one,) = found
    return one.load(), one.dist.version if one.dist else ""


def _import_path(name: str, path: Path) -> Any:
    file = path / "__init__.py" if path.is_dir() else path
    imported = f"readingroom_plugin_{name}"
    spec = importlib.util.spec_from_file_location(
        imported, file, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    if spec is None or spec.loader is None or not file.is_file():
        raise NotFound(f"There is no plugin {path}.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[imported] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _implementations(name: str, found: Any) -> dict[str, pluggy.HookImpl]:
    manager = pluggy.PluginManager(NAME)
    manager.add_hookspecs(hookspecs)
    problems = []
    try:
        manager.register(found, name)
    except pluggy.PluginValidationError as error:
        raise Invalid(f"Plugin {name}: {' '.join(str(error).split())}") from None
    implemented: dict[str, pluggy.HookImpl] = {}
    for caller in manager.get_hookcallers(found) or []:
        for impl in caller.get_hookimpls():
            if caller.name not in HOOKS:
                problems.append(f"{caller.name} is no hook; the hooks are {', '.join(sorted(HOOKS))}")
                continue
            problems += [f"{caller.name} {problem}" for problem in _problems(impl)]
            implemented[caller.name] = impl
    if not implemented and not problems:
        problems.append("it implements no hook: a function needs the name of one, and @hookimpl before it")
    if problems:
        raise Invalid(f"Plugin {name}: {'; '.join(problems)}.")
    return implemented


def _problems(impl: pluggy.HookImpl) -> list[str]:
    """What is wrong with a function that pluggy would take."""
    found = []
    function = inspect.unwrap(impl.function)
    if impl.wrapper or impl.hookwrapper:
        found.append("is a wrapper, which would stand between others and the core; make it a plain function")
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        found.append("is async, and nobody awaits it; start a loop of its own inside")
    elif inspect.isgeneratorfunction(function):
        found.append("is a generator; return a tuple")
    for parameter in inspect.signature(impl.function).parameters.values():
        if parameter.default is not parameter.empty:
            found.append(f"has a default for {parameter.name!r}, which a hook never leaves out")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found.append(f"takes {parameter.name!r} for whatever comes; name the arguments that it uses")
    return found


def _validated(name: str, model: Any, settings: dict[str, Any]) -> Any:
    if model is None:
        if settings:
            raise Invalid(f"Plugin {name} has no settings, so it cannot be given {', '.join(sorted(settings))}.")
        return None
    if not isinstance(model, type) or not hasattr(model, "model_validate"):
        raise Invalid(f"Plugin {name}: register_settings has to give a class derived from pydantic.BaseModel.")
    reserved = sorted(HOST_SETTINGS.intersection(model.model_fields))  # type: ignore[attr-defined]
    if reserved:
        raise Invalid(f"Plugin {name}: the server reads {', '.join(reserved)} itself; name these settings otherwise.")
    try:
        return model.model_validate(settings)
    except ValueError as error:  # as pydantic's errors are
        errors = error.errors(include_input=False) if hasattr(error, "errors") else []
        told = [f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in errors]
        raise Invalid(f"The settings of plugin {name} are not right. {'; '.join(told) or error}.") from None
