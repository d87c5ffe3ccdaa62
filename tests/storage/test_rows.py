"""From headers to rows: what is matched, what is sent, and that no header is too broken."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from storage.catalog import rows
from storage.objects import BASE_URL_MARK
from tests.catalog import header

COUNTS: dict[str, Any] = {"modalities": ["CT", "SR"], "sop_classes": ["1.2.3"], "series_count": 2, "instance_count": 7}


def test_columns_of_a_study_are_normal() -> None:
    columns = rows.study_columns(
        header(
            PatientID=" 4711 ",
            IssuerOfPatientID="NORTH",
            PatientBirthDate="19700102",
            PatientSex="F",
            StudyDate="20240229",
            StudyTime="0930",
            TimezoneOffsetFromUTC="+0530",
            AccessionNumber="A1",
            StudyID="S1",
            StudyDescription="Thorax",
            InstitutionName="Klinik",
        )
    )
    assert columns == {
        "patient_id": "4711",
        "issuer": "NORTH",
        "birth_date": "19700102",
        "sex": "F",
        "study_date": "20240229",
        "study_time": "093000.000000",
        "timezone_offset": "+0530",
        "accession_number": "A1",
        "study_id": "S1",
        "study_description": "Thorax",
        "institution_name": "Klinik",
    }


def test_an_empty_header_gives_empty_columns() -> None:
    columns = rows.study_columns({})
    assert columns.pop("study_date") == ""
    assert set(columns.values()) == {None}
    assert set(rows.series_columns({}).values()) == {None}
    assert rows.instance_columns({}) == {
        "sop_class": "",
        "instance_number": None,
        "content_date": None,
        "content_time": None,
        "rows": None,
        "columns": None,
        "bits_allocated": None,
        "frame_count": 0,
    }


@pytest.mark.parametrize(
    "element",
    [
        {},
        {"vr": "LO"},
        {"vr": "LO", "Value": []},
        {"vr": "LO", "Value": [None]},
        {"vr": "LO", "Value": [True]},
        {"vr": "LO", "Value": [{"Alphabetic": "x"}]},
        {"vr": "LO", "Value": ["\0\0"]},
        {"vr": "LO", "Value": ["x" * 10_000]},
        {"vr": "UN", "InlineBinary": "AAAA"},
        {"vr": "OB", "BulkDataURI": "\x01/bulk"},
        {"vr": "SQ", "Value": [None, {}, {"00400009": {"vr": "SH"}}]},
    ],
)
def test_a_broken_element_gives_no_column_and_no_error(element: dict[str, Any]) -> None:
    tags = [*rows.STUDY_TAGS, *rows.SERIES_TAGS, "00100021", "00080080", "00200013", "00280010", "00080023", "00080033"]
    metadata = dict.fromkeys(tags, element)
    columns = rows.study_columns(metadata)
    assert columns.pop("study_date") == ""
    assert set(columns.values()) == {None}
    assert set(rows.series_columns(metadata).values()) == {None}
    assert set(rows.instance_columns(metadata).values()) == {None, "", 0}


def test_numbers_are_taken_as_numbers_or_as_text() -> None:
    for value in (12, 12.0, "12", "+12", " 12 ", "12."):
        assert rows.instance_columns({"00200013": {"vr": "IS", "Value": [value]}})["instance_number"] == 12


@pytest.mark.parametrize("value", ["abc", "1.5", "1e3", "", 10**19, -(10**19), "9" * 30, 1e999, float("nan")])
def test_a_number_that_is_none_or_too_great_gives_no_column(value: object) -> None:
    assert rows.instance_columns({"00200013": {"vr": "IS", "Value": [value]}})["instance_number"] is None
    assert rows.series_columns({"00200011": {"vr": "IS", "Value": [value]}})["series_number"] is None


def test_a_number_must_fit_its_column() -> None:
    columns = rows.instance_columns({tag: {"vr": "US", "Value": [2**31]} for tag in ("00280010", "00200013")})
    assert columns["rows"] is None
    assert columns["instance_number"] == 2**31


def test_frames_are_counted_only_where_there_are_pixels() -> None:
    frames = {"00280008": {"vr": "IS", "Value": [5]}}
    pixels = {"7FE00010": {"vr": "OW", "BulkDataURI": "x"}}
    assert rows.instance_columns(frames)["frame_count"] == 0
    assert rows.instance_columns(pixels)["frame_count"] == 1
    assert rows.instance_columns(frames | pixels)["frame_count"] == 5
    assert rows.instance_columns({"00280008": {"vr": "IS", "Value": [-1]}} | pixels)["frame_count"] == 1


def study_row(metadata: dict[str, Any], **counts: Any) -> tuple[bytes, bytes]:
    return rows.study_row(metadata, study_uid="1.2.3", **(COUNTS | counts))


def loaded(row: bytes) -> dict[str, Any]:
    """As it is sent, with the service root for the mark."""
    json: dict[str, Any] = orjson.loads(row.replace(BASE_URL_MARK.encode(), b"http://host/dicomweb"))
    return json


def test_a_study_row_has_all_that_is_required_in_the_order_of_tags() -> None:
    row = loaded(study_row({})[0])
    assert list(row) == sorted(row)
    assert set(row) == rows.STUDY_TAGS - {"00080005", "00080201"}
    assert row["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}
    assert row["00080062"] == {"vr": "UI", "Value": ["1.2.3"]}
    assert row["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
    assert row["00081190"] == {"vr": "UR", "Value": ["http://host/dicomweb/studies/1.2.3"]}
    assert row["00201206"] == {"vr": "IS", "Value": [2]}
    assert row["00201208"] == {"vr": "IS", "Value": [7]}
    assert row["00100010"] == {"vr": "PN"}


def test_a_row_keeps_values_as_they_were_received() -> None:
    metadata = header(SpecificCharacterSet="ISO_IR 100", StudyDate="20240229", PatientName="Yamada=山田=やまだ")
    metadata["00080020"]["Value"] = ["2024.02.29"]
    row = loaded(study_row(metadata)[0])
    assert row["00080020"]["Value"] == ["2024.02.29"]
    assert row["00080005"]["Value"] == ["ISO_IR 100"]
    assert row["00100010"]["Value"] == [{"Alphabetic": "Yamada", "Ideographic": "山田", "Phonetic": "やまだ"}]


def test_an_element_of_another_vr_does_not_reach_a_row() -> None:
    row = loaded(
        study_row({"00100020": {"vr": "UN", "InlineBinary": "AAAA"}, "00081030": {"vr": "SQ", "Value": [{}]}})[0]
    )
    assert row["00100020"] == {"vr": "LO"}
    assert row["00081030"] == {"vr": "LO"}


def test_a_value_that_looks_like_the_mark_is_left_alone() -> None:
    metadata = header()
    metadata["00081030"] = {"vr": "LO", "Value": [BASE_URL_MARK + "/studies/1"]}
    row = study_row(metadata)[0]
    assert loaded(row)["00081030"]["Value"] == [BASE_URL_MARK + "/studies/1"]
    assert loaded(rows.restudy_row(row, **COUNTS)) == loaded(row)


def test_other_sums_make_the_row_that_the_header_would_have_made() -> None:
    metadata = header(PatientName="Müller^Hans", StudyDescription="\x01", AccessionNumber="1")
    other: dict[str, Any] = {"modalities": ["MR"], "sop_classes": [], "series_count": 1, "instance_count": 1}
    assert rows.restudy_row(study_row(metadata)[0], **other) == study_row(metadata, **other)[0]
    one, two = (rows.series_row(metadata, study_uid="1", series_uid="1.2", instance_count=n)[0] for n in (1, 2))
    assert rows.reseries_row(one, instance_count=2) == two


def test_a_series_row_has_all_that_is_required() -> None:
    metadata = header(
        Modality="CT",
        SeriesNumber=3,
        RequestAttributesSequence=[{"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"}],
        BodyPartExamined="CHEST",
    )
    ready, extra = rows.series_row(metadata, study_uid="1.2", series_uid="1.2.3", instance_count=4)
    row = loaded(ready)
    assert list(row) == sorted(row)
    assert set(row) == rows.SERIES_TAGS - {"00080005", "00080201"}
    assert row["00081190"]["Value"] == ["http://host/dicomweb/studies/1.2/series/1.2.3"]
    assert row["00201209"]["Value"] == [4]
    assert row["00400275"]["Value"][0]["00400009"]["Value"] == ["S1"]
    assert orjson.loads(extra) == {"00180015": {"vr": "CS", "Value": ["CHEST"]}}


def test_bulk_values_stay_out_of_what_may_be_included() -> None:
    metadata = header(ProcedureCodeSequence=[{"CodeValue": "1"}], OtherPatientNames="A^B")
    metadata["00081032"]["Value"][0]["00091010"] = {"vr": "OB", "BulkDataURI": "\x01/bulk"}
    metadata["00081032"]["Value"].append(None)
    metadata["00102160"] = {"vr": "UN", "InlineBinary": "AAAA"}
    extra = orjson.loads(study_row(metadata)[1])
    assert extra["00081032"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["1"]}}]
    assert extra["00101001"]["Value"] == [{"Alphabetic": "A^B"}]
    assert "00102160" not in extra
