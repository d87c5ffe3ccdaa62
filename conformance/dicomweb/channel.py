"""The connection that event reports come over: a WebSocket, and what was heard on it (PS3.18 8.10.4, 8.10.5)."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from conformance.dicomweb.checks import Fault

Report = dict[str, Any]

_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 1.0


class Connection(Protocol):
    """What is needed of a WebSocket."""

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message; raises `TimeoutError` where none comes in time."""
        ...


Listen = Callable[[str, Iterable[tuple[str, str]]], AbstractContextManager[Connection]]
"""Opens a WebSocket at a URL, with headers."""


@contextmanager
def listen(url: str, headers: Iterable[tuple[str, str]], *, verify: bool | Path = True) -> Iterator[Connection]:
    """Open a WebSocket as a user agent does that understands event reports.

    Parameters
    ----------
    verify
        Whether certificates are looked at; a path names the authority's own certificates.

    Raises
    ------
    Fault
        The server does not open it.
    """
    parts = urlsplit(url)
    origin = Origin(f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}")
    with ExitStack() as stack:
        try:
            opened = connect(
                url,
                ssl=_context(verify) if parts.scheme == "wss" else None,
                origin=origin,
                subprotocols=[Subprotocol("dicom")],
                additional_headers=list(headers),
                proxy=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=_CLOSE_SECONDS,
            )
            connection = stack.enter_context(opened)
        except (InvalidHandshake, InvalidURI, OSError, TimeoutError) as error:
            raise Fault(f"no WebSocket opens at {url}: {type(error).__name__} {error}") from None
        yield connection


def _context(verify: bool | Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(verify) if isinstance(verify, Path) else None)
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Channel:
    """What an AE hears.

    Attributes
    ----------
    heard
        The messages so far, as they came.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.heard: list[str | bytes] = []

    def hear(self, last: Callable[[Report], bool], *, seconds: float) -> bool:
        """Listen until the last report that is waited for has come; False where it does not come in time."""
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            try:
                message = self._connection.recv(timeout=left)
            except (TimeoutError, ConnectionClosed):
                return False
            self.heard.append(message)
            report = report_of(message)
            if report is not None and last(report):
                return True
        return False


def report_of(message: str | bytes) -> Report | None:
    """The data set of a message; None where it is no JSON object."""
    try:
        found = json.loads(message)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
