"""The channels ``stow`` and ``dicom``: a report as DICOM objects, by STOW-RS or by C-STORE.

What is sent are the structured report, the encapsulated PDF, or both, as they are stored into the study here: with the
same UIDs, so what comes twice is known for one.

| answer | what follows |
|---|---|
| 200, 202 where none has failed; C-STORE 0000, Bxxx, 0111: it has it already | it has taken them |
| 409, 202 where some have failed; C-STORE any other | it is refused: somebody is called |
| 5yz, 429, what is no answer of a DICOMweb service; C-STORE A7xx, 0110 | they are sent again, later each time |
| none; no association | it is left alone for a while |
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from readingroom.errors import GiveUp, RetryLater
from readingroom.model import Destination, Report
from readingroom.outbound import Network, ask, check
from readingroom.results import Receipt
from server.associations.association import Limits, Proposal
from server.associations.requesting import call
from server.reports.channels.access import bearer, trust
from server.reports.delivery import Sending
from server.reports.documents import encapsulated, sr
from server.settings import DimsePeer
from storage.catalog.shown import read_header
from storage.destinations import DicomOptions, StowOptions, application_entity
from storage.dicomjson import DEFAULT_LIMITS
from storage.part10 import read_front

Wanted = Literal["both", "sr", "pdf"]

_DICOM = "application/dicom"
_PROCESSING_FAILURE, _DUPLICATE = 0x0110, 0x0111


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objects:
    """Makes the objects of a report.

    Attributes
    ----------
    pdf
        Makes the PDF of a report.
    networks
        Networks beside the public Internet where receivers may be.
    """

    engine: sa.Engine
    pdf: Callable[[Report], bytes]
    networks: Sequence[Network] = ()

    def made(self, report: Report, objects: Wanted) -> list[bytes]:
        """The objects, each as a DICOM file."""
        names = ("sr", "pdf") if objects == "both" else (objects,)
        if report.study_uid is None:
            raise GiveUp(f"Report {report.id} is of no study that its objects could lie in.")
        with self.engine.connect() as connection:
            study = read_header(connection, report.facility, report.study_uid)
        if study is None:
            raise GiveUp(f"Nothing is left of the study of report {report.id} that its objects would lie in.")
        found = [sr.render(report, study)] if "sr" in names else []
        if "pdf" in names:
            found.append(encapsulated.render(report, study, self.pdf(report), has_sr="sr" in names))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StowChannel(_Objects):
    """Hands reports over by STOW-RS (PS3.18 10.5)."""

    def __call__(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        """A `server.reports.delivery.Channel`."""
        options = StowOptions.model_validate(destination.options)
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: {_DICOM}\r\n\r\n".encode()
        parts = [head + one + b"\r\n" for one in self.made(report, options.objects)]
        body = b"".join((*parts, f"--{boundary}--\r\n".encode()))
        answer = ask(
            "POST",
            f"{destination.address.rstrip('/')}/studies",
            body,
            {
                "Content-Type": f'multipart/related; type="{_DICOM}"; boundary={boundary}',
                "Accept": "application/dicom+json",
                **bearer(options.token),
            },
            networks=self.networks,
            seconds=options.seconds,
            context=trust(options.ca),
        )
        if answer.status == 409:
            return Receipt(accepted=False, code="409", text="None of the objects were stored.")
        check(answer)
        stored, failed = _told(answer.body)
        code = str(answer.status)
        if failed:
            return Receipt(accepted=False, code=code, text=f"{failed} of the objects were not stored.")
        text = "" if answer.status == 200 else f"{stored} objects were stored, with a warning."
        return Receipt(accepted=True, code=code, reference=answer.headers.get("location", ""), text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomChannel(_Objects):
    """Hands reports over by C-STORE (PS3.4 annex B)."""

    def __call__(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        """A `server.reports.delivery.Channel`."""
        options = DicomOptions.model_validate(destination.options)
        called, host, port = application_entity(destination.address)
        peer = DimsePeer(ae=called, host=host, port=port, tls=options.tls, ca=Path(options.ca) if options.ca else None)
        status = _stored(self.made(report, options.objects), options, peer, self.networks)
        code = f"{status:04X}"
        if _is_kept(status):
            return Receipt(accepted=True, code=code, text="" if status == 0 else "It is kept, with a warning.")
        if status >> 8 == 0xA7 or status == _PROCESSING_FAILURE:
            raise RetryLater(f"The receiver cannot store it now ({code}).")
        return Receipt(accepted=False, code=code, text="The receiver does not store it.")


def _told(body: bytes) -> tuple[int, int]:
    """How many objects a Store Instances Response (PS3.18 10.5.3) says are stored, and how many are not.

    Raises
    ------
    RetryLater
        It is none: whoever has answered is no DICOMweb service.
    """
    try:
        told = json.loads(body)
        stored, failed = (len(told.get(tag, {}).get("Value", ())) for tag in ("00081199", "00081198"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        stored = failed = 0
    if not stored and not failed:
        raise RetryLater("The answer does not say what was stored; is the address that of a DICOMweb service?")
    return stored, failed


def _is_kept(status: int) -> bool:
    """Whether the receiver has the object: now, with a warning, or since before."""
    return status in (0, _DUPLICATE) or status >> 12 == 0xB


def _stored(objects: Sequence[bytes], options: DicomOptions, peer: DimsePeer, networks: Sequence[Network]) -> int:
    """The status of the last object, or of the first that was not stored."""
    fronts = [read_front(one, DEFAULT_LIMITS) for one in objects]
    proposals = [
        Proposal(sop_class=str(front.file_meta["00020002"]["Value"][0]), transfer_syntaxes=(front.transfer_syntax,))
        for front in fronts
    ]
    limits = Limits(pdu_seconds=options.seconds, idle_seconds=options.seconds)
    status = 0
    with call(
        peer,
        list(dict.fromkeys(proposals)),
        calling=options.calling,
        networks=networks,
        limits=limits,
        certificate=options.certificate,
        key=options.key,
    ) as receiver:
        for one, front, wanted in zip(objects, fronts, proposals, strict=True):
            context = receiver.context_of(wanted.sop_class, front.transfer_syntax)
            if context is None:
                raise GiveUp(f"{peer.ae} does not take SOP class {wanted.sop_class}.")
            uid = str(front.file_meta["00020003"]["Value"][0])
            status = receiver.store(context, uid, [memoryview(one)[front.data_set_at :]]).status
            if not _is_kept(status):
                return status
    return status
