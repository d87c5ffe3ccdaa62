"""The rendering parameters of a query (PS3.18 8.3.5): read, checked, and made a `Look`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args
from urllib.parse import parse_qsl

from readingroom.errors import Invalid
from server.rendering.look import Annotation, Function, IccProfile, Look, Viewport, Window, is_valid_width
from server.rendering.placing import MAX_PIXELS, MAX_SIDE

THUMBNAIL = Look(viewport=Viewport(width=128, height=128), is_anonymous=True)
"""A thumbnail where nothing is said of its size; it shows nothing that could name the patient (PS3.18 10.4.1.1.4)."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_KEYWORDS = re.compile(r"[a-z]{1,20}(?: ?, ?[a-z]{1,20}){0,9}", re.ASCII)
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)
_FUNCTIONS: Mapping[str, Function] = {"linear": "linear", "linear-exact": "linear-exact", "sigmoid": "sigmoid"}
_ANNOTATIONS: frozenset[str] = frozenset(get_args(Annotation))
_PROFILES: frozenset[str] = frozenset(get_args(IccProfile))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a query asks for.

    Attributes
    ----------
    state
        Series and SOP Instance UID of a presentation state to apply, as PS3.18 9.5.1.2.7 names them in WADO-URI.
    unsupported
        Annotations that are valid keywords and none of ours.
    """

    look: Look
    state: tuple[str, str] | None = None
    unsupported: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """The text of the Warning header (PS3.18 8.3.5.1.1); empty where all is supported."""
        if not self.unsupported:
            return ""
        return f"The following annotation values are not supported: {','.join(self.unsupported)}"


def parse_rendering(query: bytes) -> Asked:
    """The parameters of a rendered resource; what is none of them is ignored.

    Raises
    ------
    Invalid
        A parameter is malformed, or not allowed beside another.
    """
    found = _parameters(query)
    annotations, unsupported = annotations_of(found.get("annotation"))
    look = Look(
        window=window_of(found["window"]) if "window" in found else None,
        viewport=viewport_of(found["viewport"]) if "viewport" in found else None,
        quality=quality_of(found["quality"]) if "quality" in found else None,
        annotations=annotations,
        icc=_icc(found["iccprofile"]) if "iccprofile" in found else None,
    )
    state = state_of(found)
    if state:
        check_for_state(look)
    return Asked(look=look, state=state, unsupported=unsupported)


def parse_thumbnail(query: bytes) -> Look:
    """The parameters of a thumbnail: the viewport alone, without a region (PS3.18 8.3.5.2)."""
    found = _parameters(query)
    if "viewport" not in found:
        return THUMBNAIL
    return Look(viewport=viewport_of(found["viewport"], has_region=False), is_anonymous=True)


def check_for_state(look: Look) -> None:
    """Refuse what a presentation state leaves no room for (PS3.18 8.3.5.1.3, 8.3.5.1.4).

    Raises
    ------
    Invalid
        There is a window, or a region in the viewport.
    """
    if look.window is not None:
        raise Invalid("window is not for a presentation state, which has its own (PS3.18 8.3.5.1.4).")
    view = look.viewport
    if view is not None and view != Viewport(width=view.width, height=view.height):
        raise Invalid("viewport is vw,vh alone for a presentation state (PS3.18 8.3.5.1.3).")


def viewport_of(text: str, *, has_region: bool = True) -> Viewport:
    """``vw,vh[,sx,sy,sw,sh]`` (PS3.18 8.3.5.1.3)."""
    wrong = Invalid(f"viewport={text[:60]!r} is not vw,vh{'[,sx,sy,sw,sh]' if has_region else ''} (PS3.18 8.3.5.1.3).")
    words = [word.strip() for word in text.split(",")]
    if len(words) not in range(2, 7 if has_region else 3):
        raise wrong
    if not all(word.isascii() and word.isdigit() and len(word) < 6 and int(word) for word in words[:2]):
        raise wrong
    width, height = map(int, words[:2])
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Invalid(f"A viewport of {width},{height} is past the limit of {MAX_SIDE} pixels a side.")
    if not all(is_number(word) for word in words[2:] if word):
        raise wrong
    left, top, region_width, region_height = (
        float(words[at]) if at < len(words) and words[at] else None for at in range(2, 6)
    )
    if region_width == 0 or region_height == 0:
        raise wrong
    return Viewport(
        width=width,
        height=height,
        left=abs(left or 0.0),
        top=abs(top or 0.0),
        region_width=abs(region_width) if region_width else None,
        region_height=abs(region_height) if region_height else None,
        is_mirrored=(region_width or 0) < 0,
        is_upside_down=(region_height or 0) < 0,
    )


def window_of(text: str) -> Window:
    """``center,width,function`` (PS3.18 8.3.5.1.4)."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(map(is_number, words[:2])) or words[2] not in _FUNCTIONS:
        raise Invalid(
            f"window={text[:60]!r} is not center,width,function with linear, linear-exact or sigmoid"
            " (PS3.18 8.3.5.1.4)."
        )
    window = Window(center=float(words[0]), width=float(words[1]), function=_FUNCTIONS[words[2]])
    if not is_valid_width(window.width, window.function):
        raise Invalid(f"A {window.function} window cannot be {words[1]} wide (PS3.3 C.11.2.1.2).")
    return window


def quality_of(text: str) -> int:
    """1 to 100 (PS3.18 8.3.5.1.2)."""
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 100):
        raise Invalid(f"quality={text[:20]!r} is no number from 1 to 100 (PS3.18 8.3.5.1.2).")
    return int(text)


def is_number(text: str) -> bool:
    """Whether it is a decimal number of sensible length."""
    return _NUMBER.fullmatch(text) is not None


def _parameters(query: bytes) -> dict[str, str]:
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def annotations_of(text: str | None) -> tuple[tuple[Annotation, ...], tuple[str, ...]]:
    """The keywords of what is to be burned in, and those that are none of ours (PS3.18 8.3.5.1.1)."""
    if text is None:
        return (), ()
    if not _KEYWORDS.fullmatch(text):
        raise Invalid(f"annotation={text[:60]!r} is no list of keywords such as patient,technique (PS3.18 8.3.5.1.1).")
    words = dict.fromkeys(word.strip() for word in text.split(","))
    ours = tuple(cast(Annotation, word) for word in sorted(words) if word in _ANNOTATIONS)
    return ours, tuple(word for word in words if word not in _ANNOTATIONS)


def _icc(text: str) -> IccProfile:
    if text not in _PROFILES:
        raise Invalid(f"iccprofile={text[:20]!r} is none of no, yes, srgb, adobergb, rommrgb (PS3.18 8.3.5.1.5).")
    return cast(IccProfile, text)


def state_of(found: Mapping[str, str]) -> tuple[str, str] | None:
    """Series and SOP Instance UID of a presentation state: both or neither (PS3.18 9.5.1.2.7)."""
    series, instance = found.get("presentationSeriesUID"), found.get("presentationUID")
    if series is None and instance is None:
        return None
    for name, uid in (("presentationSeriesUID", series), ("presentationUID", instance)):
        if uid is None or len(uid) > 64 or not _UID.fullmatch(uid):
            raise Invalid(f"{name} is missing or no UID; a presentation state is named by both (PS3.18 9.5.1.2.7).")
    return str(series), str(instance)
