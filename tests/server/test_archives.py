"""Earlier studies come from other archives: of the same patient alone, as nobody's work, and no more than is wanted."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn
from pydicom import FileDataset

from readingroom.clock import SetClock
from readingroom.errors import RetryLater
from readingroom.model import Study
from server.app import build_room, create_app
from server.codecs import Codecs
from server.remote_archives import WebRemote, candidate, is_same_patient
from server.room import Room
from server.settings import ArchiveSettings, DimsePeer, DimseSettings, Settings
from server.settle import settle_studies
from storage.catalog import schema as t
from storage.catalog.shown import is_prior
from storage.catalog.studies import PRIOR_SOURCE
from tests import synthetic
from tests.catalog import header
from tests.dimse import LOOPBACK, serving
from tests.synthetic import part10
from tests.worklist import study

WHO = {"patient_id": "P1", "birth_date": "19700101", "patient_name": "Müller^Ada", "sex": "F", "issuer": "HERE"}
TOLD = {
    "PatientID": "P1",
    "PatientBirthDate": "19700101",
    "PatientName": "MULLER^A",
    "PatientSex": "F",
    "IssuerOfPatientID": "HERE",
}


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"PatientSex": "", "IssuerOfPatientID": ""}, True),
        ({"PatientID": "P2"}, False),
        ({"PatientBirthDate": "19700102"}, False),
        ({"PatientBirthDate": ""}, False),
        ({"PatientName": "Smith^Ada"}, False),
        ({"PatientName": ""}, False),
        ({"PatientSex": "M"}, False),
        ({"IssuerOfPatientID": "ELSEWHERE"}, False),
    ],
)
def test_a_patient_is_the_same_only_where_all_says_so(changes: dict[str, str], is_same: bool) -> None:
    assert is_same_patient(study(**WHO), header(**{**TOLD, **changes})) is is_same


def test_an_archive_may_call_the_issuer_otherwise() -> None:
    told = header(**{**TOLD, "IssuerOfPatientID": "CITY"})
    assert is_same_patient(study(**WHO), told, issuer="CITY")
    assert not is_same_patient(study(**WHO), header(**TOLD), issuer="CITY")


@pytest.mark.parametrize("missing", ["patient_id", "birth_date", "patient_name"])
def test_who_is_not_known_well_is_nobody_elsewhere(missing: str) -> None:
    assert not is_same_patient(study(**{**WHO, missing: None}), header(**TOLD))


def test_what_an_archive_says_of_a_study_is_looked_at() -> None:
    mine = study(**WHO)
    assert candidate(mine, {"0020000D": {"vr": "UI", "Value": ["../1.2"]}}) is None
    assert candidate(mine, {"0020000D": {"vr": "UI", "Value": [mine.study_uid]}}) is None
    assert candidate(mine, {"0020000D": 7}) is None
    found = candidate(mine, header(StudyInstanceUID="1.2.3", StudyDate="20200101", StudyDescription="Head"))
    assert isinstance(found, Study)
    assert (found.study_uid, found.patient, found.study_date) == ("1.2.3", mine.patient, "20200101")


@pytest.mark.parametrize("answer", [b"{}", b"[1]", b"<html>"])
def test_an_archive_that_answers_no_data_sets_is_asked_later(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = WebRemote(name="city", settings=ArchiveSettings(url="https://city.example.org"))
    monkeypatch.setattr(WebRemote, "_get", lambda *_: ({}, answer))
    with pytest.raises(RetryLater):
        remote.find(study(**WHO))


def test_half_an_object_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = WebRemote(name="city", settings=ArchiveSettings(url="https://city.example.org"))
    listed = b'[{"0020000E": {"vr": "UI", "Value": ["1.2"]}, "00080018": {"vr": "UI", "Value": ["1.3"]}}]'
    half = {"content-type": 'multipart/related; boundary="b"'}, b"--b\r\nContent-Type: application/dicom\r\n\r\nDIC"
    monkeypatch.setattr(WebRemote, "_get", lambda _, path, *__: half if path.endswith("/1.3") else ({}, listed))
    with pytest.raises(RetryLater, match="half an object"):
        remote.fetch("1.1", lambda _: None, has=lambda _: False, most_bytes=1000)
    kept: list[bytes] = []
    remote.fetch("1.1", kept.append, has=lambda _: True, most_bytes=1000)
    assert kept == []


# -- two archives ------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path, sqlite_template: Path, clock: SetClock, codecs: Codecs) -> Iterator[Room]:
    """Another archive."""
    shutil.copy(sqlite_template, tmp_path / "far.sqlite")
    settings = Settings(data=tmp_path / "far", database=f"sqlite:///{tmp_path / 'far.sqlite'}")
    with build_room(settings, clock=clock, codecs=codecs) as room:
        yield room


@pytest.fixture
def url(far: Room) -> Iterator[str]:
    """Where it answers over HTTP."""
    server = uvicorn.Server(uvicorn.Config(create_app(far), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/dicomweb"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def settings(settings: Settings, far: Room, url: str) -> Iterator[Settings]:
    """The facility local shares its patients with a web archive, and north with a peer; both are the same one."""
    with serving(far, DimsePeer(ae="HERE", sees_all=True)) as server:
        peer = DimsePeer(ae="READINGROOM", host="127.0.0.1", port=server.port)
        changes: dict[str, Any] = {
            "archives": {
                "city": ArchiveSettings(url=url, facilities=("local",), issuer="CITY", most=1),
                "pacs": ArchiveSettings(peer="pacs", facilities=("north",), issuer="CITY", most=1),
            },
            "dimse": DimseSettings(ae_title="HERE", peers={"pacs": peer}),
            "private_networks": LOOPBACK,
            "plugins": {"priors": {"trusted": True}},
        }
        yield Settings(data=settings.data, database=settings.database, **changes)


def keep(room: Room, *datasets: FileDataset, facility: str = "local") -> str:
    outcomes = list(room.ingest.store([part10(one) for one in datasets], facility=facility, source="CT1"))
    assert all(outcome.error is None for outcome in outcomes)
    return str(datasets[0].StudyInstanceUID)


def settle(room: Room, clock: SetClock) -> None:
    clock.advance(timedelta(seconds=room.settings.settle_seconds + 1))
    settle_studies(room)
    room.queue.drain()


def has(room: Room, study_uid: str) -> list[str]:
    """The sources of the instances of a study."""
    statement = sa.select(t.instance.c.source).join(t.study, t.instance.c.study == t.study.c.id)
    with room.engine.connect() as connection:
        return list(connection.execute(statement.where(t.study.c.study_uid == study_uid)).scalars())


@pytest.mark.parametrize(("facility", "name"), [("local", "city"), ("north", "pacs")])
def test_the_most_relevant_prior_is_fetched_and_is_nobodys_work(
    room: Room, far: Room, clock: SetClock, facility: str, name: str
) -> None:
    city = {"IssuerOfPatientID": "CITY"}
    near = keep(far, *synthetic.ct_series(3, StudyDate="20251101", **city))
    keep(far, *synthetic.ct_series(1, StudyDate="20180101", **city))
    keep(far, *synthetic.ct_series(1, StudyDate="20251201", PatientName="Other^Person", **city))
    keep(far, *synthetic.ct_series(1, StudyDate="20251201", PatientBirthDate="19800101", **city))
    present = keep(room, *synthetic.ct_series(1), facility=facility)
    settle(room, clock)
    with room.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.study)).scalar() == 2
        assert is_prior(connection, facility, near)
        assert not is_prior(connection, facility, present)
    assert has(room, near) == [PRIOR_SOURCE + name] * 3
    settle(room, clock)
    with room.engine.connect() as connection:
        items = connection.execute(sa.select(t.work_item.c.study_uid)).scalars().all()
        (answer,) = connection.execute(
            sa.select(t.plugin_answer.c.answer).where(t.plugin_answer.c.hook == "find_priors")
        ).scalars()
    assert items == [present]
    assert near in answer.decode()
    with room.engine.connect() as connection:
        assert room.queue.entries(state="dead") == []
        assert room.queue.entries(kind="priors.fetch") == []


def test_a_prior_that_gets_an_image_of_its_own_is_work(room: Room, far: Room, clock: SetClock) -> None:
    first, late = synthetic.ct_series(2, StudyDate="20251101", IssuerOfPatientID="CITY")
    prior = keep(far, first)
    keep(room, *synthetic.ct_series(1))
    settle(room, clock)
    settle(room, clock)
    keep(room, late)
    settle(room, clock)
    with room.engine.connect() as connection:
        assert prior in connection.execute(sa.select(t.work_item.c.study_uid)).scalars().all()
