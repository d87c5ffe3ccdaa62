"""Studies to look at on a new installation: a head CT made here, and real images that Python packages bring along."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pydicom import dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from storage.catalog.directory import has_readers, write_facility, write_reader
from storage.directory import FacilityEntry, ReaderEntry

type Volume = npt.NDArray[np.float64]
type Mask = npt.NDArray[np.bool_]

SLICES = 200
SIDE = 512
SPACING_MM = 0.48828125  # 250 mm over 512 pixels, exact in binary
LOWEST_MM, HEIGHT_MM = -64.0, 150.0
WINDOW_CENTER, WINDOW_WIDTH = 40, 120
AIR_HU = -1000


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoObject:
    """A DICOM Part 10 object of the demo; it is made or read from disk only when asked for."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rod:
    """A rod of one density beside the head, the same in every slice; where to check that grey values are right."""

    column: int
    row: int
    hounsfield: int

    RADIUS = 12


RODS = tuple(
    Rod(column=column, row=156 + 50 * index, hounsfield=hounsfield)
    for column, densities in ((30, (-15, 0, 15, 30, 45)), (481, (60, 75, 90, 200, 1000)))
    for index, hounsfield in enumerate(densities)
)

# The slice's number stands in the image, so that a picture alone says which slice it shows.
DIGITS = (
    ("###", "#.#", "#.#", "#.#", "###"),
    (".#.", "##.", ".#.", ".#.", "###"),
    ("###", "..#", "###", "#..", "###"),
    ("###", "..#", "###", "..#", "###"),
    ("#.#", "#.#", "###", "..#", "..#"),
    ("###", "#..", "###", "..#", "###"),
    ("###", "#..", "###", "#.#", "###"),
    ("###", "..#", "..#", "..#", "..#"),
    ("###", "#.#", "###", "#.#", "###"),
    ("###", "#.#", "###", "..#", "###"),
)
DIGIT_CELL = 6
DIGIT_HU = 1000
NUMBER_TOP, NUMBER_LEFT = 12, 96

DEMO_READER = "ada"
"""Who may read and sign the demo studies, where nobody else is in the directory."""

# Real images of the packages pydicom-data and pydicom, one for each thing a viewer should be able to show.
REAL_FILES = (
    "693_J2KR.dcm",  # CT head, JPEG 2000 lossless
    "explicit_VR-UN.dcm",  # CT abdomen, JPEG 2000 lossless
    "eCT_Supplemental.dcm",  # Enhanced CT with supplemental palette
    "MR2_J2KR.dcm",  # MR, JPEG 2000 lossless
    "MR-SIEMENS-DICOM-WithOverlays.dcm",  # MR with overlay planes
    "emri_small_jpeg_ls_lossless.dcm",  # Enhanced MR, 10 frames, JPEG-LS
    "RG3_J2KI.dcm",  # CR, MONOCHROME1, JPEG 2000
    "JPEG-LL.dcm",  # NM, JPEG lossless
    "US1_UNCR.dcm",  # US, RGB
    "JPGLosslessP14SV1_1s_1f_8b.dcm",  # US, JPEG lossless
    "OBXXXX1A_rle_2frame.dcm",  # US, palette colour, RLE, 2 frames
    "color3d_jpeg_baseline.dcm",  # US, 120 frames, JPEG baseline
    "image_dfl.dcm",  # secondary capture, deflated
    "waveform_ecg.dcm",  # 12-lead ECG
    "reportsi.dcm",  # structured report
)


def demo_objects() -> list[DemoObject]:
    """Everything that `readingroom demo` loads, the made CT first."""
    made = [DemoObject(name=f"made CT {n}/{SLICES}", read=partial(made_slice, n)) for n in range(1, SLICES + 1)]
    return made + [DemoObject(name=path.name, read=path.read_bytes) for path in demo_files()]


def demo_files() -> list[Path]:
    """Real images that installed packages hold; nothing is downloaded, so without pydicom-data there are few."""
    found = (get_testdata_file(name, download=False) for name in REAL_FILES)
    return [Path(path) for path in found if isinstance(path, str)]


def made_ct(slices: int = SLICES) -> Iterator[bytes]:
    """A head CT made in code, from skull base to vertex: one CT Image (PS3.3 A.3) a slice, the same on every call.

    Parameters
    ----------
    slices
        Into how many slices the 150 mm are cut. Another count is another study, with its own UIDs.
    """
    return (made_slice(number, slices) for number in range(1, slices + 1))


def made_slice(number: int, slices: int = SLICES) -> bytes:
    """Slice `number` (from 1) of `made_ct` as a Part 10 file."""
    thickness_mm = HEIGHT_MM / slices
    z_mm = LOWEST_MM + thickness_mm * (number - 1)
    image = made_header(number, slices, thickness_mm, z_mm)
    image.PixelData = (slice_hounsfield(number, z_mm) + 1024).astype("<u2").tobytes()
    file = BytesIO()
    dcmwrite(file, image, enforce_file_format=True)
    return file.getvalue()


def slice_hounsfield(number: int, z_mm: float) -> npt.NDArray[np.int16]:
    """Densities of one slice: a head, the rods beside it, and the slice's number in the corner."""
    hounsfield = head(number, z_mm)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for rod in RODS:
        hounsfield[(rows - rod.row) ** 2 + (columns - rod.column) ** 2 <= rod.RADIUS**2] = rod.hounsfield
    for row, line in enumerate(zip(*(DIGITS[int(digit)] for digit in f"{number:03}"), strict=True)):
        for column, mark in enumerate(".".join(line)):
            if mark == "#":
                top, left = NUMBER_TOP + row * DIGIT_CELL, NUMBER_LEFT + column * DIGIT_CELL
                hounsfield[top : top + DIGIT_CELL, left : left + DIGIT_CELL] = DIGIT_HU
    return hounsfield.astype(np.int16)


def head(number: int, z_mm: float) -> Volume:
    """Densities of the head in one slice: nested ellipsoids, with the grain that a scanner gives tissue."""
    hounsfield = np.full((SIDE, SIDE), float(AIR_HU))
    skin = ellipsoid(z_mm, at=(0, 0, 0), radii=(90, 108, 88))
    hounsfield[skin] = 45
    for density, at, radii in (
        (900, (0, 0, 0), (84, 102, 82)),  # skull, diploe, inner table
        (500, (0, 0, 0), (82, 100, 80)),
        (900, (0, 0, 0), (79, 97, 77)),
        (8, (0, 0, 0), (77, 95, 75)),  # subarachnoid space
        (38, (0, 0, 0), (74.5, 92, 72)),  # cortex
        (27, (-33, 0, 2), (28, 76, 56)),  # white matter
        (27, (33, 0, 2), (28, 76, 56)),
        (12, (0, 0, 10), (1.5, 93, 66)),  # the fissure between the hemispheres
        (40, (-20, -2, -4), (9, 20, 14)),  # basal ganglia
        (40, (20, -2, -4), (9, 20, 14)),
        (6, (-11, -18, 12), (6, 26, 12)),  # lateral ventricles
        (6, (11, -18, 12), (6, 26, 12)),
        (6, (-17, 34, 8), (7, 24, 9)),
        (6, (17, 34, 8), (7, 24, 9)),
        (130, (0, 14, 0), (3, 4, 3)),  # pineal calcification
        (68, (44, 12, 16), (15, 20, 15)),  # haemorrhage
        (12, (-32, -80, -52), (13, 13, 13)),  # eyes
        (12, (32, -80, -52), (13, 13, 13)),
        (AIR_HU, (0, -84, -44), (12, 9, 22)),  # paranasal sinuses
    ):
        hounsfield[ellipsoid(z_mm, at=at, radii=radii) & skin] = density
    tissue = hounsfield > AIR_HU
    hounsfield[tissue] += grain(number)[tissue]
    return hounsfield


@cache
def plane_mm() -> tuple[Volume, Volume]:
    """Patient coordinates x (one row) and y (one column) of the pixels' centres."""
    across = (np.arange(SIDE, dtype=np.float64) - (SIDE - 1) / 2) * SPACING_MM
    return across[np.newaxis, :], across[:, np.newaxis]


def ellipsoid(z_mm: float, *, at: tuple[float, float, float], radii: tuple[float, float, float]) -> Mask:
    """Which pixels of the slice at `z_mm` lie in an ellipsoid; millimetres, patient coordinates."""
    x, y = plane_mm()
    inside = ((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 + ((z_mm - at[2]) / radii[2]) ** 2
    return inside <= 1.0


def grain(number: int) -> Volume:
    """Noise of about ±6 HU: a hash of the pixel's place, as a generator's stream may change with numpy."""
    place = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE) + np.uint32(number * SIDE * SIDE)
    for multiplier in (0x9E3779B1, 0x85EBCA77):
        place = (place ^ (place >> np.uint32(15))) * np.uint32(multiplier)
    low, high = place & np.uint32(0xFF), (place >> np.uint32(8)) & np.uint32(0xFF)
    return (low.astype(np.float64) + high - 255) / 24


def made_uid(*of: object) -> str:
    """A UID below 2.25 (PS3.5 B.2) that is always the same for the same thing."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(map(str, ('readingroom demo', *of)))).int}"


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    """A code sequence of one item (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def made_header(number: int, slices: int, thickness_mm: float, z_mm: float) -> Dataset:
    """The data set of one made slice without its pixels, as full as a scanner's."""
    image = Dataset()
    study = {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20240229",
        "StudyTime": "081500",
        "AccessionNumber": "RR0000001",
        "InstitutionName": "readingroom demo",
        "InstitutionAddress": "Made in code",
        "ReferringPhysicianName": "Beispiel^Berta^^Dr.",
        "StudyDescription": "CT HEAD WITHOUT CONTRAST",
        "PhysiciansOfRecord": "Beispiel^Berta^^Dr.",
        "PatientName": "Phantom^Henrik",
        "PatientID": "RR-PHANTOM",
        "IssuerOfPatientID": "readingroom demo",
        "PatientBirthDate": "19560412",
        "PatientSex": "M",
        "PatientAge": "067Y",
        "PatientSize": "1.76",
        "PatientWeight": "74",
        "PatientComments": "Made in code; no person",
        "StudyInstanceUID": made_uid(slices, "study"),
        "StudyID": "1",
        "ProcedureCodeSequence": code("30799-1", "LN", "CT Head WO contrast"),
        "TimezoneOffsetFromUTC": "+0000",
        "AdmissionID": "RR-1",
        "ReasonForStudy": "Demonstration",
        "RequestedProcedureDescription": "CT head without contrast",
    }
    series = {
        "SeriesDate": "20240229",
        "SeriesTime": "081700",
        "Modality": "CT",
        "Manufacturer": "readingroom",
        "ManufacturerModelName": "Phantom maker",
        "StationName": "PHANTOM1",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "DateOfLastCalibration": "20240228",
        "TimeOfLastCalibration": "060000",
        "SeriesDescription": "Head, thin slices",
        "OperatorsName": "Beispiel^Otto",
        "BodyPartExamined": "HEAD",
        "ProtocolName": "Head routine",
        "PatientPosition": "HFS",
        "SeriesInstanceUID": made_uid(slices, "series"),
        "SeriesNumber": 2,
        "Laterality": "",
        "FrameOfReferenceUID": made_uid(slices, "frame of reference"),
        "PositionReferenceIndicator": "OM",
        "AnatomicRegionSequence": code("69536005", "SCT", "Head"),
        "PerformedProcedureStepID": "PPS1",
        "PerformedProcedureStepStartDate": "20240229",
        "PerformedProcedureStepStartTime": "081600",
        "PerformedProcedureStepDescription": "CT head without contrast",
        "SmallestPixelValueInSeries": AIR_HU + 1024,
        "LargestPixelValueInSeries": 2047,
    }
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    request.ScheduledProcedureStepDescription = "CT head without contrast"
    series["RequestAttributesSequence"] = [request]
    scan = {
        "ScanOptions": "HELIX",
        "KVP": "120",
        "DataCollectionDiameter": "500",
        "ReconstructionDiameter": "250",
        "DistanceSourceToDetector": "1085.6",
        "DistanceSourceToPatient": "595",
        "GantryDetectorTilt": "0",
        "TableHeight": "150",
        "RotationDirection": "CW",
        "ExposureTime": 1000,
        "XRayTubeCurrent": 250,
        "Exposure": 250,
        "FilterType": "FLAT",
        "GeneratorPower": 30,
        "FocalSpots": ["1.2"],
        "ConvolutionKernel": "SOFT",
        "SingleCollimationWidth": 0.6,
        "TotalCollimationWidth": 38.4,
        "TableSpeed": 21.1,
        "TableFeedPerRotation": 21.1,
        "SpiralPitchFactor": 0.55,
        "ExposureModulationType": "NONE",
        "EstimatedDoseSaving": 0.0,
        "CTDIvol": 48.5,
        "CTDIPhantomTypeCodeSequence": code("113690", "DCM", "IEC Head Dosimetry Phantom"),
    }
    this_image = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": made_uid(slices, "image", number),
        "InstanceCreationDate": "20240229",
        "InstanceCreationTime": f"0820{number * 59 // slices:02}",
        "InstanceCreatorUID": made_uid("creator"),
        "AcquisitionDate": "20240229",
        "AcquisitionTime": f"0818{number * 59 // slices:02}",
        "ContentDate": "20240229",
        "ContentTime": f"0819{number * 59 // slices:02}",
        "AcquisitionNumber": 1,
        "InstanceNumber": number,
        "SliceThickness": f"{thickness_mm:.10g}",
        "SpacingBetweenSlices": f"{thickness_mm:.10g}",
        "ImagePositionPatient": [f"{-(SIDE - 1) / 2 * SPACING_MM:.10g}"] * 2 + [f"{z_mm:.10g}"],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceLocation": f"{z_mm:.10g}",
        "ImageComments": "Made in code",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SIDE,
        "Columns": SIDE,
        "PixelSpacing": [SPACING_MM, SPACING_MM],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "WindowCenter": [WINDOW_CENTER, 500],
        "WindowWidth": [WINDOW_WIDTH, 2000],
        "WindowCenterWidthExplanation": ["BRAIN", "BONE"],
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "PresentationLUTShape": "IDENTITY",
    }
    for keyword, value in (study | series | scan | this_image).items():
        setattr(image, keyword, value)
    image.private_block(0x0019, "READINGROOM DEMO", create=True).add_new(0x01, "LO", f"slice {number} of {slices}")
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def furnish(connection: sa.Connection, facility: str, now: datetime) -> bool:
    """Have somebody who may read the demo studies; False where there are readers already.

    Without a reader of the directory nothing can be signed.
    """
    if has_readers(connection):
        return False
    place = FacilityEntry(id=facility, name="Demo Hospital", kind="hospital", state="US-TX", zone="America/Chicago")
    always = {"starts": "00:00", "ends": "00:00"}
    reader = {
        "id": DEMO_READER,
        "name": "Ada Demo, MD",
        "zone": "America/Chicago",
        "licences": [{"state": "US-TX", "number": "DEMO-1"}],
        "credentials": [{"facility": facility}],
        "shifts": [always],
    }
    write_facility(connection, place, now)
    write_reader(connection, ReaderEntry.model_validate(reader), now)
    return True
