"""What is drawn over an image: overlays, lines, texts, shutters, captions (PS3.3 C.7.6.11, C.9, C.10.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from server.rendering.cielab import rgb_of
from server.rendering.lettering import Lettering
from server.rendering.look import Look, Viewport
from tests.rendering import drawn, image_of, pixels

BLACK = np.zeros((100, 120), np.uint8)
RED = (35579, 53664, 50857)
"""L 54.29, a 80.81, b 69.89 relative to D50: the red of sRGB."""


def state_of(**attributes: Any) -> Dataset:
    """A presentation state with one white layer, A."""
    state, layer = Dataset(), Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = "A", 1
    state.GraphicLayerSequence = [layer]
    for keyword, value in attributes.items():
        setattr(state, keyword, value)
    return state


def annotated(
    *, graphics: list[Dataset] | None = None, texts: list[Dataset] | None = None, layer: str = "A"
) -> Dataset:
    annotation = Dataset()
    annotation.GraphicLayer = layer
    if graphics:
        annotation.GraphicObjectSequence = graphics
    if texts:
        annotation.TextObjectSequence = texts
    return annotation


def graphic(kind: str, data: list[float], *, units: str = "PIXEL", filled: str = "N") -> Dataset:
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicDimensions, item.GraphicType = units, 2, kind
    item.GraphicData, item.NumberOfGraphicPoints, item.GraphicFilled = data, len(data) // 2, filled
    return item


def text(words: str, **attributes: Any) -> Dataset:
    item = Dataset()
    item.UnformattedTextValue = words
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def shown(state: Dataset, values: np.ndarray[Any, Any] = BLACK, **rest: Any) -> np.ndarray[Any, Any]:
    return pixels(drawn(values, state=state, **rest))


def box_of(picture: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is bright."""
    y, x = np.nonzero(picture > 127)
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


@pytest.mark.parametrize(
    ("kind", "data", "box"),
    [
        ("POLYLINE", [10, 20, 50, 20, 50, 60], (10, 20, 50, 60)),
        ("CIRCLE", [60, 50, 60, 80], (30, 20, 90, 80)),
        ("ELLIPSE", [20, 50, 100, 50, 60, 30, 60, 70], (20, 30, 100, 70)),
        ("INTERPOLATED", [10, 10, 50, 40, 90, 10], (10, 10, 90, 40)),
        ("POINT", [70, 30], (68, 28, 72, 32)),
    ],
)
def test_a_graphic_is_drawn_where_its_points_are(kind: str, data: list[float], box: tuple[int, ...]) -> None:
    """PS3.3 C.10.5.1.2: pixels are counted from the corner of the image."""
    state = state_of(GraphicAnnotationSequence=[annotated(graphics=[graphic(kind, data)])])
    assert np.abs(np.subtract(box_of(shown(state)), box)).max() <= 1


def test_an_ellipse_may_lie_askew() -> None:
    """PS3.3 C.10.5.1.2: the end points of the major axis, then those of the minor."""
    state = state_of(
        GraphicAnnotationSequence=[
            annotated(graphics=[graphic("ELLIPSE", [30, 30, 70, 70, 55, 45, 45, 55], filled="Y")])
        ]
    )
    picture = shown(state)
    assert picture[40, 40] == picture[60, 60] == 255
    assert picture[40, 60] == picture[60, 40] == 0


def test_what_is_filled_is_filled() -> None:
    for filled, inside in (("Y", 255), ("N", 0)):
        state = state_of(
            GraphicAnnotationSequence=[annotated(graphics=[graphic("CIRCLE", [50, 50, 50, 70], filled=filled)])]
        )
        assert shown(state)[50, 50] == inside


@pytest.mark.parametrize("viewport", [None, Viewport(width=240, height=200)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["N", "Y"])
def test_graphics_turn_with_the_image_and_what_is_displayed_stays(
    viewport: Viewport | None, rotation: int, flip: str
) -> None:
    """PS3.3 C.10.5.1.1: PIXEL is of the image, DISPLAY of the area as it is seen."""
    values = BLACK.copy()
    values[20:30, 10:20] = 100
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [120, 100]
    area.PresentationSizeMode = "SCALE TO FIT"
    state = state_of(
        DisplayedAreaSelectionSequence=[area],
        ImageRotation=rotation,
        ImageHorizontalFlip=flip,
        GraphicAnnotationSequence=[
            annotated(
                graphics=[
                    graphic("POLYLINE", [11, 21, 19, 21, 19, 29, 11, 29, 11, 21], filled="Y"),
                    graphic("POLYLINE", [0.9, 0.9, 1, 0.9, 1, 1, 0.9, 1, 0.9, 0.9], units="DISPLAY", filled="Y"),
                ]
            )
        ],
    )
    picture = shown(state, values, look=Look(viewport=viewport)).copy()
    rows, columns = picture.shape
    assert picture[-2, -2] == 255, "what is displayed in the corner stays there"
    picture[int(rows * 0.88) :, int(columns * 0.88) :] = 0
    left, top, right, bottom = box_of(picture)
    gray = np.argwhere((picture > 60) & (picture < 140))
    (gray_top, gray_left), (gray_bottom, gray_right) = gray.min(axis=0), gray.max(axis=0)
    assert gray_left <= left <= right <= gray_right
    assert gray_top <= top <= bottom <= gray_bottom


def test_layers_are_drawn_in_their_order_in_their_shades() -> None:
    """PS3.3 C.10.7: the lowest first."""
    layers = []
    for name, order, gray in (("TOP", 2, 0x4000), ("LOW", 1, 0xFFFF), ("NONE", 3, 0x8000)):
        layer = Dataset()
        layer.GraphicLayer, layer.GraphicLayerOrder = name, order
        layer.GraphicLayerRecommendedDisplayGrayscaleValue = gray
        layers.append(layer)
    state = state_of(
        GraphicLayerSequence=layers,
        GraphicAnnotationSequence=[
            annotated(graphics=[graphic("CIRCLE", [50, 50, 50, 60], filled="Y")], layer="TOP"),
            annotated(graphics=[graphic("CIRCLE", [50, 50, 50, 80], filled="Y")], layer="LOW"),
            annotated(graphics=[graphic("CIRCLE", [50, 50, 50, 99], filled="Y")], layer="UNKNOWN"),
        ],
    )
    picture = shown(state)
    assert (picture[50, 50], picture[50, 75], picture[50, 95]) == (0x40, 255, 0)


def test_a_colored_layer_makes_a_colored_picture() -> None:
    """PS3.3 C.10.7.1.1: CIELab in 16 bits."""
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = "A", 1
    layer.GraphicLayerRecommendedDisplayCIELabValue = list(RED)
    state = state_of(
        GraphicLayerSequence=[layer],
        GraphicAnnotationSequence=[annotated(graphics=[graphic("CIRCLE", [50, 50, 50, 60], filled="Y")])],
    )
    picture = shown(state)
    assert picture.shape == (100, 120, 3)
    assert picture[50, 50].tolist() == list(rgb_of(RED))
    assert picture[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [
        ((0, 0x8080, 0x8080), (0, 0, 0)),
        ((65535, 0x8080, 0x8080), (255, 255, 255)),
        (RED, (255, 0, 0)),
        ((57553, 12523, 53711), (0, 255, 0)),  # L 87.82, a -79.27, b 80.99
        ((35117, 0x8080, 0x8080), (128, 128, 128)),  # L 53.585
    ],
)
def test_cielab_becomes_srgb(lab: tuple[int, int, int], rgb: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(rgb_of(lab), rgb)).max() <= 2


def test_text_stands_in_its_box_and_a_line_leads_to_its_anchor() -> None:
    """PS3.3 C.10.5.1.1."""
    boxed = text(
        "MM",
        BoundingBoxTopLeftHandCorner=[20, 10],
        BoundingBoxBottomRightHandCorner=[60, 30],
        BoundingBoxAnnotationUnits="PIXEL",
        AnchorPoint=[100, 90],
        AnchorPointAnnotationUnits="PIXEL",
        AnchorPointVisibility="N",
    )
    without = shown(state_of(GraphicAnnotationSequence=[annotated(texts=[boxed])]))
    left, top, right, bottom = box_of(without)
    assert 18 <= left < right <= 62
    assert 8 <= top < bottom <= 32
    boxed.AnchorPointVisibility = "Y"
    assert (
        np.abs(
            np.subtract(box_of(shown(state_of(GraphicAnnotationSequence=[annotated(texts=[boxed])])))[2:], (100, 90))
        ).max()
        <= 1
    )


def test_text_without_a_box_stands_at_its_anchor() -> None:
    state = state_of(
        GraphicAnnotationSequence=[
            annotated(texts=[text("M", AnchorPoint=[0.5, 0.5], AnchorPointAnnotationUnits="DISPLAY")])
        ]
    )
    left, top, _, _ = box_of(shown(state))
    assert 58 <= left <= 66
    assert 48 <= top <= 58


def test_nonsense_draws_nothing_and_breaks_nothing() -> None:
    state = state_of(
        GraphicAnnotationSequence=[
            annotated(
                graphics=[
                    graphic("POLYLINE", [1e30, 1e30, -1e30, 5]),
                    graphic("CIRCLE", [1, 2, 3]),
                    graphic("ELLIPSE", [1, 2, 3, 4]),
                    graphic("SPIRAL", [1, 2, 3, 4]),
                    graphic("INTERPOLATED", [1, 2]),
                ],
                texts=[text(""), text("x", AnchorPoint=[1])],
            )
        ]
    )
    assert shown(state).shape == BLACK.shape


# -- overlays --------------------------------------------------------------------------------------------------


def with_overlay(
    dataset: Dataset, bits: np.ndarray[Any, Any], *, group: int = 0x6000, origin: tuple[int, int] = (1, 1), **rest: Any
) -> Dataset:
    frames = bits if bits.ndim == 3 else bits[None]
    dataset.add_new((group, 0x0010), "US", frames.shape[1])
    dataset.add_new((group, 0x0011), "US", frames.shape[2])
    dataset.add_new((group, 0x0050), "SS", list(origin))
    if bits.ndim == 3:
        dataset.add_new((group, 0x0015), "IS", len(bits))
        dataset.add_new((group, 0x0051), "US", rest.get("first", 1))
    if "layer" in rest:
        dataset.add_new((group, 0x1001), "CS", rest["layer"])
    dataset.add_new((group, 0x3000), "OW", np.packbits(frames.ravel().astype(np.uint8), bitorder="little").tobytes())
    return dataset


OVERLAY = Look(annotations=("overlay",))
BITS = np.random.default_rng(6).integers(0, 2, (13, 17)).astype(bool)


def test_an_overlay_is_burned_in_where_it_is_asked_for() -> None:
    """PS3.3 C.9.2; PS3.18 8.3.5.1.1: without the parameter nothing is."""
    image = with_overlay(Dataset(), BITS, origin=(21, 31))
    assert not pixels(drawn(BLACK, image=image)).any()
    picture = pixels(drawn(BLACK, image=image, look=OVERLAY))
    assert np.array_equal(picture[20:33, 30:47] == 255, BITS)
    assert picture.sum() == 255 * BITS.sum()


@pytest.mark.parametrize("origin", [(-3, -4), (95, 110), (1, 400), (-32768, 1)])
def test_of_an_overlay_the_part_over_the_image_is_seen(origin: tuple[int, int]) -> None:
    """PS3.3 C.9.3.1.1: the origin may lie outside."""
    picture = pixels(drawn(BLACK, image=with_overlay(Dataset(), BITS, origin=origin), look=OVERLAY))
    expected = np.zeros((200, 600), bool)
    top, left = origin[0] + 49, origin[1] + 49
    if top >= 0:
        expected[top : top + 13, left : left + 17] = BITS
    assert np.array_equal(picture == 255, expected[50:150, 50:170])


def test_an_overlay_of_frames_has_a_plane_for_each() -> None:
    """PS3.3 C.9.3.1.2: bits of frames follow each other without a gap."""
    bits = np.random.default_rng(7).integers(0, 2, (3, 5, 7)).astype(bool)
    image = with_overlay(Dataset(), bits, first=2)
    for number, expected in ((1, None), (2, bits[0]), (3, bits[1]), (4, bits[2]), (5, None)):
        picture = pixels(drawn(BLACK, image=image, look=OVERLAY, number=number))
        assert np.array_equal(picture[:5, :7] == 255, np.zeros((5, 7), bool) if expected is None else expected)


def test_a_presentation_state_shows_the_overlays_that_it_has_a_layer_for() -> None:
    """PS3.3 C.11.7: its own, and those of the image."""
    image = with_overlay(with_overlay(Dataset(), BITS), BITS, group=0x6002, origin=(1, 51))
    state = with_overlay(state_of(), BITS, group=0x6004, origin=(51, 1), layer="A")
    state.add_new(0x60001001, "CS", "A")
    picture = pixels(drawn(BLACK, image=image, state=state))
    assert np.array_equal(picture[:13, :17] == 255, BITS)
    assert np.array_equal(picture[50:63, :17] == 255, BITS)
    assert not picture[:, 50:].any()


# -- shutters --------------------------------------------------------------------------------------------------

WHITE = np.full((10, 12), 255, np.uint8)


def shutter(shape: Any, **attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.ShutterShape = shape
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


RECTANGLE = {
    "ShutterLeftVerticalEdge": 3,
    "ShutterRightVerticalEdge": 5,
    "ShutterUpperHorizontalEdge": 2,
    "ShutterLowerHorizontalEdge": 4,
}


def test_a_rectangular_shutter_covers_all_but_its_rows_and_columns() -> None:
    """PS3.3 C.7.6.11: counted from 1."""
    picture = pixels(drawn(WHITE, image=shutter("RECTANGULAR", **RECTANGLE)))
    expected = np.zeros_like(WHITE)
    expected[1:4, 2:5] = 255
    assert np.array_equal(picture, expected)


def test_a_circular_shutter_covers_all_but_a_disc() -> None:
    picture = pixels(drawn(WHITE, image=shutter("CIRCULAR", CenterOfCircularShutter=[5, 6], RadiusOfCircularShutter=3)))
    y, x = np.mgrid[1:11, 1:13]
    assert np.array_equal(picture == 255, (y - 5) ** 2 + (x - 6) ** 2 <= 9)


def test_a_polygonal_shutter_covers_all_but_a_polygon() -> None:
    """Vertices are row and column."""
    picture = pixels(drawn(WHITE, image=shutter("POLYGONAL", VerticesOfThePolygonalShutter=[2, 3, 2, 9, 8, 9, 8, 3])))
    expected = np.zeros_like(WHITE)
    expected[1:8, 2:9] = 255
    assert np.array_equal(picture, expected)


def test_several_shutters_leave_what_all_leave_and_are_gray_as_they_say() -> None:
    image = shutter(
        ["RECTANGULAR", "CIRCULAR"],
        **RECTANGLE,
        CenterOfCircularShutter=[3, 4],
        RadiusOfCircularShutter=1,
        ShutterPresentationValue=0x8000,
    )
    picture = pixels(drawn(WHITE, image=image))
    assert (picture == 255).sum() == 5
    assert set(picture.ravel().tolist()) == {255, 0x80}


def test_a_bitmap_shutter_of_a_presentation_state_covers_with_its_overlay() -> None:
    """PS3.3 C.7.6.15: where the bitmap is set, the image is covered; the shutter of the image does not count."""
    bits = np.zeros(WHITE.shape, bool)
    bits[:, :4] = True
    state = with_overlay(shutter("BITMAP", ShutterOverlayGroup=0x6000, ShutterPresentationValue=0), bits)
    picture = pixels(drawn(WHITE, image=shutter("RECTANGULAR", **RECTANGLE), state=state))
    assert np.array_equal(picture == 255, ~bits)


@pytest.mark.parametrize("group", [0, 0x7FE0, 0x6001])
def test_a_shutter_whose_bitmap_is_none_covers_nothing(group: int) -> None:
    assert pixels(drawn(WHITE, image=shutter("BITMAP", ShutterOverlayGroup=group))).min() == 255


def test_a_shutter_may_be_colored() -> None:
    image = shutter("RECTANGULAR", **RECTANGLE, ShutterPresentationColorCIELabValue=list(RED))
    picture = pixels(drawn(WHITE, image=image))
    assert picture[0, 0].tolist() == list(rgb_of(RED))
    assert picture[2, 3].tolist() == [255, 255, 255]


# -- captions --------------------------------------------------------------------------------------------------


def captioned(*annotations: Any, look: Look | None = None, **attributes: Any) -> np.ndarray[Any, Any]:
    image = Dataset()
    image.PatientName, image.PatientID, image.Modality, image.SeriesNumber = "Phantom^Ada", "RR-1", "CT", 3
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return pixels(drawn(np.zeros((320, 320), np.uint8), image=image, look=look or Look(annotations=annotations)))


def test_the_patient_stands_above_and_the_technique_below() -> None:
    """PS3.18 8.3.5.1.1."""
    assert not captioned().any()
    patient, technique, both = captioned("patient"), captioned("technique"), captioned("patient", "technique")
    assert patient[:60].any()
    assert not patient[160:].any()
    assert technique[260:].any()
    assert not technique[:160].any()
    assert np.array_equal(both, np.maximum(patient, technique))


def test_another_patient_is_another_picture() -> None:
    assert not np.array_equal(captioned("patient"), captioned("patient", PatientName="Phantom^Eve"))
    assert not np.array_equal(captioned("patient"), captioned("patient", PatientBirthDate="19700101"))


def test_nothing_that_names_the_patient_is_in_an_anonymous_picture() -> None:
    """PS3.18 10.4.1.1.4."""
    assert not captioned(look=Look(annotations=("patient", "technique", "overlay"), is_anonymous=True)).any()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Müller", "Muller"),
        ("Łódź ß", "Lodz ss"),
        ("山田 Taro", "?? Taro"),
        ("a\x00\x1bb", "a  b"),
        ("é" * 500, "e" * 200),
    ],
)
def test_letters_that_the_font_has_not_are_written_as_others(text: str, written: str) -> None:
    plain, other = np.zeros((40, 300), np.uint8), np.zeros((40, 300), np.uint8)
    for pixels_, words in ((plain, written), (other, text)):
        image = image_of(pixels_)
        Lettering().write(image, (2, 2), words, 16, 255)
        pixels_[:] = np.asarray(image)
    assert plain.any()
    assert np.array_equal(plain, other)
