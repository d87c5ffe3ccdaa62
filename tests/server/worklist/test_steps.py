"""Scheduled procedure steps: what is kept of them, how they go forward, and whose they are."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from readingroom.errors import Invalid, NotFound
from readingroom.model import Scope
from server.worklist.steps import (
    IMAGED,
    STEP_CHANGED,
    cancel_step,
    end_imaged,
    move_step,
    rename_steps,
    schedule_step,
    steps_of,
)
from storage.catalog.events import Wanted, read_events
from storage.catalog.keys import STEP_KEYS
from storage.catalog.matching import parse
from storage.catalog.steps import StepState, StoredStep, order_key, search_steps
from tests.steps import step
from tests.worklist import at_work, study


def scheduled(engine: sa.Engine, *steps: StoredStep) -> list[StoredStep]:
    with at_work(engine) as work:
        return [schedule_step(work, one) for one in steps]


def found(engine: sa.Engine, facility: str = "local", **asked: str) -> list[str]:
    """Ids of the steps that a worklist has; what is asked of the sequence of the step begins with ``in_``."""
    values = {name.replace("in_", "00400100.").removeprefix("x"): value for name, value in asked.items()}
    scope = Scope(facilities=frozenset((facility,)))
    with engine.connect() as connection:
        conditions = tuple(parse(values, keys=STEP_KEYS))
        return [one.id for one in search_steps(connection, scope, conditions, limit=100)]


def told(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        events = read_events(connection, Scope(), Wanted(types=(STEP_CHANGED,)), after=0, limit=100)
    return [(event.payload["what"], event.payload["state"]) for event in events]


def test_a_step_is_kept_whole_and_said_again_changes_nothing(engine: sa.Engine) -> None:
    first, again = scheduled(engine, step(), step())

    assert again == first
    item = first.item
    assert item["00080050"] == {"vr": "SH", "Value": ["A1"]}
    assert item["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürgen"}]
    (planned,) = item["00400100"]["Value"]
    assert planned["00400001"]["Value"] == ["CT1"]
    assert planned["00400020"]["Value"] == ["SCHEDULED"]
    assert told(engine) == [("scheduled", "scheduled")]
    with engine.connect() as connection:
        assert steps_of(connection, "local", accession_number="A1") == [first]
        assert steps_of(connection, "local", order="another") == []


def test_what_only_the_item_says_is_in_the_columns_too(engine: sa.Engine) -> None:
    bare = step(planned={"Modality": "MR", "ScheduledStationAETitle": ["MR1", "MR2"]}, modality="", station_ae="")
    (kept,) = scheduled(engine, bare)

    assert (kept.modality, kept.station_ae, kept.patient_id) == ("MR", "MR1\\MR2", "P1")
    assert found(engine, in_00400001="MR2") == ["S1"]


def test_steps_of_one_accession_number_are_of_one_study_the_same_each_time(engine: sa.Engine) -> None:
    one, two, other, named = scheduled(
        engine, step(), step("S2"), step("S3", accession_number="A2"), step("S4", study_uid="1.2.3")
    )

    assert one.study_uid == two.study_uid != other.study_uid
    assert one.study_uid.startswith("2.25.")
    assert named.study_uid == "1.2.3"
    (elsewhere,) = scheduled(engine, step(facility="north"))
    assert elsewhere.study_uid != one.study_uid


@pytest.mark.parametrize("columns", [{"starts_on": "20261131"}, {"starts_at": "half past"}, {"id": ""}])
def test_a_step_without_an_id_or_with_a_date_that_is_none_is_refused(
    engine: sa.Engine, columns: dict[str, str]
) -> None:
    with pytest.raises(Invalid):
        scheduled(engine, step(**columns))


def test_a_step_goes_forward_however_it_is_said(engine: sa.Engine) -> None:
    changes: list[tuple[StepState, StepState, StepState]] = [
        ("scheduled", "arrived", "arrived"),
        ("arrived", "scheduled", "arrived"),
        ("started", "scheduled", "started"),
        ("completed", "scheduled", "completed"),
        ("discontinued", "cancelled", "discontinued"),
        ("cancelled", "scheduled", "scheduled"),
        ("arrived", "cancelled", "cancelled"),
    ]
    scheduled(engine, *(step(f"S{n}", state=before) for n, (before, _, _) in enumerate(changes)))
    kept = scheduled(engine, *(step(f"S{n}", state=to, station_ae="CT2") for n, (_, to, _) in enumerate(changes)))

    assert [(one.state, one.station_ae) for one in kept] == [(after, "CT2") for *_, after in changes]


def test_a_step_that_has_begun_stays_in_its_study(engine: sa.Engine) -> None:
    scheduled(engine, step(state="started", study_uid="1.2.3"))
    (kept,) = scheduled(engine, step(study_uid="1.2.4"))

    assert kept.study_uid == "1.2.3"
    assert kept.item["0020000D"]["Value"] == ["1.2.3"]


def test_a_step_that_is_over_or_taken_back_is_on_no_worklist(engine: sa.Engine) -> None:
    _, _, done = scheduled(engine, step(), step("S2"), step("S3"))
    with at_work(engine) as work:
        assert cancel_step(work, "local", "S2", "asked twice").reason == "asked twice"
        move_step(work, move_step(work, done, "started"), "completed")

    assert found(engine) == ["S1"]
    assert told(engine)[-3:] == [("cancelled", "cancelled"), ("started", "started"), ("completed", "completed")]


def test_what_has_begun_is_not_taken_back_and_what_is_not_there_cannot_be(engine: sa.Engine) -> None:
    scheduled(engine, step(state="started"))
    with at_work(engine) as work:
        assert cancel_step(work, "local", "S1", "too late").state == "started"
        with pytest.raises(NotFound):
            cancel_step(work, "north", "S1", "not theirs")


def test_steps_that_are_to_be_done_follow_their_patient(engine: sa.Engine) -> None:
    other = step("S3", outer={"PatientID": "P2"})
    one, done, _ = scheduled(engine, step(), step("S2", state="completed"), other)
    changes = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Meier^Jürgen"}]},
        "00100020": {"vr": "LO", "Value": ["P9"]},
    }
    with at_work(engine) as work:
        rename_steps(work, "local", one.issuer, "P1", changes)

    assert found(engine, x00100010="meier*") == ["S1"]
    assert found(engine, x00100020="P9") == ["S1"]
    with engine.connect() as connection:
        assert {one.id: one.patient_id for one in steps_of(connection, "local")} == {"S1": "P9", "S2": "P1", "S3": "P2"}
        assert done in steps_of(connection, "local")


def test_a_worklist_is_matched_and_in_order_of_time(engine: sa.Engine) -> None:
    scheduled(
        engine,
        step("S2", starts_at="2350"),
        step("S3", starts_on="20261126", starts_at="0010", modality="MR"),
        step("S1", planned={"ScheduledPerformingPhysicianName": "Okafor^Ada"}),
        step("S4", facility="north"),
    )

    assert found(engine) == ["S1", "S2", "S3"]
    assert found(engine, facility="north") == ["S4"]
    assert found(engine, x00100010="muller*") == ["S1", "S2", "S3"]
    assert found(engine, in_00400006="OKAFOR^*") == ["S1"]
    assert found(engine, in_00080060="MR", in_00400001="CT1") == ["S3"]
    assert found(engine, in_00400002="20261125") == ["S1", "S2"]
    # Through midnight: date and time are one (PS3.4 C.2.2.2.5.4).
    assert found(engine, in_00400002="20261125-20261126", in_00400003="2300-0100") == ["S2", "S3"]


def test_a_worklist_is_read_page_by_page(engine: sa.Engine) -> None:
    scheduled(engine, *(step(f"S{n}", starts_at=f"{n % 3:02}00") for n in range(6)))
    seen: list[str] = []
    after = None
    with engine.connect() as connection:
        while page := search_steps(connection, Scope(), (), limit=2, after=after):
            seen += [one.id for one in page]
            after = order_key(page[-1])

    assert seen == ["S0", "S3", "S1", "S4", "S2", "S5"]


def test_a_step_without_a_number_has_a_study_of_its_own(engine: sa.Engine) -> None:
    one, two = scheduled(engine, step(accession_number=""), step("S2", accession_number=""))

    assert one.study_uid != two.study_uid


def test_what_was_done_without_a_word_is_ended_by_its_images(engine: sa.Engine) -> None:
    one, *_ = scheduled(
        engine,
        step(),
        step("S2", modality="MR"),
        step("S3", modality="US"),
        step("S4", modality="US"),
        step("S5", modality="CT", facility="north"),
    )
    arrived = study(study_uid=one.study_uid, accession_number="A1", modalities=("CT", "US"))
    with at_work(engine) as work:
        end_imaged(work, arrived)
        end_imaged(work, study(accession_number="A9"))
    with engine.connect() as connection:
        states = {one.id: (one.state, one.reason) for one in steps_of(connection, "local")}

    # Of two ultrasounds nobody knows which one the images are of.
    assert states == {"S1": ("completed", IMAGED), **dict.fromkeys(("S2", "S3", "S4"), ("scheduled", ""))}
    assert found(engine, facility="north") == ["S5"]
