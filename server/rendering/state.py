"""Presentation states: what they say of the images that they name (PS3.3 A.33, C.10, C.11; PS3.4 N)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from readingroom.errors import NotAcceptable
from server.rendering.grayscale import Grayscale, modality_of, padding_of, voi_of
from server.rendering.item import Item
from server.rendering.placing import Area
from server.rendering.tables import palette_of, table_of

GRAYSCALE = "1.2.840.10008.5.1.4.1.1.11.1"
COLOR = "1.2.840.10008.5.1.4.1.1.11.2"
PSEUDO_COLOR = "1.2.840.10008.5.1.4.1.1.11.3"
RENDERED = frozenset({GRAYSCALE, COLOR, PSEUDO_COLOR})
"""The SOP classes of presentation states that are rendered; blending and volumetric ones are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image that a presentation state is for; no frames means all of them."""

    series_uid: str
    instance_uid: str
    frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A graphic layer: lower orders are drawn first (PS3.3 C.10.7).

    `gray` is 16-bit, `lab` is a PCS value (PS3.3 C.10.7.1.1); None where the state recommends none.
    """

    name: str
    order: int
    gray: int | None = None
    lab: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a presentation state says of one frame."""

    state: Item
    gray: Grayscale
    area: Area | None
    is_magnified: bool = False
    layers: tuple[Layer, ...] = ()
    annotations: list[Item] = field(default_factory=list)


def references(state: Item) -> list[Reference]:
    """The images that a presentation state names, in its order (PS3.3 C.11.11)."""
    return [
        Reference(
            series_uid=series.text("SeriesInstanceUID"),
            instance_uid=image.text("ReferencedSOPInstanceUID"),
            frames=tuple(int(number) for number in image.numbers("ReferencedFrameNumber") if number >= 1),
        )
        for series in state.items("ReferencedSeriesSequence")
        for image in series.items("ReferencedImageSequence")
    ]


def apply(state: Item, image: Item, instance_uid: str, number: int) -> Applied:
    """What a state says of frame `number` of an image.

    What the state leaves out is not there, whatever the image says of it (PS3.4 N.2): no Modality LUT means that
    values are as stored, no VOI LUT that the whole range is shown.

    Raises
    ------
    NotAcceptable
        It asks for what is not done here: masks, or areas and tables that are broken.
    """
    if "MaskSubtractionSequence" in state:
        raise NotAcceptable("A presentation state that subtracts masks (PS3.3 C.11.13) is not rendered.")
    voi = next(_for(state.items("SoftcopyVOILUTSequence"), instance_uid, number), None)
    table = state.item("PresentationLUTSequence")
    gray = Grayscale(
        modality=modality_of(state, state),
        voi=voi_of(voi, voi) if voi else None,
        presentation=table_of(table) if table else None,
        is_inverse=state.text("PresentationLUTShape") == "INVERSE",
        is_whole_range=True,
        padding=padding_of(image),
        palette=palette_of(state) if state.text("SOPClassUID") == PSEUDO_COLOR else None,
    )
    shown = next(_for(state.items("DisplayedAreaSelectionSequence"), instance_uid, number), None)
    return Applied(
        state=state,
        gray=gray,
        area=_area(state, shown, image) if shown else None,
        is_magnified=shown is not None and shown.text("PresentationSizeMode") == "MAGNIFY",
        layers=_layers(state),
        annotations=list(_for(state.items("GraphicAnnotationSequence"), instance_uid, number)),
    )


def _for(items: Iterable[Item], instance_uid: str, number: int) -> Iterator[Item]:
    """The items that are for a frame: those that name it, and those that name no image at all."""
    for item in items:
        images = item.items("ReferencedImageSequence")
        if not images or any(_names(image, instance_uid, number) for image in images):
            yield item


def _names(image: Item, instance_uid: str, number: int) -> bool:
    frames = image.numbers("ReferencedFrameNumber")
    return image.text("ReferencedSOPInstanceUID") == instance_uid and (not frames or number in frames)


def _area(state: Item, shown: Item, image: Item) -> Area:
    """The Displayed Area (PS3.3 C.10.4) with the Spatial Transformation (C.10.6).

    Its corners are pixels, counted from 1, of the image before it is turned; which of them is left and which is
    right depends on the turn.
    """
    first, last = shown.numbers("DisplayedAreaTopLeftHandCorner"), shown.numbers("DisplayedAreaBottomRightHandCorner")
    if len(first) != 2 or len(last) != 2:
        raise NotAcceptable("The displayed area of the presentation state has no two corners.")
    (left, right), (top, bottom) = (sorted((int(a), int(b))) for a, b in zip(first, last, strict=True))
    spacing, ratio = shown.numbers("PresentationPixelSpacing"), shown.numbers("PresentationPixelAspectRatio")
    heights = spacing if len(spacing) == 2 else ratio
    is_magnified = shown.text("PresentationSizeMode") == "MAGNIFY"
    magnification = shown.number("PresentationPixelMagnificationRatio") if is_magnified else None
    return Area(
        left=left - 1,
        top=top - 1,
        right=right,
        bottom=bottom,
        rotation=(state.whole("ImageRotation") or 0) % 360,
        is_mirrored=state.text("ImageHorizontalFlip") == "Y",
        pixel_aspect=heights[0] / heights[1] if len(heights) == 2 and all(value > 0 for value in heights) else 1.0,
        magnification=magnification,
    )


def _layers(state: Item) -> tuple[Layer, ...]:
    layers = []
    for item in state.items("GraphicLayerSequence"):
        lab = [int(value) for value in item.numbers("GraphicLayerRecommendedDisplayCIELabValue")]
        layers.append(
            Layer(
                name=item.text("GraphicLayer"),
                order=item.whole("GraphicLayerOrder") or 0,
                gray=item.whole("GraphicLayerRecommendedDisplayGrayscaleValue"),
                lab=(lab[0], lab[1], lab[2]) if len(lab) == 3 else None,
            )
        )
    return tuple(sorted(layers, key=lambda layer: layer.order))
