"""The Unified Procedure Step service (PS3.4 annex CC): work items by DIMSE, of the same worklist that UPS-RS shows.

Push creates, Pull finds, claims and finishes, Watch subscribes, Query finds. Reports (Event) go to AEs on associations
of our own (`server.notifying`). What is asked becomes a command of `server.worklist.ups_commands`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError, Refused
from readingroom.model import Scope
from server.associations.association import Message
from server.associations.commands import (
    ACTION_TYPE,
    AFFECTED_CLASS,
    AFFECTED_INSTANCE,
    ATTRIBUTES,
    C_FIND,
    MESSAGE_ID,
    N_ACTION,
    N_CREATE,
    N_GET,
    N_SET,
    REQUESTED_INSTANCE,
)
from server.dimse.finding import UNABLE
from server.dimse.identifiers import key_values, picked
from server.dimse.service import (
    CANCELLED,
    DUPLICATE_INSTANCE,
    INVALID_VALUE,
    MISSING_VALUE,
    NOT_AUTHORIZED,
    PENDING,
    PENDING_WITHOUT_KEYS,
    PROCESSING_FAILURE,
    SUCCESS,
    Answer,
    Served,
    Services,
    json_of,
)
from server.room import Room
from server.worklist.items import Work, working
from server.worklist.subscribing import COMING, subscribe_ae, subscriber_of, suspend_ae, unsubscribe_ae
from server.worklist.ups_commands import (
    TRANSACTION,
    Note,
    Objection,
    Why,
    change_step,
    create_step,
    request_step_cancel,
    update_step,
)
from storage.catalog.engine import begin_write
from storage.catalog.matching import Condition, parse
from storage.catalog.subscriptions import Filter
from storage.catalog.work_items import ITEM_KEYS, find_item, search_items, ups_of, upses_of
from storage.changes import read_data_set
from storage.objects import MetadataJson
from storage.part10 import check_uid
from storage.upsrules import FILTERED, PUSH, Empty, Missing, value_of

log = logging.getLogger(__name__)

WATCH, PULL, QUERY = (f"1.2.840.10008.5.1.4.34.6.{number}" for number in (2, 3, 5))
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5
"""Action Type IDs (PS3.4 CC.2.1 to CC.2.3)."""

NOT_ALL, MODIFIED, COERCED = 0x0001, 0xB300, 0xB305
ALREADY: Mapping[str, int] = {"CANCELED": 0xB304, "COMPLETED": 0xB306}
NEVER_SCHEDULED, NO_SUCH_STEP, UNKNOWN_AE, NOT_SCHEDULED, NOT_FOR_THIS = 0xC303, 0xC307, 0xC308, 0xC309, 0xC314
OBJECTIONS: Mapping[Why, int] = {
    "over": 0xC300,
    "no token": 0xC301,
    "wrong token": 0xC301,
    "claimed": 0xC302,
    "unfinished": 0xC304,
    "not claimed": 0xC310,
    "completed": 0xC311,
    "other": PROCESSING_FAILURE,
}
"""Statuses of PS3.4 CC.2: warnings, failures, and failures by why the state of the item does not allow it."""

MISSING_ATTRIBUTE, NO_SUCH_ACTION, INVALID_ARGUMENT = 0x0120, 0x0123, 0x0115
_PAGE = 200
_RECEIVING_AE, _DELETION_LOCK, _STATE, _CHARSET = "00741234", "00741230", "00741000", "00080005"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is answered where nothing was wrong: a status, the UID of the item, and what is asked for of it."""

    uid: str
    status: int = SUCCESS
    comment: str = ""
    data: MetadataJson | None = None


Operation = Callable[[Served, Message], Told]


def services(room: Room) -> Services:
    """What answers, by SOP class and operation (PS3.4 Tables CC.2-1 to CC.2-5)."""

    def work[T](served: Served, command: Callable[[Work], T]) -> T:
        lasts = timedelta(minutes=room.settings.claim_minutes)
        with working(
            room.engine, room.clock, served.actor, served.scope, claim_lasts=lasts, queue=room.queue
        ) as at_work:
            return command(at_work)

    def create(served: Served, message: Message) -> Told:
        _require(served.peer.may_store, served)
        dataset = _json(message)
        uid = str(message.command.get(AFFECTED_INSTANCE) or value_of(dataset, "00080018") or "") or None
        if uid is not None:
            check_uid("SOP Instance UID", uid)
        if _STATE in dataset and value_of(dataset, _STATE) != "SCHEDULED":
            return Told(uid=uid or "", status=NOT_SCHEDULED, comment="A step is created SCHEDULED.")
        item, notes = work(served, lambda at: create_step(at, dataset, facility=served.facility, uid=uid))
        return Told(uid=item.workitem_uid, status=MODIFIED if notes else SUCCESS)

    def get(served: Served, message: Message) -> Told:
        _require(served.peer.may_find, served)
        uid = _requested(message)
        shown = room.query(lambda connection: ups_of(connection, find_item(connection, served.scope, uid)))
        wanted = [tag for tag in str(message.command.get(ATTRIBUTES, "")).split("\\") if tag]
        data = {tag: shown[tag] for tag in wanted if tag in shown} if wanted else shown
        return Told(uid=uid, status=NOT_ALL if len(data) < len(set(wanted)) else SUCCESS, data=data)

    def update(served: Served, message: Message) -> Told:
        _require(served.peer.may_store, served)
        dataset, uid = _json(message), _requested(message)
        if _STATE in dataset:
            return Told(uid=uid, status=NEVER_SCHEDULED, comment="The state is changed by N-ACTION alone.")
        token = str(value_of(dataset, TRANSACTION) or "") or None
        notes = work(served, lambda at: update_step(at, uid, dataset, token=token))
        status = NOT_ALL if "not supported" in notes else COERCED if "modified" in notes else SUCCESS
        return Told(uid=uid, status=status)

    def act(served: Served, message: Message, actions: frozenset[int]) -> Told:
        uid, action = _requested(message), int(message.command.get(ACTION_TYPE, 0))
        is_looking = action in (SUBSCRIBE, UNSUBSCRIBE, SUSPEND)
        _require(served.peer.may_find if is_looking else served.peer.may_store, served)
        if action not in actions:
            return Told(uid=uid, status=NO_SUCH_ACTION, comment="This SOP class has no such action.")
        dataset = _json(message) if message.sink is not None else {}
        if action == CHANGE_STATE:
            return change(served, uid, dataset)
        if action == REQUEST_CANCEL:
            notes = work(served, lambda at: request_step_cancel(at, uid, dataset))
            return Told(uid=uid, status=_already(notes, "CANCELED"))
        return watch(served, uid, action, dataset)

    def change(served: Served, uid: str, dataset: MetadataJson) -> Told:
        state = str(value_of(dataset, _STATE) or "")
        if state == "SCHEDULED":
            return Told(uid=uid, status=NEVER_SCHEDULED, comment="Only N-CREATE makes a step SCHEDULED.")
        notes = work(served, lambda at: change_step(at, uid, dataset))
        return Told(uid=uid, status=_already(notes, state))

    def watch(served: Served, uid: str, action: int, dataset: MetadataJson) -> Told:
        ae = str(value_of(dataset, _RECEIVING_AE) or "")
        subscriber = subscriber_of(served.scope, ae)
        if room.peers.of(ae) is None and ae != served.peer.ae:
            return Told(uid=uid, status=UNKNOWN_AE, comment=f"Nothing is known of the AE {ae}.")
        if action == SUSPEND and uid not in COMING:
            return Told(uid=uid, status=NOT_FOR_THIS, comment="A subscription to the worklist is suspended.")
        has_lock = value_of(dataset, _DELETION_LOCK) == "TRUE"
        with begin_write(room.engine) as connection:
            now = room.clock.now()
            if action == SUBSCRIBE:
                filter = _filter(dataset) if uid == FILTERED else None
                subscribe_ae(connection, served.scope, subscriber, uid, has_lock=has_lock, now=now, filter=filter)
            elif action == UNSUBSCRIBE:
                unsubscribe_ae(connection, served.scope, subscriber, uid, now=now)
            else:
                suspend_ae(connection, subscriber, uid)
        return Told(uid=uid)

    def actions(*allowed: int) -> Answer:
        return _answering(lambda served, message: act(served, message, frozenset(allowed)), INVALID_ARGUMENT)

    answer_get = _answering(get, INVALID_VALUE)
    return {
        (PUSH, N_CREATE): _answering(create, INVALID_VALUE),
        (PUSH, N_ACTION): actions(REQUEST_CANCEL),
        (PUSH, N_GET): answer_get,
        (PULL, N_GET): answer_get,
        (PULL, N_SET): _answering(update, INVALID_VALUE),
        (PULL, N_ACTION): actions(CHANGE_STATE),
        (WATCH, N_GET): answer_get,
        (WATCH, N_ACTION): actions(REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND),
        **{(one, C_FIND): partial(_find, room) for one in (PULL, WATCH, QUERY)},
    }


def _answering(operation: Operation, invalid: int) -> Answer:
    """Answers with what an operation tells, or with what is wrong; `invalid` is the status of what cannot be."""

    def answer(served: Served, message: Message) -> None:
        try:
            told = operation(served, message)
        except (ReadingRoomError, Objection, sa.exc.SQLAlchemyError) as error:
            command = message.command
            uid = str(command.get(REQUESTED_INSTANCE) or command.get(AFFECTED_INSTANCE) or "")
            told = _failed(error, uid, invalid)
        named = {AFFECTED_CLASS: PUSH, AFFECTED_INSTANCE: told.uid}  # whatever class was negotiated (CC.3.1)
        served.answer(message, told.status, told.comment, data=told.data, more=named)

    return answer


def _failed(error: Exception, uid: str, invalid: int) -> Told:
    if isinstance(error, Objection):
        return Told(uid=uid, status=OBJECTIONS[error.why], comment=error.error.message)
    if not isinstance(error, ReadingRoomError):
        log.error("a procedure step could not be answered: %s", type(error).__name__, exc_info=error)
        return Told(uid=uid, status=PROCESSING_FAILURE, comment="The catalog does not answer.")
    kinds: tuple[tuple[type[ReadingRoomError], int], ...] = (
        (NotFound, NO_SUCH_STEP),
        (Missing, MISSING_ATTRIBUTE),
        (Empty, MISSING_VALUE),
        (Invalid, invalid),
        (Refused, NOT_AUTHORIZED),
        (Conflict, DUPLICATE_INSTANCE),
    )
    status = next((number for kind, number in kinds if isinstance(error, kind)), PROCESSING_FAILURE)
    return Told(uid=uid, status=status, comment=error.message)


def _require(is_allowed: bool, served: Served) -> None:
    if not is_allowed:
        raise Refused(f"{served.peer.ae} may not do that here.")


def _already(notes: list[Note], state: str) -> int:
    return ALREADY[state.replace("CANCELLED", "CANCELED")] if "already" in notes else SUCCESS


def _requested(message: Message) -> str:
    return str(message.command.get(REQUESTED_INSTANCE, ""))


def _json(message: Message) -> MetadataJson:
    """The data set of a request as UPS-RS has it: text is Unicode here, whatever it came in."""
    told = read_data_set(json_of(message))
    if _CHARSET in told:
        told[_CHARSET] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return told


# -- C-FIND (CC.2.8) ---------------------------------------------------------------------------------------------------


def _find(room: Room, served: Served, message: Message) -> None:
    """A response for each step that matches, and one that says that there are no more."""
    if not served.peer.may_find:
        return served.answer(message, NOT_AUTHORIZED, f"{served.peer.ae} may not ask here.")
    try:
        told = json_of(message)
        asked = {tag: element for tag, element in told.items() if tag not in (_CHARSET, TRANSACTION)}
        values, has_unknown = _matched(asked)
        conditions = tuple(parse(values, keys=ITEM_KEYS))
    except Invalid as error:
        return served.answer(message, UNABLE, error.message)
    status = PENDING_WITHOUT_KEYS if has_unknown else PENDING
    try:
        for one in _matches(room, served.scope, conditions):
            served.answer(message, status, data=picked(one, asked))
            if served.association.is_cancelled(int(message.command[MESSAGE_ID])):
                return served.answer(message, CANCELLED)
    except sa.exc.SQLAlchemyError:
        log.exception("procedure steps could not be found")
        return served.answer(message, UNABLE, "The catalog does not answer.")
    return served.answer(message, SUCCESS)


def _matches(room: Room, scope: Scope, conditions: tuple[Condition, ...]) -> Iterator[MetadataJson]:
    """The steps, the newest first, page by page: a peer that is slow holds no transaction open."""
    after = None
    while True:
        with room.engine.connect() as connection:
            items = search_items(connection, scope, conditions, limit=_PAGE, after=after)
            shown = upses_of(connection, items)
        yield from shown
        if len(items) < _PAGE:
            return
        after = items[-1].id


def _matched(asked: MetadataJson) -> tuple[dict[str, str], bool]:
    """The keys with a value that are matched here, and whether there are others."""
    values = {name: text for name, text in key_values(asked) if text.strip(" *")}
    known = {name: text for name, text in values.items() if name in ITEM_KEYS}
    return known, len(known) < len(values)


def _filter(dataset: MetadataJson) -> Filter:
    """The matching keys of a filtered subscription (PS3.4 CC.2.3.1), as they are kept; raises `Invalid`."""
    told = (_RECEIVING_AE, _DELETION_LOCK, _CHARSET)
    values, has_unknown = _matched({tag: element for tag, element in dataset.items() if tag not in told})
    if has_unknown or not values:
        raise Invalid("A filter has keys that work items are matched by, at least one with a value, and no others.")
    parse(values, keys=ITEM_KEYS)
    return {"values": values}
