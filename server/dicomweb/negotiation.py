"""Which representation a request gets: PS3.18 8.7, the media types that both sides can agree on.

The ``accept`` query parameter is looked at first, then the Accept header by q value; a wildcard gets the default, and
what cannot be agreed on is `NotAcceptable`. A view lists what it can send as `Offer`, the default first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import unquote

from pydicom import uid
from starlette.requests import Request

from readingroom.errors import NotAcceptable
from storage import pixels
from storage.arrays import ArraySpec
from storage.encode import is_lossy, targets_of

EXPLICIT_LITTLE_ENDIAN = str(uid.ExplicitVRLittleEndian)
DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
OCTET_STREAM = "application/octet-stream"

DEFLATED = str(uid.DeflatedExplicitVRLittleEndian)
NEVER_SENT = frozenset({str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRBigEndian)})
"""Transfer syntaxes that PS3.18 8.7.3 keeps off the web."""

NATIVE = NEVER_SENT | {EXPLICIT_LITTLE_ENDIAN, DEFLATED}

_JPEG = ("image/jpeg",)
_JPEG_LS = ("image/jls", "image/x-jls")
_JPEG_2000 = ("image/jp2",)
_JPEG_2000_PART_2 = ("image/jpx",)
_HTJ2K = ("image/jphc",)
_JPEG_XL = ("image/jxl",)
_MPEG_2 = ("video/mpeg", "video/mpeg2")
_MPEG_4 = ("video/mp4",)
_HEVC = ("video/H265",)

COMPRESSED: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.5": ("image/dicom-rle", "image/x-dicom-rle"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 57, 70)], _JPEG),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)], _JPEG_LS),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)], _JPEG_2000),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)], _JPEG_2000_PART_2),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (100, 101)], _MPEG_2),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}.1" for n in (100, 101)], _MPEG_2),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (102, 103, 104, 105, 106)], _MPEG_4),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}.1" for n in (102, 103, 104, 105, 106)], _MPEG_4),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (107, 108)], _HEVC),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)], _JPEG_XL),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)], _HTJ2K),
}
"""Media types of compressed bulk data by transfer syntax (Table 8.7.3-5), the older spellings behind the newer."""

_DEFAULTS = frozenset({"1.2.840.10008.1.2.5", *(f"1.2.840.10008.1.2.4.{n}" for n in (70, 80, 90, 110, 201))})
"""The default transfer syntax of each media type that frames are transcoded to (Table 8.7.3-5)."""

_NO_PIXELS = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (94, 95, 204, 205)})
"""JPIP: the pixels are behind a URL in the data set."""

DECODABLE = pixels.DECODABLE - NATIVE
"""Compressed still images that are decompressed."""

LOSSY = frozenset(
    {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 81, 91, 93, 111, 112, 203)}
    | {syntax for syntax, types in COMPRESSED.items() if types[0].startswith("video/")}
)
"""What may hold lossy pixels: PS3.18 8.7.3.4 lets it be sent as it is to who names no transfer syntax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRange:
    """One media range that a client accepts.

    Attributes
    ----------
    media_type
        ``image/jpeg``, ``image/*`` or ``*/*``, lower case; of the parts where `multipart` is set.
    multipart
        Whether ``multipart/related`` was asked for; None for a bare ``*/*``, which takes either.
    transfer_syntax
        A UID, ``*`` for any, or empty where none was named.
    weight
        The q value; 0 refuses.
    """

    media_type: str
    multipart: bool | None = False
    transfer_syntax: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One representation that a view can send.

    Attributes
    ----------
    media_type
        What the client has to accept.
    multipart
        Whether it goes as part of ``multipart/related``.
    transfer_syntax
        Of instances and bulk data; empty for what has none.
    must_be_named
        Only for a client that names this transfer syntax or ``*``, since no name means Explicit VR Little Endian.
    sent_as
        The media type it is sent under, where that is not `media_type`.
    """

    media_type: str
    multipart: bool = False
    transfer_syntax: str = ""
    must_be_named: bool = False
    sent_as: str = ""

    @property
    def name(self) -> str:
        """The media type of the answer, or of the parts of a multipart answer."""
        return self.sent_as or self.media_type

    @property
    def part_type(self) -> str:
        """The Content-Type of the representation, or of its part in a multipart message."""
        return f"{self.name}; transfer-syntax={self.transfer_syntax}" if self.transfer_syntax else self.name


class Offers(tuple[Offer, ...]):
    """What can be sent of something stored, the default first.

    Told apart by identity, since they are made once: hashing a hundred offers for each frame would cost as much as
    reading it.
    """

    __hash__ = object.__hash__
    __eq__ = object.__eq__


Accept = tuple[str, str]

# A quote that is never closed runs to the end: one pass, whatever is sent.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)+', re.DOTALL)
_FIELD = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*+"?)+', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def accepted(request: Request) -> Accept:
    """The ``accept`` query parameter and the Accept header of a request, as `choose` takes them.

    Raises
    ------
    NotAcceptable
        Neither is there (PS3.18 8.7.5).
    """
    header = ", ".join(request.headers.getlist("accept"))
    query = _accept_parameter(request.scope["query_string"])
    if not header and not query:
        raise NotAcceptable("The request has no Accept header; PS3.18 8.7.5 requires one, such as */*.")
    return query, header


def agree(accept: Accept, offers: tuple[Offer, ...]) -> Offer | None:
    """The representation to send (PS3.18 8.7.8.1), or None where the client accepts none of `offers`.

    Parameters
    ----------
    accept
        What `accepted` returned.
    offers
        What can be sent, the default first.
    """
    for text in accept:
        if text and (offer := _best(text, offers)):
            return offer
    return None


def choose(accept: Accept, offers: tuple[Offer, ...]) -> Offer:
    """The same; raises `NotAcceptable`, with what there is, instead of returning None."""
    offer = agree(accept, offers)
    if offer is None:
        there_is = ", ".join(dict.fromkeys(map(_described, offers))) or "nothing"
        asked = " and ".join(repr(text[:200]) for text in accept if text)
        raise NotAcceptable(f"Nothing that {asked} accepts can be sent; there is: {there_is}.")
    return offer


def _described(offer: Offer) -> str:
    """An offer in the words of an Accept header."""
    syntax = f"; transfer-syntax={offer.transfer_syntax}" if offer.transfer_syntax else ""
    return f'multipart/related; type="{offer.media_type}"{syntax}' if offer.multipart else offer.media_type + syntax


@lru_cache(maxsize=1024)
def instance_offers(transfer_syntax: str, spec: ArraySpec | None = None, *, has_single_part: bool) -> Offers:
    """What can be sent of a stored Part 10 file (PS3.18 8.7.3.1, 8.7.3.4), in one part only of a single instance.

    Implicit VR and Big Endian never leave: they go as Explicit VR Little Endian. What is lossy, or holds no still
    images, goes as it is to who names no transfer syntax; what is lossless is decompressed for them. Every other
    transfer syntax has to be named, and none that would change the pixels is offered.

    Parameters
    ----------
    transfer_syntax
        The stored one.
    spec
        How its frames are encoded; None where they cannot be addressed, or there are none.
    """
    offers = []
    if transfer_syntax not in NEVER_SENT:
        is_default = transfer_syntax == EXPLICIT_LITTLE_ENDIAN or transfer_syntax in LOSSY | _NO_PIXELS
        offers.append((transfer_syntax, not is_default))
    if transfer_syntax in NEVER_SENT | DECODABLE or transfer_syntax == DEFLATED:
        offers.append((EXPLICIT_LITTLE_ENDIAN, False))
    if spec is not None:
        others = [target for target in targets_of(spec) if not is_lossy(spec, target)]
    else:
        others = [DEFLATED] if transfer_syntax in NATIVE else []
    offers += [(target, True) for target in others if target not in (EXPLICIT_LITTLE_ENDIAN, transfer_syntax)]
    return Offers(
        Offer(media_type=DICOM, multipart=multipart, transfer_syntax=syntax, must_be_named=must_be_named)
        for multipart in ((True, False) if has_single_part else (True,))
        for syntax, must_be_named in offers
    )


@lru_cache(maxsize=1024)
def frame_offers(transfer_syntax: str, spec: ArraySpec | None = None, *, has_single_part: bool) -> Offers:
    """What can be sent of the frames of a stored object (PS3.18 8.7.3.3), in one part only of a single frame.

    ``application/octet-stream; transfer-syntax=*`` is how viewers ask for the bitstream as stored, whatever its media
    type; the answer names that type, and so it does where they name a transfer syntax. A media type alone gets the
    bitstream as stored, if it is of that type; else its default transfer syntax of Table 8.7.3-5.

    Parameters
    ----------
    transfer_syntax
        The stored one.
    spec
        How the frames are encoded; None where that is not known, and they are offered as stored or decompressed.
    """
    stored = [Offer(media_type=name, transfer_syntax=transfer_syntax) for name in COMPRESSED.get(transfer_syntax, ())]
    offers = _by_name(transfer_syntax) if stored else []
    if transfer_syntax in NATIVE | DECODABLE:
        offers.append(Offer(media_type=OCTET_STREAM, transfer_syntax=EXPLICIT_LITTLE_ENDIAN))
    offers += stored
    for target in targets_of(spec) if spec else ():
        if target in COMPRESSED:
            offers += _by_name(target)
            if target in _DEFAULTS:
                offers += [Offer(media_type=name, transfer_syntax=target) for name in COMPRESSED[target]]
    in_parts = [replace(offer, multipart=True) for offer in offers]
    return Offers([*in_parts, *offers] if has_single_part else in_parts)


def _by_name(transfer_syntax: str) -> list[Offer]:
    """Frames for who names a compressed transfer syntax, under its own media type, an older one, or none."""
    name, *_ = names = COMPRESSED[transfer_syntax]
    return [
        Offer(
            media_type=asked,
            transfer_syntax=transfer_syntax,
            must_be_named=True,
            sent_as=name if asked == OCTET_STREAM else "",
        )
        for asked in (*names, OCTET_STREAM)
    ]


@lru_cache(maxsize=256)
def parse_accept(text: str) -> tuple[MediaRange, ...]:
    """The media ranges of an Accept value in its own order; what is not valid is ignored (PS3.18 8.7.7)."""
    ranges = (_media_range(element.strip()) for element in _ELEMENT.findall(text))
    return tuple(found for found in ranges if found)


def _media_range(element: str) -> MediaRange | None:
    first, *fields = (field.strip() for field in _FIELD.findall(element) or ("",))
    media_type = first.lower()
    if media_type.count("/") != 1 or media_type[0] == "/" or media_type[-1] == "/":
        return None
    parameters: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition("=")
        parameters.setdefault(name.strip().lower(), _unquoted(value.strip()))
    try:
        weight = min(max(float(parameters.get("q", "1")), 0.0), 1.0)
    except ValueError:
        return None
    multipart: bool | None = media_type in ("multipart/related", "multipart/*")
    if multipart:
        media_type = parameters.get("type", "*/*").lower()
    elif media_type == "*/*":
        multipart = None
    return MediaRange(
        media_type=media_type,
        multipart=multipart,
        transfer_syntax=parameters.get("transfer-syntax", ""),
        weight=weight,
    )


def _unquoted(value: str) -> str:
    if value[:1] != '"':
        return value
    return _ESCAPED.sub(r"\1", value[1:-1] if len(value) > 1 and value[-1] == '"' else value[1:])


@lru_cache(maxsize=512)
def _best(text: str, offers: tuple[Offer, ...]) -> Offer | None:
    """The offer of the highest weight; then the one that was named most exactly, or earlier, or is offered earlier."""
    ranges = parse_accept(text)
    best: tuple[float, int, int] | None = None
    found = None
    for offer in offers:
        matching = [
            (specificity, -place, r.weight) for place, r in enumerate(ranges) if (specificity := _fit(r, offer))
        ]
        if not matching:
            continue
        specificity, place, weight = max(matching)
        rank = (weight, specificity, place)
        if weight > 0 and (best is None or rank > best):
            best, found = rank, offer
    return found


def _fit(accepted: MediaRange, offer: Offer) -> int:
    """How exactly a media range names an offer, from 1; 0 where it does not (RFC 9110 12.5.1)."""
    if accepted.multipart is not None and accepted.multipart != offer.multipart:
        return 0
    if accepted.media_type == offer.media_type.lower():
        exactness = 5
    elif accepted.media_type == "*/*":
        exactness = 1
    elif accepted.media_type[-2:] == "/*" and offer.media_type.startswith(accepted.media_type[:-1]):
        exactness = 3
    else:
        return 0
    if not accepted.transfer_syntax:
        return 0 if offer.must_be_named else exactness
    if not offer.transfer_syntax:
        return exactness  # a parameter that means nothing here is ignored (PS3.18 8.7.7)
    if accepted.transfer_syntax == "*":
        return exactness
    return exactness + 1 if accepted.transfer_syntax == offer.transfer_syntax else 0


def _accept_parameter(query_string: bytes) -> str:
    """All values of the ``accept`` query parameter (PS3.18 8.3.3.1).

    A plus sign stays one: few clients escape the one in ``application/dicom+json``.
    """
    if b"accept=" not in query_string:
        return ""
    pairs = (pair.partition("=") for pair in query_string.decode("latin-1").split("&"))
    return ", ".join(unquote(value) for name, _, value in pairs if name == "accept")
