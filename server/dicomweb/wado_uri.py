"""Retrieve one instance by a query (WADO-URI, PS3.18 chapter 9), for viewers that are older than DICOMweb.

The answer is the DICOM file (9.4), or a picture, report or document (9.5), as the media types say: those of
``contentType``, else those of the Accept header. What can be had is what WADO-RS has of the same instance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotAcceptable
from server.auth import caller_of
from server.dicomweb.files import version_of
from server.dicomweb.frames import frame_spec, known_spec
from server.dicomweb.kept import keepings_of
from server.dicomweb.look import Asked, annotations_of, is_number, state_of
from server.dicomweb.negotiation import Accept, Offer, choose, instance_offers, parse_accept
from server.dicomweb.pictures import is_image
from server.dicomweb.rendered import single, targets_of
from server.dicomweb.wado import send_instance
from server.rendering.look import Annotation, Look, Viewport, Window, is_valid_width
from server.rendering.placing import MAX_PIXELS, MAX_SIDE
from server.room import Room
from storage.catalog.find import StoredInstance, find_instance

_UIDS = ("studyUID", "seriesUID", "objectUID")
_RENDERING = (
    "annotation",
    "imageAnnotation",
    "rows",
    "columns",
    "region",
    "windowCenter",
    "windowWidth",
    "frameNumber",
    "imageQuality",
    "presentationUID",
    "presentationSeriesUID",
)
_KNOWN = frozenset(("requestType", *_UIDS, "contentType", "charset", "anonymize", "transferSyntax", *_RENDERING))
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a query of WADO-URI asks for, as far as it can be told without the instance.

    Attributes
    ----------
    uids
        Study, series and SOP Instance UID.
    region
        Left, top, right and bottom of what is shown, as fractions of the image.
    unsupported
        Annotations that are keywords and none of ours.
    rendering
        The names of the rendering parameters that are there; a DICOM file is sent without regard to them.
    """

    uids: tuple[str, str, str]
    content_type: str = ""
    transfer_syntax: str = ""
    frame: int | None = None
    rows: int | None = None
    columns: int | None = None
    region: tuple[float, float, float, float] | None = None
    window: Window | None = None
    quality: int | None = None
    annotations: tuple[Annotation, ...] = ()
    unsupported: tuple[str, ...] = ()
    state: tuple[str, str] | None = None
    rendering: tuple[str, ...] = ()


def parse_query(query: bytes) -> Query:
    """Read the parameters of PS3.18 9.1.2, 9.4.1.2 and 9.5.1.2; what is none of them is ignored.

    Raises
    ------
    Invalid
        One is missing, malformed, given twice, or not allowed beside another.
    NotAcceptable
        The identity of the patient was to be removed.
    """
    found = _parameters(query)
    if found.get("requestType") != "WADO":
        raise Invalid("requestType is missing or not WADO (PS3.18 9.1.2.1.1).")
    for name in _UIDS:
        if not _is_uid(found.get(name, "")):
            raise Invalid(f"{name} is missing or no UID; an instance is named by {', '.join(_UIDS)} (PS3.18 9.1.2.1).")
    if "anonymize" in found:
        _refuse_anonymizing(found["anonymize"])
    content_type, transfer_syntax = found.get("contentType", ""), found.get("transferSyntax", "")
    if "contentType" in found and not parse_accept(content_type):
        raise Invalid(f"contentType={content_type[:60]!r} is no list of media types (PS3.18 9.1.2.2.1).")
    if "transferSyntax" in found and transfer_syntax != "*" and not _is_uid(transfer_syntax):
        raise Invalid(f"transferSyntax={transfer_syntax[:80]!r} is no UID (PS3.18 9.4.2.4).")
    state = state_of(found)
    window = _window(found)
    region = _region(found["region"]) if "region" in found else None
    if state and (window or region):
        raise Invalid("Neither window nor region are for a presentation state, which has its own (PS3.18 9.5.1.2.7).")
    annotations, unsupported = annotations_of(found.get("imageAnnotation", found.get("annotation")))
    return Query(
        uids=(found["studyUID"], found["seriesUID"], found["objectUID"]),
        content_type=content_type,
        transfer_syntax=transfer_syntax,
        frame=_count(found, "frameNumber", 10**9),
        rows=_count(found, "rows", MAX_SIDE),
        columns=_count(found, "columns", MAX_SIDE),
        region=region,
        window=window,
        quality=_count(found, "imageQuality", 100),
        annotations=annotations,
        unsupported=unsupported,
        state=state,
        rendering=tuple(name for name in _RENDERING if name in found),
    )


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _parameters(query: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in _KNOWN:
            if name in found:
                raise Invalid(f"{name} is given twice.")
            found[name] = value
    return found


def _refuse_anonymizing(value: str) -> NoReturn:
    """Never ignored: who asks for it means to show the answer to others (PS3.18 9.4.1.2.1)."""
    if value != "yes":
        raise Invalid(f"anonymize={value[:20]!r} is not yes (PS3.18 9.4.1.2.1); leave it out for the file as it is.")
    raise NotAcceptable("anonymize=yes: nothing is anonymized here, so there is nothing that may be sent (PS3.15 E).")


def _count(found: Mapping[str, str], name: str, limit: int) -> int | None:
    """A positive number."""
    text = found.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 11 and 1 <= int(text) <= limit):
        raise Invalid(f"{name}={text[:20]!r} is no number from 1 to {limit} (PS3.18 9.5.1.2).")
    return int(text)


def _region(text: str) -> tuple[float, float, float, float]:
    """``xmin,ymin,xmax,ymax`` in fractions of the image (PS3.18 9.5.1.2.5)."""
    words = [word.strip() for word in text.split(",")]
    if len(words) == 4 and all(map(is_number, words)):
        left, top, right, bottom = map(float, words)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    raise Invalid(f"region={text[:60]!r} is not xmin,ymin,xmax,ymax, each from 0.0 to 1.0 (PS3.18 9.5.1.2.5).")


def _window(found: Mapping[str, str]) -> Window | None:
    """``windowCenter`` and ``windowWidth``, each only with the other (PS3.18 9.5.1.2.6)."""
    if "windowCenter" not in found and "windowWidth" not in found:
        return None
    words = [found.get(name, "").strip() for name in ("windowCenter", "windowWidth")]
    if not all(map(is_number, words)):
        raise Invalid("windowCenter and windowWidth are two numbers, and go together (PS3.18 9.5.1.2.6).")
    window = Window(center=float(words[0]), width=float(words[1]))
    if not is_valid_width(window.width, window.function):
        raise Invalid(f"windowWidth={words[1][:20]} is less than 1 (PS3.3 C.11.2.1.2).")
    return window


async def retrieve_by_query(request: Request) -> Response:
    """Retrieve an instance as a DICOM file or rendered (PS3.18 9.4, 9.5)."""
    room: Room = request.app.state.room
    query = parse_query(request.scope["query_string"])
    instance = await room.read(find_instance, caller_of(request).scope, *query.uids, version_of(request))
    # Rendering goes by the path of the same instance in WADO-RS.
    uids = dict(zip(("study", "series", "instance"), query.uids, strict=True))
    request = Request({**request.scope, "path_params": uids}, request.receive)
    numbers = _frame_numbers(query, instance)
    look = await _look(request, query, instance)
    asked = Asked(look=look, state=query.state, unsupported=query.unsupported)
    targets = await targets_of(request, [instance], numbers, asked)
    files, rendered = _file_offers(query, instance), targets[0].offers if targets else ()
    is_file_first = bool(query.transfer_syntax) or (instance.frame_count > 1 and numbers is None)
    offer = choose(_accepted(request, query), (*files, *rendered) if is_file_first else (*rendered, *files))
    if offer in files:
        _check_transfer_syntax(query, files)
        answer = await send_instance(request, instance, offer)
        warnings = [_without_regard(offer, query.rendering)]
    else:
        answer = await single(request, targets[0], look, offer)
        warnings = [asked.warning, _without_regard(offer, ["transferSyntax"] if query.transfer_syntax else [])]
    for warning in filter(None, warnings):
        answer.headers.append("warning", f'299 readingroom "{warning}"')
    return answer


def _file_offers(query: Query, instance: StoredInstance) -> list[Offer]:
    """The DICOM file as it can be sent; first in the transfer syntax that is named, if one is."""
    there_are = instance_offers(instance.transfer_syntax, known_spec(instance), has_single_part=True)
    offers = [one for one in there_are if not one.multipart]
    if not query.transfer_syntax:
        return offers
    named = [replace(one, must_be_named=False) for one in offers]
    return sorted(named, key=lambda one: query.transfer_syntax not in ("*", one.transfer_syntax))


def _check_transfer_syntax(query: Query, files: Sequence[Offer]) -> None:
    """406 where the file cannot be sent in the transfer syntax that is named (PS3.18 9.4.2.4)."""
    syntaxes = [one.transfer_syntax for one in files]
    if query.transfer_syntax and query.transfer_syntax not in ("*", *syntaxes):
        raise NotAcceptable(
            f"This instance cannot be sent in transfer syntax {query.transfer_syntax}; there is: {', '.join(syntaxes)}."
        )


def _without_regard(offer: Offer, names: Sequence[str]) -> str:
    return f"{offer.media_type} is sent without regard to {', '.join(names)}" if names else ""


def _accepted(request: Request, query: Query) -> Accept:
    """What ``contentType`` says; without it the Accept header, which old viewers may leave out (PS3.18 9.1.2.2.1)."""
    return query.content_type or ", ".join(request.headers.getlist("accept")) or "*/*", ""


def _frame_numbers(query: Query, instance: StoredInstance) -> list[int] | None:
    """The one frame that is named (PS3.18 9.5.2.1)."""
    if query.frame is None:
        return None
    if query.frame > instance.frame_count:
        there_are = f"its frames are 1 to {instance.frame_count}" if instance.frame_count else "it has no frames"
        raise Invalid(f"frameNumber={query.frame} is none of this instance; {there_are} (PS3.18 9.5.2.1).")
    return [query.frame]


async def _look(request: Request, query: Query, instance: StoredInstance) -> Look:
    return Look(
        window=query.window,
        viewport=await _viewport(request, query, instance),
        quality=query.quality,
        annotations=query.annotations,
    )


async def _viewport(request: Request, query: Query, instance: StoredInstance) -> Viewport | None:
    """Rows, columns and region as a viewport, which is in pixels (PS3.18 9.5.1.2.4, 9.5.1.2.5).

    One of `rows` and `columns` is enough, as it was in earlier editions: the other follows from the shape of what is
    shown. Without both, a region comes in its own size.
    """
    if query.rows is None and query.columns is None and query.region is None:
        return None
    if query.region is None and query.rows and query.columns:
        return _checked(Viewport(width=query.columns, height=query.rows))
    if not is_image(instance) or query.state:
        raise Invalid("rows and columns go together here, and region is for images alone (PS3.18 9.5.1.2.4).")
    spec = await frame_spec(request.app.state.room, keepings_of(request), instance)
    left, top, right, bottom = query.region or (0.0, 0.0, 1.0, 1.0)
    region_width, region_height = (right - left) * spec.columns, (bottom - top) * spec.rows
    if query.rows and query.columns:
        width, height = query.columns, query.rows
    else:
        scale = query.rows / region_height if query.rows else (query.columns or region_width) / region_width
        width, height = max(round(region_width * scale), 1), max(round(region_height * scale), 1)
    return _checked(
        Viewport(
            width=width,
            height=height,
            left=left * spec.columns,
            top=top * spec.rows,
            region_width=region_width,
            region_height=region_height,
        )
    )


def _checked(viewport: Viewport) -> Viewport:
    width, height = viewport.width, viewport.height
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise Invalid(f"{height:.9g} rows and {width:.9g} columns are past the limit of {MAX_SIDE} pixels a side.")
    return viewport


routes = [Route("/wado", retrieve_by_query)]
