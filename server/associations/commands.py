"""Command sets of DIMSE messages (PS3.7 section 6.3 and annex E): a few short elements, implicit VR little endian."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from readingroom.errors import Invalid

type Value = int | str
type CommandSet = dict[int, Value]
"""By element number, for the group is always 0000."""

AFFECTED_CLASS: Final = 0x0002
REQUESTED_CLASS: Final = 0x0003
FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
RESPONDED_TO: Final = 0x0120
DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
COMMENT: Final = 0x0902
AFFECTED_INSTANCE: Final = 0x1000
REQUESTED_INSTANCE: Final = 0x1001
EVENT_TYPE: Final = 0x1002
ACTION_TYPE: Final = 0x1008
ERROR_ID: Final = 0x0903
ATTRIBUTES: Final = 0x1005
"""Attribute Identifier List: here the tags as hex digits, with backslashes between them."""
MOVE_ORIGINATOR: Final = 0x1030
MOVE_ORIGINATOR_ID: Final = 0x1031
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023

NO_DATA_SET: Final = 0x0101
HAS_DATA_SET: Final = 0x0001
RESPONSE: Final = 0x8000
"""In Command Field, what makes the response of a request."""

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, C_CANCEL = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
N_EVENT_REPORT, N_GET, N_SET, N_ACTION, N_CREATE, N_DELETE = 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150

_SHORT = frozenset(
    (
        *(FIELD, MESSAGE_ID, RESPONDED_TO, PRIORITY, DATA_SET_TYPE, STATUS, EVENT_TYPE, ACTION_TYPE),
        *(REMAINING, COMPLETED, FAILED, WARNING, ERROR_ID, MOVE_ORIGINATOR_ID),
    )
)
_UIDS = frozenset((AFFECTED_CLASS, REQUESTED_CLASS, AFFECTED_INSTANCE, REQUESTED_INSTANCE))
_HEADER = struct.Struct("<HHL")
_MOST_BYTES = 1 << 16
_LONGEST_COMMENT = 64


def read_command(data: bytes | bytearray) -> CommandSet:
    """The elements of a command set; raises `Invalid` where it is none."""
    if len(data) > _MOST_BYTES:
        raise Invalid(f"A command set has {len(data)} bytes; {_MOST_BYTES} are the most.")
    command: CommandSet = {}
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise Invalid("A command set ends within an element.")
        group, element, length = _HEADER.unpack_from(data, place)
        place += 8
        if group != 0 or place + length > len(data):
            raise Invalid("A command set has an element of another group, or one that ends behind it.")
        value = bytes(data[place : place + length])
        place += length
        if element in _SHORT:
            if length < 2:
                raise Invalid(f"(0000,{element:04X}) of a command set is empty.")
            command[element] = int.from_bytes(value[:2], "little")
        elif element == ATTRIBUTES:
            tags = struct.iter_unpack("<HH", value[: length - length % 4])
            command[element] = "\\".join(f"{group:04X}{number:04X}" for group, number in tags)
        elif element != 0:
            command[element] = value.decode("ascii", "replace").strip("\0 ")
    if FIELD not in command:
        raise Invalid("A command set has no Command Field (0000,0100).")
    return command


def write_command(command: Mapping[int, Value]) -> bytes:
    """The bytes of a command set, with its group length."""
    body = b"".join(_element(element, command[element]) for element in sorted(command))
    return _HEADER.pack(0, 0, 4) + len(body).to_bytes(4, "little") + body


def response_to(command: Mapping[int, Value], status: int, comment: str = "", **more: Value) -> CommandSet:
    """The response of a request, without a data set.

    Parameters
    ----------
    comment
        What was wrong; the 64 characters that an Error Comment may have of it.
    """
    told: CommandSet = {
        FIELD: int(command[FIELD]) | RESPONSE,
        RESPONDED_TO: command.get(MESSAGE_ID, 0),
        DATA_SET_TYPE: NO_DATA_SET,
        STATUS: status,
    }
    for element in (AFFECTED_CLASS, AFFECTED_INSTANCE):
        if element in command:
            told[element] = command[element]
    if comment:
        told[COMMENT] = comment[:_LONGEST_COMMENT]
    return told


def _element(element: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _HEADER.pack(0, element, 2) + value.to_bytes(2, "little")
    if element == ATTRIBUTES:
        tags = b"".join(struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16)) for tag in value.split("\\"))
        return _HEADER.pack(0, element, len(tags)) + tags
    text = value.encode("ascii", "replace")
    if len(text) % 2:
        text += b"\0" if element in _UIDS else b" "
    return _HEADER.pack(0, element, len(text)) + text
