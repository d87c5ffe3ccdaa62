"""A web page stores, searches and retrieves through the client that viewers are built on (npm dicomweb-client).

The client runs in Node.js; ``tests/npm/bridge.mjs`` makes the calls there. Where it cannot do what it documents by a
fault of its own, the test says so.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from tests.servers import Live
from tests.synthetic import ct_series, new_uid, part10
from tests.walks import archive as walks
from tests.walks.archive import archive_of, names, same


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes as the client hands them out, and what it says of them."""

    content: bytes
    media_type: str | None
    transfer_syntax: str | None


class Failed(Exception):
    """A call of the client ended with an error; `status` is that of HTTP, where it came so far."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(kw_only=True)
class NpmClient:
    """The client in a Node.js of its own, and what it did at the last call."""

    process: subprocess.Popen[str]
    base: str
    about: dict[str, Any]
    last: dict[str, Any] = field(default_factory=dict)

    def call(self, name: str, *positional: object, client: dict[str, Any] | None = None, **options: Any) -> Any:
        """Make one call; `options` become its one object, and `client` more options of the constructor."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        arguments = [*positional, options] if options or not positional else [*positional]
        order = {"client": {"url": self.base, **(client or {})}, "call": name, "args": arguments}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self.last = json.loads(self.process.stdout.readline())
        if "error" in self.last:
            raise Failed(self.last["error"], self.last.get("status"))
        return received(self.last.get("answer"))


def received(answer: Any) -> Any:
    """The answer with its bytes as parts."""
    if isinstance(answer, list):
        return [received(item) for item in answer]
    if isinstance(answer, dict) and "bytes" in answer:
        return Part(
            content=base64.b64decode(answer["bytes"]),
            media_type=answer.get("contentType"),
            transfer_syntax=answer.get("transferSyntaxUID"),
        )
    return answer


type Archive = walks.Archive[NpmClient]


@pytest.fixture(scope="module")
def npm(npm_folder: Path, live: Live) -> Iterator[NpmClient]:
    """The client of the live server."""
    command = ["node", str(npm_folder / "bridge.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield NpmClient(process=process, base=live.dicomweb, about=json.loads(process.stdout.readline()))
        process.kill()


@pytest.fixture(scope="module")
def archive(npm: NpmClient) -> Archive:
    """The studies of two patients, stored by the client."""
    found = archive_of(npm)
    answer = json.loads(npm.call("storeInstances", datasets=encoded(found.everything)))
    assert len(answer["00081199"]["Value"]) == len(found.everything)
    assert "00081198" not in answer
    return found


def encoded(datasets: list[FileDataset]) -> list[str]:
    return [base64.b64encode(part10(dataset)).decode() for dataset in datasets]


def study(dataset: Dataset) -> dict[str, str]:
    return {"studyInstanceUID": dataset.StudyInstanceUID}


def series(dataset: Dataset) -> dict[str, str]:
    return study(dataset) | {"seriesInstanceUID": dataset.SeriesInstanceUID}


def instance(dataset: Dataset) -> dict[str, str]:
    return series(dataset) | {"sopInstanceUID": dataset.SOPInstanceUID}


def kinds(*media_types: str, syntax: str | None = None) -> list[dict[str, str]]:
    """Media types as the client wants them."""
    return [{"mediaType": kind, **({"transferSyntaxUID": syntax} if syntax else {})} for kind in media_types]


def read(part: Part) -> FileDataset:
    return dcmread(io.BytesIO(part.content))


def opened(parts: list[Part]) -> Image.Image:
    """The picture of an answer in one part, which the client wraps in a list."""
    (part,) = parts
    return Image.open(io.BytesIO(part.content))


def test_every_call_that_the_client_has_is_made_here(npm: NpmClient) -> None:
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call)]
    made = {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "call" and isinstance(call.args[0], ast.Constant)
    }
    assert made == {*npm.about["calls"], *npm.about["functions"]}


# -- store -----------------------------------------------------------------------------------------------------


def test_an_instance_of_another_study_is_reported_as_failed(archive: Archive) -> None:
    stray = ct_series(1)[0]
    answer = archive.client.call(
        "storeInstances", **study(archive.chest[0]), datasets=encoded([archive.chest[0], stray])
    )
    told = Dataset.from_json(json.loads(answer))
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [archive.chest[0].SOPInstanceUID]
    assert [item.ReferencedSOPInstanceUID for item in told.FailedSOPSequence] == [stray.SOPInstanceUID]
    assert archive.client.last["printed"][0].startswith("some resources already existed"), "so it takes every 202"


def test_the_client_finds_its_way_by_the_addresses_that_a_store_answers(archive: Archive) -> None:
    dataset = archive.chest[0]
    answer = archive.client.call("storeInstances", datasets=encoded([dataset]))
    uri = Dataset.from_json(json.loads(answer)).ReferencedSOPSequence[0].RetrieveURL
    assert archive.client.call("getStudyInstanceUIDFromUri", uri) == dataset.StudyInstanceUID
    assert archive.client.call("getSeriesInstanceUIDFromUri", uri) == dataset.SeriesInstanceUID
    assert archive.client.call("getSOPInstanceUIDFromUri", uri) == dataset.SOPInstanceUID
    assert archive.client.call("getFrameNumbersFromUri", f"{uri}/frames/2,3") == ["2", "3"]


# -- search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"PatientID": "RR-0001"}, ["RR-0001"]),
        ({"PatientName": "*müller*"}, ["RR-0002"]),
        ({"PatientName": "Joerg Mueller", "fuzzymatching": "true"}, ["RR-0002"]),
        ({"StudyDate": "20251201-20251231"}, ["RR-0002"]),
        ({"ModalitiesInStudy": "SR"}, ["RR-0001"]),
        ({"PatientID": "nobody"}, []),
        ({}, ["RR-0001", "RR-0002"]),
    ],
)
def test_studies_are_found_by_what_is_asked(archive: Archive, query: dict[str, str], expected: list[str]) -> None:
    assert sorted(names(archive.client.call("searchForStudies", queryParams=query), "00100020")) == expected


def test_studies_are_read_page_by_page_with_the_fields_that_are_asked_for(archive: Archive) -> None:
    pages = [
        archive.client.call("searchForStudies", queryParams={"limit": 1, "offset": offset, "includefield": "00081030"})
        for offset in range(3)
    ]
    assert [len(page) for page in pages] == [1, 1, 0]
    assert {row["00081030"]["Value"][0] for page in pages for row in page} == {"Made in code"}


def test_series_are_found_within_a_study_and_across_the_archive(archive: Archive) -> None:
    within = archive.client.call("searchForSeries", **study(archive.chest[0]))
    assert sorted(names(within, "00080060")) == ["CT", "DOC", "SR"]
    across = archive.client.call("searchForSeries", queryParams={"Modality": "CT"})
    assert names(across, "0020000E") == [archive.chest[0].SeriesInstanceUID]


def test_instances_are_found_at_every_level(archive: Archive) -> None:
    dataset = archive.chest[2]
    for scope in (series(dataset), study(dataset), {}):
        query = {"InstanceNumber": "3", "Modality": "CT"}
        rows = archive.client.call("searchForInstances", **scope, queryParams=query)
        assert names(rows, "00080018") == [dataset.SOPInstanceUID]


# -- retrieve --------------------------------------------------------------------------------------------------


def test_metadata_at_every_level_is_what_was_stored_without_its_bulk(archive: Archive) -> None:
    dataset = archive.chest[0]
    for rows, count in (
        (archive.client.call("retrieveStudyMetadata", **study(dataset)), 7),
        (archive.client.call("retrieveSeriesMetadata", **series(dataset)), 5),
        (archive.client.call("retrieveInstanceMetadata", **instance(dataset)), 1),
    ):
        assert len(rows) == count
        (row,) = [row for row in rows if row["00080018"]["Value"] == [dataset.SOPInstanceUID]]
        assert row.pop("7FE00010").keys() == {"vr", "BulkDataURI"}
        assert same(Dataset.from_json(row), Dataset({e.tag: e for e in dataset if e.keyword != "PixelData"}))


def test_studies_series_and_instances_come_back_as_they_were_stored(archive: Archive) -> None:
    dataset = archive.chest[0]
    for parts, expected in (
        (archive.client.call("retrieveStudy", **study(dataset)), archive.of_chest),
        (archive.client.call("retrieveSeries", **series(dataset)), archive.chest),
        ([archive.client.call("retrieveInstance", **instance(dataset))], [dataset]),
    ):
        assert sorted(part.content for part in parts) == sorted(part10(one) for one in expected)
        assert {part.media_type for part in parts} == {"application/dicom"}


def test_a_lossless_instance_comes_decompressed(archive: Archive) -> None:
    found = read(archive.client.call("retrieveInstance", **instance(archive.lossless)))
    assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (found.pixel_array == archive.lossless.pixel_array).all()


def test_the_client_cannot_name_a_transfer_syntax_for_whole_instances(archive: Archive) -> None:
    """It reduces each media type to ``application/``, compares that with ``application/dicom``, and gives up."""
    asked = kinds("application/dicom", syntax=JPEG2000Lossless)
    for call in (
        lambda: archive.client.call("retrieveStudy", **study(archive.lossless), mediaTypes=asked),
        lambda: archive.client.call("retrieveSeries", **series(archive.lossless), mediaTypes=asked),
        lambda: archive.client.call("retrieveInstance", **instance(archive.lossless), mediaTypes=asked),
    ):
        with pytest.raises(Failed, match="application/ is not supported"):
            call()
        assert archive.client.last["asked"] == []


def test_frames_come_in_the_order_asked_for(archive: Archive) -> None:
    for asked in (None, kinds("application/octet-stream")):
        options = instance(archive.cine) | ({"mediaTypes": asked} if asked else {})
        parts = archive.client.call("retrieveInstanceFrames", **options, frameNumbers=[3, 1, 3])
        got = [np.frombuffer(part.content, "<u2").reshape(40, 30).tolist() for part in parts]
        assert got == archive.cine.pixel_array[[2, 0, 2]].tolist()
        assert {part.media_type for part in parts} == {"application/octet-stream"}


NATIVE = kinds("application/octet-stream", syntax=ExplicitVRLittleEndian)
JPEG_2000 = kinds("image/jp2", syntax=JPEG2000Lossless)


@pytest.mark.parametrize(
    ("asked", "syntax"),
    [
        (kinds("application/octet-stream", syntax="*"), JPEG2000Lossless),
        (JPEG_2000, JPEG2000Lossless),
        (NATIVE, ExplicitVRLittleEndian),
        ([*NATIVE, *JPEG_2000], ExplicitVRLittleEndian),
    ],
    ids=["as stored", "JPEG 2000", "native", "native, then JPEG 2000"],
)
def test_compressed_frames_come_in_the_form_that_is_asked_for(
    archive: Archive, asked: list[dict[str, str]], syntax: str
) -> None:
    (part,) = archive.client.call(
        "retrieveInstanceFrames", **instance(archive.lossless), frameNumbers=[2], mediaTypes=asked
    )
    assert part.transfer_syntax == syntax
    expected = archive.lossless.pixel_array[1]
    if syntax == JPEG2000Lossless:
        assert (imagecodecs.jpeg2k_decode(part.content) == expected).all()
    else:
        assert part.content == expected.tobytes()


def test_native_frames_come_compressed_for_who_asks(archive: Archive) -> None:
    parts = archive.client.call(
        "retrieveInstanceFrames",
        **instance(archive.cine),
        frameNumbers=[4, 2],
        mediaTypes=kinds("image/jls", syntax=JPEGLSLossless),
    )
    got = [imagecodecs.jpegls_decode(part.content).tolist() for part in parts]
    assert got == archive.cine.pixel_array[[3, 1]].tolist()
    assert {part.media_type for part in parts} == {"image/jls"}


def bulk_data_uri(archive: Archive, dataset: FileDataset, tag: str) -> str:
    (row,) = archive.client.call("retrieveInstanceMetadata", **instance(dataset))
    uri: str = row[tag]["BulkDataURI"]
    return uri


def test_bulk_data_comes_from_the_address_that_the_metadata_gives(archive: Archive) -> None:
    for dataset, tag in ((archive.document, "00420011"), (archive.chest[0], "7FE00010")):
        uri, value = bulk_data_uri(archive, dataset, tag), dataset[tag].value
        (part,) = archive.client.call("retrieveBulkData", BulkDataURI=uri)
        assert part.content == value
        assert 0 < max(archive.client.last["progress"]) >= len(value)
        (part,) = archive.client.call("retrieveBulkData", BulkDataURI=uri, client={"singlepart": "bulkdata"})
        assert part.content == value
        (part,) = archive.client.call("retrieveBulkData", BulkDataURI=uri, byteRange=[4, 99])
        assert part.content in (value[4:100], value), "the range, or all of it: it counts for answers in one part"


# -- rendered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "kind"), [(None, "JPEG"), ("image/jpeg", "JPEG"), ("image/png", "PNG"), ("image/gif", "GIF")]
)
def test_an_instance_is_rendered_with_its_window(archive: Archive, media_type: str | None, kind: str) -> None:
    dataset = archive.chest[4]
    options = instance(dataset) | ({"mediaTypes": kinds(media_type)} if media_type else {})
    image = opened(archive.client.call("retrieveInstanceRendered", **options))
    assert image.format == kind
    shown = np.asarray(image.convert("L"))
    assert shown.shape == (64, 48)
    # 40 HU of window 400 around 40 is the middle grey; -1000 HU is black.
    disc = dataset.pixel_array > 1000
    assert abs(int(np.median(shown[disc])) - 128) <= 4
    assert np.median(shown[~disc]) <= 2


@pytest.mark.parametrize("media_type", [None, "image/png"])
def test_a_viewport_and_a_window_shape_what_is_rendered(archive: Archive, media_type: str | None) -> None:
    options = instance(archive.chest[4]) | ({"mediaTypes": kinds(media_type)} if media_type else {})
    query = {"viewport": "24,32", "window": "40,1,linear"}
    shown = opened(archive.client.call("retrieveInstanceRendered", **options, queryParams=query))
    assert shown.size == (24, 32)
    assert np.asarray(shown.convert("L")).max() >= 250, "the disc is above the window"


def test_videos_and_reports_are_rendered_as_what_they_are(archive: Archive) -> None:
    (video,) = archive.client.call("retrieveInstanceRendered", **instance(archive.cine), mediaTypes=kinds("video/mp4"))
    assert video.media_type == "video/mp4"
    assert video.content[4:8] == b"ftyp"
    for kind in ("text/html", "text/plain"):
        (text,) = archive.client.call("retrieveInstanceRendered", **instance(archive.report), mediaTypes=kinds(kind))
        assert text.media_type == kind
        assert b"No finding." in text.content


def test_a_document_is_rendered_where_nothing_is_asked_for(archive: Archive) -> None:
    """With ``application/pdf`` the client gives up by itself, as it does with ``application/dicom``."""
    (document,) = archive.client.call("retrieveInstanceRendered", **instance(archive.document))
    assert document.media_type == "application/pdf"
    assert archive.document.EncapsulatedDocument.startswith(document.content)
    with pytest.raises(Failed, match="application/ is not supported"):
        archive.client.call(
            "retrieveInstanceRendered", **instance(archive.document), mediaTypes=kinds("application/pdf")
        )


def test_frames_are_rendered(archive: Archive) -> None:
    asked = instance(archive.lossless) | {"frameNumbers": [2]}
    image = opened(archive.client.call("retrieveInstanceFramesRendered", **asked, mediaTypes=kinds("image/png")))
    assert (image.format, image.size) == ("PNG", (32, 24))
    image = opened(archive.client.call("retrieveInstanceFramesRendered", **asked, queryParams={"viewport": "16,12"}))
    assert (image.format, image.size) == ("JPEG", (16, 12))
    several = instance(archive.cine) | {"frameNumbers": [1, 2, 4]}
    image = opened(archive.client.call("retrieveInstanceFramesRendered", **several, mediaTypes=kinds("image/gif")))
    assert image.n_frames == 3  # type: ignore[attr-defined]
    # Without media types and parameters the client reads the picture as text; that it is one can still be told.
    text = archive.client.call("retrieveInstanceFramesRendered", **asked)
    assert "JFIF" in text[:16]


@pytest.mark.parametrize("options", [{}, {"mediaTypes": kinds("image/jpeg")}, {"queryParams": {"viewport": "40,30"}}])
def test_instances_and_frames_have_thumbnails(archive: Archive, options: dict[str, Any]) -> None:
    shown = [
        opened(archive.client.call("retrieveInstanceThumbnail", **instance(dataset), **options))
        for dataset in (archive.chest[0], archive.colour, archive.report)
    ]
    shown += [
        opened(
            archive.client.call(
                "retrieveInstanceFramesThumbnail", **instance(archive.cine), frameNumbers=[number], **options
            )
        )
        for number in (1, 4)
    ]
    assert {image.format for image in shown} == {"JPEG"}
    assert max(max(image.size) for image in shown) <= 128


def test_the_query_of_an_older_viewer_is_answered(archive: Archive) -> None:
    """The client puts the query on the base of WADO-RS; ours has an address of its own, which its prefix says."""
    client = {"wadoURLPrefix": "wado"}
    dataset = archive.chest[0]
    url = archive.client.call("buildInstanceWadoURIUrl", **instance(dataset), client=client)
    assert httpx.get(url, timeout=30).content == part10(dataset)
    url = archive.client.call("buildInstanceWadoURIUrl", **instance(dataset), contentType="image/png", client=client)
    assert Image.open(io.BytesIO(httpx.get(url, timeout=30).content)).size == (48, 64)


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_what_was_never_stored_is_not_found(archive: Archive) -> None:
    dataset = archive.chest[0]
    stranger = instance(dataset) | {"seriesInstanceUID": new_uid()}
    for call, status in (
        (lambda: archive.client.call("retrieveStudyMetadata", studyInstanceUID=new_uid()), 404),
        (lambda: archive.client.call("retrieveInstance", **stranger), 404),
        (lambda: archive.client.call("retrieveInstanceFrames", **instance(dataset), frameNumbers=[2]), 404),
        (lambda: archive.client.call("retrieveInstanceFramesThumbnail", **instance(dataset), frameNumbers=[2]), 404),
        (lambda: archive.client.call("searchForStudies", queryParams={"limit": "many"}), 400),
    ):
        with pytest.raises(Failed, match="request failed") as caught:
            call()
        assert caught.value.status == status
        assert archive.client.last["intercepted"] == [status]


def test_the_client_prints_what_it_is_told_to(archive: Archive) -> None:
    client = {"verbose": True, "debug": False}
    nobody = {"queryParams": {"PatientID": "nobody"}}
    assert archive.client.call("getVerbose", client=client) is True
    assert archive.client.call("searchForStudies", **nobody, client=client) == []
    assert archive.client.last["printed"][0].startswith("empty response")
    archive.client.call("setVerbose", False, client=client)
    assert archive.client.call("getVerbose", client=client) is False
    archive.client.call("searchForStudies", **nobody, client=client)
    assert archive.client.last["printed"] == []
    archive.client.call("setDebug", True, client=client)
    assert archive.client.call("getDebug", client=client) is True
    archive.client.call("searchForStudies", **nobody, client=client)
    assert "search for studies" in archive.client.last["printed"]
    archive.client.call("setDebug", False, client=client)
    assert archive.client.call("getDebug", client=client) is False
