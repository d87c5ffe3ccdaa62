"""A data set in Implicit VR Little Endian (PS3.5 A.1), the transfer syntax that every application entity takes.

It is made of one in Explicit VR Little Endian as `storage.rewrite` writes it, where every sequence and item ends with a
delimiter: no length in it changes, and so it goes piece by piece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from readingroom.errors import NotAcceptable, NotDicom
from storage.dicomjson import LONG_HEADER, UNDEFINED, Buffer

_SHORT = struct.Struct("<HHBBH")
_LENGTH = struct.Struct("<L")
_ITEMS = 0xFFFE
_LONG = frozenset(vr.encode() for vr in LONG_HEADER)


def implicit(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """A data set in Explicit VR Little Endian, all of whose sequences have delimiters, in Implicit VR Little Endian.

    Parameters
    ----------
    pieces
        What follows the file meta information, cut anywhere.

    Raises
    ------
    NotDicom
        It ends within an element.
    NotAcceptable
        It holds compressed pixels, such as those of an icon.
    """
    held = bytearray()
    """What there is of a header that is not whole yet."""
    left = 0
    """Bytes of the value that is being passed on."""
    for piece in pieces:
        view = memoryview(piece)
        place = 0
        written = bytearray()
        while place < len(view):
            if left:
                taken = view[place : place + left]
                place += len(taken)
                left -= len(taken)
                if written:
                    yield bytes(written)
                    written = bytearray()
                yield taken
                continue
            missing = _header_bytes(held) - len(held)
            held += view[place : place + missing]
            place += missing
            if len(held) < _header_bytes(held):
                continue
            group, _, _, _, length = _SHORT.unpack_from(held)
            if group == _ITEMS:
                written += held
                length = 0
            else:
                if len(held) > _SHORT.size:
                    (length,) = _LENGTH.unpack_from(held, _SHORT.size)
                    if length == UNDEFINED and held[4:6] != b"SQ":
                        raise NotAcceptable("what is compressed within the data set has no form in Implicit VR")
                written += held[:4] + _LENGTH.pack(length)
            left = 0 if length == UNDEFINED else length
            held.clear()
        if written:
            yield bytes(written)
    if held or left:
        raise NotDicom("the data set ends within an element")


def _header_bytes(begun: bytearray) -> int:
    """How long a header is that begins so, as far as can be told."""
    if len(begun) < _SHORT.size or begun[:2] == b"\xfe\xff":
        return _SHORT.size
    return _SHORT.size + _LENGTH.size if bytes(begun[4:6]) in _LONG else _SHORT.size
