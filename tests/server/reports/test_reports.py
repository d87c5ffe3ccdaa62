"""The life of a report over HTTP: begun, written, signed, added to, taken back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.jsonio import dumps
from readingroom.model import Actor, Algorithm, Finding, Passage, Scope, Section
from readingroom.results import Draft, Triage
from server.reports.drafting import digest
from server.reports.signing import Tampered, read_history
from server.room import Room
from server.worklist.items import claim_item, working
from storage.catalog import schema as t
from storage.catalog.answers import keep_answer
from storage.catalog.directory import write_reader
from storage.catalog.engine import begin_write
from storage.catalog.events import Wanted, read_events
from storage.catalog.reports import find_report, list_versions
from storage.catalog.work_items import items_of_study
from tests.reports import TEXT, Desk, reader_at
from tests.synthetic import new_uid
from tests.worklist import add

AI = Algorithm(name="Bleed", version="2", clearance="K123456")


@pytest.fixture
def desk(room: Room, client: httpx.Client) -> Desk:
    desk = Desk(room=room, client=client)
    desk.furnish(reader_at("ada"), reader_at("bob"))
    desk.receive()
    return desk


def draft(desk: Desk, text: str, *, note: str = "offered") -> None:
    """Have a plugin offer a text."""
    section = Section(name="findings", title="", passages=(Passage(text=text),))
    with begin_write(desk.room.engine) as connection:
        keep_answer(
            connection,
            facility="local",
            study_uid=desk.study,
            revision=1,
            hook="draft_report",
            plugin="writer",
            answer=dumps(Draft(sections=(section,), algorithm=AI)),
            note=note,
            at=desk.room.clock.now(),
        )


def events(desk: Desk, what: str) -> list[dict[str, Any]]:
    with desk.room.engine.connect() as connection:
        found = read_events(connection, Scope(), Wanted(), after=0, limit=100)
        return [event.payload for event in found if event.type == what]


@pytest.mark.rooms("sqlite", "postgres")
def test_a_report_is_begun_written_and_signed_and_ends_its_reading(desk: Desk) -> None:
    item = add(desk.room.engine, desk.room.clock, study_uid=desk.study)
    report = desk.begin()
    assert (report["status"], report["number"], report["item"]) == ("registered", 0, item.id)
    assert desk.begin()["id"] == report["id"]
    report = desk.write(report)
    assert [one["title"] for one in report["writing"]["sections"]] == ["Findings", "Impression"]
    report = desk.give(report, "sign", reader="ada")
    assert (report["status"], report["number"], report["writing"]) == ("final", 1, None)
    signed = report["signed"]
    assert signed["patient_name"] == "Doe^Jane"
    assert "".join(one["text"] for one in signed["sections"][0]["passages"]) == TEXT["sections"][0]["text"]
    (signature,) = signed["signatures"]
    assert (signature["reader"], signature["licence"], signature["state"]) == ("ada", "T1", "US-TX")
    with desk.room.engine.connect() as connection:
        (read,) = items_of_study(connection, "local", desk.study)
    assert (read.state, read.owner) == ("completed", "ada")
    (told,) = events(desk, "ReportSigned")
    assert (told["report"], told["number"], told["kind"]) == (report["id"], 1, "report")


def test_who_writes_on_an_old_version_is_told_and_loses_nothing(desk: Desk) -> None:
    report = desk.begin()
    newer = desk.write(report)
    text = {"sections": [{"name": "findings", "text": "Mine."}]}
    late = desk.client.put(f"/reports/{report['id']}", json=text, headers={"If-Match": report["etag"]})
    assert late.status_code == 412
    assert desk.client.put(f"/reports/{report['id']}", json=text).status_code == 428
    assert desk.read(report["id"])["writing"] == newer["writing"]


def test_a_sentence_of_an_algorithm_has_to_be_accepted_before_it_is_signed(desk: Desk) -> None:
    draft(desk, "There is an acute subdural haematoma of 9 mm.")
    report = desk.begin()
    offered = desk.client.get(f"/reports/{report['id']}/material").json()["drafts"]
    text = offered[0]["sections"][0]["text"]
    report = desk.write(report, {"sections": [{"name": "impression", "text": f"{text} I agree."}]})
    passages = report["writing"]["sections"][0]["passages"]
    assert [one["origin"] for one in passages] == ["ai", "human"]
    assert passages[0]["algorithm"]["clearance"] == "K123456"
    refused = desk.ask(report, "sign", reader="ada")
    assert (refused.status_code, passages[0]["digest"] in refused.text) == (409, True)
    report = desk.give(report, "accept", passages=[passages[0]["digest"]])
    signed = desk.give(report, "sign", reader="ada")["signed"]
    first, second = signed["sections"][0]["passages"]
    assert (first["origin"], first["is_accepted"], first["source"]) == ("ai", True, "writer")
    assert second["origin"] == "human"


def test_a_client_cannot_pass_the_text_of_an_algorithm_off_as_written_by_hand(desk: Desk) -> None:
    draft(desk, "There is an acute subdural haematoma of 9 mm.", note="research only")
    report = desk.begin()
    assert desk.client.get(f"/reports/{report['id']}/material").json()["drafts"] == []
    changed = "There is an acute subdural haematoma of 10 mm."
    report = desk.write(report, {"sections": [{"name": "findings", "text": changed}]})
    assert report["writing"]["sections"][0]["passages"][0]["origin"] == "edited"
    assert desk.ask(report, "sign", reader="ada").status_code == 409


def test_a_plugin_can_accept_and_sign_nothing(desk: Desk) -> None:
    report = desk.write(desk.begin())
    plugin = Actor(id="writer", name="Writer", kind="plugin")
    for act in (
        lambda work, found: desk.room.reports.sign(work, found, reader="ada"),
        lambda work, found: desk.room.reports.accept(work, found, [digest("Normal CT of the head.")]),
    ):
        with (
            pytest.raises(Exception, match="may not"),
            working(desk.room.engine, desk.room.clock, plugin, plugin.scope) as work,
        ):
            act(work, find_report(work.connection, plugin.scope, report["id"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"licences": []}, "no licence for US-TX"),
        ({"licences": [{"state": "US-TX", "number": "T1", "to": "2020-01-01"}]}, "ended"),
        ({"licences": [{"state": "US-AZ", "number": "A1"}]}, "no licence for US-TX"),
        ({"credentials": []}, "no privileges"),
    ],
)
def test_who_may_not_read_by_law_cannot_sign(desk: Desk, changes: dict[str, Any], says: str) -> None:
    report = desk.write(desk.begin())
    with begin_write(desk.room.engine) as connection:
        write_reader(connection, reader_at("ada", **changes), desk.room.clock.now())
    refused = desk.ask(report, "sign", reader="ada")
    assert (refused.status_code, says in refused.text) == (403, True), refused.text
    assert desk.ask(report, "sign", reader="nobody").status_code == 403


def test_the_licence_is_that_of_the_state_where_the_patient_is(desk: Desk) -> None:
    add(desk.room.engine, desk.room.clock, study_uid=desk.study, patient_state="US-AZ")
    refused = desk.ask(desk.write(desk.begin()), "sign", reader="ada")
    assert "no licence for US-AZ" in refused.text


def test_who_does_not_hold_the_reading_cannot_sign_it(desk: Desk) -> None:
    item = add(desk.room.engine, desk.room.clock, study_uid=desk.study)
    report = desk.write(desk.begin())
    ada = Actor(id="ada", name="Ada")
    with working(desk.room.engine, desk.room.clock, ada, ada.scope) as work:
        claim_item(work, work.find(item.workitem_uid))
    refused = desk.ask(report, "sign", reader="bob")
    assert (refused.status_code, "claimed by ada" in refused.text) == (409, True)
    assert desk.give(report, "sign", reader="ada")["status"] == "final"


def test_an_empty_report_is_not_signed(desk: Desk) -> None:
    assert desk.ask(desk.begin(), "sign", reader="ada").status_code == 422


def test_what_one_in_training_signs_waits_for_an_attending(desk: Desk) -> None:
    desk.furnish(reader_at("ada"), reader_at("rob", trainee=True))
    add(desk.room.engine, desk.room.clock, study_uid=desk.study)
    report = desk.write(desk.begin())
    assert desk.ask(report, "sign", reader="rob").status_code == 403
    report = desk.give(report, "sign", reader="rob", status="preliminary")
    assert (report["status"], report["awaits"], report["is_being_written"]) == ("preliminary", "attending", True)
    assert desk.ask(report, "sign", reader="ada").status_code == 422
    report = desk.give(report, "sign", reader="ada", discrepancy="minor")
    assert (report["status"], report["awaits"], report["signed"]["discrepancy"]) == ("final", "", "minor")
    assert [(one["reader"], one["role"]) for one in report["signed"]["signatures"]] == [
        ("rob", "resident"),
        ("ada", "attending"),
    ]
    with desk.room.engine.connect() as connection:
        assert {(one.kind, one.state) for one in items_of_study(connection, "local", desk.study)} == {
            ("read", "completed"),
            ("second", "completed"),
        }


def test_a_facility_s_own_radiologist_finishes_what_a_service_has_read(desk: Desk) -> None:
    desk.furnish(reader_at("ada"), reader_at("own", home="local"), final_by="facility")
    report = desk.write(desk.begin())
    assert desk.ask(report, "sign", reader="ada").status_code == 403
    report = desk.give(report, "sign", reader="ada", status="preliminary")
    assert report["awaits"] == "facility"
    report = desk.write(report, {"sections": [{"name": "impression", "text": "A small bleed after all."}]})
    report = desk.give(report, "sign", reader="own", discrepancy="major")
    assert [one["role"] for one in report["signed"]["signatures"]] == ["attending", "facility"]
    assert (report["status"], report["signed"]["discrepancy"]) == ("final", "major")


def test_an_addendum_leaves_the_text_and_names_who_has_written_it(desk: Desk, clock: SetClock) -> None:
    report = desk.signed()
    first = report["signed"]
    report = desk.give(report, "revise", kind="addendum", reader="bob")
    assert desk.ask(report, "revise", kind="addendum").status_code == 409
    assert desk.ask(report, "sign", reader="bob").status_code == 422
    report = desk.write(report, {"kind": "addendum", "addendum": "The priors have come. No change."})
    report = desk.give(report, "sign", reader="bob")
    assert (report["status"], report["number"]) == ("appended", 2)
    assert report["signed"]["sections"] == first["sections"]
    (added,) = report["signed"]["addenda"]
    assert (added["number"], added["signatures"][0]["reader"]) == (2, "bob")
    assert [one["reader"] for one in report["signed"]["signatures"]] == ["ada"]
    assert [one["kind"] for one in report["versions"]] == ["report", "addendum"]


@pytest.mark.parametrize(("kind", "status"), [("amendment", "amended"), ("correction", "corrected")])
def test_another_text_takes_the_place_of_what_was_signed_and_says_why(desk: Desk, kind: str, status: str) -> None:
    report = desk.give(desk.signed(), "revise", kind=kind)
    text = {name: report["writing"][name] for name in ("kind", "language")}
    sections = [{"name": "impression", "text": "A small bleed."}]
    report = desk.write(report, {**text, "sections": sections})
    assert desk.ask(report, "sign", reader="ada").status_code == 422
    report = desk.write(report, {**text, "sections": sections, "because": "The wrong side was named."})
    report = desk.give(report, "sign", reader="ada")
    assert (report["status"], report["signed"]["because"]) == (status, "The wrong side was named.")
    old = desk.client.get(f"/reports/{report['id']}/versions/1").json()["report"]
    assert old["sections"][1]["text"] == "Normal CT of the head."


def test_a_revision_can_be_discarded(desk: Desk) -> None:
    report = desk.give(desk.signed(), "revise", kind="addendum")
    report = desk.give(report, "discard")
    assert (report["status"], report["writing"]) == ("final", None)


def test_a_report_that_nobody_signed_is_cancelled_and_a_signed_one_withdrawn(desk: Desk) -> None:
    report = desk.begin()
    assert desk.ask(report, "cancel", reason=" ").status_code == 400
    assert desk.ask(report, "withdraw", reader="ada", reason="x").status_code == 409
    assert desk.give(report, "cancel", reason="The wrong study.")["status"] == "cancelled"
    again = desk.begin()
    assert again["id"] != report["id"]
    report = desk.give(desk.write(again), "sign", reader="ada")
    assert desk.ask(report, "cancel", reason="x").status_code == 409
    report = desk.give(report, "withdraw", reader="ada", reason="It is of another patient.")
    assert (report["status"], report["number"]) == ("entered-in-error", 2)
    assert [one["status"] for one in report["versions"]] == ["final", "entered-in-error"]


# -- what is signed stays ----------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_the_database_refuses_to_change_a_signed_version(desk: Desk) -> None:
    report = desk.signed()
    v = t.report_version
    for change in (v.update().values(reader="eve"), v.delete()):
        with pytest.raises(sa.exc.DatabaseError, match="never changed"), begin_write(desk.room.engine) as connection:
            connection.execute(change.where(v.c.report == report["id"]))


@pytest.mark.parametrize("how", ["content", "status", "missing", "row"])
def test_a_signed_version_that_was_edited_in_the_database_is_found(desk: Desk, how: str) -> None:
    report = desk.signed()
    report = desk.give(desk.give(report, "revise", kind="addendum"), "discard")
    v = t.report_version
    with begin_write(desk.room.engine) as connection:
        for change in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER report_version_no_{change}")
        (kept,) = list_versions(connection, report["id"])
        if how == "content":
            other = orjson.dumps(orjson.loads(kept.content.replace(b"Normal", b"Abnormal")))
            connection.execute(v.update().values(content=other))
        elif how == "status":
            connection.execute(v.update().values(status="preliminary"))
        elif how == "missing":
            connection.execute(v.delete())
        else:
            connection.execute(t.report.update().values(status="preliminary"))
    answer = desk.client.get(f"/reports/{report['id']}")
    assert answer.status_code == 500
    assert "ormal CT" not in answer.text
    with desk.room.engine.connect() as connection, pytest.raises(Tampered):
        read_history(
            connection, desk.room.reports.keys, find_report(connection, Actor(id="x", name="x").scope, report["id"])
        )


def test_a_key_that_was_replaced_is_still_good_for_what_it_has_signed(desk: Desk) -> None:
    report = desk.signed()
    assert desk.room.reports.keys.path.stat().st_mode & 0o777 == 0o600
    desk.room.reports.keys.rotate()
    assert desk.read(report["id"])["signed"] is not None
    report = desk.give(desk.read(report["id"]), "withdraw", reader="ada", reason="x")
    assert len(report["versions"]) == 2


def test_a_report_of_another_facility_is_not_there(desk: Desk) -> None:
    report = desk.signed()
    other = Actor(id="x", name="x").scope.narrowed("elsewhere")
    with desk.room.engine.connect() as connection, pytest.raises(Exception, match="no report"):
        find_report(connection, other, report["id"])


# -- what there is to write from ---------------------------------------------------------------------------------------


def test_measurements_of_findings_are_offered_with_where_they_are_seen(desk: Desk) -> None:
    finding = Finding(text="Subdural haematoma", measurements={"volume_ml": 12.5}, algorithm=AI)
    with begin_write(desk.room.engine) as connection:
        keep_answer(
            connection,
            facility="local",
            study_uid=desk.study,
            revision=1,
            hook="triage_study",
            plugin="triage",
            answer=dumps(Triage(findings=(finding,))),
            note="",
            at=desk.room.clock.now(),
        )
    report = desk.begin()
    (measured,) = desk.client.get(f"/reports/{report['id']}/material").json()["measurements"]
    assert (measured["text"], measured["origin"]) == ("Subdural haematoma: volume ml 12.5. ", "measurement")


def test_the_numbers_of_structured_reports_in_the_study_are_offered(desk: Desk) -> None:
    number = {
        "RelationshipType": "CONTAINS",
        "ValueType": "NUM",
        "ConceptNameCodeSequence": [{"CodeValue": "G-A437", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Length"}],
        "MeasuredValueSequence": [
            {
                "NumericValue": "12.5",
                "MeasurementUnitsCodeSequence": [
                    {"CodeValue": "mm", "CodingSchemeDesignator": "UCUM", "CodeMeaning": "mm"}
                ],
            }
        ],
    }
    group = {"RelationshipType": "CONTAINS", "ValueType": "CONTAINER", "ContentSequence": [number]}
    desk.receive(Modality="SR", SeriesInstanceUID=new_uid(), SOPInstanceUID=new_uid(), ContentSequence=[group])
    report = desk.begin()
    (measured,) = desk.client.get(f"/reports/{report['id']}/material").json()["measurements"]
    assert (measured["text"], measured["origin"]) == ("Length: 12.5 mm. ", "measurement")


def test_of_many_who_write_at_once_on_one_version_one_is_kept(desk: Desk) -> None:
    report = desk.begin()

    def write(number: int) -> int:
        text = {"sections": [{"name": "findings", "text": f"I am {number}."}]}
        headers = {"If-Match": report["etag"]}
        return desk.client.put(f"/reports/{report['id']}", json=text, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(write, range(16)))
    assert sorted(statuses) == [200] + [412] * 15


def test_a_report_outlives_its_study(desk: Desk) -> None:
    report = desk.signed()
    with begin_write(desk.room.engine) as connection:
        for table in (t.instance_metadata, t.instance, t.series, t.study):
            connection.execute(table.delete())
    report = desk.give(report, "revise", kind="correction")
    text = {"kind": "correction", "because": "x", "sections": [{"name": "impression", "text": "A bleed."}]}
    report = desk.give(desk.write(report, text), "sign", reader="ada")
    assert (report["signed"]["patient_name"], report["status"]) == ("Doe^Jane", "corrected")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"sections": 1}',
        b'{"sections": [{"name": "findings"}]}',
        b'{"sections": [{"name": "findings", "text": "x", "html": "<b>"}]}',
        b'{"critical_results": [{"category": 9, "text": "x"}]}',
        b'{"kind": "addendum"}',
        b'{"nonsense": true}',
        b'{"sections": [{"name": "findings", "text": "' + b"x" * 200_001 + b'"}]}',
        b"\xff\xfe",
    ],
)
def test_a_text_that_is_none_is_refused(desk: Desk, body: bytes) -> None:
    report = desk.begin()
    answer = desk.client.put(f"/reports/{report['id']}", content=body, headers={"If-Match": report["etag"]})
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("tag", ["x", '"1', "W/", '"-1"', "*", '"99999999999"'])
def test_an_etag_that_is_none_is_a_version_that_is_gone(desk: Desk, tag: str) -> None:
    report = desk.begin()
    answer = desk.client.put(f"/reports/{report['id']}", json=TEXT, headers={"If-Match": tag})
    assert answer.status_code == 412
