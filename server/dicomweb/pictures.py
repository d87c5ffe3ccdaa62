"""Pictures of stored images: frames read, decoded and drawn, and kept for who asks again.

What WADO-RS and WADO-URI have in common: both find instances, make a `Look`, and come here.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import anyio.to_thread
import numpy as np
import orjson
from PIL import Image

from readingroom.errors import NotAcceptable, NotDicom, NotFound, TooLarge
from server.dicomweb.frames import Bytes, frame_spec, inflated, read_frame
from server.dicomweb.kept import Keepings
from server.dicomweb.negotiation import COMPRESSED, DECODABLE, DEFLATED, EXPLICIT_LITTLE_ENDIAN, NATIVE
from server.exporting import received_file
from server.rendering.card import card
from server.rendering.encoding import animated, check_profile, encoded
from server.rendering.grayscale import Picture
from server.rendering.item import Item
from server.rendering.lettering import Lettering
from server.rendering.look import Look
from server.rendering.picture import Drawn, Frame, draw, own_extent
from server.rendering.placing import MAX_PIXELS
from server.rendering.state import Reference, references
from server.rendering.timing import milliseconds_of
from server.room import Room
from storage.catalog.find import StoredInstance, read_metadata
from storage.dicomjson import Buffer
from storage.icc import Space, converted
from storage.objects import BASE_URL_MARK, ArraySpec, find_bulk
from storage.part10 import EXPLICIT_BIG
from storage.pixels import decoded_photometric
from storage.values import little_endian

_MARK = BASE_URL_MARK.encode()
_MAX_BULK_BYTES = 64 << 20
_MAX_MOVING_PIXELS = 48 << 20
"""The largest moving picture: frames times pixels."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame of an image, and the presentation state that it is shown through, if any."""

    instance: StoredInstance
    number: int
    state: StoredInstance | None = None


def is_image(instance: StoredInstance) -> bool:
    """Whether its frames can be decoded and shown."""
    return bool(instance.frame_count) and instance.transfer_syntax in NATIVE | DECODABLE


def is_video(instance: StoredInstance) -> bool:
    """Whether its pixels are one stream of MPEG or HEVC."""
    return COMPRESSED.get(instance.transfer_syntax, ("",))[0].startswith("video/")


async def still(room: Room, keepings: Keepings, shot: Shot, look: Look, media_type: str) -> bytes:
    """One frame as a file of `media_type`.

    Raises
    ------
    Invalid
        The look asks for a region outside of the image, or for a profile that the media type cannot hold.
    NotAcceptable
        The frame cannot be decoded or shown.
    TooLarge
        The picture would be larger than is made.
    """
    check_profile(media_type, look)
    make = partial(_make_still, room, keepings, shot, look, media_type)
    return await keepings.rendered.get(_key([shot], look, media_type), make, len)


async def moving(room: Room, keepings: Keepings, shots: Sequence[Shot], look: Look, media_type: str) -> bytes:
    """Frames of one image, one after the other, each as long as the image says; raises as `still` does."""
    check_profile(media_type, look)
    make = partial(_make_moving, room, keepings, shots, look, media_type)
    return await keepings.rendered.get(_key(shots, look, media_type), make, len)


def _key(shots: Sequence[Shot], look: Look, media_type: str) -> object:
    seen = tuple((seen_of(shot.instance), shot.number, shot.state and seen_of(shot.state)) for shot in shots)
    return seen, look, media_type


def seen_of(instance: StoredInstance) -> tuple[str, int]:
    """What tells an instance as it is shown now from all others, and from itself before it was corrected."""
    return instance.id, instance.overlay_version


async def _make_still(room: Room, keepings: Keepings, shot: Shot, look: Look, media_type: str) -> bytes:
    stage = await _stage(room, keepings, shot)
    frame = await read_frame(room, keepings, shot.instance, shot.number)

    def make() -> bytes:
        drawn = stage.draw(frame, shot, look)
        return encoded(drawn.image, media_type, look, drawn.profile)

    return await anyio.to_thread.run_sync(make, limiter=room.codec)


async def _make_moving(room: Room, keepings: Keepings, shots: Sequence[Shot], look: Look, media_type: str) -> bytes:
    stage = await _stage(room, keepings, shots[0])

    async def each[T](use: Callable[[Bytes, Shot, Look], T]) -> AsyncIterator[T]:
        for shot in shots:
            frame = await read_frame(room, keepings, shot.instance, shot.number)
            yield await anyio.to_thread.run_sync(use, frame, shot, look, limiter=room.codec)

    if stage.state is None:
        async for low_and_high in each(stage.extent_of):
            if low_and_high is None:
                break
            low, high = stage.extent or low_and_high
            stage.extent = min(low, low_and_high[0]), max(high, low_and_high[1])
    images: list[Image.Image] = []
    async for drawn in each(stage.draw):
        images.append(drawn.image)
        if len(shots) * drawn.image.width * drawn.image.height > _MAX_MOVING_PIXELS:
            raise TooLarge(
                f"A moving picture of {len(shots)} frames of {drawn.image.width} x {drawn.image.height} pixels is past"
                f" the limit of {_MAX_MOVING_PIXELS} pixels; ask for a smaller viewport or for some of the frames."
            )

    def make() -> bytes:
        milliseconds = milliseconds_of(stage.dataset, [shot.number for shot in shots])
        return animated(images, milliseconds, media_type, look)

    return await anyio.to_thread.run_sync(make, limiter=room.codec)


@dataclass(slots=True)
class _Stage:
    """What is needed to draw frames of one image; the JSON is only read where there is time for it."""

    room: Room
    spec: ArraySpec
    instance: StoredInstance
    stored: bytes
    opened: Buffer | None
    state: StoredInstance | None
    stored_state: bytes | None
    opened_state: Buffer | None
    extent: tuple[float, float] | None = None
    _dataset: Item | None = None

    @property
    def dataset(self) -> Item:
        if self._dataset is None:
            self._dataset = dataset_of(self.room, self.instance, self.stored, self.opened)
        return self._dataset

    def draw(self, frame: Bytes, shot: Shot, look: Look) -> Drawn:
        """Decode and draw."""
        lettering = Lettering(self.room.settings.annotation_font)
        if look.is_anonymous and self.dataset.text("BurnedInAnnotation") == "YES":
            # A thumbnail shall not name the patient (PS3.18 10.4.1.1.4), as these pixels do.
            return Drawn(card(self.dataset.text("Modality") or "DICOM", look.viewport, lettering), None)
        decoded = self._decoded(frame, shot)
        with _no_surprises(shot):
            state = None
            if self.state and self.stored_state:
                state = dataset_of(self.room, self.state, self.stored_state, self.opened_state)
            return draw(decoded, look, state, lettering, partial(_converted, self.room))

    def extent_of(self, frame: Bytes, shot: Shot, look: Look) -> tuple[float, float] | None:
        """What the frame would be stretched between if it were alone."""
        decoded = self._decoded(frame, shot)
        with _no_surprises(shot):
            return own_extent(decoded, look)

    def _decoded(self, frame: Bytes, shot: Shot) -> Frame:
        spec = self.spec
        if spec.encoding != "encapsulated":
            spec = replace(spec, transfer_syntax=EXPLICIT_LITTLE_ENDIAN)  # native frames come in this order
        try:
            values, photometric = self.room.codecs.decode(frame, spec), decoded_photometric(frame, spec)
        except NotDicom as error:
            raise NotAcceptable(f"Frame {shot.number} cannot be decoded: {error.message}.") from None
        whole = spec.holds_overlays and spec.encoding == "native" and spec.samples == 1 and spec.bits_allocated > 1
        embedded = np.frombuffer(frame, f"<u{spec.bits_allocated // 8}", spec.rows * spec.columns) if whole else None
        return Frame(
            values=values,
            spec=spec,
            photometric=photometric,
            dataset=self.dataset,
            instance_uid=shot.instance.instance_uid,
            number=shot.number,
            embedded=None if embedded is None else embedded.reshape(spec.rows, spec.columns),
            extent=self.extent,
        )


@contextmanager
def _no_surprises(shot: Shot) -> Iterator[None]:
    """Attributes that are wrong in ways nobody thought of are no reason for an error of ours."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, NotFound) as error:
        raise NotAcceptable(f"Frame {shot.number} cannot be shown: {str(error)[:100]}.") from error


def _converted(room: Room, pixels: Picture, source: bytes, space: Space) -> Picture:
    return room.codecs.call(converted, pixels, source, space)


async def _stage(room: Room, keepings: Keepings, shot: Shot) -> _Stage:
    instance, state = shot.instance, shot.state
    spec = await frame_spec(room, keepings, instance)
    if spec.rows * spec.columns > MAX_PIXELS:
        raise TooLarge(f"Frames of {spec.columns} x {spec.rows} pixels are past the {MAX_PIXELS} that are rendered.")
    return _Stage(
        room=room,
        spec=spec,
        instance=instance,
        stored=await room.read(read_metadata, instance.id),
        opened=await opened(room, keepings, instance),
        state=state,
        stored_state=await room.read(read_metadata, state.id) if state else None,
        opened_state=await opened(room, keepings, state) if state else None,
    )


async def opened(room: Room, keepings: Keepings, instance: StoredInstance) -> Buffer | None:
    """A deflated object as it was before; None for all others."""
    return (await inflated(room, keepings, instance)).data if instance.transfer_syntax == DEFLATED else None


def dataset_of(room: Room, instance: StoredInstance, stored: bytes, inflated: Buffer | None = None) -> Item:
    """The data set of an instance, whose bulk values are read when they are asked for; not for the event loop.

    Parameters
    ----------
    stored
        Its JSON as the catalog has it.
    inflated
        What `opened` gives.
    """

    def bulk(path: str) -> bytes:
        data = received_file(room.blobs, instance) if inflated is None else inflated
        offset, length, vr = find_bulk(data, path)
        if length > _MAX_BULK_BYTES:
            raise NotAcceptable(f"A value of {length} bytes at {path} is past the limit of {_MAX_BULK_BYTES}.")
        value = bytes(memoryview(data)[offset : offset + length])
        return little_endian(value, vr) if instance.transfer_syntax == EXPLICIT_BIG else value

    return Item(orjson.loads(zlib.decompress(stored).replace(_MARK, b"")), bulk)


async def references_of(room: Room, keepings: Keepings, state: StoredInstance) -> list[Reference]:
    """The images that a presentation state is for."""
    stored = await room.read(read_metadata, state.id)
    inflated = await opened(room, keepings, state)
    return await anyio.to_thread.run_sync(
        lambda: references(dataset_of(room, state, stored, inflated)), limiter=room.codec
    )


async def card_for(room: Room, instance: StoredInstance, look: Look, media_type: str) -> bytes:
    """What stands for an object without a picture: a sheet with its modality on it."""
    stored = await room.read(read_metadata, instance.id)

    def make() -> bytes:
        label = dataset_of(room, instance, stored).text("Modality") or "DICOM"
        image = card(label, look.viewport, Lettering(room.settings.annotation_font))
        return encoded(image, media_type, look)

    return await anyio.to_thread.run_sync(make, limiter=room.codec)
