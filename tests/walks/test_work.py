"""A head CT with blood finds its reader, and a critical result its recipient: the whole story on a live server.

Phantoms alone: twenty chests are waiting when the head arrives. The plugins are those that come with the server, each
in a process of its own; mail and web hook are real services on loopback.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydicom import FileDataset

from conformance.heads import FIELD_MM, SLICE_MM, make_head
from readingroom.clock import SystemClock
from tests.multipart import content_type, encode
from tests.plugins.peers import Hook, Post, mail_server, web_service
from tests.servers import Live, environment, live_server
from tests.synthetic import ct_series, part10
from tests.waiting import expect

CHESTS = 20
pytestmark = pytest.mark.timeout(600)
HTTP = httpx.Client(timeout=60)
TRANSACTION = "2.25.4711"
SECRET = "whsec_" + "cGhhbnRvbXMgYWxvbmUsIGFuZCBub2JvZHkncyBzZWNyZXQ="
TODAY = SystemClock().now().date()

DIRECTORY = f"""
[[facilities]]
id = "local"
name = "Local"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
contacts = [
    {{ name = "Dr. Referrer", role = "referrer", channel = "smtp", address = "referrer@example.org" }},
    {{ name = "Desk", role = "desk", channel = "webhook", address = "HOOK/desk" }},
]

[[facilities.contracts]]
from = 2026-01-01
classes = [{{ study_type = "stat", due = "1h" }}, {{ study_type = "routine", due = "1d" }}]

# Who may read it: a neuroradiologist of Texas, on shift.
[[readers]]
id = "neuro"
name = "Nora Neuro"
zone = "America/Chicago"
subspecialties = ["2085N0700X"]
skills = ["CT/HEAD"]
licences = [{{ state = "US-TX", number = "T1" }}]
credentials = [{{ facility = "local" }}]
shifts = [{{ starts = "00:00", ends = "00:00" }}]

# Who may not: one without a licence there, one on leave, one without privileges.
[[readers]]
id = "elsewhere"
name = "Ella Elsewhere"
zone = "America/Los_Angeles"
subspecialties = ["2085N0700X"]
skills = ["CT/HEAD"]
licences = [{{ state = "US-CA", number = "C1" }}]
credentials = [{{ facility = "local" }}]
shifts = [{{ starts = "00:00", ends = "00:00" }}]

[[readers]]
id = "away"
name = "Ava Away"
zone = "America/Chicago"
subspecialties = ["2085N0700X"]
skills = ["CT/HEAD"]
licences = [{{ state = "US-TX", number = "T2" }}]
credentials = [{{ facility = "local" }}]
shifts = [{{ starts = "00:00", ends = "00:00" }}]
leave = [{{ from = {TODAY - timedelta(days=2)}, to = {TODAY + timedelta(days=2)} }}]

[[readers]]
id = "stranger"
name = "Sam Stranger"
zone = "America/Chicago"
subspecialties = ["2085N0700X"]
skills = ["CT/HEAD"]
licences = [{{ state = "US-TX", number = "T3" }}]
shifts = [{{ starts = "00:00", ends = "00:00" }}]

# Who may as well, and knows chests.
[[readers]]
id = "chest"
name = "Carl Chest"
zone = "America/Chicago"
subspecialties = ["2085R0202X"]
skills = ["CT/CHEST"]
licences = [{{ state = "US-TX", number = "T4" }}]
credentials = [{{ facility = "local" }}]
shifts = [{{ starts = "00:00", ends = "00:00" }}]
"""


def plugins_of(hook: Hook, post: Post) -> dict[str, Any]:
    """The settings of the plugins: a head is due within the hour, and warned of after two seconds."""
    return {
        "ai_triage": {},
        "routing": {},
        "sla": {"rules": [{"name": "head", "body_parts": ["HEAD"], "due_minutes": 60, "warn_share": 2 / 3600}]},
        "escalation": {
            "network": True,
            "base_url": "http://room.example.org",
            "ladders": [
                {
                    "categories": [1],
                    "rungs": [{"role": "referrer", "after_minutes": 0}, {"role": "desk", "after_minutes": 1 / 60}],
                }
            ],
            "smtp": {"host": "127.0.0.1", "port": post.port, "security": "none", "sender": "room@example.org"},
            "webhooks": [{"origin": hook.url, "secret": SECRET}],
            "private_networks": ["127.0.0.0/8"],
        },
    }


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with web_service() as service:
        yield service


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    with mail_server() as server:
        yield server


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory, hook: Hook, post: Post) -> Iterator[Live]:
    """A live server with a directory of readers, and the plugins that come with it."""
    home = tmp_path_factory.mktemp("department")
    (home / "directory.toml").write_text(DIRECTORY.replace("HOOK", hook.url))
    command = [sys.executable, "-m", "server.cli", "directory", "import", str(home / "directory.toml")]
    subprocess.run([*command, "--data", str(home / "data")], check=True, env=environment(), capture_output=True)
    settings = {"settle_seconds": 0.5, "research_mode": True, "plugins": json.dumps(plugins_of(hook, post))}
    with live_server(home / "data", settings=settings) as live:
        yield live


def store(live: Live, objects: list[FileDataset]) -> str:
    """Store a study; gives its UID."""
    answer = HTTP.post(
        f"{live.dicomweb}/studies",
        content=encode([part10(one) for one in objects]),
        headers={"Content-Type": content_type()},
    )
    assert answer.status_code == 200, answer.text
    return str(objects[0].StudyInstanceUID)


def listed(live: Live, reader: str) -> list[dict[str, Any]]:
    """What a reader is offered or has, in the order to read it."""
    answer = HTTP.get(f"{live.base}/worklist", params={"limit": 100, "reader": reader})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def workitems(live: Live) -> dict[str, str]:
    """All items as UPS-RS has them: the priority of each by its UID."""
    answer = HTTP.get(f"{live.dicomweb}/workitems", params={"limit": 100})
    assert answer.status_code in (200, 204), answer.text
    rows = answer.json() if answer.status_code == 200 else []
    return {row["00080018"]["Value"][0]: row["00741200"]["Value"][0] for row in rows}


def shown(live: Live, item: dict[str, Any]) -> dict[str, Any]:
    """An item with its history and what plugins have answered."""
    answer = HTTP.get(f"{live.base}/worklist/{item['workitem'].rsplit('/', 1)[1]}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chest() -> list[FileDataset]:
    return ct_series(2)


def head_with_blood() -> list[FileDataset]:
    """A phantom of a seed that the detector has never seen, with a bleed into the brain."""
    head = make_head(4_711, bleed="parenchymal")
    count, rows, columns = head.hu.shape
    slices = ct_series(count, rows, columns, BodyPartExamined="HEAD", SliceThickness=SLICE_MM)
    for index, (one, hounsfield) in enumerate(zip(slices, head.hu, strict=True)):
        one.ImagePositionPatient = [0, 0, index * SLICE_MM]
        one.PixelSpacing = [FIELD_MM / rows, FIELD_MM / columns]
        one.PixelData = (hounsfield - int(one.RescaleIntercept)).astype("<i2").tobytes()
    return slices


@pytest.fixture(scope="module")
def head(department: Live) -> tuple[str, dict[str, Any]]:
    """The UID of the head's study, which came after the chests, and its item once it is flagged."""
    for _ in range(CHESTS):
        store(department, chest())
    before = expect(lambda: workitems(department), lambda found: len(found) == CHESTS, f"{CHESTS} items")
    uid = store(department, head_with_blood())
    rows = expect(
        lambda: listed(department, "neuro"),
        lambda rows: bool(rows) and rows[0]["study_uid"] == uid and rows[0]["is_flagged"],
        "the head before all that the neuroradiologist is offered",
    )
    after = workitems(department)
    assert {after[one] for one in before} == {"LOW"}
    (own,) = set(after) - set(before)
    assert after[own] == "HIGH"
    return uid, rows[0]


def test_the_blood_is_found_in_slices_that_show_it(department: Live, head: tuple[str, dict[str, Any]]) -> None:
    study_uid, item = head
    answers = {one["plugin"]: one for one in shown(department, item)["answers"] if one["hook"] == "triage_study"}
    triage = answers["ai_triage"]["answer"]
    (finding, *_) = triage["findings"]
    assert finding["algorithm"]["is_research"], "the algorithm is for research, and the server in research mode"
    (evidence, *_) = finding["evidence"]
    series = f"{department.dicomweb}/studies/{study_uid}/series/{evidence['series_uid']}"
    assert HTTP.get(f"{series}/instances/{evidence['instance_uid']}/metadata").status_code == 200


def test_it_is_offered_to_the_neuroradiologist_who_may_read_it_and_one_of_many_claims_wins(
    department: Live, head: tuple[str, dict[str, Any]]
) -> None:
    _, item = head
    offered = expect(
        lambda: shown(department, item),
        lambda one: any(event.get("after") == "assigned" for event in one["timeline"]),
        "offered",
    )
    offers = {event["reader"] for event in offered["timeline"] if event.get("what") == "offered"}
    assert offers == {"neuro"}

    def claim(number: int) -> int:
        asked = [
            {
                "00081195": {"vr": "UI", "Value": [f"{TRANSACTION}.{number}"]},
                "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]},
            }
        ]
        answer = httpx.put(
            f"{item['workitem']}/state",
            content=json.dumps(asked),
            headers={"Content-Type": "application/dicom+json"},
            timeout=60,
        )
        return answer.status_code

    with ThreadPoolExecutor(20) as racers:
        answers = list(racers.map(claim, range(100)))
    assert sorted(set(answers)) == [200, 409]
    assert answers.count(200) == 1
    assert shown(department, item)["state"] == "claimed"


def test_who_reads_it_is_warned_before_it_is_late(department: Live, head: tuple[str, dict[str, Any]]) -> None:
    _, item = head
    warned = expect(
        lambda: shown(department, item),
        lambda one: any(event.get("mark") == "warn" for event in one["timeline"]),
        "warned of",
    )
    assert warned["is_at_risk"]
    assert [event["mark"] for event in warned["timeline"] if event["type"] == "SlaCrossed"] == ["warn"]


def test_a_critical_result_climbs_from_mail_to_web_hook_and_ends_when_it_is_read_back(
    department: Live, head: tuple[str, dict[str, Any]], hook: Hook, post: Post
) -> None:
    study_uid, item = head
    told = {"reason": "Blood in the head.", "category": 1, "key": "walk", "item": item["id"]}
    opened = HTTP.post(f"{department.base}/escalations", json=told)
    assert opened.status_code in (200, 201), opened.text
    assert [rung["role"] for rung in opened.json()["ladder"]] == ["referrer", "desk"]
    expect(lambda: len(post.mails), lambda count: count == 1, "one mail")
    expect(lambda: len(hook.requests), lambda count: count >= 1, "the web hook called")
    assert post.recipients == ["referrer@example.org"]
    (mail,) = post.mails
    text = mail.get_body().get_content()  # type: ignore[union-attr]
    for private in ("Phantom", "RR-0001", "Blood", study_uid):
        assert private not in text, "a mail names no patient, and nothing of the case"
    linked = re.search(r"http://room\.example\.org(/escalations/\S+)", text)
    assert linked
    path = urlsplit(linked[1]).path
    assert "Blood in the head." in HTTP.get(department.base + path, headers={"Accept": "text/html"}).text

    said = {"by": "Dr. Desk", "read_back": "Blood in the head of bed 4."}
    closed = HTTP.post(f"{department.base}{path}/acknowledge", json=said).json()
    assert (closed["state"], closed["rung"]) == ("acknowledged", 2)
    count = len(hook.requests)
    time.sleep(2.5)
    assert len(hook.requests) == count, "nobody is called after the acknowledgement"
    assert len(post.mails) == 1
    ids = [headers["webhook-id"] for _, headers, _ in hook.requests]
    assert len(set(ids)) == len(ids), "each call has a key of its own"
    attempts = HTTP.get(department.base + path).json()["attempts"]
    assert [(one["rung"], one["state"], one["plugin"]) for one in attempts] == [
        (1, "notified", "escalation"),
        (2, "notified", "escalation"),
        (2, "read-back", ""),
    ]


def test_every_step_of_the_head_is_told_in_its_order(department: Live, head: tuple[str, dict[str, Any]]) -> None:
    _, item = head
    steps = [event.get("what") or event["type"] for event in shown(department, item)["timeline"]]
    wanted = ["created", "reprioritised", "offered", "claimed"]
    assert [step for step in steps if step in wanted] == wanted, steps
    assert "EscalationAcknowledged" in steps
