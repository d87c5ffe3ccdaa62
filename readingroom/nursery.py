"""Where the processes of plugins come from: a process that has imported what each of them needs, and forks.

An interpreter takes most of its start to import, and each plugin would anew. The one here is a process of a single
thread that never loads a plugin and knows nothing of the server, so that what it hands down is the contract alone. It
serves plugins of this interpreter that have no environment of their own; others are started (`readingroom.contained`).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from readingroom.confine import die_with_parent

_LONGEST = 1 << 16
_PATIENCE_SECONDS = 30.0


class Forked:
    """A process that was forked; `returncode` is its exit status once it was waited for, minus the signal if one ended
    it."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        """Its exit status, once it has ended; until then its number is nobody else's."""
        if self.returncode is None:
            self.returncode = self._nursery.status_of(self.pid)
        return self.returncode


class Nursery:
    """Forks processes for plugins, from any thread; all of them end with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The kernel ends a process together with the thread that started it: this one lives as long as the nursery.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="nursery")
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def fork(self, name: str, sock: socket.socket, output: int) -> Forked:
        """A process that is `readingroom.runner` for a plugin, with a socket to it and what it prints to.

        Raises
        ------
        OSError
            It cannot be had.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._starter.submit(self._start).result()
            return Forked(self, self._ask({"fork": name}, [sock.fileno(), output])["pid"])

    def status_of(self, pid: int) -> int:
        """The exit status of a process that has ended, or is about to."""
        with self._lock:
            try:
                return self._ask({"wait": pid})["status"]
            except OSError:
                return -signal.SIGKILL  # the nursery has ended, and all that it forked with it

    def close(self) -> None:
        """End it, and what it has forked."""
        with self._lock:
            if self._process is not None and self._sock is not None:
                self._sock.close()
                self._process.wait()
        self._starter.shutdown()

    def _start(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(_PATIENCE_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "readingroom.nursery", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment(),
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def _ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, int]:
        assert self._sock is not None
        assert self._process is not None
        try:
            socket.send_fds(self._sock, [json.dumps(message).encode()], fds)
            answer = self._sock.recv(_LONGEST)
        except TimeoutError:
            self._process.kill()  # what it might still answer would be taken for the answer to the next question
            raise
        if not answer:
            self._process.wait()
            raise ConnectionError("the process that plugins are forked from has ended")
        told: dict[str, int] = json.loads(answer)
        if "errno" in told:
            raise OSError(told["errno"], os.strerror(told["errno"]))
        return told


def environment() -> dict[str, str]:
    """What a plugin may know of ours: no secret is in it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return {"HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **kept}


def main(arguments: Sequence[str]) -> None:
    """Be the process that forks, until the server is gone."""
    fd, parent = arguments
    die_with_parent(int(parent))
    sock = socket.socket(fileno=int(fd))
    sock.set_inheritable(False)
    importlib.import_module("readingroom.runner")  # and with it all that it imports
    with suppress(ImportError):
        # What plugins describe their settings with: the first model has it import the rest of itself.
        importlib.import_module("pydantic").create_model("Settings", number=(int, 0), name=(str | None, None))
    gc.collect()
    gc.freeze()
    while True:
        data, fds, _flags, _address = socket.recv_fds(sock, _LONGEST, 2)
        if not data:
            return
        answer = _answer(json.loads(data), fds, sock)
        sock.send(json.dumps(answer).encode())


def _answer(message: Mapping[str, Any], fds: list[int], sock: socket.socket) -> dict[str, int]:
    try:
        if "wait" in message:
            return {"status": os.waitstatus_to_exitcode(os.waitpid(message["wait"], 0)[1])}
        return {"pid": _fork(message["fork"], fds, sock)}
    except OSError as error:
        return {"errno": error.errno or 0}
    finally:
        for fd in fds:
            os.close(fd)


def _fork(name: str, fds: Sequence[int], sock: socket.socket) -> int:
    """Fork; when this returns, the child is a session and a group of its own, which can be killed."""
    from readingroom import runner

    mine, theirs = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for fd in (mine, theirs):
                os.close(fd)
            sock.close()  # a plugin has no business with it
            channel, output = fds
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            runner.main([name, str(channel), str(parent)])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(theirs)
    os.read(mine, 1)  # until the child has closed its end, or is gone
    os.close(mine)
    return pid


if __name__ == "__main__":
    importlib.import_module("readingroom.nursery").main(sys.argv[1:])
