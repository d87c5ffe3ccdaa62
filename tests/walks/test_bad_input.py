"""Hostile senders against a live server: bounded time and memory, nothing left behind, and others are served on."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from urllib.parse import urlsplit

import httpx
import pytest

from tests import multipart
from tests.server.test_stow import BAD, files_below, nested
from tests.servers import Live, live_server
from tests.stow import STUDIES, Answer, send, store
from tests.synthetic import ct_series, part10

MEMORY = 256 << 20
LIMITS = {"max_object_bytes": 4_000_000, "idle_seconds": 1}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("live") / "data", settings=LIMITS) as server:
        yield server


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    """A client, and the proof that the server is as well afterwards as it was before."""
    before = files_below(live.data / "store")
    with httpx.Client(base_url=live.base, timeout=60) as client:
        yield client
        good = ct_series(1)[0]
        assert store(client, part10(good)).status == 200
    assert live.process.poll() is None
    assert live.peak_memory_bytes() <= MEMORY
    after = set(files_below(live.data / "store")) - set(before)
    assert len(after) == 1, f"only the good one is kept: {after}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended: the status (None: the server hung up), and how many bytes of the body it took."""

    status: int | None
    taken: int


def request_by_hand(live: Live, head: str, body: Iterable[bytes], *, seconds: float = 20) -> Ended:
    """Send a request byte by byte until the server answers or hangs up."""
    address = urlsplit(live.base)
    give_up = time.monotonic() + seconds
    taken = 0
    with socket.create_connection((address.hostname, address.port)) as connection:
        start = f"POST {STUDIES} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: */*\r\n{head}\r\n\r\n"
        connection.sendall(start.encode())
        try:
            for piece in body:
                assert time.monotonic() < give_up, f"still taking bytes after {seconds} s"
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.settimeout(seconds)
                connection.sendall(piece)
                taken += len(piece)
            connection.settimeout(seconds)
            answer = connection.recv(4096)
        except ConnectionError:
            return Ended(None, taken)
    return Ended(int(answer.split()[1]) if answer else None, taken)


CHUNKED = f"Content-Type: {multipart.content_type()}\r\nTransfer-Encoding: chunked"


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of a body that has no stated end."""
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def test_a_sender_that_falls_silent_is_let_go(live: Live, client: httpx.Client) -> None:
    begun = time.monotonic()
    opening = b"--XX\r\n\r\n" + part10(ct_series(1)[0])[:500]
    assert request_by_hand(live, CHUNKED, chunked([opening])).status == 400
    assert 0.5 < time.monotonic() - begun < 15


def test_a_sender_that_promises_more_than_it_sends_is_let_go(live: Live, client: httpx.Client) -> None:
    head = f"Content-Type: {multipart.content_type()}\r\nContent-Length: 1000000"
    assert request_by_hand(live, head, [b"--XX\r\n\r\n" + b"x" * 1000]).status == 400


def test_a_sender_that_goes_away_leaves_nothing(live: Live, client: httpx.Client) -> None:
    address = urlsplit(live.base)
    body = multipart.encode(map(part10, ct_series(3)))
    for cut in (100, len(body) // 2, len(body) - 5):
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = (
                f"POST {STUDIES} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n"
            )
            connection.sendall(f"{head}Content-Type: {multipart.content_type()}\r\n\r\n".encode() + body[:cut])
    time.sleep(0.3)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(lambda: [b"--XX\r\n\r\n", *repeat(b"x" * 65536, 5_000)], id="one part without an end"),
        pytest.param(lambda: repeat(b"x" * 65536, 5_000), id="a preamble without an end"),
        pytest.param(
            lambda: [b"--XX\r\n\r\n\r\n--XX--\r\n", *repeat(b"x" * 65536, 5_000)], id="an epilogue without an end"
        ),
        pytest.param(
            lambda: (b"--XX\r\n\r\nno DICOM\r\n" * 3000 for _ in repeat(None, 5_000)), id="parts without an end"
        ),
        pytest.param(
            lambda: [b"--XX\r\n", *(b"X-%d: y\r\n" % number for number in range(100_000))], id="headers without an end"
        ),
    ],
)
def test_a_body_that_never_ends_is_refused_in_time(live: Live, client: httpx.Client, pieces: object) -> None:
    """Three hundred megabytes, where four are the limit of one object: it is not read to its end."""
    assert callable(pieces)
    ended = request_by_hand(live, CHUNKED, chunked(pieces()))
    assert ended.status in (None, 400, 413)
    assert ended.taken < 64 << 20


def test_bombs_at_the_same_time_stay_within_the_memory(live: Live, client: httpx.Client) -> None:
    bomb, deep = BAD["a deflate bomb"](), nested(10_000)
    with ThreadPoolExecutor(4) as pool:
        for response in pool.map(lambda _: send(client, [bomb, deep, bomb, deep]), range(4)):
            assert response.status_code == 409


def test_what_is_refused_is_not_kept_in_memory(live: Live, client: httpx.Client) -> None:
    """Four hundred megabytes of parts that are no DICOM, in one request."""
    body = b"--XX\r\n\r\n" + bytes(4_000_000 - 100) + b"\r\n"
    response = client.post(
        STUDIES, content=(body for _ in range(100)), headers={"Content-Type": multipart.content_type()}
    )
    assert response.status_code == 400, "it has no closing boundary"
    response = client.post(
        STUDIES,
        content=(body if number < 100 else b"--XX--" for number in range(101)),
        headers={"Content-Type": multipart.content_type()},
    )
    assert response.status_code == 409
    assert len(Answer(409, response.json()).unnamed_failures) == 100


def test_requests_that_are_no_http_do_not_disturb(live: Live, client: httpx.Client) -> None:
    address = urlsplit(live.base)
    for nonsense in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"POST " + b"a" * 100_000, b"\r\n" * 1000):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            try:
                connection.recv(1000)
            except ConnectionError:
                continue


@pytest.mark.parametrize(
    "path",
    [
        "/dicomweb/studies/..%2f..%2f..%2fetc%2fpasswd",
        "/dicomweb/studies/1.2/series/%2e%2e/instances/%2e%2e",
        "/dicomweb/studies/1.2'%20OR%20'1'='1/metadata",
        "/dicomweb/studies?StudyInstanceUID=1.2'%20OR%20'1'='1",
        "/dicomweb/studies?PatientName=%27%3B%20DROP%20TABLE%20study%3B--",
        "/dicomweb/studies?PatientID=%00",
        "/dicomweb/studies/" + "1." * 5000,
        "/ohif/..%2f..%2f..%2fetc/passwd",
        "/ohif/%2e%2e/%2e%2e/pyproject.toml",
        "/dicomweb/f/..%2f../studies",
    ],
)
def test_paths_and_keys_that_try_to_break_out_find_nothing(live: Live, client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (200, 204, 400, 404, 414)
    assert "root:" not in response.text
    assert "[project]" not in response.text
    if response.status_code == 200:
        assert path.startswith("/ohif"), "the viewer answers its own page for paths of its own"


def test_nothing_was_written_outside_the_store(live: Live, client: httpx.Client) -> None:
    for make in BAD.values():
        send(client, [make()])
    assert {path.name for path in live.data.parent.iterdir()} <= {"data", "data-tmp", "data-server.log"}
    roots = {path.name for path in live.data.iterdir()}
    assert roots <= {"store", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "tmp"}
