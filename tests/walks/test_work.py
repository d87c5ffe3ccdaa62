"""A head CT with blood finds its reader, and a critical result its recipient: the whole story on a live server.

Phantoms alone: twenty chests are waiting when the head arrives. Plugins run as a vendor's would, each in its process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import FileDataset

from tests.multipart import content_type, encode
from tests.servers import Live, environment, live_server
from tests.synthetic import ct_series, new_uid, part10

PATIENCE_SECONDS = 120.0
CHESTS = 20
pytestmark = pytest.mark.timeout(600)
HTTP = httpx.Client(timeout=60)
TRANSACTION = "2.25.4711"

DIRECTORY = """
[[facilities]]
id = "local"
name = "Local"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
contacts = [
    { name = "Dr. Referrer", role = "referrer", channel = "webhook", address = "HOOK/referrer" },
    { name = "Desk", role = "desk", channel = "webhook", address = "HOOK/desk" },
]

[[facilities.contracts]]
from = 2026-01-01
classes = [{ study_type = "stat", due = "1h" }, { study_type = "routine", due = "1d" }]

[[readers]]
id = "neuro"
name = "Nora Neuro"
zone = "America/Chicago"
subspecialties = ["2085N0700X"]
skills = ["CT/HEAD"]
licences = [{ state = "US-TX", number = "T1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]

[[readers]]
id = "elsewhere"
name = "Ella Elsewhere"
zone = "America/Los_Angeles"
licences = [{ state = "US-CA", number = "C1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]
"""

VENDOR = """
import json
import urllib.request
from datetime import timedelta

from readingroom import Algorithm, Code, Evidence, Finding, Notified, Rung, Triage, hookimpl

BLEED = Algorithm(name="Bleed", version="1", clearance="K221234", modalities=("CT",), body_parts=("HEAD",))


@hookimpl
def triage_study(study, ctx):
    if not study.has("CT") or not study.region("HEAD"):
        return None
    hounsfield = ctx.pixels.values(study.series[0])
    dense = (hounsfield > 55) & (hounsfield < 90)
    if dense.sum() < 100:
        return None
    worst = ctx.pixels.layout(study.series[0]).frames[int(dense.sum(axis=(1, 2)).argmax())]
    seen = Evidence(series_uid=study.series[0].series_uid, instance_uid=worst.instance_uid)
    return Triage(
        findings=(Finding(text="Hyperdense blood", category=1, algorithm=BLEED, evidence=(seen,)),),
        priority="stat",
        is_flagged=True,
        because=f"{dense.sum()} voxels",
    )


@hookimpl
def ladder_for(escalation):
    return (
        Rung(number=1, role="referrer", after=timedelta(0)),
        Rung(number=2, role="desk", after=timedelta(seconds=1)),
    )


@hookimpl
def notify_contact(escalation, rung, contact, ctx):
    if contact.channel != "webhook":
        return None
    told = {"escalation": escalation.id, "rung": rung.number, "role": contact.role, "key": ctx.delivery}
    request = urllib.request.Request(contact.address, json.dumps(told).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        return Notified(reference=ctx.delivery, at=ctx.clock.now())
"""


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[list[dict[str, Any]], str]]:
    """A web hook on loopback: what was posted to it, and its address."""
    posted: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield posted, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory, hook: tuple[list[dict[str, Any]], str]) -> Iterator[Live]:
    """A live server with a directory, a vendor's plugin in a folder, and the routing that comes with it."""
    home = tmp_path_factory.mktemp("department")
    (home / "plugins").mkdir()
    (home / "plugins" / "vendor.py").write_text(VENDOR)
    (home / "directory.toml").write_text(DIRECTORY.replace("HOOK", hook[1]))
    command = [sys.executable, "-m", "server.cli", "directory", "import", str(home / "directory.toml")]
    subprocess.run([*command, "--data", str(home / "data")], check=True, env=environment(), capture_output=True)
    plugins = {"vendor": {"network": True}, "routing": {}}
    settings = {"settle_seconds": 0.5, "plugins_folder": home / "plugins", "plugins": json.dumps(plugins)}
    with live_server(home / "data", settings=settings) as live:
        yield live


def expect[T](read: Callable[[], T], is_right: Callable[[T], bool], what: str) -> T:
    """Read until it is right."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_right(seen := read()):
        assert time.monotonic() < give_up, f"{seen!r:.2000} is not {what}"
        time.sleep(0.1)
    return seen


def store(live: Live, objects: list[FileDataset]) -> str:
    """Store a study; gives its UID."""
    answer = HTTP.post(
        f"{live.dicomweb}/studies",
        content=encode([part10(one) for one in objects]),
        headers={"Content-Type": content_type()},
    )
    assert answer.status_code == 200, answer.text
    return str(objects[0].StudyInstanceUID)


def workitems(live: Live, **query: str) -> list[dict[str, Any]]:
    answer = HTTP.get(f"{live.dicomweb}/workitems", params={"limit": "100", **query})
    assert answer.status_code in (200, 204), answer.text
    found: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
    return found


def of_study(rows: list[dict[str, Any]], study_uid: str) -> list[dict[str, Any]]:
    return [row for row in rows if study_uid in json.dumps(row)]


def value(row: dict[str, Any], tag: str) -> Any:
    return row.get(tag, {}).get("Value", [None])[0]


def chest() -> list[FileDataset]:
    uid = new_uid()
    return [image(one, uid, "CHEST") for one in ct_series(2)]


def head_with_blood() -> list[FileDataset]:
    uid = new_uid()
    slices = [image(one, uid, "HEAD") for one in ct_series(3)]
    for one in slices:
        hounsfield = np.full((one.Rows, one.Columns), 30)
        hounsfield[2:-2, 2:-2] = 70
        one.PixelData = (hounsfield - int(one.get("RescaleIntercept", 0))).astype("<u2").tobytes()
    return slices


def image(dataset: FileDataset, study_uid: str, region: str) -> FileDataset:
    dataset.StudyInstanceUID, dataset.BodyPartExamined = study_uid, region
    return dataset


def test_a_head_with_blood_goes_before_twenty_chests_to_a_neuroradiologist_who_may_read_it(department: Live) -> None:
    chests = [store(department, chest()) for _ in range(CHESTS)]
    expect(lambda: len(workitems(department)), lambda count: count == CHESTS, f"{CHESTS} items")
    head = store(department, head_with_blood())
    (item,) = expect(
        lambda: [row for row in of_study(workitems(department), head) if value(row, "00741200") == "HIGH"],
        lambda rows: len(rows) == 1,
        "the item of the head with high priority",
    )
    assert {value(row, "00741200") for uid in chests for row in of_study(workitems(department), uid)} == {"LOW"}
    uid = value(item, "00080018")
    performer = expect(
        lambda: HTTP.get(f"{department.dicomweb}/workitems/{uid}").text,
        lambda text: "neuro" in text,
        "offered to the neuroradiologist",
    )
    assert "elsewhere" not in performer
    claim = {"00081195": {"vr": "UI", "Value": [TRANSACTION]}, "00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}}
    answer = HTTP.put(
        f"{department.dicomweb}/workitems/{uid}/state",
        content=json.dumps(claim),
        headers={"Content-Type": "application/dicom+json"},
    )
    assert answer.status_code == 200, answer.text
    again = HTTP.put(
        f"{department.dicomweb}/workitems/{uid}/state",
        content=json.dumps({**claim, "00081195": {"vr": "UI", "Value": ["2.25.1"]}}),
        headers={"Content-Type": "application/dicom+json"},
    )
    assert again.status_code == 409


def test_a_critical_result_climbs_to_the_desk_and_stops_when_it_is_acknowledged(
    department: Live, hook: tuple[list[dict[str, Any]], str]
) -> None:
    posted, _ = hook
    told = {"reason": "Blood in the head.", "category": 1, "key": "walk"}
    row = HTTP.post(f"{department.base}/escalations", json=told).json()
    assert [rung["role"] for rung in row["ladder"]] == ["referrer", "desk"]
    address = f"{department.base}/escalations/{row['id']}"
    expect(lambda: [one["role"] for one in posted], lambda roles: roles[:2] == ["referrer", "desk"], "both rungs")
    said = {"by": "Dr. Desk", "read_back": "Blood in the head of bed 4."}
    assert HTTP.post(f"{address}/acknowledge", json=said).json()["state"] == "acknowledged"
    count = len(posted)
    time.sleep(2.5)
    assert len(posted) == count, "nobody is called after the acknowledgement"
    assert len({one["key"] for one in posted}) == len(posted), "each call has a key of its own"
    shown = HTTP.get(address).json()
    assert [(one["rung"], one["state"]) for one in shown["attempts"]][:2] == [(1, "notified"), (2, "notified")]
