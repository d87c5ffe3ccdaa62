"""The servers that are measured: each starts in a folder of its own, on a free port of its own, and is ended by pid."""

from __future__ import annotations

import abc
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.client import Connection, Reply, WrongAnswer

REPOSITORY = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60
ORTHANC_PLUGINS = (
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/lib/orthanc/libOrthancDicomWeb.so"),
)


class Missing(Exception):
    """A peer is not installed, or does not start."""


class Peer(abc.ABC):
    """A server under measurement.

    Parameters
    ----------
    home
        An empty folder for its data, its settings and its log.
    dimse
        Whether it takes associations too.
    """

    kind: str  # readingroom, orthanc or nginx
    name: str  # its column in the table
    root: str  # what a DICOMweb path starts with
    ready: str  # a path that answers 200 once it serves

    def __init__(self, home: Path, *, dimse: bool = False) -> None:
        self.home = home
        self.port = 0
        self.has_dimse, self.dimse_port = dimse, 0
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)

    @abc.abstractmethod
    def command(self) -> Sequence[str]:
        """Write what settings it needs and give its command line."""

    @classmethod
    @abc.abstractmethod
    def version(cls) -> str:
        """Say what it is and which version; raises Missing where it is not installed."""

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises
        ------
        Missing
            It ended, or was not ready in time; with the last line of its log.
        """
        self.port = free_port()
        self.dimse_port = free_port() if self.has_dimse else 0
        log = self.home / "log.txt"
        with log.open("ab") as out:
            # Without it dcmtk, and so Orthanc, sends each answer some 40 ms late.
            environment = {**os.environ, "TCP_NODELAY": "1"}
            self._process = subprocess.Popen(self.command(), cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                last = (log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"])[-1]
                raise Missing(f"{self.name} does not start: {last}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = Connection(self.port)
        try:
            if connection.exchange(self._head("GET", self.ready)).status != 200:
                return False
            if self.has_dimse:
                socket.create_connection(("127.0.0.1", self.dimse_port), timeout=5).close()
            return True
        except (OSError, WrongAnswer):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def connect(self) -> Connection:
        """Give an open connection."""
        connection = Connection(self.port)
        connection.connect()
        return connection

    def get(self, path: str, accept: str, encoding: str = "identity") -> bytes:
        """Give the head of a GET request; `path` is relative to the DICOMweb root."""
        return self._head("GET", self.root + path, f"Accept: {accept}", f"Accept-Encoding: {encoding}")

    def post(self, path: str, content_type: str, length: int) -> bytes:
        """Give the head of a POST request that stores."""
        fields = (f"Content-Type: {content_type}", f"Content-Length: {length}", "Accept: application/dicom+json")
        return self._head("POST", self.root + path, *fields)

    def _head(self, method: str, path: str, *fields: str) -> bytes:
        lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *fields, "", "")
        return "\r\n".join(lines).encode()

    def pids(self) -> list[int]:
        """List its processes, children of children too."""
        assert self._process is not None
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int(_stat_fields(int(entry.name))[1])
                except OSError:
                    continue  # it ended meanwhile
        family = [self._process.pid]
        for pid in family:
            family += [child for child, parent in parents.items() if parent == pid]
        return family

    def cpu_seconds(self) -> float:
        """Sum the processor time that its processes have used, user and system."""
        return sum(sum(int(ticks) for ticks in _stat_fields(pid)[11:13]) for pid in self.pids()) / TICKS

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """Sum a field of /proc/<pid>/status over its processes: VmRSS now, VmHWM at the most ever, RssAnon."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total

    def forget_peaks(self) -> None:
        """Let the peaks of its processes' memory begin anew, from what they hold now (proc(5), clear_refs)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _stat_fields(pid: int) -> list[str]:
    # The name in parentheses may hold spaces; field 0 here is the process state.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Readingroom(Peer):
    """This server."""

    kind = "readingroom"
    name = "readingroom"
    root = "/dicomweb"
    ready = "/readyz"

    def __init__(self, home: Path, *, workers: int = 1, dimse: bool = False) -> None:
        super().__init__(home, dimse=dimse)
        self.workers = workers

    @classmethod
    def version(cls) -> str:
        described = subprocess.run(
            ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
        python = ".".join(str(part) for part in sys.version_info[:3])
        return f"readingroom {described.stdout.strip() or 'of unknown revision'} on Python {python}"

    def command(self) -> Sequence[str]:
        data = str(self.home / "data")
        options = ("--data", data, "--port", str(self.port), "--workers", str(self.workers))
        if self.has_dimse:
            config = self.home / "readingroom.toml"
            config.write_text(f"[dimse]\nport = {self.dimse_port}\nany_caller = true\nany_called = true\n")
            options = (*options, "--config", str(config))
        return (sys.executable, "-m", "server.cli", "serve", *options)


class Orthanc(Peer):
    """Debian's Orthanc with its DICOMweb plugin, with or without HTTP compression.

    It cannot listen on loopback alone, so it is told to refuse everybody else.
    """

    kind = "orthanc"
    root = "/dicom-web"
    ready = "/system"

    def __init__(self, home: Path, *, compression: bool = False, dimse: bool = False) -> None:
        super().__init__(home, dimse=dimse)
        self.compression = compression
        self.name = "Orthanc, HTTP compression" if compression else "Orthanc"

    @classmethod
    def version(cls) -> str:
        _program("Orthanc")
        packages = {}
        for package in ("orthanc", "orthanc-dicomweb"):
            shown = subprocess.run(
                ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
            )
            packages[package] = shown.stdout.partition("+")[0].partition("-")[0] or "of unknown version"
        if not any(path.exists() for path in ORTHANC_PLUGINS):
            raise Missing("Orthanc's DICOMweb plugin is not installed: apt-get install orthanc-dicomweb")
        return f"Orthanc {packages['orthanc']} + DICOMweb {packages['orthanc-dicomweb']}"

    def command(self) -> Sequence[str]:
        settings = {
            "StorageDirectory": str(self.home / "data"),
            "IndexDirectory": str(self.home / "data"),
            "StorageCompression": False,
            "SyncStorageArea": True,  # durable, as this server is
            "OverwriteInstances": True,
            "HttpPort": self.port,
            "HttpCompressionEnabled": self.compression,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "DicomServerEnabled": self.has_dimse,
            "DicomPort": self.dimse_port,
            "MaximumPduLength": 131072,
            # Who is not this client at this address may not do anything.
            "DicomModalities": {"bench": ["BENCH", "127.0.0.1", 104]},
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(next(path for path in ORTHANC_PLUGINS if path.exists()))],
            "DicomWeb": {"Enable": True, "Root": self.root + "/", "EnableWado": False, "SeriesMetadata": "Full"},
        }
        (self.home / "data").mkdir(exist_ok=True)
        config = self.home / "orthanc.json"
        config.write_text(json.dumps(settings, indent=1))
        return (_program("Orthanc"), str(config))

    def twin(self, home: Path, *, compression: bool) -> Orthanc:
        """Give another one that holds the same data; neither may run while it is made.

        Its stored files are hard links, since they never change; its index is a copy.
        """
        other = Orthanc(home, compression=compression)
        shutil.copytree(self.home / "data", other.home / "data", copy_function=_link_or_copy)
        return other


def _link_or_copy(source: str, target: str) -> str:
    if Path(source).name.startswith("index"):
        return str(shutil.copy2(source, target))
    os.link(source, target)
    return target


class Nginx(Peer):
    """nginx, serving as files what another peer answered: the limit of what the machine can do."""

    kind = "nginx"
    name = "nginx, same bytes"
    root = ""
    ready = "/ready"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._files: dict[str, str] = {}
        self._extensions: dict[str, str] = {}
        (home / "www").mkdir()
        (home / "www" / "ready").write_text("ready\n")

    @classmethod
    def version(cls) -> str:
        shown = subprocess.run([_program("nginx"), "-v"], capture_output=True, text=True, check=True)
        return shown.stderr.strip().rpartition(": ")[2].replace("/", " ")

    def keep(self, path: str, reply: Reply) -> None:
        """Serve this reply under this path from the next start on, compressed to whoever takes gzip."""
        content_type = reply.headers["content-type"]
        extension = self._extensions.setdefault(content_type, f"t{len(self._extensions)}")
        name = self._files.setdefault(path, f"/{len(self._files)}.{extension}")
        file = self.home / "www" / name[1:]
        file.write_bytes(reply.body)
        if reply.headers.get("content-encoding") == "gzip":
            file.with_name(file.name + ".gz").write_bytes(reply.coded)

    def get(self, path: str, accept: str, encoding: str = "identity") -> bytes:
        if path not in self._files:
            raise WrongAnswer(f"no peer answered {path}, so nginx cannot")
        return super().get(self._files[path], accept, encoding)

    def command(self) -> Sequence[str]:
        types = "".join(f"'{content_type}' {extension};\n" for content_type, extension in self._extensions.items())
        temporary = "".join(
            f"{kind}_temp_path {self.home}/tmp;\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.home / "nginx.conf"
        config.write_text(
            f"""
            {user}
            daemon off; worker_processes auto; pid {self.home}/nginx.pid; error_log {self.home}/error.log;
            events {{ worker_connections 256; }}
            http {{
                {temporary}
                types {{ {types} }}
                default_type application/octet-stream;
                access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; gzip_static on;
                keepalive_requests 1000000; open_file_cache max=4000;
                server {{ listen 127.0.0.1:{self.port}; root {self.home}/www; }}
            }}
            """
        )
        return (_program("nginx"), "-e", str(self.home / "error.log"), "-p", str(self.home), "-c", str(config))


def compress(reply: Reply) -> Reply:
    """Give the reply as a peer with compression would have sent it."""
    if reply.headers.get("content-encoding") == "gzip":
        return reply
    raw = memoryview(gzip.compress(reply.body, 6))
    headers = {**reply.headers, "content-encoding": "gzip", "transfer-encoding": ""}
    return Reply(status=reply.status, headers=headers, raw=raw, seconds=reply.seconds, done_at=reply.done_at)


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise Missing(f"{name} is not installed: apt-get install {name.lower()}")
    return found


def free_port() -> int:
    """Find a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
