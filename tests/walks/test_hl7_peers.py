"""Reports are taken by receivers that others have written, and orders come from senders that others have written.

Receivers are node-hl7-server and @medplum/hl7, senders node-hl7-client, @medplum/hl7 and mllp_send of python-hl7. The
one of node-hl7-server acknowledges earlier messages of a connection again before the one that is waited for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest

from readingroom.model import Scope
from server.hl7.mllp import framed
from server.room import Room
from server.settings import Settings
from storage.catalog.inbox import list_messages, next_message
from storage.catalog.orders import orders_for
from tests.hl7 import SECONDS, calling, listening, message
from tests.reports import Desk
from tests.servers import REPOSITORY

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


# -- senders ---------------------------------------------------------------------------------------------------------


def order(id: str, control: str = "NW") -> bytes:
    obr = f"OBR|1|P1|F1|CTHEAD^CT of the head^L{'|' * 14}A1|R1|S1||||CT"
    return message("PID|||4711||Müller^Jürgen", f"ORC|{control}|P1|F1", obr, kind="ORM^O01", id=id)


@pytest.mark.parametrize("kind", ["node", "medplum"])
def test_orders_of_clients_in_node_are_taken(npm_folder: Path, room: Room, kind: str) -> None:
    sent = [order("1").decode(), order("2", "XO").decode(), order("2", "XO").decode(), order("3", "CA").decode()]
    with listening(room) as server:
        command = ["node", "send.mjs", kind, str(server.port)]
        run = subprocess.run(
            command, cwd=npm_folder, input=json.dumps(sent), capture_output=True, text=True, timeout=60, check=True
        )
    assert json.loads(run.stdout) == [["AA", "1"], ["AA", "2"], ["AA", "2"], ["AA", "3"]]
    rows = room.query(list_messages, Scope())
    assert [row.control_id for row in rows] == ["3", "2", "1"]


def test_a_file_of_messages_is_taken_from_mllp_send(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "messages.hl7"
    path.write_bytes(framed(order("1")) + framed(order("2", "CA")))
    program = Path(sys.executable).with_name("mllp_send")
    with listening(room) as server:
        command = [sys.executable, program, "--file", path, "--port", str(server.port), "127.0.0.1"]
        run = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert re.findall(rb"MSA\|(..)\|(.)", run.stdout) == [(b"AA", b"1"), (b"AA", b"2")]
    assert len(room.query(list_messages, Scope())) == 2


_DIES = """
import os, signal, server.hl7.listening as listening
from server.cli import app
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
listening.answers = die
app(["hl7", "serve", "--port", "0"])
"""


def test_a_server_that_is_killed_before_it_has_answered_has_the_message_once(room: Room, tmp_path: Path) -> None:
    config = tmp_path / "readingroom.toml"
    config.write_text('[hl7.senders.ris]\napplication = "RIS"\n')
    database = {"READINGROOM_DATA": str(room.settings.data), "READINGROOM_DATABASE": str(room.settings.database)}
    environment = {**os.environ, **database, "READINGROOM_CONFIG": str(config)}
    command = [sys.executable, "-c", _DIES]
    with subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r":(\d+)\.", server.stdout.readline())
        assert found is not None
        with calling(int(found[1])) as caller:
            caller.send(framed(order("1")))
            assert caller.is_closed()
        assert server.wait(SECONDS) == -signal.SIGKILL
    with listening(room) as again, calling(again.port) as caller:
        assert caller.ask(order("1")).code == "AA"
    row = room.query(next_message, "local")
    assert row is not None
    room.hl7.apply(row)
    assert [one.state for one in room.query(list_messages, Scope())] == ["applied"]
    assert len(room.query(orders_for, "local", "A1")) == 1
