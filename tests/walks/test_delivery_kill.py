"""A server that dies between sending a report and hearing the answer: the report comes, and comes as the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.multipart import content_type, encode
from tests.receiver import Receiver, acknowledge, receiver
from tests.servers import Live, environment, free_port, live_server
from tests.synthetic import ct_series, part10

DIRECTORY = """
[[facilities]]
id = "local"
name = "Local Hospital"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
destinations = [{ id = "ris", channel = "hl7", address = "ADDRESS" }]

[[readers]]
id = "ada"
name = "Ada Byron"
zone = "America/Chicago"
licences = [{ state = "US-TX", number = "T1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]
"""
TEXT = {"sections": [{"name": "impression", "text": "Normal."}], "reader": "ada"}
PATIENCE_SECONDS = 90.0


@dataclass
class Killer:
    """Answers every message but the first of each life of a server, which it ends instead."""

    pid: int | None = None
    seen: set[str] = field(default_factory=set)

    def __call__(self, _: Receiver, peer: socket.socket, control_id: str) -> None:
        is_new = control_id not in self.seen
        self.seen.add(control_id)
        if self.pid is not None and is_new:
            pid, self.pid = self.pid, None
            os.kill(pid, signal.SIGKILL)
        else:
            peer.sendall(acknowledge(control_id))


def signed(client: httpx.Client) -> str:
    """Store a study, report it and sign; the id of what the server has said to be signed."""
    slices = ct_series(1)
    stored = client.post(
        "/dicomweb/studies", content=encode([part10(slices[0])]), headers={"Content-Type": content_type()}
    )
    assert stored.status_code == 200, stored.text
    answer = client.post("/reports", json={"study": str(slices[0].StudyInstanceUID)})
    id, tag = answer.json()["id"], answer.headers["etag"]
    answer = client.put(f"/reports/{id}", json=TEXT, headers={"If-Match": tag})
    answer = client.post(f"/reports/{id}/sign", json={"reader": "ada"}, headers={"If-Match": answer.headers["etag"]})
    assert answer.status_code == 200, answer.text
    return str(id)


def deliveries(live: Live, count: int) -> list[dict[str, Any]]:
    """All of them, once each was accepted."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        rows = httpx.get(f"{live.base}/deliveries", params={"limit": 500}, timeout=30).json()
        if len(rows) == count and all(row["state"] == "accepted" for row in rows):
            found: list[dict[str, Any]] = rows
            return found
        assert time.monotonic() < give_up, rows
        time.sleep(0.2)


def kill_in_the_middle(home: Path, lives: int) -> None:
    data, port, killer = home / "data", free_port(), Killer()
    told = []
    with receiver() as ris:
        ris.usual = killer
        (home / "directory.toml").write_text(DIRECTORY.replace("ADDRESS", ris.address))
        command = [sys.executable, "-m", "server.cli", "directory", "import", str(home / "directory.toml")]
        subprocess.run([*command, "--data", str(data)], check=True, env=environment(), capture_output=True)

        def living() -> Any:
            settings = {"private_networks": '["127.0.0.0/8"]'}
            return live_server(data, settings=settings, module=("tests.walks.short_leases",), port=port)

        for _ in range(lives):
            with living() as live:
                killer.pid = live.process.pid
                client = httpx.Client(base_url=live.base, timeout=60)
                with client, suppress(httpx.TransportError):  # it died before it could say so: nothing was promised
                    told.append(signed(client))
                live.process.wait(PATIENCE_SECONDS)
        with living() as live:
            with httpx.Client(base_url=live.base, timeout=60) as client:
                told.append(signed(client))
                reports = [row["id"] for row in client.get("/reports", params={"limit": 1000}).json()]
            rows = deliveries(live, len(reports))
    assert set(told) <= set(reports)
    assert {row["report"] for row in rows} == set(reports)
    assert {row["control_id"] for row in rows} == set(ris.control_ids)
    assert len(ris.control_ids) >= len(reports) + lives, "what was not answered has come again"


@pytest.mark.timeout(300)
def test_a_server_killed_before_it_hears_the_answer_sends_the_same_report_again(tmp_path: Path) -> None:
    kill_in_the_middle(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills_between_sending_and_hearing_lose_no_report(tmp_path: Path) -> None:
    kill_in_the_middle(tmp_path, 200)
