"""multipart/related bodies (RFC 2387, PS3.18 8.6), written and read by hand so that a test sees every byte."""

from __future__ import annotations

import re
from collections.abc import Iterable

import httpx

DICOM = "application/dicom"


def content_type(boundary: str = "XX", type_: str = DICOM) -> str:
    return f'multipart/related; type="{type_}"; boundary="{boundary}"'


def encode(parts: Iterable[bytes], *, boundary: str = "XX", type_: str = DICOM) -> bytes:
    """A body with one part of that media type for each of `parts`."""
    pieces = [f"--{boundary}\r\nContent-Type: {type_}\r\n\r\n".encode() + part + b"\r\n" for part in parts]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode()


def parts_of(response: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """The headers (lower-case names) and the bytes of each part of an answer; fails on what is not well formed."""
    media_type = response.headers["content-type"]
    assert media_type.lower().startswith("multipart/related"), media_type
    found = re.search(r'boundary=(?:"([^"]+)"|([^;\s]+))', media_type)
    assert found, media_type
    mark = b"--" + (found[1] or found[2]).encode()
    body = response.content
    assert body.startswith((mark, b"\r\n" + mark)), body[:100]
    first, *rest = (b"\r\n" + body.removeprefix(b"\r\n")).split(b"\r\n" + mark)
    assert first == b"", "nothing may stand before the first boundary"
    assert rest[-1].strip() == b"--", "the body does not end with the closing boundary"
    parts = []
    for piece in rest[:-1]:
        head, gap, data = piece.partition(b"\r\n\r\n")
        assert gap, piece[:100]
        lines = head.decode().strip().split("\r\n")
        parts.append(({name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}, data))
    return parts
