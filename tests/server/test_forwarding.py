"""Studies go on to others as the rules have it: what is new, once, when it is time, and past what is away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from ipaddress import IPv4Network
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from pydicom import FileDataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from readingroom.clock import SetClock, SystemClock
from readingroom.errors import ReadingRoomError, RetryLater, Unreachable
from readingroom.model import LOCAL_OPERATOR, Scope, priority_rank
from server.correcting import correct
from server.forwarding import Forwards, Opened, concerns, opening, remember_forwards, takes
from server.outgoing import Outgoing, PeerArchive, Told, WebArchive
from server.room import Room
from server.sending import Sender
from server.settings import ArchiveSettings, DimsePeer, ForwardRule, Settings
from server.settle import settle_studies
from server.worklist.items import flag_item, working
from storage.catalog.corrections import Target
from storage.catalog.engine import begin_write
from storage.catalog.find import StoredInstance, find_study, list_instances
from storage.catalog.forwards import Forward, Sendable, list_forwards, read_way, retry_forward
from storage.catalog.studies import OUR_SOURCE
from storage.catalog.work_items import reading_of
from storage.changes import read_change
from tests import synthetic
from tests.commands import Run
from tests.plugins.peers import Hook, web_service
from tests.servers import free_port
from tests.synthetic import part10
from tests.worklist import study

JPEG_LS = "1.2.840.10008.1.2.4.80"
TUESDAY = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def rule(**changes: Any) -> ForwardRule:
    return ForwardRule(**{"name": "all", "to": ["city"], **changes})


@dataclass
class Away:
    """A destination that does as it is told; `sent` is what it has taken, request by request."""

    does: Callable[[Sequence[str]], Mapping[str, Told]] | None = None
    sent: list[list[str]] = field(default_factory=list)
    asked: int = 0

    def send(self, instances: Sequence[StoredInstance], transfer_syntax: str | None) -> Mapping[str, Told]:
        self.asked += 1
        uids = [one.instance_uid for one in instances]
        told = self.does(uids) if self.does else {uid: Told(ending="sent", code="200") for uid in uids}
        self.sent.append([uid for uid in uids if told[uid].ending == "sent"])
        return told

    @property
    def uids(self) -> list[str]:
        return [uid for some in self.sent for uid in some]


def fails(error: ReadingRoomError) -> Callable[[Sequence[str]], Mapping[str, Told]]:
    def does(_: Sequence[str]) -> Mapping[str, Told]:
        raise error

    return does


@dataclass
class Site:
    """A room whose studies go on to destinations by the rules that are given."""

    room: Room
    clock: SetClock
    away: dict[str, Away] = field(default_factory=dict)

    def obey(self, *rules: ForwardRule) -> Away:
        self.away = {name: Away() for rule in rules for name in rule.to}
        self.forwards = Forwards(
            engine=self.room.engine,
            clock=self.clock,
            queue=self.room.queue,
            rules={rule.name: rule for rule in rules},
            find=self.away.get,
            came_from=lambda source, destination: source == f"{destination.upper()}-AE",
        )
        queue = self.room.queue
        for kind in [kind for kind in queue.handlers if kind == "forward" or kind.endswith(".forward")]:
            del queue.handlers[kind]
        for reactions in queue.reactions.values():
            reactions[:] = [one for one in reactions if one[1] != "forward"]
        self.forwards.register()
        return next(iter(self.away.values()))

    def store(self, *datasets: FileDataset, source: str = "CT1", facility: str = "local") -> None:
        stored = self.room.ingest.store([part10(one) for one in datasets], facility=facility, source=source)
        assert [outcome.error for outcome in stored] == [None] * len(datasets)

    def settle(self) -> None:
        self.wait(self.room.settings.settle_seconds + 1)

    def wait(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        settle_studies(self.room)
        self.room.queue.drain()

    def rows(self) -> list[Forward]:
        with self.room.engine.connect() as connection:
            return list_forwards(connection, limit=100)[::-1]

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.rows()]


@pytest.fixture
def site(room: Room, clock: SetClock) -> Site:
    return Site(room, clock)


def uids(datasets: Sequence[FileDataset]) -> list[str]:
    return [str(one.SOPInstanceUID) for one in datasets]


def correct_description(room: Room, image: FileDataset) -> None:
    """Have the study of an image be called Head."""
    target, change = Target(study_uid=str(image.StudyInstanceUID)), dict([read_change("StudyDescription", "Head")])
    told = {"actor": LOCAL_OPERATOR.id, "reason": "It was another."}
    assert correct(room.engine, room.blobs, room.clock, Scope(), target, change, **told)


# -- which studies, and which of their objects -------------------------------------------------------------------------

CT = study(modalities=("CT",), body_parts=("HEAD",), description="CT Head w/o contrast", facility="mercy")


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"facilities": ["mer*"]}, True),
        ({"facilities": ["north"]}, False),
        ({"modalities": ["MR", "CT"]}, True),
        ({"modalities": ["MR"]}, False),
        ({"body_parts": ["head"], "descriptions": ["*head*"]}, True),
        ({"descriptions": ["*chest*"]}, False),
        ({"priorities": ["stat", "urgent"]}, True),
        ({"priorities": ["routine"]}, False),
        ({"flagged": True}, False),
    ],
)
def test_a_rule_is_for_a_study_of_which_all_conditions_hold(conditions: dict[str, Any], holds: bool) -> None:
    assert concerns(rule(**conditions), CT, rank=priority_rank("urgent")) is holds


def test_a_rule_may_be_for_some_objects_of_a_study_alone() -> None:
    thin = Sendable(
        id="1",
        instance_uid="1.2",
        version=1,
        overlay_version=0,
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        source="CT1",
        size_bytes=1,
        modality="CT",
        description="Thin 0.6",
    )
    assert takes(rule(sources=["ct*"], series_modalities=["CT"], series_descriptions=["thin*"]), thin)
    assert takes(rule(sop_classes=["1.2.840.10008.5.1.4.1.1.2"]), thin)
    for refused in ({"sources": ["MR1"]}, {"series_modalities": ["SR"]}, {"series_descriptions": ["thick*"]}):
        assert not takes(rule(**refused), thin)
    assert not takes(rule(sop_classes=["1.2.840.10008.5.1.4.1.1.4"]), thin)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "no spaces"}, "name"),
        ({"to": []}, "to"),
        ({"to": ["city", "city"]}, "named once"),
        ({"transcode": "1.2.840.10008.1.2.4.50"}, "not sent in"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"hours": [{"days": ["someday"]}]}, "days"),
        ({"hours": [{"kilobytes_per_second": 0}]}, "kilobytes_per_second"),
        ({"modality": ["CT"]}, "modality"),
    ],
)
def test_a_rule_that_is_not_right_is_refused_with_the_reason(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        rule(**wrong)


def test_two_rules_have_two_names_and_an_archive_one_address() -> None:
    with pytest.raises(ValidationError, match="two rules have the name all"):
        Settings(forward=(rule(), rule()))
    for wrong in (
        {},
        {"url": "https://a.example", "peer": "pacs"},
        {"url": "ftp://a.example"},
        {"peer": "a", "ca": "b"},
    ):
        with pytest.raises(ValidationError):
            ArchiveSettings(**wrong)


# -- what goes, and how often ------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_a_study_goes_once_it_has_settled_and_a_late_series_alone(site: Site) -> None:
    city = site.obey(rule())
    first, late = synthetic.ct_series(3), synthetic.ct_series(2)
    for one in late:
        one.StudyInstanceUID = first[0].StudyInstanceUID
    site.store(*first)
    site.room.queue.drain()
    assert city.sent == []
    site.settle()
    assert (city.sent, site.states) == ([uids(first)], ["done"])
    site.store(*late)
    site.settle()
    assert (city.sent, site.states) == ([uids(first), uids(late)], ["done"])
    site.settle()
    assert city.asked == 2


def test_objects_may_go_as_soon_as_they_are_there(site: Site) -> None:
    city = site.obey(rule(when="received"))
    first, second = synthetic.ct_series(2)
    site.store(first)
    site.room.queue.drain()
    site.store(second)
    site.room.queue.drain()
    assert city.sent == [[first.SOPInstanceUID], [second.SOPInstanceUID]]
    site.settle()
    assert city.asked == 2


def test_what_does_not_concern_a_rule_leaves_no_trace(site: Site) -> None:
    city = site.obey(rule(modalities=["MR"]), rule(name="other", sop_classes=["1.2.3"]))
    site.store(*synthetic.ct_series(1))
    site.settle()
    assert (city.asked, site.rows()) == (0, [])


def test_what_came_from_a_destination_does_not_go_back_and_reports_are_not_forwarded(site: Site) -> None:
    site.obey(rule(to=["city", "north"]))
    (theirs,), (ours,), (report,) = synthetic.ct_series(1), synthetic.ct_series(1), synthetic.ct_series(1)
    for one in (theirs, report):
        one.StudyInstanceUID = ours.StudyInstanceUID
    site.store(theirs, source="CITY-AE")
    site.store(ours)
    site.store(report, source=OUR_SOURCE)
    site.settle()
    assert site.away["city"].uids == [ours.SOPInstanceUID]
    assert site.away["north"].uids == [theirs.SOPInstanceUID, ours.SOPInstanceUID]


@pytest.mark.parametrize("changes", [True, False])
def test_a_corrected_study_is_sent_again_where_the_rule_says_so(site: Site, changes: bool) -> None:
    city = site.obey(rule(changes=changes))
    (image,) = synthetic.ct_series(1)
    site.store(image)
    site.settle()
    correct_description(site.room, image)
    site.settle()
    assert len(city.uids) == 1 + changes


def test_what_is_flagged_later_goes_then(site: Site) -> None:
    city = site.obey(rule(flagged=True))
    (image,) = synthetic.ct_series(1)
    site.store(image)
    site.settle()
    assert city.asked == 0
    with working(site.room.engine, site.clock, LOCAL_OPERATOR, Scope(), queue=site.room.queue) as work:
        item = reading_of(work.connection, "local", str(image.StudyInstanceUID))
        assert item is not None
        flag_item(work, item, "Bleeding", "stat")
    site.room.queue.drain()
    assert city.uids == [image.SOPInstanceUID]
    assert [row.rank for row in site.rows()] == [priority_rank("stat")]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_destination_that_is_away_holds_up_no_other_and_goes_on_where_it_broke(site: Site) -> None:
    site.obey(rule(to=["city", "north"]))
    city, north = site.away["city"], site.away["north"]
    series = synthetic.ct_series(60, rows=4, columns=4)

    def breaks(wanted: Sequence[str]) -> Mapping[str, Told]:
        if city.asked > 1:
            raise Unreachable("It is away.")
        return {uid: Told(ending="sent") for uid in wanted}

    city.does = breaks
    site.store(*series)
    site.settle()
    assert north.uids == uids(series)
    assert (city.asked, len(city.uids)) == (2, 50)
    assert {row.destination: (row.state, row.error) for row in site.rows()} == {
        "city": ("queued", "It is away."),
        "north": ("done", ""),
    }
    for _ in range(20):
        site.wait(30)
    assert city.asked < 15  # it is asked once in a while
    city.does = None
    site.wait(301)
    assert (city.uids, site.states) == (uids(series), ["done", "done"])


def test_however_many_studies_wait_one_of_them_is_tried(site: Site) -> None:
    city = site.obey(rule())
    city.does = fails(Unreachable("It is away."))
    for _ in range(5):
        site.store(*synthetic.ct_series(1, rows=4, columns=4))
    site.settle()
    assert city.asked == 1
    with site.room.engine.connect() as connection:
        way = read_way(connection, "city")
    assert (way.failures, way.error) == (1, "It is away.")
    city.does = None
    site.wait(3)
    assert site.states == ["done"] * 5


def test_a_study_that_is_not_taken_for_now_holds_up_no_other(site: Site) -> None:
    city = site.obey(rule())
    (bad,), (good,) = synthetic.ct_series(1), synthetic.ct_series(1)
    city.does = lambda wanted: {
        uid: Told(ending="later", code="A700") if uid == bad.SOPInstanceUID else Told(ending="sent") for uid in wanted
    }
    site.store(bad)
    site.store(good)
    site.settle()
    assert city.uids == [good.SOPInstanceUID]
    assert [(row.state, row.error) for row in site.rows()] == [
        ("queued", "1 instances are not taken for now (A700)."),
        ("done", ""),
    ]
    city.does = None
    site.wait(11)
    assert city.uids == [good.SOPInstanceUID, bad.SOPInstanceUID]


def test_what_cannot_be_sent_is_given_up_and_may_be_told_to_go_again(site: Site) -> None:
    city = site.obey(rule(retry_hours=1))
    city.does = fails(RetryLater("Not now."))
    site.store(*synthetic.ct_series(1))
    site.store(*synthetic.ct_series(1))
    site.settle()
    for _ in range(3):
        site.wait(3600)
    assert site.states == ["dead", "dead"]
    city.does = None
    with begin_write(site.room.engine) as connection:
        retry_forward(connection, site.rows()[0].id, site.clock.now())
    site.wait(31)
    assert remember_forwards(site.room.engine, site.room.queue, site.clock.now()) == 1
    site.room.queue.drain()
    assert site.states == ["done", "dead"]


def test_what_is_refused_is_not_sent_again_and_shows(site: Site) -> None:
    city = site.obey(rule())
    good, bad = synthetic.ct_series(2)
    city.does = lambda wanted: {
        uid: Told(ending="refused" if uid == bad.SOPInstanceUID else "sent", code="A900") for uid in wanted
    }
    site.store(good, bad)
    site.settle()
    assert [(row.state, row.error) for row in site.rows()] == [("refused", "1 instances were refused.")]
    asked = city.asked
    site.wait(3600)
    assert city.asked == asked


def test_a_destination_or_a_rule_that_is_gone_is_told_of(site: Site) -> None:
    site.obey(rule(to=["nowhere"]))
    site.store(*synthetic.ct_series(1))
    site.away.clear()
    site.settle()
    assert [row.error for row in site.rows()] == ["There is neither an archive nor a peer that is called nowhere."]
    site.obey(rule(name="new"))
    site.wait(60)
    assert [(row.state, row.error) for row in site.rows()] == [
        ("dropped", "The settings have no rule all that sends to nowhere any more.")
    ]


# -- when, and how much of the line ------------------------------------------------------------------------------------

NIGHT = {"starts": "22:00", "ends": "06:00", "kilobytes_per_second": 10}
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("hours", "hour", "found"),
    [
        ([], 12, Opened()),
        ([NIGHT], 12, TUESDAY + 10 * HOUR),
        ([NIGHT], 23, Opened(until=TUESDAY + 18 * HOUR, rate=10_000)),
        ([NIGHT], 5, Opened(until=TUESDAY - 6 * HOUR, rate=10_000)),
        ([NIGHT], 6, TUESDAY + 10 * HOUR),
        ([{"days": ["mon"]}], 12, TUESDAY + (5 * 24 + 12) * HOUR),
        ([NIGHT, {"days": ["tue"], "kilobytes_per_second": 500}], 23, Opened(until=TUESDAY + 18 * HOUR, rate=10_000)),
        ([NIGHT, {"days": ["tue"]}], 12, Opened(until=TUESDAY + 12 * HOUR)),
    ],
)
def test_hours_say_when_it_goes_and_how_much(hours: list[dict[str, Any]], hour: int, found: object) -> None:
    assert opening(rule(hours=hours), TUESDAY.replace(hour=hour)) == found


def test_hours_are_those_of_the_zone_of_the_rule() -> None:
    chicago = rule(hours=[{"starts": "22:00", "ends": "06:00"}], zone="America/Chicago")
    assert opening(chicago, TUESDAY) == TUESDAY + 16 * HOUR
    assert isinstance(opening(chicago, TUESDAY - 3 * HOUR), Opened)


def test_outside_of_its_hours_a_rule_waits_and_another_to_the_same_place_does_not(site: Site, clock: SetClock) -> None:
    opens = clock.now() + timedelta(hours=2)
    hours = [{"starts": f"{opens:%H}:00", "ends": f"{opens + HOUR:%H}:00"}]
    city = site.obey(rule(name="bulk", hours=hours), rule(name="urgent", sources=["CT2"]))
    (bulk,), (urgent,) = synthetic.ct_series(1), synthetic.ct_series(1)
    site.store(bulk)
    site.store(urgent, source="CT2")
    site.settle()
    assert city.uids == [urgent.SOPInstanceUID]
    site.wait((opens.replace(minute=0, second=0) - clock.now()).total_seconds() + 1)
    assert sorted(city.uids) == sorted([urgent.SOPInstanceUID, urgent.SOPInstanceUID, bulk.SOPInstanceUID])


def test_no_more_goes_than_the_line_has(site: Site) -> None:
    series = synthetic.ct_series(10)
    size = max(len(part10(one)) for one in series)
    city = site.obey(rule(hours=[{"kilobytes_per_second": size / 2000}]))  # an instance in two seconds
    site.store(*series)
    site.settle()
    begun = site.clock.now()
    assert [len(some) for some in city.sent] == [1]
    while len(city.uids) < 10:
        passed = (site.clock.now() - begun).total_seconds()
        assert len(city.uids) <= passed / 2 + 1.01
        assert passed < 25
        site.wait(1)
    assert city.uids == uids(series)


# -- by STOW-RS --------------------------------------------------------------------------------------------------------


def response(stored: Sequence[str] = (), failed: Mapping[str, int] | None = None) -> bytes:
    """A Store Instances Response."""

    def item(uid: str, **more: Any) -> dict[str, Any]:
        return {"00081155": {"vr": "UI", "Value": [uid]}, **more}

    told = {"00081199": [item(uid) for uid in stored]}
    told["00081198"] = [
        item(uid, **{"00081197": {"vr": "US", "Value": [reason]}}) for uid, reason in (failed or {}).items()
    ]
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in told.items() if items}).encode()


@pytest.fixture
def web() -> Iterator[Hook]:
    with web_service() as service:
        yield service


def archive(room: Room, url: str, **settings: Any) -> WebArchive:
    return WebArchive(
        name="city",
        settings=ArchiveSettings(url=url, seconds=10, **settings),
        outgoing=Outgoing(engine=room.engine, blobs=room.blobs, codecs=room.codecs),
        networks=Settings(private_networks=["127.0.0.0/8"]).private_networks,
    )


def stored(room: Room, *datasets: FileDataset) -> list[StoredInstance]:
    list(room.ingest.store([part10(one) for one in datasets], facility="local", source="CT1"))
    with room.engine.connect() as connection:
        return list_instances(connection, find_study(connection, Scope(), str(datasets[0].StudyInstanceUID)))


def parts(request: tuple[str, dict[str, str], bytes]) -> list[bytes]:
    boundary = request[1]["content-type"].partition("boundary=")[2].encode()
    return [part.partition(b"\r\n\r\n")[2][:-2] for part in request[2].split(b"--" + boundary)[1:-1]]


def test_objects_go_byte_for_byte_in_one_request(
    room: Room, web: Hook, chest_ct: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITY", "secret")
    web.body = response(uids(chest_ct))
    told = archive(room, f"{web.url}/dicom-web/", token="CITY").send(stored(room, *chest_ct), None)
    assert {one.ending for one in told.values()} == {"sent"}
    (request,) = web.requests
    assert request[0] == "/dicom-web/studies"
    assert request[1]["authorization"] == "Bearer secret"
    assert parts(request) == [part10(one) for one in chest_ct]


def test_corrected_and_transcoded_objects_are_written_anew(room: Room, web: Hook, chest_ct: list[FileDataset]) -> None:
    report = synthetic.text_report(StudyInstanceUID=chest_ct[0].StudyInstanceUID)
    stored(room, chest_ct[0], report)
    correct_description(room, chest_ct[0])
    with room.engine.connect() as connection:
        instances = list_instances(connection, find_study(connection, Scope(), str(report.StudyInstanceUID)))
    web.body = response(uids([chest_ct[0], report]))
    archive(room, web.url).send(instances, JPEG_LS)
    found = {one.SOPInstanceUID: one for one in (dcmread(BytesIO(part)) for part in parts(web.requests[0]))}
    assert found[chest_ct[0].SOPInstanceUID].file_meta.TransferSyntaxUID == JPEG_LS
    assert {one.StudyDescription for one in found.values()} == {"Head"}
    assert found[report.SOPInstanceUID].ContentSequence[0].TextValue == "No finding."


def test_an_archive_is_believed_of_each_object(room: Room, web: Hook, chest_ct: list[FileDataset]) -> None:
    one, two, three, four, five = uids(chest_ct)
    web.status, web.body = 202, response([one], {two: 0x0111, three: 0xA700, four: 0xA900})
    told = archive(room, web.url).send(stored(room, *chest_ct), None)
    endings = {one: "sent", two: "sent", three: "later", four: "refused", five: "later"}
    assert {uid: answer.ending for uid, answer in told.items()} == endings


def test_where_a_request_is_refused_as_a_whole_each_object_is_sent_by_itself(
    room: Room, web: Hook, chest_ct: list[FileDataset]
) -> None:
    web.status, web.body = 413, b"too large"
    told = archive(room, web.url).send(stored(room, *chest_ct[:2]), None)
    assert [(one.ending, one.code) for one in told.values()] == [("refused", "413")] * 2
    assert [len(parts(request)) for request in web.requests] == [2, 1, 1]


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, Unreachable), (404, Unreachable), (500, RetryLater), (429, RetryLater), (200, RetryLater)],
)
def test_an_archive_that_does_not_do_its_work_is_asked_later(
    room: Room, web: Hook, chest_ct: list[FileDataset], status: int, error: type[Exception]
) -> None:
    web.status, web.body = status, b"<html>"
    with pytest.raises(error):
        archive(room, web.url).send(stored(room, chest_ct[0]), None)


# -- by C-STORE --------------------------------------------------------------------------------------------------------


@contextmanager
def peer(take: Callable[[int], int], *syntaxes: str) -> Iterator[tuple[DimsePeer, list[tuple[str, str]]]]:
    """An application entity that stores CT images: it answers as `take` says to the first, the second and so on."""
    came: list[tuple[str, str]] = []

    def store(event: Any) -> int:
        came.append((str(event.request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)))
        return take(len(came))

    entity = AE(ae_title="CITY")
    entity.add_supported_context(CTImageStorage, list(syntaxes or (ExplicitVRLittleEndian,)))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield DimsePeer(ae="CITY", host="127.0.0.1", port=server.server_address[1]), came
    finally:
        server.shutdown()


def to_peer(room: Room, to: DimsePeer) -> PeerArchive:
    settings = room.settings.model_copy(update={"private_networks": (IPv4Network("127.0.0.0/8"),)})
    sender = Sender(engine=room.engine, blobs=room.blobs, codecs=room.codecs, settings=settings)
    return PeerArchive(peer=to, sender=sender)


def test_a_peer_is_believed_of_each_object(room: Room, chest_ct: list[FileDataset]) -> None:
    answers = {1: 0x0000, 2: 0xB000, 3: 0xA701, 4: 0xA900, 5: 0x0111}
    with peer(answers.__getitem__) as (to, came):
        told = to_peer(room, to).send(stored(room, *chest_ct), None)
    assert [uid for uid, _ in came] == uids(chest_ct)
    assert [(one.ending, one.code) for one in told.values()] == [
        ("sent", "0000"),
        ("sent", "B000"),
        ("later", "A701"),
        ("refused", "A900"),
        ("sent", "0111"),
    ]


def test_a_peer_gets_the_transfer_syntax_of_the_rule_where_it_takes_that(
    room: Room, chest_ct: list[FileDataset]
) -> None:
    instances = stored(room, chest_ct[0])
    with peer(lambda _: 0, ExplicitVRLittleEndian, JPEG_LS) as (to, came):
        to_peer(room, to).send(instances, JPEG_LS)
    with peer(lambda _: 0) as (to, as_stored):
        to_peer(room, to).send(instances, JPEG_LS)
    assert [syntax for _, syntax in came + as_stored] == [JPEG_LS, ExplicitVRLittleEndian]


def test_a_peer_that_is_away_is_unreachable(room: Room, chest_ct: list[FileDataset]) -> None:
    instances = stored(room, *chest_ct)
    with pytest.raises(Unreachable):
        to_peer(room, DimsePeer(ae="CITY", host="127.0.0.1", port=free_port())).send(instances, None)


# -- as an operator has it ---------------------------------------------------------------------------------------------


class TestInstalled:
    """The rules of a settings file, in a room that is built from it."""

    @pytest.fixture
    def settings(self, settings: Settings, web: Hook) -> Settings:
        told = {
            "archives": {"city": {"url": web.url}},
            "forward": [{"name": "all", "to": ["city"]}],
            "private_networks": ["127.0.0.0/8"],
        }
        return Settings(data=settings.data, database=settings.database, **told)

    def test_a_study_goes_and_what_is_amiss_shows_and_can_be_repaired(
        self, room: Room, clock: SetClock, web: Hook, run: Run, client: httpx.Client
    ) -> None:
        (image,) = synthetic.ct_series(1)
        list(room.ingest.store([part10(image)], facility="local", source="CT1"))
        clock.advance(timedelta(seconds=61))
        settle_studies(room)
        web.status, web.body = 409, response((), {str(image.SOPInstanceUID): 0xA900})
        room.queue.drain()
        where = ("--data", room.settings.data, "--database", str(room.settings.database))
        shown = run("forwards", "list", *where).words
        assert "refused" in shown
        assert str(image.StudyInstanceUID) in shown
        metrics = client.get("/metrics").text
        assert 'readingroom_forwards{destination="city",state="refused"} 1.0' in metrics
        web.status, web.body = 200, response(uids([image]))
        run("forwards", "retry", "--dead", "--to", "city", *where)
        clock.at = SystemClock().now() + timedelta(days=1)
        room.queue.drain()
        assert json.loads(run("forwards", "list", "--json", *where).out)[0]["state"] == "done"
        run("forwards", "drop", "1", *where, status=1)
        run("forwards", "retry", "4711", *where, status=1)
