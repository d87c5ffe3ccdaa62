"""C-STORE (PS3.4 annex B, PS3.7 9.1.1): the bytes that came, with a file meta in front, through the one way in.

Success is answered after the commit, never before: whoever has it can delete its copy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from readingroom.errors import Invalid, ReadingRoomError, TooLarge
from server.associations.association import Context, Memory, Message, Sink
from server.associations.commands import AFFECTED_CLASS, AFFECTED_INSTANCE, CommandSet
from server.dimse.service import NOT_AUTHORIZED, Served
from server.staging import Outcome, SentTo, Spool
from server.status import failure_reason
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

SUCCESS = 0x0000
WARNING_COERCED = 0xB000
WARNING_OTHER_CLASS = 0xB007
"""Coercion of data elements; data set does not match SOP class (PS3.4 table B.2-1)."""

_LONG = struct.Struct("<HH2sHI")
_SHORT = struct.Struct("<HH2sH")


class Keeper(Protocol):
    """What keeps objects: the archive's ingest, or the spool of a site."""

    def open_spool(self) -> Spool:
        """Where a large one is written as it comes."""

    def keep(self, body: bytearray | Spool, *, facility: str, source: str, sent_to: SentTo | None = None) -> Outcome:
        """Keep one; without an error the outcome is durable."""


class Growing:
    """A data set that is kept in memory until it is large, and then in a file of the store.

    Parameters
    ----------
    front
        What stands before it: preamble and file meta.
    """

    def __init__(self, ingest: Keeper, front: bytes, *, memory_bytes: int, most_bytes: int) -> None:
        self._ingest = ingest
        self._memory: Memory | None = Memory(most=memory_bytes, data=bytearray(front))
        self._spool: Spool | None = None
        self._size, self._most = len(front), most_bytes
        self.error: ReadingRoomError | None = None
        """Why it cannot be kept. The rest of it is read and dropped, so that the peer hears of that."""

    def write(self, data: memoryview) -> None:
        """Append; what goes wrong is in `error`."""
        if self.error is not None:
            return
        self._size += len(data)
        try:
            if self._size > self._most:
                raise TooLarge(f"An object has at most {self._most} bytes here.")
            if self._memory is not None and len(self._memory.data) + len(data) > self._memory.most:
                self._spool = self._ingest.open_spool()
                self._spool.write(self._memory.data)
                self._memory = None
            if self._spool is not None:
                self._spool.write(data)
            elif self._memory is not None:
                self._memory.write(data)
        except ReadingRoomError as error:
            self.error = error
            self.drop()

    def take(self) -> bytearray | Spool:
        """The whole, to be staged."""
        if self._spool is not None:
            spool, self._spool = self._spool, None
            return spool
        assert self._memory is not None, "it is in memory or in a file"
        return self._memory.data

    def drop(self) -> None:
        """Forget what has come of it."""
        if self._spool is not None:
            self._spool.discard()
            self._spool = None
        self._memory = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """Stores what peers send."""

    ingest: Keeper
    memory_bytes: int
    most_bytes: int

    def open(self, context: Context, command: CommandSet, calling: str) -> Sink:
        """Where the data set of a C-STORE request goes."""
        front = front_of(
            str(command.get(AFFECTED_CLASS, "")), str(command.get(AFFECTED_INSTANCE, "")), context, calling=calling
        )
        return Growing(self.ingest, front, memory_bytes=self.memory_bytes, most_bytes=self.most_bytes)

    def answer(self, served: Served, message: Message) -> None:
        """C-STORE."""
        if message.sink is None:
            status, comment = 0xC000, "The request has no data set."
        elif not served.peer.may_store:
            status, comment = NOT_AUTHORIZED, f"{served.peer.ae} may not store here."
        else:
            status, comment = self.store(
                message.context, message.command, message.sink, facility=served.facility, source=served.peer.ae
            )
        served.answer(message, status, comment)

    def store(
        self, context: Context, command: CommandSet, sink: Sink, *, facility: str, source: str
    ) -> tuple[int, str]:
        """Keep an object; status and error comment of the response."""
        assert isinstance(sink, Growing), "opened by this"
        try:
            if sink.error is not None:
                raise sink.error
            if command.get(AFFECTED_CLASS) != context.abstract_syntax:
                raise Invalid("The SOP class of the command is not that of its presentation context.")
            sent_to = SentTo(instance_uid=str(command.get(AFFECTED_INSTANCE, "")))
            outcome = self.ingest.keep(sink.take(), facility=facility, source=source, sent_to=sent_to)
            if outcome.error is not None:
                raise outcome.error
        except ReadingRoomError as error:
            return failure_reason(error), error.message
        finally:
            sink.drop()
        if outcome.sop_class not in (None, command[AFFECTED_CLASS]):
            return WARNING_OTHER_CLASS, "The data set is of another SOP class than the command; it is kept as such."
        return (WARNING_COERCED, "Attributes were coerced.") if outcome.original_attributes else (SUCCESS, "")


def front_of(sop_class: str, instance_uid: str, context: Context, *, calling: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1) for a data set that came over an association."""
    meta = b"".join(
        (
            _LONG.pack(2, 0x0001, b"OB", 0, 2) + b"\0\1",
            _text(0x0002, b"UI", sop_class),
            _text(0x0003, b"UI", instance_uid),
            _text(0x0010, b"UI", context.transfer_syntax),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _text(0x0016, b"AE", calling),
        )
    )
    return bytes(128) + b"DICM" + _SHORT.pack(2, 0, b"UL", 4) + len(meta).to_bytes(4, "little") + meta


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return _SHORT.pack(2, element, vr, len(value)) + value
