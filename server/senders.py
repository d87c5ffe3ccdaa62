"""Who sends HL7 messages: those of the settings by their names, and those of the directory's facilities."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

import sqlalchemy as sa

from readingroom.errors import Unavailable
from server.settings import Hl7Sender, Hl7Settings
from storage.catalog.directory import Directory, LatestDirectory


class Senders:
    """The sending applications that are known; what both the settings and the directory have is what the settings say.

    A sender of the directory is named by its facility and what its messages say: ``mercy/RIS`` or ``mercy/RIS|EAST``.
    For any thread.

    Parameters
    ----------
    settings
        Those that an operator has named there.
    directory
        Where facilities have theirs.
    """

    def __init__(self, settings: Hl7Settings, directory: LatestDirectory | None = None) -> None:
        self._named = settings.senders
        self._takes_any = settings.any_sender
        self._directory = directory
        self._lock = threading.Lock()
        self._of_directory: tuple[Directory, Mapping[str, Hl7Sender]] | None = None

    def of(
        self, application: str, facility: str, *, address: str, common_name: str | None = None
    ) -> tuple[str, Hl7Sender] | None:
        """Who sends that, with its name; None where it is nobody who may.

        Of several with that application, those that want this MSH-4 go before those that want none, and of these the
        first that may call from that address holds.

        Parameters
        ----------
        application, facility
            MSH-3.1 and MSH-4.1.
        address
            Where it calls from.
        common_name
            Of the certificate that it has shown.

        Raises
        ------
        Unavailable
            The directory cannot be read.
        """
        caller = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(caller, IPv6Address) and caller.ipv4_mapped:
            caller = caller.ipv4_mapped
        is_known = False
        for known in (lambda: self._named, self._onboarded):
            mine = [(name, one) for name, one in known().items() if one.application == application]
            for name, one in sorted(mine, key=lambda known: known[1].sends_for is None):
                if one.sends_for in (None, facility):
                    is_known = True
                    if _may_call(one, caller, common_name):
                        return name, one
        if is_known or not self._takes_any:
            return None
        return f"{application}|{facility}", Hl7Sender(application=application)

    def named(self, name: str) -> Hl7Sender | None:
        """Who has that name, or may have sent under it as anybody may; raises as `of` does."""
        known = self._named.get(name) or self._onboarded().get(name)
        if known is None and self._takes_any and "|" in name:
            return Hl7Sender(application=name.partition("|")[0])
        return known

    def known(self) -> Mapping[str, Hl7Sender]:
        """All of them, by name; raises as `of` does."""
        return {**self._onboarded(), **self._named}

    def _onboarded(self) -> Mapping[str, Hl7Sender]:
        if self._directory is None:
            return {}
        try:
            latest = self._directory.read()
        except sa.exc.SQLAlchemyError as error:
            raise Unavailable("The directory cannot be read.") from error
        with self._lock:
            if self._of_directory is None or self._of_directory[0] is not latest:
                found = {}
                for entry in latest.facilities.values():
                    for one in entry.senders:
                        name = "|".join(filter(None, (f"{entry.id}/{one.application}", one.facility)))
                        found[name] = Hl7Sender(
                            application=one.application,
                            sends_for=one.facility,
                            networks=tuple(map(ipaddress.ip_network, one.networks)),
                            facility=entry.id,
                            profile=one.profile,
                        )
                self._of_directory = latest, found
            return self._of_directory[1]


def _may_call(sender: Hl7Sender, caller: IPv4Address | IPv6Address, common_name: str | None) -> bool:
    if sender.common_name not in (None, common_name):
        return False
    return not sender.networks or any(caller in network for network in sender.networks)
