"""The plugin host: finds plugins, calls one at a time, and goes on without one that fails.

A plugin runs in processes of its own (`readingroom.contained`) unless its settings call it trusted. *Decide* hooks have
a process that is always there and never waited for; what becomes of a failure is the hook's rule. *React* hooks are
called from jobs, which try again. A plugin that fails again and again is switched off for a while.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import threading
import time
from collections import Counter as Counted
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any, Literal

import orjson
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from readingroom import results
from readingroom.channel import Json
from readingroom.clock import Clock
from readingroom.confine import Limits
from readingroom.contained import Contained, Launch, Loaded
from readingroom.context import Archive, Context, NoArchive
from readingroom.errors import GiveUp, Invalid, PluginFailed, ReadingRoomError, RetryLater
from readingroom.hooks import NAME, Hook
from readingroom.hookspecs import HOOKS
from readingroom.jsonio import from_json
from readingroom.model import Study
from readingroom.nursery import Nursery
from readingroom.plugin import Plugin, WrongAnswer, load_plugin
from readingroom.results import Prior, Reject, Veto
from server.queue import NotBegun
from server.settings import PluginSettings, Settings

log = logging.getLogger(__name__)

_FAILURES, _WINDOW = 5, timedelta(minutes=10)
_OFF, _LONGEST_OFF = timedelta(minutes=1), timedelta(hours=1)
_PATIENCE_SECONDS = 5.0
_BROKEN_AGAIN = timedelta(minutes=5)
_METRIC_NAME = re.compile("[a-z][a-z0-9_]{0,60}")
_NOT_INSTALLED = "no distribution that is installed"
_TRUSTED = ("trusted: in the server's process",)

type Shown = frozenset[tuple[str, str]]
"""The studies that a call is about, as facility and Study Instance UID."""
type OpenArchive = Callable[[Shown], Archive]
type _Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plugin that could run: `where` says what it comes from, `settings` is None for one that is not in them."""

    name: str
    where: str
    version: str = ""
    settings: PluginSettings | None = None
    module: str | None = None
    entry_point: str | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether it is to run."""
        return self.settings is not None and self.settings.enabled

    @property
    def is_missing(self) -> bool:
        """Whether it cannot run, for there is no such file, interpreter or installed distribution."""
        python = self.settings.python if self.settings is not None else None
        if python is not None and shutil.which(python) is None:
            return True
        return not Path(self.module).exists() if self.module is not None else self.where == _NOT_INSTALLED


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How a plugin is: ``on``, ``off`` (failed too often, until a time), ``trial`` (the next call decides), ``broken``
    (not loaded; `problem` says why)."""

    name: str
    state: Literal["on", "off", "trial", "broken"]
    hooks: tuple[str, ...] = ()
    version: str = ""
    layers: tuple[str, ...] = ()
    failures: int = 0
    off_until: datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one of several plugins says; of one that failed, `problem` says how, and `value` is a no or None."""

    plugin: str
    value: Any
    problem: str = ""


def find_plugins(settings: Settings) -> list[Found]:
    """Every plugin that there is.

    First `wanted_plugins`, then what is installed and named in neither settings nor folder, which does not run.
    """
    found = wanted_plugins(settings)
    named = {one.name for one in found}
    return [
        *found,
        *(_of_distribution(name, those) for name, those in sorted(_installed().items()) if name not in named),
    ]


def wanted_plugins(settings: Settings) -> list[Found]:
    """The plugins of the settings, in their order, then those of the folder; what else is installed does not run."""
    folder = {path.stem: path for path in _in_folder(settings.plugins_folder)}
    wanted = dict(settings.plugins)
    for name in folder:
        wanted.setdefault(name, PluginSettings.model_validate({}))
    # Looking through all that is installed takes long; a server without plugins need not.
    installed = _installed() if wanted else {}
    return [_wanted(name, told, folder.get(name), installed.get(name, [])) for name, told in wanted.items()]


def _installed() -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for one in importlib.metadata.entry_points(group=NAME):
        found.setdefault(one.name, []).append(one)
    return found


def _wanted(
    name: str, told: PluginSettings, path: Path | None, installed: Sequence[importlib.metadata.EntryPoint]
) -> Found:
    if told.module is not None or (path is not None and told.python is None):
        module = str(Path(told.module).resolve()) if told.module else str(path)  # its process has another folder
        return Found(name=name, where=module, settings=told, module=module)
    if told.python is not None:
        return Found(name=name, where=f"an entry point of {told.python}", settings=told)
    return _of_distribution(name, installed, told)


def _of_distribution(
    name: str, installed: Sequence[importlib.metadata.EntryPoint], told: PluginSettings | None = None
) -> Found:
    """A plugin that is installed, if it is; where several distributions have it, who loads it says so."""
    if not installed:
        return Found(name=name, where=_NOT_INSTALLED, settings=told)
    where, version = _distribution(installed[0])
    value = installed[0].value if len(installed) == 1 else None
    return Found(name=name, where=where, version=version, settings=told, entry_point=value)


def _in_folder(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise Invalid(f"There is no folder {folder}, which the setting 'plugins_folder' names.")
    return sorted(
        path.resolve()
        for path in folder.iterdir()
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or (path / "__init__.py").is_file())
    )


def _distribution(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return entry_point.value, ""
    return f"{entry_point.dist.name} ({entry_point.value})", entry_point.dist.version


class Hooks:
    """Calls plugins, from any thread.

    Parameters
    ----------
    plugins
        Those that run, in the order in which they are called. They are started here, all at once.
    clock
        The time that they are told, and by which one that fails is switched on again.
    open_archive
        Gives what a call may see of the studies that it is about.

    Attributes
    ----------
    calls, seconds
        Count calls by plugin, hook and outcome, and their time.
    """

    def __init__(
        self,
        plugins: Sequence[Found] = (),
        *,
        clock: Clock,
        open_archive: OpenArchive = lambda studies: NoArchive(),
    ) -> None:
        self.calls = Counter(
            "readingroom_plugin_calls", "Calls of plugins", ["plugin", "hook", "outcome"], registry=None
        )
        self.seconds = Histogram("readingroom_plugin_seconds", "Time in plugins", ["plugin", "hook"], registry=None)
        self._clock = clock
        self._open_archive = open_archive
        self._nursery = Nursery()
        self._hosted = {one.name: _Hosted(one, clock, self._nursery) for one in plugins if one.is_enabled}
        for one in self._hosted.values():
            one.begin()
        for one in self._hosted.values():
            one.finish()

    def close(self) -> None:
        """End every process."""
        for one in self._hosted.values():
            one.close()
        self._nursery.close()

    def having(self, hook: str) -> tuple[str, ...]:
        """The names of the plugins that implement a hook, in their order."""
        return tuple(one.name for one in self._hosted.values() if hook in one.hooks)

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first answer to a hook of which the first counts; None where no plugin has one."""
        for answer in self.decide_all(hook, **arguments):
            if answer.value is not None:
                return answer.value
        return None

    def decide_all(self, hook: str, **arguments: Any) -> Iterator[Answer]:
        """The answers of all plugins that have one, in their order, each asked for when it is wanted.

        A plugin that fails has no answer; where the hook fails closed, that is a no.
        """
        for hosted in self._deciding(hook):
            (answer,) = self._decided(hosted, HOOKS[hook], (arguments,))
            if answer is not None:
                yield answer

    def decide_each(
        self, hook: str, several: Sequence[Mapping[str, Any]], *, is_last: Callable[[Any], bool] = lambda value: False
    ) -> list[list[Answer]]:
        """What `decide_all` gives, for each of several calls, and with one way to each plugin and back for all of them.

        Parameters
        ----------
        several
            The arguments of each call.
        is_last
            Says of an answer that nobody need be asked any more; it is the last one of its call then.
        """
        found: list[list[Answer]] = [[] for _ in several]
        for hosted in self._deciding(hook):
            open = [(arguments, had) for arguments, had in zip(several, found, strict=True) if not _ends(had, is_last)]
            answers = self._decided(hosted, HOOKS[hook], [arguments for arguments, _ in open]) if open else ()
            for answer, (_, had) in zip(answers, open, strict=True):
                if answer is not None:
                    had.append(answer)
        return found

    def _deciding(self, hook: str) -> Iterator[_Hosted]:
        """Those to be asked, and those that cannot be asked where that is a no."""
        spec = HOOKS[hook]
        if spec.family != "decide":
            raise TypeError(f"{hook} is no hook that decides")
        for hosted in self._hosted.values():
            if hook in hosted.hooks or (hosted.is_broken and hosted.refusal(spec)):
                yield hosted

    def _decided(self, hosted: _Hosted, hook: Hook, several: Sequence[Mapping[str, Any]]) -> Iterator[Answer | None]:
        for value in self._called(hosted, hook, several):
            if isinstance(value, ReadingRoomError):
                if not isinstance(value, _Busy):  # else it was said when it was switched off
                    log.warning("plugin %s did not decide %s: %s", hosted.name, hook.name, value.message)
                yield Answer(plugin=hosted.name, value=hosted.refusal(hook), problem=value.message)
            else:
                yield None if value is None else Answer(plugin=hosted.name, value=value)

    def react(self, plugin: str, hook: str, *, delivery: str, attempt: int = 1, **arguments: Any) -> Any:
        """What one plugin answers to what has happened.

        Parameters
        ----------
        delivery
            The same on every attempt.

        Raises
        ------
        RetryLater
            The plugin says so, is busy, or is switched off for now.
        GiveUp
            The plugin says so, or does not run here any more, or has no such hook.
        PluginFailed
            It failed.
        """
        spec = HOOKS[hook]
        if spec.family != "react":
            raise TypeError(f"{hook} is no hook that reacts")
        hosted = self._hosted.get(plugin)
        if hosted is None:
            raise GiveUp(f"Plugin {plugin} does not run here.")
        if hosted.is_broken:
            raise RetryLater(f"Plugin {plugin} could not be loaded: {hosted.problem}", after=_BROKEN_AGAIN)
        if hook not in hosted.hooks:
            raise GiveUp(f"Plugin {plugin} does not implement {hook}.")
        (answer,) = self._called(hosted, spec, (arguments,), delivery=delivery, attempt=attempt)
        if isinstance(answer, ReadingRoomError):
            raise answer
        return answer

    def states(self) -> list[State]:
        """How each plugin is."""
        return [one.state() for one in self._hosted.values()]

    def collector(self) -> Collector:
        """Which plugins are up, and the plugins' own numbers, for the metrics page."""
        return _Numbers(self)

    def _called(
        self,
        hosted: _Hosted,
        hook: Hook,
        several: Sequence[Mapping[str, Any]],
        *,
        delivery: str = "",
        attempt: int = 1,
    ) -> list[Any]:
        """The answers to several calls of one plugin; of each that failed, its error."""
        begun = time.monotonic()
        archive = self._open_archive(_studies(several[0])) if hook.family == "react" else NoArchive()
        try:
            answers = hosted.call_each(hook, several, archive=archive, delivery=delivery, attempt=attempt)
        except ReadingRoomError as error:
            answers = [error] * len(several)
        for outcome, count in Counted(map(_outcome, answers)).items():
            self.calls.labels(hosted.name, hook.name, outcome).inc(count)
        self.seconds.labels(hosted.name, hook.name).observe(time.monotonic() - begun)
        return answers


def _ends(answers: Sequence[Answer], is_last: Callable[[Any], bool]) -> bool:
    return bool(answers) and is_last(answers[-1].value)


def _outcome(answer: Any) -> str:
    """What a call came to, as the metrics name it."""
    match answer:
        case _Busy():
            return "busy"
        case RetryLater():
            return "retry"
        case GiveUp():
            return "give up"
        case PluginFailed():
            return answer.reason
    return "ok"


def _studies(value: Any, facility: str = "") -> Shown:
    """The studies in the arguments of a call; priors are of the facility of the study beside them."""
    found: set[tuple[str, str]] = set()
    if isinstance(value, Mapping):
        study = value.get("study")
        facility = study.facility if isinstance(study, Study) else facility
        value = tuple(value.values())
    if isinstance(value, Study):
        found.add((value.facility, value.study_uid))
    elif isinstance(value, Prior):
        if value.root is None and facility:
            found.add((facility, value.study_uid))
    elif isinstance(value, tuple):
        for one in value:
            found |= _studies(one, facility)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            found |= _studies(getattr(value, one.name), facility)
    return frozenset(found)


class _Hosted:
    """One plugin: its processes, and whether it is switched off."""

    def __init__(self, found: Found, clock: Clock, nursery: Nursery) -> None:
        assert found.settings is not None
        self.name = found.name
        self.problem = ""
        self._found = found
        self._settings = found.settings
        self._clock = clock
        self._nursery = nursery
        self._loaded: Loaded | None = None
        self._trusted: Plugin | None = None
        self._breaker = _Breaker()
        # Its one thread starts all processes of the plugin and lives as long as the host: they end with it.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix=f"plugin-{found.name}")
        self._first: Future[Contained] | None = None
        self._deciding = _Pool(1, self._start)
        self._reacting = _Pool(found.settings.processes, self._start_behind)

    @property
    def hooks(self) -> frozenset[str]:
        """What it implements; nothing where it could not be loaded."""
        return self._loaded.hooks if self._loaded else frozenset()

    @property
    def is_broken(self) -> bool:
        """Whether it could not be loaded."""
        return self._loaded is None

    def begin(self) -> None:
        """Start it, without waiting."""
        if not self._settings.trusted:
            self._first = self._start()

    def finish(self) -> None:
        """Wait until it has started, or has not."""
        try:
            if self._first is None:
                self._load_trusted()
            else:
                child = self._first.result()
                self._loaded = child.loaded
                decides = any(HOOKS[hook].family == "decide" for hook in child.loaded.hooks)
                if not decides:
                    child.stand_back()
                (self._deciding if decides else self._reacting).give_back(child)
        except ReadingRoomError as error:
            self.problem = error.message
            log.error("plugin %s is not loaded: %s", self.name, error.message)
            return
        assert self._loaded is not None
        log.info("plugin %s runs: %s", self.name, ", ".join(sorted(self._loaded.hooks)))

    def close(self) -> None:
        """End its processes."""
        now = self._clock.now()
        for pool in (self._deciding, self._reacting):
            pool.close(now)
        if self._trusted is not None and "stopping" in self._trusted.implemented:
            try:
                self._trusted.call(HOOKS["stopping"], {}, self._context())
            except Exception:
                log.exception("plugin %s did not stop well", self.name)
        self._starter.shutdown()

    def refusal(self, hook: Hook) -> Veto | Reject | None:
        """What a failure means for who asked, where it is a no."""
        if hook.name == "accept_instance":
            if self._settings.on_error == "reject":
                return Reject(because=f"plugin {self.name} could not look at it; send again", kind="unavailable")
            return None
        return Veto(because=f"plugin {self.name} did not answer") if hook.fails == "closed" else None

    def call_each(
        self, hook: Hook, several: Sequence[Mapping[str, Any]], *, archive: Archive, delivery: str, attempt: int
    ) -> list[Any]:
        """The answers to several calls of a hook, checked; of one that failed, its error.

        Raises as `Hooks.react` does where none of them has an answer.
        """
        if self._loaded is None:
            raise PluginFailed(f"Plugin {self.name} could not be loaded: {self.problem}", reason="start")
        self._breaker.enter(self.name, self._clock.now())
        try:
            answers = [self._checked(hook, one) for one in self._asked(hook, several, archive, delivery, attempt)]
        except PluginFailed as error:
            self._breaker.failed(self.name, self._clock.now(), error.reason)
            raise
        except BaseException:
            self._breaker.left()
            raise
        for answer in answers:
            if isinstance(answer, PluginFailed):
                self._breaker.failed(self.name, self._clock.now(), answer.reason)
            else:
                self._breaker.succeeded(self.name)
        return answers

    def _checked(self, hook: Hook, answer: Any) -> Any:
        """An answer as a value of the hook's type, or the error that stands for it."""
        if isinstance(answer, ReadingRoomError):
            return answer
        try:
            return from_json(hook.result, answer)
        except Invalid as error:
            return PluginFailed(f"Plugin {self.name} answers what it must not: {error.message}", reason="answer")

    def state(self) -> State:
        """How it is."""
        if self._loaded is None:
            return State(name=self.name, state="broken", problem=self.problem)
        state, off_until, failures = self._breaker.state(self._clock.now())
        return State(
            name=self.name,
            state=state,
            hooks=tuple(sorted(self._loaded.hooks)),
            version=self._loaded.version,
            layers=self._loaded.layers,
            failures=failures,
            off_until=off_until,
        )

    def _asked(
        self, hook: Hook, several: Sequence[Mapping[str, Any]], archive: Archive, delivery: str, attempt: int
    ) -> list[Any]:
        limit = hook.limit
        if hook.family == "decide" and self._settings.milliseconds is not None:
            limit = timedelta(milliseconds=self._settings.milliseconds)
        if hook.family == "react" and self._settings.seconds is not None:
            limit = timedelta(seconds=self._settings.seconds)
        if self._trusted is not None:
            return [self._in_process(self._trusted, hook, one, archive, delivery, attempt) for one in several]
        pool = self._deciding if hook.family == "decide" else self._reacting
        patience = limit.total_seconds() * len(several) if hook.family == "decide" else _PATIENCE_SECONDS
        with pool.child(self.name, patience, is_awaited=hook.family == "react") as child:
            return child.call_each(
                hook,
                [{name: _ready(value) for name, value in one.items()} for one in several],
                limit=limit,
                now=self._clock.now(),
                archive=archive,
                delivery=delivery,
                attempt=attempt,
            )

    def _in_process(
        self, plugin: Plugin, hook: Hook, arguments: Mapping[str, Any], archive: Archive, delivery: str, attempt: int
    ) -> Any:
        try:
            return plugin.call(hook, arguments, self._context(archive, delivery, attempt))
        except (RetryLater, GiveUp) as error:
            return error
        except WrongAnswer as error:
            return PluginFailed(error.message, reason="answer")
        except Exception as error:
            # The plugin host: whatever a plugin raises is recorded, and nobody else's business.
            log.exception("plugin %s failed in %s", self.name, hook.name)
            return PluginFailed(f"Plugin {self.name} raised {type(error).__name__}.")

    def _load_trusted(self) -> None:
        try:
            plugin = load_plugin(
                self.name,
                module=self._found.module,
                entry_point=self._found.entry_point,
                version=self._found.version,
                settings=self._settings.own,
            )
            if "started" in plugin.implemented:
                plugin.call(
                    HOOKS["started"], {}, Context(plugin=self.name, settings=plugin.settings, clock=self._clock)
                )
        except ReadingRoomError:
            raise
        except Exception as error:
            log.exception("plugin %s failed while it was loaded", self.name)
            raise PluginFailed(f"Plugin {self.name} raised {type(error).__name__}: {error}", reason="start") from error
        self._trusted = plugin
        self._loaded = Loaded(hooks=frozenset(plugin.implemented), version=plugin.version, contract="", layers=_TRUSTED)

    def _context(self, archive: Archive | None = None, delivery: str = "", attempt: int = 1) -> Context:
        assert self._trusted is not None
        return Context(
            plugin=self.name,
            settings=self._trusted.settings,
            archive=archive,
            clock=self._clock,
            delivery=delivery,
            attempt=attempt,
        )

    def _start(self) -> Future[Contained]:
        return self._starter.submit(self._started)

    def _start_behind(self) -> Future[Contained]:
        """Start a process for calls that nobody waits for: those who store and read go before it."""

        def start() -> Contained:
            child = self._started()
            child.stand_back()
            return child

        return self._starter.submit(start)

    def _started(self) -> Contained:
        return Contained(_launch(self._found, self._settings), now=self._clock.now(), nursery=self._nursery)


def _ready(value: Any) -> Any:
    """An argument of a call; a data set, which is large, as JSON at once."""
    return Json(orjson.dumps(value)) if type(value) is dict else value


def _launch(found: Found, settings: PluginSettings) -> Launch:
    return Launch(
        name=found.name,
        module=found.module,
        entry_point=found.entry_point if settings.python is None else None,
        version=found.version,
        python=settings.python,
        settings=settings.own,
        environment=settings.environment,
        limits=Limits(
            memory_bytes=settings.memory_bytes,
            network=settings.network,
            subprocesses=settings.subprocesses,
            readable=settings.readable,
            writable=settings.writable,
        ),
    )


class _Busy(NotBegun):
    """Every process of the plugin has something to do, or it is switched off."""


class _Pool:
    """A few processes of one plugin, each started when it is needed and used by one call at a time."""

    def __init__(self, size: int, start: Callable[[], Future[Contained]]) -> None:
        self._slots = threading.BoundedSemaphore(size)
        self._start = start
        self._idle: list[Contained] = []
        self._coming: Future[Contained] | None = None
        self._lock = threading.Lock()

    def give_back(self, child: Contained) -> None:
        """Keep one for the next call."""
        self._idle.append(child)

    @contextmanager
    def child(self, name: str, patience: float, *, is_awaited: bool) -> Iterator[Contained]:
        """A process for one call, for which `patience` is waited; one that still has to start only where that is
        awaited."""
        if not self._slots.acquire(timeout=patience):
            raise _Busy(f"Plugin {name} is busy.", after=timedelta(seconds=_PATIENCE_SECONDS))
        try:
            child = self._take(name, is_awaited)
            try:
                yield child
            finally:
                if child.is_alive:
                    self._idle.append(child)
                elif not is_awaited:
                    self._prepare()  # for who asks next
        finally:
            self._slots.release()

    def close(self, now: datetime) -> None:
        """End all of them."""
        if self._coming is not None and self._coming.exception() is None:
            self._idle.append(self._coming.result())
        while self._idle:
            self._idle.pop().stop(now=now)

    def _take(self, name: str, is_awaited: bool) -> Contained:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            child.kill()
        if is_awaited:
            return self._start().result()
        coming = self._prepare()
        if not coming.done():
            raise _Busy(f"Plugin {name} is starting.", after=timedelta(seconds=1))
        with self._lock:
            self._coming = None
        return coming.result()

    def _prepare(self) -> Future[Contained]:
        with self._lock:
            if self._coming is None:
                self._coming = self._start()
            return self._coming


class _Breaker:
    """Switches a plugin off that fails again and again, longer each time, and tries it with one call before it is on
    again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: deque[datetime] = deque(maxlen=_FAILURES)
        self._off_until: datetime | None = None
        self._times_off = 0
        self._is_tried = False

    def enter(self, name: str, now: datetime) -> None:
        """A call begins; raises `RetryLater` where the plugin is off, or another call tries it."""
        with self._lock:
            if self._off_until is None:
                return
            if now < self._off_until or self._is_tried:
                after = max(self._off_until - now, timedelta(seconds=1))
                raise _Busy(
                    f"Plugin {name} failed too often and is off for {ceil(after.total_seconds())} s.", after=after
                )
            self._is_tried = True

    def left(self) -> None:
        """A call ended before the plugin had anything to do with it."""
        with self._lock:
            self._is_tried = False

    def succeeded(self, name: str) -> None:
        """A call ended as it should."""
        with self._lock:
            if self._off_until is not None and self._is_tried:
                log.warning("plugin %s is on again", name)
                self._off_until = None
                self._failures.clear()
                self._times_off = 0
            self._is_tried = False

    def failed(self, name: str, now: datetime, reason: str) -> None:
        """A call failed."""
        with self._lock:
            if self._off_until is not None and not self._is_tried:
                return  # it began before the plugin was switched off, and says nothing new
            self._failures.append(now)
            is_too_often = len(self._failures) == _FAILURES and now - self._failures[0] <= _WINDOW
            if self._off_until is not None or is_too_often:
                span = min(_OFF * 2**self._times_off, _LONGEST_OFF)
                self._times_off += 1
                self._off_until = now + span
                log.error("plugin %s failed too often (%s) and is off for %d s", name, reason, span.total_seconds())
            self._is_tried = False

    def state(self, now: datetime) -> tuple[Literal["on", "off", "trial"], datetime | None, int]:
        """Whether it is on, until when it is off, and how often it failed of late."""
        with self._lock:
            recent = sum(now - at <= _WINDOW for at in self._failures)
            if self._off_until is None:
                return "on", None, recent
            return "off" if now < self._off_until else "trial", self._off_until, recent


class _Numbers(Collector):
    """Which plugins are up, and the numbers of their own, for the metrics page; made when it is read."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("readingroom_plugin_up", "1 where a plugin is on, 0 where not", labels=["plugin"])
        for state in self._hooks.states():
            up.add_metric([state.name], float(state.state == "on"))
        yield up
        families: dict[str, _Family] = {}
        for answer in self._hooks.decide_all("metrics"):
            for one in answer.value or ():
                _add_number(families, answer.plugin, one)
        yield from families.values()


def _add_number(families: dict[str, _Family], plugin: str, one: results.Metric) -> None:
    """Add one number of a plugin; one that would spoil the page is left out."""
    values = {**one.labels, "plugin": plugin}
    kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    if not all(map(_METRIC_NAME.fullmatch, (one.name, *one.labels))):
        log.warning("plugin %s has a metric with a name that is none", plugin)
        return
    name = f"readingroom_plugin_{one.name}"
    family = families.setdefault(name, kind(name, one.help or one.name, labels=sorted(values)))
    if type(family) is not kind or set(family._labelnames) != set(values):
        log.warning("plugin %s has the metric %s as another has it not", plugin, one.name)
        return
    family.add_metric([values[label] for label in family._labelnames], one.value)
