"""Correcting a study: one more version of the layer over it, over one of its series or instances, in one transaction.

The received values stay where they are. `next_correction` says what the new layer is, `record_correction` works it into
everything that is kept ready: rows, search columns, patient, metadata. `reindex` replays it through the same function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.errors import Changed, NotFound
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.counts import recount_study, reopen_study
from storage.catalog.events import instance_events
from storage.catalog.find import find_instance, find_series, find_study
from storage.catalog.listed import relist_entities
from storage.catalog.overlays import (
    load_metadata,
    read_corrections,
    rewrite_instances,
    rewrite_series,
    rewrite_study,
)
from storage.catalog.rows import header_of
from storage.catalog.work_items import restate_items
from storage.changes import Changes, Level
from storage.dicomjson import MetadataJson
from storage.overlay import Correction, Layer, put_over


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be corrected: a study, one of its series, or one instance; the UIDs below it are empty."""

    study_uid: str
    series_uid: str = ""
    instance_uid: str = ""

    @property
    def level(self) -> Level:
        return "instance" if self.instance_uid else "series" if self.series_uid else "study"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A correction, and what it changed: by tag the element before and the element since, None where it was absent."""

    correction: Correction
    changed: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The corrections that lie over a target or within it, the oldest first; `tag` is new with each."""

    tag: str
    entries: list[Entry]


def owner_of(connection: sa.Connection, scope: Scope, target: Target) -> str:
    """The facility that owns a target; raises `NotFound` or `Ambiguous`."""
    study_uid, series_uid, instance_uid = target.study_uid, target.series_uid, target.instance_uid
    if instance_uid:
        return find_instance(connection, scope, study_uid, series_uid, instance_uid).owner_facility
    if series_uid:
        return find_series(connection, scope, study_uid, series_uid).owner_facility
    return find_study(connection, scope, study_uid).owner_facility


def next_correction(
    connection: sa.Connection,
    scope: Scope,
    target: Target,
    change: Changes | int,
    *,
    actor: str,
    reason: str,
    now: datetime,
    held: str | None = None,
    drop: Collection[str] = (),
) -> Correction | None:
    """The correction that is to be recorded; from here to the end of the transaction the study's row is locked.

    Parameters
    ----------
    change
        What is to change; or the version whose layer is to hold again, 0 for the one without any.
    held
        The `History.tag` that the caller has seen, where nothing else may have come in between.
    drop
        Tags of which the layer is to say nothing any more, so that what lies below holds again.

    Returns
    -------
    Correction or None
        None where nothing would change.

    Raises
    ------
    NotFound
        There is no such study, series or instance in scope, or no such version of its corrections.
    Ambiguous
        Several facilities in scope own it.
    Changed
        The study was corrected since `held` was seen.
    """
    owner = owner_of(connection, scope, target)
    study = _lock(connection, owner, target.study_uid)
    if held is not None and held != tag_of(study):
        raise Changed(f"Study {target.study_uid} was corrected meanwhile; read its history again.")
    corrections = read_corrections(connection, owner, target.study_uid)
    mine = [one for one in corrections if one.target == (target.study_uid, target.series_uid, target.instance_uid)]
    holds: Layer = mine[-1].attributes if mine else {}
    if isinstance(change, int):
        if not 0 <= change <= study.overlay_version:
            raise NotFound(f"There is no version {change}; study {target.study_uid} is at {study.overlay_version}.")
        layer = next((one.attributes for one in reversed(mine) if one.version <= change), {})
    else:
        layer = {tag: one for tag, one in sorted({**holds, **change}.items()) if tag not in drop}
    if layer == holds:
        return None
    return Correction(
        owner_facility=owner,
        study_uid=target.study_uid,
        series_uid=target.series_uid,
        instance_uid=target.instance_uid,
        version=study.overlay_version + 1,
        attributes=layer,
        actor=actor,
        reason=reason,
        at=now,
    )


def record_correction(connection: sa.Connection, correction: Correction) -> dict[str, list[str]]:
    """Work a correction into everything that the catalog keeps ready.

    Returns
    -------
    dict
        By series, the instances in use that it lies over.

    Raises
    ------
    NotFound
        The catalog does not have the study.
    """
    study = _lock(connection, correction.owner_facility, correction.study_uid)
    connection.execute(
        t.overlay.insert().values(
            owner_facility=correction.owner_facility,
            study_uid=correction.study_uid,
            series_uid=correction.series_uid,
            instance_uid=correction.instance_uid,
            version=correction.version,
            attributes=orjson.dumps(correction.attributes),
            actor=correction.actor,
            reason=correction.reason,
            at=correction.at,
        )
    )
    corrected_now = {"overlay_version": correction.version, "updated_at": correction.at}
    connection.execute(t.study.update().where(t.study.c.id == study.id).values(corrected_now))
    corrections = read_corrections(connection, correction.owner_facility, correction.study_uid)
    all_series = connection.execute(
        sa.select(t.series.c.id, t.series.c.series_uid).where(t.series.c.study == study.id)
    ).all()
    covered = [one.id for one in all_series if correction.series_uid in ("", one.series_uid)]
    if not correction.instance_uid:
        for series_id in covered:
            rewrite_series(connection, series_id, corrections)
    if not correction.series_uid:
        rewrite_study(connection, study, corrections, correction.at)
    corrected = rewrite_instances(connection, study.id, corrections, correction)
    relist_entities(connection, "series", covered)
    relist_entities(connection, "study", [study.id])
    recount_study(connection, study.id)
    reopen_study(connection, study.id, correction.at)
    restate_items(connection, correction.owner_facility, correction.study_uid, correction.at)
    return corrected


def correction_events(correction: Correction, corrected: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """The rows of the log that tell of a correction."""
    return instance_events(
        "InstancesCorrected",
        owner_facility=correction.owner_facility,
        study_uid=correction.study_uid,
        at=correction.at,
        instances=corrected,
        correction=correction.version,
        actor=correction.actor,
    )


def read_history(connection: sa.Connection, scope: Scope, target: Target) -> History:
    """What was corrected of a study, series or instance: over it as a whole, over what it is in, and within it.

    Raises as `next_correction` does.
    """
    owner = owner_of(connection, scope, target)
    study = connection.execute(_study(owner, target.study_uid)).one()
    corrections = read_corrections(connection, owner, target.study_uid)
    return History(tag=tag_of(study), entries=list(_entries(connection, study, corrections, target)))


def _entries(
    connection: sa.Connection, study: sa.Row[Any], corrections: list[Correction], target: Target
) -> Iterator[Entry]:
    layers: dict[tuple[str, str, str], Layer] = {}
    headers: dict[tuple[str, str, str], MetadataJson] = {}
    for one in corrections:
        before, layers[one.target] = layers.get(one.target, {}), one.attributes
        if not _concerns(one, target):
            continue
        if one.target not in headers:
            headers[one.target] = _received(connection, study, one)
        was, now = (put_over(headers[one.target], layer) for layer in (before, one.attributes))
        tags = sorted({*before, *one.attributes})
        changed = {tag: (was.get(tag), now.get(tag)) for tag in tags if was.get(tag) != now.get(tag)}
        yield Entry(correction=one, changed=changed)


def _concerns(one: Correction, target: Target) -> bool:
    """Whether a correction lies over the target or something within it."""
    pairs = ((one.series_uid, target.series_uid), (one.instance_uid, target.instance_uid))
    return all("" in pair or pair[0] == pair[1] for pair in pairs)


def _received(connection: sa.Connection, study: sa.Row[Any], one: Correction) -> MetadataJson:
    """The header that a correction lies over, without any correction."""
    if one.instance_uid:
        found = connection.execute(
            sa.select(t.instance_metadata)
            .join(t.instance, t.instance_metadata.c.instance == t.instance.c.id)
            .where(t.instance.c.study == study.id, t.instance.c.instance_uid == one.instance_uid)
            .order_by(t.instance.c.version.desc())
            .limit(1)
        ).one_or_none()
        if found is None:
            return {}
        received = load_metadata(found.received or found.json)
        return put_over(received, orjson.loads(found.coerced)) if found.coerced else received
    row: sa.Row[Any] | None = study
    if one.series_uid:
        statement = sa.select(t.series).where(t.series.c.study == study.id, t.series.c.series_uid == one.series_uid)
        row = connection.execute(statement).one_or_none()
    if row is None:
        return {}  # it has been purged
    header: MetadataJson = orjson.loads(row.header) if row.header else header_of(row.row, row.extra)
    return header


def _study(owner_facility: str, study_uid: str) -> sa.Select[Any]:
    return sa.select(t.study).where(t.study.c.owner_facility == owner_facility, t.study.c.study_uid == study_uid)


def _lock(connection: sa.Connection, owner_facility: str, study_uid: str) -> sa.Row[Any]:
    found = connection.execute(_study(owner_facility, study_uid).with_for_update()).one_or_none()
    if found is None:
        raise NotFound(f"There is no study {study_uid}.")
    return found


def tag_of(study: sa.Row[Any]) -> str:
    """Says which corrections of a study somebody has seen who has read its row; see `History.tag`."""
    return f"{study.id}-{study.overlay_version}"
