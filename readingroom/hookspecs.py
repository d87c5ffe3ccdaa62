"""Every hook that a plugin may implement; what it says here is its documentation.

The parts of each text are always the same: *Fired*, *Runs*, *Returns*, *If it fails*, *Delivered again*, *Added in* and
*Example*. A plugin asks for the arguments that it uses and leaves the others out, so a hook may get more of them later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from readingroom.context import Context
from readingroom.hooks import DECLARED, Hook, decide, react, register
from readingroom.model import (
    Contact,
    Destination,
    Escalation,
    Facility,
    Finding,
    Order,
    Patient,
    Report,
    Rung,
    Sla,
    SlaMark,
    Snapshot,
    Source,
    Study,
    WorkItem,
)
from readingroom.results import (
    Coerce,
    Draft,
    Issue,
    Metric,
    Notified,
    Prior,
    PriorSummary,
    Proposal,
    Receipt,
    Reject,
    Selection,
    Triage,
    Veto,
)

# -- register: once ----------------------------------------------------------------------------------------------------


@register(seconds=30)
def register_settings() -> type[Any]:
    """The model of the plugin's settings.

    Fired: when the plugin is loaded, before any other hook of it.

    Runs: once in each process of the plugin.

    Returns: a class derived from `pydantic.BaseModel`. The table ``[plugins.NAME]`` of the settings, without what the
    server itself reads there, has to fit it; the instance is ``ctx.settings``. Without this hook the plugin takes no
    settings.

    If it fails: the plugin is not loaded. The server starts without it and says so.

    Delivered again: with every start of the plugin's process.

    Added in: 0.1

    Example::

        from pydantic import BaseModel
        from readingroom import hookimpl

        class Settings(BaseModel):
            threshold: float = 0.5

        @hookimpl
        def register_settings():
            return Settings
    """
    raise NotImplementedError


@register(seconds=30)
def started(ctx: Context) -> None:
    """The plugin's process has started.

    Fired: after the settings were found right, before any other hook.

    Runs: in each process of the plugin, for at most 30 seconds: the place to load a model into memory.

    Returns: nothing.

    If it fails: the plugin is not loaded.

    Delivered again: with every start of the plugin's process.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def started(ctx):
            ctx.log.info("ready")
    """


@register(seconds=10)
def stopping(ctx: Context) -> None:
    """The plugin's process is about to end.

    Fired: when the server stops, or replaces the process.

    Runs: for at most 10 seconds; then the process is killed. A process that is killed is not told.

    Returns: nothing.

    If it fails: that is logged.

    Delivered again: with every end of the plugin's process.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def stopping(ctx):
            ctx.log.info("done")
    """


# -- decide: somebody waits --------------------------------------------------------------------------------------------


@decide(answers="all", fails="open", milliseconds=20)
def accept_instance(header: dict[str, Any], source: Source) -> Reject | Coerce | None:
    """Whether an object may come in, and whether it is shown with other attributes.

    Fired: after the header of an object was read, before anything of it is kept. `header` is its data set in the DICOM
    JSON model (PS3.18 annex F), as it was received and without bulk data.

    Runs: inline, for every object, in the order of the settings. An upload waits for it; a few of its objects come to a
    plugin together, and are asked about one after the other.

    Returns: `Reject` to refuse the object, `Coerce` to change what is shown of it, None to take it as it is. The first
    `Reject` ends it. Every `Coerce` is applied to what the one before has made.

    If it fails: the object is stored as if the plugin had said nothing, and an event ``GateFailed`` of the change feed
    says so. With ``on_error = "reject"`` in its settings it is refused, and the sender told to try again. A call that
    ends the process, or takes too long, fails for the objects that came together with it too.

    Delivered again: the same object may come twice; the answer has to be the same.

    Added in: 0.1

    Example::

        from readingroom import Reject, hookimpl

        @hookimpl
        def accept_instance(header):
            if header.get("00280301", {}).get("Value") == ["YES"]:
                return Reject(because="Burned In Annotation is YES; send the image without it.")
            return None
    """


@decide(answers="first", fails="open", milliseconds=50)
def sla_for(item: WorkItem, order: Order | None, facility: Facility, ctx: Context) -> Sla | None:
    """When a work item is due.

    Fired: when an item is created, and when its priority changes.

    Runs: inline.

    Returns: an `Sla`, or None to leave it to the next plugin, and at last to the contract of the facility.

    If it fails: as if the plugin had said nothing.

    Delivered again: with each change of priority; the answer has to depend on the arguments alone.

    Added in: 0.1

    Example::

        from datetime import timedelta
        from readingroom import Sla, hookimpl

        @hookimpl
        def sla_for(item):
            if item.priority != "stat" or item.created_at is None:
                return None
            return Sla(due_at=item.created_at + timedelta(minutes=20), because="STAT within 20 minutes")
    """


@decide(answers="first", fails="open", milliseconds=50)
def ladder_for(escalation: Escalation, facility: Facility, ctx: Context) -> tuple[Rung, ...] | None:
    """Whom to reach in which order, and when to go on to the next.

    Fired: when an escalation is opened.

    Runs: inline.

    Returns: the rungs in their order, or None to leave it to the next plugin, and at last to the built-in ladder.

    If it fails: as if the plugin had said nothing.

    Delivered again: no; the ladder is kept with the escalation.

    Added in: 0.1

    Example::

        from datetime import timedelta
        from readingroom import Rung, hookimpl

        @hookimpl
        def ladder_for(escalation):
            if escalation.category != 1:
                return None
            return (
                Rung(number=1, role="referrer", after=timedelta(0)),
                Rung(number=2, role="desk", after=timedelta(minutes=10)),
                Rung(number=3, role="supervisor", after=timedelta(minutes=20)),
            )
    """


@decide(answers="all", fails="open", milliseconds=500)
def check_report(report: Report, study: Study | None) -> tuple[Issue, ...]:
    """What is amiss with a report that is about to be signed.

    Fired: before a report is signed, with the text that will be, and when a client asks what stands against it. `study`
    is None where the report is of none.

    Runs: inline; the reader waits for it.

    Returns: `Issue` values; none is a good answer. One to block does so where the setting ``blocking_checks`` has its
    code; all of them are shown to the reader.

    If it fails: the report can be signed, and the reader is told that this check did not run.

    Delivered again: with every attempt to sign; the answer has to depend on the arguments alone.

    Added in: 0.1

    Example::

        from readingroom import Issue, hookimpl

        @hookimpl
        def check_report(report):
            text = report.section("impression").lower()
            if "left" in text and "right" in report.section("findings").lower():
                return (Issue(code="laterality", text="The findings say right, the impression says left."),)
            return ()
    """
    raise NotImplementedError


@decide(answers="all", fails="closed", milliseconds=100)
def veto_purge(study: Study, reason: str) -> Veto | None:
    """Whether what was removed of a study may be deleted for good.

    Fired: before anything of the study is purged.

    Runs: inline, but nobody waits: a purge is a background task.

    Returns: `Veto` to keep it, or None. One veto is enough.

    If it fails: nothing is purged; that is a veto.

    Delivered again: with every attempt to purge.

    Added in: 0.1

    Example::

        from readingroom import Veto, hookimpl

        @hookimpl
        def veto_purge(study):
            if study.has("MG"):
                return Veto(because="mammograms are kept for twenty years")
            return None
    """


@decide(answers="all", fails="open", milliseconds=100)
def metrics() -> tuple[Metric, ...]:
    """Numbers for the metrics page.

    Fired: when ``/metrics`` is read.

    Runs: inline.

    Returns: `Metric` values. Their names get the prefix ``readingroom_plugin_``, and the label ``plugin``.

    If it fails: they are left out.

    Delivered again: with every read.

    Added in: 0.1

    Example::

        from readingroom import Metric, hookimpl

        seen = 0

        @hookimpl
        def metrics():
            return (Metric(name="studies_seen_total", value=seen, kind="counter", help="Studies looked at"),)
    """
    raise NotImplementedError


# -- react: from the durable queue -------------------------------------------------------------------------------------


@react()
def study_arrived(study: Study, order: Order | None, ctx: Context) -> None:
    """A study has begun to come in.

    Fired: with the first instance of a study.

    Runs: from the queue, for at most a minute.

    Returns: nothing.

    If it fails: it is tried again, later each time, and given up as a dead letter that an operator sees.

    Delivered again: yes, with the same ``ctx.delivery``.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def study_arrived(study, ctx):
            ctx.log.info("study of %s has begun to come in", study.facility)
    """


@react()
def study_changed(study: Study, added: tuple[str, ...], removed: tuple[str, ...], ctx: Context) -> None:
    """A study that had settled is another one now.

    Fired: when instances came late, were removed or corrected, and the study has settled once more. `added` and
    `removed` are SOP Instance UIDs; ``study.revision`` has moved on.

    Runs: from the queue, for at most a minute.

    Returns: nothing. Triage is called again by itself.

    If it fails: it is tried again, later each time, and given up as a dead letter that an operator sees.

    Delivered again: yes, with the same ``ctx.delivery``.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def study_changed(study, added, ctx):
            ctx.log.info("%d instances came late, revision %d", len(added), study.revision)
    """


@react(answers="all", seconds=120)
def find_priors(study: Study, patient: Patient, ctx: Context) -> tuple[Prior, ...]:
    """Earlier studies of the patient that are worth comparing with.

    Fired: when a study has settled; once more where another archive of the settings has studies of that patient, and
    when one of them has been fetched.

    Runs: from the queue, for at most two minutes. `patient` has the studies of that patient in this archive, and
    ``patient.elsewhere`` those that could be fetched.

    Returns: `Prior` values; none is a good answer. Those of all plugins are joined by Study Instance UID, and the
    highest relevance counts.

    If it fails: it is tried again until triage is due, five minutes after the study has settled; then the timeline of
    the item says that this plugin has not answered. An answer that comes later still counts.

    Delivered again: yes, with the same ``ctx.delivery``; the answer replaces the one before.

    Added in: 0.1

    Example::

        from readingroom import Prior, hookimpl

        @hookimpl
        def find_priors(study, patient):
            return tuple(
                Prior(study_uid=prior.study_uid, relevance=0.8, because="the same region")
                for prior in patient.studies
                if prior.region(*study.body_parts)
            )
    """
    raise NotImplementedError


@react(answers="all", seconds=300)
def triage_study(study: Study, order: Order | None, priors: tuple[Prior, ...], ctx: Context) -> Triage | None:
    """What is to be seen in a study, and how soon it has to be read.

    Fired: when a study has settled, and again when it has changed.

    Runs: from the queue, for at most five minutes. ``ctx.pixels`` and ``ctx.metadata`` give the study.

    Returns: a `Triage`, or None to abstain. Findings of all plugins are kept with who found them. A priority only
    raises that of the item, never lowers it.

    If it fails: it is tried again, and holds up nothing. Five minutes after the study has settled the timeline of the
    item says that this plugin has not answered. An answer that comes later still counts.

    Delivered again: yes, with the same ``ctx.delivery``; the answer replaces the one before.

    Added in: 0.1

    Example::

        from readingroom import Finding, Triage, hookimpl

        @hookimpl
        def triage_study(study, ctx):
            if not study.has("CT"):
                return None
            brightest = max(int(ctx.pixels.volume(series).max()) for series in study.series)
            if brightest < 3000:
                return None
            return Triage(findings=(Finding(text="Metal"),), because=f"a pixel of {brightest}")
    """


@react(answers="all", seconds=120)
def summarize_priors(study: Study, priors: tuple[Prior, ...], ctx: Context) -> PriorSummary | None:
    """What the priors tell, for who reads the study.

    Fired: when the priors of a study are known.

    Runs: from the queue, for at most two minutes.

    Returns: a `PriorSummary` that cites its sources, or None.

    If it fails: it is tried again; nothing waits for it.

    Delivered again: yes, with the same ``ctx.delivery``; the answer replaces the one before.

    Added in: 0.1

    Example::

        from readingroom import PriorSummary, hookimpl

        @hookimpl
        def summarize_priors(priors):
            if not priors:
                return None
            text = f"{len(priors)} earlier studies, the last of {priors[0].study_date or 'an unknown day'}."
            return PriorSummary(text=text, cites=tuple(prior.study_uid for prior in priors))
    """


@react(answers="all", seconds=120)
def draft_report(
    study: Study, item: WorkItem, findings: tuple[Finding, ...], priors: tuple[Prior, ...], ctx: Context
) -> Draft | None:
    """What the report of a study could say.

    Fired: when all have answered what is to be seen in a study, or their time is over; once for each revision of it.
    `findings` are those of all plugins whose algorithms may be used for this study.

    Runs: from the queue, for at most two minutes.

    Returns: a `Draft`, or None. It is offered to whoever reads the study. Each sentence of it that gets into the report
    is known to be an algorithm's, and has to be accepted by a person before the report can be signed.

    If it fails: it is tried again; the report is written without.

    Delivered again: yes, with the same ``ctx.delivery``. A draft that was offered once stays as it is.

    Added in: 0.1

    Example::

        from readingroom import Draft, Passage, Section, hookimpl

        @hookimpl
        def draft_report(findings):
            if not findings:
                return None
            said = tuple(Passage(text=f"{one.text}. ", evidence=one.evidence) for one in findings)
            return Draft(sections=(Section(name="findings", title="Findings", passages=said),))
    """


@react()
def report_signed(report: Report, ctx: Context) -> None:
    """A version of a report was signed.

    Fired: with every version: preliminary, final, each addendum, amendment and correction, and where it was withdrawn
    as entered in error.

    Runs: from the queue, for at most a minute.

    Returns: nothing.

    If it fails: it is tried again, later each time, and given up as a dead letter that an operator sees.

    Delivered again: yes, with the same ``ctx.delivery``.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def report_signed(report, ctx):
            ctx.log.info("version %d of report %s is %s", report.number, report.id, report.status)
    """


@react(answers="all")
def select_peer_review(
    report: Report, reader: str, read_before: int, alike_before: int, ctx: Context
) -> Selection | None:
    """Whether a reading is to be done once more, by a peer who knows nothing of the first.

    Fired: when a radiologist has finished a reading, and again with each addendum, amendment and correction. `reader`
    is the id of who answers for the reading, whoever signed the version. `read_before` is how many readings that one
    had finished before, `alike_before` how many of these were of the same modality and facility.

    Runs: from the queue, for at most a minute.

    Returns: a `Selection`, or None. The core makes a work item for a second reading, which neither the first reader
    gets nor anybody in conflict. Of one report there is one review, however many select it and however often.

    If it fails: it is tried again, later each time; the report is not held up.

    Delivered again: yes, with the same ``ctx.delivery``; the answer has to depend on the arguments alone.

    Added in: 0.1

    Example::

        from readingroom import Selection, hookimpl

        @hookimpl
        def select_peer_review(report):
            if report.kind != "correction":
                return None
            return Selection(because="it was corrected")
    """


@react(answers="all", seconds=2)
def assign(snapshot: Snapshot, ctx: Context) -> tuple[Proposal, ...]:
    """Who should read what.

    Fired: when the queue has changed, and once a minute.

    Runs: from the queue, for at most two seconds. The readers in the snapshot are those whom licence, credential and
    shift allow the item.

    Returns: `Proposal` values. The core looks whether each is still allowed, and applies it.

    If it fails: the built-in order alone holds until the next snapshot.

    Delivered again: no; there is a newer snapshot.

    Added in: 0.1

    Example::

        from readingroom import Proposal, hookimpl

        @hookimpl
        def assign(snapshot):
            return tuple(
                Proposal(item=waiting.item.id, reader=waiting.eligible[0], because="the only one on shift")
                for waiting in snapshot.waiting
                if len(waiting.eligible) == 1
            )
    """
    raise NotImplementedError


@react()
def item_changed(item: WorkItem, before: WorkItem | None, ctx: Context) -> None:
    """A work item has gone from one state to another.

    Fired: after each transition; `before` is None where the item was created.

    Runs: from the queue, for at most a minute.

    Returns: nothing.

    If it fails: it is tried again, later each time, and given up as a dead letter that an operator sees.

    Delivered again: yes, with the same ``ctx.delivery``.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def item_changed(item, before, ctx):
            ctx.log.info("item %s is %s", item.id, item.state)
    """


@react()
def sla_crossed(item: WorkItem, sla: Sla, mark: SlaMark, ctx: Context) -> None:
    """The clock of an item has passed a mark, or was stopped or started again.

    Fired: once for each item and mark.

    Runs: from the queue, for at most a minute. The core has ranked the item anew by then.

    Returns: nothing.

    If it fails: it is tried again, later each time, and given up as a dead letter that an operator sees.

    Delivered again: yes, with the same ``ctx.delivery``.

    Added in: 0.1

    Example::

        from readingroom import hookimpl

        @hookimpl
        def sla_crossed(item, mark, ctx):
            if mark == "breached":
                ctx.log.warning("item %s is late", item.id)
    """


@react(answers="first")
def notify_contact(escalation: Escalation, rung: Rung, contact: Contact, ctx: Context) -> Notified | None:
    """Reach a person.

    Fired: when a rung of an escalation's ladder is due, for each contact of its role.

    Runs: from the queue, for at most a minute.

    Returns: `Notified` where the message was handed over, None where the channel of the contact is not this plugin's.

    If it fails: the next plugin is asked, then the next contact, then the next rung is climbed. Where nobody was
    reached and a plugin has raised `RetryLater`, the rung is tried again then, unless the next one is due before. An
    escalation is never closed by failure.

    Delivered again: yes, with the same ``ctx.delivery``: give it to what carries the message, so that nobody is called
    twice.

    Added in: 0.1

    Example::

        from readingroom import Notified, hookimpl

        @hookimpl
        def notify_contact(escalation, contact, ctx):
            if contact.channel != "log":
                return None
            ctx.log.warning("%s: %s", contact.name, escalation.reason)
            return Notified(reference=ctx.delivery, at=ctx.clock.now())
    """


@react(answers="first")
def deliver_report(report: Report, destination: Destination, pdf: str | None, ctx: Context) -> Receipt | None:
    """Hand a signed report over to where it is to go.

    Fired: for each signed version of a report and each destination of its facility whose channel the server does not
    carry itself, in the order of the versions. `pdf` is the report as PDF, in base64; None where the fonts of the
    server cannot set it.

    Runs: from the queue, for at most a minute.

    Returns: a `Receipt`, or None where the channel of the destination is not this plugin's. One that is not accepted
    ends the delivery, and somebody is told.

    If it fails: it is tried again, later each time, for a day; then the delivery is dead, and an escalation to the desk
    of the facility is opened. `Unreachable` holds up all that goes to the destination, `RetryLater` this report alone;
    after `GiveUp` it is dead at once.

    Delivered again: yes, with the same ``ctx.delivery``: give it to what carries the report, so that nothing comes
    twice.

    Added in: 0.1

    Example::

        from readingroom import Receipt, hookimpl

        @hookimpl
        def deliver_report(report, destination, ctx):
            if destination.channel != "log":
                return None
            ctx.log.info("version %d of report %s goes to %s", report.number, report.id, destination.id)
            return Receipt(accepted=True, reference=ctx.delivery)
    """


HOOKS: Mapping[str, Hook] = dict(DECLARED)
"""Every hook by its name."""
