"""Workers that are killed again and again, at any step, lose nothing of the work and do nothing of it twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa

from server.archive import open_queue
from server.queue import LOST, Queue
from storage.catalog import schema as t
from storage.catalog.clocks import clock_of
from storage.catalog.engine import database_url, open_engine
from tests.multipart import content_type, encode
from tests.servers import environment, live_server, running
from tests.synthetic import ct_series, new_uid, part10
from tests.walks.crashing_work import REACH
from tests.walks.kill import deaths_in

PAUSE_SECONDS = 0.5
QUIET_SECONDS = 240.0

DIRECTORY = """
[[facilities]]
id = "local"
name = "Local"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
contacts = [{ name = "Desk", role = "desk", channel = "webhook", address = "HOOK" }]
"""

VENDOR = """
import json
import urllib.request
from datetime import timedelta

from readingroom import Algorithm, Finding, Notified, Rung, Sla, Triage, hookimpl

BLEED = Algorithm(name="Bleed", version="1", clearance="K221234", modalities=("CT",))


def post(address, **told):
    request = urllib.request.Request(address, json.dumps(told).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


@hookimpl
def study_arrived(study, ctx):
    post("HOOK", key=ctx.delivery, arrived=study.study_uid)


@hookimpl
def study_changed(study, added, removed, ctx):
    post("HOOK", key=ctx.delivery, changed=study.study_uid, added=list(added), removed=list(removed))


@hookimpl
def triage_study(study):
    found = (Finding(text="Blood", category=1, algorithm=BLEED),)
    return Triage(findings=found, priority="stat", is_flagged=True, because="p=0.9")


@hookimpl
def sla_for(item):
    return Sla(due_at=item.created_at + timedelta(seconds=1))


@hookimpl
def ladder_for(escalation):
    return (Rung(number=1, role="nobody", after=timedelta(0)), Rung(number=2, role="desk", after=timedelta(minutes=1)))


@hookimpl
def notify_contact(escalation, rung, contact, ctx):
    post(contact.address, key=ctx.delivery, escalation=escalation.id, rung=rung.number)
    return Notified(reference=ctx.delivery, at=ctx.clock.now())
"""


class Desk:
    """A web hook that deduplicates by key, and a person behind it who acknowledges every other call."""

    def __init__(self) -> None:
        self.had: dict[str, dict[str, Any]] = {}
        self.faults: list[str] = []
        self.repeated = 0
        self.acknowledged: set[str] = set()
        self.calls: SimpleQueue[str | None] = SimpleQueue()
        self.base = ""

    def take(self, told: dict[str, Any]) -> None:
        if told["key"] in self.had:
            self.repeated += 1
            if self.had[told["key"]] != told:
                self.faults.append(f"one key says two things: {told} {self.had[told['key']]}")
            return
        self.had[told["key"]] = told
        if "escalation" in told and len(self.had) % 2:
            self.calls.put(told["escalation"])

    def answer(self) -> None:
        """Acknowledge until told to stop; a server that dies meanwhile is asked again."""
        while (id := self.calls.get()) is not None:
            said = {"by": "Desk", "read_back": "Blood."}
            response = insist("POST", f"{self.base}/escalations/{id}/acknowledge", json=said)
            if response.status_code not in (200, 409):
                self.faults.append(f"not acknowledged: {response.status_code} {response.text[:200]}")
            self.acknowledged.add(id)


@contextmanager
def desk() -> Iterator[tuple[Desk, str]]:
    found = Desk()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    person = threading.Thread(target=found.answer, daemon=True)
    person.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_port}/"
    finally:
        found.calls.put(None)
        person.join(60)
        server.shutdown()
        server.server_close()


def insist(method: str, url: str, **options: Any) -> httpx.Response:
    """Ask until there is an answer that is none of an outage."""
    give_up = time.monotonic() + QUIET_SECONDS
    while True:
        try:
            response = httpx.request(method, url, timeout=60, **options)
            if response.status_code != 503:
                return response
        except httpx.TransportError:
            pass
        assert time.monotonic() < give_up, f"{url} does not answer"
        time.sleep(0.1)


def send_image(dicomweb: str, study_uid: str) -> str:
    """Store one image, in a series of its own, however often that takes."""
    (image,) = ct_series(1)
    image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, new_uid()
    body = encode([part10(image)])
    response = insist("POST", f"{dicomweb}/studies", content=body, headers={"Content-Type": content_type()})
    assert response.status_code == 200, response.text
    return str(image.SOPInstanceUID)


def next_to_come_late(engine: sa.Engine, late: Mapping[str, str]) -> str | None:
    """A study that has settled, and of which nothing has come since."""
    c = t.study.c
    settled = sa.select(c.study_uid).where(c.revision == 1, c.settle_due_at.is_(None)).order_by(c.settled_at)
    with engine.connect() as connection:
        return next((uid for uid in connection.execute(settled).scalars() if uid not in late), None)


def survive(tmp_path: Path, *, each: int, database: str | None, seconds: float) -> None:
    """Kill workers `each` times at each step of the work, and look at what became of every study."""
    data, notes = tmp_path / "data", tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "plugins").mkdir()
    told: dict[str, Any] = {"database": database} if database else {}
    crashing = ("tests.walks.crashing_work", str(notes), str(each))
    with desk() as (hook, address), ExitStack() as stack:
        (tmp_path / "plugins" / "vendor.py").write_text(VENDOR.replace("HOOK", address))
        (tmp_path / "directory.toml").write_text(DIRECTORY.replace("HOOK", address))
        command = [sys.executable, "-m", "server.cli", "directory", "import", str(tmp_path / "directory.toml")]
        command += ["--data", str(data)]
        subprocess.run(command, check=True, env=environment(told), capture_output=True)
        plugins = json.dumps({"vendor": {"network": True, "milliseconds": 5000}})
        told |= {"settle_seconds": 0.5, "plugins_folder": tmp_path / "plugins", "plugins": plugins}
        module = ("server.cli",) if database else crashing
        told["embedded_worker"] = database is None
        live = stack.enter_context(live_server(data, settings=told, module=module))
        hook.base = live.base
        if database:
            command = [sys.executable, "-m", *crashing, "work", "--data", str(data), "--workers", "2"]
            log = tmp_path / "work.log"
            stack.enter_context(running(command, log=log, is_ready=lambda: True, env=environment(told)))
        studies: list[str] = []
        late: dict[str, str] = {}
        engine = open_engine(database_url(database, data))
        give_up = time.monotonic() + seconds
        while any(deaths_in(notes).by_point.get(point, 0) < each for point in REACH):
            assert time.monotonic() < give_up, f"only {deaths_in(notes).by_point} in {seconds} s"
            studies.append(new_uid())
            send_image(live.dicomweb, studies[-1])
            if len(studies) % 3 == 0 and (uid := next_to_come_late(engine, late)) is not None:
                late[uid] = send_image(live.dicomweb, uid)
            time.sleep(PAUSE_SECONDS)
        queue = open_queue(engine, clock_of(engine))
        buried = settle_down(queue, len(studies), late)
        deaths = deaths_in(notes).by_point
    wrong = [*hook.faults, *look_at_studies(engine, studies, late), *look_at_escalations(engine, studies, hook)]
    wrong += look_at_what_came_late(engine, late, hook)
    engine.dispose()
    print(
        f"{sum(deaths.values())} kills {deaths}: {len(studies)} studies, {len(late)} of them changed after they had "
        f"settled, {len(hook.had)} messages and {hook.repeated} "
        f"repeated with their keys, {len(hook.acknowledged)} acknowledged, {buried} jobs buried with their workers"
    )
    assert not wrong, f"{len(wrong)} faults after {deaths}, the first: {wrong[:5]}"


def settle_down(queue: Queue, studies: int, late: Collection[str]) -> int:
    """Wait until nothing is left to be done; what died with its worker too often is told to be tried again."""
    retried: set[int] = set()
    give_up = time.monotonic() + QUIET_SECONDS
    while True:
        left = [one for one in queue.entries(limit=100_000) if one.kind != "flow.late"]
        for one in left:
            if one.state == "dead":
                assert one.error == LOST, one
                queue.retry(one.id)
                retried.add(one.id)
        with queue.engine.connect() as connection:
            items = connection.execute(sa.select(sa.func.count()).select_from(t.work_item)).scalar_one()
            opened = sa.select(sa.func.count()).select_from(t.escalation).where(t.escalation.c.rung >= 2)
            climbed = connection.execute(opened).scalar_one()
            settled = sa.select(t.study.c.study_uid).where(t.study.c.revision > 1, t.study.c.settle_due_at.is_(None))
            again = set(connection.execute(settled).scalars())
        if not left and items >= studies and climbed >= studies and again >= set(late):
            return len(retried)
        assert time.monotonic() < give_up, f"{items} items, {climbed} escalations of {studies}; left: {left[:10]}"
        time.sleep(0.5)


def look_at_studies(engine: sa.Engine, studies: list[str], late: Collection[str]) -> Iterator[str]:
    """Each has settled once for each time that something came, and was asked about as often; it has one item with what
    was found."""
    with engine.connect() as connection:
        items = connection.execute(sa.select(t.work_item)).all()
        answers = connection.execute(sa.select(t.plugin_answer)).all()
        events = connection.execute(sa.select(t.event)).all()
    told: Counter[tuple[str, str]] = Counter()
    for event in events:
        mark = orjson.loads(event.payload).get("mark", "")
        told[event.study_uid, f"{event.type} {mark}".strip()] += 1
    of_study = Counter(item.study_uid for item in items)
    answered = Counter((one.study_uid, one.state) for one in answers)
    once = ("SlaCrossed due", "SlaCrossed breached", "EscalationOpened")
    for uid in studies:
        times = 1 + (uid in late)
        if of_study[uid] != 1 or (answered[uid, "answered"], answered[uid, "missed"]) != (times, 0):
            yield f"{uid} has {of_study[uid]} items and {answered[uid, 'answered']} answers"
        wanted = dict.fromkeys(once, 1) | {"StudySettled": times, "TriageAnswered": times, "StudyChanged": times - 1}
        yield from (
            f"{uid}: {what} {told[uid, what]} times" for what, count in wanted.items() if told[uid, what] != count
        )
    for item in items:
        if (item.state, item.is_flagged, item.findings, item.rank) != ("ready", True, "Blood", 3):
            yield f"an item is not as triage made it: {item.state} {item.findings} {item.rank}"
    yield from (f"nobody sent {uid}" for uid in of_study.keys() - set(studies))


def look_at_what_came_late(engine: sa.Engine, late: Mapping[str, str], hook: Desk) -> Iterator[str]:
    """Of each study that something came of after it had settled, plugins were told what, and each once."""
    with engine.connect() as connection:
        changed = connection.execute(sa.select(t.event).where(t.event.c.type == "StudyChanged")).all()
    events = sorted((event.study_uid, orjson.loads(event.payload)["added"]) for event in changed)
    heard = sorted((told["changed"], told["added"]) for told in hook.had.values() if "changed" in told)
    wanted = sorted((uid, [image]) for uid, image in late.items())
    for what, found in (("the feed", events), ("a plugin", heard)):
        if found != wanted:
            yield f"{what} has {len(found)} changes of {len(wanted)}: {[one for one in found if one not in wanted][:5]}"


def look_at_escalations(engine: sa.Engine, studies: list[str], hook: Desk) -> Iterator[str]:
    """Each item has one; it was told, and is acknowledged, or open with a time for its next rung."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(t.escalation)).all()
        events = connection.execute(sa.select(t.event).order_by(t.event.c.seq)).all()
    of_study = Counter(row.study_uid for row in rows)
    called = {told["escalation"] for told in hook.had.values() if "escalation" in told}
    arrived = Counter(told["arrived"] for told in hook.had.values() if "arrived" in told)
    for uid in studies:
        if (of_study[uid], arrived[uid]) != (1, 1):
            yield f"{uid} has {of_study[uid]} escalations, and came in {arrived[uid]} times"
    for row in rows:
        is_closed = row.state == "acknowledged" and row.due_at is None
        if not is_closed and not (row.state == "open" and row.due_at is not None):
            yield f"escalation {row.id} is an orphan: {row.state} {row.due_at}"
        if row.id not in called:
            yield f"escalation {row.id} reached nobody"
        if row.id in hook.acknowledged and not is_closed:
            yield f"escalation {row.id} was acknowledged and is {row.state}"
    closed: set[str] = set()
    climbed: Counter[tuple[str, int]] = Counter()
    for event in events:
        payload = orjson.loads(event.payload)
        if event.type == "EscalationAcknowledged":
            closed.add(payload["escalation"])
        if event.type == "EscalationClimbed":
            climbed[payload["escalation"], payload["rung"]] += 1
            if payload["escalation"] in closed:
                yield f"escalation {payload['escalation']} climbed after it was acknowledged"
    yield from (f"rung {rung} of {id} was climbed {count} times" for (id, rung), count in climbed.items() if count != 1)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_hundred_kills_of_a_server_on_sqlite_leave_no_work_undone_and_none_done_twice(tmp_path: Path) -> None:
    survive(tmp_path, each=34, database=None, seconds=1800)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.postgres
def test_two_hundred_kills_of_two_workers_on_postgres_leave_no_work_undone_and_none_done_twice(
    tmp_path: Path, postgres_url: str
) -> None:
    survive(tmp_path, each=34, database=postgres_url, seconds=1800)
