"""Performed procedure steps: what modalities say that they do, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid, NotFound
from readingroom.model import Scope
from server.worklist.performed import (
    OVER,
    PERFORMED_CHANGED,
    MissingAttribute,
    MissingValue,
    NoSuchAttribute,
    Taken,
    change_performed,
    create_performed,
    referenced_instances,
)
from server.worklist.steps import cancel_step, schedule_step
from storage.catalog import schema as t
from storage.catalog.events import Wanted, read_events
from storage.catalog.performed import PerformedStep, doubtful_steps, find_performed
from storage.catalog.steps import StoredStep, lock_step
from storage.dicomjson import MetadataJson
from tests.catalog import fill, header
from tests.steps import ended, performed, said, step
from tests.worklist import at_work

UID, OTHER = "1.2.3.4.5.1", "1.2.3.4.5.2"
NORTH = Scope(facilities=frozenset(("north",)))


def scheduled(engine: sa.Engine, **columns: Any) -> StoredStep:
    with at_work(engine) as work:
        return schedule_step(work, step(**columns))


def begin(engine: sa.Engine, dataset: MetadataJson, uid: str = UID) -> PerformedStep:
    with at_work(engine) as work:
        return create_performed(work, facility="local", instance_uid=uid, dataset=dataset, source="CT1")


def change(engine: sa.Engine, changes: MetadataJson, uid: str = UID, scope: Scope | None = None) -> PerformedStep:
    with at_work(engine, scope=scope) as work:
        return change_performed(work, uid, changes)


def now_of(engine: sa.Engine, id: str = "S1") -> StoredStep:
    with engine.connect() as connection:
        found = lock_step(connection, "local", id)
    assert found is not None
    return found


def doubts(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return [one.doubt for one in doubtful_steps(connection, Scope(), limit=10)]


def test_a_step_is_started_and_completed_and_all_that_was_said_is_kept(engine: sa.Engine) -> None:
    planned = scheduled(engine)
    begun = begin(engine, performed(planned))
    assert (begun.state, begun.step_ids, begun.doubt) == ("in progress", ["S1"], "")
    assert now_of(engine).state == "started"

    change(engine, said(PerformedProcedureStepDescription="Head without contrast"))
    done = change(engine, ended("COMPLETED", "1.2.3.6", "1.2.3.7"))
    assert now_of(engine).state == "completed"
    with engine.connect() as connection:
        assert find_performed(connection, Scope(), UID) == done
        assert find_performed(connection, NORTH, UID) is None
        events = read_events(connection, Scope(), Wanted(types=(PERFORMED_CHANGED,)), after=0, limit=10)
    kept = done.dataset
    assert kept["00400254"]["Value"] == ["Head without contrast"]
    assert kept["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürgen"}]
    assert referenced_instances(kept) == ["1.2.3.6", "1.2.3.7"]
    assert [(one.payload["what"], one.study_uid) for one in events] == [
        ("created", planned.study_uid),
        ("changed", planned.study_uid),
        ("completed", planned.study_uid),
    ]
    assert doubts(engine) == []


def test_what_has_ended_is_not_changed_and_what_is_not_there_cannot_be(engine: sa.Engine) -> None:
    begin(engine, performed(scheduled(engine)))
    change(engine, ended("COMPLETED", "1.2.3.6"))
    with pytest.raises(Conflict, match=OVER):
        change(engine, said(PerformedProcedureStepDescription="More"))
    with pytest.raises(NotFound):
        change(engine, ended("COMPLETED", "1.2.3.6"), OTHER)
    with pytest.raises(NotFound):
        change(engine, ended("COMPLETED", "1.2.3.6"), scope=NORTH)


def test_a_step_that_is_given_up_says_why(engine: sa.Engine) -> None:
    begin(engine, performed(scheduled(engine)))
    reason = {"CodeValue": "110513", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Discontinued for other reason"}
    change(engine, ended("DISCONTINUED", PerformedProcedureStepDiscontinuationReasonCodeSequence=[reason]))

    kept = now_of(engine)
    assert (kept.state, kept.reason) == ("discontinued", "Discontinued for other reason")


def test_a_step_that_was_chosen_by_mistake_is_still_to_be_done(engine: sa.Engine) -> None:
    begin(engine, performed(scheduled(engine)))
    wrong = {"CodeValue": "110514", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Incorrect worklist entry selected"}
    change(engine, ended("DISCONTINUED", PerformedProcedureStepDiscontinuationReasonCodeSequence=[wrong]))

    assert now_of(engine).state == "scheduled"
    assert doubts(engine) == ["Another entry of the worklist was meant."]


def test_steps_are_found_by_number_and_modality_where_no_id_is_named(engine: sa.Engine) -> None:
    planned = scheduled(engine)
    scheduled(engine, id="S2", modality="MR", station_ae="MR1")
    sequence = [{"StudyInstanceUID": planned.study_uid, "AccessionNumber": "A1", "ScheduledProcedureStepID": ""}]
    assert begin(engine, performed(planned, ScheduledStepAttributesSequence=sequence)).step_ids == ["S1"]

    sequence = [{"StudyInstanceUID": planned.study_uid}]
    by_study = performed(planned, ScheduledStepAttributesSequence=sequence, Modality="MR")
    assert begin(engine, by_study, OTHER).step_ids == ["S2"]


def test_one_performance_of_several_steps_ends_them_all(engine: sa.Engine) -> None:
    one, two = scheduled(engine), scheduled(engine, id="S2")
    sequence = [
        {"StudyInstanceUID": one.study_uid, "AccessionNumber": "A1", "ScheduledProcedureStepID": id}
        for id in (one.id, two.id)
    ]
    begin(engine, performed(one, ScheduledStepAttributesSequence=sequence))
    change(engine, ended("COMPLETED", "1.2.3.6"))

    assert (now_of(engine, "S1").state, now_of(engine, "S2").state) == ("completed", "completed")


def test_a_step_goes_on_until_the_last_who_performs_it_has_ended(engine: sa.Engine) -> None:
    planned = scheduled(engine)
    begin(engine, performed(planned))
    begin(engine, performed(planned), OTHER)
    change(engine, ended("COMPLETED", "1.2.3.6"))
    assert now_of(engine).state == "started"
    change(engine, ended("DISCONTINUED"), OTHER)
    assert now_of(engine).state == "completed"


def test_what_does_not_fit_is_kept_and_moves_nothing(engine: sa.Engine) -> None:
    planned = scheduled(engine)
    begin(engine, performed(planned, PatientID="P9"), "1.2.3.4.5.3")
    begin(engine, performed(), "1.2.3.4.5.4")
    with at_work(engine) as work:
        cancel_step(work, "local", "S1", "asked twice")
    appended = begin(engine, performed(planned), "1.2.3.4.5.5")
    change(engine, ended("COMPLETED", "1.2.3.6"), "1.2.3.4.5.5")

    assert appended.step_ids == []
    assert now_of(engine).state == "cancelled"
    assert sorted(doubts(engine)) == ["Nothing was scheduled.", "S1 is of another patient.", "S1 was cancelled before."]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"PerformedProcedureStepID": None}, MissingAttribute),
        ({"PerformedStationAETitle": ""}, MissingValue),
        ({"ScheduledStepAttributesSequence": []}, MissingValue),
        ({"ScheduledStepAttributesSequence": [{"AccessionNumber": "A1"}]}, MissingAttribute),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, Invalid),
    ],
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_what_cannot_begin_so_is_refused(engine: sa.Engine, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        begin(engine, performed(**changes))
    assert type(raised.value) is error
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(t.performed_step)).scalar_one() == 0


def test_what_cannot_be_said_later_is_refused(engine: sa.Engine) -> None:
    begin(engine, performed())
    with pytest.raises(Taken):
        begin(engine, performed())
    with pytest.raises(NoSuchAttribute):
        change(engine, said(PatientID="P2"))
    with pytest.raises(MissingValue):
        change(engine, said(PerformedProcedureStepStatus="COMPLETED"))
    with pytest.raises(Invalid):
        change(engine, said(PerformedProcedureStepStatus="PAUSED"))
    with pytest.raises(MissingValue):
        change(engine, ended("COMPLETED"))
    assert change(engine, said(PatientID="P1", Modality="CT")).state == "in progress"


def test_a_study_settles_at_once_when_all_that_was_made_is_here(engine: sa.Engine) -> None:
    planned = scheduled(engine)
    fill(engine, header(StudyInstanceUID=planned.study_uid, SOPInstanceUID="1.2.3.6"))
    due = sa.select(t.study.c.settle_due_at).where(t.study.c.study_uid == planned.study_uid)
    with engine.connect() as connection:
        later = connection.execute(due).scalar_one()
    begin(engine, performed(planned))
    begin(engine, performed(planned), OTHER)
    change(engine, ended("COMPLETED", "1.2.3.6", "1.2.3.7"))
    fill(engine, header(StudyInstanceUID=planned.study_uid, SOPInstanceUID="1.2.3.7"))
    with engine.connect() as connection:
        assert connection.execute(due).scalar_one() >= later
    done = change(engine, ended("COMPLETED", "1.2.3.7"), OTHER)
    with engine.connect() as connection:
        assert connection.execute(due).scalar_one() == done.changed_at < later
