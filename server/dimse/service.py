"""What the services of an association have in common: who asks, what answers, and data sets as they travel.

A service is a module with a function ``services(...)``, which says for each SOP class and each operation what answers
it; `server.dimse.services` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset

from readingroom.errors import Invalid
from readingroom.model import Actor, Scope
from server.associations.association import Association, Context, Memory, Message
from server.associations.commands import DATA_SET_TYPE, HAS_DATA_SET, MESSAGE_ID, CommandSet, Value, response_to
from server.associations.datasets import MOST_DATA_SET as MOST_DATA_SET  # here too, so that a service needs one import
from server.associations.datasets import decode as decode
from server.associations.datasets import encode as encode
from server.settings import DimsePeer
from storage.dicomjson import MetadataJson

SUCCESS, PENDING, PENDING_WITHOUT_KEYS, CANCELLED = 0x0000, 0xFF00, 0xFF01, 0xFE00
NO_SUCH_ATTRIBUTE, INVALID_VALUE, DUPLICATE_INSTANCE, NO_SUCH_INSTANCE = 0x0105, 0x0106, 0x0111, 0x0112
NO_SUCH_CLASS, MISSING_VALUE, NOT_AUTHORIZED, PROCESSING_FAILURE = 0x0118, 0x0121, 0x0124, 0x0110
UNRECOGNIZED_OPERATION = 0x0211
"""Statuses of all services (PS3.7 annex C)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who is at the other end, and whose facility's work that is."""

    association: Association
    peer: DimsePeer
    facility: str
    asked: dict[int, Callable[[Message], None]] = field(default_factory=dict)
    """What is done with the answers to requests that were made over this association, by Message ID."""
    later: list[Callable[[], bool]] = field(default_factory=list)
    """What is tried whenever the peer is quiet for a moment, until it says that it is done."""

    @property
    def scope(self) -> Scope:
        """What the peer sees: its facility, or all."""
        return Scope() if self.peer.sees_all else Scope(facilities=frozenset((self.facility,)))

    @property
    def actor(self) -> Actor:
        """Who acts, in histories."""
        return Actor(id=f"ae:{self.peer.ae}", name=self.peer.ae, kind="ae", scope=self.scope, facility=self.facility)

    def answer(
        self,
        message: Message,
        status: int,
        comment: str = "",
        *,
        data: Dataset | Mapping[str, Any] | None = None,
        more: Mapping[int, Value] | None = None,
    ) -> None:
        """Send a response.

        Parameters
        ----------
        data
            Its data set, also as DICOM JSON.
        more
            Further elements of its command set.
        """
        command = {**response_to(message.command, status, comment), **(more or {})}
        written = b"" if data is None else encode(data, message.context.transfer_syntax)
        if written:
            command[DATA_SET_TYPE] = HAS_DATA_SET
        self.association.send(message.context, command, written)

    def ask(
        self, context: Context, command: CommandSet, data: Mapping[str, Any], then: Callable[[Message], None]
    ) -> None:
        """Make a request of the peer; `then` is given the answer, if ever there is one."""
        id = max(self.asked, default=0) + 1
        self.asked[id] = then
        asked = {**command, MESSAGE_ID: id, DATA_SET_TYPE: HAS_DATA_SET}
        self.association.send(context, asked, encode(data, context.transfer_syntax))


type Answer = Callable[[Served, Message], None]
type Services = Mapping[tuple[str, int], Answer]
"""What answers, by SOP class of the presentation context and Command Field."""


def dataset_of(message: Message) -> Dataset:
    """The data set of a message that is no object; raises `Invalid` where there is none, or it cannot be read."""
    if not isinstance(message.sink, Memory):
        raise Invalid("The request has no data set.")
    return decode(message.sink.data, message.context.transfer_syntax)


def json_of(message: Message) -> MetadataJson:
    """The same as DICOM JSON, without group lengths; raises `Invalid` also where a value is none of its VR."""
    try:
        told: MetadataJson = dataset_of(message).to_json_dict(bulk_data_threshold=MOST_DATA_SET)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Invalid("A value of the data set is none of its VR.") from error
    return {tag: element for tag, element in told.items() if not tag.endswith("0000")}
