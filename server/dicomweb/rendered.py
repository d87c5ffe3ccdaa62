"""Rendered images and thumbnails of studies, series, instances and frames (PS3.18 10.4.1.1.3, 10.4.1.1.4).

One part shows one picture: of a series or study, the middle of the middle image. A client that asks for multipart
gets a picture of every frame.
"""

from __future__ import annotations

import io
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from mmap import mmap
from typing import BinaryIO, cast
from urllib.parse import parse_qsl

import anyio.to_thread
import orjson
from pydicom import dcmread
from pydicom.dataset import Dataset
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotAcceptable, NotDicom
from server.auth import caller_of
from server.codecs import Codecs
from server.dicomweb.files import find_all, instance_url, received_file, version_of
from server.dicomweb.frames import Bytes, frame_numbers, frame_spec, inflated, read_frame
from server.dicomweb.kept import Keepings, keepings_of
from server.dicomweb.negotiation import DECODABLE, DEFLATED, EXPLICIT_LITTLE_ENDIAN, NATIVE, Offer, accepted, choose
from server.dicomweb.presentation import (
    Attributes,
    Function,
    Viewport,
    Window,
    encoded,
    fitted,
    is_valid_width,
    picture_of,
)
from server.dicomweb.respond import Made, Part, multipart, not_modified, single_part
from server.room import Room
from storage.catalog.find import StoredInstance, find_instance, read_metadata
from storage.objects import BASE_URL_MARK, ArraySpec
from storage.part10 import EXPLICIT_BIG
from storage.pixels import decoded_photometric
from storage.rewrite import rewrite

Shot = tuple[StoredInstance, int]
"""An image, and the number of its frame that is shown."""

_MARK = BASE_URL_MARK.encode()
_ONE = (Offer(media_type="image/jpeg"), Offer(media_type="image/png"))
_MANY = tuple(replace(offer, multipart=True) for offer in _ONE)
_QUALITY = 90
_THUMBNAIL = Viewport(width=128, height=128)
_MAX_SIDE = 16384
_MAX_PIXELS = 64 << 20
_SUPPORTED = NATIVE | DECODABLE

_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_FUNCTIONS: Mapping[str, Function] = {"linear": "linear", "linear-exact": "linear-exact", "sigmoid": "sigmoid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How an image is to be shown."""

    window: Window | None = None
    viewport: Viewport | None = None
    quality: int = _QUALITY


def parse_look(query: bytes, *, is_thumbnail: bool = False) -> Look:
    """The rendering parameters of a query (PS3.18 8.3.5); what is none of them is ignored.

    Raises
    ------
    Invalid
        A parameter is malformed, or not allowed here.
    """
    found = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    look = _THUMBNAIL_LOOK if is_thumbnail else Look()
    if "viewport" in found:
        look = replace(look, viewport=_viewport(found["viewport"], is_thumbnail=is_thumbnail))
    if "window" in found and not is_thumbnail:
        look = replace(look, window=_window(found["window"]))
    if "quality" in found and not is_thumbnail:
        look = replace(look, quality=_quality(found["quality"]))
    return look


_THUMBNAIL_LOOK = Look(viewport=_THUMBNAIL)


def _viewport(text: str, *, is_thumbnail: bool) -> Viewport:
    """``vw,vh[,sx,sy,sw,sh]`` (PS3.18 8.3.5.1.3); a thumbnail's has no region."""
    wrong = Invalid(
        f"viewport={text[:60]!r} is not vw,vh{'' if is_thumbnail else '[,sx,sy,sw,sh]'} (PS3.18 8.3.5.1.3)."
    )
    words = [word.strip() for word in text.split(",")]
    if len(words) not in range(2, 3 if is_thumbnail else 7):
        raise wrong
    if not all(word.isascii() and word.isdigit() and len(word) < 6 and int(word) for word in words[:2]):
        raise wrong
    width, height = map(int, words[:2])
    if max(width, height) > _MAX_SIDE or width * height > _MAX_PIXELS:
        raise Invalid(f"A viewport of {width},{height} is past the limit of {_MAX_SIDE} pixels a side.")
    if not all(_NUMBER.fullmatch(word) for word in words[2:] if word):
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


def _window(text: str) -> Window:
    """``center,width,function`` (PS3.18 8.3.5.1.4)."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(_NUMBER.fullmatch(word) for word in words[:2]) or words[2] not in _FUNCTIONS:
        raise Invalid(
            f"window={text[:60]!r} is not center,width,function with linear, linear-exact or sigmoid"
            " (PS3.18 8.3.5.1.4)."
        )
    window = Window(center=float(words[0]), width=float(words[1]), function=_FUNCTIONS[words[2]])
    if not is_valid_width(window.width, window.function):
        raise Invalid(f"A {window.function} window cannot be {words[1]} wide (PS3.3 C.11.2.1.2).")
    return window


def _quality(text: str) -> int:
    """1 to 100 (PS3.18 8.3.5.1.2)."""
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 100):
        raise Invalid(f"quality={text[:20]!r} is no number from 1 to 100 (PS3.18 8.3.5.1.2).")
    return int(text)


def _unsupported_annotations(query: bytes) -> str:
    """The Warning for annotations, none of which is burned in here; empty without any (PS3.18 8.3.5.1.1)."""
    found = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get("annotation")
    if found is None:
        return ""
    if not re.fullmatch(r"[a-z]{1,20}(,[a-z]{1,20})*", found):
        raise Invalid(f"annotation={found[:60]!r} is no list of keywords such as patient,technique (PS3.18 8.3.5.1.1).")
    return f'299 readingroom "The following annotation values are not supported: {found[:200]}"'


async def rendered(request: Request) -> Response:
    """Retrieve a rendered study, series or instance, or rendered frames."""
    query = request.scope["query_string"]
    look, warning = parse_look(query), _unsupported_annotations(query)
    images, numbers = await _images(request)
    # A list of frames is not represented by one of them, all else is (OHIF asks for a series as one picture).
    offer = choose(accepted(request), (*_ONE, *_MANY) if numbers is None or len(numbers) == 1 else _MANY)
    shots = _shots(images, numbers) if offer.multipart else [_representative(images, numbers)]
    answer = await _answer(request, shots, look, offer)
    if warning:
        answer.headers["warning"] = warning
    return answer


async def thumbnail(request: Request) -> Response:
    """Retrieve the thumbnail of a study, series, instance or frame: always one picture."""
    look = parse_look(request.scope["query_string"], is_thumbnail=True)
    images, numbers = await _images(request)
    return await _answer(request, [_representative(images, numbers)], look, choose(accepted(request), _ONE))


async def _images(request: Request) -> tuple[list[StoredInstance], list[int] | None]:
    """The images of a path, and the frames that it names."""
    room: Room = request.app.state.room
    scope, path = caller_of(request).scope, request.path_params
    if "instance" in path:
        uids = path["study"], path["series"], path["instance"]
        instance = await room.read(find_instance, scope, *uids, version_of(request))
        numbers = frame_numbers(path["frames"], instance) if "frames" in path else None
        instances = [instance]
    else:
        _, instances = await room.read_apart(find_all, scope, path["study"], path.get("series"))
        numbers = None
    images = [one for one in instances if one.frame_count and one.transfer_syntax in _SUPPORTED]
    if not images:
        raise NotAcceptable("There is nothing here that can be rendered: no image, or only video.")
    return images, numbers


def _shots(images: list[StoredInstance], numbers: list[int] | None) -> list[Shot]:
    return [(image, number) for image in images for number in numbers or range(1, image.frame_count + 1)]


def _representative(images: list[StoredInstance], numbers: list[int] | None) -> Shot:
    """The middle frame of the middle image of the longest series; the first that is named, if any is."""
    counts = Counter(image.series_uid for image in images)
    longest = max(counts, key=counts.__getitem__)
    series = [image for image in images if image.series_uid == longest]
    image = series[len(series) // 2]
    return image, numbers[0] if numbers else image.frame_count // 2 + 1


async def _answer(request: Request, shots: list[Shot], look: Look, offer: Offer) -> Response:
    room: Room = request.app.state.room
    keepings = keepings_of(request)
    seen = repr([(image.etag, number) for image, number in shots]) + repr(look) + offer.media_type
    etag = f'"{zlib.crc32(seen.encode()):08x}-{shots[0][0].etag}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    if not offer.multipart:
        return await single_part(request, room, offer, [await _kept(room, keepings, shots[0], look, offer)], etag=etag)

    def later(shot: Shot) -> Made:
        async def make() -> AsyncIterator[bytes]:
            yield await _kept(room, keepings, shot, look, offer)

        return Made(make)

    root = caller_of(request).service_root
    parts = (
        Part(
            media_type=offer.media_type,
            location=f"{instance_url(root, shot[0])}/frames/{shot[1]}/rendered",
            body=[later(shot)],
        )
        for shot in shots
    )
    return await multipart(request, room, offer.media_type, parts, etag=etag)


async def _kept(room: Room, keepings: Keepings, shot: Shot, look: Look, offer: Offer) -> bytes:
    instance, number = shot
    key = instance.id, number, look, offer.media_type
    return await keepings.rendered.get(key, partial(_picture, room, keepings, shot, look, offer.media_type), len)


async def _picture(room: Room, keepings: Keepings, shot: Shot, look: Look, media_type: str) -> bytes:
    instance, number = shot
    stored = await room.read(read_metadata, instance.id)
    frame = await read_frame(room, keepings, instance, number)
    spec = await frame_spec(room, keepings, instance)
    is_deflated = instance.transfer_syntax == DEFLATED
    opened = (await inflated(room, keepings, instance)).data if is_deflated else None
    header = partial(_header, room, instance, opened)
    return await anyio.to_thread.run_sync(
        _draw, room.codecs, stored, frame, spec, number, look, media_type, header, limiter=room.codec
    )


def _draw(
    codecs: Codecs,
    stored: bytes,
    frame: Bytes,
    spec: ArraySpec,
    number: int,
    look: Look,
    media_type: str,
    header: Callable[[], Dataset],
) -> bytes:
    """Decode, show, fit, encode."""
    if spec.encoding != "encapsulated":
        spec = replace(spec, transfer_syntax=EXPLICIT_LITTLE_ENDIAN)  # native frames come in this order
    try:
        values, photometric = codecs.decode(frame, spec), decoded_photometric(frame, spec)
    except NotDicom as error:
        raise NotAcceptable(f"Frame {number} cannot be decoded: {error.message}.") from None
    attributes = Attributes(orjson.loads(zlib.decompress(stored).replace(_MARK, b"")), number)
    picture = picture_of(values, spec, photometric, attributes, look.window, header)
    return encoded(fitted(picture, look.viewport), media_type, look.quality)


def _header(room: Room, instance: StoredInstance, opened: bytearray | None) -> Dataset:
    """The data set without its pixels, for pydicom's lookup tables, which want little-endian values."""
    data = received_file(room, instance) if opened is None else opened
    if instance.transfer_syntax == EXPLICIT_BIG:
        data = b"".join(rewrite(data, EXPLICIT_LITTLE_ENDIAN))
    file = cast(BinaryIO, data) if isinstance(data, mmap) else io.BytesIO(data)
    return dcmread(file, stop_before_pixels=True, force=True)


_INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"

routes = [
    Route(f"{place}/{name}", view)
    for place in (f"{_INSTANCE}/frames/{{frames}}", _INSTANCE, "/studies/{study}/series/{series}", "/studies/{study}")
    for name, view in (("rendered", rendered), ("thumbnail", thumbnail))
]
