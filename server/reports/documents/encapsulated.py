"""A report as DICOM Encapsulated PDF (PS3.3 A.45.1, C.24.2)."""

from __future__ import annotations

from collections.abc import Mapping

from readingroom.model import Report
from server.reports.documents import dicom
from server.reports.documents.dicom import binary, code, element
from server.reports.documents.sheet import TITLE, lay_out
from storage.dicomjson import MetadataJson


def render(report: Report, study: Mapping[str, MetadataJson], pdf: bytes, *, has_sr: bool = False) -> bytes:
    """The Part 10 file of a signed version.

    Parameters
    ----------
    study
        The header of an instance of the study, as it is shown.
    pdf
        The PDF of that version.
    has_sr
        Whether the same version is there as SR too, which it then names as its source.

    Raises
    ------
    Conflict
        Nobody has signed it.
    """
    dataset = {
        **dicom.frame(report, study, dicom.PDF),
        **element("ConversionType", "WSD"),
        **element("AcquisitionDateTime"),
        **element("BurnedInAnnotation", "YES"),
        **(element("SourceInstanceSequence", dicom.reference(report, dicom.SR, report.number)) if has_sr else {}),
        **element("DocumentTitle", f"{TITLE} - {lay_out(report).status}"),
        **element("ConceptNameCodeSequence", code(dicom.TITLE)),
        **element("VerificationFlag", "VERIFIED" if dicom.is_verified(report) else "UNVERIFIED"),
        **element("MIMETypeOfEncapsulatedDocument", "application/pdf"),
        **element("EncapsulatedDocumentLength", len(pdf)),
        **binary("EncapsulatedDocument", pdf),
    }
    return dicom.written(dataset)
