"""Critical results of reports: each is told to somebody, and what is measured is what the log says."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Invalid
from readingroom.model import (
    LOCAL_OPERATOR,
    Category,
    Contact,
    CriticalResult,
    Facility,
    Report,
    Rung,
    Scope,
    Signature,
)
from server.reports import critical as do
from server.reports.calling import ASK, call_of
from server.room import Room
from server.worklist import escalations, items
from server.worklist.items import Work, working
from storage.catalog import schema as t
from storage.catalog.escalations import StoredEscalation, Timing, escalations_of, list_attempts, timings_of
from storage.catalog.work_items import StoredItem, item_by_id, ups_of
from tests.reports import TEXT, Desk
from tests.worklist import at_work

MINUTE = timedelta(minutes=1)
BLEED = CriticalResult(category=1, text="Acute subdural haematoma.")
NODULE = CriticalResult(category=3, text="Lung nodule of 9 mm.")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def version(*results: CriticalResult, **changes: Any) -> Report:
    """A signed version of one report."""
    known: dict[str, Any] = {
        "id": "a" * 32,
        "facility": "local",
        "status": "final",
        "number": 1,
        "study_uid": "1.2.3",
        "accession_number": "A1",
        "patient_id": "P1",
        "patient_name": "Doe^Jane",
        "birth_date": "19700131",
        "study_date": "20261124",
        "modalities": ("CT",),
        "body_parts": ("HEAD",),
        "procedure": "CT head",
        "critical_results": results,
        "signatures": (
            Signature(reader="ada", name="Ada Byron, MD", role="attending", at=datetime(2026, 11, 24, tzinfo=UTC)),
        ),
    }
    return Report(**known | changes)


def signed(engine: sa.Engine, clock: SetClock, report: Report) -> list[StoredEscalation]:
    """What signing a version opens or changes."""
    with at_work(engine, clock) as work:
        return do.open_criticals(work, report)


def known(engine: sa.Engine) -> list[StoredEscalation]:
    with engine.connect() as connection:
        return escalations_of(connection, ["a" * 32])


def the_item(engine: sa.Engine, row: StoredEscalation) -> StoredItem:
    with engine.connect() as connection:
        return item_by_id(connection, row.id)


def read_back(engine: sa.Engine, clock: SetClock, row: StoredEscalation, **said: Any) -> StoredEscalation:
    with at_work(engine, clock) as work:
        return escalations.acknowledge(work, row.id, **{"by": "Dr. Ward", "read_back": "A bleed."} | said)


def test_each_critical_result_opens_one_escalation_with_its_item(engine: sa.Engine, clock: SetClock) -> None:
    bleed, nodule = signed(engine, clock, version(BLEED, NODULE, BLEED))
    assert [(one.category, one.reason, one.report) for one in (bleed, nodule)] == [
        (1, BLEED.text, "a" * 32),
        (3, NODULE.text, "a" * 32),
    ]
    assert bleed.reach_by == clock.now() + timedelta(hours=1)
    assert nodule.reach_by == clock.now() + timedelta(days=3)
    item = the_item(engine, bleed)
    assert (item.kind, item.state, item.rank, item.due_at) == ("critical", "waiting", 3, bleed.reach_by)
    with engine.connect() as connection:
        label = ups_of(connection, item)["00741204"]["Value"]
    assert label == ["Critical result: Acute subdural haematoma."]


def test_a_later_version_with_the_same_result_opens_no_second_one(engine: sa.Engine, clock: SetClock) -> None:
    signed(engine, clock, version(BLEED))
    again = CriticalResult(category=2, text="Acute  subdural\nhaematoma.")
    assert signed(engine, clock, version(again, number=2)) == []
    (row,) = known(engine)
    read_back(engine, clock, row)
    assert signed(engine, clock, version(BLEED, number=3)) == []
    assert [one.state for one in known(engine)] == ["acknowledged"]


def test_what_is_told_more_urgently_later_is_told_anew(engine: sa.Engine, clock: SetClock) -> None:
    signed(engine, clock, version(NODULE))
    worse = CriticalResult(category=1, text=NODULE.text)
    signed(engine, clock, version(worse, number=2))
    first, second = known(engine)
    assert (first.category, first.state, first.withdrawn_at) == (3, "open", clock.now())
    assert (second.category, second.state, second.withdrawn_at) == (1, "open", None)
    assert signed(engine, clock, version(worse, number=3)) == []


def test_what_a_correction_takes_out_stays_open_and_says_so(engine: sa.Engine, clock: SetClock) -> None:
    signed(engine, clock, version(BLEED))
    (gone,) = signed(engine, clock, version(number=2, kind="correction", status="corrected"))
    assert (gone.state, gone.withdrawn_at, gone.due_at) == ("open", clock.now(), clock.now())
    assert gone.reason == "Not in the report any more, since version 2: Acute subdural haematoma."
    assert signed(engine, clock, version(number=3)) == [], "the desk is told once"
    (back,) = signed(engine, clock, version(BLEED, number=4))
    assert (back.id, back.reason, back.withdrawn_at) == (gone.id, BLEED.text, None)


def test_who_was_told_of_what_a_correction_takes_out_hears_of_that(engine: sa.Engine, clock: SetClock) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    read_back(engine, clock, row)
    gone, told = signed(engine, clock, version(number=2))
    assert (gone.state, gone.withdrawn_at) == ("acknowledged", clock.now())
    assert (told.state, told.category) == ("open", 1)
    assert told.reason.startswith("Version 2 of the report does not have what Dr. Ward was told:")
    assert signed(engine, clock, version(number=3)) == []
    (again,) = signed(engine, clock, version(BLEED, number=4))
    assert (again.state, again.id in {row.id, told.id}) == ("open", False)


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
def test_a_report_that_is_withdrawn_has_no_result_any_more(engine: sa.Engine, clock: SetClock, status: str) -> None:
    signed(engine, clock, version(BLEED))
    (gone,) = signed(engine, clock, version(BLEED, number=2, status=status))
    assert gone.withdrawn_at == clock.now()


def test_the_ladder_is_what_a_plugin_says_else_that_of_the_category(engine: sa.Engine, clock: SetClock) -> None:
    asked: list[dict[str, Any]] = []
    ladder = (Rung(number=1, role="desk", after=MINUTE),)
    worse = CriticalResult(category=2, text="Pneumothorax.")

    def ask(**about: Any) -> tuple[Rung, ...] | None:
        asked.append(about)
        return {1: ladder, 2: (), 3: None}[about["category"]]

    report = version(BLEED, worse, NODULE)
    ladders = do.Criticals(ask=ask).ladders(report)
    told = {name: asked[0][name] for name in ("reason", "category", "facility", "study_uid", "item")}
    assert told == {"reason": BLEED.text, "category": 1, "facility": "local", "study_uid": "1.2.3", "item": None}
    assert asked[0]["details"]["accession_number"] == "A1"
    with working(engine, clock, LOCAL_OPERATOR, Scope(), ladders=ladders) as work:
        opened = do.open_criticals(work, report)
    assert [escalations.rungs_of(one) for one in opened] == [ladder, escalations.LADDERS[2], escalations.LADDERS[3]]


def test_whatever_changed_is_published_in_the_transaction(engine: sa.Engine, clock: SetClock) -> None:
    seen: list[tuple[Work, str]] = []
    criticals = do.Criticals(ask=lambda **_: None)
    criticals.published.append(lambda work, row: seen.append((work, row.reason)))
    with at_work(engine, clock) as work:
        criticals.follow(work, None, version(BLEED))
        assert seen == [(work, BLEED.text)]


def test_a_report_with_an_open_category_1_is_not_finished(engine: sa.Engine, clock: SetClock) -> None:
    signed(engine, clock, version(BLEED, NODULE))
    with engine.connect() as connection:
        found = do.open_criticals_of(connection, ["a" * 32, "b" * 32])
        assert do.open_criticals_of(connection, []) == {}
    assert [one.category for one in found["a" * 32]] == [1, 3]
    assert set(found) == {"a" * 32}
    assert not do.is_finished(found["a" * 32])
    read_back(engine, clock, found["a" * 32][0])
    with engine.connect() as connection:
        left = do.open_criticals_of(connection, ["a" * 32])["a" * 32]
    assert [one.category for one in left] == [3]
    assert do.is_finished(left)


def test_signing_over_http_opens_it_and_the_report_is_finished_when_it_was_read_back(
    client: httpx.Client, room: Room
) -> None:
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()
    text = {**TEXT, "critical_results": [{"category": 1, "text": BLEED.text}]}
    report = desk.give(desk.write(desk.begin(), text), "sign", reader="ada")
    (told,) = report["open_criticals"]
    assert (report["status"], report["is_finished"], told["category"]) == ("final", False, 1)
    (listed,) = client.get("/reports").json()
    assert (listed["is_finished"], listed["open_criticals"]) == (False, [told])
    (call,) = client.get("/escalations").json()
    assert (call["id"], call["report"]) == (told["escalation"], report["id"])
    assert "Doe, Jane" in call["call"]["say"]
    assert "It was read by Ada." in call["call"]["say"]
    client.post(f"/escalations/{call['id']}/acknowledge", json={"by": "Dr. Ward", "read_back": "A bleed."})
    assert client.get(f"/reports/{report['id']}").json()["is_finished"]
    assert client.get("/reports").json()[0]["open_criticals"] == []


def test_what_cannot_be_opened_is_not_signed_either(client: httpx.Client, room: Room) -> None:
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()

    def fail(*_: object) -> None:
        raise Conflict("Not now.")

    room.reports.signed.append(fail)
    text = {**TEXT, "critical_results": [{"category": 1, "text": BLEED.text}]}
    written = desk.write(desk.begin(), text)
    assert desk.ask(written, "sign", reader="ada").status_code == 409
    assert client.get("/escalations").json() == []
    assert client.get(f"/reports/{written['id']}").json()["versions"] == []


# -- the item of a call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["waiting", "claimed", "held", "held claim"])
def test_the_item_ends_with_its_escalation_whoever_has_it(engine: sa.Engine, clock: SetClock, state: str) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    with at_work(engine, clock) as work:
        item, token = item_by_id(work.connection, row.id, locked=True), None
        if "claim" in state:
            item = items.claim_item(work, item, token="2.25.1")
            token = "2.25.1"
        if "held" in state:
            item = items.hold_item(work, item, "busy", token=token)
    read_back(engine, clock, row)
    assert the_item(engine, row).state == "completed"


def test_the_item_of_one_that_is_cancelled_is_cancelled(engine: sa.Engine, clock: SetClock) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    with at_work(engine, clock) as work:
        escalations.cancel_escalation(work, row.id, reason="Of a phantom.")
    assert (the_item(engine, row).state, the_item(engine, row).reason) == ("cancelled", "Of a phantom.")


@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_nobody_ends_the_item_of_a_call_that_was_not_made(engine: sa.Engine, clock: SetClock, end: str) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    ended = {"complete": items.complete_item, "cancel": items.cancel_item}[end]
    with at_work(engine, clock) as work:
        item = items.claim_item(work, item_by_id(work.connection, row.id, locked=True), token="2.25.1")
    with pytest.raises(Conflict, match=f"ends when escalation {row.id} is"), at_work(engine, clock) as work:
        ended(work, item, token="2.25.1")


# -- calls -------------------------------------------------------------------------------------------------------------

WARD = Contact(name="Ward 4", role="backup", channel="telephone", address="+1 555 0100")


def test_calls_of_people_stand_in_one_list_with_the_messages_of_the_server(engine: sa.Engine, clock: SetClock) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    with at_work(engine, clock) as work:
        escalations.note_call(work, row.id, contact=WARD, outcome="no answer")
    clock.advance(5 * MINUTE)
    with at_work(engine, clock) as work:
        earlier = clock.now() - MINUTE
        escalations.note_call(work, row.id, contact=WARD, outcome="left message", at=earlier, note="With the nurse.")
        escalations.hand_over(work, row.id, to="night desk", note="Ward 4 calls back at ten.")
    closed = read_back(engine, clock, row, how="telephone", role="referrer")
    with engine.connect() as connection:
        tried = list_attempts(connection, row.id)
    assert [(one.state, one.contact.name, one.contact.channel, one.by, one.note) for one in tried] == [
        ("no-answer", "Ward 4", "telephone", "local-operator", ""),
        ("left-message", "Ward 4", "telephone", "local-operator", "With the nurse."),
        ("handed-over", "night desk", "", "local-operator", "Ward 4 calls back at ten."),
        ("read-back", "Dr. Ward", "telephone", "local-operator", "A bleed."),
    ]
    assert tried[1].at == clock.now() - MINUTE
    assert (closed.holder, closed.reached_at) == ("night desk", clock.now())


@pytest.mark.parametrize("outcome", list(escalations.OUTCOMES))
def test_no_call_ends_an_escalation_not_even_one_that_reached_somebody(
    engine: sa.Engine, clock: SetClock, outcome: str
) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    with at_work(engine, clock) as work:
        tried = escalations.note_call(work, row.id, contact=WARD, outcome=outcome)
    assert (tried.state, tried.due_at, tried.reached_at) == ("open", row.due_at, None)


@pytest.mark.parametrize(
    ("off", "why"),
    [(2 * MINUTE, "still to come"), (-2 * MINUTE, "nothing to tell yet"), (None, "has a zone")],
)
def test_nobody_was_reached_in_the_future_or_before_the_signature(
    engine: sa.Engine, clock: SetClock, off: timedelta | None, why: str
) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    at = clock.now().replace(tzinfo=None) if off is None else clock.now() + off
    with pytest.raises(Invalid, match=why):
        read_back(engine, clock, row, at=at)
    with pytest.raises(Invalid, match=why), at_work(engine, clock) as work:
        escalations.note_call(work, row.id, contact=WARD, outcome="reached", at=at)


def test_a_clock_that_is_seconds_off_makes_no_time_before_the_signature(engine: sa.Engine, clock: SetClock) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    assert read_back(engine, clock, row, at=clock.now() - timedelta(seconds=20)).reached_at == row.opened_at


@pytest.mark.parametrize(
    "say",
    [
        {"outcome": "maybe"},
        {"outcome": "reached", "contact": Contact(name=" ", role="", channel="telephone", address="")},
        {"outcome": "reached", "contact": Contact(name="A", role="", channel="", address="")},
        {"outcome": "reached", "contact": Contact(name="A" * 201, role="", channel="telephone", address="")},
        {"outcome": "reached", "contact": Contact(name="A\0", role="", channel="telephone", address="")},
        {"outcome": "reached", "note": "x" * 2001},
        {"outcome": "reached", "note": "x\0"},
    ],
)
def test_an_attempt_says_who_was_called_how_and_what_became_of_it(
    engine: sa.Engine, clock: SetClock, say: dict[str, Any]
) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    with pytest.raises(Invalid), at_work(engine, clock) as work:
        escalations.note_call(work, row.id, **{"contact": WARD} | say)


def test_what_is_closed_takes_no_more_calls(engine: sa.Engine, clock: SetClock) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    read_back(engine, clock, row)
    with pytest.raises(Conflict), at_work(engine, clock) as work:
        escalations.note_call(work, row.id, contact=WARD, outcome="reached")
    with pytest.raises(Conflict), at_work(engine, clock) as work:
        escalations.hand_over(work, row.id, to="night desk", note="Go on.")


def test_whoever_calls_has_the_number_the_patient_and_the_result_on_one_card(
    engine: sa.Engine, clock: SetClock
) -> None:
    (row,) = signed(engine, clock, version(BLEED))
    mail = Contact(name="Dr. Mail", role="referrer", channel="smtp", address="mail@example.org")
    referrer = Contact(name="Dr. Ward", role="referrer", channel="voice", address="+15550101")
    call = call_of(row, Facility(id="local", name="Mercy", contacts=(mail, WARD, referrer)))
    assert call.contacts == (referrer, WARD)
    assert call.ask == ASK
    assert call.say == (
        "I call from the reading room about a critical result, category 1, which is to be told within minutes,"
        " of Mercy. The patient is Doe, Jane, born 1970-01-31, ID P1."
        " It is about CT head, of 2026-11-24, accession number A1."
        " The result: Acute subdural haematoma. It was read by Ada Byron, MD."
    )


# -- how long it takes -------------------------------------------------------------------------------------------------


def test_what_is_measured_can_be_computed_again_from_the_log(engine: sa.Engine, clock: SetClock) -> None:
    since = clock.now()
    for number, minutes in enumerate((5, 10, 30, 90)):
        (row,) = signed(engine, clock, version(BLEED, id=f"{number:032x}"))
        at = clock.now() + minutes * MINUTE
        clock.advance(2 * timedelta(hours=1))
        read_back(engine, clock, row, at=at)
    signed(engine, clock, version(BLEED, id="e" * 32))
    signed(engine, clock, version(NODULE, id="f" * 32))
    clock.advance(61 * MINUTE)
    with engine.connect() as connection:
        timings = timings_of(connection, Scope(), since)
        log = connection.execute(sa.select(t.event).order_by(t.event.c.seq)).all()
        assert timings_of(connection, Scope(facilities=frozenset({"north"})), since) == []
        assert len(timings_of(connection, Scope(), clock.now())) == 2, "what is open counts whenever it was opened"
    first, second, third = do.measure_criticals(timings, clock.now())
    assert (first.opened, first.acknowledged, first.open, first.overdue, first.cancelled) == (5, 4, 1, 1, 0)
    assert (first.p50_seconds, first.p95_seconds, first.within) == (600.0, 5400.0, 0.6)
    assert (second.opened, second.p50_seconds, second.within) == (0, None, None)
    assert (third.opened, third.overdue, third.within) == (1, 0, None)

    opened, seconds = {}, []
    for event in log:
        told = orjson.loads(event.payload)
        if event.type == escalations.OPENED and told["category"] == 1:
            opened[told["escalation"]] = event.at
        if event.type == escalations.ACKNOWLEDGED:
            taken = datetime.fromisoformat(told["reached_at"]) - opened.pop(told["escalation"])
            seconds.append(taken.total_seconds())
    assert sorted(seconds) == [300.0, 600.0, 1800.0, 5400.0]
    assert len(opened) == 1


@pytest.mark.parametrize("category", [1, 2, 3])
def test_what_took_just_as_long_as_it_may_was_in_time(category: Category) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    limit = escalations.LIMITS[category]
    timings = [
        Timing(category=category, state="acknowledged", opened_at=at, reach_by=at + limit, reached_at=at + late)
        for late in (limit, limit + timedelta(seconds=1))
    ]
    measured = do.measure_criticals(timings, at)[category - 1]
    assert (measured.within, measured.limit_seconds) == (0.5, limit.total_seconds())


# -- whatever happens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_signed_told_and_cancelled_no_result_is_an_orphan(
    engine: sa.Engine, clock: SetClock, seed: int
) -> None:
    """What the report says is told or being told, and what it does not say any more is known to be withdrawn."""
    chance = random.Random(seed)
    texts = ("Bleed.", "Pneumothorax.", "Nodule.")
    heard_in_vain = 0
    for number in range(1, 13):
        clock.advance(MINUTE)
        said = {
            text: CriticalResult(category=chance.choice((1, 2, 3)), text=text)
            for text in texts
            if chance.random() < 0.6
        }
        was_told = {one.result for one in known(engine) if one.state == "acknowledged" and not one.withdrawn_at}
        heard_in_vain += len(was_told - {do.digest_of(text) for text in said} - {None})
        signed(engine, clock, version(*said.values(), number=number))
        for row in known(engine):
            if row.state == "open" and chance.random() < 0.3:
                clock.advance(MINUTE)
                if chance.random() < 0.7:
                    read_back(engine, clock, row)
                else:
                    with at_work(engine, clock) as work:
                        escalations.cancel_escalation(work, row.id, reason="In error.")
        rows = known(engine)
        for text in texts:
            standing = [one for one in rows if one.result == do.digest_of(text) and one.withdrawn_at is None]
            assert len(standing) == (text in said), (number, text)
            assert all((one.category or 9) <= said[text].category for one in standing)
        assert sum(one.result is None for one in rows) == heard_in_vain
        ends = {"open": "waiting", "acknowledged": "completed", "cancelled": "cancelled"}
        assert [the_item(engine, one).state for one in rows] == [ends[one.state] for one in rows]


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("races", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_a_result_read_back_while_a_correction_takes_it_out_is_never_lost(
    engine: sa.Engine, clock: SetClock, races: int
) -> None:
    """Whichever comes first: the escalation is closed, and somebody is told that what was read back does not hold."""
    for number in range(races):
        report = version(BLEED, id=f"{number:032x}")
        (row,) = signed(engine, clock, report)
        gate = threading.Barrier(2)

        def correct(gate: threading.Barrier = gate, report: Report = report) -> None:
            gate.wait()
            signed(engine, clock, version(id=report.id, number=2))

        thread = threading.Thread(target=correct)
        thread.start()
        gate.wait()
        read_back(engine, clock, row)
        thread.join()
        with engine.connect() as connection:
            first, *more = escalations_of(connection, [report.id])
        assert (first.state, first.withdrawn_at) == ("acknowledged", clock.now())
        assert [one.state for one in more] in ([], ["open"])
        assert more or first.reason.startswith("Not in the report any more"), "who read it back was told at that moment"
