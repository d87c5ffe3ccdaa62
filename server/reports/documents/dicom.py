"""What the DICOM objects of a report have in common: the study that they lie in, where they come from, their UIDs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydicom.datadict import dictionary_VR, tag_for_keyword

from readingroom.errors import Conflict, NotFound
from readingroom.model import Code, Report
from server.reports.documents.sheet import one_line
from storage.catalog.ids import report_uid
from storage.compose import compose
from storage.dicomjson import MetadataJson

SR, PDF = "sr", "pdf"
TITLE = Code(value="18748-4", system="LN", meaning="Diagnostic Imaging Report")
"""Of CID 7000."""

SR_CLASS, PDF_CLASS = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.104.1"

_OURS = "99READINGROOM"
_SCHEMES: Mapping[str, str] = {
    "http://loinc.org": "LN",
    "http://snomed.info/sct": "SCT",
    "http://radlex.org": "RADLEX",
    "http://dicom.nema.org/resources/ontology/DCM": "DCM",
}
# Of the Patient, Patient Study and General Study Modules: what every object of a study has alike.
_OF_STUDY = (
    "PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthDate PatientBirthTime"
    " PatientSex OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments PatientAge PatientSize"
    " PatientWeight StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber"
    " IssuerOfAccessionNumberSequence StudyDescription ProcedureCodeSequence PhysiciansOfRecord"
    " NameOfPhysiciansReadingStudy"
).split()
# Type 2 in them: there, if empty.
_ALWAYS = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID"
    " AccessionNumber"
).split()
_LONGEST_CODE, _LONGEST_LO, _LONGEST_SCHEME = 16, 64, 16


def element(keyword: str, *values: Any) -> dict[str, MetadataJson]:
    """An attribute in the DICOM JSON model (PS3.18 F.2) by its tag; without values it is empty."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    vr = dictionary_VR(tag)
    if vr == "PN":
        values = tuple({"Alphabetic": one} if isinstance(one, str) else one for one in values)
    return {f"{tag:08X}": {"vr": vr, **({"Value": list(values)} if values else {})}}


def binary(keyword: str, value: bytes) -> dict[str, MetadataJson]:
    """An attribute of bytes."""
    tag = tag_for_keyword(keyword)
    return {f"{tag:08X}": {"vr": "OB", "InlineBinary": b64encode(value).decode()}}


def code(concept: Code) -> MetadataJson:
    """An item of a code sequence (PS3.3 8.8)."""
    scheme = _SCHEMES.get(concept.system, concept.system)
    value = one_line(concept.value)
    return {
        **element("CodeValue" if len(value) <= _LONGEST_CODE else "LongCodeValue", value),
        **element("CodingSchemeDesignator", scheme if len(scheme) <= _LONGEST_SCHEME else _OURS),
        **element("CodeMeaning", one_line(concept.meaning)[:_LONGEST_LO] or value[:_LONGEST_LO]),
    }


def ours(name: str, meaning: str) -> Code:
    """A concept that no scheme has."""
    return Code(value=name, system=_OURS, meaning=meaning)


def reference(report: Report, what: str, number: int) -> MetadataJson:
    """An item that refers to the object of a version (PS3.3 table 10-11)."""
    return {
        **element("ReferencedSOPClassUID", SR_CLASS if what == SR else PDF_CLASS),
        **element("ReferencedSOPInstanceUID", report_uid(report.id, what, number)),
    }


def frame(report: Report, study: Mapping[str, MetadataJson], what: str) -> MetadataJson:
    """The data set of an object of a signed version, without what it says.

    Parameters
    ----------
    study
        The header of an instance of the study, as it is shown.

    Raises
    ------
    Conflict
        Nobody has signed the report.
    """
    if report.signed_at is None or not report.number:
        raise Conflict(f"Report {report.id} is not signed; there are DICOM objects of signed versions only.")
    signed = local(report.signed_at, report)
    made: MetadataJson = {}
    for keyword in _OF_STUDY:
        (tag,) = empty = element(keyword)
        if "Value" in study.get(tag, {}):
            made[tag] = study[tag]
        elif keyword in _ALWAYS:
            made |= empty
    return {
        **made,
        **element("SpecificCharacterSet", "ISO_IR 192"),
        **element("SOPClassUID", SR_CLASS if what == SR else PDF_CLASS),
        **element("SOPInstanceUID", report_uid(report.id, what, report.number)),
        **element("SeriesInstanceUID", report_uid(report.id, what)),
        **element("Modality", "SR" if what == SR else "DOC"),
        **element("SeriesNumber", 9001 if what == SR else 9002),
        **element("SeriesDescription", "Report"),
        **element("Manufacturer", "readingroom"),
        **element("InstitutionName", one_line(report.facility_name or report.facility)[:_LONGEST_LO]),
        **element("InstanceNumber", report.number),
        **element("ContentDate", f"{signed:%Y%m%d}"),
        **element("ContentTime", f"{signed:%H%M%S}"),
        **element("InstanceCreationDate", f"{signed:%Y%m%d}"),
        **element("InstanceCreationTime", f"{signed:%H%M%S}"),
    }


def is_verified(report: Report) -> bool:
    """Whether somebody who is responsible for it has signed it."""
    return report.status not in ("registered", "preliminary", "cancelled")


def local(moment: datetime, report: Report) -> datetime:
    """A moment on the clock of the report's facility."""
    try:
        return moment.astimezone(ZoneInfo(report.zone))
    except (ZoneInfoNotFoundError, ValueError):
        return moment.astimezone(ZoneInfo("UTC"))


def written(dataset: MetadataJson) -> bytes:
    """The data set as a Part 10 file (PS3.10 7)."""
    return b"".join(compose(dataset, _no_bulk).pieces())


def _no_bulk(uri: str, _is_pixel_data: bool) -> Sequence[Any]:
    raise NotFound(f"There is no bulk data {uri[:64]!r}.")
