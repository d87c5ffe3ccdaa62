"""Instances as one zip file that is a DICOM file-set with its DICOMDIR (PS3.18 8.6.1.3, PS3.10 8).

It is written as it is sent: pixels hardly shrink, so files are stored plainly, and what each one's length and checksum
turned out to be follows it (a data descriptor).
"""

from __future__ import annotations

import asyncio
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from uuid import NAMESPACE_OID, uuid5

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from server.dicomweb.files import file_body
from server.dicomweb.negotiation import Offer, Offers
from server.dicomweb.respond import CACHING, Made, read_pieces, streamed
from server.room import Room
from storage.catalog.find import StoredInstance, each_metadata
from storage.fileset import Member, dicomdir, directory_keys, record_type
from storage.objects import BASE_URL_MARK

ZIP = "application/zip"

_LARGE = 1 << 31
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16

Chosen = Sequence[tuple[StoredInstance, Offer]]


@lru_cache(maxsize=1024)
def in_a_zip(offers: tuple[Offer, ...]) -> Offers:
    """What can be sent in a zip file where these can be sent: the files that can come in parts (PS3.18 8.7.3.1)."""
    return Offers(replace(offer, media_type=ZIP, multipart=False) for offer in offers if offer.multipart)


async def zipped(request: Request, room: Room, chosen: Chosen, *, name: str, etag: str, warning: str = "") -> Response:
    """The zip file of these instances, each in the transfer syntax that was agreed; `name` is the file's."""
    headers = {
        "content-type": ZIP,
        "content-disposition": f'attachment; filename="{name}.zip"',
        "etag": etag,
        **CACHING,
    }
    if warning:
        headers["warning"] = f'299 readingroom "{warning}"'
    status_code = 206 if warning else 200
    return await streamed(request, room, [Made(lambda: _archive(room, chosen, name))], headers, status_code=status_code)


class _Sink:
    """What zipfile writes to, until it is taken on."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, b: bytes, /) -> int:
        self._pieces.append(b)
        return len(b)

    def flush(self) -> None:
        """Asked for by zipfile."""

    def close(self) -> None:
        """Asked for by zipfile."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


async def _archive(room: Room, chosen: Chosen, name: str) -> AsyncIterator[bytes]:
    file_ids = list(_file_ids(chosen))
    directory = asyncio.create_task(room.read_apart(_directory, chosen, file_ids, name))
    sink = _Sink()
    try:
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for (instance, offer), file_id in zip(chosen, file_ids, strict=True):
                entry = _entry("/".join(file_id), instance)
                with archive.open(entry, "w", force_zip64=_most_bytes(instance) > _LARGE) as file:
                    async for piece in read_pieces(room, file_body(room, instance, offer)):
                        file.write(piece)  # its checksum takes less time than to wake a thread for it
                        yield sink.take()
            archive.writestr(_entry("DICOMDIR", chosen[0][0]), await directory)
    finally:
        directory.cancel()  # of a client that went away
    yield sink.take()


def _file_ids(chosen: Chosen) -> Iterator[tuple[str, str, str]]:
    """File IDs by series and place in it: eight capitals and digits a component (PS3.10 8.2)."""
    series: dict[str, tuple[int, int]] = {}
    for instance, _ in chosen:
        number, count = series.get(instance.series_uid, (len(series) + 1, 0))
        series[instance.series_uid] = number, count + 1
        yield "DICOM", f"SE{number:06}", f"IM{count + 1:06}"


def _directory(connection: sa.Connection, chosen: Chosen, file_ids: Sequence[tuple[str, ...]], name: str) -> bytes:
    members = []
    stored = each_metadata(connection, [instance for instance, _ in chosen])
    for (instance, offer), file_id, blob in zip(chosen, file_ids, stored, strict=True):
        kind = record_type(instance.sop_class)
        metadata = orjson.loads(zlib.decompress(blob).replace(BASE_URL_MARK.encode(), b""))
        members.append(
            Member(
                file_id=file_id,
                kind=kind,
                sop_class=instance.sop_class,
                instance_uid=instance.instance_uid,
                transfer_syntax=offer.transfer_syntax,
                keys=directory_keys(kind, metadata),
            )
        )
    return dicomdir(members, f"2.25.{uuid5(NAMESPACE_OID, f'readingroom file-set {name}').int}")


def _entry(name: str, instance: StoredInstance) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, max(instance.received_at.timetuple()[:6], _EARLIEST))
    entry.external_attr = _MODE
    return entry


def _most_bytes(instance: StoredInstance) -> int:
    """More bytes than a file can have, decompressed or not."""
    pixels = (instance.rows or 0) * (instance.columns or 0) * instance.frame_count
    return instance.size_bytes + pixels * 16
