"""Reports are taken by receivers that others have written: node-hl7-server and @medplum/hl7, which run in Node.js.

The one of node-hl7-server acknowledges earlier messages of a connection again before the one that is waited for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.room import Room
from server.settings import Settings
from tests.reports import Desk

STUDY = "2.25.329800735698586629295641978511506172918"


@dataclass
class Peer:
    """One of them, and what it tells."""

    process: subprocess.Popen[str]
    port: int

    def told(self) -> dict[str, Any]:
        """The next message as its own parser reads it."""
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told


@contextmanager
def peer(folder: Path, kind: str) -> Iterator[Peer]:
    command = ["node", "hl7.mjs", kind]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            made = Peer(process, 0)
            made.port = made.told()["port"]
            yield made
        finally:
            process.stdin.close()


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    return Settings(data=tmp_path / "data", database=sqlite_url, private_networks=(IPv4Network("127.0.0.0/8"),))


@pytest.mark.parametrize(
    ("kind", "acknowledgement", "code"),
    [("node", "original", "AA"), ("medplum", "original", "AA"), ("medplum-enhanced", "enhanced", "CA")],
)
def test_a_report_and_its_addendum_are_taken_in_order(
    npm_folder: Path, room: Room, client: httpx.Client, kind: str, acknowledgement: str, code: str
) -> None:
    desk = Desk(room=room, client=client, study=STUDY)
    with peer(npm_folder, kind) as ris:
        options = {"acknowledgement": acknowledgement, "receiving_application": "RIS"}
        address = f"mllp://127.0.0.1:{ris.port}"
        desk.furnish(destinations=[{"id": "ris", "channel": "hl7", "address": address, "options": options}])
        desk.receive(PatientName="Müller^Jürgen")
        report = desk.signed()
        room.queue.drain()
        first = ris.told()
        addendum = {"kind": "addendum", "addendum": "Seen with 2025: a | b & c."}
        desk.give(desk.write(desk.give(report, "revise", kind="addendum"), addendum), "sign", reader="ada")
        room.queue.drain()
        second = ris.told()
    rows = client.get("/deliveries").json()[::-1]
    assert [(row["state"], row["receipt"]["code"]) for row in rows] == [("accepted", code)] * 2
    assert [first["id"], second["id"]] == [row["control_id"] for row in rows]
    assert [first["status"], second["status"]] == ["F", "C"]
    assert first["type"] == "ORU^R01^ORU_R01"
    assert "Müller" in first["patient"]
    assert STUDY in first["text"]
    assert "Normal CT of the head." in first["text"]
    assert "Seen with 2025: a \\F\\ b \\T\\ c." in second["text"]
