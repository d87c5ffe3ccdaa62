"""A reader opens in OHIF what is more than a stack of grey slices: colours, movement, and what others drew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from server import demo
from tests.servers import Live
from tests.synthetic import part10
from tests.walks.screen import (
    GREY_TOLERANCE,
    PATIENCE_SECONDS,
    Colour,
    Pane,
    Place,
    centre_of,
    expect,
    expect_colours,
    expect_grey,
    expect_number,
    open_study,
    store,
)
from tests.walks.viewed import Box, enhanced_ct, palette_image, segmentation, slices_of, structure_set, ultrasound_cine

pytestmark = pytest.mark.browser

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50)]
UPPER, LOWER = demo.RODS[0], demo.RODS[4]  # on the left of the screen; on the right is the slider


@pytest.mark.parametrize(("entries", "bits"), [(256, 8), (256, 16), (65536, 16)])
def test_a_palette_gives_an_image_its_colours(page: Page, live: Live, entries: int, bits: int) -> None:
    open_study(page, live, store(live, [part10(palette_image(COLOURS, entries=entries, bits=bits))]))
    pane = Pane(page=page, width_mm=256, height_mm=256)
    expect_colours(pane, {(64 * index - 96, 0): is_near(colour) for index, colour in enumerate(COLOURS)})


def is_near(colour: Colour) -> Callable[[Colour], bool]:
    def is_near_to_it(seen: Colour) -> bool:
        return all(abs(one - other) <= GREY_TOLERANCE for one, other in zip(seen, colour, strict=True))

    return is_near_to_it


def test_the_frames_of_an_enhanced_ct_are_slices(page: Page, live: Live) -> None:
    open_study(page, live, store(live, [part10(enhanced_ct(7))]))
    pane = Pane(page=page)
    expect_number(pane, 1)
    for rod in demo.RODS:
        expect_grey(pane, *centre_of(rod), rod.hounsfield)
    for number in (2, 3, 4, 5):
        pane.scroll()
        expect_number(pane, number)
    expect_grey(pane, 44, 12, 68)  # the bleeding is on the patient's left, which is on the right of the screen
    expect_grey(pane, -44, 12, 27)


def test_the_frames_of_an_ultrasound_image_move(page: Page, live: Live) -> None:
    open_study(page, live, store(live, [part10(ultrasound_cine(5, frame_time_ms=200))]))
    pane = Pane(page=page)
    expect_number(pane, 1)
    pane.scroll()
    expect_number(pane, 2)
    expect_grey(pane, *centre_of(demo.RODS[4]), demo.RODS[4].hounsfield)
    page.locator("[data-cy=cine-player-play-pause]").click()
    told = page.locator("[data-cy=viewport-overlay-bottom-right]")
    seen: set[str] = set()

    def frames() -> int:
        seen.add(told.inner_text())
        return len(seen)

    expect(frames, lambda shown: shown == 5, "five frames, one after the other")


def box_around(rod: demo.Rod) -> Box:
    """What is drawn around a rod: a square that is 40 pixels wide."""
    return rod.column - 20, rod.row - 20, rod.column + 20, rod.row + 20


def beside(rod: demo.Rod, columns: float, rows: float) -> Place:
    """A place as far from the middle of a rod, given from the image's centre."""
    x_mm, y_mm = centre_of(rod)
    return x_mm + columns * demo.SPACING_MM, y_mm + rows * demo.SPACING_MM


def open_drawn(page: Page, live: Live, study_uid: str, modality: str) -> Pane:
    """Open a study and, over its images, the object that somebody drew; the list names what it holds."""
    open_study(page, live, study_uid)
    label = page.locator("[data-cy=series-modality-label]").get_by_text(modality, exact=True)
    label.dblclick(timeout=PATIENCE_SECONDS * 1000)
    page.get_by_role("button", name="Yes").click(timeout=PATIENCE_SECONDS * 1000)
    page.locator("[data-cy=panelSegmentation-btn]").click()
    for name in ("Upper rod", "Lower rod"):
        page.get_by_text(name, exact=True).wait_for()
    return Pane(page=page)


def is_red(colour: Colour) -> bool:
    return colour[0] > 100 > 5 * max(colour[1:])


def is_green(colour: Colour) -> bool:
    return colour[1] > 100 > 5 * max(colour[0], colour[2])


def is_grey(colour: Colour) -> bool:
    return max(colour) - min(colour) <= GREY_TOLERANCE


def test_a_segmentation_lies_over_its_slices(page: Page, live: Live) -> None:
    slices = slices_of(4)
    # Red and green of sRGB, in CIELab as PS3.3 C.10.7.1.1 writes it.
    drawn = [
        ("Upper rod", box_around(UPPER), (34890, 53485, 50171)),
        ("Lower rod", box_around(LOWER), (57497, 10728, 54230)),
    ]
    study_uid = store(live, [part10(one) for one in [*slices, segmentation(slices[1:3], drawn)]])
    pane = open_drawn(page, live, study_uid, "SEG")
    colours = {UPPER: is_red, LOWER: is_green}
    corners = [(columns, rows) for columns in (-16, 16) for rows in (-16, 16)]
    for number in (3, 2):  # it begins at the highest slice that something is drawn in
        expect_number(pane, number)
        inside = {beside(rod, *corner): colours[rod] for rod in colours for corner in corners}
        outside = {beside(rod, 0, rows): is_grey for rod in colours for rows in (-26, 26)}
        expect_colours(pane, inside | outside)
        pane.scroll()
    expect_number(pane, 1)
    expect_colours(pane, {beside(rod, *corner): is_grey for rod in colours for corner in corners})


def test_the_contours_of_a_structure_set_are_drawn_where_they_are(page: Page, live: Live) -> None:
    slices = slices_of(5)
    drawn = [("Upper rod", box_around(UPPER), (255, 0, 0)), ("Lower rod", box_around(LOWER), (0, 255, 0))]
    study_uid = store(live, [part10(one) for one in [*slices, structure_set(slices[1:3], drawn)]])
    pane = open_drawn(page, live, study_uid, "RTSTRUCT")
    colours = {UPPER: is_red, LOWER: is_green}
    edges = [(-20.5, 0), (19.5, 0), (0, -20.5), (0, 19.5)]
    for number in (3, 2):
        expect_number(pane, number)
        drawn_on = {beside(rod, *edge): colours[rod] for rod in colours for edge in edges}
        beside_it = {beside(rod, columns, 0): is_grey for rod in colours for columns in (-26, -16, 16)}
        expect_colours(pane, drawn_on | beside_it)
        pane.scroll()
    expect_number(pane, 1)
    expect_colours(pane, {beside(rod, *edge): is_grey for rod in colours for edge in edges})
