"""Gives instances of the archive to peers by C-STORE: for C-MOVE and C-GET, for rules, and for an operator.

An instance goes as it is stored. Only where the peer does not take that transfer syntax is it written in another one,
losslessly, its frames decoded in child processes. What has been corrected goes as WADO-RS shows it. Nothing is held
but the piece that is on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import orjson
import sqlalchemy as sa

from readingroom.errors import NotAcceptable, NotDicom, ReadingRoomError
from server.associations.association import MOST_CONTEXTS, Context, Limits, Proposal
from server.associations.requesting import PATIENCE, Calling, Outcome, call_as
from server.codecs import Codecs
from server.exporting import read_received, received_file
from server.settings import DimsePeer, Settings
from server.status import failure_reason
from storage.arrays import ArraySpec
from storage.blobs import Blobs
from storage.catalog.find import StoredInstance, read_overlay
from storage.dicomjson import DEFAULT_LIMITS, Buffer
from storage.encode import ENCODINGS, is_lossy, targets_of, transcode_exactly
from storage.implicit import implicit
from storage.part10 import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, read_front
from storage.pixels import DECODABLE
from storage.rewrite import rewrite

_NATIVE = frozenset((EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))
_USUAL = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
_LOSSLESS = frozenset(target for target, encoding in ENCODINGS.items() if not encoding.is_lossy)
_MOST_BROKEN = 3
_NO_SUCH_CLASS, _DUPLICATE = 0x0122, 0x0111
_GROUP_LENGTH_ENDS = 144
"""Where the element ends that says how long the file meta information is (PS3.10 7.1)."""

_HARDLY_COMPRESSED = tuple(f"1.2.840.10008.5.1.4.1.1.{branch}" for branch in ("7.1", "30", "66", "481"))
"""Single-bit and parametric maps, segmentations, doses: of what these have, compression takes the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one instance.

    Attributes
    ----------
    outcome
        What the peer has answered, or why it was not sent.
    transfer_syntax
        What it was sent in; empty where it was not.
    """

    instance: StoredInstance
    outcome: Outcome
    transfer_syntax: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the peer has it: now, with a warning, or since before."""
        return self.outcome.is_kept or self.outcome.status == _DUPLICATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Sends what the archive has.

    Attributes
    ----------
    prefers
        The transfer syntax to write instances in, where that can be without loss and the peer takes it.
    """

    engine: sa.Engine
    blobs: Blobs
    codecs: Codecs
    settings: Settings
    limits: Limits = PATIENCE
    prefers: str | None = None

    def send(
        self, peer: DimsePeer, instances: Iterable[StoredInstance], *, originator: tuple[str, int] | None = None
    ) -> Generator[Sent]:
        """Send instances over associations of our own, and tell of each as it is done.

        An instance that costs the association is not tried again; those behind it go over a new one.

        Parameters
        ----------
        originator
            AE title and Message ID of the C-MOVE that this is for.

        Raises
        ------
        GiveUp
            The peer is not called: its address is not allowed, or it has none.
        Unreachable, Rejected
            It takes no association, or breaks off one after the other. What was not told of was not sent.
        """
        rest = deque(instances)
        broken = 0
        while rest:
            batch = _batch(rest, 1 if self.prefers is None else 2)
            done = 0
            with call_as(self.settings, peer, proposals_of(batch, self.prefers), limits=self.limits) as taker:
                try:
                    for sent in self.give(taker, batch, originator=originator):
                        done += 1
                        broken = 0
                        yield sent
                except ReadingRoomError as error:
                    broken += 1
                    if broken == _MOST_BROKEN:
                        raise
                    yield Sent(instance=batch[done], outcome=_failed(error))
                    rest.extendleft(reversed(batch[done + 1 :]))

    def give(
        self, taker: Calling, instances: Iterable[StoredInstance], *, originator: tuple[str, int] | None = None
    ) -> Generator[Sent]:
        """Send instances on an association that is there, and tell of each as it is done.

        Raises
        ------
        ReadingRoomError
            The association broke, or had to be broken since an instance could not be read to its end. It is the one
            behind the last that was told of.
        """
        contexts: dict[str, dict[str, Context]] = {}
        for context in taker.contexts:
            if context.peer_is_scp:
                contexts.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context)
        for instance in instances:
            taken = contexts.get(instance.sop_class, {})
            syntaxes = [one for one in syntaxes_of(instance, taken) if one in taken]
            syntax = self.prefers if self.prefers in syntaxes else next(iter(syntaxes), None)
            if syntax is None:
                yield Sent(instance=instance, outcome=_not_taken(taken))
                continue
            pieces = self._data_set(instance, syntax)
            try:
                first = next(pieces, b"")  # what cannot be written shows here, while the association is still good
            except ReadingRoomError as error:
                yield Sent(instance=instance, outcome=_failed(error))
                continue
            outcome = taker.store(
                taken[syntax], instance.instance_uid, map(memoryview, chain([first], pieces)), originator=originator
            )
            yield Sent(instance=instance, outcome=outcome, transfer_syntax=syntax)

    def _data_set(self, instance: StoredInstance, syntax: str) -> Iterator[Buffer]:
        """What follows the file meta information, in a transfer syntax of `syntaxes_of`."""
        if syntax == instance.transfer_syntax and not instance.overlay_version:
            received = read_received(self.blobs, instance.object_key, instance.size_bytes)
            first = next(received)
            yield memoryview(first)[read_front(first, DEFAULT_LIMITS).data_set_at :]
            yield from received
            return
        overlay = {}
        if instance.overlay_version:
            with self.engine.connect() as connection:
                overlay = read_overlay(connection, instance)

        def transcode(bitstream: bytes, spec: ArraySpec, target: str) -> bytes:
            return self.codecs.call(transcode_exactly, bitstream, spec, target)

        # Without pixels, a compressed transfer syntax is Explicit VR Little Endian by another name (PS3.5 A.4).
        is_bare = _has_no_pixels(instance) and syntax != DEFLATED
        target = EXPLICIT_LITTLE if syntax == IMPLICIT_LITTLE or is_bare else syntax
        file = received_file(self.blobs, instance)
        written = _after_file_meta(rewrite(file, target, overlay=overlay, transcode=transcode))
        yield from implicit(written) if syntax == IMPLICIT_LITTLE else written


def proposals_of(instances: Iterable[StoredInstance], prefers: str | None = None) -> list[Proposal]:
    """The presentation contexts that instances need: each class as it is stored, and as every peer takes it.

    Parameters
    ----------
    prefers
        A transfer syntax in which each class is asked for too.
    """
    stored = dict.fromkeys((one.sop_class, one.transfer_syntax) for one in instances)
    if prefers is not None:
        stored |= dict.fromkeys((sop_class, prefers) for sop_class, _ in stored)
    exact = [Proposal(sop_class=sop_class, transfer_syntaxes=(syntax,)) for sop_class, syntax in stored]
    return exact + [
        Proposal(sop_class=sop_class, transfer_syntaxes=_USUAL)
        for sop_class in dict.fromkeys(sop_class for sop_class, _ in stored)
    ]


def syntaxes_of(instance: StoredInstance, taken: Iterable[str] = ()) -> Iterator[str]:
    """The transfer syntaxes that an instance can go in, the best first.

    Parameters
    ----------
    taken
        Those that there are contexts for.
    """
    stored = instance.transfer_syntax
    if not (instance.overlay_version and stored == EXPLICIT_BIG):  # what is corrected is written anew, never so
        yield stored
    if stored in _NATIVE or stored in DECODABLE:
        yield from _USUAL
    if not instance.opaque_reason:
        spec = _spec(instance.array_spec)
        yield from (target for target in targets_of(spec) if not is_lossy(spec, target))
    if stored in _NATIVE and _has_no_pixels(instance):
        yield from (syntax for syntax in taken if syntax in ENCODINGS)


def best_to_send(sop_class: str, proposed: Sequence[str]) -> str:
    """The transfer syntax to take of those that a peer proposes for what we are to send it.

    What objects there will be is not known yet, so it is the first that nearly all of the class can be written in
    without loss; compressed ones go as they are stored where they are of this one.
    """
    if sop_class.startswith(_HARDLY_COMPRESSED):
        return next((one for one in proposed if one in _USUAL), proposed[0])
    return next((one for one in proposed if one in _USUAL or one in _LOSSLESS), proposed[0])


def _batch(rest: deque[StoredInstance], each: int) -> list[StoredInstance]:
    """Take as many from the front as one association has contexts for: `each` for a class, and those as stored."""
    classes: set[str] = set()
    stored: set[tuple[str, str]] = set()
    batch: list[StoredInstance] = []
    while rest:
        classes.add(rest[0].sop_class)
        stored.add((rest[0].sop_class, rest[0].transfer_syntax))
        if each * len(classes) + len(stored) > MOST_CONTEXTS:
            break
        batch.append(rest.popleft())
    return batch


def _after_file_meta(pieces: Iterator[Buffer]) -> Iterator[Buffer]:
    """A file that was written here, without what stands before its data set."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) < _GROUP_LENGTH_ENDS:
            continue
        begins = _GROUP_LENGTH_ENDS + int.from_bytes(held[_GROUP_LENGTH_ENDS - 4 : _GROUP_LENGTH_ENDS], "little")
        if len(held) >= begins:
            yield bytes(memoryview(held)[begins:])
            yield from pieces
            return
    raise NotDicom("a file ends within its file meta information")


def _has_no_pixels(instance: StoredInstance) -> bool:
    return instance.rows is None and instance.frame_count == 0


@lru_cache(maxsize=1024)
def _spec(text: bytes) -> ArraySpec:
    return ArraySpec(**orjson.loads(text))


def _failed(error: ReadingRoomError) -> Outcome:
    return Outcome(status=failure_reason(error), comment=error.message)


def _not_taken(taken: Iterable[str]) -> Outcome:
    if any(True for _ in taken):
        return _failed(NotAcceptable("The peer takes the SOP class in no transfer syntax that it can be written in."))
    return Outcome(status=_NO_SUCH_CLASS, comment="The peer does not take the SOP class.")
