"""One way in: what is acknowledged is in the store and in the catalog, what is not leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Duplicate, Invalid, NotDicom, NotThisStudy, OutOfSpace, TooLarge, Unavailable
from readingroom.model import Scope
from server.ingest import Ingest
from server.room import Room
from server.settings import Settings
from server.staging import Outcome, Ready, SentTo
from storage.blobs import LocalBlobs
from storage.catalog import schema as t
from storage.catalog.find import StoredInstance, find_instance, find_study, list_instances
from storage.catalog.ids import nameless_key, patient_key, study_fhir_id
from storage.catalog.writers import LEASE
from tests import synthetic
from tests.synthetic import part10

EVERYTHING = Scope()


def store(room: Room, *objects: bytes, facility: str = "local") -> list[Outcome]:
    return list(room.ingest.store(objects, facility=facility, source="test"))


def results(outcomes: list[Outcome]) -> list[object]:
    return [type(one.error) if one.error else one.result for one in outcomes]


def find(room: Room, outcome: Outcome, scope: Scope = EVERYTHING) -> StoredInstance:
    assert outcome.study_uid
    assert outcome.series_uid
    assert outcome.instance_uid
    return room.query(find_instance, scope, outcome.study_uid, outcome.series_uid, outcome.instance_uid)


def received_bytes(room: Room, one: StoredInstance) -> bytes:
    return bytes(room.blobs.read_range(one.object_key, 0, one.size_bytes))


def count(room: Room, table: sa.Table) -> int:
    return int(
        room.query(lambda connection: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
    )


def objects_in(room: Room) -> list[str]:
    return sorted(key for key in room.blobs.keys("s/") if not key.endswith("zarr.json"))


def temporary_files(room: Room) -> list[Path]:
    root = room.blobs.root if isinstance(room.blobs, LocalBlobs) else room.settings.data
    return [path for path in (root / "tmp").rglob("*") if path.is_file()]


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_a_series_is_kept_byte_for_byte_and_counted(room: Room) -> None:
    files = [part10(dataset) for dataset in synthetic.ct_series(5)]
    outcomes = store(room, *files)
    assert results(outcomes) == ["stored"] * 5
    for file, outcome in zip(files, outcomes, strict=True):
        one = find(room, outcome)
        assert received_bytes(room, one) == file
        assert one.sha256 == hashlib.sha256(file).digest()
        assert room.blobs.size(one.object_key) == one.object_bytes > one.size_bytes
    study = room.query(find_study, EVERYTHING, outcomes[0].study_uid or "")
    assert (study.series_count, study.instance_count) == (1, 5)
    assert [one.instance_number for one in room.query(list_instances, study)] == [1, 2, 3, 4, 5]
    assert [one.slot for one in room.query(list_instances, study)] == [0, 1, 2, 3, 4]
    assert temporary_files(room) == []


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_an_object_without_frames_is_opaque_and_exactly_as_received(room: Room) -> None:
    file = part10(synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.88.11", Modality="SR"))
    (outcome,) = store(room, file)
    one = find(room, outcome)
    assert one.array_name == "o"
    assert one.opaque_reason
    assert room.blobs.read(one.object_key) == file
    said = orjson.loads(room.blobs.read(one.object_key.rpartition("/")[0] + "/zarr.json"))
    assert said["attributes"]["dicom"]["sha256"] == hashlib.sha256(file).hexdigest()


@pytest.mark.rooms("sqlite", "postgres")
def test_the_same_bytes_again_change_nothing(room: Room) -> None:
    file = part10(synthetic.ct_series(1)[0])
    assert results(store(room, file)) == ["stored"]
    before = room.query(find_study, EVERYTHING, store(room, file)[0].study_uid or "")
    assert results(store(room, file, file)) == ["identical"] * 2
    assert room.query(find_study, EVERYTHING, before.study_uid) == before
    assert len(objects_in(room)) == 1


@pytest.mark.rooms("sqlite", "postgres")
def test_twins_in_one_group_are_stored_once(room: Room) -> None:
    file = part10(synthetic.ct_series(1)[0])
    assert sorted(map(str, results(store(room, file, file, file)))) == ["identical", "identical", "stored"]
    assert len(objects_in(room)) == 1
    assert temporary_files(room) == []


@pytest.mark.rooms("sqlite", "postgres")
def test_other_bytes_under_a_uid_are_a_new_version_and_the_old_one_stays(room: Room) -> None:
    dataset = synthetic.ct_series(1)[0]
    first = part10(dataset)
    dataset.SeriesDescription = "Other"
    second = part10(dataset)
    store(room, first)
    (outcome,) = store(room, second)
    assert outcome.result == "new version"
    one = find(room, outcome)
    assert (one.version, received_bytes(room, one)) == (2, second)
    study = room.query(find_study, EVERYTHING, one.study_uid)
    assert (study.series_count, study.instance_count) == (1, 1)
    keys = room.query(
        lambda connection: connection.execute(
            sa.select(t.instance.c.version, t.instance.c.object_key).order_by(t.instance.c.version)
        ).all()
    )
    assert [version for version, _ in keys] == [1, 2]
    assert bytes(room.blobs.read_range(keys[0][1], 0, len(first))) == first


@pytest.mark.rooms("sqlite", "postgres")
def test_versions_within_one_group_end_with_the_last(room: Room) -> None:
    dataset = synthetic.ct_series(1)[0]
    files = []
    for number in range(3):
        dataset.SeriesDescription = f"Take {number}"
        files.append(part10(dataset))
    outcomes = store(room, *files)
    assert [one.result for one in outcomes] == ["stored", "new version", "new version"]
    assert received_bytes(room, find(room, outcomes[0])) == files[-1]
    assert room.query(find_study, EVERYTHING, outcomes[0].study_uid or "").instance_count == 1


@pytest.mark.rooms("sqlite", "postgres")
def test_a_uid_that_moves_to_another_study_leaves_true_counts_behind(room: Room) -> None:
    one, other = synthetic.ct_series(2), synthetic.ct_series(1)[0]
    store(room, *map(part10, one))
    other.SOPInstanceUID = one[0].SOPInstanceUID
    other.file_meta.MediaStorageSOPInstanceUID = one[0].SOPInstanceUID
    assert [o.result for o in store(room, part10(other))] == ["new version"]
    assert room.query(find_study, EVERYTHING, one[0].StudyInstanceUID).instance_count == 1
    assert room.query(find_study, EVERYTHING, other.StudyInstanceUID).instance_count == 1


@pytest.mark.parametrize(("policy", "expected"), [("reject", Duplicate), ("keep-first", "kept first")])
def test_policy_may_refuse_other_bytes(settings: Settings, clock: SetClock, policy: str, expected: object) -> None:
    from server.app import build_room

    with build_room(settings.model_copy(update={"duplicates": policy}), clock=clock) as room:
        dataset = synthetic.ct_series(1)[0]
        first = part10(dataset)
        dataset.SeriesDescription = "Other"
        outcomes = store(room, first)
        assert results(store(room, part10(dataset))) == [expected]
        assert received_bytes(room, find(room, outcomes[0])) == first
        assert len(objects_in(room)) == 1


def test_facilities_keep_their_own_instances(room: Room) -> None:
    file = part10(synthetic.ct_series(1)[0])
    (north,) = store(room, file, facility="north")
    (south,) = store(room, file, facility="south")
    assert (north.result, south.result) == ("stored", "stored")
    in_north = find(room, north, Scope(facilities=frozenset({"north"})))
    in_south = find(room, south, Scope(facilities=frozenset({"south"})))
    assert in_north.object_key != in_south.object_key
    patients = room.query(lambda connection: connection.execute(sa.select(t.patient.c.issuer)).scalars().all())
    assert sorted(patients) == ["north", "south"]


def test_studies_of_one_patient_share_the_patient(room: Room) -> None:
    store(room, *(part10(synthetic.ct_series(1)[0]) for _ in range(3)))
    assert count(room, t.study) == 3
    assert count(room, t.patient) == 1


def test_a_study_without_patient_id_has_a_patient_of_its_own(room: Room) -> None:
    store(room, *(part10(synthetic.ct_series(1, PatientID="")[0]) for _ in range(2)))
    assert count(room, t.patient) == 2


def test_bad_bytes_have_an_outcome_and_leave_nothing(room: Room) -> None:
    good = part10(synthetic.ct_series(1)[0])
    outcomes = store(room, b"", b"no dicom", good, good[:100])
    assert results(outcomes) == [NotDicom, NotDicom, "stored", NotDicom]
    assert len(objects_in(room)) == 1
    assert temporary_files(room) == []


def test_an_object_of_another_study_is_refused_by_name(room: Room) -> None:
    outcome = room.ingest.stage(
        part10(synthetic.ct_series(1)[0]), facility="local", source="test", sent_to=SentTo(study_uid="1.2.3")
    )
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, NotThisStudy)
    assert outcome.instance_uid
    assert temporary_files(room) == []


def test_a_file_past_the_limit_is_refused(settings: Settings, clock: SetClock, tmp_path: Path) -> None:
    from server.app import build_room

    path = tmp_path / "large.dcm"
    path.write_bytes(part10(synthetic.ct_series(1)[0]))
    with build_room(settings.model_copy(update={"max_object_bytes": 1000}), clock=clock) as room:
        (outcome,) = room.ingest.store([path], facility="local", source="test")
        assert isinstance(outcome.error, TooLarge)


def test_a_file_that_cannot_be_read_has_an_outcome(room: Room, tmp_path: Path) -> None:
    (outcome,) = room.ingest.store([tmp_path / "not-there.dcm"], facility="local", source="test")
    assert isinstance(outcome.error, Invalid)


def test_a_large_body_goes_through_a_spool(room: Room) -> None:
    file = part10(synthetic.ct_series(1, 256, 256)[0])
    spool = room.ingest.open_spool()
    for start in range(0, len(file), 10_000):
        spool.write(file[start : start + 10_000])
    ready = room.ingest.stage(spool, facility="local", source="test")
    assert isinstance(ready, Ready)
    (outcome,) = room.ingest.commit([ready]).result()
    one = find(room, outcome)
    assert received_bytes(room, one) == file
    assert temporary_files(room) == []


def test_the_metadata_kept_is_that_of_the_file(room: Room) -> None:
    dataset = synthetic.ct_series(1)[0]
    (outcome,) = store(room, part10(dataset))
    blob = room.query(lambda connection: connection.execute(sa.select(t.instance_metadata.c.json)).scalar_one())
    metadata = orjson.loads(zlib.decompress(blob).replace(b"\x01", b"R"))
    assert metadata["00080018"]["Value"] == [dataset.SOPInstanceUID]
    assert metadata["7FE00010"]["BulkDataURI"].startswith(f"R/studies/{outcome.study_uid}/")


def test_concurrent_writers_of_one_series_never_share_a_slot(room: Room) -> None:
    files = [part10(dataset) for dataset in synthetic.ct_series(48)]
    outcomes: list[Outcome] = []

    def send(some: list[bytes]) -> None:
        outcomes.extend(store(room, *some))

    threads = [threading.Thread(target=send, args=(files[start::6],)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.result for one in outcomes] == ["stored"] * 48
    study = room.query(find_study, EVERYTHING, outcomes[0].study_uid or "")
    found = room.query(list_instances, study)
    assert len({one.slot for one in found}) == study.instance_count == 48
    assert {received_bytes(room, one) for one in found} == set(files)


@pytest.mark.rooms("sqlite", "postgres")
def test_two_processes_racing_for_one_uid_agree(room: Room, clock: SetClock) -> None:
    """Two ingests over one catalog and store, as two workers are."""
    other = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=room.settings)
    datasets = synthetic.ct_series(12)
    files = [part10(dataset) for dataset in datasets]
    found: list[Outcome] = []

    def send(ingest: Ingest) -> None:
        found.extend(ingest.store(files, facility="local", source="test"))

    threads = [threading.Thread(target=send, args=(ingest,)) for ingest in (room.ingest, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(str(one.result) for one in found) == ["identical"] * 12 + ["stored"] * 12
    assert room.query(find_study, EVERYTHING, datasets[0].StudyInstanceUID).instance_count == 12
    assert len(objects_in(room)) == 12


def test_one_bad_row_does_not_spoil_its_group(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    import server.ingest as module

    real = module.record_received
    poisoned = synthetic.ct_series(1)[0]

    def record(connection: sa.Connection, received: list[object], **kwargs: object) -> object:
        if any(getattr(one, "instance_uid", "") == poisoned.SOPInstanceUID for one in received):
            raise sa.exc.IntegrityError("insert", {}, Exception("planted"))
        return real(connection, received, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "record_received", record)
    good = [part10(dataset) for dataset in synthetic.ct_series(3)]
    outcomes = store(room, good[0], part10(poisoned), *good[1:])
    assert [one.error is None for one in outcomes] == [True, False, True, True]
    assert len(objects_in(room)) == 3


@pytest.mark.parametrize("call", ["fdatasync", "writev", "rename"])
def test_a_full_disk_is_said_and_nothing_half_done_stays(
    room: Room, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = part10(synthetic.ct_series(1)[0])

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        (outcome,) = store(room, file)
        assert isinstance(outcome.error, OutOfSpace)
    assert objects_in(room) == []
    assert temporary_files(room) == []
    assert count(room, t.instance) == 0
    assert results(store(room, file)) == ["stored"]


def test_an_opaque_object_that_is_only_half_written_leaves_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is two files, and the disk fills between them."""
    real, calls = os.fdatasync, []

    def fills_up(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fills_up)
        assert results(store(room, part10(synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.88.11")))) == [OutOfSpace]
    assert len(calls) == 2
    assert temporary_files(room) == []


def test_a_failing_sync_is_never_answered_with_success(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    file = part10(synthetic.ct_series(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        assert results(store(room, file)) == [Unavailable]
    assert count(room, t.instance) == 0
    assert results(store(room, file)) == ["stored"]


def test_what_a_dead_writer_left_is_swept(room: Room, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=room.settings)
    monkeypatch.setattr(dead, "_record", lambda *_: (_ for _ in ()).throw(SystemExit))
    ready = [dead.stage(part10(dataset), facility="local", source="test") for dataset in synthetic.ct_series(3)]
    sr = dead.stage(part10(synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.88.11")), facility="local", source="test")
    waiting = dead.stage(part10(synthetic.ct_series(1)[0]), facility="local", source="test")
    assert isinstance(waiting, Ready)
    dead._publish([one for one in (*ready, sr) if isinstance(one, Ready)], clock.now())
    assert len(objects_in(room)) == 4
    assert temporary_files(room) == [waiting.path]

    assert room.ingest.sweep_others() == 0, "its lease still runs"
    clock.advance(LEASE + timedelta(seconds=1))
    assert room.ingest.sweep_others() == 6  # three shards, one opaque object of two files, one temporary file
    assert objects_in(room) == []
    assert temporary_files(room) == []
    assert room.ingest.sweep_others() == 0


def test_an_object_that_a_restored_catalog_does_not_know_is_not_swept(room: Room, clock: SetClock) -> None:
    """A backup knows the writer and its slots as they were; what came later filled those slots."""
    writer = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=room.settings)
    clock.advance(LEASE + timedelta(seconds=1))
    sr = part10(synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.88.11"))
    late = [writer.stage(file, facility="local", source="test") for file in (part10(synthetic.ct_series(1)[0]), sr)]
    writer._publish([one for one in late if isinstance(one, Ready)], clock.now())
    with room.engine.begin() as connection:  # as the backup had it
        connection.execute(t.writer.update().values(lease_until=clock.now() - timedelta(seconds=1)))
    assert len(objects_in(room)) == 2
    assert room.ingest.sweep_others() == 0
    assert len(objects_in(room)) == 2


def test_a_taken_key_is_a_conflict_and_its_object_stays(room: Room, clock: SetClock) -> None:
    """Slots are given out again only by a catalog that is older than its store."""
    first, second = synthetic.ct_series(2)
    (outcome,) = store(room, part10(first))
    key = find(room, outcome).object_key
    before = room.blobs.read(key)
    with room.engine.begin() as connection:
        connection.execute(t.zarr_array.update().values(next_slot=0))
    restored = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=room.settings)
    (refused,) = restored.store([part10(second)], facility="local", source="test")
    assert isinstance(refused.error, Conflict)
    assert room.blobs.read(key) == before
    assert temporary_files(room) == []
    restored.close()


def test_a_writer_that_slept_past_its_lease_cannot_commit(room: Room, clock: SetClock) -> None:
    sleeper = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=room.settings)
    ready = sleeper.stage(part10(synthetic.ct_series(1)[0]), facility="local", source="test")
    assert isinstance(ready, Ready)
    clock.advance(LEASE + timedelta(seconds=1))
    room.ingest.sweep_others()
    (outcome,) = sleeper.commit([ready]).result()
    assert isinstance(outcome.error, Unavailable)
    assert count(room, t.instance) == 0
    # It goes on as a new writer.
    file = part10(synthetic.ct_series(1)[0])
    assert [one.result for one in sleeper.store([file], facility="local", source="test")] == ["stored"]
    sleeper.close()


def test_events_are_written_with_what_they_tell(room: Room) -> None:
    first, *late = [part10(dataset) for dataset in synthetic.ct_series(3)]
    store(room, first)
    store(room, *late)
    store(room, first)
    events = room.query(lambda connection: connection.execute(sa.select(t.event).order_by(t.event.c.seq)).all())
    assert [event.type for event in events] == ["InstancesStored", "InstancesStored"]
    payloads = [orjson.loads(event.payload) for event in events]
    assert [payload["arrived"] for payload in payloads] == [True, False]
    assert [sum(map(len, payload["series"].values())) for payload in payloads] == [1, 2]


def test_ids_of_studies_and_patients_follow_from_what_they_name(room: Room) -> None:
    slices = [part10(synthetic.ct_series(1, PatientID=patient)[0]) for patient in ("P1", "P1", "")]
    store(room, *slices)
    with room.engine.connect() as connection:
        studies = connection.execute(sa.select(t.study)).all()
    assert {one.fhir_id for one in studies} == {study_fhir_id("local", one.study_uid) for one in studies}
    assert {one.patient for one in studies if one.patient_id} == {patient_key("local", "P1")}
    assert {one.patient for one in studies if not one.patient_id} == {
        nameless_key("local", one.study_uid) for one in studies if not one.patient_id
    }


def test_a_patient_is_called_what_the_last_study_says(room: Room) -> None:
    for name in ("Doe^Jane", "Doe^Jane", "Roe^Jane"):
        store(room, part10(synthetic.ct_series(1, PatientID="P1", PatientName=name)[0]))
    with room.engine.connect() as connection:
        patient = connection.execute(sa.select(t.patient)).one()
    assert patient.version == 2
    assert orjson.loads(patient.header)["00100010"]["Value"] == [{"Alphabetic": "Roe^Jane"}]
