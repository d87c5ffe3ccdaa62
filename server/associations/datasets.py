"""Data sets of messages that are no objects: identifiers, procedure steps, lists of what is to be committed."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import orjson
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from readingroom.errors import Invalid

MOST_DATA_SET = 1 << 20
"""Bytes that one may have."""


def decode(data: bytes | bytearray, transfer_syntax: str) -> Dataset:
    """A data set as it came; raises `Invalid` where it is none."""
    if len(data) > MOST_DATA_SET:
        raise Invalid(f"A data set of a request has at most {MOST_DATA_SET} bytes.")
    try:
        dataset = read_dataset(BytesIO(bytes(data)), transfer_syntax == ImplicitVRLittleEndian, True)
        dataset.decode()
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, NotImplementedError, LookupError) as error:
        raise Invalid("What the request has is no data set.") from error
    return dataset


def encode(data: Dataset | Mapping[str, Any], transfer_syntax: str) -> bytes:
    """A data set, also of DICOM JSON, in the transfer syntax of its context; that is UTF-8 where ASCII does not do."""
    if not isinstance(data, Dataset):
        dataset = Dataset.from_json(dict(data))
        if not orjson.dumps(data).isascii():
            dataset.SpecificCharacterSet = "ISO_IR 192"
        data = dataset
    written = DicomBytesIO()
    written.is_little_endian = True
    written.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    write_dataset(written, data)
    return written.getvalue()
