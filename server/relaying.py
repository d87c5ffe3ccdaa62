"""Carries what waits in the spool of a site to the centre, by STOW-RS (PS3.18 10.5), through outages of any length.

An object leaves the spool only when a Store Instances Response (PS3.18 10.5.3) names it as stored.

| answer | what follows |
|---|---|
| 200, 202, 409 that name it as stored, also with a warning | it has arrived |
| the same, that name it as failed with A7xx | it is sent again, later each time |
| the same, with 0110 or 0213 | the same, and put aside after many times |
| the same, that name it as failed for another reason | it is put aside with the reason |
| the same, that do not name it | it is sent again, and put aside after some times |
| 400, 406, 413, 415, 422 | each is sent again alone; one that is alone is put aside after some times |
| 401, 403, 404, 429, 5yz, what is no answer of a DICOMweb service, none at all | all are sent again, later each time |
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ssl import SSLContext
from typing import Any
from urllib.parse import urlencode, urlsplit

from readingroom.clock import Clock
from readingroom.errors import ReadingRoomError, RetryLater
from readingroom.outbound import Network, Origin, open_socket
from server.bandwidth import Bandwidth, Pace
from server.spooling import Held, Outbox

log = logging.getLogger(__name__)

_DICOM, _JSON = "application/dicom", "application/dicom+json"
_CONNECT_SECONDS, _ANSWER_SECONDS = 20.0, 300.0
_LONGEST_ANSWER = 16 << 20
_LONGEST_RETRY_AFTER = 600
_CHUNK = 64 << 10
_TRIES = 3
"""How often an object is sent that the centre does not take as it is, or does not tell of."""
_OF_ITS_OWN = frozenset({400, 406, 413, 415, 422})
_TAKEN = frozenset({200, 202, 409})
_LATER = frozenset({0x0110, 0x0213})
_OUT_OF_RESOURCES = 0xA7
_MANY_TRIES = 20
_ASKED_TOGETHER = 40

type Authorize = Callable[[], str | None]
"""What the header Authorization says now; None: there is none. Raises what the centre's door says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Centre:
    """Where objects go.

    Attributes
    ----------
    url
        The root of its DICOMweb service.
    networks
        Those beside the public Internet where it may be; without TLS it is in these alone.
    confirms
        Whether it is asked for what it has (QIDO-RS) before that leaves the spool.
    """

    url: str
    authorize: Authorize = lambda: None
    context: SSLContext | None = None
    networks: Sequence[Network] = ()
    confirms: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How much goes at once: small enough that what is urgent does not wait long for what is not."""

    connections: int = 4
    instances: int = 100
    size_bytes: int = 8 << 20


@dataclass(slots=True)
class Told:
    """What the centre has said of a batch: the reason for each that failed, and who is stored."""

    stored: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)


class NotAsItIs(ReadingRoomError):
    """The centre does not read a request."""


class Busy(RetryLater):
    """The centre takes nothing for a while."""


class Unread(ReadingRoomError):
    """An object of the spool cannot be read."""

    def __init__(self, held: Held) -> None:
        super().__init__("The disk of the spool does not give it back.")
        self.held = held


class Relay:
    """Sends what waits, on several connections at once, until it is told to stop.

    Parameters
    ----------
    shortest, longest
        Seconds between two attempts while the centre cannot be reached, at first and at last.
    look
        Seconds between two looks for what an operator wants to be sent again.
    """

    def __init__(
        self,
        outbox: Outbox,
        centre: Centre,
        *,
        clock: Clock,
        batches: Batches | None = None,
        bandwidth: Bandwidth | None = None,
        longest: float = 60.0,
        shortest: float = 1.0,
        look: float = 1.0,
    ) -> None:
        self._outbox = outbox
        self._centre = centre
        self._clock = clock
        self._batches = batches or Batches()
        self._bandwidth = bandwidth or Bandwidth(usual=None)
        self._pace = Pace(time.monotonic)
        self._shortest, self._longest, self._look = shortest, longest, look
        self._lock = threading.Lock()
        self._failures = 0
        self._quiet_until = 0.0
        self._tries = Counter[str]()
        self._state: dict[str, Any] = {"centre": centre.url, "since": clock.now(), "sent": 0, "refused": 0}
        self._is_stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, name=f"relay-{number}", daemon=True)
            for number in range(self._batches.connections)
        ]

    def start(self) -> None:
        """Begin to send."""
        self._tell()
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """End after what is on its way; what takes longer than some seconds goes once more when it is begun again."""
        self._is_stopping.set()
        self._outbox.wake()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def _send(self) -> None:
        link = Link(self._centre)
        while not self._is_stopping.wait(max(self._quiet_until - time.monotonic(), 0)):
            try:
                self._send_some(link)
            except (OSError, HTTPException) as error:
                self._failed(f"The link broke: {type(error).__name__}.")
            except ReadingRoomError as error:
                self._failed(error.message, error.after.total_seconds() if isinstance(error, Busy) else 0.0)
            except Exception:
                # The worker loop: whatever it was, nothing is lost, and it is tried again.
                log.exception("a batch could not be sent")
                self._failed("This program has failed; its log says how.")
            else:
                continue
            link.close()
        link.close()

    def _send_some(self, link: Link) -> None:
        self._outbox.take_up()
        is_closed = self._bandwidth.at(self._clock.now()) == 0
        batch = self._outbox.take(
            most_instances=self._batches.instances,
            most_bytes=self._batches.size_bytes,
            seconds=self._look,
            only_first=is_closed,
        )
        left = {held.name: held for held in batch}
        try:
            if batch:
                self._settle(left, link.store(batch, self._paced))
            elif is_closed:
                self._is_stopping.wait(self._look)
        except Unread as error:
            self._refuse(left.pop(error.held.name), error.message)
            link.close()
        except NotAsItIs as error:
            self._alone(left, error.message)
        finally:
            for held in left.values():
                self._outbox.give_back(held)

    def _settle(self, left: dict[str, Held], told: Told) -> None:
        """Do with each what the answer says of it; in `left` remain those that are sent again."""
        arrived = 0
        for held in list(left.values()):
            reason = told.failed.get(held.instance_uid)
            if held.instance_uid in told.stored:
                self._outbox.done(left.pop(held.name))
                self._tries.pop(held.name, None)
                arrived += 1
            elif reason is None:
                self._count(left, held, "The centre does not say what became of it.")
            elif reason in _LATER:
                self._count(left, held, f"The centre fails at it, with {reason:04X}.", tries=_MANY_TRIES)
            elif reason >> 8 != _OUT_OF_RESOURCES:
                self._refuse(left.pop(held.name), f"The centre refuses it with {reason:04X}.")
        if left:
            self._failed(f"The centre has not taken {len(left)} of {len(left) + arrived} objects yet.")
        if arrived:
            self._arrived(arrived, is_all=not left)

    def _alone(self, left: dict[str, Held], reason: str) -> None:
        """Each of a batch that was refused as a whole goes alone; one that went alone does so some times."""
        if len(left) > 1:
            for held in list(left.values()):
                self._outbox.give_back(left.pop(held.name), alone=True)
            return
        for held in list(left.values()):
            self._count(left, held, reason)
        if left:
            self._failed(reason)

    def _count(self, left: dict[str, Held], held: Held, reason: str, *, tries: int = _TRIES) -> None:
        self._tries[held.name] += 1
        if self._tries[held.name] >= tries:
            self._refuse(left.pop(held.name), reason)

    def _refuse(self, held: Held, reason: str) -> None:
        log.error("instance %s is put aside: %s", held.instance_uid, reason)
        self._tries.pop(held.name, None)
        self._outbox.refuse(held, reason)
        with self._lock:
            self._state["refused"] += 1
        self._tell()

    # -- how it goes -------------------------------------------------------------------------------------------------

    def _arrived(self, count: int, *, is_all: bool) -> None:
        with self._lock:
            if is_all:
                if self._failures:
                    log.info("the centre takes objects again")
                self._failures = 0
                self._quiet_until = 0.0
                for name in ("failing_since", "error"):
                    self._state.pop(name, None)
            self._state["sent"] += count
            self._state["sent_at"] = self._clock.now()
        self._tell()

    def _failed(self, reason: str, after: float = 0.0) -> None:
        """Wait longer each time, each site for another time: when the centre is back, not all come at once."""
        with self._lock:
            if not self._failures:
                log.warning("nothing goes to the centre: %s", reason)
                self._state["failing_since"] = self._clock.now()
            if time.monotonic() >= self._quiet_until:  # others who fail meanwhile do so for the same reason
                longest = min(self._shortest * 2 ** min(self._failures, 16), self._longest)
                self._failures += 1
                wait = max(longest * random.uniform(0.5, 1.0), min(after, _LONGEST_RETRY_AFTER))
                self._quiet_until = time.monotonic() + wait
            self._state["error"] = reason
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            self._outbox.tell(self._state)

    def _paced(self, held: Held, size: int) -> None:
        """Wait until so many bytes of an object may go; what goes first waits for nobody."""
        if held.is_first:
            return
        rate = self._bandwidth.at(self._clock.now())
        if rate and self._is_stopping.wait(self._pace.delay(size, rate)):  # at 0 what has begun is finished
            raise ConnectionAbortedError  # it would take too long


class Link:
    """A connection to the centre that stays open from one batch to the next. For one thread."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._origin = Origin.of(centre.url)
        self._path = urlsplit(centre.url).path.rstrip("/")
        self._connection: HTTPConnection | None = None

    def close(self) -> None:
        """Close it; it is opened anew for the next batch."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def store(self, batch: Sequence[Held], paced: Callable[[Held, int], None]) -> Told:
        """Send objects; what the centre says of them.

        Parameters
        ----------
        paced
            Called before so many bytes of an object go; returns when they may.

        Raises
        ------
        NotAsItIs
            The centre does not read a request like this.
        Unread
            The disk does not give one of them.
        RetryLater
            It takes none now, or nobody knows whether it does.
        OSError, HTTPException
            The link broke.
        """
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode()
        end = f"--{boundary}--\r\n".encode()
        length = sum(len(head) + one.size + 2 for one in batch) + len(end)
        headers = {
            "Content-Type": f'multipart/related; type="{_DICOM}"; boundary={boundary}',
            "Content-Length": str(length),
        }
        status, body = self._ask("POST", f"{self._path}/studies", headers, _parts(batch, head, end, paced))
        if status in _OF_ITS_OWN:
            raise NotAsItIs(f"The centre has answered {status}.")
        if status not in _TAKEN:
            raise RetryLater(f"The centre has answered {status}.")
        told = _told(body)
        if self._centre.confirms and told.stored:
            told.stored &= self._has(sorted(told.stored))
        return told

    def _has(self, uids: Sequence[str]) -> set[str]:
        """Which instances the centre finds (QIDO-RS, PS3.18 10.6)."""
        found: set[str] = set()
        for at in range(0, len(uids), _ASKED_TOGETHER):
            some = uids[at : at + _ASKED_TOGETHER]
            query = urlencode({"SOPInstanceUID": ",".join(some), "limit": len(some)})
            status, body = self._ask("GET", f"{self._path}/instances?{query}", {}, ())
            if status not in (200, 204):
                raise RetryLater(f"The centre has answered {status} when it was asked what it has.")
            rows = _parsed(body) if status == 200 else []
            found |= {uid for row in rows if (uid := _value(row, "00080018"))} if isinstance(rows, list) else set()
        return found

    def _ask(
        self, method: str, target: str, headers: dict[str, str], body: Iterator[bytes] | tuple[()]
    ) -> tuple[int, bytes]:
        authorization = self._centre.authorize()
        given = {"Host": self._origin.netloc, "Accept": _JSON, **headers}
        if authorization is not None:
            given["Authorization"] = authorization
        if self._connection is None:
            sock = open_socket(self._origin, self._centre.networks, _CONNECT_SECONDS, context=self._centre.context)
            sock.settimeout(_ANSWER_SECONDS)
            self._connection = HTTPConnection(self._origin.host, self._origin.port, timeout=_ANSWER_SECONDS)
            self._connection.sock = sock
            self._connection.auto_open = 0  # never to an address that was not looked at
        connection = self._connection
        try:
            connection.request(method, target, body or None, given)
        except (BrokenPipeError, ConnectionResetError):
            # Who refuses a body need not read it to its end; what was said of it may have come.
            with suppress(OSError, HTTPException):
                return self._answer(connection.getresponse())
            raise
        return self._answer(connection.getresponse())

    def _answer(self, response: HTTPResponse) -> tuple[int, bytes]:
        body = response.read(_LONGEST_ANSWER)
        if response.will_close or not response.isclosed():
            self.close()
        if response.status in (429, 503):
            wait = response.headers.get("Retry-After", "")
            after = min(int(wait), _LONGEST_RETRY_AFTER) if wait.isdecimal() and len(wait) < 6 else 0
            raise Busy(f"The centre has answered {response.status}.", after=timedelta(seconds=after))
        return response.status, body


def _parts(batch: Sequence[Held], head: bytes, end: bytes, paced: Callable[[Held, int], None]) -> Iterator[bytes]:
    for held in batch:
        yield head
        left = held.size
        try:
            file = held.path.open("rb", buffering=0)
        except OSError as error:
            raise Unread(held) from error
        with file:
            while left:
                try:
                    chunk = file.read(min(_CHUNK, left))
                except OSError as error:
                    raise Unread(held) from error
                if not chunk:
                    raise Unread(held)
                paced(held, len(chunk))
                yield chunk
                left -= len(chunk)
        yield b"\r\n"
    yield end


def _told(body: bytes) -> Told:
    """What a Store Instances Response says.

    Raises
    ------
    RetryLater
        It is none: whoever has answered is no DICOMweb service.
    """
    answer, told = _parsed(body), Told()
    if not isinstance(answer, dict):
        raise RetryLater("The answer is none of a DICOMweb service; is there a portal in between?")
    for item in _items(answer, "00081199"):
        told.stored.add(_value(item, "00081155"))
    for item in _items(answer, "00081198"):
        reason = _value(item, "00081197")
        told.failed[_value(item, "00081155")] = int(reason) if reason.isdecimal() else 0xC000
    told.stored -= told.failed.keys()
    told.stored.discard("")
    if not told.stored and not told.failed:
        raise RetryLater("The answer does not say what was stored; is the address that of a DICOMweb service?")
    return told


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = answer.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _value(item: Any, tag: str) -> str:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


class Tokens:
    """The token by which the centre knows this site, got anew before it ends. For any thread."""

    def __init__(self, get: Callable[[datetime], tuple[str, int]], clock: Clock) -> None:
        self._get = get
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._until: datetime | None = None

    def __call__(self) -> str:
        """The header Authorization."""
        with self._lock:
            now = self._clock.now()
            if self._until is None or now >= self._until:
                self._token, seconds = self._get(now)
                self._until = now + timedelta(seconds=seconds * 0.8)
            return f"Bearer {self._token}"
