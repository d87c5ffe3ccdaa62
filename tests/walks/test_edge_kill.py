"""The line of a site is cut and its edge is killed, again and again: every study arrives once, byte for byte."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from readingroom.errors import ReadingRoomError
from server.associations.association import Limits, Proposal
from server.associations.requesting import call
from server.room import Room
from server.settings import DimsePeer
from server.spooling import refused_in
from tests.edge import LOOPBACK, BadLine, is_empty, served, wait_until
from tests.servers import free_port
from tests.synthetic import ct_series, part10
from tests.walks.edge_process import serve

CT = "1.2.840.10008.5.1.4.1.1.2"


class Edge:
    """The process of the edge, which may be killed and begun again."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.walks.edge_process"])
        self._process: BaseProcess | None = None

    def begin(self) -> None:
        self._process = self._context.Process(target=serve, args=(self._settings,), daemon=True)
        self._process.start()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.join(20)


class Scanner:
    """Sends until it hears of success, each object anew where it does not; tells how many have gone."""

    def __init__(self, port: int, objects: list[Dataset]) -> None:
        self._peer = DimsePeer(ae="EDGE", host="127.0.0.1", port=port)
        self._objects = objects
        self.sent = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        left = list(self._objects)
        proposals = [Proposal(sop_class=CT, transfer_syntaxes=(ExplicitVRLittleEndian,))]
        limits = Limits(pdu_seconds=5.0, idle_seconds=20.0)
        while left and not self.is_over.wait(0.01):
            with (
                suppress(ReadingRoomError),
                call(self._peer, proposals, calling="CT1", networks=LOOPBACK, limits=limits) as calling,
            ):
                while left:
                    (context,) = calling.contexts
                    outcome = calling.store(context, str(left[0].SOPInstanceUID), [data_set(left[0])])
                    if outcome.status != 0:
                        break
                    left.pop(0)
                    self.sent += 1


def data_set(one: Dataset) -> bytes:
    """What follows the file meta."""
    sent = part10(one)
    return sent[144 + int.from_bytes(sent[140:144], "little") :]


@contextmanager
def bad_line(url: str, cuts: int) -> Iterator[tuple[str, BadLine]]:
    """The centre's URL over a line that breaks."""
    port = int(url.split(":")[2].partition("/")[0])
    line = BadLine(port, cuts=cuts)
    try:
        yield url.replace(str(port), str(line.port)), line
    finally:
        line.close()


@pytest.mark.parametrize(("cuts", "kills", "studies"), [(3, 3, 3), pytest.param(100, 100, 25, marks=pytest.mark.slow)])
def test_every_study_arrives_once_though_the_line_is_cut_and_the_edge_is_killed(
    tmp_path: Path, room: Room, cuts: int, kills: int, studies: int
) -> None:
    series = [ct_series(8) for _ in range(studies)]
    objects = [one for study in series for one in study]
    folder, port = tmp_path / "edge", free_port()
    with served(room) as url, bad_line(url, cuts) as (reached, line):
        edge = Edge(
            {
                "data": tmp_path / "data",
                "private_networks": LOOPBACK,
                "dimse": {"ae_title": "EDGE", "port": port, "any_caller": True},
                "edge": {
                    "centre": reached,
                    "folder": folder,
                    "connections": 2,
                    "batch_instances": 3,
                    "retry_seconds": 0.05,
                },
            }
        )
        scanner = Scanner(port, objects)
        edge.begin()
        scanner.thread.start()
        try:
            for number in range(kills):
                # At another place each time: as objects come, and after the last while they go.
                wait_until(lambda number=number: scanner.sent >= len(objects) * (number + 1) // (kills + 1))  # type: ignore[misc]
                edge.kill()
                edge.begin()
            scanner.thread.join(60)
            assert scanner.sent == len(objects)
            wait_until(lambda: is_empty(folder))
        finally:
            scanner.is_over.set()
            edge.kill()
        assert line.cuts == cuts
        assert not refused_in(folder)
        assert not list((folder / "coming").iterdir())
        with httpx.Client(base_url=url, timeout=30) as client:
            found = client.get("/studies").json()
            assert sorted(row["0020000D"]["Value"][0] for row in found) == sorted(
                str(study[0].StudyInstanceUID) for study in series
            )
            for one in objects:
                path = f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"
                answer = client.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
                assert answer.status_code == 200
                assert sha256(data_set(one)) == sha256(kept(answer.content))
            for study in series:
                found = client.get(f"/studies/{study[0].StudyInstanceUID}/instances").json()
                assert len(found) == len(study)


def kept(file: bytes) -> bytes:
    """The data set of a file that the centre gives."""
    read = dcmread(BytesIO(file))
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"
    return file[144 + int.from_bytes(file[140:144], "little") :]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
