"""Reads a multipart/related body as it streams in (RFC 2046 5.1, RFC 2387): parts come out in pieces, never whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from readingroom.errors import Invalid, UnsupportedMedia

_MAX_HEADER_BYTES = 16 << 10
_MAX_HEADER_LINES = 64
_MAX_BOUNDARY_LINE = 256
_MAX_AROUND = 1 << 20  # what may stand before the first boundary, or after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStart:
    """A part begins; header names in lower case."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """A piece of the part's body."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = PartStart | PartData | PartEnd


def parse_header_value(value: str) -> tuple[str, dict[str, str]]:
    """Split a header value such as ``multipart/related; type="a/b"; boundary=x`` (RFC 9110 5.6.6).

    Returns
    -------
    tuple
        The value in lower case, and its parameters: names in lower case, values unquoted.
    """
    main, _, rest = value.partition(";")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        equals = rest.find("=", position)
        if equals < 0:
            break
        name = rest[position:equals].strip(" \t;").lower()
        position = equals + 1
        while position < len(rest) and rest[position] in " \t":
            position += 1
        if position < len(rest) and rest[position] == '"':
            text = []
            position += 1
            while position < len(rest) and rest[position] != '"':
                position += rest[position] == "\\"
                text.append(rest[position : position + 1])
                position += 1
            parameters[name] = "".join(text)
            position = rest.find(";", position)
            position = len(rest) if position < 0 else position + 1
        else:
            end = rest.find(";", position)
            end = len(rest) if end < 0 else end
            parameters[name] = rest[position:end].strip()
            position = end + 1
    return main.strip().lower(), parameters


def boundary_of(content_type: str) -> tuple[bytes, dict[str, str]]:
    """The boundary of a ``multipart/related`` Content-Type, and its parameters.

    Raises
    ------
    UnsupportedMedia
        It is another media type.
    Invalid
        It has no boundary, or one that RFC 2046 does not allow.
    """
    kind, parameters = parse_header_value(content_type)
    if kind != "multipart/related":
        raise UnsupportedMedia(
            f'The body is {kind or "of no stated type"}; send multipart/related; type="application/dicom".'
        )
    boundary = parameters.get("boundary", "")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii() or not boundary.isprintable():
        raise Invalid("The Content-Type has no usable boundary: 1 to 70 printable ASCII characters are needed.")
    return boundary.encode(), parameters


async def read_parts(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[Event]:
    """The parts of a body, in order: one `PartStart`, any number of `PartData`, one `PartEnd` each.

    Text before the first boundary and after the last is skipped. Data is a view of the chunk it came in.

    Raises
    ------
    Invalid
        A boundary or a part's headers are malformed, or the body ends before its closing boundary.
    """
    delimiter = b"\r\n--" + boundary
    keep = len(delimiter) - 1
    buffer = b"\r\n"  # so that a boundary at the very start looks like any other
    is_open = False  # a part is open: what comes before the next delimiter is its data
    data = 0  # where undelivered data of the open part begins
    around = 0  # bytes that belong to no part
    async for chunk in chunks:
        if is_open and len(chunk) > keep and delimiter not in buffer + chunk[:keep]:
            # Mere data, as most chunks are: what was held back is delivered, and the chunk looked at where it is.
            if len(buffer) > data:
                yield PartData(memoryview(buffer)[data:])
            buffer, data = chunk, 0
        else:
            buffer += chunk
        search = 0  # where the next delimiter may begin
        while True:
            at = buffer.find(delimiter, search)
            if at < 0:
                rest = max(len(buffer) - keep, search)
                break
            rest = at
            line = at + len(delimiter)
            if buffer.startswith(b"--", line):
                if is_open:
                    if at > data:
                        yield PartData(memoryview(buffer)[data:at])
                    yield PartEnd()
                around = len(buffer) - line
                async for rest_of_it in chunks:  # an epilogue, if any
                    around += len(rest_of_it)
                    if around > _MAX_AROUND:
                        raise Invalid("The body goes on and on after its closing boundary.")
                return
            line_end = buffer.find(b"\r\n", line, line + _MAX_BOUNDARY_LINE)
            if line_end < 0:
                if len(buffer) - line >= _MAX_BOUNDARY_LINE:
                    raise Invalid("A multipart boundary line does not end.")
                break
            if buffer[line:line_end].strip(b" \t"):
                search = line  # only begins like the boundary: data, or a longer boundary of a nested multipart
                continue
            # No headers at all is a blank line; it may also be where they end.
            stop = buffer.find(b"\r\n\r\n", line_end, line_end + _MAX_HEADER_BYTES)
            if stop < 0:
                if len(buffer) - line_end >= _MAX_HEADER_BYTES:
                    raise Invalid(f"The headers of a part are longer than {_MAX_HEADER_BYTES} bytes.")
                break
            headers = _parse_headers(buffer[line_end + 2 : stop])
            if is_open:
                if at > data:
                    yield PartData(memoryview(buffer)[data:at])
                yield PartEnd()
            is_open = True
            yield PartStart(headers=headers)
            data = stop + 4
            search = stop + 2  # the line break after the headers may be that of the next delimiter: an empty part
        if is_open and rest > data:
            yield PartData(memoryview(buffer)[data:rest])
            data = rest
        around += 0 if is_open else rest
        if around > _MAX_AROUND:
            raise Invalid(f"The first {_MAX_AROUND} bytes of the body hold no boundary as the Content-Type names it.")
        buffer = buffer[rest:]
        data = max(data - rest, 0)
    raise Invalid("The multipart body ends before its closing boundary.")


def _parse_headers(block: bytes) -> dict[str, str]:
    lines = block.split(b"\r\n") if block else []
    if len(lines) > _MAX_HEADER_LINES:
        raise Invalid(f"A part has more than {_MAX_HEADER_LINES} header lines.")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise Invalid("A header line of a part has no colon.")
        headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return headers
