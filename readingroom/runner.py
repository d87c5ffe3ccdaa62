"""The process that one plugin lives in: ``python -m readingroom.runner NAME SOCKET PARENT``.

The server starts it, tells it what to load and what it may have, and then calls one hook after the other. It needs
nothing of ours but `readingroom`, so it runs under whichever interpreter the plugin is installed for.
"""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import readingroom
from readingroom import errors
from readingroom.channel import PROTOCOL, Channel, Message
from readingroom.confine import Limits, confine, die_with_parent, limit_cpu
from readingroom.context import Archive, Context, Dataset, SharedVolume
from readingroom.errors import GiveUp, Invalid, ReadingRoomError, RetryLater, Unreachable
from readingroom.hooks import Hook
from readingroom.hookspecs import HOOKS
from readingroom.jsonio import from_json
from readingroom.plugin import Plugin, WrongAnswer, load_plugin

_LONGEST_TEXT = 2000
_PROCESSORS = os.cpu_count() or 1


class _Server:
    """The other side, as a call sees it: an archive to ask, and a place to log to. From any thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.is_asked = False

    def volume(self, series_uid: str) -> SharedVolume:
        with self._lock:
            told = self._ask("volume", series_uid)
            return SharedVolume(
                fd=self._channel.take_fd(),
                shape=tuple(told["shape"]),
                dtype=told["dtype"],
                frames=tuple((uid, number) for uid, number in told["frames"]),
            )

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        with self._lock:
            found: list[Dataset] = self._ask("instances", series_uid)["instances"]
            return found

    def log(self, level: int, text: str) -> None:
        with self._lock:
            self._channel.send({"log": level, "text": text[:_LONGEST_TEXT]})

    def answer(self, message: Message, max_bytes: int) -> None:
        with self._lock:
            self._channel.send(message, max_bytes=max_bytes)

    def _ask(self, what: str, series_uid: str) -> Message:
        if not self.is_asked:
            raise Invalid("The call is over: there is nothing to ask for any more.")
        self._channel.send({"ask": what, "series_uid": series_uid})
        told = self._channel.receive()
        if "refused" in told:
            kind = getattr(errors, told["refused"], ReadingRoomError)
            raise kind(told["message"])
        return told


class _Log(logging.Handler):
    """Sends records of the plugin to the server's log."""

    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._server.log(record.levelno, self.format(record))
        except OSError:
            self.handleError(record)


class _CallClock:
    """The server's time, going on from the moment of the call."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._begun = time.monotonic()

    def now(self) -> datetime:
        return self._at + timedelta(seconds=time.monotonic() - self._begun)


class Runner:
    """Loads the plugin and answers calls."""

    def __init__(self, name: str, channel: Channel) -> None:
        self._name = name
        self._channel = channel
        self._server = _Server(channel)
        self._log = logging.getLogger(f"readingroom.plugin.{name}")
        self._log.setLevel(logging.DEBUG)
        self._log.propagate = False
        self._log.addHandler(_Log(self._server))
        self._plugin: Plugin | None = None
        self._max_bytes = 1 << 20

    def run(self) -> None:
        """Answer until the server is gone, or says that it is enough."""
        while True:
            message = self._channel.receive()
            self._max_bytes = message.get("max_bytes", self._max_bytes)
            self._server.is_asked = True
            answer = self._answered(message)
            self._server.is_asked = False
            try:
                self._server.answer(answer, self._max_bytes)
            except Invalid as error:
                answer = _failed("answer", error)
                self._server.answer(answer, self._max_bytes)
            if answer.get("failed") == "memory" or message["do"] == "stop":
                return

    def _answered(self, message: Message) -> Message:
        try:
            match message["do"]:
                case "load":
                    return self._load(message)
                case "call":
                    return self._call(message)
                case _:
                    return self._stop(message)
        except BaseException as error:
            return _failure_of(error)

    def _load(self, message: Message) -> Message:
        limits: Limits = from_json(Limits, message["limits"])
        if message["module"] is not None:
            limits = replace(limits, readable=(*limits.readable, message["module"]))
        layers = confine(limits)
        plugin = load_plugin(
            self._name,
            **{name: message[name] for name in ("module", "entry_point", "version", "settings")},
        )
        if "started" in plugin.implemented:
            plugin.call(HOOKS["started"], {}, self._context(plugin, message))
        self._plugin = plugin
        gc.freeze()  # what is loaded stays, and need not be looked through with every call
        return {
            "answer": {
                "hooks": sorted(plugin.implemented),
                "version": plugin.version,
                "contract": readingroom.__version__,
                "layers": layers,
            }
        }

    def _call(self, message: Message) -> Message:
        plugin = self._loaded()
        hook = HOOKS[message["hook"]]
        limit_cpu(message["seconds"] * len(message["several"]) * _PROCESSORS)
        return {"answer": [self._one_call(plugin, hook, told, message) for told in message["several"]]}

    def _one_call(self, plugin: Plugin, hook: Hook, told: Mapping[str, Any], message: Message) -> Message:
        wanted = set(plugin.implemented[hook.name].argnames) & told.keys()
        try:
            arguments = {name: from_json(hook.parameters[name], told[name]) for name in wanted}
            return {"answer": plugin.call(hook, arguments, self._context(plugin, message, archive=self._server))}
        except MemoryError:
            raise
        except BaseException as error:
            return _failure_of(error)  # the others are still to be answered

    def _stop(self, message: Message) -> Message:
        plugin = self._loaded()
        if "stopping" in plugin.implemented:
            plugin.call(HOOKS["stopping"], {}, self._context(plugin, message))
        return {"answer": None}

    def _loaded(self) -> Plugin:
        if self._plugin is None:
            raise Invalid("No plugin has been loaded.")
        return self._plugin

    def _context(self, plugin: Plugin, message: Message, archive: Archive | None = None) -> Context:
        return Context(
            plugin=plugin.name,
            settings=plugin.settings,
            archive=archive,
            clock=_CallClock(datetime.fromisoformat(message["now"]).astimezone(UTC)),
            log=self._log,
            delivery=message.get("delivery", ""),
            attempt=message.get("attempt", 1),
        )


def _failure_of(error: BaseException) -> Message:
    """What is said of what a plugin raised: whatever it is, SystemExit too, is the server's to record."""
    match error:
        case Unreachable():
            return _failed("unreachable", error) | {"after": error.after.total_seconds()}
        case RetryLater():
            return _failed("retry", error) | {"after": error.after.total_seconds()}
        case GiveUp():
            return _failed("give up", error)
        case WrongAnswer():
            return _failed("answer", error)
        case MemoryError():
            return _failed("memory", error)
    return _failed("error", error)


def _failed(how: str, error: BaseException) -> Message:
    """What a call came to: an error of ours in its own words, any other with its class and where it was raised."""
    if isinstance(error, ReadingRoomError):
        text = error.message
    else:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            text += f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})"
    return {"failed": how, "message": text[:_LONGEST_TEXT]}


def main(arguments: Sequence[str]) -> None:
    """Be the process of a plugin."""
    name, fd, parent = arguments
    die_with_parent(int(parent))
    sock = socket.socket(fileno=int(fd))
    sock.set_inheritable(False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # it is a pipe, and the server logs it line by line
    channel = Channel(sock)
    channel.send({"protocol": PROTOCOL, "contract": readingroom.__version__})
    with suppress(EOFError, ConnectionError):  # the server is gone, and so is all that there was to do
        Runner(name, channel).run()
    os._exit(0)  # threads that a plugin has left behind must not keep the process


if __name__ == "__main__":
    importlib.import_module("readingroom.runner").main(sys.argv[1:])
