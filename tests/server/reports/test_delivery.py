"""Signed reports go to all who are to have them, in order, and what goes wrong is loud."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from readingroom.clock import SetClock
from readingroom.errors import Conflict, GiveUp, Invalid, RetryLater, Unprintable, Unreachable
from readingroom.model import LOCAL_OPERATOR, Destination, Report, Scope
from readingroom.results import Receipt
from server.archive import open_queue
from server.queue import NotBegun
from server.reports.delivery import Deliveries, Sending, go_on, queue_version, remember_ways, repeat_delivery
from server.worklist.directory import destinations_of
from server.worklist.directory_file import WrongFile, read_files, write_text
from server.worklist.items import working
from storage.catalog import schema as t
from storage.catalog.deliveries import (
    StoredDelivery,
    count_deliveries,
    list_deliveries,
    list_delivery_attempts,
)
from storage.catalog.directory import Directory, write_facility
from storage.catalog.engine import begin_write
from storage.catalog.escalations import list_escalations
from tests.deliveries import keep_report, made_report, section
from tests.directory import facility

ALL = Scope()
DAY = timedelta(days=1)
FINE = Receipt(accepted=True, code="AA", reference="R1")


@dataclass
class Courier:
    """Deliveries over a channel `test` that does as it is told; `sent` is what it was given."""

    engine: sa.Engine
    clock: SetClock
    does: Callable[[Report, Destination, Sending], Receipt] = lambda report, destination, sending: FINE
    plugins: dict[str, Callable[..., Any]] = field(default_factory=dict)
    sent: list[tuple[str, int, str]] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = open_queue(self.engine, self.clock)
        self.register()

    def register(self) -> None:
        Deliveries(
            engine=self.engine,
            clock=self.clock,
            queue=self.queue,
            hooks=self,
            pdf=self.set_as_pdf,
            channels={"test": self.carry},
        ).register()

    def set_as_pdf(self, report: Report) -> bytes:
        if "Linear B" in report.section("impression"):
            raise Unprintable
        return b"%PDF-1.7"

    def carry(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        self.sent.append((report.id, report.number, destination.id))
        self.controls.append(sending.control_id)
        return self.does(report, destination, sending)

    def having(self, hook: str) -> tuple[str, ...]:
        return tuple(self.plugins)

    def react(self, plugin: str, hook: str, *, delivery: str, attempt: int = 1, **told: Any) -> Any:
        return self.plugins[plugin](delivery=delivery, **told)

    def configure(self, *destinations: dict[str, Any], id: str = "local", **more: Any) -> None:
        entry = facility(id, destinations=destinations, **more)
        with begin_write(self.engine) as connection:
            write_facility(connection, entry, self.clock.now())

    def sign(self, **changes: Any) -> Report:
        return keep_report(self.engine, self.queue, made_report(**{"signed_at": self.clock.now(), **changes}))

    def again(self, report: Report, **changes: Any) -> Report:
        return keep_report(self.engine, self.queue, replace(report, number=report.number + 1, **changes))

    def run(self) -> None:
        self.queue.drain()

    def later(self, span: timedelta) -> None:
        """Time goes by: PostgreSQL keeps that of jobs by its own clock."""
        self.clock.advance(span)
        if self.engine.dialect.name == "postgresql":
            with begin_write(self.engine) as connection:
                sooner = sa.text("UPDATE procrastinate_jobs SET scheduled_at = scheduled_at - :span")
                connection.execute(sooner, {"span": span})

    def rows(self, **known: Any) -> list[StoredDelivery]:
        with self.engine.connect() as connection:
            return list_deliveries(connection, ALL, **known)[::-1]

    def row(self) -> StoredDelivery:
        (row,) = self.rows()
        return row

    def repeat(self, id: int, **how: bool) -> StoredDelivery:
        with working(self.engine, self.clock, LOCAL_OPERATOR, ALL, queue=self.queue) as work:
            return repeat_delivery(work, self.queue, id, **how)

    def escalations(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list_escalations(connection, ALL, state=None, item=None, limit=100)

    def told(self, what: str) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(t.event.c.payload).where(t.event.c.type == what).order_by(t.event.c.seq)
            )
            return [orjson.loads(row.payload) for row in rows]


def to(id: str = "ris", **more: Any) -> dict[str, Any]:
    return {"id": id, "channel": "test", "address": "there", **more}


def failing(*errors: Exception) -> Callable[..., Receipt]:
    """Raises these, one after the other, and is fine from then on."""
    left = list(errors)

    def does(*_: Any) -> Receipt:
        if left:
            raise left.pop(0)
        return FINE

    return does


@pytest.fixture
def courier(engine: sa.Engine, clock: SetClock) -> Courier:
    made = Courier(engine, clock)
    made.configure(to())
    return made


def test_a_signed_report_goes_to_each_destination_and_its_receipt_is_kept(courier: Courier) -> None:
    courier.configure(to("ris"), to("archive"))
    report = courier.sign()
    courier.run()
    assert sorted(courier.sent) == [(report.id, 1, "archive"), (report.id, 1, "ris")]
    for row in courier.rows():
        assert (row.state, row.answered, row.attempts) == ("accepted", FINE, 1)
        assert len(row.control_id) == 20
    assert len(courier.told("DeliveryAccepted")) == 2


def test_a_destination_gets_only_the_statuses_that_it_takes_and_the_others_are_seen_to_be_skipped(
    courier: Courier,
) -> None:
    courier.configure(to(statuses=["final"]), to("off", active=False))
    courier.sign(status="preliminary")
    courier.run()
    assert courier.sent == []
    assert {row.destination: (row.state, row.error) for row in courier.rows()} == {
        "ris": ("skipped", "It does not take this status."),
        "off": ("skipped", "It is not active."),
    }


def test_a_correction_follows_whatever_the_destination_has_become(courier: Courier) -> None:
    report = courier.sign()
    courier.run()
    courier.configure(to(active=False, statuses=["preliminary"]))
    second = courier.again(report, status="corrected", kind="correction")
    courier.run()
    courier.configure()  # it is not in the directory any more
    courier.again(second, status="entered-in-error", kind="correction")
    courier.run()
    assert courier.sent == [(report.id, number, "ris") for number in (1, 2, 3)]


def test_versions_go_in_their_order_though_the_first_has_to_wait_while_others_pass(courier: Courier) -> None:
    courier.does = failing(RetryLater("AE"))
    first = courier.sign(accession_number="A1")
    courier.run()
    courier.again(first, status="amended", kind="amendment")
    other = courier.sign(accession_number="A2")
    courier.run()
    assert courier.sent == [(first.id, 1, "ris"), (other.id, 1, "ris")]
    courier.later(timedelta(minutes=2))
    courier.run()
    assert courier.sent[2:] == [(first.id, 1, "ris"), (first.id, 2, "ris")]
    assert {row.state for row in courier.rows()} == {"accepted"}


def test_a_receiver_that_is_away_is_asked_once_in_a_while_however_much_waits(courier: Courier) -> None:
    def does(report: Report, destination: Destination, sending: Sending) -> Receipt:
        if destination.id == "dead":
            raise Unreachable("Nobody answers.")
        return FINE

    courier.does = does
    courier.configure(to("dead"), to("alive"))
    for number in range(30):
        courier.sign(accession_number=f"A{number}")
    courier.run()
    asked = [one for one in courier.sent if one[2] == "dead"]
    assert len(asked) == 1
    assert len(courier.sent) - len(asked) == 30
    for _ in range(20):
        courier.later(timedelta(seconds=30))
        courier.run()
    assert 1 < len([one for one in courier.sent if one[2] == "dead"]) <= 9  # the waits double, up to five minutes
    courier.does = lambda *_: FINE
    courier.later(timedelta(minutes=5))
    courier.run()
    assert {row.state for row in courier.rows()} == {"accepted"}
    delivered = [one for one in courier.sent if one[2] == "dead"][-30:]
    assert delivered == [(row.report, 1, "dead") for row in courier.rows(destination="dead")]


def test_a_receiver_that_refuses_everything_for_now_is_left_alone_too(courier: Courier) -> None:
    courier.does = failing(*(RetryLater("busy") for _ in range(100)))
    for number in range(10):
        courier.sign(accession_number=f"A{number}")
    courier.run()
    assert len(courier.sent) == 3


def test_after_a_day_what_waits_is_dead_and_the_desk_is_called_once(courier: Courier) -> None:
    courier.does = failing(*(Unreachable("Nobody answers.") for _ in range(1000)))
    reports = [courier.sign(accession_number=f"A{number}") for number in range(5)]
    courier.run()
    courier.later(DAY)
    courier.run()
    assert {row.state for row in courier.rows()} == {"dead"}
    assert {one["report"] for one in courier.told("DeliveryDead")} == {report.id for report in reports}
    (escalation,) = courier.escalations()
    assert escalation.facility == "local"
    assert "destination ris" in escalation.reason
    courier.sign(accession_number="A9")
    courier.later(timedelta(minutes=10))
    courier.run()
    courier.later(DAY)
    courier.run()
    assert {row.state for row in courier.rows()} == {"dead"}
    assert len(courier.escalations()) == 1  # somebody is being called about it already


def test_the_desk_is_called_when_a_receiver_has_been_away_for_some_time_though_nothing_is_lost(
    courier: Courier,
) -> None:
    courier.does = failing(*(Unreachable("Nobody answers.") for _ in range(12)))
    courier.sign()
    for _ in range(11):
        courier.run()
        courier.later(timedelta(minutes=5))
    assert courier.escalations() == []
    courier.run()
    assert (courier.row().state, len(courier.escalations())) == ("queued", 1)
    courier.later(timedelta(minutes=5))
    courier.run()
    assert courier.row().state == "accepted"


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (Receipt(accepted=False, code="AR", text="no Jane Doe"), "refused", "refused it (AR)"),
        (GiveUp("No such thing."), "dead", "No such thing."),
        (Invalid("U+1F600 has no glyph."), "dead", "U+1F600"),
        (Unprintable("No font here can set U+1F600."), "dead", "U+1F600"),
    ],
)
def test_what_will_never_be_taken_ends_at_once_and_is_loud(
    courier: Courier, answer: Receipt | Exception, state: str, error: str
) -> None:
    courier.does = failing(answer) if isinstance(answer, Exception) else lambda *_: answer
    courier.sign()
    courier.run()
    row = courier.row()
    assert (row.state, len(courier.sent)) == (state, 1)
    assert error in row.error
    (escalation,) = courier.escalations()
    assert error in escalation.reason


def test_what_nobody_foresaw_is_of_one_delivery_alone(courier: Courier) -> None:
    courier.does = failing(ZeroDivisionError())
    first, second = courier.sign(accession_number="A1"), courier.sign(accession_number="A2")
    courier.run()
    assert courier.sent == [(first.id, 1, "ris"), (second.id, 1, "ris")]
    courier.later(timedelta(minutes=1))
    courier.run()
    assert {row.state for row in courier.rows()} == {"accepted"}


def test_a_busy_plugin_costs_no_attempt(courier: Courier) -> None:
    courier.does = failing(*(NotBegun("busy", after=timedelta(seconds=1)) for _ in range(10)))
    courier.sign()
    for _ in range(11):
        courier.run()
        courier.later(timedelta(seconds=2))
    assert (courier.row().state, courier.row().attempts) == ("accepted", 1)


def test_a_blank_address_that_was_kept_by_an_older_release_is_loud(courier: Courier, engine: sa.Engine) -> None:
    kept = orjson.dumps({"destinations": [{"id": "fax", "channel": "fax", "address": ""}]}).decode()
    with begin_write(engine) as connection:
        connection.execute(t.facility.update().where(t.facility.c.id == "local").values(details=kept))
    courier.sign()
    courier.run()
    assert (courier.row().state, courier.sent) == ("dead", [])
    assert "it is blank" in courier.escalations()[0].reason


def test_what_no_font_can_set_is_dead_at_once_and_holds_up_no_other(courier: Courier) -> None:
    courier.does = failing(Unprintable("No font here can set U+10000."))
    courier.sign(accession_number="A1")
    courier.sign(accession_number="A2")
    courier.run()
    assert [(row.state, row.attempts) for row in courier.rows()] == [("dead", 1), ("accepted", 1)]
    assert len(courier.escalations()) == 1


def test_a_plugin_is_given_the_pdf_where_there_is_one(courier: Courier) -> None:
    given: list[str | None] = []

    def gateway(*, pdf: str | None, **_: Any) -> Receipt:
        given.append(pdf)
        return FINE

    courier.plugins = {"gateway": gateway}
    courier.configure({"id": "fax", "channel": "fax", "address": "+15125550100"})
    courier.sign(accession_number="A1")
    courier.run()
    courier.sign(accession_number="A2", sections=(section("impression", "Linear B", "19005-8"),))
    courier.run()
    assert given == [b64encode(b"%PDF-1.7").decode(), None]


def test_a_channel_that_is_no_built_in_one_is_carried_by_the_first_plugin_that_knows_it(courier: Courier) -> None:
    asked: list[str] = []

    def gateway(delivery: str, report: Report, destination: Destination, **_: Any) -> Receipt | None:
        asked.append(delivery)
        return Receipt(accepted=True, reference=delivery) if destination.channel == "pager" else None

    courier.plugins = {"other": lambda **_: None, "gateway": gateway}
    courier.configure(to(channel="pager"))
    courier.sign()
    courier.run()
    row = courier.row()
    assert row.answered == Receipt(accepted=True, reference=row.control_id)
    assert asked == [row.control_id]


def test_a_channel_that_nobody_carries_is_loud(courier: Courier) -> None:
    courier.configure(to(channel="pigeon"))
    courier.sign()
    courier.run()
    assert courier.row().state == "dead"
    assert "pigeon" in courier.escalations()[0].reason


def test_every_attempt_bears_the_same_control_id_and_is_kept(courier: Courier, engine: sa.Engine) -> None:
    courier.does = failing(Unreachable("Nobody answers."), RetryLater("AE"))
    courier.sign()
    for _ in range(3):
        courier.run()
        courier.later(timedelta(minutes=1))
    assert len(set(courier.controls)) == 1
    with engine.connect() as connection:
        attempts = list_delivery_attempts(connection, courier.row().id)
    assert [(one.number, one.outcome, one.error) for one in attempts] == [
        (1, "queued", "Nobody answers."),
        (2, "queued", "AE"),
        (3, "accepted", ""),
    ]


class Killed(BaseException):
    """The process dies here."""


def test_what_was_sent_by_one_who_died_then_is_sent_again_with_the_same_control_id(courier: Courier) -> None:
    def dies(*_: Any) -> Receipt:
        raise Killed

    courier.does = dies
    courier.sign()
    courier.queue.run(courier.queue.claim()[0])
    (job,) = courier.queue.claim()
    with pytest.raises(Killed):
        courier.queue.handlers[job.kind](job)
    assert courier.row().state == "sent"
    courier.does = lambda *_: FINE
    with begin_write(courier.engine) as connection:
        go_on(connection, courier.queue, "local", "ris", courier.clock.now())
    courier.queue = open_queue(courier.engine, courier.clock)
    courier.queue.lease = timedelta(0)
    courier.register()
    courier.queue.rescue()
    courier.run()
    assert (courier.row().state, len(courier.sent)) == ("accepted", 2)
    assert len(set(courier.controls)) == 1


def test_a_destination_that_no_job_looks_after_is_remembered(courier: Courier, engine: sa.Engine) -> None:
    courier.does = failing(Unreachable("Nobody answers."))
    courier.sign()
    courier.run()
    for job in courier.queue.entries():
        courier.queue.drop(job.id)
    courier.later(timedelta(minutes=1))
    courier.run()
    assert len(courier.sent) == 1
    assert remember_ways(engine, courier.queue, courier.clock.now()) == 1
    courier.run()
    assert courier.row().state == "accepted"


# -- repeating -----------------------------------------------------------------------------------------------------


def test_what_is_dead_can_be_repeated_and_keeps_its_control_id_unless_it_is_to_be_new(courier: Courier) -> None:
    courier.does = failing(GiveUp("Not yet."), GiveUp("Not yet."))
    courier.sign()
    courier.run()
    courier.repeat(courier.row().id)
    courier.run()
    courier.repeat(courier.row().id, is_new=True)
    courier.run()
    assert courier.row().state == "accepted"
    assert courier.controls[0] == courier.controls[1] != courier.controls[2]


def test_repeating_asks_a_receiver_at_once_that_is_left_alone(courier: Courier) -> None:
    courier.does = failing(*(Unreachable("Nobody answers.") for _ in range(3)))
    courier.sign()
    for _ in range(3):
        courier.run()
        courier.later(timedelta(minutes=1))
    courier.repeat(courier.row().id)
    courier.run()
    assert courier.row().state == "accepted"


def test_an_older_version_is_not_repeated_over_a_later_one(courier: Courier) -> None:
    courier.again(courier.sign(), status="corrected", kind="correction")
    courier.run()
    first, second = courier.rows()
    with pytest.raises(Conflict, match="later version"):
        courier.repeat(first.id)
    assert courier.repeat(second.id).state == "queued"


def test_a_version_that_is_told_of_twice_goes_once(courier: Courier) -> None:
    report = courier.sign()
    with working(courier.engine, courier.clock, LOCAL_OPERATOR, ALL, queue=courier.queue) as work:
        queue_version(work, courier.queue, report.id, 1)
    courier.run()
    assert len(courier.sent) == 1


def test_destinations_are_read_from_a_file_written_again_and_refused_with_their_line(tmp_path: Path) -> None:
    text = """
[[facilities]]
id = "mercy"
name = "Mercy"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"

[[facilities.destinations]]
id = "ris"
channel = "hl7"
address = "mllps://ris.example.org:2575"
statuses = ["final", "corrected"]
options = { version = "2.3.1", pdf = true, seconds = 5 }

[[facilities.destinations]]
id = "ward"
channel = "fax"
address = "+15125550100"
active = false
"""
    path = tmp_path / "facilities.toml"
    path.write_text(text)
    told = read_files([path])
    again = tmp_path / "again.toml"
    again.write_text(write_text(Directory(facilities=told.facilities, readers={})))
    assert read_files([again]).facilities == told.facilities
    path.write_text(text.replace("+15125550100", ""))
    with pytest.raises(WrongFile) as raised:
        read_files([path])
    (problem,) = raised.value.problems
    assert problem.line == text[: text.index('address = "+1')].count("\n") + 1
    assert "it is blank" in problem.what


# -- where reports go ----------------------------------------------------------------------------------------------


def test_a_facility_has_the_destinations_above_it_but_for_those_it_has_itself(
    engine: sa.Engine, clock: SetClock
) -> None:
    with begin_write(engine) as connection:
        write_facility(connection, facility("group", destinations=[to("ris"), to("fax", address="up")]), clock.now())
        site = facility("site", parent="group", destinations=[to("fax", address="here", active=False)])
        write_facility(connection, site, clock.now())
        found = destinations_of(connection, "site")
    assert {(one.facility, one.id, one.address, one.is_active) for one in found} == {
        ("site", "fax", "here", False),
        ("group", "ris", "there", True),
    }


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("hl7", ""),
        ("hl7", "mllp://ris.example.org"),
        ("hl7", "mllp://ris.example.org:0"),
        ("hl7", "mllp://ris.example.org:2575/path"),
        ("hl7", "https://ris.example.org:2575"),
        ("fhir", "ftp://ehr.example.org"),
        ("stow", "https://"),
        ("mail", "desk@example.org"),
        ("mail", "mailto:desk"),
        ("fax", "   "),
        ("fax", "512 555 0100"),
        ("sms", "+0"),
        ("dicom", "PACS"),
        ("dicom", "PACS@host:70000"),
        ("dicom", "SEVENTEEN_LETTERS@host:104"),
        ("pigeon", " "),
    ],
)
def test_a_blank_or_malformed_address_is_refused_when_it_is_configured(channel: str, address: str) -> None:
    with pytest.raises(ValueError, match="this is no address of channel"):
        facility(destinations=[{"id": "one", "channel": channel, "address": address}])


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("hl7", "mllp://10.0.0.5:2575"),
        ("hl7", "mllps://[2001:db8::1]:2575"),
        ("fhir", "https://ehr.example.org/fhir"),
        ("stow", "https://pacs.example.org/dicomweb/studies"),
        ("mail", "mailto:desk@example.org"),
        ("fax", "+15125550100"),
        ("sms", "+4915112345678"),
        ("dicom", "PACS@pacs.example.org:104"),
        ("pigeon", "the roof"),
    ],
)
def test_an_address_that_is_right_is_taken(channel: str, address: str) -> None:
    options = {"server": "mail.example.org", "sender": "room@example.org", "link": "https://room.example.org"}
    told = {"id": "one", "channel": channel, "address": address, "options": options if channel == "mail" else {}}
    (one,) = facility(destinations=[told]).destinations
    assert one.address == address


def test_options_that_a_channel_does_not_have_are_refused() -> None:
    told = {"id": "one", "channel": "hl7", "address": "mllp://10.0.0.5:2575"}
    with pytest.raises(ValueError, match="version"):
        facility(destinations=[{**told, "options": {"version": "9"}}])
    with pytest.raises(ValueError, match="colour"):
        facility(destinations=[{**told, "options": {"colour": "red"}}])
    with pytest.raises(ValueError, match="server"):
        facility(destinations=[{"id": "one", "channel": "mail", "address": "mailto:desk@example.org"}])
    with pytest.raises(ValueError, match="two destinations"):
        facility(destinations=[told, told])


def test_what_has_not_arrived_is_counted_with_the_age_of_the_oldest(courier: Courier, engine: sa.Engine) -> None:
    courier.does = failing(GiveUp("Never."), RetryLater("Later."))
    for number in range(3):
        courier.sign(accession_number=f"A{number}")
    courier.run()
    queued = courier.clock.now()
    with engine.connect() as connection:
        assert sorted(count_deliveries(connection)) == [("dead", 1, queued), ("queued", 1, queued)]
