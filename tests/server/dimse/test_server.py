"""Associations: what peers of all kinds send, and what they get."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind, Verification
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as STUDY_ROOT

from readingroom.errors import Invalid, Refused
from server.associations.association import Context
from server.associations.commands import AFFECTED_CLASS, AFFECTED_INSTANCE, CommandSet
from server.dimse.server import DimseServer
from server.dimse.service import encode
from server.dimse.services import all_services
from server.dimse.storing import Storing
from server.dimse_command import require_guarded, tls_context
from server.listen import bind_any
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings
from tests.catalog import fill, header
from tests.conftest import absent
from tests.servers import free_port, live_server
from tests.stow import AS_STORED
from tests.synthetic import ct_series, new_uid, part10

PEERS = {"ct": DimsePeer(ae="CT1"), "reader": DimsePeer(ae="READER", may_store=False)}
USUAL = {"pdu_seconds": 5.0, "idle_seconds": 20.0, "max_per_address": 8, "max_associations": 10}


@pytest.fixture
def dimse(room: Room, request: pytest.FixtureRequest) -> Iterator[DimseServer]:
    """A server of associations over `room`; a test may change its settings by the marker `dimse`."""
    marker = request.node.get_closest_marker("dimse")
    settings = DimseSettings(**{"peers": PEERS, **USUAL, **(marker.kwargs if marker else {})})
    storing = Storing(ingest=room.ingest, memory_bytes=1 << 20, most_bytes=8 << 20)
    services = all_services(room, ae_title=settings.ae_title)
    server = DimseServer(bind_any("127.0.0.1", 0), settings, storing, services, peers=Peers(settings), facility="local")
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.stop()
    thread.join()


def associate(server: DimseServer, *, ae: str = "CT1", called: str = "READINGROOM", most: int = 16382) -> Any:
    requester = AE(ae_title=ae)
    requester.acse_timeout = requester.dimse_timeout = requester.network_timeout = 20
    requester.add_requested_context(Verification)
    requester.add_requested_context(PatientRootQueryRetrieveInformationModelFind)
    requester.add_requested_context(STUDY_ROOT)
    requester.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    requester.add_requested_context("1.2.3.4.5.6.7.8.9", ExplicitVRLittleEndian)
    return requester.associate("127.0.0.1", server.port, ae_title=called, max_pdu=most)


def held(client: httpx.Client, dataset: Dataset) -> bytes:
    """The instance as it is kept."""
    path = f"/dicomweb/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    answer = client.get(f"{path}/instances/{dataset.SOPInstanceUID}", headers=AS_STORED)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_an_echo_is_answered(dimse: DimseServer) -> None:
    association = associate(dimse)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    assert association.is_released


@pytest.mark.parametrize("most", [1024, 16382, 0])
def test_what_is_stored_is_kept_byte_for_byte_before_success_is_told(
    dimse: DimseServer, client: httpx.Client, most: int
) -> None:
    (slice_,) = ct_series(1)
    association = associate(dimse, most=most)
    assert association.send_c_store(slice_).Status == 0
    kept = held(client, slice_)
    association.release()
    sent = part10(slice_)
    read = dcmread(BytesIO(kept))
    begins = sent.index(b"\x08\x00", 132 + 12 + int.from_bytes(sent[140:144], "little"))
    assert kept.endswith(sent[begins:])
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"


def test_an_object_too_large_for_memory_goes_through_a_file(dimse: DimseServer, client: httpx.Client) -> None:
    (slice_,) = ct_series(1, 800, 800)
    association = associate(dimse)
    assert association.send_c_store(slice_).Status == 0
    assert dcmread(BytesIO(held(client, slice_))).PixelData == slice_.PixelData
    association.release()


def test_an_object_that_is_too_large_is_refused_and_the_next_is_stored(dimse: DimseServer) -> None:
    (large,) = ct_series(1, 2100, 2100)
    (small,) = ct_series(1)
    association = associate(dimse)
    assert association.send_c_store(large).Status == 0xC000
    assert association.send_c_store(small).Status == 0
    association.release()


def test_the_same_object_twice_is_a_success_twice(dimse: DimseServer) -> None:
    (slice_,) = ct_series(1)
    association = associate(dimse)
    assert [association.send_c_store(slice_).Status for _ in range(2)] == [0, 0]
    association.release()


def test_an_object_of_a_class_that_nobody_knows_is_kept(dimse: DimseServer, client: httpx.Client) -> None:
    (private,) = ct_series(1)
    private.SOPClassUID = private.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5.6.7.8.9"
    association = associate(dimse)
    assert association.send_c_store(private).Status == 0
    association.release()
    assert dcmread(BytesIO(held(client, private))).SOPClassUID == "1.2.3.4.5.6.7.8.9"


def test_a_data_set_that_is_of_another_instance_than_the_command_is_refused(room: Room) -> None:
    (slice_,) = ct_series(1)
    storing = Storing(ingest=room.ingest, memory_bytes=1 << 20, most_bytes=8 << 20)
    context = Context(id=1, abstract_syntax=CTImageStorage, transfer_syntax=ExplicitVRLittleEndian)
    sent = part10(slice_)
    begins = sent.index(b"\x08\x00", 132 + 12 + int.from_bytes(sent[140:144], "little"))
    for instance, status in ((new_uid(), 0xA900), (slice_.SOPInstanceUID, 0)):
        command: CommandSet = {AFFECTED_CLASS: str(CTImageStorage), AFFECTED_INSTANCE: str(instance)}
        sink = storing.open(context, command, "CT1")
        sink.write(memoryview(sent)[begins:])
        assert storing.store(context, command, sink, facility="local", source="CT1")[0] == status


def test_a_data_set_without_a_study_cannot_be_kept_and_the_next_can(dimse: DimseServer) -> None:
    broken, whole = ct_series(2)
    del broken.StudyInstanceUID
    association = associate(dimse)
    assert association.send_c_store(broken).Status == 0xC000
    assert association.send_c_store(whole).Status == 0
    association.release()


def test_who_may_not_store_can_still_ask_whether_anybody_is_there(dimse: DimseServer) -> None:
    association = associate(dimse, ae="READER")
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(ct_series(1)[0]).Status == 0x0124
    association.release()


@pytest.mark.parametrize(("ae", "called", "diagnostic"), [("STRANGER", "READINGROOM", 3), ("CT1", "ELSEWHERE", 7)])
def test_titles_that_are_not_known_are_rejected(dimse: DimseServer, ae: str, called: str, diagnostic: int) -> None:
    association = associate(dimse, ae=ae, called=called)
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == diagnostic


def test_an_operation_that_is_not_served_is_answered_and_the_association_goes_on(dimse: DimseServer) -> None:
    association = associate(dimse)
    status, _ = association.send_n_get([0x00100010], Verification, new_uid())
    assert status.Status == 0x0211
    assert association.send_c_echo().Status == 0
    association.release()


# -- what is there -----------------------------------------------------------------------------------------------------


def ask(association: Any, level: str, model: Any = STUDY_ROOT, **keys: Any) -> list[Any]:
    """The status of each answer with its data set."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value)
    return [(status.Status, answer) for status, answer in association.send_c_find(identifier, model)]


def found(answers: list[Any]) -> list[Dataset]:
    *pending, (last, nothing) = answers
    assert (last, nothing) == (0, None)
    assert {status for status, _ in pending} <= {0xFF00, 0xFF01}
    return [answer for _, answer in pending]


@pytest.fixture
def filled(dimse: DimseServer, room: Room) -> DimseServer:
    for number, name in enumerate(("Doe^Jane", "Doe^John", "Müller^Jürgen")):
        for series in ("CT", "SR"):
            fill(
                room.engine,
                header(
                    StudyInstanceUID=f"1.2.{number}",
                    SeriesInstanceUID=f"1.2.{number}.{len(series)}.{ord(series[0])}",
                    SOPInstanceUID=new_uid(),
                    Modality=series,
                    PatientName=name,
                    PatientID=f"P{number % 2}",
                    StudyDate=f"2026112{number}",
                    AccessionNumber=f"A{number}",
                ),
            )
    return dimse


def test_studies_are_found_with_what_was_asked_for(filled: DimseServer) -> None:
    association = associate(filled)
    keys = {"PatientName": "Doe^*", "StudyInstanceUID": "", "AccessionNumber": "", "ModalitiesInStudy": ""}
    rows = found(ask(association, "STUDY", **keys, StudyDate="20261120-20261121", InstitutionName=""))
    assert {row.AccessionNumber for row in rows} == {"A0", "A1"}
    assert sorted(rows[0].ModalitiesInStudy) == ["CT", "SR"]
    assert rows[0].QueryRetrieveLevel == "STUDY"
    assert rows[0].RetrieveAETitle == "READINGROOM"
    assert rows[0].InstitutionName in ("", None)
    (one,) = found(ask(association, "STUDY", AccessionNumber="A2", PatientName=""))
    assert one.PatientName == "Müller^Jürgen"
    assert found(ask(association, "STUDY", AccessionNumber="A9")) == []
    association.release()


def test_series_instances_and_patients_are_found(filled: DimseServer) -> None:
    association = associate(filled)
    series = found(ask(association, "SERIES", StudyInstanceUID="1.2.0", SeriesInstanceUID="", Modality="CT"))
    assert [row.Modality for row in series] == ["CT"]
    images = found(
        ask(
            association,
            "IMAGE",
            StudyInstanceUID="1.2.0",
            SeriesInstanceUID=series[0].SeriesInstanceUID,
            SOPInstanceUID="",
        )
    )
    assert len(images) == 1
    model = PatientRootQueryRetrieveInformationModelFind
    patients = found(ask(association, "PATIENT", model, PatientID="", PatientName=""))
    assert sorted(row.PatientID for row in patients) == ["P0", "P1"]
    association.release()


def test_a_level_that_is_none_and_a_value_that_cannot_be_are_told(filled: DimseServer) -> None:
    association = associate(filled)
    assert ask(association, "PATIENT", PatientID="")[-1][0] == 0xA900
    assert ask(association, "WORLD", PatientID="")[-1][0] == 0xA900
    assert ask(association, "STUDY", StudyDate="yesterday")[-1][0] == 0xC000
    assert association.send_c_echo().Status == 0
    association.release()


def test_what_another_facility_has_is_not_found(filled: DimseServer, room: Room) -> None:
    fill(room.engine, header(StudyInstanceUID="1.9", SOPInstanceUID=new_uid(), PatientID="X"), facility="other")
    association = associate(filled)
    assert found(ask(association, "STUDY", PatientID="X")) == []
    association.release()


def test_a_query_that_is_cancelled_ends(filled: DimseServer, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(40):
        fill(room.engine, header(StudyInstanceUID=new_uid(), SOPInstanceUID=new_uid(), PatientID="MANY"))
    is_cancelled = threading.Event()
    given = []

    def held(answer: Any, transfer_syntax: str) -> bytes:
        given.append(answer)
        if len(given) == 2:  # the first has gone: there is no second before the peer has asked for no more
            assert is_cancelled.wait(20)
        if len(given) > 2:
            time.sleep(0.1)  # pynetdicom sends on a thread of its own
        return encode(answer, transfer_syntax)

    monkeypatch.setattr("server.dimse.service.encode", held)
    association = associate(filled)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientID = "MANY"
    statuses = []
    for status, _ in association.send_c_find(identifier, STUDY_ROOT, msg_id=7):
        statuses.append(status.Status)
        if len(statuses) == 1:
            association.send_c_cancel(7, query_model=STUDY_ROOT)
            is_cancelled.set()
    assert statuses[-1] == 0xFE00
    assert len(given) < 40
    association.release()


# -- who means no good, or is broken -----------------------------------------------------------------------------------


def raw(server: DimseServer) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.settimeout(20)
    return sock


def told(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    data = b""
    try:
        while part := sock.recv(4096):
            data += part
    except ConnectionResetError:
        pass
    sock.close()
    return data


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x04\x00\x00\x00\x00\x04abcd",
        b"\x01\x00\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\x00\x08\x00\x01\x00\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x00\x44" + b"\x00" * 0x44,
        b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        b"\x09\x00\x00\x00\x00\x00",
    ],
)
def test_what_is_no_request_is_ended_and_others_are_served(dimse: DimseServer, sent: bytes) -> None:
    sock = raw(dimse)
    sock.sendall(sent)
    assert told(sock)[:1] in (b"", b"\x07", b"\x03")
    association = associate(dimse)
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize(
    "pdu",
    [
        b"\x04\x00\xff\xff\xff\xff",
        b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x10\x01\x03",
        b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x63\x03",
        b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x02",
        b"\x04\x00\x00\x00\x00\x08\x00\x00\x00\x04\x01\x03\xff\xff",
        b"\x01\x00\x00\x00\x00\x00",
    ],
    ids=["4 GiB", "a value behind its PDU", "no such context", "data before a command", "no command set", "a request"],
)
def test_who_breaks_the_protocol_is_aborted_and_others_are_served(dimse: DimseServer, pdu: bytes) -> None:
    association = associate(dimse)
    association.dul.socket.socket.sendall(pdu)
    association.join(20)
    assert not association.is_alive()
    assert association.is_aborted
    other = associate(dimse)
    assert other.send_c_echo().Status == 0
    other.release()


@pytest.mark.dimse(pdu_seconds=1.0)
def test_who_sends_half_a_pdu_keeps_nobody_out_for_longer_than_the_deadline(dimse: DimseServer) -> None:
    slow = [raw(dimse) for _ in range(8)]
    for sock in slow:
        sock.sendall(b"\x01\x00\x00")
    assert associate(dimse).is_aborted  # there are as many from this address as there may be
    for sock in slow:
        assert told(sock)[:1] == b"\x07"
    association = associate(dimse)
    assert association.send_c_echo().Status == 0
    association.release()


def test_many_associations_store_at_once(dimse: DimseServer, client: httpx.Client) -> None:
    series = [ct_series(5) for _ in range(4)]

    def send(slices: list[Any]) -> list[int]:
        association = associate(dimse)
        statuses = [association.send_c_store(one).Status for one in slices]
        association.release()
        return statuses

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send, series)) == [[0] * 5] * 4
    for slices in series:
        found = client.get(f"/dicomweb/studies/{slices[0].StudyInstanceUID}/instances")
        assert len(found.json()) == 5


@pytest.mark.parametrize("syntax", ["-xe", "-xi", "-xb"])
def test_dcmtk_stores_a_study(dimse: DimseServer, client: httpx.Client, tmp_path: Path, syntax: str) -> None:
    for program in ("echoscu", "storescu"):
        if shutil.which(program) is None:
            absent("dcmtk (echoscu, storescu)")
    slices = ct_series(3)
    for number, slice_ in enumerate(slices):
        (tmp_path / f"{number}.dcm").write_bytes(part10(slice_))
    where = ["-aet", "CT1", "-aec", "READINGROOM", "127.0.0.1", str(dimse.port)]
    subprocess.run(["echoscu", *where], check=True, timeout=60)
    told = subprocess.run(
        ["storescu", "-v", syntax, *where, *map(str, sorted(tmp_path.glob("*.dcm")))],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "Status: 0x0000: Success" in told.stdout + told.stderr or "Success" in told.stdout + told.stderr
    read = dcmread(BytesIO(held(client, slices[0])))
    assert read.pixel_array.tolist() == slices[0].pixel_array.tolist()
    assert read.file_meta.TransferSyntaxUID in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, "1.2.840.10008.1.2.2")


def test_a_server_of_its_own_process_stores_and_stops_cleanly(tmp_path: Path) -> None:
    home = tmp_path / "data"
    port = free_port()
    settings = {"dimse": json.dumps({"port": port, "peers": {"ct": {"ae": "CT1"}}})}
    with live_server(home, settings=settings) as live:
        association = expect_association(port)
        (slice_,) = ct_series(1)
        assert association.send_c_store(slice_).Status == 0
        association.release()
        found = httpx.get(f"{live.dicomweb}/studies/{slice_.StudyInstanceUID}/instances", timeout=30)
        assert len(found.json()) == 1
    give_up = time.monotonic() + 60
    while is_listened_to(port):
        assert time.monotonic() < give_up, "it outlives the server that has started it"
        time.sleep(0.1)


def is_listened_to(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def expect_association(port: int) -> Any:
    """An association, once somebody listens."""
    give_up = time.monotonic() + 60
    while True:
        requester = AE(ae_title="CT1")
        requester.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = requester.associate("127.0.0.1", port, ae_title="READINGROOM")
        if association.is_established:
            return association
        assert time.monotonic() < give_up, "nobody listens"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0", "any_caller": True}, "anybody could store"),
        ({"host": "0.0.0.0", "any_caller": True, "peers": PEERS}, "anybody could store"),
    ],
)
def test_an_address_of_the_network_wants_to_know_who_calls(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        require_guarded(DimseSettings(**settings))
    require_guarded(DimseSettings(host="0.0.0.0", peers=PEERS))
    with pytest.raises(Invalid, match=r"need dimse\.certificate"):
        tls_context(DimseSettings(client_ca=Path("x")))


def test_who_asks_the_server_to_end_is_not_listened_to(dimse: DimseServer) -> None:
    """dcmtk's termscu ends those servers that take an association of a private class for an order."""
    for program in ("termscu", "echoscu"):
        if shutil.which(program) is None:
            absent("dcmtk (termscu, echoscu)")
    where = ("-aet", "CT1", "-aec", "READINGROOM", "127.0.0.1", str(dimse.port))
    subprocess.run(["termscu", *where], check=False, timeout=60, capture_output=True)
    subprocess.run(["echoscu", *where], check=True, timeout=60)


def test_dcmtk_finds_a_study(filled: DimseServer) -> None:
    if shutil.which("findscu") is None:
        absent("dcmtk (findscu)")
    keys = ["QueryRetrieveLevel=STUDY", "PatientName=DOE^J*", "AccessionNumber=", "StudyInstanceUID="]
    command = ["findscu", "-v", "-S", "-aet", "CT1", "-aec", "READINGROOM", "127.0.0.1", str(filled.port)]
    told = subprocess.run(
        [*command, *(part for key in keys for part in ("-k", key))],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    said = told.stdout + told.stderr
    assert said.count("Find Response: ") == 2, said
    assert "[A0" in said
    assert "[A1" in said
