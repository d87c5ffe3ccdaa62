"""A plugin that is forked is contained as one that is started, and knows nothing of where it comes from."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from readingroom.contained import Contained, Launch
from readingroom.errors import PluginFailed
from readingroom.hookspecs import HOOKS
from readingroom.model import Study
from readingroom.nursery import Nursery

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG = timedelta(seconds=30)
PROGRAM = """\
import os, sys
from readingroom import *

@hookimpl
def triage_study(study):
    scope = globals() | {"told": ""}
    exec(study.study_uid, scope)
    return Triage(because=str(scope["told"]))
"""

type Begin = Callable[..., Contained]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def begin(nursery: Nursery, tmp_path: Path) -> Iterator[Begin]:
    """Starts plugins that do whatever they are told."""
    (tmp_path / "made.py").write_text(PROGRAM)
    begun: list[Contained] = []

    def begin(**options: Any) -> Contained:
        launch = Launch(name="made", module=str(tmp_path / "made.py"), **options)
        begun.append(Contained(launch, now=NOW, nursery=nursery))
        return begun[-1]

    yield begin
    for child in begun:
        child.kill()


def do(plugin: Contained, what: str) -> str:
    study = Study(study_uid=what, facility="north", patient="p")
    told: str = plugin.call(HOOKS["triage_study"], {"study": study}, limit=LONG, now=NOW)["because"]
    return told


def test_plugins_are_forked_from_one_process_each_in_a_session_of_its_own(begin: Begin) -> None:
    first, second = begin(), begin()
    assert do(first, "told = os.getppid()") == do(second, "told = os.getppid()") != str(os.getpid())
    for one in (first, second):
        assert do(one, "told = os.getpid(), os.getsid(0), os.getpgid(0)") == str((one._process.pid,) * 3)
    assert first.loaded == second.loaded
    assert {layer.split()[0] for layer in first.loaded.layers} >= {"limits"}


def test_a_plugin_holds_nothing_of_the_process_that_it_was_forked_from(begin: Begin) -> None:
    begin()
    what = "told = sorted(os.readlink(f'/proc/self/fd/{fd}').split(':')[0] for fd in os.listdir('/proc/self/fd')[:-1])"
    assert do(begin(), what) == str(["/dev/null", "pipe", "pipe", "socket"])


@pytest.mark.parametrize(("what", "says"), [("os._exit(3)", "exit status 3"), ("os.kill(os.getpid(), 9)", "Killed")])
def test_it_is_said_how_a_plugin_ended(begin: Begin, what: str, says: str) -> None:
    child = begin()
    with pytest.raises(PluginFailed, match=says):
        do(child, what)
    assert not child.is_alive
    assert do(begin(), "told = 1") == "1"


def test_a_plugin_is_stopped_and_leaves_nothing_behind(begin: Begin) -> None:
    child = begin()
    assert child.stop(now=NOW) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(child._process.pid, 0)


def test_where_the_process_has_ended_another_takes_its_place(begin: Begin) -> None:
    child = begin()
    parent = int(do(child, "told = os.getppid()"))
    os.kill(parent, signal.SIGKILL)
    give_up = time.monotonic() + 30
    while child.is_alive:
        assert time.monotonic() < give_up
        threading.Event().wait(0.01)
    assert child.kill() == -signal.SIGKILL
    assert int(do(begin(), "told = os.getppid()")) != parent


@pytest.mark.parametrize("options", [{"environment": {"TOLD": "1"}}, {"python": sys.executable}])
def test_who_has_an_environment_or_an_interpreter_of_its_own_is_started(begin: Begin, options: dict[str, Any]) -> None:
    assert do(begin(**options), "told = os.getppid()") == str(os.getpid())


def test_all_that_was_forked_ends_with_the_nursery(begin: Begin, nursery: Nursery) -> None:
    child = begin()
    nursery.close()
    give_up = time.monotonic() + 30
    while child.is_alive:
        assert time.monotonic() < give_up
        threading.Event().wait(0.01)
    assert child.kill() == -signal.SIGKILL
