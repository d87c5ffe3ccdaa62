"""Regions, turns and scales: images and points go the same way (PS3.3 C.10.4, C.10.6; PS3.18 8.3.5.1.3)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from readingroom.errors import NotAcceptable, TooLarge
from server.rendering.look import Viewport
from server.rendering.placing import Area, Placed, fitted, shown_area

WIDTH, HEIGHT = 12, 8


def placed(area: Area, viewport: Viewport | None = None) -> Placed:
    return fitted(shown_area(WIDTH, HEIGHT, area), viewport)


def area(**changes: int | float | bool) -> Area:
    return Area(**({"left": 0, "top": 0, "right": WIDTH, "bottom": HEIGHT} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("corners", [{}, {"left": 2, "top": 1, "right": 9, "bottom": 7}, {"left": -3, "bottom": 11}])
@pytest.mark.parametrize(
    "viewport",
    [
        None,
        Viewport(width=96, height=96),
        Viewport(width=60, height=96, left=1, top=1, is_mirrored=True),
        Viewport(width=80, height=80, region_width=7, region_height=7, is_upside_down=True),
    ],
)
@pytest.mark.parametrize("pixel_aspect", [1.0, 2.0])
def test_a_point_is_where_its_pixel_is(
    rotation: int, is_mirrored: bool, corners: dict[str, int], viewport: Viewport | None, pixel_aspect: float
) -> None:
    found = placed(area(rotation=rotation, is_mirrored=is_mirrored, pixel_aspect=pixel_aspect, **corners), viewport)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[3, 4] = 255
    picture = found.placing.image(Image.fromarray(pixels), resampling=Image.Resampling.NEAREST)
    assert picture.size == (found.width, found.height)
    corners_there = found.placing.points(np.array([[4.0, 3.0], [5.0, 4.0]]))
    first, last = (np.clip(edge, 0, picture.size) for edge in (corners_there.min(axis=0), corners_there.max(axis=0)))
    bright = np.argwhere(np.asarray(picture) == 255)[:, ::-1]
    if len(bright):
        assert np.abs(bright.min(axis=0) - first).max() <= 1
        assert np.abs(bright.max(axis=0) + 1 - last).max() <= 1
    else:
        assert (last - first).min() < 1


def test_a_turn_is_clockwise_and_mirroring_comes_after_it() -> None:
    """PS3.3 C.10.6."""
    quadrants = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8))

    def shown(**changes: int | bool) -> list[list[int]]:
        whole = Area(left=0, top=0, right=2, bottom=2, **changes)  # type: ignore[arg-type]
        pixels: list[list[int]] = np.asarray(shown_area(2, 2, whole).placing.image(quadrants)).tolist()
        return pixels

    assert shown(rotation=90) == [[3, 1], [4, 2]]
    assert shown(rotation=180) == [[4, 3], [2, 1]]
    assert shown(rotation=270) == [[2, 4], [1, 3]]
    assert shown(is_mirrored=True) == [[2, 1], [4, 3]]
    assert shown(rotation=90, is_mirrored=True) == [[1, 3], [2, 4]]


def test_what_lies_outside_of_the_image_is_black() -> None:
    """PS3.3 C.10.4: the area may be larger than the image."""
    found = placed(area(left=-2, top=-1, right=WIDTH + 1, bottom=HEIGHT + 3))
    picture = np.asarray(found.placing.image(Image.new("L", (WIDTH, HEIGHT), 200)))
    assert picture.shape == (HEIGHT + 4, WIDTH + 3)
    assert (picture == 200).sum() == WIDTH * HEIGHT
    assert picture[1, 2] == 200


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (12, 16)), (0.5, (24, 8)), (1.0, (12, 8))])
def test_pixels_that_are_no_squares_are_made_so_without_losing_any(aspect: float, size: tuple[int, int]) -> None:
    """PS3.3 C.10.4: Presentation Pixel Spacing or Aspect Ratio."""
    found = placed(area(pixel_aspect=aspect))
    assert (found.width, found.height) == size


@pytest.mark.parametrize(("changes"), [{"right": 0}, {"rotation": 45}, {"pixel_aspect": 1e9}])
def test_an_area_that_is_none_is_refused(changes: dict[str, int | float]) -> None:
    with pytest.raises(NotAcceptable):
        placed(area(**changes))


@pytest.mark.parametrize("changes", [{"right": 1 << 30}, {"magnification": 1e6}, {"left": -(1 << 31)}])
def test_an_area_without_measure_is_too_large(changes: dict[str, int | float]) -> None:
    with pytest.raises(TooLarge):
        placed(area(**changes))
