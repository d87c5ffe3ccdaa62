"""What a frame of the corpus must decode to: pydicom's stored values, and those of others where pydicom has no decoder.

``reference_pixels.tsv`` holds the SHA-256 of the values (C order, little endian) of the files that pydicom cannot
decode with Pillow alone, made once with the decoder that each line names.
"""

from __future__ import annotations

import csv
import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from readingroom.errors import ReadingRoomError
from storage.objects import Scan, inflate, scan
from tests.corpus import Entry, corpus_file

SAME_PIXELS = {
    "seg/pydicom-data__liver_deflate.dcm": "liver.dcm",
    "seg/pydicom-data__liver_rle.dcm": "liver.dcm",
}
"""Files in which no decoder of pydicom reads the frames, beside a native one with the same."""


@cache
def _digests() -> dict[str, dict[str, str]]:
    with Path(__file__).with_suffix(".tsv").open(newline="", encoding="utf-8") as lines:
        return {row["name"]: row for row in csv.DictReader(lines, delimiter="\t")}


def digest(values: NDArray[Any]) -> tuple[str, str, str]:
    """Type, shape and SHA-256 as the table has them."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return values.dtype.name, "x".join(map(str, values.shape)), hashlib.sha256(little.tobytes()).hexdigest()


def difference(entry: Entry, dataset: Dataset, values: NDArray[Any]) -> int:
    """How far `values`, of shape (frames, rows, columns[, samples]), are from the reference at most."""
    values = values if len(values) > 1 else values[0]
    if line := _digests().get(entry.name):
        assert digest(values) == (line["dtype"], line["shape"], line["sha256"])
        return 0
    if other := SAME_PIXELS.get(entry.name):
        dataset = pydicom.dcmread(io.BytesIO(corpus_file(other)))
    expected = pixel_array(dataset, raw=True)
    assert values.shape == expected.shape
    assert values.dtype == expected.dtype.newbyteorder("=")
    return int(np.abs(values.astype(np.int64) - expected.astype(np.int64)).max())


def with_frames(entry: Entry) -> tuple[bytes, Scan] | None:
    """A corpus file and its scan, or None where it has no frames to address.

    A file that ingest refuses (no UIDs, no preamble) is made one that it takes, for its pixels' sake.
    """
    data = entry.read()
    try:
        found = scan(data)
    except ReadingRoomError:
        data = _made_whole(data)
        if not data:
            return None
        found = scan(data)
    if found.transfer_syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        data = inflate(data)
        found = scan(data)
    return (data, found) if found.spec is not None else None


def _made_whole(data: bytes) -> bytes:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    except OSError:
        return b""  # nobody reads it
    if "PixelData" not in dataset or "TransferSyntaxUID" not in dataset.file_meta:
        return b""
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not 0 < len(str(dataset.get(keyword, ""))) <= 64:
            setattr(dataset, keyword, "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    whole = io.BytesIO()
    dataset.save_as(whole, enforce_file_format=True)
    return whole.getvalue()
