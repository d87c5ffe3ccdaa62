"""Where searches look for the patients of the registry: their rows, and what the listed values of studies say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa

from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.fhir_conditions import Range, Test, Text
from storage.catalog.fhir_search import Relation, Source, compared
from storage.catalog.merges import is_merged
from storage.fhirvalues import issuer_of

_NAME = "00100010"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_P = t.patient.alias("patient_row")
_KEY = _P.c.id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patients(Source):
    """Patients: those of whom a study is in scope, or who were merged there."""

    def within(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        """Who has a study there, or was merged."""
        s = t.study.alias("of_patient")
        mine = sa.select(sa.literal(1)).where(s.c.patient == _KEY)
        if scope.facilities is not None:
            mine = mine.where(s.c.owner_facility.in_(sorted(scope.facilities)))
        return [*self.visible, sa.or_(mine.correlate(_P).exists(), is_merged(_P, scope))]


@cache
def patient_source() -> Source:
    """The patients that studies have made, and that no client has written."""
    r = t.resource.alias("written")
    is_written = sa.select(sa.literal(1)).where(r.c.type == "Patient", r.c.id == _KEY).correlate(_P).exists()
    return _Patients(
        type="Patient",
        rows=_P,
        key=_KEY,
        id=_P.c.id,
        updated_at=sa.func.coalesce(_P.c.updated_at, _P.c.received_at),
        facility=None,
        visible=(sa.not_(is_written),),
        relation=_relation,
    )


def _relation(parameter: str) -> Relation | None:
    study, value = t.study.alias("its_study"), t.study_value.alias("its_value")
    match parameter:
        case "identifier":
            return Relation(
                rows=_P, key=_KEY, text=_P.c.patient_id, space=_P.c.issuer, holds=lambda _, test: _identified(test)
            )
        case "name" | "family" | "given":
            named = value.join(study, study.c.id == value.c.entity)
            # Family names begin a name as it is listed; given names are words somewhere in it.
            listed = _NAME if parameter == "family" else f"~{_NAME}"
            return Relation(rows=named, key=study.c.patient, text=value.c.value, where=(value.c.key == listed,))
        case "birthdate":
            born = study.c.birth_date
            return Relation(
                rows=study,
                key=study.c.patient,
                text=born,
                low=born,
                high=born,
                where=(born.is_not(None),),
                holds=lambda _, test: _born(born, test),
            )
        case "gender":
            sex = sa.case(
                (sa.func.upper(study.c.sex) == "M", "male"),
                (sa.func.upper(study.c.sex) == "F", "female"),
                (sa.func.upper(study.c.sex) == "O", "other"),
            )
            has_sex = sa.func.upper(study.c.sex).in_(("M", "F", "O"))
            return Relation(rows=study, key=study.c.patient, text=sex, space=sa.literal(""), where=(has_sex,))
        case "deceased":
            return Relation(rows=_P, key=_KEY, text=sa.literal("false"), space=sa.literal(""))
    return None


def _identified(test: Test) -> sa.ColumnElement[bool]:
    if not isinstance(test, Text):
        return sa.false()
    issued = sa.true() if test.space is None else _P.c.issuer == issuer_of(test.space)
    if test.how == "in space":
        return sa.and_(issued, _P.c.patient_id.is_not(None))
    return sa.and_(_P.c.patient_id == test.text, issued)


def _born(column: Any, test: Test) -> sa.ColumnElement[bool]:
    """Days of birth against a range of moments: the days on which it begins and ends."""
    if not isinstance(test, Range):
        return sa.false()
    begin, end = (_day(at) for at in (test.low, test.high))
    return compared(test.op, column, column, begin, end)


def _day(at: float) -> str:
    """A moment, in milliseconds since 1970, as the day that a column has."""
    try:
        return f"{_EPOCH + timedelta(milliseconds=at):%Y%m%d}".rjust(8, "0")
    except OverflowError:
        return "00000000" if at < 0 else "99999999"
