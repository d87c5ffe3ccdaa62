"""A subscriber's endpoint on the loopback: takes what comes, or does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)

    @property
    def told(self) -> dict[str, Any]:
        """The status information of a notification: by name the values, of events a list."""
        parameters = self.json["entry"][0]["resource"]["parameter"]
        return parameters_of(parameters)


def parameters_of(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Values of parameters by name; those of notification-event as a list of the same."""
    found: dict[str, Any] = {"events": []}
    for one in parameters:
        if one["name"] == "notification-event":
            found["events"].append(parameters_of(one["part"]))
        else:
            value = next(value for name, value in one.items() if name.startswith("value"))
            found[one["name"]] = value["reference"] if isinstance(value, dict) and "reference" in value else value
    if not found["events"]:
        del found["events"]
    return found


@dataclass(slots=True)
class Receiver:
    """Where it listens, what it got, and what it answers: a status for all, or one after the other."""

    url: str
    received: list[Received] = field(default_factory=list)
    status: int = 200
    location: str = ""

    def take(self) -> list[Received]:
        """What came since this was asked last."""
        taken, self.received[:] = list(self.received), []
        return taken


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Answer requests until this is closed."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            receiver.received.append(Received(self.command, self.path, dict(self.headers), body))
            self.send_response(receiver.status)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_GET = _answer

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer((host, 0), Handler)
    receiver = Receiver(f"http://{host}:{listening.server_address[1]}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
