"""Media types and multipart/related messages, read strictly (RFC 9110 8.3.1, RFC 2046 5.1, RFC 2387)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA = re.compile(rf"({_TOKEN}/{_TOKEN})")
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})=(?:({_TOKEN})(?=\s*(?:;|$))|"((?:[^"\\]|\\.)*)"|([^;"]*))')
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_FIELD = re.compile(rf"({_TOKEN}):[ \t]*(.*?)[ \t]*")


class Malformed(ValueError):
    """A message that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaType:
    """A media type: its name and the names of its parameters in lower case.

    Attributes
    ----------
    blemishes
        What is wrong with how it is written, though it can be read.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    blemishes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a message; header names in lower case."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def media(self) -> MediaType:
        """Its Content-Type."""
        return read_media_type(self.headers.get("content-type", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """A whole message: its parts, and what is wrong with it though it can be read."""

    media: MediaType
    parts: tuple[Part, ...]
    blemishes: tuple[str, ...]


def read_media_type(text: str) -> MediaType:
    """Read the value of a Content-Type.

    Raises
    ------
    Malformed
        There is no type and subtype, or what follows is no parameter.
    """
    found = _MEDIA.match(text)
    if not found:
        raise Malformed(f"{text!r} is no media type")
    parameters: dict[str, str] = {}
    blemishes = []
    at = found.end()
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if not parameter:
            raise Malformed(f"{text[at:]!r} in {text!r} is no parameter")
        name, token, quoted, bare = parameter.groups()
        if bare is not None:
            blemishes.append(f"the value of {name} has to be quoted: {bare}")
        value = token or bare or re.sub(r"\\(.)", r"\1", quoted or "")
        if name.lower() in parameters:
            blemishes.append(f"the parameter {name} is there twice")
        parameters[name.lower()] = value
        at = parameter.end()
    return MediaType(name=found[1].lower(), parameters=parameters, blemishes=tuple(blemishes))


def read_multipart(content_type: str, body: bytes) -> Multipart:
    """Read a multipart/related message.

    Raises
    ------
    Malformed
        It is none, has no boundary, or does not end with it.
    """
    media = read_media_type(content_type)
    if media.name != "multipart/related":
        raise Malformed(f"the Content-Type is {content_type!r}, not multipart/related")
    boundary = media.parameters.get("boundary", "")
    blemishes = [*media.blemishes]
    if not boundary:
        raise Malformed(f"the Content-Type {content_type!r} names no boundary")
    if not _BOUNDARY.fullmatch(boundary):
        blemishes.append(f"RFC 2046 allows no boundary like {boundary!r}")
    if "type" not in media.parameters:
        blemishes.append("the Content-Type has no type parameter (RFC 2387 3.1)")
    delimiter = b"--" + boundary.encode("latin-1")
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if len(pieces) < 2:
        raise Malformed("the body does not hold its boundary")
    if pieces[0].strip(b"\r\n"):
        blemishes.append("something stands before the first boundary")
    if not pieces[-1].startswith(b"--"):
        raise Malformed("the body does not end with its closing boundary")
    parts = [_read_part(piece, blemishes) for piece in pieces[1:-1]]
    for number, part in enumerate(parts, 1):
        if "content-type" not in part.headers:
            blemishes.append(f"part {number} has no Content-Type")
        elif part.media.name != media.parameters.get("type", part.media.name).lower():
            blemishes.append(f"part {number} is {part.media.name}, not {media.parameters['type']} as type says")
    return Multipart(media=media, parts=tuple(parts), blemishes=tuple(blemishes))


def _read_part(piece: bytes, blemishes: list[str]) -> Part:
    line, crlf, rest = piece.partition(b"\r\n")
    if line.strip(b" \t") or not crlf:
        raise Malformed("a boundary line does not end after its boundary")
    if rest.startswith(b"\r\n"):
        head, content = b"", rest[2:]
    else:
        head, blank, content = rest.partition(b"\r\n\r\n")
        if not blank:
            raise Malformed("the head of a part does not end with an empty line")
    headers: dict[str, str] = {}
    for text in filter(None, head.decode("latin-1").split("\r\n")):
        found = _FIELD.fullmatch(text)
        if not found:
            raise Malformed(f"{text!r} is no header of a part")
        if found[1].lower() in headers:
            blemishes.append(f"a part has two headers {found[1]}")
        headers[found[1].lower()] = found[2]
    return Part(headers=headers, body=content)


def write_multipart(
    parts: Iterable[tuple[str | Mapping[str, str], bytes]], *, boundary: str = "conformance", preamble: bytes = b""
) -> bytes:
    """Write the body of a multipart/related message of parts that are a Content-Type, or all headers, and a body."""
    written = [preamble]
    for headers, body in parts:
        fields = {"Content-Type": headers} if isinstance(headers, str) else headers
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        written.append(f"--{boundary}\r\n{head}\r\n".encode() + body + b"\r\n")
    written.append(f"--{boundary}--\r\n".encode())
    return b"".join(written)
