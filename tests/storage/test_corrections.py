"""Corrections in the catalog, on SQLite and PostgreSQL alike: rows, patients, metadata and history under them."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Ambiguous, Changed, NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.corrections import Target, next_correction, read_history, record_correction
from storage.catalog.engine import begin_write
from storage.catalog.find import find_instance, find_study, read_metadata
from storage.changes import Changes, read_change
from storage.overlay import ORIGINAL_ATTRIBUTES, Correction
from tests.catalog import fill, header
from tests.synthetic import new_uid

STUDY, SERIES, INSTANCE = new_uid(), new_uid(), new_uid()
EVERYWHERE = Scope()
LATER = timedelta(minutes=5)


def of_study(**attributes: Any) -> dict[str, Any]:
    made = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "SOPInstanceUID": INSTANCE,
        "PatientName": "Wrong^Will",
        "PatientID": "W1",
        "StudyDescription": "Chest",
        "InstitutionName": "North",
        "Modality": "OT",
        "InstanceNumber": 1,
    }
    return header(**{**made, **attributes})


def changes(**attributes: str | None) -> Changes:
    return dict(read_change(keyword, text) for keyword, text in attributes.items())


def correct(
    engine: sa.Engine,
    change: Changes | int,
    *,
    series: str = "",
    instance: str = "",
    minutes: int = 5,
    held: str | None = None,
    scope: Scope = EVERYWHERE,
) -> Correction | None:
    now = SetClock().now() + timedelta(minutes=minutes)
    target = Target(study_uid=STUDY, series_uid=series, instance_uid=instance)
    with begin_write(engine) as connection:
        correction = next_correction(
            connection, scope, target, change, actor="rita", reason="wrong patient", now=now, held=held
        )
        if correction is not None:
            record_correction(connection, correction)
    return correction


def study_of(engine: sa.Engine) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(t.study)).one()


def series_of(engine: sa.Engine, series_uid: str = SERIES) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(t.series).where(t.series.c.series_uid == series_uid)).one()


def metadata_of(engine: sa.Engine, instance_uid: str = INSTANCE, version: int = 1) -> dict[str, Any]:
    with engine.connect() as connection:
        statement = (
            sa.select(t.instance_metadata.c.json)
            .join(t.instance, t.instance.c.id == t.instance_metadata.c.instance)
            .where(t.instance.c.instance_uid == instance_uid, t.instance.c.version == version)
        )
        found: dict[str, Any] = orjson.loads(zlib.decompress(connection.execute(statement).scalar_one()))
        return found


def patients_of(engine: sa.Engine) -> set[tuple[str, str | None]]:
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(sa.select(t.patient.c.issuer, t.patient.c.patient_id))}


def names_of(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        statement = sa.select(t.study_value.c.value).where(t.study_value.c.key == "00100010")
        return set(connection.execute(statement).scalars())


def catalog_of(engine: sa.Engine) -> dict[str, Any]:
    """All that the catalog says, but for ids and versions."""
    with engine.connect() as connection:
        study, series = (
            connection.execute(sa.select(table).order_by(uid)).mappings().all()
            for table, uid in ((t.study, t.study.c.study_uid), (t.series, t.series.c.series_uid))
        )
        instances = connection.execute(
            sa.select(t.instance.c.instance_uid, t.instance.c.overlay_version, t.instance_metadata)
            .join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id)
            .order_by(t.instance.c.instance_uid, t.instance.c.version)
        ).mappings()
        left_out = {"id", "study", "patient", "version", "updated_at", "received_at", "instance", "json", "received"}

        def plain(row: Any) -> dict[str, Any]:
            said = {name: value for name, value in row.items() if name not in left_out}
            blobs = {
                name: value and zlib.decompress(value) for name, value in row.items() if name in ("json", "received")
            }
            return said | blobs

        return {
            "study": [plain(row) for row in study],
            "series": [plain(row) for row in series],
            "instances": [plain(row) for row in instances],
            "patients": patients_of(engine),
            "names": names_of(engine),
        }


@pytest.fixture
def filled(engine: sa.Engine) -> sa.Engine:
    """One study of one instance."""
    fill(engine, of_study())
    return engine


def test_a_corrected_study_is_another_patients_in_rows_names_and_metadata(filled: sa.Engine) -> None:
    before = study_of(filled)
    correction = correct(filled, changes(PatientName="Right^Rita", PatientID="R2", StudyDescription=None))
    assert correction is not None
    assert correction.version == 1
    study = study_of(filled)
    assert (study.patient_id, study.study_description, study.overlay_version) == ("R2", None, 1)
    assert study.version > before.version
    row = orjson.loads(study.row.replace(b"\x01", b""))
    assert row["00100020"]["Value"] == ["R2"]
    assert row["00081030"] == {"vr": "LO"}
    assert row["00201208"]["Value"] == [1]
    assert patients_of(filled) == {("local", "R2")}
    assert names_of(filled) == {"right^rita"}
    metadata = metadata_of(filled)
    assert metadata["00100010"]["Value"] == [{"Alphabetic": "Right^Rita"}]
    assert "00081030" not in metadata
    (item,) = metadata[ORIGINAL_ATTRIBUTES]["Value"]
    assert item["04000550"]["Value"][0]["00100020"]["Value"] == ["W1"]


def test_everything_is_as_before_once_it_is_taken_back(filled: sa.Engine) -> None:
    before = catalog_of(filled)
    correct(filled, changes(PatientName="Right^Rita", PatientID="R2", InstitutionName="South"))
    assert catalog_of(filled) != before
    correction = correct(filled, 0, minutes=6)
    assert correction is not None
    assert (correction.version, correction.attributes) == (2, {})
    after = catalog_of(filled)
    assert after["study"][0].pop("overlay_version") == 2
    assert before["study"][0].pop("overlay_version") == 0
    assert after == before


def test_an_earlier_version_may_hold_again(filled: sa.Engine) -> None:
    correct(filled, changes(PatientID="R2"))
    correct(filled, changes(PatientID="R3", PatientSex="F"), minutes=6)
    correct(filled, 1, minutes=7)
    assert metadata_of(filled)["00100020"]["Value"] == ["R2"]
    assert study_of(filled).sex is None
    assert len(metadata_of(filled)[ORIGINAL_ATTRIBUTES]["Value"]) == 3
    with pytest.raises(NotFound, match="no version 9"):
        correct(filled, 9)


def test_a_correction_that_changes_nothing_is_none(filled: sa.Engine) -> None:
    correct(filled, changes(PatientID="R2"))
    assert correct(filled, changes(PatientID="R2"), minutes=6) is None
    assert correct(filled, 1, minutes=6) is None
    assert study_of(filled).overlay_version == 1


def test_a_corrected_modality_is_that_of_series_and_study(filled: sa.Engine) -> None:
    other = new_uid()
    fill(filled, of_study(SeriesInstanceUID=other, SOPInstanceUID=new_uid(), Modality="CT"))
    requests = read_change("SeriesDescription", "Ap")
    correct(filled, {**changes(Modality="DX"), **dict([requests])}, series=SERIES)
    assert (series_of(filled).modality, series_of(filled).series_description) == ("DX", "Ap")
    assert series_of(filled, other).modality == "CT"
    assert study_of(filled).modalities == "CT\\DX\\"
    assert metadata_of(filled)["00080060"]["Value"] == ["DX"]


def test_an_attribute_of_study_and_series_is_corrected_in_both(filled: sa.Engine) -> None:
    correct(filled, changes(InstitutionName="South"))
    assert study_of(filled).institution_name == "South"
    assert orjson.loads(series_of(filled).extra)["00080080"]["Value"] == ["South"]
    correct(filled, changes(InstitutionName="West"), series=SERIES, minutes=6)
    assert study_of(filled).institution_name == "South"
    assert orjson.loads(series_of(filled).extra)["00080080"]["Value"] == ["West"]
    assert metadata_of(filled)["00080080"]["Value"] == ["West"]


def test_a_corrected_instance_is_found_by_its_new_number_and_others_stay(filled: sa.Engine) -> None:
    other = new_uid()
    fill(filled, of_study(SOPInstanceUID=other, InstanceNumber=2))
    correct(filled, changes(InstanceNumber="7", ContentDate="20260101"), series=SERIES, instance=INSTANCE)
    with filled.connect() as connection:
        mine, its = (find_instance(connection, EVERYWHERE, STUDY, SERIES, uid) for uid in (INSTANCE, other))
    assert (mine.instance_number, mine.overlay_version) == (7, 2)
    assert (its.instance_number, its.overlay_version) == (2, 0)
    assert mine.etag != its.etag
    assert ORIGINAL_ATTRIBUTES not in metadata_of(filled, other)


def test_the_validator_changes_with_every_correction_and_comes_back_with_the_bytes(filled: sa.Engine) -> None:
    def etag() -> str:
        with filled.connect() as connection:
            return find_instance(connection, EVERYWHERE, STUDY, SERIES, INSTANCE).etag

    seen = [etag()]
    for minute, change in enumerate((changes(PatientID="R2"), changes(PatientID="R3"), changes(PatientID="R2")), 5):
        correct(filled, change, minutes=minute)
        seen.append(etag())
    assert len(set(seen)) == 4
    correct(filled, 0, minutes=9)
    assert etag() == seen[0]


def test_what_arrives_later_comes_under_the_corrections(filled: sa.Engine) -> None:
    correct(filled, changes(PatientID="R2", PatientName="Right^Rita", InstitutionName="South"), minutes=-5)
    other, late = new_uid(), new_uid()
    fill(filled, of_study(SOPInstanceUID=late), of_study(SeriesInstanceUID=other, SOPInstanceUID=new_uid()))
    assert metadata_of(filled, late)["00100020"]["Value"] == ["R2"]
    assert len(metadata_of(filled, late)[ORIGINAL_ATTRIBUTES]["Value"]) == 1
    assert orjson.loads(series_of(filled, other).extra)["00080080"]["Value"] == ["South"]
    assert study_of(filled).patient_id == "R2"
    assert study_of(filled).instance_count == 3
    correct(filled, 0, minutes=9)
    assert metadata_of(filled, late)["00100020"]["Value"] == ["W1"]
    assert orjson.loads(series_of(filled, other).extra)["00080080"]["Value"] == ["North"]


def test_corrections_before_and_after_arrival_give_the_same_catalog(engine: sa.Engine) -> None:
    """What `reindex` relies upon: it records all objects first, and replays the corrections after them."""
    later = [of_study(SOPInstanceUID=new_uid()), of_study(SeriesInstanceUID=new_uid(), SOPInstanceUID=new_uid())]
    fill(engine, of_study())
    made = [
        correct(engine, changes(PatientID="R2", InstitutionName="South"), minutes=-9),
        correct(engine, changes(Modality="DX"), series=SERIES, minutes=-8),
        correct(engine, changes(InstanceNumber="5"), series=SERIES, instance=INSTANCE, minutes=-7),
    ]
    fill(engine, *later)
    expected = catalog_of(engine)
    with begin_write(engine) as connection:
        for table in (t.overlay, t.instance_metadata, t.instance, t.series, t.study, t.patient):
            connection.execute(table.delete())
    fill(engine, of_study(), *later)
    for one in made:
        assert one is not None
        with begin_write(engine) as connection:
            record_correction(connection, one)
    assert catalog_of(engine) == expected


def test_every_version_of_an_instance_is_corrected(filled: sa.Engine) -> None:
    fill(filled, of_study(ImageComments="again"))
    correct(filled, changes(PatientID="R2"))
    assert [metadata_of(filled, version=version)["00100020"]["Value"] for version in (1, 2)] == [["R2"], ["R2"]]


def test_studies_without_a_patient_id_get_and_lose_a_patient_of_their_own(engine: sa.Engine) -> None:
    fill(engine, of_study(PatientID=""))
    assert patients_of(engine) == {("local", None)}
    correct(engine, changes(PatientID="R2", IssuerOfPatientID="HOSPITAL"))
    assert patients_of(engine) == {("HOSPITAL", "R2")}
    correct(engine, 0, minutes=6)
    assert patients_of(engine) == {("local", None)}


def test_a_patient_with_other_studies_stays(filled: sa.Engine) -> None:
    fill(filled, header(PatientID="W1"))
    correct(filled, changes(PatientID="R2"))
    assert patients_of(filled) == {("local", "R2"), ("local", "W1")}


def test_history_says_what_was_and_what_is(filled: sa.Engine) -> None:
    correct(filled, changes(PatientID="R2"))
    correct(filled, changes(Modality="DX"), series=SERIES, minutes=6)
    correct(filled, changes(PatientID="R3", AccessionNumber="A2"), minutes=7)
    with filled.connect() as connection:
        history = read_history(connection, EVERYWHERE, Target(study_uid=STUDY))
        of_series = read_history(connection, EVERYWHERE, Target(study_uid=STUDY, series_uid=SERIES))
    assert [entry.correction.version for entry in history.entries] == [1, 2, 3]
    assert [entry.correction.actor for entry in history.entries] == ["rita"] * 3
    patient_ids = [
        tuple(one and one["Value"][0] for one in entry.changed["00100020"])
        for entry in history.entries
        if "00100020" in entry.changed
    ]
    assert patient_ids == [("W1", "R2"), ("R2", "R3")]
    assert history.entries[2].changed["00080050"] == ({"vr": "SH"}, {"vr": "SH", "Value": ["A2"]})
    assert history.entries[1].changed == {
        "00080060": ({"vr": "CS", "Value": ["OT"]}, {"vr": "CS", "Value": ["DX"]}),
    }
    assert history.tag == of_series.tag == f"{study_of(filled).id}-3"
    assert len(of_series.entries) == 3


def test_history_of_an_instance_leaves_out_what_does_not_concern_it(filled: sa.Engine) -> None:
    other = new_uid()
    fill(filled, of_study(SOPInstanceUID=other, InstanceNumber=2))
    correct(filled, changes(InstanceNumber="7"), series=SERIES, instance=INSTANCE)
    correct(filled, changes(InstanceNumber="8"), series=SERIES, instance=other, minutes=6)
    with filled.connect() as connection:
        mine = read_history(connection, EVERYWHERE, Target(study_uid=STUDY, series_uid=SERIES, instance_uid=other))
    (entry,) = mine.entries
    assert [one and one["Value"] for one in entry.changed["00200013"]] == [[2], [8]]


def test_who_has_seen_an_older_state_is_told(filled: sa.Engine) -> None:
    with filled.connect() as connection:
        seen = read_history(connection, EVERYWHERE, Target(study_uid=STUDY)).tag
    correct(filled, changes(PatientID="R2"), held=seen)
    with pytest.raises(Changed):
        correct(filled, changes(PatientID="R3"), held=seen)


def test_two_at_once_are_one_after_the_other(filled: sa.Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: correct(filled, changes(PatientID=f"R{number}")), range(4)))
    assert sorted(one.version for one in made if one) == [1, 2, 3, 4]
    last = max((one for one in made if one), key=lambda one: one.version)
    assert metadata_of(filled)["00100020"] == last.attributes["00100020"]
    with filled.connect() as connection:
        entries = read_history(connection, EVERYWHERE, Target(study_uid=STUDY)).entries
    assert [entry.correction.version for entry in entries] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("series", "instance"),
    [("1.2.9", ""), (SERIES, "1.2.9"), ("1.2.9", INSTANCE)],
    ids=["no series", "no instance", "no series of the instance"],
)
def test_what_is_not_there_cannot_be_corrected(filled: sa.Engine, series: str, instance: str) -> None:
    with pytest.raises(NotFound):
        correct(filled, changes(Modality="DX"), series=series, instance=instance)


def test_a_study_of_another_facility_is_neither_seen_nor_touched(filled: sa.Engine) -> None:
    fill(filled, of_study(), facility="south")
    with pytest.raises(Ambiguous):
        correct(filled, changes(PatientID="R2"))
    correct(filled, changes(PatientID="R2"), scope=Scope().narrowed("south"))
    with filled.connect() as connection:
        north, south = (find_study(connection, Scope().narrowed(one), STUDY) for one in ("local", "south"))
        ids = {row.id: row.patient_id for row in connection.execute(sa.select(t.study))}
    assert (ids[north.id], ids[south.id]) == ("W1", "R2")
    assert patients_of(filled) == {("local", "W1"), ("south", "R2")}
    with pytest.raises(NotFound):
        correct(filled, changes(PatientID="R3"), scope=Scope().narrowed("west"))


def test_metadata_as_received_stays(filled: sa.Engine) -> None:
    with filled.connect() as connection:
        instance = find_instance(connection, EVERYWHERE, STUDY, SERIES, INSTANCE)
        received = read_metadata(connection, instance.id)
    correct(filled, changes(PatientID="R2"))
    with filled.connect() as connection:
        assert read_metadata(connection, instance.id) != received
        assert read_metadata(connection, instance.id, original=True) == received
