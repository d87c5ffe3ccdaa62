"""Metadata over HTTP: joined, compressed, kept (PS3.18 10.4.1.1.2)."""

from __future__ import annotations

import gzip

import httpx
import pytest
from pydicom import FileDataset

from server.dicomweb import metadata as metadata_view
from storage.nativexml import from_xml
from tests import multipart, synthetic
from tests.retrieve import (
    keep,
    url_of,
)

XML_PARTS = {"Accept": 'multipart/related; type="application/dicom+xml"'}


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_metadata_is_the_data_set_in_json(client: httpx.Client, chest_ct: list[FileDataset], level: str) -> None:
    """PS3.18 10.4.1.1.2, F.2.1: one top-level array; pixel data by URI."""
    keep(client, *reversed(chest_ct))
    answer = client.get(f"{url_of(chest_ct[0], level=level)}/metadata")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    found = answer.json()
    expected = chest_ct[:1] if level == "instance" else chest_ct
    assert [one["00080018"]["Value"][0] for one in found] == [dataset.SOPInstanceUID for dataset in expected]
    for one, dataset in zip(found, expected, strict=True):
        assert one.pop("7FE00010") == {
            "vr": "OW",
            "BulkDataURI": f"http://127.0.0.1:8780{url_of(dataset)}/bulkdata/7FE00010",
        }
        del dataset.PixelData
        assert one == dataset.to_json_dict()


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("application/dicom+json", 200, "application/dicom+json"),
        ("application/json", 200, "application/json"),
        ("application/json, application/dicom+json", 200, "application/json"),
        ("application/dicom+json; transfer-syntax=1.2.840.10008.1.2.1", 200, "application/dicom+json"),
        ("*/*", 200, "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"; q=0.5, */*;q=0.1', 200, "multipart/related"),
        ("multipart/related; type=application/dicom+xml", 200, "multipart/related"),
        ("application/dicom", 406, ""),
    ],
)
def test_metadata_is_json_or_xml(
    client: httpx.Client, chest_ct: list[FileDataset], accept: str, status: int, media_type: str
) -> None:
    """PS3.18 Table 10.4.4-1."""
    keep(client, chest_ct[0])
    for level in ("study", "series", "instance"):
        answer = client.get(f"{url_of(chest_ct[0], level=level)}/metadata", headers={"Accept": accept})
        assert answer.status_code == status
        assert status != 200 or answer.headers["content-type"].partition(";")[0] == media_type


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_metadata_in_xml_says_what_the_json_says(client: httpx.Client, chest_ct: list[FileDataset], level: str) -> None:
    """PS3.18 10.4.1.1.2: a part for each instance, which names the instance's own metadata."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level=level)}/metadata"
    answer = client.get(url, headers=XML_PARTS)
    assert 'type="application/dicom+xml"' in answer.headers["content-type"]
    parts = multipart.parts_of(answer)
    assert [from_xml(body) for _, body in parts] == client.get(url).json()
    for (headers, _), dataset in zip(parts, chest_ct, strict=level == "series"):
        assert headers["content-type"] == "application/dicom+xml"
        assert headers["content-location"] == f"http://127.0.0.1:8780{url_of(dataset)}/metadata"


def test_metadata_of_one_instance_comes_as_one_xml_document_too(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    """PS3.18 10.4.4: a single part stands for a single response item, and for nothing else."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0])}/metadata"
    answer = client.get(url, headers={"Accept": "application/dicom+xml"})
    assert answer.headers["content-type"] == "application/dicom+xml"
    assert [from_xml(answer.content)] == client.get(url).json()
    series = client.get(f"{url_of(chest_ct[0], level='series')}/metadata", headers={"Accept": "application/dicom+xml"})
    assert series.status_code == 406


def test_who_holds_the_json_is_still_sent_the_xml(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    keep(client, *chest_ct)
    for level in ("study", "series", "instance"):
        url = f"{url_of(chest_ct[0], level=level)}/metadata"
        held = {"If-None-Match": client.get(url).headers["etag"]}
        assert client.get(url, headers=held).status_code == 304
        answer = client.get(url, headers=XML_PARTS | held)
        assert answer.status_code == 200
        held = {"If-None-Match": answer.headers["etag"]}
        assert client.get(url, headers=XML_PARTS | held).status_code == 304


def test_a_long_series_comes_in_xml_in_its_order(client: httpx.Client) -> None:
    """More than is made in one go."""
    series = synthetic.ct_series(metadata_view._XML_AT_ONCE + 3, rows=2, columns=2)
    keep(client, *series)
    url = f"{url_of(series[0], level='series')}/metadata"
    parts = multipart.parts_of(client.get(url, headers=XML_PARTS))
    assert [from_xml(body)["00200013"]["Value"][0] for _, body in parts] == list(range(1, len(series) + 1))
    head = client.head(url, headers=XML_PARTS)
    assert head.status_code == 200
    assert head.content == b""


def test_an_earlier_version_comes_in_xml_with_uris_of_its_own(client: httpx.Client) -> None:
    dataset = synthetic.cine()
    keep(client, dataset)
    dataset.PatientID = "RR-0002"
    keep(client, dataset)
    url = f"{url_of(dataset)}/metadata?version=1"
    ((_, body),) = multipart.parts_of(client.get(url, headers=XML_PARTS))
    found = from_xml(body)
    assert found["00100020"]["Value"] == ["RR-0001"]
    assert found["7FE00010"]["BulkDataURI"].endswith("/bulkdata/7FE00010?version=1")


@pytest.mark.parametrize("level", ["study", "series", "instance"])
@pytest.mark.parametrize(
    ("coding", "is_gzip"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5, br", True),
        ("*", True),
        ("GZIP; q=1.0", True),
        ("identity", False),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("", False),
    ],
)
def test_metadata_is_compressed_for_who_takes_it(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, coding: str, is_gzip: bool
) -> None:
    """RFC 9110 12.5.3."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level=level)}/metadata"
    plain = client.get(url, headers={"Accept-Encoding": "identity"})
    with client.stream("GET", url, headers={"Accept-Encoding": coding}) as answer:
        raw = b"".join(answer.iter_raw())
    assert ("content-encoding" in answer.headers) == is_gzip
    assert (gzip.decompress(raw) if is_gzip else raw) == plain.content
    assert int(answer.headers["content-length"]) == len(raw)
    assert "Accept-Encoding" in answer.headers["vary"]


def test_metadata_of_a_series_is_kept_until_the_series_changes(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    *first, last = chest_ct
    keep(client, *first)
    url = f"{url_of(last, level='series')}/metadata"
    before = client.get(url)
    assert client.get(url).content == before.content
    assert client.get(url, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    keep(client, last)
    after = client.get(url, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert len(after.json()) == len(chest_ct)
    assert after.headers["etag"] != before.headers["etag"]


def test_metadata_names_the_host_that_was_asked(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """What is kept ready for one root is not sent for another."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level='series')}/metadata"
    for host in ("127.0.0.1:8780", "localhost:8780", "127.0.0.1:8780"):
        found = client.get(url, headers={"Host": host}).json()
        assert {one["7FE00010"]["BulkDataURI"].split("/dicomweb")[0] for one in found} == {f"http://{host}"}


def test_metadata_of_a_huge_series_is_inflated_as_it_is_sent(
    client: httpx.Client, chest_ct: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held compressed alone."""
    keep(client, *chest_ct)
    url = f"{url_of(chest_ct[0], level='series')}/metadata"
    expected = client.get(url, headers={"Accept-Encoding": "identity"})
    monkeypatch.setattr(metadata_view, "_KEPT_PLAIN", 2)
    answer = client.get(url, headers={"Accept-Encoding": "identity"})
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert answer.content == expected.content
    head = client.head(url, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers.get("content-length")) == (200, b"", None)
