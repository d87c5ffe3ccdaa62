"""QIDO-RS over HTTP: PS3.18 10.6 as a strict peer checks it, and OHIF's requests as it was seen to send them."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from readingroom.errors import Invalid
from server.dicomweb.query import parse_query
from server.gauges import measure
from server.listing import list_attributes
from server.room import Room
from server.settings import Settings
from storage.catalog.listed import sync_keys
from storage.nativexml import from_xml
from tests import multipart
from tests.catalog import CT, fill, header
from tests.synthetic import new_uid

JSON = "application/dicom+json"
Rows = list[dict[str, Any]]


class Archive:
    """Asks one client, and knows the UIDs of what is in."""

    def __init__(self, client: httpx.Client, room: Room) -> None:
        self._client = client
        self.room = room

    def ask(self, path: str, accept: str = JSON, **kwargs: Any) -> httpx.Response:
        headers = {"accept": accept} | kwargs.pop("headers", {})
        return self._client.get(f"/dicomweb{path}", headers=headers, **kwargs)

    def rows(self, path: str, **kwargs: Any) -> Rows:
        response = self.ask(path, **kwargs)
        if response.status_code == 204:
            assert response.content == b""
            return []
        assert response.status_code == 200, response.text
        rows: Rows = response.json()
        for row in rows:
            assert list(row) == sorted(row)
            assert all(re.fullmatch("[0-9A-F]{8}", tag) for tag in row)
        return rows


@pytest.fixture
def archive(client: httpx.Client, room: Room) -> Archive:
    return Archive(client, room)


def values(rows: Rows, tag: str) -> list[Any]:
    return [row.get(tag, {}).get("Value", [None])[0] for row in rows]


def warnings(response: httpx.Response) -> list[str]:
    return response.headers.get_list("warning")


# -- what a row has


def test_study_rows_have_what_the_standard_requires(archive: Archive) -> None:
    study = new_uid()
    one = {"StudyInstanceUID": study, "PatientName": "Müller^Hans=山田=やまだ", "StudyDate": "20240229"}
    fill(archive.room.engine, header(**one, Modality="CT"), header(**one, Modality="SR"))
    (row,) = archive.rows("/studies")
    assert set(row) == {
        *("0020000D", "00080020", "00080030", "00080050", "00080056", "00080061", "00080062", "00080090", "00081030"),
        *("00081190", "00100010", "00100020", "00100030", "00100040", "00200010", "00201206", "00201208"),
    }
    assert row["00080061"]["Value"] == ["CT", "SR"]
    assert row["00100010"] == {
        "vr": "PN",
        "Value": [{"Alphabetic": "Müller^Hans", "Ideographic": "山田", "Phonetic": "やまだ"}],
    }
    assert row["00081190"]["Value"] == [f"http://127.0.0.1:8780/dicomweb/studies/{study}"]
    assert (row["00201206"]["Value"], row["00201208"]["Value"]) == ([2], [2])
    assert row["00080050"] == {"vr": "SH"}


def test_series_rows_have_what_the_standard_requires(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    fill(
        archive.room.engine,
        header(
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            Modality="CT",
            RequestAttributesSequence=[{"ScheduledProcedureStepID": "S", "RequestedProcedureID": "R"}],
        ),
    )
    (row,) = archive.rows(f"/studies/{study}/series")
    assert set(row) == {
        *("00080021", "00080031", "00080056", "00080060", "0008103E", "00081190", "0020000D", "0020000E"),
        *("00200011", "00201209", "00400244", "00400245", "00400275"),
    }
    assert row["00081190"]["Value"] == [f"http://127.0.0.1:8780/dicomweb/studies/{study}/series/{series}"]
    assert row["00201209"]["Value"] == [1]
    assert row["00400275"]["Value"][0]["00401001"]["Value"] == ["R"]


def test_instance_rows_have_what_the_standard_requires(archive: Archive) -> None:
    study, series, image, report = new_uid(), new_uid(), new_uid(), new_uid()
    above = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    pixels = {"Rows": 64, "Columns": 32, "BitsAllocated": 8, "NumberOfFrames": 3, "PixelData": b"\0" * 6144}
    fill(
        archive.room.engine,
        header(**above, SOPInstanceUID=report),
        header(**above, SOPInstanceUID=image, InstanceNumber=1, **pixels),
    )
    url = f"http://127.0.0.1:8780/dicomweb/studies/{study}/series/{series}/instances"
    rows = archive.rows(f"/studies/{study}/series/{series}/instances")
    assert rows == archive.rows(f"/studies/{study}/instances")
    common = {
        "00080016": {"vr": "UI", "Value": [CT]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
    }
    assert rows == [
        common
        | {
            "00080018": {"vr": "UI", "Value": [image]},
            "00081190": {"vr": "UR", "Value": [f"{url}/{image}"]},
            "00200013": {"vr": "IS", "Value": [1]},
            "00280008": {"vr": "IS", "Value": [3]},
            "00280010": {"vr": "US", "Value": [64]},
            "00280011": {"vr": "US", "Value": [32]},
            "00280100": {"vr": "US", "Value": [8]},
        },
        common
        | {
            "00080018": {"vr": "UI", "Value": [report]},
            "00081190": {"vr": "UR", "Value": [f"{url}/{report}"]},
            "00200013": {"vr": "IS"},
        },
    ]


def test_searches_across_the_archive_add_what_stands_above(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    above = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "PatientName": "Doe^Jane", "Modality": "CT"}
    fill(archive.room.engine, header(**above, SeriesDescription="Lung", InstanceNumber=5), header())
    (row,) = archive.rows("/series?PatientName=doe*")
    (studied,), (in_series,) = archive.rows("/studies?PatientName=doe*"), archive.rows(f"/studies/{study}/series")
    assert row == dict(sorted((studied | in_series).items()))
    (row,) = archive.rows("/instances?PatientName=doe*")
    (instance,) = archive.rows(f"/studies/{study}/instances")
    assert row == dict(sorted((studied | in_series | instance).items()))
    assert row["00081190"]["Value"][0].endswith(instance["00080018"]["Value"][0])
    assert len(archive.rows("/instances")) == len(archive.rows("/series")) == 2


# -- what is included


@pytest.mark.parametrize(
    "query",
    [
        "includefield=PatientAge&includefield=00321060",
        "includefield=PatientAge,RequestedProcedureDescription",
        "includefield=PatientAge%2C%20RequestedProcedureDescription",
        "includefield=00101010,nonsense,00080060,00091010,&includefield=00321060",
        "includefield=all",
        "PatientAge=&RequestedProcedureDescription=*",
    ],
)
def test_optional_attributes_come_if_asked_for_in_any_spelling(archive: Archive, query: str) -> None:
    extra = {"PatientAge": "040Y", "RequestedProcedureDescription": "Thorax"}
    fill(archive.room.engine, header(PatientName="A", **extra))
    (plain,) = archive.rows("/studies")
    assert not plain.keys() & {"00101010", "00321060"}
    (row,) = archive.rows(f"/studies?{query}")
    assert row["00101010"] == {"vr": "AS", "Value": ["040Y"]}
    assert row["00321060"]["Value"] == ["Thorax"]
    assert {tag: element for tag, element in row.items() if tag in plain} == plain


def test_a_matching_key_comes_with_the_answer(archive: Archive) -> None:
    fill(archive.room.engine, header(IssuerOfPatientID="NORTH", BodyPartExamined="CHEST", ContentDate="20240229"))
    (row,) = archive.rows("/studies?IssuerOfPatientID=NORTH")
    assert row["00100021"]["Value"] == ["NORTH"]
    (row,) = archive.rows("/series?BodyPartExamined=CHEST&IssuerOfPatientID=N*")
    assert (row["00180015"]["Value"], row["00100021"]["Value"]) == (["CHEST"], ["NORTH"])
    (row,) = archive.rows("/instances?ContentDate=2024.02.29")
    assert row["00080023"]["Value"] == ["20240229"]


def test_series_and_instances_may_include_what_stands_above_and_below(archive: Archive) -> None:
    study = new_uid()
    one = header(
        StudyInstanceUID=study,
        PatientName="Doe^Jane",
        PatientAge="040Y",
        Manufacturer="Acme",
        Modality="CT",
        SliceThickness="1.5",
        RequestAttributesSequence=[{"ScheduledProcedureStepID": "S"}],
    )
    one["7FE00010"] = {"vr": "OW", "BulkDataURI": "\x01/bulk"}
    fill(archive.room.engine, one)
    fields = "includefield=PatientName,PatientAge,Manufacturer,00081090"
    (row,) = archive.rows(f"/studies/{study}/series?{fields}")
    assert row.keys() >= {"00100010", "00101010", "00080070"}
    assert not row.keys() & {"00081090", "00201208", "00100020"}
    fields = "includefield=PatientName,SliceThickness,ModalitiesInStudy,RequestAttributesSequence.00400009"
    (row,) = archive.rows(f"/studies/{study}/instances?{fields}")
    assert row["00180050"] == {"vr": "DS", "Value": [1.5]}
    assert row["00080061"]["Value"] == ["CT"]
    assert row.keys() >= {"00100010", "00400275"}
    assert not row.keys() & {"00101010", "00100020", "00201208"}
    (row,) = archive.rows(f"/studies/{study}/instances?includefield=all")
    assert row.keys() >= one.keys() - {"7FE00010"}
    assert "7FE00010" not in row
    (row,) = archive.rows(f"/studies/{study}/instances?includefield=PixelData")
    assert row["7FE00010"]["BulkDataURI"] == "http://127.0.0.1:8780/dicomweb/bulk"
    (row,) = archive.rows("/series?includefield=all")
    assert row.keys() >= {"00101010", "00080070", "00201208"}


# -- OHIF, as recorded

LIST = "/studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060%2C00080090%2C00100030"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["2", "1"]),
        ("&PatientName=*m%C3%BCll*", ["1"]),
        ("&PatientName=*mull*", ["1"]),
        ("&PatientName=*MULLER^J*", ["1"]),
        ("&00100020=*P-2*", ["2"]),
        ("&AccessionNumber=*CC2*", ["2"]),
        ("&StudyDescription=*horax*", ["1"]),
        ("&ModalitiesInStudy=CT%2CSR", ["1"]),
        ("&ModalitiesInStudy=MR", ["2"]),
        ("&StudyDate=20240101-20240102", ["1"]),
        ("&StudyDate=-20240102", ["1"]),
        ("&StudyDate=20240102-", ["2"]),
        ("&StudyInstanceUID=1.2.1%5C1.2.2", ["2", "1"]),
        ("&StudyInstanceUID=1.2.2&_=1700000000", ["2"]),
    ],
)
def test_the_study_list_of_ohif_finds_what_its_filters_ask_for(archive: Archive, query: str, found: list[str]) -> None:
    fill(
        archive.room.engine,
        header(
            StudyInstanceUID="1.2.1",
            StudyID="1",
            PatientName="Müller^Jürgen",
            PatientID="P-1",
            StudyDate="20240101",
            StudyDescription="CT Thorax",
            Modality="CT",
            AccessionNumber="ACC1",
        ),
        header(
            StudyInstanceUID="1.2.2",
            StudyID="2",
            PatientName="Doe^John",
            PatientID="P-2",
            StudyDate="20240103",
            Modality="MR",
            AccessionNumber="ACC2",
        ),
    )
    assert values(archive.rows(LIST + query), "00200010") == found


def test_the_series_of_a_row_that_ohif_unfolds(archive: Archive) -> None:
    study = new_uid()
    fill(archive.room.engine, *(header(StudyInstanceUID=study, SeriesNumber=n, SeriesDate="20240101") for n in (2, 1)))
    fields = "includefield=00080021%2C00080031%2C0008103E%2C00200011"
    assert values(archive.rows(f"/studies/{study}/series?{fields}"), "00200011") == [1, 2]


# -- matching over HTTP


def test_values_are_decoded_once_and_as_utf_8(archive: Archive) -> None:
    fill(
        archive.room.engine,
        header(StudyID="1", StudyDescription="100%41 & more"),
        header(StudyID="2", StudyDescription="100A & more"),
        header(StudyID="3", StudyDescription="Rö+Thorax"),
    )
    assert values(archive.rows("/studies?StudyDescription=100%2541%20%26+more"), "00200010") == ["1"]
    assert values(archive.rows("/studies?StudyDescription=R%C3%B6%2BThorax"), "00200010") == ["3"]
    assert archive.rows("/studies?StudyDescription=R%F6%2BThorax") == []


@pytest.mark.parametrize(
    "query",
    [
        "PatientID=P1",
        "00100020=P1",
        "StudyInstanceUID=1.2.3.4",
        "0020000d=1.2.3.4",
        "0020000D=1.2.3.4&0020000D=1.2.3.5",
        "ReferringPhysicianName=%22%22&emptyvaluematching=true&PatientID=P1",
        "TimezoneOffsetFromUTC=+0000&StudyDate=20240229&StudyTime=1900-2000",
        "00080201=%2B0000&StudyDate=20240229&StudyTime=1900-2000",
        "PatientID=P1%5CP7&multiplevaluematching=true",
    ],
)
def test_keys_are_keywords_or_tags(archive: Archive, query: str) -> None:
    one = {"StudyDate": "20240229", "StudyTime": "2030", "TimezoneOffsetFromUTC": "+0100"}
    fill(
        archive.room.engine,
        header(StudyInstanceUID="1.2.3.4", PatientID="P1", **one),
        header(PatientID="P2", StudyDate="20240229", StudyTime="2030", ReferringPhysicianName="X"),
    )
    response = archive.ask(f"/studies?{query}")
    assert values(response.json(), "00100020") == ["P1"]
    assert warnings(response) == []


@pytest.mark.parametrize("path", ["/series", "/studies/{study}/series"])
def test_keys_in_a_sequence_are_dotted_paths(archive: Archive, path: str) -> None:
    study = new_uid()
    request = {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"}
    fill(
        archive.room.engine,
        header(StudyInstanceUID=study, SeriesNumber=1, RequestAttributesSequence=[request]),
        header(StudyInstanceUID=study, SeriesNumber=2),
    )
    for key in (
        "RequestAttributesSequence.ScheduledProcedureStepID",
        "00400275.00400009",
        "00400275.ScheduledProcedureStepID",
    ):
        assert values(archive.rows(f"{path.format(study=study)}?{key}=S1"), "00200011") == [1]
        assert archive.rows(f"{path.format(study=study)}?{key}=S2") == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/studies?PatientComments=x", "PatientComments"),
        ("/studies?PatintID=x", "PatintID"),
        ("/studies?Modality=CT", "Modality"),
        ("/studies?00091010=x", "00091010"),
        ("/studies?RequestAttributesSequence.ScheduledProcedureStepID=x", "RequestAttributesSequence.Sched"),
        ("/series?SOPInstanceUID=1.2", "SOPInstanceUID"),
        ("/instances?PixelSpacing=1", "PixelSpacing"),
        ("/studies?x%0D%0ASet-Cookie:%20a=1", "(one that is not printed)"),
        ("/studies?Gr%C3%B6%C3%9Fe=1", "(one that is not printed)"),
    ],
)
def test_a_key_that_is_not_matched_is_never_silent(archive: Archive, path: str, name: str) -> None:
    fill(archive.room.engine, header())
    response = archive.ask(path)
    assert len(response.json()) == 1
    (warning,) = warnings(response)
    assert warning.startswith('299 127.0.0.1: "')
    assert "have not been matched" in warning
    assert name in warning


@pytest.mark.parametrize("name", ["Mueller", "hans muller", "*müller*", "Hans^*", "mil"])
def test_fuzzy_matching_of_names_is_done_and_needs_no_warning(archive: Archive, name: str) -> None:
    fill(archive.room.engine, header(StudyID="1", PatientName="Müller^Hans"), header(StudyID="2", PatientName="Doe"))
    fuzzy = archive.ask("/studies", params={"PatientName": name, "fuzzymatching": "true"})
    assert values(fuzzy.json(), "00200010") == ["1"] if name != "mil" else fuzzy.status_code == 204
    assert warnings(fuzzy) == []


def test_names_are_matched_literally_unless_fuzzy_matching_is_asked_for(archive: Archive) -> None:
    fill(archive.room.engine, header(PatientName="Müller^Hans", OperatorsName="Meyer^Ann"))
    assert archive.rows("/studies?PatientName=Mueller&fuzzymatching=false") == []
    assert archive.rows("/studies?PatientName=Hans") == []
    assert len(archive.rows("/series?OperatorsName=maier&fuzzymatching=true")) == 1
    assert archive.rows("/series?OperatorsName=maier") == []


def test_all_modalities_of_a_list_have_to_be_there_if_that_was_asked_for(archive: Archive) -> None:
    both, one = new_uid(), new_uid()
    fill(
        archive.room.engine,
        *(header(StudyInstanceUID=both, StudyID="both", Modality=modality) for modality in ("CT", "PT")),
        header(StudyInstanceUID=one, StudyID="one", Modality="CT"),
    )
    query = "/studies?ModalitiesInStudy=CT%5CPT"
    assert sorted(values(archive.rows(query), "00200010")) == ["both", "one"]
    response = archive.ask(query + "&multiplevaluematching=TRUE")
    assert values(response.json(), "00200010") == ["both"]
    assert warnings(response) == []


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/studies?includefield=Nonsense", "Nonsense"),
        ("/studies?includefield=00081030,PatientsFavouriteColour", "PatientsFavouriteColour"),
        ("/studies?includefield=ConvolutionKernel", "ConvolutionKernel"),
        ("/studies?PatientComments=&includefield=BurnedInAnnotation", "BurnedInAnnotation"),
        ("/series?includefield=ConvolutionKernel", "ConvolutionKernel"),
    ],
)
def test_an_attribute_that_no_answer_of_the_level_has_is_named(archive: Archive, path: str, named: str) -> None:
    fill(archive.room.engine, header(ConvolutionKernel="1", BurnedInAnnotation="NO"))
    (warning,) = warnings(archive.ask(path))
    assert "cannot include" in warning
    assert warning.endswith(f'{named}."')


@pytest.mark.parametrize(
    "path", ["/studies?includefield=00080060,00280010", "/series?includefield=Rows", "/instances?includefield=0018FFFF"]
)
def test_an_attribute_that_the_standard_leaves_out_needs_no_warning(archive: Archive, path: str) -> None:
    fill(archive.room.engine, header())
    assert warnings(archive.ask(path)) == []


def test_a_record_key_of_another_search_is_refused(archive: Archive) -> None:
    study = new_uid()
    fill(archive.room.engine, *(header(StudyInstanceUID=study, SeriesNumber=9) for _ in range(2)))
    keys = {}
    for path in ("/studies", "/series", "/instances", f"/studies/{study}/series", f"/studies/{study}/instances"):
        keys[path] = archive.rows(f"{path}?includefield=RecordKey")[0]["0008041B"]["InlineBinary"]
    for path in keys:
        for source, key in keys.items():
            status = archive.ask(path, params={"PriorRecordKey": key}).status_code
            assert status in ((200, 204) if source == path else (400,)), (path, source)


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=1.5",
        "limit=" + "9" * 5000,
        "offset=-1",
        "offset=x",
        "offset=%D9%A3",
        "StudyDate=yesterday",
        "StudyTime=9999",
        "NumberOfStudyRelatedSeries=x",
        "PatientID=a%00b",
        "TimezoneOffsetFromUTC=CET",
        "PriorRecordKey=AAAA",
        "PriorRecordKey=%FF",
        "PriorRecordKey=" + b64encode(b"series 0123").decode(),
        "fuzzymatching=yes",
        "emptyvaluematching=",
        "multiplevaluematching=1",
        "StudyInstanceUID=" + "1," * 1500,
        "&".join(["PatientID=1"] * 1001),
    ],
)
def test_a_value_that_cannot_be_is_a_bad_request(archive: Archive, query: str) -> None:
    response = archive.ask(f"/studies?{query}")
    assert response.status_code == 400
    assert response.text.strip()


@pytest.mark.parametrize(
    "uid", ["1.2.3", "nonsense", "..%2F..%2Fetc", "'%20OR%201=1--", "%00", "1" * 3000, "%F0%9F%92%A9"]
)
def test_nothing_is_found_under_what_is_not_there(archive: Archive, uid: str) -> None:
    fill(archive.room.engine, header())
    for path in (f"/studies/{uid}/series", f"/studies/{uid}/instances", f"/studies?StudyInstanceUID={uid}"):
        assert archive.ask(path).status_code in (204, 400, 404)
    assert len(archive.rows("/studies")) == 1


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text() | st.sampled_from(["PatientName", "StudyDate", "limit", "includefield"]), st.text()))
def test_no_query_breaks_the_parser(parameters: dict[str, str]) -> None:
    query_string = str(httpx.QueryParams(parameters)).encode()
    try:
        parse_query("study", (), query_string)
    except Invalid:
        return  # the only error there may be


# -- pages


def test_pages_follow_their_links_to_the_end_while_others_arrive(archive: Archive) -> None:
    fill(
        archive.room.engine,
        *(header(StudyID=str(n), StudyDate=f"2024010{n % 3 + 1}") for n in range(7)),
        header(StudyID="7"),
    )
    seen: list[str] = []
    url: str | None = "/studies?limit=3&includefield=PatientAge&StudyInstanceUID="
    while url:
        response = archive.ask(url)
        seen += values(response.json(), "00200010")
        following = response.links.get("next", {}).get("url")
        assert bool(following) == any("additional results" in warning for warning in warnings(response))
        if following:
            assert following.startswith("http://127.0.0.1:8780/dicomweb/studies?limit=3&includefield=PatientAge&")
            url = following.removeprefix("http://127.0.0.1:8780/dicomweb")
            fill(archive.room.engine, header(StudyID="late", StudyDate="20240201"))
        else:
            url = None
    assert sorted(seen) == [str(n) for n in range(8)]


@pytest.mark.parametrize("path", ["/studies/{study}/series", "/studies/{study}/instances", "/series", "/instances"])
def test_links_lead_through_series_and_instances_too(archive: Archive, path: str) -> None:
    study = new_uid()
    fill(archive.room.engine, *(header(StudyInstanceUID=study, SeriesNumber=n) for n in range(5)))
    whole = archive.rows(path.format(study=study))
    seen: Rows = []
    url: str | None = f"{path.format(study=study)}?limit=2"
    while url:
        response = archive.ask(url)
        seen += response.json()
        following = response.links.get("next", {}).get("url")
        url = following and following.removeprefix("http://127.0.0.1:8780/dicomweb")
    assert seen == whole
    assert len(whole) == 5


def test_a_row_may_carry_the_key_that_the_next_page_begins_after(archive: Archive) -> None:
    fill(archive.room.engine, *(header(StudyID=str(n), StudyDate=f"2024010{n}") for n in (1, 2, 3)))
    rows = archive.rows("/studies?includefield=RecordKey")
    assert {row["0008041B"]["vr"] for row in rows} == {"OB"}
    key = rows[0]["0008041B"]["InlineBinary"]
    after = archive.rows("/studies", params={"PriorRecordKey": key})
    assert values(after, "00200010") == values(rows, "00200010")[1:]


def test_limit_and_offset_cut_the_same_list_every_time(archive: Archive) -> None:
    fill(archive.room.engine, *(header(StudyID=str(n), StudyDate="20240101") for n in range(5)))
    whole = archive.rows("/studies")
    for offset in range(6):
        assert archive.rows(f"/studies?limit=2&offset={offset}") == whole[offset : offset + 2]
    assert archive.ask("/studies?limit=0").status_code == 204
    assert archive.ask("/studies?offset=999999999999999999").status_code == 204
    assert warnings(archive.ask("/studies?limit=5")) == []


def test_an_answer_has_no_more_rows_than_the_server_allows_and_says_so(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.dicomweb.query.MOST", 3)
    fill(archive.room.engine, *(header() for _ in range(4)))
    for query in ("", "?limit=100"):
        response = archive.ask(f"/studies{query}")
        assert len(response.json()) == 3
        assert any("additional results" in warning for warning in warnings(response))


# -- facilities


def test_a_facility_path_sees_that_facility_and_names_it_in_every_url(archive: Archive) -> None:
    study = new_uid()
    fill(archive.room.engine, header(StudyInstanceUID=study, StudyID="l", PatientID="P1"), facility="local")
    fill(archive.room.engine, header(StudyInstanceUID=study, StudyID="n", PatientID="P1"), facility="north")
    assert sorted(values(archive.rows("/studies?PatientID=P1"), "00200010")) == ["l", "n"]
    (row,) = archive.rows(f"/f/north/studies?StudyInstanceUID={study}")
    assert row["00200010"]["Value"] == ["n"]
    assert row["00081190"]["Value"] == [f"http://127.0.0.1:8780/dicomweb/f/north/studies/{study}"]
    (row,) = archive.rows(f"/f/north/studies/{study}/instances")
    assert row["00081190"]["Value"][0].startswith(f"http://127.0.0.1:8780/dicomweb/f/north/studies/{study}/series/")
    assert archive.rows("/f/elsewhere/studies") == []
    fill(archive.room.engine, header(StudyDate="20200101"), facility="north")
    link = archive.ask("/f/north/studies?limit=1").links["next"]["url"]
    assert urlsplit(link).path == "/dicomweb/f/north/studies"


def test_a_study_of_two_facilities_is_ambiguous_to_search_under(archive: Archive) -> None:
    study = new_uid()
    for facility in ("local", "north"):
        fill(archive.room.engine, header(StudyInstanceUID=study), facility=facility)
    assert archive.ask(f"/studies/{study}/series").status_code == 409
    assert archive.ask(f"/studies/{study}/series?SeriesInstanceUID=1.2").status_code == 409
    assert archive.ask(f"/studies/{study}/instances").status_code == 409
    assert len(archive.rows(f"/f/north/studies/{study}/series")) == 1


# -- representation


@pytest.mark.parametrize(
    ("accept", "sent"),
    [
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("*/*", "application/dicom+json"),
        ("application/*", "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml", application/dicom+json;q=0.5', "multipart/related"),
        ("application/json;q=0.9, application/dicom+json;q=0.1", "application/json"),
    ],
)
def test_the_media_type_is_negotiated(archive: Archive, accept: str, sent: str) -> None:
    fill(archive.room.engine, header())
    response = archive.ask("/studies", accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == sent


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_each_match_is_a_part_in_xml(archive: Archive, level: str) -> None:
    """PS3.18 10.6.3.3 and 8.7.3.2: ``multipart/related; type="application/dicom+xml"``."""
    fill(archive.room.engine, *(header(PatientName=f"Müller^{n}") for n in range(3)))
    expected = archive.rows(f"/{level}?includefield=PatientName")
    answer = archive.ask(f"/{level}?includefield=PatientName", accept='multipart/related; type="application/dicom+xml"')
    assert 'type="application/dicom+xml"' in answer.headers["content-type"]
    parts = multipart.parts_of(answer)
    assert [headers["content-type"] for headers, _ in parts] == ["application/dicom+xml"] * 3
    assert [from_xml(body) for _, body in parts] == expected


def test_no_match_has_no_body_in_xml_either(archive: Archive) -> None:
    answer = archive.ask("/studies?PatientID=none", accept='multipart/related; type="application/dicom+xml"')
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("accept", ["application/dicom+xml", "multipart/related; type=application/dicom", "text/html"])
def test_what_cannot_be_sent_is_not_acceptable(archive: Archive, accept: str) -> None:
    fill(archive.room.engine, header())
    assert archive.ask("/studies", accept=accept).status_code == 406


def test_the_accept_parameter_goes_before_the_header(archive: Archive) -> None:
    fill(archive.room.engine, header())
    response = archive.ask("/studies?accept=application/dicom%2Bjson", accept="text/html")
    assert response.headers["content-type"] == JSON
    assert warnings(response) == []


def test_a_long_answer_is_compressed_for_who_takes_it(archive: Archive) -> None:
    fill(archive.room.engine, *(header(StudyDescription="x" * 60) for _ in range(20)))
    plain = archive.ask("/studies", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for coding in ("gzip", "br, gzip;q=0.8"):
        response = archive.ask("/studies", headers={"accept-encoding": coding})
        assert response.headers["content-encoding"] == "gzip"
        assert int(response.headers["content-length"]) < len(plain.content) / 3
        assert response.json() == plain.json()
    assert "content-encoding" not in archive.ask("/studies", headers={"accept-encoding": "gzip;q=0"}).headers
    assert "content-encoding" not in archive.ask("/studies?limit=1", headers={"accept-encoding": "gzip"}).headers


def test_answers_are_not_kept_by_caches(archive: Archive) -> None:
    assert archive.ask("/studies").headers["cache-control"] == "private, no-store"
    fill(archive.room.engine, header())
    response = archive.ask("/studies")
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["vary"] == "Accept, Accept-Encoding"


def test_head_answers_as_get_without_the_rows(client: httpx.Client, archive: Archive) -> None:
    fill(archive.room.engine, header())
    response = client.head("/dicomweb/studies", headers={"accept": JSON, "accept-encoding": "identity"})
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(archive.ask("/studies").content)


def test_no_match_is_204_at_every_level(archive: Archive) -> None:
    for path in ("/studies", "/series", "/instances", "/studies/1.2/series", "/studies/1.2/series/1.3/instances"):
        response = archive.ask(path)
        assert (response.status_code, response.content) == (204, b"")


@pytest.mark.rooms("sqlite", "postgres")
def test_every_level_is_searched_on_either_database(archive: Archive) -> None:
    study, series = new_uid(), new_uid()
    above = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "StudyDate": "20240229", "Modality": "CT"}
    fill(archive.room.engine, *(header(**above, InstanceNumber=n, PatientName="Müller^Hans") for n in (1, 2)))
    for path, count in (
        ("/studies", 1),
        ("/studies?PatientName=*mull*&StudyDate=20240101-&ModalitiesInStudy=CT", 1),
        ("/series?Modality=CT&PatientName=m?ller*", 1),
        ("/instances?SOPClassUID=" + CT, 2),
        (f"/studies/{study}/series", 1),
        (f"/studies/{study}/instances", 2),
        (f"/studies/{study}/series/{series}/instances?includefield=all", 2),
        (f"/studies/{study}/series/{series}/instances?InstanceNumber=2", 1),
    ):
        assert len(archive.rows(path)) == count, path


# -- what is configured


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with the attributes that a test's ``attributes`` marker makes searchable."""
    marker = request.node.get_closest_marker("attributes")
    return Settings(**{**settings.model_dump(), "search_attributes": marker.args if marker else ()})


def list_all(archive: Archive) -> None:
    while list_attributes(archive.room):
        pass


ACME = {"attribute": "0009xx01", "creator": "ACME 1.1", "vr": "LO", "level": "study"}


def with_private(block: str, value: str, **attributes: Any) -> dict[str, Any]:
    made = header(**attributes)
    made[f"000900{block}"] = {"vr": "LO", "Value": ["ACME 1.1"]}
    made[f"0009{block}01"] = {"vr": "LO", "Value": [value]}
    return dict(sorted(made.items()))


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.attributes(ACME, "ConvolutionKernel", {"attribute": "PatientComments"})
def test_a_private_attribute_is_matched_and_answered_with_its_creator(archive: Archive) -> None:
    fill(archive.room.engine, with_private("10", "blue", StudyID="1"), with_private("20", "blue", StudyID="2"))
    list_all(archive)
    fill(archive.room.engine, with_private("10", "green", StudyID="3"), header(StudyID="4"))
    for path in ("/studies", "/series", "/instances"):
        response = archive.ask(f"{path}?00091001=bl*&00090010=ACME%201.1&includefield=StudyID")
        assert warnings(response) == []
        assert sorted(values(response.json(), "00200010")) == ["1", "2"]
    rows = archive.rows("/studies?00091001=blue&00090010=ACME%201.1")
    assert sorted(tuple(sorted(row.keys() & {"00090010", "00091001", "00090020", "00092001"})) for row in rows) == [
        ("00090010", "00091001"),
        ("00090020", "00092001"),
    ]
    (row,) = archive.rows("/studies?StudyID=3&includefield=00097701&00090077=ACME%201.1")
    assert (row["00090010"]["Value"], row["00091001"]["Value"]) == (["ACME 1.1"], ["green"])
    (row,) = archive.rows("/instances?StudyID=3&00090077=ACME%201.1&00097701=")
    assert row["00091001"]["Value"] == ["green"]


@pytest.mark.attributes(ACME)
@pytest.mark.parametrize(
    "query",
    ["00091001=blue", "00091001=blue&00090010=SOMEBODY", "00091002=x&00090010=ACME%201.1", "00090010=ACME%201.1"],
)
def test_a_private_attribute_without_its_creator_is_not_matched_and_not_silent(archive: Archive, query: str) -> None:
    fill(archive.room.engine, with_private("10", "green"))
    response = archive.ask(f"/studies?{query}")
    assert len(response.json()) == 1
    assert any("have not been matched: 0009" in warning for warning in warnings(response))


@pytest.mark.attributes("ConvolutionKernel", {"attribute": "Manufacturer"}, "AcquisitionDateTime")
def test_a_configured_attribute_is_matched_at_its_level_and_below(archive: Archive) -> None:
    one = {"ConvolutionKernel": "B70f", "Manufacturer": "Acme", "AcquisitionDateTime": "20240229103000"}
    fill(archive.room.engine, header(**one, InstanceNumber=1), header(Manufacturer="Other", InstanceNumber=2))
    list_all(archive)
    assert values(archive.rows("/instances?ConvolutionKernel=B7*&Manufacturer=Acme"), "00200013") == [1]
    assert values(archive.rows("/instances?AcquisitionDateTime=20240229-"), "00200013") == [1]
    assert archive.rows("/instances?AcquisitionDateTime=20240301-") == []
    (row,) = archive.rows("/series?Manufacturer=Acme")
    assert row["00080070"]["Value"] == ["Acme"]
    response = archive.ask("/studies?Manufacturer=Acme&ConvolutionKernel=B70f")
    assert len(response.json()) == 2
    (warning,) = warnings(response)
    assert "Manufacturer, ConvolutionKernel" in warning
    for level, path in (("instance", "/instances"), ("series", "/series")):
        assert archive.ask(f"{path}?AcquisitionDateTime=x").status_code == (400 if level == "instance" else 200)


@pytest.mark.attributes({"attribute": "ConvolutionKernel", "level": "study"})
def test_a_study_attribute_from_its_header_is_included_if_asked_for(archive: Archive) -> None:
    study = new_uid()
    fill(archive.room.engine, header(StudyInstanceUID=study, ConvolutionKernel="B70f"), header())
    assert all("00181210" not in row for row in archive.rows("/studies"))
    for query in ("includefield=ConvolutionKernel", "includefield=all", "ConvolutionKernel=*"):
        rows = archive.rows(f"/studies?{query}")
        assert sorted(str(value) for value in values(rows, "00181210")) == ["B70f", "None"]
    (row,) = archive.rows(f"/studies/{study}/series?includefield=ConvolutionKernel")
    assert row["00181210"]["Value"] == ["B70f"]


@pytest.mark.attributes("ConvolutionKernel")
def test_a_search_by_what_is_not_listed_yet_says_so(archive: Archive) -> None:
    fill(archive.room.engine, header(ConvolutionKernel="B70f"))
    response = archive.ask("/instances?ConvolutionKernel=B70f")
    assert response.status_code == 204
    (warning,) = warnings(response)
    assert warning.endswith('may be missing: 00181210."')
    list_all(archive)
    response = archive.ask("/instances?ConvolutionKernel=B70f")
    assert len(response.json()) == 1
    assert warnings(response) == []


@pytest.mark.attributes("ConvolutionKernel")
def test_progress_of_the_listing_is_told(archive: Archive) -> None:
    fill(archive.room.engine, *(header(ConvolutionKernel="B70f") for _ in range(3)))
    sync_keys(archive.room.engine, [archive.room.keys["00181210"]])
    list_all(archive)  # on a slow machine one round is not enough
    registry = CollectorRegistry()
    registry.register(measure(archive.room))
    assert registry.get_sample_value("readingroom_search_listing_remaining", {"attribute": "00181210"}) == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("Nonsense", "no keyword"),
        ({"attribute": "00091001"}, "needs its creator"),
        ({"attribute": "PixelData"}, "cannot be matched"),
        ({"attribute": "PatientAge", "size": 3}, "size"),
        ({"attribute": "PatientAge", "level": "patient"}, "level"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_is_wrong(given: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings(search_attributes=(given,))


# -- sequences


def test_conditions_on_one_sequence_are_of_one_item_at_every_depth(archive: Archive) -> None:
    def request(step: str, *codes: str) -> dict[str, Any]:
        procedure = [{"CodeValue": code, "CodingSchemeDesignator": scheme} for code, scheme in map(str.split, codes)]
        return {"ScheduledProcedureStepID": step, "RequestedProcedureCodeSequence": procedure}

    fill(
        archive.room.engine,
        header(SeriesNumber=1, RequestAttributesSequence=[request("S1", "A L1", "B L2"), request("S2", "C L1")]),
        header(SeriesNumber=2, RequestAttributesSequence=[request("S2", "A L1")]),
    )

    def found(**keys: str) -> list[int]:
        path = {"step": "ScheduledProcedureStepID", "code": "RequestedProcedureCodeSequence.CodeValue"}
        path["scheme"] = "RequestedProcedureCodeSequence.CodingSchemeDesignator"
        query = "&".join(f"RequestAttributesSequence.{path[name]}={value}" for name, value in keys.items())
        return sorted(values(archive.rows(f"/series?{query}"), "00200011"))

    assert found(code="A") == found(code="A", scheme="L1") == [1, 2]
    assert found(code="A", scheme="L2") == []
    assert found(code="B", scheme="L2") == [1]
    assert found(step="S1", code="A") == [1]
    assert found(step="S2", code="A") == [2]
    assert found(step="S2", code="C", scheme="L1") == [1]
    assert found(step="S1", code="C") == []


def test_codes_of_procedures_and_reports_are_keys(archive: Archive) -> None:
    code = {"CodeValue": "T-D3000", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Chest"}
    fill(
        archive.room.engine,
        header(StudyID="1", ProcedureCodeSequence=[code], ConceptNameCodeSequence=[code], CompletionFlag="COMPLETE"),
        header(StudyID="2", OtherPatientIDsSequence=[{"PatientID": "OLD-7"}]),
    )
    assert values(archive.rows("/studies?ProcedureCodeSequence.CodeValue=T-D3000"), "00200010") == ["1"]
    assert values(archive.rows("/studies?OtherPatientIDsSequence.PatientID=OLD*"), "00200010") == ["2"]
    assert len(archive.rows("/instances?ConceptNameCodeSequence.CodeMeaning=Ch*&CompletionFlag=COMPLETE")) == 1
    (row,) = archive.rows("/studies?00081032.00080102=SRT")
    assert row["00081032"]["Value"][0]["00080104"]["Value"] == ["Chest"]
