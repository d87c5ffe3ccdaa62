"""A report as DICOM: Basic Text SR and Encapsulated PDF, in the study that it is about."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from readingroom.errors import Conflict
from readingroom.model import Addendum, Code, CriticalResult, FollowUp, Passage, Report, Section, Signature
from server.reports.documents import encapsulated, pdf, sr
from storage.objects import scan
from tests import synthetic
from tests.conftest import absent
from tests.reports import a_report
from tests.servers import Absent, program

IMAGE = synthetic.ct_series(1)[0]
STUDY = scan(synthetic.part10(IMAGE)).metadata
LATER = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
BOB = Signature(reader="bob", name="Roe^Bob^^Dr.", role="attending", at=LATER)


def ours(**changes: object) -> Report:
    """A report of the image's study."""
    return a_report(study_uid=str(IMAGE.StudyInstanceUID), accession_number=str(IMAGE.AccessionNumber), **changes)


def as_sr(report: Report) -> Dataset:
    return pydicom.dcmread(io.BytesIO(sr.render(report, STUDY)))


def items(dataset: Dataset) -> Iterator[tuple[int, str, str, str]]:
    """The content tree: depth, relationship, concept, value."""
    for item in dataset.get("ContentSequence", ()):
        concept = item.ConceptNameCodeSequence[0]
        value = item.get("TextValue") or item.get("PersonName") or ""
        if "ConceptCodeSequence" in item:
            value = item.ConceptCodeSequence[0].CodeValue
        yield 0, item.RelationshipType, concept.get("CodeValue") or concept.LongCodeValue, str(value)
        yield from ((depth + 1, *rest) for depth, *rest in items(item))  # type: ignore[misc]


VERSIONS = {
    "final": ours(),
    "preliminary": ours(status="preliminary"),
    "corrected": ours(status="corrected", kind="correction", number=2, because="The other side."),
    "appended": ours(
        status="appended",
        kind="addendum",
        number=3,
        addenda=(Addendum(number=3, passages=(Passage(text="Discussed."),), signatures=(BOB,)),),
        critical_results=(CriticalResult(category=1, text="Haemorrhage."),),
        follow_ups=(FollowUp(text="MR", due_on="2027-01-01"),),
    ),
    "withdrawn": ours(status="entered-in-error", number=4, because="The wrong patient."),
    "foreign": ours(
        language="he",
        sections=(
            Section(name="findings", title="ממצאים", passages=(Passage(text="תקין\nשתי שורות", origin="ai"),)),
            Section(name="my-own-long-section-name", title="Anything", passages=(Passage(text="x"),)),
            Section(name="technique", title="Technique"),
            Section(
                name="coded", title="Coded", code=Code(value="11329-0", system="http://loinc.org", meaning="History")
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_another_program_finds_no_fault_with_the_objects_of_a_version(name: str, tmp_path: Path) -> None:
    try:
        dciodvfy, dcentvfy = program("dciodvfy"), program("dcentvfy")
    except Absent as reason:
        absent(reason)
    report = VERSIONS[name]
    (tmp_path / "image.dcm").write_bytes(synthetic.part10(IMAGE))
    (tmp_path / "sr.dcm").write_bytes(sr.render(report, STUDY))
    (tmp_path / "pdf.dcm").write_bytes(encapsulated.render(report, STUDY, pdf.render(report), has_sr=True))
    for kind in ("sr", "pdf"):
        found = subprocess.run([dciodvfy, "-new", str(tmp_path / f"{kind}.dcm")], capture_output=True, text=True)
        assert "Error" not in found.stderr, found.stderr
        assert {"sr": "BasicTextSR", "pdf": "EncapsulatedPDF"}[kind] in found.stderr
    together = subprocess.run([dcentvfy, *map(str, tmp_path.glob("*.dcm"))], capture_output=True, text=True)
    assert "Error" not in together.stderr, together.stderr


def test_the_sr_has_the_tree_of_template_2000() -> None:
    dataset = as_sr(ours())
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert dataset.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert list(items(dataset)) == [
        (0, "HAS CONCEPT MOD", "121049", "en"),
        (0, "HAS OBS CONTEXT", "121005", "121006"),
        (0, "HAS OBS CONTEXT", "121008", "Ada Byron^^^^MD"),
        (0, "CONTAINS", "59776-5", ""),
        (1, "CONTAINS", "121071", "There is no haemorrhage."),
        (0, "CONTAINS", "19005-8", ""),
        (1, "CONTAINS", "121073", "Normal CT of the head."),
    ]


def test_a_final_sr_is_complete_and_verified_by_who_signed() -> None:
    dataset = as_sr(ours())
    assert (dataset.CompletionFlag, dataset.VerificationFlag, dataset.PreliminaryFlag) == (
        "COMPLETE",
        "VERIFIED",
        "FINAL",
    )
    (observer,) = dataset.VerifyingObserverSequence
    assert observer.VerifyingObserverName == "Ada Byron^^^^MD"
    assert observer.VerifyingOrganization == "Local Hospital"
    assert observer.VerificationDateTime == "20261124063000-0600"
    assert (dataset.ContentDate, dataset.ContentTime) == ("20261124", "063000")
    assert "PredecessorDocumentsSequence" not in dataset


def test_a_preliminary_sr_is_not_verified() -> None:
    dataset = as_sr(VERSIONS["preliminary"])
    assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in dataset


def test_a_later_sr_names_the_one_before_it_and_says_why() -> None:
    before, dataset = as_sr(ours()), as_sr(VERSIONS["corrected"])
    (predecessor,) = dataset.PredecessorDocumentsSequence
    (series,) = predecessor.ReferencedSeriesSequence
    assert predecessor.StudyInstanceUID == dataset.StudyInstanceUID == IMAGE.StudyInstanceUID
    assert series.SeriesInstanceUID == before.SeriesInstanceUID == dataset.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert (1, "CONTAINS", "55112-7", "CORRECTED REPORT: The other side.") in list(items(dataset))


def test_an_addendum_names_its_own_observer() -> None:
    told = list(items(as_sr(VERSIONS["appended"])))
    start = told.index((0, "CONTAINS", "55107-7", ""))
    assert told[start + 1 : start + 4] == [
        (1, "HAS OBS CONTEXT", "121005", "121006"),
        (1, "HAS OBS CONTEXT", "121008", "Roe^Bob^^Dr."),
        (1, "CONTAINS", "121106", "Discussed."),
    ]
    names = [one.VerifyingObserverName for one in as_sr(VERSIONS["appended"]).VerifyingObserverSequence]
    assert names == ["Ada Byron^^^^MD", "Roe^Bob^^Dr."]


def test_an_sr_that_was_withdrawn_is_incomplete_and_says_so_first() -> None:
    dataset = as_sr(VERSIONS["withdrawn"])
    assert (dataset.CompletionFlag, dataset.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    first = next(one for one in items(dataset) if one[1] == "CONTAINS" and one[0] == 1)
    assert first[3] == "ENTERED IN ERROR - DO NOT USE: The wrong patient."


def test_text_in_the_sr_is_unicode_with_the_line_ends_of_dicom() -> None:
    dataset = as_sr(VERSIONS["foreign"])
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert (1, "CONTAINS", "121071", "תקין\r\nשתי שורות") in list(items(dataset))


def test_the_encapsulated_pdf_holds_the_very_pdf_and_names_the_sr() -> None:
    document = pdf.render(ours())
    dataset = pydicom.dcmread(io.BytesIO(encapsulated.render(ours(), STUDY, document, has_sr=True)))
    assert dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength] == document
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert dataset.DocumentTitle == "Radiology report - FINAL REPORT"
    (source,) = dataset.SourceInstanceSequence
    assert source.ReferencedSOPInstanceUID == as_sr(ours()).SOPInstanceUID


def test_objects_have_the_patient_and_study_that_the_study_shows() -> None:
    header = STUDY | {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Phantom^Corrected"}]}}
    dataset = pydicom.dcmread(io.BytesIO(sr.render(ours(), header)))
    assert dataset.PatientName == "Phantom^Corrected"
    for keyword in (
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
    ):
        assert dataset[keyword].value == IMAGE[keyword].value


def test_a_version_that_is_made_twice_is_the_same_object_and_another_version_another() -> None:
    assert sr.render(ours(), STUDY) == sr.render(ours(), STUDY)
    assert len({as_sr(one).SOPInstanceUID for one in VERSIONS.values()}) == len(
        {one.number for one in VERSIONS.values()}
    )


def test_there_are_no_objects_of_what_nobody_has_signed() -> None:
    with pytest.raises(Conflict, match="not signed"):
        sr.render(ours(number=0, signed_at=None), STUDY)
