"""Patients that change and merge: what the messages of a facility say of its patients, and what follows from that.

A message is taken in the caller's transaction: who somebody is, who was merged into whom, and the orders, items and
scheduled steps that go with it. The studies follow by a durable job, each corrected in a transaction of its own
(`server.correcting`), so that the received values stay and its history tells who has said it, when and why. What comes
later under an id that was merged, or with other particulars than a message has told, is corrected as it comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from pydicom.datadict import dictionary_VR

from readingroom.clock import Clock
from readingroom.errors import Changed, Conflict, Invalid, NotFound, Unavailable
from readingroom.model import Scope
from server.correcting import REASON_CHARACTERS, correct
from server.queue import Job, Policy, Queue
from server.worklist.items import THE_SERVER, Work, update_attributes
from server.worklist.steps import rename_steps, schedule_step
from storage.blobs import Blobs
from storage.catalog import schema as t
from storage.catalog.corrections import Target, tag_of
from storage.catalog.merges import (
    Known,
    Merge,
    Moved,
    add_merge,
    add_move,
    end_merge,
    find_merge,
    forget_move,
    issuer_at,
    lock_patients,
    merge_of,
    moves_of,
    patient_of_study,
    read_known,
    register_patient,
    registered,
    studies_of,
    write_known,
)
from storage.catalog.normal import LONGEST
from storage.catalog.overlays import read_corrections
from storage.catalog.reports import StoredReport, reports_of_study, update_report
from storage.catalog.rows import header_of
from storage.catalog.steps import lock_step, open_steps_of_patient
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import StoredItem, item_by_id
from storage.changes import read_changes
from storage.dicomjson import MetadataJson
from storage.overlay import Correction, Layer

PATIENT_ID, ISSUER, OTHER_IDS = "00100020", "00100021", "00101002"
CALLED = ("00100010", "00100030", "00100040")
"""Patient's Name, Birth Date and Sex."""
_PARTICULARS = frozenset((*CALLED, "00100032", "00101001", "00101040", "00102154", "00102160"))
"""What a message may say of a patient: besides these Birth Time, Other Names, Address, Telephone and Ethnic Group."""

ACTOR = THE_SERVER.id
"""Who corrects what messages say, in the history of a study. What anybody else has corrected is a person's."""

FOLLOW, RETURN = "patients.follow", "patients.return"
_POLICY = Policy(attempts=20, first=timedelta(seconds=2), most=timedelta(minutes=5))
_TRIES = 5
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MISSING: object = object()


def update_patient(work: Work, *, facility: str, issuer: str, patient_id: str, who: MetadataJson, source: str) -> None:
    """Take what a message says of who a patient is (ADT^A08, A31, A01 ...; the PID of an order).

    What it says holds over received values and over what earlier messages said, in the studies that are here and in
    those that come later; what a person has corrected in a study stays. Said again, it changes nothing.

    Parameters
    ----------
    issuer
        Of the Patient ID; empty for the facility's own. A facility's message changes only studies that it owns.
    who
        Name, birth date, sex and the like as DICOM JSON. What is absent stays as it is; an empty element, or None,
        takes a value away. Ids and other attributes are no part of it, and are left alone.
    source
        Who said it; it stays in the history of each study.

    Raises
    ------
    Invalid
        A value is none of its VR, or there is no Patient ID.
    """
    ensure_facility(work.connection, facility)
    patient = _known(work.connection, facility, issuer, patient_id)
    said = {
        tag: element if element is not None else {"vr": dictionary_VR(int(tag, 16))}
        for tag, element in read_changes({tag: one for tag, one in who.items() if tag in _PARTICULARS}, "study").items()
    }
    before = read_known(work.connection, patient, locked=True)
    after = dict(sorted({**before, **said}.items()))
    if after == before:
        return
    write_known(work.connection, patient, after, _line(source), work.now)
    for item in _waiting_items(work, patient):
        _restate(work, item, {tag: after[tag] for tag in CALLED if tag in after})
    rename_steps(work, facility, patient.issuer, patient.patient_id, said)
    if studies_of(work.connection, patient):
        follow(_queue(work), work.connection, patient)


def merge_patients(work: Work, *, facility: str, issuer: str, from_id: str, into_id: str, source: str) -> str:
    """Merge a patient into another, the survivor (ADT^A40), or give one another id (A47).

    The studies of the old id become the survivor's as corrections, by a job; orders and items that have no study yet
    do so now. Under an old id that nobody knows here it is kept too: what comes under it later is the survivor's.

    Returns
    -------
    str
        Id of the merge; the one that there is already, where the two are the same since then. Empty where both ids
        are the same, for there is nothing to merge.

    Raises
    ------
    Conflict
        The survivor was merged into the old one before, or the old one into somebody else: that is undone first.
    Invalid
        An id is missing or too long.
    """
    ensure_facility(work.connection, facility)
    lock_patients(work.connection, facility)
    old = _known(work.connection, facility, issuer, from_id)
    new = _known(work.connection, facility, issuer, into_id)
    if old == new:
        return ""
    survivor = surviving(work.connection, new)
    before = merge_of(work.connection, old)
    if before is not None:
        if surviving(work.connection, old) == survivor:
            return before.id
        raise Conflict(f"That patient was merged into another before; undo merge {before.id} first.")
    if survivor == old:
        raise Conflict("The survivor of this merge was merged into that very patient before; undo that merge first.")
    merge = Merge(
        id=t.new_id(),
        facility=facility,
        issuer=old.issuer,
        from_id=old.patient_id,
        into_id=survivor.patient_id,
        source=_line(source),
        at=work.now,
    )
    add_merge(work.connection, merge)
    called = _called(work.connection, survivor)
    now = {PATIENT_ID: {"vr": "LO", "Value": [survivor.patient_id]}, **called}
    for order in _orders(work.connection, old):
        _set_order(work, facility, order, survivor.patient_id)
        add_move(work.connection, Moved(merge=merge.id, kind="order", key=order, before={}))
    for item in _waiting_items(work, old):
        attributes = orjson.loads(item.attributes)
        _restate(work, item, now)
        was = {tag: attributes.get(tag, {"vr": element["vr"]}) for tag, element in now.items()}
        add_move(work.connection, Moved(merge=merge.id, kind="item", key=item.id, before=was))
    for step in open_steps_of_patient(work.connection, facility, old.issuer, old.patient_id):
        was = {tag: step.item.get(tag, {"vr": element["vr"]}) for tag, element in now.items()}
        add_move(work.connection, Moved(merge=merge.id, kind="step", key=step.id, before=was))
    rename_steps(work, facility, old.issuer, old.patient_id, now)
    for patient in (old, survivor):
        register_patient(work.connection, patient, work.now)
    follow(_queue(work), work.connection, old)
    return merge.id


def undo_merge(work: Work, merge_id: str, source: str) -> None:
    """Undo a merge: what it has moved goes back, and nothing else does.

    Raises
    ------
    NotFound
        There is no such merge in scope.
    Conflict
        It was undone before; or the survivor was merged into somebody else since, which is undone first.
    """
    merge = find_merge(work.connection, work.scope, merge_id)
    lock_patients(work.connection, merge.facility)
    merge = find_merge(work.connection, work.scope, merge_id, locked=True)
    if merge.undone_at is not None:
        raise Conflict(f"Merge {merge.id} was undone before.")
    later = merge_of(work.connection, merge.survivor)
    if later is not None:
        raise Conflict(f"The survivor of merge {merge.id} was merged into another since; undo merge {later.id} first.")
    end_merge(work.connection, merge, _line(source), work.now)
    for moved in moves_of(work.connection, merge.id, "order", "item", "step"):
        if moved.kind == "order":
            _set_order(work, merge.facility, moved.key, merge.from_id, only_of=merge.into_id)
        elif moved.kind == "step":
            step = lock_step(work.connection, merge.facility, moved.key)
            if step is not None and step.is_open and step.patient_id == merge.into_id:
                header = orjson.dumps({**step.item, **moved.before})
                schedule_step(work, replace(step, patient_id=merge.from_id, header=header))
        else:
            item = item_by_id(work.connection, moved.key, locked=True)
            is_theirs = _first(orjson.loads(item.attributes).get(PATIENT_ID)) == merge.into_id
            if is_theirs and item.state not in ("completed", "cancelled") and not item.is_claimed:
                _restate(work, item, moved.before)
        forget_move(work.connection, moved)
    for patient in (merge.old, merge.survivor):
        register_patient(work.connection, patient, work.now)
    _queue(work).enqueue(work.connection, RETURN, {"merge": merge.id}, lane=_lane(merge.old), key=f"return {merge.id}")


def follow(queue: Queue, connection: sa.Connection, patient: Known) -> None:
    """Have the studies of a patient say what is known of that patient, and who it is."""
    queue.enqueue(connection, FOLLOW, asdict(patient), lane=_lane(patient), key=_lane(patient))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """The jobs that studies follow by; `register` gives them to the queue.

    `published` are told, in the transaction, of each report whose study has become another patient's.
    """

    engine: sa.Engine
    blobs: Blobs
    clock: Clock
    queue: Queue
    published: Sequence[Callable[[Work, StoredReport], None]] = field(default_factory=list)

    def register(self) -> None:
        """Have the queue run these; before the worker starts."""
        self.queue.on(FOLLOW, _POLICY)(self._follow)
        self.queue.on(RETURN, _POLICY)(self._return)

    def came(self, connection: sa.Connection, facility: str, study_uid: str) -> None:
        """Have a study that comes, or has settled, follow what is known of its patient; see `Flow.came`."""
        patient = patient_of_study(connection, facility, study_uid)
        if patient is not None and (merge_of(connection, patient) or read_known(connection, patient)):
            follow(self.queue, connection, patient)

    def _follow(self, job: Job) -> None:
        patient = Known(**job.payload)
        with self.engine.connect() as connection:
            merge, said = merge_of(connection, patient), read_known(connection, patient)
            studies = studies_of(connection, patient)
            source = _source_of(connection, patient)
        for study_uid in studies:
            if merge is not None:
                self._move(merge, study_uid)
            else:
                self._tell(patient, study_uid, said, source)
        if merge is not None:
            with job.finishing() as connection:
                if merge_of(connection, merge.survivor) is not None:
                    follow(self.queue, connection, merge.survivor)

    def _tell(self, patient: Known, study_uid: str, said: MetadataJson, source: str) -> None:
        """Have a study say of its patient what messages have said, but for what a person has corrected."""

        def wanted(study: Said) -> _Wanted | None:
            if study.patient_id != patient.patient_id:
                return None
            return _Wanted(
                change={
                    tag: element
                    for tag, element in said.items()
                    if not _is_same(study.header.get(tag), element) and not study.is_persons(tag)
                }
            )

        self._correct(patient.facility, study_uid, wanted, f"Particulars of the patient as told by {source}")

    def _move(self, merge: Merge, study_uid: str) -> None:
        """Have a study be the survivor's; keep what its layer said before."""
        before: dict[str, Any] = {}
        with self.engine.connect() as connection:
            called = {**_called(connection, merge.survivor), **read_known(connection, merge.survivor)}

        def wanted(study: Said) -> _Wanted | None:
            if study.patient_id != merge.from_id:
                return None
            others = study.header.get(OTHER_IDS, {}).get("Value") or []
            change: dict[str, Any] = {
                tag: element for tag, element in called.items() if not _is_same(study.header.get(tag), element)
            }
            change[PATIENT_ID] = {"vr": "LO", "Value": [merge.into_id]}
            if not any(_first(one.get(PATIENT_ID)) == merge.from_id for one in others):
                change[OTHER_IDS] = {"vr": "SQ", "Value": [*others, _other(merge)]}
            before.clear()
            before.update({tag: study.layer[tag] for tag in change if tag in study.layer})
            before["drop"] = [tag for tag in change if tag not in study.layer]
            return _Wanted(change=change)

        def along(connection: sa.Connection, correction: Correction) -> None:
            if find_merge(connection, Scope(), merge.id, locked=True).undone_at is not None:
                raise Conflict(f"Merge {merge.id} has been undone meanwhile.")
            add_move(connection, Moved(merge=merge.id, kind="study", key=study_uid, before=before))
            self._lead(connection, correction)

        reason = f"Merge {merge.id} of patients, told by {merge.source}"
        self._correct(merge.facility, study_uid, wanted, reason, along)

    def _return(self, job: Job) -> None:
        with self.engine.connect() as connection:
            merge = find_merge(connection, Scope(), job.payload["merge"])
            moves = moves_of(connection, merge.id, "study")
        for moved in moves:
            self._move_back(merge, moved)
        with job.finishing() as connection:
            for moved in moves:
                forget_move(connection, moved)
            for patient in (merge.old, merge.survivor):
                if read_known(connection, patient):
                    follow(self.queue, connection, patient)

    def _move_back(self, merge: Merge, moved: Moved) -> None:
        def wanted(study: Said) -> _Wanted | None:
            # Since then a person has said whose it is, or it is somebody else's again.
            if study.patient_id != merge.into_id or study.is_persons(PATIENT_ID):
                return None
            drop = frozenset(tag for tag in moved.before["drop"] if not study.is_persons(tag))
            change = {
                tag: element for tag, element in moved.before.items() if tag != "drop" and not study.is_persons(tag)
            }
            return _Wanted(change=change, drop=drop)

        def along(connection: sa.Connection, correction: Correction) -> None:
            forget_move(connection, moved)
            self._lead(connection, correction)

        reason = f"Merge {merge.id} of patients was undone, told by {merge.undone_source}"
        self._correct(merge.facility, moved.key, wanted, reason, along)

    def _correct(
        self,
        facility: str,
        study_uid: str,
        wanted: Callable[[Said], _Wanted | None],
        reason: str,
        along: Callable[[sa.Connection, Correction], None] | None = None,
    ) -> None:
        """Correct a study by what it says at this moment; anew where somebody else was quicker."""
        for _ in range(_TRIES):
            with self.engine.connect() as connection:
                study = read_said(connection, facility, study_uid)
            what = wanted(study) if study is not None else None
            if study is None or what is None or not (what.change or what.drop):
                return
            try:
                correct(
                    self.engine,
                    self.blobs,
                    self.clock,
                    Scope(facilities=frozenset((facility,))),
                    Target(study_uid=study_uid),
                    what.change,
                    actor=ACTOR,
                    reason=reason[:REASON_CHARACTERS],
                    held=study.tag,
                    drop=what.drop,
                    along=along,
                )
            except Changed:
                continue
            except NotFound:  # it has been purged meanwhile
                return
            return
        raise Unavailable(f"Study {study_uid} is being corrected again and again; it is tried later.", retry_after=5)

    def _lead(self, connection: sa.Connection, correction: Correction) -> None:
        """Have the reports and follow-ups of a study lead to its patient; what was signed stays as it was signed."""
        lead_reports(
            Work(connection=connection, now=correction.at, actor=THE_SERVER, queue=self.queue),
            correction.owner_facility,
            correction.study_uid,
            self.published,
        )


def lead_reports(
    work: Work, facility: str, study_uid: str, published: Sequence[Callable[[Work, StoredReport], None]]
) -> None:
    """Have the reports and follow-ups of a study lead to the patient whose it is now; `published` are told of each."""
    s, f = t.study.c, t.follow_up.c
    whose = sa.select(s.patient).where(s.owner_facility == facility, s.study_uid == study_uid)
    patient = work.connection.execute(whose).scalar_one()
    for report in reports_of_study(work.connection, facility, study_uid):
        if report.patient == patient:
            continue
        led = replace(report, patient=patient, version=report.version + 1, changed_at=work.now)
        update_report(work.connection, report, led)
        for tell in published:
            tell(work, led)
    theirs = t.follow_up.update().where(f.facility == facility, f.study_uid == study_uid)
    work.connection.execute(theirs.values(patient=patient))
    work.tell()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a study says at this moment, and the corrections that lie over it as a whole."""

    header: MetadataJson
    tag: str
    corrections: Sequence[Correction]

    @property
    def patient_id(self) -> str | None:
        """Whose it is."""
        return _first(self.header.get(PATIENT_ID))

    @property
    def layer(self) -> Layer:
        """The layer over all of the study that holds now."""
        return self.corrections[-1].attributes if self.corrections else {}

    def is_persons(self, tag: str) -> bool:
        """Whether it was a person who has said last what holds of an attribute."""
        actor, holds = ACTOR, _MISSING
        for one in self.corrections:
            said: object = one.attributes.get(tag, _MISSING)
            if said is not _MISSING and said != holds:
                actor = one.actor
            holds = said
        return actor != ACTOR and holds is not _MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is to change of a layer, and the tags of which it is to say nothing any more."""

    change: dict[str, Any]
    drop: frozenset[str] = frozenset()


def read_said(connection: sa.Connection, facility: str, study_uid: str) -> Said | None:
    """What a study says; None where there is none."""
    found = sa.select(t.study).where(t.study.c.owner_facility == facility, t.study.c.study_uid == study_uid)
    row = connection.execute(found).one_or_none()
    if row is None or not row.row:
        return None
    over = read_corrections(connection, facility, study_uid) if row.overlay_version else []
    return Said(
        header=header_of(row.row, row.extra),
        tag=tag_of(row),
        corrections=[one for one in over if not one.series_uid],
    )


def _known(connection: sa.Connection, facility: str, issuer: str, patient_id: str) -> Known:
    """A patient by what a message says of the id; raises `Invalid`."""
    patient_id, issuer = patient_id.strip(), issuer.strip()
    if not patient_id or len(patient_id) > 64 or _CONTROL.search(patient_id) or "\\" in patient_id:
        raise Invalid("A Patient ID has 1 to 64 characters, and no backslash.")
    if len(issuer) > LONGEST or _CONTROL.search(issuer):
        raise Invalid(f"The issuer of a Patient ID has at most {LONGEST} characters.")
    return Known(facility=facility, issuer=issuer or issuer_at(connection, facility), patient_id=patient_id)


def surviving(connection: sa.Connection, patient: Known) -> Known:
    """Who is left of a patient after all merges; of them no two lead to each other."""
    while (merge := merge_of(connection, patient)) is not None:
        patient = merge.survivor
    return patient


def _called(connection: sa.Connection, patient: Known) -> MetadataJson:
    """Name, birth date and sex, as far as they are known of a patient."""
    known = {**registered(connection, patient), **read_known(connection, patient)}
    return {tag: known[tag] for tag in CALLED if known.get(tag, {}).get("Value")}


def _source_of(connection: sa.Connection, patient: Known) -> str:
    k = t.patient_known.c
    mine = sa.select(k.source).where(*(k[name] == value for name, value in asdict(patient).items()))
    return str(connection.execute(mine).scalar_one_or_none() or "a message")


def _orders(connection: sa.Connection, patient: Known) -> list[str]:
    o = t.imaging_order.c
    issued = o.issuer == patient.issuer
    if issuer_at(connection, patient.facility) == patient.issuer:
        issued = sa.or_(issued, o.issuer.is_(None))
    mine = sa.select(o.id).where(o.facility == patient.facility, o.patient_id == patient.patient_id, issued)
    return list(connection.execute(mine.order_by(o.id)).scalars())


def _set_order(work: Work, facility: str, id: str, patient_id: str, *, only_of: str | None = None) -> None:
    o = t.imaging_order.c
    one = t.imaging_order.update().where(o.facility == facility, o.id == id)
    if only_of is not None:
        one = one.where(o.patient_id == only_of)
    work.connection.execute(one.values(patient_id=patient_id, updated_at=work.now))


def _waiting_items(work: Work, patient: Known) -> Iterator[StoredItem]:
    """The items of a patient that have no study yet, and that nobody has claimed."""
    i, v = t.work_item.c, t.work_item_value.c
    named = sa.select(v.entity).where(v.key == PATIENT_ID, v.value == patient.patient_id)
    found = sa.select(i.id).where(
        i.id.in_(named), i.facility == patient.facility, i.study_uid.is_(None), i.claim_token.is_(None)
    )
    own = issuer_at(work.connection, patient.facility)
    for id in work.connection.execute(found.where(i.state.not_in(("completed", "cancelled"))).order_by(i.id)).scalars():
        item = item_by_id(work.connection, id, locked=True)
        if (_first(orjson.loads(item.attributes).get(ISSUER)) or own) == patient.issuer:
            yield item


def _restate(work: Work, item: StoredItem, attributes: Mapping[str, Any]) -> None:
    """Have an item say otherwise who it is for, where it does not say so already."""
    held = orjson.loads(item.attributes)
    changed = {tag: element for tag, element in attributes.items() if held.get(tag) != element}
    if changed:
        update_attributes(work, item, changed)


def _other(merge: Merge) -> MetadataJson:
    """An item of Other Patient IDs Sequence (PS3.3 C.2.2)."""
    return {
        PATIENT_ID: {"vr": "LO", "Value": [merge.from_id]},
        ISSUER: {"vr": "LO", "Value": [merge.issuer[:64]]},
        "00100022": {"vr": "CS", "Value": ["TEXT"]},
    }


def _is_same(one: Any, other: Any) -> bool:
    return _plain(one) == _plain(other)


def _plain(element: Any) -> list[Any]:
    """The values of an element without what says nothing: padding, components of a name that are empty."""
    values = (element or {}).get("Value") or []
    made = []
    for value in values:
        if isinstance(value, dict) and (element or {}).get("vr") == "PN":
            value = {group: text.rstrip("^ ") for group, text in value.items() if text.rstrip("^ ")}
        made.append(value.strip() if isinstance(value, str) else value)
    return [value for value in made if value not in (None, "", {})]


def _first(element: Any) -> str | None:
    values = (element or {}).get("Value") or [None]
    return str(values[0]).strip() if values[0] is not None else None


def _line(source: str) -> str:
    return " ".join(_CONTROL.sub(" ", source).split())[:200] or "a message"


def _lane(patient: Known) -> str:
    return f"patient {patient.facility} {patient.issuer} {patient.patient_id}"


def _queue(work: Work) -> Queue:
    if work.queue is None:
        raise TypeError("studies follow their patient by jobs: give the work a queue")
    return work.queue
