"""The commands on work items: what each does, what it is refused for, and what is told of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from itertools import pairwise, product
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Invalid, NotFound, ReadingRoomError, Refused
from readingroom.events import ItemChanged
from readingroom.model import LOCAL_OPERATOR, ItemState, Order, Scope
from server.worklist import items as do
from server.worklist.states import STEPS, Command, WrongToken, check
from storage.catalog.directory import deactivate, write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.work_items import StoredItem, find_item, item_by_id, read_timeline
from tests.catalog import fill, header
from tests.directory import facility, reader
from tests.worklist import PLUGIN, READER, add, at_work, study

TOKEN = "1.2.3.4"


def now_of(engine: sa.Engine, item: StoredItem) -> StoredItem:
    with engine.connect() as connection:
        return item_by_id(connection, item.id)


def told(engine: sa.Engine, item: StoredItem) -> list[str]:
    with engine.connect() as connection:
        return [event.payload["what"] for event in read_timeline(connection, item.id)]


# -- the table of states -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "state"), [*product(get_args(Command), get_args(ItemState))])
def test_a_command_is_taken_where_the_table_says_and_nowhere_else(command: Command, state: ItemState) -> None:
    clock = SetClock()
    item = StoredItem(
        id="1",
        workitem_uid="2.25.1",
        kind="read",
        state=state,
        facility="local",
        version=1,
        created_at=clock.now(),
        changed_at=clock.now(),
        order_at=clock.now(),
    )
    actor = do.THE_SERVER if command == "expire" else LOCAL_OPERATOR
    if state in STEPS[command].sources:
        assert check(command, item, actor) is STEPS[command]
    else:
        with pytest.raises(Conflict, match=f"2.25.1 is {state}; to {command} it, it has to be "):
            check(command, item, actor)


def test_no_step_leads_out_of_an_end() -> None:
    assert not any({"completed", "cancelled"} & set(step.sources) for step in STEPS.values())


# -- the life of an item -----------------------------------------------------------------------------------------------


def test_an_item_is_read_from_beginning_to_end_and_every_step_is_told(engine: sa.Engine) -> None:
    clock = SetClock()
    item = add(engine, clock, is_ready=False)
    for step in (
        lambda work, item: do.make_ready(work, item),
        lambda work, item: do.offer_item(work, item, "ada", "neuro, on shift"),
        lambda work, item: do.claim_item(work, item, token=TOKEN, reader="ada"),
        lambda work, item: do.hold_item(work, item, "a prior is missing", token=TOKEN),
        lambda work, item: do.resume_item(work, item, token=TOKEN),
        lambda work, item: do.complete_item(work, item, token=TOKEN),
    ):
        clock.advance(timedelta(minutes=1))
        with at_work(engine, clock) as work:
            item = step(work, work.find(item.workitem_uid))
    assert now_of(engine, item) == item
    assert (item.state, item.owner, item.version) == ("completed", "ada", 7)
    with engine.connect() as connection:
        events = read_timeline(connection, item.id)
    assert [event.payload["what"] for event in events] == [
        "created",
        "ready",
        "offered",
        "claimed",
        "held",
        "resumed",
        "completed",
    ]
    assert [event.payload["before"] for event in events] == [
        None,
        "waiting",
        "ready",
        "assigned",
        "claimed",
        "held",
        "claimed",
    ]
    assert [(event.at - item.created_at).total_seconds() for event in events] == [60.0 * n for n in range(7)]
    assert {event.payload["actor"] for event in events} == {"local-operator"}
    assert events[4].payload["reason"] == "a prior is missing"
    assert TOKEN not in str(events)
    names = [field.name for field in fields(ItemChanged)]
    told = {name: value for name, value in events[2].payload.items() if name in names}
    changed = ItemChanged(at=events[2].at, facility="local", **told)
    assert (changed.item, changed.before, changed.after, changed.study_uid) == (
        item.id,
        "ready",
        "assigned",
        item.study_uid,
    )
    assert events[2].payload["was"] == {"offered_to": None, "state": "ready", "version": 2}


def test_what_is_held_goes_back_to_where_it_was(engine: sa.Engine) -> None:
    item = add(engine)
    for state, before in (
        ("ready", lambda work, item: item),
        ("assigned", lambda work, item: do.offer_item(work, item, "ada")),
        ("claimed", lambda work, item: do.claim_item(work, item, token=TOKEN)),
    ):
        with at_work(engine) as work:
            item = before(work, work.find(item.workitem_uid))
            held = do.hold_item(work, item, "no order", token=TOKEN)
            assert (held.state, held.ups_state) == ("held", "IN PROGRESS" if state == "claimed" else "SCHEDULED")
            item = do.resume_item(work, held, token=TOKEN)
        assert item.state == state
    assert now_of(engine, item).held_from is None


def test_only_who_has_the_token_goes_on_with_what_is_claimed(engine: sa.Engine) -> None:
    item = add(engine)
    with at_work(engine) as work:
        item = do.claim_item(work, item, token=TOKEN)
    attempts: list[Callable[[do.Work, str], Any]] = [
        lambda work, token: do.release_item(work, item, token=token),
        lambda work, token: do.hold_item(work, item, "lunch", token=token),
        lambda work, token: do.complete_item(work, item, token=token),
        lambda work, token: do.cancel_item(work, item, token=token),
        lambda work, token: do.update_attributes(work, item, {}, token=token),
        lambda work, token: do.renew_claim(work, item, token=token),
    ]
    for attempt in attempts:
        for token, what in (("", "missing"), ("1.2", "incorrect")):
            with at_work(engine) as work, pytest.raises(WrongToken, match=f"Transaction UID is {what}"):
                attempt(work, token)
    assert now_of(engine, item) == item
    assert told(engine, item) == ["created", "claimed"]


def test_what_is_offered_is_claimed_and_declined_by_that_reader_alone(engine: sa.Engine) -> None:
    item = add(engine)
    with at_work(engine) as work:
        item = do.offer_item(work, item, "ada")
        with pytest.raises(Conflict, match="offered to ada, not to bob"):
            do.claim_item(work, item, reader="bob")
        with pytest.raises(Conflict, match="offered to ada, not to bob"):
            do.decline_item(work, item, reader="bob")
        item = do.decline_item(work, item, reader="ada", reason="no licence")
        assert (item.state, item.offered_to) == ("ready", None)
        claimed = do.claim_item(work, item, reader="bob")
    assert claimed.owner == "bob"
    assert claimed.claim_token


def test_nobody_is_given_or_takes_what_the_law_does_not_let_that_reader_read(engine: sa.Engine) -> None:
    clock = SetClock()
    with begin_write(engine) as connection:
        for name in ("local", "mercy"):
            write_facility(connection, facility(name), clock.now())
        write_reader(connection, reader(credentials=[{"facility": "local"}], shifts=[]))
        write_reader(connection, reader("bob", credentials=[{"facility": "local"}], licences=[]))
        write_reader(connection, reader("cleo"))
    for name, why in (
        ("bob", "no licence for US-TX"),
        ("cleo", "no privileges at local"),
        ("dan", "dan is no active reader of the directory"),
    ):
        item, claimed = add(engine, clock), add(engine, clock)
        with at_work(engine, clock) as work, pytest.raises(Refused, match=why):
            do.claim_item(work, item, reader=name)
        with at_work(engine, clock, replace(READER, id=name)) as work, pytest.raises(Refused, match=why):
            do.claim_item(work, item)
        with at_work(engine, clock) as work, pytest.raises(Refused, match=why):
            do.offer_item(work, item, name)
        with at_work(engine, clock) as work:
            claimed = do.claim_item(work, claimed, reader="ada")
            with pytest.raises(Refused, match=why):
                do.reassign_item(work, claimed, name)
        assert told(engine, item) == ["created"]
    clock.advance(timedelta(days=1))
    with begin_write(engine) as connection:
        deactivate(connection, readers=["ada"])
    with at_work(engine, clock) as work, pytest.raises(Refused, match="ada is no active reader"):
        do.claim_item(work, item, reader="ada")


def test_to_call_somebody_and_the_work_of_others_take_no_licence(engine: sa.Engine) -> None:
    with begin_write(engine) as connection:
        write_reader(connection, reader(credentials=[]))
    for kind in ("critical", "followup", "external"):
        item = add(engine, kind=kind)
        with at_work(engine) as work:
            assert do.claim_item(work, item).owner == "local-operator"


def test_a_reader_who_acts_claims_for_nobody_else(engine: sa.Engine) -> None:
    item = add(engine)
    with begin_write(engine) as connection:
        write_facility(connection, facility("local"), SetClock().now())
        for name in ("ada", "bob"):
            write_reader(connection, reader(name, credentials=[{"facility": "local"}]))
    with at_work(engine) as work:
        item = do.offer_item(work, item, "bob")
    with at_work(engine, actor=READER) as work, pytest.raises(Conflict, match="offered to bob, not to ada"):
        do.claim_item(work, item)
    with at_work(engine) as work:
        assert do.claim_item(work, item).owner == "bob"


def test_a_supervisor_gives_what_one_reader_has_to_another(engine: sa.Engine) -> None:
    item = add(engine)
    with at_work(engine) as work:
        item = do.claim_item(work, item, token=TOKEN, reader="bob")
    with at_work(engine, actor=READER) as work, pytest.raises(Refused, match="'supervise'"):
        do.reassign_item(work, work.find(item.workitem_uid), "ada")
    with at_work(engine) as work:
        item = do.reassign_item(work, work.find(item.workitem_uid), "ada", "bob went home")
        assert (item.state, item.offered_to, item.owner, item.claim_token) == ("assigned", "ada", None, None)
        item = do.reassign_item(work, item, None)
    assert now_of(engine, item).state == "ready"


def test_a_plugin_raises_a_priority_and_never_lowers_it(engine: sa.Engine) -> None:
    item = add(engine, priority="urgent")
    with at_work(engine, actor=PLUGIN) as work:
        item = do.reprioritise_item(work, item, "stat")
        with pytest.raises(Refused, match="not lower it"):
            do.reprioritise_item(work, item, "routine")
        item = do.flag_item(work, item, "hyperdense blood, p=0.93", "urgent")
        assert do.flag_item(work, item, "hyperdense blood, p=0.93") is item
    assert (item.rank, item.is_flagged, item.priority) == (3, True, "urgent")
    with at_work(engine) as work:
        assert do.reprioritise_item(work, work.find(item.workitem_uid), "routine").rank == 0
    assert told(engine, item) == ["created", "reprioritised", "reprioritised", "reprioritised"]


def test_a_transaction_that_fails_leaves_nothing_and_tells_nothing(engine: sa.Engine) -> None:
    item = add(engine)
    with suppress(RuntimeError), at_work(engine) as work:
        do.claim_item(work, item, token=TOKEN)
        raise RuntimeError
    assert now_of(engine, item) == item
    assert told(engine, item) == ["created"]


def test_an_item_out_of_scope_is_not_found(engine: sa.Engine) -> None:
    item = add(engine, facility="north")
    with engine.connect() as connection:
        find_item(connection, Scope(facilities=frozenset({"north"})), item.workitem_uid)
        with pytest.raises(NotFound):
            find_item(connection, Scope(facilities=frozenset({"south"})), item.workitem_uid)


@pytest.mark.parametrize("reader", ["", "a" * 65, "a\nb"])
def test_a_reader_has_a_name_of_one_short_line(engine: sa.Engine, reader: str) -> None:
    item = add(engine)
    with at_work(engine) as work, pytest.raises(Invalid):
        do.offer_item(work, item, reader)


# -- claims ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round", range(3))
def test_of_a_hundred_who_claim_at_once_one_gets_it(engine: sa.Engine, round: int) -> None:
    item = add(engine)

    def claim(number: int) -> str:
        try:
            with at_work(engine) as work:
                return do.claim_item(work, work.find(item.workitem_uid), token=f"1.2.{number}").claim_token or ""
        except Conflict:
            return ""

    with ThreadPoolExecutor(20) as pool:
        won = [token for token in pool.map(claim, range(100)) if token]
    assert len(won) == 1
    assert now_of(engine, item).claim_token == won[0]
    assert told(engine, item) == ["created", "claimed"]


def test_of_two_who_read_the_same_version_the_second_is_refused(engine: sa.Engine) -> None:
    item = add(engine)
    with at_work(engine) as work:
        do.claim_item(work, item, token=TOKEN)
    with at_work(engine) as work, pytest.raises(Conflict, match="changed by somebody else"):
        do.claim_item(work, item, token="1.2.9")


def test_an_abandoned_claim_expires_and_a_renewed_one_does_not(engine: sa.Engine) -> None:
    clock = SetClock()
    abandoned, renewed, held = (add(engine, clock) for _ in range(3))
    with at_work(engine, clock) as work:
        do.claim_item(work, abandoned, token=TOKEN, reader="bob")
        renewed = do.claim_item(work, renewed, token=TOKEN)
        held = do.hold_item(work, do.claim_item(work, held, token=TOKEN), "a prior is missing", token=TOKEN)
    assert do.expire_claims(engine, clock.now()) == 0
    clock.advance(do.CLAIM_LASTS - timedelta(minutes=1))
    with at_work(engine, clock) as work:
        do.renew_claim(work, renewed, token=TOKEN)
    clock.advance(timedelta(minutes=1))
    assert do.expire_claims(engine, clock.now()) == 1
    assert do.expire_claims(engine, clock.now()) == 0
    back = now_of(engine, abandoned)
    assert (back.state, back.owner, back.claim_token, back.claim_expires_at) == ("ready", None, None, None)
    assert now_of(engine, renewed).state == "claimed"
    assert now_of(engine, held).state == "held"
    assert told(engine, abandoned) == ["created", "claimed", "expired"]
    with at_work(engine, clock) as work, pytest.raises(Conflict):
        do.complete_item(work, work.find(abandoned.workitem_uid), token=TOKEN)


# -- an item for a study -----------------------------------------------------------------------------------------------


def test_a_study_has_one_item_however_often_it_settles(engine: sa.Engine) -> None:
    settled = study()
    with at_work(engine) as work:
        first = do.item_for_study(work, settled)
    assert (first.kind, first.state, first.modality, first.body_part) == ("read", "ready", "CT", "HEAD")
    with at_work(engine) as work:
        assert do.item_for_study(work, settled) == first
    with at_work(engine) as work:
        claimed = do.claim_item(work, first)
        assert do.item_for_study(work, settled) == claimed
    assert told(engine, first) == ["created", "claimed"]


def test_of_many_that_settle_one_study_at_once_one_makes_its_item(engine: sa.Engine) -> None:
    settled = study()

    def settle(_number: int) -> str:
        with at_work(engine) as work:
            return do.item_for_study(work, settled).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(settle, range(16)))) == 1


def test_an_order_waits_for_its_study(engine: sa.Engine) -> None:
    order = Order(accession_number="A1", facility="local", priority="stat", patient_id="P1")
    with at_work(engine) as work:
        waiting = do.item_for_order(work, order)
    assert (waiting.state, waiting.rank) == ("waiting", 3)
    settled = study(accession_number="A1")
    with at_work(engine) as work:
        item = do.item_for_study(work, settled)
    assert (item.id, item.state, item.study_uid) == (waiting.id, "ready", settled.study_uid)
    with at_work(engine) as work:
        assert do.item_for_study(work, settled).id == waiting.id
        assert do.item_for_study(work, study(accession_number="A1")).id != waiting.id
        assert do.item_for_study(work, study(accession_number="A1", facility="north")).facility == "north"
    assert told(engine, item) == ["created", "study arrived", "ready"]


def test_a_uid_is_taken_once(engine: sa.Engine) -> None:
    add(engine, workitem_uid="1.2.3")
    with pytest.raises(Conflict, match=r"1\.2\.3"):
        add(engine, workitem_uid="1.2.3")


# -- whatever comes ----------------------------------------------------------------------------------------------------


def test_whatever_commands_come_the_timeline_leads_to_the_row(engine: sa.Engine) -> None:
    """Commands at random: what the events say of the state is what the row says, and no claim is orphaned."""
    fill(engine, header(StudyInstanceUID="1.2.840.1"))
    clock, dice = SetClock(), random.Random(7)
    item = add(engine, clock, study_uid="1.2.840.1")
    commands: list[Callable[[do.Work, StoredItem], StoredItem]] = [
        lambda work, item: do.make_ready(work, item),
        lambda work, item: do.await_input(work, item),
        lambda work, item: do.offer_item(work, item, dice.choice(("ada", "bob"))),
        lambda work, item: do.decline_item(work, item, reader="ada"),
        lambda work, item: do.claim_item(work, item, token=TOKEN),
        lambda work, item: do.release_item(work, item, token=TOKEN),
        lambda work, item: do.hold_item(work, item, "why not", token=TOKEN),
        lambda work, item: do.resume_item(work, item, token=TOKEN),
        lambda work, item: do.reassign_item(work, item, dice.choice((None, "ada"))),
        lambda work, item: do.reprioritise_item(work, item, dice.choice(("routine", "stat"))),
    ]
    for _ in range(150):
        clock.advance(timedelta(minutes=dice.randrange(60)))
        if dice.random() < 0.2:
            do.expire_claims(engine, clock.now())
        try:
            with at_work(engine, clock) as work:
                dice.choice(commands)(work, work.find(item.workitem_uid))
        except ReadingRoomError:
            continue
    row = now_of(engine, item)
    with engine.connect() as connection:
        events = read_timeline(connection, item.id)
    assert len(events) > 40
    assert [event.payload["version"] for event in events] == list(range(1, row.version + 1))
    for before, after in pairwise(events):
        assert after.payload["before"] == before.payload["after"]
    assert events[-1].payload["after"] == row.state
    assert row.is_claimed == (row.state == "claimed" or row.held_from == "claimed")
    assert (row.claim_expires_at is not None) == (row.state == "claimed")
