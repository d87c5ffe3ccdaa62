"""The streaming multipart reader: every cut of the stream gives the same parts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readingroom.errors import Invalid, UnsupportedMedia
from server.dicomweb.multipart import PartData, PartEnd, PartStart, boundary_of, parse_header_value, read_parts


def parts_of(pieces: Sequence[bytes], boundary: bytes = b"b") -> list[tuple[dict[str, str], bytes]]:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> list[tuple[dict[str, str], bytes]]:
        found: list[tuple[dict[str, str], bytes]] = []
        is_open = False
        async for event in read_parts(stream(), boundary):
            if isinstance(event, PartStart):
                assert not is_open
                found.append((event.headers, b""))
                is_open = True
            elif isinstance(event, PartData):
                found[-1] = (found[-1][0], found[-1][1] + bytes(event.data))
            else:
                assert isinstance(event, PartEnd)
                is_open = False
        assert not is_open
        return found

    return asyncio.run(collect())


def cut(body: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


BODY = (
    b"preamble to skip\r\n--b \r\nContent-Type: application/dicom\r\nX-Odd:  1 \r\n\r\n\x00\r\n--c\r\nabc\r\n--"
    b"\r\n--b\r\n\r\nno headers\r\n--b\r\nContent-Type: a/b\r\n\r\n--bait\r\n--b\r\nA: b\r\n\r\n\r\n--b--\r\nepilogue"
)
PARTS = [
    ({"content-type": "application/dicom", "x-odd": "1"}, b"\x00\r\n--c\r\nabc\r\n--"),
    ({}, b"no headers"),
    ({"content-type": "a/b"}, b"--bait"),
    ({"a": "b"}, b""),
]


def test_parts_come_out_whole() -> None:
    assert parts_of([BODY]) == PARTS


def test_a_stream_of_single_bytes_gives_the_same_parts() -> None:
    assert parts_of([BODY[i : i + 1] for i in range(len(BODY))]) == PARTS


def test_every_single_cut_gives_the_same_parts() -> None:
    for at in range(len(BODY)):
        assert parts_of(cut(BODY, [at])) == PARTS, at


@settings(max_examples=200, deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\r\n--b", b"")), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 16),
)
def test_any_bodies_survive_any_cuts(bodies: list[bytes], seed: int) -> None:
    body = b"".join(b"--b\r\nN: %d\r\n\r\n" % i + one + b"\r\n" for i, one in enumerate(bodies)) + b"--b--"
    if any(b"\r\n--b" in b"\r\n" + one for one in bodies):
        return
    rng = random.Random(seed)
    cuts = [rng.randrange(len(body)) for _ in range(rng.randrange(12))]
    assert [data for _, data in parts_of(cut(body, cuts))] == bodies


def test_a_part_without_headers_or_body_is_a_part() -> None:
    assert parts_of([b"--b\r\n\r\n\r\n--b--"]) == [({}, b"")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b\r\nContent-Type: a/b\r\n\r\nnever closed",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--",
        b"--b\r\nA: b",
        b"--b\r\nA: " + b"x" * 20_000,
        b"--b" + b" " * 1000,
        b"--b\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--b--",
    ],
)
def test_malformed_bodies_are_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        parts_of([body])


def test_boundaries_come_quoted_and_bare() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary=abc')[0] == b"abc"
    assert boundary_of('Multipart/Related;boundary="a b;\\"c";type=application/dicom')[0] == b'a b;"c'
    assert boundary_of("multipart/related; boundary=x; TYPE=application/dicom")[1]["type"] == "application/dicom"


@pytest.mark.parametrize(
    "value", ["multipart/related", 'multipart/related; boundary=""', f"multipart/related; boundary={'x' * 71}"]
)
def test_an_unusable_boundary_is_invalid(value: str) -> None:
    with pytest.raises(Invalid):
        boundary_of(value)


@pytest.mark.parametrize("value", ["", "application/dicom", "multipart/form-data; boundary=x"])
def test_another_media_type_is_unsupported(value: str) -> None:
    with pytest.raises(UnsupportedMedia):
        boundary_of(value)


def test_header_values_split_into_parameters() -> None:
    assert parse_header_value('a/B; x="1;2"; Y=3 ;z') == ("a/b", {"x": "1;2", "y": "3"})
