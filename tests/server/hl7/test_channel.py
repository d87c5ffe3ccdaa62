"""A receiver that answers in every way there is, and what becomes of the report."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from readingroom.errors import GiveUp, RetryLater, Unreachable
from readingroom.model import Destination, Facility
from readingroom.results import Receipt
from server.hl7.channel import MOST_ERRORS, Hl7Channel
from server.reports.delivery import Sending
from tests.certificates import certificates
from tests.receiver import Answering, Receiver, acknowledge, answering, receiver
from tests.reports import a_report

LOOPBACK = (IPv4Network("127.0.0.0/8"),)
HERE = Facility(id="local", name="Local")
OTHER = "0" * 20


@pytest.fixture
def ris() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def channel() -> Iterator[Hl7Channel]:
    made = Hl7Channel(pdf=lambda report: b"%PDF", networks=LOOPBACK)
    yield made
    made.close()


def send(channel: Hl7Channel, address: str, control_id: str = "c1", attempt: int = 1, **options: Any) -> Receipt:
    where = Destination(id="ris", facility="local", channel="hl7", address=address, options={"seconds": 0.3, **options})
    at = datetime(2026, 11, 24, tzinfo=UTC)
    return channel(a_report(), where, Sending(control_id=control_id, attempt=attempt, at=at, facility=HERE))


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_what_is_acknowledged_is_accepted(ris: Receiver, channel: Hl7Channel, code: str) -> None:
    ris.usual = answering(code, "thanks")
    assert send(channel, ris.address) == Receipt(accepted=True, code=code, reference="Rc1", text="thanks")


@pytest.mark.parametrize("code", ["AR", "CR"])
def test_what_is_rejected_is_refused(ris: Receiver, channel: Hl7Channel, code: str) -> None:
    ris.usual = answering(code, "unknown patient")
    assert send(channel, ris.address) == Receipt(accepted=False, code=code, reference="Rc1", text="unknown patient")


@pytest.mark.parametrize("code", ["AE", "CE"])
def test_an_error_is_tried_again_and_counts_as_refusal_after_some_times(
    ris: Receiver, channel: Hl7Channel, code: str
) -> None:
    ris.usual = answering(code)
    with pytest.raises(RetryLater, match=code):
        send(channel, ris.address, attempt=MOST_ERRORS - 1)
    assert not send(channel, ris.address, attempt=MOST_ERRORS).accepted


def closes(_: Receiver, peer: Any, __: str) -> None:
    peer.close()


def half(_: Receiver, peer: Any, control_id: str) -> None:
    peer.sendall(acknowledge(control_id)[:40])
    peer.close()


def half_and_hangs(_: Receiver, peer: Any, control_id: str) -> None:
    peer.sendall(acknowledge(control_id)[:40])


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda *_: None, "did not answer in time"),
        (closes, "without a whole answer"),
        (half, "without a whole answer"),
        (half_and_hangs, "did not answer in time"),
        (lambda _, peer, __: peer.sendall(acknowledge(OTHER)), "did not answer in time"),
        (lambda _, peer, __: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "did not answer in time"),
        (lambda _, peer, __: peer.sendall(b"\x0bgarbage\x1c\r"), "did not answer in time"),
        (lambda _, peer, __: peer.sendall(b"\x0b" + b"x" * (2 << 20)), "answers without end"),
        (answering("ZZ"), "no code of HL7 table 0008"),
        (answering(""), "no code of HL7 table 0008"),
    ],
)
def test_what_is_not_answered_is_sent_again_with_the_same_control_id(
    ris: Receiver, channel: Hl7Channel, does: Answering, says: str
) -> None:
    ris.script = [does]
    with pytest.raises(RetryLater, match=says) as raised:
        send(channel, ris.address)
    assert not isinstance(raised.value, Unreachable)  # it holds up this report, and no other
    assert send(channel, ris.address, attempt=2).accepted
    assert ris.control_ids == ["c1", "c1"]


def test_the_answer_to_another_message_is_no_answer_and_the_right_one_is_waited_for(
    ris: Receiver, channel: Hl7Channel
) -> None:
    ris.usual = lambda _, peer, control_id: peer.sendall(acknowledge(OTHER, "AR") + acknowledge(control_id))
    assert send(channel, ris.address).accepted


def test_a_second_answer_does_not_answer_the_next_message(ris: Receiver, channel: Hl7Channel) -> None:
    ris.script = [lambda _, peer, control_id: peer.sendall(acknowledge(control_id) * 2), answering("AR")]
    assert send(channel, ris.address, "c1").accepted
    assert not send(channel, ris.address, "c2").accepted


def test_bytes_between_answers_do_no_harm(ris: Receiver, channel: Hl7Channel) -> None:
    ris.usual = lambda _, peer, control_id: peer.sendall(b"\r\nready>" + acknowledge(control_id).rstrip(b"\r"))
    assert send(channel, ris.address, "c1").accepted
    assert send(channel, ris.address, "c2").accepted
    assert ris.connections == 1


def test_one_connection_is_kept_and_opened_anew_where_the_other_side_has_closed_it(
    ris: Receiver, channel: Hl7Channel
) -> None:
    def once(_: Receiver, peer: Any, control_id: str) -> None:
        peer.sendall(acknowledge(control_id))
        peer.close()

    assert send(channel, ris.address, "c1").accepted
    ris.script = [once]
    assert send(channel, ris.address, "c2").accepted
    assert send(channel, ris.address, "c3").accepted
    assert (ris.connections, ris.control_ids) == (2, ["c1", "c2", "c3"])


def test_a_connection_that_breaks_with_the_next_message_is_opened_anew_at_once(
    ris: Receiver, channel: Hl7Channel
) -> None:
    assert send(channel, ris.address, "c1").accepted
    ris.script = [closes]
    assert send(channel, ris.address, "c2").accepted
    assert ris.control_ids == ["c1", "c2", "c2"]


def test_where_nobody_listens_the_destination_is_unreachable(channel: Hl7Channel) -> None:
    with receiver() as gone:
        address = gone.address
    with pytest.raises(Unreachable):
        send(channel, address)


def test_without_tls_a_receiver_is_in_a_network_that_is_allowed(ris: Receiver) -> None:
    with pytest.raises(GiveUp, match="allowed"):
        send(Hl7Channel(pdf=lambda report: b""), ris.address)
    assert ris.messages == []


def test_a_destination_that_has_moved_gets_a_new_connection(ris: Receiver, channel: Hl7Channel) -> None:
    with receiver() as moved:
        send(channel, ris.address, "c1")
        send(channel, moved.address, "c2")
        assert (ris.control_ids, moved.control_ids) == (["c1"], ["c2"])


def test_the_pdf_goes_along_whole(ris: Receiver, channel: Hl7Channel) -> None:
    send(channel, ris.address, pdf=True)
    assert "^application^pdf^Base64^JVBERg==" in ris.messages[0]


# -- TLS -----------------------------------------------------------------------------------------------------------


def test_over_tls_both_sides_say_who_they_are(tmp_path: Path, channel: Hl7Channel) -> None:
    give = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*give("ris"))
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = map(str, give("readingroom"))
    with receiver(context) as ris:
        address = ris.address.replace("mllp:", "mllps:")
        known = {"ca": str(tmp_path / "ca.pem"), "certificate": certificate, "key": key}
        assert send(channel, address, **known).accepted
        with pytest.raises(Unreachable, match="not who it should be"):
            send(channel, address, certificate=certificate, key=key)
        with pytest.raises(RetryLater):  # without a certificate of ours (TLS 1.3 tells it after the handshake)
            send(channel, address, ca=known["ca"])
        with pytest.raises(GiveUp, match="cannot be read"):
            send(channel, address, ca=str(tmp_path / "none.pem"))
        assert len(ris.messages) == 1


def test_a_receiver_without_tls_gets_nothing_that_is_to_go_over_tls(ris: Receiver, channel: Hl7Channel) -> None:
    ris.is_strict = True
    with pytest.raises(Unreachable):
        send(channel, ris.address.replace("mllp:", "mllps:"))
    # A greeting of TLS has random bytes, and some look like frames.
    assert ris.heard
    assert b"MSH" not in ris.heard
    assert b"PID|" not in ris.heard
