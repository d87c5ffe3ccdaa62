"""Peer review: blinded until it is scored, without conflicts, discussed, and shown to no facility."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import httpx
import orjson
import pytest

from readingroom.model import Actor, Scope
from readingroom.results import Selection
from server.archive import open_queue
from server.reports import peer_review as do
from server.reports.peer_review import HOOK, PeerReviewing, wilson
from server.room import Room
from server.settings import PeerReviewSettings, Settings
from server.web import peer_review as web
from server.worklist.assigning import take_snapshot
from server.worklist.items import claim_item, complete_item
from storage.catalog.directory import read_directory, write_facility
from storage.catalog.engine import begin_write
from storage.catalog.events import Wanted, last_sequence, read_events
from storage.catalog.peer_reviews import finished_read, list_reviews
from storage.catalog.work_items import StoredItem, item_by_id, items_of_study, next_items
from tests.directory import facility
from tests.reports import TEXT, Desk, reader_at
from tests.smart import register
from tests.worklist import at_work

FIRST_READER = "ada"
NORTH = Scope(facilities=frozenset({"local"}))


@dataclass
class Hooks:
    """Plugins that select what they are told to."""

    plugins: dict[str, Callable[..., Selection | None]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def having(self, hook: str) -> tuple[str, ...]:
        return tuple(self.plugins) if hook == HOOK else ()

    def react(self, plugin: str, hook: str, *, delivery: str, attempt: int = 1, **arguments: Any) -> Any:
        self.asked.append({"plugin": plugin, **arguments})
        return self.plugins[plugin](arguments["report"])


@dataclass(kw_only=True)
class Peers(Desk):
    """A desk where ada reads first, and whatever she has signed is selected."""

    hooks: Hooks = field(default_factory=lambda: Hooks({"all": lambda report: Selection(because="all of ada's")}))
    settings: PeerReviewSettings = field(default_factory=PeerReviewSettings)

    def __post_init__(self) -> None:
        self.queue = open_queue(self.room.engine, self.room.clock)
        PeerReviewing(
            engine=self.room.engine,
            clock=self.room.clock,
            queue=self.queue,
            hooks=cast(Any, self.hooks),
            keys=self.room.reports.keys,
            settings=self.settings,
        ).register()

    def furnish(self, *readers: Any, **of_facility: Any) -> None:
        with begin_write(self.room.engine) as connection:
            write_facility(connection, facility("elsewhere"), self.room.clock.now())
        super().furnish(*readers, **of_facility)

    def select(self) -> dict[str, Any]:
        """A report that ada has signed, and its review as a supervisor sees it."""
        self.signed()
        self.queue.drain()
        return self.get("/peer-reviews")[0]

    def get(self, path: str, **parameters: str) -> Any:
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask_review(self, id: str, command: str, **told: str) -> httpx.Response:
        return self.client.post(f"/peer-reviews/{id}/{command}", json=told)

    def tell(self, id: str, command: str, **told: str) -> dict[str, Any]:
        answer = self.ask_review(id, command, **told)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def scored(self, score: str, **told: str) -> str:
        """The id of a review that bob has scored."""
        id: str = self.select()["id"]
        self.tell(id, "impression", reader="bob", impression="A bleed.")
        self.tell(id, "score", **{"reader": "bob", "score": score, "comment": "the bleed"} | told)
        return id

    def item(self) -> StoredItem:
        """The work item of the second reading."""
        with self.room.engine.connect() as connection:
            (found,) = [one for one in items_of_study(connection, "local", self.study) if one.kind == "peer"]
        return found


@pytest.fixture
def peers(room: Room, client: httpx.Client) -> Peers:
    desk = Peers(room=room, client=client)
    desk.furnish(reader_at("ada"), reader_at("bob"), reader_at("eve"), reader_at("far", place="elsewhere"))
    desk.receive()
    return desk


# -- selecting ---------------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_what_is_selected_becomes_one_second_reading_however_often_it_is(peers: Peers) -> None:
    peers.hooks.plugins["again"] = lambda report: Selection(because="too")
    report = peers.signed()
    peers.queue.drain()
    report = peers.give(peers.read(report["id"]), "revise", kind="addendum", reader="ada")
    report = peers.write(report, {"kind": "addendum", "addendum": "More."})
    peers.give(report, "sign", reader="ada")
    peers.queue.drain()
    with peers.room.engine.connect() as connection:
        (review,) = list_reviews(connection, limit=10)
        read = finished_read(connection, report["id"])
    assert read is not None
    assert (read.reader, read.modality, review.number) == ("ada", "CT", 1)
    assert orjson.loads(review.because) == [
        {"plugin": "all", "because": "all of ada's"},
        {"plugin": "again", "because": "too"},
    ]
    assert [(one["reader"], one["read_before"], one["alike_before"]) for one in peers.hooks.asked] == [
        ("ada", 0, 0)
    ] * 4


def test_plugins_learn_how_many_readings_there_were_before(peers: Peers) -> None:
    peers.signed()
    peers.queue.drain()
    for modality in ("CT", "MR"):
        peers.room.clock.advance(timedelta(minutes=1))
        other = Peers(room=peers.room, client=peers.client)
        other.receive(Modality=modality)
        other.signed()
        other.queue.drain()
        (asked,) = other.hooks.asked
        assert (asked["read_before"], asked["alike_before"]) == ((1, 1) if modality == "CT" else (2, 0))


def test_a_resident_alone_has_finished_nothing(peers: Peers) -> None:
    peers.furnish(reader_at("ada"), reader_at("rob", trainee=True), reader_at("bob"))
    report = peers.give(peers.write(peers.begin()), "sign", reader="rob", status="preliminary")
    peers.queue.drain()
    assert peers.hooks.asked == []
    peers.give(report, "sign", reader="ada", discrepancy="none")
    peers.queue.drain()
    assert [one["reader"] for one in peers.hooks.asked] == ["ada"]
    id = peers.get("/peer-reviews")[0]["id"]
    for reader in ("ada", "rob"):  # both have signed
        assert peers.ask_review(id, "impression", reader=reader, impression="x").status_code == 403
    assert peers.tell(id, "impression", reader="bob", impression="x")["state"] == "revealed"


def test_a_withdrawn_report_is_reviewed_no_more(peers: Peers) -> None:
    id = peers.select()["id"]
    (report,) = peers.get("/reports")
    peers.give(peers.read(report["id"]), "withdraw", reader="ada", reason="another patient")
    peers.queue.drain()
    assert peers.item().state == "cancelled"
    assert peers.get(f"/peer-reviews/{id}")["state"] == "withdrawn"
    assert peers.ask_review(id, "impression", reader="bob", impression="x").status_code == 409
    assert peers.get("/peer-reviews", reader="bob") == []


# -- blinding ----------------------------------------------------------------------------------------------------------


def test_nothing_that_is_shown_of_it_says_who_read_first_or_what_before_it_is_scored(peers: Peers) -> None:
    register(peers.room, "ehr")
    review = peers.select()
    item = peers.item()
    first_text = TEXT["sections"][0]["text"].strip()
    fhir = {"accept": "application/fhir+json"}
    shown = [
        orjson.dumps(peers.get("/peer-reviews", reader="bob")),
        orjson.dumps(peers.get(f"/peer-reviews/{review['id']}", reader="bob")),
        orjson.dumps(peers.get(f"/peer-reviews/{review['id']}")),
        orjson.dumps(peers.get("/worklist")),
        orjson.dumps(peers.get(f"/worklist/{item.workitem_uid}")["timeline"]),
        peers.client.get(f"/dicomweb/workitems/{item.workitem_uid}").content,
        peers.client.get(f"/fhir/Task/{item.id}", headers=fhir).content,
        peers.client.get(f"/fhir/Task/{item.id}/_history", headers=fhir).content,
    ]
    with peers.room.engine.connect() as connection:
        told = read_events(connection, Scope(), Wanted(item=item.id), after=0, limit=100)
    assert {one.type for one in told} == {"ItemChanged", "PeerReviewSelected"}
    shown.append(orjson.dumps([one.payload for one in told]))
    for one in shown:
        assert item.workitem_uid.encode() in one or item.id.encode() in one
        for secret in ("ada", "Ada", "all of", first_text[:20]):
            assert secret.encode() not in one, one
    assert peers.client.get(f"/peer-reviews/{review['id']}", params={"reader": "ada"}).status_code == 404


def test_the_first_report_is_shown_once_the_reviewer_has_written_and_its_reader_is_not(peers: Peers) -> None:
    id = peers.select()["id"]
    assert "first" not in peers.get(f"/peer-reviews/{id}", reader="bob")
    assert peers.ask_review(id, "score", reader="bob", score="1").status_code == 409
    assert peers.ask_review(id, "impression", reader="bob", impression="  ").status_code == 400
    told = peers.tell(id, "impression", reader="bob", impression="Normal.")
    assert [one["text"] for one in told["first"]] == [one["text"] for one in TEXT["sections"]]
    assert "ada" not in orjson.dumps(told).decode().lower()
    assert peers.item().state == "completed"
    assert peers.ask_review(id, "impression", reader="bob", impression="Other.").status_code == 409
    assert peers.client.get(f"/peer-reviews/{id}", params={"reader": "eve"}).status_code == 404
    assert peers.get(f"/peer-reviews/{id}").keys().isdisjoint({"reader", "report", "first"})
    scored = peers.tell(id, "score", reader="bob", score="1")
    assert (scored["state"], scored["final_score"], scored["outcome"]) == ("closed", "1", "agreed")
    whole = peers.get(f"/peer-reviews/{id}")
    assert (whole["reader"], whole["reviewer"], whole["because"][0]["plugin"]) == ("ada", "bob", "all")


# -- who may -----------------------------------------------------------------------------------------------------------


def test_neither_the_first_reader_nor_who_may_not_by_law_gets_it(peers: Peers) -> None:
    id = peers.select()["id"]
    assert [one["id"] for one in peers.get("/peer-reviews", reader="bob")] == [id]
    for reader in ("ada", "far", "nobody"):
        assert peers.get("/peer-reviews", reader=reader) == []
        assert peers.ask_review(id, "impression", reader=reader, impression="x").status_code == 403
        claimed = peers.client.post(f"/worklist/{peers.item().workitem_uid}/claim", json={"reader": reader})
        assert claimed.status_code == 403
    with peers.room.engine.connect() as connection:
        (waiting,) = take_snapshot(connection, read_directory(connection), peers.room.clock.now()).snapshot.waiting
    assert (waiting.item.kind, waiting.eligible) == ("peer", ("bob", "eve"))


def test_readers_in_conflict_do_not_review_one_another(peers: Peers) -> None:
    other = Peers(
        room=peers.room, client=peers.client, settings=PeerReviewSettings(conflicts=(("ada", "bob"), ("bob", "eve")))
    )
    other.receive()
    id = other.select()["id"]
    refused = other.ask_review(id, "impression", reader="bob", impression="x")
    assert (refused.status_code, "ada" in refused.text) == (403, False)
    assert other.tell(id, "impression", reader="eve", impression="x")["state"] == "revealed"


def test_a_facilitys_own_radiologists_do_not_review_it_where_that_is_the_policy(peers: Peers) -> None:
    peers.furnish(reader_at("ada"), reader_at("bob", home="local"), reader_at("eve"))
    for is_outside, seen in ((False, 1), (True, 0)):
        other = Peers(room=peers.room, client=peers.client, settings=PeerReviewSettings(outside_reviewers=is_outside))
        other.receive()
        other.signed()
        other.queue.drain()
        listed = other.get("/peer-reviews", reader="bob")
        assert sum(one["study_uid"] == other.study for one in listed) == seen
        assert any(one["study_uid"] == other.study for one in other.get("/peer-reviews", reader="eve"))


def test_a_reader_who_is_known_by_name_reviews_as_nobody_else(peers: Peers) -> None:
    id = peers.select()["id"]
    for actor, says in (
        (Actor(id="eve", name="Eve"), "may not review as bob"),
        (Actor(id="p", name="P", kind="plugin"), "a person does"),
    ):
        with pytest.raises(do.Refused, match=says), at_work(peers.room.engine, peers.room.clock, actor) as work:
            do.write_impression(work, id, reader="bob", impression="x")


def test_an_item_that_was_claimed_or_completed_beside_is_still_its_reviewers(peers: Peers) -> None:
    id = peers.select()["id"]
    with at_work(peers.room.engine, peers.room.clock) as work:
        item = claim_item(work, work.find(peers.item().workitem_uid), reader="bob")
    assert peers.get("/peer-reviews", reader="eve") == []
    assert peers.ask_review(id, "impression", reader="eve", impression="x").status_code == 409
    with at_work(peers.room.engine, peers.room.clock) as work:
        complete_item(work, item, token=item.claim_token or "")
    assert [one["id"] for one in peers.get("/peer-reviews", reader="bob")] == [id]
    assert peers.tell(id, "impression", reader="bob", impression="x")["state"] == "revealed"


# -- score and discussion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "state"),
    [("1", "closed"), ("2a", "closed"), ("2b", "discussing"), ("3a", "discussing"), ("3b", "discussing")],
)
def test_a_discrepancy_that_matters_is_discussed(peers: Peers, score: str, state: str) -> None:
    id = peers.scored(score)
    assert peers.get(f"/peer-reviews/{id}", reader="bob")["state"] == state
    assert peers.ask_review(id, "score", reader="bob", score="1").status_code == 409
    assert (len(peers.get("/peer-reviews", reader="ada", **{"as": "first"}))) == 1


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"score": "4"}, 400),
        ({"score": "3"}, 400),
        ({"score": "3b", "comment": ""}, 400),
        ({"reader": "eve"}, 403),
        ({"reader": ""}, 400),
    ],
)
def test_what_is_no_score_is_refused(peers: Peers, told: dict[str, str], status: int) -> None:
    id = peers.select()["id"]
    peers.tell(id, "impression", reader="bob", impression="A bleed.")
    answer = peers.ask_review(id, "score", **{"reader": "bob", "score": "2b", "comment": "the bleed"} | told)
    assert answer.status_code == status


def test_the_two_discuss_without_knowing_each_other_and_a_supervisor_has_an_addendum_written(peers: Peers) -> None:
    id = peers.scored("3b")
    first = peers.get(f"/peer-reviews/{id}", reader="ada")
    assert (first["impression"], first["score"], first["comment"]) == ("A bleed.", "3b", "the bleed")
    assert "bob" not in orjson.dumps(first).decode().lower()
    peers.tell(id, "discuss", reader="ada", text="It is a calcification.")
    told = peers.tell(id, "discuss", reader="bob", text="It grew.")
    assert [(one["part"], one["text"]) for one in told["remarks"]] == [
        ("first reader", "It is a calcification."),
        ("reviewer", "It grew."),
    ]
    assert peers.ask_review(id, "discuss", reader="eve", text="x").status_code == 403
    assert peers.ask_review(id, "adjudicate", score="3b", outcome="shrug").status_code == 400
    closed = peers.tell(id, "adjudicate", score="2b", outcome="addendum", comment="Small, but there.")
    assert (closed["state"], closed["score"], closed["final_score"]) == ("closed", "3b", "2b")
    assert peers.ask_review(id, "discuss", reader="ada", text="x").status_code == 409
    with peers.room.engine.connect() as connection:
        item = item_by_id(connection, closed["addendum_item"])
    assert (item.kind, item.state, item.offered_to) == ("second", "assigned", "ada")
    report = peers.read(closed["report"])
    report = peers.give(report, "revise", kind="addendum", reader="ada")
    peers.give(peers.write(report, {"kind": "addendum", "addendum": "There is a bleed."}), "sign", reader="ada")
    peers.queue.drain()
    with peers.room.engine.connect() as connection:
        assert item_by_id(connection, item.id).state == "cancelled"


def test_neither_of_the_two_nor_who_may_not_supervise_decides(peers: Peers) -> None:
    id = peers.scored("3a")
    actors = (
        (Actor(id="eve", name="Eve"), "'supervise' is needed"),
        (Actor(id="ada", name="Ada", may=frozenset({"supervise"})), "by neither of the two"),
    )
    for actor, says in actors:
        with pytest.raises(do.Refused, match=says), at_work(peers.room.engine, peers.room.clock, actor) as work:
            do.adjudicate(work, id, score="1", outcome="agreed")


def test_an_addendum_waits_for_anybody_where_the_first_reader_may_read_there_no_more(peers: Peers) -> None:
    id = peers.scored("3a")
    peers.furnish(reader_at("ada", place="elsewhere"), reader_at("bob"))
    closed = peers.tell(id, "adjudicate", score="3a", outcome="addendum")
    with peers.room.engine.connect() as connection:
        assert item_by_id(connection, closed["addendum_item"]).state == "ready"


# -- facilities --------------------------------------------------------------------------------------------------------


def test_a_facility_sees_nothing_of_it(peers: Peers) -> None:
    id = peers.scored("3a")
    item = peers.item()
    program = register(peers.room, "ehr", facilities=frozenset({"local"}), facility="local")
    headers = program.headers(peers.client, "system/*.cruds") | {"accept": "application/fhir+json"}
    everybody = register(peers.room, "all", facilities=None).headers(peers.client, "system/*.cruds")

    def tasks(with_headers: dict[str, str], query: str = "") -> set[str]:
        bundle = peers.client.get(f"/fhir/Task{query}", headers=with_headers).json()
        return {one["resource"]["id"] for one in bundle.get("entry", ())}

    assert item.id in tasks(everybody)
    for query in ("", "?code=peer", f"?_id={item.id}", "?status=completed", "/_history"):
        assert item.id not in tasks(headers, query), query
    for path in (f"Task/{item.id}", f"Task/{item.id}/_history", f"Task/{item.id}/_history/1"):
        assert peers.client.get(f"/fhir/{path}", headers=everybody).status_code == 200
        assert peers.client.get(f"/fhir/{path}", headers=headers).status_code == 404
    dicom = headers | {"accept": "application/dicom+json"}
    assert peers.client.get(f"/dicomweb/workitems/{item.workitem_uid}", headers=dicom).status_code == 404
    assert item.workitem_uid not in peers.client.get("/dicomweb/workitems", headers=dicom).text
    assert peers.client.get(f"/dicomweb/f/local/workitems/{item.workitem_uid}").status_code == 404
    changes = peers.client.get("/dicomweb/changes", headers=dicom | {"accept": "application/json"}).text
    assert "Peer" not in changes
    for path in ("/peer-reviews", "/peer-reviews/statistics", f"/peer-reviews/{id}", "/worklist"):
        assert peers.client.get(path, headers=headers).status_code == 403
    with peers.room.engine.connect() as connection:
        told = read_events(connection, NORTH, Wanted(), after=0, limit=1000, last=last_sequence(connection))
        assert [one for one in told if "Peer" in one.type or one.item == item.id] == []
        assert [one for one in told if one.type == "ReportSigned"] != []
        listed = next_items(connection, NORTH, now=peers.room.clock.now(), limit=100)
        assert [one for one in listed if one.kind == "peer"] == []
    narrow = Actor(id="n", name="N", may=frozenset({"supervise"}), scope=NORTH)
    with pytest.raises(do.NotFound), at_work(peers.room.engine, peers.room.clock, narrow, NORTH) as work:
        do.adjudicate(work, id, score="1", outcome="agreed")


def test_a_facility_is_told_no_figures(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "caller_of", lambda _: _Narrow())
    for path in ("/peer-reviews/statistics", "/peer-reviews", "/peer-reviews?reader=bob", "/peer-reviews/x"):
        assert peers.client.get(path).status_code == 403
    assert peers.ask_review("x", "impression", reader="bob", impression="x").status_code == 403


class TestVisible:
    """Where that is the policy, a facility sees how many of its readings were reviewed."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"peer_review": PeerReviewSettings(visible_to_facilities=True)})

    def test_a_facility_sees_how_many_and_no_more(self, peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
        peers.scored("3a")
        monkeypatch.setattr(web, "caller_of", lambda _: _Narrow())
        assert peers.get("/peer-reviews/statistics") == [{"facility": "local", "eligible": 1, "reviewed": 1}]
        assert peers.client.get("/peer-reviews/statistics?by=reader").status_code == 400
        assert peers.client.get("/peer-reviews").status_code == 403


class _Narrow:
    """A caller who sees one facility."""

    scope = NORTH
    actor = Actor(id="n", name="N", scope=NORTH)
    service_root = ""


# -- statistics --------------------------------------------------------------------------------------------------------


def test_statistics_have_the_share_of_each_score_with_its_interval(peers: Peers) -> None:
    peers.scored("3b")
    for score in ("1", "2a"):
        other = Peers(room=peers.room, client=peers.client)
        other.receive(Modality="MR")
        other.signed()
        other.queue.drain()
        id = next(one["id"] for one in other.get("/peer-reviews") if one["study_uid"] == other.study)
        other.tell(id, "impression", reader="bob", impression="x")
        other.tell(id, "score", reader="bob", score=score, comment="y")
    unselected = Peers(room=peers.room, client=peers.client, hooks=Hooks())
    unselected.receive()
    unselected.signed()
    unselected.queue.drain()
    (row,) = peers.get("/peer-reviews/statistics")
    assert (row["reader"], row["eligible"], row["selected"], row["reviewed"]) == ("ada", 4, 3, 3)
    assert {score: one["count"] for score, one in row["scores"].items()} == {"1": 1, "2a": 1, "2b": 0, "3a": 0, "3b": 1}
    low, high = wilson(1, 3)
    assert row["significant"] == {"count": 1, "rate": pytest.approx(1 / 3), "low": low, "high": high}
    assert row["reviewed_share"]["rate"] == 0.75
    by = peers.get("/peer-reviews/statistics", by="modality,month,facility")
    month = f"{peers.room.clock.now():%Y-%m}"
    assert [(one["modality"], one["facility"], one["month"], one["eligible"]) for one in by] == [
        ("CT", "local", month, 2),
        ("MR", "local", month, 2),
    ]
    assert peers.get("/peer-reviews/statistics", **{"from": "2999-01-01"}) == []
    assert peers.client.get("/peer-reviews/statistics?by=mood").status_code == 400
    assert peers.client.get("/peer-reviews/statistics?from=soon").status_code == 400


def test_what_was_adjudicated_counts_as_it_was_decided(peers: Peers) -> None:
    id = peers.scored("3b")
    peers.tell(id, "adjudicate", score="1", outcome="agreed")
    (row,) = peers.get("/peer-reviews/statistics")
    assert (row["scores"]["1"]["count"], row["significant"]["count"]) == (1, 0)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 10, 0.0179, 0.4042), (50, 100, 0.4038, 0.5962), (0, 0, 0.0, 1.0)],
)
def test_the_intervals_are_wilsons(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)
