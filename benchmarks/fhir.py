"""FHIR over 200,000 reports: ``python -m benchmarks.fhir``.

Reads, searches, writes and an ImagingStudy of many images, each over HTTP to a server with one worker and a SQLite
catalog. Every figure is of what a client waits for, from the first byte sent to the last one received.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.client import Connection, WrongAnswer
from benchmarks.multipart import pack
from benchmarks.peers import Readingroom
from benchmarks.stow import store
from readingroom.model import LOCAL_OPERATOR, Scope
from server.app import build_room
from server.auth import Caller
from server.fhir.parsing import dump_json
from server.fhir.registry import REGISTRY
from server.fhir.session import Session, writing
from server.settings import Settings

REPORTS, PATIENTS, FAMILIES, CODES = 200_000, 10_000, 500, 300
SLICES, SLICES_AT_ONCE = 2_000, 500
A_TRANSACTION = 100
TIMES, FEWER, FEW = 200, 60, 15
_STUDY = "2.25.8000000"
_RAD = "http://terminology.hl7.org/CodeSystem/v2-0074"
_STATUSES = ("final", "final", "final", "final", "preliminary", "amended", "partial", "registered")


def report(number: int, chance: random.Random) -> dict[str, Any]:
    """One of the reports."""
    day = f"{2017 + number % 9}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
    return {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": "http://ris.example", "value": f"R{number}"}],
        "status": chance.choice(_STATUSES),
        "category": [{"coding": [{"system": _RAD, "code": "RAD" if number % 10 else "CUS"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": f"{chance.randrange(CODES)}-1"}], "text": "Report"},
        "subject": {"reference": f"Patient/p{chance.randrange(PATIENTS)}"},
        "effectiveDateTime": f"{day}T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:00Z",
        "issued": f"{day}T23:59:59.000Z",
        "conclusion": "No acute findings.",
    }


def patient(number: int) -> dict[str, Any]:
    """One of the patients."""
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "http://hospital.example", "value": str(number)}],
        "name": [{"family": f"Fam{number % FAMILIES}", "given": ["Pat"]}],
        "birthDate": f"{1930 + number % 80}-01-01",
    }


def fill(data: Path) -> None:
    """Store all reports and patients, as the interactions do."""
    chance = random.Random(5)
    with build_room(Settings(data=data)) as room:
        caller = Caller(
            actor=LOCAL_OPERATOR,
            scope=Scope(),
            service_root="http://127.0.0.1/dicomweb",
            fhir_root="http://127.0.0.1/fhir",
            facility=room.settings.facility,
        )
        for some in itertools.batched(range(PATIENTS), 2000):
            with writing(room, caller) as session:
                for number in some:
                    _create(session, patient(number), f"p{number}")
                session.changed.clear()
        for some in itertools.batched(range(REPORTS), 2000):
            with writing(room, caller) as session:
                for number in some:
                    _create(session, report(number, chance), f"r{number}")
                session.changed.clear()  # nobody subscribes


def _create(session: Session, resource: dict[str, Any], id: str) -> None:
    rest = dump_json({name: value for name, value in resource.items() if name != "resourceType"})
    REGISTRY[resource["resourceType"]].create(session, resource, rest, id)


def _slice(number: int) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{_STUDY}.1.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _STUDY, f"{_STUDY}.1"
    dataset.PatientID, dataset.PatientName, dataset.Modality = "P", "Phantom", "CT"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20260102", "101112", "A1"
    dataset.InstanceNumber = number + 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = bytes(32)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


class Client:
    """Asks a server, and says how long it took."""

    def __init__(self, peer: Readingroom) -> None:
        self._connection = Connection(peer.port)
        self._port = peer.port

    def ask(self, path: str, body: bytes = b"") -> tuple[float, dict[str, Any]]:
        """The seconds, and what came."""
        method = "POST" if body else "GET"
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", "Accept: application/fhir+json"]
        if body:
            lines += ["Content-Type: application/fhir+json", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "", ""]).encode()
        reply = self._connection.exchange(head, (body,) if body else ()).expect(200, 201)
        found: dict[str, Any] = json.loads(bytes(reply.body))
        return reply.seconds, found


def measure(what: str, goal_ms: float | None, times: int, ask: Callable[[], float]) -> None:
    """Ask so often, and print the median and the 95th percentile; the first answers warm the server up."""
    for _ in range(3):
        ask()
    seconds = [ask() for _ in range(times)]
    goal = f"; goal {goal_ms:g}" if goal_ms is not None else ""
    print(
        f"{what}: p50 {median(seconds) * 1000:.2f}, p95 {quantiles(seconds, n=20)[-1] * 1000:.2f} ms{goal}", flush=True
    )


def search(client: Client, query: str, *, least: int = 1) -> float:
    """One search that has to find something."""
    seconds, found = client.ask(f"/fhir/{query}")
    matches = sum(entry["search"]["mode"] == "match" for entry in found.get("entry", ()))
    if matches < least:
        raise WrongAnswer(f"{query} found {matches}")
    return seconds


def pages(client: Client, first: str) -> Iterator[float]:
    """Page after page."""
    path = first
    while True:
        seconds, found = client.ask(path)
        path = next(link["url"] for link in found["link"] if link["relation"] == "next")
        path = path[path.index("/fhir/") :]
        yield seconds


def figures(client: Client) -> None:
    """All of it."""
    chance = random.Random(7)
    any_patient, any_code = (lambda: chance.randrange(PATIENTS)), (lambda: chance.randrange(CODES))
    reports = "DiagnosticReport?_count=20&"
    measure("read", 1, TIMES, lambda: client.ask(f"/fhir/DiagnosticReport/r{chance.randrange(REPORTS)}")[0])
    measure(
        "patient, category and date",
        3,
        TIMES,
        lambda: search(client, f"{reports}patient=p{any_patient()}&category=RAD&date=ge2017", least=0),
    )
    measure("newest of a status", None, FEWER, lambda: search(client, f"{reports}status=final&_sort=-date"))
    measure(
        "newest of a code and status",
        None,
        FEWER,
        lambda: search(client, f"{reports}code={any_code()}-1&status=final&_sort=-date"),
    )
    next_page = pages(client, f"/fhir/{reports}status=final&_sort=-date")
    measure("the next page of them", None, FEWER, lambda: next(next_page))
    measure(
        "a chain to the patient's identifier",
        None,
        FEWER,
        lambda: search(client, f"{reports}patient.identifier={any_patient()}", least=0),
    )
    measure(
        "a chain to the patient's name",
        None,
        FEW,
        lambda: search(client, f"{reports}patient.family=fam{chance.randrange(FAMILIES)}"),
    )
    measure(
        "patients that have a report of a code (_has)",
        None,
        FEW,
        lambda: search(client, f"Patient?_count=20&_has:DiagnosticReport:patient:code={any_code()}-1"),
    )
    measure(
        "reports with their patient included",
        None,
        FEWER,
        lambda: search(client, f"{reports}patient=p{any_patient()}&_include=DiagnosticReport:patient", least=0),
    )
    one = report(REPORTS, chance)
    body = json.dumps(one).encode()
    measure("create", 5, TIMES, lambda: client.ask("/fhir/DiagnosticReport", body)[0])
    entry = {"resource": one, "request": {"method": "POST", "url": "DiagnosticReport"}}
    bundle = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [entry] * A_TRANSACTION}).encode()
    measure(f"a transaction of {A_TRANSACTION}", 250, FEW, lambda: client.ask("/fhir", bundle)[0])
    found = client.ask(f"/fhir/ImagingStudy?identifier=urn:oid:{_STUDY}")[1]
    path = f"/fhir/ImagingStudy/{found['entry'][0]['resource']['id']}"
    if client.ask(path)[1]["numberOfInstances"] != SLICES:
        raise WrongAnswer("not all slices are in the ImagingStudy")
    measure(f"an ImagingStudy of {SLICES:,} instances", 5, FEWER, lambda: client.ask(path)[0])


@contextmanager
def serving(home: Path) -> Iterator[Readingroom]:
    """A server that runs as long as this lasts."""
    peer = Readingroom(home)
    begun = time.perf_counter()
    peer.start()
    print(f"start: {time.perf_counter() - begun:.2f} s; goal 1.5", flush=True)
    try:
        yield peer
    finally:
        peer.stop()


def main() -> None:
    """Measure, and print one line for each figure."""
    with tempfile.TemporaryDirectory(prefix="readingroom-bench-") as folder:
        home = Path(folder) / "fhir"
        (home / "data").mkdir(parents=True)
        begun = time.perf_counter()
        fill(home / "data")
        print(f"{REPORTS:,} reports of {PATIENTS:,} patients stored in {time.perf_counter() - begun:.0f} s", flush=True)
        with serving(home) as peer:
            connection = peer.connect()
            for some in itertools.batched(range(SLICES), SLICES_AT_ONCE):
                store(peer, connection, pack([_slice(number) for number in some]), len(some))
            connection.close()
            figures(Client(peer))


if __name__ == "__main__":
    main()
