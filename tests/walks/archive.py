"""What the walks of other people's clients store and ask for: all sorts of objects of two patients, made in code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import imagecodecs
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from tests import synthetic
from tests.synthetic import ct_series, new_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive[Client]:
    """A client of a live server, and the objects that are there: a chest CT, and another patient's odds and ends."""

    client: Client
    chest: list[FileDataset]
    cine: FileDataset
    lossless: FileDataset
    colour: FileDataset
    report: FileDataset
    document: FileDataset

    @property
    def everything(self) -> list[FileDataset]:
        return [*self.chest, self.cine, self.lossless, self.colour, self.report, self.document]

    @property
    def of_chest(self) -> list[FileDataset]:
        """The first patient's study: the CT with a report and a document."""
        return [*self.chest, self.report, self.document]


def archive_of[Client](client: Client) -> Archive[Client]:
    """Objects of two studies, not yet stored."""
    chest = ct_series(5, rows=64, columns=48)
    of_chest: dict[str, Any] = {"StudyInstanceUID": chest[0].StudyInstanceUID}
    other: dict[str, Any] = {
        "StudyInstanceUID": new_uid(),
        "PatientName": "Müller^Jörg",
        "PatientID": "RR-0002",
        "StudyDate": "20251224",
        "AccessionNumber": "B200",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    return Archive(
        client=client,
        chest=chest,
        cine=synthetic.cine(4, rows=40, columns=30, SeriesNumber=2, **other),
        lossless=lossless_cine(SeriesNumber=3, **other),
        colour=synthetic.secondary_capture(SeriesNumber=4, **other),
        report=synthetic.text_report(SeriesNumber=5, **of_chest),
        document=synthetic.pdf_document(b"%PDF-1.4 " + bytes(3_000_000), SeriesNumber=6, **of_chest),
    )


def lossless_cine(**attributes: Any) -> FileDataset:
    """Three frames in JPEG 2000 Lossless."""
    dataset = synthetic.cine(3, rows=24, columns=32, **attributes)
    frames = [dataset.pixel_array[index] * 1000 for index in range(3)]
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate(
        [bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k")) for frame in frames]
    )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def names(rows: list[dict[str, Any]], tag: str) -> list[Any]:
    """The first value of an attribute in each row of DICOM JSON."""
    return [row[tag]["Value"][0] for row in rows]


def path_of(dataset: Dataset) -> tuple[str, str, str]:
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID


def same(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets have equal elements, whatever files they come from."""
    return [element for element in one if element.tag.group != 2] == [
        element for element in other if element.tag.group != 2
    ]
