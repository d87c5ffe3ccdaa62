"""What is kept of one instance: its JSON, its URL, its file as received, and the same written anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import anyio.to_thread
import sqlalchemy as sa
from starlette.requests import Request

from readingroom.errors import Invalid
from readingroom.model import Scope
from server.auth import caller_of, require
from server.dicomweb.negotiation import Offer
from server.dicomweb.respond import Made, Piece, Stored
from server.exporting import received_file
from server.room import Room
from storage.arrays import ArraySpec
from storage.catalog.find import (
    StoredInstance,
    StoredSeries,
    StoredStudy,
    find_instance,
    find_series,
    find_study,
    list_instances,
    read_metadata,
    read_overlay,
)
from storage.encode import transcode_exactly
from storage.rewrite import rewrite


def find_with_metadata(
    connection: sa.Connection,
    scope: Scope,
    study_uid: str,
    series_uid: str,
    instance_uid: str,
    version: int | None = None,
    *,
    original: bool = False,
) -> tuple[StoredInstance, bytes]:
    """An instance and its stored JSON, in one read; `original` gives both as they were received."""
    instance = find_instance(connection, scope, study_uid, series_uid, instance_uid, version)
    json = read_metadata(connection, instance.id, original=original)
    return as_received(instance) if original else instance, json


def version_of(request: Request) -> int | None:
    """The version that a request asks for by ``?version=1``; None for the current one.

    Where other bytes came under a UID that was held already, the earlier ones stay retrievable.
    """
    query = request.scope["query_string"]
    if b"version=" not in query:
        return None
    asked = request.query_params.get("version", "")
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10):
        raise Invalid(f"version={asked[:20]!r} is no version; they count from 1.")
    return int(asked)


def original_of(request: Request) -> bool:
    """Whether a request asks by ``?original=true`` for what was received, whatever has been corrected since.

    That is not for everybody: a correction may hide whose study it was taken for. Raises `Refused` or `Invalid`.
    """
    if b"original=" not in request.scope["query_string"]:
        return False
    asked = request.query_params.get("original", "")
    if asked not in ("true", "false"):
        raise Invalid(f"original={asked[:20]!r} is neither true nor false.")
    if asked == "true":
        require(caller_of(request).actor, "original")
    return asked == "true"


def as_received(instance: StoredInstance) -> StoredInstance:
    """The instance without what lies over it."""
    return replace(instance, overlay_version=0)


def with_version(url: str, version: int | None, *, original: bool = False) -> str:
    """The URL of that version of what the URL names, or of what was received of it."""
    query = [f"version={version}"] * (version is not None) + ["original=true"] * original
    return f"{url}?{'&'.join(query)}" if query else url


def find_all(
    connection: sa.Connection, scope: Scope, study_uid: str, series_uid: str | None
) -> tuple[StoredStudy | StoredSeries, list[StoredInstance]]:
    """A study, or one of its series, with the current instances."""
    if series_uid is None:
        study = find_study(connection, scope, study_uid)
        return study, list_instances(connection, study)
    series = find_series(connection, scope, study_uid, series_uid)
    return series, list_instances(connection, series)


def instance_url(service_root: str, instance: StoredInstance) -> str:
    """Where an instance is retrieved."""
    return f"{service_root}/studies/{instance.study_uid}/series/{instance.series_uid}/instances/{instance.instance_uid}"


def file_body(room: Room, instance: StoredInstance, offer: Offer) -> list[Piece]:
    """The file as it was received, or written anew: in the transfer syntax that was agreed, as it was corrected."""
    if offer.transfer_syntax == instance.transfer_syntax and not instance.overlay_version:
        return [Stored(instance.object_key, 0, instance.size_bytes)]
    return [Made(lambda: _rewritten(room, instance, offer.transfer_syntax))]


async def _rewritten(room: Room, instance: StoredInstance, transfer_syntax: str) -> AsyncIterator[bytes | memoryview]:
    def transcode(bitstream: bytes, spec: ArraySpec, target: str) -> bytes:
        return room.codecs.call(transcode_exactly, bitstream, spec, target)

    def pieces() -> Iterator[bytes]:
        overlay = room.query(read_overlay, instance) if instance.overlay_version else {}
        for piece in rewrite(
            received_file(room.blobs, instance), transfer_syntax, overlay=overlay, transcode=transcode
        ):
            yield bytes(piece)  # a view of the file must not be read from disk by the event loop

    made = pieces()
    while piece := await anyio.to_thread.run_sync(next, made, b"", limiter=room.codec):
        yield piece
