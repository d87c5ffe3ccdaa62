"""From a settled study to a promoted item, and from a rung to the person it reaches; with plugins made of functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import orjson
import pytest
from pydicom import FileDataset

from readingroom.clock import SetClock
from readingroom.errors import PluginFailed, RetryLater
from readingroom.jsonio import from_json
from readingroom.model import Algorithm, Contact, Finding, Passage, Rung, Scope, Section, Sla
from readingroom.results import Draft, Notified, Prior, PriorSummary, Proposal, Triage
from server.announce import announce
from server.archive import open_queue
from server.ingest import Ingest
from server.room import Room
from server.settle import settle_studies
from server.worklist import escalations, flow
from server.worklist.flow import Flow
from server.worklist.items import claim_item, working
from server.worklist.sla import fire_marks
from storage.catalog import schema as t
from storage.catalog.answers import read_answers
from storage.catalog.directory import LatestDirectory, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.escalations import find_escalation, list_attempts, list_escalations
from storage.catalog.work_items import StoredItem, read_timeline, reading_of
from tests.catalog import fill, header
from tests.directory import facility, reader
from tests.synthetic import ct_series, new_uid, part10
from tests.worklist import READER, at_work

CLEARED = Algorithm(name="Bleed", version="2", clearance="K221234", modalities=("CT",))
BLOOD = Triage(findings=(Finding(text="Blood", algorithm=CLEARED),), priority="stat", is_flagged=True, because="p=0.9")
MINUTE = timedelta(minutes=1)
CONTACTS = [
    {"name": "Ada", "role": "referrer", "channel": "smtp", "address": "ada@example.org"},
    {"name": "Desk", "role": "desk", "channel": "webhook", "address": "http://desk.example.org/"},
    {"name": "Desk", "role": "desk", "channel": "smtp", "address": "desk@example.org"},
]


@dataclass
class Hooks:
    """Plugins: for each hook, functions by name; `asked` is what they were called with."""

    plugins: dict[str, dict[str, Callable[..., Any]]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def having(self, hook: str) -> Sequence[str]:
        return tuple(self.plugins.get(hook, {}))

    def decide(self, hook: str, **arguments: Any) -> Any:
        answers = (function(**arguments) for function in self.plugins.get(hook, {}).values())
        return next((answer for answer in answers if answer is not None), None)

    def react(self, plugin: str, hook: str, *, delivery: str, attempt: int = 1, **arguments: Any) -> Any:
        self.asked.append((plugin, hook, {"delivery": delivery, **arguments}))
        return self.plugins[hook][plugin](**arguments)


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def work(room: Room, hooks: Hooks) -> Flow:
    made = Flow(
        engine=room.engine,
        clock=room.clock,
        queue=open_queue(room.engine, room.clock),
        hooks=cast(Any, hooks),
        directory=LatestDirectory(room.engine),
    )
    made.register()
    return made


def settled(room: Room, study_uid: str) -> dict[str, Any]:
    return {
        "type": "StudySettled",
        "version": 1,
        "study_uid": study_uid,
        "facility": "local",
        "at": room.clock.now(),
        "payload": b'{"revision":1}',
    }


def settle(room: Room, work: Flow, **attributes: Any) -> str:
    """A study of the archive that has settled; what follows is done."""
    study_uid = new_uid()
    fill(room.engine, header(StudyInstanceUID=study_uid, Modality="CT", BodyPartExamined="HEAD", **attributes))
    with begin_write(room.engine) as connection:
        announce(connection, work.queue, [settled(room, study_uid)])
    work.queue.drain()
    return study_uid


def item_of(room: Room, study_uid: str) -> StoredItem:
    with room.engine.connect() as connection:
        item = reading_of(connection, "local", study_uid)
        assert item is not None
        return item


def notes(room: Room, study_uid: str, hook: str = "triage_study") -> dict[str, tuple[str, str]]:
    with room.engine.connect() as connection:
        kept = read_answers(connection, "local", study_uid, hook)
    return {one.plugin: (one.state, one.note) for one in kept}


def told(room: Room, item: StoredItem) -> list[str]:
    with room.engine.connect() as connection:
        return [event.type for event in read_timeline(connection, item.id)]


@pytest.mark.rooms("sqlite", "postgres")
def test_a_cleared_finding_promotes_the_item_of_its_study(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["triage_study"] = {"bleed": lambda study, **_: BLOOD if study.region("HEAD") else None}
    item = item_of(room, settle(room, work))
    assert (item.state, item.is_flagged, item.rank, item.findings) == ("ready", True, 3, "Blood")
    assert notes(room, item.study_uid or "") == {"bleed": ("answered", "cleared: Bleed K221234")}
    assert flow.ANSWERED in told(room, item)


def test_what_is_not_cleared_is_kept_and_promotes_nothing(room: Room, work: Flow, hooks: Hooks) -> None:
    research = replace(CLEARED, clearance=None, is_research=True)
    hooks.plugins["triage_study"] = {
        "bleed": lambda **_: replace(BLOOD, findings=(Finding(text="Blood", algorithm=research),))
    }
    item = item_of(room, settle(room, work))
    assert (item.is_flagged, item.rank) == (False, 0)
    assert notes(room, item.study_uid or "")["bleed"] == ("answered", "Bleed 2 is for research only")
    open_door = replace(work, is_research_mode=True)
    with begin_write(room.engine) as connection:
        connection.execute(t.plugin_answer.delete())
    work.queue.handlers["flow.ask"] = open_door._ask
    assert item_of(room, settle(room, work)).is_flagged


def test_a_priority_without_a_flag_is_raised_and_never_lowered(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["triage_study"] = {
        "a": lambda **_: replace(BLOOD, is_flagged=False, priority="urgent"),
        "b": lambda **_: replace(BLOOD, is_flagged=False, priority="routine"),
    }
    assert item_of(room, settle(room, work)).rank == 1


def test_one_plugin_that_fails_holds_up_neither_the_item_nor_the_others(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    def broken(**_: Any) -> None:
        raise PluginFailed("It crashed.", reason="crash")

    hooks.plugins["triage_study"] = {"broken": broken, "bleed": lambda **_: BLOOD}
    item = item_of(room, settle(room, work))
    assert item.is_flagged
    clock.advance(flow.TRIAGE_DEADLINE)
    work.queue.drain()
    assert notes(room, item.study_uid or "") == {
        "bleed": ("answered", "cleared: Bleed K221234"),
        "broken": ("missed", "no answer in time"),
    }
    assert told(room, item).count(flow.MISSED) == 1
    for _ in range(10):
        clock.advance(2 * MINUTE)
        work.queue.drain()
    assert [(entry.kind, entry.error) for entry in work.queue.entries(state="dead")] == [("flow.ask", "It crashed.")]


def test_a_triage_that_comes_late_still_promotes(room: Room, work: Flow, hooks: Hooks, clock: SetClock) -> None:
    fails = [True]

    def slow(**_: Any) -> Triage:
        if fails.pop() if fails else False:
            raise PluginFailed("Not yet.", reason="time")
        return BLOOD

    hooks.plugins["triage_study"] = {"slow": slow}
    study_uid = settle(room, work)
    assert not item_of(room, study_uid).is_flagged
    clock.advance(flow.TRIAGE_DEADLINE)
    work.queue.drain()
    assert item_of(room, study_uid).is_flagged
    assert notes(room, study_uid)["slow"][0] == "answered"


def test_the_priors_that_are_shown_are_those_of_the_patient_alone(room: Room, work: Flow, hooks: Hooks) -> None:
    earlier = settle(room, work, PatientID="P1", StudyDate="20200101")
    stranger = settle(room, work, PatientID="P2")
    hooks.plugins["find_priors"] = {
        "near": lambda patient, **_: (
            *(Prior(study_uid=one.study_uid, relevance=0.5) for one in patient.studies),
            Prior(study_uid=stranger, relevance=1.0),
            Prior(study_uid="1.2.9", relevance=0.9, root="https://far.example.org/dicomweb"),
        )
    }
    study_uid = settle(room, work, PatientID="P1", StudyDate="20240101")
    ((_, _, asked),) = [one for one in hooks.asked if one[2]["study"].study_uid == study_uid]
    assert [one.study_uid for one in asked["patient"].studies] == [earlier]
    with room.engine.connect() as connection:
        found = work._priors(connection, asked["study"])
    assert [one.study_uid for one in found] == ["1.2.9", earlier]


def test_priors_that_are_known_are_summarized(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["summarize_priors"] = {
        "teller": lambda priors, **_: PriorSummary(
            text=f"{len(priors)} before", cites=tuple(one.study_uid for one in priors)
        )
    }
    assert notes(room, settle(room, work), "summarize_priors") == {}, "nobody looked for any"
    for name, uid in (("first", "1.2.8"), ("second", "1.2.9")):
        prior = Prior(study_uid=uid, relevance=0.5, root="https://far.example.org/dicomweb")
        hooks.plugins.setdefault("find_priors", {})[name] = lambda prior=prior, **_: (prior,)
    study_uid = settle(room, work)
    with room.engine.connect() as connection:
        (kept,) = read_answers(connection, "local", study_uid, "summarize_priors")
    assert from_json(PriorSummary, orjson.loads(kept.answer)) == PriorSummary(text="2 before", cites=("1.2.8", "1.2.9"))


SECTION = Section(name="findings", title="Findings", passages=(Passage(text="There is blood."),))


def test_a_report_is_drafted_once_all_have_answered_from_what_may_be_used(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    research = Finding(text="Tumour", algorithm=replace(CLEARED, is_research=True))
    state = {"fails": True}

    def slow(**_: Any) -> Triage:
        if state["fails"]:
            raise RetryLater("busy", after=timedelta(seconds=1))
        return Triage(findings=(research,))

    hooks.plugins["triage_study"] = {"bleed": lambda **_: BLOOD, "slow": slow}
    hooks.plugins["draft_report"] = {"writer": lambda **_: Draft(sections=(SECTION,), algorithm=CLEARED)}
    study = settle(room, work)
    assert notes(room, study, "draft_report") == {}
    state["fails"] = False
    clock.advance(timedelta(seconds=2))
    work.queue.drain()
    assert notes(room, study, "draft_report") == {"writer": ("answered", flow.OFFERED)}
    (asked,) = [told for _, hook, told in hooks.asked if hook == "draft_report"]
    assert [one.text for one in asked["findings"]] == ["Blood"]
    assert asked["item"].id == item_of(room, study).id


def test_a_draft_of_an_algorithm_that_is_not_cleared_is_kept_and_not_offered(
    room: Room, work: Flow, hooks: Hooks
) -> None:
    research = replace(CLEARED, clearance=None)
    hooks.plugins["draft_report"] = {"writer": lambda **_: Draft(sections=(SECTION,), algorithm=research)}
    study = settle(room, work)
    ((state, note),) = notes(room, study, "draft_report").values()
    assert (state, "no clearance" in note) == ("answered", True)


def test_a_draft_that_was_offered_stays_when_a_late_triage_comes(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    state = {"fails": True}

    def late(**_: Any) -> Triage:
        if state["fails"]:
            raise RetryLater("busy", after=flow.TRIAGE_DEADLINE + MINUTE)
        return BLOOD

    hooks.plugins["triage_study"] = {"late": late}
    hooks.plugins["draft_report"] = {"writer": lambda **_: Draft(sections=(SECTION,), algorithm=CLEARED)}
    settle(room, work)
    clock.advance(flow.TRIAGE_DEADLINE + timedelta(seconds=1))
    work.queue.drain()
    state["fails"] = False
    clock.advance(2 * MINUTE)
    work.queue.drain()
    assert [hook for _, hook, _ in hooks.asked].count("draft_report") == 1


def test_the_due_time_is_the_plugin_s_word_else_the_contract_s(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    contract = {"from": "2000-01-01", "classes": [{"study_type": "routine", "due": "1h", "warn": "30m"}]}
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("local", contracts=[contract]), clock.now())
    item = item_of(room, settle(room, work))
    assert (item.due_at, item.warn_at) == (clock.now() + 60 * MINUTE, clock.now() + 30 * MINUTE)
    sooner = Sla(due_at=clock.now() + 10 * MINUTE)
    hooks.plugins["sla_for"] = {"strict": lambda **_: sooner}
    assert item_of(room, settle(room, work)).due_at == sooner.due_at


def test_what_a_triage_makes_stat_is_due_as_stat(room: Room, work: Flow, hooks: Hooks, clock: SetClock) -> None:
    classes = [{"study_type": "stat", "due": "15m"}, {"study_type": "routine", "due": "1h"}]
    with begin_write(room.engine) as connection:
        write_facility(
            connection, facility("local", contracts=[{"from": "2000-01-01", "classes": classes}]), clock.now()
        )
    hooks.plugins["triage_study"] = {"bleed": lambda study, **_: BLOOD if study.region("HEAD") else None}
    item = item_of(room, settle(room, work))
    assert (item.study_type, item.due_at) == ("stat", (item.ready_at or clock.now()) + 15 * MINUTE)


def test_what_is_late_is_told_and_opens_an_escalation_once(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    hooks.plugins["sla_for"] = {"strict": lambda **_: Sla(due_at=clock.now() + MINUTE, warn_at=clock.now())}
    hooks.plugins["sla_crossed"] = {"a": lambda **_: None}
    item = item_of(room, settle(room, work))
    for _ in range(3):
        fire_marks(room.engine, clock.now(), lambda connection, events: announce(connection, work.queue, events))
        work.queue.drain()
        clock.advance(MINUTE)
    assert [given["mark"] for _, hook, given in hooks.asked if hook == "sla_crossed"] == ["warn", "due", "breached"]
    with room.engine.connect() as connection:
        (opened,) = list_escalations(connection, Scope())
    assert (opened.item, [rung.role for rung in escalations.rungs_of(opened)]) == (item.id, ["desk", "supervisor"])


def test_a_study_of_which_nothing_is_left_makes_no_item(room: Room, work: Flow) -> None:
    with begin_write(room.engine) as connection:
        announce(connection, work.queue, [settled(room, "1.2.3")])
    work.queue.drain()
    assert work.queue.entries() == []


def test_every_plugin_is_told_of_a_change_once(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["item_changed"] = {"a": lambda **_: None, "b": lambda **_: None}
    item = item_of(room, settle(room, work)).shown
    with working(room.engine, room.clock, READER, Scope(), queue=work.queue) as worked:
        claim_item(worked, worked.find(item_of(room, item.study_uid or "").workitem_uid))
    work.queue.drain()
    seen = [
        (plugin, given["before"] and given["before"].state, given["item"].state) for plugin, _, given in hooks.asked
    ]
    assert sorted(seen, key=lambda one: one[0]) == [
        ("a", None, "ready"),
        ("a", "ready", "claimed"),
        ("b", None, "ready"),
        ("b", "ready", "claimed"),
    ]


def test_what_comes_to_wait_is_proposed_and_offered(room: Room, work: Flow, hooks: Hooks) -> None:
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("local"), room.clock.now())
        write_reader(connection, reader("ada", credentials=[{"facility": "local"}]))
    hooks.plugins["assign"] = {
        "first": lambda snapshot: tuple(
            Proposal(item=one.item.id, reader=one.eligible[0], because="the first") for one in snapshot.waiting
        )
    }
    item = item_of(room, settle(room, work))
    assert (item.state, item.offered_to) == ("assigned", "ada")


def test_a_plugin_that_cannot_propose_leaves_the_queue_as_it_is(room: Room, work: Flow, hooks: Hooks) -> None:
    def broken(**_: Any) -> None:
        raise PluginFailed("It crashed.", reason="crash")

    hooks.plugins["assign"] = {"broken": broken}
    assert item_of(room, settle(room, work)).state == "ready"
    assert work.queue.entries() == [entry for entry in work.queue.entries() if entry.kind == "flow.late"]


# -- a study that comes in, or is another one now ----------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_plugins_hear_of_a_study_with_its_first_instance_and_of_what_came_late_when_it_settles_again(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    hooks.plugins["study_arrived"] = {"a": lambda **_: None, "b": lambda **_: None}
    hooks.plugins["study_changed"] = {"a": lambda **_: None}
    open_ = replace(room, flow=work, queue=work.queue, ingest=ingest_of(room, work))
    first, second, late = ct_series(3)
    for some in ([first], [second]):
        store(open_, *some)
    work.queue.drain()
    assert [(plugin, hook, given["study"].study_uid) for plugin, hook, given in hooks.asked] == [
        ("a", "study_arrived", first.StudyInstanceUID),
        ("b", "study_arrived", first.StudyInstanceUID),
    ]
    for some in ([], [late]):
        store(open_, *some)
        clock.advance(timedelta(minutes=5))
        assert settle_studies(open_) == 1
        work.queue.drain()
    (changed,) = [given for _, hook, given in hooks.asked if hook == "study_changed"]
    assert (changed["added"], changed["removed"]) == ((late.SOPInstanceUID,), ())
    assert changed["study"].revision == 2
    open_.ingest.close()


def ingest_of(room: Room, work: Flow) -> Ingest:
    return Ingest(engine=room.engine, blobs=room.blobs, clock=room.clock, settings=room.settings, tell=work.stored)


def store(room: Room, *datasets: FileDataset) -> None:
    for outcome in room.ingest.store([part10(one) for one in datasets], facility="local", source="test"):
        assert outcome.error is None


def test_a_study_of_which_nothing_is_left_is_told_to_nobody(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["study_changed"] = {"a": lambda **_: None}
    changed = {"type": "StudyChanged", "payload": b'{"revision":2,"added":["1.2"],"removed":[]}'}
    with begin_write(room.engine) as connection:
        announce(connection, work.queue, [settled(room, "1.2.3") | changed])
    assert work.queue.drain() == 2
    assert (hooks.asked, work.queue.entries()) == ([], [])


# -- escalations -------------------------------------------------------------------------------------------------------


def climb(room: Room, work: Flow) -> None:
    escalations.climb_due(room.engine, room.clock.now(), work.climbed)
    work.queue.drain()


def opened(room: Room) -> str:
    rungs = [
        Rung(number=number, role=role, after=after * MINUTE)
        for number, (role, after) in enumerate((("referrer", 0), ("nobody", 10), ("desk", 20)), 1)
    ]
    with at_work(room.engine, room.clock) as worked:
        write_facility(worked.connection, facility("local", contacts=CONTACTS), room.clock.now())
        return escalations.open_escalation(worked, key="k", facility="local", reason="Blood.", ladder=rungs).id


def tried(room: Room, id: str) -> list[tuple[int, str, str, str]]:
    with room.engine.connect() as connection:
        return [
            (one.rung, one.contact.address, one.state, one.error or one.reference)
            for one in list_attempts(connection, id)
        ]


def test_a_rung_reaches_the_first_contact_whom_a_channel_reaches(room: Room, work: Flow, hooks: Hooks) -> None:
    now = room.clock.now()
    hooks.plugins["notify_contact"] = {
        "mail": lambda contact, **_: Notified(reference="<1>", at=now) if contact.channel == "smtp" else None
    }
    id = opened(room)
    climb(room, work)
    assert tried(room, id) == [(1, "ada@example.org", "notified", "<1>")]


def test_nobody_of_a_role_leads_to_the_next_rung_at_once_and_a_failing_channel_to_the_next_channel(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    def broken(contact: Contact, **_: Any) -> None:
        if contact.channel == "webhook":
            raise PluginFailed("Connection refused.")

    hooks.plugins["notify_contact"] = {
        "hook": broken,
        "mail": lambda contact, **_: Notified(reference="<1>", at=clock.now()) if contact.channel == "smtp" else None,
    }
    id = opened(room)
    climb(room, work)
    clock.advance(10 * MINUTE)
    climb(room, work)  # the role has nobody
    climb(room, work)
    assert tried(room, id)[1:] == [
        (3, "http://desk.example.org/", "failed", "Connection refused."),
        (3, "desk@example.org", "notified", "<1>"),
    ]


def test_without_any_channel_an_escalation_stays_open_and_says_why(room: Room, work: Flow, clock: SetClock) -> None:
    id = opened(room)
    for _ in range(60):
        climb(room, work)
        clock.advance(MINUTE)
    with room.engine.connect() as connection:
        assert find_escalation(connection, Scope(), id).state == "open"
    assert {state for _, _, state, _ in tried(room, id)} == {"failed"}
    assert "no plugin carries the channel smtp" in {error for *_, error in tried(room, id)}


def test_a_channel_that_asks_for_time_gets_it_up_to_the_next_rung(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    waits = [timedelta(seconds=30), timedelta(hours=1)]

    def busy(**_: Any) -> Notified:
        if waits:
            raise RetryLater("It was answered 429.", after=waits.pop(0))
        return Notified(reference="<1>", at=clock.now())

    hooks.plugins["notify_contact"] = {"mail": busy}
    id = opened(room)
    climb(room, work)
    assert tried(room, id) == [(1, "ada@example.org", "failed", "It was answered 429.")]
    clock.advance(timedelta(seconds=29))
    climb(room, work)
    assert len(hooks.asked) == 1
    clock.advance(timedelta(seconds=1))
    climb(room, work)  # it asks for an hour, and the next rung comes before that: climbed at once
    climb(room, work)  # a role that nobody has
    climb(room, work)
    assert [(rung, state) for rung, _, state, _ in tried(room, id)] == [(1, "failed"), (3, "notified")]
    assert work.queue.entries() == []


def test_nobody_is_called_any_more_once_it_is_acknowledged(room: Room, work: Flow, hooks: Hooks) -> None:
    hooks.plugins["notify_contact"] = {"mail": lambda **_: Notified(reference="<1>", at=room.clock.now())}
    id = opened(room)
    escalations.climb_due(room.engine, room.clock.now(), work.climbed)
    with at_work(room.engine, room.clock) as worked:
        escalations.acknowledge(worked, id, by="A", read_back="B")
    work.queue.drain()
    assert hooks.asked == []


def test_a_contact_is_told_with_the_same_key_again_and_with_another_on_another_rung(
    room: Room, work: Flow, hooks: Hooks, clock: SetClock
) -> None:
    hooks.plugins["notify_contact"] = {"mail": lambda **_: None}
    opened(room)
    for _ in range(30):
        climb(room, work)
        clock.advance(MINUTE)
    keys = [given["delivery"] for _, _, given in hooks.asked]
    assert len(keys) == len(set(keys)) > 3
