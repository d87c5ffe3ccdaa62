"""Many operations at random, through DICOMweb, UPS-RS and FHIR: after them, all three say the same of everything.

What the studies hold is kept beside by the test itself. Of work items the three views are compared, with each other
and with the rows; and no version of a resource is ever told in two ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import orjson
import pytest
import sqlalchemy as sa
from pydicom import FileDataset

from readingroom.clock import SetClock
from server.fhir.task_commands import STATUS
from server.room import Room
from server.settle import settle_studies
from storage.catalog import schema as t
from storage.catalog.ids import study_fhir_id
from tests.stow import send
from tests.synthetic import ct_series, new_uid, part10
from tests.worklist import performed, workitem

BOTH = pytest.mark.rooms("sqlite", "postgres")
JSON, DICOM = {"content-type": "application/fhir+json"}, {"content-type": "application/dicom+json"}
ACSN = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
UPS_PRIORITY = {"stat": "HIGH", "asap": "MEDIUM", "urgent": "MEDIUM", "routine": "LOW"}
UPS_STATE = {"requested": "SCHEDULED", "accepted": "SCHEDULED", "ready": "SCHEDULED", "in-progress": "IN PROGRESS"}
UPS_STATE |= {"completed": "COMPLETED", "cancelled": "CANCELED"}
ENDED = {"failed": "cancelled", "rejected": "cancelled", "entered-in-error": "cancelled"}
READERS = ("ada", "ben")


@dataclass(slots=True)
class Held:
    """A study as it should be."""

    slices: list[FileDataset]
    stored: set[str] = field(default_factory=set)
    description: str = ""


@dataclass(slots=True)
class Hospital:
    """Does things at random, and knows what should have come of them."""

    client: httpx.Client
    room: Room
    clock: SetClock
    chance: random.Random
    studies: dict[str, Held] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    versions: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    newest: dict[tuple[str, str], int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)

    def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        answer = self.client.request(method, url, **more)
        assert answer.status_code < 500, (method, url, answer.text)
        return answer

    def do_one(self) -> None:
        act = self.chance.choice(self.acts)
        is_done = act(self)
        name = f"{act.__name__}{'' if is_done else ' (refused)'}"
        self.done[name] = self.done.get(name, 0) + 1

    # -- DICOMweb ------------------------------------------------------------------------------------------------------

    def store_a_new_study(self) -> bool:
        uid, number = new_uid(), self.chance.randrange(40)
        patient = {"PatientID": f"P{number % 7}", "IssuerOfPatientID": "NORTH", "PatientName": f"Doe^{number % 7}"}
        told = {"AccessionNumber": f"A{number}", "StudyDescription": "first"}
        slices = ct_series(3, StudyInstanceUID=uid, **patient, **told)
        self.studies[uid] = Held(slices=slices, description="first")
        return self._store(uid, 1)

    def store_more(self) -> bool:
        return bool(self.studies) and self._store(self._study(), self.chance.randint(1, 3))

    def _store(self, uid: str, number: int) -> bool:
        some = self.chance.sample(self.studies[uid].slices, number)
        assert send(self.client, map(part10, some)).status_code in (200, 202)
        self.studies[uid].stored |= {str(one.SOPInstanceUID) for one in some}
        return True

    def delete_a_study(self) -> bool:
        uid = self._study() if self.studies else "1.2.3"
        answer = self.ask("DELETE", f"/dicomweb/studies/{uid}")
        if answer.status_code < 300:
            self.studies[uid].stored.clear()
        return answer.status_code < 300

    def correct_a_study(self) -> bool:
        uid, described = self._study() if self.studies else "1.2.3", self.chance.choice(("first", "other", "third"))
        body = {"00081030": {"vr": "LO", "Value": [described]}}
        url, reason = f"/dicomweb/studies/{uid}", {"reason": "misspelt"}
        answer = self.ask("PATCH", url, content=orjson.dumps(body), headers=DICOM, params=reason)
        if answer.status_code < 300:
            self.studies[uid].description = described
        return answer.status_code < 300

    def let_time_pass(self) -> bool:
        self.clock.advance(timedelta(minutes=self.chance.choice((1, 30))))
        settle_studies(self.room)
        self.room.queue.drain()
        return True

    # -- UPS-RS --------------------------------------------------------------------------------------------------------

    def create_by_ups(self) -> bool:
        made = workitem()
        made["00100020"]["Value"] = [f"P{self.chance.randrange(9)}"]
        return self.ask("POST", "/dicomweb/workitems", content=orjson.dumps([made]), headers=DICOM).status_code == 201

    def claim_by_ups(self) -> bool:
        _, uid = self._item()
        token = f"2.25.{self.chance.getrandbits(64)}"
        is_claimed = self._change(uid, "IN PROGRESS", token)
        if is_claimed:
            self.tokens[uid] = token
        return is_claimed

    def end_by_ups(self) -> bool:
        _, uid = self._item()
        token = self.tokens.get(uid, "2.25.1")
        body = {**performed(), "00081195": {"vr": "UI", "Value": [token]}}
        self.ask("POST", f"/dicomweb/workitems/{uid}", content=orjson.dumps([body]), headers=DICOM)
        return self._change(uid, self.chance.choice(("COMPLETED", "CANCELED")), token)

    def _change(self, uid: str, state: str, token: str) -> bool:
        body = [{"00741000": {"vr": "CS", "Value": [state]}, "00081195": {"vr": "UI", "Value": [token]}}]
        url = f"/dicomweb/workitems/{uid}/state"
        return self.ask("PUT", url, content=orjson.dumps(body), headers=DICOM).status_code == 200

    def ask_to_cancel_by_ups(self) -> bool:
        _, uid = self._item()
        return self.ask("POST", f"/dicomweb/workitems/{uid}/cancelrequest").status_code == 202

    def prioritise_by_ups(self) -> bool:
        _, uid = self._item()
        body = [{"00741200": {"vr": "CS", "Value": [self.chance.choice(("HIGH", "MEDIUM", "LOW"))]}}]
        url = f"/dicomweb/workitems/{uid}"
        return self.ask("POST", url, content=orjson.dumps(body), headers=DICOM).status_code == 200

    # -- FHIR ----------------------------------------------------------------------------------------------------------

    def order_by_fhir(self) -> bool:
        resource = {
            "resourceType": "ServiceRequest",
            "status": "active",
            "intent": "order",
            "priority": self.chance.choice(tuple(UPS_PRIORITY)),
            "identifier": [{"type": ACSN, "value": f"A{self.chance.randrange(40)}"}],
            "subject": {"identifier": {"system": "urn:x-readingroom:issuer:NORTH", "value": "P1"}},
        }
        answer = self.ask("POST", "/fhir/ServiceRequest", json=resource, headers=JSON)
        assert answer.status_code == 201, answer.text
        self.orders.append(answer.json()["id"])
        return True

    def change_an_order_by_fhir(self) -> bool:
        if not self.orders:
            return False
        url = f"/fhir/ServiceRequest/{self.chance.choice(self.orders)}"
        order = self.ask("GET", url).json()
        status = self.chance.choice(("active", "on-hold", "revoked", "completed"))
        changed = {**order, "status": status, "priority": self.chance.choice(tuple(UPS_PRIORITY))}
        return self.ask("PUT", url, json=changed, headers=JSON).status_code == 200

    def create_by_fhir(self) -> bool:
        status = self.chance.choice(("draft", "requested", "ready", "in-progress", "on-hold", "completed", "failed"))
        resource = {"resourceType": "Task", "status": status, "intent": "order", "code": {"text": "Look"}}
        return self.ask("POST", "/fhir/Task", json=resource, headers=JSON).status_code == 201

    def change_a_task_by_fhir(self) -> bool:
        id, _ = self._item()
        answer = self.ask("GET", f"/fhir/Task/{id}")
        if answer.status_code != 200:
            return False
        task = answer.json()
        statuses = (*STATUS.values(), "rejected", "failed", "draft")
        changed = {**task, "status": self.chance.choice(statuses), "statusReason": {"text": "for now"}}
        if self.chance.random() < 0.5:
            changed["owner"] = {"reference": f"Practitioner/{self.chance.choice(READERS)}"}
        if self.chance.random() < 0.3:
            changed["priority"] = self.chance.choice(tuple(UPS_PRIORITY))
        if self.chance.random() < 0.3:
            changed["note"] = [{"text": f"note {self.chance.randrange(9)}"}]
        headers = {**JSON, "if-match": answer.headers["etag"]} if self.chance.random() < 0.9 else JSON
        return self.ask("PUT", f"/fhir/Task/{id}", json=changed, headers=headers).status_code == 200

    def write_a_patient_by_fhir(self) -> bool:
        found = self.ask("GET", "/fhir/Patient", params={"identifier": f"P{self.chance.randrange(7)}"}).json()
        for entry in found.get("entry", ()):
            patient = {**entry["resource"], "active": self.chance.random() < 0.5}
            return self.ask("PUT", f"/fhir/Patient/{patient['id']}", json=patient, headers=JSON).status_code == 200
        return False

    acts: ClassVar[tuple[Callable[[Hospital], bool], ...]] = (
        *(store_a_new_study, store_more, store_more, delete_a_study, correct_a_study, let_time_pass, let_time_pass),
        *(create_by_ups, claim_by_ups, claim_by_ups, end_by_ups, end_by_ups, ask_to_cancel_by_ups, prioritise_by_ups),
        *(order_by_fhir, change_an_order_by_fhir, create_by_fhir, *(change_a_task_by_fhir,) * 5),
        write_a_patient_by_fhir,
    )

    def _study(self) -> str:
        return self.chance.choice(sorted(self.studies))

    def _item(self) -> tuple[str, str]:
        """One of the latest items: its id and its UID."""
        found = sa.select(t.work_item.c.id, t.work_item.c.workitem_uid).order_by(t.work_item.c.id.desc()).limit(12)
        with self.room.engine.connect() as connection:
            rows = connection.execute(found).all()
        return tuple(self.chance.choice(rows)) if rows else ("0" * 32, "1.2.3")  # type: ignore[return-value]

    # -- what is true --------------------------------------------------------------------------------------------------

    def read(self, type: str, id: str) -> dict[str, Any] | None:
        """A resource; none of its versions says something else than before, and none comes after a later one."""
        answer = self.ask("GET", f"/fhir/{type}/{id}")
        if answer.status_code == 410:
            return None
        assert answer.status_code == 200, answer.text
        resource: dict[str, Any] = answer.json()
        version = resource["meta"]["versionId"]
        assert answer.headers["etag"] == f'W/"{version}"'
        assert self.versions.setdefault((type, id, version), answer.content) == answer.content
        assert int(version) >= self.newest.get((type, id), 0)
        self.newest[type, id] = int(version)
        return resource

    def check_study(self, uid: str) -> None:
        held = self.studies[uid]
        rows = self.ask("GET", "/dicomweb/instances", params={"StudyInstanceUID": uid})
        found = {one["00080018"]["Value"][0] for one in rows.json()} if rows.status_code == 200 else set()
        assert found == held.stored
        study = self.read("ImagingStudy", study_fhir_id("local", uid))
        searched = self.ask("GET", "/fhir/ImagingStudy", params={"identifier": f"urn:dicom:uid|urn:oid:{uid}"}).json()
        if not held.stored:
            assert study is None
            assert not searched.get("entry")
            return
        assert study is not None
        assert {one["uid"] for series in study["series"] for one in series["instance"]} == held.stored
        assert study["numberOfInstances"] == len(held.stored)
        assert [one["resource"] for one in searched["entry"]] == [study]
        [row] = self.ask("GET", "/dicomweb/studies", params={"StudyInstanceUID": uid}).json()
        assert row["00081030"]["Value"] == [held.description] == [study["description"]]
        assert (
            row["00100020"]["Value"][0]
            == self.read(*study["subject"]["reference"].split("/"))["identifier"][0]["value"]
        )  # type: ignore[index]
        number = row["00080050"]["Value"][0]
        for one in study["basedOn"]:
            assert one["identifier"]["value"] == number
            if "reference" in one:
                order = self.read(*one["reference"].split("/"))
                assert order is not None
                assert order["identifier"][0]["value"] == number

    def check_item(self, row: Any) -> None:
        task = self.read("Task", row.id)
        assert task is not None
        [ups] = self.ask("GET", f"/dicomweb/workitems/{row.workitem_uid}").json()
        status = ENDED.get(task["status"], {"draft": "requested"}.get(task["status"], task["status"]))
        assert status == STATUS[row.state]
        on_hold = "IN PROGRESS" if row.claim_token else "SCHEDULED"
        assert ups["00741000"]["Value"] == [UPS_STATE.get(status, on_hold)]
        assert ups["00741200"]["Value"] == [UPS_PRIORITY[task.get("priority", "routine")]]
        assert task["meta"]["versionId"] == str(row.version)
        shown = self.ask("GET", f"/worklist/{row.workitem_uid}").json()
        assert shown["state"] == row.state
        if row.kind != "external":
            holder = row.owner or row.offered_to
            named = ups.get("00404034", {}).get("Value", [{}])[0].get("00404009", {}).get("Value", [{}])[0]
            assert named.get("00080100", {}).get("Value", [None]) == [holder]
            assert (task.get("owner") is None) == (holder is None)
            about = ups.get("00404021", {}).get("Value", [{}])[0].get("0020000D", {}).get("Value", [None])[0]
            focus = {"reference": f"ImagingStudy/{study_fhir_id('local', about)}"} if about else None
            assert task.get("focus") == focus
        history = self.ask("GET", f"/fhir/Task/{row.id}/_history").json()["entry"]
        numbers = [int(one["resource"]["meta"]["versionId"]) for one in history]
        assert history[0]["resource"] == task
        assert numbers == sorted(set(numbers), reverse=True)

    def check(self, most: int | None = None) -> None:
        """Look at everything, or at some of it."""
        with self.room.engine.connect() as connection:
            items = connection.execute(sa.select(t.work_item).order_by(t.work_item.c.id.desc())).all()
        studies = list(self.studies)
        if most is not None:
            items = self.chance.sample(items, min(most, len(items)))
            studies = self.chance.sample(studies, min(most, len(studies)))
        for uid in studies:
            self.check_study(uid)
        for row in items:
            self.check_item(row)


def one_truth(hospital: Hospital, operations: int) -> None:
    for number in range(operations):
        hospital.do_one()
        if number % 10 == 9:
            hospital.check(2)
    hospital.check()
    assert {name for name in hospital.done if not name.endswith("(refused)")} == {
        act.__name__ for act in hospital.acts
    }, hospital.done


@BOTH
def test_two_hundred_operations_leave_one_truth(client: httpx.Client, room: Room, clock: SetClock) -> None:
    one_truth(Hospital(client=client, room=room, clock=clock, chance=random.Random(5)), 200)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_operations_leave_one_truth(client: httpx.Client, room: Room, clock: SetClock, seed: int) -> None:
    one_truth(Hospital(client=client, room=room, clock=clock, chance=random.Random(seed)), 1000)
