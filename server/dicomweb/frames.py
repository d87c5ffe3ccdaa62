"""The bytes of single frames: where they lie, as they were received, and decompressed."""

from __future__ import annotations

from functools import lru_cache, partial

import anyio.to_thread
import orjson

from readingroom.errors import Invalid, NotAcceptable, NotFound
from server.dicomweb.kept import Inflated, Keepings
from server.dicomweb.negotiation import DEFLATED, EXPLICIT_LITTLE_ENDIAN, NATIVE, Accept, Offer, agree, choose
from server.room import Room
from storage.catalog.find import StoredInstance
from storage.encode import GENERATION, transcode_frame
from storage.objects import ArraySpec, frame_chunk, frame_payload, inflate, scan

Bytes = bytes | bytearray

_ENCODED_HERE_BYTES = 4 << 20
"""Native frames up to this length are encoded in this process: there is nothing in them for a decoder to fall for, and
to hand them to a child would take a quarter of the time that HTJ2K does."""


def frame_numbers(text: str, instance: StoredInstance) -> list[int]:
    """The frames that a URL names, counted from 1, in the order and as often as it names them (PS3.18 10.4.1.1.6).

    Raises
    ------
    Invalid
        Not a list of positive numbers.
    NotFound
        The instance has no such frame, or none at all.
    """
    numbers = []
    for word in text.split(","):
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word)):
            raise Invalid(f"{word[:20]!r} is no frame number; frames count from 1 and are listed as 1,2,3.")
        numbers.append(int(word))
    if max(numbers) > instance.frame_count:
        there_are = f"its frames are 1 to {instance.frame_count}" if instance.frame_count else "it has no frames"
        raise NotFound(f"Instance {instance.instance_uid} has no frame {max(numbers)}; {there_are}.")
    return numbers


async def frame_spec(room: Room, keepings: Keepings, instance: StoredInstance) -> ArraySpec:
    """How the frames of an instance are encoded.

    Raises
    ------
    NotAcceptable
        They cannot be addressed.
    """
    if not instance.opaque_reason:
        return _spec(instance.array_spec)
    found = (await inflated(room, keepings, instance)).scan
    if found.spec is None:
        raise NotAcceptable(_not_addressed(instance, found.opaque_reason))
    return found.spec


async def read_frame(room: Room, keepings: Keepings, instance: StoredInstance, number: int) -> Bytes:
    """One frame as it was received: a bitstream, or native pixels, which are little endian whatever they were."""
    index = number - 1
    if instance.opaque_reason:
        spec = await frame_spec(room, keepings, instance)
        opened = await inflated(room, keepings, instance)
        offset, length = opened.scan.chunks[0 if spec.encoding == "bits" else index]
        return frame_payload(spec, bytes(opened.data[offset : offset + length]), index)
    spec = _spec(instance.array_spec)
    offset, length = await _chunk(room, instance, 0 if spec.encoding == "bits" else index)
    chunk = await room.read_range(instance.object_key, offset, length)
    if spec.encoding != "bits" and spec.framing == "none" and spec.swapped == 1:
        return chunk  # as it lies there; no copy
    return frame_payload(spec, bytes(chunk), index)


async def read_transcoded(
    room: Room, keepings: Keepings, instance: StoredInstance, number: int, target: str
) -> Bytes | memoryview:
    """One frame in another transfer syntax: a rendition that was kept, or one made now and kept.

    In Explicit VR Little Endian it is as it would lie in such a file: without the bits above Bits Stored, its samples
    by plane or by pixel as Planar Configuration says.
    """
    name = f"{instance.sha256.hex()}-{number}-{target}-{GENERATION}"
    kept = await room.read_rendition(name)
    if kept is not None:
        return kept

    async def make() -> bytes:
        frame = await read_frame(room, keepings, instance, number)
        spec = await frame_spec(room, keepings, instance)
        if spec.encoding != "encapsulated" and len(frame) <= _ENCODED_HERE_BYTES:
            made = await anyio.to_thread.run_sync(transcode_frame, frame, spec, target, limiter=room.codec)
        else:
            made = await room.call_codec(transcode_frame, bytes(frame), spec, target)
        room.renditions.keep(name, made)
        return made

    return await keepings.transcoded.get(name, make, len)


async def agreed_frame(
    room: Room, keepings: Keepings, instance: StoredInstance, number: int, accept: Accept, offers: tuple[Offer, ...]
) -> tuple[Offer, Bytes | memoryview]:
    """One frame in the representation to send; as it was received where it cannot be transcoded but may go so.

    Raises
    ------
    NotAcceptable
        The client accepts none of `offers`, or only what cannot be made.
    """
    offer = choose(accept, offers)
    try:
        return offer, await frame_as(room, keepings, instance, number, offer)
    except NotAcceptable:
        as_received = tuple(offer for offer in offers if offer.transfer_syntax == instance.transfer_syntax)
        if not is_transcoded(instance, offer) or (other := agree(accept, as_received)) is None:
            raise
        return other, await frame_as(room, keepings, instance, number, other)


def is_transcoded(instance: StoredInstance, offer: Offer) -> bool:
    """Whether an offer means that the frames are not as they are stored."""
    if offer.transfer_syntax == EXPLICIT_LITTLE_ENDIAN:
        return instance.transfer_syntax not in NATIVE
    return offer.transfer_syntax != instance.transfer_syntax


async def frame_as(
    room: Room, keepings: Keepings, instance: StoredInstance, number: int, offer: Offer
) -> Bytes | memoryview:
    """One frame in the representation that was agreed."""
    if is_transcoded(instance, offer):
        return await read_transcoded(room, keepings, instance, number, offer.transfer_syntax)
    return await read_frame(room, keepings, instance, number)


def known_spec(instance: StoredInstance) -> ArraySpec | None:
    """How the frames of an instance are encoded, where the catalog knows it."""
    return None if instance.opaque_reason else _spec(instance.array_spec)


async def found_spec(room: Room, keepings: Keepings, instance: StoredInstance) -> ArraySpec | None:
    """The same of a deflated object too, which has to be inflated for that; None where there are no frames."""
    if not instance.opaque_reason or instance.transfer_syntax != DEFLATED:
        return known_spec(instance)
    return (await inflated(room, keepings, instance)).scan.spec


async def inflated(room: Room, keepings: Keepings, instance: StoredInstance) -> Inflated:
    """A deflated object as it was before."""
    if instance.transfer_syntax != DEFLATED:
        raise NotAcceptable(_not_addressed(instance, instance.opaque_reason))

    async def make() -> Inflated:
        return await anyio.to_thread.run_sync(partial(_inflate, room, instance), limiter=room.codec)

    return await keepings.inflated.get(instance.object_key, make, lambda opened: len(opened.data))


def _inflate(room: Room, instance: StoredInstance) -> Inflated:
    data = inflate(room.blobs.read_range(instance.object_key, 0, instance.size_bytes))
    return Inflated(data, scan(data))


def _not_addressed(instance: StoredInstance, reason: str) -> str:
    return f"The frames of instance {instance.instance_uid} cannot be told apart ({reason}); retrieve the instance."


@lru_cache(maxsize=1024)
def _spec(text: bytes) -> ArraySpec:
    return ArraySpec(**orjson.loads(text))


async def _chunk(room: Room, instance: StoredInstance, index: int) -> tuple[int, int]:
    """Offset and length of a chunk: by the catalog where that says it all, else by 16 bytes of the shard index."""
    if instance.chunk_count == 1:
        return instance.chunk_offset, instance.chunk_length
    if instance.chunk_stride is not None:
        return instance.chunk_offset + index * instance.chunk_stride, instance.chunk_length
    key = instance.object_key

    def read_now(offset: int, length: int) -> bytes:
        data = room.blobs.try_read_range(key, offset, length)
        if data is None:
            raise BlockingIOError
        return bytes(data)

    def read(offset: int, length: int) -> bytes:
        return bytes(room.blobs.read_range(key, offset, length))

    try:
        return frame_chunk(read_now, instance.object_bytes, instance.chunk_count, index)
    except BlockingIOError:
        return await anyio.to_thread.run_sync(
            frame_chunk, read, instance.object_bytes, instance.chunk_count, index, limiter=room.disk
        )
