"""Binds the port, runs the workers, and says where the room is once it answers."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import socket
import tempfile
import threading
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from readingroom.errors import Refused, Unavailable
from server.settings import Settings

# What is being answered when the server is told to stop gets this long to finish.
GRACE_SECONDS = 15

_MAX_MESSAGE_BYTES = 1 << 16
"""Of a WebSocket; what clients send means nothing here."""


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to a loopback address; port 0 takes a free one.

    Raises
    ------
    Refused
        The address is not loopback: there is no TLS here, and nobody logs in yet.
    Unavailable
        The port is taken, or the address is not this machine's.
    """
    if not is_loopback(host):
        raise Refused(
            f"Will not listen on {host}: this release has no TLS, and people do not log in, so anyone who reaches "
            "the port could read and change every study. Listen on 127.0.0.1 (the default), and from another machine "
            f"use 'ssh -L {port or 8780}:127.0.0.1:{port or 8780} THIS-HOST' or a proxy that authenticates."
        )
    return bind_any(host, port)


def bind_any(host: str, port: int) -> socket.socket:
    """A socket bound to any address of this machine; raises `Unavailable` as `bind` does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"Port {port} on {host} is taken, perhaps by another readingroom. "
                f"Stop that one, or choose another port: --port {port + 1 if port < 65535 else 8780}"
            ) from error
        raise Unavailable(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    bound.set_inheritable(True)
    return bound


def serve(settings: Settings, bound: socket.socket, ready: Callable[[str], None]) -> bool:
    """Run until SIGINT or SIGTERM, then finish what is being answered; False if the app did not start.

    The app's own settings come from the environment, in this process and in the workers.

    Parameters
    ----------
    bound
        As from `bind`; closed at the end.
    ready
        Called once, on another thread, with the root URL when the server answers.
    """
    config = uvicorn.Config(
        "server.app:create_app",
        factory=True,
        workers=settings.workers,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=_MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the edge believes only `trusted_proxies`
        timeout_graceful_shutdown=GRACE_SECONDS,
        log_config=logging_config(settings.log_level),
    )
    host, port = bound.getsockname()[:2]
    stopped = threading.Event()
    counts = tempfile.TemporaryDirectory(prefix="readingroom-metrics-")
    threading.Thread(target=_announce, args=(host, port, ready, stopped), daemon=True).start()
    try:
        if settings.workers > 1:
            # Any worker may be asked for /metrics; in this folder each finds the counts of all.
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", counts.name)
            supervisor = Multiprocess(config, sockets=[bound])
            supervisor.run()
            return not any(process.exitcode == uvicorn.config.STARTUP_FAILURE for process in supervisor.processes)
        server = uvicorn.Server(config)
        server.run(sockets=[bound])
        return server.started
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has stopped cleanly
        return True
    except SystemExit:  # the app's start-up failed; the log has said why
        return False
    finally:
        stopped.set()
        bound.close()
        counts.cleanup()


def _announce(host: str, port: int, ready: Callable[[str], None], stopped: threading.Event) -> None:
    while not stopped.wait(0.05):
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
                return
        except OSError:
            continue  # not yet
        finally:
            connection.close()


def logging_config(level: str) -> dict[str, object]:
    """How a process logs, to stderr, for `logging.config.dictConfig`."""
    level = level.upper()
    # uvicorn's own "started process 123" lines say nothing to an operator who has not asked for details.
    uvicorn_level = level if level == "DEBUG" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "uvicorn": {"level": uvicorn_level},
            "uvicorn.error": {"level": uvicorn_level},
            "alembic": {"level": "WARNING"},
            "procrastinate": {"level": "WARNING"},
            "pydicom": {"level": "CRITICAL"},  # its warnings quote values, which may be a patient's
        },
    }
