"""Messages come by MLLP, are kept, and are answered; and what no message is, is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network

import pytest

from readingroom.clock import SetClock
from readingroom.errors import Refused
from readingroom.model import Scope
from server.hl7.keeping import Kept
from server.hl7.listening import Hl7Server
from server.hl7.mllp import framed
from server.hl7_command import require_guarded
from server.listen import bind_any
from server.room import Room
from server.senders import Senders
from server.settings import Hl7Sender, Hl7Settings
from storage.catalog.directory import LatestDirectory, write_facility
from storage.catalog.engine import begin_write
from storage.catalog.inbox import Arrival, StoredMessage, body_of_message, list_messages
from tests.directory import facility
from tests.hl7 import SECONDS, Caller, calling, listening, message


@pytest.fixture
def server(room: Room) -> Iterator[Hl7Server]:
    with listening(room, max_message_bytes=4096, max_per_address=4) as server:
        yield server


@pytest.fixture
def caller(server: Hl7Server) -> Iterator[Caller]:
    with calling(server.port) as caller:
        yield caller


def inbox(room: Room) -> list[StoredMessage]:
    """The oldest first."""
    return list(room.query(list_messages, Scope()))[::-1]


@pytest.mark.rooms("sqlite", "postgres")
def test_a_message_is_kept_as_it_came_before_it_is_acknowledged(caller: Caller, room: Room) -> None:
    sent = message("PID|||4711^^^HOSP", id="M1")
    answer = caller.ask(sent)
    assert (answer.code, answer.control_id) == ("AA", "M1")
    (row,) = inbox(room)
    assert (row.sender, row.control_id, row.kind, row.state) == ("ris", "M1", "ADT^A08", "received")
    assert (row.facility, row.address) == ("local", "127.0.0.1")
    assert room.query(body_of_message, row.id) == sent
    assert [(job.kind, job.lane) for job in room.queue.entries()] == [("hl7.apply", "hl7 local")]


@pytest.mark.rooms("sqlite", "postgres")
def test_the_same_message_again_is_acknowledged_and_kept_once(caller: Caller, room: Room) -> None:
    sent = message("PID|||4711^^^HOSP")
    later = message("PID|||4711^^^HOSP", f7="20261124093100")
    assert [caller.ask(one).code for one in (sent, sent, later)] == ["AA"] * 3
    assert len(inbox(room)) == 1


@pytest.mark.rooms("sqlite", "postgres")
def test_another_message_under_a_known_control_id_is_refused_and_kept(caller: Caller, room: Room) -> None:
    assert caller.ask(message("PID|||4711")).code == "AA"
    assert [caller.ask(message("PID|||4712")).code for _ in range(2)] == ["AR", "AR"]
    assert [row.state for row in inbox(room)] == ["received", "duplicate"]


def test_control_ids_are_of_their_sender(room: Room) -> None:
    senders = {"ris": Hl7Sender(application="RIS"), "his": Hl7Sender(application="HIS", reuses_control_ids=True)}
    with listening(room, senders=senders) as server, calling(server.port) as caller:
        for sent in (message(), message(f3="HIS"), message("PID|||1", f3="HIS")):
            assert caller.ask(sent).code == "AA"
    assert [(row.sender, row.state) for row in inbox(room)] == [
        ("ris", "received"),
        ("his", "received"),
        ("his", "received"),
    ]


def test_who_sends_is_told_by_the_header_and_the_address(room: Room) -> None:
    senders = {
        "north": Hl7Sender(application="RIS", sends_for="NORTH", facility="north"),
        "other": Hl7Sender(application="RIS", facility="mercy"),
        "far": Hl7Sender(application="FAR", networks=(IPv4Network("10.0.0.0/8"),)),
        "shown": Hl7Sender(application="SHOWN", common_name="ris.example.org"),
    }
    with listening(room, senders=senders) as server, calling(server.port) as caller:
        asked = [("RIS", "NORTH", "1"), ("RIS", "X", "2"), ("FAR", "X", "3"), ("SHOWN", "X", "4"), ("NOBODY", "X", "5")]
        codes = [caller.ask(message(f3=one, f4=site, id=id)).code for one, site, id in asked]
    assert codes == ["AA", "AA", "AR", "AR", "AR"]
    assert [(row.sender, row.facility) for row in inbox(room)] == [("north", "north"), ("other", "mercy")]


def test_senders_of_a_facility_in_the_directory_are_known(room: Room) -> None:
    senders = Senders(Hl7Settings(), LatestDirectory(room.engine))
    assert senders.known() == {}
    east = {"application": "RIS", "facility": "EAST", "networks": ["10.0.0.0/8"], "profile": "ans"}
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("mercy", senders=[east]), room.clock.now())
    assert senders.of("RIS", "WEST", address="10.1.2.3") is None
    assert senders.of("RIS", "EAST", address="127.0.0.1") is None
    found = senders.of("RIS", "EAST", address="::ffff:10.1.2.3")
    assert found == ("mercy/RIS|EAST", senders.named("mercy/RIS|EAST"))
    assert found[1].profile == "ans"


def test_anybody_may_send_where_that_is_said(room: Room) -> None:
    with listening(room, any_sender=True) as server, calling(server.port) as caller:
        assert caller.ask(message(f3="NEW", f4="SITE^1.2^ISO")).code == "AA"
    assert [row.sender for row in inbox(room)] == ["NEW|SITE"]


@pytest.mark.parametrize(
    ("accept", "apply", "codes"),
    [
        ("AL", "NE", ["CA"]),
        ("AL", "AL", ["CA", "AA"]),
        ("NE", "AL", ["AA"]),
        ("SU", "", ["CA"]),
        ("ER", "ER", []),
        ("NE", "NE", []),
    ],
)
def test_enhanced_mode_answers_what_is_wanted(caller: Caller, accept: str, apply: str, codes: list[str]) -> None:
    caller.send(framed(message(id="1", f15=accept, f16=apply)) + framed(message(id="2")))
    told = [caller.answer() for _ in range(len(codes) + 1)]
    assert [(one.code, one.control_id) for one in told] == [*((code, "1") for code in codes), ("AA", "2")]


def test_enhanced_mode_tells_what_is_wrong(caller: Caller) -> None:
    assert caller.ask(message(f3="NOBODY", f15="ER", f16="NE")).code == "CR"
    caller.send(framed(message(f3="NOBODY", f15="SU", f16="AL")))
    assert caller.ask(message(id="2")).control_id == "2"


@pytest.mark.parametrize(
    ("sent", "code", "error"),
    [
        (b"", "AR", "102"),
        (b"PID|||4711\r", "AR", "102"),
        (b"\xff\xfeM\x00S\x00H\x00", "AR", "102"),
        (b"FHS|^~\\&|RIS\rBHS|^~\\&|RIS\rMSH|^~\\&|RIS\r", "AR", "102"),
        (b"MSH||||||||||", "AR", "102"),
        (b"MSHMSHMSHMSH", "AR", "102"),
        (b"MSH|^~\\&|RIS|||||||1|P|2.5.1\r", "AR", "101"),
        (b"MSH|^~\\&|RIS||||||ADT^A08||P|2.5.1\r", "AR", "101"),
        (message(id="9" * 300), "AR", "102"),
        (message(f3="X" * 9000), "AR", "102"),
        (message("NTE|1||" + "x" * 5000), "AR", "102"),
        (message(f18="UNICODE UTF-8") + b"PID|||1||M\xfcller\r", "AR", "102"),
        (message(f18="UNICODE UTF-16"), "AR", "103"),
        (message(f3="NOBODY"), "AR", "204"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_the_next_message_is_taken(
    caller: Caller, room: Room, caplog: pytest.LogCaptureFixture, sent: bytes, code: str, error: str
) -> None:
    caller.send(framed(sent))
    answer = caller.raw()
    assert f"MSA|{code}".encode() in answer
    assert f"ERR|||{error}^^HL70357|E".encode() in answer
    assert caller.ask(message(id="next")).code == "AA"
    assert [row.control_id for row in inbox(room)] == ["next"]
    assert "4711" not in caplog.text


def test_a_refusal_names_the_message_that_was_too_long(caller: Caller) -> None:
    assert caller.ask(message("NTE|1||" + "x" * 200_000, id="LONG")).control_id == "LONG"


def test_garbage_between_messages_is_passed_over(caller: Caller) -> None:
    caller.send(b"hello\r\n" + framed(message(id="1")) + b"\x00\x00\x1c\r" + b"x" * 100_000 + framed(message(id="2")))
    assert [caller.answer().control_id for _ in range(2)] == ["1", "2"]


def test_acknowledgements_echo_separators_and_characters_of_the_sender(caller: Caller, room: Room) -> None:
    sent = "MSH*:~\\&*RIS*Zürich**X*1**ADT:A08:ADT_A01*7*P*2.5.1******8859/1\rPID***1**Müller\r".encode("latin-1")
    caller.send(framed(sent))
    lines = caller.raw().decode("latin-1").split("\r")
    fields = lines[0].split("*")
    assert fields[1:6] == [":~\\&", "READINGROOM", "X", "RIS", "Zürich"]
    assert (fields[8], fields[11], fields[17]) == ("ACK:A08:ACK", "2.5.1", "8859/1")
    assert lines[1] == "MSA*AA*7"


def test_an_acknowledgement_is_not_acknowledged(caller: Caller, room: Room) -> None:
    caller.send(framed(message("MSA|AA|1", kind="ACK", id="1")))
    assert caller.ask(message(id="2")).control_id == "2"
    assert len(inbox(room)) == 1


def test_a_message_that_never_ends_closes_its_connection(room: Room) -> None:
    with listening(room, frame_seconds=0.05) as server, calling(server.port) as caller:
        caller.send(b"\x0bMSH|^~\\&|RIS")
        assert caller.is_closed()
        with calling(server.port) as other:
            assert other.ask(message()).code == "AA"


def test_a_connection_without_a_message_is_closed(room: Room) -> None:
    with listening(room, idle_seconds=0.05) as server, calling(server.port) as caller:
        assert caller.is_closed()


def test_who_opens_many_connections_has_the_next_one_closed(server: Hl7Server) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(calling(server.port)) for _ in range(4)]
        assert [one.ask(message(id=str(number))).code for number, one in enumerate(held)] == ["AA"] * 4
        assert stack.enter_context(calling(server.port)).is_closed()
        assert held[0].ask(message(id="again")).code == "AA"


def test_a_catalog_that_does_not_answer_has_the_message_sent_again(
    caller: Caller, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("server.hl7.keeping.keep_messages", fail)
        assert caller.ask(message()).code == "AE"
    assert caller.ask(message()).code == "AA"
    assert len(inbox(room)) == 1


def test_what_has_come_is_answered_when_the_server_stops() -> None:
    kept, has_come = threading.Event(), threading.Event()

    async def keep(_arrival: Arrival) -> Kept:
        has_come.set()
        assert await asyncio.to_thread(kept.wait, SECONDS)
        return "received", True

    settings = Hl7Settings(any_sender=True)
    server = Hl7Server(
        bind_any("127.0.0.1", 0), settings, senders=Senders(settings), keep=keep, facility="local", clock=SetClock()
    )
    thread = threading.Thread(target=server.serve)
    thread.start()
    with calling(server.port) as caller:
        caller.send(framed(message()))
        assert has_come.wait(SECONDS)
        server.stop()
        kept.set()
        assert caller.answer().code == "AA"
        assert caller.is_closed()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("settings", "is_fine"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "any_sender": True}, False),
        ({"host": "0.0.0.0", "any_sender": True, "client_ca": "ca.pem"}, True),
    ],
)
def test_others_reach_the_port_only_where_it_is_known_who_they_are(settings: dict[str, object], is_fine: bool) -> None:
    chosen = Hl7Settings(**settings)  # type: ignore[arg-type]
    if is_fine:
        require_guarded(chosen)
    else:
        with pytest.raises(Refused, match="anybody could send orders"):
            require_guarded(chosen)
