"""A report as DICOM Basic Text SR: TID 2000, Basic Diagnostic Imaging Report (PS3.3 A.35.1, PS3.16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from readingroom.model import Code, Report, Section, Signature
from server.reports.documents import dicom
from server.reports.documents.dicom import code, element
from server.reports.documents.html import language_of
from server.reports.documents.sheet import lay_out, one_line
from storage.catalog.ids import report_uid
from storage.dicomjson import MetadataJson

_HEADINGS: Mapping[str, Code] = {
    "indication": Code(value="18785-6", system="LN", meaning="Indications for Procedure"),
    "technique": Code(value="55111-9", system="LN", meaning="Current Procedure Descriptions"),
    "comparison": Code(value="18834-2", system="LN", meaning="Previous Findings"),
    "findings": Code(value="59776-5", system="LN", meaning="Findings"),
    "impression": Code(value="19005-8", system="LN", meaning="Impressions"),
    "recommendation": Code(value="18783-1", system="LN", meaning="Recommendations"),
    "addendum": Code(value="55107-7", system="LN", meaning="Addendum"),
    "critical": Code(value="73568-8", system="LN", meaning="Communication of Critical Results"),
    "summary": Code(value="55112-7", system="LN", meaning="Summary"),
}
"""Of CID 7001."""

_ELEMENTS: Mapping[str, Code] = {
    "18785-6": Code(value="55115-0", system="LN", meaning="Request"),
    "55111-9": Code(value="121065", system="DCM", meaning="Procedure Description"),
    "18834-2": Code(value="121069", system="DCM", meaning="Previous Finding"),
    "59776-5": Code(value="121071", system="DCM", meaning="Finding"),
    "73568-8": Code(value="121071", system="DCM", meaning="Finding"),
    "19005-8": Code(value="121073", system="DCM", meaning="Impression"),
    "18783-1": Code(value="121075", system="DCM", meaning="Recommendation"),
    "55110-1": Code(value="121077", system="DCM", meaning="Conclusion"),
    "55112-7": Code(value="55112-7", system="LN", meaning="Summary"),
    "11329-0": Code(value="11329-0", system="LN", meaning="History"),
}
"""What text below a heading is, by the heading's code: of CID 7002."""

_ORIGIN = dicom.ours("ORIGIN", "Origin of the text")
_COMMENT = Code(value="121106", system="DCM", meaning="Comment")
_LANGUAGE = Code(value="121049", system="DCM", meaning="Language of Content Item and Descendants")
_OBSERVER_TYPE = Code(value="121005", system="DCM", meaning="Observer Type")
_PERSON = Code(value="121006", system="DCM", meaning="Person")
_OBSERVER = Code(value="121008", system="DCM", meaning="Person Observer Name")
_LANGUAGES: Mapping[str, str] = {
    "ar": "Arabic",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "he": "Hebrew",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}
_LONGEST_NAME = 64


def render(report: Report, study: Mapping[str, MetadataJson]) -> bytes:
    """The Part 10 file of a signed version.

    It is complete, and verified once somebody responsible has signed it; one that was withdrawn is incomplete, and says
    so first. The version before it is its predecessor.

    Parameters
    ----------
    study
        The header of an instance of the study, as it is shown.

    Raises
    ------
    Conflict
        Nobody has signed it.
    """
    is_withdrawn = report.status == "entered-in-error"
    is_verified = dicom.is_verified(report) and not is_withdrawn  # only what is complete may be
    dataset = {
        **dicom.frame(report, study, dicom.SR),
        **element("ReferencedPerformedProcedureStepSequence"),
        **element("CompletionFlag", "PARTIAL" if is_withdrawn else "COMPLETE"),
        **(element("CompletionFlagDescription", "Entered in error - do not use") if is_withdrawn else {}),
        **element("VerificationFlag", "VERIFIED" if is_verified else "UNVERIFIED"),
        **element("PreliminaryFlag", "FINAL" if dicom.is_verified(report) else "PRELIMINARY"),
        **(element("VerifyingObserverSequence", *_verifying(report)) if is_verified else {}),
        **(element("PredecessorDocumentsSequence", _predecessor(report)) if report.number > 1 else {}),
        **(element("ReferencedRequestSequence", _request(report)) if report.accession_number else {}),
        **element("PerformedProcedureCodeSequence"),
        **_container(dicom.TITLE, _content(report)),
        **element(
            "ContentTemplateSequence",
            {**element("MappingResource", "DCMR"), **element("TemplateIdentifier", "2000")},
        ),
    }
    return dicom.written(dataset)


def _content(report: Report) -> list[MetadataJson]:
    """The items below the root, in the order that TID 2000 has."""
    sheet = lay_out(report)
    language = language_of(sheet)
    meaning = _LANGUAGES.get(language.partition("-")[0].lower(), language)
    told = _item("HAS CONCEPT MOD", "CODE", _LANGUAGE)
    told |= element("ConceptCodeSequence", code(Code(value=language, system="RFC5646", meaning=meaning)))
    items = [told, *_observers(report.signatures)]
    if sheet.is_warning:
        because = one_line(report.because)
        items += _headed(_HEADINGS["summary"], [f"{sheet.status}: {because}" if because else sheet.status])
    sections, others = sheet.parts[: len(report.sections)], sheet.parts[len(report.sections) :]
    for section, part in zip(report.sections, sections, strict=True):
        items += _headed(_heading(section), [part.text])
    for part in others:
        items += _headed(_HEADINGS[part.kind], part.text.split("\n"))
    addenda = sorted(report.addenda, key=lambda one: one.number)
    for addendum, part in zip(addenda, sheet.addenda, strict=True):
        items += _headed(_HEADINGS["addendum"], [part.text], addendum.signatures)
    if sheet.notes:
        items += _headed(_ORIGIN, sheet.notes)
    return items


def _heading(section: Section) -> Code:
    """The concept of a section: its own code, that of its name, or one of ours."""
    if section.code is not None:
        known = _HEADINGS.get(section.name)
        is_the_same = known is not None and known.value == section.code.value
        return known if known is not None and is_the_same else section.code
    name = one_line(section.name)
    return _HEADINGS.get(name) or dicom.ours(name or "section", one_line(section.title) or name or "Section")


def _headed(heading: Code, texts: Sequence[str], observers: Sequence[Signature] = ()) -> list[MetadataJson]:
    """A container with texts; empty where there are none, as a section may be."""
    concept = _ELEMENTS.get(heading.value, _COMMENT)
    below = [
        {**_item("CONTAINS", "TEXT", concept), **element("TextValue", text.replace("\n", "\r\n"))}
        for text in texts
        if text.strip()
    ]
    return [{**element("RelationshipType", "CONTAINS"), **_container(heading, [*_observers(observers), *below])}]


def _observers(signatures: Sequence[Signature]) -> Iterator[MetadataJson]:
    """Who says what is below: TID 1002."""
    for one in signatures:
        told = _item("HAS OBS CONTEXT", "CODE", _OBSERVER_TYPE)
        yield {**told, **element("ConceptCodeSequence", code(_PERSON))}
        yield {**_item("HAS OBS CONTEXT", "PNAME", _OBSERVER), **element("PersonName", _name(one))}


def _item(relationship: str, kind: str, concept: Code) -> MetadataJson:
    return {
        **element("RelationshipType", relationship),
        **element("ValueType", kind),
        **element("ConceptNameCodeSequence", code(concept)),
    }


def _container(concept: Code, content: Sequence[MetadataJson]) -> MetadataJson:
    return {
        **element("ValueType", "CONTAINER"),
        **element("ConceptNameCodeSequence", code(concept)),
        **element("ContinuityOfContent", "SEPARATE"),
        **(element("ContentSequence", *content) if content else {}),
    }


def _verifying(report: Report) -> Iterator[MetadataJson]:
    """Who has verified it: whoever signed the text, and each addendum."""
    signatures = [*report.signatures, *(signature for one in report.addenda for signature in one.signatures)]
    organization = one_line(report.facility_name or report.facility)[:_LONGEST_NAME]
    for one in signatures:
        yield {
            **element("VerifyingOrganization", organization),
            **element("VerificationDateTime", f"{dicom.local(one.at, report):%Y%m%d%H%M%S%z}"),
            **element("VerifyingObserverName", _name(one)),
            **element("VerifyingObserverIdentificationCodeSequence"),
        }


def _predecessor(report: Report) -> MetadataJson:
    before = dicom.reference(report, dicom.SR, report.number - 1)
    series = {
        **element("SeriesInstanceUID", report_uid(report.id, dicom.SR)),
        **element("ReferencedSOPSequence", before),
    }
    return {
        **element("StudyInstanceUID", report.study_uid or ""),
        **element("ReferencedSeriesSequence", series),
    }


def _request(report: Report) -> MetadataJson:
    return {
        **element("StudyInstanceUID", report.study_uid or ""),
        **element("ReferencedStudySequence"),
        **element("AccessionNumber", report.accession_number),
        **element("PlacerOrderNumberImagingServiceRequest"),
        **element("FillerOrderNumberImagingServiceRequest"),
        **element("RequestedProcedureID"),
        **element("RequestedProcedureDescription", *([one_line(report.procedure)[:64]] if report.procedure else [])),
        **element("RequestedProcedureCodeSequence"),
    }


def _name(signature: Signature) -> str:
    """A reader's name as PN; where it is none, all of it is the family name, and what follows a comma the suffix."""
    name = one_line(signature.name).partition("=")[0] or signature.reader
    if "^" not in name:
        before, _, after = name.partition(",")
        name = f"{before}^^^^{after.replace(',', '').strip()}" if after.strip() else before
    return name[:_LONGEST_NAME]
