"""A reader opens the demo CT in OHIF: what is on the screen is what was stored.

The pictures are compared with the phantom's known densities and slice numbers, read off screenshots of the page; the
viewer's own state is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

import httpx
import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from server import demo
from tests.multipart import parts_of
from tests.servers import Live
from tests.synthetic import part10, pdf_document
from tests.walks.screen import (
    PATIENCE_SECONDS,
    Pane,
    centre_of,
    expect,
    expect_grey,
    expect_number,
    grey_of,
    open_study,
    store,
)

pytestmark = pytest.mark.browser

SLICES = 24


@pytest.fixture(scope="module")
def ct(live: Live) -> str:
    """Study UID of the demo CT in the archive."""
    return store(live, list(demo.made_ct(SLICES)))


def test_the_study_list_shows_the_demo_ct_and_opens_it(page: Page, live: Live, ct: str) -> None:
    page.goto(f"{live.base}/")
    row = page.get_by_role("row").filter(has_text="Phantom, Henrik").filter(has_text=f"{SLICES}")
    row.wait_for(timeout=PATIENCE_SECONDS * 1000)
    assert page.url == f"{live.base}/ohif/"
    assert "CT HEAD WITHOUT CONTRAST" in row.inner_text()
    assert "29-Feb-2024" in row.inner_text()
    row.dblclick()
    expect_number(Pane(page=page), SLICES)
    assert ct in page.url


def test_a_name_is_found_whatever_its_case(page: Page, live: Live, ct: str) -> None:
    page.goto(f"{live.base}/ohif/")
    row = page.get_by_role("row").filter(has_text="Phantom, Henrik").filter(has_text=f"{SLICES}")
    row.wait_for(timeout=PATIENCE_SECONDS * 1000)
    name = page.locator("table input, [role=table] input, input").first
    name.fill("nobody")
    row.wait_for(state="detached", timeout=PATIENCE_SECONDS * 1000)
    name.fill("pHANTOM")
    row.wait_for(timeout=PATIENCE_SECONDS * 1000)


def test_the_pixels_on_the_screen_are_those_of_the_phantom(page: Page, live: Live, ct: str) -> None:
    open_study(page, live, ct)
    pane = Pane(page=page)
    expect_number(pane, SLICES)
    for rod in demo.RODS:
        expect_grey(pane, *centre_of(rod), rod.hounsfield)
    expect_grey(pane, -110, 110, demo.AIR_HU)


def test_scrolling_shows_the_next_slices_and_left_is_left(page: Page, live: Live, ct: str) -> None:
    open_study(page, live, ct)
    pane = Pane(page=page)
    for number in range(SLICES, 13, -1):  # the viewer begins at the vertex
        expect_number(pane, number)
        pane.scroll()
    expect_number(pane, 13)
    expect_grey(pane, 44, 12, 68)  # the bleeding is on the patient's left, which is on the right of the screen
    expect_grey(pane, -44, 12, 27)


def test_mpr_cuts_the_volume_in_three_planes(page: Page, live: Live, ct: str) -> None:
    open_study(page, live, ct, hangingprotocolId="mpr")
    page.locator("canvas").nth(2).wait_for(timeout=PATIENCE_SECONDS * 1000)
    assert page.locator("canvas").count() == 3
    thickness_mm = demo.HEIGHT_MM / SLICES
    middle_mm = demo.LOWEST_MM + thickness_mm * (SLICES - 1) / 2
    axial, sagittal, coronal = (Pane(page=page, index=index) for index in range(3))
    # Cut front to back through the third rods, which become bars from top to bottom; the rest is air.
    right, left = (rod for rod in demo.RODS if rod.row == 256)
    for rod in (right, left):
        for z_mm in (demo.LOWEST_MM + 10, 0, demo.LOWEST_MM + demo.HEIGHT_MM - 20):
            expect_grey(coronal, centre_of(rod)[0], middle_mm - z_mm, rod.hounsfield)
    expect_grey(coronal, 98, 0, demo.AIR_HU)
    # The plane between the hemispheres: the fissure's fluid, and the calcified pineal gland in it.
    expect_grey(sagittal, -30, 0, 12, around=12)
    expect_grey(sagittal, 60, 0, 12, around=12)
    assert sagittal.grey(14, middle_mm + 0.75, around=1) > grey_of(80)
    expect(axial.number, lambda seen: seen in ("012", "013"), "the middle slice")


def test_a_length_measured_on_the_screen_is_stored_as_a_structured_report(page: Page, live: Live) -> None:
    study_uid = store(live, list(demo.made_ct(3)))
    open_study(page, live, study_uid)
    pane = Pane(page=page)
    expect_number(pane, 3)
    pane.scroll()
    expect_number(pane, 2)
    page.locator("[data-cy=Length]").click()
    left, top, width, height = pane.box()
    begin, end = (left + width / 2 - 60, top + height / 2), (left + width / 2 + 60, top + height / 2)
    page.mouse.move(*begin)
    page.mouse.down()
    page.mouse.move(*end, steps=10)
    page.mouse.up()
    page.locator("[data-cy=prompt-begin-tracking-yes-btn]").click()
    page.locator("[data-cy=trackedMeasurements-btn]").click()
    page.get_by_role("button", name="Create SR").click()
    page.locator("[data-cy=dialog-input]").fill("Width of the head")
    with page.expect_response(lambda answer: answer.request.method == "POST") as stored:
        page.locator("[data-cy=input-dialog-save-button]").click()
    assert stored.value.status == 200

    search = httpx.get(f"{live.dicomweb}/studies/{study_uid}/instances", params={"Modality": "SR"}, timeout=30)
    (row,) = search.json()
    series_uid, instance_uid = row["0020000E"]["Value"][0], row["00080018"]["Value"][0]
    address = f"{live.dicomweb}/studies/{study_uid}/series/{series_uid}/instances/{instance_uid}"
    answer = httpx.get(address, headers={"Accept": 'multipart/related; type="application/dicom"'}, timeout=30)
    report = dcmread(BytesIO(parts_of(answer)[0][1]))
    assert report.SeriesDescription == "Width of the head"
    (length,) = [item for item in items_of(report) if "MeasuredValueSequence" in item]
    millimetres = 120 * demo.SIDE * demo.SPACING_MM / height
    assert float(length.MeasuredValueSequence[0].NumericValue) == pytest.approx(millimetres, abs=0.5)
    measured_on = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in items_of(report)
        if "ReferencedSOPSequence" in item
    }
    assert measured_on == {demo.made_uid(3, "image", 2)}

    open_study(page, live, study_uid)
    page.locator("[data-cy=series-modality-label]").get_by_text("SR", exact=True).wait_for()


def items_of(content: Dataset) -> Iterator[Dataset]:
    """Every content item of a structured report (PS3.3 C.17.3)."""
    for item in content.get("ContentSequence", []):
        yield item
        yield from items_of(item)


def rle_frame(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A frame of 16 bits in RLE (PS3.5 G)."""
    rows, columns = pixels.shape
    return RLELosslessEncoder.encode(
        pixels.tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=12,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


@pytest.mark.parametrize(
    ("transfer_syntax", "compress"),
    [
        ("1.2.840.10008.1.2.5", rle_frame),
        ("1.2.840.10008.1.2.4.57", lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12)),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        ("1.2.840.10008.1.2.4.90", lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=0)),
        ("1.2.840.10008.1.2.4.201", imagecodecs.htj2k_encode),
    ],
    ids=["RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K"],
)
def test_compressed_frames_are_decoded_under_the_page_s_policy(
    page: Page, live: Live, transfer_syntax: str, compress: Callable[[npt.NDArray[np.uint16]], bytes]
) -> None:
    image = dcmread(BytesIO(demo.made_slice(2, 4)))
    image.PixelData = encapsulate([bytes(compress(image.pixel_array))])
    image.file_meta.TransferSyntaxUID = transfer_syntax
    image["PixelData"].VR = "OB"
    image.StudyInstanceUID = demo.made_uid(transfer_syntax, "study")
    image.SeriesInstanceUID = demo.made_uid(transfer_syntax, "series")
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = demo.made_uid(transfer_syntax)
    open_study(page, live, store(live, [part10(image)]))
    pane = Pane(page=page)
    expect_number(pane, 2)
    for rod in demo.RODS:
        expect_grey(pane, *centre_of(rod), rod.hounsfield)


def test_a_pdf_is_shown_under_the_page_s_policy(page: Page, live: Live) -> None:
    document = BytesIO()
    Image.new("RGB", (600, 800), "red").save(document, "PDF")
    study_uid = store(live, [part10(pdf_document(document.getvalue()))])
    page.goto(f"{live.base}/ohif/viewer?StudyInstanceUIDs={study_uid}")

    def red_part() -> float:
        picture = np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB")).astype(int)
        return float(((picture[..., 0] > 240) & (picture[..., 1:] < 16).all(axis=-1)).mean())

    expect(red_part, lambda seen: seen > 0.2, "the red page")
