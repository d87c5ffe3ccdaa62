"""Who calls this server by DIMSE, and whom it calls: application entities by their AE titles and by their names."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from readingroom.errors import Unavailable
from server.settings import DimsePeer, DimseSettings
from storage.catalog.directory import Directory, LatestDirectory
from storage.directory import AeEntry


class Peers:
    """The application entities that are known: those of the settings, and those of the directory's facilities.

    An AE title that both have is what the settings say. What is onboarded while a server runs is known to it at once.
    For any thread.

    Parameters
    ----------
    settings
        Those that an operator has named there.
    directory
        Where facilities have theirs.
    """

    def __init__(self, settings: DimseSettings, directory: LatestDirectory | None = None) -> None:
        self._named = settings.peers
        self._by_ae = {peer.ae: peer for peer in settings.peers.values()}
        self._directory = directory
        self._lock = threading.Lock()
        self._of_directory: tuple[Directory, Mapping[str, DimsePeer]] | None = None

    def of(self, ae_title: str) -> DimsePeer | None:
        """Who has that AE title; raises `Unavailable` where the directory cannot be read."""
        return self._by_ae.get(ae_title) or self._onboarded().get(ae_title)

    def named(self, name: str) -> DimsePeer | None:
        """Who is called so in the settings, or has that as AE title; raises as `of` does."""
        return self._named.get(name) or self.of(name)

    def known(self) -> Mapping[str, DimsePeer]:
        """All of them, by AE title; raises as `of` does."""
        return {**self._onboarded(), **self._by_ae}

    def _onboarded(self) -> Mapping[str, DimsePeer]:
        if self._directory is None:
            return {}
        try:
            latest = self._directory.read()
        except sa.exc.SQLAlchemyError as error:
            raise Unavailable("The directory cannot be read.") from error
        with self._lock:
            if self._of_directory is None or self._of_directory[0] is not latest:
                found = {ae.ae: _peer(entry.id, ae) for entry in latest.facilities.values() for ae in entry.aes}
                self._of_directory = latest, found
            return self._of_directory[1]


def _peer(facility: str, entry: AeEntry) -> DimsePeer:
    return DimsePeer(
        ae=entry.ae,
        facility=facility,
        may_store=entry.may_store,
        may_find=entry.may_find,
        may_move=entry.may_move,
        host=entry.host,
        port=entry.port,
        tls=entry.tls,
        ca=Path(entry.ca) if entry.ca else None,
    )
