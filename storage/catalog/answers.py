"""What plugins have answered about a study: one row for each revision, hook and plugin, with what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from storage.catalog import schema as t
from storage.catalog.writers import insert_for

AnswerState = Literal["asked", "answered", "missed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """One answer; `answer` is JSON, and empty where the plugin had none to give, or has given none yet."""

    revision: int
    hook: str
    plugin: str
    state: AnswerState
    answer: bytes = b""
    note: str = ""
    asked_at: datetime
    answered_at: datetime | None = None


_C = t.plugin_answer.c
_FIELDS = (
    _C.revision,
    _C.hook,
    _C.plugin,
    _C.state,
    _C.answer,
    _C.note,
    _C.asked_at,
    _C.answered_at,
)


def ask(
    connection: sa.Connection,
    *,
    facility: str,
    study_uid: str,
    revision: int,
    hook: str,
    plugins: Iterable[str],
    at: datetime,
) -> None:
    """Note that these plugins were asked; what is there already stays."""
    rows = [
        {
            "id": t.new_id(),
            "facility": facility,
            "study_uid": study_uid,
            "revision": revision,
            "hook": hook,
            "plugin": plugin,
            "state": "asked",
            "answer": b"",
            "note": "",
            "asked_at": at,
        }
        for plugin in plugins
    ]
    if rows:
        connection.execute(insert_for(connection)(t.plugin_answer).on_conflict_do_nothing(), rows)


def keep_answer(
    connection: sa.Connection,
    *,
    facility: str,
    study_uid: str,
    revision: int,
    hook: str,
    plugin: str,
    answer: bytes,
    note: str,
    at: datetime,
) -> None:
    """Keep what a plugin has answered; a later answer to the same question takes its place."""
    statement = insert_for(connection)(t.plugin_answer).values(
        id=t.new_id(),
        facility=facility,
        study_uid=study_uid,
        revision=revision,
        hook=hook,
        plugin=plugin,
        state="answered",
        answer=answer,
        note=note,
        asked_at=at,
        answered_at=at,
    )
    told = {name: statement.excluded[name] for name in ("state", "answer", "note", "answered_at")}
    key = [_C.facility, _C.study_uid, _C.revision, _C.hook, _C.plugin]
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=told))


def miss(
    connection: sa.Connection, *, facility: str, study_uid: str, revision: int, hook: str, note: str
) -> tuple[str, ...]:
    """Note that the time is over for those who have not answered yet; gives their names. They may still answer."""
    late = (
        t.plugin_answer.update()
        .where(
            _C.facility == facility,
            _C.study_uid == study_uid,
            _C.revision == revision,
            _C.hook == hook,
            _C.state == "asked",
        )
        .values(state="missed", note=note)
    )
    return tuple(sorted(connection.execute(late.returning(_C.plugin)).scalars()))


def read_answers(
    connection: sa.Connection, facility: str, study_uid: str, hook: str | None = None
) -> list[StoredAnswer]:
    """All about a study, the latest revision first."""
    statement = sa.select(*_FIELDS).where(_C.facility == facility, _C.study_uid == study_uid)
    if hook is not None:
        statement = statement.where(_C.hook == hook)
    ordered = statement.order_by(_C.revision.desc(), _C.hook, _C.plugin)
    return [StoredAnswer(**row._mapping) for row in connection.execute(ordered)]
