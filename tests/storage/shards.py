"""Corpus files and made ones as zarr arrays on disk: what the archive writes, in a few lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.objects import ArraySpec, Description, Scan, make_trailer, scan


def write_array(folder: Path, files: Sequence[bytes]) -> Scan:
    """Store `files` as the slots of one zarr array in `folder`; gives the scan of the last."""
    folder.mkdir(parents=True)
    for slot, data in enumerate(files):
        found = scan(data)
        assert found.spec is not None, found.opaque_reason
        said = Description(
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            owner_facility="main",
            source="test",
            received_at=datetime(2026, 1, 1, tzinfo=UTC),
            version=1,
        )
        (folder / found.spec.chunk_key(slot)).write_bytes(data + make_trailer(found, said))
    (folder / "zarr.json").write_text(json.dumps(found.spec.zarr_json(len(files), {})))
    return found


def spec_of(transfer_syntax: str, **changes: Any) -> ArraySpec:
    """Signed 16-bit frames of 64 x 48 in that transfer syntax, but for `changes`."""
    fields: dict[str, Any] = {
        "transfer_syntax": transfer_syntax,
        "rows": 64,
        "columns": 48,
        "samples": 1,
        "bits_allocated": 16,
        "bits_stored": 16,
        "signed": True,
        "planar_configuration": 0,
        "photometric": "MONOCHROME2",
        "frames": 1,
        "pixel_element": "7FE00010",
        "pixel_vr": "OB",
        "encoding": "encapsulated",
    }
    return ArraySpec(**{**fields, **changes})
