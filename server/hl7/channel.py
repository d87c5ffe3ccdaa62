"""The channel ``hl7`` of deliveries: reports as ORU^R01 over MLLP, and what the receiver's answer means.

| answer | what follows |
|---|---|
| AA, CA | the receiver has it |
| AE, CE | it is sent again, later each time, ten times at most; then it counts as refused |
| AR, CR | it is refused: somebody is called |
| another code, half an answer, none | it is sent again, for a day |
| one to another control id | it is dropped, and the right one is waited for |
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from readingroom.errors import GiveUp, Invalid, RetryLater
from readingroom.model import Destination, Report
from readingroom.outbound import Network, Origin
from readingroom.results import Receipt
from server.hl7.messages import Answer, read_answer
from server.hl7.mllp import Connection
from server.hl7.oru import write_oru
from server.reports.delivery import Sending
from storage.destinations import Hl7Options

MOST_ERRORS = 10

_TAKEN, _FAILED, _REFUSED = frozenset({"AA", "CA"}), frozenset({"AE", "CE"}), frozenset({"AR", "CR"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hl7Channel:
    """Hands reports over, one at a time on one connection to each destination.

    Attributes
    ----------
    pdf
        Makes the PDF of a report.
    networks
        Those beside the public Internet where receivers may be; without TLS they are in these alone.
    """

    pdf: Callable[[Report], bytes]
    networks: Sequence[Network] = ()
    _connections: dict[tuple[str, str], tuple[Destination, Connection]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        """A `server.reports.delivery.Channel`."""
        options = Hl7Options.model_validate(destination.options)
        message = write_oru(
            report,
            destination,
            options,
            control_id=sending.control_id,
            at=sending.at,
            pdf=lambda: self.pdf(report),
        )

        def is_answer(answer: bytes) -> bool:
            try:
                return read_answer(answer).control_id == sending.control_id
            except Invalid:
                return False

        connection = self._connection(destination, options)
        answer = read_answer(connection.ask(message, is_answer, seconds=options.seconds))
        return _receipt(answer, sending.attempt)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for _, connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def _connection(self, destination: Destination, options: Hl7Options) -> Connection:
        """The connection to a destination, a new one where that has become another."""
        key = destination.facility, destination.id
        with self._lock:
            known = self._connections.get(key)
            if known is not None:
                if known[0] == destination:
                    return known[1]
                known[1].close()
            scheme, _, netloc = destination.address.partition("://")
            host, _, port = netloc.rpartition(":")
            made = Connection(
                Origin(scheme, host.strip("[]"), int(port)),
                networks=self.networks,
                context=_context(options) if scheme == "mllps" else None,
            )
            self._connections[key] = destination, made
            return made


def _receipt(answer: Answer, attempt: int) -> Receipt:
    told = {"code": answer.code[:20], "reference": answer.own_id, "text": answer.text}
    if answer.code in _TAKEN:
        return Receipt(accepted=True, **told)
    if answer.code in _REFUSED or (answer.code in _FAILED and attempt >= MOST_ERRORS):
        return Receipt(accepted=False, **told)
    if answer.code in _FAILED:
        raise RetryLater(f"It was answered {answer.code}.")
    raise RetryLater(f"It was answered {answer.code[:10]!r}, which is no code of HL7 table 0008.")


def _context(options: Hl7Options) -> ssl.SSLContext:
    """Whom to trust and who we are, as the options say (BCP 195: TLS 1.2 at least)."""
    try:
        context = ssl.create_default_context(cafile=options.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.certificate:
            context.load_cert_chain(options.certificate, options.key or None)
    except (OSError, ssl.SSLError) as error:
        raise GiveUp(
            f"The files of certificates of this destination cannot be read ({type(error).__name__})."
        ) from None
    return context
