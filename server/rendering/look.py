"""How an image is to be shown: all that a request may ask for, by whichever service it came (PS3.18 8.3.5, 9.5.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Function = Literal["linear", "linear-exact", "sigmoid"]
IccProfile = Literal["no", "yes", "srgb", "adobergb", "rommrgb"]
Annotation = Literal["patient", "technique", "overlay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over the values after the Modality LUT (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: Function = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewport:
    """What the picture is fitted into, and the region of the image that it shows (PS3.18 8.3.5.1.3).

    `width` and `height` are pixels of the picture, the others pixels of the image; None for up to the edge.
    """

    width: int
    height: int
    left: float = 0.0
    top: float = 0.0
    region_width: float | None = None
    region_height: float | None = None
    is_mirrored: bool = False
    is_upside_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How an image is to be shown.

    Attributes
    ----------
    quality
        1 to 100; None for the service's choice (PS3.18 8.3.5.1.2).
    annotations
        What is burned in: ``patient`` and ``technique`` (PS3.18 8.3.5.1.1), and our own ``overlay`` for the overlay
        planes of the image (PS3.3 C.9).
    icc
        None where nothing was said: then the picture has no profile and its colours are as they were.
    is_anonymous
        Nothing is drawn that could name the patient: neither annotations nor the marks of a presentation state.
    """

    window: Window | None = None
    viewport: Viewport | None = None
    quality: int | None = None
    annotations: tuple[Annotation, ...] = ()
    icc: IccProfile | None = None
    is_anonymous: bool = False


def is_valid_width(width: float, function: Function) -> bool:
    """Whether a window may be that wide (PS3.3 C.11.2.1.2: at least 1 if linear, else more than 0)."""
    return width >= 1 if function == "linear" else width > 0
