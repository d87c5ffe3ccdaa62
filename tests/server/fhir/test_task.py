"""Task: the work item as FHIR shows it, and the commands that a write to it gives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from readingroom.clock import SetClock
from readingroom.errors import Changed, Conflict, Invalid, ReadOnly, Refused, Unconditional
from readingroom.model import Actor
from server.fhir.outcome import BrokenRule
from server.fhir.shown import Shown
from server.fhir.task import TaskType
from server.room import Room
from server.worklist import items
from storage.catalog.directory import write_reader
from storage.catalog.engine import begin_write
from storage.catalog.ids import patient_key, study_fhir_id
from storage.catalog.work_items import StoredItem, item_by_id
from storage.fhirvalues import OURS
from tests import fhir
from tests.catalog import fill, header
from tests.corpus import FOLDER
from tests.directory import reader
from tests.worklist import add, at_work, workitem

BOTH = pytest.mark.rooms("sqlite", "postgres")
TASK = TaskType()
STUDY = "1.2.3.4"
EXAMPLES = sorted(FOLDER.glob("fhir/*/[Tt]ask-*.json"))


def shown(room: Room, id: str) -> dict[str, Any]:
    found = fhir.read(room, TASK, id)
    assert found is not None
    return fhir.check(found)


def put(room: Room, task: dict[str, Any], *, by: Actor | None = None, **changes: Any) -> Shown:
    """Write a Task with changes, None takes away, naming the version that was read."""
    changed = {name: value for name, value in {**task, **changes}.items() if value is not None}
    version = int(task["meta"]["versionId"])
    more = {"actor": by} if by else {}
    return fhir.update(room, TASK, changed, if_match=version, **more)


def item_of(room: Room, id: str) -> StoredItem:
    with room.engine.connect() as connection:
        return item_by_id(connection, id)


def a_reading(room: Room, clock: SetClock, **columns: Any) -> StoredItem:
    """The reading of a CT that is there."""
    fill(
        room.engine,
        header(
            StudyInstanceUID=STUDY,
            PatientID="P1",
            IssuerOfPatientID="NORTH",
            StudyDescription="CT of the head",
            AccessionNumber="A1",
        ),
    )
    return add(room.engine, clock, study_uid=STUDY, accession_number="A1", **columns)


def test_an_item_is_a_task(room: Room, clock: SetClock) -> None:
    due = clock.now() + timedelta(hours=2)
    item = a_reading(room, clock, priority="urgent", due_at=due)
    with at_work(room.engine, clock) as work:
        items.flag_item(work, item_of(room, item.id), "pneumothorax, p=0.93", "stat")
    task = shown(room, item.id)
    now = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert task == {
        "resourceType": "Task",
        "id": item.id,
        "meta": {"versionId": "2", "lastUpdated": now, "profile": [f"{OURS}/StructureDefinition/reading-task"]},
        "extension": [
            {"url": "https://readingroom.example/fhir/StructureDefinition/ordered-priority", "valueCode": "urgent"},
            {
                "url": "https://readingroom.example/fhir/StructureDefinition/flagged",
                "valueString": "pneumothorax, p=0.93",
            },
        ],
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{item.workitem_uid}"}],
        "groupIdentifier": {
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
            "value": "A1",
        },
        "status": "ready",
        "businessStatus": {
            "coding": [{"system": "https://readingroom.example/fhir/CodeSystem/item-state", "code": "ready"}]
        },
        "intent": "order",
        "priority": "stat",
        "code": {
            "coding": [
                {
                    "system": "https://readingroom.example/fhir/CodeSystem/item-kind",
                    "code": "read",
                    "display": "Interpretation",
                },
                {
                    "system": "http://dicom.nema.org/resources/ontology/DCM",
                    "code": "110005",
                    "display": "Interpretation",
                },
            ],
            "text": "Interpretation",
        },
        "description": "Interpretation: CT of the head",
        "focus": {"reference": f"ImagingStudy/{study_fhir_id('local', STUDY)}"},
        "for": {"reference": f"Patient/{patient_key('NORTH', 'P1')}"},
        "authoredOn": now,
        "lastModified": now,
        "requester": {"reference": "Organization/local"},
        "restriction": {"period": {"end": due.isoformat(timespec="milliseconds").replace("+00:00", "Z")}},
    }


@pytest.mark.parametrize("kind", ["second", "peer", "critical", "followup"])
def test_each_kind_of_item_is_right_fhir(room: Room, clock: SetClock, kind: Any) -> None:
    item = add(room.engine, clock, kind=kind, modality="MR")
    assert shown(room, item.id)["code"]["coding"][0]["code"] == kind


def test_a_claim_is_seen_with_the_reader_and_the_token_stays_secret(room: Room, clock: SetClock) -> None:
    with begin_write(room.engine) as connection:
        write_reader(connection, reader("ada", credentials=[]))
    item = a_reading(room, clock, kind="followup")
    with at_work(room.engine, clock) as work:
        claimed = items.claim_item(work, item_of(room, item.id), reader="ada")
    task = shown(room, item.id)
    assert (task["status"], task["owner"]) == ("in-progress", {"reference": "Practitioner/ada"})
    assert claimed.claim_token is not None
    with fhir.looking(room) as session:
        history = TASK.versions(session, item.id, limit=9)
    assert all(claimed.claim_token.encode() not in one.body for one in history)


# -- commands ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_claim_by_fhir_is_seen_by_ups_and_the_reverse(client: httpx.Client, room: Room, clock: SetClock) -> None:
    one, other = (add(room.engine, clock, kind="critical") for _ in range(2))
    put(room, shown(room, one.id), status="in-progress")
    ups = client.get(f"/dicomweb/workitems/{one.workitem_uid}").json()[0]
    assert ups["00741000"]["Value"] == ["IN PROGRESS"]
    assert "00081195" not in ups
    claim = {
        "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]},
        "00081195": {"vr": "UI", "Value": ["2.25.7"]},
    }
    content = {"content": orjson.dumps([claim]), "headers": {"content-type": "application/dicom+json"}}
    assert client.put(f"/dicomweb/workitems/{one.workitem_uid}/state", **content).status_code == 409
    before = shown(room, other.id)
    assert client.put(f"/dicomweb/workitems/{other.workitem_uid}/state", **content).status_code == 200
    assert shown(room, other.id)["status"] == "in-progress"
    with pytest.raises(Changed):
        put(room, before, status="in-progress")


@BOTH
def test_of_all_who_claim_at_once_one_does(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    task = shown(room, item.id)

    def claim(number: int) -> str:
        try:
            put(room, task, status="in-progress", owner={"reference": f"Practitioner/r{number}"})
        except (Changed, Conflict) as error:
            return type(error).__name__
        return f"r{number}"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(claim, range(16)))
    winners = [one for one in outcomes if one.startswith("r")]
    assert len(winners) == 1
    assert outcomes.count("Changed") == 15
    assert item_of(room, item.id).owner == winners[0]


def test_a_claim_names_the_version_that_was_read(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    task = shown(room, item.id)
    with pytest.raises(Unconditional, match='now W/"1"'):
        fhir.update(room, TASK, {**task, "status": "in-progress"})
    put(room, task, status="in-progress")
    with pytest.raises(Unconditional, match="If-Match"):
        fhir.update(room, TASK, {**shown(room, item.id), "status": "completed"})
    assert item_of(room, item.id).state == "claimed"


WAYS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"status": "in-progress"}, {"status": "completed"}], "completed"),
    ([{"status": "in-progress"}, {"status": "ready"}], "ready"),
    ([{"status": "in-progress"}, {"status": "requested"}], "waiting"),
    ([{"status": "in-progress"}, {"status": "cancelled", "statusReason": {"text": "moved"}}], "cancelled"),
    ([{"status": "requested"}, {"status": "ready"}], "ready"),
    ([{"status": "accepted", "owner": {"reference": "Practitioner/ada"}}], "assigned"),
    ([{"status": "accepted", "owner": {"reference": "Practitioner/ada"}}, {"status": "rejected"}], "ready"),
    ([{"status": "accepted", "owner": {"reference": "Practitioner/ada"}}, {"owner": None}], "ready"),
    ([{"status": "in-progress", "owner": {"reference": "Practitioner/ada"}}, {"owner": None}], "ready"),
    ([{"status": "accepted", "owner": {"reference": "Practitioner/ada"}}, {"status": "in-progress"}], "claimed"),
    (
        [
            {"status": "accepted", "owner": {"reference": "Practitioner/ada"}},
            {"owner": {"reference": "http://here/fhir/Practitioner/ben"}},
        ],
        "assigned",
    ),
    ([{"status": "in-progress"}, {"status": "accepted", "owner": {"reference": "Practitioner/ben"}}], "assigned"),
    ([{"status": "on-hold", "statusReason": {"text": "prior"}}, {"status": "ready"}], "ready"),
    ([{"status": "on-hold", "statusReason": {"text": "prior"}}, {"status": "in-progress"}], "claimed"),
    (
        [{"status": "in-progress"}, {"status": "on-hold", "statusReason": {"text": "prior"}}, {"status": "completed"}],
        "completed",
    ),
    (
        [{"status": "in-progress"}, {"status": "on-hold", "statusReason": {"text": "prior"}}, {"status": "ready"}],
        "ready",
    ),
]


@pytest.mark.parametrize(("steps", "state"), WAYS)
def test_a_change_of_status_is_a_command(room: Room, clock: SetClock, steps: list[dict[str, Any]], state: str) -> None:
    item = add(room.engine, clock, kind="critical")
    for step in steps:
        put(room, shown(room, item.id), **step)
    now = item_of(room, item.id)
    assert now.state == state
    assert shown(room, item.id)["id"] == item.id


def test_a_hold_keeps_its_reason_and_needs_one(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    with pytest.raises(Invalid, match="why"):
        put(room, shown(room, item.id), status="on-hold")
    reason = {"coding": [{"code": "prior", "display": "Prior is missing"}]}
    put(room, shown(room, item.id), status="on-hold", statusReason=reason)
    task = shown(room, item.id)
    assert (task["status"], task["statusReason"]) == ("on-hold", {"text": "Prior is missing"})


def test_who_is_named_as_owner_claims_it(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    put(room, shown(room, item.id), status="in-progress", owner={"reference": "Practitioner/ada"})
    assert item_of(room, item.id).owner == "ada"


@pytest.mark.parametrize(
    ("state", "wanted", "legal"),
    [
        ("ready", "completed", "requested or accepted or in-progress or on-hold or cancelled"),
        ("ready", "draft", "requested or accepted"),
        ("cancelled", "ready", "nothing else"),
        ("held", "completed", "ready or accepted or in-progress or cancelled"),
    ],
)
def test_what_is_not_legal_is_refused_with_what_would_be(
    room: Room, clock: SetClock, state: str, wanted: str, legal: str
) -> None:
    item = add(room.engine, clock, kind="critical")
    with at_work(room.engine, clock) as work:
        if state == "cancelled":
            items.cancel_item(work, item)
        elif state == "held":
            items.hold_item(work, item, "prior")
    with pytest.raises(Conflict, match=legal):
        put(room, shown(room, item.id), status=wanted)


def test_a_priority_is_a_command_and_the_ordered_one_is_kept(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    put(room, shown(room, item.id), priority="asap")
    task = shown(room, item.id)
    assert task["priority"] == "asap"
    assert task["extension"][0]["valueCode"] == "routine"
    assert put(room, task).version == 2  # and what is written as it was read changes nothing


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ("focus", {"reference": "ImagingStudy/other"}),
        ("for", {"reference": "Patient/other"}),
        ("code", {"text": "Something else"}),
        ("intent", "plan"),
        ("restriction", {"period": {"end": "2026-01-01T00:00:00Z"}}),
        ("identifier", [{"value": "mine alone"}]),
        ("partOf", [{"reference": "Task/x"}]),
    ],
)
def test_what_no_command_changes_is_refused_by_name(room: Room, clock: SetClock, element: str, value: Any) -> None:
    item = a_reading(room, clock)
    with pytest.raises(BrokenRule) as caught:
        put(room, shown(room, item.id), **{element: value})
    assert caught.value.issues[0].expression == f"Task.{element}"
    assert item_of(room, item.id).version == 1


def test_what_changes_nothing_of_the_work_is_kept(room: Room, clock: SetClock) -> None:
    item = a_reading(room, clock)
    task = shown(room, item.id)
    more = {
        "note": [{"text": "call me"}],
        "output": [{"type": {"text": "report"}, "valueReference": {"reference": "DiagnosticReport/r1"}}],
        "extension": [{"url": "http://example.org/x", "valueDecimal": 1.5}],
        "identifier": [*task["identifier"], {"system": "http://example.org", "value": "42"}],
        "meta": {**task["meta"], "tag": [{"system": "http://example.org", "code": "hot"}]},
    }
    after = put(room, task, **more)
    assert after.version == 2
    now = shown(room, item.id)
    assert {name: now[name] for name in more if name != "meta"} == {k: v for k, v in more.items() if k != "meta"}
    assert now["meta"]["tag"] == more["meta"]["tag"]  # type: ignore[index]
    assert put(room, now).version == 2
    put(room, now, status="in-progress")
    claimed = shown(room, item.id)
    assert claimed["note"] == more["note"]
    assert claimed["meta"]["versionId"] == "3"


def test_a_write_and_what_it_adds_are_one_version(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    after = put(room, shown(room, item.id), status="in-progress", note=[{"text": "mine"}])
    assert after.version == 2
    assert after.resource["note"] == [{"text": "mine"}]


def test_only_the_owner_or_who_supervises_goes_on_with_a_claim(room: Room, clock: SetClock) -> None:
    ada, ben = (Actor(id=id, name=id) for id in ("ada", "ben"))
    item = add(room.engine, clock, kind="critical")
    put(room, shown(room, item.id), by=ada, status="in-progress")
    with pytest.raises(Refused, match="claimed by ada"):
        put(room, shown(room, item.id), by=ben, status="completed")
    put(room, shown(room, item.id), by=ada, status="completed")
    assert item_of(room, item.id).state == "completed"


def test_history_has_every_version_as_it_was(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    for status in ("in-progress", "completed"):
        clock.advance(timedelta(minutes=1))
        put(room, shown(room, item.id), status=status)
    with fhir.looking(room) as session:
        history = TASK.versions(session, item.id, limit=9)
        assert [(one.version, one.resource["status"]) for one in history] == [
            (3, "completed"),
            (2, "in-progress"),
            (1, "ready"),
        ]
        assert [fhir.check(one)["id"] for one in history] == [item.id] * 3
        assert TASK.version(session, item.id, 2) == history[1]
        assert TASK.version(session, item.id, 4) is None
        assert [one.version for one in TASK.versions(session, None, limit=2)] == [3, 2]
        between = {"since": history[1].updated_at, "until": history[1].updated_at}
        assert [one.version for one in TASK.versions(session, None, limit=9, **between)] == [2]
    with fhir.looking(room, "north") as session:
        assert TASK.versions(session, item.id, limit=9) == []
        assert TASK.version(session, item.id, 2) is None
        assert TASK.lock(session, item.id) is None


def test_no_task_is_deleted(room: Room, clock: SetClock) -> None:
    item = add(room.engine, clock, kind="critical")
    with fhir.looking(room) as session, pytest.raises(Conflict, match="cancelled"):
        TASK.delete(session, TASK.read(session, [item.id])[0])


# -- Tasks that clients make -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_official_example_comes_back_as_it_was_sent(room: Room, path: Any) -> None:
    sent = json.loads(path.read_text())
    made = fhir.create(room, TASK, sent)
    found = shown(room, made.id)
    head = {"id", "meta"}
    assert {k: v for k, v in found.items() if k not in head} == {k: v for k, v in sent.items() if k not in head}
    assert put(room, found).version == 1


@BOTH
def test_a_task_that_a_client_makes_is_a_workitem(client: httpx.Client, room: Room) -> None:
    sent = {
        "status": "requested",
        "intent": "order",
        "priority": "stat",
        "description": "Look for nodules",
        "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2", "display": "CT Chest"}]},
        "for": {"identifier": {"system": "urn:oid:1.2.9", "value": "P9"}, "display": "Somebody"},
        "groupIdentifier": {"value": "A7"},
        "restriction": {"period": {"end": "2026-03-01T12:00:00Z"}},
        "authoredOn": "2026-02-01T08:00:00+01:00",
    }
    made = fhir.create(room, TASK, sent)
    assert item_of(room, made.id).kind == "external"
    [ups] = client.get("/dicomweb/workitems", params={"PatientID": "P9", "includefield": "all"}).json()
    assert ups["00741000"]["Value"] == ["SCHEDULED"]
    assert ups["00741200"]["Value"] == ["HIGH"]
    assert ups["00741204"]["Value"] == ["Look for nodules"]
    assert ups["00404018"]["Value"][0]["00080102"]["Value"] == ["LN"]
    assert ups["00404005"]["Value"] == ["20260201070000.000000+0000"]
    assert ups["00404011"]["Value"] == ["20260301120000.000000+0000"]
    assert ups["00100021"]["Value"] == ["1.2.9"]


def test_what_others_do_with_a_client_s_task_is_seen_in_it(client: httpx.Client, room: Room) -> None:
    owner = {"reference": "Organization/lab"}
    made = fhir.create(room, TASK, {"status": "ready", "intent": "order", "owner": owner, "note": [{"text": "n"}]})
    uid = item_of(room, made.id).workitem_uid
    claim = {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}, "00081195": {"vr": "UI", "Value": ["2.25.7"]}}
    headers = {"content-type": "application/dicom+json"}
    answer = client.put(f"/dicomweb/workitems/{uid}/state", content=orjson.dumps([claim]), headers=headers)
    assert answer.status_code == 200
    task = shown(room, made.id)
    assert (task["status"], task["note"]) == ("in-progress", [{"text": "n"}])
    assert task["owner"]["identifier"]["value"] == "local-operator"


def test_a_client_goes_on_with_its_task(room: Room) -> None:
    made = fhir.create(room, TASK, {"status": "draft", "intent": "plan", "code": {"text": "one"}})
    assert item_of(room, made.id).state == "waiting"
    task = fhir.check(made)
    fhir.update(room, TASK, {**task, "status": "requested", "code": {"text": "other"}, "priority": "asap"})
    task = shown(room, made.id)
    assert (task["status"], task["code"], task["priority"]) == ("requested", {"text": "other"}, "asap")
    put(room, task, status="in-progress", owner={"reference": "Device/cad"})
    item = item_of(room, made.id)
    assert (item.state, item.owner, item.rank) == ("claimed", "Device/cad", 2)
    put(room, shown(room, made.id), status="failed", statusReason={"text": "no luck"})
    assert (item_of(room, made.id).state, shown(room, made.id)["status"]) == ("cancelled", "failed")
    with pytest.raises(Conflict, match="nothing else"):
        put(room, shown(room, made.id), status="ready")


def test_a_claimed_ups_does_not_go_back(room: Room) -> None:
    made = fhir.create(room, TASK, {"status": "in-progress", "intent": "order"})
    with pytest.raises(Conflict, match="may become on-hold or completed or cancelled"):
        put(room, shown(room, made.id), status="ready")


def test_a_workitem_of_others_is_right_fhir(client: httpx.Client, room: Room) -> None:

    headers = {"content-type": "application/dicom+json"}
    answer = client.post("/dicomweb/workitems", content=orjson.dumps([workitem()]), headers=headers)
    assert answer.status_code == 201
    with fhir.looking(room) as session:
        [found] = TASK.versions(session, None, limit=9)
    task = fhir.check(found)
    assert task["for"]["identifier"]["value"] == "P1"
    assert task["code"]["coding"][0]["code"] == "121"
    assert (task["status"], task["priority"]) == ("ready", "urgent")


def test_the_ids_of_tasks_are_given_here(room: Room) -> None:
    with pytest.raises(ReadOnly, match="POST"):
        fhir.update(room, TASK, {"resourceType": "Task", "id": "mine", "status": "ready", "intent": "order"})


def test_what_a_task_leads_to_is_at_another_version_with_it(client: httpx.Client, room: Room, clock: SetClock) -> None:
    item = a_reading(room, clock)
    made = workitem()
    made["00100020"]["Value"], made["00100021"]["Value"] = ["P9"], ["NORTH"]
    headers = {"content-type": "application/dicom+json"}
    assert client.post("/dicomweb/workitems", content=orjson.dumps([made]), headers=headers).status_code == 201
    with fhir.looking(room) as session:
        [other] = [one for one in TASK.versions(session, None, limit=9) if one.id != item.id]
    assert "reference" not in shown(room, other.id)["for"]
    correction = {"00081030": {"vr": "LO", "Value": ["CT of the neck"]}}
    url, reason = f"/dicomweb/studies/{STUDY}", {"reason": "misspelt"}
    answer = client.patch(url, content=orjson.dumps(correction), headers=headers, params=reason)
    assert answer.status_code == 200, answer.text
    task = shown(room, item.id)
    assert (task["description"], task["meta"]["versionId"]) == ("Interpretation: CT of the neck", "2")
    fill(room.engine, header(PatientID="P9", IssuerOfPatientID="NORTH"))
    known = shown(room, other.id)
    assert known["for"]["reference"] == f"Patient/{patient_key('NORTH', 'P9')}"
    assert known["meta"]["versionId"] == "2"
