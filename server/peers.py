"""Who calls this server by DIMSE, and whom it calls: application entities by their AE titles and by their names."""

from __future__ import annotations

from server.settings import DimsePeer, DimseSettings


class Peers:
    """The application entities that are known.

    Parameters
    ----------
    settings
        Those that an operator has named there.
    """

    def __init__(self, settings: DimseSettings) -> None:
        self._named = settings.peers
        self._by_ae = {peer.ae: peer for peer in settings.peers.values()}

    def of(self, ae_title: str) -> DimsePeer | None:
        """Who has that AE title."""
        return self._by_ae.get(ae_title)

    def named(self, name: str) -> DimsePeer | None:
        """Who is called so in the settings, or has that as AE title."""
        return self._named.get(name) or self._by_ae.get(name)
