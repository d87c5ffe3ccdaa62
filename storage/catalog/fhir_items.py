"""What work items lead to: the studies, orders, patients and readers that a Task refers to, in a few queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.directory import names_of
from storage.catalog.ids import patient_key
from storage.catalog.work_items import StoredItem
from storage.upsrules import value_of

_STUDIES = sa.select(
    *(t.study.c[name] for name in ("owner_facility", "study_uid", "fhir_id", "patient", "study_description")),
    t.study.c.instance_count,
).where(t.study.c.study_uid.in_(sa.bindparam("uids", expanding=True)))
_ORDERS = (
    sa.select(*(t.imaging_order.c[name] for name in ("facility", "accession_number", "id")))
    .where(t.imaging_order.c.accession_number.in_(sa.bindparam("accessions", expanding=True)))
    .order_by(t.imaging_order.c.created_at, t.imaging_order.c.id)
)
# Of a study the report that counts, else the one that was withdrawn last: what a reading has led to stays its result.
_REPORTS = (
    sa.select(t.report.c.facility, t.report.c.study_uid, t.report.c.id)
    .where(t.report.c.study_uid.in_(sa.bindparam("uids", expanding=True)), t.report.c.number > 0)
    .order_by(t.report.c.status != "entered-in-error", t.report.c.signed_at, t.report.c.id)
)
_ISSUERS = sa.select(t.facility.c.id, t.facility.c.issuer).where(
    t.facility.c.id.in_(sa.bindparam("ids", expanding=True))
)
_PATIENTS = sa.select(t.patient.c.id).where(t.patient.c.id.in_(sa.bindparam("ids", expanding=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A patient whom an item names by a Patient ID; `key` is that of the catalog, where it knows the patient."""

    patient_id: str
    issuer: str
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Studies and reports by facility and UID, orders by facility and accession number, names of readers, patients by
    item."""

    studies: Mapping[tuple[str, str], Any]
    orders: Mapping[tuple[str, str], Sequence[str]]
    readers: Mapping[str, str]
    patients: Mapping[str, Named]
    reports: Mapping[tuple[str, str], str] = field(default_factory=dict)


def links_of(connection: sa.Connection, items: Sequence[StoredItem]) -> Links:
    """What some items lead to."""
    studies, orders = dict[tuple[str, str], Any](), defaultdict[tuple[str, str], list[str]](list)
    if uids := sorted({one.study_uid for one in items if one.study_uid}):
        for row in connection.execute(_STUDIES, {"uids": uids}):
            studies[row.owner_facility, row.study_uid] = row
    if accessions := sorted({one.accession_number for one in items if one.accession_number}):
        for row in connection.execute(_ORDERS, {"accessions": accessions}):
            orders[row.facility, row.accession_number].append(row.id)
    holders = {one.owner or one.offered_to or "" for one in items} - {""}
    nameless = [one for one in items if (one.facility, one.study_uid) not in studies]
    return Links(
        studies=studies,
        orders=orders,
        readers=names_of(connection, holders),
        patients=_named(connection, nameless),
        reports=_reported(connection, items),
    )


def _reported(connection: sa.Connection, items: Sequence[StoredItem]) -> dict[tuple[str, str], str]:
    """The reports that readings which are over have led to."""
    uids = sorted({one.study_uid for one in items if one.study_uid and one.state == "completed"})
    if not uids:
        return {}
    found = connection.execute(_REPORTS, {"uids": uids})
    return {(row.facility, row.study_uid): row.id for row in found}


def _named(connection: sa.Connection, items: Sequence[StoredItem]) -> dict[str, Named]:
    told = {one.id: orjson.loads(one.attributes) for one in items}
    ids = {one.id: value_of(told[one.id], "00100020") for one in items}
    if not any(ids.values()):
        return {}
    found = connection.execute(_ISSUERS, {"ids": sorted({one.facility for one in items})})
    issuers = {row.id: row.issuer for row in found}
    named = {
        one.id: (str(ids[one.id]), str(value_of(told[one.id], "00100021") or issuers[one.facility]))
        for one in items
        if ids[one.id]
    }
    keys = {patient_key(issuer, id) for id, issuer in named.values()}
    known = set(connection.execute(_PATIENTS, {"ids": sorted(keys)}).scalars())
    return {
        item: Named(patient_id=id, issuer=issuer, key=key if (key := patient_key(issuer, id)) in known else None)
        for item, (id, issuer) in named.items()
    }
