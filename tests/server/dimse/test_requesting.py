"""Calling peers: what they are asked, what they answer, and what becomes of those that answer badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from readingroom.errors import GiveUp, NotAcceptable, ReadingRoomError, Unreachable
from server.associations.association import Context, Limits, Memory, Message, Proposal, Rejected
from server.associations.commands import AFFECTED_INSTANCE, FIELD, N_CREATE, STATUS, CommandSet
from server.associations.requesting import Calling, Unsuccessful, call
from server.dimse_command import tls_context
from server.room import Room
from server.settings import DimsePeer, DimseSettings
from storage.dicomjson import DEFAULT_LIMITS
from storage.part10 import read_front
from tests.certificates import certificates
from tests.dimse import LOOPBACK, serving
from tests.synthetic import ct_series, part10

FIND, MOVE, GET, CT, ECHO, MPPS = map(
    str,
    (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        StudyRootQueryRetrieveInformationModelGet,
        CTImageStorage,
        Verification,
        ModalityPerformedProcedureStep,
    ),
)
SOON = Limits(pdu_seconds=0.5, idle_seconds=0.5)


@contextmanager
def peer_that(
    handlers: dict[Any, Callable[[Any], Any]], *, syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,), most: int = 0
) -> Iterator[DimsePeer]:
    """A peer of pynetdicom that serves with `handlers`."""
    entity = AE(ae_title="PEER")
    entity.maximum_pdu_size = most
    entity.require_called_aet = True
    for sop_class in (FIND, MOVE, GET, ECHO, MPPS):
        entity.add_supported_context(sop_class)
    entity.add_supported_context(CT, list(syntaxes), scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers.items()))
    try:
        yield DimsePeer(ae="PEER", host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()


@contextmanager
def called(peer: DimsePeer, *proposals: Proposal | str, limits: Limits | None = None) -> Iterator[Calling]:
    asked = [one if isinstance(one, Proposal) else Proposal(sop_class=one) for one in proposals]
    with call(peer, asked, calling="US", networks=LOOPBACK, limits=limits or Limits(idle_seconds=20)) as calling:
        yield calling


def study() -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = "1.2.3"
    return identifier


def test_an_echo_is_answered() -> None:
    with peer_that({}) as peer, called(peer, ECHO) as calling:
        assert calling.echo().status == 0
        assert calling.echo().is_kept


@pytest.mark.parametrize("most", [0, 4096, 16382])
def test_an_object_arrives_byte_for_byte_in_the_transfer_syntax_that_was_agreed(most: int) -> None:
    came: list[Any] = []

    def stored(event: Any) -> int:
        came.append((event.request.DataSet.getvalue(), event.request, event.context.transfer_syntax))
        return 0

    (slice_,) = ct_series(1, 64, 64)
    file = part10(slice_)
    begins = read_front(file, DEFAULT_LIMITS).data_set_at
    pieces = [memoryview(file)[place : place + 1000] for place in range(begins, len(file), 1000)]
    with peer_that({evt.EVT_C_STORE: stored}, most=most) as peer:
        wanted = (
            Proposal(sop_class=CT, transfer_syntaxes=(JPEG2000Lossless,)),
            Proposal(sop_class=CT, transfer_syntaxes=(ExplicitVRLittleEndian,)),
        )
        with called(peer, *wanted) as calling:
            assert calling.context_of(CT, JPEG2000Lossless) is None
            context = calling.context_of(CT, ExplicitVRLittleEndian)
            assert context is not None
            assert calling.store(context, slice_.SOPInstanceUID, pieces, originator=("MOVER", 7)).status == 0
            assert calling.store(context, slice_.SOPInstanceUID, [memoryview(file)[begins:]]).status == 0
    for data, request, syntax in came:
        assert data == file[begins:]
        assert (request.AffectedSOPInstanceUID, syntax) == (slice_.SOPInstanceUID, ExplicitVRLittleEndian)
    assert came[0][1].MoveOriginatorApplicationEntityTitle == "MOVER"
    assert came[0][1].MoveOriginatorMessageID == 7


def test_what_is_found_comes_one_by_one_and_no_more_than_is_wanted() -> None:
    cancelled = threading.Event()

    def found(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(1000):
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            answer = Dataset()
            answer.AccessionNumber = f"A{number}"
            yield 0xFF00, answer

    with peer_that({evt.EVT_C_FIND: found}) as peer, called(peer, FIND, ECHO) as calling:
        rows = calling.find(FIND, study(), most=2)
        assert [row.AccessionNumber for row in rows] == ["A0", "A1"]
        assert cancelled.is_set()
        assert calling.echo().status == 0


def test_a_query_that_fails_is_told_with_its_status() -> None:
    def found(event: Any) -> Iterator[tuple[int, None]]:
        yield 0xA700, None

    with (
        peer_that({evt.EVT_C_FIND: found}) as peer,
        called(peer, FIND) as calling,
        pytest.raises(Unsuccessful, match="PEER does not answer the query: A700") as raised,
    ):
        list(calling.find(FIND, study()))
    assert raised.value.status == 0xA700


class Kept:
    """Takes what comes."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str, bytes]] = []

    def open(self, context: Context, command: CommandSet) -> Memory:
        return Memory(most=1 << 20)

    def answer(self, message: Message) -> tuple[int, str]:
        assert isinstance(message.sink, Memory)
        uid = str(message.command[AFFECTED_INSTANCE])
        self.came.append((uid, message.context.transfer_syntax, bytes(message.sink.data)))
        return 0, ""


def test_objects_come_on_the_association_that_asks_for_them() -> None:
    slices = ct_series(3)

    def got(event: Any) -> Iterator[Any]:
        yield len(slices)
        for slice_ in slices:
            yield 0xFF00, slice_

    kept = Kept()
    with (
        peer_that({evt.EVT_C_GET: got}) as peer,
        called(peer, GET, Proposal(sop_class=CT, has_stores=True)) as calling,
    ):
        answers = list(calling.get(GET, study(), kept))
    assert [uid for uid, _, _ in kept.came] == [slice_.SOPInstanceUID for slice_ in slices]
    assert all(data in part10(slice_) for slice_, (_, _, data) in zip(slices, kept.came, strict=True))
    last = answers[-1]
    assert (last.is_over, last.status, last.completed, last.failed) == (True, 0, 3, 0)
    assert [one.remaining for one in answers[:-1]] == [2, 1, 0]


def test_a_move_tells_how_far_it_has_come_and_what_failed() -> None:
    slices = ct_series(2)
    sent: list[str] = []

    def stored(event: Any) -> int:
        sent.append(event.request.AffectedSOPInstanceUID)
        return 0 if len(sent) == 1 else 0xA700

    with peer_that({evt.EVT_C_STORE: stored}) as there:

        def moved(event: Any) -> Iterator[Any]:
            yield "127.0.0.1", there.port, {"ae_title": "PEER", "contexts": [build_context(CT, ExplicitVRLittleEndian)]}
            yield len(slices)
            for slice_ in slices:
                yield 0xFF00, slice_

        with peer_that({evt.EVT_C_MOVE: moved}) as peer, called(peer, MOVE) as calling:
            answers = list(calling.move(MOVE, study(), destination="THERE"))
    last = answers[-1]
    assert (last.status, last.completed, last.failed) == (0xB000, 1, 1)
    assert last.failed_instances == (slices[1].SOPInstanceUID,)


def test_any_other_operation_gives_command_and_data_set_of_its_answer() -> None:
    def created(event: Any) -> tuple[int, Dataset]:
        return 0, event.attribute_list

    step = Dataset()
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    with peer_that({evt.EVT_N_CREATE: created}) as peer, called(peer, MPPS) as calling:
        answer, data = calling.request(MPPS, {FIELD: N_CREATE, AFFECTED_INSTANCE: "1.2.3"}, step)
        assert (answer[STATUS], answer[AFFECTED_INSTANCE]) == (0, "1.2.3")
        assert b"IN PROGRESS" in data
        with pytest.raises(NotAcceptable, match="does not serve"):
            calling.request("1.2.3", {FIELD: N_CREATE})


def test_a_class_in_128_contexts_is_negotiated_and_no_more_are_asked_for() -> None:
    with peer_that({}) as peer:
        with called(peer, *[ECHO] * 128) as calling:
            assert len(calling.contexts) == 128
        with pytest.raises(ReadingRoomError, match="1 to 128"), called(peer, *[ECHO] * 129):
            pass


def test_who_does_not_know_us_says_so() -> None:
    with peer_that({}) as peer:
        other = peer.model_copy(update={"ae": "OTHER"})
        with pytest.raises(Rejected, match="does not have the AE title"), called(other, ECHO):
            pass


def test_an_address_that_is_not_allowed_is_not_called() -> None:
    peer = DimsePeer(ae="PEER", host="127.0.0.1", port=104)
    with pytest.raises(GiveUp, match="neither of the public Internet"), call(peer, [], calling="US"):
        pass
    with pytest.raises(GiveUp, match="has no host"), call(DimsePeer(ae="PEER"), [], calling="US"):
        pass


def test_where_nobody_listens_nobody_is_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        peer = DimsePeer(ae="PEER", host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(Unreachable, match="takes no connection"), called(peer, ECHO):
            pass


def test_over_tls_both_sides_say_who_they_are(room: Room, tmp_path: Path) -> None:
    give = certificates(tmp_path)
    certificate, key = give("server")
    ca = tmp_path / "ca.pem"
    tls = tls_context(DimseSettings(certificate=certificate, key=key, client_ca=ca))
    ours, our_key = map(str, give("us"))
    with serving(room, DimsePeer(ae="US"), tls=tls) as server:
        peer = DimsePeer(ae="READINGROOM", host="127.0.0.1", port=server.port, tls=True, ca=ca)
        asked = [Proposal(sop_class=ECHO)]
        with call(peer, asked, calling="US", networks=LOOPBACK, certificate=ours, key=our_key) as calling:
            assert calling.echo().status == 0
        with pytest.raises(Unreachable), call(peer, asked, calling="US", networks=LOOPBACK):
            pass  # without a certificate of ours
        stranger = peer.model_copy(update={"ca": None})
        with (
            pytest.raises(Unreachable, match="not who it should be"),
            call(stranger, asked, calling="US", networks=LOOPBACK, certificate=ours, key=our_key),
        ):
            pass


# -- who means no good, or is broken -----------------------------------------------------------------------------------


@contextmanager
def peer_that_sends(*answers: bytes, accepts: bool = True) -> Iterator[DimsePeer]:
    """A peer that takes an association for what may be anything, and then sends each of `answers` for a request."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(20)
            asked = whole_pdu(sock)
            for answer in ([accepting(asked)] if accepts else []) + list(answers):
                sock.sendall(answer)
                if answer is not answers[-1]:
                    whole_pdu(sock)
            with suppress(OSError):
                while sock.recv(65536):  # until it is left
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield DimsePeer(ae="PEER", host="127.0.0.1", port=listening.getsockname()[1])
    finally:
        thread.join()
        listening.close()


def whole_pdu(sock: socket.socket) -> bytes:
    data = b""
    while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
        data += sock.recv(65536)
    return data


def accepting(asked: bytes) -> bytes:
    """An A-ASSOCIATE-AC with context 1 in Implicit VR Little Endian."""
    syntax = str(ImplicitVRLittleEndian).encode()
    context = b"\x01\x00\x00\x00" + item(0x40, syntax)
    application, user = item(0x10, b"1.2.840.10008.3.1.1.1"), item(0x50, item(0x51, b"\0\0\x40\0"))
    body = asked[6:74] + application + item(0x21, context) + user
    return b"\x02\x00" + len(body).to_bytes(4, "big") + body


def item(kind: int, content: bytes) -> bytes:
    return bytes((kind, 0)) + len(content).to_bytes(2, "big") + content


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "silent"),
        (b"\x02\x00\x00", "silent"),
        (b"\x02\x00\xff\xff\xff\xff", "none that may come"),
        (b"\x02\x00\x00\x00\x00\x04abcd", "cannot be read"),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", "aborts"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "none that may come"),
    ],
    ids=["silent", "half a PDU", "4 GiB", "no answer", "abort", "no DICOM"],
)
def test_who_does_not_answer_a_request_for_an_association_is_left(answer: bytes, says: str) -> None:
    with (
        peer_that_sends(answer, accepts=False) as peer,
        pytest.raises(Unreachable, match=says),
        called(peer, ECHO, limits=SOON),
    ):
        pass


def response(context: int, *, field: int = 0x8030, to: int = 1) -> bytes:
    elements = b"".join(
        (0).to_bytes(2, "little") + number.to_bytes(2, "little") + b"\2\0\0\0" + value.to_bytes(2, "little")
        for number, value in ((0x100, field), (0x120, to), (0x800, 0x101), (0x900, 0))
    )
    value = (len(elements) + 2).to_bytes(4, "big") + bytes((context, 3)) + elements
    return b"\x04\x00" + len(value).to_bytes(4, "big") + value


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "silent"),
        (b"\x04\x00\x00\x00\x00\x60\x00\x00", "silent"),
        (response(3), "was not accepted"),
        (response(1, to=2), "was not asked"),
        (response(1, field=0x8020), "was not asked"),
        (response(1, field=0x0030), "was not asked"),
        (b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x10\x01\x03", "behind its PDU"),
        (b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00", "releases"),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", "aborted"),
    ],
    ids=["silent", "half", "context", "message", "field", "a request", "value", "release", "abort"],
)
def test_who_answers_a_request_with_something_else_is_left(answer: bytes, says: str) -> None:
    with (
        peer_that_sends(answer) as peer,
        called(peer, ECHO, limits=SOON) as calling,
        pytest.raises(Unreachable, match=says),
    ):
        calling.echo()


def test_contexts_that_were_not_asked_for_are_not_there() -> None:
    with (
        peer_that_sends(b"") as peer,
        called(peer, Proposal(sop_class=CT, transfer_syntaxes=(JPEG2000Lossless,)), limits=SOON) as calling,
    ):
        assert calling.contexts == ()  # it has accepted the class in a transfer syntax of its own choice


def test_who_does_not_release_is_left_all_the_same() -> None:
    with peer_that_sends(response(1)) as peer, called(peer, ECHO, limits=SOON) as calling:
        assert calling.echo().status == 0
