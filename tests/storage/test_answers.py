"""What plugins have answered about a study."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from readingroom.clock import SetClock
from storage.catalog.answers import StoredAnswer, ask, keep_answer, miss, read_answers
from storage.catalog.engine import begin_write
from tests.catalog import fill, header

TRIAGE: dict[str, Any] = {"facility": "local", "study_uid": "1.2.3", "revision": 1, "hook": "triage_study"}


def read(engine: sa.Engine, hook: str | None = None) -> list[StoredAnswer]:
    with engine.connect() as connection:
        return read_answers(connection, "local", "1.2.3", hook)


def test_who_was_asked_has_answered_or_was_too_late(engine: sa.Engine) -> None:
    fill(engine, header())
    clock = SetClock()
    asked_at = clock.now()
    with begin_write(engine) as connection:
        ask(connection, plugins=["quick", "slow"], at=asked_at, **TRIAGE)
        ask(connection, plugins=["quick", "slow"], at=asked_at + timedelta(hours=1), **TRIAGE)  # of a job done twice
    assert [(one.plugin, one.state, one.asked_at) for one in read(engine)] == [
        ("quick", "asked", asked_at),
        ("slow", "asked", asked_at),
    ]
    clock.advance(timedelta(minutes=1))
    with begin_write(engine) as connection:
        keep_answer(connection, plugin="quick", answer=b"{}", note="kept", at=clock.now(), **TRIAGE)
        assert miss(connection, note="no answer in time", **TRIAGE) == ("slow",)
        assert miss(connection, note="no answer in time", **TRIAGE) == ()
    quick, slow = read(engine)
    assert (quick.state, quick.answer, quick.note, quick.asked_at, quick.answered_at) == (
        "answered",
        b"{}",
        "kept",
        asked_at,
        clock.now(),
    )
    assert (slow.state, slow.note, slow.answered_at) == ("missed", "no answer in time", None)


def test_an_answer_that_comes_late_still_counts_and_the_last_one_stays(engine: sa.Engine) -> None:
    fill(engine, header())
    now = SetClock().now()
    with begin_write(engine) as connection:
        ask(connection, plugins=["slow"], at=now, **TRIAGE)
        miss(connection, note="late", **TRIAGE)
        for answer in (b"1", b"2"):
            keep_answer(connection, plugin="slow", answer=answer, note="", at=now, **TRIAGE)
    (only,) = read(engine, "triage_study")
    assert (only.state, only.answer) == ("answered", b"2")
    assert read(engine, "find_priors") == []


def test_the_latest_revision_comes_first(engine: sa.Engine) -> None:
    fill(engine, header())
    now = SetClock().now()
    with begin_write(engine) as connection:
        for revision in (1, 3, 2):
            keep_answer(connection, plugin="p", answer=b"", note="", at=now, **{**TRIAGE, "revision": revision})
    assert [one.revision for one in read(engine)] == [3, 2, 1]
