"""Stores what a test retrieves, and asks for it in the ways that clients do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pydicom
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from tests import synthetic
from tests.stow import store
from tests.synthetic import part10

ROOT = "http://127.0.0.1:8780/dicomweb"
AS_STORED_PARTS = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
OHIF_FRAMES = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
NATIVE_FRAMES = {"Accept": "multipart/related; type=application/octet-stream"}
OCTETS = {"Accept": "application/octet-stream"}
JSON = {"Accept": "application/dicom+json"}


def url_of(dataset: Dataset, *, level: str = "instance") -> str:
    url = f"/dicomweb/studies/{dataset.StudyInstanceUID}"
    if level != "study":
        url += f"/series/{dataset.SeriesInstanceUID}"
    return url if level != "instance" else f"{url}/instances/{dataset.SOPInstanceUID}"


def keep(client: httpx.Client, *datasets: FileDataset) -> list[bytes]:
    """Store the data sets; gives their files."""
    files = [part10(dataset) for dataset in datasets]
    answer = store(client, *files)
    assert answer.status in (200, 202), answer.body
    return files


def read(content: bytes) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(content))


def in_syntax(dataset: FileDataset, syntax: str) -> FileDataset:
    """The same data set in another native transfer syntax."""
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        swapped = np.frombuffer(dataset.PixelData, "<u2").byteswap()
        dataset.PixelData = swapped.tobytes()
    implicit = syntax == ImplicitVRLittleEndian
    target = io.BytesIO()
    pydicom.dcmwrite(
        target,
        dataset,
        implicit_vr=implicit,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return read(target.getvalue())


def compressed(dataset: FileDataset, syntax: str, encode: Callable[[Any], bytes]) -> FileDataset:
    """A native data set with its frames encoded."""
    pixels = dataset.pixel_array
    frames = list(pixels) if (dataset.get("NumberOfFrames") or 1) > 1 else [pixels]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(encode(frame)) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def jpeg_ls(frame: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegls_encode(frame.view("u1" if frame.dtype.itemsize == 1 else "<u2")))


def palette(transfer_syntax: str) -> FileDataset:
    dataset = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7", Modality="OT", ConversionType="WSD")
    synthetic.set_pixels(dataset, np.arange(64 * 64, dtype="<u2").reshape(64, 64))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for shift, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [4096, 0, 16])
        table = np.arange(4096, dtype="<u2") << shift
        table = table.byteswap() if transfer_syntax == ExplicitVRBigEndian else table
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return in_syntax(dataset, transfer_syntax)
