"""DICOM objects by the thousand: pydicom writes one, the rest are the same bytes with the gaps filled anew."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

ROOT = "1.2.826.0.1.3680043.8.498."
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SIZE = 512
FRAME_BYTES = SIZE * SIZE * 2
SLICES = 20  # so many different ones are drawn
MODALITIES = ("CT", "MR", "CR", "US", "DX")
FIRST_DAY = date(2021, 1, 1)
DAYS = 1000

# What stands in a mould where a value will be filled in: unlike anything else in the file, and as long as the value.
GAPS = {
    "study_uid": f"{ROOT}1{'9' * 13}",
    "series_uid": f"{ROOT}2{'9' * 13}",
    "instance_uid": f"{ROOT}3{'9' * 13}",
    "accession": f"A{'9' * 13}",
    "patient_id": f"P{'9' * 11}",
    "patient_name": f"Phantom^N{'9' * 9}",
    "study_date": "19010203",
    "modality": "ZZ",
    "number": "987651",
    "position": "-98765.125",
}


def uid(level: int, number: int) -> str:
    """Make a UID of constant length: `level` is 1 for a study, 2 for a series, 3 for an instance."""
    return f"{ROOT}{level}{number:013d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mould:
    """A DICOM file with gaps; each cast differs in its UIDs and a few values and keeps its length.

    Attributes
    ----------
    blob
        The file, gaps filled with their markers.
    places
        For each gap, where it occurs in `blob`.
    pixels
        Where the first frame lies in `blob`: offset and length.
    """

    blob: bytes
    places: Mapping[str, tuple[int, ...]]
    pixels: tuple[int, int]

    def cast(self, **values: str) -> bytes:
        """Fill the gaps; a value shorter than its gap is padded with spaces, as DICOM text is."""
        out = bytearray(self.blob)
        for name, value in values.items():
            raw = value.encode().ljust(len(GAPS[name]))
            if len(raw) != len(GAPS[name]):
                raise ValueError(f"{name} {value!r} is longer than its gap of {len(GAPS[name])} bytes")
            for place in self.places[name]:
                out[place : place + len(raw)] = raw
        return bytes(out)

    def frame(self) -> bytes:
        """Give the bytes of the first frame, as they stand in every cast."""
        offset, length = self.pixels
        return self.blob[offset : offset + length]


def slice_pixels(index: int, size: int = SIZE) -> NDArray[np.uint16]:
    """Draw one CT slice: a body ellipse with a rod that wanders with `index`, and noise as scanners have it."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:size, :size] / (size / 2) - 1
    body = np.where(x**2 / 0.6 + y**2 / 0.4 < 1, 1040, 24)
    rod = (x - 0.4 * np.sin(index / 9)) ** 2 + (y - 0.3 * np.cos(index / 9)) ** 2 < 0.02
    pixels: NDArray[np.float64] = body + rod * 700 + rng.normal(0, 9, (size, size))
    return np.clip(pixels, 0, 4095).astype("<u2")


@functools.cache
def ct_mould(index: int = 0) -> Mould:
    """Make a native CT slice of 512 x 512 x 16 bit, Explicit VR Little Endian, about 516 KiB."""
    pixels = slice_pixels(index).tobytes()
    ds = _ct_header()
    ds.PixelData = pixels
    return _mould(ds, ExplicitVRLittleEndian, pixels)


@functools.cache
def jpegls_mould(index: int = 0) -> Mould:
    """Make the same slice, compressed without loss as JPEG-LS."""
    bitstream = bytes(imagecodecs.jpegls_encode(slice_pixels(index)))
    ds = _ct_header()
    ds.PixelData = encapsulate([bitstream])
    return _mould(ds, JPEGLSLossless, bitstream + b"\0" * (len(bitstream) % 2))


@functools.cache
def small_mould() -> Mould:
    """Make an object that is nearly all header: 16 x 16 x 8 bit, to fill an index with studies."""
    ds = _header(SECONDARY_CAPTURE, GAPS["modality"], size=16, bits=8)
    pixels = bytes(range(256))
    ds.PixelData = pixels
    return _mould(ds, ExplicitVRLittleEndian, pixels)


def series_uids(number: int) -> tuple[str, str]:
    """Give the study and series UID of the made series `number`."""
    return uid(1, number), uid(2, number)


def instance_uid(series: int, number: int) -> str:
    """Give the UID of instance `number` (from 1) of the made series `series`."""
    return uid(3, series * 100_000 + number)


def native_frame(number: int) -> bytes:
    """Give the frame of instance `number` of a native series; its first pixels hold the number, so no two are equal."""
    return _stamped(ct_mould(number % SLICES).frame(), 0, number)


def compressed_frame(number: int) -> bytes:
    """Give the frame of instance `number` of a compressed series, with the padding byte that the file may hold."""
    return jpegls_mould(number % SLICES).frame()


def ct_series(series: int, count: int, *, compressed: bool = False) -> Iterator[bytes]:
    """Make the instances 1 to `count` of one series, the only one of its study."""
    study_uid, series_uid = series_uids(series)
    for number in range(1, count + 1):
        mould = (jpegls_mould if compressed else ct_mould)(number % SLICES)
        cast = mould.cast(
            study_uid=study_uid,
            series_uid=series_uid,
            instance_uid=instance_uid(series, number),
            accession=f"A{series:013d}",
            patient_id=f"P{series:011d}",
            patient_name=f"Phantom^N{series:09d}",
            study_date="20240229",
            number=str(number),
            position=f"{number * 1.25 - 300:.3f}",
        )
        yield cast if compressed else _stamped(cast, mould.pixels[0], number)


def _stamped(blob: bytes, at: int, number: int) -> bytes:
    return blob[:at] + number.to_bytes(8, "little") + blob[at + 8 :]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallStudy:
    """What a study of the big index answers to; all of it follows from its number."""

    number: int

    @property
    def study_uid(self) -> str:
        return uid(1, 7_000_000_000 + self.number)

    @property
    def accession(self) -> str:
        return f"A{7_000_000_000 + self.number:013d}"

    @property
    def modality(self) -> str:
        return MODALITIES[self.number % len(MODALITIES)]

    @property
    def study_date(self) -> str:
        # 7 and DAYS share no factor: days and modalities mix, and every span of days holds its share of the studies.
        return (FIRST_DAY + timedelta(days=self.number * 7 % DAYS)).strftime("%Y%m%d")

    @property
    def patient_name(self) -> str:
        return f"Phantom^N{self.number // 2:09d}"

    def cast(self) -> bytes:
        """Make its only instance."""
        return small_mould().cast(
            study_uid=self.study_uid,
            series_uid=uid(2, 7_000_000_000 + self.number),
            instance_uid=uid(3, 7_000_000_000 + self.number),
            accession=self.accession,
            patient_id=f"P{self.number // 2:011d}",
            patient_name=self.patient_name,
            study_date=self.study_date,
            modality=self.modality,
            number="1",
        )


def giant_head(frames: int, *, compressed: bool) -> bytes:
    """Make a multi-frame object up to and including the tag and length of its pixel data; the frames follow it.

    A native one ends with its last frame; an encapsulated one needs an empty offset table, an item a frame and a
    sequence delimiter (PS3.5 A.4).
    """
    ds = _header(MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "OT", size=SIZE, bits=16)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series_uids(90 + compressed)
    ds.SOPInstanceUID = uid(3, 90 + compressed)
    ds.AccessionNumber, ds.StudyDate, ds.SeriesDate, ds.InstanceNumber = "GIANT", "20240229", "20240229", 1
    ds.PatientID, ds.PatientName = "GIANT", "Phantom^Giant"
    ds.NumberOfFrames = frames
    syntax: str = JPEGLSLossless if compressed else ExplicitVRLittleEndian
    marker = b"the frames go here"
    ds.PixelData = encapsulate([marker]) if compressed else marker
    blob = _file(ds, syntax)
    length = b"\xff\xff\xff\xff" if compressed else (frames * FRAME_BYTES).to_bytes(4, "little")
    pixel_data = b"\xe0\x7f\x10\x00OB\0\0" if compressed else b"\xe0\x7f\x10\x00OW\0\0"
    return blob[: blob.index(pixel_data)] + pixel_data + length


def _mould(ds: Dataset, syntax: str, pixels: bytes) -> Mould:
    blob = _file(ds, syntax)
    places = {name: tuple(_find_all(blob, marker.encode())) for name, marker in GAPS.items()}
    at = blob.index(pixels, blob.index(b"\xe0\x7f\x10\x00"))
    return Mould(blob=blob, places=places, pixels=(at, len(pixels)))


def _find_all(blob: bytes, marker: bytes) -> Iterator[int]:
    at = blob.find(marker)
    while at >= 0:
        yield at
        at = blob.find(marker, at + 1)


def _file(ds: Dataset, syntax: str) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.ImplementationClassUID = UID(f"{ROOT}1")
    meta.ImplementationVersionName = "BENCH_1"
    ds["PixelData"].VR = "OW" if syntax == ExplicitVRLittleEndian else "OB"
    out = io.BytesIO()
    FileDataset(out, ds, preamble=b"\0" * 128, file_meta=meta).save_as(out, enforce_file_format=True)
    return out.getvalue()


def _header(sop_class: str, modality: str, *, size: int, bits: int) -> Dataset:
    return _dataset(
        SpecificCharacterSet="ISO_IR 100",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        SOPClassUID=sop_class,
        SOPInstanceUID=GAPS["instance_uid"],
        StudyDate=GAPS["study_date"],
        SeriesDate=GAPS["study_date"],
        StudyTime="101500.250000",
        SeriesTime="101730.000000",
        AccessionNumber=GAPS["accession"],
        Modality=modality,
        ConversionType="SYN",
        Manufacturer="Phantom Works",
        InstitutionName="Measured General Hospital",
        ReferringPhysicianName="Referrer^Rita^^Dr",
        StudyDescription="CT THORAX ABDOMEN",
        SeriesDescription="Axial 1.25 soft",
        PatientName=GAPS["patient_name"],
        PatientID=GAPS["patient_id"],
        PatientBirthDate="19610507",
        PatientSex="F",
        PatientAge="063Y",
        StudyInstanceUID=GAPS["study_uid"],
        SeriesInstanceUID=GAPS["series_uid"],
        StudyID="S1",
        SeriesNumber=2,
        InstanceNumber=GAPS["number"],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=size,
        Columns=size,
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=0,
    )


def _ct_header() -> Dataset:
    """Give a header as long as scanners write it: about 150 elements, nested ones and private ones counted."""
    ds = _header(CT, "CT", size=SIZE, bits=16)
    del ds.ConversionType
    ds.update(
        _dataset(
            InstanceCreationDate="20240229",
            InstanceCreationTime="101812.000000",
            AcquisitionDate="20240229",
            ContentDate="20240229",
            AcquisitionTime="101733.120000",
            ContentTime="101733.120000",
            InstitutionAddress="1 Rotation Road, Ghent, Belgium",
            StationName="CT01",
            InstitutionalDepartmentName="Radiology",
            PhysiciansOfRecord="Record^Ron",
            PerformingPhysicianName="Perform^Pia",
            OperatorsName="Operator^Otto",
            ManufacturerModelName="Gantry 64",
            PatientSize="1.71",
            PatientWeight="71.5",
            EthnicGroup="unknown",
            AdditionalPatientHistory="cough for three weeks, former smoker",
            PregnancyStatus=4,
            ContrastBolusAgent="Iohexol 350",
            BodyPartExamined="CHEST",
            ScanOptions="HELICAL MODE",
            SliceThickness="1.25",
            KVP="120",
            DataCollectionDiameter="500",
            DeviceSerialNumber="000123456",
            SoftwareVersions=["syngo 7.1", "patch 12"],
            ProtocolName="Thorax routine",
            ContrastBolusRoute="IV",
            ContrastBolusVolume="80",
            ReconstructionDiameter="360",
            DistanceSourceToDetector="949.147",
            DistanceSourceToPatient="541",
            GantryDetectorTilt="0",
            TableHeight="151.5",
            RotationDirection="CW",
            ExposureTime=500,
            XRayTubeCurrent=287,
            Exposure=143,
            ExposureInuAs=143500,
            FilterType="BODY FILTER",
            GeneratorPower=34,
            FocalSpots="1.2",
            DateOfLastCalibration="20240228",
            TimeOfLastCalibration="060000.000000",
            ConvolutionKernel=["B31f", "3"],
            PatientPosition="HFS",
            RevolutionTime=0.5,
            SingleCollimationWidth=0.625,
            TotalCollimationWidth=40.0,
            TableSpeed=78.75,
            TableFeedPerRotation=39.375,
            SpiralPitchFactor=0.984375,
            ExposureModulationType="XYZ_EC",
            EstimatedDoseSaving=22.5,
            CTDIvol=7.63,
            AcquisitionNumber=1,
            ImagePositionPatient=["-180", "-172.5", GAPS["position"]],
            ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
            FrameOfReferenceUID=f"{ROOT}499999999",
            PositionReferenceIndicator="SN",
            SliceLocation=GAPS["position"],
            ImageComments="made for measuring",
            PixelSpacing=["0.703125", "0.703125"],
            SmallestImagePixelValue=0,
            LargestImagePixelValue=4095,
            PixelPaddingValue=0,
            WindowCenter=["40", "-600"],
            WindowWidth=["400", "1500"],
            RescaleIntercept="-1024",
            RescaleSlope="1",
            RescaleType="HU",
            WindowCenterWidthExplanation=["soft", "lung"],
            RequestingPhysician="Request^Rob",
            RequestingService="Pneumology",
            RequestedProcedureDescription="CT thorax with contrast",
            PerformedStationAETitle="CT01",
            PerformedProcedureStepStartDate="20240229",
            PerformedProcedureStepStartTime="101000.000000",
            PerformedProcedureStepEndDate="20240229",
            PerformedProcedureStepEndTime="103000.000000",
            PerformedProcedureStepID="PPS1",
            PerformedProcedureStepDescription="CT thorax",
            ProcedureCodeSequence=[_code("24627-2", "LN", "CT Chest")],
            ReferencedStudySequence=[_reference("1.2.840.10008.3.1.2.3.1", "5")],
            ReferencedPerformedProcedureStepSequence=[_reference("1.2.840.10008.3.1.2.3.3", "6")],
            ReferencedImageSequence=[_reference(CT, "7"), _reference(CT, "8"), _reference(CT, "9")],
            SourceImageSequence=[_reference(CT, "10")],
            RequestAttributesSequence=[
                _dataset(
                    RequestedProcedureDescription="CT thorax with contrast",
                    ScheduledProcedureStepDescription="CT thorax",
                    ScheduledProcedureStepID="SPS1",
                    RequestedProcedureID="RP1",
                    ScheduledProtocolCodeSequence=[_code("CTTHX", "99MGH", "CT thorax routine")],
                )
            ],
            CTDIPhantomTypeCodeSequence=[_code("113691", "DCM", "IEC Body Dosimetry Phantom")],
            PerformedProtocolCodeSequence=[_code("CTTHX", "99MGH", "CT thorax routine")],
        )
    )
    private = ds.private_block(0x0019, "PHANTOM WORKS 1.0", create=True)
    for offset in range(1, 9):
        private.add_new(offset, "DS", f"{offset * 1.5}")
    for offset in range(9, 13):
        private.add_new(offset, "LO", f"setting {offset}")
    return ds


def _dataset(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _reference(sop_class: str, number: str) -> Dataset:
    return _dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=f"{ROOT}4{number}")
