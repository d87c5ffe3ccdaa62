"""Frames in a stream, whatever stands between them."""

from __future__ import annotations

import pytest

from server.hl7.mllp import Frames, TooMuch, framed


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[index : index + size] for index in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_found_however_the_stream_is_cut(size: int) -> None:
    frames = Frames()
    stream = framed(b"one") + framed(b"two\rlines\r") + framed(b"")
    assert [one for piece in pieces(stream, size) for one in frames.feed(piece)] == [b"one", b"two\rlines\r", b""]
    assert not frames.is_amid


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"hello\r\n\x0bone\x1c\r", [b"one"]),
        (b"\x0bone\x1c\x0btwo\x1c", [b"one", b"two"]),  # the last carriage return is missing
        (b"\x0bhalf of o\x0bone\x1c\r", [b"one"]),
        (b"\x1c\r\x1c\r\x0bone\x1c\r", [b"one"]),
        (b"\r\n\r\n\x00\xff", []),
        (b"\x0bone\x1c\r\x0btw", [b"one"]),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_stands_between_frames_is_dropped(stream: bytes, found: list[bytes], size: int) -> None:
    frames = Frames()
    assert [one for piece in pieces(stream, size) for one in frames.feed(piece)] == found


def test_a_message_without_end_is_not_kept() -> None:
    frames = Frames(100)
    with pytest.raises(TooMuch):
        frames.feed(b"\x0b" + b"x" * 200)
    assert Frames(100).feed(b"x" * 1000) == []  # what is no message takes no memory
