"""WADO-URI (PS3.18 chapter 9): an instance named by a query, as a file or rendered, the same as WADO-RS has it."""

from __future__ import annotations

import io
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import HTJ2KLossless, JPEGLSLossless

from tests import synthetic
from tests.retrieve import compressed, jpeg_ls, keep, read, url_of

WADO = "/dicomweb/wado"
PNG = {"contentType": "image/png"}
FILE = {"contentType": "application/dicom"}
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
MPEG_2 = "1.2.840.10008.1.2.4.100"


def query(dataset: Dataset, **others: object) -> dict[str, Any]:
    return {
        "requestType": "WADO",
        "studyUID": dataset.StudyInstanceUID,
        "seriesUID": dataset.SeriesInstanceUID,
        "objectUID": dataset.SOPInstanceUID,
    } | others


def ask(client: httpx.Client, dataset: Dataset, accept: str = "*/*", **others: object) -> httpx.Response:
    return client.get(WADO, params=query(dataset, **others), headers={"Accept": accept})


def rendered(client: httpx.Client, dataset: Dataset, parameters: str = "", tail: str = "/rendered") -> bytes:
    answer = client.get(f"{url_of(dataset)}{tail}?{parameters}", headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.content


def size(answer: httpx.Response) -> tuple[int, int]:
    """Columns and rows."""
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).size


@pytest.fixture
def ct(client: httpx.Client, chest_ct: list[FileDataset]) -> FileDataset:
    """A stored CT slice of 32 rows and 24 columns."""
    keep(client, chest_ct[2])
    return chest_ct[2]


@pytest.fixture
def cine(client: httpx.Client) -> FileDataset:
    """A stored image of four frames of 8 rows and 10 columns."""
    dataset = synthetic.cine(4)
    keep(client, dataset)
    return dataset


# What is sent


def test_a_single_frame_image_is_a_jpeg_where_nothing_is_said(client: httpx.Client, ct: FileDataset) -> None:
    answer = ask(client, ct)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content == client.get(f"{url_of(ct)}/rendered", headers={"Accept": "image/jpeg"}).content
    assert "warning" not in answer.headers


def test_an_old_viewer_may_send_no_accept_header(client: httpx.Client, ct: FileDataset) -> None:
    request = client.build_request("GET", WADO, params=query(ct))
    del request.headers["accept"]
    assert client.send(request).headers["content-type"] == "image/jpeg"


def test_a_multi_frame_image_is_a_file_unless_a_frame_or_a_picture_is_asked_for(
    client: httpx.Client, cine: FileDataset
) -> None:
    assert ask(client, cine).headers["content-type"].startswith("application/dicom")
    assert ask(client, cine, frameNumber=2).headers["content-type"] == "image/jpeg"
    assert ask(client, cine, contentType="image/jpeg").headers["content-type"] == "image/jpeg"
    assert ask(client, cine, contentType="image/gif").headers["content-type"] == "image/gif"


def test_content_type_goes_before_the_accept_header(client: httpx.Client, ct: FileDataset) -> None:
    def kind(accept: str, **others: str) -> str:
        return ask(client, ct, accept, **others).headers["content-type"].partition(";")[0]

    assert kind("image/png") == "image/png"
    assert kind("application/dicom") == "application/dicom"
    assert kind("image/jpeg", contentType="application/dicom") == "application/dicom"
    assert kind("application/dicom", contentType="image/gif;q=0.5,image/png") == "image/png"
    assert kind("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2") == "image/gif", "what Java sends"


def test_what_cannot_be_had_is_406_even_where_the_accept_header_takes_all(
    client: httpx.Client, ct: FileDataset
) -> None:
    for content_type in ("text/html", "video/mpeg", "image/tiff"):
        answer = ask(client, ct, contentType=content_type)
        assert answer.status_code == 406
        assert "there is: image/jpeg" in answer.text


def test_the_file_is_as_it_was_received(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    (file, *_) = keep(client, chest_ct[0])
    answer = ask(client, chest_ct[0], **FILE)
    assert answer.headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert answer.content == file
    part = client.get(WADO, params=query(chest_ct[0], **FILE), headers={"Range": "bytes=128-131"})
    assert (part.status_code, part.content) == (206, b"DICM")


def test_a_compressed_file_comes_in_the_transfer_syntax_that_is_named(client: httpx.Client) -> None:
    dataset = synthetic.ct_series(1)[0]
    pixels = dataset.pixel_array
    (file,) = keep(client, compressed(dataset, JPEGLSLossless, jpeg_ls))
    for content_type in ({}, FILE):
        assert (
            read(ask(client, dataset, transferSyntax="1.2.840.10008.1.2.1", **content_type).content)
            .file_meta["TransferSyntaxUID"]
            .value
            == "1.2.840.10008.1.2.1"
        )
        assert ask(client, dataset, transferSyntax=JPEGLSLossless, **content_type).content == file
        assert ask(client, dataset, transferSyntax="*", **content_type).content == file
    explicit = read(ask(client, dataset, **FILE).content)
    assert explicit.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(explicit.pixel_array, pixels)


def test_a_file_is_transcoded_where_another_transfer_syntax_is_named(client: httpx.Client, ct: FileDataset) -> None:
    answer = ask(client, ct, transferSyntax=HTJ2KLossless, **FILE)
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={HTJ2KLossless}"
    (bitstream,) = generate_frames(read(answer.content).PixelData, number_of_frames=1)
    assert np.array_equal(imagecodecs.htj2k_decode(bitstream), ct.pixel_array)


@pytest.mark.parametrize("syntax", [MPEG_2, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.3"])
def test_a_transfer_syntax_that_cannot_be_sent_is_406(client: httpx.Client, ct: FileDataset, syntax: str) -> None:
    answer = ask(client, ct, transferSyntax=syntax, **FILE)
    assert answer.status_code == 406
    assert "there is: 1.2.840.10008.1.2.1" in answer.text


def test_reports_and_documents_are_rendered_too(client: httpx.Client) -> None:
    report, document = synthetic.text_report(), synthetic.pdf_document()
    keep(client, report, document)
    assert ask(client, report).headers["content-type"].startswith("text/html")
    assert "No finding." in ask(client, report, contentType="text/plain").text
    assert ask(client, report, contentType="text/plain", charset="UTF-8").status_code == 200
    assert ask(client, report, contentType="text/plain", charset="ISO-8859-1").status_code == 406
    assert ask(client, report, **FILE).status_code == 200
    assert ask(client, document).headers["content-type"] == "application/pdf"
    assert ask(client, document, contentType="application/pdf").content.startswith(b"%PDF")


# How it is rendered


@pytest.mark.parametrize(
    ("parameters", "same"),
    [
        ({}, ""),
        ({"windowCenter": "40", "windowWidth": "80"}, "window=40,80,linear"),
        ({"windowCenter": "-100.5", "windowWidth": "1.5e3"}, "window=-100.5,1500,linear"),
        ({"rows": 64, "columns": 64}, "viewport=64,64"),
        ({"rows": 64}, "viewport=48,64"),
        ({"columns": 12}, "viewport=12,16"),
        ({"region": "0.25,0.5,0.75,1"}, "viewport=12,16,6,16,12,16"),
        ({"region": "0.25,0.5,0.75,1.0", "rows": 8}, "viewport=6,8,6,16,12,16"),
        ({"region": "0,0,0.5,0.5", "rows": 50, "columns": 60}, "viewport=60,50,0,0,12,16"),
        ({"annotation": "patient"}, "annotation=patient"),
        ({"imageAnnotation": "patient,technique", "rows": 300}, "annotation=patient,technique&viewport=225,300"),
        ({"unknown": "yes", "rows": 64}, "viewport=48,64"),
    ],
    ids=str,
)
def test_a_picture_is_that_of_the_rendered_resource(
    client: httpx.Client, ct: FileDataset, parameters: dict[str, object], same: str
) -> None:
    answer = ask(client, ct, **PNG, **parameters)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    assert answer.content == rendered(client, ct, same)


def test_each_frame_can_be_named(client: httpx.Client, cine: FileDataset) -> None:
    for number in (1, 4):
        assert ask(client, cine, frameNumber=number, **PNG).content == rendered(
            client, cine, tail=f"/frames/{number}/rendered"
        )
    assert size(ask(client, cine, frameNumber=2, rows=4)) == (5, 4)


def test_quality_is_heeded(client: httpx.Client) -> None:
    noise = synthetic.secondary_capture(64, 64)
    keep(client, noise)
    sizes = [len(ask(client, noise, imageQuality=quality).content) for quality in (1, 50, 100)]
    assert sizes == sorted(set(sizes))


def test_a_presentation_state_is_applied(client: httpx.Client, ct: FileDataset) -> None:
    state = synthetic.new_dataset(GSPS, study_uid=ct.StudyInstanceUID, Modality="PR")
    window, image, series, area = Dataset(), Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 0, 100
    state.SoftcopyVOILUTSequence = [window]
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = ct.SOPClassUID, ct.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedImageSequence = ct.SeriesInstanceUID, [image]
    state.ReferencedSeriesSequence = [series]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [24, 32]
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
    state.DisplayedAreaSelectionSequence = [area]
    state.PresentationLUTShape = "IDENTITY"
    keep(client, state)
    named = {"presentationSeriesUID": state.SeriesInstanceUID, "presentationUID": state.SOPInstanceUID}
    answer = ask(client, ct, **PNG, **named)
    assert answer.status_code == 200, answer.text
    parameters = "&".join(f"{name}={uid}" for name, uid in named.items())
    assert answer.content == rendered(client, ct, parameters) != rendered(client, ct)
    assert ask(client, ct, **PNG, **named, rows=16, columns=12).status_code == 200
    for other in ({"windowCenter": 1, "windowWidth": 2}, {"region": "0,0,1,1"}, {"rows": 16}):
        assert ask(client, ct, **PNG, **named, **other).status_code == 400, other
    assert ask(client, ct, **PNG, presentationUID=state.SOPInstanceUID).status_code == 400


def test_what_is_left_out_of_account_is_told(client: httpx.Client, ct: FileDataset) -> None:
    file = ask(client, ct, rows=5, windowCenter=1, windowWidth=2, **FILE)
    assert file.headers["warning"] == (
        '299 readingroom "application/dicom is sent without regard to rows, windowCenter, windowWidth"'
    )
    picture = ask(client, ct, transferSyntax="1.2.840.10008.1.2.1", **PNG)
    assert picture.headers["warning"] == '299 readingroom "image/png is sent without regard to transferSyntax"'
    annotated = ask(client, ct, annotation="patient,horoscope", **PNG)
    assert "horoscope" in annotated.headers["warning"]


# What is refused


@pytest.mark.parametrize("name", ["requestType", "studyUID", "seriesUID", "objectUID"])
@pytest.mark.parametrize("value", [None, "", "wado", "1.2.x", "1" * 65])
def test_who_names_no_instance_is_told(client: httpx.Client, ct: FileDataset, name: str, value: str | None) -> None:
    parameters = query(ct)
    del parameters[name]
    if value is not None:
        parameters[name] = value
    answer = client.get(WADO, params=parameters)
    assert answer.status_code == 400
    assert name in answer.text
    assert answer.text.count("\n") == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"frameNumber": "0"},
        {"frameNumber": "2"},
        {"frameNumber": "one"},
        {"frameNumber": "1,1"},
        {"frameNumber": ""},
        {"rows": "0"},
        {"rows": "-1"},
        {"rows": "99999999999"},
        {"rows": "16384", "columns": "16384"},
        {"rows": "16384"},
        {"columns": "1.5"},
        {"region": "0,0,1"},
        {"region": "0,0,1,1,1"},
        {"region": "0,0,1,1.1"},
        {"region": "0.5,0,0.5,1"},
        {"region": "a,b,c,d"},
        {"region": "-0.1,0,1,1"},
        {"region": "0,0,1,1e-99", "rows": "10"},
        {"windowCenter": "40"},
        {"windowWidth": "40"},
        {"windowCenter": "40", "windowWidth": "0"},
        {"windowCenter": "nan", "windowWidth": "inf"},
        {"imageQuality": "0"},
        {"imageQuality": "101"},
        {"annotation": "<script>"},
        {"presentationUID": "1.2", "presentationSeriesUID": "1.2"},
        {"presentationUID": "1.2"},
        {"transferSyntax": "jpeg"},
        {"contentType": ""},
        {"contentType": "jpeg"},
        {"anonymize": "no"},
        {"version": "x"},
    ],
    ids=str,
)
def test_a_bad_value_is_400_with_a_reason(client: httpx.Client, ct: FileDataset, parameters: dict[str, str]) -> None:
    answer = ask(client, ct, **parameters)
    assert answer.status_code == 400, answer.text
    assert answer.text.count("\n") == 1
    assert any(name.removesuffix("UID") in answer.text for name in parameters)


def test_a_parameter_twice_is_400(client: httpx.Client, ct: FileDataset) -> None:
    answer = client.get(WADO, params=[*query(ct).items(), ("objectUID", ct.SOPInstanceUID)])
    assert (answer.status_code, answer.text) == (400, "objectUID is given twice.\n")


@pytest.mark.parametrize("content_type", [{}, PNG, FILE], ids=str)
def test_who_asks_for_an_anonymous_instance_never_gets_another(
    client: httpx.Client, ct: FileDataset, content_type: dict[str, str]
) -> None:
    answer = ask(client, ct, anonymize="yes", **content_type)
    assert answer.status_code == 406
    assert "anonymize" in answer.text
    assert b"Phantom" not in answer.content


def test_an_instance_under_the_wrong_parent_or_facility_is_not_there(client: httpx.Client, ct: FileDataset) -> None:
    assert ask(client, ct).status_code == 200
    for name in ("studyUID", "seriesUID", "objectUID"):
        assert ask(client, ct, **{name: "1.2.3"}).status_code == 404
    assert client.get("/dicomweb/f/local/wado", params=query(ct)).status_code == 200
    assert client.get("/dicomweb/f/elsewhere/wado", params=query(ct)).status_code == 404


def test_what_has_no_pixels_has_no_frame_and_no_region(client: httpx.Client) -> None:
    report = synthetic.text_report()
    keep(client, report)
    for parameters in ({"frameNumber": 1}, {"region": "0,0,1,1"}, {"rows": 5}):
        assert ask(client, report, **parameters).status_code == 400, parameters
    assert ask(client, report, rows=5, columns=5).status_code == 200


def test_what_cannot_be_rendered_is_still_a_file(client: httpx.Client) -> None:
    plan = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.481.5", Modality="RTPLAN")
    keep(client, plan)
    assert ask(client, plan).headers["content-type"].startswith("application/dicom")
    assert ask(client, plan, **PNG).status_code == 406


def test_answers_have_validators_and_heads(client: httpx.Client, ct: FileDataset) -> None:
    for content_type in (PNG, FILE):
        first = ask(client, ct, **content_type)
        again = client.get(WADO, params=query(ct, **content_type), headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = client.head(WADO, params=query(ct, **content_type))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == first.headers["content-type"]
    assert ask(client, ct, rows=5, **PNG).headers["etag"] != ask(client, ct, rows=6, **PNG).headers["etag"]
