"""The data sets that the suite stores and looks for again: made in code, of nobody, with UIDs of their own a run."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
from pydicom import FileDataset, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ColorPaletteStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
CYRILLIC = "Люксембург"
GREEK = "Διονυσιος"
LATIN = "Ångström^José^Maria^Dr.^Jr."
PRIVATE_CREATOR = "CONFORMANCE SUITE"
CODECS = {
    "rle": RLELossless,
    "jls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}
"""Names of the samples with lossless compressed pixels, all of them the same, and their transfer syntaxes."""

PAGES = 7
_RNG_SEED = 18
_SEED_FILE = "seed.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One data set, and the DICOM file that holds it."""

    name: str
    dataset: FileDataset
    file: bytes

    @property
    def study_uid(self) -> str:
        return str(self.dataset.StudyInstanceUID)

    @property
    def series_uid(self) -> str:
        return str(self.dataset.SeriesInstanceUID)

    @property
    def uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    @property
    def sop_class(self) -> str:
        return str(self.dataset.SOPClassUID)

    @property
    def transfer_syntax(self) -> str:
        return str(self.dataset.file_meta.TransferSyntaxUID)

    @property
    def study(self) -> str:
        """Its study's path below the service root."""
        return f"/studies/{self.study_uid}"

    @property
    def series(self) -> str:
        return f"{self.study}/series/{self.series_uid}"

    @property
    def path(self) -> str:
        return f"{self.series}/instances/{self.uid}"


class Samples:
    """All the samples of one run.

    Parameters
    ----------
    seed
        What their UIDs and patient ids are made of; the same seed makes the same samples.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.prefix = f"CS{uuid.uuid5(uuid.NAMESPACE_OID, seed).hex[:8].upper()}"
        self.frames = _frames()
        self._made: dict[str, Sample] = {}
        for name, dataset in self._all():
            self._made[name] = Sample(name=name, dataset=dataset, file=write_file(dataset))

    def __getitem__(self, name: str) -> Sample:
        return self._made[name]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._made.values())

    def patient_id(self, letter: str) -> str:
        """The Patient ID of a patient who is known by a letter."""
        return f"{self.prefix}-{letter}"

    def uid(self, name: str) -> str:
        """The UID of something with a name (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{self.seed}/{name}').int}"

    def new(self, name: str, *, study: str = "", letter: str = "N", **attributes: Any) -> Sample:
        """A small image for one check alone, in a study of its own unless `study` names one."""
        dataset = self._base(SecondaryCaptureImageStorage, name, study=study or name, series=name, letter=letter)
        dataset.Modality, dataset.ConversionType = "OT", "WSD"
        set_pixels(dataset, np.arange(16, dtype="<u2").reshape(4, 4))
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return Sample(name=name, dataset=dataset, file=write_file(dataset))

    def palette(self, name: str) -> Sample:
        """A Color Palette: an instance that belongs to no patient (PS3.3 A.58)."""
        dataset = _new_file(ColorPaletteStorage, self.uid(name))
        dataset.ContentLabel, dataset.ContentDescription = "CONFORMANCE", "Made by the conformance suite"
        dataset.ContentCreatorName = "Suite^Conformance"
        dataset.ICCProfile = b""
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes(range(256)))
        return Sample(name=name, dataset=dataset, file=write_file(dataset))

    def _base(
        self, sop_class: str, name: str, *, study: str, series: str, letter: str, syntax: str = ExplicitVRLittleEndian
    ) -> FileDataset:
        dataset = _new_file(sop_class, self.uid(name), syntax)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.uid(f"study {study}"), self.uid(f"series {series}")
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientName, dataset.PatientID = f"Sample^{letter}", self.patient_id(letter)
        dataset.PatientBirthDate, dataset.PatientSex = "19600229", "O"
        dataset.StudyDate, dataset.StudyTime = "20260102", "101500"
        dataset.StudyID, dataset.AccessionNumber = f"S{letter}", f"{self.prefix}{letter}"
        dataset.ReferringPhysicianName = "Referrer^Rita"
        dataset.StudyDescription = f"Conformance {letter}"
        dataset.SeriesNumber = dataset.InstanceNumber = 1
        return dataset

    def _all(self) -> Iterator[tuple[str, FileDataset]]:
        yield from self._ct()
        yield from self._beside_the_ct()
        yield from self._multiframe()
        yield from self._compressed()
        yield from self._names()
        yield "deep", self._deep()
        yield from self._pages()

    def _ct(self) -> Iterator[tuple[str, FileDataset]]:
        y, x = np.mgrid[:32, :24]
        for number in range(1, 6):
            name = f"ct{number}"
            dataset = self._base(CTImageStorage, name, study="ct", series="ct", letter="A")
            dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", LATIN
            dataset.Modality, dataset.BodyPartExamined, dataset.SeriesDescription = "CT", "CHEST", "Axial"
            dataset.FrameOfReferenceUID = self.uid("frame of reference")
            dataset.InstanceNumber = number
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [0, 0, 2.5 * number]
            dataset.PixelSpacing = ["0.7421875", "0.7421875"]
            dataset.SliceThickness = "2.50"
            dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
            dataset.WindowCenter, dataset.WindowWidth = 40, 400
            request = Dataset()
            request.ScheduledProcedureStepID = f"{self.prefix}-SPS"
            request.RequestedProcedureID = f"{self.prefix}-RP"
            dataset.RequestAttributesSequence = [request]
            set_pixels(dataset, (x * 40 + y * 3 + number).astype("<i2"))
            yield name, dataset

    def _beside_the_ct(self) -> Iterator[tuple[str, FileDataset]]:
        """What lies in the same study: a report, a presentation state, and a document."""
        report = self._base(BasicTextSRStorage, "sr", study="ct", series="sr", letter="A")
        report.Modality, report.ValueType, report.ContinuityOfContent = "SR", "CONTAINER", "SEPARATE"
        report.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
        report.ReferencedPerformedProcedureStepSequence = []
        report.PerformedProcedureCodeSequence = []
        line = Dataset()
        line.RelationshipType, line.ValueType, line.TextValue = "CONTAINS", "TEXT", "Nothing was found; nobody was ill."
        line.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
        report.ContentSequence = [line]
        report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
        report.ContentDate, report.ContentTime = "20260102", "111500"

        state = self._base(GrayscaleSoftcopyPresentationStateStorage, "gsps", study="ct", series="gsps", letter="A")
        state.Modality, state.ContentLabel, state.ContentDescription = "PR", "SOFT", "Soft tissue"
        state.ContentCreatorName = "Suite^Conformance"
        state.PresentationCreationDate, state.PresentationCreationTime = "20260102", "112000"
        images = []
        for number in range(1, 6):
            image = Dataset()
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = CTImageStorage, self.uid(f"ct{number}")
            images.append(image)
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedImageSequence = self.uid("series ct"), images
        state.ReferencedSeriesSequence = [series]
        window = Dataset()
        window.WindowCenter, window.WindowWidth = 50, 100
        state.SoftcopyVOILUTSequence = [window]
        area = Dataset()
        area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [24, 32]
        area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
        state.DisplayedAreaSelectionSequence = [area]
        state.PresentationLUTShape = "IDENTITY"

        document = self._base(EncapsulatedPDFStorage, "pdf", study="ct", series="pdf", letter="A")
        document.Modality, document.ConversionType, document.BurnedInAnnotation = "DOC", "WSD", "NO"
        document.DocumentTitle, document.MIMETypeOfEncapsulatedDocument = "Made in code", "application/pdf"
        document.ConceptNameCodeSequence = []
        body = _pdf()
        document.EncapsulatedDocumentLength = len(body)
        document.EncapsulatedDocument = body + b"\0" * (len(body) % 2)

        for number, (name, dataset) in enumerate((("sr", report), ("gsps", state), ("pdf", document)), 2):
            dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", LATIN
            dataset.SeriesNumber = number
            yield name, dataset

    def _multiframe(self) -> Iterator[tuple[str, FileDataset]]:
        cine = self._base(
            MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "cine", study="multi", series="cine", letter="B"
        )
        cine.Modality, cine.ConversionType = "OT", "WSD"
        set_pixels(cine, self.frames, bits_stored=12)
        cine.FrameTime = 40
        cine.FrameIncrementPointer = 0x00181063
        yield "cine", cine
        colour = self._base(
            MultiFrameTrueColorSecondaryCaptureImageStorage, "colour", study="multi", series="colour", letter="B"
        )
        colour.Modality, colour.ConversionType, colour.SeriesNumber = "OT", "WSD", 2
        ramp = np.arange(2 * 12 * 10 * 3, dtype=np.uint32) * 7 % 251
        set_pixels(colour, ramp.astype(np.uint8).reshape(2, 12, 10, 3))
        colour.FrameTime = 100
        colour.FrameIncrementPointer = 0x00181063
        yield "colour", colour

    def _compressed(self) -> Iterator[tuple[str, FileDataset]]:
        encoders: dict[str, Callable[[np.ndarray], Any]] = {
            "rle": lambda frame: _rle(frame),
            "jls": lambda frame: imagecodecs.jpegls_encode(frame, bitspersample=12),
            "j2k": lambda frame: imagecodecs.jpeg2k_encode(
                frame, level=0, codecformat="j2k", reversible=True, mct=False, bitspersample=12
            ),
            "htj2k": lambda frame: imagecodecs.htj2k_encode(frame, reversible=True, bitspersample=12),
        }
        for number, (name, syntax) in enumerate(CODECS.items(), 1):
            dataset = self._in_codecs(name, number, syntax)
            set_pixels(dataset, self.frames, bits_stored=12)
            set_fragments(dataset, [bytes(encoders[name](frame)) for frame in self.frames])
            yield name, dataset
        lossy = self._in_codecs("jpeg", 5, JPEGBaseline8Bit)
        grey = (self.frames >> 4).astype(np.uint8)
        set_pixels(lossy, grey)
        set_fragments(lossy, [bytes(imagecodecs.jpeg8_encode(frame, 95)) for frame in grey])
        lossy.LossyImageCompression, lossy.LossyImageCompressionRatio = "01", 4
        lossy.LossyImageCompressionMethod = "ISO_10918_1"
        yield "jpeg", lossy
        deflated = self._in_codecs("deflated", 6, DeflatedExplicitVRLittleEndian)
        set_pixels(deflated, self.frames, bits_stored=12)
        yield "deflated", deflated
        implicit = self._in_codecs("implicit", 7, ImplicitVRLittleEndian)
        set_pixels(implicit, self.frames, bits_stored=12)
        yield "implicit", implicit

    def _in_codecs(self, name: str, number: int, syntax: str) -> FileDataset:
        sop_class = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        dataset = self._base(sop_class, name, study="codecs", series=name, letter="C", syntax=syntax)
        dataset.Modality, dataset.ConversionType, dataset.SeriesNumber = "OT", "WSD", number
        dataset.FrameTime = 40
        dataset.FrameIncrementPointer = 0x00181063
        return dataset

    def _names(self) -> Iterator[tuple[str, FileDataset]]:
        for letter, name, charset, person in (
            ("J", "japanese", ["", "ISO 2022 IR 87"], JAPANESE),
            ("K", "cyrillic", "ISO_IR 144", CYRILLIC),
            ("G", "greek", "ISO_IR 192", GREEK),
        ):
            dataset = self._base(SecondaryCaptureImageStorage, name, study=name, series=name, letter=letter)
            dataset.Modality, dataset.ConversionType = "OT", "WSD"
            dataset.SpecificCharacterSet, dataset.PatientName = charset, person
            set_pixels(dataset, np.arange(16, dtype="<u2").reshape(4, 4))
            yield name, dataset

    def _deep(self) -> FileDataset:
        """Sequences in sequences, empty values, every odd value representation, private attributes, large values."""
        dataset = self._base(SecondaryCaptureImageStorage, "deep", study="deep", series="deep", letter="D")
        dataset.Modality, dataset.ConversionType = "OT", "WSD"
        set_pixels(dataset, np.arange(16, dtype="<u2").reshape(4, 4))
        dataset.AccessionNumber = ""
        dataset.OtherPatientNames = ["First^Other", "", "Third^Other"]
        dataset.ImageType = ["DERIVED", "SECONDARY", "", "LAST"]
        dataset.add_new(0x00204000, "LT", "A line with a back\\slash stays one value.")
        dataset.FrameIncrementPointer = 0x00181063
        dataset.FrameTime = "33.330"
        dataset.add_new(0x00189073, "FD", [0.1, -2.5e-300, 1.0])
        dataset.add_new(0x00082112, "SQ", [])
        inner, middle, outer = Dataset(), Dataset(), Dataset()
        inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "T-D3000", "SRT", "Thorax"
        inner.ContextGroupExtensionFlag = ""
        middle.AnatomicRegionModifierSequence = [inner, Dataset()]
        middle.CodeValue, middle.CodingSchemeDesignator, middle.CodeMeaning = "T-28000", "SRT", "Lung"
        outer.AnatomicRegionSequence = [middle]
        outer.ReferencedSOPClassUID, outer.ReferencedSOPInstanceUID = CTImageStorage, self.uid("nowhere")
        dataset.ReferencedImageSequence = [outer]
        block = dataset.private_block(0x0071, PRIVATE_CREATOR, create=True)
        block.add_new(0x01, "LO", "a private text")
        block.add_new(0x02, "DS", ["1.50", "-2"])
        block.add_new(0x03, "OB", np.random.default_rng(_RNG_SEED).bytes(100_000))
        block.add_new(0x04, "UN", b"\x01\x02\x03\x04")
        block.add_new(0x05, "UT", "a long text; " * 1666 + "its end.")
        block.add_new(0x06, "SL", [-(2**31), 2**31 - 1])
        block.add_new(0x07, "UV", [2**64 - 1])
        block.add_new(0x08, "AT", [0x00100010, 0x7FE00010])
        block.add_new(0x09, "FL", [0.5, -1.25])
        block.add_new(0x0A, "US", [0, 65535])
        block.add_new(0x0B, "UR", "http://127.0.0.1/a%20path?with=query")
        return dataset

    def _pages(self) -> Iterator[tuple[str, FileDataset]]:
        for number in range(1, PAGES + 1):
            name = f"page{number}"
            dataset = self._base(SecondaryCaptureImageStorage, name, study=name, series=name, letter="P")
            dataset.Modality, dataset.ConversionType = "OT", "WSD"
            set_pixels(dataset, np.arange(16, dtype="<u2").reshape(4, 4))
            dataset.StudyDate, dataset.StudyTime = f"2026020{number}", f"0{number}0000"
            dataset.StudyID = name
            dataset.AccessionNumber = {6: "", 7: f"{self.prefix}+7"}.get(number, f"{self.prefix}P{number}")
            yield name, dataset


def write_file(dataset: FileDataset) -> bytes:
    """The data set as a DICOM file in the transfer syntax that it names."""
    target = io.BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def set_pixels(dataset: Dataset, pixels: np.ndarray, *, bits_stored: int = 0) -> None:
    """Native pixels of shape ([frames,] rows, columns[, 3]), with the attributes that describe them."""
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
    dataset.BitsAllocated, dataset.BitsStored = bits, bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def set_fragments(dataset: Dataset, bitstreams: Sequence[bytes]) -> None:
    """Encapsulate compressed frames, one fragment each (PS3.5 A.4)."""
    dataset.PixelData = encapsulate(list(bitstreams))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def samples_in(folder: Path | None, *, seed: str = "") -> Samples:
    """New samples; or where a folder is given, those that it holds, written there if it holds none."""
    if folder is None:
        return Samples(seed or uuid.uuid4().hex)
    if (folder / _SEED_FILE).is_file():
        return Samples((folder / _SEED_FILE).read_text().strip())
    samples = Samples(seed or uuid.uuid4().hex)
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        (folder / f"{sample.name}.dcm").write_bytes(sample.file)
    (folder / _SEED_FILE).write_text(samples.seed + "\n")
    return samples


def _new_file(sop_class: str, uid: str, syntax: str = ExplicitVRLittleEndian) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid)
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset("made in code", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    return dataset


def _frames() -> np.ndarray:
    """Three frames of 16 x 18 pixels of 12 bits; each pixel of frame n lies between 1000 n and 1000 n + 300."""
    y, x = np.mgrid[:16, :18]
    return np.stack([1000 * number + 16 * x + y for number in (1, 2, 3)]).astype("<u2")


def _rle(frame: np.ndarray) -> bytes:
    rows, columns = frame.shape
    described: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
    }
    return bytes(RLELosslessEncoder.encode(frame, encoding_plugin="pydicom", **described))


def _code(value: str, scheme: Literal["DCM", "LN"], meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _pdf() -> bytes:
    """A PDF of one empty page, long enough to be bulk data."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>",
    ]
    body = b"%PDF-1.4\n" + b"% A comment, to be of some length.\n" * 1000
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(body)
    body += b"xref\n0 4\n0000000000 65535 f \n" + table
    return body + b"trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
