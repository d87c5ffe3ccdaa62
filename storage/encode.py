"""Stored values as a frame's bitstream in another transfer syntax (PS3.5 section 8, Annex A)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from readingroom.errors import NotAcceptable, NotDicom
from storage.arrays import ArraySpec
from storage.part10 import DEFLATED, EXPLICIT_LITTLE
from storage.pixels import decode_frame


def transcode_frame(bitstream: bytes, spec: ArraySpec, target: str) -> bytes:
    """One frame in another transfer syntax.

    Parameters
    ----------
    bitstream
        The frame as `storage.objects.frame_payload` cuts it out of its object.
    spec
        How the frames of its object are encoded.
    target
        The UID of the transfer syntax to write.

    Raises
    ------
    NotAcceptable
        The frame cannot be decoded, or `target` cannot carry it.
    """
    if target not in (EXPLICIT_LITTLE, DEFLATED):
        raise NotAcceptable(f"no frame is written in transfer syntax {target}")
    try:
        values = decode_frame(bitstream, spec)
    except NotDicom as error:
        raise NotAcceptable(f"The frame cannot be decompressed ({error.message}); ask for transfer-syntax=*.") from None
    return native_bytes(values, spec, planar=spec.planar_configuration == 1)


def native_bytes(values: NDArray[Any], spec: ArraySpec, *, planar: bool = False) -> bytes:
    """Stored values as native pixels in little-endian order (PS3.5 8.1.1, 8.2), samples by plane or by pixel."""
    if spec.bits_allocated == 1:
        return bytes(np.packbits(values, bitorder="little"))
    if planar and spec.samples > 1:
        values = np.moveaxis(values, -1, 0)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
