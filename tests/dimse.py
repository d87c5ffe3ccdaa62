"""A server of associations on a thread of the test, a modality that calls it, and peers that it calls."""

from __future__ import annotations

import json
import queue as queues
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, evt

from server.dimse.server import DimseServer
from server.dimse.services import all_services
from server.dimse.storing import Storing
from server.listen import bind_any
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings
from server.staging import Ready
from storage.dicomjson import DEFAULT_LIMITS
from storage.part10 import read_front
from storage.rewrite import rewrite
from tests.conftest import absent
from tests.servers import free_port
from tests.synthetic import part10

SECONDS = 20
LOOPBACK = (ip_network("127.0.0.0/8"),)
CT, CINE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7.3"
NATIVE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


@dataclass
class Taker:
    """A peer that objects are sent to: what came, and what it answers to the first, the second and so on."""

    ae: str = "STORE"
    port: int = 0
    came: list[tuple[str, str, bytes]] = field(default_factory=list)
    originators: set[tuple[str, int]] = field(default_factory=set)
    answers: Callable[[int], int] = lambda _number: 0

    def take(self, event: Any) -> int:
        request = event.request
        self.came.append((request.AffectedSOPInstanceUID, event.context.transfer_syntax, request.DataSet.getvalue()))
        self.originators.add((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return self.answers(len(self.came))

    @property
    def peer(self) -> DimsePeer:
        return DimsePeer(ae=self.ae, facility="local", host="127.0.0.1", port=self.port)

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _, _ in self.came]

    def read(self, number: int = 0) -> FileDataset:
        """The data set of what came, with its pixels."""
        _, syntax, data = self.came[number]
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = UID(syntax)
        read = read_dataset(BytesIO(data), syntax == ImplicitVRLittleEndian, True)
        return FileDataset("came", read, file_meta=meta)


@contextmanager
def receiving(*syntaxes: str, classes: tuple[str, ...] = (CT, CINE), ae: str = "STORE") -> Iterator[Taker]:
    """A receiver that takes these transfer syntaxes."""
    receiver = Taker(ae=ae)
    entity = AE(ae_title=ae)
    entity.require_called_aet = True
    for sop_class in classes:
        entity.add_supported_context(sop_class, list(syntaxes or NATIVE))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, receiver.take)])
    receiver.port = server.server_address[1]
    try:
        yield receiver
    finally:
        server.shutdown()


@contextmanager
def serving(
    room: Room, *peers: DimsePeer, but: frozenset[int] = frozenset(), tls: ssl.SSLContext | None = None
) -> Iterator[DimseServer]:
    """A server of associations on a thread of the test, which knows these peers.

    Parameters
    ----------
    but
        Operations that it does not serve.
    """
    settings = DimseSettings(peers={peer.ae.lower(): peer for peer in peers}, max_per_address=8)
    known = Peers(settings)
    storing = Storing(ingest=room.ingest, memory_bytes=1 << 20, most_bytes=8 << 20)
    every = all_services(replace(room, peers=known), ae_title=settings.ae_title)
    services = {(sop_class, number): answer for (sop_class, number), answer in every.items() if number not in but}
    bound = bind_any("127.0.0.1", 0)
    server = DimseServer(bound, settings, storing, services, peers=known, facility="local", tls=tls)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def associated(server: DimseServer, *sop_classes: str, ae: str = "CT1") -> Iterator[Any]:
    """An association of pynetdicom."""
    requester = AE(ae_title=ae)
    requester.acse_timeout = requester.dimse_timeout = requester.network_timeout = SECONDS
    for sop_class in sop_classes:
        requester.add_requested_context(sop_class)
    association = requester.associate("127.0.0.1", server.port, ae_title="READINGROOM")
    assert association.is_established
    yield association
    association.release()


def keep(room: Room, *files: bytes | FileDataset, facility: str = "local") -> None:
    """Store files, or data sets as such."""
    bodies = [one if isinstance(one, bytes) else part10(one) for one in files]
    staged = room.ingest.stage_each(bodies, facility=facility, source="test")
    ready = [one for one in staged if isinstance(one, Ready)]
    assert len(ready) == len(files)
    assert all(outcome.error is None for outcome in room.ingest.commit(ready).result())


def data_set(file: bytes) -> bytes:
    return file[read_front(file, DEFAULT_LIMITS).data_set_at :]


def jpeg_2000(dataset: FileDataset) -> bytes:
    return b"".join(map(bytes, rewrite(part10(dataset), JPEG2000Lossless)))


def identifier(level: str, **keys: Any) -> Dataset:
    made = Dataset()
    made.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(made, name, value)
    return made


class Receiver:
    """What takes the event reports of a peer: on the association that it has, or that it is called by."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reports: queues.Queue[tuple[int, Dataset]] = queues.Queue()

    def take(self, event: Any) -> tuple[int, None]:
        if self.status == 0:
            self.reports.put((event.event_type, event.event_information))
        return self.status, None

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self.take)]

    def next(self) -> tuple[int, Dataset]:
        return self.reports.get(timeout=SECONDS)


@contextmanager
def orthanc(folder: Path, dicom: int, peer: int) -> Iterator[httpx.Client]:
    """An Orthanc with an empty archive, that knows this server as ``here``."""
    program = shutil.which("Orthanc")
    if program is None:
        absent("Orthanc (apt-get install orthanc)")
    http = free_port()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "CT1",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"here": ["READINGROOM", "127.0.0.1", peer]},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [str(program), str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=SECONDS) as client:
            until = time.monotonic() + SECONDS
            while True:
                try:
                    client.get("/system")
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield client
    finally:
        process.kill()
        process.wait()
