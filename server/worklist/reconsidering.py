"""When an order or a step comes, or changes: the studies that are here already and may be its images are looked at."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from server.worklist.items import Work
from storage.catalog import schema as t

RECONCILE = "reconcile.study"

_MOST = 50
_RECENTLY = timedelta(days=7)
"""So long ago a study of that patient may have come to be the one that is ordered now."""


def reconsider(
    work: Work, facility: str, *, accession_number: str = "", study_uid: str = "", patient_id: str = ""
) -> None:
    """Have those settled studies of a facility matched anew that have one of these."""
    if work.queue is None:
        return
    s = t.study.c
    is_meant = []
    if accession_number:
        is_meant.append(s.accession_number == accession_number)
    if study_uid:
        is_meant.append(s.study_uid == study_uid)
    if patient_id:
        is_meant.append(sa.and_(s.patient_id == patient_id, s.received_at >= work.now - _RECENTLY))
    if not is_meant:
        return
    found = sa.select(s.study_uid).where(
        s.owner_facility == facility, s.settled_at.is_not(None), s.instance_count > 0, sa.or_(*is_meant)
    )
    for uid in work.connection.execute(found.order_by(s.id.desc()).limit(_MOST)).scalars():
        told = {"facility": facility, "study_uid": uid}
        key = f"reconcile {facility} {uid}"
        work.queue.enqueue(work.connection, RECONCILE, told, lane=key, key=key)
