"""Captions burned into a picture: who the patient is, and how the image was made (PS3.18 8.3.5.1.1)."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from server.rendering.item import Item
from server.rendering.lettering import Colour, Lettering
from server.rendering.look import Annotation, Window


def with_captions(
    image: Image.Image,
    dataset: Item,
    number: int,
    window: Window | None,
    annotations: tuple[Annotation, ...],
    lettering: Lettering,
) -> Image.Image:
    """The picture with the patient in its top left corner and the technique in its bottom left corner."""
    colour: Colour = 255 if image.mode == "L" else (255, 255, 255)
    size = max(image.height // 32, 9)
    step = round(size * 1.2)
    margin = max(size // 3, 2)
    if "patient" in annotations:
        for index, line in enumerate(_patient(dataset)):
            lettering.write(image, (margin, margin + index * step), line, size, colour)
    if "technique" in annotations:
        for index, line in enumerate(reversed(list(_technique(dataset, number, window)))):
            lettering.write(image, (margin, image.height - margin - index * step), line, size, colour, anchor="ld")
    return image


def _patient(dataset: Item) -> Iterator[str]:
    if name := dataset.text("PatientName"):
        yield name.replace("^", " ").strip()
    if identifier := dataset.text("PatientID"):
        yield f"ID {identifier}"
    facts = [_date(dataset.text("PatientBirthDate")), dataset.text("PatientSex"), dataset.text("PatientAge")]
    if line := "  ".join(fact for fact in facts if fact):
        yield line


def _technique(dataset: Item, number: int, window: Window | None) -> Iterator[str]:
    when = " ".join(
        part
        for part in (
            _date(dataset.text("AcquisitionDate") or dataset.text("ContentDate") or dataset.text("StudyDate")),
            _time(dataset.text("AcquisitionTime") or dataset.text("ContentTime") or dataset.text("StudyTime")),
        )
        if part
    )
    lines = [
        [dataset.text("InstitutionName")],
        [dataset.text("StudyDescription")],
        [dataset.text("Modality"), dataset.text("SeriesDescription") or dataset.text("ProtocolName")],
        [when],
        [_labelled(dataset, "Se", "SeriesNumber"), _labelled(dataset, "Im", "InstanceNumber"), _frame(dataset, number)],
        [_measured(dataset, "Loc", "SliceLocation", "mm"), _measured(dataset, "Thk", "SliceThickness", "mm")],
        [_measured(dataset, "", "KVP", "kV"), _measured(dataset, "", "XRayTubeCurrent", "mA")],
        [_measured(dataset, "TR", "RepetitionTime", "ms"), _measured(dataset, "TE", "EchoTime", "ms")],
        [dataset.text("ImageLaterality") or dataset.text("Laterality"), dataset.text("ViewPosition")],
        [f"C {window.center:g} W {window.width:g}" if window else ""],
    ]
    for facts in lines:
        if line := "  ".join(fact for fact in facts if fact):
            yield line


def _labelled(dataset: Item, label: str, name: str) -> str:
    value = dataset.text(name)
    return f"{label} {value}" if value else ""


def _frame(dataset: Item, number: int) -> str:
    frames = dataset.whole("NumberOfFrames") or 1
    return f"Fr {number}/{frames}" if frames > 1 else ""


def _measured(dataset: Item, label: str, name: str, unit: str) -> str:
    value = dataset.number(name)
    return f"{label} {value:.4g} {unit}".strip() if value is not None else ""


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def _time(text: str) -> str:
    return f"{text[:2]}:{text[2:4]}" if text[:4].isdigit() and len(text) >= 4 else text
