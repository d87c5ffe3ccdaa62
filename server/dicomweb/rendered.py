"""Rendered images and thumbnails (PS3.18 10.4.1.1.3, 10.4.1.1.4): one frame, as a picture for any browser."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import anyio.to_thread
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotAcceptable, NotDicom, NotFound
from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.files import received_file
from server.dicomweb.frames import Bytes, frame_numbers, frame_spec, read_frame
from server.dicomweb.kept import keepings_of
from server.dicomweb.negotiation import Offer, accepted, choose
from server.dicomweb.respond import CACHING, not_modified
from server.room import Room
from storage.catalog.find import StoredInstance, find_instance, find_series, find_study, list_instances
from storage.objects import ArraySpec
from storage.pixels import decode_frame, decoded_photometric

_OFFERS = (Offer(media_type="image/jpeg"), Offer(media_type="image/png"))
_FUNCTIONS = frozenset({"linear", "linear-exact", "sigmoid"})
_THUMBNAIL = 256
_MAX_SIDE = 8192
_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A VOI window: centre and width in the units after the modality LUT (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewport:
    """A size in pixels to fit into, and the part of the image that is shown (PS3.18 8.3.5.1.3).

    `source` is left, top, width and height; a negative width or height flips.
    """

    width: int
    height: int
    source: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How an image was asked to look."""

    window: Window | None
    viewport: Viewport | None
    quality: int
    media_type: str


async def rendered_instance(request: Request) -> Response:
    """Render an instance; of several frames the first."""
    return await _render(request, await _named(request), 1)


async def rendered_frame(request: Request) -> Response:
    """Render one frame."""
    instance = await _named(request)
    numbers = frame_numbers(request.path_params["frames"], instance)
    if len(numbers) > 1:
        raise NotAcceptable("Several frames in one image cannot be sent; ask for them one by one.")
    return await _render(request, instance, numbers[0])


async def rendered_representative(request: Request) -> Response:
    """Render the middle instance of a series or study that has pixels, by its middle frame."""
    instance = await _representative(request)
    return await _render(request, instance, (instance.frame_count + 1) // 2)


async def thumbnail(request: Request) -> Response:
    """The same at every level, small unless a viewport says otherwise (PS3.18 10.4.1.1.4)."""
    path = request.path_params
    instance = await (_named(request) if "instance" in path else _representative(request))
    number = (instance.frame_count + 1) // 2
    if "frames" in path:
        number = frame_numbers(path["frames"], instance)[0]
    return await _render(request, instance, number, default=Viewport(width=_THUMBNAIL, height=_THUMBNAIL))


async def _named(request: Request) -> StoredInstance:
    room: Room = request.app.state.room
    path = request.path_params
    return await room.read(find_instance, caller_of(request).scope, path["study"], path["series"], path["instance"])


async def _representative(request: Request) -> StoredInstance:
    room: Room = request.app.state.room
    path = request.path_params
    return await room.read_apart(_find_middle, caller_of(request).scope, path["study"], path.get("series"))


def _find_middle(connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str | None) -> StoredInstance:
    if series_uid is None:
        found = list_instances(connection, find_study(connection, scope, study_uid))
    else:
        found = list_instances(connection, find_series(connection, scope, study_uid, series_uid))
    with_pixels = [one for one in found if one.frame_count]
    if not with_pixels:
        raise NotFound("Nothing here has pixels, so there is nothing to render.")
    if series_uid is None:  # of the first series that has pixels: the middle of all might fall between two
        with_pixels = [one for one in with_pixels if one.series_uid == with_pixels[0].series_uid]
    return with_pixels[len(with_pixels) // 2]


async def _render(
    request: Request, instance: StoredInstance, number: int, *, default: Viewport | None = None
) -> Response:
    room: Room = request.app.state.room
    offer = choose(accepted(request), _OFFERS)
    look = _look(request, offer.media_type, default)
    if not 1 <= number <= instance.frame_count:
        raise NotFound(f"Instance {instance.instance_uid} has no frames, so there is nothing to render.")
    key = hashlib.sha256(repr((instance.object_key, number, look)).encode()).hexdigest()[:32]
    etag = f'"{key}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    keepings = keepings_of(request)

    async def make() -> bytes:
        frame = await read_frame(room, keepings, instance, number)
        spec = await frame_spec(room, keepings, instance)
        return await anyio.to_thread.run_sync(partial(_picture, room, instance, frame, spec, look), limiter=room.codec)

    body = await keepings.rendered.get(key, make, len)
    return Response(body, media_type=offer.media_type, headers={"etag": etag, **CACHING})


def _picture(room: Room, instance: StoredInstance, frame: Bytes, spec: ArraySpec, look: Look) -> bytes:
    header = dcmread(io.BytesIO(received_file(room, instance)), stop_before_pixels=True, force=True)
    try:
        pixels = show(decode_frame(frame, spec), decoded_photometric(frame, spec), header, look.window)
    except (NotDicom, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        raise NotAcceptable(f"Instance {instance.instance_uid} cannot be rendered ({error}).") from None
    image = _in_viewport(Image.fromarray(pixels), look.viewport)
    target = io.BytesIO()
    if look.media_type == "image/png":
        image.save(target, "PNG", compress_level=1)
    else:
        image.save(target, "JPEG", quality=look.quality)
    return target.getvalue()


def show(values: NDArray[Any], photometric: str, header: Dataset, window: Window | None) -> NDArray[np.uint8]:
    """The stored values of one frame as they are looked at (PS3.4 N.2): 8 bits, grey or RGB.

    Parameters
    ----------
    values
        Shape ``(Rows, Columns)`` or ``(Rows, Columns, 3)``.
    photometric
        Photometric Interpretation of `values`, which a codec may have changed.
    header
        Where modality LUT, VOI LUT and palette are.
    window
        Used instead of the header's.
    """
    if photometric == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(values, header))
    if values.ndim == 3:
        if photometric.startswith("YBR_FULL"):
            values = convert_color_space(values, "YBR_FULL", "RGB")
        bits = int(header.get("BitsStored", 8))
        return values.astype(np.uint8) if bits <= 8 else (values >> (bits - 8)).astype(np.uint8)
    measured = np.asarray(apply_modality_lut(values, header), dtype=np.float64)
    window = window or _window_of(header)
    if window is not None:
        grey = _windowed(measured, window)
    else:
        if "VOILUTSequence" in header:
            measured = np.asarray(apply_voi(measured.astype(np.int64), header), dtype=np.float64)
        low, high = float(measured.min()), float(measured.max())
        grey = (measured - low) / ((high - low) or 1.0) * 255
    shown = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return 255 - shown if photometric == "MONOCHROME1" else shown


def _windowed(values: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    if window.function == "sigmoid":
        with np.errstate(over="ignore"):
            return 255 / (1 + np.exp(-4 * (values - window.center) / window.width))
    if window.function == "linear-exact":
        return ((values - window.center) / window.width + 0.5) * 255
    if window.width <= 1:
        return np.where(values <= window.center - 0.5, 0.0, 255.0)
    return ((values - (window.center - 0.5)) / (window.width - 1) + 0.5) * 255


def _window_of(header: Dataset) -> Window | None:
    """The first window of the object."""
    try:
        center, width = (
            float(value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value)
            for value in (header["WindowCenter"].value, header["WindowWidth"].value)
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    function = str(header.get("VOILUTFunction", "LINEAR")).lower().replace("_", "-")
    if not isfinite(center) or not isfinite(width) or width <= 0:
        return None
    return Window(center=center, width=width, function=function if function in _FUNCTIONS else "linear")


def _eight_bits(colours: NDArray[Any]) -> NDArray[np.uint8]:
    return colours.astype(np.uint8) if colours.dtype.itemsize == 1 else (colours >> 8).astype(np.uint8)


def _in_viewport(image: Image.Image, viewport: Viewport | None) -> Image.Image:
    """The image, cut, flipped and scaled to fit, with its aspect kept."""
    if viewport is None:
        return image
    if viewport.source is not None:
        left, top, width, height = viewport.source
        right, bottom = left + (abs(width) or image.width), top + (abs(height) or image.height)
        box = tuple(round(value) for value in (left, top, min(right, image.width), min(bottom, image.height)))
        if box[0] < 0 or box[1] < 0 or box[2] <= box[0] or box[3] <= box[1]:
            raise Invalid(f"The viewport's source region lies outside the image of {image.width} x {image.height}.")
        image = image.crop((box[0], box[1], box[2], box[3]))
        if width < 0:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if height < 0:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    scale = min(viewport.width / image.width, viewport.height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def _look(request: Request, media_type: str, default: Viewport | None) -> Look:
    query = request.query_params
    quality = query.get("quality", str(_QUALITY))
    if not (quality.isascii() and quality.isdigit() and 1 <= int(quality) <= 100):
        raise Invalid(f"quality={quality[:20]!r} is no whole number from 1 to 100.")
    return Look(
        window=_window(query["window"]) if "window" in query else None,
        viewport=_viewport(query["viewport"]) if "viewport" in query else default,
        quality=int(quality),
        media_type=media_type,
    )


def _window(text: str) -> Window:
    center, width, function, *more = (*text.split(","), "", "", "")[: max(3, text.count(",") + 1)]
    function = function.strip().lower() or "linear"
    try:
        window = Window(center=float(center), width=float(width), function=function)
    except ValueError:
        raise Invalid(f"window={text[:60]!r} is not center,width,function.") from None
    if more or function not in _FUNCTIONS or not isfinite(window.center) or not 0 < window.width < float("inf"):
        raise Invalid(f"window={text[:60]!r}: the width is above 0, the function linear, linear-exact or sigmoid.")
    return window


def _viewport(text: str) -> Viewport:
    try:
        numbers = [float(word) if word.strip() else 0.0 for word in text.split(",")]
    except ValueError:
        raise Invalid(f"viewport={text[:60]!r} is not width,height[,left,top,width,height].") from None
    if len(numbers) not in (2, 6) or not all(map(isfinite, numbers)):
        raise Invalid(f"viewport={text[:60]!r} has two numbers, or six with a source region.")
    width, height, *source = numbers
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise Invalid(f"viewport={text[:60]!r}: width and height are 1 to {_MAX_SIDE} pixels.")
    return Viewport(
        width=int(width), height=int(height), source=(source[0], source[1], source[2], source[3]) if source else None
    )


_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{frames}"

routes = [
    Route(f"{_FRAMES}/rendered", rendered_frame),
    Route(f"{_INSTANCE}/rendered", rendered_instance),
    Route(f"{_SERIES}/rendered", rendered_representative),
    Route(f"{_STUDY}/rendered", rendered_representative),
    *(Route(f"{path}/thumbnail", thumbnail) for path in (_FRAMES, _INSTANCE, _SERIES, _STUDY)),
]
