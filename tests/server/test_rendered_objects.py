"""What else than an image is rendered, and images through presentation states, over HTTP (PS3.18 10.4.1.1.3)."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

from storage.icc import converted, profile_of
from tests import synthetic
from tests.corpus import corpus_file
from tests.multipart import parts_of
from tests.retrieve import compressed, jpeg_ls, keep, url_of
from tests.stow import store
from tests.synthetic import a_pdf, cda_document, cine, pdf_document, secondary_capture, text_report

PNG = {"Accept": "image/png"}
ANY = {"Accept": "*/*"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def parts(media_type: str) -> dict[str, str]:
    return {"Accept": f'multipart/related; type="{media_type}"'}


# -- presentation states ---------------------------------------------------------------------------------------


def state_for(*images: FileDataset, sop_class: str = "1.2.840.10008.5.1.4.1.1.11.1", **attributes: Any) -> FileDataset:
    """A presentation state of the images, in their study."""
    state = synthetic.new_dataset(
        sop_class, study_uid=images[0].StudyInstanceUID, Modality="PR", ContentLabel="MADE", **attributes
    )
    state.ReferencedSeriesSequence = []
    for image in images:
        series, reference = Dataset(), Dataset()
        series.SeriesInstanceUID = image.SeriesInstanceUID
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.ReferencedImageSequence = [reference]
        state.ReferencedSeriesSequence.append(series)
    return state


def with_window(state: FileDataset, center: float, width: float) -> FileDataset:
    voi = Dataset()
    voi.WindowCenter, voi.WindowWidth = center, width
    state.SoftcopyVOILUTSequence = [voi]
    return state


def by_name(image: FileDataset, state: FileDataset) -> str:
    return (
        f"{url_of(image)}/rendered?presentationSeriesUID={state.SeriesInstanceUID}"
        f"&presentationUID={state.SOPInstanceUID}"
    )


def test_a_presentation_state_shows_the_image_that_it_names(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 10.4.1.1.3: the rendered instance is the image, as the state has it."""
    state = with_window(state_for(chest_ct[1], RescaleSlope=1, RescaleIntercept=-1024), 0, 2200)
    keep(client, *chest_ct, state)
    expected = client.get(f"{url_of(chest_ct[1])}/rendered?window=0,2200,linear", headers=PNG)
    assert np.array_equal(picture(client.get(f"{url_of(state)}/rendered", headers=PNG)), picture(expected))
    assert np.array_equal(picture(client.get(by_name(chest_ct[1], state), headers=PNG)), picture(expected))
    small = picture(client.get(f"{url_of(state)}/rendered?viewport=12,12", headers=PNG))
    assert small.shape == (12, 9)
    assert picture(client.get(f"{url_of(state)}/thumbnail", headers=PNG)).shape == (128, 96)


def test_a_presentation_state_of_many_images_is_rendered_in_parts(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    state = with_window(state_for(*chest_ct), 1024, 2048)
    keep(client, *chest_ct[:4], state)
    answer = client.get(f"{url_of(state)}/rendered", headers=parts("image/png"))
    assert answer.status_code == 200
    found = parts_of(answer)
    assert len(found) == 4, "of five that are named four are here"
    assert {headers["content-location"] for headers, _ in found} == {f"http://127.0.0.1:8780{url_of(state)}/rendered"}


@pytest.mark.parametrize(
    "query", ["window=40,400,linear", "viewport=10,10,0,0,5,5", "viewport=10,10,,,-5", "annotation=", "iccprofile=cmyk"]
)
def test_a_presentation_state_leaves_no_room_for_a_window_or_a_region(
    client: httpx.Client, chest_ct: list[FileDataset], query: str
) -> None:
    """PS3.18 8.3.5.1.3, 8.3.5.1.4."""
    state = state_for(chest_ct[0])
    keep(client, chest_ct[0], state)
    assert client.get(f"{url_of(state)}/rendered?{query}", headers=PNG).status_code == 400
    assert client.get(f"{by_name(chest_ct[0], state)}&{query}", headers=PNG).status_code == 400


def test_a_presentation_state_that_is_none_is_a_bad_request(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 9.5.2.3."""
    state = state_for(chest_ct[0])
    keep(client, *chest_ct, state)
    url = f"{url_of(chest_ct[0])}/rendered"
    series, instance = state.SeriesInstanceUID, state.SOPInstanceUID
    for query in (
        f"presentationUID={instance}",
        f"presentationSeriesUID={series}",
        f"presentationSeriesUID={series}&presentationUID=1.2.3",
        f"presentationSeriesUID={series}&presentationUID=x",
        f"presentationSeriesUID={chest_ct[1].SeriesInstanceUID}&presentationUID={chest_ct[1].SOPInstanceUID}",
    ):
        answer = client.get(f"{url}?{query}", headers=PNG)
        assert answer.status_code == 400, query
        assert answer.text.strip()
    answer = client.get(by_name(chest_ct[1], state), headers=PNG)
    assert (answer.status_code, "not for this image" in answer.text) == (400, True)


def test_a_presentation_state_without_its_images_has_nothing_to_show(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    state, other = state_for(chest_ct[0]), state_for(chest_ct[0], sop_class="1.2.840.10008.5.1.4.1.1.11.4")
    keep(client, chest_ct[1], state, other)
    answer = client.get(f"{url_of(state)}/rendered", headers=ANY)
    assert (answer.status_code, "is here" in answer.text) == (406, True)
    assert client.get(f"{url_of(other)}/rendered", headers=ANY).status_code == 406
    assert client.get(f"{url_of(state)}/thumbnail", headers=ANY).status_code == 200


def test_a_presentation_state_that_subtracts_masks_is_not_shown_without(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    mask = Dataset()
    mask.MaskOperation, mask.ApplicableFrameRange = "AVG_SUB", [1, 1]
    state = state_for(chest_ct[0], MaskSubtractionSequence=[mask])
    keep(client, chest_ct[0], state)
    answer = client.get(f"{url_of(state)}/rendered", headers=PNG)
    assert (answer.status_code, "mask" in answer.text) == (406, True)


def test_the_displayed_area_is_cut_and_magnified(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.3 C.10.4; PS3.18 9.5.2.3: what is magnified is cut to the viewport."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [5, 3], [12, 8]
    area.PresentationSizeMode, area.PresentationPixelMagnificationRatio = "MAGNIFY", 3.0
    state = with_window(state_for(chest_ct[0], DisplayedAreaSelectionSequence=[area]), 600, 1200)
    keep(client, chest_ct[0], state)
    whole = picture(client.get(f"{url_of(state)}/rendered", headers=PNG))
    assert whole.shape == (18, 24)
    cut = picture(client.get(f"{url_of(state)}/rendered?viewport=10,100", headers=PNG))
    assert np.array_equal(cut, whole[:, :10])
    area.PresentationSizeMode = "SCALE TO FIT"
    other = with_window(state_for(chest_ct[0], DisplayedAreaSelectionSequence=[area]), 600, 1200)
    keep(client, other)
    assert picture(client.get(f"{url_of(other)}/rendered?viewport=10,100", headers=PNG)).shape == (8, 10)


def test_a_thumbnail_shows_no_text_of_a_presentation_state(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 10.4.1.1.4: it might name the patient."""
    annotation, text, layer = Dataset(), Dataset(), Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = "A", 1
    text.UnformattedTextValue, text.AnchorPoint, text.AnchorPointAnnotationUnits = "Phantom Ada", [2, 2], "PIXEL"
    annotation.GraphicLayer, annotation.TextObjectSequence = "A", [text]
    plain = state_for(chest_ct[0])
    marked = state_for(chest_ct[0], GraphicLayerSequence=[layer], GraphicAnnotationSequence=[annotation])
    keep(client, chest_ct[0], plain, marked)

    def shown(state: FileDataset, name: str) -> np.ndarray:
        return picture(client.get(f"{url_of(state)}/{name}?viewport=200,200", headers=PNG))

    assert not np.array_equal(shown(plain, "rendered"), shown(marked, "rendered"))
    assert np.array_equal(shown(plain, "thumbnail"), shown(marked, "thumbnail"))


@pytest.mark.usefixtures("corpus")
def test_six_overlays_are_read_from_a_real_state_and_its_image(client: httpx.Client) -> None:
    """Two lie in unused bits of the pixels, two in the image's groups, two in the state's."""
    files = corpus_file("ovly_p01.dcm"), corpus_file("prOverlay.dcm")
    assert store(client, *files).status == 200
    study = "/dicomweb/studies/1.2.276.0.7230010.3.200.12"
    image = f"{study}/series/1.2.276.0.7230010.3.200.12.1/instances/1.2.276.0.7230010.3.200.12.1.1"
    state = f"{study}/series/1.2.276.0.7230010.3.200.12.0/instances/1.2.276.0.7230010.3.200.12.0.1"
    lines = [slice(top, top + 14) for top in (134, 176, 219, 261, 303, 345)]

    def inked(url: str) -> list[bool]:
        pixels = picture(client.get(url, headers=PNG))
        return [bool((pixels[line] == 255).sum() > 150) for line in lines]

    assert inked(f"{image}/rendered") == [False] * 6
    assert inked(f"{image}/rendered?annotation=overlay") == [True] * 4 + [False] * 2
    assert inked(f"{state}/rendered") == [True] * 6


# -- moving pictures -------------------------------------------------------------------------------------------


def test_a_multi_frame_image_moves_as_gif_and_stands_as_png(client: httpx.Client) -> None:
    """PS3.18 Table 8.7.4-1: multi-frame images as image/gif; PNG and JPEG show the middle frame."""
    dataset = cine(6, WindowCenter=3.5, WindowWidth=7, FrameTime=40)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "image/gif"})
    gif = Image.open(io.BytesIO(answer.content))
    assert gif.n_frames == 6  # type: ignore[attr-defined]
    assert gif.info["duration"] == 40
    for number in range(6):
        gif.seek(number)
        still = picture(client.get(f"{url_of(dataset)}/frames/{number + 1}/rendered", headers=PNG))
        assert np.array_equal(np.asarray(gif.convert("L")), still)
    some = client.get(f"{url_of(dataset)}/frames/5,1/rendered?viewport=4,4", headers={"Accept": "image/gif"})
    moving = Image.open(io.BytesIO(some.content))
    assert (moving.n_frames, moving.size) == (2, (4, 3))  # type: ignore[attr-defined]
    alone = client.get(f"{url_of(dataset)}/thumbnail", headers={"Accept": "image/gif"})
    assert Image.open(io.BytesIO(alone.content)).n_frames == 1  # type: ignore[attr-defined]


def test_a_multi_frame_image_is_a_video_where_one_is_asked_for(client: httpx.Client) -> None:
    dataset = cine(3, rows=64, columns=64)
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "video/mp4, image/png;q=0.5"})
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content[4:12] == b"ftypisom"
    ranged = client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "video/mp4", "Range": "bytes=4-7"})
    assert (ranged.status_code, ranged.content) == (206, b"ftyp")
    (part,) = parts_of(client.get(f"{url_of(dataset)}/rendered", headers=parts("video/mp4")))
    assert part[1] == answer.content


def test_too_much_of_a_moving_picture_is_too_large(client: httpx.Client) -> None:
    """413 (PS3.18 10.4.3.1), which says what would be right."""
    dataset = cine(60, rows=8, columns=8)
    keep(client, dataset)
    gif = {"Accept": "image/gif"}
    answer = client.get(f"{url_of(dataset)}/rendered?viewport=2000,2000", headers=gif)
    assert (answer.status_code, "smaller viewport" in answer.text) == (413, True)
    assert client.get(f"{url_of(dataset)}/frames/1,2/rendered?viewport=200,200", headers=gif).status_code == 200


def test_frames_without_a_window_are_stretched_alike(client: httpx.Client) -> None:
    """Each for itself would be black here, and flicker elsewhere."""
    dataset = cine(4)
    keep(client, dataset)
    gif = Image.open(io.BytesIO(client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "image/gif"}).content))
    shades = []
    for index in range(4):
        gif.seek(index)
        shades.append(int(np.asarray(gif.convert("L"))[0, 0]))
    assert shades == [0, 85, 170, 255]


def test_frames_follow_each_other_at_the_times_that_they_have(client: httpx.Client) -> None:
    """PS3.3 C.7.6.5.1.2: each value is the time since the frame before."""
    dataset = cine(4, FrameTimeVector=[0, 50, 200, 100], WindowCenter=2, WindowWidth=8)
    keep(client, dataset)
    gif = Image.open(io.BytesIO(client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "image/gif"}).content))
    times = []
    for index in range(4):
        gif.seek(index)
        times.append(gif.info["duration"])
    assert times == [50, 200, 100, 100]


# -- colors ----------------------------------------------------------------------------------------------------


def profile_in(answer: httpx.Response) -> bytes | None:
    profile: bytes | None = Image.open(io.BytesIO(answer.content)).info.get("icc_profile")
    return profile


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
def test_a_profile_is_embedded_as_it_is_asked_for(client: httpx.Client, media_type: str) -> None:
    """PS3.18 8.3.5.1.5."""
    plain, managed = secondary_capture(), secondary_capture(ICCProfile=profile_of("adobergb"))
    keep(client, plain, managed)

    def get(dataset: FileDataset, icc: str) -> httpx.Response:
        return client.get(f"{url_of(dataset)}/rendered?iccprofile={icc}", headers={"Accept": media_type})

    assert profile_in(get(plain, "no")) is None
    assert profile_in(get(plain, "yes")) == profile_of("srgb")
    assert profile_in(get(managed, "yes")) == profile_of("adobergb")
    for space in ("srgb", "adobergb", "rommrgb"):
        answer = get(managed, space)
        assert profile_in(answer) == profile_of(space)  # type: ignore[arg-type]
        if media_type == "image/png":
            expected = converted(managed.pixel_array, profile_of("adobergb"), space)  # type: ignore[arg-type]
            assert np.array_equal(picture(answer), expected)


def test_a_gray_picture_with_a_profile_has_three_samples(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    keep(client, chest_ct[0])
    url = f"{url_of(chest_ct[0])}/rendered"
    gray, colour = (picture(client.get(f"{url}{query}", headers=PNG)) for query in ("", "?iccprofile=srgb"))
    assert np.array_equal(colour, np.repeat(gray[..., None], 3, axis=-1))


def test_a_profile_that_cannot_be_used_is_refused(client: httpx.Client) -> None:
    broken = secondary_capture(ICCProfile=b"no profile at all")
    keep(client, broken)
    url = f"{url_of(broken)}/rendered"
    assert client.get(f"{url}?iccprofile=srgb", headers=PNG).status_code == 406
    assert client.get(f"{url}?iccprofile=yes", headers={"Accept": "image/gif"}).status_code == 400
    assert client.get(f"{url}?iccprofile=no", headers={"Accept": "image/gif"}).status_code == 200
    assert client.get(f"{url}?iccprofile=sRGB", headers=PNG).status_code == 400


def test_deep_bulk_values_of_a_deflated_object_are_found(client: httpx.Client) -> None:
    """The profile is longer than what the metadata holds inline."""
    dataset = secondary_capture(ICCProfile=profile_of("srgb"))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    keep(client, dataset)
    assert profile_in(client.get(f"{url_of(dataset)}/rendered?iccprofile=yes", headers=PNG)) == profile_of("srgb")


# -- reports and documents -------------------------------------------------------------------------------------


def test_a_report_is_html_for_a_browser_and_text_for_who_asks(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    """PS3.18 Table 8.7.4-1: text/html is the default, text/plain and text/xml are required."""
    report = text_report(StudyInstanceUID=chest_ct[0].StudyInstanceUID)
    image, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID = chest_ct[0].SOPClassUID
    reference.ReferencedSOPInstanceUID = chest_ct[0].SOPInstanceUID
    image.RelationshipType, image.ValueType, image.ReferencedSOPSequence = "CONTAINS", "IMAGE", [reference]
    report.ContentSequence.append(image)
    keep(client, report, chest_ct[0])
    url = f"{url_of(report)}/rendered"
    for headers in (BROWSER, ANY, {"Accept": "text/html"}):
        page = client.get(url, headers=headers)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "No finding." in page.text
        assert f'href="http://127.0.0.1:8780{url_of(chest_ct[0])}/rendered"' in page.text
        assert "sandbox" in page.headers["content-security-policy"]
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
    plain = client.get(url, headers={"Accept": "text/plain"})
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert plain.text.endswith("No finding.\nimage " + chest_ct[0].SOPInstanceUID + "\n")
    xml = client.get(url, headers={"Accept": "text/xml"})
    assert xml.headers["content-type"] == "text/xml"
    assert b"<NativeDicomModel" in xml.content
    assert client.get(url, headers=PNG).status_code == 406


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Accept-Charset": "utf-8"}, "", 200),
        ({"Accept-Charset": "iso-8859-1, *;q=0.1"}, "", 200),
        ({"Accept-Charset": "iso-8859-1"}, "", 406),
        ({}, "?charset=UTF-8", 200),
        ({"Accept-Charset": "utf-8"}, "?charset=iso-8859-5", 406),
    ],
)
def test_text_is_utf_8(client: httpx.Client, headers: dict[str, str], query: str, status: int) -> None:
    """PS3.18 8.8."""
    report = text_report(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    keep(client, report)
    answer = client.get(f"{url_of(report)}/rendered{query}", headers={"Accept": "text/plain", **headers})
    assert answer.status_code == status
    assert status != 200 or "Müller Jörg" in answer.content.decode()


@pytest.mark.parametrize("size", [800, 5000, 5001])
def test_a_pdf_goes_as_it_is(client: httpx.Client, size: int) -> None:
    """Inline in the metadata or not, without the byte that pads it (PS3.3 C.24.2)."""
    content = a_pdf().ljust(size, b"%")
    dataset = pdf_document(content)
    keep(client, dataset)
    for headers in (BROWSER, ANY, {"Accept": "application/pdf"}):
        answer = client.get(f"{url_of(dataset)}/rendered", headers=headers)
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.content == content
    part = client.get(f"{url_of(dataset)}/rendered", headers={"Accept": "application/pdf", "Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PDF")


def test_the_first_page_of_a_pdf_is_a_picture(client: httpx.Client) -> None:
    dataset, broken = pdf_document(a_pdf()), pdf_document(b"%PDF-1.4\n%%EOF\n")
    keep(client, dataset, broken)
    url = f"{url_of(dataset)}/rendered"
    assert picture(client.get(url, headers=PNG)).shape == (150, 300, 3)
    assert picture(client.get(f"{url}?viewport=100,100", headers=PNG)).shape == (50, 100, 3)
    region = picture(client.get(f"{url}?viewport=60,60,60,60,30,30", headers=PNG))
    assert (region == (255, 0, 0)).all(axis=-1).mean() > 0.9
    assert client.get(url, headers={"Accept": "image/jpeg"}).headers["content-type"] == "image/jpeg"
    answer = client.get(f"{url_of(broken)}/rendered", headers=PNG)
    assert (answer.status_code, "not rendered" in answer.text) == (406, True)


def test_a_cda_goes_as_it_is_and_may_run_nothing(client: httpx.Client) -> None:
    dataset = cda_document(b"<ClinicalDocument><script>alert(1)</script></ClinicalDocument>")
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/rendered", headers=BROWSER)
    assert answer.headers["content-type"] == "text/xml"
    assert answer.content == b"<ClinicalDocument><script>alert(1)</script></ClinicalDocument>"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("dataset", [text_report(), pdf_document(a_pdf()), cda_document()], ids=["SR", "PDF", "CDA"])
def test_the_thumbnail_of_a_document_shows_nothing_of_it(client: httpx.Client, dataset: FileDataset) -> None:
    """PS3.18 10.4.1.1.4: no patient identifying information."""
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/thumbnail?viewport=64,99", headers=PNG)
    assert picture(answer).shape == (64, 64)
    other = synthetic.new_dataset(dataset.SOPClassUID, Modality=dataset.Modality, PatientName="Other^Otto")
    keep(client, other)
    assert client.get(f"{url_of(other)}/thumbnail?viewport=64,99", headers=PNG).content == answer.content


def test_pixels_that_name_the_patient_have_no_thumbnail_of_their_own(client: httpx.Client) -> None:
    burned, clean = secondary_capture(BurnedInAnnotation="YES"), secondary_capture(BurnedInAnnotation="NO")
    keep(client, burned, clean)
    assert picture(client.get(f"{url_of(burned)}/thumbnail", headers=PNG)).ndim == 2
    assert picture(client.get(f"{url_of(clean)}/thumbnail", headers=PNG)).ndim == 3
    assert picture(client.get(f"{url_of(burned)}/rendered", headers=PNG)).ndim == 3


# -- studies of many kinds -------------------------------------------------------------------------------------


def test_a_study_is_rendered_in_parts_of_all_that_it_holds(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 10.4.1.1.3: each in its default."""
    study = chest_ct[0].StudyInstanceUID
    report = text_report(StudyInstanceUID=study, SeriesNumber=2)
    document = pdf_document(a_pdf(), StudyInstanceUID=study, SeriesNumber=3)
    keep(client, *chest_ct[:2], report, document)
    answer = client.get(f"{url_of(chest_ct[0], level='study')}/rendered", headers=parts("*/*"))
    assert answer.status_code == 200
    assert [headers["content-type"].partition(";")[0] for headers, _ in parts_of(answer)] == [
        "image/jpeg",
        "image/jpeg",
        "text/html",
        "application/pdf",
    ]
    one = client.get(f"{url_of(chest_ct[0], level='study')}/rendered", headers=parts("application/pdf"))
    assert one.status_code == 206
    assert [body for _, body in parts_of(one)] == [a_pdf()]


def test_what_is_not_acceptable_is_left_out_and_told(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 10.4.3.1: 206 for some, not all."""
    study = chest_ct[0].StudyInstanceUID
    plan = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.481.5", study_uid=study, Modality="RTPLAN")
    keep(client, *chest_ct, text_report(StudyInstanceUID=study), plan)
    url = f"{url_of(chest_ct[0], level='study')}/rendered"
    answer = client.get(url, headers=parts("image/png"))
    assert answer.status_code == 206
    assert answer.headers["warning"].startswith('299 readingroom "2 of 7 instances')
    assert len(parts_of(answer)) == 5


def test_a_frame_that_cannot_be_decoded_costs_its_part_alone(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    bad = compressed(chest_ct[2], JPEGLSLossless, lambda frame: jpeg_ls(frame)[:40])
    keep(client, *chest_ct[:2], bad, *chest_ct[3:])
    url = f"{url_of(chest_ct[0], level='series')}/rendered"
    answer = client.get(url, headers=parts("image/png"))
    assert answer.status_code == 206
    assert "1 of 5 instances" in answer.headers["warning"]
    assert "cannot be decoded" in answer.headers["warning"]
    assert len(parts_of(answer)) == 4
    assert client.get(f"{url_of(bad)}/rendered", headers=parts("image/png")).status_code == 406
    assert client.head(url, headers=parts("image/png")).status_code == 200


def test_two_warnings_are_two(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    keep(client, chest_ct[0], text_report(StudyInstanceUID=chest_ct[0].StudyInstanceUID))
    url = f"{url_of(chest_ct[0], level='study')}/rendered?annotation=barcode"
    warnings = client.get(url, headers=parts("image/png")).headers.get_list("warning")
    assert len(warnings) == 2


def test_the_validator_moves_with_all_that_the_picture_depends_on(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    state, other = with_window(state_for(chest_ct[0]), 1, 2), with_window(state_for(chest_ct[0]), 5, 9)
    keep(client, chest_ct[0], state, other)
    url = f"{url_of(chest_ct[0])}/rendered"
    urls = [
        url,
        f"{url}?annotation=patient",
        f"{url}?annotation=patient,technique",
        f"{url}?iccprofile=srgb",
        f"{url}?quality=50",
        by_name(chest_ct[0], state),
        by_name(chest_ct[0], other),
    ]
    tags = [client.get(each, headers={"Accept": "image/jpeg"}).headers["etag"] for each in urls]
    assert len(set(tags)) == len(urls)
    same = client.get(f"{url}?annotation=technique,patient", headers={"Accept": "image/jpeg"}).headers["etag"]
    assert same == tags[2]
