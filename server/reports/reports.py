"""The commands on reports: to begin one, to write it, to sign it, to add to it and to take it back.

Each is given to a `server.worklist.items.Work`, which is one transaction by one actor. A text is written as often as
one likes, each time on top of the version that was read. What is signed is composed here, whole, from the text, the
study and the directory; it is kept with its signature, and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

import sqlalchemy as sa

from readingroom.errors import Changed, Conflict, Invalid, NotFound, Refused, Unprocessable
from readingroom.events import ReportSigned
from readingroom.jsonio import dumps, loads
from readingroom.model import (
    Addendum,
    Passage,
    Report,
    ReportKind,
    Signature,
    SignatureRole,
    Study,
)
from server.reports.drafting import (
    Text,
    WrittenSection,
    attributed,
    checked,
    digest,
    sections_of,
    sentences,
    unaccepted,
)
from server.reports.material import offers_for
from server.reports.signing import SigningKeys
from server.reports.states import SIGNING, check
from server.worklist import items
from server.worklist.directory import facility_of, is_at_home, licence_for
from server.worklist.items import Work
from storage.catalog import schema as t
from storage.catalog.orders import order_of
from storage.catalog.reports import (
    Awaited,
    SignedVersion,
    StoredReport,
    add_version,
    find_report,
    find_version,
    insert_report,
    report_of,
    update_report,
)
from storage.catalog.shown import read_removed, read_study
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import StoredItem, find_item, item_by_id, items_of_study, reading_of

Discrepancy = Literal["none", "minor", "major"]
Signed = Callable[[Work, StoredReport, Report], None]
"""Told, in the transaction, of a version that was signed: opens what follows from it."""
Published = Callable[[Work, StoredReport], None]
"""Told, in the transaction, of every report that was changed in what others see of it."""

REGISTERED, CANCELLED, REVISED, DISCARDED = "ReportRegistered", "ReportCancelled", "ReportRevised", "ReportDiscarded"
_REASON_CHARACTERS = 2000
_SECOND_WITHIN = timedelta(hours=24)
_OPEN = ("waiting", "ready", "assigned", "claimed", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """The commands, with the keys that sign, and those who are told."""

    keys: SigningKeys
    signed: list[Signed] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)

    # -- beginning and writing ---------------------------------------------------------------------------------------

    def begin(
        self,
        work: Work,
        *,
        facility: str,
        study_uid: str | None = None,
        workitem: str | None = None,
        text: Text | None = None,
    ) -> tuple[StoredReport, bool]:
        """The report of a study, or of what a work item is to read; made where there is none yet.

        Returns
        -------
        StoredReport, bool
            The report, and whether it is new.
        """
        item = find_item(work.connection, work.scope, workitem) if workitem else None
        if item is not None:
            facility, study_uid = item.facility, item.study_uid
        if not study_uid:
            raise Invalid("Say which study is reported, or the work item of a study that has come in.")
        if work.scope.facilities is not None and facility not in work.scope.facilities:
            raise NotFound(f"There is no study {study_uid[:64]}.")
        found = report_of(work.connection, facility, study_uid)
        if found is not None:
            return found, False
        study = read_study(work.connection, facility, study_uid)
        item = item or reading_of(work.connection, facility, study_uid, study.accession_number)
        ensure_facility(work.connection, facility)
        report = StoredReport(
            id=t.new_id(),
            facility=facility,
            status="registered",
            study_uid=study_uid,
            accession_number=study.accession_number,
            item=item.id if item else None,
            patient=study.patient,
            modality=next(iter(study.modalities), None),
            draft=dumps(checked(text or Text())),
            created_at=work.now,
            changed_at=work.now,
        )
        if not insert_report(work.connection, report):  # somebody else has begun it at this moment
            found = report_of(work.connection, facility, study_uid)
            if found is None:
                raise Conflict(f"The report of study {study_uid} was begun by somebody else; try again.")
            return found, False
        self._tell(work, report, REGISTERED)
        return report, True

    def write(self, work: Work, found: StoredReport, text: Text, *, reader: str | None = None) -> StoredReport:
        """Keep a text in place of the one that was being written; what was accepted of it stays accepted.

        Raises
        ------
        Conflict
            Nothing is being written of this report: what is signed is revised first.
        Invalid
            There is something wrong with the text.
        """
        check("write", found)
        before = text_of(found)
        text = checked(text)
        if text.kind != before.kind:
            raise Conflict(
                f"The text that is being written of report {found.id} is a {before.kind}, not a {text.kind}."
            )
        there = {digest(one) for one in _sentences(text)}
        accepted = tuple(sorted(there.intersection(before.accepted)))
        return self._change(work, found, draft=dumps(replace(text, accepted=accepted)), author=reader or found.author)

    def accept(self, work: Work, found: StoredReport, digests: Iterable[str]) -> StoredReport:
        """Say of sentences that an algorithm has written that they hold; they are named by their `digest`."""
        check("write", found)
        _require_person(work, "accept what an algorithm has written")
        text = text_of(found)
        there = {digest(one) for one in _sentences(text)}
        wanted = set(digests)
        if not wanted <= there:
            raise Invalid(f"{len(wanted - there)} of the sentences to accept are not in the text as it is now.")
        return self._change(
            work, found, draft=dumps(replace(text, accepted=tuple(sorted(wanted.union(text.accepted)))))
        )

    def revise(self, work: Work, found: StoredReport, kind: ReportKind, *, reader: str | None = None) -> StoredReport:
        """Begin an addendum to a signed report, or another text in its place."""
        check("revise", found)
        if kind == "report":
            raise Invalid("A signed report gets an addendum, an amendment or a correction.")
        if found.draft is not None:
            raise Conflict(
                f"A {text_of(found).kind} to report {found.id} is being written already; sign or discard it."
            )
        last = find_version(work.connection, found.id, found.number).shown
        text = Text(kind=kind, language=last.language)
        if kind != "addendum":
            text = _text_again(last, kind)
        changed = self._change(work, found, draft=dumps(text), author=reader or found.author)
        self._tell(work, changed, REVISED, kind=kind)
        return changed

    def discard(self, work: Work, found: StoredReport) -> StoredReport:
        """Forget what is being written over a signed report."""
        check("revise", found)
        if found.draft is None:
            raise Conflict(f"Nothing is being written of report {found.id}.")
        changed = self._change(work, found, draft=None)
        self._tell(work, changed, DISCARDED)
        return changed

    # -- signing -----------------------------------------------------------------------------------------------------

    def compose(self, connection: sa.Connection, found: StoredReport) -> Report:
        """What would be signed now, but for signature, number and status; with the origin of every sentence."""
        text = text_of(found)
        offers = offers_for(connection, found, reader=found.author or "")
        last = find_version(connection, found.id, found.number).shown if found.number else None
        if text.kind == "addendum":
            assert last is not None, "an addendum is written to what is signed"
            passages = attributed(text.addendum, offers, text.accepted)
            added = Addendum(number=found.number + 1, passages=passages)
            return replace(
                last,
                kind="addendum",
                addenda=(*last.addenda, added),
                critical_results=_joined(last.critical_results, text.critical_results),
                follow_ups=_joined(last.follow_ups, text.follow_ups),
                codes=_joined(last.codes, text.codes),
                because=text.because,
            )
        return replace(
            self.about(connection, found, last),
            kind=text.kind,
            status=found.status,
            number=found.number,
            language=text.language,
            sections=sections_of(text, offers),
            addenda=last.addenda if last and text.kind != "report" else (),
            critical_results=text.critical_results,
            follow_ups=text.follow_ups,
            codes=text.codes,
            because=text.because,
            signatures=(),
            signed_at=None,
            discrepancy=None,
        )

    def sign(
        self,
        work: Work,
        found: StoredReport,
        *,
        reader: str,
        status: Literal["preliminary", "final"] = "final",
        discrepancy: Discrepancy | None = None,
    ) -> StoredReport:
        """Sign what is being written.

        A reader in training signs as preliminary, and an attending has to sign too. One who reads for the facility may
        sign as preliminary; then the facility's own radiologist signs as final, and says how the two differ.

        Parameters
        ----------
        reader
            Who signs, by id: by licence of the state where the patient is at this moment, with privileges at the
            facility.
        discrepancy
            How a final text differs from what another reader had signed as preliminary.

        Raises
        ------
        Refused
            The actor may not sign, or that reader may not by law.
        Conflict
            Not in this state, or sentences of an algorithm are not accepted yet.
        Unprocessable
            There is nothing to sign, or it is not said what has to be.
        """
        text = text_of(found)
        command = SIGNING[text.kind]
        if command == "sign final" and status == "preliminary":
            command = "sign preliminary"
        step = check(command, found)
        assert step.target is not None, "to sign leads to a state"
        _require_person(work, "sign a report")
        composed = self.compose(work.connection, found)
        signature, is_home, is_finished_there = self._signature(
            work, found, composed, reader, is_final=command != "sign preliminary"
        )
        _require_content(text, composed)
        left = unaccepted(passage for passages in _written(composed) for passage in passages)
        if left:
            digests = ", ".join(digest(one.text) for one in left[:20])
            raise Conflict(
                f"Of report {found.id} {len(left)} sentences are an algorithm's and not accepted by anybody: {digests}."
            )
        before = find_version(work.connection, found.id, found.number) if found.number else None
        earlier = before.shown.signatures if before else ()
        if command == "sign final" and found.status == "preliminary":
            if earlier[-1].reader != reader and discrepancy is None:
                raise Unprocessable(
                    f"Report {found.id} was read by {earlier[-1].reader} before; say whether the discrepancy is none, "
                    "minor or major."
                )
        elif discrepancy is not None:
            raise Invalid("A discrepancy is told where a preliminary report becomes final.")
        report = replace(
            composed,
            status=step.target,
            number=found.number + 1,
            signed_at=work.now,
            discrepancy=discrepancy,
            signatures=(*(one for one in earlier if one.reader != reader), signature),
        )
        if text.kind == "addendum":
            added = replace(report.addenda[-1], signatures=(signature,))
            report = replace(report, addenda=(*report.addenda[:-1], added), signatures=composed.signatures)
        elif text.kind != "report":
            report = replace(report, signatures=(signature,))
        is_final = command != "sign preliminary"
        awaits = "" if is_final else _awaited(signature, is_home=is_home, is_finished_there=is_finished_there)
        signed = self._keep(
            work,
            found,
            report,
            before,
            reader,
            # A preliminary text stays open, for who signs it next.
            draft=None if is_final else found.draft,
            awaits=awaits,
            author=found.author or reader,
            final_at=found.final_at or (work.now if is_final else None),
        )
        if text.kind == "report" and (is_final or awaits):
            self._finish_reading(work, signed, reader)
        return signed

    def cancel(self, work: Work, found: StoredReport, reason: str) -> StoredReport:
        """End a report that nobody has signed."""
        check("cancel", found)
        reason = _reason(reason, "the report is cancelled")
        changed = self._change(work, found, draft=None, status="cancelled")
        self._tell(work, changed, CANCELLED, because=reason)
        return changed

    def withdraw(self, work: Work, found: StoredReport, *, reader: str, reason: str) -> StoredReport:
        """Say of a signed report that it was entered in error: a last version, signed like the others, says so."""
        step = check("withdraw", found)
        assert step.target is not None, "to withdraw leads to a state"
        _require_person(work, "withdraw a report")
        before = find_version(work.connection, found.id, found.number)
        last = before.shown
        signature, _is_home, _ = self._signature(work, found, last, reader, is_final=True)
        report = replace(
            last,
            status=step.target,
            kind="correction",
            number=found.number + 1,
            signed_at=work.now,
            signatures=(*last.signatures, signature),
            because=_reason(reason, "the report is withdrawn"),
        )
        return self._keep(work, found, report, before, reader, draft=None, awaits="")

    def about(self, connection: sa.Connection, found: StoredReport, last: Report | None = None) -> Report:
        """Patient, study, order and place of a report, as they are now; as signed last, where the study is purged."""
        try:
            study = _study(connection, found)
        except NotFound:
            if last is None:
                raise
            return last
        order = order_of(connection, found.facility, found.accession_number)
        facility = facility_of(connection, found.facility)
        item = item_by_id(connection, found.item) if found.item else None
        return Report(
            id=found.id,
            facility=found.facility,
            facility_name=facility.name,
            state=(item.patient_state if item else None) or facility.state,
            zone=facility.zone,
            status=found.status,
            item=found.item,
            study_uid=found.study_uid,
            accession_number=found.accession_number,
            patient_id=study.patient_id,
            issuer=study.issuer,
            patient_name=study.patient_name,
            birth_date=study.birth_date,
            sex=study.sex,
            study_date=study.study_date,
            study_time=study.study_time,
            modalities=study.modalities,
            body_parts=study.body_parts,
            procedure=(order.procedure if order else None) or study.description,
            reason=order.reason if order else None,
        )

    # -- within ------------------------------------------------------------------------------------------------------

    def _signature(
        self, work: Work, found: StoredReport, report: Report, reader: str, *, is_final: bool
    ) -> tuple[Signature, bool, bool]:
        """The signature that a reader may give now, whether it is the facility's own radiologist, and must be."""
        located = _Located(facility=found.facility, patient_state=report.state)
        entry, licence, facility = licence_for(work.connection, located, reader, work.now)
        is_home = is_at_home(work.connection, entry, found.facility)
        is_finished_there = facility.final_by == "facility"
        if entry.is_trainee and is_final:
            raise Refused(f"{reader} is in training, and signs as preliminary; an attending signs as final.")
        if is_finished_there and is_final and not is_home:
            raise Refused(f"Reports of {found.facility} become final by its own radiologist; {reader} is none.")
        role: SignatureRole = "resident" if entry.is_trainee else "facility" if is_home else "attending"
        signature = Signature(
            reader=reader,
            name=entry.name,
            role=role,
            at=work.now,
            licence=licence.number,
            state=licence.state,
            npi=entry.npi,
        )
        return signature, is_home, is_finished_there

    def _keep(
        self,
        work: Work,
        found: StoredReport,
        report: Report,
        before: SignedVersion | None,
        reader: str,
        **values: Any,
    ) -> StoredReport:
        """Sign, and keep what is signed; tell all who follow."""
        content = dumps(report)
        version = SignedVersion(
            report=found.id,
            number=report.number,
            status=report.status,
            kind=report.kind,
            reader=reader,
            signed_at=work.now,
            content=content,
            signature=self.keys.sign(content, before),
        )
        if before is not None:  # nothing is built upon what somebody has tampered with
            earlier = find_version(work.connection, found.id, before.number - 1) if before.number > 1 else None
            self.keys.verify(before, earlier)
        signed = self._change(work, found, number=report.number, status=report.status, signed_at=work.now, **values)
        add_version(work.connection, version)
        told = {"number": report.number, "status": report.status, "kind": report.kind, "reader": reader}
        self._tell(work, signed, ReportSigned.__name__, **told)
        for follow in self.signed:
            follow(work, signed, report)
        return signed

    def _finish_reading(self, work: Work, report: StoredReport, reader: str) -> None:
        """End the readings that have led to a signature, and have the next one done by who has to sign too."""
        if report.study_uid is None:
            return
        kinds = ("read",) if report.awaits else ("read", "second")
        for item in items_of_study(work.connection, report.facility, report.study_uid):
            if item.kind in kinds and item.state in _OPEN:
                _finish(work, item, reader)
        if report.awaits:
            reading = item_by_id(work.connection, report.item) if report.item else None
            items.create_item(
                work,
                facility=report.facility,
                kind="second",
                priority=reading.priority if reading else "routine",
                study_uid=report.study_uid,
                accession_number=report.accession_number,
                modality=report.modality,
                body_part=reading.body_part if reading else None,
                patient_state=reading.patient_state if reading else None,
                due_at=work.now + _SECOND_WITHIN,
            )

    def _change(self, work: Work, found: StoredReport, **values: Any) -> StoredReport:
        changed = replace(found, **values, version=found.version + 1, changed_at=work.now)
        update_report(work.connection, found, changed)
        return changed

    def _tell(self, work: Work, report: StoredReport, what: str, **told: Any) -> None:
        item = report.item
        about = {"report": report.id, "status": report.status, **told}
        work.note(what, about, facility=report.facility, study_uid=report.study_uid, item=item)
        for publish in self.published:
            publish(work, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    facility: str
    patient_state: str | None


def find_written(work: Work, id: str, version: int) -> StoredReport:
    """A report in scope as a client has read it, locked; raises `Changed` where it is another one by now."""
    found = find_report(work.connection, work.scope, id, locked=True)
    if found.version != version:
        raise Changed(f"Report {id} is at version {found.version} by now, not {version}; read it again.")
    return found


def text_of(report: StoredReport) -> Text:
    """What is being written of a report; raises `Conflict` where nothing is."""
    if report.draft is None:
        raise Conflict(
            f"Report {report.id} is {report.status} and nothing is being written; revise it to add an addendum, an "
            "amendment or a correction."
        )
    text: Text = loads(Text, report.draft)
    return text


def _awaited(signature: Signature, *, is_home: bool, is_finished_there: bool) -> Awaited:
    """Whose signature a preliminary report waits for; where nobody's in particular, whoever reads it may finish it."""
    if signature.role == "resident":
        return "attending"
    return "facility" if is_finished_there and not is_home else ""


def _finish(work: Work, item: StoredItem, reader: str) -> None:
    if item.state in ("claimed", "held") and item.owner and item.owner != reader:
        raise Conflict(f"Work item {item.workitem_uid} is claimed by {item.owner}, not by {reader}.")
    if item.state == "held":
        item = items.resume_item(work, item, token=item.claim_token)
    if item.state != "claimed":
        item = items.claim_item(work, item, reader=reader)
    items.complete_item(work, item, token=item.claim_token or "")


def _text_again(last: Report, kind: ReportKind) -> Text:
    """The text of a signed report, to be changed."""
    written = tuple(WrittenSection(name=one.name, title=one.title, text=one.text) for one in last.sections)
    accepted = {digest(one.text) for passages in _written(last) for one in passages if one.is_accepted}
    return Text(
        kind=kind,
        sections=written,
        critical_results=last.critical_results,
        follow_ups=last.follow_ups,
        codes=last.codes,
        language=last.language,
        accepted=tuple(sorted(accepted)),
    )


def _written(report: Report) -> list[tuple[Passage, ...]]:
    return [section.passages for section in report.sections] + [one.passages for one in report.addenda]


def _sentences(text: Text) -> Iterable[str]:
    for part in (*(section.text for section in text.sections), text.addendum):
        yield from sentences(part)


def _joined[T](before: tuple[T, ...], more: tuple[T, ...]) -> tuple[T, ...]:
    return (*before, *(one for one in more if one not in before))


def _require_content(text: Text, report: Report) -> None:
    if text.kind == "addendum":
        if not text.addendum.strip():
            raise Unprocessable("The addendum is empty.")
        return
    if not (report.section("impression").strip() or report.section("findings").strip()):
        raise Unprocessable("There is neither an impression nor findings; there is nothing to sign.")
    if text.kind != "report" and not text.because.strip():
        raise Unprocessable(f"Say in 'because' what the {text.kind} is for.")


def _require_person(work: Work, what: str) -> None:
    if work.actor.kind != "person" and "sign" not in work.actor.may:
        raise Refused(f"{work.actor.id} may not {what}; a person does, or who has the permission 'sign'.")


def _reason(reason: str, what: str) -> str:
    line = " ".join(reason.split())
    if not line or len(line) > _REASON_CHARACTERS:
        raise Invalid(f"Say why {what}, in at most {_REASON_CHARACTERS} characters.")
    return line


def _study(connection: sa.Connection, found: StoredReport) -> Study:
    """The study of a report, were it removed meanwhile."""
    assert found.study_uid is not None, "a report is begun for a study"
    try:
        return read_study(connection, found.facility, found.study_uid)
    except NotFound:
        return read_removed(connection, found.facility, found.study_uid)
