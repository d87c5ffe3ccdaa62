"""What stands on the screen of OHIF, read off screenshots of its page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Page
from pydicom import dcmread

from server import demo
from tests.multipart import content_type, encode
from tests.servers import Live

type Picture = npt.NDArray[np.uint8]
type Colour = tuple[int, int, int]
type Place = tuple[float, float]

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = (
    "--no-sandbox --headless --disable-gpu --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-quic"
)
WINDOW = {"width": 1280, "height": 900}
PATIENCE_SECONDS = 60.0
GREY_TOLERANCE = 4


def store(live: Live, objects: list[bytes]) -> str:
    """Store objects of one study over STOW-RS and say its UID."""
    answer = httpx.post(
        f"{live.dicomweb}/studies", content=encode(objects), headers={"Content-Type": content_type()}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return str(dcmread(BytesIO(objects[0]), stop_before_pixels=True).StudyInstanceUID)


def open_study(page: Page, live: Live, study_uid: str, **options: str) -> None:
    """Go to the viewer with one study."""
    query = "&".join(f"{name}={value}" for name, value in {"StudyInstanceUIDs": study_uid, **options}.items())
    page.goto(f"{live.base}/ohif/viewer?{query}")
    page.locator("canvas").first.wait_for(timeout=PATIENCE_SECONDS * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pane:
    """One viewport on the screen: an image of known extent, fitted to the pane and centred in it."""

    page: Page
    index: int = 0
    width_mm: float = demo.SIDE * demo.SPACING_MM
    height_mm: float = demo.SIDE * demo.SPACING_MM

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, width and height on the screen."""
        box = self.page.locator("canvas").nth(self.index).bounding_box()
        assert box is not None
        return box["x"], box["y"], box["width"], box["height"]

    def picture(self, mode: str = "L") -> Picture:
        """What the pane shows at this moment, in grey, or in the mode that Pillow calls so."""
        left, top, width, height = self.box()
        shot = self.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
        return np.asarray(Image.open(BytesIO(shot)).convert(mode))

    def place(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Column and row, in the pane, of a place given from the image's centre."""
        _, _, width, height = self.box()
        scale = min(width / self.width_mm, height / self.height_mm)
        return width / 2 + x_mm * scale, height / 2 + y_mm * scale

    def grey(self, x_mm: float, y_mm: float, *, around: int = 3) -> float:
        """The mean grey around a place."""
        column, row = (round(value) for value in self.place(x_mm, y_mm))
        return float(self.picture()[row - around : row + around + 1, column - around : column + around + 1].mean())

    def colours(self, places: Iterable[Place], *, around: int = 2) -> list[Colour]:
        """Red, green and blue of the least grey pixel around each place."""
        picture = self.picture("RGB")
        found = []
        for column, row in (self.place(*place) for place in places):
            rows, columns = (slice(round(at) - around, round(at) + around + 1) for at in (row, column))
            pixels = picture[rows, columns].reshape(-1, 3)
            red, green, blue = pixels[np.ptp(pixels.astype(int), axis=1).argmax()].tolist()
            found.append((red, green, blue))
        return found

    def number(self) -> str:
        """The slice number that stands in the image, read from its 3 x 5 cells."""
        picture = self.picture()
        shown = ""
        for left in range(3):
            digit = tuple(
                "".join(
                    "#" if picture[self.at(demo.NUMBER_LEFT, 4 * left + column, row)] > 127 else "."
                    for column in range(3)
                )
                for row in range(5)
            )
            shown += str(demo.DIGITS.index(digit)) if digit in demo.DIGITS else "?"
        return shown

    def at(self, origin: int, column: int, row: int) -> tuple[int, int]:
        """Row and column, in the pane, of the centre of one of the number's cells."""
        x = origin + (column + 0.5) * demo.DIGIT_CELL
        y = demo.NUMBER_TOP + (row + 0.5) * demo.DIGIT_CELL
        across, down = self.place(*((value - demo.SIDE / 2) * demo.SPACING_MM for value in (x, y)))
        return round(down), round(across)

    def scroll(self) -> None:
        """Turn the mouse wheel by one step over the pane."""
        left, top, width, height = self.box()
        self.page.mouse.move(left + width / 2, top + height / 2)
        self.page.mouse.wheel(0, 100)


def centre_of(rod: demo.Rod) -> tuple[float, float]:
    """Where a rod stands, from the image's centre."""
    half = (demo.SIDE - 1) / 2
    return (rod.column - half) * demo.SPACING_MM, (rod.row - half) * demo.SPACING_MM


def grey_of(hounsfield: float) -> float:
    """The grey that the image's own window gives a density (PS3.3 C.11.2.1.2)."""
    low = demo.WINDOW_CENTER - demo.WINDOW_WIDTH / 2
    return min(max((hounsfield - low) / demo.WINDOW_WIDTH, 0.0), 1.0) * 255


def expect[T](read: Callable[[], T], is_right: Callable[[T], bool], what: str) -> T:
    """Read from the screen until it is right; drawing takes its time."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_right(seen := read()):
        assert time.monotonic() < give_up, f"the screen shows {seen}, not {what}"
        time.sleep(0.1)
    return seen


def expect_number(pane: Pane, number: int) -> None:
    expect(pane.number, lambda seen: seen == f"{number:03}", f"slice {number:03}")


def expect_grey(pane: Pane, x_mm: float, y_mm: float, hounsfield: float, *, around: int = 3) -> None:
    grey = grey_of(hounsfield)
    expect(
        lambda: pane.grey(x_mm, y_mm, around=around),
        lambda seen: abs(seen - grey) <= GREY_TOLERANCE,
        f"the grey {grey:.0f} of {hounsfield} HU at {x_mm:.0f}, {y_mm:.0f} mm",
    )


def expect_colours(pane: Pane, rules: Mapping[Place, Callable[[Colour], bool]]) -> None:
    """Read the colours at several places until each is as its rule has it."""
    expect(
        lambda: pane.colours(rules),
        lambda seen: all(is_right(colour) for is_right, colour in zip(rules.values(), seen, strict=True)),
        f"what {', '.join(rule.__name__ for rule in rules.values())} say at {', '.join(map(str, rules))}",
    )
