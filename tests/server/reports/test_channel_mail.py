"""Reports go by mail in an envelope that the recipient alone opens; without one the mail names nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from readingroom.errors import GiveUp, RetryLater, Unreachable
from readingroom.model import Destination, Facility
from readingroom.results import Receipt
from server.reports.channels.mail import MailChannel
from server.reports.delivery import Sending
from storage.destinations import options_problem
from tests.plugins.peers import Post, made_certificate, mail_server
from tests.reports import a_report
from tests.servers import free_port

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
PDF = b"%PDF-1.7 of Jane Doe"
REPORT = a_report()


@pytest.fixture
def post() -> Iterator[Post]:
    with mail_server() as server:
        yield server


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def certificate(folder: Path, key: Any, *, until: datetime = NOW + timedelta(days=1), of: str | None = None) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Desk")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(NOW - timedelta(days=2)).not_valid_after(until)
    if of is not None:
        built = built.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(of)]), critical=False)
    file = folder / "desk.pem"
    file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(file)


def send(port: int, *, address: str = "mailto:desk@mercy.example", **options: Any) -> Receipt:
    told = {"server": "127.0.0.1", "port": port, "security": "none", "sender": "room@example.org", **options}
    if "certificate" not in told:
        told.setdefault("link", "https://room.example.org/")
    assert options_problem("mail", told) is None
    where = Destination(id="desk", facility="local", channel="mail", address=address, options=told)
    sending = Sending(control_id="ab" * 10, attempt=1, at=NOW, facility=Facility(id="local", name="Local"))
    return MailChannel(pdf=lambda _: PDF)(REPORT, where, sending)


def test_the_report_goes_along_where_the_recipient_alone_can_open_it(post: Post, key: Any, tmp_path: Path) -> None:
    file = certificate(tmp_path, key, of="Desk@mercy.example")
    receipt = send(post.port, certificate=file)
    assert (receipt.accepted, receipt.code) == (True, "250")
    assert receipt.reference == f"<{'ab' * 10}@example.org>"
    (mail,) = post.mails
    assert mail["Message-ID"] == receipt.reference
    assert mail.get_content_type() == "application/pkcs7-mime"
    assert mail.get_param("smime-type") == "enveloped-data"
    envelope = mail.get_payload(decode=True)
    assert isinstance(envelope, bytes)
    # Long enough not to stand among random bytes by chance.
    for told in (REPORT.patient_name, "%PDF-1", "haemorrhage"):
        assert str(told).encode() not in mail.as_bytes()
        assert str(told).encode() not in envelope
    owner = x509.load_pem_x509_certificate(Path(file).read_bytes())
    letter = message_from_bytes(pkcs7.pkcs7_decrypt_der(envelope, owner, key, []), policy=policy.default)
    assert isinstance(letter, EmailMessage)
    (attached,) = letter.iter_attachments()
    assert attached.get_content_type() == "application/pdf"
    assert attached.get_payload(decode=True) == PDF


def test_without_a_certificate_the_mail_names_nobody_and_says_where_the_report_is(post: Post) -> None:
    assert send(post.port).accepted
    (mail,) = post.mails
    text = mail.get_content()
    assert f"https://room.example.org/reports/{REPORT.id}.pdf" in text
    assert "final report" in text
    for told in (REPORT.patient_name, REPORT.patient_id, REPORT.accession_number, REPORT.procedure, "Doe", "haem"):
        assert str(told) not in str(mail)


def test_it_is_never_sent_for_a_certificate_that_is_not_right(post: Post, key: Any, tmp_path: Path) -> None:
    with pytest.raises(GiveUp, match="good from"):
        send(post.port, certificate=certificate(tmp_path, key, until=NOW - timedelta(days=1)))
    with pytest.raises(GiveUp, match="another address"):
        send(post.port, certificate=certificate(tmp_path, key, of="other@mercy.example"))
    with pytest.raises(GiveUp, match="not of RSA"):
        send(post.port, certificate=certificate(tmp_path, ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(GiveUp, match="cannot be read"):
        send(post.port, certificate=str(tmp_path / "missing.pem"))
    assert post.mails == []


def test_a_password_goes_over_tls_and_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = made_certificate(tmp_path / "server.pem")
    with mail_server(own) as post:
        signed_in = {"server": "localhost", "security": "starttls", "ca": str(own), "username": "room"}
        monkeypatch.setenv("MAIL_PASSWORD", "correct")
        assert send(post.port, **signed_in, password="MAIL_PASSWORD").accepted
        assert post.users == ["room"]
        monkeypatch.setenv("MAIL_PASSWORD", "wrong")
        assert send(post.port, **signed_in, password="MAIL_PASSWORD").code == "535"
        with pytest.raises(Unreachable):
            send(post.port, server="localhost", security="starttls")  # nobody vouches for its certificate


def test_a_server_without_starttls_gets_nothing(post: Post) -> None:
    with pytest.raises(GiveUp, match="STARTTLS"):
        send(post.port, security="starttls")
    assert post.mails == []


def test_a_reply_for_now_is_tried_again_and_one_for_good_is_a_refusal(post: Post) -> None:
    post.to_recipient = "451 Greylisted"
    with pytest.raises(RetryLater, match="451"):
        send(post.port)
    post.to_recipient = "550 No such user"
    assert send(post.port) == Receipt(accepted=False, code="550", text="No such user")
    post.to_recipient, post.to_data = "250 OK", "452 Full"
    with pytest.raises(RetryLater, match="452"):
        send(post.port)
    post.to_data = "554 Refused"
    assert not send(post.port).accepted
    assert post.mails == []


@contextmanager
def speaking(said: bytes) -> Iterator[int]:
    """Says something to who connects, and hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connected, _ = listening.accept()
        with connected:
            connected.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        thread.join()
        listening.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 hello\r\n"])
def test_what_is_no_mail_server_is_as_one_that_is_away(said: bytes) -> None:
    with speaking(said) as port, pytest.raises(Unreachable):
        send(port)


def test_a_server_that_is_away_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        send(free_port())


def test_an_address_that_is_not_of_ascii_is_not_sent_to(post: Post) -> None:
    with pytest.raises(GiveUp, match="ASCII"):
        send(post.port, address="mailto:d%C3%A9sk@mercy.example")
    with pytest.raises(GiveUp, match="ASCII"):
        send(post.port, address="mailto:desk%0d%0aBcc:x@mercy.example")


def test_options_that_make_no_sense_are_refused() -> None:
    right = {"server": "mail.example.org", "sender": "room@example.org", "link": "https://room.example.org"}
    assert options_problem("mail", right) is None
    for wrong in (
        {"link": ""},
        {"link": "javascript:1"},
        {"username": "room"},
        {"username": "room", "password": "X", "security": "none"},
        {"sender": "room"},
        {"port": 0},
    ):
        assert options_problem("mail", {**right, **wrong}) is not None, wrong


def test_the_same_mail_is_known_for_one(post: Post) -> None:
    assert send(post.port).reference == send(post.port).reference
    assert replace(send(post.port), text="") == Receipt(
        accepted=True, code="250", reference=f"<{'ab' * 10}@example.org>"
    )
