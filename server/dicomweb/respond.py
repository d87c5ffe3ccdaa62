"""Answers with binary bodies: single part with ranges, multipart/related, and neither held in memory as a whole.

A body is a sequence of pieces: bytes that are ready, bytes of stored objects, and bytes that are made when their turn
comes. What is stored is read as it is sent, a mebibyte at a time, and no faster than the client takes it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from readingroom.errors import Unavailable
from server.dicomweb.negotiation import Offer
from server.room import Room

PIECE_BYTES = 1 << 20

CACHING = {"cache-control": "private, no-cache", "vary": "Accept"}
"""A browser may keep it, and asks each time whether it still holds: the bytes under a UID may be superseded."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a stored object."""

    key: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are made when their turn comes; how many is not known before."""

    make: Callable[[], AsyncIterator[bytes | memoryview]]


Ready = bytes | bytearray | memoryview
Piece = Ready | Stored | Made


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a multipart message: its Content-Type and Content-Location, and its body."""

    media_type: str
    location: str
    body: Sequence[Piece]


class Buffers(Response):
    """A response of a few buffers, sent as one: to copy half a megabyte costs less than two small packets more."""

    def __init__(self, buffers: Sequence[Ready], *, headers: dict[str, str], status_code: int = 200) -> None:
        super().__init__(b"".join(buffers), status_code, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


async def single_part(request: Request, room: Room, offer: Offer, body: Sequence[Piece], *, etag: str) -> Response:
    """A single-part answer; of a body of known length the client may ask for a range (RFC 9110 14)."""
    headers = {"content-type": offer.part_type, "etag": etag, **CACHING}
    size = size_of(body)
    if size is None:
        return await streamed(request, room, body, headers)
    headers["accept-ranges"] = "bytes"
    if not size or (wanted := _range(request, size, etag)) is None:
        return await _sized(request, room, body, size, headers)
    start, stop = wanted
    if start >= stop:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}", "accept-ranges": "bytes"})
    headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return await _sized(request, room, _cut(body, start, stop), stop - start, headers, status_code=206)


async def multipart(
    request: Request, room: Room, media_type: str, parts: Iterable[Part], *, etag: str, warning: str = ""
) -> Response:
    """A multipart/related answer (PS3.18 8.6.1.2, RFC 2387); `media_type` is that of the first part.

    `warning` says what is missing of a partial answer (PS3.18 8.5: 206 with a Warning).
    """
    boundary = token_hex(16)
    body: list[Piece] = []
    for part in parts:
        body.append(
            f"{'\r\n' if body else ''}--{boundary}\r\n"
            f"Content-Type: {part.media_type}\r\nContent-Location: {part.location}\r\n\r\n".encode()
        )
        body += part.body
    body.append(f"\r\n--{boundary}--\r\n".encode())
    # The boundary is new each time, so these bytes are not those of the last answer: a weak validator.
    headers = {
        "content-type": f'multipart/related; type="{media_type}"; boundary={boundary}',
        "etag": weak(etag),
        **CACHING,
    }
    if warning:
        headers["warning"] = f'299 readingroom "{warning}"'
    size = size_of(body)
    status_code = 206 if warning else 200
    if size is None:
        return await streamed(request, room, body, headers, status_code=status_code)
    return await _sized(request, room, body, size, headers, status_code=status_code)


def not_modified(request: Request, etag: str) -> Response | None:
    """304 where the client holds this very representation (RFC 9110 13.1.2)."""
    held = request.headers.get("if-none-match")
    if held is None:
        return None
    tags = [tag.strip().removeprefix("W/") for tag in held.split(",")]
    if "*" not in tags and etag.removeprefix("W/") not in tags:
        return None
    return Response(status_code=304, headers={"etag": etag, **CACHING})


def weak(etag: str) -> str:
    """The validator for what means the same and may differ in its bytes (RFC 9110 8.8.1)."""
    return etag if etag.startswith("W/") else f"W/{etag}"


def size_of(body: Iterable[Piece]) -> int | None:
    """How many bytes a body has; None where some of them are made on the way."""
    size = 0
    for piece in body:
        if isinstance(piece, Made):
            return None
        size += piece.length if isinstance(piece, Stored) else len(piece)
    return size


async def read_pieces(room: Room, body: Iterable[Piece]) -> AsyncIterator[bytes | memoryview]:
    """The bytes of a body, as they are needed."""
    for piece in body:
        if isinstance(piece, Made):
            async for made in piece.make():
                yield made
        elif isinstance(piece, Stored):
            for at in range(0, piece.length, PIECE_BYTES):
                yield memoryview(await _read(room, piece, at, min(PIECE_BYTES, piece.length - at)))
        else:
            yield memoryview(piece)


async def _read(room: Room, stored: Stored, at: int, length: int) -> Ready:
    data = await room.read_range(stored.key, stored.offset + at, length)
    if len(data) != length:
        # Length and status are out; to break off is the only way left to say that something is wrong.
        raise Unavailable(f"The stored object {stored.key} is shorter than the catalog says.")
    return data


async def _sized(
    request: Request, room: Room, body: Sequence[Piece], size: int, headers: dict[str, str], status_code: int = 200
) -> Response:
    if request.method != "HEAD" and size <= PIECE_BYTES:
        return Buffers([piece async for piece in read_pieces(room, body)], headers=headers, status_code=status_code)
    headers["content-length"] = str(size)
    return await streamed(request, room, body, headers, status_code=status_code)


async def streamed(
    request: Request, room: Room, body: Sequence[Piece], headers: dict[str, str], status_code: int = 200
) -> Response:
    """An answer that is read or made as it is sent; what is made is begun now, while it can still be an error."""
    if request.method == "HEAD":
        answer = Response(status_code=status_code, headers=headers)
        if "content-length" not in headers:
            del answer.headers["content-length"]  # not known, which is not zero
        return answer
    at = next((at for at, piece in enumerate(body) if isinstance(piece, Made)), None)
    if at is not None:
        made = cast(Made, body[at]).make()
        first = await anext(made, b"")
        body = [*body[:at], first, Made(lambda: made), *body[at + 1 :]]
    return StreamingResponse(read_pieces(room, body), status_code=status_code, headers=headers)


_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.ASCII)


def _range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Start and stop of the one range asked for; an empty one where it cannot be met, None where there is none.

    Several ranges, other units and malformed ones are ignored, as RFC 9110 14.2 lets a server do.
    """
    text = request.headers.get("range")
    found = _RANGE.fullmatch(text.strip()) if text and request.method == "GET" else None
    if not found or found.groups() == ("", ""):
        return None
    if_range = request.headers.get("if-range")
    if if_range is not None and (if_range != etag or etag.startswith("W/")):
        return None
    first, last = found.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _cut(body: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    """Bytes `start` to `stop` of a body of known length."""
    cut: list[Piece] = []
    at = 0
    for piece in body:
        assert not isinstance(piece, Made)
        length = piece.length if isinstance(piece, Stored) else len(piece)
        first, last = max(start - at, 0), min(stop - at, length)
        if first < last:
            if isinstance(piece, Stored):
                cut.append(Stored(piece.key, piece.offset + first, last - first))
            else:
                cut.append(memoryview(piece)[first:last])
        at += length
    return cut
