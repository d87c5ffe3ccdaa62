"""Studies and orders: what is linked by itself, what waits for a person, and what a person says of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.model import LOCAL_OPERATOR, Scope
from server.room import Room
from server.settings import ReconcilingSettings, Settings
from server.settle import settle_studies
from server.worklist.items import working
from server.worklist.orders import place_order, withdraw_order
from server.worklist.reconciling import ANOTHERS_NUMBER, NO_NUMBER, SEVERAL, UNKNOWN_NUMBER
from server.worklist.steps import schedule_step
from storage.catalog import schema as t
from storage.catalog.orders import StoredOrder, orders_for
from storage.catalog.steps import StoredStep
from storage.catalog.work_items import StoredItem, ordered_reading, reading_of
from tests.catalog import fill, header
from tests.retrieve import JSON, keep, url_of
from tests.stow import AS_STORED
from tests.synthetic import ct_series, new_uid, part10, rejection_note
from tests.worklist import attribute

BOTH = pytest.mark.rooms("sqlite", "postgres")
URL = "/reconciliation"


def settle(room: Room, clock: SetClock) -> None:
    """Let everything come to rest, with all that follows from it."""
    clock.advance(timedelta(minutes=30))
    settle_studies(room)
    room.queue.drain()
    settle_studies(room)
    room.queue.drain()


def add(room: Room, clock: SetClock, accession_number: str = "", **attributes: Any) -> str:
    """A study of patient P1 that has settled."""
    uid = attributes.pop("StudyInstanceUID", None) or new_uid()
    facility = attributes.pop("facility", "local")
    told = {"PatientID": "P1", "PatientName": "Ada^A", "PatientBirthDate": "19700101"} | attributes
    told = {"Modality": "CT", "StudyDate": "20260102", "StudyTime": "1015", **told}
    fill(room.engine, header(StudyInstanceUID=uid, AccessionNumber=accession_number, **told), facility=facility)
    settle(room, clock)
    return uid


def order(room: Room, number: str, patient_id: str = "P1", *, facility: str = "local", **step: Any) -> StoredItem:
    """An order with one step, urgent, of a CT on the second of January at ten."""
    name = step.pop("name", "Ada^A" if patient_id == "P1" else "Bea^B")
    who = {"00100010": attribute("PN", {"Alphabetic": name}), "00100030": attribute("DA", step.pop("born", "19700101"))}
    planned = {"modality": "CT", "starts_on": "20260102", "starts_at": "1000"} | step
    with working(room.engine, room.clock, LOCAL_OPERATOR, Scope(), queue=room.queue) as work:
        item = place_order(
            work,
            StoredOrder(
                facility=facility,
                id=f"o-{number}",
                accession_number=number,
                patient_id=patient_id,
                priority="urgent",
            ),
        )
        made = StoredStep(
            facility=facility,
            id=f"s-{number}",
            order=f"o-{number}",
            accession_number=number,
            patient_id=patient_id,
            header=orjson.dumps(who),
            **planned,
        )
        schedule_step(work, made)
    room.queue.drain()
    assert item is not None
    return item


def reading(room: Room, uid: str, facility: str = "local") -> StoredItem:
    with room.engine.connect() as connection:
        found = reading_of(connection, facility, uid)
    assert found is not None
    return found


def said(room: Room, uid: str) -> tuple[str | None, str | None]:
    """Accession number and Patient ID of a study."""
    with room.engine.connect() as connection:
        s = t.study.c
        row = connection.execute(sa.select(s.accession_number, s.patient_id).where(s.study_uid == uid)).one()
    return row.accession_number, row.patient_id


def doubtful(client: httpx.Client, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(URL, params=params).json()
    return found


def tell(client: httpx.Client, match: dict[str, Any], what: str, **body: Any) -> httpx.Response:
    return client.post(f"{URL}/{match['id']}/{what}", json={"reason": "I asked", **body})


# -- what is linked by itself ------------------------------------------------------------------------------------------


@BOTH
def test_an_accession_number_of_the_same_patient_links(room: Room, client: httpx.Client, clock: SetClock) -> None:
    item = order(room, "A1")
    uid = add(room, clock, "A1")
    assert (reading(room, uid).id, reading(room, uid).priority) == (item.id, "urgent")
    later = add(room, clock, "A2")
    order(room, "A2")
    assert reading(room, later).priority == "urgent"
    assert doubtful(client) == []


@pytest.mark.parametrize("patient_id", ["P9", ""])
def test_a_name_and_a_birth_date_agree_where_ids_do_not(
    room: Room, client: httpx.Client, clock: SetClock, patient_id: str
) -> None:
    item = order(room, "A1", "P2", name="ADA^a")
    uid = add(room, clock, "A1", PatientID=patient_id)
    assert reading(room, uid).id == item.id
    assert doubtful(client) == []


@BOTH
def test_the_uid_of_a_step_links_and_corrects_the_accession_number(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    planned = new_uid()
    item = order(room, "A1", study_uid=planned)
    add(room, clock, "", StudyInstanceUID=planned)
    settle(room, clock)
    assert reading(room, planned).id == item.id
    assert said(room, planned) == ("A1", "P1")
    (match,) = doubtful(client, state="linked")
    assert (match["how"], match["accession_number"]) == ("study uid", "A1")
    (entry,) = client.get(f"/dicomweb/studies/{planned}/history").json()
    assert entry["by"] == "server"


def test_images_before_an_order_with_their_uid_have_one_reading(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    uid = add(room, clock)
    before = reading(room, uid)
    waiting = order(room, "A1", study_uid=uid)
    settle(room, clock)
    after = reading(room, uid)
    assert (after.id, after.accession_number, after.priority) == (before.id, "A1", "urgent")
    with room.engine.connect() as connection:
        assert [one.item for one in orders_for(connection, "local", "A1")] == [before.id]
        states = sa.select(t.work_item.c.state).where(t.work_item.c.id == waiting.id)
        assert connection.execute(states).scalar_one() == "cancelled"


def test_an_order_of_another_facility_is_none(room: Room, client: httpx.Client, clock: SetClock) -> None:
    uid = new_uid()
    item = order(room, "A1", facility="north", study_uid=uid)
    add(room, clock, "A1", StudyInstanceUID=uid)
    assert reading(room, uid).id != item.id
    assert doubtful(client, state="any") == []


# -- what is doubtful --------------------------------------------------------------------------------------------------


@BOTH
def test_an_accession_number_of_another_patient_links_nothing_until_a_person_says_so(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    waiting = order(room, "A1", "P2")
    uid = add(room, clock, "A1")
    assert reading(room, uid).id != waiting.id
    (match,) = doubtful(client)
    assert match["reasons"] == [ANOTHERS_NUMBER]
    assert [one["accession_number"] for one in match["candidates"]] == ["A1"]

    assert tell(client, match, "link", accession_number="A1").status_code == 409
    assert tell(client, match, "link", accession_number="A9").status_code == 400
    answer = tell(client, match, "link", accession_number="A1", patient=True)
    assert answer.status_code == 200, answer.text
    settle(room, clock)
    assert said(room, uid) == ("A1", "P2")
    assert reading(room, uid).accession_number == "A1"
    assert doubtful(client) == []

    assert tell(client, match, "unlink").status_code == 200
    settle(room, clock)
    assert said(room, uid) == ("A1", "P1")
    assert reading(room, uid).accession_number is None
    with room.engine.connect() as connection:
        left = ordered_reading(connection, "local", "A1")
    assert left is not None
    assert (left.study_uid, left.state) == (None, "waiting")
    assert doubtful(client) == []


def test_an_order_that_comes_for_another_patient_does_not_take_a_reading_over(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    uid = add(room, clock, "A1")
    waiting = order(room, "A1", "P2")
    order(room, "A1", "P2")  # said again, with its step
    settle(room, clock)
    (match,) = doubtful(client)
    assert match["reasons"] == [ANOTHERS_NUMBER]
    with working(room.engine, room.clock, LOCAL_OPERATOR, Scope(), queue=room.queue) as work:
        withdraw_order(work, "local", "o-A1")
    assert reading(room, uid).state == "ready"
    assert waiting.accession_number == "A1"


@pytest.mark.parametrize(("number", "reason"), [("", NO_NUMBER), ("TYPO", UNKNOWN_NUMBER)])
def test_what_the_patient_has_open_at_that_time_is_offered(
    room: Room, client: httpx.Client, clock: SetClock, number: str, reason: str
) -> None:
    waiting = order(room, "A1")
    order(room, "A2", modality="MR")
    order(room, "A3", starts_on="20260201")
    order(room, "A4", "P2")
    uid = add(room, clock, number)
    (match,) = doubtful(client)
    assert (match["reasons"], [one["accession_number"] for one in match["candidates"]]) == ([reason], ["A1"])
    assert "Link</button>" in client.get(URL, headers={"Accept": "text/html"}).text
    form = {"accession_number": "A1", "reason": "typed by hand"}
    assert client.post(f"{URL}/{match['id']}/link", data=form).status_code == 200
    settle(room, clock)
    assert said(room, uid) == ("A1", "P1")
    assert reading(room, uid).priority == "urgent"
    with room.engine.connect() as connection:
        assert ordered_reading(connection, "local", "A1") == reading(room, uid)
    assert waiting.study_uid is None


def test_what_is_dismissed_comes_back_when_something_else_comes_into_question(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    order(room, "A1")
    add(room, clock)
    (match,) = doubtful(client)
    assert tell(client, match, "dismiss", reason=" ").status_code == 400
    assert tell(client, match, "dismiss").json()["state"] == "dismissed"
    order(room, "A1")
    assert doubtful(client) == []
    order(room, "A2")
    (again,) = doubtful(client)
    assert {one["accession_number"] for one in again["candidates"]} == {"A1", "A2"}
    assert tell(client, again, "unlink").status_code == 409


def test_a_study_that_several_orders_ask_for_is_doubtful(room: Room, client: httpx.Client, clock: SetClock) -> None:
    uid = new_uid()
    order(room, "A1", study_uid=uid)
    order(room, "A2", study_uid=uid)
    add(room, clock, StudyInstanceUID=uid)
    (match,) = doubtful(client)
    assert match["reasons"] == [SEVERAL]


def test_several_studies_of_one_order_have_a_reading_each(room: Room, client: httpx.Client, clock: SetClock) -> None:
    order(room, "A1")
    studies = [add(room, clock, "A1") for _ in range(2)]
    readings = [reading(room, uid) for uid in studies]
    assert len({one.id for one in readings}) == 2
    assert {(one.accession_number, one.priority) for one in readings} == {("A1", "urgent")}
    assert doubtful(client) == []


# -- images of the wrong patient ---------------------------------------------------------------------------------------


def test_a_study_of_the_wrong_patient_is_corrected_and_the_original_is_kept(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    order(room, "A1", "P2")
    (image,) = ct_series(1, PatientID="P1", PatientName="Ada^A", AccessionNumber="A1")
    keep(client, image)
    settle(room, clock)
    (match,) = doubtful(client)
    assert tell(client, match, "link", accession_number="A1", patient=True).status_code == 200
    (found,) = client.get("/dicomweb/studies", params={"PatientID": "P2"}, headers=JSON).json()
    assert found["00100010"]["Value"] == [{"Alphabetic": "Bea^B"}]
    assert client.get("/dicomweb/studies", params={"PatientID": "P1"}, headers=JSON).status_code == 204
    answer = client.get(url_of(image), params={"original": "true"}, headers=AS_STORED)
    assert answer.content == part10(image)
    (entry,) = client.get(f"/dicomweb/studies/{image.StudyInstanceUID}/history").json()
    assert (entry["by"], entry["reason"]) == ("local-operator", "I asked")


def test_a_study_of_the_wrong_patient_is_rejected_and_sent_again(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    waiting = order(room, "A1", "P2")
    (wrong,) = ct_series(1, PatientID="P1", AccessionNumber="A1")
    (right,) = ct_series(1, PatientID="P2", PatientName="Bea^B", AccessionNumber="A1")
    keep(client, wrong)
    settle(room, clock)
    keep(client, rejection_note("113038", wrong), right)
    settle(room, clock)
    assert client.get(url_of(wrong), headers=AS_STORED).status_code == 410
    assert reading(room, str(right.StudyInstanceUID)).id == waiting.id
    assert client.post(f"{url_of(wrong)}/restore", params={"rejected": "true"}).status_code == 204
    assert client.get(url_of(wrong), headers=AS_STORED).content == part10(wrong)


class TestWhereOneOrderIsEnough:
    """The policy that links what patient, modality and time leave no choice of."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"reconciling": ReconcilingSettings(link_single=True)})

    def test_the_only_order_at_that_time_is_linked(self, room: Room, client: httpx.Client, clock: SetClock) -> None:
        item = order(room, "A1")
        uid = add(room, clock)
        settle(room, clock)
        assert reading(room, uid).id == item.id
        assert said(room, uid) == ("A1", "P1")
        (match,) = doubtful(client, state="linked")
        assert match["how"] == "patient and time"
