"""Where searches look for ImagingStudy: the tables of studies, series and instances, by their own indexes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Any

import sqlalchemy as sa

from server.fhir.dates import moments
from storage.bodyparts import BODY_PARTS, SNOMED
from storage.catalog import schema as t
from storage.catalog.fhir_conditions import Range, Test, Text
from storage.catalog.fhir_search import Relation, Source, compared
from storage.directory import zone_of
from storage.fhirvalues import DCM, UID, URI, local_id
from storage.rejection import KEY_OBJECT_SELECTION, QUALITY, TITLES

_OID = "urn:oid:"
_DAY = 86_400_000
_ANY_ZONE = timedelta(hours=16)
"""More than any clock is before or behind UTC."""

_S = t.study.alias("imaging_study")
_KEY = _S.c.id


@cache
def study_source() -> Source:
    """The studies that are there: not those of which all was deleted."""
    gone = _removed()
    rejected = _removed(t.removal.c.reason.in_([code for code, title in TITLES.items() if title.is_final]))
    return Source(
        type="ImagingStudy",
        rows=_S,
        key=_KEY,
        id=_S.c.fhir_id,
        updated_at=_S.c.updated_at,
        facility=_S.c.owner_facility,
        visible=(_S.c.fhir_id.is_not(None), sa.or_(_S.c.instance_count > 0, sa.not_(gone), rejected)),
        relation=_relations().get,
    )


def _removed(*reasons: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """That something of a study was removed, for one of these reasons."""
    c = t.removal.c
    mine = (c.owner_facility == _S.c.owner_facility, c.study_uid == _S.c.study_uid, c.state != "awaited")
    return sa.select(sa.literal(1)).select_from(t.removal).where(*mine, *reasons).correlate(_S).exists()


@cache
def _relations() -> Mapping[str, Relation]:
    series, instance, order = t.series.alias("its_series"), t.instance.alias("its_instance"), t.imaging_order.alias("o")
    of_order = t.study.alias("of_order")
    orders = of_order.join(
        order,
        sa.and_(order.c.facility == of_order.c.owner_facility, order.c.accession_number == of_order.c.accession_number),
    )
    patient = Relation(
        rows=_S, key=_KEY, text=sa.literal("Patient/").concat(_S.c.patient), target="Patient", held=_S.c.patient
    )
    current = (instance.c.is_current,)
    inhabited = (series.c.instance_count > 0,)
    return {
        "identifier": Relation(
            rows=_S,
            key=_KEY,
            text=sa.literal(_OID).concat(_S.c.study_uid),
            space=sa.literal(UID),
            holds=_identifier,
        ),
        "status": Relation(rows=_S, key=_KEY, text=_status(), space=sa.literal("")),
        "started": Relation(
            rows=_S, key=_KEY, low=_clock(), high=_clock(), where=(_S.c.study_date != "",), holds=_started
        ),
        "patient": patient,
        "subject": patient,
        "endpoint": named_relation(_S, _KEY, _S.c.owner_facility, "Endpoint"),
        "basedon": Relation(
            rows=orders,
            key=of_order.c.id,
            text=sa.literal("ServiceRequest/").concat(order.c.id),
            target="ServiceRequest",
            held=order.c.id,
        ),
        "basedon:identifier": Relation(
            rows=_S, key=_KEY, text=_S.c.accession_number, space=sa.literal(""), holds=_accession
        ),
        "dicom-class": Relation(rows=_S, key=_KEY, text=_S.c.sop_classes, space=sa.literal(URI), holds=_sop_class),
        "series": Relation(
            rows=series,
            key=series.c.study,
            text=series.c.series_uid,
            space=sa.literal(""),
            where=inhabited,
            holds=lambda _, test: _bare(test, series.c.series_uid, ""),
        ),
        "instance": Relation(
            rows=instance,
            key=instance.c.study,
            text=instance.c.instance_uid,
            space=sa.literal(""),
            where=current,
            holds=lambda _, test: _bare(test, instance.c.instance_uid, ""),
        ),
        "modality": Relation(
            rows=series, key=series.c.study, text=series.c.modality, space=sa.literal(DCM), where=inhabited
        ),
        "bodysite": Relation(
            rows=series,
            key=series.c.study,
            text=series.c.body_part,
            space=sa.literal(SNOMED),
            where=(*inhabited, sa.func.upper(series.c.body_part).in_(sorted(BODY_PARTS))),
            holds=lambda _, test: _body_part(test, series.c.body_part),
        ),
    }


def named_relation(rows: sa.FromClause, key: Any, name: sa.ColumnElement[str], target: str) -> Relation:
    """References to the resource of a type that shows what this server calls by a name."""

    def holds(connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
        if not isinstance(test, Text) or test.how != "is":
            return None
        type, _slash, id = test.text.partition("/")
        names = connection.execute(sa.select(t.facility.c.id)).scalars()
        return name.in_([one for one in names if type == target and local_id(one) == id])

    return Relation(
        rows=rows, key=key, text=sa.literal(f"{target}/").concat(name), target=target, held=name, holds=holds
    )


def _status() -> sa.ColumnElement[str]:
    """As `storage.catalog.fhir_studies` has it."""
    errors = [code for code, title in TITLES.items() if title.is_final and code != QUALITY]
    images = sa.and_(_S.c.instance_count > 0, _S.c.sop_classes != f"{KEY_OBJECT_SELECTION}\\")
    return sa.case(
        (images, "available"),
        (_removed(t.removal.c.reason.in_(errors)), "entered-in-error"),
        (_removed(t.removal.c.reason == QUALITY), "cancelled"),
        (_S.c.instance_count > 0, "available"),
        else_="registered",
    )


def _bare(test: Test, column: sa.ColumnElement[str], space: str) -> sa.ColumnElement[bool] | None:
    """That a UID is the one asked for, be it written as such or as a URN."""
    if not isinstance(test, Text) or test.how != "is":
        return None
    is_of_space = sa.true() if test.space in (None, space) else sa.false()
    return sa.and_(column == test.text.removeprefix(_OID), is_of_space)


def _sop_class(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    if not isinstance(test, Text) or test.how != "is":
        return None
    is_of_space = sa.true() if test.space in (None, URI) else sa.false()
    each = sa.literal("\\").concat(_S.c.sop_classes)
    return sa.and_(each.contains(f"\\{test.text.removeprefix(_OID)}\\", autoescape=True), is_of_space)


def _body_part(test: Test, column: sa.ColumnElement[str]) -> sa.ColumnElement[bool] | None:
    if not isinstance(test, Text) or test.how != "is":
        return None
    terms = [term for term, (code, _meaning) in BODY_PARTS.items() if code == test.text]
    return sa.func.upper(column).in_(terms if test.space in (None, SNOMED) else [])


# -- identifiers -------------------------------------------------------------------------------------------------------


def _identifier(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    """The study's UID, or its accession number."""
    if not isinstance(test, Text):
        return None
    if test.how == "in space":
        return sa.true() if test.space == UID else _is_issued(test.space or "")
    if test.how != "is":
        return None
    is_uid = _S.c.study_uid == test.text.removeprefix(_OID) if test.space in (None, UID) else sa.false()
    return sa.or_(is_uid, _has_number(test) if test.space != UID else sa.false())


def _accession(_connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    return _has_number(test) if isinstance(test, Text) and test.how == "is" else None


def _has_number(test: Text) -> sa.ColumnElement[bool]:
    held = _S.c.accession_number == test.text
    return held if test.space is None else sa.and_(held, _is_issued(test.space))


def _is_issued(system: str) -> sa.ColumnElement[bool]:
    """That an accession number is of an issuer: its OID or URI (0040,0032) stands in the header, or it has none."""
    extra = t.as_text(_S.c.extra)
    issuer = system.removeprefix(_OID)
    has_issuer = sa.and_(extra.contains('"00080051"'), extra.contains('"00400032"'))
    if not issuer:
        return sa.and_(_S.c.accession_number.is_not(None), sa.not_(has_issuer))
    return sa.and_(has_issuer, extra.contains(f'"{issuer}"', autoescape=True))


# -- dates -------------------------------------------------------------------------------------------------------------


def _clock() -> sa.ColumnElement[str]:
    """Date and time of a study as its clock had them: they sort as text."""
    return _S.c.study_date.concat(sa.func.coalesce(_S.c.study_time, ""))


def _started(connection: sa.Connection, test: Test) -> sa.ColumnElement[bool] | None:
    """How the begin of a study stands to a range.

    Days that are asked for without a zone are those of the study's own clock, as Study Date is; times are compared
    with the offset that the study was received with, or in its facility's zone. A study without a time is all day.
    """
    if not isinstance(test, Range):
        return None
    date = _S.c.study_date
    begin, end = moments(test.low, test.high)
    if test.low % _DAY == 0 and (test.high + 1) % _DAY == 0:
        return sa.and_(date != "", compared(test.op, date, date, _wall(begin, UTC)[:8], _wall(end, UTC)[:8]))
    time = sa.func.coalesce(_S.c.study_time, "")
    text = date.concat(time)
    low = sa.func.substr(text, 1, 18)
    high = sa.case((text.like("%.000000"), sa.func.substr(text, 1, 14).concat(".999")), else_=low)
    all_day = (date.concat("000000.000"), date.concat("235959.999"))
    held = [sa.and_(time == "", compared(test.op, *all_day, _wall(begin, UTC), _wall(end, UTC)))]
    for is_of_zone, zone in _zones(connection, test, begin, end):
        held.append(sa.and_(time != "", is_of_zone, compared(test.op, low, high, _wall(begin, zone), _wall(end, zone))))
    return sa.and_(date != "", sa.or_(*held))


def _zones(
    connection: sa.Connection, test: Range, begin: datetime, end: datetime
) -> Iterator[tuple[sa.ColumnElement[bool], tzinfo]]:
    """The clocks by which studies were dated, and which studies were dated by each."""
    known = sa.select(t.study.c.timezone_offset).where(t.study.c.timezone_offset.is_not(None)).distinct()
    if test.op in ("eq", "ap", "ge", "gt", "sa") and begin.year > 1:
        known = known.where(t.study.c.study_date >= _wall(begin - _ANY_ZONE, UTC)[:8])
    if test.op in ("eq", "ap", "le", "lt", "eb") and end.year < 9999:
        known = known.where(t.study.c.study_date <= _wall(end + _ANY_ZONE, UTC)[:8])
    for offset in connection.execute(known).scalars():
        yield _S.c.timezone_offset == offset, _fixed(offset)
    by_zone: dict[str, list[str]] = {}
    for id, name in connection.execute(sa.select(t.facility.c.id, t.facility.c.zone)):
        by_zone.setdefault(name, []).append(id)
    for name, facilities in by_zone.items():
        yield sa.and_(_S.c.timezone_offset.is_(None), _S.c.owner_facility.in_(facilities)), _named(name)


def _fixed(offset: str) -> tzinfo:
    """Timezone Offset From UTC (0008,0201): ``-0600``."""
    found: datetime = datetime.strptime(offset, "%z")
    return found.tzinfo or UTC


def _named(name: str) -> tzinfo:
    try:
        return zone_of(name)
    except ValueError:
        return UTC


def _wall(at: datetime, zone: tzinfo) -> str:
    """What a clock of a zone shows, as `_clock` has it, to the millisecond."""
    with suppress(OverflowError):
        at = at.astimezone(zone)
    return f"{at.year:04}{at:%m%d%H%M%S}.{at.microsecond // 1000:03}"
