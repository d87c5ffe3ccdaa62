"""One frame as a picture: the whole of the pipeline, in the order of PS3.4 N.2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from readingroom.errors import NotAcceptable
from server.rendering.captions import with_captions
from server.rendering.colour import in_rgb, labelled, through_palette, with_supplement
from server.rendering.grayscale import Grayscale, Picture, extent_of, grayscale_of, shaded
from server.rendering.item import Item
from server.rendering.lettering import Lettering
from server.rendering.look import Look, Window
from server.rendering.marks import Ground, with_marks, with_plane
from server.rendering.overlays import GROUPS, plane_of
from server.rendering.placing import Area, Placed, Placing, fitted, shown_area
from server.rendering.shutters import covered
from server.rendering.state import Applied, apply
from storage.arrays import ArraySpec
from storage.icc import Space, profile_of

Convert = Callable[[NDArray[np.uint8], bytes, Space], NDArray[np.uint8]]
"""`storage.icc.converted`, or what calls it elsewhere."""

_MAX_PROFILE_BYTES = 8 << 20
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A decoded frame, and what its data set says.

    Attributes
    ----------
    values, spec, photometric
        What `storage.pixels` made of the bitstream.
    embedded
        The native pixels with all their bits, where overlays lie in those above Bits Stored.
    extent
        The lowest and highest stored value of all frames that are shown one after the other.
    """

    values: NDArray[Any]
    spec: ArraySpec
    photometric: str
    dataset: Item
    instance_uid: str
    number: int
    embedded: NDArray[Any] | None = None
    extent: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, gray (``L``) or ``RGB``, and the ICC profile to embed."""

    image: Image.Image
    profile: bytes | None


def draw(frame: Frame, look: Look, state: Item | None, lettering: Lettering, convert: Convert) -> Drawn:
    """A frame as a picture.

    Parameters
    ----------
    state
        The presentation state to apply; `look` then has no window and no region.

    Raises
    ------
    Invalid
        The viewport's region lies outside of the image.
    NotAcceptable
        The image cannot be shown: of unknown colors, or with broken tables.
    TooLarge
        The picture would be larger than is made.
    """
    applied = apply(state, frame.dataset, frame.instance_uid, frame.number) if state else None
    gray = applied.gray if applied else None
    if gray is None and is_gray(frame):
        gray = grayscale_of(frame.dataset, frame.number, frame.photometric, look.window)
        gray = replace(gray, extent=frame.extent)
    picture = covered(_pixels(frame, gray), state or frame.dataset)
    image, profile = _with_profile(picture, look, state or frame.dataset, frame.dataset, convert)
    rows, columns = picture.shape[:2]
    area, placed = _placed(columns, rows, applied, look)
    image = placed.placing.image(image)
    ground = Ground(
        rows=rows,
        columns=columns,
        placing=placed.placing,
        area=(area.width, area.height),
        fitting=Placing(placed.placing.steps[len(area.placing.steps) :]),
    )
    if not look.is_anonymous:
        image = _with_all_marks(image, ground, frame, applied, look, lettering)
        window = gray.voi if gray and isinstance(gray.voi, Window) else None
        image = with_captions(image, frame.dataset, frame.number, window, look.annotations, lettering)
    return Drawn(image, profile)


def is_gray(frame: Frame) -> bool:
    """Whether its stored values are shades."""
    return frame.spec.samples == 1 and frame.photometric != "PALETTE COLOR"


def own_extent(frame: Frame, look: Look) -> tuple[float, float] | None:
    """The lowest and highest value that a frame is stretched between; None where a window or table says how.

    Frames that follow each other are stretched alike, or they would flicker.
    """
    if not is_gray(frame):
        return None
    gray = grayscale_of(frame.dataset, frame.number, frame.photometric, look.window)
    return extent_of(frame.values, frame.spec, gray) if gray.voi is None else None


def _pixels(frame: Frame, gray: Grayscale | None) -> Picture:
    if frame.spec.samples == 3:
        return in_rgb(frame.values, frame.spec, frame.photometric)
    if frame.spec.samples != 1:
        raise NotAcceptable(f"An image of {frame.spec.samples} samples a pixel ({frame.photometric}) is not rendered.")
    if frame.photometric == "PALETTE COLOR":
        return through_palette(frame.values, frame.dataset)
    if frame.dataset.text("SOPClassUID") == _LABEL_MAP:
        return labelled(frame.values, frame.dataset)
    assert gray is not None
    shades = shaded(frame.values, frame.spec, gray)
    is_supplemented = shades.ndim == 2 and frame.dataset.text("PixelPresentation") in ("COLOR", "MIXED")
    return with_supplement(shades, frame.values, frame.dataset) if is_supplemented else shades


def _placed(width: int, height: int, applied: Applied | None, look: Look) -> tuple[Placed, Placed]:
    """The displayed area in its own size, and in the viewport."""
    whole = Area(left=0, top=0, right=width, bottom=height)
    area = shown_area(width, height, (applied.area if applied else None) or whole)
    return area, fitted(area, look.viewport, is_cut=bool(applied and applied.is_magnified))


def _with_profile(
    picture: Picture, look: Look, first: Item, second: Item, convert: Convert
) -> tuple[Image.Image, bytes | None]:
    """The picture in the color space that was asked for, and its profile (PS3.18 8.3.5.1.5)."""
    if look.icc is None or look.icc == "no":
        return Image.fromarray(picture), None
    own = _own_profile(first) or _own_profile(second) if picture.ndim == 3 else b""
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)
    if look.icc == "yes":
        return Image.fromarray(colours), own or profile_of("srgb")
    return Image.fromarray(convert(colours, own, look.icc)), profile_of(look.icc)


def _own_profile(dataset: Item) -> bytes:
    """The profile that colors come with (PS3.3 C.11.15), also of the first optical path (C.8.12.5)."""
    profile = dataset.binary("ICCProfile")
    if not profile and (path := dataset.item("OpticalPathSequence")):
        profile = path.binary("ICCProfile")
    if len(profile) > _MAX_PROFILE_BYTES:
        raise NotAcceptable(f"An ICC profile of {len(profile)} bytes is past the limit of {_MAX_PROFILE_BYTES}.")
    return profile


def _with_all_marks(
    image: Image.Image, ground: Ground, frame: Frame, applied: Applied | None, look: Look, lettering: Lettering
) -> Image.Image:
    if applied:
        planes = []
        for group in GROUPS:
            # The state says in which layer a group is drawn, be the group its own or the image's (PS3.3 C.11.7).
            plane = plane_of(applied.state, group, frame.number) or plane_of(
                frame.dataset, group, frame.number, frame.embedded
            )
            if plane and (layer := applied.state.text(f"{group:04X}1001")):
                planes.append(replace(plane, layer=layer))
        return with_marks(image, ground, applied.layers, planes, applied.annotations, lettering)
    if "overlay" in look.annotations:
        colour = 255 if image.mode == "L" else (255, 255, 255)
        for group in GROUPS:
            if plane := plane_of(frame.dataset, group, frame.number, frame.embedded):
                image = with_plane(image, ground, plane, colour)
    return image
