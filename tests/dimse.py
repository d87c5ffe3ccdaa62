"""A server of associations on a thread of the test, and a modality that calls it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE

from server.dimse.server import DimseServer
from server.dimse.services import all_services
from server.dimse.storing import Storing
from server.listen import bind_any
from server.peers import Peers
from server.room import Room
from server.settings import DimsePeer, DimseSettings

SECONDS = 20


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
