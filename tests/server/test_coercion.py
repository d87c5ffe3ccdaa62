"""Coercion as objects come in: what the sender is told, what is shown, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from readingroom.clock import SetClock
from server.archive import open_new_archive
from server.reindex import Reindexed, list_objects, prepare, record_objects, replay_side_records
from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from tests.retrieve import JSON, read, url_of
from tests.stow import AS_STORED, store
from tests.synthetic import ct_series, part10, pdf_document

ALL = pytest.mark.rooms("sqlite", "postgres", "s3")
COERCED = 0xB000
RULES: list[dict[str, Any]] = [
    {"source": "stow", "default": {"IssuerOfPatientID": "NORTH"}, "prefix": {"AccessionNumber": "N-"}},
    {"source": "import", "remove": ["AccessionNumber"]},
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(**{**settings.model_dump(), "coerce": RULES})


@ALL
def test_the_sender_is_told_and_everybody_sees_the_coerced_values(client: httpx.Client, room: Room) -> None:
    dataset = ct_series(1)[0]
    received = part10(dataset)
    answer = store(client, received)
    assert answer.status == 202
    (item,) = answer.stored.values()
    assert item["00081196"]["Value"] == [COERCED]
    (told,) = item["04000561"]["Value"]
    assert told["04000565"]["Value"] == ["COERCE"]
    assert told["04000564"]["Value"] == ["stow"]
    assert told["04000550"]["Value"] == [{"00080050": {"vr": "SH", "Value": ["A100"]}, "00100021": {"vr": "LO"}}]

    (row,) = client.get("/dicomweb/studies", params={"AccessionNumber": "N-A100"}, headers=JSON).json()
    assert row["00080050"]["Value"] == ["N-A100"]
    (metadata,) = client.get(f"{url_of(dataset)}/metadata", headers=JSON).json()
    assert metadata["04000561"]["Value"] == [told]
    sent = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert (sent.AccessionNumber, sent.IssuerOfPatientID) == ("N-A100", "NORTH")
    assert sent.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].AccessionNumber == "A100"
    assert sent.PixelData == dataset.PixelData
    assert client.get(url_of(dataset), headers=AS_STORED, params={"original": "true"}).content == received
    with room.engine.connect() as connection:
        assert connection.execute(sa.select(t.patient.c.issuer, t.patient.c.patient_id)).all() == [("NORTH", "RR-0001")]


def test_the_same_bytes_again_are_the_same_object(client: httpx.Client) -> None:
    received = part10(ct_series(1)[0])
    store(client, received)
    assert store(client, received).status == 200


def test_what_no_rule_concerns_is_stored_as_ever(client: httpx.Client, room: Room) -> None:
    first, second = ct_series(1), ct_series(1)
    for dataset, source in ((first[0], "import"), (second[0], "MR_1")):
        (outcome,) = room.ingest.store([part10(dataset)], facility="local", source=source)
        assert len(outcome.original_attributes) == (source == "import")
    (row,) = client.get("/dicomweb/studies", params={"AccessionNumber": "A100"}, headers=JSON).json()
    assert row["0020000D"]["Value"] == [second[0].StudyInstanceUID]
    with room.engine.connect() as connection:
        versions = sa.select(t.instance.c.overlay_version).order_by(t.instance.c.id)
        assert sorted(connection.execute(versions).scalars()) == [0, 1]


def test_each_version_of_an_instance_is_coerced_by_itself(client: httpx.Client) -> None:
    dataset = ct_series(1)[0]
    store(client, part10(dataset))
    dataset.AccessionNumber = "B200"
    store(client, part10(dataset))
    for version, number in ((1, "N-A100"), (2, "N-B200")):
        params = {"version": str(version)}
        assert read(client.get(url_of(dataset), headers=AS_STORED, params=params).content).AccessionNumber == number


def test_a_correction_lies_over_what_was_coerced(client: httpx.Client) -> None:
    dataset = ct_series(1)[0]
    store(client, part10(dataset))
    url = url_of(dataset, level="study")
    change = {"00080050": {"vr": "SH", "Value": ["C300"]}}
    answer = client.patch(
        url, content=orjson.dumps(change), params={"reason": "typo"}, headers={"Content-Type": "application/dicom+json"}
    )
    assert answer.json()["changed"]["00080050"]["before"]["Value"] == ["N-A100"]
    sent = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert (sent.AccessionNumber, sent.IssuerOfPatientID) == ("C300", "NORTH")
    reasons = [item.ReasonForTheAttributeModification for item in sent.OriginalAttributesSequence]
    assert reasons == ["COERCE", "CORRECT"]
    client.post(f"{url}/history", params={"version": "0", "reason": "no typo"})
    assert read(client.get(url_of(dataset), headers=AS_STORED).content).AccessionNumber == "N-A100"


@ALL
def test_reindex_knows_what_was_coerced_from_the_objects_alone(
    client: httpx.Client, room: Room, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    datasets = [*ct_series(1), pdf_document()]  # one with a trailer, one that is described beside it
    store(client, *map(part10, datasets))
    assert not [key for key in room.blobs.keys("s/") if "/x/" in key]
    without_rules = settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'again.sqlite'}", "coerce": ()})
    with open_new_archive(without_rules) as (engine, blobs):
        reindexed = Reindexed()
        prepare(engine, now=clock.now(), force=False)
        objects = list_objects(blobs, reindexed, lambda _: None)
        record_objects(engine, blobs, objects, reindexed, quiet=Settings().quiet_period, advance=lambda _: None)
        replay_side_records(engine, blobs, reindexed)
        assert reindexed.failures == []
        for statement in (
            sa.select(t.study.c.accession_number, t.study.c.issuer, t.study.c.row).order_by(t.study.c.study_uid),
            sa.select(t.instance.c.overlay_version, t.instance_metadata.c.json, t.instance_metadata.c.coerced)
            .join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id)
            .order_by(t.instance.c.instance_uid),
            sa.select(t.patient.c.issuer, t.patient.c.patient_id),
        ):
            with room.engine.connect() as ours, engine.connect() as theirs:
                assert ours.execute(statement).all() == theirs.execute(statement).all()


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"set": {"StudyInstanceUID": "1.2"}}, "StudyInstanceUID cannot be changed"),
        ({"set": {"PatientSex": "unknown sex"}}, "is no CS"),
        ({"unset": ["PatientSex"]}, "unset"),
    ],
)
def test_rules_that_cannot_be_are_refused_with_the_settings(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings.model_validate({"coerce": [rule]})
