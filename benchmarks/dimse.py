"""DIMSE: C-STORE, C-FIND and C-ECHO over associations of its own making; all bytes are ready before the clock runs."""

from __future__ import annotations

import itertools
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from statistics import median
from time import perf_counter

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from benchmarks import phantom
from benchmarks.client import WrongAnswer, crowd
from benchmarks.measure import Goal, Row, Sample, Workload
from benchmarks.peers import Peer
from server.associations.commands import (
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    C_ECHO,
    C_FIND,
    C_STORE,
    DATA_SET_TYPE,
    FIELD,
    HAS_DATA_SET,
    MESSAGE_ID,
    NO_DATA_SET,
    PRIORITY,
    STATUS,
    CommandSet,
    read_command,
    write_command,
)
from server.dimse.service import encode
from storage.part10 import IMPLEMENTATION_CLASS_UID

VERIFICATION, STUDY_ROOT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
CALLING = "BENCH"
PDU = 131_072
SLOW, IDLE, IDLE_SECONDS = 60, 50, 5.0

_fresh = itertools.count(200_000)
_HEAD = struct.Struct(">BxL")
_VALUE = struct.Struct(">BxLLBB")


class Caller:
    """An association that is asked for."""

    def __init__(self, port: int, *sop_classes: str, source: str = "127.0.0.1") -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._sock.makefile("rb", buffering=1 << 16)
        self._sock.sendall(_request(sop_classes))
        kind, _ = self._pdu()
        if kind != 2:
            raise WrongAnswer(f"an association was answered by a PDU of type {kind}")

    def exchange(self, message: bytes) -> list[CommandSet]:
        """Send a message and give the commands that answer it, up to the last."""
        self._sock.sendall(message)
        answers = []
        while not answers or answers[-1][STATUS] in (0xFF00, 0xFF01):
            answers.append(self._answer())
        return answers

    def close(self) -> None:
        """Release it."""
        self._sock.sendall(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        self._pdu()
        self._file.close()
        self._sock.close()

    def _answer(self) -> CommandSet:
        command, is_command, is_last = bytearray(), True, False
        answer: CommandSet | None = None
        while answer is None or not is_last or (is_command and answer[DATA_SET_TYPE] != NO_DATA_SET):
            kind, body = self._pdu()
            if kind != 4:
                raise WrongAnswer(f"a PDU of type {kind} came for an answer")
            place = 0
            while place < len(body):
                length = int.from_bytes(body[place : place + 4], "big")
                header = body[place + 5]
                is_command, is_last = bool(header & 1), bool(header & 2)
                if is_command:
                    command += body[place + 6 : place + 4 + length]
                    if is_last:
                        answer = read_command(command)
                place += 4 + length
        return answer

    def _pdu(self) -> tuple[int, bytes]:
        head = self._file.read(6)
        if len(head) < 6:
            raise WrongAnswer("the peer has hung up")
        kind, length = _HEAD.unpack(head)
        return kind, self._file.read(length)


def _request(sop_classes: Sequence[str]) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = CALLING, "ANY"
    most, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    most.maximum_length_received = PDU
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    primitive.user_information = [most, implementation]
    contexts = [build_context(one, ExplicitVRLittleEndian) for one in sop_classes]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    encoded: bytes = A_ASSOCIATE_RQ(primitive).encode()
    return encoded


def _message(command: CommandSet, data: bytes = b"", *, context: int = 1) -> bytes:
    parts = []
    for header, whole in ((1, write_command(command)), (0, data)):
        for place in range(0, len(whole), PDU - 6):
            part = whole[place : place + PDU - 6]
            last = 2 if place + PDU - 6 >= len(whole) else 0
            parts.append(_VALUE.pack(4, len(part) + 6, len(part) + 2, context, header | last) + part)
    return b"".join(parts)


def _store(number: int, file: bytes) -> bytes:
    """The request that stores a Part 10 file."""
    meta = dcmread(BytesIO(file), specific_tags=[], stop_before_pixels=True).file_meta
    command: CommandSet = {
        AFFECTED_CLASS: str(meta.MediaStorageSOPClassUID),
        FIELD: C_STORE,
        MESSAGE_ID: number,
        PRIORITY: 0,
        DATA_SET_TYPE: HAS_DATA_SET,
        AFFECTED_INSTANCE: str(meta.MediaStorageSOPInstanceUID),
    }
    return _message(command, file[144 + meta.FileMetaInformationGroupLength :])


def _query(number: int, identifier: Dataset) -> bytes:
    command: CommandSet = {
        AFFECTED_CLASS: STUDY_ROOT,
        FIELD: C_FIND,
        MESSAGE_ID: number,
        PRIORITY: 0,
        DATA_SET_TYPE: HAS_DATA_SET,
    }
    return _message(command, encode(identifier, ExplicitVRLittleEndian))


_ECHO = _message({AFFECTED_CLASS: VERIFICATION, FIELD: C_ECHO, MESSAGE_ID: 1, DATA_SET_TYPE: NO_DATA_SET})


def _storing(*, associations: int, count: int) -> Callable[[Peer], Sample]:
    def run(peer: Peer) -> Sample:
        series = [phantom.ct_series(next(_fresh), count) for _ in range(associations)]
        messages = [[_store(number, file) for number, file in enumerate(files, 1)] for files in series]
        spans = crowd([_sender(peer, own) for own in messages])
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return Sample(values=(associations * count / seconds,), requests=associations * count)

    return run


def _sender(peer: Peer, messages: list[bytes]) -> Callable[[Callable[[], object]], tuple[float, float]]:
    def work(go: Callable[[], object]) -> tuple[float, float]:
        caller = Caller(peer.dimse_port, CT)
        go()
        started = perf_counter()
        statuses = [caller.exchange(message)[-1][STATUS] for message in messages]
        ended = perf_counter()
        caller.close()
        if any(statuses):
            raise WrongAnswer(f"objects were answered by {sorted({f'{status:04X}' for status in statuses})}")
        return started, ended

    return work


def _finding(size: int) -> Callable[[Peer], Sample]:
    def run(peer: Peer) -> Sample:
        caller = Caller(peer.dimse_port, STUDY_ROOT)
        chosen = random.Random(size)
        seconds = []
        for number in range(1, 101):
            study = phantom.SmallStudy(number=chosen.randrange(size))
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "STUDY"
            identifier.AccessionNumber = study.accession
            for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "StudyDate", "ModalitiesInStudy"):
                setattr(identifier, keyword, "")
            message = _query(number, identifier)
            started = perf_counter()
            answers = caller.exchange(message)
            seconds.append(perf_counter() - started)
            if len(answers) != 2 or answers[-1][STATUS]:
                raise WrongAnswer(f"one study was asked for, and {len(answers)} answers came")
        caller.close()
        return Sample(values=(median(seconds) * 1000,), requests=len(seconds))

    return run


def _echo_among_slow_ones(peer: Peer) -> Sample:
    """How long a new association and a C-ECHO take while others hold half a PDU each."""
    held = []
    try:
        for number in range(SLOW):
            source = f"127.0.0.{2 + number % 4}"  # of one address there may be fewer
            slow = socket.create_connection(("127.0.0.1", peer.dimse_port), timeout=60, source_address=(source, 0))
            slow.sendall(b"\x01\0\0")
            held.append(slow)
        started = perf_counter()
        caller = Caller(peer.dimse_port, VERIFICATION)
        (answer,) = caller.exchange(_ECHO)
        seconds = perf_counter() - started
        caller.close()
        if answer[STATUS]:
            raise WrongAnswer(f"C-ECHO was answered by {answer[STATUS]:04X}")
    finally:
        for slow in held:
            slow.close()
    return Sample(values=(seconds * 1000,), requests=1)


def _idle(peer: Peer) -> Sample:
    """The share of a core that associations take of which nobody asks anything."""
    callers = [Caller(peer.dimse_port, VERIFICATION, source=f"127.0.0.{2 + n % 4}") for n in range(IDLE)]
    before = peer.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    used = peer.cpu_seconds() - before
    for caller in callers:
        caller.close()
    return Sample(values=(used / IDLE_SECONDS * 100,), requests=1)


WORKLOADS = (
    Workload(
        name="cstore-1",
        rows=(
            Row(
                title="C-STORE, 1 association",
                unit="inst/s",
                goals=(Goal(limit=1.5, against="orthanc"),),
                aims=(Goal(limit=400),),
            ),
        ),
        run=_storing(associations=1, count=100),
    ),
    Workload(
        name="cstore-4",
        rows=(
            Row(
                title="C-STORE, 4 associations",
                unit="inst/s",
                goals=(Goal(limit=1.5, against="orthanc"),),
                aims=(Goal(limit=600),),
            ),
        ),
        run=_storing(associations=4, count=50),
    ),
    Workload(
        name="cecho-slow",
        rows=(Row(title=f"C-ECHO, while {SLOW} slow peers are held", goals=(Goal(limit=1000),)),),
        run=_echo_among_slow_ones,
        kinds=frozenset({"readingroom"}),
    ),
    Workload(
        name="cidle",
        rows=(Row(title=f"{IDLE} idle associations, of a core", unit="%", goals=(Goal(limit=2),)),),
        run=_idle,
        kinds=frozenset({"readingroom"}),
    ),
)


def finding(size: int) -> list[Workload]:
    """What is asked of an index of so many studies."""
    row = Row(title="C-FIND, one study by its accession number", goals=(Goal(limit=5),))
    return [Workload(name="cfind", rows=(row,), run=_finding(size))]
