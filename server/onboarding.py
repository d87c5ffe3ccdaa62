"""Tries what a facility was given: whether its peers answer, and whether this server does what it may ask for.

Nothing of it makes work: what is stored is one small object of a study of its own, which is deleted at once, before
anything settles; messages are sent as training (MSH-11 T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from io import BytesIO
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from pydicom import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from readingroom.clock import Clock
from readingroom.errors import ReadingRoomError
from readingroom.model import LOCAL_OPERATOR, Destination, Passage, Report, Scope, Section
from readingroom.outbound import Origin, open_socket, origin_of
from server.associations.association import Limits, Proposal
from server.associations.requesting import VERIFICATION, Calling, call, call_as
from server.hl7.channel import Hl7Channel
from server.hl7.messages import header, moment, read_answer
from server.hl7.mllp import Connection
from server.hl7.profiles import load_profile
from server.removing import remove
from server.reports.delivery import Sending
from server.settings import DimsePeer, Settings
from storage.blobs import Blobs
from storage.catalog.schema import new_id
from storage.destinations import application_entity
from storage.directory import AeEntry, FacilityEntry, SenderEntry

STUDY_FIND, WORKLIST_FIND = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.31"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_LIMITS = Limits(pdu_seconds=10.0, idle_seconds=20.0)
_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One thing that was tried: what, with whom, and how it went."""

    what: str
    who: str
    state: Literal["ok", "failed", "skipped"]
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Tries everything that the entry of a facility says.

    Attributes
    ----------
    sends_report
        Whether a made report is sent to where its reports go by HL7.
    """

    settings: Settings
    engine: sa.Engine
    blobs: Blobs
    clock: Clock
    sends_report: bool = False

    def run(self, entry: FacilityEntry) -> Iterator[Tried]:
        """Each thing as it was tried."""
        yield self._contract(entry)
        for ae in entry.aes:
            if ae.host is not None:
                yield self._try("C-ECHO to", ae.ae, partial(self._echo, ae))
        yield from self._as_its_peers(entry)
        for sender in entry.senders:
            yield from self._as_sender(sender)
        for one in entry.destinations:
            yield self._deliver(entry, one.destination(entry.id))

    def _try(self, what: str, who: str, act: Callable[[], str]) -> Tried:
        try:
            return Tried(what=what, who=who, state="ok", text=act())
        except ReadingRoomError as error:
            return Tried(what=what, who=who, state="failed", text=error.message)

    def _contract(self, entry: FacilityEntry) -> Tried:
        today = self.clock.now().date()
        if any(one.holds_on(today) for one in entry.contracts):
            return Tried(what="contract", who=entry.id, state="ok", text="One holds today.")
        return Tried(what="contract", who=entry.id, state="skipped", text="None holds today: nothing has a due time.")

    # -- DIMSE -------------------------------------------------------------------------------------------------------

    def _echo(self, ae: AeEntry) -> str:
        peer = DimsePeer(ae=ae.ae, host=ae.host, port=ae.port, tls=ae.tls, ca=Path(ae.ca) if ae.ca else None)
        with call_as(self.settings, peer, [Proposal(sop_class=VERIFICATION)], limits=_LIMITS) as calling:
            return _told(calling.echo().status)

    def _as_its_peers(self, entry: FacilityEntry) -> Iterator[Tried]:
        own = self.settings.dimse
        if not entry.aes:
            return
        if own.port is None or own.certificate is not None:
            why = "dimse.port is not set." if own.port is None else "It speaks TLS: try it from the peer itself."
            for ae in entry.aes:
                yield Tried(what="DIMSE as", who=ae.ae, state="skipped", text=why)
            return
        host = "127.0.0.1" if own.host in ("0.0.0.0", "::") else own.host
        here = DimsePeer(ae=own.ae_title, host=host, port=own.port)
        for ae in entry.aes:
            yield from self._as_peer(entry, ae, here)

    def _as_peer(self, entry: FacilityEntry, ae: AeEntry, here: DimsePeer) -> Iterator[Tried]:
        """What that application entity would do here, done under its title."""
        made = test_object(entry.id, self.clock.now())
        networks = (*self.settings.private_networks, *_loopback())
        wanted = [Proposal(sop_class=one) for one in (VERIFICATION, STUDY_FIND, WORKLIST_FIND)]
        wanted.append(Proposal(sop_class=SECONDARY_CAPTURE, transfer_syntaxes=(ExplicitVRLittleEndian,)))
        try:
            with call(here, wanted, calling=ae.ae, networks=networks, limits=_LIMITS) as calling:
                yield self._try("C-ECHO as", ae.ae, lambda: _told(calling.echo().status))
                if ae.may_store:
                    yield self._try("C-STORE as", ae.ae, lambda: _told(_store(calling, made)))
                if ae.may_find:
                    yield self._try("C-FIND as", ae.ae, lambda: _find(calling, made, is_there=ae.may_store))
                    yield self._try("worklist as", ae.ae, lambda: _worklist(calling, ae))
        except ReadingRoomError as error:
            yield Tried(what="association as", who=ae.ae, state="failed", text=error.message)
        finally:
            # In any facility: settings may give an AE title to another one than the directory does. Where it was not
            # stored, there is nothing to remove.
            with suppress(ReadingRoomError):
                remove(self.engine, self.blobs, self.clock, LOCAL_OPERATOR, Scope(), made.StudyInstanceUID)

    # -- HL7 ---------------------------------------------------------------------------------------------------------

    def _as_sender(self, sender: SenderEntry) -> Iterator[Tried]:
        own = self.settings.hl7
        yield self._try(
            "HL7 profile of", sender.application, lambda: load_profile(sender.profile, own.profiles).name + " is read."
        )
        why = ""
        if own.port is None:
            why = "hl7.port is not set."
        elif own.certificate is not None:
            why = "It speaks TLS: try it from the sender itself."
        elif sender.networks:
            why = "It may call from its own networks alone."
        if why:
            yield Tried(what="HL7 as", who=sender.application, state="skipped", text=why)
        else:
            yield self._try("HL7 as", sender.application, lambda: self._message(sender))

    def _message(self, sender: SenderEntry) -> str:
        """Send a training message as that sender: it is acknowledged, kept as ignored, and leads to nothing."""
        own, id = self.settings.hl7, new_id()[-20:]
        host = "127.0.0.1" if own.host in ("0.0.0.0", "::") else own.host
        fields = {3: sender.application, 4: sender.facility or "", 5: "READINGROOM", 7: moment(self.clock.now())}
        message = header({**fields, 9: "ADT^A08^ADT_A01", 10: id, 11: "T", 12: "2.5.1"}) + "\rPID|1||CHECK\r"
        connection = Connection(Origin(scheme="mllp", host=host, port=own.port or 0), networks=_loopback())
        try:
            told = connection.ask(message.encode(), lambda one: id.encode() in one, seconds=_SECONDS)
        finally:
            connection.close()
        answer = read_answer(told)
        if answer.code not in ("AA", "CA"):
            raise ReadingRoomError(f"It was answered {answer.code}: {answer.text}")
        return f"It was answered {answer.code}."

    # -- destinations ------------------------------------------------------------------------------------------------

    def _deliver(self, entry: FacilityEntry, destination: Destination) -> Tried:
        who = f"{destination.id} ({destination.channel})"
        if destination.channel == "hl7" and self.sends_report:
            return self._try("test report to", who, lambda: self._send_report(entry, destination))
        match destination.channel:
            case "dicom":
                called, host, port = application_entity(destination.address)
                is_secured = bool(destination.options.get("tls"))
                ae = AeEntry(ae=called, host=host, port=port, tls=is_secured, ca=str(destination.options.get("ca", "")))
                return self._try("C-ECHO to", who, lambda: self._echo(ae))
            case "hl7" | "fhir" | "stow":
                return self._try("connection to", who, lambda: self._connect(destination))
            case _:
                return Tried(what="connection to", who=who, state="skipped", text="It is tried by its first report.")

    def _connect(self, destination: Destination) -> str:
        from server.reports.channels.access import trust

        scheme, _, rest = destination.address.partition("://")
        if scheme in ("mllp", "mllps"):
            host, _, port = rest.rpartition(":")
            origin = Origin(scheme=scheme, host=host.strip("[]"), port=int(port))
        else:
            origin = origin_of(destination.address)
        context = trust(str(destination.options.get("ca", ""))) if origin.scheme in ("https", "mllps") else None
        open_socket(origin, self.settings.private_networks, _SECONDS, context=context).close()
        return "It takes connections."

    def _send_report(self, entry: FacilityEntry, destination: Destination) -> str:
        """Send a made report as training (MSH-11 T)."""
        now = self.clock.now()
        report = Report(
            id=new_id(),
            facility=entry.id,
            facility_name=entry.name,
            zone=entry.zone,
            status="final",
            number=1,
            accession_number="CHECK",
            patient_id="CHECK",
            patient_name="CHECK^READINGROOM",
            sections=(Section(name="impression", title="Impression", passages=(Passage(text="This is a test."),)),),
            signed_at=now,
        )
        channel = Hl7Channel(pdf=lambda _: b"", networks=self.settings.private_networks)
        told = replace(destination, options={**destination.options, "processing": "T", "pdf": False})
        try:
            sending = Sending(control_id=new_id()[-20:], attempt=1, at=now, facility=entry.facility)
            receipt = channel(report, told, sending)
        finally:
            channel.close()
        if not receipt.accepted:
            raise ReadingRoomError(f"It was answered {receipt.code}: {receipt.text}")
        return f"It was answered {receipt.code}."


def test_object(facility: str, at: datetime) -> FileDataset:
    """A secondary capture of four pixels, of a study of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(SECONDARY_CAPTURE), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))  # type: ignore[arg-type]
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "CHECK^READINGROOM", f"CHECK-{facility}"[:64]
    made.StudyDate, made.StudyTime = f"{at:%Y%m%d}", f"{at:%H%M%S}"
    made.StudyDescription, made.Modality, made.ConversionType = "Test of a connection", "OT", "SYN"
    made.SeriesNumber = made.InstanceNumber = 1
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows = made.Columns = 2
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = bytes(4)
    return made


def _store(calling: Calling, made: FileDataset) -> int:
    context = calling.context_of(SECONDARY_CAPTURE)
    if context is None:
        raise ReadingRoomError("No secondary capture is taken.")
    written = BytesIO()
    made.save_as(written, enforce_file_format=True)
    file = written.getvalue()
    start = 144 + int.from_bytes(file[140:144], "little")  # behind preamble and file meta (PS3.10 7.1)
    return calling.store(context, made.SOPInstanceUID, [file[start:]]).status


def _find(calling: Calling, made: FileDataset, *, is_there: bool) -> str:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", made.StudyInstanceUID
    found = sum(1 for _ in calling.find(STUDY_FIND, wanted))
    if found != int(is_there):
        raise ReadingRoomError("What was stored is not found.")
    return "What was stored is found." if is_there else "It is answered."


def _worklist(calling: Calling, ae: AeEntry) -> str:
    wanted, step = Dataset(), Dataset()
    wanted.PatientName = ""
    step.ScheduledStationAETitle, step.ScheduledProcedureStepID = ae.ae, ""
    wanted.ScheduledProcedureStepSequence = [step]
    found = sum(1 for _ in calling.find(WORKLIST_FIND, wanted))
    return f"{found} scheduled for it."


def _told(status: int) -> str:
    if status != 0 and status >> 12 != 0xB:
        raise ReadingRoomError(f"It was answered {status:04X}.")
    return f"It was answered {status:04X}."


def _loopback() -> tuple[IPv4Network | IPv6Network, ...]:
    """This machine, where this server listens."""
    return ip_network("127.0.0.0/8"), ip_network("::1/128")
