"""Servers that the tests start for themselves: on free loopback ports, ended by their own process id.

Nothing here is shared between processes, so each worker of pytest-xdist has its own PostgreSQL and its own S3.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
from psycopg import sql

REPOSITORY = Path(__file__).parents[1]
PATIENCE_SECONDS = 10.0


class Absent(Exception):
    """A program that a test needs is not on this machine."""


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str, *folders: Path) -> str:
    """The path of a program: in `folders`, beside this Python, or on the PATH; raises `Absent`."""
    places = [*folders, Path(sys.executable).parent]
    found = next((str(place / name) for place in places if (place / name).exists()), None) or shutil.which(name)
    if found is None:
        raise Absent(f"the program {name} is not on this machine")
    return found


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    is_ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    seconds: float = 60,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, wait until it is ready, and end it on the way out; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env, cwd=REPOSITORY, user=user
        )
    try:
        wait_until(is_ready, process, log, seconds=seconds)
        yield process
    finally:
        end(process, stop)


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    """Wait until a started program answers; says what it printed where it ended or took too long."""
    give_up = time.monotonic() + seconds
    while not is_ready():
        ended = process.poll()
        if ended is not None or time.monotonic() > give_up:
            why = f"took more than {seconds:.0f} s" if ended is None else f"ended with {ended}"
            raise RuntimeError(f"{process.args!r} {why}; it printed:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes], stop: signal.Signals = signal.SIGTERM) -> None:
    """End a process that we started: asked first, killed when our patience ends."""
    if process.poll() is None:
        process.send_signal(stop)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def answers(url: str) -> bool:
    """Whether an HTTP server answers there without an error of its own."""
    try:
        return httpx.get(url, timeout=5).status_code < 500
    except httpx.TransportError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A PostgreSQL server with a superuser that needs no password, on loopback."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """The URL of a fresh database, a copy of `template`."""
        name = f"t_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def cut_off(self, url: str) -> None:
        """End every connection to a database and allow no new one, as an outage does."""
        name = url.rsplit("/", 1)[1]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def let_in(self, url: str) -> None:
        """End the outage."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true")
            connection.execute(statement.format(sql.Identifier(url.rsplit("/", 1)[1])))

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(url.rsplit("/", 1)[1])))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own. It need not flush: what is killed in most tests is our server, not this one."""
    with postgres_to_start(synchronous_commit="off") as (found, start), start(signal.SIGINT):
        yield found


type Start = Callable[[signal.Signals], AbstractContextManager[object]]


@contextmanager
def postgres_to_start(*, synchronous_commit: str = "on") -> Iterator[tuple[Postgres, Start]]:
    """A PostgreSQL server of our own that does not run yet, and what runs it until a signal ends it, again and again.

    It refuses to run as root, so under root it runs as its own system user. SIGINT ends it well, and SIGQUIT as a crash
    would, after which nothing is lost of what it has answered for. Only a crash of the machine would lose that.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    initdb, server = program("initdb", *installed), program("postgres", *installed)
    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="readingroom-postgres-"))
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        make = [initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"]
        make += ["-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, user=user, cwd=folder)
        options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
        options |= {"max_connections": "200", "shared_buffers": "64MB"}
        options |= {"fsync": "off", "synchronous_commit": synchronous_commit, "full_page_writes": "off"}
        command = [server, "-D", str(folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        found = Postgres(port=port)

        def is_ready() -> bool:
            try:
                psycopg.connect(found.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                return False
            return True

        def start(stop: signal.Signals) -> AbstractContextManager[object]:
            return running(command, log=folder / "log", is_ready=is_ready, user=user, stop=stop)

        yield found, start
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """An S3 server with one bucket; each test writes below a prefix of its own."""

    endpoint: str
    bucket: str = "readingroom-tests"
    access_key: str = "tests"
    secret_key: str = "tests-secret"

    def new_store(self) -> str:
        """The URL of an empty place in the bucket."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    def settings(self) -> dict[str, str]:
        """The settings of a server that keeps its objects here, in an empty place."""
        return {
            "store": self.new_store(),
            "s3_endpoint": self.endpoint,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
        }


@contextmanager
def moto() -> Iterator[S3]:
    """moto's S3, which keeps everything in memory: quick, and strict about the protocol."""
    port = free_port()
    found = S3(endpoint=f"http://127.0.0.1:{port}")
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="readingroom-moto-") as folder,
        running(command, log=Path(folder) / "log", is_ready=lambda: answers(found.endpoint)),
    ):
        httpx.put(f"{found.endpoint}/{found.bucket}", timeout=30).raise_for_status()
        yield found


@contextmanager
def seaweed() -> Iterator[S3]:
    """SeaweedFS with its S3 gateway: a real server that keeps objects on disk."""
    ports = {
        name: str(free_port())
        for name in (
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        )
    }
    found = S3(endpoint=f"http://127.0.0.1:{ports['s3.port']}")
    with tempfile.TemporaryDirectory(prefix="readingroom-seaweed-") as folder:
        options = ports | {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": "256",
            "volume.max": "40",
            "volume.preStopSeconds": "0",
            "filer": "true",
            "filer.localSocket": f"{folder}/filer.sock",
            "s3": "true",
            "s3.localSocket": f"{folder}/s3.sock",
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
        }
        command = [program("weed"), "-logtostderr=true", "server", *(f"-{key}={options[key]}" for key in options)]
        # Its own way to stop takes ten seconds, and nothing of it is kept.
        with running(
            command,
            log=Path(folder) / "log",
            is_ready=lambda: answers(found.endpoint),
            env=os.environ | {"HOME": folder},
            stop=signal.SIGKILL,
        ):
            httpx.put(f"{found.endpoint}/{found.bucket}", timeout=30).raise_for_status()
            yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A readingroom server in a process of its own, as an operator runs it."""

    base: str
    data: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def dicomweb(self) -> str:
        return f"{self.base}/dicomweb"

    def peak_memory_bytes(self) -> int:
        """The largest resident set (VmHWM) that any process of the server has had."""
        return max(_peak(pid) for pid in [self.process.pid, *children(self.process.pid)])


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def environment(settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """This process's environment with `settings` of ours and none that the user has."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("READINGROOM_")}
    env["READINGROOM_CONFIG"] = os.devnull
    return env | {f"READINGROOM_{name.upper()}": str(value) for name, value in (settings or {}).items()}


@contextmanager
def live_server(
    data: Path,
    *,
    workers: int = 1,
    settings: Mapping[str, object] | None = None,
    module: Sequence[str] = ("server.cli",),
    port: int | None = None,
    python: str | Path = sys.executable,
) -> Iterator[Live]:
    """Our own server on a free port; `module` may be one that wraps ``server.cli``, with its own arguments."""
    port = port or free_port()
    base = f"http://127.0.0.1:{port}"
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / f"{data.name}-server.log"
    command = [str(python), "-m", *module, "serve", "--data", str(data), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", str(workers)]
    # What a killed server leaves in its temporary folder goes with the test's own.
    temporary = data.parent / f"{data.name}-tmp"
    temporary.mkdir(exist_ok=True)
    env = environment(settings) | {"TMPDIR": str(temporary)}
    with running(command, log=log, is_ready=lambda: answers(f"{base}/readyz"), env=env) as process:
        yield Live(base=base, data=data, log=log, process=process)
