"""multipart/related bodies (RFC 2387), made for STOW-RS and taken apart to be checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

from benchmarks.client import Reply, WrongAnswer

BOUNDARY = b"bench-boundary-7f3a"
STOW_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'


def pack(files: Iterable[bytes]) -> bytes:
    """Make a STOW-RS body of DICOM files (PS3.18 10.5.1)."""
    pieces = []
    for file in files:
        pieces += [b"--", BOUNDARY, b"\r\nContent-Type: application/dicom\r\n\r\n", file, b"\r\n"]
    return b"".join([*pieces, b"--", BOUNDARY, b"--\r\n"])


def unpack(reply: Reply) -> Iterator[bytes]:
    """Give the contents of the parts.

    Raises
    ------
    WrongAnswer
        The reply is not multipart, or a part does not end.
    """
    header = Message()
    header["content-type"] = reply.headers.get("content-type", "")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str):
        raise WrongAnswer(f"content-type {header['content-type']!r} names no boundary")
    delimiter = b"\r\n--" + boundary.encode()
    body = b"\r\n" + bytes(reply.body)
    at = body.find(delimiter)
    while at >= 0:
        at += len(delimiter)
        if body[at : at + 2] == b"--":
            return
        content = body.find(b"\r\n\r\n", at) + 4
        at = body.find(delimiter, content)
        if content >= 4 and at >= 0:
            yield body[content:at]
    raise WrongAnswer("a part of the multipart body does not end")


def only_part(reply: Reply) -> bytes:
    """Give the content of the one part there is; raises WrongAnswer when there are more or none."""
    parts = list(unpack(reply))
    if len(parts) != 1:
        raise WrongAnswer(f"{len(parts)} parts, not one")
    return parts[0]
