"""The index policy: who reads what next, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.routing.policy import is_matched, predicted_load, propose, seconds_left
from plugins.routing.settings import RoutingSettings, Slack
from readingroom import Proposal, Reader, Snapshot, Waiting, WorkItem, priority_rank
from readingroom.model import Priority

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SETTINGS = RoutingSettings()

NEURO = Reader(id="neuro", name="N", subspecialties=("neuro",))
BODY = Reader(id="body", name="B", subspecialties=("body",))
BOTH = Reader(id="both", name="A", subspecialties=("neuro", "body"))


def item(id: str, priority: Priority = "routine", *, due: float | None = 480, **values: Any) -> WorkItem:
    return WorkItem(
        id=id,
        kind="read",
        state="ready",
        facility="local",
        version=1,
        priority=priority,
        rank=priority_rank(priority),
        due_at=None if due is None else NOW + due * MINUTE,
        **values,
    )


def waiting(one: WorkItem, *readers: Reader, minutes: float = 5) -> Waiting:
    eligible = readers or (NEURO, BODY, BOTH)
    return Waiting(item=one, eligible=tuple(reader.id for reader in eligible), read_seconds=minutes * 60)


def proposed(*queue: Waiting, readers: tuple[Reader, ...], **settings: Any) -> list[tuple[str, str]]:
    """Item and reader of each proposal, the best first."""
    return [(one.item, one.reader) for one in _propose(queue, readers, **settings)]


def _propose(queue: tuple[Waiting, ...], readers: tuple[Reader, ...], **settings: Any) -> tuple[Proposal, ...]:
    return propose(Snapshot(at=NOW, waiting=queue, readers=readers), SETTINGS.model_copy(update=settings))


def first(*queue: Waiting, **settings: Any) -> str:
    """What one reader, who has every field, is to read first."""
    ((found, _),) = proposed(*queue, readers=(BOTH,), **settings)
    return found


def busy(reader: Reader, minutes: float) -> Reader:
    return replace(reader, free_at=NOW + minutes * MINUTE)


def test_what_is_flagged_goes_first_then_stat_then_at_risk_then_by_priority() -> None:
    queue = [
        waiting(item("routine")),
        waiting(item("urgent", "urgent")),
        waiting(item("asap", "asap")),
        waiting(item("at risk", due=20)),
        waiting(item("stat", "stat", due=30)),
        waiting(item("flagged", is_flagged=True)),
    ]
    order = []
    while queue:
        order.append(first(*queue))
        queue = [one for one in queue if one.item.id != order[-1]]
    assert order == ["flagged", "stat", "at risk", "asap", "urgent", "routine"]


def test_the_shortest_read_goes_first_among_equals() -> None:
    assert first(waiting(item("long"), minutes=17), waiting(item("short"), minutes=3)) == "short"


def test_of_stat_items_the_one_that_has_to_be_begun_soonest_goes_first() -> None:
    short = waiting(item("short", "stat", due=30), minutes=3)
    long = waiting(item("long", "stat", due=30), minutes=17)
    assert first(short, long) == "long"


def test_a_stat_item_that_would_be_late_goes_before_what_is_flagged() -> None:
    flagged = waiting(item("flagged", is_flagged=True))
    assert first(flagged, waiting(item("stat", "stat", due=7))) == "stat"
    assert first(flagged, waiting(item("stat", "stat", due=30))) == "flagged"


def test_what_cannot_be_saved_any_more_takes_nobody_s_place() -> None:
    assert first(waiting(item("late", due=-1)), waiting(item("urgent", "urgent"))) == "urgent"


def test_what_is_late_for_long_does_not_wait_for_ever() -> None:
    assert first(waiting(item("late", due=-200)), waiting(item("urgent", "urgent"))) == "late"


def test_where_more_is_due_than_can_be_read_nothing_is_promoted_for_being_at_risk() -> None:
    crowd = [waiting(item(f"due-{number}", "urgent", due=60), minutes=10) for number in range(20)]
    assert first(waiting(item("at risk", due=20), minutes=12), *crowd) == "due-0"


def test_where_more_is_due_than_can_be_read_overflow_readers_are_called() -> None:
    spare = replace(NEURO, id="spare", is_overflow=True)
    crowd = [waiting(item(f"due-{number}", "urgent", due=60), BOTH, spare, minutes=10) for number in range(20)]
    assert {reader for _, reader in proposed(*crowd, readers=(BOTH, spare))} == {"both", "spare"}
    assert {reader for _, reader in proposed(*crowd[:2], readers=(BOTH, spare))} == {"both"}
    called = next(one for one in _propose(tuple(crowd), (BOTH, spare)) if one.reader == "spare")
    assert "overflow" in called.because


def test_what_is_due_tomorrow_is_no_overload() -> None:
    later = [waiting(item(f"routine-{number}"), minutes=10) for number in range(200)]
    assert first(waiting(item("at risk", due=20), minutes=12), *later) == "at risk"


def test_an_item_goes_to_the_free_reader_of_its_field_with_the_fewest_other_skills() -> None:
    head = waiting(item("head", subspecialty="neuro"))
    assert proposed(head, readers=(BODY, BOTH, NEURO)) == [("head", "neuro")]
    assert proposed(head, readers=(BODY, BOTH, busy(NEURO, 5))) == [("head", "both")]


def test_an_item_waits_for_its_field_as_long_as_its_slack_and_no_longer() -> None:
    stat = waiting(item("head", "stat", due=30, subspecialty="neuro"))
    assert proposed(stat, readers=(BODY, busy(NEURO, 1))) == []
    assert proposed(stat, readers=(BODY, busy(NEURO, 3))) == [("head", "body")]
    assert proposed(stat, readers=(BODY, busy(NEURO, 3)), slack_minutes=Slack(stat=4)) == []
    routine = waiting(item("head", subspecialty="neuro"))
    assert proposed(routine, readers=(BODY, busy(NEURO, 60))) == []


def test_who_is_waited_for_is_not_promised_twice() -> None:
    """The second would have to wait for the first to be read, too."""
    queue = [waiting(item(f"head-{number}", "stat", due=30, subspecialty="neuro")) for number in range(2)]
    assert proposed(*queue, readers=(BODY, busy(NEURO, 1))) == [("head-1", "body")]


def test_an_item_that_nobody_of_its_field_may_read_goes_to_another() -> None:
    head = waiting(item("head", subspecialty="neuro"), BODY)
    ((found),) = _propose((head,), (BODY, NEURO))
    assert (found.reader, found.because) == ("body", "routine, due in 480 min: no reader of its field is eligible")


def test_each_proposal_says_why() -> None:
    stat = waiting(item("head", "stat", due=-3, subspecialty="neuro"))
    (matched,) = _propose((stat,), (NEURO,))
    assert matched.because == "STAT, late by 3 min: in the reader's field, and in the fewest others among who is free"
    (other,) = _propose((stat,), (BODY, busy(NEURO, 9)))
    assert other.because == "STAT, late by 3 min: the next reader of its field is free in 9 min"


def test_nobody_is_proposed_for_what_nobody_may_read() -> None:
    nobody = Waiting(item=item("orphan", "stat"), eligible=())
    elsewhere = Waiting(item=item("elsewhere"), eligible=("somebody who is not on shift",))
    assert proposed(nobody, elsewhere, waiting(item("routine")), readers=(BOTH,)) == [("routine", "both")]


@pytest.mark.parametrize(
    ("skills", "fits"),
    [
        ((), True),
        (("CT",), True),
        (("CT/HEAD",), True),
        (("*/HEAD",), True),
        (("MR", "CT/*"), True),
        (("MR",), False),
        (("CT/CHEST",), False),
    ],
)
def test_a_skill_is_a_modality_a_region_or_both(skills: tuple[str, ...], fits: bool) -> None:
    reader = Reader(id="r", name="R", subspecialties=("neuro",), skills=skills)
    head = item("head", modality="CT", body_part="HEAD", subspecialty="neuro")
    assert is_matched(reader, head) is fits
    assert not is_matched(replace(reader, subspecialties=("body",)), head)
    assert is_matched(replace(reader, subspecialties=()), replace(head, subspecialty=None)) is fits


def test_the_load_counts_what_is_due_and_what_is_being_read() -> None:
    queue = (waiting(item("soon", due=60), minutes=30), waiting(item("later"), minutes=30))
    snapshot = Snapshot(at=NOW, waiting=queue, readers=(NEURO, busy(BODY, 15), replace(BOTH, is_overflow=True)))
    lefts = [seconds_left(one, NOW) for one in queue]
    assert predicted_load(snapshot, lefts, SETTINGS) == pytest.approx(45 / 240)
    assert predicted_load(replace(snapshot, readers=()), lefts, SETTINGS) == float("inf")
    assert predicted_load(replace(snapshot, readers=(), waiting=()), [], SETTINGS) == 0


def test_a_setting_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ValidationError, match="statt"):
        RoutingSettings.model_validate({"slack_minutes": {"statt": 3}})


_READERS = st.lists(
    st.builds(
        Reader,
        id=st.sampled_from("abcdef"),
        name=st.just("R"),
        subspecialties=st.sets(st.sampled_from(("neuro", "body"))).map(tuple),
        is_overflow=st.booleans(),
        free_at=st.none() | st.integers(-60, 60).map(lambda minutes: NOW + minutes * MINUTE),
    ),
    unique_by=lambda reader: reader.id,
)
_QUEUE = st.lists(
    st.builds(
        Waiting,
        item=st.builds(
            item,
            id=st.integers(0, 99).map(str),
            priority=st.sampled_from(("routine", "urgent", "asap", "stat")),
            due=st.none() | st.integers(-300, 300),
            is_flagged=st.booleans(),
            subspecialty=st.sampled_from((None, "neuro", "body")),
        ),
        eligible=st.sets(st.sampled_from("abcdef")).map(tuple),
        read_seconds=st.integers(0, 3600).map(float),
    ),
    unique_by=lambda one: one.item.id,
)


@given(_QUEUE, _READERS)
def test_only_who_is_eligible_and_free_is_proposed_and_each_reader_and_item_once(
    queue: list[Waiting], readers: list[Reader]
) -> None:
    found = propose(Snapshot(at=NOW, waiting=tuple(queue), readers=tuple(readers)), SETTINGS)
    eligible = {one.item.id: one.eligible for one in queue}
    free = {reader.id for reader in readers if reader.free_at is None or reader.free_at <= NOW}
    assert all(one.reader in eligible[one.item] and one.reader in free for one in found)
    assert len({one.reader for one in found}) == len({one.item for one in found}) == len(found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
