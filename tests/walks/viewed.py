"""Objects that a viewer shows in ways of their own, made in code over the demo CT, so that every place is known."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import (
    EnhancedCTImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
)

from server import demo
from tests.synthetic import new_dataset, set_pixels

type Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the demo CT; the pixels of the right and bottom edge are outside."""


def item(**attributes: object) -> Dataset:
    """An item of a sequence; `attributes` are keyword and value."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def slices_of(count: int) -> list[FileDataset]:
    """The demo CT in `count` slices."""
    return [dcmread(BytesIO(part)) for part in demo.made_ct(count)]


def beside(image: Dataset, sop_class: str, modality: str, **attributes: object) -> FileDataset:
    """An object of another series of the same study and patient."""
    made = new_dataset(sop_class, study_uid=image.StudyInstanceUID, Modality=modality, SeriesNumber=9)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(made, keyword, image[keyword].value)
    for keyword in ("AccessionNumber", "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID"):
        setattr(made, keyword, image[keyword].value)
    made.SeriesDate = made.ContentDate = image.ContentDate
    made.SeriesTime = made.ContentTime = image.ContentTime
    made.Manufacturer, made.ManufacturerModelName = "readingroom", "Made in code"
    made.DeviceSerialNumber, made.SoftwareVersions = "1", "1"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def reference(image: Dataset) -> Dataset:
    """An item that refers to an image (PS3.3 10.8)."""
    return item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


# -- images ----------------------------------------------------------------------------------------------------


def palette_image(colours: Sequence[tuple[int, int, int]], *, entries: int, bits: int = 16) -> FileDataset:
    """Upright stripes of equal width, one for each colour, through lookup tables (PS3.3 C.7.9).

    Parameters
    ----------
    colours
        Red, green and blue of 8 bits.
    entries
        How long the tables are; the colours are the last of them, so that a table that is cut shows.
    bits
        Of an entry, 8 or 16; those of 16 have the colour in both bytes.
    """
    made = new_dataset(SecondaryCaptureImageStorage, Modality="OT", ConversionType="WSD")
    indices = np.arange(entries - len(colours), entries, dtype="<u2" if entries > 256 else "u1")
    set_pixels(made, np.tile(np.repeat(indices, 256 // len(colours)), (256, 1)))
    made.PhotometricInterpretation = "PALETTE COLOR"
    for number, name in enumerate(("Red", "Green", "Blue")):
        table = np.zeros(entries, dtype=np.uint8)
        table[-len(colours) :] = [colour[number] for colour in colours]
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [entries % (1 << 16), 0, bits])
        content = table if bits == 8 else table.astype("<u2") * 0x0101
        setattr(made, f"{name}PaletteColorLookupTableData", content.tobytes())
    return made


def enhanced_ct(count: int) -> FileDataset:
    """The demo CT as one Enhanced CT Image (PS3.3 A.38): a frame for each slice, with its place and window."""
    images = slices_of(count)
    first = images[0]
    made = beside(first, EnhancedCTImageStorage, "CT", SeriesDescription="All slices in one")
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    set_pixels(made, np.stack([image.pixel_array for image in images]), bits_stored=12)
    made.AcquisitionNumber = 1
    made.PixelPresentation, made.VolumetricProperties = "MONOCHROME", "VOLUME"
    made.VolumeBasedCalculationTechnique = "NONE"
    made.PresentationLUTShape, made.BurnedInAnnotation, made.LossyImageCompression = "IDENTITY", "NO", "00"
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
            FrameVOILUTSequence=[item(WindowCenter=demo.WINDOW_CENTER, WindowWidth=demo.WINDOW_WIDTH)],
            PixelValueTransformationSequence=[item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")],
        )
    ]
    made.DimensionOrganizationSequence = [item(DimensionOrganizationUID=demo.made_uid("dimensions"))]
    made.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=number)],
            PlanePositionSequence=[item(ImagePositionPatient=image.ImagePositionPatient)],
        )
        for number, image in enumerate(images, 1)
    ]
    return made


def ultrasound_cine(count: int, *, frame_time_ms: int) -> FileDataset:
    """The slices of the demo CT as the frames of a moving ultrasound image (PS3.3 A.7), in eight bits of grey."""
    low = demo.WINDOW_CENTER - demo.WINDOW_WIDTH / 2
    made = new_dataset(UltrasoundMultiFrameImageStorage, Modality="US", SeriesDescription="Moving")
    frames = [demo.slice_hounsfield(number, demo.LOWEST_MM + 6 * number) for number in range(1, count + 1)]
    set_pixels(
        made, np.stack([np.clip((frame - low) / demo.WINDOW_WIDTH * 255, 0, 255) for frame in frames]).astype("u1")
    )
    made.FrameTime, made.FrameIncrementPointer = frame_time_ms, 0x00181063
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    return made


# -- over images -----------------------------------------------------------------------------------------------


def segmentation(images: Sequence[Dataset], segments: Sequence[tuple[str, Box, tuple[int, int, int]]]) -> FileDataset:
    """A binary segmentation (PS3.3 A.51): boxes that are the same in every image.

    Parameters
    ----------
    images
        Slices of one series.
    segments
        Label, box and colour (CIELab as PS3.3 C.10.7.1.1 scales it) of each.
    """
    first = images[0]
    made = beside(first, SegmentationStorage, "SEG", SeriesDescription="Boxes", SegmentationType="BINARY")
    made.ImageType, made.ContentLabel, made.ContentDescription = ["DERIVED", "PRIMARY"], "BOXES", ""
    made.ContentCreatorName = "Phantom^Maker"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns, made.NumberOfFrames = first.Rows, first.Columns, len(images) * len(segments)
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.LossyImageCompression = "00"
    made.SegmentSequence = [
        item(
            SegmentNumber=number,
            SegmentLabel=label,
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=demo.code("91723000", "SCT", "Anatomical structure"),
            SegmentedPropertyTypeCodeSequence=demo.code("85756007", "SCT", "Tissue"),
            RecommendedDisplayCIELabValue=list(colour),
        )
        for number, (label, _, colour) in enumerate(segments, 1)
    ]
    made.ReferencedSeriesSequence = [
        item(
            SeriesInstanceUID=first.SeriesInstanceUID, ReferencedInstanceSequence=[reference(image) for image in images]
        )
    ]
    organization = demo.made_uid("dimensions of segments")
    made.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organization)]
    made.DimensionIndexSequence = [
        item(DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113))
    ]
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[
                item(
                    PixelSpacing=first.PixelSpacing,
                    SliceThickness=first.SliceThickness,
                    SpacingBetweenSlices=first.SpacingBetweenSlices,
                )
            ],
            PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
        )
    ]
    places = [(number, place) for number in range(1, len(segments) + 1) for place in range(len(images))]
    made.PerFrameFunctionalGroupsSequence = [
        item(
            DerivationImageSequence=[
                item(
                    DerivationCodeSequence=demo.code("113076", "DCM", "Segmentation"),
                    SourceImageSequence=[reference(images[place])],
                )
            ],
            FrameContentSequence=[item(DimensionIndexValues=[number, place + 1])],
            PlanePositionSequence=[item(ImagePositionPatient=images[place].ImagePositionPatient)],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
        )
        for number, place in places
    ]
    masks = [mask(segments[number - 1][1], first) for number, _ in places]
    made.PixelData = np.packbits(np.stack(masks), bitorder="little").tobytes()
    made["PixelData"].VR = "OB"
    return made


def mask(box: Box, image: Dataset) -> npt.NDArray[np.bool_]:
    """The pixels of a box."""
    left, top, right, bottom = box
    inside = np.zeros((image.Rows, image.Columns), dtype=bool)
    inside[top:bottom, left:right] = True
    return inside


def structure_set(images: Sequence[Dataset], regions: Sequence[tuple[str, Box, tuple[int, int, int]]]) -> FileDataset:
    """An RT Structure Set (PS3.3 A.19): the outlines of boxes that are the same in every image.

    Parameters
    ----------
    images
        Slices of one series.
    regions
        Name, box and colour (red, green, blue) of each.
    """
    first = images[0]
    made = beside(first, RTStructureSetStorage, "RTSTRUCT", SeriesDescription="Outlines", StructureSetLabel="BOXES")
    made.StructureSetDate, made.StructureSetTime = first.ContentDate, first.ContentTime
    series = item(
        SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[reference(image) for image in images]
    )
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    made.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    made.StructureSetROISequence = [
        item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        for number, (name, _, _) in enumerate(regions, 1)
    ]
    made.ROIContourSequence = [
        item(
            ReferencedROINumber=number,
            ROIDisplayColor=list(colour),
            ContourSequence=[
                item(
                    ContourImageSequence=[reference(image)],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=4,
                    ContourData=outline(box, image),
                )
                for image in images
            ],
        )
        for number, (_, box, colour) in enumerate(regions, 1)
    ]
    made.RTROIObservationsSequence = [
        item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        for number in range(1, len(regions) + 1)
    ]
    return made


def outline(box: Box, image: Dataset) -> list[str]:
    """The corners of a box in patient coordinates (PS3.3 C.8.8.6); the images lie across the patient's axis."""
    left, top, right, bottom = box
    x0, y0, z = (float(value) for value in image.ImagePositionPatient)
    down, across = (float(value) for value in image.PixelSpacing)
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return [
        f"{value:.10g}"
        for column, row in corners
        for value in (x0 + (column - 0.5) * across, y0 + (row - 0.5) * down, z)
    ]
