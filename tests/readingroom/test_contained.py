"""What a plugin does wrong, it does to its own process alone; and what it has no use for, it cannot reach."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from readingroom.channel import Json, Messages, pack
from readingroom.confine import Limits
from readingroom.contained import Contained, Launch
from readingroom.context import Dataset, SharedVolume, new_volume
from readingroom.errors import GiveUp, Invalid, NotFound, PluginFailed, RetryLater
from readingroom.hookspecs import HOOKS
from readingroom.model import Series, Study
from tests.conftest import absent

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ARRIVED, TRIAGE = HOOKS["study_arrived"], HOOKS["triage_study"]
LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.3)

PROGRAM = """\
import ctypes, gc, os, signal, socket, subprocess, sys, threading, time
from readingroom import *

@hookimpl
def triage_study(study, ctx):
    scope = globals() | {"study": study, "ctx": ctx}
    exec(study.study_uid, scope)
    return Triage(because=str(scope.get("told", "")))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Contained]:
    """A plugin that does whatever it is told."""
    (tmp_path / "made.py").write_text(PROGRAM)
    child = Contained(Launch(name="made", module=str(tmp_path / "made.py"), answer_bytes=1 << 20), now=NOW)
    yield child
    child.kill()


def do(plugin: Contained, what: str, *, limit: timedelta = LONG, **given: Any) -> str:
    study = Study(study_uid=what, facility="north", patient="p")
    told: str = plugin.call(TRIAGE, {"study": study}, limit=limit, now=NOW, **given)["because"]
    return told


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_plugin_answers_in_another_process(plugin: Contained) -> None:
    assert plugin.loaded.hooks == {"triage_study"}
    assert int(do(plugin, "told = os.getpid()")) not in (os.getpid(), 0)


@pytest.mark.parametrize(
    ("what", "reason", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "crash", "Killed"),
        ("ctypes.string_at(0)", "crash", "Segmentation fault"),
        ("os._exit(3)", "crash", "exit status 3"),
        ("os.abort()", "crash", "Aborted"),
        ("while True: pass", "time", "too long"),
        ("time.sleep(1000)", "time", "too long"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)", "time", "too long"),
        ("gc.collect(); x = bytearray(8 << 30)", "memory", "no memory left"),
        ("while True: print('x' * 100_000)", "output", "printed without end"),
        ("while True: os.write(2, b'x' * 100_000)", "output", "printed without end"),
        (
            "[os.write(fd, b'\\xff' * 65536) for fd in range(3, 200) if os.path.exists(f'/proc/self/fd/{fd}')]",
            "answer",
            "answered more",
        ),
        (
            "[os.close(fd) for fd in range(3, 200) if os.path.exists(f'/proc/self/fd/{fd}')]",
            "crash",
            "ended in the middle",
        ),
    ],
)
def test_a_plugin_that_misbehaves_is_ended_and_it_is_said_how(
    plugin: Contained, what: str, reason: str, says: str
) -> None:
    with pytest.raises(PluginFailed, match=says) as caught:
        do(plugin, what, limit=SHORT if reason == "time" else LONG)
    assert caught.value.reason == reason
    assert not plugin.is_alive
    with pytest.raises(PluginFailed):
        do(plugin, "pass")


@pytest.mark.parametrize(
    ("what", "reason", "says"),
    [
        ("raise ValueError('broken')", "error", r"ValueError: broken \("),
        ("sys.exit(1)", "error", "SystemExit"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("raise Invalid('not so')", "error", "not so"),
        ("raise NotFound('nothing')", "error", "nothing"),
        (
            "sys.setrecursionlimit(10**5)\ndef f(): f()\ntry: f()\nexcept RecursionError: raise ValueError",
            "error",
            "ValueError",
        ),
    ],
)
def test_a_plugin_that_raises_is_kept(plugin: Contained, what: str, reason: str, says: str) -> None:
    with pytest.raises(PluginFailed, match=says) as caught:
        do(plugin, what)
    assert caught.value.reason == reason
    assert do(plugin, "told = 1 + 1") == "2"


def test_a_plugin_may_ask_for_another_time_or_give_up(plugin: Contained) -> None:
    with pytest.raises(RetryLater, match="busy") as caught:
        do(plugin, "from datetime import timedelta\nraise RetryLater('busy', after=timedelta(minutes=5))")
    assert caught.value.after == timedelta(minutes=5)
    with pytest.raises(GiveUp, match="no such modality"):
        do(plugin, "raise GiveUp('no such modality')")
    assert do(plugin, "told = 3") == "3"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("'yes'", "is no Triage"),
        ("Triage(because='x' * (2 << 20))", "more than the"),
        ("Triage(priority='now')", "priority is no"),
        ("Triage(findings=[Finding(text='x', probability=float('nan'))])", "nan"),
        ("lambda: 1", "does not travel"),
    ],
)
def test_an_answer_that_nobody_can_use_is_refused_in_the_child(tmp_path: Path, answer: str, says: str) -> None:
    (tmp_path / "made.py").write_text(
        f"from readingroom import *\n@hookimpl\ndef triage_study(study):\n    return {answer}\n"
    )
    plugin = Contained(Launch(name="made", module=str(tmp_path / "made.py"), answer_bytes=1 << 20), now=NOW)
    try:
        with pytest.raises(PluginFailed, match=says) as caught:
            do(plugin, "")
        assert caught.value.reason == "answer"
        assert plugin.is_alive
    finally:
        plugin.kill()


def test_nothing_that_a_plugin_has_started_outlives_it(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(PROGRAM)
    limits = Limits(subprocesses=True)
    plugin = Contained(Launch(name="made", module=str(tmp_path / "made.py"), limits=limits), now=NOW)
    told = do(plugin, "told = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid")
    with pytest.raises(PluginFailed):
        do(plugin, "os.setsid()")
    # A few: where root runs the tests, no limit of processes would keep a bomb from taking all that the machine has.
    forked = do(plugin, "told = ' '.join(str(os.fork() or time.sleep(1000)) for _ in range(20))")
    plugin.kill()
    deadline = 100
    while deadline and not all(map(is_gone, map(int, [told, *forked.split()]))):
        deadline -= 1
        with pytest.raises(ChildProcessError):
            os.waitpid(int(told), os.WNOHANG)
        subprocess.run(["sleep", "0.05"], check=True)
    assert deadline
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


@pytest.mark.parametrize(
    "what",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.create_connection(('127.0.0.1', 1))",
        "os.kill(os.getppid(), 0)",
        "os.kill(1, 0)",
        "os.kill(-1, 0)",
        "open(f'/proc/{os.getppid()}/environ').read()",
        "open('/etc/passwd').read()",
        "os.listdir('/')",
        "open('/var/readingroom-plugin-was-here', 'w')",
        "os.mkdir('/var/tmp/readingroom-plugin-was-here')",
        "os.chmod(sys.executable, 0o700)",
        "os.chmod('/', 0o700)",
        "os.setsid()",
        "os.setpriority(os.PRIO_PROCESS, 0, -5)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "__import__('resource').prlimit(os.getppid(), 7, (1, 1))",
        "os.unshare(0x10000000)",
        "os.pidfd_open(os.getppid())",
    ],
)
def test_a_plugin_cannot_reach_what_is_not_its_own(plugin: Contained, what: str) -> None:
    layers = " ".join(plugin.loaded.layers)
    if "landlock" not in layers or "seccomp" not in layers:
        absent("a kernel with landlock and seccomp")
    with pytest.raises(PluginFailed, match=r"(PermissionError|BlockingIOError)"):
        do(plugin, what)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("import numpy; told = numpy.arange(4).sum()", "6"),
        ("x = []; t = threading.Thread(target=lambda: x.append(5)); t.start(); t.join(); told = x", "[5]"),
        ("from concurrent.futures import ThreadPoolExecutor as P; told = P(2).submit(abs, -4).result()", "4"),
        ("import zoneinfo; told = zoneinfo.ZoneInfo('America/Chicago')", "America/Chicago"),
        ("import pydantic, json; told = pydantic.TypeAdapter(int).validate_python('3')", "3"),
        ("import asyncio; told = asyncio.run(asyncio.sleep(0, 7))", "7"),
        ("told = len(os.urandom(8))", "8"),
        ("told = ctx.clock.now().isoformat()[:19]", "2026-01-02T03:04:05"),
        ("told = [n for n in os.environ if 'READINGROOM' in n or 'AWS' in n]", "[]"),
        ("print('x'); told = sys.stdin.read()", ""),
    ],
)
def test_a_plugin_can_do_what_it_needs(plugin: Contained, what: str, told: str) -> None:
    assert do(plugin, what) == told


def test_a_plugin_sees_no_secret_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READINGROOM_DATABASE", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "made.py").write_text(PROGRAM)
    plugin = Contained(
        Launch(name="made", module=str(tmp_path / "made.py"), environment={"MODEL": "m1"}, settings={}), now=NOW
    )
    try:
        assert do(plugin, "told = sorted(os.environ.items())").count("secret") == 0
        assert do(plugin, "told = os.environ['MODEL']") == "m1"
    finally:
        plugin.kill()


def test_a_plugin_reads_writes_and_connects_where_its_settings_let_it(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(PROGRAM)
    weights, scratch = tmp_path / "weights", tmp_path / "scratch"
    weights.write_text("w")
    scratch.mkdir()
    limits = Limits(readable=(str(weights),), writable=(str(scratch),), network=True)
    plugin = Contained(Launch(name="made", module=str(tmp_path / "made.py"), limits=limits), now=NOW)
    try:
        assert do(plugin, f"told = open({str(weights)!r}).read()") == "w"
        with pytest.raises(PluginFailed, match="PermissionError"):
            do(plugin, f"open({str(weights)!r}, 'w')")
        do(plugin, f"open({str(scratch / 'x')!r}, 'w').write('1')")
        assert (scratch / "x").read_text() == "1"
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert do(plugin, f"told = socket.create_connection(('127.0.0.1', {port})).getpeername()[1]") == str(port)
        with pytest.raises(PluginFailed, match="PermissionError"):
            do(plugin, "socket.socket(socket.AF_UNIX)")
    finally:
        plugin.kill()


class _Archive:
    """One volume, and one series that is not there."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def volume(self, series_uid: str) -> SharedVolume:
        if series_uid != "1.2":
            raise NotFound(f"There is no series {series_uid} in this call.")
        frames = [(f"1.2.{number}", 1) for number in range(len(self.array))]
        volume, target = new_volume(self.array.shape, self.array.dtype.str, frames)
        target[...] = self.array
        return volume

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        return [{"00080018": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(len(self.array))]


def test_pixels_come_as_shared_memory_that_nobody_can_change(plugin: Contained) -> None:
    volume = np.arange(20 * 512 * 512, dtype="<i2").reshape(20, 512, 512)  # 10 MB, far over what an answer may be
    ask = "v = ctx.pixels.volume('1.2'); told = (v.shape, str(v.dtype), int(v.astype(int).sum()), v.flags.writeable)"
    expected = (volume.shape, "int16", int(volume.astype(int).sum()), False)
    before = len(os.listdir("/proc/self/fd"))
    assert do(plugin, ask, archive=_Archive(volume)) == str(expected)
    assert len(os.listdir("/proc/self/fd")) == before
    told = do(plugin, "told = [f.instance_uid for f in ctx.pixels.layout('1.2').frames]", archive=_Archive(volume[:2]))
    assert told == "['1.2.0', '1.2.1']"


def test_what_the_archive_refuses_is_the_plugins_to_deal_with(plugin: Contained) -> None:
    ask = "\n".join(["try: ctx.pixels.volume('6.6')", "except NotFound as error: told = error.message"])
    assert do(plugin, ask, archive=_Archive(np.zeros((1, 2, 2), "u1"))) == "There is no series 6.6 in this call."


def test_a_thread_that_a_call_left_behind_has_nothing_to_ask(plugin: Contained) -> None:
    archive = _Archive(np.zeros((1, 2, 2), "u1"))
    leave = (
        "def later():\n    time.sleep(0.2)\n    try: ctx.metadata.instances('1.2')\n"
        "    except Exception as error: sys.left = str(error)\n"
        "threading.Thread(target=later, daemon=True).start()"
    )
    do(plugin, leave, archive=archive)
    subprocess.run(["sleep", "0.5"], check=True)
    assert do(plugin, "told = sys.left", archive=archive) == "The call is over: there is nothing to ask for any more."


def test_what_a_plugin_prints_and_logs_is_logged_up_to_a_limit(
    plugin: Contained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    do(plugin, "print('hello', 'you'); ctx.log.warning('careful %d', 3)")
    do(plugin, "for i in range(3000): print('y' * 99)\nfor i in range(2000): ctx.log.info('z')")
    records = [(one.name, one.levelname, one.message) for one in caplog.records]
    assert ("readingroom.plugin.made", "INFO", "hello you") in records
    assert ("readingroom.plugin.made", "WARNING", "careful 3") in records
    assert sum(message == "y" * 99 for _, _, message in records) < 2000
    assert sum(message == "z" for _, _, message in records) == 1000
    assert ("readingroom.plugin.made", "WARNING", "plugin made prints more than is logged") in records


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("import os; os._exit(4)", "exit status 4"),
        ("x = 1", "implements no hook"),
        ("from readingroom import *\n@hookimpl\ndef started(ctx): raise ValueError('no model')", "no model"),
        ("from readingroom import *\n@hookimpl\ndef started(ctx): ctx.pixels.volume('1')", "without a study"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_says_why(tmp_path: Path, program: str, says: str) -> None:
    (tmp_path / "made.py").write_text(program)
    with pytest.raises(PluginFailed, match=says) as caught:
        Contained(Launch(name="made", module=str(tmp_path / "made.py")), now=NOW)
    assert caught.value.reason == "start"


def test_an_interpreter_that_is_not_there_or_lacks_the_contract_is_said(tmp_path: Path) -> None:
    with pytest.raises(PluginFailed, match="cannot be started"):
        Contained(Launch(name="made", python=str(tmp_path / "python")), now=NOW)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(PluginFailed) as caught:
        Contained(Launch(name="made", python=str(bare / "bin" / "python")), now=NOW)
    assert caught.value.reason == "start"


def test_a_plugin_is_told_that_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "made.py").write_text(
        "from readingroom import *\n@hookimpl\ndef stopping(ctx): ctx.log.info('good night')\n"
    )
    plugin = Contained(Launch(name="made", module=str(tmp_path / "made.py")), now=NOW)
    plugin.stop(now=NOW)
    assert not plugin.is_alive
    assert "good night" in caplog.messages


def test_a_plugin_ends_with_the_thread_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(PROGRAM)
    launch = Launch(name="made", module=str(tmp_path / "made.py"))
    with ThreadPoolExecutor(1) as pool:
        plugin = pool.submit(Contained, launch, now=NOW).result()
        assert plugin.is_alive
    assert plugin._process.wait(30) == -signal.SIGKILL
    plugin.kill()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\x7f", b"\x02\0\0\0[]", b"\x01\0\0\0{", b"\x02\0\0\0\xff\xff"])
def test_a_message_that_is_none_is_refused(data: bytes) -> None:
    messages = Messages(100)
    messages.add(data)
    with pytest.raises(Invalid):
        messages.take()


def test_a_message_is_put_together_from_pieces() -> None:
    messages = Messages(100)
    for byte in b"\x07\0\0\0" + b'{"a":1}':
        assert messages.take() is None
        messages.add(bytes([byte]))
    assert messages.take() == {"a": 1}
    assert messages.take() is None


def test_a_message_takes_up_json_that_is_ready() -> None:
    messages = Messages(1000)
    for sent in ({"a": Json(b"[1]"), "b": {"c": 2}, "d": Json(b"null")}, {"a": Json(b"{}")}, {"b": float("1.5")}):
        messages.add(pack(sent))
    assert [messages.take() for _ in range(3)] == [{"a": [1], "b": {"c": 2}, "d": None}, {"a": {}}, {"b": 1.5}]


def test_of_several_calls_each_has_its_own_answer_or_error(plugin: Contained) -> None:
    did = ("told = os.getpid()", "raise GiveUp('no')", "1 / 0", "told = ctx.delivery", "sys.exit(3)")
    asked = [{"study": Study(study_uid=what, facility="north", patient="p")} for what in did]
    first, refused, failed, last, left = plugin.call_each(TRIAGE, asked, limit=LONG, now=NOW, delivery="d")
    assert int(first["because"]) == plugin._process.pid
    assert (type(refused), type(failed), type(left)) == (GiveUp, PluginFailed, PluginFailed)
    assert "ZeroDivisionError" in failed.message
    assert last["because"] == "d"
    assert plugin.is_alive


def test_what_ends_the_process_ends_the_calls_beside_it(plugin: Contained) -> None:
    asked = [{"study": Study(study_uid=what, facility="north", patient="p")} for what in ("told = 1", "os._exit(3)")]
    with pytest.raises(PluginFailed, match="exit status 3"):
        plugin.call_each(TRIAGE, asked, limit=LONG, now=NOW)


def test_a_plugin_that_stands_back_does_so_with_all_that_it_starts(plugin: Contained) -> None:
    do(plugin, "globals()['waiting'] = threading.Event(); threading.Thread(target=waiting.wait, daemon=True).start()")
    plugin.stand_back()
    tasks = [int(one) for one in os.listdir(f"/proc/{plugin._process.pid}/task")]
    assert len(tasks) == 2
    assert {os.getpriority(os.PRIO_PROCESS, task) for task in tasks} == {max(10, os.getpriority(os.PRIO_PROCESS, 0))}


def test_series_may_be_named_by_their_uid_or_given_whole(plugin: Contained) -> None:
    archive = _Archive(np.ones((2, 2, 2), "u1"))
    study = Study(
        study_uid="told = int(ctx.pixels.volume(study.series[0]).sum())",
        facility="north",
        patient="p",
        series=(Series(series_uid="1.2"),),
    )
    told = plugin.call(TRIAGE, {"study": study}, limit=LONG, now=NOW, archive=archive)
    assert told["because"] == "8"
