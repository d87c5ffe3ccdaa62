"""The stored object that is at once the received DICOM Part 10 file and a zarr v3 shard.

::

    [the file exactly as received][(FFFC,FFFC) Data Set Trailing Padding][description][shard index]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

MetadataJson = dict[str, Any]
"""A data set in the DICOM JSON model (PS3.18 F.2): ``{"00100010": {"vr": "PN", "Value": [...]}, ...}``."""

BASE_URL_MARK = "\x01"
"""Stands in stored JSON where the service root (``http://host/dicomweb``) goes when it is sent.

A control character never occurs raw in JSON (it would be escaped), so a bytes replace is safe.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what one object may ask of the scanner."""

    max_depth: int = 64
    max_elements: int = 1_000_000
    max_inflated_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """What all instances in one zarr array have in common; one array holds only equal specs.

    Attributes
    ----------
    encoding
        ``native`` (7FE00010, 7FE00008 or 7FE00009 as they are), ``encapsulated`` (one bitstream a frame), or
        ``bits`` (1-bit frames that do not end on a byte, so the instance is one chunk).
    framing
        ``items`` where a frame comes in several fragments and its chunk therefore spans the item headers.
    """

    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar_configuration: int
    photometric: str
    frames: int
    pixel_element: Literal["7FE00010", "7FE00008", "7FE00009"]
    pixel_vr: str
    encoding: Literal["native", "encapsulated", "bits"]
    framing: Literal["none", "items"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one pass over a Part 10 file found.

    Attributes
    ----------
    metadata
        The data set in the DICOM JSON model, equal to pydicom's where pydicom is right; bulk values are
        ``BulkDataURI`` below `BASE_URL_MARK`. Without group 2, group lengths and trailing padding.
    spec
        How the frames lie in a zarr array, or ``None`` for an opaque object.
    chunks
        ``(offset, length)`` of each zarr chunk in the file: one a frame, or one alone for ``bits``.
    opaque_reason
        Why the object has no chunks; empty where `spec` is given.
    """

    transfer_syntax: str
    file_meta: MetadataJson
    metadata: MetadataJson
    spec: ArraySpec | None
    chunks: Sequence[tuple[int, int]]
    opaque_reason: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a stored object says of itself, so that a store without its database can be read by anyone."""

    size: int
    sha256: str
    owner_facility: str
    source: str
    received_at: datetime
    version: int
    extras: Mapping[str, str] = field(default_factory=dict)
