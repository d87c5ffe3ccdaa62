"""Reports and encapsulated documents, rendered: as text, as the document that they are, or as a picture of its page."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import anyio.to_thread
import numpy as np
import orjson
import sqlalchemy as sa
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from readingroom.errors import NotAcceptable, NotDicom
from readingroom.model import Scope
from server.dicomweb.bulk import Value, body_of
from server.dicomweb.files import instance_url
from server.dicomweb.kept import Keepings
from server.dicomweb.negotiation import Offer
from server.dicomweb.pictures import dataset_of, opened, seen_of
from server.dicomweb.respond import Piece, Stored
from server.rendering.encoding import JPEG, PNG, check_profile, encoded
from server.rendering.look import Look
from server.rendering.placing import Placed, Placing, fitted
from server.rendering.report import as_html, as_plain, read_report
from server.room import Room
from storage.catalog.find import StoredInstance, find_study, list_instances, read_metadata
from storage.nativexml import to_xml
from storage.objects import BASE_URL_MARK
from storage.pdf import first_page

HTML, PLAIN, XML, PDF = "text/html", "text/plain", "text/xml", "application/pdf"

REPORT = (
    Offer(media_type=HTML, sent_as="text/html; charset=utf-8"),
    Offer(media_type=PLAIN, sent_as="text/plain; charset=utf-8"),
    Offer(media_type=XML),
)
PDF_DOCUMENT = (Offer(media_type=PDF), Offer(media_type=JPEG), Offer(media_type=PNG))
CDA_DOCUMENT = (Offer(media_type=XML),)

_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_ENCAPSULATED = {"1.2.840.10008.5.1.4.1.1.104.1": PDF_DOCUMENT, "1.2.840.10008.5.1.4.1.1.104.2": CDA_DOCUMENT}
_DOCUMENT = "00420011"

SANDBOX = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-top-navigation",
    "x-content-type-options": "nosniff",
}
"""What a browser is told of a text that others wrote: it may run and load nothing, only follow a link."""


def document_offers(instance: StoredInstance) -> tuple[Offer, ...]:
    """What a document can be rendered as (PS3.18 Table 8.7.4-1, category Text); nothing where it is none."""
    if instance.sop_class.startswith(_REPORTS):
        return REPORT
    return _ENCAPSULATED.get(instance.sop_class, ())


async def document(
    room: Room,
    keepings: Keepings,
    scope: Scope,
    service_root: str,
    instance: StoredInstance,
    look: Look,
    offer: Offer,
) -> Sequence[Piece]:
    """The body of a document, in the representation that was agreed.

    Raises
    ------
    NotAcceptable
        The document is broken, or is not what its SOP class says.
    """
    if instance.sop_class.startswith(_REPORTS):
        return [await _report(room, keepings, scope, service_root, instance, offer.media_type)]
    if offer.media_type in (JPEG, PNG):
        check_profile(offer.media_type, look)
        key = seen_of(instance), look, offer.media_type
        make = partial(_page, room, keepings, instance, look, offer.media_type)
        return [await keepings.rendered.get(key, make, len)]
    return await _as_stored(room, keepings, instance)


def guarded(answer: Response, offer: Offer) -> Response:
    """An answer with the headers that a text of others needs."""
    if offer.media_type in (HTML, PLAIN, XML):
        answer.headers.update(SANDBOX)
    elif offer.media_type == PDF:
        answer.headers["x-content-type-options"] = "nosniff"
    return answer


def check_charset(request: Request) -> None:
    """Refuse a request that does not accept UTF-8, in which all text is (PS3.18 8.8).

    Raises
    ------
    NotAcceptable
        The ``charset`` parameter, or else the Accept-Charset header, names other character sets alone.
    """
    asked = request.query_params.get("charset") or request.headers.get("accept-charset", "")
    names = {word.partition(";")[0].strip().lower() for word in asked.split(",")} - {""}
    if names and not names & {"utf-8", "utf8", "iso_ir 192", "*"}:
        raise NotAcceptable(f"Text is sent in UTF-8 alone, which {asked[:60]!r} does not accept.")


async def _report(
    room: Room, keepings: Keepings, scope: Scope, service_root: str, instance: StoredInstance, media_type: str
) -> bytes:
    """As text to be read, or as the Native DICOM Model (PS3.19 A.1), the one XML that all reports have."""
    stored = await room.read(read_metadata, instance.id)
    inflated = await opened(room, keepings, instance)
    # A report refers to instances by UID alone, which for the most part are in its own study.
    places = await room.read_apart(_places, scope, instance.study_uid, service_root) if media_type == HTML else {}

    def make() -> bytes:
        if media_type == XML:
            return to_xml(orjson.loads(zlib.decompress(stored).replace(BASE_URL_MARK.encode(), service_root.encode())))
        report = read_report(dataset_of(room, instance, stored, inflated))
        text = as_html(report, lambda uid: places.get(uid, "")) if media_type == HTML else as_plain(report)
        return text.encode("utf-8", "replace")

    return await anyio.to_thread.run_sync(make, limiter=room.codec)


def _places(connection: sa.Connection, scope: Scope, study_uid: str, service_root: str) -> dict[str, str]:
    """Where the instances of a study are seen."""
    instances = list_instances(connection, find_study(connection, scope, study_uid))
    return {one.instance_uid: f"{instance_url(service_root, one)}/rendered" for one in instances}


async def _page(room: Room, keepings: Keepings, instance: StoredInstance, look: Look, media_type: str) -> bytes:
    """The first page as a picture."""
    stored = await room.read(read_metadata, instance.id)
    inflated = await opened(room, keepings, instance)

    def make() -> bytes:
        content = dataset_of(room, instance, stored, inflated).binary("EncapsulatedDocument")
        view = look.viewport
        has_region = view is not None and replace(view, left=0, top=0) != replace(view, region_width=None)
        box = (view.width, view.height) if view and not has_region else None
        try:
            page = room.codecs.call(first_page, content, box)
        except NotDicom as error:
            raise NotAcceptable(f"The document is not rendered: {error.message}.") from None
        image = Image.fromarray(np.ascontiguousarray(page))
        image = fitted(Placed(Placing(), image.width, image.height), view).placing.image(image)
        return encoded(image, media_type, look)

    return await anyio.to_thread.run_sync(make, limiter=room.codec)


async def _as_stored(room: Room, keepings: Keepings, instance: StoredInstance) -> Sequence[Piece]:
    """The encapsulated document as it is, without the byte that pads it to an even length."""
    stored = await room.read(read_metadata, instance.id)
    metadata = orjson.loads(zlib.decompress(stored).replace(BASE_URL_MARK.encode(), b""))
    element = metadata.get(_DOCUMENT, {})
    length = (metadata.get("00420015", {}).get("Value") or [None])[0]
    if "BulkDataURI" in element:
        value = Value(location="", offers=(), instance=instance, path=_DOCUMENT)
        pieces = list(await body_of(room, keepings, value, Offer(media_type=PDF)))
    elif "InlineBinary" in element:
        pieces = [dataset_of(room, instance, stored).binary("EncapsulatedDocument")]
    else:
        raise NotAcceptable("There is no document in this object.")
    return [_unpadded(piece, length) for piece in pieces]


def _unpadded(piece: Piece, length: object) -> Piece:
    """A piece without its last byte, where `length` says that this is no part of the document."""
    if not isinstance(length, int):
        return piece
    if isinstance(piece, Stored):
        return Stored(piece.key, piece.offset, length) if piece.length == length + 1 else piece
    if isinstance(piece, bytes | bytearray | memoryview):
        return memoryview(piece)[:length] if len(piece) == length + 1 else piece
    return piece
