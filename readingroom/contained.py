"""A plugin in a process of its own, as its user sees it: started, called, and killed where it does not behave.

Whatever goes wrong comes as a `PluginFailed` with its reason, and the process is gone then; a plugin that only raised
is kept.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from readingroom.channel import PROTOCOL, Json, Message, Messages, json_of, pack, send
from readingroom.confine import Limits
from readingroom.context import Archive, NoArchive
from readingroom.errors import GiveUp, Invalid, PluginFailed, ReadingRoomError, RetryLater, Unreachable
from readingroom.hooks import Hook
from readingroom.jsonio import to_json
from readingroom.nursery import Forked, Nursery, environment

_AT_ONCE = 1 << 16
_LOGGED_BYTES = 1 << 16
_FLOOD_BYTES = 16 << 20
_LONGEST_LINE = 1000
_LOGGED_MESSAGES = 1000
_END_SECONDS = 2.0
_NICE = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a plugin is started.

    `python` is the interpreter that it is installed for, None for ours; `module` the file or folder of one without an
    entry point, `entry_point` and `version` what is known of one that has it. `settings` are its own, `answer_bytes`
    the longest answer that is taken.
    """

    name: str
    module: str | None = None
    entry_point: str | None = None
    version: str = ""
    python: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    start_seconds: float = 60.0
    stop_seconds: float = 10.0
    answer_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a plugin told of itself when it was loaded; `layers` are what keeps it in its place."""

    hooks: frozenset[str]
    version: str
    contract: str
    layers: tuple[str, ...]


class Contained:
    """One process of a plugin. It makes one call at a time, and is used by one thread at a time.

    Parameters
    ----------
    launch
        How to start it. It is started here, and by the thread that will live longest: the kernel ends the process
        together with that thread.
    now
        The time that the plugin is told.
    nursery
        Where to fork it, which is quicker; not one with an interpreter or an environment of its own.

    Raises
    ------
    PluginFailed
        It cannot be started, or is not right; the message says what.
    """

    def __init__(self, launch: Launch, *, now: datetime, nursery: Nursery | None = None) -> None:
        self.launch = launch
        self._nursery = nursery if launch.python is None and not launch.environment else None
        self._log = logging.getLogger(f"readingroom.plugin.{launch.name}")
        self._messages = Messages(launch.answer_bytes)
        self._sock, self._output, self._process, self._pidfd = self._start()
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._output, select.POLLIN)
        try:
            self.loaded = self._load(now)
        except BaseException:
            self.kill()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.returncode is None and not self._has_ended(0)

    def call(
        self,
        hook: Hook,
        arguments: Mapping[str, Any],
        *,
        limit: timedelta,
        now: datetime,
        archive: Archive | None = None,
        delivery: str = "",
        attempt: int = 1,
    ) -> Any:
        """What the plugin answers, as JSON that is still to be checked: it comes from a stranger.

        Parameters
        ----------
        limit
            How long it may take, without the time that `archive` takes for what it is asked.
        archive
            Answers for the pixels and metadata that the plugin may see.

        Raises
        ------
        PluginFailed
            It failed.
        RetryLater, GiveUp
            It says so.
        """
        (answer,) = self.call_each(
            hook, (arguments,), limit=limit, now=now, archive=archive, delivery=delivery, attempt=attempt
        )
        if isinstance(answer, ReadingRoomError):
            raise answer
        return answer

    def call_each(
        self,
        hook: Hook,
        several: Sequence[Mapping[str, Any]],
        *,
        limit: timedelta,
        now: datetime,
        archive: Archive | None = None,
        delivery: str = "",
        attempt: int = 1,
    ) -> list[Any]:
        """What the plugin answers to each of several calls, for which the way to it and back is gone once.

        Parameters
        ----------
        several
            The arguments of each call. One that is `Json` is sent as it is.
        limit
            How long each may take.

        Returns
        -------
        list
            In their order: JSON as `call` gives it, or the error that it would raise.

        Raises
        ------
        PluginFailed
            It failed in a way that leaves no answer to any of them.
        """
        asked = [json_of({name: _argument(value) for name, value in one.items()}) for one in several]
        message = {
            "do": "call",
            "hook": hook.name,
            "several": Json(b"[%b]" % b",".join(asked)),
            "seconds": limit.total_seconds(),
            "delivery": delivery,
            "attempt": attempt,
        }
        told = self._ask(message, now, limit.total_seconds() * len(several), archive or NoArchive())
        if not isinstance(told, list) or len(told) != len(several) or not all(isinstance(one, dict) for one in told):
            raise self._lost("garbled")
        return [self._failure(one) if "failed" in one else one.get("answer") for one in told]

    def stand_back(self) -> None:
        """Let others have the processors first, from now on and with all that the plugin starts."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self._process.pid, _NICE)
        # A session of its own is a group of its own to the scheduler, where the kernel makes such groups (sched(7)).
        with suppress(OSError), open(f"/proc/{self._process.pid}/autogroup", "w") as group:
            group.write(str(_NICE))

    def stop(self, *, now: datetime) -> int:
        """Let the plugin end what it does, and end its process; gives its exit status, as `kill` does."""
        if self.is_alive:
            with suppress(ReadingRoomError):
                self._ask({"do": "stop"}, now, self.launch.stop_seconds, NoArchive())
                self._has_ended(_END_SECONDS)
        return self.kill()

    def kill(self) -> int:
        """End the process and all that it started; gives its exit status, minus the signal if one ended it."""
        if self._process.returncode is not None:
            return self._process.returncode
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its number is still its own, and that of its group
        status = self._process.wait()
        self._sock.close()
        os.close(self._output)
        os.close(self._pidfd)
        return status

    def _has_ended(self, seconds: float) -> bool:
        """Whether the process ends within a time; its status is left for `kill`."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(seconds * 1000))

    def _start(self) -> tuple[socket.socket, int, subprocess.Popen[bytes] | Forked, int]:
        """A socket to the process, what it prints, the process, and a descriptor of it."""
        with ExitStack() as on_failure, ExitStack() as theirs:
            try:
                sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                on_failure.enter_context(sock)
                theirs.enter_context(other)
                output, write_end = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(output, False)
                on_failure.callback(os.close, output)
                theirs.callback(os.close, write_end)
                if self._nursery is not None:
                    process: subprocess.Popen[bytes] | Forked = self._nursery.fork(self.launch.name, other, write_end)
                else:
                    process = self._started(other.fileno(), write_end)
                pidfd = os.pidfd_open(process.pid)
            except OSError as error:
                raise PluginFailed(f"Plugin {self.launch.name} cannot be started: {error}.", reason="start") from None
            on_failure.pop_all()
            return sock, output, process, pidfd

    def _started(self, channel: int, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                self.launch.python or sys.executable,
                *("-I", "-B", "-m", "readingroom.runner"),
                *(self.launch.name, str(channel), str(os.getpid())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**environment(), **self.launch.environment},
            cwd="/",
            pass_fds=[channel],
            start_new_session=True,
        )

    def _load(self, now: datetime) -> Loaded:
        launch = self.launch
        message = {
            "do": "load",
            "module": launch.module,
            "entry_point": launch.entry_point,
            "version": launch.version,
            "settings": launch.settings,
            "limits": to_json(launch.limits),
            "max_bytes": launch.answer_bytes,
        }
        self._begin()
        try:
            hello = self._wait(launch.start_seconds, NoArchive())
            if hello.get("protocol") != PROTOCOL:
                theirs = str(hello.get("contract"))[:20]
                raise PluginFailed(f"Plugin {launch.name} has readingroom {theirs}, which this server does not know.")
            told = self._ask(message, now, launch.start_seconds, NoArchive())
            return Loaded(
                hooks=frozenset(told["hooks"]),
                version=str(told["version"]),
                contract=str(told["contract"]),
                layers=tuple(told["layers"]),
            )
        except PluginFailed as error:
            raise PluginFailed(error.message, reason="start") from None
        except (TypeError, KeyError):
            raise PluginFailed(f"Plugin {launch.name} does not say what it is.", reason="start") from None

    def _ask(self, message: Message, now: datetime, seconds: float, archive: Archive) -> Any:
        if self._process.returncode is not None:
            raise PluginFailed(f"The process of plugin {self.launch.name} has ended.", reason="crash")
        packed = pack(message | {"now": now.isoformat()})
        self._begin()
        try:
            self._sock.settimeout(seconds)
            send(self._sock, packed)
            told = self._wait(seconds, archive)
        except TimeoutError:
            raise self._lost("time") from None
        except OSError:
            raise self._lost("crash") from None
        except BaseException:
            if self.is_alive:
                self.kill()  # what is still to come would be taken for the answer to the next call
            raise
        if "failed" in told:
            raise self._failure(told)
        return told.get("answer")

    def _failure(self, told: Message) -> ReadingRoomError:
        """What a plugin says that a call came to."""
        text = str(told.get("message"))
        match told["failed"]:
            case "retry" | "unreachable" as how:
                after = told.get("after")
                kind = RetryLater if how == "retry" else Unreachable
                return kind(text, after=timedelta(seconds=min(float(after), 86400)) if after else timedelta(0))
            case "give up":
                return GiveUp(text)
            case "memory":
                self.kill()
                return PluginFailed(f"Plugin {self.launch.name} has no memory left.", reason="memory")
            case "answer":
                return PluginFailed(text, reason="answer")
            case _:
                return PluginFailed(text, reason="error")

    def _begin(self) -> None:
        self._printed = self._logged = self._records = 0

    def _wait(self, seconds: float, archive: Archive) -> Message:
        """The next message that is an answer; what comes before it, prints, logs and questions, is dealt with."""
        until = time.monotonic() + seconds
        while True:
            try:
                message = self._messages.take()
            except Invalid as error:
                raise self._lost("answer" if "more than" in error.message else "garbled") from None
            if message is None:
                self._receive(until)
            elif "log" in message:
                self._log_record(message)
            elif "ask" in message:
                begun = time.monotonic()
                self._reply(message, archive)
                until += time.monotonic() - begun
            else:
                return message

    def _receive(self, until: float) -> None:
        ready = {fd for fd, _ in self._poll.poll(max(until - time.monotonic(), 0) * 1000)}
        if not ready:
            raise self._lost("time")
        if self._output in ready:
            self._read_output()
        if self._sock.fileno() in ready:
            try:
                data = self._sock.recv(_AT_ONCE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise self._lost("crash")
            self._messages.add(data)

    def _reply(self, message: Message, archive: Archive) -> None:
        """Answer what the plugin asks for; what the archive raises is for the plugin to deal with."""
        series_uid = str(message.get("series_uid"))
        self._sock.settimeout(_END_SECONDS)
        try:
            match message["ask"]:
                case "volume":
                    volume = archive.volume(series_uid)
                    told = {"shape": volume.shape, "dtype": volume.dtype, "frames": volume.frames}
                    try:
                        send(self._sock, pack(told), fd=volume.fd)
                    finally:
                        os.close(volume.fd)
                case "instances":
                    send(self._sock, pack({"instances": list(archive.instances(series_uid))}))
                case _:
                    raise self._lost("garbled")
        except PluginFailed:
            raise
        except ReadingRoomError as error:
            send(self._sock, pack({"refused": type(error).__name__, "message": error.message}))

    def _read_output(self) -> None:
        """Log what the plugin prints, up to a limit; beyond it, drop it, and where it never ends, end the plugin."""
        try:
            data = os.read(self._output, _AT_ONCE)
        except BlockingIOError:
            return
        if not data:
            with suppress(KeyError):
                self._poll.unregister(self._output)  # the plugin has closed it
            return
        self._printed += len(data)
        if self._printed > _FLOOD_BYTES:
            raise self._lost("output")
        if self._logged >= _LOGGED_BYTES:
            return
        self._logged += len(data)
        for line in data.decode(errors="replace").splitlines():
            if line.strip():
                self._log.info("%s", line[:_LONGEST_LINE])
        if self._logged >= _LOGGED_BYTES:
            self._log.warning("plugin %s prints more than is logged", self.launch.name)

    def _log_record(self, message: Message) -> None:
        self._records += 1
        level = message["log"]
        if self._records <= _LOGGED_MESSAGES and isinstance(level, int):
            self._log.log(level, "%s", str(message.get("text"))[:_LONGEST_LINE])

    def _lost(self, reason: str) -> PluginFailed:
        """End a process that is of no use any more, and say what it came to."""
        with suppress(OSError, PluginFailed):
            if reason != "output":
                self._read_output()  # its last words may say why
        if reason == "crash":
            self._has_ended(_END_SECONDS)
        status = self.kill()
        if reason == "crash" and status == -signal.SIGXCPU:
            reason = "time"
        how = {
            "crash": f"ended in the middle of it ({_told(status)})",
            "time": "took too long and was ended",
            "output": "printed without end and was ended",
            "answer": f"answered more than {self.launch.answer_bytes:,} bytes and was ended",
            "garbled": "answered what is no message and was ended",
        }[reason]
        return PluginFailed(f"Plugin {self.launch.name} {how}.", reason=reason)


def _told(status: int) -> str:
    if status < 0:
        return signal.strsignal(-status) or f"signal {-status}"
    return f"exit status {status}"


def _argument(value: Any) -> Any:
    # A data set is JSON as it is, and large.
    return value if type(value) in (dict, Json) else to_json(value)
