"""Gives instances to others, by STOW-RS (PS3.18 10.5) or C-STORE (PS3.4 annex B), and tells what they answer of each.

An object goes as it came; one that was corrected goes as it is shown, and where a transfer syntax is asked for its
pixels are written in that one. What is sent twice is the same object with the same UIDs, so who has it already loses
nothing.

| answer | what follows |
|---|---|
| the instance is among those referenced; 0000, Bxxx; 0111: it is there already | it is sent |
| it has failed with A7xx or 0110; nothing is said of it | it is sent again, later |
| it has failed with another reason; 400, 409, 413, 415, 422 | it is refused |
| 401, 403, 404, another 4yz, 5yz, no answer of a DICOMweb service, none; no association | it is left alone a while |
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import IO, Any, Literal, Protocol

import sqlalchemy as sa

from readingroom.errors import NotAcceptable, ReadingRoomError, RetryLater, Unreachable
from readingroom.outbound import Answer, Network, ask, check, origin_of
from server.codecs import Codecs
from server.exporting import received_file
from server.reports.channels.access import bearer, trust
from server.sending import Sender
from server.settings import ArchiveSettings, DimsePeer
from storage.arrays import ArraySpec
from storage.blobs import Blobs
from storage.catalog.find import StoredInstance, read_overlay
from storage.dicomjson import Buffer
from storage.encode import transcode_exactly
from storage.rewrite import rewrite

Ending = Literal["sent", "refused", "later"]

_DICOM = "application/dicom"
_PIECE = 1 << 20
_IN_MEMORY = 16 << 20
_SLOWEST = 100_000
"""Bytes in a second: so much longer an answer may take, the more is sent."""
_PROCESSING_FAILURE, _DUPLICATE = 0x0110, 0x0111
_REFUSED = frozenset({400, 409, 413, 415, 422})
_REFERENCED, _FAILED, _INSTANCE, _REASON = "00081199", "00081198", "00081155", "00081197"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a destination says of one instance; `code` is its word for that."""

    ending: Ending
    code: str = ""


class Destination(Protocol):
    """Takes instances, in a transfer syntax or as they are stored, and tells of each what became of it, by its UID.

    It raises `Unreachable` where nobody answers or nobody may ask, and `RetryLater` where all of them may be taken
    later.
    """

    def send(self, instances: Sequence[StoredInstance], transfer_syntax: str | None) -> Mapping[str, Told]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Gives files of instances as others are to have them."""

    engine: sa.Engine
    blobs: Blobs
    codecs: Codecs

    def open(
        self, instance: StoredInstance, transfer_syntax: str | None, kept: ExitStack
    ) -> tuple[int, Iterator[bytes]]:
        """The size of a file, and its bytes, in pieces that are there until `kept` is closed.

        Pixels that cannot be had in that transfer syntax without loss are given as they are stored.
        """
        received = received_file(self.blobs, instance)
        if transfer_syntax not in (None, instance.transfer_syntax) or instance.overlay_version:
            for target in dict.fromkeys((transfer_syntax, None)):
                spool = kept.enter_context(_spool())
                try:
                    return self._write_anew(instance, received, target, spool), _pieces_of(spool)
                except NotAcceptable:
                    if target is None and instance.overlay_version:
                        raise
        view = memoryview(received)
        return instance.size_bytes, (bytes(view[at : at + _PIECE]) for at in range(0, instance.size_bytes, _PIECE))

    def _write_anew(self, instance: StoredInstance, received: Buffer, target: str | None, spool: IO[bytes]) -> int:
        overlay: dict[str, Any] = {}
        if instance.overlay_version:
            with self.engine.connect() as connection:
                overlay = read_overlay(connection, instance)

        def transcode(bitstream: bytes, spec: ArraySpec, syntax: str) -> bytes:
            return self.codecs.call(transcode_exactly, bitstream, spec, syntax)

        for piece in rewrite(received, target, overlay=overlay, transcode=transcode):
            spool.write(piece)
        size = spool.tell()
        spool.seek(0)
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class WebArchive:
    """An archive with DICOMweb services; a `Destination`.

    Attributes
    ----------
    networks
        Networks beside the public Internet where it may be.
    """

    name: str
    settings: ArchiveSettings
    outgoing: Outgoing
    networks: Sequence[Network] = ()

    def send(self, instances: Sequence[StoredInstance], transfer_syntax: str | None) -> Mapping[str, Told]:
        """In one request; where the archive refuses it as a whole, in one for each."""
        answer = self._post(instances, transfer_syntax)
        if answer.status in _REFUSED and not _lists(answer):
            if len(instances) == 1:
                return {instances[0].instance_uid: Told(ending="refused", code=str(answer.status))}
            told: dict[str, Told] = {}
            for one in instances:
                told |= self.send([one], transfer_syntax)
            return told
        if answer.status not in (200, 202, 409):
            self._check(answer)
        return _judged(answer, [one.instance_uid for one in instances])

    def _post(self, instances: Sequence[StoredInstance], transfer_syntax: str | None) -> Answer:
        url = str(self.settings.url).rstrip("/")
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode()
        end = f"--{boundary}--\r\n".encode()
        with ExitStack() as kept:
            files = [self.outgoing.open(one, transfer_syntax, kept) for one in instances]
            size = sum(len(head) + length + 2 for length, _ in files) + len(end)

            def body() -> Iterator[bytes]:
                for _, pieces in files:
                    yield head
                    yield from pieces
                    yield b"\r\n"
                yield end

            return ask(
                "POST",
                f"{url}/studies",
                body(),
                {
                    "Content-Type": f'multipart/related; type="{_DICOM}"; boundary={boundary}',
                    "Content-Length": str(size),
                    "Accept": "application/dicom+json",
                    **bearer(self.settings.token),
                },
                networks=self.networks,
                seconds=self.settings.seconds + size / _SLOWEST,
                context=trust(self.settings.ca) if origin_of(url).scheme == "https" else None,
            )

    def _check(self, answer: Answer) -> None:
        if answer.status < 500 and answer.status not in (408, 425, 429):
            raise Unreachable(f"Archive {self.name} answers {answer.status}; are its url and its token right?")
        check(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerArchive:
    """An application entity; a `Destination`."""

    peer: DimsePeer
    sender: Sender

    def send(self, instances: Sequence[StoredInstance], transfer_syntax: str | None) -> Mapping[str, Told]:
        """Over one association; where that breaks, nothing is told of those that were still to go."""
        told: dict[str, Told] = {}
        try:
            for sent in replace(self.sender, prefers=transfer_syntax).send(self.peer, instances):
                status = sent.outcome.status
                ending = "sent" if sent.is_kept else _failed(status)
                told[sent.instance.instance_uid] = Told(ending=ending, code=f"{status:04X}")
        except ReadingRoomError:
            if not told:
                raise
        return told


def _failed(status: int) -> Ending:
    """What follows from a status, or failure reason, that is no success (PS3.4 B.2.3, PS3.18 10.5.3.1.2)."""
    return "later" if status >> 8 == 0xA7 or status == _PROCESSING_FAILURE else "refused"


def _spool() -> AbstractContextManager[IO[bytes]]:
    return tempfile.SpooledTemporaryFile(_IN_MEMORY)


def _pieces_of(spool: IO[bytes]) -> Iterator[bytes]:
    while piece := spool.read(_PIECE):
        yield piece


def _lists(answer: Answer) -> dict[str, list[dict[str, Any]]]:
    """The sequences of a Store Instances Response (PS3.18 10.5.3.1.2); none where it is none."""
    try:
        told = json.loads(answer.body)
        found = {tag: list(told.get(tag, {}).get("Value", ())) for tag in (_REFERENCED, _FAILED)}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return {tag: items for tag, items in found.items() if items}


def _judged(answer: Answer, uids: Sequence[str]) -> dict[str, Told]:
    lists = _lists(answer)
    if not lists:
        raise RetryLater("The answer does not say what was stored; is the url that of a DICOMweb service?")
    told = {uid: Told(ending="later", code="not told of") for uid in uids}
    for tag, items in lists.items():
        for item in items:
            uid, reason = _value(item, _INSTANCE), _value(item, _REASON)
            if not isinstance(uid, str) or uid not in told:
                continue
            if tag == _REFERENCED or reason == _DUPLICATE:
                told[uid] = Told(ending="sent", code=str(answer.status))
            elif isinstance(reason, int):
                told[uid] = Told(ending=_failed(reason), code=f"{reason:04X}")
            else:
                told[uid] = Told(ending="refused", code="failed")
    return told


def _value(item: Any, tag: str) -> Any:
    try:
        return item[tag]["Value"][0]
    except (KeyError, IndexError, TypeError):
        return None
