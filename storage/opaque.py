"""Objects without frames: kept exactly as received, as a uint8 array of one chunk that says in its attributes what
the trailer of a shard would say."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from readingroom.errors import Invalid
from storage.objects import Description, Scan

CHUNK = "c.0"
"""Chunk key of the one chunk."""


def zarr_json(found: Scan, description: Description) -> dict[str, Any]:
    """The ``zarr.json`` of an opaque object (zarr v3 array metadata)."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [found.size],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [found.size]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "dimension_names": ["byte"],
        "attributes": {
            "dicom": {
                "transfer_syntax_uid": found.transfer_syntax,
                "opaque_reason": found.opaque_reason,
                "size": description.size,
                "sha256": description.sha256,
                "owner_facility": description.owner_facility,
                "source": description.source,
                "received_at": description.received_at.isoformat(),
                "version": description.version,
                "extras": dict(description.extras),
            }
        },
    }


def read_description(document: dict[str, Any]) -> Description:
    """What an opaque object's ``zarr.json`` says of it; raises `Invalid` where it was not written by `zarr_json`."""
    try:
        said = document["attributes"]["dicom"]
        return Description(
            size=said["size"],
            sha256=said["sha256"],
            owner_facility=said["owner_facility"],
            source=said["source"],
            received_at=datetime.fromisoformat(said["received_at"]),
            version=said["version"],
            extras=said.get("extras", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"This zarr.json does not describe an opaque DICOM object ({error!r}).") from None
