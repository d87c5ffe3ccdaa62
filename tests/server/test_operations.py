"""Import, export, scrub and reindex, on real archives."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pydicom
import pytest
import sqlalchemy as sa
import zarr

from readingroom.clock import SetClock
from readingroom.errors import Conflict, NotFound, ReadingRoomError
from readingroom.model import Scope
from server.app import build_room
from server.archive import open_new_archive
from server.arrays import describe_arrays
from server.exporting import Damaged, choose_instances, export
from server.importing import Tally, import_paths
from server.reindex import Reindexed, list_objects, prepare, record_objects, replay_side_records
from server.room import Room
from server.scrub import Scrubbed, scrub
from server.settings import Settings
from storage.blobs import LocalBlobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from tests.synthetic import cine, ct_series, encapsulated, part10, pdf_document, secondary_capture, text_report

ALL = pytest.mark.rooms("sqlite", "postgres", "s3")

pytestmark = pytest.mark.filterwarnings("ignore:End of file reached")  # what pydicom says of the broken file


def ignore(_amount: int) -> None:
    """Where nobody watches the progress."""


def store(room: Room, *objects: bytes, facility: str = "local", source: str = "test") -> None:
    for outcome in room.ingest.store(objects, facility=facility, source=source):
        assert outcome.error is None, outcome.error


def take(room: Room, *paths: Path, **kwargs: Any) -> Tally:
    tally = Tally()
    options = {"facility": "local", "source": "import", "max_bytes": 1 << 30, "advance": ignore} | kwargs
    import_paths(room.ingest, paths, tally, **options)
    return tally


def check(room: Room, **kwargs: Any) -> Scrubbed:
    scrubbed = Scrubbed()
    scrub(room.engine, room.blobs, scrubbed, now=room.clock.now(), advance=ignore, **kwargs)
    return scrubbed


def received(room: Room) -> list[str]:
    """The sha256 of every instance in the catalog."""
    with room.engine.connect() as connection:
        return sorted(found.hex() for (found,) in connection.execute(sa.select(t.instance.c.sha256)))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A CD: five slices, a report, a PDF, a note, and a file that claims to be DICOM."""
    folder = tmp_path / "disc"
    folder.mkdir()
    for number, slice_ in enumerate(ct_series()):
        (folder / f"IM{number}").write_bytes(part10(slice_))
    (folder / "SR").write_bytes(part10(text_report()))
    (folder / "PDF").write_bytes(part10(pdf_document()))
    (folder / "NOTE.TXT").write_text("no DICOM")
    (folder / "BROKEN").write_bytes(bytes(128) + b"DICM" + b"\xff" * 20)
    return folder


# -- import ----------------------------------------------------------------------------------------------------------


@ALL
def test_a_folder_is_imported_byte_for_byte(room: Room, disc: Path) -> None:
    tally = take(room, disc, facility="north", source="cd")
    assert tally.results == {"stored": 7}
    assert tally.skipped == 1
    assert [Path(name).name for name, _ in tally.failures] == ["BROKEN"]
    files = [path for path in disc.iterdir() if path.name not in ("NOTE.TXT", "BROKEN")]
    assert received(room) == sorted(sha256(path.read_bytes()) for path in files)
    with room.engine.connect() as connection:
        owners = connection.execute(sa.select(t.instance.c.owner_facility, t.instance.c.source).distinct()).all()
    assert owners == [("north", "cd")]


def test_a_second_import_finds_everything_identical_and_stores_nothing(room: Room, disc: Path) -> None:
    take(room, disc)
    before = sorted(room.blobs.keys("s/"))
    assert take(room, disc).results == {"identical": 7}
    assert sorted(room.blobs.keys("s/")) == before


def test_an_import_that_was_interrupted_goes_on_where_it_was(room: Room, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}").write_bytes(part10(secondary_capture(InstanceNumber=number)))

    def interrupt(_weight: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(room, folder, advance=interrupt)
    stored = len(received(room))
    assert 0 < stored < 150
    assert take(room, folder).results == {"identical": stored, "stored": 150 - stored}


def test_a_zip_file_is_imported_without_being_unpacked(room: Room, disc: Path, tmp_path: Path) -> None:
    archive = tmp_path / "disc.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(disc.iterdir()):
            target.write(path, path.name)
    tally = take(room, archive)
    assert tally.results == {"stored": 7}
    assert [name for name, _ in tally.failures] == [f"{archive}!BROKEN"]
    assert take(room, disc).results == {"identical": 7}


def test_a_file_that_cannot_be_read_through_fails_alone(
    room: Room, disc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.read_bytes

    def scratched(self: Path) -> bytes:
        if self.name == "IM2":
            raise OSError(5, "Input/output error", str(self))
        return whole(self)

    monkeypatch.setattr(Path, "read_bytes", scratched)
    tally = take(room, disc)
    monkeypatch.undo()
    assert tally.results.total() == 6
    failures = {Path(name).name: reason for name, reason in tally.failures}
    assert failures["IM2"] == "It cannot be read: Input/output error."
    assert tally.seen == len(list(disc.iterdir()))


def test_the_progress_adds_up_to_all_that_was_read(room: Room, disc: Path) -> None:
    steps: list[int] = []
    take(room, disc, advance=steps.append)
    assert sum(steps) == sum(path.stat().st_size for path in disc.iterdir())


# -- export ----------------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_what_is_exported_is_what_was_received(room: Room, tmp_path: Path, name: str) -> None:
    series = ct_series()
    report = text_report(StudyInstanceUID=series[0].StudyInstanceUID)
    files = {f"{one.SeriesInstanceUID}/{one.SOPInstanceUID}.dcm": part10(one) for one in [*series, report]}
    store(room, *files.values())
    with room.engine.connect() as connection:
        chosen = choose_instances(connection, Scope(), series[0].StudyInstanceUID, None)
        only = choose_instances(connection, Scope(), series[0].StudyInstanceUID, report.SeriesInstanceUID)
    steps: list[int] = []
    export(room.engine, room.blobs, chosen, tmp_path / name, steps.append)
    assert sum(steps) == sum(map(len, files.values()))
    if name == "out":
        found = {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*.dcm")}
    else:
        with zipfile.ZipFile(tmp_path / name) as archive:
            found = {member: archive.read(member) for member in archive.namelist()}
    assert found == files
    assert [one.instance_uid for one in only] == [report.SOPInstanceUID]


def test_export_overwrites_nothing(room: Room, tmp_path: Path) -> None:
    image = secondary_capture()
    store(room, part10(image))
    with room.engine.connect() as connection:
        chosen = choose_instances(connection, Scope(), image.StudyInstanceUID, None)
    for target in (tmp_path / "out", tmp_path / "out.zip"):
        export(room.engine, room.blobs, chosen, target, ignore)
        with pytest.raises(Conflict, match="exists already"):
            export(room.engine, room.blobs, chosen, target, ignore)
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="is a file"):
        export(room.engine, room.blobs, chosen, tmp_path / "file", ignore)


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_damaged_object_is_not_exported(room: Room, tmp_path: Path, name: str) -> None:
    image = secondary_capture()
    store(room, part10(image))
    with room.engine.connect() as connection:
        (chosen,) = choose_instances(connection, Scope(), image.StudyInstanceUID, None)
    flip(room, chosen.object_key, chosen.size_bytes - 1)
    with pytest.raises(Damaged, match=f"Instance {image.SOPInstanceUID} .* another sha256"):
        export(room.engine, room.blobs, [chosen], tmp_path / name, ignore)
    assert [path for path in (tmp_path / name).rglob("*") if path.is_file()] == []
    assert not (tmp_path / name).is_file()


def test_a_study_that_is_not_there_or_out_of_scope_is_told_the_same(room: Room) -> None:
    image = secondary_capture()
    store(room, part10(image), facility="north")
    with room.engine.connect() as connection:
        for uid, scope in ((image.StudyInstanceUID, Scope().narrowed("south")), ("1.2.3", Scope())):
            with pytest.raises(NotFound, match=f"There is no study {uid}"):
                choose_instances(connection, scope, uid, None)


# -- scrub -----------------------------------------------------------------------------------------------------------


def flip(room: Room, key: str, offset: int) -> None:
    """Change one bit of a stored object."""
    assert isinstance(room.blobs, LocalBlobs)
    path = room.blobs.root / key
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def object_of(room: Room, instance_uid: str) -> sa.Row[Any]:
    with room.engine.connect() as connection:
        return connection.execute(sa.select(t.instance).where(t.instance.c.instance_uid == instance_uid)).one()


@ALL
def test_a_sound_archive_scrubs_clean(room: Room) -> None:
    files = [part10(one) for one in (*ct_series(), text_report(), cine(), encapsulated([b"ab", b"cdef"]))]
    store(room, *files)
    scrubbed = check(room)
    assert scrubbed.objects == len(files)
    assert scrubbed.size_bytes == sum(map(len, files))
    assert scrubbed.damages == []


def test_scrub_finds_every_kind_of_damage(room: Room) -> None:
    names = ("sound", "flipped", "trailer", "index", "cut", "gone", "opaque flipped", "opaque undescribed")
    objects = {name: text_report() if "opaque" in name else cine() for name in names}
    store(room, *map(part10, objects.values()))
    rows = {name: object_of(room, one.SOPInstanceUID) for name, one in objects.items()}
    assert isinstance(room.blobs, LocalBlobs)

    flip(room, rows["flipped"].object_key, 400)
    flip(room, rows["trailer"].object_key, rows["trailer"].size_bytes + 30)
    flip(room, rows["index"].object_key, rows["index"].object_bytes - 6)
    path = room.blobs.root / rows["cut"].object_key
    path.write_bytes(path.read_bytes()[:-5])
    room.blobs.delete(rows["gone"].object_key)
    flip(room, rows["opaque flipped"].object_key, 400)
    room.blobs.put(f"{rows['opaque undescribed'].object_key.rpartition('/')[0]}/zarr.json", b"{}")
    room.blobs.put(f"{rows['sound'].object_key.rpartition('/')[0]}/c.77.0.0", b"nobody knows me")

    found = {damage.object_key: damage.kind for damage in check(room).damages}
    assert found == {
        rows["flipped"].object_key: "changed",
        rows["trailer"].object_key: "index broken",
        rows["index"].object_key: "index broken",
        rows["cut"].object_key: "changed",
        rows["gone"].object_key: "missing",
        rows["opaque flipped"].object_key: "changed",
        rows["opaque undescribed"].object_key: "index broken",
        f"{rows['sound'].object_key.rpartition('/')[0]}/c.77.0.0": "orphan",
    }


def test_every_single_bit_counts(room: Room) -> None:
    image = cine()
    store(room, part10(image))
    row = object_of(room, image.SOPInstanceUID)
    for offset in random.Random(1).sample(range(row.size_bytes), 40):
        flip(room, row.object_key, offset)
        assert [damage.kind for damage in check(room).damages] == ["changed"]
        flip(room, row.object_key, offset)
    assert check(room).damages == []


@pytest.mark.rooms("sqlite", "postgres")
def test_what_a_living_writer_has_not_committed_yet_is_no_orphan(room: Room, clock: SetClock) -> None:
    image = cine()
    store(room, part10(image))
    row = object_of(room, image.SOPInstanceUID)
    with room.engine.connect() as connection:
        blocks = connection.execute(sa.select(t.slot_block).where(t.slot_block.c.array == row.array)).all()
    reserved = next(block.first + block.count for block in blocks)  # one beyond what is reserved
    folder = row.object_key.rpartition("/")[0]
    room.blobs.put(f"{folder}/c.{reserved}.0.0", b"a stray")
    with begin_write(room.engine) as connection:
        connection.execute(
            t.slot_block.insert().values(array=row.array, writer=blocks[0].writer, first=reserved, count=1)
        )
    assert check(room).damages == []
    clock.advance(timedelta(minutes=10))  # the writer's lease runs out
    assert [damage.kind for damage in check(room).damages] == ["orphan"]


def test_a_sample_reads_a_part(room: Room) -> None:
    store(room, *(part10(secondary_capture()) for _ in range(60)))
    random.seed(7)
    assert 5 < check(room, sample=0.3).objects < 40
    assert check(room, sample=0).objects == 0


# -- reindex ---------------------------------------------------------------------------------------------------------


@contextmanager
def again(settings: Settings, database: str, clock: SetClock) -> Iterator[tuple[sa.Engine, Reindexed]]:
    """The catalog that `reindex` makes of the objects in the store of `settings`."""
    reindexed = Reindexed()
    with open_new_archive(settings.model_copy(update={"database": database})) as (engine, blobs):
        prepare(engine, now=clock.now(), force=False)
        objects = list_objects(blobs, reindexed, ignore)
        record_objects(engine, blobs, objects, reindexed, quiet=Settings().quiet_period, advance=ignore)
        replay_side_records(engine, blobs, reindexed)
        yield engine, reindexed


def catalog_of(engine: sa.Engine) -> dict[str, list[Any]]:
    """All that was received, without the ids that each catalog makes for itself, and without counters of changes."""
    of_the_study = [t.study.c.owner_facility, t.study.c.study_uid]

    def rows(*columns: sa.Column[Any], **joins: Any) -> list[Any]:
        statement = sa.select(*columns)
        for table, condition in joins.get("to", ()):
            statement = statement.join(table, condition)
        with engine.connect() as connection:
            return sorted(map(tuple, connection.execute(statement)), key=repr)

    def but(table: sa.Table, *names: str) -> list[sa.Column[Any]]:
        return [column for column in table.columns if column.name not in names]

    to_study = (t.study, t.series.c.study == t.study.c.id)
    return {
        "facility": rows(*but(t.facility)),
        "patient": rows(*but(t.patient, "id", "version")),
        "study": rows(
            *but(t.study, "id", "patient", "version"),
            t.patient.c.issuer.label("patient_issuer"),
            to=[(t.patient, t.study.c.patient == t.patient.c.id)],
        ),
        "study_value": rows(
            *of_the_study, *but(t.study_value, "entity"), to=[(t.study, t.study_value.c.entity == t.study.c.id)]
        ),
        "series": rows(*but(t.series, "id", "study", "version"), *of_the_study, to=[to_study]),
        "series_value": rows(
            t.series.c.series_uid,
            *but(t.series_value, "entity"),
            to=[(t.series, t.series_value.c.entity == t.series.c.id)],
        ),
        "zarr_array": rows(*but(t.zarr_array, "id", "next_slot")),
        "instance": rows(
            *but(t.instance, "id", "study", "series", "array"),
            t.series.c.place,
            t.zarr_array.c.name,
            *of_the_study,
            to=[
                (t.series, t.instance.c.series == t.series.c.id),
                to_study,
                (t.zarr_array, t.instance.c.array == t.zarr_array.c.id),
            ],
        ),
        "instance_value": rows(
            t.instance.c.object_key,
            *but(t.instance_value, "entity"),
            to=[(t.instance, t.instance_value.c.entity == t.instance.c.id)],
        ),
        "instance_metadata": rows(
            t.instance.c.object_key,
            t.instance_metadata.c.json,
            to=[(t.instance, t.instance_metadata.c.instance == t.instance.c.id)],
        ),
    }


def fill(room: Room, clock: SetClock) -> None:
    """A little of everything: several facilities and series, versions, a late slice, what has no frames."""
    head, chest = ct_series(6, Modality="CT", SeriesNumber=2), ct_series(3, PatientID="RR-0002")
    shuffled = random.Random(3).sample(head, len(head))
    store(room, *map(part10, shuffled[:5]), source="stow")
    clock.advance(timedelta(seconds=5))
    store(room, *map(part10, chest), text_report_of(chest), facility="north")
    clock.advance(timedelta(hours=3))
    store(room, part10(shuffled[5]))
    report, wide = text_report(PatientID=""), cine(5)
    store(room, part10(report), part10(wide), part10(encapsulated([b"12", b"3456", b"78"])), part10(pdf_document()))
    for words in ("corrected once", "corrected twice"):
        clock.advance(timedelta(minutes=1))
        wide.ImageComments = words
        store(room, part10(wide))


def text_report_of(series: list[Any]) -> bytes:
    return part10(text_report(StudyInstanceUID=series[0].StudyInstanceUID, PatientID="RR-0002", SeriesNumber=9))


@ALL
def test_reindex_gives_the_catalog_that_ingest_gave(
    room: Room, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    fill(room, clock)
    original = catalog_of(room.engine)
    assert len(original["instance"]) == 16
    with room.engine.connect() as connection:
        versions = connection.execute(sa.select(t.instance.c.version).distinct()).scalars().all()
    assert sorted(versions) == [1, 2, 3]
    with again(settings, f"sqlite:///{tmp_path / 'again.sqlite'}", clock) as (engine, reindexed):
        assert reindexed.failures == []
        assert reindexed.instances == 16
        for table, rows in catalog_of(engine).items():
            assert rows == original[table], table


def test_reindex_moves_a_catalog_from_sqlite_to_postgresql(
    room: Room, settings: Settings, clock: SetClock, postgres_url: str
) -> None:
    fill(room, clock)
    original = catalog_of(room.engine)
    with again(settings, postgres_url, clock) as (engine, _):
        for table, rows in catalog_of(engine).items():
            assert rows == original[table], table


def test_ingest_goes_on_after_a_reindex_without_touching_a_slot(
    room: Room, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    series = ct_series(8)
    store(room, *map(part10, series[:4]))
    database = f"sqlite:///{tmp_path / 'again.sqlite'}"
    with again(settings, database, clock):
        pass
    with build_room(settings.model_copy(update={"database": database}), clock=clock) as other:
        store(other, *map(part10, series))
        assert len(received(other)) == 8
        assert check(other).damages == []


def test_reindex_leaves_a_catalog_that_holds_something_unless_forced(room: Room, clock: SetClock) -> None:
    store(room, part10(secondary_capture()))
    room.ingest.close()
    with pytest.raises(Conflict, match="The catalog is not empty"):
        prepare(room.engine, now=clock.now(), force=False)
    assert len(received(room)) == 1
    prepare(room.engine, now=clock.now(), force=True)
    assert received(room) == []


def test_reindex_does_not_work_beside_a_server(room: Room, clock: SetClock) -> None:
    with pytest.raises(Conflict, match="A server or an import is at work"):
        prepare(room.engine, now=clock.now(), force=True)


def test_an_object_that_cannot_be_read_is_told_and_does_not_stop_the_others(
    room: Room, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    images = [cine() for _ in range(4)]
    store(room, *map(part10, images))
    rows = [object_of(room, image.SOPInstanceUID) for image in images]
    assert isinstance(room.blobs, LocalBlobs)
    flip(room, rows[0].object_key, rows[0].size_bytes + 14)  # the trailer's magic
    flip(room, rows[1].object_key, 130)  # "DICM"
    misplaced = room.blobs.root / rows[2].object_key.replace("/c.", "/c.9")
    misplaced = room.blobs.root / "s/00/00/elsewhere/a0" / misplaced.name
    misplaced.parent.mkdir(parents=True)
    (room.blobs.root / rows[2].object_key).rename(misplaced)
    with again(settings, f"sqlite:///{tmp_path / 'again.sqlite'}", clock) as (_, reindexed):
        reasons = dict(reindexed.failures)
    assert reindexed.instances == 1
    assert set(reasons) == {
        rows[0].object_key,
        rows[1].object_key,
        str(misplaced.relative_to(room.blobs.root)),
    }
    assert reasons[str(misplaced.relative_to(room.blobs.root))] == "It lies in a folder that is not its own."


def test_side_records_are_replayed_by_type_in_the_order_of_their_time(
    room: Room, settings: Settings, clock: SetClock, tmp_path: Path
) -> None:
    image = cine()
    store(room, part10(image))
    place = object_of(room, image.SOPInstanceUID).object_key.split("/a0/")[0]
    for name, record in {
        "1": {"type": "note", "at": "2026-02-02T00:00:00+00:00", "text": "second"},
        "2": {"type": "note", "at": "2026-02-01T00:00:00+00:00", "text": "first"},
        "3": {"type": "of tomorrow", "at": "2026-02-03T00:00:00+00:00"},
        "4": ["not a record"],
    }.items():
        room.blobs.put(f"{place}/x/{name}.json", orjson.dumps(record))
    said: list[str] = []
    with again(settings, f"sqlite:///{tmp_path / 'again.sqlite'}", clock) as (engine, _):
        reindexed = Reindexed()
        appliers: dict[str, Callable[[sa.Connection, dict[str, Any]], None]] = {
            "note": lambda _connection, record: said.append(record["text"])
        }
        replay_side_records(engine, room.blobs, reindexed, appliers)
    assert said == ["first", "second"]
    assert reindexed.side_records == 2
    assert {key.rpartition("/")[2]: reason for key, reason in reindexed.failures} == {
        "3.json": "This release knows no side record of type 'of tomorrow'; a newer one wrote it.",
        "4.json": "It is no side record: JSON with a type and a time is expected.",
    }


# -- zarr path -------------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "s3")
def test_the_snippet_of_zarr_path_opens_the_series_in_slice_order(
    room: Room, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if room.settings.s3_access_key and room.settings.s3_secret_key:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", room.settings.s3_access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", room.settings.s3_secret_key.get_secret_value())
    series = ct_series(6)
    store(room, *map(part10, random.Random(5).sample(series, 6)))
    clock.advance(timedelta(minutes=1))
    series[2].ImageComments = "sent again"
    store(room, part10(series[2]))
    with room.engine.connect() as connection:
        (array,) = describe_arrays(connection, room.blobs, Scope(), series[0].SeriesInstanceUID)
    assert array.instances == 6
    scope: dict[str, Any] = {}
    code = "\n".join(line.strip() for line in array.snippet(room.blobs, room.settings).splitlines())
    exec(code, scope)  # as a researcher would paste it
    expected = np.stack([pydicom.dcmread(pydicom.filebase.DicomBytesIO(part10(one))).pixel_array for one in series])
    np.testing.assert_array_equal(scope["volume"], expected)


def test_a_study_gives_all_its_arrays_and_its_objects_without_frames(room: Room) -> None:
    image = cine(3)
    report = text_report(StudyInstanceUID=image.StudyInstanceUID)
    store(room, part10(image), part10(report))
    with room.engine.connect() as connection:
        found = list(describe_arrays(connection, room.blobs, Scope(), image.StudyInstanceUID))
    by_series = {one.series.series_uid: one for one in found}
    frames: dict[str, Any] = {}
    snippet = by_series[image.SeriesInstanceUID].snippet(room.blobs, room.settings)
    exec("\n".join(line.strip() for line in snippet.splitlines()), frames)
    assert [int(frame[2, 0, 0]) for frame in frames["frames"]] == [3]
    assert by_series[report.SeriesInstanceUID].spec is None
    assert "1 objects without frames" in by_series[report.SeriesInstanceUID].summary
    group = zarr.open_group(by_series[report.SeriesInstanceUID].address(room.blobs, room.settings), mode="r")
    (only,) = [array for _, array in group.arrays()]
    assert bytes(only[:]) == part10(report)


def test_a_uid_that_nobody_has_is_told(room: Room) -> None:
    with room.engine.connect() as connection, pytest.raises(ReadingRoomError, match="There is no study and no series"):
        list(describe_arrays(connection, room.blobs, Scope(), "1.2.3"))
