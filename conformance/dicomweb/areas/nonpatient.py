"""Non-patient instances: color palettes and their like (PS3.18 chapter 12)."""

from __future__ import annotations

from conformance.dicomweb.cast import STORE_TYPE, Cast
from conformance.dicomweb.checks import MAY, Fault, check, ensure
from conformance.dicomweb.jsonmodel import blemishes, first, said
from conformance.dicomweb.multipart import write_multipart
from conformance.dicomweb.peer import DICOM, DICOM_PARTS, JSON, Answer, Peer, read_file
from conformance.dicomweb.samples import Sample

PALETTES = "/color-palettes"


def palette(peer: Peer, cast: Cast, name: str) -> Sample:
    """A color palette that was stored for one check."""
    sample = cast.palette(name)
    _store(peer, PALETTES, sample).expect(200, 201, 202)
    return sample


def _store(peer: Peer, path: str, sample: Sample) -> Answer:
    return peer.post(path, STORE_TYPE, write_multipart([(DICOM, sample.file)]))


@check("NPI-001", "12.1", MAY)
def is_offered(peer: Peer, cast: Cast) -> None:
    """Color palettes can be searched for."""
    if why := cast.missing("non-patient"):
        raise Fault(why)
    peer.get(PALETTES, accept=JSON).rows()


@check("NPI-002", "12.5", needs="non-patient")
def stored(peer: Peer, cast: Cast) -> None:
    """A color palette that was stored is retrieved as a DICOM file."""
    sample = palette(peer, cast, "palette stored")
    (part,) = peer.get(f"{PALETTES}/{sample.uid}", accept=DICOM_PARTS).parts()
    ensure(read_file(part.body).SOPInstanceUID == sample.uid, "another instance is retrieved")


@check("NPI-003", "12.4", needs="non-patient")
def as_json(peer: Peer, cast: Cast) -> None:
    """A color palette is retrieved as DICOM JSON, which is the default."""
    sample = palette(peer, cast, "palette in json")
    found = peer.get(f"{PALETTES}/{sample.uid}", accept=JSON).rows()
    ensure([first(row, "00080018") for row in found] == [sample.uid], f"{len(found)} data sets, or another")
    breaches = [str(blemish) for row in found for blemish in blemishes(row)]
    ensure(not breaches, said(breaches))


@check("NPI-004", "12.6", needs="non-patient")
def found(peer: Peer, cast: Cast) -> None:
    """A color palette is found by its SOP Instance UID."""
    sample = palette(peer, cast, "palette found")
    rows = peer.search(PALETTES, SOPInstanceUID=sample.uid).rows()
    ensure([first(row, "00080018") for row in rows] == [sample.uid], f"{len(rows)} are found, or another")


@check("NPI-005", "12.4.3.1", needs="non-patient")
def unknown(peer: Peer, cast: Cast) -> None:
    """An instance that is not there, of any kind, is answered by 404."""
    peer.get(f"{PALETTES}/{cast.samples.uid('nowhere')}", accept=DICOM_PARTS).expect(404)


@check("NPI-006", "12.4.3.1", needs="non-patient")
def not_acceptable(peer: Peer, cast: Cast) -> None:
    """A media type that is not supported is answered by 406."""
    sample = palette(peer, cast, "palette refused")
    peer.get(f"{PALETTES}/{sample.uid}", accept="image/png").expect(406)


@check("NPI-007", "12.5.1.1", needs="non-patient")
def of_another_kind(peer: Peer, cast: Cast) -> None:
    """An instance that is no color palette is not stored as one."""
    _store(peer, PALETTES, cast.new()).expect(400, 409)


@check("NPI-008", "12.5.1.1", needs="non-patient")
def under_another_uid(peer: Peer, cast: Cast) -> None:
    """A color palette is not stored under another UID than its own."""
    sample = cast.palette("palette astray")
    _store(peer, f"{PALETTES}/{cast.samples.uid('nowhere')}", sample).expect(400, 409)


@check("NPI-009", "10.6", needs="non-patient")
def no_study(peer: Peer, cast: Cast) -> None:
    """A color palette is in no study: the search for instances does not find it."""
    sample = palette(peer, cast, "palette apart")
    ensure(not peer.search("/instances", SOPInstanceUID=sample.uid).rows(), "it is found among the studies")
