"""The WebSocket that the suite listens on: what it is opened with, and when it stops to listen."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from conformance.dicomweb.channel import Channel, listen, report_of
from conformance.dicomweb.checks import Fault
from conformance.dicomweb.peer import Peer
from tests.conftest import absent
from tests.servers import Absent, free_port, program

MESSAGES = ("no JSON", "[1]", '{"first": 1}', '{"last": 1}', '{"more": 1}')


@contextmanager
def speaking(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of a server that says what it was asked with, and then the messages."""

    def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        with suppress(ConnectionClosed):  # who has heard enough goes
            connection.send(json.dumps(dict(connection.request.headers)))
            for message in MESSAGES:
                connection.send(message)

    with serve(handle, "127.0.0.1", 0, ssl=tls, subprotocols=["dicom"]) as server:  # type: ignore[list-item]
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'wss' if tls else 'ws'}://127.0.0.1:{server.socket.getsockname()[1]}/ws"
        finally:
            server.shutdown()
            thread.join()


def test_a_channel_is_opened_with_the_headers_that_every_request_has() -> None:
    headers = {"Authorization": "Bearer secret", "Accept": "image/png"}
    with speaking() as url, httpx.Client(headers=headers) as client:
        peer = Peer(client, url.replace("ws", "http", 1))
        with peer.listen(url) as connection:
            asked = httpx.Headers(json.loads(connection.recv(timeout=10)))
    assert asked["Authorization"] == "Bearer secret"
    assert asked["Sec-WebSocket-Protocol"] == "dicom"
    assert asked["Origin"] == url.replace("ws", "http", 1).removesuffix("/ws")
    assert "Accept" not in asked


def test_a_channel_is_heard_up_to_the_report_that_is_waited_for() -> None:
    with speaking() as url, listen(url, []) as connection:
        channel = Channel(connection)
        assert channel.hear(lambda report: "last" in report, seconds=10)
        assert channel.heard[1:] == list(MESSAGES[:4])
        assert not channel.hear(lambda report: "never" in report, seconds=10), "the server has ended it"
        assert [report_of(message) for message in channel.heard[1:]] == [
            None,
            None,
            {"first": 1},
            {"last": 1},
            {"more": 1},
        ]


def test_a_channel_that_does_not_open_is_a_fault() -> None:
    for url in (f"ws://127.0.0.1:{free_port()}/", "http://127.0.0.1/", ""):
        with pytest.raises(Fault, match="no WebSocket opens"), listen(url, []):
            pass


def test_the_certificate_of_a_channel_is_looked_at_unless_told_otherwise(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    try:
        made = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    except Absent as error:
        absent(error)
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with speaking(tls) as url:
        for verify in (certificate, False):
            with listen(url, [], verify=verify) as connection:
                assert "dicom" in str(connection.recv(timeout=10))
        with pytest.raises(Fault, match="CERTIFICATE_VERIFY_FAILED"), listen(url, []):
            pass
