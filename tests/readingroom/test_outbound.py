"""Requests to addresses that others name: what is sent as it was meant, and what is cut off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from readingroom.errors import GiveUp, RetryLater
from readingroom.outbound import call
from tests.server.fhir.receiver import receiving

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that takes ten seconds over its answer, a byte at a time, so that no wait for one is long."""
    listening = socket.create_server(("127.0.0.1", 0))
    ends = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 170 + b"\r\nContent-Length: 0\r\n\r\n":
                    connection.sendall(bytes([byte]))
                    if ends.wait(0.05):
                        return
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    ends.set()
    thread.join()
    listening.close()


def test_a_request_is_sent_as_it_is_told() -> None:
    with receiving() as hook:
        assert call("PUT", f"{hook.url}/a/b?c=d%20e", b"body", {"X-Own": "1"}, networks=LOOPBACK) == b""
        [got] = hook.take()
    assert (got.method, got.path, got.body) == ("PUT", "/a/b?c=d%20e", b"body")
    assert got.headers["X-Own"] == "1"
    assert got.headers["Host"] == hook.url.removeprefix("http://")


def test_an_answer_that_comes_byte_by_byte_is_cut_off(dripping: str) -> None:
    with pytest.raises(RetryLater, match="did not answer"):
        call("POST", dripping, b"", {}, networks=LOOPBACK, seconds=0.5)


@pytest.mark.parametrize(("status", "error"), [(503, RetryLater), (429, RetryLater), (400, GiveUp), (302, GiveUp)])
def test_a_refusal_says_whether_to_try_again(status: int, error: type[Exception]) -> None:
    with receiving() as hook:
        hook.status = status
        with pytest.raises(error, match=str(status)):
            call("POST", hook.url, b"", {}, networks=LOOPBACK)


def test_what_is_not_allowed_is_not_connected_to() -> None:
    with receiving() as hook:
        with pytest.raises(GiveUp, match="neither of the public Internet"):
            call("POST", hook.url, b"", {})
        assert hook.take() == []
