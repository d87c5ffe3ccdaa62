"""Where searches look for Task: the table of work items, and what clients have said of theirs.

Our own items, and those that a UPS has made, are matched by the columns that their Tasks are made of. A Task that a
client has sent is matched by what it said, listed in `schema.task_value`, and by the columns of what the work changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa

from readingroom.model import PRIORITIES, ItemState
from server.fhir.dates import moments
from server.fhir.study_source import named_relation
from server.fhir.task_commands import PROFILE, REFERENCE, STATE, STATUS
from storage.catalog import schema as t
from storage.catalog.fhir_conditions import Range, Test, Text
from storage.catalog.fhir_search import Relation, Source, compared
from storage.catalog.fhir_values import Value
from storage.catalog.ups import KINDS
from storage.fhirvalues import DCM, UID, code_system, designators, issuer_of, local_id

Holds = Callable[[sa.Connection, Test], sa.ColumnElement[bool] | None]

ADDED = frozenset(
    f"Task.{name}{suffix}"
    for name in ("identifier", "performer", "encounter", "_tag", "_profile", "_security", "_source")
    for suffix in ("", ":text", ":of-type", ":identifier")
)
"""What of a client's words is listed of an item of ours: the rest is what this server says of it."""

_OID = "urn:oid:"
_WORKITEM_CODE = "00404018"  # Scheduled Workitem Code Sequence
_W = t.work_item.alias("task")
_KEY = _W.c.id
_HOLDER = sa.func.coalesce(_W.c.owner, _W.c.offered_to)
_ENDED = _W.c.state.in_(("completed", "cancelled"))
_FOREVER = datetime.max.replace(tzinfo=UTC)


@cache
def task_sources() -> Sequence[Source]:
    """The items that are shown as the work has them; then those that are shown as a client has sent them."""
    is_sent = _said("intent").exists()
    sources = ((sa.not_(is_sent), _own().get), (is_sent, _sent))
    return tuple(
        Source(
            type="Task",
            rows=_W,
            key=_KEY,
            id=_KEY,
            updated_at=_W.c.changed_at,
            # Peer reviews are in no facility's scope.
            facility=sa.case((_W.c.kind != "peer", _W.c.facility)),
            visible=(visible,),
            relation=relation,
        )
        for visible, relation in sources
    )


def listed(item: str, values: Sequence[Value], *, is_sent: bool) -> list[Value]:
    """Of the values of a Task that a client wrote those that the columns of the item do not say."""
    ours = f"{_OID}2.25.{int(item, 16)}"
    return [one for one in values if is_sent or (one.key in ADDED and one.text != ours)]


# -- what clients have said --------------------------------------------------------------------------------------------


def _said(parameter: str) -> sa.Select[Any]:
    """What was said of an item by a parameter."""
    v = t.task_value.c
    return sa.select(v.text).where(v.item == _KEY, v.key == f"Task.{parameter}").correlate(_W)


@cache
def _told(parameter: str) -> Relation:
    v = t.task_value.alias("told")
    return Relation(
        rows=v,
        key=v.c.item,
        text=v.c.text,
        space=v.c.space,
        low=v.c.low,
        high=v.c.high,
        where=(v.c.key == f"Task.{parameter}",),
    )


def _sent(parameter: str) -> Relation | None:
    """Of what a client has sent: its words, but for what the work has changed since."""
    return _changed().get(parameter) or _told(parameter)


@cache
def _changed() -> Mapping[str, Relation]:
    own = _own()
    status = _sent_status()
    said = _said("priority").exists()
    rank = sa.case((sa.or_(_W.c.rank > 0, said), _W.c.rank))
    # One who was named before anybody had it stays named, until the work takes it on and gives it back.
    is_as_sent = status == _said("status").limit(1).scalar_subquery()
    holder = sa.case(
        (_HOLDER.contains("/"), _HOLDER),
        (_HOLDER.is_not(None), sa.literal("Practitioner/").concat(_HOLDER)),
        (sa.or_(is_as_sent, _W.c.state.not_in(("waiting", "ready"))), _said("owner").limit(1).scalar_subquery()),
    )
    return {
        "status": Relation(rows=_W, key=_KEY, text=status, space=sa.literal(""), holds=_status_holds(status)),
        "priority": Relation(
            rows=_W,
            key=_KEY,
            text=sa.case(*((rank == index, code) for index, code in enumerate(PRIORITIES))),
            space=sa.literal(""),
            low=sa.cast(rank, sa.Double()),
            high=sa.cast(rank, sa.Double()),
        ),
        "owner": Relation(rows=_W, key=_KEY, text=holder),
        "due": own["due"],
    }


def _sent_status() -> sa.ColumnElement[str]:
    """What was sent, as long as the item is in a state that this stands for."""
    sent = _said("status").limit(1).scalar_subquery()
    by_state: dict[ItemState, list[str]] = {}
    for status, state in STATE.items():
        by_state.setdefault(state, []).append(status)
    return sa.case(
        *(
            (_W.c.state == state, sa.case((sent.in_(statuses), sent), else_=STATUS[state]))
            for state, statuses in by_state.items()
        )
    )


def _status_holds(status: sa.ColumnElement[str]) -> Holds:
    def holds(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
        if not isinstance(test, Text) or test.how != "is":
            return None
        state = STATE.get(test.text)
        return sa.and_(_W.c.state == (state or ""), status == test.text, _is_of(test, ""))

    return holds


# -- our own items, and those of a UPS ---------------------------------------------------------------------------------


@cache
def _own() -> Mapping[str, Relation]:
    order, of_order = t.imaging_order.alias("o"), t.work_item.alias("of_order")
    orders = of_order.join(
        order,
        sa.and_(order.c.facility == of_order.c.facility, order.c.accession_number == of_order.c.accession_number),
    )
    study, of_study = t.study.alias("s"), t.work_item.alias("of_study")
    studies = of_study.join(
        study, sa.and_(study.c.owner_facility == of_study.c.facility, study.c.study_uid == of_study.c.study_uid)
    )
    patient, patient_id = _patients()
    state = sa.case(*((_W.c.state == name, status) for name, status in STATUS.items()))
    rank = sa.case(*((_W.c.rank == index, code) for index, code in enumerate(PRIORITIES)))
    ended = sa.case((_ENDED, _W.c.changed_at), (_W.c.claimed_at.is_not(None), sa.literal(_FOREVER, t.UtcDateTime())))
    return {
        **{name: _told(name) for name in (one.removeprefix("Task.") for one in ADDED)},
        "identifier": Relation(
            rows=_W,
            key=_KEY,
            text=sa.literal(_OID).concat(_W.c.workitem_uid),
            space=sa.literal(UID),
            holds=_identifier,
        ),
        "_profile": Relation(rows=_W, key=_KEY, text=sa.case((_W.c.kind != "external", PROFILE)), holds=_profile),
        "status": Relation(
            rows=_W,
            key=_KEY,
            text=state,
            space=sa.literal(""),
            holds=_coded(_W.c.state, "", {status: name for name, status in STATUS.items()}),
        ),
        "business-status": Relation(rows=_W, key=_KEY, text=_W.c.state, space=sa.literal(code_system("item-state"))),
        "intent": Relation(rows=_W, key=_KEY, text=sa.literal("order"), space=sa.literal("")),
        "priority": Relation(
            rows=_W,
            key=_KEY,
            text=rank,
            space=sa.literal(""),
            low=sa.cast(_W.c.rank, sa.Double()),
            high=sa.cast(_W.c.rank, sa.Double()),
            holds=_coded(_W.c.rank, "", {code: index for index, code in enumerate(PRIORITIES)}),
        ),
        "code": Relation(rows=_W, key=_KEY, text=_W.c.kind, space=sa.literal(code_system("item-kind")), holds=_code),
        "group-identifier": Relation(rows=_W, key=_KEY, text=_W.c.accession_number, space=sa.literal("")),
        "owner": Relation(rows=_W, key=_KEY, text=_owner(), holds=_owner_holds),
        "requester": named_relation(_W, _KEY, _W.c.facility, "Organization"),
        "based-on": Relation(
            rows=orders,
            key=of_order.c.id,
            text=sa.literal("ServiceRequest/").concat(order.c.id),
            target="ServiceRequest",
            held=order.c.id,
        ),
        "focus": Relation(
            rows=studies,
            key=of_study.c.id,
            text=sa.literal("ImagingStudy/").concat(study.c.fhir_id),
            target="ImagingStudy",
            held=study.c.fhir_id,
            where=(study.c.fhir_id.is_not(None),),
        ),
        "patient": patient,
        "patient:identifier": patient_id,
        "subject": patient,
        "subject:identifier": patient_id,
        "authored-on": _moment(_W.c.created_at),
        "modified": _moment(_W.c.changed_at),
        "due": _moment(_W.c.due_at),
        "period": _moment(sa.func.coalesce(_W.c.claimed_at, sa.case((_ENDED, _W.c.changed_at))), ended),
    }


def _patients() -> tuple[Relation, Relation]:
    """Of an item with a study its patient; else the one whom the item names by a Patient ID, who also has that."""
    item, study, patient, facility = t.work_item.alias(), t.study.alias(), t.patient.alias(), t.facility.alias()
    number, issuer = t.work_item_value.alias(), t.work_item_value.alias()
    is_its = sa.and_(study.c.owner_facility == item.c.facility, study.c.study_uid == item.c.study_uid)
    with_study = sa.select(item.c.id.label("key"), study.c.patient.label("id")).join_from(item, study, is_its)
    has_study = sa.select(sa.literal(1)).where(is_its).correlate(item).exists()
    named = (
        number.join(item, item.c.id == number.c.entity)
        .join(facility, facility.c.id == item.c.facility)
        .join(issuer, sa.and_(issuer.c.entity == number.c.entity, issuer.c.key == "00100021"), isouter=True)
    )
    is_named = (number.c.key == "00100020", sa.not_(has_study))
    issued_by = sa.func.coalesce(issuer.c.value, facility.c.issuer)
    is_known = sa.and_(patient.c.patient_id == number.c.value, patient.c.issuer == issued_by)
    of_number = sa.select(item.c.id, patient.c.id).select_from(named.join(patient, is_known)).where(*is_named)
    both = sa.union_all(with_study, of_number).subquery("patient_of_task")

    def holds(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
        if not isinstance(test, Text) or test.how not in ("is", "in space"):
            return None
        held = [number.c.value == test.text] if test.how == "is" else []
        if test.space is not None:
            held.append(issued_by == issuer_of(test.space))
        return sa.and_(sa.true(), *held)

    return (
        Relation(
            rows=both, key=both.c.key, text=sa.literal("Patient/").concat(both.c.id), target="Patient", held=both.c.id
        ),
        Relation(rows=named, key=item.c.id, text=number.c.value, where=is_named, holds=holds),
    )


def _is_of(test: Text, space: str) -> sa.ColumnElement[bool]:
    return sa.true() if test.space in (None, space) else sa.false()


def _coded(column: sa.ColumnElement[Any], space: str, codes: Mapping[str, Any]) -> Holds:
    """That a column holds what is shown as the code that is asked for."""

    def holds(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
        if not isinstance(test, Text) or test.how != "is":
            return None
        return sa.and_(column == codes[test.text], _is_of(test, space)) if test.text in codes else sa.false()

    return holds


def _added(parameter: str, *tests: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    v = t.task_value.c
    return _KEY.in_(sa.select(v.item).where(v.key == f"Task.{parameter}", *tests).correlate(None))


def _identifier(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    """Its UID as a UPS, or what a client knows it by."""
    v = t.task_value.c
    if not isinstance(test, Text):
        return None
    if test.how == "in space":
        return sa.true() if test.space == UID else _added("identifier", v.space == test.space)
    if test.how != "is":
        return None
    uid = test.text.removeprefix(_OID) if test.text.startswith(_OID) else ""
    of_space = () if test.space is None else (v.space == test.space,)
    return sa.or_(
        sa.and_(_W.c.workitem_uid == uid, _is_of(test, UID)), _added("identifier", v.text == test.text, *of_space)
    )


def _profile(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    if not isinstance(test, Text) or test.how != "is":
        return None
    ours = _W.c.kind != "external" if test.text == PROFILE else sa.false()
    return sa.or_(ours, _added("_profile", t.task_value.c.text == test.text))


def _code(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    """The kind of an item, by our code or that of DICOM; of what others have made, what is to be done."""
    if not isinstance(test, Text) or test.how not in ("is", "in space"):
        return None
    is_any = test.how == "in space"
    kinds = []
    for kind, ((value, scheme, _meaning), _label) in KINDS.items():
        codes = [(code_system("item-kind"), kind), *([(DCM, value)] if scheme == "DCM" else [])]
        if any(test.space in (None, system) and (is_any or test.text == code) for system, code in codes):
            kinds.append(kind)
    coded, scheme_of = t.work_item_value.alias(), t.work_item_value.alias()
    others = sa.select(coded.c.entity).where(coded.c.key == f"{_WORKITEM_CODE}.00080100")
    if not is_any:
        others = others.where(coded.c.value == test.text)
    if test.space is not None:
        is_same = sa.and_(scheme_of.c.entity == coded.c.entity, scheme_of.c.item == coded.c.item)
        others = others.join(scheme_of, is_same).where(
            scheme_of.c.key == f"{_WORKITEM_CODE}.00080102", scheme_of.c.value.in_(designators(test.space))
        )
    return sa.or_(_W.c.kind.in_(kinds), sa.and_(_W.c.kind == "external", _KEY.in_(others.correlate(None))))


def _owner() -> sa.ColumnElement[str]:
    """Who has it, or is offered it, as a reference: a reader, or what the item names otherwise."""
    is_reader = sa.select(sa.literal(1)).where(t.reader.c.id == _HOLDER).correlate(_W).exists()
    return sa.case((is_reader, sa.literal("Practitioner/").concat(_HOLDER)), (_HOLDER.contains("/"), _HOLDER))


def _owner_holds(connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    if not isinstance(test, Text) or test.how != "is":
        return None
    type, _slash, id = test.text.partition("/")
    if type == "Practitioner":
        readers = connection.execute(sa.select(t.reader.c.id)).scalars()
        names = [one for one in readers if local_id(one) == id]
    else:
        names = [test.text] if REFERENCE.fullmatch(test.text) else []
    return sa.or_(_W.c.owner.in_(names), sa.and_(_W.c.owner.is_(None), _W.c.offered_to.in_(names)))


def _moment(low: sa.ColumnElement[datetime | None], high: sa.ColumnElement[datetime | None] | None = None) -> Relation:
    """A column of times, or two that bound a period, as a date."""
    high = low if high is None else high

    def holds(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
        if not isinstance(test, Range):
            return None
        begin, end = (sa.literal(one, t.UtcDateTime()) for one in moments(test.low, test.high))
        return sa.and_(low.is_not(None), compared(test.op, low, high, begin, end))

    return Relation(rows=_W, key=_KEY, low=low, high=high, holds=holds)
