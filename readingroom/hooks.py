"""What a hook is: its family, its limits, and what becomes of it when a plugin fails.

`hookspecs.py` declares each hook once, by one of the three decorators here; the host, the child that a plugin lives in,
the tests for plugins and the reference pages all read that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pluggy

NAME = "readingroom"
"""The group of entry points, and what pluggy knows our hooks by."""

hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)
"""Marks a function of a plugin as one that a hook calls."""

Family = Literal["register", "decide", "react"]


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One hook.

    `answers` says whose answers count: of all plugins, of the first that has one, or ``none`` where there is nothing to
    answer. `limit` is how long a call may take. Where a plugin fails, a hook that `fails` ``open`` goes on without it;
    one that fails ``closed`` takes that as a no; a ``react`` hook is tried again later.
    """

    name: str
    family: Family
    answers: Literal["none", "first", "all"]
    limit: timedelta
    fails: Literal["open", "closed", "retry"]
    function: Callable[..., Any]

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The types of the arguments by name, in their order; ``ctx`` is not among them."""
        hints = get_type_hints(self.function)
        return {name: hints[name] for name in inspect.signature(self.function).parameters if name != "ctx"}

    @cached_property
    def result(self) -> Any:
        """The type of an answer."""
        return get_type_hints(self.function)["return"]

    @property
    def has_context(self) -> bool:
        """Whether there is a ``ctx`` to ask for."""
        return "ctx" in inspect.signature(self.function).parameters

    @property
    def is_listed(self) -> bool:
        """Whether one answer is a tuple of values."""
        return get_origin(self.result) is tuple and get_args(self.result)[-1] is Ellipsis

    @property
    def is_experimental(self) -> bool:
        """Whether it may change without a new major version."""
        return (self.function.__doc__ or "").startswith("EXPERIMENTAL")


DECLARED: dict[str, Hook] = {}
"""What has been declared so far; `readingroom.hookspecs.HOOKS` is all of it."""


def register[F: Callable[..., Any]](*, seconds: float) -> Callable[[F], F]:
    """A hook that is called once, when a plugin starts or stops."""
    return _declare("register", "none", timedelta(seconds=seconds), "open")


def decide[F: Callable[..., Any]](
    *, answers: Literal["first", "all"], fails: Literal["open", "closed"], milliseconds: int = 20
) -> Callable[[F], F]:
    """A hook that somebody waits for: pure, and done within milliseconds."""
    return _declare("decide", answers, timedelta(milliseconds=milliseconds), fails)


def react[F: Callable[..., Any]](
    *, answers: Literal["none", "first", "all"] = "none", seconds: float = 60
) -> Callable[[F], F]:
    """A hook that is called from the durable queue: at least once, and with minutes of time."""
    return _declare("react", answers, timedelta(seconds=seconds), "retry")


def _declare[F: Callable[..., Any]](
    family: Family,
    answers: Literal["none", "first", "all"],
    limit: timedelta,
    fails: Literal["open", "closed", "retry"],
) -> Callable[[F], F]:
    def declared(function: F) -> F:
        DECLARED[function.__name__] = Hook(
            name=function.__name__, family=family, answers=answers, limit=limit, fails=fails, function=function
        )
        return hookspec(function, firstresult=answers == "first")

    return declared
