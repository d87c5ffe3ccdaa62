"""STOW-RS of metadata and bulk data apart (PS3.18 10.5.1.4, Figure 8.6-1): receives the parts, finds what they name.

Metadata is held in memory, within a bound; bulk data goes to one spool on disk, from which `storage.compose` makes
each instance's file when everything is there.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urljoin

import orjson

from readingroom.errors import Invalid, NotDicom, ReadingRoomError, TooLarge, UnsupportedMedia
from server.dicomweb.multipart import PartData, PartEnd, PartStart, parse_header_value, read_parts
from server.dicomweb.negotiation import COMPRESSED, DICOM_JSON, DICOM_XML, EXPLICIT_LITTLE_ENDIAN, OCTET_STREAM
from server.staging import Outcome, Spool
from storage.compose import BulkPart, compose
from storage.dicomjson import MetadataJson, first_value
from storage.nativexml import from_xml
from storage.part10 import check_uid

METADATA_TYPES = (DICOM_JSON, DICOM_XML)

_MAX_METADATA_BYTES = 32 << 20
"""All metadata of one request; parsed, it takes some ten times as much."""

_MAX_PARTS = 50_000
_IN_MEMORY = 8 << 20
_POUR = 1 << 20

_FRAME = re.compile(r"(?P<root>[^?]*)/frames/(?P<number>[1-9][0-9]{0,8})(?P<query>(?:\?.*)?)", re.DOTALL)

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Bulk:
    """A bulk data part: what it is called, what it says it is, and where it lies in the spool."""

    location: str
    media_type: str
    transfer_syntax: str
    offset: int
    length: int


class Separated:
    """The metadata and the bulk data of one request.

    Attributes
    ----------
    instances
        The data set of each instance, or why it cannot be read.
    """

    def __init__(self, media_type: str, base: str, max_object_bytes: int) -> None:
        self.instances: list[MetadataJson | ReadingRoomError] = []
        self._media_type = media_type
        self._base = base
        self._max_object_bytes = max_object_bytes
        self._spool: Spool | None = None
        self._bulk: dict[str, list[_Bulk]] = {}
        self._frames: dict[str, dict[int, list[_Bulk]]] = {}
        self._nameless = 0

    async def receive(
        self, chunks: AsyncIterator[bytes], boundary: bytes, *, run: Run, open_spool: Callable[[], Spool]
    ) -> None:
        """Take all parts in; `run` runs what blocks.

        Raises
        ------
        Invalid
            The body is no multipart message, or its metadata is no JSON array.
        TooLarge
            Past the bounds of a request.
        """
        self._spool = spool = await run(open_spool)
        documents: list[bytearray] = []
        metadata_bytes = parts = 0
        headers: dict[str, str] = {}
        pieces: list[memoryview] = []
        held = start = 0
        is_metadata = False
        async for event in read_parts(chunks, boundary):
            if isinstance(event, PartStart):
                parts += 1
                if parts > _MAX_PARTS:
                    raise TooLarge(f"The request has more than {_MAX_PARTS} parts; send them in several.")
                headers, start = event.headers, spool.size + held
                kind = parse_header_value(headers.get("content-type", ""))[0]
                is_metadata = kind == self._media_type or (not kind and parts == 1)
                if is_metadata:
                    documents.append(bytearray())
            elif isinstance(event, PartData) and is_metadata:
                metadata_bytes += len(event.data)
                if metadata_bytes > _MAX_METADATA_BYTES:
                    raise TooLarge(f"The request has more than {_MAX_METADATA_BYTES} bytes of metadata.")
                documents[-1] += event.data
            elif isinstance(event, PartData):
                pieces.append(event.data)
                held += len(event.data)
                if spool.size + held - start > self._max_object_bytes:
                    raise TooLarge(f"A bulk data part is longer than {self._max_object_bytes} bytes.")
                if held >= _POUR:
                    await run(partial(spool.write, b"".join(pieces)))
                    pieces, held = [], 0
            elif isinstance(event, PartEnd) and not is_metadata:
                self._add(headers, start, spool.size + held - start)
        await run(partial(spool.write, b"".join(pieces)))
        for document in documents:
            self.instances += await run(partial(_parse, document, self._media_type))

    async def receive_alone(self, chunks: AsyncIterator[bytes], *, run: Run) -> None:
        """Take in a body that is one document of metadata; raises as `receive` does."""
        document = bytearray()
        async for chunk in chunks:
            document += chunk
            if len(document) > _MAX_METADATA_BYTES:
                raise TooLarge(f"The request has more than {_MAX_METADATA_BYTES} bytes of metadata.")
        self.instances += await run(partial(_parse, document, self._media_type))

    def _add(self, headers: dict[str, str], offset: int, length: int) -> None:
        kind, parameters = parse_header_value(headers.get("content-type", OCTET_STREAM))
        location = headers.get("content-location", "")
        if not location:
            self._nameless += 1
            return
        location = self._resolved(location)
        syntax = parameters.get("transfer-syntax", "")
        bulk = _Bulk(location, kind, syntax, offset, length)
        self._bulk.setdefault(location, []).append(bulk)
        if frame := _FRAME.fullmatch(location):
            numbers = self._frames.setdefault(frame["root"] + frame["query"], {})
            numbers.setdefault(int(frame["number"]), []).append(bulk)

    def _resolved(self, uri: str) -> str:
        """A URI as an absolute one, so that relative and absolute names of a part agree (RFC 2557 5)."""
        try:
            return urljoin(self._base, uri.strip())
        except ValueError:
            return uri.strip()

    def compose(self, dataset: MetadataJson, open_spool: Callable[[], Spool]) -> bytes | Spool:
        """The Part 10 file of one instance; raises as `storage.compose.compose` does. Blocks."""
        composed = compose(dataset, self._find)
        if composed.size_bytes > self._max_object_bytes:
            raise TooLarge(f"The object is longer than {self._max_object_bytes} bytes.")
        if composed.size_bytes <= _IN_MEMORY:
            return b"".join(composed.pieces())
        spool = open_spool()
        try:
            for piece in composed.pieces():
                spool.write(piece)
        except BaseException:
            spool.discard()
            raise
        return spool

    def _find(self, uri: str, is_pixel_data: bool) -> Sequence[BulkPart]:
        """The parts of that name; of pixel data also those that are named as its frames (PS3.18 10.4.1.1.6)."""
        location = self._resolved(uri)
        found = self._bulk.get(location, [])
        if not found and is_pixel_data:
            numbered = self._frames.get(_root(location), {})
            for number in range(1, len(numbered) + 1):
                parts = numbered.get(number, [])
                if len(parts) != 1:
                    raise NotDicom(f"Frame {number} of {_brief(uri)} came {len(parts)} times; each has to come once.")
                found.append(parts[0])
        if not found:
            raise NotDicom(f"No part has the Content-Location {_brief(uri)}, which the metadata names.")
        return [self._part(one) for one in found]

    def _part(self, bulk: _Bulk) -> BulkPart:
        spool = self._spool
        assert spool is not None
        return BulkPart(
            name=f"Bulk data {_brief(bulk.location)}",
            length=bulk.length,
            read=lambda at, length: spool.read(bulk.offset + at, length),
            transfer_syntaxes=_transfer_syntaxes(bulk),
            is_video=bulk.media_type.startswith("video/"),
        )

    def unused(self) -> list[ReadingRoomError]:
        """What is wrong with the bulk data that no metadata names."""
        named = {self._resolved(uri) for instance in self.instances for uri in _uris(instance)}
        for root in {_root(location) for location in named if location not in self._bulk}:
            named.update(bulk.location for parts in self._frames.get(root, {}).values() for bulk in parts)
        errors: list[ReadingRoomError] = [
            NotDicom(f"No metadata names the bulk data {_brief(location)}.")
            for location in self._bulk
            if location not in named
        ]
        nameless = NotDicom("A bulk data part has no Content-Location, so no metadata can name it.")
        return errors + [nameless] * self._nameless

    def close(self) -> None:
        """Let go of the bulk data. Blocks."""
        if self._spool is not None:
            self._spool.discard()
            self._spool = None


def failure(dataset: MetadataJson, error: ReadingRoomError) -> Outcome:
    """An instance that could not be composed, by as much of its name as can be told."""

    def uid(key: str) -> str | None:
        try:
            return check_uid("", first_value(dataset, key))
        except (NotDicom, AttributeError, TypeError, LookupError):
            return None

    sop_class, instance_uid = uid("00080016"), uid("00080018")
    return Outcome(
        study_uid=uid("0020000D"),
        series_uid=uid("0020000E"),
        instance_uid=instance_uid if sop_class else None,
        sop_class=sop_class,
        error=error,
    )


def _parse(document: bytearray, media_type: str) -> list[MetadataJson | ReadingRoomError]:
    """The instances of one metadata part: an array of them in JSON, one in XML."""
    if media_type == DICOM_XML:
        try:
            return [from_xml(bytes(document))]
        except ReadingRoomError as error:
            return [NotDicom(error.message)]
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"The metadata is no JSON: {error}.") from None
    instances = found if isinstance(found, list) else [found]
    if len(instances) > _MAX_PARTS:
        raise TooLarge(f"The request has more than {_MAX_PARTS} instances; send them in several.")
    return [
        instance if isinstance(instance, dict) else NotDicom("An instance of the metadata is no JSON object.")
        for instance in instances
    ]


def _transfer_syntaxes(bulk: _Bulk) -> tuple[str, ...]:
    """The compressed transfer syntaxes that a part can be of: one that it names, or those of its media type."""
    can_be = tuple(syntax for syntax, types in COMPRESSED.items() if bulk.media_type in map(str.lower, types))
    syntax = bulk.transfer_syntax
    if not can_be and syntax in ("", EXPLICIT_LITTLE_ENDIAN):
        if bulk.media_type.startswith(("image/", "video/")):
            raise UnsupportedMedia(
                f"Bulk data of type {bulk.media_type[:40]} is not read; it is in no transfer syntax."
            )
        return ()
    if not syntax:
        return can_be
    if syntax not in can_be and not (syntax in COMPRESSED and bulk.media_type == OCTET_STREAM):
        raise UnsupportedMedia(
            f"Bulk data of type {bulk.media_type[:40]} cannot be in transfer syntax {syntax[:64]!r}."
        )
    return (syntax,)


def _root(location: str) -> str:
    """What the names of the frames of the pixel data at a URI begin with, and their query."""
    path, mark, query = location.partition("?")
    return (path.rpartition("/bulkdata/")[0] or path) + mark + query


def _uris(dataset: object) -> Iterator[str]:
    """All bulk data URIs of a data set, at any level."""
    waiting: list[Any] = [dataset]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, one in value.items():
                if key == "BulkDataURI":
                    yield str(one)
                else:
                    waiting.append(one)


def _brief(uri: str) -> str:
    return repr(uri if len(uri) <= 200 else f"{uri[:197]}...")
