"""DICOM objects made in code: no patient was ever near them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    KeyObjectSelectionDocumentStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)


def new_uid() -> str:
    """A UID that nobody else has."""
    return str(generate_uid(prefix=None))


def part10(dataset: Dataset) -> bytes:
    """The data set as the bytes of a DICOM file (PS3.10 7)."""
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def new_dataset(
    sop_class: str,
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    study_uid: str | None = None,
    series_uid: str | None = None,
    **attributes: Any,
) -> FileDataset:
    """A data set of that class with what every composite object has; `attributes` are keyword and value."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(new_uid())
    meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset = FileDataset("made in code", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = study_uid or new_uid()
    dataset.SeriesInstanceUID = series_uid or new_uid()
    dataset.PatientName = "Phantom^Ada"
    dataset.PatientID = "RR-0001"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.StudyDate = "20260102"
    dataset.StudyTime = "101500"
    dataset.StudyID = "1"
    dataset.AccessionNumber = "A100"
    dataset.ReferringPhysicianName = "Referrer^Rita"
    dataset.StudyDescription = "Made in code"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def set_pixels(dataset: Dataset, pixels: np.ndarray, *, bits_stored: int | None = None) -> None:
    """Native pixels of shape ([frames,] rows, columns[, 3]) with the attributes that describe them."""
    is_colour = pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if is_colour else pixels.shape
    bits = pixels.dtype.itemsize * 8
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = shape[-2:]
    if len(shape) == 3:
        dataset.NumberOfFrames = shape[0]
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def ct_series(
    slices: int = 5, rows: int = 32, columns: int = 24, *, study_uid: str | None = None, **attributes: Any
) -> list[FileDataset]:
    """An axial CT series: signed 16 bit, 2 mm apart, a bright disc that grows from slice to slice."""
    study_uid, series_uid, frame_of_reference = study_uid or new_uid(), new_uid(), new_uid()
    y, x = np.mgrid[:rows, :columns]
    series = []
    for index in range(slices):
        dataset = new_dataset(CTImageStorage, study_uid=study_uid, series_uid=series_uid)
        dataset.Modality = "CT"
        dataset.SeriesDescription = "Axial"
        dataset.BodyPartExamined = "CHEST"
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.InstanceNumber = index + 1
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [0, 0, 2.0 * index]
        dataset.PixelSpacing = [0.7, 0.7]
        dataset.SliceThickness = 2
        dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
        dataset.WindowCenter, dataset.WindowWidth = 40, 400
        is_inside = (y - rows / 2) ** 2 + (x - columns / 2) ** 2 < (index + 2) ** 2
        set_pixels(dataset, np.where(is_inside, 1064 + index, 24).astype("<i2"))
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        series.append(dataset)
    return series


def secondary_capture(rows: int = 16, columns: int = 20, **attributes: Any) -> FileDataset:
    """One RGB image of 8 bits a sample."""
    dataset = new_dataset(SecondaryCaptureImageStorage, Modality="OT", ConversionType="WSD")
    ramp = np.arange(rows * columns * 3, dtype=np.uint32) % 251
    set_pixels(dataset, ramp.astype(np.uint8).reshape(rows, columns, 3))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def cine(frames: int = 4, rows: int = 8, columns: int = 10, **attributes: Any) -> FileDataset:
    """A native multi-frame image of 16 bits; every pixel of frame n is n."""
    dataset = new_dataset(MultiFrameGrayscaleWordSecondaryCaptureImageStorage, Modality="OT", ConversionType="WSD")
    numbers = np.arange(1, frames + 1, dtype="<u2")[:, None, None]
    set_pixels(dataset, np.broadcast_to(numbers, (frames, rows, columns)).copy(), bits_stored=12)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def encapsulated(
    bitstreams: Sequence[bytes], *, fragments_per_frame: int = 1, has_offsets: bool = True, is_extended: bool = False
) -> FileDataset:
    """A multi-frame object whose frames are any bytes at all; nothing on the storage path may decode them."""
    dataset = new_dataset(
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        transfer_syntax=JPEG2000Lossless,
        Modality="OT",
        ConversionType="WSD",
    )
    set_pixels(dataset, np.zeros((len(bitstreams), 8, 8), dtype="<u2"), bits_stored=12)
    if is_extended:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            list(bitstreams)
        )
    else:
        dataset.PixelData = encapsulate(list(bitstreams), fragments_per_frame=fragments_per_frame, has_bot=has_offsets)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def text_report(**attributes: Any) -> FileDataset:
    """A Basic Text SR of one line: an object without frames."""
    dataset = new_dataset(BasicTextSRStorage, Modality="SR", ValueType="CONTAINER", ContinuityOfContent="SEPARATE")
    line = Dataset()
    line.RelationshipType, line.ValueType, line.TextValue = "CONTAINS", "TEXT", "No finding."
    dataset.ContentSequence = [line]
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def a_pdf(*, width: int = 200, height: int = 100, pages: int = 1) -> bytes:
    """A PDF of white pages with a red square from 40, 40 to 60, 60."""
    drawing = b"1 0 0 rg 40 40 20 20 re f"
    kids = b" ".join([b"3 0 R"] * pages)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%b]/Count %d>>" % (kids, pages),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Contents 4 0 R>>" % (width, height),
        b"<</Length %d>>stream\n%b\nendstream" % (len(drawing), drawing),
    ]
    document, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(document))
        document += b"%d 0 obj%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    tail = b"xref\n0 %d\n0000000000 65535 f \n%btrailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
    return document + tail % (len(objects) + 1, table, len(objects) + 1, len(document))


def pdf_document(document: bytes = b"%PDF-1.4\n%%EOF\n", **attributes: Any) -> FileDataset:
    """An encapsulated PDF: an object without frames that holds bulk data."""
    dataset = new_dataset(EncapsulatedPDFStorage, Modality="DOC", MIMETypeOfEncapsulatedDocument="application/pdf")
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.EncapsulatedDocumentLength = len(document)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def cda_document(document: bytes = b"<ClinicalDocument/>", **attributes: Any) -> FileDataset:
    """An encapsulated CDA."""
    dataset = new_dataset(EncapsulatedCDAStorage, Modality="DOC", MIMETypeOfEncapsulatedDocument="text/XML")
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    dataset.EncapsulatedDocumentLength = len(document)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def rejection_note(title: str, *rejected: Dataset, **attributes: Any) -> FileDataset:
    """A Key Object Selection with that title over these instances, in the study of the first (PS3.3 A.35.4)."""
    made = new_dataset(
        KeyObjectSelectionDocumentStorage,
        study_uid=rejected[0].StudyInstanceUID,
        Modality="KO",
        ValueType="CONTAINER",
        SeriesNumber=99,
    )
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = title, "DCM", "A title"
    made.ConceptNameCodeSequence = Items([name])
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for one in rejected:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        studies.setdefault(one.StudyInstanceUID, {}).setdefault(one.SeriesInstanceUID, []).append(reference)
    evidence = []
    for study_uid, series in studies.items():
        of_study = Dataset()
        of_study.StudyInstanceUID = study_uid
        of_study.ReferencedSeriesSequence = Items()
        for series_uid, references in series.items():
            of_series = Dataset()
            of_series.SeriesInstanceUID, of_series.ReferencedSOPSequence = series_uid, Items(references)
            of_study.ReferencedSeriesSequence.append(of_series)
        evidence.append(of_study)
    made.CurrentRequestedProcedureEvidenceSequence = Items(evidence)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
