"""How the server and the process of a plugin talk: JSON messages on a socket, each after its length.

What is large does not travel here: a message may carry a file descriptor, behind which the other side finds it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from readingroom.errors import Invalid

PROTOCOL = 2
"""Moves when a message changes its meaning; both sides have to have the same."""

LONGEST = (1 << 32) - 1
_LENGTH = struct.Struct("<I")
_AT_ONCE = 1 << 16
_encoded = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

type Message = dict[str, Any]


class Json(bytes):
    """The JSON text of a value: it goes into a message as it is."""


class Messages:
    """Puts together what comes in pieces."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """What has come."""
        self._data += data

    def take(self) -> Message | None:
        """The next message that is whole.

        Raises
        ------
        Invalid
            It is longer than allowed, or no JSON object.
        """
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > self._max_bytes:
            raise Invalid(f"A message of {length:,} bytes is more than the {self._max_bytes:,} that are taken.")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        try:
            message = json.loads(bytes(self._data[_LENGTH.size : end]))
        except (ValueError, RecursionError):
            raise Invalid("A message is no JSON.") from None
        del self._data[:end]
        if not isinstance(message, dict):
            raise Invalid("A message is no JSON object.")
        return message


class Channel:
    """The end of the socket on which one waits; a plugin's process has it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._messages = Messages(LONGEST)
        self._fds: list[int] = []

    def send(self, message: Message, *, max_bytes: int = LONGEST) -> None:
        """Send a message; raises `Invalid` where it is longer than `max_bytes`."""
        send(self._sock, pack(message, max_bytes=max_bytes))

    def receive(self) -> Message:
        """Wait for the next message; raises `EOFError` where the other side is gone."""
        while (message := self._messages.take()) is None:
            data, fds, _flags, _address = socket.recv_fds(self._sock, _AT_ONCE, 4)
            self._fds += fds
            if not data:
                raise EOFError
            self._messages.add(data)
        return message

    def take_fd(self) -> int:
        """The file descriptor that came with the last message."""
        if not self._fds:
            raise Invalid("A message came without the file that it tells of.")
        fd = self._fds.pop(0)
        os.set_inheritable(fd, False)
        return fd


def pack(message: Mapping[str, Any], *, max_bytes: int = LONGEST) -> bytes:
    """A message as it is sent; raises `Invalid` where it is too long, or no JSON."""
    text = json_of(message)
    if len(text) > max_bytes:
        raise Invalid(f"A message of {len(text):,} bytes is more than the {max_bytes:,} that are taken.")
    return _LENGTH.pack(len(text)) + text


def json_of(value: Any) -> Json:
    """The JSON text of a value, and of an object each of whose values may be JSON already."""
    if isinstance(value, Json):
        return value
    ready = {name: one for name, one in value.items() if isinstance(one, Json)} if isinstance(value, dict) else {}
    try:
        if not ready:
            return Json(_encoded(value).encode())
        fields = [_encoded({name: one for name, one in value.items() if name not in ready})[1:-1].encode()]
        fields += [b"%b:%b" % (_encoded(name).encode(), one) for name, one in ready.items()]
        return Json(b"{%b}" % b",".join(filter(None, fields)))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"A message is no JSON: {error}.") from None


def send(sock: socket.socket, packed: bytes, *, fd: int | None = None) -> None:
    """Send what `pack` made, within the socket's time-out, and with it a file descriptor."""
    data = memoryview(packed)
    if fd is not None:
        data = data[socket.send_fds(sock, [data[:_AT_ONCE]], [fd]) :]
    sock.sendall(data)
