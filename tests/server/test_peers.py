"""Who calls by DIMSE: peers of the settings, and application entities of facilities that are onboarded meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from readingroom.errors import Conflict, Unavailable
from server.peers import Peers
from server.settings import DimsePeer, DimseSettings
from server.worklist.directory_file import Told
from server.worklist.directory_import import import_directory
from storage.catalog.directory import LatestDirectory, deactivate, write_facility
from storage.catalog.engine import begin_write
from storage.directory import FacilityEntry
from tests.directory import facility

NOW = datetime(2026, 1, 5, tzinfo=UTC)
CT = {"ae": "CT1", "modality": "CT", "may_find": False}
PACS = {"ae": "PACS", "host": "pacs.mercy.example", "port": 2762, "tls": True, "ca": "/etc/mercy.pem"}
SETTINGS = DimseSettings(peers={"archive": DimsePeer(ae="ARCHIVE", sees_all=True)})


def onboard(engine: sa.Engine, *entries: FacilityEntry) -> None:
    with begin_write(engine) as connection:
        for entry in entries:
            write_facility(connection, entry, NOW)


def test_an_entity_of_a_facility_is_known_once_it_is_in_the_directory_and_no_more_when_it_leaves(
    engine: sa.Engine,
) -> None:
    peers = Peers(SETTINGS, LatestDirectory(engine))
    assert peers.of("CT1") is None
    onboard(engine, facility(aes=[CT, PACS]))
    ct, pacs = peers.of("CT1"), peers.named("PACS")
    assert ct is not None
    assert (ct.facility, ct.may_store, ct.may_find, ct.host) == ("mercy", True, False, None)
    assert pacs is not None
    assert (pacs.host, pacs.port, pacs.tls, str(pacs.ca)) == (*list(PACS.values())[1:],)
    assert set(peers.known()) == {"ARCHIVE", "CT1", "PACS"}
    with begin_write(engine) as connection:
        deactivate(connection, facilities=["mercy"], now=NOW)
    assert peers.of("CT1") is None


def test_what_the_settings_say_of_an_ae_title_goes_before_the_directory(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    onboard(engine, facility(aes=[{"ae": "ARCHIVE", "may_store": False}]))
    peers = Peers(SETTINGS, LatestDirectory(engine))
    for found in (peers.of("ARCHIVE"), peers.named("archive"), peers.known()["ARCHIVE"]):
        assert found == SETTINGS.peers["archive"]


def test_without_a_directory_that_answers_only_peers_of_the_settings_are_known(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE reader")
    peers = Peers(SETTINGS, LatestDirectory(engine))
    assert peers.of("ARCHIVE") is not None
    with pytest.raises(Unavailable):
        peers.of("CT1")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"aes": [CT]}, "Facilities mercy and north both have the AE title 'CT1'"),
        ({"senders": [{"application": "RIS"}]}, r"Facilities mercy and north both have the sender RIS\|\*"),
    ],
)
def test_two_facilities_cannot_have_the_same_name_for_a_caller(
    sqlite_url: str, more: dict[str, object], says: str
) -> None:
    engine = sa.create_engine(sqlite_url)
    told = Told(facilities={one: facility(one, **more) for one in ("north", "mercy")}, readers={})
    with pytest.raises(Conflict, match=says):
        import_directory(engine, told, NOW)
    assert not LatestDirectory(engine).read().facilities


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"aes": [CT, CT]}, "two have the AE title 'CT1'"),
        ({"aes": [{"ae": "CT1 "}]}, "should match pattern"),
        ({"aes": [{"ae": "CT\\1"}]}, "should match pattern"),
        ({"aes": [{"ae": "CT1", "tls": True}]}, "needs a host"),
        ({"aes": [{"ae": "CT1", "sees_all": True}]}, "Extra inputs"),
        ({"senders": [{"application": "RIS"}] * 2}, "two have the same application"),
        ({"senders": [{"application": "RIS|X"}]}, "should match pattern"),
        ({"senders": [{"application": "RIS", "networks": ["10.1.0.0/99"]}]}, "write a network such as"),
    ],
)
def test_what_a_facility_cannot_have_is_told(more: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        facility(**more)
