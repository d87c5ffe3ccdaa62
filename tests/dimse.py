"""A server of associations on a thread of the test, a modality that calls it, and what takes reports for a peer."""

from __future__ import annotations

import queue as queues
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt

from server.dimse.server import DimseServer
from server.dimse.services import all_services
from server.dimse.storing import Storing
from server.listen import bind_any
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings

SECONDS = 20
LOOPBACK = (ip_network("127.0.0.0/8"),)


@contextmanager
def serving(room: Room, *peers: DimsePeer) -> Iterator[DimseServer]:
    """A server that knows these peers."""
    settings = DimseSettings(peers={peer.ae.lower(): peer for peer in peers}, max_per_address=8)
    storing = Storing(ingest=room.ingest, memory_bytes=1 << 20, most_bytes=8 << 20)
    services = all_services(room, ae_title=settings.ae_title)
    server = DimseServer(bind_any("127.0.0.1", 0), settings, storing, services, peers=Peers(settings), facility="local")
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
