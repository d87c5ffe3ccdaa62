"""`readingroom send`, `find` and `get`: what an operator asks of peers, and what is said when they do not do it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from readingroom.clock import SystemClock
from readingroom.model import Scope
from server.associations.commands import C_GET, C_MOVE
from server.room import Room
from server.settings import DimsePeer, Settings
from storage.catalog.find import StoredInstance, Wanted, list_wanted
from tests.commands import Run
from tests.dimse import CT, LOOPBACK, data_set, jpeg_2000, keep, orthanc, receiving, serving
from tests.servers import free_port
from tests.synthetic import cine, ct_series, part10, text_report

US = DimsePeer(ae="READINGROOM")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"private_networks": LOOPBACK})


@pytest.fixture
def clock() -> SystemClock:
    """The one that the commands have, so that both agree on whose lease is over."""
    return SystemClock()


def environment(room: Room, of_pacs: int, **settings: object) -> dict[str, str]:
    """The settings of an operator who calls the AE at a port `pacs`."""
    peers = {
        "pacs": {"ae": settings.pop("ae", "READINGROOM"), "host": "127.0.0.1", "port": of_pacs},
        "mute": {"ae": "M"},
    }
    return {
        "READINGROOM_DATA": str(room.settings.data),
        "READINGROOM_DATABASE": str(room.settings.database),
        "READINGROOM_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
        "READINGROOM_DIMSE": json.dumps({"peers": peers, **settings}),
    }


def held(room: Room, study_uid: str, facility: str) -> list[StoredInstance]:
    return room.query(list_wanted, Scope(facilities=frozenset((facility,))), Wanted(study_uids=(study_uid,)))


def test_a_study_is_sent(room: Room, run: Run) -> None:
    slices = ct_series(2)
    movie = cine(2)
    keep(room, *slices, jpeg_2000(movie))
    with receiving() as there:
        env = environment(room, there.port, ae="STORE")
        told = run("send", slices[0].StudyInstanceUID, movie.StudyInstanceUID, "--to", "pacs", env=env)
    assert "STORE has 3 of 3 objects, 1 of them in another transfer syntax" in told.words
    assert [data for _, _, data in there.came[:2]] == [data_set(part10(one)) for one in slices]


def test_what_does_not_arrive_is_told_and_ends_with_1(room: Room, run: Run) -> None:
    slices = ct_series(2)
    report = text_report(StudyInstanceUID=slices[0].StudyInstanceUID, SeriesNumber=7)
    keep(room, *slices, report)
    with receiving(classes=(CT,)) as there:
        there.answers = lambda number: 0xA700 if number == 2 else 0
        told = run(
            *("send", slices[0].StudyInstanceUID, "--to", "STORE"),
            env=environment(room, there.port, ae="STORE"),
            status=1,
        )
    assert "STORE has 1 of 3 objects." in told.words
    assert f"{slices[1].SOPInstanceUID}: A700" in told.err
    assert f"{report.SOPInstanceUID}: 0122 (The peer does not take the SOP class.)" in told.err


@pytest.mark.parametrize(
    ("to", "says"),
    [("nobody", "No peer is called 'nobody'"), ("mute", "M is never called"), ("pacs", "takes no connection")],
)
def test_who_cannot_be_called_is_told(room: Room, run: Run, to: str, says: str) -> None:
    keep(room, *(slices := ct_series(1)))
    env = environment(room, free_port())
    assert says in run("send", slices[0].StudyInstanceUID, "--to", to, env=env, status=1).err


def test_a_peer_is_asked_what_it_has(room: Room, run: Run) -> None:
    (slice_,) = ct_series(1, PatientID="P1", PatientName="Müller^Jürgen", InstitutionName="Mercy")
    keep(room, slice_, *ct_series(1, PatientID="P2"))
    with serving(room, US) as server:
        env = environment(room, server.port)
        told = run("find", "--at", "pacs", "PatientName=MÜLLER*", "InstitutionName=", env=env)
        assert "P1" in told.out
        assert "P2" not in told.out
        assert "Mercy" in told.out
        series = run(
            *("find", "--at", "pacs", "--level", "series", f"StudyInstanceUID={slice_.StudyInstanceUID}", "--json"),
            env=env,
        )
        (row,) = json.loads(series.out)
        assert row["0020000E"]["Value"] == [slice_.SeriesInstanceUID]
        patients = run("find", "--at", "pacs", "--level", "patient", "--limit", "1", env=env)
        assert "These are the first 1" in patients.err
        assert "There are none." in run("find", "--at", "pacs", "PatientID=P9", env=env).out
        assert "is no KEY=VALUE" in run("find", "--at", "pacs", "Patient=1", env=env, status=1).err
        wrong = run("find", "--at", "pacs", "StudyDate=yesterday", env=env, status=1)
        assert "does not answer the query: C000" in wrong.err


def test_a_study_is_fetched_as_it_is_stored_there(room: Room, run: Run) -> None:
    movie = cine(2)
    (slice_,) = ct_series(1, study_uid=movie.StudyInstanceUID)
    keep(room, jpeg_2000(movie), slice_)
    with serving(room, US) as server:
        env = environment(room, server.port)
        told = run("get", movie.StudyInstanceUID, "--from", "pacs", "--facility", "copies", env=env)
        assert "2 objects have come from READINGROOM." in told.words
        assert "nothing of it" in run("get", "1.2.3", "--from", "pacs", env=env, status=1).err
    syntaxes = {one.instance_uid: one.transfer_syntax for one in held(room, movie.StudyInstanceUID, "copies")}
    assert syntaxes == {movie.SOPInstanceUID: JPEG2000Lossless, slice_.SOPInstanceUID: "1.2.840.10008.1.2.1"}


def test_who_does_no_c_get_is_asked_to_send(room: Room, run: Run) -> None:
    slices = ct_series(2)
    keep(room, *slices)
    ours = DimsePeer(ae="READINGROOM", facility="copies")
    with serving(room, ours) as here:
        pacs = DimsePeer(ae="READINGROOM", host="127.0.0.1", port=here.port)
        with serving(room, pacs, but=frozenset((C_GET,))) as server:
            env = environment(room, server.port)
            refused = run("get", slices[0].StudyInstanceUID, "--from", "pacs", env=env, status=1)
            assert "set dimse.port" in refused.err
            env = environment(room, server.port, port=here.port)
            told = run("get", slices[0].StudyInstanceUID, "--from", "pacs", env=env)
    assert "does no C-GET; it is asked to send to READINGROOM" in told.err
    assert len(held(room, slices[0].StudyInstanceUID, "copies")) == 2


def test_who_does_neither_is_told(room: Room, run: Run) -> None:
    with serving(room, US, but=frozenset((C_GET, C_MOVE))) as server:
        env = environment(room, server.port, port=free_port())
        assert "does no C-MOVE either" in run("get", "1.2.3", "--from", "pacs", env=env, status=1).err


def test_orthanc_is_sent_to_asked_and_fetched_from_and_retrieves_by_itself(
    room: Room, run: Run, tmp_path: Path
) -> None:
    movie = cine(2)
    sent, moved = ct_series(2), ct_series(2)
    keep(room, *sent, *moved, jpeg_2000(movie))
    dicom = free_port()
    peer = DimsePeer(ae="CT1", host="127.0.0.1", port=dicom)
    (folder := tmp_path / "orthanc").mkdir()
    with serving(room, peer) as server, orthanc(folder, dicom, server.port) as client:
        env = environment(room, dicom, ae="CT1")
        told = run("send", sent[0].StudyInstanceUID, movie.StudyInstanceUID, "--to", "CT1", env=env)
        assert "CT1 has 3 of 3 objects." in told.words
        assert sent[0].StudyInstanceUID in run("find", "--at", "pacs", "PatientID=RR-0001", env=env).out
        for study in (sent[0], movie):
            run("get", study.StudyInstanceUID, "--from", "pacs", "--facility", "copies", env=env)
        query = {"Level": "Study", "Query": {"StudyInstanceUID": moved[0].StudyInstanceUID}}
        found = client.post("/modalities/here/query", json=query).raise_for_status().json()
        client.post(f"{found['Path']}/retrieve", json={"TargetAet": "CT1"}).raise_for_status()
        files = [client.get(f"/instances/{id}/file").content for id in client.get("/instances").json()]
    got = [*held(room, sent[0].StudyInstanceUID, "copies"), *held(room, movie.StudyInstanceUID, "copies")]
    assert [one.transfer_syntax for one in got] == [ExplicitVRLittleEndian] * 2 + [JPEG2000Lossless]
    came = {one.SOPInstanceUID: one for one in map(dcmread, map(BytesIO, files))}
    assert came.keys() == {one.SOPInstanceUID for one in (*sent, *moved, movie)}
    for one in (*sent, *moved):
        assert came[one.SOPInstanceUID].PixelData == one.PixelData
    assert came[movie.SOPInstanceUID].file_meta.TransferSyntaxUID == JPEG2000Lossless
