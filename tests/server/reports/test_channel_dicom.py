"""Reports as DICOM objects on their way: by STOW-RS, and by C-STORE to our own end of an association."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from ipaddress import IPv4Network
from typing import Any

import pytest
from pydicom import dcmread

from readingroom.errors import GiveUp, RetryLater, Unreachable
from readingroom.model import Destination, Facility, Report
from server.dimse.server import DimseServer
from server.dimse.storing import Storing
from server.listen import bind_any
from server.peers import Peers
from server.reports.channels.dicom import DicomChannel, StowChannel
from server.reports.delivery import Sending
from server.room import Room
from server.settings import DimsePeer, DimseSettings
from storage.catalog import schema as t
from tests.catalog import fill, header
from tests.plugins.peers import Hook, web_service
from tests.reports import a_report
from tests.servers import free_port

NETWORKS = (IPv4Network("127.0.0.0/8"),)
NOW = datetime(2026, 11, 24, 12, 31, tzinfo=UTC)
SENDING = Sending(control_id="ab" * 10, attempt=1, at=NOW, facility=Facility(id="local", name="Local"))


def pdf(_: Report) -> bytes:
    return b"%PDF-1.7\n%%EOF\n"


@pytest.fixture
def report(room: Room) -> Report:
    fill(room.engine, header(StudyInstanceUID="1.2.3.4", Modality="CT", PatientName="Doe^Jane", PatientID="P1"))
    return a_report(study_uid="1.2.3.4")


def response(stored: int = 2, failed: int = 0) -> bytes:
    """A Store Instances Response."""
    told = {"00081199": stored, "00081198": failed}
    return json.dumps({tag: {"vr": "SQ", "Value": [{}] * count} for tag, count in told.items() if count}).encode()


@pytest.fixture
def web() -> Iterator[Hook]:
    with web_service() as service:
        service.body = response()
        yield service


def to(channel: str, address: str, **options: Any) -> Destination:
    return Destination(id="pacs", facility="local", channel=channel, address=address, options=options)


def stow(room: Room, report: Report, url: str, **options: Any) -> Any:
    channel = StowChannel(engine=room.engine, pdf=pdf, networks=NETWORKS)
    return channel(report, to("stow", url, **options), SENDING)


def store(room: Room, report: Report, port: int, ae: str = "READINGROOM", **options: Any) -> Any:
    channel = DicomChannel(engine=room.engine, pdf=pdf, networks=NETWORKS)
    return channel(report, to("dicom", f"{ae}@127.0.0.1:{port}", seconds=10, **options), SENDING)


def test_both_objects_go_to_a_dicomweb_service_in_one_request(room: Room, report: Report, web: Hook) -> None:
    receipt = stow(room, report, f"{web.url}/dicomweb")
    assert (receipt.accepted, receipt.code) == (True, "200")
    ((path, headers, body),) = web.requests
    assert path == "/dicomweb/studies"
    boundary = headers["content-type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--" + boundary)[1:-1]]
    classes = [dcmread(BytesIO(part)).SOPClassUID.name for part in parts]
    assert classes == ["Basic Text SR Storage", "Encapsulated PDF Storage"]


@pytest.mark.parametrize(
    ("status", "body", "accepted"),
    [(409, response(0, 2), False), (202, response(1, 1), False), (202, response(), True), (200, response(0, 2), False)],
)
def test_what_a_service_says_of_each_object_counts(
    room: Room, report: Report, web: Hook, status: int, body: bytes, accepted: bool
) -> None:
    web.status, web.body = status, body
    assert stow(room, report, web.url).accepted is accepted


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>Please log in</html>", b'{"00081199": 1}'])
def test_an_answer_that_says_nothing_is_no_success(room: Room, report: Report, web: Hook, body: bytes) -> None:
    web.body = body
    with pytest.raises(RetryLater, match="what was stored"):
        stow(room, report, web.url)


def test_a_service_that_fails_is_asked_again_and_one_that_is_away_too(room: Room, report: Report, web: Hook) -> None:
    web.status = 503
    with pytest.raises(RetryLater):
        stow(room, report, web.url)
    with pytest.raises(Unreachable):
        stow(room, report, f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def pacs(room: Room) -> Iterator[DimseServer]:
    """Our own server of associations, which stores for another facility."""
    peers = {
        "here": DimsePeer(ae="READINGROOM", facility="other"),
        "mute": DimsePeer(ae="MUTE", facility="other", may_store=False),
    }
    storing = Storing(ingest=room.ingest, memory_bytes=1 << 20, most_bytes=8 << 20)
    settings = DimseSettings(peers=peers, pdu_seconds=5.0)
    bound = bind_any("127.0.0.1", 0)
    server = DimseServer(bound, settings, storing, {}, peers=Peers(settings), facility="other")
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.stop()
    thread.join()


def test_both_objects_are_stored_over_an_association_once_however_often_they_go(
    room: Room, report: Report, pacs: DimseServer
) -> None:
    for _ in range(2):
        receipt = store(room, report, pacs.port)
        assert (receipt.accepted, receipt.code) == (True, "0000")
    with room.engine.connect() as connection:
        c = t.instance.c
        rows = connection.execute(t.instance.select().where(c.owner_facility == "other")).all()
    assert len(rows) == 2


def test_what_an_archive_does_not_take_is_refused_or_tried_again(room: Room, report: Report, pacs: DimseServer) -> None:
    assert not store(room, report, pacs.port, calling="MUTE").accepted
    with pytest.raises(RetryLater, match="rejects the association"):
        store(room, report, pacs.port, ae="ELSEWHERE")
    with pytest.raises(Unreachable):
        store(room, report, free_port())


def test_a_report_whose_study_is_gone_is_given_up(room: Room) -> None:
    with pytest.raises(GiveUp, match="Nothing is left"):
        store(room, a_report(study_uid="9.9"), free_port())


def test_an_archive_outside_of_the_networks_that_are_allowed_is_not_called(room: Room, report: Report) -> None:
    channel = DicomChannel(engine=room.engine, pdf=pdf)
    with pytest.raises(GiveUp, match="networks that are allowed"):
        channel(report, to("dicom", "PACS@127.0.0.1:104"), SENDING)
